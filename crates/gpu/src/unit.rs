//! A plan on a device, and its units in flight.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    time::{Duration, Instant},
};

use program::{Access, Plan, Source};
use protocol::Hash;
use wgpu::{BufferUsages as Usage, PollError, PollType};

use crate::{Gpu, GpuError, calibration::Calibration};

/// Units of one program that may be in flight: one that runs, one that waits behind it so that the device never does, and one that
/// is read back.
pub const RING_LENGTH: usize = 3;

/// Memory that the buffer sets of one program may take before there are fewer of them. One set there is always.
const RING_BYTES_MAX: u64 = 512 << 20;

/// What a unit computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitOutcome {
    /// The bytes of each output.
    pub outputs: Vec<Vec<u8>>,
    /// Time on the device, in microseconds: by its own timestamps where it has them, otherwise from the moment it could start.
    pub device_us: u64,
}

/// A plan that is built on a device.
pub struct Program {
    core: Arc<Core>,
}

struct Core {
    gpu: Gpu,
    plan: Arc<Plan>,
    /// Units that may be in flight.
    ring_length: usize,
    /// For each buffer of the plan that is filled from a blob, that blob on the device.
    blobs: Vec<Option<Arc<wgpu::Buffer>>>,
    kernels: Vec<Kernel>,
    state: Mutex<State>,
}

/// What is built once per kernel.
struct Kernel {
    module: wgpu::ShaderModule,
    group: wgpu::BindGroupLayout,
    layout: wgpu::PipelineLayout,
}

struct State {
    calibrations: Vec<Calibration>,
    /// Pipelines by kernel and variant, built when first needed.
    pipelines: BTreeMap<(usize, usize), wgpu::ComputePipeline>,
    free: Vec<Slot>,
    in_flight: usize,
    /// When the device ended the unit before, as far as it has been seen.
    last_done: Option<Instant>,
}

/// One set of buffers.
struct Slot {
    /// For each buffer of the plan that is not a blob's.
    buffers: Vec<Option<wgpu::Buffer>>,
    /// For each pass.
    groups: Vec<wgpu::BindGroup>,
    /// For each output.
    read_back: Vec<wgpu::Buffer>,
    clock: Option<Clock>,
}

/// Timestamps of the passes of one unit.
struct Clock {
    ticks: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read_back: wgpu::Buffer,
}

/// A unit in flight. Dropping it abandons the unit.
pub struct Pending {
    core: Arc<Core>,
    slot: Option<Slot>,
    /// For each kernel, the variant that the unit runs.
    variants: Vec<usize>,
    submitted: Instant,
    submission: wgpu::SubmissionIndex,
    done: Arc<OnceLock<Instant>>,
    mapped: mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>,
    mappings: usize,
}

impl Program {
    /// Builds `plan` on `gpu` with the blobs that its buffers are filled from. Every kernel's first pipeline is built here, so that
    /// one that no variant of builds is refused before a unit is.
    pub fn load<B: AsRef<[u8]>>(
        gpu: &Gpu,
        plan: Arc<Plan>,
        blobs: &BTreeMap<Hash, B>,
    ) -> Result<Self, GpuError> {
        program::fits(&plan, &gpu.facts().limits, &gpu.facts().features)?;
        let mut uploaded = Vec::new();
        for buffer in &plan.buffers {
            let Source::Blob(hash) = buffer.source else {
                uploaded.push(None);
                continue;
            };
            let bytes = blobs.get(&hash).ok_or(GpuError::BlobMissing(hash))?.as_ref();
            check_length(|| format!("the blob of buffer {}", buffer.name), buffer.length_bytes, bytes)?;
            uploaded.push(Some(gpu.blob(hash, buffer.size_bytes, bytes)?));
        }

        let mut kernels = Vec::new();
        let mut calibrations = Vec::new();
        for (index, kernel) in plan.kernels.iter().enumerate() {
            kernels.push(Kernel::new(gpu, &plan, index)?);
            let limits = &gpu.facts().limits;
            let fitting = kernel.variants.iter().enumerate().filter(|(_, variant)| variant.fits(limits));
            calibrations.push(Calibration::new(fitting.map(|(i, variant)| (i, variant.invocations()))));
        }
        let core = Core {
            gpu: gpu.clone(),
            ring_length: ring_length(&plan),
            plan,
            blobs: uploaded,
            kernels,
            state: Mutex::new(State {
                calibrations,
                pipelines: BTreeMap::new(),
                free: Vec::new(),
                in_flight: 0,
                last_done: None,
            }),
        };
        {
            let mut state = core.lock();
            for kernel in 0..core.plan.kernels.len() {
                // What the search offers is built and given back: the first unit asks for it again.
                let mut search = state.calibrations[kernel].clone();
                core.build_next(&mut state, kernel, &mut search)?;
                state.calibrations[kernel] = search.restarted();
            }
        }
        Ok(Self { core: core.into() })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.core.plan
    }

