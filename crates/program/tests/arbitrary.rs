//! Whatever somebody calls a manifest or a kernel: the check answers, and what it lets through is within its bounds.

use std::collections::BTreeMap;

use plexus_program::{
    BUFFER_BYTES_MAX, INVOCATIONS_MAX, MEMORY_BYTES_MAX, PASSES_MAX, Plan, ProgramError, WORKGROUPS_MAX,
    check, parse,
};
use proptest::prelude::*;
use protocol::Hash;
use serde_json::{Value, json};

const KERNEL: &str = "override TILE: u32 = 8;
@group(0) @binding(0) var<storage, read> x: array<i32>;
@group(0) @binding(1) var<storage, read_write> y: array<i32>;
@compute @workgroup_size(TILE)
fn main(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = x[id.x] * 2; }
";

fn manifest(text: &str) -> Value {
    json!({
        "version": 1, "runtime": "wgsl", "kind": "batch",
        "program": {
            "kernels": { "k": { "blob": Hash::of(text.as_bytes()), "entry": "main", "overrides": { "TILE": 8 } } },
            "buffers": {
                "x": { "input": 0, "dtype": "i32", "shape": [64] },
                "y": { "output": 0, "dtype": "i32", "shape": [8, 8], "compare": "exact" }
            },
            "passes": [{ "kernel": "k", "bind": ["x", "y"], "dispatch": ["ceil(64/TILE)", 1] }]
        },
        "limits": { "memory_bytes_max": 1024, "time_ms_max": 1000 },
        "needs": { "features": ["subgroups"], "storage_buffer_bytes_min": 0 },
        "verify": { "policy": "audit", "rate_min": 0.05 }
    })
}

/// Every place in a value, as a JSON pointer.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, item)| pointers(item, &format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

/// Values that programs trip over, and some that belong there.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![
            0u64,
            1,
            7,
            63,
            64,
            65_535,
            65_536,
            1 << 31,
            u32::MAX.into(),
            1 << 53,
            u64::MAX
        ])
        .prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "x",
            "y",
            "k",
            "main",
            "auto",
            "exact",
            "f16",
            "u8",
            "f32",
            "audit",
            "quorum",
            "TILE",
            "TILE * TILE",
            "1 - 2",
            "ceil(1/0)",
            "4294967295 * 4294967295",
            "((((",
            "__proto__",
            "a\u{0}b",
            "ä",
            "long-loops",
        ])
        .prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z_.\u{1}]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn checked(manifest: &[u8], text: &str) -> Result<Plan, ProgramError> {
    check(&parse(manifest)?, &BTreeMap::from([(Hash::of(text.as_bytes()), text.to_owned())]))
}

/// What everybody who runs a plan relies on.
fn is_within_bounds(plan: &Plan) {
    assert!(plan.memory_bytes <= MEMORY_BYTES_MAX && plan.passes.len() <= PASSES_MAX);
    assert!(plan.buffers.iter().all(|buffer| (1..=BUFFER_BYTES_MAX).contains(&buffer.size_bytes)));
    for (number, pass) in plan.passes.iter().enumerate() {
        let kernel = &plan.kernels[pass.kernel];
        assert!(pass.bind.iter().all(|binding| binding.buffer < plan.buffers.len()));
        for variant in &kernel.variants {
            assert!((1..=INVOCATIONS_MAX).contains(&variant.invocations()));
            let groups =
                plan.dispatch(number, &kernel.overrides(variant.auto)).expect("a dispatch has a value");
            assert!(groups.iter().all(|count| (1..=WORKGROUPS_MAX).contains(count)));
        }
    }
}

fn is_answered(answer: Result<Plan, ProgramError>) {
    match answer {
        Ok(plan) => is_within_bounds(&plan),
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.fix().is_empty());
            assert!(!error.to_string().contains("compiler failed"), "the check panicked");
        }
    }
}

/// Pieces of WGSL, more or less.
fn pieces() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "const ",
        "a",
        "b",
        " = ",
        "1",
        "0x7fffffffu",
        "4294967295u",
        "1e38f",
        "array",
        "<",
        ">",
        "(",
        ")",
        ",",
        ";",
        "{",
        "}",
        "[",
        "]",
        "+",
        "-",
        "*",
        "/",
        "%",
        "<<",
        ">>",
        "&",
        "!",
        ".x",
        "vec4",
        "f32",
        "u32",
        "bool",
        "struct S ",
        "S",
        ": ",
        "alias A = ",
        "A",
        "fn f() -> u32 ",
        "f()",
        "return ",
        "var ",
        "let ",
        "if ",
        "else ",
        "loop ",
        "for ",
        "break;",
        "switch ",
        "case ",
        "default: ",
        "override ",
        "@id(1) ",
        "@workgroup_size(1) ",
        "@compute ",
        "var<workgroup> ",
        "var<private> ",
        "x[0]",
        "y[0]",
        "&y",
        "//",
        "/*",
        "*/",
        "\n",
        "\r",
        "\u{2028}",
        "enable f16;",
        "atomic",
        "select",
        "max",
        "bitcast",
        "workgroupBarrier();",
        "discard;",
        "const_assert ",
        "true",
        "é",
    ])
}

proptest! {
    #[test]
    fn bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn manifests_are_answered(changes in prop::collection::vec((any::<prop::sample::Index>(), values(), any::<bool>()), 1..4)) {
        let mut manifest = manifest(KERNEL);
        for (index, value, rename) in changes {
            let mut found = Vec::new();
            pointers(&manifest, "", &mut found);
            let place = manifest.pointer_mut(&found[index.index(found.len())]).expect("it was found there");
            match (place, value) {
                // Another name for a field, rather than another value.
                (Value::Object(fields), Value::String(name)) if rename => {
                    if let Some(old) = fields.keys().next().cloned()
                        && let Some(moved) = fields.remove(&old)
                    {
                        fields.insert(name, moved);
                    }
                }
                (place, value) => *place = value,
            }
        }
        is_answered(checked(&serde_json::to_vec(&manifest).unwrap(), KERNEL));
    }

    #[test]
    fn texts_are_answered(
        pieces in prop::collection::vec(pieces(), 0..60),
        place in any::<prop::sample::Index>(),
    ) {
        // Before the kernel, within it, or behind it.
        let lines: Vec<&str> = KERNEL.split_inclusive(['\n', ';']).collect();
        let at = place.index(lines.len() + 1);
        let text = [&lines[..at].concat(), &pieces.concat(), &lines[at..].concat()].map(|part| part.as_str()).concat();
        let mut manifest = manifest(&text);
        manifest["needs"] = json!({});
        is_answered(checked(&serde_json::to_vec(&manifest).unwrap(), &text));
    }
}
