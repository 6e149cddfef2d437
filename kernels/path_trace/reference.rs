//! What `path_trace.wgsl` computes, up to rounding: the same steps in the same order, in f32.
//!
//! Devices may fuse a product and a sum into one rounding. [`Rounding`] runs the same picture both ways, which is how the
//! tolerance in the README was found. It is a reference, not a renderer: it is slow.

use std::ops::{Add, Mul, Neg, Sub};

/// One tile of a picture, and how much work it is.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    /// Whole picture, pixels.
    pub picture: [u32; 2],
    /// x0, y0, width, height of the tile, pixels.
    pub tile: [u32; 4],
    /// Paths a pixel.
    pub samples: u32,
    /// Longest path.
    pub bounces: u32,
}

/// What is in the picture; layouts as in the kernel.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Eye, lens, sun and sky, f32 [8, 4].
    pub view: [[f32; 4]; 8],
    /// f32 [n, 12].
    pub spheres: Vec<[f32; 12]>,
}

/// Whether `a * b + c` rounds once or twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Product, then sum: what software adapters do.
    Separate,
    /// Fused: what GPUs may do.
    Fused,
}

/// Display-encoded pixels, f32 [height, width, 3] of the tile.
pub fn path_trace(scene: &Scene, tile: &Tile, rounding: Rounding) -> Vec<f32> {
    match rounding {
        Rounding::Separate => Tracer::<false> { scene, tile }.pixels(),
        Rounding::Fused => Tracer::<true> { scene, tile }.pixels(),
    }
}

const METAL: f32 = 1.0;
const GLASS: f32 = 2.0;
const COATED: f32 = 3.0;
const FAR: f32 = 1e20;
const OFFSET: f32 = 1e-3;
const SAMPLE_MAX: f32 = 12.0;
const INV_PI: f32 = std::f32::consts::FRAC_1_PI;

#[derive(Clone, Copy)]
struct Vec3([f32; 3]);

impl Vec3 {
    fn splat(v: f32) -> Self {
        Self([v; 3])
    }
    fn of(row: &[f32]) -> Self {
        Self([row[0], row[1], row[2]])
    }
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(self.0.map(f))
    }
    fn max(self) -> f32 {
        self.0[0].max(self.0[1].max(self.0[2]))
    }
}
impl Add for Vec3 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + o.0[i]))
    }
}
impl Sub for Vec3 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] - o.0[i]))
    }
}
impl Mul for Vec3 {
    type Output = Self;
    fn mul(self, o: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * o.0[i]))
    }
}
impl Mul<f32> for Vec3 {
    type Output = Self;
    fn mul(self, s: f32) -> Self {
        self.map(|v| v * s)
    }
}
impl Neg for Vec3 {
    type Output = Self;
    fn neg(self) -> Self {
        self.map(|v| -v)
    }
}

fn hash(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

fn scramble(reversed: u32, seed: u32) -> u32 {
    let mut x = reversed ^ reversed.wrapping_mul(0x3d20_adea);
    x = x.wrapping_add(seed);
    x = x.wrapping_mul((seed >> 16) | 1);
    x ^= x.wrapping_mul(0x0552_6c56);
    x ^ x.wrapping_mul(0x53a2_2864)
}

fn unit_interval(bits: u32) -> f32 {
    (bits >> 8) as f32 / 16_777_216.0
}

/// Two numbers in [0, 1) for one decision of one path.
fn draw(samples: u32, pixel: u32, sample: u32, decision: u32) -> [f32; 2] {
    let seed = hash(pixel.wrapping_add(hash(decision)));
    let mask = (2 << (samples - 1).max(1).ilog2()) - 1;
    let index = scramble(sample.reverse_bits(), seed).reverse_bits() & mask;
    let (mut second, mut direction, mut i) = (0, 1u32, index);
    while i != 0 {
        if i & 1 != 0 {
            second ^= direction;
        }
        direction ^= direction << 1;
        i >>= 1;
    }
    [
        unit_interval(scramble(index, hash(seed ^ 0x9e37_79b9)).reverse_bits()),
        unit_interval(scramble(second, hash(seed ^ 0x7f4a_7c15)).reverse_bits()),
    ]
}

struct Tracer<'a, const FUSED: bool> {
    scene: &'a Scene,
    tile: &'a Tile,
}

