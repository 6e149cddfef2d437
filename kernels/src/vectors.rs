//! Golden vectors of the kernels: small inputs and what must come out.
//!
//! `tests/vectors/kernels.json` holds [`all`] as JSON; the native and the browser tests run it on their GPUs. After a deliberate
//! change `cargo run -p plexus-kernels --example vectors` writes it again.

use crate::chacha20::chacha20;
use crate::conv2d_i8::{Shape, conv2d_i8};
use crate::norm_i8::{Gain, Norm, norm_i8};
use crate::path_trace::{Rounding, Scene, Tile, path_trace};
use crate::requant_i8::{Factor, requant_i8};
use crate::{
    ARGMAX_I32, CHACHA20, CONV2D_I8, Kernel, MATMUL_I8, NORM_I8, PATH_TRACE, REQUANT_I8, SOFTMAX_I32,
    argmax_i32::argmax_i32, matmul_i8::matmul_i8, softmax_i32::softmax_i32,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use protocol::{
    Hash, Manifest,
    manifest::{self, Compare, Dtype, Override, Tolerance},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One dispatch of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// Unique in the file.
    pub name: String,
    /// Path of the source, relative to the repository.
    pub wgsl: String,
    /// Entry point.
    pub entry: String,
    /// Values of override constants, the workgroup size among them.
    pub overrides: BTreeMap<String, u32>,
    /// In the order of their bindings.
    pub buffers: Vec<Buffer>,
    /// Workgroups.
    pub dispatch: [u32; 3],
}

impl Vector {
    /// The same work as a program of one pass, whose inputs and outputs are the vector's in their order.
    pub fn manifest(&self, wgsl: Hash) -> Manifest {
        let name = |binding: usize| format!("binding{binding}");
        let (mut inputs, mut outputs) = (0.., 0..);
        let buffers = self.buffers.iter().enumerate().map(|(binding, buffer)| {
            let (input, output, dtype, shape, compare) = match buffer {
                Buffer::In { dtype, shape, .. } => (inputs.next(), None, dtype, shape, None),
                Buffer::Out { dtype, shape, compare, .. } => {
                    (None, outputs.next(), dtype, shape, Some(*compare))
                }
            };
            let shape = shape.iter().map(|&extent| extent as u32).collect();
            let blob = None;
            (
                name(binding),
                manifest::Buffer {
                    input,
                    blob,
                    output,
                    scratch: false,
                    dtype: *dtype,
                    shape,
                    compare,
                    resident: None,
                },
            )
        });
        let overrides = self.overrides.iter().map(|(name, &value)| (name.clone(), Override::Value(value)));
        let kernel =
            manifest::Kernel { blob: wgsl, entry: self.entry.clone(), overrides: overrides.collect() };
        let pass = manifest::Pass {
            kernel: "kernel".into(),
            bind: (0..self.buffers.len()).map(name).collect(),
            dispatch: self.dispatch.map(manifest::Dispatch::Count).into(),
        };
        Manifest {
            version: manifest::VERSION,
            runtime: manifest::Runtime::Wgsl,
            kind: manifest::JobKind::Batch,
            program: manifest::Program {
                kernels: BTreeMap::from([("kernel".into(), kernel)]),
                buffers: buffers.collect(),
                passes: vec![pass],
            },
            limits: manifest::Limits { memory_bytes_max: 1 << 20, time_ms_max: 60_000 },
            needs: manifest::Needs::default(),
            verify: manifest::Policy::Audit { rate_min: 0.0 }.into(),
        }
    }
}

/// Contents of one binding, little-endian bytes in standard Base64. Sizes are multiples of four bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase", deny_unknown_fields)]
pub enum Buffer {
    /// Read by the kernel.
    In {
        /// Element type.
        dtype: Dtype,
        /// Row by row.
        shape: Vec<usize>,
        /// What it holds.
        data: String,
    },
    /// Zero at first, written by the kernel.
    Out {
        /// Element type.
        dtype: Dtype,
        /// Row by row.
        shape: Vec<usize>,
        /// What it must hold afterwards.
        expect: String,
        /// How close.
        compare: Compare,
    },
}

/// Bytes of a buffer's Base64 text.
///
/// # Errors
/// If it is not Base64.
pub fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text)
}

