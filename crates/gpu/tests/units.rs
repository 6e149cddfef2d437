//! Units on whatever adapter this machine has. A software one will do; none at all is a failure with advice, not a skip.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use plexus_gpu::{Gpu, GpuError, Program, RING_LENGTH, device_bytes};
use program::Plan;
use protocol::{Hash, Manifest};
use serde_json::{Value, json};

static GPU: LazyLock<Gpu> = LazyLock::new(|| match Gpu::open(None) {
    Ok(gpu) => gpu,
    Err(GpuError::NoAdapter) => panic!("no Vulkan adapter: install mesa-vulkan-drivers"),
    Err(error) => panic!("the adapter cannot be used: {error}"),
});

const TIMEOUT: Duration = Duration::from_secs(60);

fn plan(buffers: Value, kernels: &[(&str, &str, Value)], passes: Value) -> Arc<Plan> {
    let texts: BTreeMap<_, _> =
        kernels.iter().map(|(_, text, _)| (Hash::of(text.as_bytes()), (*text).to_owned())).collect();
    let kernels: serde_json::Map<_, _> = kernels
        .iter()
        .map(|(name, text, overrides)| {
            let blob = Hash::of(text.as_bytes());
            ((*name).to_owned(), json!({ "blob": blob, "entry": "main", "overrides": overrides }))
        })
        .collect();
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": { "kernels": kernels, "buffers": buffers, "passes": passes },
        "limits": { "memory_bytes_max": 64u64 << 30, "time_ms_max": 60_000 },
        "verify": { "policy": "audit", "rate_min": 0.0 }
    }))
    .unwrap();
    program::check(&manifest, &texts).unwrap().into()
}

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

const NO_BLOBS: BTreeMap<Hash, Vec<u8>> = BTreeMap::new();

const ADD: &str = "override WIDTH: u32 = 64;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(WIDTH)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&x) { y[id.x] += x[id.x] + 1u; }
}
";

fn add(elements: u32, width: Value) -> Arc<Plan> {
    plan(
        json!({
            "x": { "input": 0, "dtype": "u32", "shape": [elements] },
            "y": { "output": 0, "dtype": "u32", "shape": [elements] }
        }),
        &[("add", ADD, json!({ "WIDTH": width }))],
        json!([{ "kernel": "add", "bind": ["x", "y"], "dispatch": [format!("ceil({elements}/WIDTH)")] }]),
    )
}

#[test]
fn every_unit_starts_from_zero() {
    let program = Program::load(&GPU, add(1000, json!(64)), &NO_BLOBS).unwrap();
    for unit in 0..5 {
        let outcome = program.submit(&[bytes(unit..unit + 1000)]).unwrap().wait(TIMEOUT).unwrap();
        assert_eq!(outcome.outputs, [bytes(unit + 1..unit + 1001)]);
    }
}

#[test]
fn units_in_flight_keep_apart_and_are_bounded() {
    let program = Program::load(&GPU, add(300, json!(64)), &NO_BLOBS).unwrap();
    let submit = |unit: u32| program.submit(&[bytes(unit..unit + 300)]);
    let pending: Vec<_> = (0..RING_LENGTH as u32).map(|unit| submit(unit).unwrap()).collect();
    assert!(matches!(submit(9), Err(GpuError::RingFull(_))));
    for (unit, mut pending) in (0..).zip(pending) {
        assert_eq!(pending.wait(TIMEOUT).unwrap().outputs, [bytes(unit + 1..unit + 301)]);
    }
    // An abandoned unit makes room too.
    drop(submit(1).unwrap());
    assert_eq!(submit(7).unwrap().wait(TIMEOUT).unwrap().outputs, [bytes(8..308)]);
}

#[test]
fn calibration_ends_and_changes_no_result() {
    let program = Program::load(&GPU, add(4096, json!("auto")), &NO_BLOBS).unwrap();
    let mut units = 0;
    while program.calibrated().is_empty() {
        units += 1;
        assert!(units < 20, "calibration does not end");
        let outcome = program.submit(&[bytes(0..4096)]).unwrap().wait(TIMEOUT).unwrap();
        assert_eq!(outcome.outputs, [bytes(1..4097)]);
    }
    assert!(program::AUTO_CANDIDATES.contains(&program.calibrated()["add"]));
}

