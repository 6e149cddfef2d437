//! Golden vectors of the kernels: small inputs and what must come out.
//!
//! `tests/vectors/kernels.json` holds [`all`] as JSON; the native and the browser tests run it on their GPUs. After a deliberate
//! change `cargo run -p plexus-kernels --example vectors` writes it again.

use crate::path_trace::{Rounding, Scene, Tile, path_trace};
use crate::requant_i8::{Factor, requant_i8};
use crate::{
    ARGMAX_I32, Kernel, MATMUL_I8, PATH_TRACE, REQUANT_I8, argmax_i32::argmax_i32, matmul_i8::matmul_i8,
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
            verify: manifest::Verify::Audit { rate_min: 0.0 },
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
        matmul("matmul_i8 8x64x96", 8, 96, 64, 8, |seed| seed as i8),
        matmul("matmul_i8 8x64x96, smaller workgroup", 8, 96, 64, 4, |seed| seed as i8),
        // The largest sums that int8 allows, and a size below the workgroup's.
        matmul("matmul_i8 extremes", 3, 5, 12, 8, |seed| if seed & 1 == 0 { i8::MIN } else { i8::MAX }),
        requant("requant_i8 hidden layer", 8, 96, 64, |i, seed| {
            let sum = (seed >> 8) as i32 % 100_000;
            (sum, Factor { multiplier: (1 << 30) | (seed >> 2), shift: 36 + i as u32 % 8 })
        }),
        requant("requant_i8 edges", 4, 64, 16, |i, seed| {
            let sums = [i32::MIN, -1, 0, 1, 127, 1 << 16, i32::MAX - 1, i32::MAX];
            let multiplier = [0, 1, (1 << 31) - 1, 1 << 30, seed >> 1][i % 5];
            (sums[seed as usize % 8] ^ (seed >> 20) as i32, Factor { multiplier, shift: 1 + i as u32 % 62 })
        }),
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

fn matmul(name: &str, m: usize, n: usize, k: usize, workgroup: usize, value: impl Fn(u32) -> i8) -> Vector {
    let values: Vec<i8> = words((m + n) * k).map(value).collect();
    let (x, w) = values.split_at(m * k);
    let bias: Vec<i32> = words(n).map(|seed| seed as i32 >> 12).collect();
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

fn requant(
    name: &str,
    m: usize,
    n: usize,
    workgroup: usize,
    value: impl Fn(usize, u32) -> (i32, Factor),
) -> Vector {
    let (x, factors): (Vec<i32>, Vec<Factor>) =
        words(m * n).enumerate().map(|(i, seed)| value(i, seed)).unzip();
    let factors = &factors[..n];
    let y = requant_i8(&x, factors);
    let flat: Vec<u32> = factors.iter().flat_map(|f| [f.multiplier, f.shift]).collect();
    Vector {
        overrides: overrides(&[("M", m), ("N", n), ("WORKGROUP", workgroup)]),
        buffers: vec![
            input(Dtype::I32, &[m, n], bytes(&x, i32::to_le_bytes)),
            input(Dtype::U32, &[n, 2], bytes(&flat, u32::to_le_bytes)),
            exact(Dtype::I8, &[m, n], bytes(&y, i8::to_le_bytes)),
        ],
        dispatch: [(m * n / 4).div_ceil(workgroup) as u32, 1, 1],
        ..vector(name, REQUANT_I8)
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