/// The vectors, computed by the references.
pub fn all() -> Vec<Vector> {
    vec![
        matmul("matmul_i8 8x64x96", [8, 96, 64], 8, |seed| seed as i8, small),
        matmul("matmul_i8 8x64x96, smaller workgroup", [8, 96, 64], 4, |seed| seed as i8, small),
        // The largest products that int8 allows, and a size below the workgroup's.
        matmul("matmul_i8 extremes", [3, 5, 12], 8, lowest_or_highest, small),
        matmul("matmul_i8 all lowest", [5, 3, 516], 8, |_| i8::MIN, small),
        matmul(
            "matmul_i8 sums wrap",
            [7, 9, 8],
            8,
            |seed| seed as i8,
            |seed| {
                if seed & 1 == 0 { i32::MIN } else { i32::MAX }
            },
        ),
        matmul("matmul_i8 rows of zeros", [3, 3, 4], 16, |_| 0, |seed| seed as i32),
        conv(
            "conv2d_i8 3x3, padded",
            Shape {
                b: 2,
                picture: [5, 7],
                c: 8,
                o: 5,
                filter: [3, 3],
                result: [5, 7],
                stride: [1, 1],
                pad: [1, 1],
            },
            8,
            |seed| seed as i8,
        ),
        // As frameworks pad an even size under stride 2: nothing above, a row and a column of zeros below and to the right.
        conv(
            "conv2d_i8 strides, padded on one side",
            Shape {
                b: 1,
                picture: [6, 8],
                c: 4,
                o: 3,
                filter: [3, 2],
                result: [3, 3],
                stride: [2, 3],
                pad: [0, 0],
            },
            4,
            |seed| seed as i8,
        ),
        conv(
            "conv2d_i8 filter larger than the picture",
            Shape {
                b: 3,
                picture: [1, 2],
                c: 4,
                o: 1,
                filter: [5, 5],
                result: [3, 4],
                stride: [1, 1],
                pad: [3, 3],
            },
            8,
            lowest_or_highest,
        ),
        cipher("chacha20 a short last block", 28, 64, 1),
        cipher("chacha20 longer than the workgroup", 16 * 70 + 5, 8, 0),
        cipher("chacha20 the number of the block wraps", 48, 4, u32::MAX),
        requant("requant_i8 hidden layer", [8, 96], 64, true, |i, seed| {
            let sum = (seed >> 8) as i32 % 100_000;
            (sum, Factor { multiplier: (1 << 30) | (seed >> 2), shift: 36 + i as u32 % 8 })
        }),
        requant("requant_i8 edges", [4, 64], 16, true, edge),
        requant("requant_i8 edges with sign", [4, 64], 16, false, edge),
        requant("requant_i8 halves with sign", [3, 4], 64, false, |i, seed| {
            (seed as i32 >> 22, Factor { multiplier: 1 << 30, shift: 31 + i as u32 % 4 })
        }),
        softmax("softmax_i32 attention", [6, 64], 64, |seed| seed as i32 >> 18, ATTENTION),
        softmax("softmax_i32 odd row", [3, 101], 32, |seed| seed as i32 >> 16, ATTENTION),
        softmax("softmax_i32 longer than the workgroup", [2, 1030], 8, |seed| seed as i32 >> 19, ATTENTION),
        softmax("softmax_i32 one column", [5, 1], 64, |seed| seed as i32, ATTENTION),
        softmax("softmax_i32 rows of zeros", [2, 7], 16, |_| 0, ATTENTION),
        softmax(
            "softmax_i32 extremes",
            [4, 6],
            4,
            |seed| [i32::MIN, -1, 0, 1, i32::MAX, i32::MAX][seed as usize % 6],
            Factor { multiplier: (1 << 31) - 1, shift: 47 },
        ),
        softmax(
            "softmax_i32 steepest",
            [3, 5],
            64,
            |seed| (seed % 3) as i32 - 1,
            Factor { multiplier: (1 << 31) - 1, shift: 1 },
        ),
        softmax("softmax_i32 flattest", [2, 12], 64, |seed| seed as i32, Factor { multiplier: 1, shift: 62 }),
        norm("norm_i8 layer norm", [6, 64], 64, Norm::Layer, 0, |seed| seed as i32 >> 20),
        norm("norm_i8 layer norm, wide values", [3, 260], 32, Norm::Layer, 77, |seed| seed as i32 >> 15),
        norm("norm_i8 rms norm", [5, 36], 8, Norm::Rms, 1 << 20, |seed| (seed as i32 >> 24) + 40),
        norm("norm_i8 rows of zeros", [2, 12], 16, Norm::Rms, 0, |_| 0),
        norm("norm_i8 equal values", [3, 8], 64, Norm::Layer, 0, |_| -31),
        norm("norm_i8 beyond int16", [3, 20], 64, Norm::Layer, u32::MAX, |seed| {
            [i32::MIN, i32::MAX, -32768, 32767][seed as usize % 4]
        }),
        norm("norm_i8 one unit apart", [2, 4], 4, Norm::Layer, 0, |seed| (seed & 1) as i32),
        argmax("argmax_i32 8x10", 8, 10, 64, |seed| seed as i32),
        argmax("argmax_i32 ties", 70, 3, 16, |seed| (seed % 3) as i32 - 1),
        argmax("argmax_i32 one column", 5, 1, 64, |seed| seed as i32),
        picture("path_trace tile", [4, 2, 12, 7], 16, 8),
        // Reaches over the right and the lower edge, as the last tile of a picture may.
        picture("path_trace edge tile", [20, 9, 8, 8], 5, 4),
    ]
}