const SCALE: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> factor: array<u32>;
@group(0) @binding(2) var<uniform> offset: vec4<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) { y[id.x] = x[id.x] * factor[id.x % 2u] + offset.z; }
}
";
const PACK: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) {
        y[id.x] = pack4xU8(vec4<u32>(x[4u * id.x], x[4u * id.x + 1u], x[4u * id.x + 2u], x[4u * id.x + 3u]));
    }
}
";

#[test]
fn passes_see_what_the_ones_before_wrote() {
    let factor = bytes([2, 3]);
    let plan = plan(
        json!({
            "x": { "input": 0, "dtype": "u32", "shape": [24] },
            "offset": { "input": 1, "dtype": "u32", "shape": [4] },
            "factor": { "blob": Hash::of(&factor), "dtype": "u32", "shape": [2] },
            "hidden": { "scratch": true, "dtype": "u32", "shape": [24] },
            // 21 bytes: neither whole words nor what the buffer holds.
            "y": { "output": 0, "dtype": "u8", "shape": [3, 7] }
        }),
        &[("scale", SCALE, json!({})), ("pack", PACK, json!({}))],
        json!([
            { "kernel": "scale", "bind": ["x", "factor", "offset", "hidden"], "dispatch": [1] },
            { "kernel": "pack", "bind": ["hidden", "y"], "dispatch": [1] }
        ]),
    );
    let missing = Program::load(&GPU, plan.clone(), &NO_BLOBS);
    assert!(matches!(missing.err(), Some(GpuError::BlobMissing(_))));
    let short = BTreeMap::from([(Hash::of(&factor), vec![0; 7])]);
    assert!(matches!(Program::load(&GPU, plan.clone(), &short).err(), Some(GpuError::Length { .. })));

    let blobs = BTreeMap::from([(Hash::of(&factor), factor)]);
    let program = Program::load(&GPU, plan, &blobs).unwrap();
    let mut pending = program.submit(&[bytes(0..24), bytes([0, 0, 5, 0])]).unwrap();
    let expected: Vec<u8> = (0..21u8).map(|i| i * (2 + i % 2) + 5).collect();
    assert_eq!(pending.wait(TIMEOUT).unwrap().outputs, [expected]);
}

#[test]
fn large_units_go_to_the_device_one_by_one() {
    // A set of buffers has the input, the output, and the output once more to be read back.
    let small = add(1000, json!(64));
    assert_eq!(device_bytes(&small), RING_LENGTH as u64 * 3 * 4000);
    let large = add(60_000_000, json!(1024));
    assert_eq!(device_bytes(&large), 3 * 240_000_000);
    let program = Program::load(&GPU, small, &NO_BLOBS).unwrap();
    let pending: Vec<_> = (0..RING_LENGTH).map(|_| program.submit(&[bytes(0..1000)]).unwrap()).collect();
    assert!(!program.has_room());
    drop(pending);
    assert!(program.has_room());
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let program = Program::load(&GPU, add(10, json!(64)), &NO_BLOBS).unwrap();
    let refused = |inputs: &[Vec<u8>]| program.submit(inputs).err().unwrap().to_string();
    assert_eq!(refused(&[]), "the unit has 0 inputs and its program 1");
    assert_eq!(refused(&[vec![0; 39]]), "input 0 has 39 bytes and its buffer takes 40");
}

