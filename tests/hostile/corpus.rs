//! Reads `corpus.json`: programs that mean harm, and what must come of them. The tests of two crates include this file.

use std::collections::BTreeMap;

use protocol::Hash;
use serde::Deserialize;
use serde_json::{Value, json};

/// One program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    #[expect(dead_code, reason = "for readers of the corpus")]
    about: String,
    #[serde(default)]
    wgsl: Vec<Part>,
    #[serde(default)]
    module: Vec<Part>,
    #[serde(default)]
    main: Vec<Part>,
    #[serde(default)]
    json: Vec<Part>,
    #[serde(default)]
    overrides: Value,
    #[serde(default)]
    buffers: Value,
    #[serde(default)]
    passes: Value,
    #[serde(default)]
    limits: Value,
    #[serde(default)]
    needs: Value,
    #[serde(default)]
    set: BTreeMap<String, Value>,
    inputs: Option<Vec<Vec<u32>>>,
    pub after: Option<String>,
    pub refused: Option<Refused>,
    pub gives: Option<Vec<u32>>,
    pub of: Option<Vec<u32>>,
    #[serde(default)]
    pub ends: Vec<String>,
    #[expect(dead_code, reason = "for the browsers' test")]
    browser: Option<Value>,
}

/// What the check says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "not every test looks at what is refused")]
pub struct Refused {
    pub code: String,
    pub says: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Part {
    Line(String),
    Repeated { repeat: String, times: u32 },
}

/// The corpus.
pub fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("corpus.json")).expect("the corpus is as its README says")
}

fn text(parts: &[Part]) -> String {
    let written = parts.iter().map(|part| match part {
        Part::Line(line) => line.clone(),
        Part::Repeated { repeat, times } => (0..*times)
            .map(|i| repeat.replace("{i}", &i.to_string()).replace("{j}", &(i + 1).to_string()))
            .collect(),
    });
    written.collect::<Vec<_>>().join("\n")
}

impl Case {
    /// The kernel's text.
    pub fn text(&self) -> String {
        if !self.wgsl.is_empty() {
            return text(&self.wgsl);
        }
        format!(
            "@group(0) @binding(0) var<storage, read> x: array<u32>;\n\
             @group(0) @binding(1) var<storage, read_write> y: array<u32>;\n\
             {}\n@compute @workgroup_size(1)\nfn main() {{\n{}\n}}",
            text(&self.module),
            text(&self.main)
        )
    }

    /// The texts of its kernels, as the check takes them.
    pub fn kernels(&self) -> BTreeMap<Hash, String> {
        let text = self.text();
        [(Hash::of(text.as_bytes()), text)].into()
    }

    /// The bytes of its manifest.
    pub fn manifest(&self) -> Vec<u8> {
        if !self.json.is_empty() {
            return text(&self.json).into_bytes();
        }
        let or = |given: &Value, otherwise: Value| if given.is_null() { otherwise } else { given.clone() };
        let word = |source: &str| json!({ source: 0, "dtype": "u32", "shape": [4] });
        let passes = match self.passes.get("repeat") {
            Some(pass) => {
                let times = self.passes["times"].as_u64().expect("a number of times");
                Value::from(vec![pass.clone(); times as usize])
            }
            None => or(&self.passes, json!([{ "kernel": "k", "bind": ["x", "y"], "dispatch": [1] }])),
        };
        let mut limits = json!({ "memory_bytes_max": 1 << 20, "time_ms_max": 10_000 });
        for (name, value) in self.limits.as_object().into_iter().flatten() {
            limits[name] = value.clone();
        }
        let mut manifest = json!({
            "version": 1, "runtime": "wgsl", "kind": "batch",
            "program": {
                "kernels": {
                    "k": {
                        "blob": Hash::of(self.text().as_bytes()),
                        "entry": "main",
                        "overrides": or(&self.overrides, json!({}))
                    }
                },
                "buffers": or(&self.buffers, json!({ "x": word("input"), "y": word("output") })),
                "passes": passes
            },
            "limits": limits,
            "needs": or(&self.needs, json!({})),
            "verify": { "policy": "audit", "rate_min": 0.0 }
        });
        for (pointer, value) in &self.set {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            let parent = manifest.pointer_mut(parent).expect("a pointer to something");
            let fields = parent.as_object_mut().expect("a pointer into an object");
            if value.is_null() {
                fields.remove(key);
            } else {
                fields.insert(key.to_owned(), value.clone());
            }
        }
        serde_json::to_vec(&manifest).expect("JSON is written")
    }

    /// What a unit sees, for inputs of these lengths.
    #[allow(dead_code, reason = "not every test runs programs")]
    pub fn inputs(&self, lengths: impl Iterator<Item = u64>) -> Vec<Vec<u8>> {
        let given = self.inputs.clone().unwrap_or_else(|| vec![vec![11, 12, 13, 14]]);
        let bytes = given.into_iter().map(|words| words.into_iter().flat_map(u32::to_le_bytes));
        bytes.zip(lengths).map(|(bytes, length)| bytes.take(length as usize).collect()).collect()
    }
}
