//! The kernel library: WGSL sources, each with a CPU reference that says what it computes.
//!
//! One folder a kernel: `NAME.wgsl`, `reference.rs` (plain Rust, the definition of correct), `README.md` (shapes, units,
//! limits, tolerance). Integer kernels match their reference bit by bit on every device; float kernels within the tolerance
//! that their README derives. [`vectors`] holds inputs and expected outputs that the native and the browser tests both run.
//!
//! This crate runs nothing on a GPU and does not know manifests or jobs: those name a kernel by the hash of its source.

#[path = "../argmax_i32/reference.rs"]
pub mod argmax_i32;
#[path = "../matmul_i8/reference.rs"]
pub mod matmul_i8;
#[path = "../path_trace/reference.rs"]
pub mod path_trace;
#[path = "../requant_i8/reference.rs"]
pub mod requant_i8;
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
/// ReLU and int32 back to int8.
pub const REQUANT_I8: Kernel = kernel!("requant_i8");
/// Index of the largest value of each row.
pub const ARGMAX_I32: Kernel = kernel!("argmax_i32");
/// A tile of a path-traced picture.
pub const PATH_TRACE: Kernel = kernel!("path_trace");

/// Every kernel of the library.
pub const KERNELS: [Kernel; 4] = [MATMUL_I8, REQUANT_I8, ARGMAX_I32, PATH_TRACE];