#[test]
fn a_buffer_beyond_the_device_is_refused_by_name() {
    let bytes_max = GPU.facts().limits.storage_buffer_bytes_max.min(GPU.facts().limits.buffer_bytes_max);
    let elements = u32::try_from(bytes_max / 4 + 1).unwrap_or(u32::MAX);
    if u64::from(elements) * 4 > program::BUFFER_BYTES_MAX {
        return; // This device takes whatever a manifest may ask for.
    }
    let plan = plan(
        json!({
            "x": { "input": 0, "dtype": "u32", "shape": [elements] },
            "y": { "output": 0, "dtype": "u32", "shape": [1] }
        }),
        &[("add", ADD, json!({}))],
        json!([{ "kernel": "add", "bind": ["x", "y"], "dispatch": [1] }]),
    );
    let error = Program::load(&GPU, plan, &NO_BLOBS).err().unwrap();
    assert!(matches!(error, GpuError::Misfit(program::Misfit::BufferBytes { .. })), "{error}");
}

#[test]
fn subgroups_and_half_floats_run_where_the_device_has_them() {
    let cases = [
        ("subgroups", "enable subgroups;", "select(0u, 7u, subgroupAdd(1u) > 0u)"),
        ("shader-f16", "enable f16;", "u32(f16(7.0))"),
    ];
    for (feature, enable, value) in cases {
        let text = format!(
            "{enable}
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(4)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{ y[id.x] = {value}; }}
"
        );
        let texts = BTreeMap::from([(Hash::of(text.as_bytes()), text.clone())]);
        let manifest: Manifest = serde_json::from_value(json!({
            "version": 1, "runtime": "wgsl", "kind": "batch",
            "program": {
                "kernels": { "k": { "blob": Hash::of(text.as_bytes()), "entry": "main" } },
                "buffers": { "y": { "output": 0, "dtype": "u32", "shape": [4] } },
                "passes": [{ "kernel": "k", "bind": ["y"], "dispatch": [1] }]
            },
            "limits": { "memory_bytes_max": 1024, "time_ms_max": 1000 },
            "needs": { "features": [feature] },
            "verify": { "policy": "audit", "rate_min": 0.0 }
        }))
        .unwrap();
        let plan = Arc::new(program::check(&manifest, &texts).unwrap());
        let loaded = Program::load(&GPU, plan, &NO_BLOBS);
        if !GPU.facts().features.iter().any(|f| f == feature) {
            assert!(matches!(loaded.err(), Some(GpuError::Misfit(program::Misfit::Feature { .. }))));
            continue;
        }
        let none: &[Vec<u8>] = &[];
        let outcome = loaded.unwrap().submit(none).unwrap().wait(TIMEOUT).unwrap();
        assert_eq!(outcome.outputs, [bytes([7; 4])], "{feature}");
    }
}

#[test]
fn adapters_are_chosen_by_index_or_by_part_of_their_name() {
    let name = GPU.facts().adapter.clone();
    assert_eq!(Gpu::open(Some("0")).unwrap().facts(), &Gpu::enumerate()[0]);
    assert_eq!(Gpu::open(Some(&name.to_uppercase())).unwrap().facts().adapter, name);
    let error = Gpu::open(Some("no such thing")).unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
}

/// Known failure, by driver: llvmpipe leaves loops after 65,535 rounds. This fails when a driver begins or ceases to do so.
#[test]
fn loops_run_to_their_end_except_where_a_driver_is_known_not_to() {
    let expected = GPU.facts().adapter.contains("llvmpipe").then_some(65_535);
    assert_eq!(GPU.loop_rounds_max(), expected, "{}", GPU.facts().adapter);
}

#[test]
fn a_device_says_how_fast_it_is_and_still_works() {
    // Nothing computes less than a million products a second, and nothing a hundred thousand times as many as the fastest do.
    let mflops = GPU.mflops().unwrap();
    assert!((1..100_000_000_000).contains(&mflops), "{mflops} MFLOP/s");
    assert!(GPU.memory_bytes_guess() > 0);
    // Jobs that need long loops are kept away from it by its features.
    let long_loops = GPU.facts().features.iter().any(|feature| feature == protocol::FEATURE_LONG_LOOPS);
    assert_eq!(long_loops, GPU.loop_rounds_max().is_none());
    let program = Program::load(&GPU, add(100, json!(64)), &NO_BLOBS).unwrap();
    assert_eq!(program.submit(&[bytes(0..100)]).unwrap().wait(TIMEOUT).unwrap().outputs, [bytes(1..101)]);
}