/// A fixed sequence of well-mixed words.
fn words(count: usize) -> impl Iterator<Item = u32> {
    (0..count as u32).map(|i| {
        let state = i.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    })
}

/// A bias that leaves sums their room.
fn small(seed: u32) -> i32 {
    seed as i32 >> 12
}

fn lowest_or_highest(seed: u32) -> i8 {
    if seed & 1 == 0 { i8::MIN } else { i8::MAX }
}

/// About 2^16 / 400 / ln 2: four hundred units of the scores are one of the exponent.
const ATTENTION: Factor = Factor { multiplier: 1_985_537_113, shift: 23 };

fn matmul(
    name: &str,
    [m, n, k]: [usize; 3],
    workgroup: usize,
    value: impl Fn(u32) -> i8,
    bias: impl Fn(u32) -> i32,
) -> Vector {
    let values: Vec<i8> = words((m + n) * k).map(value).collect();
    let (x, w) = values.split_at(m * k);
    let bias: Vec<i32> = words(n).map(bias).collect();
    let y = matmul_i8(x, w, &bias, k);
    Vector {
        overrides: overrides(&[("M", m), ("N", n), ("K", k), ("TILE", workgroup)]),
        buffers: vec![
            input(Dtype::I8, &[m, k], bytes(x, i8::to_le_bytes)),
            input(Dtype::I8, &[n, k], bytes(w, i8::to_le_bytes)),
            input(Dtype::I32, &[n], bytes(&bias, i32::to_le_bytes)),
            exact(Dtype::I32, &[m, n], bytes(&y, i32::to_le_bytes)),
        ],
        dispatch: [m.div_ceil(workgroup) as u32, n.div_ceil(workgroup) as u32, 1],
        ..vector(name, MATMUL_I8)
    }
}

fn conv(name: &str, shape: Shape, workgroup: usize, value: impl Fn(u32) -> i8) -> Vector {
    let Shape { b, picture: [h, w], c, o, filter: [kh, kw], result: [oh, ow], stride, pad } = shape;
    let values: Vec<i8> = words(b * h * w * c + o * kh * kw * c).map(value).collect();
    let (x, filters) = values.split_at(b * h * w * c);
    let bias: Vec<i32> = words(o).map(small).collect();
    let y = conv2d_i8(x, filters, &bias, &shape);
    Vector {
        overrides: overrides(&[
            ("B", b),
            ("H", h),
            ("W", w),
            ("C", c),
            ("O", o),
            ("KH", kh),
            ("KW", kw),
            ("OH", oh),
            ("OW", ow),
            ("STRIDE_H", stride[0]),
            ("STRIDE_W", stride[1]),
            ("PAD_H", pad[0]),
            ("PAD_W", pad[1]),
            ("TILE", workgroup),
        ]),
        buffers: vec![
            input(Dtype::I8, &[b, h, w, c], bytes(x, i8::to_le_bytes)),
            input(Dtype::I8, &[o, kh, kw, c], bytes(filters, i8::to_le_bytes)),
            input(Dtype::I32, &[o], bytes(&bias, i32::to_le_bytes)),
            exact(Dtype::I32, &[b, oh, ow, o], bytes(&y, i32::to_le_bytes)),
        ],
        dispatch: [o.div_ceil(workgroup) as u32, (b * oh * ow).div_ceil(workgroup) as u32, 1],
        ..vector(name, CONV2D_I8)
    }
}

/// Values and factors at the ends of their ranges.
fn edge(i: usize, seed: u32) -> (i32, Factor) {
    let sums = [i32::MIN, -1, 0, 1, 127, 1 << 16, i32::MAX - 1, i32::MAX];
    let multiplier = [0, 1, (1 << 31) - 1, 1 << 30, seed >> 1][i % 5];
    (sums[seed as usize % 8] ^ (seed >> 20) as i32, Factor { multiplier, shift: 1 + i as u32 % 62 })
}

