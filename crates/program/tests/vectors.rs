//! The golden vectors that the TypeScript runtime reads: dispatch expressions, and plans of small manifests.
//!
//! `UPDATE_VECTORS=1 cargo nextest run -p plexus-program` writes them anew; without it the test compares.

use std::{collections::BTreeMap, path::Path};

use plexus_program::{Source, check, parse};
use protocol::{Expression, Hash};
use serde_json::{Value, json};

fn compare(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    let text = format!("{value:#}\n");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        std::fs::write(&path, &text).expect("writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{name} is not current: run with UPDATE_VECTORS=1");
}

#[test]
fn expression_vectors_are_current() {
    let overrides = BTreeMap::from([("TILE".to_owned(), 8), ("WG".to_owned(), 64), ("_n0".to_owned(), 3)]);
    let texts = [
        "0",
        "7",
        "4294967295",
        "4294967296",
        "007",
        "TILE",
        "_n0",
        "N",
        "tile",
        "ceil(65/TILE)",
        "ceil(64/TILE)",
        "64 / TILE",
        "65/TILE",
        "2 + 3 * 4",
        "(2 + 3) * 4",
        "10 - 2 - 3",
        "100 / 10 / 3",
        "2 * 9 / 4",
        "max(1, min(WG, 9))",
        "ceil((64 * 3) / (TILE + 1))",
        "ceil(2 * 9 / 4)",
        "ceil(9 / 4 * 2)",
        "ceil(3)",
        "ceil(9 / 4 / 2)",
        "ceil((9 / 4))",
        "min(3)",
        "min(1, 2, 3)",
        "sin(3)",
        "",
        " ",
        "1 2",
        "2 +",
        "+2",
        "-1",
        "1 - 2",
        "3 - 2 - 1",
        "1 / 0",
        "ceil(1 / 0)",
        "1.5",
        "1e3",
        "0x10",
        "TILE TILE",
        "TILE(2)",
        "((1)",
        "1)",
        "99999999999",
        "4294967295 + 1",
        "4294967295 * 4294967295",
        "4294967295 * 2097152 / 4294967295",
        "4294967295 * 2097153 / 4294967295",
        "4294967295 * 4294967295 / 4294967295",
        "1\t+ 1",
        "min(1,2)",
        "max( 1 , 2 )",
        "ceil ( 7 / 2 )",
        "ceil",
        "a.b",
        "é",
    ];
    let long = format!("1{}", "+1".repeat(120));
    let fits = format!("1{}", "+1".repeat(99));
    let vectors: Vec<Value> = texts
        .into_iter()
        .chain([long.as_str(), fits.as_str()])
        .map(|text| {
            let value = Expression::parse(text).and_then(|expression| expression.value(&overrides));
            json!({ "text": text, "value": value.map_or_else(|_| json!("error"), |value| json!(value)) })
        })
        .collect();
    compare("expressions.json", &json!({ "overrides": overrides, "vectors": vectors }));
}

const SCALE: &str = "override TILE: u32 = 8;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<uniform> factor: vec4<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(TILE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&y) { y[id.x] = x[id.x] * factor.x; }
}
";
const SUM: &str = "override WIDTH: u32 = 64;
override COUNT: u32;
var<workgroup> partial: array<u32, WIDTH>;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(WIDTH)
fn sum(@builtin(local_invocation_index) lane: u32) {
    var total = 0u;
    for (var i = lane; i < COUNT; i += WIDTH) { total += x[i]; }
    partial[lane] = total;
    workgroupBarrier();
    if lane == 0u {
        for (var i = 1u; i < WIDTH; i++) { total += partial[i]; }
        y[0] = total;
    }
}
";

