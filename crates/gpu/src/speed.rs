//! How fast a device multiplies and adds 32-bit floats, by the clock on the wall.
//!
//! A product of two matrices, in tiles as any decent kernel would do it: neither the data sheet's figure, which no program
//! reaches, nor that of a naive kernel, which measures the memory. It is a claim to begin with, not a proof: what units really
//! took overrules it.

use std::time::{Duration, Instant};

use wgpu::{BufferUsages as Usage, PollType};

use crate::{Gpu, GpuError};

const TEXT: &str = include_str!("speed.wgsl");
/// Edge of the matrices, as in the text.
const SIZE: u64 = 256;
/// Edge of what one workgroup computes, as in the text.
const TILE: u64 = 64;
/// Multiplications and additions of one product.
const FLOPS: u64 = 2 * SIZE * SIZE * SIZE;
/// A dispatch that lasts this long is measured well: submission and waking up take some 0.1 ms.
const LONG_ENOUGH: Duration = Duration::from_millis(20);
/// No further dispatch begins after this time.
const TIME_MAX: Duration = Duration::from_millis(200);
/// Dispatches grow by this factor until they last long enough; each also warms the device up for the next.
const GROWTH: u32 = 4;
/// Products of one dispatch: some 1.1 TFLOP, two hundredths of a second on the fastest device that there is.
const PRODUCTS_MAX: u32 = 1 << 15;
/// Good dispatches that are measured; the fastest counts, since what slows a device down is somebody else's.
const TRIES: u32 = 3;

/// The device's speed in MFLOP/s. Takes about [`TIME_MAX`], and a pipeline to be built.
pub(crate) fn mflops(gpu: &Gpu) -> Result<u64, GpuError> {
    let bytes = 4 * SIZE * SIZE;
    let input = Usage::STORAGE | Usage::COPY_DST;
    let (a, b) = (gpu.buffer(bytes, input)?, gpu.buffer(bytes, input)?);
    let c = gpu.buffer(bytes, Usage::STORAGE | Usage::COPY_SRC)?;
    // Small numbers, so that sums neither overflow nor lose themselves in slow denormals.
    let numbers: Vec<u8> = (0..SIZE * SIZE).flat_map(|i| ((i % 7) as f32 - 3.0).to_le_bytes()).collect();
    let (pipeline, group) = gpu.scoped(|| {
        gpu.write(&a, &numbers);
        gpu.write(&b, &numbers);
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("speed"),
            source: wgpu::ShaderSource::Wgsl(TEXT.into()),
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("speed"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let entries = [(0, &a), (1, &b), (2, &c)]
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        (pipeline, group)
    })?;
    let began = Instant::now();
    let (mut products, mut tries, mut best) = (1, 0, 0);
    while tries < TRIES && began.elapsed() < TIME_MAX {
        let took = timed(gpu, &pipeline, &group, products)?;
        let flops = u128::from(FLOPS) * u128::from(products);
        best = best.max((flops * 1_000 / took.as_nanos().max(1)) as u64);
        if took >= LONG_ENOUGH || products == PRODUCTS_MAX {
            tries += 1;
        } else {
            products = (products * GROWTH).min(PRODUCTS_MAX);
        }
    }
    Ok(best)
}

/// How long the device takes for this many products.
fn timed(
    gpu: &Gpu,
    pipeline: &wgpu::ComputePipeline,
    group: &wgpu::BindGroup,
    products: u32,
) -> Result<Duration, GpuError> {
    let tiles = (SIZE / TILE) as u32;
    let submitted = Instant::now();
    let submission = gpu.scoped(|| {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, group, &[]);
        pass.dispatch_workgroups(tiles, tiles, products);
        drop(pass);
        gpu.queue.submit([encoder.finish()])
    })?;
    let timeout = Duration::from_secs(30);
    match gpu.device.poll(PollType::Wait { submission_index: Some(submission), timeout: Some(timeout) }) {
        Ok(_) => {}
        Err(wgpu::PollError::Timeout) => return Err(GpuError::Timeout(timeout)),
        Err(error) => return Err(GpuError::Refused(error.to_string())),
    }
    gpu.alive()?;
    Ok(submitted.elapsed())
}
