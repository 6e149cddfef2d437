//! Opening a device and knowing what it is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use protocol::{DeviceFacts, DeviceLimits, FEATURE_LONG_LOOPS, Hash, WorkerKind};
use wgpu::{Backends, DeviceType, Features, InstanceDescriptor, InstanceFlags};

use crate::{error::GpuError, flaw, speed};

/// The environment variable that selects an adapter where the caller does not.
pub const ADAPTER_VARIABLE: &str = "PLEXUS_ADAPTER";

/// Bytes of idle buffers that are kept for the next program.
const POOL_BYTES_MAX: u64 = 256 << 20;

/// What nearly every graphics card in use has at least.
const DISCRETE_MEMORY_BYTES: u64 = 4 << 30;
/// What a device that shares the machine's memory may take of it.
const SHARED_MEMORY_BYTES: u64 = 2 << 30;

/// An open device. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// Nanoseconds of one timestamp tick, where the device has timestamps.
    pub(crate) tick_ns: Option<f32>,
    facts: Arc<DeviceFacts>,
    loop_rounds_max: Option<u32>,
    memory_bytes_guess: u64,
    shared: Arc<Mutex<Shared>>,
}

/// What all programs on a device share.
#[derive(Default)]
struct Shared {
    lost: Option<String>,
    /// An error that no scope caught.
    stray: Option<GpuError>,
    idle: HashMap<(u64, wgpu::BufferUsages), Vec<wgpu::Buffer>>,
    idle_bytes: u64,
    /// Buffers of blobs by content and size. Programs hold them; a program that shares a blob finds it here.
    blobs: HashMap<(Hash, u64), Weak<wgpu::Buffer>>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("facts", &self.facts).finish_non_exhaustive()
    }
}

fn adapters() -> Vec<wgpu::Adapter> {
    let descriptor = InstanceDescriptor {
        backends: Backends::PRIMARY,
        // Neither a debugger nor the driver's validation layers: what reaches the device has been checked.
        flags: InstanceFlags::empty(),
        ..InstanceDescriptor::new_without_display_handle()
    }
    .with_env();
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(Backends::PRIMARY));
    let mut computing: Vec<_> = adapters
        .into_iter()
        .filter(|adapter| {
            adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        })
        .collect();
    // The fastest kind first; stable, so that the driver's own order decides among equals.
    computing.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    computing
}

/// What wgpu says about an adapter, in the words of the protocol.
fn facts(adapter: &wgpu::Adapter) -> DeviceFacts {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let named = [
        (Features::SHADER_F16, "shader-f16"),
        (Features::SUBGROUP, "subgroups"),
        (Features::TIMESTAMP_QUERY, "timestamp-query"),
    ];
    let has = adapter.features();
    let named = named.iter().filter(|(feature, _)| has.contains(*feature)).map(|(_, name)| *name);
    // Of software devices only a trial tells.
    let sound = (info.device_type != DeviceType::Cpu).then_some(FEATURE_LONG_LOOPS);
    let mut features: Vec<String> = named.chain(sound).map(str::to_owned).collect();
    features.sort();
    DeviceFacts {
        kind: WorkerKind::Native,
        adapter: info.name,
        vendor: vendor(info.vendor, &info.driver),
        backend: info.backend.to_str().to_owned(),
        features,
        limits: DeviceLimits {
            storage_buffer_bytes_max: limits.max_storage_buffer_binding_size,
            buffer_bytes_max: limits.max_buffer_size,
            storage_buffers_max: limits.max_storage_buffers_per_shader_stage,
            workgroup_invocations_max: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes_max: limits.max_compute_workgroup_storage_size,
            workgroups_per_dimension_max: limits.max_compute_workgroups_per_dimension,
        },
    }
}

/// A vendor's name from its PCI (or Khronos) id.
fn vendor(id: u32, driver: &str) -> String {
    match id {
        0x1002 => "amd".into(),
        0x106b => "apple".into(),
        0x10de => "nvidia".into(),
        0x13b5 => "arm".into(),
        0x1414 => "microsoft".into(),
        0x5143 => "qualcomm".into(),
        0x8086 => "intel".into(),
        0x10005 => "mesa".into(),
        0x1ae0 => "google".into(),
        _ if !driver.is_empty() => driver.to_owned(),
        _ => format!("{id:#06x}"),
    }
}