fn manifests() -> Vec<(&'static str, Value)> {
    let (scale, sum) = (Hash::of(SCALE.as_bytes()), Hash::of(SUM.as_bytes()));
    let weights = Hash::of(b"weights");
    vec![
        (
            "one pass",
            json!({
                "version": 1, "runtime": "wgsl", "kind": "batch",
                "program": {
                    "kernels": { "scale": { "blob": scale, "entry": "main", "overrides": { "TILE": 32 } } },
                    "buffers": {
                        "x": { "input": 0, "dtype": "u8", "shape": [3, 7] },
                        "factor": { "input": 1, "dtype": "u32", "shape": [4] },
                        "y": { "output": 0, "dtype": "u32", "shape": [6] }
                    },
                    "passes": [ { "kernel": "scale", "bind": ["x", "factor", "y"], "dispatch": ["ceil(6/TILE)", 1] } ]
                },
                "limits": { "memory_bytes_max": 64, "time_ms_max": 1000 },
                "verify": { "policy": "quorum", "agree": 2 }
            }),
        ),
        (
            "two passes, calibrated",
            json!({
                "version": 1, "runtime": "wgsl", "kind": "inference",
                "program": {
                    "kernels": {
                        "scale": { "blob": scale, "entry": "main", "overrides": { "TILE": "auto" } },
                        "sum": { "blob": sum, "entry": "sum", "overrides": { "WIDTH": "auto", "COUNT": 1000 } }
                    },
                    "buffers": {
                        "x": { "input": 0, "dtype": "i32", "shape": [1000] },
                        "w": { "blob": weights, "dtype": "u32", "shape": [4], "resident": "w" },
                        "hidden": { "scratch": true, "dtype": "u32", "shape": [10, 100] },
                        "total": { "output": 0, "dtype": "f16", "shape": [3], "compare": { "abs": 0.5 } }
                    },
                    "passes": [
                        { "kernel": "scale", "bind": ["x", "w", "hidden"], "dispatch": ["ceil(1000/TILE)"] },
                        { "kernel": "sum", "bind": ["hidden", "total"], "dispatch": ["min(WIDTH / WIDTH, COUNT)", 1, "1"] }
                    ]
                },
                "limits": { "memory_bytes_max": 65536, "time_ms_max": 60000 },
                "needs": { "storage_buffer_bytes_min": 8192 },
                "verify": { "policy": "audit", "rate_min": 0.02 }
            }),
        ),
    ]
}

#[test]
fn plan_vectors_are_current() {
    let texts = BTreeMap::from([SCALE, SUM].map(|text| (Hash::of(text.as_bytes()), text.to_owned())));
    let mut vectors = Vec::new();
    for (name, manifest) in manifests() {
        let plan = check(&parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), &texts).unwrap();
        let buffers: BTreeMap<_, _> = plan
            .buffers
            .iter()
            .map(|buffer| {
                let source = match buffer.source {
                    Source::Input(n) => json!({ "input": n }),
                    Source::Blob(hash) => json!({ "blob": hash }),
                    Source::Output(n) => json!({ "output": n }),
                    Source::Scratch => json!("scratch"),
                };
                let (length, size) = (buffer.length_bytes, buffer.size_bytes);
                (&buffer.name, json!({ "source": source, "length_bytes": length, "size_bytes": size }))
            })
            .collect();
        let kernels: BTreeMap<_, _> = plan
            .kernels
            .iter()
            .enumerate()
            .map(|(index, kernel)| {
                let variants: Vec<_> = kernel
                    .variants
                    .iter()
                    .map(|variant| {
                        let overrides = kernel.overrides(variant.auto);
                        let dispatches: BTreeMap<_, _> = (0..plan.passes.len())
                            .filter(|pass| plan.passes[*pass].kernel == index)
                            .map(|pass| (pass, plan.dispatch(pass, &overrides).unwrap()))
                            .collect();
                        json!({
                            "overrides": overrides,
                            "workgroup_size": variant.workgroup_size,
                            "dispatch_of_pass": dispatches,
                        })
                    })
                    .collect();
                (&kernel.name, variants)
            })
            .collect();
        vectors.push(json!({
            "name": name,
            "manifest": manifest,
            "manifest_blob": Hash::of(&parse(&serde_json::to_vec(&manifest).unwrap()).unwrap().to_bytes()),
            "buffers": buffers,
            "variants_of_kernel": kernels,
            "memory_bytes": plan.memory_bytes,
            "storage_buffer_bytes": plan.storage_buffer_bytes,
        }));
    }
    compare("plans.json", &json!({ "kernels": texts, "vectors": vectors }));
}