fn cipher(name: &str, count: usize, workgroup: usize, first: u32) -> Vector {
    let x: Vec<u32> = words(count).collect();
    let stream: Vec<u32> = words(11).chain([first]).collect();
    let key = stream[..8].try_into().expect("eight words");
    let nonce = stream[8..11].try_into().expect("three words");
    let y = chacha20(&x, key, nonce, first);
    Vector {
        overrides: overrides(&[("WORDS", count), ("WORKGROUP", workgroup)]),
        buffers: vec![
            input(Dtype::U32, &[count], bytes(&x, u32::to_le_bytes)),
            input(Dtype::U32, &[12], bytes(&stream, u32::to_le_bytes)),
            exact(Dtype::U32, &[count], bytes(&y, u32::to_le_bytes)),
        ],
        dispatch: [count.div_ceil(16).div_ceil(workgroup) as u32, 1, 1],
        ..vector(name, CHACHA20)
    }
}

fn requant(
    name: &str,
    [m, n]: [usize; 2],
    workgroup: usize,
    relu: bool,
    value: impl Fn(usize, u32) -> (i32, Factor),
) -> Vector {
    let (x, factors): (Vec<i32>, Vec<Factor>) =
        words(m * n).enumerate().map(|(i, seed)| value(i, seed)).unzip();
    let factors = &factors[..n];
    let y = requant_i8(&x, factors, relu);
    let flat: Vec<u32> = factors.iter().flat_map(|f| [f.multiplier, f.shift]).collect();
    Vector {
        overrides: overrides(&[("M", m), ("N", n), ("RELU", relu.into()), ("WORKGROUP", workgroup)]),
        buffers: vec![
            input(Dtype::I32, &[m, n], bytes(&x, i32::to_le_bytes)),
            input(Dtype::U32, &[n, 2], bytes(&flat, u32::to_le_bytes)),
            exact(Dtype::I8, &[m, n], bytes(&y, i8::to_le_bytes)),
        ],
        dispatch: [(m * n / 4).div_ceil(workgroup) as u32, 1, 1],
        ..vector(name, REQUANT_I8)
    }
}

fn softmax(
    name: &str,
    [m, n]: [usize; 2],
    workgroup: usize,
    value: impl Fn(u32) -> i32,
    factor: Factor,
) -> Vector {
    let x: Vec<i32> = words(m * n).map(value).collect();
    let y = softmax_i32(&x, n, factor);
    Vector {
        overrides: overrides(&[
            ("M", m),
            ("N", n),
            ("MULTIPLIER", factor.multiplier as usize),
            ("SHIFT", factor.shift as usize),
            ("WORKGROUP", workgroup),
        ]),
        buffers: vec![
            input(Dtype::I32, &[m, n], bytes(&x, i32::to_le_bytes)),
            exact(Dtype::I32, &[m, n], bytes(&y, i32::to_le_bytes)),
        ],
        dispatch: [m as u32, 1, 1],
        ..vector(name, SOFTMAX_I32)
    }
}

fn norm(
    name: &str,
    [m, n]: [usize; 2],
    workgroup: usize,
    norm: Norm,
    epsilon: u32,
    value: impl Fn(u32) -> i32,
) -> Vector {
    let x: Vec<i32> = words(m * n).map(value).collect();
    // Of both signs, from results of a few units to ones that saturate.
    let gains: Vec<Gain> = words(n)
        .enumerate()
        .map(|(i, seed)| Gain {
            multiplier: (seed as i32 | 1 << 30).max(i32::MIN + 1),
            shift: 48 + (i as u32 * 5 + seed % 3) % 9,
            offset: seed as i32 >> 20,
        })
        .collect();
    let y = norm_i8(&x, &gains, norm, epsilon);
    let flat: Vec<i32> = gains.iter().flat_map(|g| [g.multiplier, g.shift as i32, g.offset]).collect();
    Vector {
        overrides: overrides(&[
            ("M", m),
            ("N", n),
            ("MEAN", (norm == Norm::Layer).into()),
            ("EPSILON", epsilon as usize),
            ("WORKGROUP", workgroup),
        ]),
        buffers: vec![
            input(Dtype::I32, &[m, n], bytes(&x, i32::to_le_bytes)),
            input(Dtype::I32, &[n, 3], bytes(&flat, i32::to_le_bytes)),
            exact(Dtype::I8, &[m, n], bytes(&y, i8::to_le_bytes)),
        ],
        dispatch: [m as u32, 1, 1],
        ..vector(name, NORM_I8)
    }
}

