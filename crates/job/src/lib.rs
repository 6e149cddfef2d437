//! Job files: from a person's TOML to a manifest, blobs and units, and from outputs back to a file.
//!
//! [`compile`] reads a job file and the data that it names into a [`CompiledJob`], which is everything that a market is told;
//! mistakes come back as a [`JobError`] with line, column and what to do. [`join`] makes one file of the units' outputs.
//! `docs/job-file.md` explains the keys, and `docs/job-file.schema.json` is [`schema`].
//!
//! Only [`Folder`] touches a file system. Whether the kernels compile, and fit their buffers, is the `program` crate's question.

mod array;
pub mod codec;
mod compile;
mod error;
mod file;
mod graph;
mod join;
mod source;
mod split;
mod template;
mod verify;

pub use array::{ARRAY_BYTES_MAX, Array, Unfit};
pub use compile::{CompiledJob, Terms, compile};
pub use error::{Code, JobError, toml_mistake, unknown_key, wrong_value};
pub use file::Priority;
pub use graph::{Compiled, CompiledGraph, CompiledStage, Gather, Loop, Until, compile_any};
pub use join::{Agreement, COLUMNS_MAX, JoinError, JoinedFile, check_join, join};
pub use source::{FileSource, Folder};
pub use split::UNITS_MAX;
pub use template::{TemplateFile, template};
pub use verify::Canary;

/// The JSON Schema of a job file (for editors: TOML tools read it too).
pub fn schema() -> serde_json::Value {
    /// Either form of a job file.
    #[derive(schemars::JsonSchema)]
    #[schemars(title = "Plexus job file", untagged)]
    #[expect(dead_code, reason = "only its schema is asked for")]
    enum Form {
        Plain(file::JobFile),
        Stages(file::GraphFile),
    }
    let mut schema = schemars::schema_for!(Form).to_value();
    drop_null(&mut schema);
    schema
}

/// [`schema`] as it is committed in `docs/job-file.schema.json`.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// Removes the alternative `null` of optional keys: TOML has none.
fn drop_null(schema: &mut serde_json::Value) {
    use serde_json::{Value, json};
    let Value::Object(object) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(drop_null);
        }
        return;
    };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            object["type"] = only.clone();
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| *choice != json!({ "type": "null" }));
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            object.remove("anyOf");
            object.extend(only);
        }
    }
    object.values_mut().for_each(drop_null);
}