impl<const FUSED: bool> Tracer<'_, FUSED> {
    /// a · b + c.
    fn mad(a: f32, b: f32, c: f32) -> f32 {
        if FUSED { a.mul_add(b, c) } else { a * b + c }
    }

    /// a · s + c.
    fn mad3(a: Vec3, s: f32, c: Vec3) -> Vec3 {
        Vec3(std::array::from_fn(|i| Self::mad(a.0[i], s, c.0[i])))
    }

    fn dot(a: Vec3, b: Vec3) -> f32 {
        Self::mad(a.0[2], b.0[2], Self::mad(a.0[1], b.0[1], a.0[0] * b.0[0]))
    }

    fn normalize(a: Vec3) -> Vec3 {
        let length = Self::dot(a, a).sqrt();
        a.map(|v| v / length)
    }

    fn turn(u: f32) -> [f32; 2] {
        let quarter = (u * 4.0 + 0.5).floor();
        let x = (u * 4.0 - quarter) * std::f32::consts::FRAC_PI_2;
        let x2 = x * x;
        let m = Self::mad;
        let s = x * m(x2, m(x2, m(x2, -0.000_198_408_74, 0.008_333_331), -0.166_666_67), 1.0);
        let c = m(x2, m(x2, m(x2, m(x2, 0.000_024_760_495, -0.001_388_837_8), 0.041_666_638), -0.5), 1.0);
        match quarter as u32 & 3 {
            0 => [c, s],
            1 => [-s, c],
            2 => [-c, -s],
            _ => [s, -c],
        }
    }

    fn on_sphere(u: [f32; 2]) -> Vec3 {
        let z = 1.0 - 2.0 * u[0];
        let r = Self::mad(-z, z, 1.0).max(0.0).sqrt();
        let [x, y] = Self::turn(u[1]);
        Vec3([x * r, y * r, z])
    }

    fn on_disc(u: [f32; 2]) -> [f32; 2] {
        let r = u[0].sqrt();
        Self::turn(u[1]).map(|v| v * r)
    }

    fn sphere_distance(origin: Vec3, direction: Vec3, sphere: &[f32; 12]) -> f32 {
        let to_centre = Vec3::of(sphere) - origin;
        let nearest = Self::dot(to_centre, direction);
        let aside = Self::mad3(direction, -nearest, to_centre);
        let inside2 = Self::mad(sphere[3], sphere[3], -Self::dot(aside, aside));
        if inside2 < 0.0 {
            return FAR;
        }
        let half = inside2.sqrt();
        if nearest - half > 0.0 {
            nearest - half
        } else if nearest + half > 0.0 {
            nearest + half
        } else {
            FAR
        }
    }

    /// Distance and sphere; no sphere is the ground; nothing at all is the sky.
    fn closest(&self, origin: Vec3, direction: Vec3) -> Option<(f32, Option<&[f32; 12]>)> {
        let mut hit = None;
        let mut best = FAR;
        if direction.0[1] < -1e-6 {
            best = origin.0[1] / -direction.0[1];
            hit = Some((best, None));
        }
        for sphere in &self.scene.spheres {
            let distance = Self::sphere_distance(origin, direction, sphere);
            if distance < best {
                best = distance;
                hit = Some((best, Some(sphere)));
            }
        }
        hit
    }

    fn sunlight(&self, origin: Vec3, direction: Vec3) -> Vec3 {
        let mut share = Vec3::splat(1.0);
        for sphere in &self.scene.spheres {
            if Self::sphere_distance(origin, direction, sphere) < FAR {
                if sphere[7] != GLASS {
                    return Vec3::splat(0.0);
                }
                share = share * (Vec3::of(&sphere[4..]) * 0.8);
            }
        }
        share
    }

    fn sky(&self, direction: Vec3, with_sun: bool) -> Vec3 {
        let view = &self.scene.view;
        let blend = direction.0[1].max(0.0).sqrt();
        let toward_sun = Self::dot(direction, Vec3::of(&view[4])).max(0.0);
        let toward_sun4 = toward_sun * toward_sun * toward_sun * toward_sun;
        let sun = Vec3::of(&view[5]);
        let mut light = Self::mad3(Vec3::of(&view[7]), 1.0 - blend, Vec3::of(&view[6]) * blend);
        light = light + sun * 0.04 * toward_sun4 * toward_sun4;
        let radius = view[4][3];
        if with_sun && toward_sun * toward_sun * Self::mad(radius, radius, 1.0) > 1.0 {
            light = light + sun * (INV_PI / (radius * radius));
        }
        light
    }

    fn ground_colour(point: Vec3, distance: f32) -> Vec3 {
        let cells = point.0[0].floor() + point.0[2].floor();
        let odd = cells - 2.0 * (cells * 0.5).floor();
        let light = Vec3([0.48, 0.45, 0.41]);
        let dark = Vec3([0.17, 0.18, 0.20]);
        let near = 1.0 / Self::mad(distance * distance, 0.002, 1.0);
        let middle = (light + dark) * 0.5;
        Self::mad3(if odd > 0.5 { light - middle } else { dark - middle }, near, middle)
    }

    fn reflected_share(cosine: f32, index: f32) -> f32 {
        let r = (1.0 - index) / (1.0 + index);
        let r0 = r * r;
        let x = 1.0 - cosine;
        let x2 = x * x;
        r0 + (1.0 - r0) * x2 * x2 * x
    }

    fn mirrored(direction: Vec3, normal: Vec3) -> Vec3 {
        Self::mad3(normal, -2.0 * Self::dot(direction, normal), direction)
    }

    fn across(axis: Vec3) -> [Vec3; 2] {
        let [x, y, z] = axis.0;
        let sign = if z >= 0.0 { 1.0 } else { -1.0 };
        let a = -1.0 / (sign + z);
        let b = x * y * a;
        [Vec3([1.0 + sign * x * x * a, sign * b, -sign * x]), Vec3([b, sign + y * y * a, -y])]
    }

    fn trace(&self, pixel: u32, sample: u32, eye: Vec3, aim: Vec3) -> Vec3 {
        let view = &self.scene.view;
        let draw = |decision| draw(self.tile.samples, pixel, sample, decision);
        let (mut origin, mut direction) = (eye, aim);
        let (mut light, mut share) = (Vec3::splat(0.0), Vec3::splat(1.0));
        let mut mirrors_only = true;
        for bounce in 0..self.tile.bounces {
            let Some((distance, sphere)) = self.closest(origin, direction) else {
                light = light + share * self.sky(direction, mirrors_only);
                break;
            };
            let point = Self::mad3(direction, distance, origin);
            let (mut normal, mut entering) = (Vec3([0.0, 1.0, 0.0]), true);
            let (colour, material, extra) = match sphere {
                None => (Self::ground_colour(point, distance), 0.0, 0.0),
                Some(s) => {
                    normal = (point - Vec3::of(s)).map(|v| v / s[3]);
                    entering = Self::dot(direction, normal) < 0.0;
                    if !entering {
                        normal = -normal;
                    }
                    (Vec3::of(&s[4..]), s[7], s[8])
                }
            };
            let cosine = (-Self::dot(direction, normal)).min(1.0);
            let choice = draw(4 + 3 * bounce);
            let where_to = draw(5 + 3 * bounce);
            if material == GLASS {
                let ratio = if entering { 1.0 / extra } else { extra };
                let sine2 = ratio * ratio * Self::mad(-cosine, cosine, 1.0);
                let outside = if entering { cosine } else { (1.0 - sine2).max(0.0).sqrt() };
                if sine2 >= 1.0 || choice[0] < Self::reflected_share(outside, extra) {
                    direction = Self::mirrored(direction, normal);
                    origin = Self::mad3(normal, OFFSET, point);
                } else {
                    let along = Self::mad(ratio, cosine, -(1.0 - sine2).sqrt());
                    direction = Self::mad3(direction, ratio, normal * along);
                    origin = Self::mad3(normal, -OFFSET, point);
                    share = share * colour;
                }
                direction = Self::normalize(direction);
            } else if material == METAL {
                direction = Self::normalize(Self::mad3(
                    Self::on_sphere(where_to),
                    extra,
                    Self::mirrored(direction, normal),
                ));
                origin = Self::mad3(normal, OFFSET, point);
                if Self::dot(direction, normal) <= 0.0 {
                    break;
                }
                share = share * colour;
            } else if material == COATED && choice[0] < Self::reflected_share(cosine, extra) {
                direction = Self::mirrored(direction, normal);
                origin = Self::mad3(normal, OFFSET, point);
            } else {
                origin = Self::mad3(normal, OFFSET, point);
                share = share * colour;
                mirrors_only = false;
                let sun = Vec3::of(&view[4]);
                let spot = Self::on_disc(draw(6 + 3 * bounce)).map(|v| v * view[4][3]);
                let [right, up] = Self::across(sun);
                let to_sun = Self::normalize(sun + Self::mad3(up, spot[1], right * spot[0]));
                let facing = Self::dot(to_sun, normal);
                if facing > 0.0 {
                    let arriving = share * Vec3::of(&view[5]) * self.sunlight(origin, to_sun);
                    light = Self::mad3(arriving, facing * INV_PI, light);
                }
                direction = Self::normalize(Self::mad3(normal, 1.0001, Self::on_sphere(where_to)));
            }
            if bounce >= 2 {
                let stay = share.max().clamp(0.05, 1.0);
                if choice[1] >= stay {
                    break;
                }
                share = share.map(|v| v / stay);
            }
        }
        light.map(|v| v.min(SAMPLE_MAX))
    }

    fn displayed(light: f32) -> f32 {
        let above = light * Self::mad(light, 2.51, 0.03);
        let below = Self::mad(light, Self::mad(light, 2.43, 0.59), 0.14);
        let film = (above / below).clamp(0.0, 1.0);
        if film <= 0.003_130_8 { film * 12.92 } else { Self::mad(film.powf(1.0 / 2.4), 1.055, -0.055) }
    }

    fn pixels(&self) -> Vec<f32> {
        let Tile { picture: [width, height], tile: [x0, y0, tile_width, tile_height], samples, .. } =
            *self.tile;
        let view = &self.scene.view;
        let (eye, half_width, half_height) = (Vec3::of(&view[0]), Vec3::of(&view[1]), Vec3::of(&view[2]));
        let (right, up) = (Self::normalize(half_width), Self::normalize(half_height));
        let mut out = Vec::with_capacity((tile_width * tile_height * 3) as usize);
        for y in y0..y0 + tile_height {
            for x in x0..x0 + tile_width {
                let pixel = hash(x.wrapping_add(y.wrapping_mul(width)));
                let mut sum = Vec3::splat(0.0);
                for sample in 0..samples {
                    let within = draw(samples, pixel, sample, 0);
                    let across_x = Self::mad(x as f32 + within[0], 2.0 / width as f32, -1.0);
                    let down_y = Self::mad(y as f32 + within[1], 2.0 / height as f32, -1.0);
                    let on_lens = Self::on_disc(draw(samples, pixel, sample, 1)).map(|v| v * view[0][3]);
                    let lens = Self::mad3(right, on_lens[0], up * on_lens[1]);
                    let focus = Self::mad3(half_width, across_x, Vec3::of(&view[3])) - half_height * down_y;
                    sum = sum + self.trace(pixel, sample, eye + lens, Self::normalize(focus - lens));
                }
                let mean = sum * (view[3][3] / samples as f32);
                out.extend(mean.0.map(Self::displayed));
            }
        }
        out
    }
}
