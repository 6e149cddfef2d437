//! What is published about job files holds: the schema, the template and the examples.

use std::{collections::BTreeMap, fs, path::PathBuf};

use plexus_job::{
    CompiledJob, Folder, Gather, check_join, compile, compile_any, schema, schema_text, template,
};
use protocol::JoinLayout;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_committed_schema_is_the_current_one() {
    let path = root().join("docs/job-file.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, schema_text()).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let committed: serde_json::Value = serde_json::from_str(&committed).unwrap_or_default();
    assert!(
        committed == schema(),
        "docs/job-file.schema.json is out of date: UPDATE_SCHEMA=1 cargo test -p plexus-job --test published"
    );
}

#[track_caller]
fn check_program(job: &CompiledJob) {
    let kernels = job.manifest.program.kernels.values();
    let texts = kernels.map(|kernel| {
        (kernel.blob, String::from_utf8(job.blobs[&kernel.blob].to_vec()).expect("kernels are text"))
    });
    program::check(&job.manifest, &texts.collect()).unwrap_or_else(|error| panic!("{}: {error}", job.name));
    for join in &job.joins {
        check_join(join, &job.manifest, job.units).unwrap_or_else(|error| panic!("{}: {error}", job.name));
        join.blobs().for_each(|blob| assert!(job.blobs.contains_key(&blob)));
    }
    job.inputs.iter().for_each(|input| assert!(job.blobs.contains_key(&input.blob)));
}

#[test]
fn the_template_is_a_job_that_runs() {
    let files: BTreeMap<&str, &str> = template().iter().map(|file| (file.name, file.text)).collect();
    let job = compile(files["job.toml"], "job.toml", &files).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((job.units, job.joins.len()), (40, 1));
    let layout = JoinLayout::Tiles { width: 640, height: 400, tile_width: 80, tile_height: 80 };
    assert_eq!((&job.joins[0].file[..], job.joins[0].layout), ("mandelbrot.png", layout));
    check_program(&job);
}

fn example(name: &str) -> CompiledJob {
    let folder = root().join("examples").join(name);
    let text = fs::read_to_string(folder.join("job.toml")).unwrap();
    let job = compile(&text, "job.toml", &Folder(folder)).unwrap_or_else(|error| panic!("{error}"));
    check_program(&job);
    job
}

#[test]
fn the_digits_example_is_a_job_that_runs() {
    let job = example("digits");
    assert_eq!((job.units, &job.joins[0].file[..]), (75, "predictions.csv"));
    assert_eq!(job.joins[0].layout, JoinLayout::Axis { rows_total: 599, rows_per_unit: 8 });
    assert!(job.joins[0].expect.is_some());
}

#[test]
fn the_kmeans_example_is_a_loop_of_two_stages() {
    let folder = root().join("examples/kmeans");
    let text = fs::read_to_string(folder.join("job.toml")).unwrap();
    let graph = compile_any(&text, "job.toml", &Folder(folder))
        .unwrap_or_else(|error| panic!("{error}"))
        .into_graph();
    for stage in &graph.stages {
        let texts = stage.job.manifest.program.kernels.values().map(|kernel| {
            (kernel.blob, String::from_utf8(graph.blobs[&kernel.blob].to_vec()).expect("kernels are text"))
        });
        program::check(&stage.job.manifest, &texts.collect()).unwrap_or_else(|error| panic!("{error}"));
    }
    let [assign, update] = &graph.stages[..] else { panic!("{} stages", graph.stages.len()) };
    assert_eq!((assign.job.units, update.job.units, graph.units()), (57, 1, 58 * 60));
    let Gather { stage, step, count, length, initial, .. } = &update.gathers[&0];
    assert_eq!((&stage[..], *step, *count, *length, *initial), ("assign", 0, 57, 57 * 10 * 65 * 4, None));
    let Gather { stage, count, length, initial, .. } = &assign.gathers[&1];
    assert_eq!((&stage[..], *count, *length, initial.is_some()), ("update", 1, 10 * 64 * 4, true));
    let until = graph.iterate.and_then(|iterate| iterate.until).expect("it ends by itself");
    assert_eq!((&until.stage[..], until.output, until.equals), ("update", 0, None));
    let layout = JoinLayout::Axis { rows_total: 1797, rows_per_unit: 32 };
    assert_eq!((graph.joins[0].stage.as_deref(), graph.joins[0].layout), (Some("assign"), layout));
}

#[test]
fn a_mistake_in_a_stage_has_its_place() {
    let folder = root().join("examples/kmeans");
    let text = fs::read_to_string(folder.join("job.toml")).unwrap();
    let check = |from: &str, to: &str, line: u32, expected: &str| {
        assert!(text.contains(from), "{from}");
        let wrong = text.replacen(from, to, 1);
        let error = compile_any(&wrong, "job.toml", &Folder(folder.clone())).expect_err("a mistake");
        assert!(error.line() == line && error.to_string().contains(expected), "{error}");
    };
    let line = |found: &str| text[..text.find(found).unwrap()].matches('\n').count() as u32 + 1;
    check("assign.sums", "asign.sums", line("assign.sums"), "did you mean \"assign\"?");
    check("assign.sums", "assign.sum", line("assign.sums"), "did you mean \"sums\"?");
    check("all = true", "", line("assign.sums"), "all = true");
    check("previous = true", "", line("initial ="), "belongs to previous");
    check("unchanged = true", "equals = \"ones\"", line("until ="), "zeros");
}

#[test]
fn the_render_example_is_a_job_that_runs() {
    let job = example("render");
    assert_eq!(&job.joins[0].file[..], "render.png");
    assert!(matches!(job.joins[0].layout, JoinLayout::Tiles { width: 960, height: 540, .. }));
}

#[test]
fn the_documentation_names_every_key_and_its_example_compiles() {
    let text = fs::read_to_string(root().join("docs/job-file.md")).unwrap();
    let mut sections = vec![schema()];
    sections.extend(schema()["$defs"].as_object().unwrap().values().cloned());
    for section in &sections {
        for key in section["properties"].as_object().into_iter().flat_map(|keys| keys.keys()) {
            assert!(text.contains(key.as_str()), "docs/job-file.md does not mention {key}");
        }
    }
    let (_, example) = text.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let kernel = "override WIDTH: u32 = 64;
        @group(0) @binding(0) var<storage, read> x: array<f32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(WIDTH) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if id.x < arrayLength(&x) { y[id.x] = 2.0 * x[id.x]; }
        }";
    let files = BTreeMap::from([("double.wgsl", kernel), ("x.csv", "1,2,3\n4,5,6\n7,8,9\n")]);
    let job = compile(example, "job.toml", &files).unwrap_or_else(|error| panic!("{error}"));
    check_program(&job);
}