    /// Whether another unit may be submitted: as many may be in flight as there is memory for, at most [`RING_LENGTH`].
    pub fn has_room(&self) -> bool {
        self.core.lock().in_flight < self.core.ring_length
    }

    /// For each kernel with `auto` overrides whose search has ended, the value that stays.
    pub fn calibrated(&self) -> BTreeMap<String, u32> {
        let state = self.core.lock();
        let kernels = self.core.plan.kernels.iter().zip(&state.calibrations);
        kernels
            .filter(|(_, calibration)| calibration.settled())
            .filter_map(|(kernel, calibration)| {
                let auto = kernel.variants[calibration.fastest()?].auto?;
                Some((kernel.name.clone(), auto))
            })
            .collect()
    }

    /// Starts a unit. `inputs` are its bytes in the order of the plan's inputs.
    pub fn submit<B: AsRef<[u8]>>(&self, inputs: &[B]) -> Result<Pending, GpuError> {
        let core = &self.core;
        core.gpu.alive()?;
        if inputs.len() != core.plan.inputs.len() {
            return Err(GpuError::InputCount { expected: core.plan.inputs.len(), found: inputs.len() });
        }
        for (index, (input, expected)) in inputs.iter().zip(core.plan.input_lengths()).enumerate() {
            check_length(|| format!("input {index}"), expected, input.as_ref())?;
        }
        let mut state = core.lock();
        if state.in_flight >= core.ring_length {
            return Err(GpuError::RingFull(core.ring_length));
        }
        let variants = core.choose(&mut state)?;
        let slot = match state.free.pop() {
            Some(slot) => slot,
            None => core.slot()?,
        };
        let (sender, mapped) = mpsc::channel();
        let done = Arc::new(OnceLock::new());
        let submitted = Instant::now();
        let submission = core.gpu.scoped(|| {
            for (&buffer, input) in core.plan.inputs.iter().zip(inputs) {
                let buffer = slot.buffers[buffer].as_ref().expect("an input has a buffer in every slot");
                core.gpu.write(buffer, input.as_ref());
            }
            let commands = core.commands(&slot, &variants, &state.pipelines);
            let submission = core.gpu.queue.submit([commands]);
            let for_done = done.clone();
            core.gpu.queue.on_submitted_work_done(move || {
                let _ = for_done.set(Instant::now());
            });
            for buffer in slot.read_back.iter().chain(slot.clock.as_ref().map(|clock| &clock.read_back)) {
                let sender = sender.clone();
                buffer.map_async(wgpu::MapMode::Read, .., move |result| {
                    // Nobody listens where the unit was abandoned.
                    let _ = sender.send(result);
                });
            }
            submission
        })?;
        state.in_flight += 1;
        drop(state);
        let mappings = slot.read_back.len() + usize::from(slot.clock.is_some());
        Ok(Pending {
            core: core.clone(),
            slot: Some(slot),
            variants,
            submitted,
            submission,
            done,
            mapped,
            mappings,
        })
    }
}

