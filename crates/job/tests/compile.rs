//! What a job file becomes.

use std::collections::BTreeMap;

use plexus_job::{CompiledJob, Priority, Terms, codec, compile};
use protocol::{
    Amount, Hash, JoinFormat, JoinLayout, PublicKey,
    manifest::{Compare, Dispatch, Dtype, JobKind, Policy},
};

/// A job with these inputs and outputs.
#[track_caller]
fn job(sections: &str, files: &[(&'static str, Vec<u8>)]) -> CompiledJob {
    let names: Vec<&str> = sections.lines().filter_map(|line| line.strip_prefix('[')).collect();
    let names = names.iter().filter_map(|line| line.split_once('.')?.1.strip_suffix(']'));
    let bind: Vec<&str> = names.collect();
    let text = format!(
        "version = 1\nname = \"test\"\n[kernels.k]\nfile = \"k.wgsl\"\n{sections}\n\
         [[passes]]\nkernel = \"k\"\nbind = {bind:?}\ndispatch = [1]\n[pay]\nunit_price = \"0.5\"\n"
    );
    let mut all: BTreeMap<&str, Vec<u8>> = files.iter().cloned().collect();
    all.insert("k.wgsl", b"@compute @workgroup_size(1) fn main() {}".to_vec());
    compile(&text, "job.toml", &all).unwrap_or_else(|error| panic!("{error}"))
}

/// What unit `unit` sees as input `input`.
fn seen(job: &CompiledJob, input: usize, unit: u64) -> Vec<u8> {
    let split = job.inputs[input];
    split.unit_bytes(unit, &job.blobs[&split.blob]).into_owned()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect()
}

#[test]
fn the_parts_land_in_the_manifest() {
    let text = r#"
version = 1
name = "parts"
kind = "training"
priority = "high"
deadline_s = 3600
attempts_max = 7
[kernels.k]
file = "k.wgsl"
entry = "start"
overrides = { A = "auto", B = 7 }
[inputs.w]
file = "w.npy"
resident = "layer0"
[scratch.s]
dtype = "f32"
shape = [2, 2]
[outputs.second]
dtype = "f32"
shape = [3]
compare = { abs = 1, rel = 0.5, outliers_max = 0.25, mean_abs_max = 2 }
[outputs.first]
dtype = "u8"
shape = [5]
[[passes]]
kernel = "k"
bind = ["w", "s", "second", "first"]
dispatch = [2, "ceil(9/A)"]
[verify]
policy = "quorum"
agree = 3
[pay]
unit_price = 2
budget = "7.5"
royalty = { account = "4vJ9JU1bJJE96FWSJKvHsmmFADCg4gpZQff4P3bkLKi", bps = 250 }
[needs]
features = ["shader-f16"]
[limits]
time_ms_max = 1234
[schedule]
package_units = 4
"#;
    let files = BTreeMap::from([
        ("k.wgsl", b"fn start() {}".to_vec()),
        ("w.npy", codec::npy::encode(Dtype::I8, &[2, 3], &[1, 2, 3, 4, 5, 6])),
    ]);
    let job = compile(text, "job.toml", &files).unwrap_or_else(|error| panic!("{error}"));
    let manifest = &job.manifest;
    assert_eq!((manifest.version, manifest.kind), (1, JobKind::Training));
    assert_eq!((job.units, job.inputs.len(), job.joins.len()), (1, 0, 0));
    assert_eq!((job.unit_price, job.budget), (Some(Amount(2_000_000_000)), Some(Amount(7_500_000_000))));
    let royalty = Some((PublicKey([1; 32]), 250));
    let (deadline_s, attempts_max) = (Some(3_600), Some(7));
    assert_eq!(job.terms, Terms { priority: Some(Priority::High), deadline_s, attempts_max, royalty });
    assert_eq!(
        (job.package_units, manifest.verify.clone()),
        (Some(4), Policy::Quorum { agree: 3, of: None }.into())
    );
    let kernel = &manifest.program.kernels["k"];
    assert_eq!((kernel.blob, &kernel.entry[..]), (Hash::of(b"fn start() {}"), "start"));
    assert_eq!(job.blobs[&kernel.blob], "fn start() {}");
    let buffers = &manifest.program.buffers;
    assert_eq!(buffers["w"].blob, Some(Hash::of(&[1, 2, 3, 4, 5, 6])), "the numbers alone, without a header");
    assert_eq!((&buffers["w"].shape[..], buffers["w"].resident.as_deref()), (&[2, 3][..], Some("layer0")));
    assert!(buffers["s"].scratch);
    // Outputs are numbered in the order of the text.
    assert_eq!((buffers["second"].output, buffers["first"].output), (Some(0), Some(1)));
    assert_eq!(buffers["first"].compare, Some(Compare::default()));
    assert!(matches!(buffers["second"].compare, Some(Compare::Within(t)) if t.mean_abs_max == Some(2.0)));
    assert_eq!(
        manifest.program.passes[0].dispatch,
        [Dispatch::Count(2), Dispatch::Expression("ceil(9/A)".into())]
    );
    // w 6 → 8, s 16, second 12, first 5 → 8 bytes.
    assert_eq!((manifest.limits.memory_bytes_max, manifest.limits.time_ms_max), (44, 1234));
    assert_eq!(
        (manifest.needs.storage_buffer_bytes_min, &manifest.needs.features[..]),
        (16, &["shader-f16".to_owned()][..])
    );
    let bytes = manifest.to_bytes();
    assert_eq!(serde_json::from_slice::<protocol::Manifest>(&bytes).unwrap(), *manifest);
}

#[test]
fn rows_are_split_and_the_last_unit_is_padded() {
    let rows = codec::npy::encode(Dtype::U8, &[5, 3], &(1..=15).collect::<Vec<u8>>());
    let job = job(
        "[inputs.x]\nfile = \"x.npy\"\nsplit = { axis = 0, size = 2 }\n\
         [outputs.y]\ndtype = \"i32\"\nshape = [2]\njoin = { file = \"y.csv\", columns = [\"sum\"] }\n\
         [outputs.z]\ndtype = \"i32\"\nshape = [1]\njoin = { file = \"z.csv\" }\n\
         [outputs.h]\ndtype = \"i32\"\nshape = [2]\njoin = { file = \"h.npy\", layout = \"stack\" }",
        &[("x.npy", rows)],
    );
    assert_eq!((job.units, job.manifest.program.buffers["x"].input), (3, Some(0)));
    assert_eq!(job.manifest.program.buffers["x"].shape, [2, 3]);
    assert_eq!(seen(&job, 0, 1), [7, 8, 9, 10, 11, 12]);
    assert_eq!(seen(&job, 0, 2), [13, 14, 15, 0, 0, 0]);
    let layouts: Vec<JoinLayout> = job.joins.iter().map(|join| join.layout).collect();
    assert_eq!(
        layouts,
        [
            JoinLayout::Axis { rows_total: 5, rows_per_unit: 2 },
            JoinLayout::Axis { rows_total: 3, rows_per_unit: 1 },
            JoinLayout::Stack,
        ]
    );
    assert_eq!(
        (&job.joins[0].columns[..], &job.joins[1].columns[..]),
        (&["sum".to_owned()][..], &["z".to_owned()][..])
    );
}

#[test]
fn another_axis_can_be_split() {
    let columns = codec::npy::encode(Dtype::U8, &[2, 3], &[1, 2, 3, 4, 5, 6]);
    let job = job(
        "[inputs.x]\nfile = \"x.npy\"\nsplit = { axis = 1, size = 2 }\n[outputs.y]\ndtype = \"i32\"\nshape = [2]",
        &[("x.npy", columns)],
    );
    assert_eq!(job.manifest.program.buffers["x"].shape, [2, 2]);
    assert_eq!((seen(&job, 0, 0), seen(&job, 0, 1)), (vec![1, 2, 4, 5], vec![3, 0, 6, 0]));
}

#[test]
fn a_picture_is_split_into_tiles_beside_their_places() {
    let picture = codec::png::encode(3, 2, 1, &[1, 2, 3, 4, 5, 6]).unwrap();
    let job = job(
        "[inputs.tile]\ntiles = { width = 3, height = 2, tile = [2, 1] }\n\
         [inputs.x]\nfile = \"x.png\"\nsplit = { tile = [2, 1] }\n\
         [outputs.y]\ndtype = \"f32\"\nshape = [1, 2, 3]\njoin = { file = \"y.png\" }\n\
         [outputs.n]\ndtype = \"u32\"\nshape = [1]\njoin = { file = \"n.csv\" }",
        &[("x.png", picture)],
    );
    assert_eq!(job.units, 4);
    assert_eq!((words(&seen(&job, 0, 3)), seen(&job, 1, 3)), (vec![2, 1, 2, 1], vec![6, 0]));
    assert_eq!((words(&seen(&job, 0, 0)), seen(&job, 1, 0)), (vec![0, 0, 2, 1], vec![1, 2]));
    let layout = JoinLayout::Tiles { width: 3, height: 2, tile_width: 2, tile_height: 1 };
    assert_eq!((job.joins[0].format, job.joins[0].layout), (JoinFormat::Png, layout));
    assert_eq!(job.joins[1].layout, JoinLayout::Stack, "a number a tile");
}

#[test]
fn sweeps_are_crossed_with_the_last_fastest() {
    let job = job(
        "[inputs.n]\nsweep = { from = 1, to = 3 }\ndtype = \"u32\"\n\
         [inputs.fixed]\nvalue = [[1, 2], [3, 4]]\n\
         [inputs.rate]\nsweep = { from = 0.01, to = 1, count = 3, log = true }\n\
         [outputs.y]\ndtype = \"f32\"\nshape = [2]\njoin = { file = \"y.csv\" }"
            .replace("[[1, 2], [3, 4]]", "[1, 2, 3, 4]\nshape = [2, 2]")
            .as_str(),
        &[],
    );
    assert_eq!(job.units, 9);
    let combinations: Vec<(u32, f32)> =
        (0..9).map(|unit| (words(&seen(&job, 0, unit))[0], floats(&seen(&job, 1, unit))[0])).collect();
    assert_eq!(combinations[..4], [(1, 0.01), (1, 0.1), (1, 1.0), (2, 0.01)]);
    assert_eq!(job.manifest.program.buffers["fixed"].shape, [2, 2]);
    let join = &job.joins[0];
    assert_eq!(
        (join.layout, &join.columns[..]),
        (JoinLayout::Stack, &["y_0".to_owned(), "y_1".to_owned()][..])
    );
    assert_eq!(join.parameters.iter().map(|p| &p.name[..]).collect::<Vec<_>>(), ["n", "rate"]);
    // The table shows what was varied.
    let outputs =
        (0..9).map(|unit| Some([unit as f32, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()));
    let file = plexus_job::join(join, &job.manifest, job.units, outputs, |hash| job.blobs.get(hash).cloned())
        .unwrap();
    let text = String::from_utf8(file.bytes).unwrap();
    assert!(text.starts_with("n,rate,y_0,y_1\n1,0.01,0.0,0.5\n1,0.1,1.0,0.5\n"), "{text}");
}

#[test]
fn steps_reach_their_end_in_decimal_fractions() {
    let job = job(
        "[inputs.x]\nsweep = { from = 0, to = 0.3, step = 0.1 }\n[inputs.down]\nsweep = { from = 1, to = 0, step = -1 }\n\
         [outputs.y]\ndtype = \"f32\"\nshape = [1]",
        &[],
    );
    assert_eq!(job.units, 8);
    assert_eq!(floats(&seen(&job, 0, 7)), [0.3]);
    assert_eq!(floats(&seen(&job, 1, 7)), [0.0]);
}

#[test]
fn raw_files_are_read_by_range() {
    let raw: Vec<u8> = (0..20).collect();
    let job = job(
        "[inputs.x]\nfile = \"x.bin\"\ndtype = \"u8\"\nshape = [4, 2]\noffset = 3\nlength = 8\n\
         split = { axis = 0, size = 3 }\n[outputs.y]\ndtype = \"u8\"\nshape = [3]",
        &[("x.bin", raw)],
    );
    assert_eq!((seen(&job, 0, 0), seen(&job, 0, 1)), ((3..9).collect(), vec![9, 10, 0, 0, 0, 0]));
}

#[test]
fn tables_and_conversions_are_read() {
    let job = job(
        "[inputs.a]\nfile = \"a.csv\"\n[inputs.b]\nfile = \"a.csv\"\ndtype = \"i8\"\nshape = [4]\n\
         [outputs.y]\ndtype = \"u8\"\nshape = [3]",
        &[("a.csv", b"x,y\n1,-2\n3,4\n".to_vec())],
    );
    let buffers = &job.manifest.program.buffers;
    assert_eq!((buffers["a"].dtype, &buffers["a"].shape[..]), (Dtype::F32, &[2, 2][..]));
    assert_eq!((buffers["b"].dtype, &buffers["b"].shape[..]), (Dtype::I8, &[4][..]));
    assert_eq!(job.blobs[&buffers["b"].blob.unwrap()][..], [1, 0xfe, 3, 4]);
    assert_eq!((job.units, job.manifest.limits.time_ms_max), (1, 10_000));
    assert_eq!(job.manifest.verify, Policy::Audit { rate_min: 0.05 }.into());
}

/// Two units of a dense layer, verified so.
fn verified(verify: &str) -> Result<plexus_job::CompiledJob, plexus_job::JobError> {
    let text = format!(
        r#"
version = 1
name = "layer"
[kernels.k]
file = "k.wgsl"
[inputs.x]
file = "x.npy"
split = {{ axis = 0, size = 1 }}
[inputs.w]
file = "x.npy"
[outputs.y]
dtype = "i8"
shape = [1, 2]
[outputs.n]
dtype = "i32"
shape = [1]
[[passes]]
kernel = "k"
bind = ["x", "w", "y", "n"]
dispatch = [1]
{verify}"#
    );
    let files = BTreeMap::from([
        ("k.wgsl", b"fn main() {}".to_vec()),
        ("x.npy", codec::npy::encode(Dtype::I8, &[2, 2], &[1, 2, 3, 4])),
        ("known/0.npy", codec::npy::encode(Dtype::I8, &[1, 2], &[5, 6])),
        ("known/1.npy", codec::npy::encode(Dtype::I8, &[1, 2], &[7, 8])),
        ("known/raw.bin", vec![5, 6]),
    ]);
    compile(&text, "job.toml", &files)
}

#[test]
fn policies_are_combined() {
    let job = verified(
        r#"
[[verify]]
policy = "quorum"
agree = 2
of = 3
[[verify]]
policy = "freivalds"
products = [{ a = "x", b = "w", c = "y", b_transposed = true, bias = "n" }]
rate = 0.5
[[verify]]
policy = "canary"
units = [1, 0]
outputs = { y = "known/{unit}.npy", n = [[-1], [9]] }
"#,
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let verify = &job.manifest.verify;
    assert_eq!((verify.quorum(), verify.audit_rate_min(), verify.canaries()), (Some((2, 3)), None, true));
    let (relations, rate) = verify.relations().expect("products");
    assert_eq!((relations.len(), rate), (1, 0.5));
    let outputs = |y: &[u8], n: i32| {
        let n = n.to_le_bytes();
        vec![(Hash::of(y), 2), (Hash::of(&n), 4)]
    };
    let canaries: Vec<_> = job.canaries.iter().map(|canary| (canary.unit, canary.outputs.clone())).collect();
    assert_eq!(canaries, [(0, outputs(&[5, 6], 9)), (1, outputs(&[7, 8], -1))]);
    assert!(canaries.iter().flat_map(|(_, outputs)| outputs).all(|(blob, _)| job.blobs.contains_key(blob)));

    let sorted = "[verify]\npolicy = \"algebraic\"\nrelations = [{ relation = \"sorted\", input = \"x\", output = \"y\", descending = true }]";
    let job = verified(sorted).unwrap_or_else(|error| panic!("{error}"));
    let stated = r#"{"policy":"algebraic","relations":[{"relation":"sorted","input":"x","output":"y","descending":true}],"rate":1.0}"#;
    assert_eq!(serde_json::to_string(&job.manifest.verify).unwrap(), stated);

    let raw = "[verify]\npolicy = \"canary\"\nunits = [0]\noutputs = { y = \"known/raw.bin\", n = [[9]] }";
    let job = verified(raw).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(job.canaries[0].outputs, outputs(&[5, 6], 9));
}

#[test]
fn policies_that_make_no_sense_are_explained() {
    let canary = |units: &str, outputs: &str| {
        format!("[verify]\npolicy = \"canary\"\nunits = {units}\noutputs = {outputs}")
    };
    let both = "{ y = \"known/{unit}.npy\", n = [[1], [2]] }";
    for (verify, message) in [
        ("[verify]\npolicy = \"audit\"\nof = 3".to_owned(), "\"of\" belongs to the policy \"quorum\""),
        ("[verify]\npolicy = \"quorum\"\nagree = 2\nof = 4".into(), "more than half of 2 to 3"),
        ("[verify]\npolicy = \"freivalds\"".into(), "needs \"products\""),
        ("[verify]\npolicy = \"freivalds\"\nproducts = []\nrate = 7".into(), "a share, 0 to 1"),
        ("[verify]\npolicy = \"canary\"\nunits = [1]".into(), "needs \"outputs\""),
        (canary("[2, 0]", both), "no unit 2"),
        (canary("[0, 0]", both), "stands twice"),
        (canary("[]", both), "at least one unit"),
        (canary("[0, 1]", "{ y = \"known/0.npy\", n = [[1], [2]] }"), "another name"),
        (canary("[0, 1]", "{ y = \"known/{unit}.npy\", n = [[1]] }"), "2 units are known, and 1 lists"),
        (canary("[0, 1]", "{ y = \"known/{unit}.npy\" }"), "\"n\" of a canary is missing"),
        (canary("[0]", "{ y = [[1, 2]], n = [[1]], z = [[1]] }"), "no output \"z\""),
        (canary("[0]", "{ y = [[1, 2, 3]], n = [[1]] }"), "puts out 2 bytes, and 3 are known"),
        (canary("[0]", "{ y = [[1, 200]], n = [[1]] }"), "200"),
    ] {
        let error = verified(&verify).expect_err(message);
        assert!(error.to_string().contains(message), "{error} does not say {message:?}");
    }
}