fn argmax(name: &str, m: usize, n: usize, workgroup: usize, value: impl Fn(u32) -> i32) -> Vector {
    let x: Vec<i32> = words(m * n).map(value).collect();
    Vector {
        overrides: overrides(&[("M", m), ("N", n), ("WORKGROUP", workgroup)]),
        buffers: vec![
            input(Dtype::I32, &[m, n], bytes(&x, i32::to_le_bytes)),
            exact(Dtype::I32, &[m], bytes(&argmax_i32(&x, n), i32::to_le_bytes)),
        ],
        dispatch: [m.div_ceil(workgroup) as u32, 1, 1],
        ..vector(name, ARGMAX_I32)
    }
}

/// One sphere of each material, close enough to mirror each other.
fn scene() -> Scene {
    let sphere = |at: [f32; 3], radius: f32, colour: [f32; 3], material: f32, extra: f32| {
        let ([x, y, z], [r, g, b]) = (at, colour);
        [x, y, z, radius, r, g, b, material, extra, 0.0, 0.0, 0.0]
    };
    Scene {
        view: [
            [0.0, 1.0, 4.0, 0.02],
            [1.5, 0.0, 0.0, 0.0],
            [0.0, 0.84, 0.0, 0.0],
            [0.0, -0.5, -4.0, 0.7],
            [-0.6, 0.64, 0.48, 0.05],
            [5.0, 4.5, 4.0, 0.0],
            [0.2, 0.4, 0.8, 0.0],
            [0.7, 0.75, 0.8, 0.0],
        ],
        spheres: vec![
            sphere([-0.8, 0.5, 0.0], 0.5, [0.7, 0.2, 0.1], 0.0, 0.0),
            sphere([0.3, 0.5, -0.4], 0.5, [0.9, 0.7, 0.4], 1.0, 0.1),
            sphere([-0.1, 0.25, 0.8], 0.25, [0.95, 0.95, 0.9], 2.0, 1.5),
            sphere([0.8, 0.35, 0.5], 0.35, [0.1, 0.4, 0.6], 3.0, 1.5),
        ],
    }
}

fn picture(name: &str, tile: [u32; 4], samples: u32, workgroup: u32) -> Vector {
    let scene = scene();
    let size = Tile { picture: [24, 13], tile, samples, bounces: 6 };
    let pixels = path_trace(&scene, &size, Rounding::Separate);
    // Few pixels and few samples: one path on another branch is a 16th or a 5th of a pixel, and may be all of the outliers.
    let compare =
        Compare::Within(Tolerance { abs: 1e-3, rel: 1e-3, outliers_max: 0.05, mean_abs_max: Some(5e-3) });
    let [_, _, width, height] = tile.map(|v| v as usize);
    Vector {
        overrides: overrides(&[
            ("WIDTH", 24),
            ("HEIGHT", 13),
            ("SAMPLES", samples as usize),
            ("BOUNCES", 6),
            ("TILE", workgroup as usize),
        ]),
        buffers: vec![
            input(Dtype::U32, &[4], bytes(&tile, u32::to_le_bytes)),
            input(Dtype::F32, &[8, 4], bytes(scene.view.as_flattened(), f32::to_le_bytes)),
            input(
                Dtype::F32,
                &[scene.spheres.len(), 12],
                bytes(scene.spheres.as_flattened(), f32::to_le_bytes),
            ),
            Buffer::Out {
                dtype: Dtype::F32,
                shape: vec![height, width, 3],
                expect: STANDARD.encode(bytes(&pixels, f32::to_le_bytes)),
                compare,
            },
        ],
        dispatch: [tile[2].div_ceil(workgroup), tile[3].div_ceil(workgroup), 1],
        ..vector(name, PATH_TRACE)
    }
}

fn vector(name: &str, kernel: Kernel) -> Vector {
    Vector {
        name: name.into(),
        wgsl: kernel.path.into(),
        entry: "main".into(),
        overrides: BTreeMap::new(),
        buffers: Vec::new(),
        dispatch: [1, 1, 1],
    }
}

fn overrides(values: &[(&str, usize)]) -> BTreeMap<String, u32> {
    values.iter().map(|&(name, value)| (name.into(), value as u32)).collect()
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| to_bytes(v)).collect()
}

fn input(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Buffer {
    Buffer::In { dtype, shape: shape.into(), data: STANDARD.encode(data) }
}

fn exact(dtype: Dtype, shape: &[usize], expect: Vec<u8>) -> Buffer {
    Buffer::Out { dtype, shape: shape.into(), expect: STANDARD.encode(expect), compare: Compare::default() }
}
