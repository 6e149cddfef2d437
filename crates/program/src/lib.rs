//! Checks a manifest and its WGSL and turns them into an execution plan.
//!
//! [`check`] is the one gate between what a stranger wrote and what a device runs: the market calls it before anything is
//! scheduled, and a worker calls it again because it trusts no market. A [`Plan`] that comes out is bounded in memory, time and
//! workgroups; every name in it is resolved and every binding has the size and access that its kernel declares. Runtimes obey
//! it without looking at the manifest.
//!
//! The crate does no I/O and touches no GPU; whether a particular device can run a plan is asked with [`fits`].

mod check;
mod error;
mod fit;
mod outline;
mod plan;
mod size;
mod text;
mod verify;
mod wgsl;
mod work;

use std::collections::BTreeMap;

use protocol::{Hash, Manifest};

pub use crate::{
    error::{Problem, ProgramError},
    fit::{Misfit, fits},
    plan::{Access, Binding, Buffer, Kernel, Pass, Plan, Source, Variant},
    work::{ROUNDS_UNKNOWN, UnitWork},
};

/// Values that `auto` overrides are tried with, where the kernel and the device accept them.
pub const AUTO_CANDIDATES: [u32; 7] = [4, 8, 16, 32, 64, 128, 256];

/// Kernels in one program.
pub const KERNELS_MAX: usize = 16;
/// Buffers in one program.
pub const BUFFERS_MAX: usize = 32;
/// Passes in one unit.
pub const PASSES_MAX: usize = 64;
/// Inputs of one unit.
pub const INPUTS_MAX: usize = 16;
/// Outputs of one unit.
pub const OUTPUTS_MAX: usize = 8;
/// Buffers that one pass binds: WebGPU's default `maxStorageBuffersPerShaderStage`.
pub const BINDINGS_MAX: usize = 8;
/// Axes of a shape.
pub const AXES_MAX: usize = 8;
/// Bytes of one buffer: what a 32-bit WGSL index reaches, in bytes.
pub const BUFFER_BYTES_MAX: u64 = (1 << 32) - 4;
/// Bytes of a buffer that is bound as `var<uniform>`: a quarter of WebGPU's default, which old mobile devices have too.
pub const UNIFORM_BYTES_MAX: u64 = 16 << 10;
/// Bytes of all buffers of one unit.
pub const MEMORY_BYTES_MAX: u64 = 64 << 30;
/// Time of one unit, in milliseconds.
pub const TIME_MS_MAX: u64 = 10 * 60 * 1000;
/// Bytes of one kernel's text.
pub const KERNEL_BYTES_MAX: usize = 256 << 10;
/// Bytes of a manifest's JSON.
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;
/// Workgroups along one dimension: WebGPU's default.
pub const WORKGROUPS_MAX: u32 = 65_535;
/// Invocations in one workgroup. WebGPU promises 256; larger devices are asked for by [`fits`].
pub const INVOCATIONS_MAX: u32 = 1024;
/// Bytes of workgroup memory. WebGPU promises 16 KiB; larger devices are asked for by [`fits`].
pub const WORKGROUP_BYTES_MAX: u32 = 64 << 10;
/// Bytes of the texts of all kernels of a program. naga reads the largest in seconds.
pub const KERNELS_BYTES_MAX: usize = 512 << 10;
/// Tokens of one function: naga's time grows with the square of a function's length, and is half a second here.
pub const FUNCTION_TOKENS_MAX: usize = 16 << 10;
/// Values that the constants of a text stand for, each as often as it is used: naga writes them out.
pub const CONSTANT_VALUES_MAX: u64 = 256 << 10;
/// Expressions of an entry point with every call written out, as drivers do.
pub const EXPRESSIONS_MAX: u64 = 32 << 10;
/// Bytes of the variables of one invocation. WGSL promises as much for each function; here it is for all together, since a large
/// device keeps a quarter of a million invocations at once.
pub const INVOCATION_BYTES_MAX: u64 = 8 << 10;
/// Bytes of an array or struct that is used as a whole. WGSL promises arrays of 2,047 elements.
pub const VALUE_BYTES_MAX: u64 = 8 << 10;
/// WebGPU features that a manifest may need.
pub const FEATURES: [&str; 3] = [protocol::FEATURE_LONG_LOOPS, "shader-f16", "subgroups"];

/// naga recurses: this holds the deepest text that its own limits and ours let through.
const STACK_BYTES: usize = 64 << 20;

/// Reads a manifest's JSON.
pub fn parse(json: &[u8]) -> Result<Manifest, ProgramError> {
    if json.len() > MANIFEST_BYTES_MAX {
        let message = format!("the manifest is larger than {MANIFEST_BYTES_MAX} bytes");
        return Err(Problem::new("", message, "move data into blobs").limit());
    }
    serde_json::from_slice(json).map_err(|error| {
        let mut message = error.to_string();
        if let Some(end) = message.rfind(" at line ") {
            message.truncate(end);
        }
        let mut problem = Problem::new("", message, "correct the manifest's JSON");
        problem.at = Some((error.line() as u32, error.column() as u32));
        problem.manifest()
    })
}

/// Checks `manifest` with the texts of its kernels, by blob id, and plans its execution.
pub fn check(manifest: &Manifest, kernels: &BTreeMap<Hash, String>) -> Result<Plan, ProgramError> {
    std::thread::scope(|scope| {
        let checker = std::thread::Builder::new()
            .name("program-check".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || check::check(manifest, kernels));
        let checked = match checker {
            Ok(checker) => checker.join(),
            Err(_) => {
                let message = "there is no thread left to check the program on";
                return Err(Problem::new("", message, "try again later").limit());
            }
        };
        // A panic is a bug of the compiler that this text found; the caller must survive it.
        checked.unwrap_or_else(|_| {
            let message = "the WGSL compiler failed on this program";
            Err(Problem::new("program.kernels", message, "simplify the kernel").wgsl())
        })
    })
}
