//! What can go wrong between a plan and its outputs.

use std::time::Duration;

use protocol::Hash;

/// Why a device could not be opened or a unit could not be run. Nothing here is a panic: a device is somebody's machine, and
/// anything may happen to it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no adapter at all.
    #[error("no Vulkan, Metal or DX12 adapter: install a driver (on Debian and Ubuntu: mesa-vulkan-drivers)")]
    NoAdapter,
    /// No adapter is the selected one.
    #[error("no adapter matches {selector:?}; there are {}", found.join(", "))]
    AdapterNotFound {
        /// What was asked for.
        selector: String,
        /// The adapters that there are.
        found: Vec<String>,
    },
    /// The adapter gave no device.
    #[error("{adapter} gave no device")]
    DeviceRefused {
        /// The adapter's name.
        adapter: String,
        /// Its reason.
        source: wgpu::RequestDeviceError,
    },
    /// The program does not fit the device.
    #[error(transparent)]
    Misfit(#[from] program::Misfit),
    /// A blob that a buffer is filled from was not given.
    #[error("the blob {0} is not there")]
    BlobMissing(Hash),
    /// A blob's or an input's length is not its buffer's.
    #[error("{what} has {found} bytes and its buffer takes {expected}")]
    Length {
        /// Which blob or input.
        what: String,
        /// The buffer's length.
        expected: u64,
        /// The bytes given.
        found: u64,
    },
    /// A unit has another number of inputs than its program.
    #[error("the unit has {found} inputs and its program {expected}")]
    InputCount {
        /// The program's.
        expected: usize,
        /// The unit's.
        found: usize,
    },
    /// No variant of a kernel becomes a pipeline on this device.
    #[error("the device cannot build kernel {kernel}: {message}")]
    Pipeline {
        /// The kernel's name.
        kernel: String,
        /// The driver's or the validator's reason.
        message: String,
    },
    /// As many units are in flight as there are buffer sets: wait for one first.
    #[error("{0} units are in flight already")]
    RingFull(usize),
    /// The device has not enough memory.
    #[error("the device is out of memory")]
    OutOfMemory,
    /// The device refused a command: a bug here or in the driver.
    #[error("the device refused a command: {0}")]
    Refused(String),
    /// The device is gone. Nothing works on it any more.
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    /// The unit is still running. There is no way to stop it but to end the process.
    #[error("the unit did not end within {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl From<wgpu::Error> for GpuError {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory,
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Self::Refused(one_line(&description))
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
