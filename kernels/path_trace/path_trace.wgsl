// Renders one tile of a picture by path tracing: spheres on a checkered ground under a sky with a sun.
//
// The result is a function of the inputs alone: the samples come from an integer hash of pixel, sample and bounce (Owen-
// scrambled Sobol points, as in Burley, "Practical Hash-based Owen Scrambling", 2020), never from the workgroup or the time.
// Sine and cosine are polynomials of our own, because devices differ most in those; what remains between honest devices is
// rounding, fused multiply-adds, and the rare path that falls on the other side of a branch because of them.

override WIDTH: u32; // of the whole picture, pixels
override HEIGHT: u32;
override SAMPLES: u32 = 64; // a pixel
override BOUNCES: u32 = 7; // longest path
override TILE: u32 = 8; // workgroup edge

const DIFFUSE = 0.0;
const METAL = 1.0;
const GLASS = 2.0;
const COATED = 3.0; // diffuse under a clear coat

const FAR = 1e20;
const OFFSET = 1e-3; // from the surface, for the next ray
const SAMPLE_MAX = 12.0; // radiance of one path, so that a glint of the sun does not become a speckle
const INV_PI = 0.31830987;

// x0, y0, width, height of the tile in pixels.
@group(0) @binding(0) var<storage, read> tile: array<u32>;
// f32 [8, 4]: eye and lens radius; half width, half height (both at the focus distance) and way to the plane in focus, the
// latter with the exposure; direction to the sun and the tangent of its radius; its irradiance; sky at the zenith; at the horizon.
@group(0) @binding(1) var<storage, read> view: array<vec4<f32>>;
// f32 [n, 12] a sphere: centre, radius; colour, material; roughness (metal) or index of refraction (glass, coated), 3 unused.
@group(0) @binding(2) var<storage, read> spheres: array<vec4<f32>>;
// f32 [height, width, 3], display-encoded (sRGB) 0..1.
@group(0) @binding(3) var<storage, read_write> pixels: array<f32>;

struct Hit {
    distance: f32,
    sphere: u32, // GROUND for the ground
}

const NOTHING = 0xffffffffu;
const GROUND = 0xfffffffeu;

