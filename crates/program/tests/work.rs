//! What a unit is estimated to cost.

use std::collections::BTreeMap;

use plexus_program::{ROUNDS_UNKNOWN, UnitWork, check};
use protocol::{Hash, Manifest};
use serde_json::json;

/// The work of one kernel of 64 invocations in `groups` groups over buffers of 1024 elements.
fn work(body: &str, groups: u32) -> UnitWork {
    let text = format!(
        "override ROUNDS: u32 = 10u;
        const FIXED = 100;
        @group(0) @binding(0) var<storage, read> a: array<f32>;
        @group(0) @binding(1) var<storage, read_write> out: array<f32>;
        fn square(x: f32) -> f32 {{ return x * x; }}
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {{
            var x = a[id.x];
            {body}
            out[id.x] = x;
        }}"
    );
    let blob = Hash::of(text.as_bytes());
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": {
            "kernels": { "k": { "blob": blob, "entry": "main", "overrides": { "ROUNDS": 20 } } },
            "buffers": {
                "a": { "input": 0, "dtype": "f32", "shape": [1024] },
                "out": { "output": 0, "dtype": "f32", "shape": [1024],
                         "compare": { "abs": 0.0, "rel": 0.0, "outliers_max": 0.0 } } },
            "passes": [ { "kernel": "k", "bind": ["a", "out"], "dispatch": [groups] } ] },
        "limits": { "memory_bytes_max": 65536, "time_ms_max": 1000 },
        "verify": { "policy": "audit", "rate_min": 0.0 } }))
    .expect("a manifest");
    check(&manifest, &BTreeMap::from([(blob, text)])).expect("it compiles").work
}

#[test]
fn arithmetic_counts_by_invocation_and_component() {
    let check = |body: &str, each: u64| assert_eq!(work(body, 2).flops, each * 128, "{body}");
    check("", 0);
    check("x = x * 2.0 + 1.0;", 2);
    check("x = sqrt(x);", 1);
    check("x = square(x) + square(x + 1.0);", 4);
    check("let v = vec4f(x); x = (v * v).x;", 4);
    check("if (x > 1.0) { x = x + 1.0; } else { x = x * x * x; }", 1 + 2);
    assert_eq!(work("", 2).bytes, 2 * 4096);
}

#[test]
fn loops_count_as_often_as_is_known() {
    // The comparison and the counter's step count too.
    let rounds = |body: &str| work(body, 1).flops / 64 / 3;
    let check = |header: &str, expected: u64| {
        assert_eq!(rounds(&format!("for ({header}) {{ x = x + 1.0; }}")), expected, "{header}");
    };
    check("var i = 0u; i < 7u; i++", 7);
    check("var i = 0u; i < ROUNDS; i++", 20);
    check("var i = 0; i <= FIXED; i++", 101);
    check("var i = 0u; i < 64u; i += 4u", 16);
    check("var i = 0u; i < id.x; i++", ROUNDS_UNKNOWN);
    let nested = work("for (var i = 0u; i < 8u; i++) { for (var j = 0u; j < 8u; j++) { x = x * 3.0; } }", 1);
    assert_eq!(nested.flops / 64, 8 * (8 * 3 + 2));
}
