//! The kernel library: WGSL sources, each with a CPU reference that says what it computes.
//!
//! One folder a kernel: `NAME.wgsl`, `reference.rs` (plain Rust, the definition of correct), `README.md` (shapes, units,
//! limits, tolerance). Integer kernels match their reference bit by bit on every device; float kernels within the tolerance
//! that their README derives. [`vectors`] holds inputs and expected outputs that the native and the browser tests both run.
//!
//! This crate runs nothing on a GPU and does not know manifests or jobs: those name a kernel by the hash of its source.

#[path = "../argmax_i32/reference.rs"]
pub mod argmax_i32;
#[path = "../chacha20/reference.rs"]
pub mod chacha20;
#[path = "../conv2d_i8/reference.rs"]
pub mod conv2d_i8;
#[path = "../matmul_i8/reference.rs"]
pub mod matmul_i8;
#[path = "../norm_i8/reference.rs"]
pub mod norm_i8;
#[path = "../path_trace/reference.rs"]
pub mod path_trace;
#[path = "../requant_i8/reference.rs"]
pub mod requant_i8;
#[path = "../softmax_i32/reference.rs"]
pub mod softmax_i32;
pub mod vectors;

/// A kernel's source and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name of its folder.
    pub name: &'static str,
    /// Path of the source, relative to the repository.
    pub path: &'static str,
    /// WGSL text, entry point `main`.
    pub wgsl: &'static str,
}

macro_rules! kernel {
    ($name:literal) => {
        Kernel {
            name: $name,
            path: concat!("kernels/", $name, "/", $name, ".wgsl"),
            wgsl: include_str!(concat!("../", $name, "/", $name, ".wgsl")),
        }
    };
}

/// `y = x · wᵀ + bias`, int8 to int32.
pub const MATMUL_I8: Kernel = kernel!("matmul_i8");
/// Convolution of int8 pictures, int8 to int32.
pub const CONV2D_I8: Kernel = kernel!("conv2d_i8");
/// int32 back to int8, with ReLU or without.
pub const REQUANT_I8: Kernel = kernel!("requant_i8");
/// Softmax of each row in integers.
pub const SOFTMAX_I32: Kernel = kernel!("softmax_i32");
/// Layer norm and RMS norm of each row in integers.
pub const NORM_I8: Kernel = kernel!("norm_i8");
/// Index of the largest value of each row.
pub const ARGMAX_I32: Kernel = kernel!("argmax_i32");
/// ChaCha20 of RFC 8439: decrypts sealed inputs on the device.
pub const CHACHA20: Kernel = kernel!("chacha20");
/// A tile of a path-traced picture.
pub const PATH_TRACE: Kernel = kernel!("path_trace");

/// Every kernel of the library.
pub const KERNELS: [Kernel; 8] =
    [MATMUL_I8, CONV2D_I8, REQUANT_I8, SOFTMAX_I32, NORM_I8, ARGMAX_I32, PATH_TRACE, CHACHA20];

/// WGSL functions that stand in for `dot4I8Packed` and its like, to be put behind a kernel's text where a compiler lacks them.
pub const PACKED_4X8: &str = include_str!("../packed_4x8/packed_4x8.wgsl");
