//! What the lease loop needs of a device. The real one is a GPU behind the executor process; tests bring their own.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc};

use borsh::{BorshDeserialize, BorshSerialize};
use bytes::Bytes;
use program::Plan;
use protocol::{DeviceFacts, Hash, Manifest};

/// A program that was checked here, with everything it needs beside the units' inputs.
pub struct Program {
    /// The blob with its manifest.
    pub id: Hash,
    /// The manifest.
    pub manifest: Manifest,
    /// The texts of its kernels.
    pub kernels: BTreeMap<Hash, String>,
    /// The plan that the check made.
    pub plan: Plan,
    /// The contents of its `blob` buffers.
    pub blobs: BTreeMap<Hash, Bytes>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({})", self.id)
    }
}

/// What one unit gave.
#[derive(Clone, Debug)]
pub struct UnitOutput {
    /// The outputs' bytes, in output order.
    pub outputs: Vec<Bytes>,
    /// Time on the device, in microseconds.
    pub device_us: u64,
}

/// What a device showed when it was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Measured {
    /// Speed of 32-bit floating-point arithmetic, in MFLOP/s; 0 where nobody measured it.
    pub mflops: u64,
    /// Memory that jobs may take together when its owner says nothing, in bytes; 0 where nobody knows.
    pub memory_bytes: u64,
    /// Known flaws, by the names of the protocol, sorted.
    pub flaws: Vec<String>,
}

/// Why a device did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device or the process that holds it is gone; it must be started again.
    #[error("the device failed: {0}")]
    Lost(String),
    /// The runtime refuses this program; the device is well.
    #[error("the device's runtime refuses the program: {0}")]
    Program(String),
}

impl DeviceError {
    /// What happened, without saying again that a device failed.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Lost(reason) | Self::Program(reason) => reason,
        }
    }
}

/// Runs units. Calls take effect in the order they are made; several may be in flight.
pub trait Device: Send + 'static {
    /// Starts it, or starts it again after a failure. Nothing is loaded then.
    fn start(&mut self) -> impl Future<Output = Result<DeviceFacts, DeviceError>> + Send;

    /// Tries what it can do. Takes a fraction of a second, during which nothing else runs.
    fn measure(&self) -> impl Future<Output = Result<Measured, DeviceError>> + Send + 'static + use<Self> {
        std::future::ready(Ok(Measured::default()))
    }

    /// Makes a program ready.
    fn load(
        &self,
        program: Arc<Program>,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send + 'static + use<Self>;

    /// Runs one unit of a loaded program.
    fn run(
        &self,
        program: Hash,
        inputs: Vec<Bytes>,
    ) -> impl Future<Output = Result<UnitOutput, DeviceError>> + Send + 'static + use<Self>;

    /// Forgets a program that will not be used soon.
    fn unload(&self, program: Hash);

    /// Stops it at once, whatever it does.
    fn kill(&mut self) -> impl Future<Output = ()> + Send;
}
