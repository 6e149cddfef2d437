//! What a worker's device is, as the worker reports it.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::Amount;

/// Where a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum WorkerKind {
    /// A process with wgpu.
    Native,
    /// A browser tab with WebGPU.
    Browser,
}

/// The adapter limits that decide whether a program fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeviceLimits {
    /// Largest storage buffer a program can bind, in bytes.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub storage_buffer_bytes_max: u64,
    /// Largest buffer, in bytes.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub buffer_bytes_max: u64,
    /// Storage buffers one pass can bind.
    pub storage_buffers_max: u32,
    /// Invocations in a workgroup.
    pub workgroup_invocations_max: u32,
    /// Workgroup memory, in bytes.
    pub workgroup_bytes_max: u32,
    /// Workgroups in one dimension of a dispatch.
    pub workgroups_per_dimension_max: u32,
}

/// A device as its worker describes it. Facts are reported, not proved: matching may use them, payment never does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DeviceFacts {
    /// Native or browser.
    pub kind: WorkerKind,
    /// The adapter's name, such as `llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub adapter: String,
    /// The adapter's vendor, as far as the runtime tells.
    pub vendor: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// WebGPU feature names the runtime can use, and `long-loops` where an invocation may loop as long as it likes; sorted.
    pub features: Vec<String>,
    /// The adapter's limits.
    pub limits: DeviceLimits,
}

/// Flaw of a device that ends loops early: Mesa's llvmpipe leaves them after 65,535 rounds an invocation, and the results are
/// wrong without a word.
pub const FLAW_LOOP_ROUNDS: &str = "loop-rounds-65535";

/// The feature of a device without [`FLAW_LOOP_ROUNDS`]: a job that loops longer needs it, and so excludes the others.
pub const FEATURE_LONG_LOOPS: &str = "long-loops";

/// What a worker claims for its device and asks for its time. Claims are not proved: they place a worker until something was
/// measured, and what it really did overrules them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, BorshSerialize, BorshDeserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct WorkerOffer {
    /// Speed of 32-bit floating-point multiplication and addition, in MFLOP/s; 0 where nobody measured it.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub claimed_mflops: u64,
    /// Device memory that jobs may take together, in bytes; 0 where nobody said.
    #[serde(with = "crate::decimal")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub memory_bytes: u64,
    /// Jobs that may share the device in turns; 0 leaves it to the market.
    pub slots: u32,
    /// The least that a compute second, one second of the reference device, must pay; 0 takes anything.
    pub ask: Amount,
    /// Known flaws, such as [`FLAW_LOOP_ROUNDS`], that jobs may exclude; sorted.
    pub flaws: Vec<String>,
}