// One step of the PCG output function as an integer hash (O'Neill 2014; Jarzynski and Olano 2020).
fn hash(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// Laine and Karras' permutation: an Owen scramble of bits that lie in reverse order.
fn scramble(reversed: u32, seed: u32) -> u32 {
    var x = reversed ^ (reversed * 0x3d20adeau);
    x += seed;
    x *= (seed >> 16u) | 1u;
    x ^= x * 0x05526c56u;
    x ^= x * 0x53a22864u;
    return x;
}

// 24 bits, so that the conversion is exact everywhere. In [0, 1).
fn unit_interval(bits: u32) -> f32 {
    return f32(bits >> 8u) * 5.9604645e-8;
}

// Two numbers in [0, 1) for one decision of one path: over the samples of a pixel they form a (0, 2)-sequence.
fn draw(pixel: u32, sample: u32, decision: u32) -> vec2<f32> {
    let seed = hash(pixel + hash(decision));
    // The order of the points differs between decisions, so that these do not correlate.
    let mask = (2u << firstLeadingBit(max(SAMPLES - 1u, 1u))) - 1u;
    let index = reverseBits(scramble(reverseBits(sample), seed)) & mask;
    var second = 0u; // the second Sobol coordinate, bits reversed
    var direction = 1u;
    for (var i = index; i != 0u; i >>= 1u) {
        if (i & 1u) != 0u {
            second ^= direction;
        }
        direction ^= direction << 1u;
    }
    return vec2<f32>(
        unit_interval(reverseBits(scramble(index, hash(seed ^ 0x9e3779b9u)))),
        unit_interval(reverseBits(scramble(second, hash(seed ^ 0x7f4a7c15u)))),
    );
}

// Cosine and sine of a whole turn times `u`, u in [0, 1]. Absolute error below 1e-6.
fn turn(u: f32) -> vec2<f32> {
    // Within an eighth of a turn either side of the nearest quarter.
    let quarter = floor(u * 4.0 + 0.5);
    let x = (u * 4.0 - quarter) * 1.5707963;
    let x2 = x * x;
    let s = x * (1.0 + x2 * (-0.16666667 + x2 * (0.008333331 - x2 * 0.00019840874)));
    let c = 1.0 + x2 * (-0.5 + x2 * (0.041666638 + x2 * (-0.0013888378 + x2 * 0.000024760495)));
    let q = u32(quarter) & 3u;
    if q == 0u {
        return vec2<f32>(c, s);
    }
    if q == 1u {
        return vec2<f32>(-s, c);
    }
    if q == 2u {
        return vec2<f32>(-c, -s);
    }
    return vec2<f32>(s, -c);
}

fn on_sphere(u: vec2<f32>) -> vec3<f32> {
    let z = 1.0 - 2.0 * u.x;
    let r = sqrt(max(0.0, 1.0 - z * z));
    return vec3<f32>(turn(u.y) * r, z);
}

fn on_disc(u: vec2<f32>) -> vec2<f32> {
    return turn(u.y) * sqrt(u.x);
}

// Distance along the ray, FAR where it misses. Measured from the point nearest to the centre: that loses fewer digits than the
// textbook discriminant.
fn sphere_distance(origin: vec3<f32>, direction: vec3<f32>, sphere: vec4<f32>) -> f32 {
    let to_centre = sphere.xyz - origin;
    let nearest = dot(to_centre, direction);
    let aside = to_centre - direction * nearest;
    let inside2 = sphere.w * sphere.w - dot(aside, aside);
    if inside2 < 0.0 {
        return FAR;
    }
    let half = sqrt(inside2);
    if nearest - half > 0.0 {
        return nearest - half;
    }
    if nearest + half > 0.0 {
        return nearest + half;
    }
    return FAR;
}

fn closest(origin: vec3<f32>, direction: vec3<f32>) -> Hit {
    var hit = Hit(FAR, NOTHING);
    if direction.y < -1e-6 {
        hit = Hit(origin.y / -direction.y, GROUND);
    }
    let count = arrayLength(&spheres) / 3u;
    for (var i = 0u; i < count; i++) {
        let distance = sphere_distance(origin, direction, spheres[3u * i]);
        if distance < hit.distance {
            hit = Hit(distance, i);
        }
    }
    return hit;
}

// Share of the sun's light that arrives. Glass lets its colour through: following the light that it bends would take far more
// samples than a picture has.
fn sunlight(origin: vec3<f32>, direction: vec3<f32>) -> vec3<f32> {
    var share = vec3<f32>(1.0);
    let count = arrayLength(&spheres) / 3u;
    for (var i = 0u; i < count; i++) {
        if sphere_distance(origin, direction, spheres[3u * i]) < FAR {
            let paint = spheres[3u * i + 1u];
            if paint.w != GLASS {
                return vec3<f32>(0.0);
            }
            share *= paint.xyz * 0.8;
        }
    }
    return share;
}

fn sky(direction: vec3<f32>, with_sun: bool) -> vec3<f32> {
    let height = max(direction.y, 0.0);
    let toward_sun = max(dot(direction, view[4].xyz), 0.0);
    let toward_sun4 = toward_sun * toward_sun * toward_sun * toward_sun;
    let blend = sqrt(height);
    var light = view[7].xyz * (1.0 - blend) + view[6].xyz * blend;
    // A warm haze around the sun.
    light += view[5].xyz * 0.04 * toward_sun4 * toward_sun4;
    let radius = view[4].w;
    if with_sun && toward_sun * toward_sun * (1.0 + radius * radius) > 1.0 {
        light += view[5].xyz * (INV_PI / (radius * radius));
    }
    return light;
}

fn ground_colour(point: vec3<f32>, distance: f32) -> vec3<f32> {
    let cell = floor(point.xz);
    let odd = cell.x + cell.y - 2.0 * floor((cell.x + cell.y) * 0.5);
    let light = vec3<f32>(0.48, 0.45, 0.41);
    let dark = vec3<f32>(0.17, 0.18, 0.20);
    // Far cells melt into their average.
    let near = 1.0 / (1.0 + distance * distance * 0.002);
    let middle = (light + dark) * 0.5;
    if odd > 0.5 {
        return middle + (light - middle) * near;
    }
    return middle + (dark - middle) * near;
}

// Schlick's approximation of the reflected share.
fn reflected_share(cosine: f32, index: f32) -> f32 {
    let r = (1.0 - index) / (1.0 + index);
    let r0 = r * r;
    let x = 1.0 - cosine;
    let x2 = x * x;
    return r0 + (1.0 - r0) * x2 * x2 * x;
}

fn mirrored(direction: vec3<f32>, normal: vec3<f32>) -> vec3<f32> {
    return direction - normal * (2.0 * dot(direction, normal));
}

// Two directions across `axis`, a unit vector (Duff et al. 2017).
fn across(axis: vec3<f32>) -> mat2x3<f32> {
    let sign = select(-1.0, 1.0, axis.z >= 0.0);
    let a = -1.0 / (sign + axis.z);
    let b = axis.x * axis.y * a;
    return mat2x3<f32>(
        vec3<f32>(1.0 + sign * axis.x * axis.x * a, sign * b, -sign * axis.x),
        vec3<f32>(b, sign + axis.y * axis.y * a, -axis.y),
    );
}

fn trace(pixel: u32, sample: u32, eye: vec3<f32>, aim: vec3<f32>) -> vec3<f32> {
    var origin = eye;
    var direction = aim;
    var light = vec3<f32>(0.0);
    var share = vec3<f32>(1.0); // of the light found from here on that reaches the eye
    var mirrors_only = true; // so far: only then is the sun's disc seen, elsewhere it is sampled
    for (var bounce = 0u; bounce < BOUNCES; bounce++) {
        let hit = closest(origin, direction);
        if hit.sphere == NOTHING {
            light += share * sky(direction, mirrors_only);
            break;
        }
        let point = origin + direction * hit.distance;
        var normal = vec3<f32>(0.0, 1.0, 0.0);
        var colour = vec3<f32>(0.0);
        var material = DIFFUSE;
        var extra = 0.0;
        var entering = true;
        if hit.sphere == GROUND {
            colour = ground_colour(point, hit.distance);
        } else {
            let body = spheres[3u * hit.sphere];
            let paint = spheres[3u * hit.sphere + 1u];
            colour = paint.xyz;
            material = paint.w;
            extra = spheres[3u * hit.sphere + 2u].x;
            normal = (point - body.xyz) / body.w;
            entering = dot(direction, normal) < 0.0;
            if !entering {
                normal = -normal;
            }
        }
        let cosine = min(-dot(direction, normal), 1.0);
        let choice = draw(pixel, sample, 4u + 3u * bounce);
        let where_to = draw(pixel, sample, 5u + 3u * bounce);
        if material == GLASS {
            let ratio = select(extra, 1.0 / extra, entering);
            let sine2 = ratio * ratio * (1.0 - cosine * cosine);
            // Schlick needs the angle on the thin side.
            var outside = cosine;
            if !entering {
                outside = sqrt(max(0.0, 1.0 - sine2));
            }
            if sine2 >= 1.0 || choice.x < reflected_share(outside, extra) {
                direction = mirrored(direction, normal);
                origin = point + normal * OFFSET;
            } else {
                direction = direction * ratio + normal * (ratio * cosine - sqrt(1.0 - sine2));
                origin = point - normal * OFFSET;
                share *= colour;
            }
            direction = normalize(direction);
        } else if material == METAL {
            direction = normalize(mirrored(direction, normal) + on_sphere(where_to) * extra);
            origin = point + normal * OFFSET;
            if dot(direction, normal) <= 0.0 {
                break;
            }
            share *= colour;
        } else if material == COATED && choice.x < reflected_share(cosine, extra) {
            direction = mirrored(direction, normal);
            origin = point + normal * OFFSET;
        } else {
            origin = point + normal * OFFSET;
            share *= colour;
            mirrors_only = false;
            let spot = on_disc(draw(pixel, sample, 6u + 3u * bounce)) * view[4].w;
            let to_sun = normalize(view[4].xyz + across(view[4].xyz) * spot);
            let facing = dot(to_sun, normal);
            if facing > 0.0 {
                light += share * view[5].xyz * sunlight(origin, to_sun) * (facing * INV_PI);
            }
            direction = normalize(normal * 1.0001 + on_sphere(where_to));
        }
        // Paths that can carry little any more end early, and those that stay carry what the others would have.
        if bounce >= 2u {
            let stay = clamp(max(share.x, max(share.y, share.z)), 0.05, 1.0);
            if choice.y >= stay {
                break;
            }
            share /= stay;
        }
    }
    return min(light, vec3<f32>(SAMPLE_MAX));
}

// Narkowicz' fit of the ACES film curve, then the sRGB transfer function.
fn displayed(light: vec3<f32>) -> vec3<f32> {
    let film = clamp((light * (light * 2.51 + 0.03)) / (light * (light * 2.43 + 0.59) + 0.14), vec3<f32>(0.0), vec3<f32>(1.0));
    return select(pow(film, vec3<f32>(1.0 / 2.4)) * 1.055 - 0.055, film * 12.92, film <= vec3<f32>(0.0031308));
}

@compute @workgroup_size(TILE, TILE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= tile[2] || id.y >= tile[3] {
        return;
    }
    // The last tiles may reach over the edge; what lies there is cut off by whoever joins them.
    let x = tile[0] + id.x;
    let y = tile[1] + id.y;
    let pixel = hash(x + y * WIDTH);
    let eye = view[0].xyz;
    let half_width = view[1].xyz;
    let half_height = view[2].xyz;
    var sum = vec3<f32>(0.0);
    for (var sample = 0u; sample < SAMPLES; sample++) {
        let within = draw(pixel, sample, 0u);
        let across_x = (f32(x) + within.x) * (2.0 / f32(WIDTH)) - 1.0;
        let down_y = (f32(y) + within.y) * (2.0 / f32(HEIGHT)) - 1.0;
        let on_lens = on_disc(draw(pixel, sample, 1u)) * view[0].w;
        let lens = normalize(half_width) * on_lens.x + normalize(half_height) * on_lens.y;
        let focus = view[3].xyz + half_width * across_x - half_height * down_y;
        sum += trace(pixel, sample, eye + lens, normalize(focus - lens));
    }
    let colour = displayed(sum * (view[3].w / f32(SAMPLES)));
    let at = (id.y * tile[2] + id.x) * 3u;
    pixels[at] = colour.x;
    pixels[at + 1u] = colour.y;
    pixels[at + 2u] = colour.z;
}
