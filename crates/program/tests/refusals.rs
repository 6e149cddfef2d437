//! What a manifest may not say, each with its code, its place and a fix; and what it may.

use std::collections::BTreeMap;

use plexus_program::{Misfit, Plan, ProgramError, check, fits, parse};
use protocol::{DeviceLimits, Hash, Manifest};
use serde_json::{Value, json};

const SCALE: &str = "override TILE: u32 = 8;
override GAIN: f32 = 1.0;
@group(0) @binding(0) var<storage, read> x: array<i32>;
@group(0) @binding(1) var<storage, read_write> y: array<i32>;
@compute @workgroup_size(TILE, TILE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    y[id.x] = x[id.x] * i32(GAIN);
}
@fragment
fn paint() -> @location(0) vec4<f32> { return vec4<f32>(); }
";

fn manifest() -> Value {
    json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": {
            "kernels": { "scale": { "blob": Hash::of(SCALE.as_bytes()), "entry": "main", "overrides": { "TILE": "auto" } } },
            "buffers": {
                "x": { "input": 0, "dtype": "i32", "shape": [64] },
                "y": { "output": 0, "dtype": "i32", "shape": [64] }
            },
            "passes": [{ "kernel": "scale", "bind": ["x", "y"], "dispatch": ["ceil(64/TILE)"] }]
        },
        "limits": { "memory_bytes_max": 1024, "time_ms_max": 1000 },
        "verify": { "policy": "audit", "rate_min": 0.05 }
    })
}

fn checked(manifest: &Value, texts: &[&str]) -> Result<Plan, ProgramError> {
    let texts: BTreeMap<_, _> =
        texts.iter().map(|text| (Hash::of(text.as_bytes()), (*text).to_owned())).collect();
    check(&parse(&serde_json::to_vec(manifest).unwrap())?, &texts)
}

/// The manifest above with one value replaced.
fn with(pointer: &str, value: Value) -> Value {
    let mut manifest = manifest();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match manifest.pointer_mut(parent).unwrap() {
        Value::Object(map) => {
            map.insert(key.to_owned(), value);
        }
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => panic!("{parent} is {other}"),
    }
    manifest
}

/// The manifest above with another kernel text.
fn with_text(text: &str) -> (Value, String) {
    (with("/program/kernels/scale/blob", json!(Hash::of(text.as_bytes()))), text.to_owned())
}

