//! The process boundary: what runs in the child cannot harm the parent, and the next program runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use plexus_worker::{
    Device, DeviceError, Program,
    executor::{Executor, ExecutorCommand},
};
use protocol::{Hash, Manifest};
use serde_json::{Value, json};

/// Generous, because the machine may be busy; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn command() -> ExecutorCommand {
    ExecutorCommand { program: env!("CARGO_BIN_EXE_plexus-executor").into(), args: Vec::new(), device: None }
}

async fn started() -> Executor {
    let mut executor = Executor::new(command());
    match executor.start().await {
        Ok(facts) => assert!(!facts.adapter.is_empty()),
        Err(error) => panic!("no Vulkan adapter: install mesa-vulkan-drivers ({error})"),
    }
    executor
}

fn program(text: &str, buffers: Value, bind: &[&str], dispatch: Value, blobs: &[Bytes]) -> Arc<Program> {
    let kernel = Hash::of(text.as_bytes());
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": {
            "kernels": { "k": { "blob": kernel, "entry": "main" } },
            "buffers": buffers,
            "passes": [{ "kernel": "k", "bind": bind, "dispatch": dispatch }]
        },
        "limits": { "memory_bytes_max": 1u64 << 32, "time_ms_max": 1000 },
        "verify": { "policy": "audit", "rate_min": 0.0 }
    }))
    .unwrap();
    let kernels = BTreeMap::from([(kernel, text.to_owned())]);
    let plan = program::check(&manifest, &kernels).unwrap();
    let blobs = blobs.iter().map(|blob| (Hash::of(blob), blob.clone())).collect();
    Arc::new(Program { id: Hash::of(&manifest.to_bytes()), manifest, kernels, plan, blobs })
}

fn words(words: impl IntoIterator<Item = u32>) -> Bytes {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// y = x · w, w a blob.
fn product(w: &Bytes) -> Arc<Program> {
    let text = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) { y[id.x] = x[id.x] * w[id.x]; }
}
";
    let buffers = json!({
        "x": { "input": 0, "dtype": "u32", "shape": [16] },
        "w": { "blob": Hash::of(w), "dtype": "u32", "shape": [16] },
        "y": { "output": 0, "dtype": "u32", "shape": [16] }
    });
    program(text, buffers, &["x", "w", "y"], json!([1]), std::slice::from_ref(w))
}

/// Never ends while its second input is 0. The many workgroups are for llvmpipe, which leaves every loop in the end.
fn endless() -> Arc<Program> {
    let text = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() {
    loop {
        y[0] += x[1];
        if y[0] == 7u { break; }
    }
}
";
    let buffers = json!({
        "x": { "input": 0, "dtype": "u32", "shape": [2] },
        "y": { "output": 0, "dtype": "u32", "shape": [2] }
    });
    program(text, buffers, &["x", "y"], json!([65535, 65535]), &[])
}

async fn runs(executor: &Executor, product: &Program) {
    let unit = executor.run(product.id, vec![words(0..16)]);
    let output = tokio::time::timeout(PATIENCE, unit).await.expect("the unit ends").unwrap();
    assert_eq!(output.outputs, [words((0..16).map(|i| 2 * i))]);
}

#[tokio::test]
async fn units_in_flight_are_answered_with_their_own_outputs() {
    let executor = started().await;
    let product = product(&words([2; 16]));
    executor.load(product.clone()).await.unwrap();
    // More than the device takes at once: the rest waits in the child.
    let units: Vec<_> =
        (0..10u32).map(|unit| executor.run(product.id, vec![words(unit..unit + 16)])).collect();
    for (unit, outputs) in (0..10u32).zip(units) {
        assert_eq!(outputs.await.unwrap().outputs, [words((unit..unit + 16).map(|i| 2 * i))]);
    }
}

