//! The child: a device, its programs, and a loop that obeys.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{self, BufWriter, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    time::Duration,
};

use gpu::{Gpu, GpuError, Pending, Program, RING_LENGTH};
use protocol::{FLAW_LOOP_ROUNDS, Hash};

use super::frame::{self, Failure, Ran, Reply, Request};
use crate::device::Measured;

/// How long the loop looks away from new requests while a unit runs. A request that comes meanwhile waits behind that unit
/// anyway; only one that the device could begin at once would lose this much.
const WAIT_SLICE: Duration = Duration::from_millis(1);
/// When the parent is gone, the last units have this long to end.
const FAREWELL: Duration = Duration::from_secs(1);
/// Requests that are read ahead.
const REQUESTS_MAX: usize = 4;
/// Shader compilers recurse: naga in here, and some drivers.
const STACK_BYTES: usize = 64 << 20;

/// When memory runs out, Linux ends this process first: what a stranger's program took must not cost the worker, or whatever else
/// runs on the machine. From 0 to 1000.
#[cfg(target_os = "linux")]
const OOM_SCORE: &str = "1000";

/// Opens the device that the environment selects and obeys the parent until its end of the pipe closes.
pub fn serve(mut input: impl Read, output: impl Write + Send + 'static) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::debug!(%error, "the executor is not marked as the first to end when memory runs out");
    }
    let (requests, queue) = mpsc::sync_channel(REQUESTS_MAX);
    let (ended, has_ended) = mpsc::channel();
    std::thread::Builder::new().name("device".into()).stack_size(STACK_BYTES).spawn(move || {
        let served = catch_unwind(AssertUnwindSafe(|| Device::serve(queue, BufWriter::new(output))));
        match served {
            Ok(result) => {
                // The main thread waits for input that may never come: a loop that failed ends the process.
                if let Err(error) = result {
                    tracing::error!(%error, "the executor ends");
                    std::process::exit(1);
                }
                let _ = ended.send(());
            }
            Err(_) => std::process::abort(),
        }
    })?;
    while let Some(request) = frame::read::<Request>(&mut input, program::MEMORY_BYTES_MAX)? {
        if requests.send(request).is_err() {
            return Ok(());
        }
    }
    drop(requests);
    if has_ended.recv_timeout(FAREWELL).is_err() {
        // A unit is still running, perhaps for ever. Leaving through `exit` would wait for it inside some drivers.
        std::process::abort();
    }
    Ok(())
}

struct Device<W> {
    gpu: Gpu,
    output: W,
    blobs: BTreeMap<Hash, Vec<u8>>,
    programs: HashMap<Hash, Program>,
    /// Units on the device in the order they were submitted.
    in_flight: VecDeque<(u64, Pending)>,
}

