//! Whether a device can run a plan, and if not, what stands in the way.

use protocol::DeviceLimits;

use crate::plan::{Access, Plan};

/// The constraint that keeps a plan off a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The device lacks a feature.
    #[error("the device has no {feature}")]
    Feature {
        /// WebGPU's name for it.
        feature: String,
    },
    /// A buffer is larger than the device allows.
    #[error("buffer {buffer} takes {bytes} bytes and the device allows {bytes_max}")]
    BufferBytes {
        /// The buffer's name.
        buffer: String,
        /// Its size.
        bytes: u64,
        /// The device's limit.
        bytes_max: u64,
    },
    /// The program asks for a larger storage binding than the device has.
    #[error("the program needs storage bindings of {bytes} bytes and the device allows {bytes_max}")]
    StorageBytes {
        /// What the program's `needs` say.
        bytes: u64,
        /// The device's limit.
        bytes_max: u64,
    },
    /// A pass binds more storage buffers than the device allows.
    #[error("pass {pass} binds {count} storage buffers and the device allows {count_max}")]
    StorageBuffers {
        /// Index of the pass.
        pass: usize,
        /// What it binds.
        count: u32,
        /// The device's limit.
        count_max: u32,
    },
    /// No workgroup size of a kernel fits.
    #[error(
        "kernel {kernel} needs workgroups of at least {invocations} invocations and {workgroup_bytes} bytes, \
         {workgroups} along one dimension; the device allows {} invocations, {} bytes, {}",
        limits.workgroup_invocations_max, limits.workgroup_bytes_max, limits.workgroups_per_dimension_max
    )]
    Workgroup {
        /// The kernel's name.
        kernel: String,
        /// Invocations of its smallest workgroup.
        invocations: u32,
        /// Memory of its smallest workgroup.
        workgroup_bytes: u32,
        /// Workgroups that it then dispatches along one dimension.
        workgroups: u32,
        /// The device's limits.
        limits: Box<DeviceLimits>,
    },
}

/// Whether a device with these limits and WebGPU features can run `plan`.
pub fn fits(plan: &Plan, limits: &DeviceLimits, features: &[String]) -> Result<(), Misfit> {
    if let Some(feature) = plan.features.iter().find(|feature| !features.contains(feature)) {
        return Err(Misfit::Feature { feature: feature.clone() });
    }
    let bytes_max = limits.buffer_bytes_max.min(limits.storage_buffer_bytes_max);
    for buffer in &plan.buffers {
        if buffer.size_bytes > bytes_max {
            let (buffer, bytes) = (buffer.name.clone(), buffer.size_bytes);
            return Err(Misfit::BufferBytes { buffer, bytes, bytes_max });
        }
    }
    if plan.storage_buffer_bytes > limits.storage_buffer_bytes_max {
        let (bytes, bytes_max) = (plan.storage_buffer_bytes, limits.storage_buffer_bytes_max);
        return Err(Misfit::StorageBytes { bytes, bytes_max });
    }
    for (pass, planned) in plan.passes.iter().enumerate() {
        let count = planned.bind.iter().filter(|binding| binding.access != Access::Uniform).count() as u32;
        if count > limits.storage_buffers_max {
            return Err(Misfit::StorageBuffers { pass, count, count_max: limits.storage_buffers_max });
        }
    }
    for kernel in &plan.kernels {
        if !kernel.variants.iter().any(|variant| variant.fits(limits)) {
            let smallest = kernel.variants[0];
            return Err(Misfit::Workgroup {
                kernel: kernel.name.clone(),
                invocations: smallest.invocations(),
                workgroup_bytes: smallest.workgroup_bytes,
                workgroups: smallest.workgroups_max,
                limits: Box::new(*limits),
            });
        }
    }
    Ok(())
}