impl Pending {
    /// Waits for the unit's end and returns its outputs, once. After a timeout the unit is still running and may be waited for
    /// again.
    pub fn wait(&mut self, timeout: Duration) -> Result<UnitOutcome, GpuError> {
        let gpu = self.core.gpu.clone();
        let wait = PollType::Wait { submission_index: Some(self.submission.clone()), timeout: Some(timeout) };
        match gpu.device.poll(wait) {
            Ok(_) => {}
            Err(PollError::Timeout) => return Err(GpuError::Timeout(timeout)),
            Err(error) => return Err(GpuError::Refused(error.to_string())),
        }
        gpu.alive()?;
        for _ in 0..self.mappings {
            // The poll that ended with the submission has run its callbacks.
            match self.mapped.try_recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    return Err(gpu.stray_error().unwrap_or(GpuError::Refused(error.to_string())));
                }
                Err(_) => return Err(GpuError::DeviceLost("a buffer was never read back".into())),
            }
        }
        if let Some(error) = gpu.stray_error() {
            return Err(error);
        }

        let Some(slot) = self.slot.take() else {
            return Err(GpuError::Refused("the unit's outputs were taken already".into()));
        };
        let read = self.core.read(&slot);
        let ended = *self.done.get_or_init(Instant::now);
        let mut state = self.core.lock();
        let (outputs, pass_ns) = read?;
        // A unit that waited behind another began when that one ended.
        let began = state.last_done.map_or(self.submitted, |last| last.max(self.submitted));
        state.last_done = Some(ended);
        let wall_us = ended.saturating_duration_since(began).as_secs_f64() * 1e6;
        let measured = pass_ns.filter(|pass_ns| pass_ns.iter().sum::<f64>() > 0.0);
        let device_us = match &measured {
            Some(pass_ns) => pass_ns.iter().sum::<f64>() / 1e3,
            None => wall_us,
        };
        for (kernel, &variant) in self.variants.iter().enumerate() {
            let time_us = match &measured {
                Some(pass_ns) => {
                    let of_kernel =
                        self.core.plan.passes.iter().zip(pass_ns).filter(|(p, _)| p.kernel == kernel);
                    of_kernel.map(|(_, ns)| ns / 1e3).sum()
                }
                None => wall_us,
            };
            state.calibrations[kernel].measured(variant, time_us);
        }
        state.free.push(slot);
        Ok(UnitOutcome { outputs, device_us: device_us.round() as u64 })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Buffers of an abandoned unit may still be in use: they go with it.
        self.core.lock().in_flight -= 1;
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for slot in state.free.drain(..) {
            let clock = slot.clock.into_iter().flat_map(|clock| [clock.resolved, clock.read_back]);
            for buffer in slot.buffers.into_iter().flatten().chain(slot.read_back).chain(clock) {
                self.gpu.recycle(buffer);
            }
        }
    }
}

