//! The plan: everything a runtime obeys, with nothing left to decide but what is fastest.

use std::{collections::BTreeMap, sync::Arc};

use protocol::{DeviceLimits, Expression, ExpressionError, Hash, manifest};

use crate::work::UnitWork;

/// A checked program. Indices are in range, names are resolved, sizes are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The kernels, in order of their names.
    pub kernels: Vec<Kernel>,
    /// The buffers, in order of their names.
    pub buffers: Vec<Buffer>,
    /// The passes in the order they run.
    pub passes: Vec<Pass>,
    /// For each input of a unit, the buffer that it fills.
    pub inputs: Vec<usize>,
    /// For each output of a unit, the buffer that it is read from.
    pub outputs: Vec<usize>,
    /// WebGPU features that the device must have, sorted.
    pub features: Vec<String>,
    /// Bytes of all buffers of one unit together.
    pub memory_bytes: u64,
    /// The largest storage binding that the device must allow, in bytes: the program's own, or more if its `needs` say so.
    pub storage_buffer_bytes: u64,
    /// What one unit costs, estimated from the text.
    pub work: UnitWork,
    /// Time of one unit on the device, in milliseconds; a watchdog ends the lease after it.
    pub time_ms_max: u64,
}

/// One compute pipeline, up to the workgroup size that the device prefers.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Its name in the manifest.
    pub name: String,
    /// The blob that holds its text.
    pub blob: Hash,
    /// Its text in naga's dialect: as submitted, but `enable subgroups;`, which naga 30 refuses, is blanked.
    pub wgsl: Arc<str>,
    /// The entry point's name.
    pub entry: String,
    /// Overrides with the same value on every device.
    pub fixed: BTreeMap<String, u32>,
    /// Overrides that all take the device's calibrated value.
    pub auto: Vec<String>,
    /// The ways to build it; more than one only if `auto` is not empty. Never empty; smallest value first.
    pub variants: Vec<Variant>,
}

/// One way to build a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The value of the `auto` overrides.
    pub auto: Option<u32>,
    /// The entry point's workgroup size with it.
    pub workgroup_size: [u32; 3],
    /// Workgroup memory with it, in bytes.
    pub workgroup_bytes: u32,
    /// Most workgroups in one dimension that any pass dispatches with it.
    pub workgroups_max: u32,
    /// Arithmetic operations of one invocation, estimated from the text.
    pub operations: u64,
}

impl Variant {
    /// Invocations in one workgroup.
    pub fn invocations(&self) -> u32 {
        self.workgroup_size.iter().product()
    }

    /// Whether a device with these limits can run it.
    pub fn fits(&self, limits: &DeviceLimits) -> bool {
        self.invocations() <= limits.workgroup_invocations_max
            && self.workgroup_bytes <= limits.workgroup_bytes_max
            && self.workgroups_max <= limits.workgroups_per_dimension_max
    }
}

/// One buffer on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Its name in the manifest.
    pub name: String,
    /// Where its bytes come from or go to.
    pub source: Source,
    /// The element type.
    pub dtype: manifest::Dtype,
    /// The extent of each axis, outermost first.
    pub shape: Vec<u32>,
    /// Bytes that its elements take; what a unit's input or output is long.
    pub length_bytes: u64,
    /// Bytes to allocate: `length_bytes` padded to a multiple of 4, the rest zero.
    pub size_bytes: u64,
    /// How two executions of it are compared (outputs).
    pub compare: manifest::Compare,
}

/// Where a buffer's bytes come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Filled from this input of the unit.
    Input(u32),
    /// Filled from this blob, the same for every unit.
    Blob(Hash),
    /// Zero before the first pass, read back as this output after the last.
    Output(u32),
    /// Zero before the first pass.
    Scratch,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Index of the kernel.
    pub kernel: usize,
    /// What stands at `@group(0)` `@binding(0)`, `@binding(1)` and so on.
    pub bind: Vec<Binding>,
    /// Workgroups along x, y and z.
    pub dispatch: [Expression; 3],
}

/// One binding of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Index of the buffer.
    pub buffer: usize,
    /// How the kernel declares it.
    pub access: Access,
}

/// How a kernel declares a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<uniform>`.
    Uniform,
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

impl Kernel {
    /// The value of every override, with `auto` for those that the device calibrates.
    pub fn overrides(&self, auto: Option<u32>) -> BTreeMap<String, u32> {
        let mut overrides = self.fixed.clone();
        if let Some(value) = auto {
            overrides.extend(self.auto.iter().map(|name| (name.clone(), value)));
        }
        overrides
    }
}

impl Plan {
    /// Workgroups of a pass along x, y and z with these overrides.
    pub fn dispatch(
        &self,
        pass: usize,
        overrides: &BTreeMap<String, u32>,
    ) -> Result<[u32; 3], ExpressionError> {
        let [x, y, z] = &self.passes[pass].dispatch;
        Ok([x.value(overrides)?, y.value(overrides)?, z.value(overrides)?])
    }

    /// Length of each input of a unit, in bytes.
    pub fn input_lengths(&self) -> impl Iterator<Item = u64> {
        self.inputs.iter().map(|&buffer| self.buffers[buffer].length_bytes)
    }

    /// Length of each output of a unit, in bytes.
    pub fn output_lengths(&self) -> impl Iterator<Item = u64> {
        self.outputs.iter().map(|&buffer| self.buffers[buffer].length_bytes)
    }

    /// The blobs that buffers are filled from.
    pub fn blobs(&self) -> impl Iterator<Item = Hash> {
        self.buffers.iter().filter_map(|buffer| match buffer.source {
            Source::Blob(hash) => Some(hash),
            _ => None,
        })
    }
}
