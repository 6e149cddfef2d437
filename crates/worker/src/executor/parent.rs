//! The parent's handle.

use std::{
    collections::HashMap,
    ffi::OsString,
    future::Future,
    io,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use protocol::{DeviceFacts, Hash};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
};

use super::frame::{self, Failure, Reply, Request};
use crate::device::{Device, DeviceError, Measured, Program, UnitOutput};

/// Opening a device takes at most this long; a cold driver takes seconds.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// A killed process is gone within this time, unless its driver holds it in the kernel; then it is left behind.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of blobs that the child keeps for the next program.
const BLOB_BYTES_MAX: u64 = 512 << 20;

/// How the child is started.
#[derive(Clone, Debug)]
pub struct ExecutorCommand {
    /// A binary that calls [`serve`](super::serve) with its standard input and output.
    pub program: PathBuf,
    /// The arguments with which it does so.
    pub args: Vec<OsString>,
    /// The adapter, as [`Gpu::open`](gpu::Gpu::open) takes it.
    pub device: Option<String>,
}

/// A device in a child process. It is not there before [`Device::start`], nor after [`Device::kill`].
#[derive(Debug)]
pub struct Executor {
    command: ExecutorCommand,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Child,
    line: Arc<Line>,
}

/// What the calls in flight share with the tasks that move the frames.
#[derive(Debug)]
struct Line {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    next_ticket: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who waits for which answer; `None` once the child is gone.
    waiting: Option<HashMap<u64, oneshot::Sender<Answer>>>,
    /// Why it is gone.
    gone: String,
    /// Blobs that the child keeps with their sizes, the last used one last.
    blobs: Vec<(Hash, u64)>,
    /// Bytes of the outputs of one unit of any program so far, at most.
    output_bytes_max: u64,
}

#[derive(Debug)]
struct Outgoing {
    head: Vec<u8>,
    body: Vec<Bytes>,
}

#[derive(Debug)]
enum Answer {
    Loaded,
    Measured(Measured),
    Ran(UnitOutput),
    Failed(Failure),
}

impl Executor {
    /// A device that [`Device::start`] will start with this command.
    pub fn new(command: ExecutorCommand) -> Self {
        Self { command, running: None }
    }

    /// The child's process id, while there is one.
    pub fn process_id(&self) -> Option<u32> {
        self.running.as_ref().and_then(|running| running.process.id())
    }

    /// The pipe to the child, or why there is none.
    fn line(&self) -> Result<Arc<Line>, DeviceError> {
        match &self.running {
            Some(running) => Ok(running.line.clone()),
            None => Err(DeviceError::Lost("it was not started".into())),
        }
    }

    async fn spawn(&mut self) -> Result<DeviceFacts, DeviceError> {
        let lost = |what: &str, error: io::Error| DeviceError::Lost(format!("{what}: {error}"));
        let mut command = Command::new(&self.command.program);
        command.args(&self.command.args).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        if let Some(device) = &self.command.device {
            command.env(gpu::ADAPTER_VARIABLE, device);
        }
        // A driver that also shows windows looks for a display there and complains where a server has none.
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
        // Ctrl-C in a terminal is for the worker, which may want to finish what the child computes.
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command
            .spawn()
            .map_err(|error| lost(&format!("{} did not start", self.command.program.display()), error))?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(DeviceError::Lost("the process has no pipes".into()));
        };
        let mut stdout = BufReader::with_capacity(64 << 10, stdout);
        let first = tokio::time::timeout(START_TIME_MAX, read(&mut stdout, || 0)).await;
        let facts = match first {
            Ok(Ok((Reply::Ready { version: frame::VERSION, facts }, _))) => facts,
            Ok(Ok((Reply::Unavailable { message }, _))) => return Err(DeviceError::Lost(message)),
            Ok(Ok(_)) => {
                let program = self.command.program.display();
                return Err(DeviceError::Lost(format!("{program} is not this version's executor")));
            }
            Ok(Err(error)) => return Err(lost("the process ended before its device was open", error)),
            Err(_) => {
                let seconds = START_TIME_MAX.as_secs();
                return Err(DeviceError::Lost(format!("no device was open after {seconds} s")));
            }
        };
        let (outgoing, frames) = mpsc::unbounded_channel();
        let state = State { waiting: Some(HashMap::new()), ..State::default() };
        let line = Line { outgoing, next_ticket: AtomicU64::new(0), state: Mutex::new(state) };
        let line = Arc::new(line);
        tokio::spawn(write(stdin, frames));
        tokio::spawn(answer(stdout, line.clone()));
        self.running = Some(Running { process, line });
        Ok(facts)
    }
}