impl Kernel {
    fn new(gpu: &Gpu, plan: &Plan, index: usize) -> Result<Self, GpuError> {
        let kernel = &plan.kernels[index];
        let pass = plan.passes.iter().find(|pass| pass.kernel == index).expect("every kernel has a pass");
        let entries: Vec<_> = pass
            .bind
            .iter()
            .enumerate()
            .map(|(binding, bound)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match bound.access {
                        Access::Uniform => wgpu::BufferBindingType::Uniform,
                        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None::<NonZeroU64>,
                },
                count: None,
            })
            .collect();
        gpu.scoped(|| {
            let group = gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
            let layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            });
            let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(&kernel.name),
                source: wgpu::ShaderSource::Wgsl((&*kernel.wgsl).into()),
            });
            Self { module, group, layout }
        })
        .map_err(|error| match error {
            GpuError::Refused(message) => GpuError::Pipeline { kernel: kernel.name.clone(), message },
            other => other,
        })
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The variant that each kernel runs in the next unit, with its pipeline built.
    fn choose(&self, state: &mut State) -> Result<Vec<usize>, GpuError> {
        let mut variants = Vec::new();
        let mut exploring = false;
        for kernel in 0..self.plan.kernels.len() {
            let mut search = state.calibrations[kernel].clone();
            // Without timestamps only the whole unit is timed: one kernel explores, the others stay as they are.
            let wait = self.gpu.tick_ns.is_none() && exploring;
            let settled = search.settled();
            let known = search.fastest().filter(|_| wait || settled);
            variants.push(match known {
                Some(variant) => variant,
                None => self.build_next(state, kernel, &mut search)?,
            });
            exploring |= !settled;
            state.calibrations[kernel] = search;
        }
        Ok(variants)
    }

    /// The next variant in `search` that the device builds a pipeline for.
    fn build_next(
        &self,
        state: &mut State,
        kernel: usize,
        search: &mut Calibration,
    ) -> Result<usize, GpuError> {
        let mut refused = None;
        while let Some(variant) = search.next() {
            if state.pipelines.contains_key(&(kernel, variant)) {
                return Ok(variant);
            }
            match self.pipeline(kernel, variant) {
                Ok(pipeline) => {
                    state.pipelines.insert((kernel, variant), pipeline);
                    return Ok(variant);
                }
                Err(GpuError::Refused(message)) => {
                    tracing::debug!(
                        kernel = self.plan.kernels[kernel].name,
                        variant,
                        message,
                        "variant refused"
                    );
                    search.refuse(variant);
                    refused.get_or_insert(message);
                }
                Err(error) => return Err(error),
            }
        }
        let message = refused.unwrap_or_else(|| "no workgroup size fits".into());
        Err(GpuError::Pipeline { kernel: self.plan.kernels[kernel].name.clone(), message })
    }

    fn pipeline(&self, kernel: usize, variant: usize) -> Result<wgpu::ComputePipeline, GpuError> {
        let built = &self.kernels[kernel];
        let planned = &self.plan.kernels[kernel];
        let overrides = planned.overrides(planned.variants[variant].auto);
        let constants: Vec<_> =
            overrides.iter().map(|(name, value)| (name.as_str(), f64::from(*value))).collect();
        self.gpu.scoped(|| {
            self.gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&planned.name),
                layout: Some(&built.layout),
                module: &built.module,
                entry_point: Some(&planned.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    ..Default::default()
                },
                cache: None,
            })
        })
    }

    fn slot(&self) -> Result<Slot, GpuError> {
        let mut buffers = Vec::new();
        for buffer in &self.plan.buffers {
            let usage = match buffer.source {
                Source::Blob(_) => {
                    buffers.push(None);
                    continue;
                }
                Source::Input(_) => Usage::STORAGE | Usage::UNIFORM | Usage::COPY_DST,
                Source::Output(_) | Source::Scratch => Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
            };
            buffers.push(Some(self.gpu.buffer(buffer.size_bytes, usage)?));
        }
        let mut read_back = Vec::new();
        for &output in &self.plan.outputs {
            let size = self.plan.buffers[output].size_bytes;
            read_back.push(self.gpu.buffer(size, Usage::MAP_READ | Usage::COPY_DST)?);
        }
        let groups = self.gpu.scoped(|| {
            let groups = self.plan.passes.iter().map(|pass| {
                let entries: Vec<_> = pass
                    .bind
                    .iter()
                    .enumerate()
                    .map(|(binding, bound)| wgpu::BindGroupEntry {
                        binding: binding as u32,
                        resource: self.bound(&buffers, bound.buffer).as_entire_binding(),
                    })
                    .collect();
                let layout = &self.kernels[pass.kernel].group;
                self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout,
                    entries: &entries,
                })
            });
            groups.collect()
        })?;
        let clock = match self.gpu.tick_ns {
            None => None,
            Some(_) => {
                let count = 2 * self.plan.passes.len() as u32;
                let size = 8 * u64::from(count);
                Some(Clock {
                    ticks: self.gpu.scoped(|| {
                        self.gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                            label: None,
                            ty: wgpu::QueryType::Timestamp,
                            count,
                        })
                    })?,
                    resolved: self.gpu.buffer(size, Usage::QUERY_RESOLVE | Usage::COPY_SRC)?,
                    read_back: self.gpu.buffer(size, Usage::MAP_READ | Usage::COPY_DST)?,
                })
            }
        };
        Ok(Slot { buffers, groups, read_back, clock })
    }

    fn bound<'a>(&'a self, slot: &'a [Option<wgpu::Buffer>], index: usize) -> &'a wgpu::Buffer {
        slot[index]
            .as_ref()
            .or(self.blobs[index].as_deref())
            .expect("a buffer is a blob's or is in every slot")
    }

    fn commands(
        &self,
        slot: &Slot,
        variants: &[usize],
        pipelines: &BTreeMap<(usize, usize), wgpu::ComputePipeline>,
    ) -> wgpu::CommandBuffer {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (planned, buffer) in self.plan.buffers.iter().zip(&slot.buffers) {
            if let (Source::Output(_) | Source::Scratch, Some(buffer)) = (planned.source, buffer) {
                encoder.clear_buffer(buffer, 0, None);
            }
        }
        for (index, pass) in self.plan.passes.iter().enumerate() {
            let planned = &self.plan.kernels[pass.kernel];
            let variant = variants[pass.kernel];
            let overrides = planned.overrides(planned.variants[variant].auto);
            let [x, y, z] = self.plan.dispatch(index, &overrides).expect("the plan's dispatches have values");
            let timestamp_writes = slot.clock.as_ref().map(|clock| wgpu::ComputePassTimestampWrites {
                query_set: &clock.ticks,
                beginning_of_pass_write_index: Some(2 * index as u32),
                end_of_pass_write_index: Some(2 * index as u32 + 1),
            });
            let mut compute =
                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            compute.set_pipeline(&pipelines[&(pass.kernel, variant)]);
            compute.set_bind_group(0, &slot.groups[index], &[]);
            compute.dispatch_workgroups(x, y, z);
        }
        for (&output, read_back) in self.plan.outputs.iter().zip(&slot.read_back) {
            let buffer = slot.buffers[output].as_ref().expect("an output has a buffer in every slot");
            encoder.copy_buffer_to_buffer(buffer, 0, read_back, 0, read_back.size());
        }
        if let Some(clock) = &slot.clock {
            encoder.resolve_query_set(&clock.ticks, 0..2 * self.plan.passes.len() as u32, &clock.resolved, 0);
            encoder.copy_buffer_to_buffer(&clock.resolved, 0, &clock.read_back, 0, clock.resolved.size());
        }
        encoder.finish()
    }

    /// The outputs of a unit that has ended, and nanoseconds of each pass where the device has timestamps.
    #[expect(clippy::type_complexity, reason = "a pair that is taken apart at once")]
    fn read(&self, slot: &Slot) -> Result<(Vec<Vec<u8>>, Option<Vec<f64>>), GpuError> {
        let take = |buffer: &wgpu::Buffer, length: usize| {
            let view = buffer.get_mapped_range(..).map_err(|e| GpuError::Refused(e.to_string()))?;
            let bytes = view[..length].to_vec();
            drop(view);
            buffer.unmap();
            Ok::<_, GpuError>(bytes)
        };
        let mut outputs = Vec::new();
        for (read_back, length) in slot.read_back.iter().zip(self.plan.output_lengths()) {
            outputs.push(take(read_back, length as usize)?);
        }
        let (Some(clock), Some(tick_ns)) = (&slot.clock, self.gpu.tick_ns) else {
            return Ok((outputs, None));
        };
        let ticks = take(&clock.read_back, clock.read_back.size() as usize)?;
        let tick = |at: usize| u64::from_le_bytes(ticks[8 * at..8 * at + 8].try_into().expect("eight bytes"));
        let pass_ns = (0..self.plan.passes.len())
            .map(|pass| tick(2 * pass + 1).saturating_sub(tick(2 * pass)) as f64 * f64::from(tick_ns))
            .collect();
        Ok((outputs, Some(pass_ns)))
    }
}