#[track_caller]
fn refuses(manifest: &Value, text: &str, code: &str, field: &str, message: &str) -> ProgramError {
    let error = checked(manifest, &[text]).expect_err("refused");
    assert_eq!((error.code(), error.field()), (code, field), "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(!error.fix().is_empty());
    error
}

#[test]
fn a_good_manifest_becomes_a_plan() {
    let plan = checked(&manifest(), &[SCALE]).unwrap();
    assert_eq!(plan.memory_bytes, 512);
    assert_eq!(plan.storage_buffer_bytes, 256);
    assert_eq!((plan.inputs.as_slice(), plan.outputs.as_slice()), (&[0][..], &[1][..]));
    let kernel = &plan.kernels[0];
    // 64² and more invocations are beyond every device.
    let values: Vec<_> = kernel.variants.iter().map(|variant| variant.auto.unwrap()).collect();
    assert_eq!(values, [4, 8, 16, 32]);
    assert_eq!(plan.dispatch(0, &kernel.overrides(Some(16))), Ok([4, 1, 1]));
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let refuses = |pointer: &str, value: Value, code: &str, field: &str, message: &str| {
        refuses(&with(pointer, value), SCALE, code, field, message);
    };
    let invalid = "manifest_invalid";
    let buffer = |source: &str| json!({ source: 0, "dtype": "i32", "shape": [64] });
    refuses("/version", json!(2), invalid, "version", "version 2");
    refuses("/typo", json!(2), invalid, "", "unknown field `typo`");
    refuses("/program/kernels", json!({}), "limits_exceeded", "program.kernels", "there are 0");
    refuses("/program/passes", json!([]), "limits_exceeded", "program.passes", "there are 0");
    refuses("/program/buffers/9x", buffer("input"), invalid, "program.buffers.9x", "is not a name");
    refuses("/program/buffers/a.b", buffer("input"), invalid, "program.buffers.a.b", "is not a name");
    let long = "a".repeat(33);
    refuses(
        &format!("/program/buffers/{long}"),
        buffer("input"),
        invalid,
        &format!("program.buffers.{long}"),
        "name",
    );
    refuses("/program/buffers/x/output", json!(1), invalid, "program.buffers.x", "exactly one");
    refuses("/program/buffers/x/input", json!(null), invalid, "program.buffers.x", "exactly one");
    refuses("/program/buffers/x/input", json!(1), invalid, "program.buffers.x.input", "no input 0");
    refuses("/program/buffers/z", buffer("output"), invalid, "program.buffers.z.output", "is y too");
    refuses(
        "/program/buffers/y",
        json!({"scratch": true, "dtype": "i32", "shape": [64]}),
        invalid,
        "program.buffers",
        "no buffer is an output",
    );
    refuses("/program/buffers/x/shape", json!([]), invalid, "program.buffers.x.shape", "1 to 8 axes");
    refuses("/program/buffers/x/shape", json!([64, 0]), invalid, "program.buffers.x.shape", "empty");
    refuses(
        "/program/buffers/x/shape",
        json!([65536, 65536]),
        "limits_exceeded",
        "program.buffers.x.shape",
        "more than",
    );
    refuses(
        "/program/buffers/x/shape",
        json!([4294967295u32, 4294967295u32, 4294967295u32]),
        "limits_exceeded",
        "program.buffers.x.shape",
        "more than",
    );
    refuses(
        "/program/buffers/x/compare",
        json!("exact"),
        invalid,
        "program.buffers.x.compare",
        "only an output",
    );
    refuses(
        "/program/buffers/y/compare",
        json!({"abs": 1.0}),
        invalid,
        "program.buffers.y.compare",
        "exactly",
    );
    refuses("/program/buffers/y/resident", json!("kv"), invalid, "program.buffers.y.resident", "only a blob");
    refuses(
        "/program/buffers/unused",
        json!({"scratch": true, "dtype": "i32", "shape": [1]}),
        invalid,
        "program.buffers.unused",
        "no pass binds",
    );
    refuses(
        "/program/passes/0/kernel",
        json!("scole"),
        invalid,
        "program.passes[0].kernel",
        "no kernel \"scole\"",
    );
    refuses(
        "/program/passes/0/bind",
        json!(["x", "z"]),
        invalid,
        "program.passes[0].bind[1]",
        "no buffer \"z\"",
    );
    refuses("/verify/rate_min", json!(1.5), invalid, "verify.rate_min", "between 0 and 1");
    refuses("/verify", json!({"policy": "quorum", "agree": 1}), invalid, "verify.agree", "between 2 and 5");
    refuses("/needs", json!({"features": ["subgroups", "subgroups"]}), invalid, "needs.features[1]", "twice");
    refuses("/needs", json!({"features": ["warp"]}), "feature_unavailable", "needs.features[0]", "warp");
    refuses(
        "/program/kernels/scale/blob",
        json!(Hash::of(b"")),
        "kernel_missing",
        "program.kernels.scale.blob",
        "not there",
    );
}

#[test]
fn a_tolerance_that_makes_no_sense_is_refused() {
    for tolerance in [
        json!({"abs": -1.0}),
        json!({"abs": 0.1, "outliers_max": 1.5}),
        json!({"abs": 0.1, "mean_abs_max": -1.0}),
    ] {
        let output = json!({"output": 0, "dtype": "f32", "shape": [64], "compare": tolerance});
        refuses(
            &with("/program/buffers/y", output),
            SCALE,
            "manifest_invalid",
            "program.buffers.y.compare",
            "tolerance",
        );
    }
}

#[test]
fn bounds_are_kept() {
    let limits = "limits_exceeded";
    refuses(
        &with("/limits/memory_bytes_max", json!(511)),
        SCALE,
        limits,
        "limits.memory_bytes_max",
        "take 512 bytes",
    );
    refuses(
        &with("/limits/time_ms_max", json!(600_001)),
        SCALE,
        limits,
        "limits.time_ms_max",
        "between 1 and 600000",
    );
    refuses(&with("/limits/time_ms_max", json!(0)), SCALE, limits, "limits.time_ms_max", "between 1");
    let passes = vec![manifest()["program"]["passes"][0].clone(); 65];
    refuses(&with("/program/passes", json!(passes)), SCALE, limits, "program.passes", "there are 65");
    let (manifest, text) = with_text(&format!("//{}\n{SCALE}", " ".repeat(256 << 10)));
    refuses(&manifest, &text, limits, "program.kernels.scale.blob", "larger than");
    refuses(
        &with("/program/kernels/scale/overrides", json!({"TILE": 64})),
        SCALE,
        limits,
        "program.kernels.scale",
        "64 × 64",
    );
    let (manifest, text) = with_text(
        &SCALE
            .replace("fn main(", "fn main(@builtin(local_invocation_index) l: u32, ")
            .replace("    y[", "    local[l] = 1u; y[")
            .replace("override GAIN", "var<workgroup> local: array<u32, 20000>;\noverride GAIN"),
    );
    refuses(&manifest, &text, limits, "program.kernels.scale", "takes 80000 bytes");
    let (manifest, text) = with_text(&SCALE.replace("x[id.x]", &format!("x[0]{}", " + x[0]".repeat(2000))));
    let error = refuses(&manifest, &text, limits, "program.kernels.scale", "nested too deeply");
    assert_eq!(error.line(), Some(7));
}

#[test]
fn wgsl_that_does_not_compile_is_refused_with_its_line_and_column() {
    let refuses = |from: &str, to: &str, place: (u32, u32), message: &str| {
        let (manifest, text) = with_text(&SCALE.replace(from, to));
        let error = refuses(&manifest, &text, "wgsl_invalid", "program.kernels.scale", message);
        assert_eq!((error.line(), error.column()), (Some(place.0), Some(place.1)), "{error}");
        assert_eq!(error.kernel(), Some("scale"));
    };
    refuses("x[id.x] *", "z[id.x] *", (7, 15), "no definition in scope for identifier: `z`");
    refuses("    y[id.x] =", "    /* ö */ y[id.x] = 1;;; let a b", (7, 34), "expected");
    refuses("= x[id.x] * i32(GAIN)", "= x[id.x] * GAIN", (7, 5), "f32");
    refuses("    y[id.x]", "    if id.x == x[0] { workgroupBarrier(); }\n    y[id.x]", (7, 8), "");
    refuses("@compute", "fn g() -> u32 { if true { return 1u; } }\n@compute", (5, 1), "return");
}

#[test]
fn an_entry_point_that_is_not_there_is_refused() {
    let missing = with("/program/kernels/scale/entry", json!("mian"));
    let error = refuses(&missing, SCALE, "wgsl_invalid", "program.kernels.scale", "no entry point \"mian\"");
    assert!(error.fix().contains("main"));
    let fragment = with("/program/kernels/scale/entry", json!("paint"));
    refuses(&fragment, SCALE, "wgsl_invalid", "program.kernels.scale", "not a compute shader");
}

#[test]
fn bindings_that_do_not_match_are_refused() {
    let code = "wgsl_bindings";
    let text = |from: &str, to: &str| with_text(&SCALE.replace(from, to));
    let (manifest, other) = text("@binding(1)", "@binding(2)");
    let error = refuses(&manifest, &other, code, "program.passes[0].bind", "y is binding 2");
    assert_eq!(error.line(), Some(4));
    let (manifest, other) = text("@group(0) @binding(1)", "@group(1) @binding(1)");
    refuses(&manifest, &other, code, "program.kernels.scale", "group 1");
    let (manifest, other) = text("x[id.x] *", "2 *");
    refuses(&manifest, &other, code, "program.passes[0].bind[0]", "uses no @group(0) @binding(0)");
    let (manifest, other) = text("<storage, read> x", "<storage, read_write> x");
    refuses(&manifest, &other, code, "program.passes[0].bind[0]", "x is only read");
    let (manifest, other) = text("<storage, read> x: array<i32>", "<storage, read> x: array<i32, 65>");
    refuses(&manifest, &other, code, "program.passes[0].bind[0]", "at least 260 bytes and x has 256");
    let (manifest, other) = text(
        "@group(0) @binding(0) var<storage, read> x: array<i32>",
        "@group(0) @binding(0) var x: texture_2d<i32>",
    );
    let other = other.replace("x[id.x] *", "textureLoad(x, vec2(0, 0), 0).x *");
    let manifest = {
        let mut m = manifest;
        m["program"]["kernels"]["scale"]["blob"] = json!(Hash::of(other.as_bytes()));
        m
    };
    refuses(&manifest, &other, code, "program.kernels.scale", "neither a storage nor a uniform");
    refuses(
        &with("/program/passes/0/bind", json!(["y", "y"])),
        SCALE,
        code,
        "program.passes[0].bind[1]",
        "bound twice",
    );
    let (manifest, other) = text("<storage, read_write> y", "<storage, read> y");
    let other = other.replace("y[id.x] = x", "_ = y[0]; _ = x");
    let manifest = {
        let mut m = manifest;
        m["program"]["kernels"]["scale"]["blob"] = json!(Hash::of(other.as_bytes()));
        m
    };
    refuses(&manifest, &other, code, "program.buffers.y", "no pass writes");
    let (mut manifest, other) = text("<storage, read> x: array<i32>", "<uniform> x: array<vec4<i32>, 2048>");
    manifest["program"]["buffers"]["x"]["shape"] = json!([8192]);
    let other = other.replace("x[id.x] *", "x[id.x].x *");
    manifest["program"]["kernels"]["scale"]["blob"] = json!(Hash::of(other.as_bytes()));
    refuses(&manifest, &other, code, "program.passes[0].bind[0]", "uniform");
}

#[test]
fn overrides_that_do_not_match_are_refused() {
    let code = "wgsl_overrides";
    let overrides = |value: Value| with("/program/kernels/scale/overrides", value);
    refuses(
        &overrides(json!({"TILE": 8, "TYPO": 1})),
        SCALE,
        code,
        "program.kernels.scale.overrides.TYPO",
        "TYPO",
    );
    refuses(
        &overrides(json!({"TILE": 8, "GAIN": "auto"})),
        SCALE,
        code,
        "program.kernels.scale.overrides.GAIN",
        "not an integer",
    );
    refuses(&overrides(json!({"TILE": 0})), SCALE, code, "program.kernels.scale.overrides", "");
    let (manifest, text) = with_text(&SCALE.replace("GAIN: f32 = 1.0", "GAIN: f32"));
    refuses(&manifest, &text, code, "program.kernels.scale.overrides", "neither a default nor a value");
    let (manifest, text) = with_text(&SCALE.replace("override TILE", "@id(3) override TILE"));
    refuses(&manifest, &text, code, "program.kernels.scale.overrides.TILE", "@id");
    let word = parse(&serde_json::to_vec(&overrides(json!({"TILE": "fast"}))).unwrap()).unwrap_err();
    assert_eq!(word.code(), "manifest_invalid");
}

#[test]
fn dispatches_without_a_sensible_value_are_refused() {
    let code = "dispatch_invalid";
    let dispatch = |value: Value| with("/program/passes/0/dispatch", value);
    let field = "program.passes[0].dispatch[0]";
    refuses(&dispatch(json!([])), SCALE, code, "program.passes[0].dispatch", "1 to 3");
    refuses(&dispatch(json!(["ceil(64"])), SCALE, code, field, "expected");
    refuses(&dispatch(json!(["64/TILES"])), SCALE, code, field, "TILES");
    refuses(&dispatch(json!([65_536])), SCALE, code, field, "65536 workgroups");
    refuses(&dispatch(json!([0])), SCALE, code, field, "0 workgroups");
    refuses(&dispatch(json!(["1 - TILE"])), SCALE, code, field, "range");
    // Some tiles would be too many workgroups: those are not offered.
    let plan = checked(&dispatch(json!(["500000/TILE"])), &[SCALE]).unwrap();
    assert_eq!(plan.kernels[0].variants.iter().map(|v| v.auto.unwrap()).collect::<Vec<_>>(), [8, 16, 32]);
}

#[test]
fn features_are_declared_before_they_are_used() {
    let check = |before: &str, value: &str, features: Value| {
        let (mut manifest, text) = with_text(&format!("{before}{}", SCALE.replace("x[id.x] *", value)));
        manifest["needs"] = json!({ "features": features });
        (manifest, text)
    };
    let half = "x[id.x] * i32(f16(1.0)) *";
    let sum = "subgroupAdd(x[id.x]) *";
    let refused = |(manifest, text): (Value, String), code: &str, message: &str| {
        let error = refuses(&manifest, &text, code, "program.kernels.scale", message);
        assert!(error.line().is_some(), "{error}");
    };
    let feature = "feature_unavailable";
    refused(check("enable f16;\n", half, json!([])), feature, "does not declare the feature");
    refused(check("", half, json!(["shader-f16"])), "wgsl_invalid", "f16");
    refused(check("enable subgroups;\n", sum, json!([])), feature, "does not declare the feature");
    refused(check("", sum, json!(["subgroups"])), feature, "");
    refused(check("enable wgpu_int16;\n", "x[id.x] *", json!([])), feature, "not available on every runtime");
    refused(check("", "select(1, 2, u64(id.x) > 1lu) *", json!([])), "wgsl_invalid", "");
    for (before, value, features) in [
        ("enable f16;\n", half, json!(["shader-f16"])),
        ("enable f16, subgroups;\n", sum, json!(["subgroups", "shader-f16"])),
        ("requires packed_4x8_integer_dot_product;\n", "dot4I8Packed(1u, u32(x[id.x])) *", json!([])),
    ] {
        let (manifest, text) = check(before, value, features);
        let plan = checked(&manifest, &[&text]).unwrap();
        assert!(plan.features.is_sorted());
    }
}

#[test]
fn a_device_that_a_plan_does_not_fit_is_told_why() {
    let plan = checked(&manifest(), &[SCALE]).unwrap();
    let roomy = DeviceLimits {
        storage_buffer_bytes_max: 1 << 27,
        buffer_bytes_max: 1 << 28,
        storage_buffers_max: 8,
        workgroup_invocations_max: 256,
        workgroup_bytes_max: 16384,
        workgroups_per_dimension_max: 65535,
    };
    assert_eq!(fits(&plan, &roomy, &[]), Ok(()));
    let misfit = |limits: DeviceLimits| fits(&plan, &limits, &[]).unwrap_err().to_string();
    assert_eq!(
        misfit(DeviceLimits { storage_buffer_bytes_max: 128, ..roomy }),
        "buffer x takes 256 bytes and the device allows 128"
    );
    assert_eq!(
        misfit(DeviceLimits { storage_buffers_max: 1, ..roomy }),
        "pass 0 binds 2 storage buffers and the device allows 1"
    );
    assert!(misfit(DeviceLimits { workgroup_invocations_max: 8, ..roomy }).contains("kernel scale needs"));
    let mut needs =
        with("/needs", json!({"features": ["shader-f16"], "storage_buffer_bytes_min": 1u64 << 30}));
    let plan = checked(&needs, &[SCALE]).unwrap();
    assert_eq!(fits(&plan, &roomy, &[]), Err(Misfit::Feature { feature: "shader-f16".into() }));
    needs["needs"]["features"] = json!([]);
    let plan = checked(&needs, &[SCALE]).unwrap();
    assert!(matches!(fits(&plan, &roomy, &[]), Err(Misfit::StorageBytes { .. })));
}

#[test]
fn hostile_text_is_refused_without_harm() {
    for body in [
        format!("fn f() {{ let x = {}1{}; }}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("fn f() {}{}", "{".repeat(20_000), "}".repeat(20_000)),
        format!("const x = {}1;", "-".repeat(900)),
        format!("const x = 1{};", "+1".repeat(990)),
        format!("alias a = {}u32{};", "array<".repeat(10_000), ",1>".repeat(10_000)),
        (0..8000).map(|i| format!("fn a{i}() {{ a{}(); }}\n", i + 1)).collect::<String>() + "fn a8000() {}",
        (0..8000).map(|i| format!("alias a{i}=a{};\n", i + 1)).collect::<String>() + "alias a8000=u32;",
    ] {
        let (manifest, text) = with_text(&format!("{SCALE}{body}"));
        // Accepted or refused, but answered.
        if let Err(error) = checked(&manifest, &[&text]) {
            assert!(matches!(error.code(), "wgsl_invalid" | "limits_exceeded"), "{error}");
        }
    }
}

#[test]
fn every_manifest_that_serialises_is_read_back() {
    let manifest: Manifest = serde_json::from_value(manifest()).unwrap();
    assert_eq!(parse(&manifest.to_bytes()).unwrap(), manifest);
}

/// The manifest above as a program on these buffers, verified so. Its text binds all of them.
fn verified(buffers: Value, verify: Value) -> (Value, String) {
    let element = |dtype: &str| if dtype == "f32" { "f32" } else { "u32" };
    let mut text = String::new();
    let names: Vec<_> = buffers.as_object().unwrap().keys().cloned().collect();
    for (binding, name) in names.iter().enumerate() {
        let buffer = &buffers[name];
        let written = buffer.get("input").is_none() && buffer.get("blob").is_none();
        let (access, dtype) =
            (if written { "read_write" } else { "read" }, buffer["dtype"].as_str().unwrap());
        text += &format!(
            "@group(0) @binding({binding}) var<storage, {access}> {name}: array<{}>;\n",
            element(dtype)
        );
    }
    let uses: String = names.iter().map(|name| format!("_ = {name}[0];")).collect();
    text += &format!("@compute @workgroup_size(1) fn main() {{ {uses} }}");
    let mut manifest = manifest();
    manifest["program"] = json!({
        "kernels": { "k": { "blob": Hash::of(text.as_bytes()), "entry": "main" } },
        "buffers": buffers,
        "passes": [{ "kernel": "k", "bind": names, "dispatch": [1] }],
    });
    manifest["limits"]["memory_bytes_max"] = json!(1 << 20);
    manifest["verify"] = verify;
    (manifest, text)
}

fn layer() -> Value {
    json!({
        "x": { "input": 0, "dtype": "i8", "shape": [2, 8, 4] },
        "w": { "input": 1, "dtype": "i8", "shape": [12, 4] },
        "b": { "input": 2, "dtype": "i32", "shape": [12] },
        "s": { "scratch": true, "dtype": "i32", "shape": [16, 12] },
        "y": { "output": 0, "dtype": "i32", "shape": [2, 8, 12] },
    })
}

fn dense() -> Value {
    json!({ "a": "x", "b": "w", "c": "y", "b_transposed": true, "bias": "b" })
}

fn freivalds(products: Value) -> Value {
    json!({ "policy": "freivalds", "products": products })
}

#[test]
fn policies_that_go_together_pass() {
    let audit = json!({ "policy": "audit", "rate_min": 0.1 });
    for verify in [
        freivalds(json!([dense()])),
        json!([freivalds(json!([dense()])), audit, { "policy": "canary" }]),
        json!([{ "policy": "algebraic", "relations": [{ "relation": "product", "a": "x", "b": "w", "c": "y", "b_transposed": true }] }]),
        json!({ "policy": "quorum", "agree": 3, "of": 5 }),
        json!({ "policy": "canary" }),
    ] {
        let (manifest, text) = verified(layer(), verify.clone());
        checked(&manifest, &[&text]).unwrap_or_else(|error| panic!("{verify}: {error}"));
    }
    let lines = json!({
        "x": { "input": 0, "dtype": "i32", "shape": [4, 8] },
        "y": { "output": 0, "dtype": "i32", "shape": [4, 8] },
    });
    let sorted = json!({ "policy": "algebraic", "relations": [{ "relation": "sorted", "input": "x", "output": "y" }] });
    let (manifest, text) = verified(lines, sorted);
    checked(&manifest, &[&text]).unwrap();
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    let audit = json!({ "policy": "audit", "rate_min": 0.1 });
    let quorum = json!({ "policy": "quorum", "agree": 2 });
    for (verify, field, message) in [
        (json!([]), "verify", "no policy"),
        (json!([audit, audit]), "verify[1]", "audit stands twice"),
        (json!([audit, quorum]), "verify", "do not go together"),
        (json!([audit, { "policy": "quorum", "agree": 9 }]), "verify", "do not go together"),
        (
            json!([{ "policy": "canary" }, { "policy": "audit", "rate_min": 2.0 }]),
            "verify[1].rate_min",
            "0 and 1",
        ),
        (json!({ "policy": "quorum", "agree": 3, "of": 2 }), "verify.of", "between 3 and 5"),
        (json!({ "policy": "quorum", "agree": 2, "of": 4 }), "verify.agree", "no majority"),
        (
            json!([freivalds(json!([dense()])), { "policy": "algebraic", "relations": [] }]),
            "verify",
            "do not go together",
        ),
        (json!([{ "policy": "freivalds", "products": [dense()], "rate": 1.5 }]), "verify[0].rate", "0 and 1"),
    ] {
        let (manifest, text) = verified(layer(), verify);
        refuses(&manifest, &text, "manifest_invalid", field, message);
    }
}

#[test]
fn relations_fit_the_buffers_they_name() {
    let with = |key: &str, value: Value| {
        let mut product = dense();
        product[key] = value;
        freivalds(json!([product]))
    };
    let lines = |input: &str| json!({ "policy": "algebraic", "relations": [{ "relation": "sorted", "input": input, "output": "y" }] });
    for (verify, field, message) in [
        (with("a", json!("z")), "verify.products[0].a", "no buffer \"z\""),
        (with("a", json!("s")), "verify.products[0].a", "scratch"),
        (with("c", json!("b")), "verify.products[0].c", "not an output"),
        (
            with("b_transposed", json!(false)),
            "verify.products[0].b",
            "[2, 8, 4] times [12, 4] is not [2, 8, 12]",
        ),
        (with("a", json!("w")), "verify.products[0].b", "[12, 4] times"),
        (with("a", json!("b")), "verify.products[0].a", "two axes"),
        (with("bias", json!("x")), "verify.products[0].bias", "x is i8"),
        (lines("x"), "verify.relations[0].output", "y is i32"),
    ] {
        let (manifest, text) = verified(layer(), verify);
        refuses(&manifest, &text, "manifest_invalid", field, message);
    }
    let (manifest, text) = verified(layer(), freivalds(json!([])));
    refuses(&manifest, &text, "limits_exceeded", "verify.products", "1 to 16");
    let mut floats = layer();
    floats["y"]["dtype"] = json!("f32");
    let (manifest, text) = verified(floats, with("bias", Value::Null));
    refuses(&manifest, &text, "manifest_invalid", "verify.products[0].c", "i8 and i8 in f32");
}

#[test]
fn what_the_market_checks_alone_settles_every_output() {
    let mut buffers = layer();
    buffers["n"] = json!({ "output": 1, "dtype": "u32", "shape": [1] });
    let (manifest, text) = verified(buffers.clone(), freivalds(json!([dense()])));
    refuses(&manifest, &text, "manifest_invalid", "verify.products", "no relation settles the output n");
    let audited = json!([freivalds(json!([dense()])), { "policy": "audit", "rate_min": 0.0 }]);
    let (manifest, text) = verified(buffers, audited);
    checked(&manifest, &[&text]).unwrap();
    // What an output is made of has to be settled before it.
    let square = |input: &str| json!({ input: 0, "dtype": "i32", "shape": [4, 4] });
    let mut second = square("output");
    second["output"] = json!(1);
    let chain = json!({ "x": square("input"), "y": square("output"), "z": second });
    let product = |a: &str, c: &str| json!({ "a": a, "b": "x", "c": c });
    let (manifest, text) = verified(chain.clone(), freivalds(json!([product("x", "y"), product("y", "z")])));
    checked(&manifest, &[&text]).unwrap();
    let (manifest, text) = verified(chain, freivalds(json!([product("z", "y"), product("y", "z")])));
    refuses(
        &manifest,
        &text,
        "manifest_invalid",
        "verify.products[0]",
        "z is an output that no relation before",
    );
}