impl Device for Executor {
    async fn start(&mut self) -> Result<DeviceFacts, DeviceError> {
        self.kill().await;
        self.spawn().await
    }

    fn measure(&self) -> impl Future<Output = Result<Measured, DeviceError>> + Send + 'static + use<> {
        let sent = self.line().and_then(|line| {
            let (ticket, answer) = line.expect()?;
            line.send(&Request::Measure { ticket }, Vec::new())?;
            Ok((line, answer))
        });
        async move {
            match answered(sent?).await? {
                Answer::Measured(measured) => Ok(measured),
                _ => Err(DeviceError::Lost("it answered something else".into())),
            }
        }
    }

    fn load(
        &self,
        program: Arc<Program>,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send + 'static + use<> {
        // Sent here, not when the future is first polled: calls take effect in the order they are made.
        let sent = self.line().and_then(|line| line.load(&program));
        async move {
            match answered(sent?).await? {
                Answer::Loaded => Ok(()),
                _ => Err(DeviceError::Lost("it answered something else".into())),
            }
        }
    }

    fn run(
        &self,
        program: Hash,
        inputs: Vec<Bytes>,
    ) -> impl Future<Output = Result<UnitOutput, DeviceError>> + Send + 'static + use<> {
        let sent = self.line().and_then(|line| line.run(program, inputs));
        async move {
            match answered(sent?).await? {
                Answer::Ran(output) => Ok(output),
                _ => Err(DeviceError::Lost("it answered something else".into())),
            }
        }
    }

    fn unload(&self, program: Hash) {
        if let Ok(line) = self.line() {
            // A child that is gone has nothing loaded.
            let _ = line.send(&Request::Unload { program }, Vec::new());
        }
    }

    async fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.line.close("it was stopped".into());
        if let Err(error) = running.process.start_kill() {
            tracing::debug!(%error, "the executor was gone already");
        }
        if tokio::time::timeout(KILL_TIME_MAX, running.process.wait()).await.is_err() {
            tracing::warn!("the executor does not end: its driver holds it");
        }
    }
}

/// The answer that was sent for, and where to look up why none came.
type Sent = (Arc<Line>, oneshot::Receiver<Answer>);

async fn answered((line, answer): Sent) -> Result<Answer, DeviceError> {
    match answer.await {
        Ok(Answer::Failed(Failure::Program(why))) => Err(DeviceError::Program(why)),
        Ok(Answer::Failed(Failure::Device(why))) => Err(DeviceError::Lost(why)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(DeviceError::Lost(line.lock().gone.clone())),
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, request: &Request, body: Vec<Bytes>) -> Result<(), DeviceError> {
        let body_bytes = body.iter().map(|part| part.len() as u64).sum();
        let head =
            frame::head(request, body_bytes).map_err(|error| DeviceError::Program(error.to_string()))?;
        let sent = self.outgoing.send(Outgoing { head, body });
        sent.map_err(|_| DeviceError::Lost(self.lock().gone.clone()))
    }

    /// Notes who waits for the answer with a new ticket.
    fn expect(&self) -> Result<(u64, oneshot::Receiver<Answer>), DeviceError> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        match &mut state.waiting {
            Some(waiting) => {
                waiting.insert(ticket, sender);
                Ok((ticket, receiver))
            }
            None => Err(DeviceError::Lost(state.gone.clone())),
        }
    }

    fn load(self: Arc<Self>, program: &Program) -> Result<Sent, DeviceError> {
        for (hash, bytes) in &program.blobs {
            let kept = {
                let mut state = self.lock();
                let kept =
                    state.blobs.iter().position(|(held, _)| held == hash).map(|at| state.blobs.remove(at));
                state.blobs.push((*hash, bytes.len() as u64));
                kept.is_some()
            };
            if !kept {
                self.send(&Request::Blob { hash: *hash }, vec![bytes.clone()])?;
            }
        }
        {
            let mut state = self.lock();
            state.output_bytes_max = state.output_bytes_max.max(program.plan.output_lengths().sum());
        }
        let (ticket, answer) = self.expect()?;
        let request = Request::Load {
            ticket,
            program: program.id,
            manifest: program.manifest.to_bytes(),
            kernels: program.kernels.iter().map(|(hash, text)| (*hash, text.clone())).collect(),
        };
        self.send(&request, Vec::new())?;
        let beyond = self.lock().blobs_beyond_bound();
        for hash in beyond {
            self.send(&Request::DropBlob { hash }, Vec::new())?;
        }
        Ok((self, answer))
    }

    fn run(self: Arc<Self>, program: Hash, inputs: Vec<Bytes>) -> Result<Sent, DeviceError> {
        let (ticket, answer) = self.expect()?;
        let input_lengths = inputs.iter().map(|input| input.len() as u64).collect();
        self.send(&Request::Run { ticket, program, input_lengths }, inputs)?;
        Ok((self, answer))
    }

    /// No more answers will come.
    fn close(&self, why: String) {
        let mut state = self.lock();
        if state.waiting.is_some() {
            state.gone = why;
            state.waiting = None;
        }
    }

    fn take(&self, ticket: u64) -> Option<oneshot::Sender<Answer>> {
        self.lock().waiting.as_mut()?.remove(&ticket)
    }
}