/// Units of a plan that may be in flight.
fn ring_length(plan: &Plan) -> usize {
    (RING_BYTES_MAX / set_bytes(plan).max(1)).clamp(1, RING_LENGTH as u64) as usize
}

/// Bytes of one set of buffers: a unit's own, and its outputs once more to be read back.
fn set_bytes(plan: &Plan) -> u64 {
    let own = plan.buffers.iter().filter(|buffer| !matches!(buffer.source, Source::Blob(_)));
    let read_back = plan.outputs.iter().map(|&output| &plan.buffers[output]);
    own.chain(read_back).map(|buffer| buffer.size_bytes).sum()
}

/// Bytes of device memory that a program takes at most: its blobs, and the buffers of all units that may be in flight.
pub fn device_bytes(plan: &Plan) -> u64 {
    let blobs = plan.buffers.iter().filter(|buffer| matches!(buffer.source, Source::Blob(_)));
    let shared: u64 = blobs.map(|buffer| buffer.size_bytes).sum();
    shared + ring_length(plan) as u64 * set_bytes(plan)
}

fn check_length(what: impl FnOnce() -> String, expected: u64, bytes: &[u8]) -> Result<(), GpuError> {
    let found = bytes.len() as u64;
    if found == expected { Ok(()) } else { Err(GpuError::Length { what: what(), expected, found }) }
}