#[tokio::test]
async fn a_unit_that_never_ends_dies_with_the_child_and_the_next_program_runs() {
    let mut executor = started().await;
    let (endless, product) = (endless(), product(&words([2; 16])));
    executor.load(endless.clone()).await.unwrap();
    executor.load(product.clone()).await.unwrap();
    let child = executor.process_id();
    let stuck = executor.run(endless.id, vec![words([0, 0])]);
    let behind = executor.run(product.id, vec![words(0..16)]);
    tokio::pin!(stuck);
    // The watchdog's deadline.
    let early = tokio::time::timeout(Duration::from_millis(500), &mut stuck).await;
    assert!(early.is_err(), "the unit ended: {early:?}");
    tokio::time::timeout(PATIENCE, executor.kill()).await.expect("killing takes no longer than the process");
    assert!(matches!(stuck.await, Err(DeviceError::Lost(_))));
    assert!(matches!(behind.await, Err(DeviceError::Lost(_))));

    executor.start().await.unwrap();
    assert_ne!(executor.process_id(), child);
    executor.load(product.clone()).await.unwrap();
    runs(&executor, &product).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_child_that_dies_is_an_error_and_can_be_started_again() {
    let mut executor = started().await;
    let product = product(&words([2; 16]));
    executor.load(product.clone()).await.unwrap();
    let id = executor.process_id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &id]).status().unwrap().success());
    let error = loop {
        // Until the end of the process has come through the pipe, units may still be answered.
        if let Err(error) = executor.run(product.id, vec![words(0..16)]).await {
            break error;
        }
    };
    assert_eq!(error.to_string(), "the device failed: its process ended");
    assert!(matches!(executor.load(product.clone()).await, Err(DeviceError::Lost(_))));
    executor.start().await.unwrap();
    executor.load(product.clone()).await.unwrap();
    runs(&executor, &product).await;
}

#[tokio::test]
async fn a_device_is_measured_where_it_lives() {
    let executor = started().await;
    let measured = executor.measure().await.unwrap();
    assert!(measured.mflops > 0 && measured.memory_bytes > 0, "{measured:?}");
    let product = product(&words([2; 16]));
    executor.load(product.clone()).await.unwrap();
    runs(&executor, &product).await;
}

#[tokio::test]
async fn what_the_runtime_refuses_is_not_the_devices_fault() {
    let executor = started().await;
    let product = product(&words([2; 16]));
    let refused = |error: DeviceError| match error {
        DeviceError::Program(why) => why,
        DeviceError::Lost(why) => panic!("the device failed: {why}"),
    };
    let why = refused(executor.run(product.id, vec![words(0..16)]).await.unwrap_err());
    assert!(why.contains("is not loaded"), "{why}");

    let mut lying = Arc::into_inner(self::product(&words([2; 16]))).unwrap();
    lying.blobs.clear();
    lying.id = Hash::of(b"another");
    let why = refused(executor.load(Arc::new(lying)).await.unwrap_err());
    assert!(why.contains("is not there"), "{why}");

    executor.load(product.clone()).await.unwrap();
    let why = refused(executor.run(product.id, vec![words(0..15)]).await.unwrap_err());
    assert_eq!(why, "input 0 has 60 bytes and its buffer takes 64");
    executor.unload(product.id);
    let why = refused(executor.run(product.id, vec![words(0..16)]).await.unwrap_err());
    assert!(why.contains("is not loaded"), "{why}");
    // Its blob was kept.
    executor.load(product.clone()).await.unwrap();
    runs(&executor, &product).await;
}

#[tokio::test]
async fn a_device_that_cannot_be_opened_says_why() {
    let mut nowhere = Executor::new(ExecutorCommand { device: Some("no such adapter".into()), ..command() });
    let error = nowhere.start().await.unwrap_err().to_string();
    assert!(error.contains("no such adapter"), "{error}");
    let mut missing = Executor::new(ExecutorCommand { program: "/nonexistent/executor".into(), ..command() });
    let error = missing.start().await.unwrap_err().to_string();
    assert!(error.contains("did not start"), "{error}");
    let mut stranger = Executor::new(ExecutorCommand { program: "/bin/true".into(), ..command() });
    assert!(stranger.start().await.is_err());
    assert!(missing.load(product(&words([2; 16]))).await.is_err());
}