impl State {
    /// Takes the blobs out that were used least recently until the rest is within bounds.
    fn blobs_beyond_bound(&mut self) -> Vec<Hash> {
        let mut total: u64 = self.blobs.iter().map(|(_, bytes)| bytes).sum();
        let mut beyond = Vec::new();
        while total > BLOB_BYTES_MAX && !self.blobs.is_empty() {
            let (hash, bytes) = self.blobs.remove(0);
            total -= bytes;
            beyond.push(hash);
        }
        beyond
    }
}

/// Moves frames to the child until it is gone or nobody sends any more.
async fn write(mut stdin: ChildStdin, mut frames: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(outgoing) = frames.recv().await {
        let written = async {
            stdin.write_all(&outgoing.head).await?;
            for part in &outgoing.body {
                stdin.write_all(part).await?;
            }
            stdin.flush().await
        };
        if let Err(error) = written.await {
            // The task that reads sees the same end and tells those who wait.
            tracing::debug!(%error, "the executor takes no more requests");
            return;
        }
    }
}

/// Hands out answers until the child is gone.
async fn answer(mut stdout: BufReader<ChildStdout>, line: Arc<Line>) {
    let why = loop {
        let body_bytes_max = || line.lock().output_bytes_max;
        let (reply, body) = match read(&mut stdout, body_bytes_max).await {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                break "its process ended".to_owned();
            }
            Err(error) => break format!("its process cannot be understood: {error}"),
        };
        let (ticket, answer) = match reply {
            Reply::Loaded { ticket, result } => {
                (ticket, result.map_or_else(Answer::Failed, |()| Answer::Loaded))
            }
            Reply::Measured { ticket, result } => {
                (ticket, result.map_or_else(Answer::Failed, Answer::Measured))
            }
            Reply::Ran { ticket, result: Err(failure) } => (ticket, Answer::Failed(failure)),
            Reply::Ran { ticket, result: Ok(ran) } => {
                let Some(ranges) = frame::parts(body.len(), &ran.output_lengths) else {
                    break "its outputs do not fill their frame".to_owned();
                };
                let outputs = ranges.into_iter().map(|range| body.slice(range)).collect();
                (ticket, Answer::Ran(UnitOutput { outputs, device_us: ran.device_us }))
            }
            Reply::Ready { .. } | Reply::Unavailable { .. } => break "it spoke out of turn".to_owned(),
        };
        if let Some(waiting) = line.take(ticket) {
            // The caller may have lost interest.
            let _ = waiting.send(answer);
        }
    };
    line.close(why);
}

async fn read(
    stdout: &mut BufReader<ChildStdout>,
    body_bytes_max: impl FnOnce() -> u64,
) -> io::Result<(Reply, Bytes)> {
    let mut prefix = [0; frame::PREFIX_BYTES];
    stdout.read_exact(&mut prefix).await?;
    let (header_bytes, body_bytes) = frame::lengths(prefix, body_bytes_max())?;
    let mut header = vec![0; header_bytes];
    stdout.read_exact(&mut header).await?;
    let mut body = vec![0; body_bytes];
    stdout.read_exact(&mut body).await?;
    Ok((frame::parse(&header)?, body.into()))
}