impl Gpu {
    /// The adapters that can compute, the one that `open(None)` takes first.
    pub fn enumerate() -> Vec<DeviceFacts> {
        adapters().iter().map(facts).collect()
    }

    /// Opens the adapter with this index in [`Gpu::enumerate`], or whose name contains `selector` (in any case). Without a
    /// selector, `PLEXUS_ADAPTER` is one; without that, the first adapter is taken.
    pub fn open(selector: Option<&str>) -> Result<Self, GpuError> {
        let variable = std::env::var(ADAPTER_VARIABLE).ok();
        let selector = selector.or(variable.as_deref()).filter(|selector| !selector.is_empty());
        let adapters = adapters();
        let found = |adapter: &wgpu::Adapter| adapter.get_info().name;
        let chosen = match selector {
            None => adapters.first().ok_or(GpuError::NoAdapter)?,
            Some(selector) => {
                let by_index = selector.parse().ok().and_then(|index: usize| adapters.get(index));
                let lower = selector.to_lowercase();
                by_index
                    .or_else(|| {
                        adapters.iter().find(|adapter| found(adapter).to_lowercase().contains(&lower))
                    })
                    .ok_or_else(|| match adapters.is_empty() {
                        true => GpuError::NoAdapter,
                        false => GpuError::AdapterNotFound {
                            selector: selector.to_owned(),
                            found: adapters.iter().map(found).collect(),
                        },
                    })?
            }
        };
        Self::from_adapter(chosen)
    }