impl<W: Write> Device<W> {
    fn serve(requests: mpsc::Receiver<(Request, Vec<u8>)>, mut output: W) -> io::Result<()> {
        let gpu = match Gpu::open(None) {
            Ok(gpu) => gpu,
            Err(error) => {
                let message = with_causes(&error);
                return frame::write(&mut output, &Reply::Unavailable { message }, &[]);
            }
        };
        let ready = Reply::Ready { version: frame::VERSION, facts: gpu.facts().clone() };
        frame::write(&mut output, &ready, &[])?;
        let mut device = Self {
            gpu,
            output,
            blobs: BTreeMap::new(),
            programs: HashMap::new(),
            in_flight: VecDeque::new(),
        };
        loop {
            let request = if device.in_flight.len() >= RING_LENGTH {
                Err(mpsc::TryRecvError::Empty)
            } else if device.in_flight.is_empty() {
                requests.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
            } else {
                requests.try_recv()
            };
            match request {
                Ok((request, body)) => device.obey(request, body)?,
                Err(mpsc::TryRecvError::Empty) => device.wait_for_oldest(WAIT_SLICE)?,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn obey(&mut self, request: Request, body: Vec<u8>) -> io::Result<()> {
        match request {
            Request::Blob { hash } => {
                self.blobs.insert(hash, body);
            }
            Request::DropBlob { hash } => {
                self.blobs.remove(&hash);
            }
            Request::Unload { program } => {
                self.programs.remove(&program);
            }
            Request::Measure { ticket } => {
                let result = self.measure().map_err(failure);
                frame::write(&mut self.output, &Reply::Measured { ticket, result }, &[])?;
            }
            Request::Load { ticket, program, manifest, kernels } => {
                // Building blocks this loop: what is in flight is answered first, so that nothing is charged for the building.
                while !self.in_flight.is_empty() {
                    self.wait_for_oldest(WAIT_SLICE)?;
                }
                let result = self.load(program, &manifest, kernels);
                frame::write(&mut self.output, &Reply::Loaded { ticket, result }, &[])?;
            }
            Request::Run { ticket, program, input_lengths } => {
                // Units with large buffers run one by one.
                while !self.in_flight.is_empty()
                    && self.programs.get(&program).is_some_and(|program| !program.has_room())
                {
                    self.wait_for_oldest(WAIT_SLICE)?;
                }
                match self.submit(program, &body, &input_lengths) {
                    Ok(pending) => self.in_flight.push_back((ticket, pending)),
                    Err(failure) => {
                        let reply = Reply::Ran { ticket, result: Err(failure) };
                        frame::write(&mut self.output, &reply, &[])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn measure(&self) -> Result<Measured, GpuError> {
        let mut flaws = Vec::new();
        if self.gpu.loop_rounds_max().is_some() {
            flaws.push(FLAW_LOOP_ROUNDS.to_owned());
        }
        Ok(Measured { mflops: self.gpu.mflops()?, memory_bytes: self.gpu.memory_bytes_guess(), flaws })
    }

    fn load(&mut self, id: Hash, manifest: &[u8], kernels: Vec<(Hash, String)>) -> Result<(), Failure> {
        let refused = |error: program::ProgramError| Failure::Program(error.to_string());
        let manifest = program::parse(manifest).map_err(refused)?;
        let plan = program::check(&manifest, &kernels.into_iter().collect()).map_err(refused)?;
        let program = Program::load(&self.gpu, Arc::new(plan), &self.blobs).map_err(failure)?;
        self.programs.insert(id, program);
        Ok(())
    }

    fn submit(&self, program: Hash, body: &[u8], input_lengths: &[u64]) -> Result<Pending, Failure> {
        let program = self
            .programs
            .get(&program)
            .ok_or_else(|| Failure::Program(format!("the program {program} is not loaded")))?;
        let ranges = frame::parts(body.len(), input_lengths)
            .ok_or_else(|| Failure::Program("the inputs do not fill their frame".into()))?;
        let inputs: Vec<_> = ranges.into_iter().map(|range| &body[range]).collect();
        program.submit(&inputs).map_err(failure)
    }

    fn wait_for_oldest(&mut self, timeout: Duration) -> io::Result<()> {
        let Some((ticket, pending)) = self.in_flight.front_mut() else { return Ok(()) };
        let ticket = *ticket;
        let outcome = match pending.wait(timeout) {
            Err(GpuError::Timeout(_)) => return Ok(()),
            outcome => outcome,
        };
        self.in_flight.pop_front();
        let (result, outputs) = match outcome {
            Ok(outcome) => {
                let output_lengths = outcome.outputs.iter().map(|output| output.len() as u64).collect();
                (Ok(Ran { output_lengths, device_us: outcome.device_us }), outcome.outputs)
            }
            Err(error) => (Err(failure(error)), Vec::new()),
        };
        frame::write(&mut self.output, &Reply::Ran { ticket, result }, &outputs)
    }
}

fn failure(error: GpuError) -> Failure {
    let message = with_causes(&error);
    match error {
        GpuError::Misfit(_)
        | GpuError::BlobMissing(_)
        | GpuError::Length { .. }
        | GpuError::InputCount { .. }
        | GpuError::Pipeline { .. }
        | GpuError::Refused(_) => Failure::Program(message),
        GpuError::NoAdapter
        | GpuError::AdapterNotFound { .. }
        | GpuError::DeviceRefused { .. }
        | GpuError::RingFull(_)
        | GpuError::OutOfMemory
        | GpuError::DeviceLost(_)
        | GpuError::Timeout(_) => Failure::Device(message),
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}