    fn from_adapter(adapter: &wgpu::Adapter) -> Result<Self, GpuError> {
        let wanted = Features::SHADER_F16 | Features::SUBGROUP | Features::TIMESTAMP_QUERY;
        let required_features = adapter.features() & wanted;
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("plexus"),
            required_features,
            required_limits: adapter.limits(),
            ..Default::default()
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|source| GpuError::DeviceRefused { adapter: adapter.get_info().name, source })?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let for_loss = shared.clone();
        device.set_device_lost_callback(move |reason, message| {
            tracing::warn!(?reason, message, "the device was lost");
            lock(&for_loss).lost = Some(if message.is_empty() { format!("{reason:?}") } else { message });
        });
        let for_stray = shared.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            tracing::warn!(%error, "the device reported an error");
            lock(&for_stray).stray = Some(error.into());
        }));
        let tick_ns =
            required_features.contains(Features::TIMESTAMP_QUERY).then(|| queue.get_timestamp_period());
        let facts = Arc::new(facts(adapter));
        let memory_bytes_guess = match adapter.get_info().device_type {
            DeviceType::DiscreteGpu => DISCRETE_MEMORY_BYTES,
            _ => SHARED_MEMORY_BYTES,
        };
        let mut gpu =
            Self { device, queue, tick_ns, facts, loop_rounds_max: None, memory_bytes_guess, shared };
        // Only software devices are known to have this flaw, and trying takes them milliseconds.
        if adapter.get_info().device_type == DeviceType::Cpu {
            gpu.loop_rounds_max = flaw::loop_rounds_max(&gpu)?;
            if gpu.loop_rounds_max.is_none() {
                let facts = Arc::make_mut(&mut gpu.facts);
                facts.features.push(FEATURE_LONG_LOOPS.to_owned());
                facts.features.sort();
            }
            if let Some(rounds) = gpu.loop_rounds_max {
                let adapter = &gpu.facts.adapter;
                tracing::warn!(
                    adapter,
                    rounds,
                    "this software device ends loops after so many rounds; programs that loop longer get wrong results on it"
                );
            }
        }
        Ok(gpu)
    }

    /// What the device is.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// Loop rounds of one invocation after which this device's results are wrong, where it has that flaw: llvmpipe leaves loops
    /// early. A kernel with more is for other devices.
    pub fn loop_rounds_max(&self) -> Option<u32> {
        self.loop_rounds_max
    }

    /// How fast it multiplies and adds 32-bit floats, in MFLOP/s, measured now. Takes about a quarter of a second, and longer
    /// while others use the device.
    pub fn mflops(&self) -> Result<u64, GpuError> {
        self.alive()?;
        speed::mflops(self)
    }

    /// Memory that jobs may take together when nobody says, in bytes. Graphics interfaces do not tell how much a device has, so
    /// this is what nearly all of its kind have.
    pub fn memory_bytes_guess(&self) -> u64 {
        self.memory_bytes_guess
    }

    /// Whether the device is still there.
    pub fn alive(&self) -> Result<(), GpuError> {
        match &lock(&self.shared).lost {
            Some(reason) => Err(GpuError::DeviceLost(reason.clone())),
            None => Ok(()),
        }
    }

    /// The error that no scope caught since the last call, if any.
    pub(crate) fn stray_error(&self) -> Option<GpuError> {
        lock(&self.shared).stray.take()
    }

    /// Runs `work` and returns the first error that the device reports during it.
    pub(crate) fn scoped<T>(&self, work: impl FnOnce() -> T) -> Result<T, GpuError> {
        use wgpu::ErrorFilter as Filter;
        let scopes = [Filter::Internal, Filter::OutOfMemory, Filter::Validation]
            .map(|filter| self.device.push_error_scope(filter));
        let result = work();
        let mut first = None;
        // Scopes end in the reverse order of their beginning.
        for scope in scopes.into_iter().rev() {
            first = first.or(pollster::block_on(scope.pop()));
        }
        self.alive()?;
        first.map_or(Ok(result), |error| Err(error.into()))
    }

    /// An idle buffer of this size and usage, or a new one. Its content is arbitrary.
    pub(crate) fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        {
            let mut shared = lock(&self.shared);
            if let Some(buffer) = shared.idle.get_mut(&(size, usage)).and_then(Vec::pop) {
                shared.idle_bytes -= size;
                return Ok(buffer);
            }
        }
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.scoped(|| self.device.create_buffer(&descriptor))
    }

    /// Takes a buffer back that no command uses any more.
    pub(crate) fn recycle(&self, buffer: wgpu::Buffer) {
        let mut shared = lock(&self.shared);
        if shared.lost.is_none() && shared.idle_bytes + buffer.size() <= POOL_BYTES_MAX {
            shared.idle_bytes += buffer.size();
            shared.idle.entry((buffer.size(), buffer.usage())).or_default().push(buffer);
        }
    }

    /// The buffer that holds a blob, uploaded now unless a program holds it already.
    pub(crate) fn blob(&self, hash: Hash, size: u64, bytes: &[u8]) -> Result<Arc<wgpu::Buffer>, GpuError> {
        if let Some(buffer) = lock(&self.shared).blobs.get(&(hash, size)).and_then(Weak::upgrade) {
            return Ok(buffer);
        }
        use wgpu::BufferUsages as Usage;
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size,
            usage: Usage::STORAGE | Usage::UNIFORM | Usage::COPY_DST,
            mapped_at_creation: false,
        };
        let buffer = self.scoped(|| {
            let buffer = self.device.create_buffer(&descriptor);
            self.write(&buffer, bytes);
            buffer
        })?;
        let buffer = Arc::new(buffer);
        let mut shared = lock(&self.shared);
        shared.blobs.retain(|_, held| held.strong_count() > 0);
        shared.blobs.insert((hash, size), Arc::downgrade(&buffer));
        Ok(buffer)
    }

    /// Writes `bytes` to the start of `buffer`, padded with zeros to whole words.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, bytes: &[u8]) {
        let whole = bytes.len() / 4 * 4;
        if whole > 0 {
            self.queue.write_buffer(buffer, 0, &bytes[..whole]);
        }
        let rest = &bytes[whole..];
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, whole as u64, &word);
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Every change under the lock is complete in itself.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
