//! A sealed job with real processes: the command line seals, native workers open, compute on a device and seal, and the market
//! with its verifier looks on.

use std::{fs, path::Path};

use plexus_tests::{Home, Market, Worker, number, until};

/// Of a mebibyte a unit, so that workers have the device decrypt it.
const ROW_WORDS: usize = 1 << 18;

/// Adds up what a unit sees, times a weight that all units share.
const SUM: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
var<workgroup> part: array<u32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    var sum = 0u;
    for (var at = i; at < 262144u; at += 64u) { sum += x[at]; }
    part[i] = sum;
    workgroupBarrier();
    if i == 0u {
        var total = 0u;
        for (var n = 0u; n < 64u; n++) { total += part[n]; }
        y[0] = total * w[0];
    }
}
";

const JOB: &str = r#"
version = 1
name = "sums"

[kernels.main]
file = "main.wgsl"

[inputs.x]
file = "x.npy"
split = { axis = 0, size = 1 }

[inputs.w]
file = "w.csv"
dtype = "u32"

[outputs.y]
dtype = "u32"
shape = [1]
join = { file = "y.npy" }

[[passes]]
kernel = "main"
bind = ["x", "w", "y"]
dispatch = [1]

[pay]
unit_price = "0.001"
"#;

/// A word that occurs in the input alone: a stretch of it is what is looked for.
fn word(i: usize) -> u32 {
    (i as u32).wrapping_mul(2_654_435_761) ^ 0x5ea1_ed00
}

/// `u32` [units, ROW_WORDS] in NumPy's form.
fn npy(units: usize) -> Vec<u8> {
    let header = format!("{{'descr': '<u4', 'fortran_order': False, 'shape': ({units}, {ROW_WORDS}), }}");
    let padded = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes.extend((0..units * ROW_WORDS).flat_map(|i| word(i).to_le_bytes()));
    bytes
}

/// Every file below a folder that contains one of the texts.
fn containing(folder: &Path, secrets: &[Vec<u8>], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            containing(&entry, secrets, found);
        } else if let Ok(bytes) = fs::read(&entry) {
            let hit = secrets.iter().any(|secret| {
                let first = secret[0];
                let mut starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
                starts.any(|(at, _)| bytes[at..].starts_with(secret))
            });
            found.extend(hit.then(|| entry.display().to_string()));
        }
    }
}

#[test]
fn a_sealed_job_is_read_by_its_workers_and_its_client_alone() {
    let home = Home::default();
    let market = Market::start(&home, &[]);
    let file = home.files("job", &[("job.toml", JOB), ("main.wgsl", SUM), ("w.csv", "3\n")]);
    fs::write(home.path().join("job/x.npy"), npy(3)).expect("a file");
    let submit = |more: &[&str]| {
        let mut arguments = vec!["submit", &file, "--sealed", "--market", &market.address, "--json"];
        arguments.extend(more);
        home.run(&arguments)
    };
    // Nobody to seal to.
    let refused = submit(&[]);
    assert_eq!(refused.status.code(), Some(5));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("providers_too_few"), "{said}");

    let wallets = ["a.json", "b.json", "c.json", "d.json"];
    let workers = wallets.map(|wallet| Worker::start(&home, &market, wallet));
    workers.iter().for_each(Worker::ready);
    until("the sealing keys", || {
        let workers = market.workers();
        let keyed = workers.as_array()?.iter().filter(|worker| worker["sealing_key"].is_object()).count();
        (keyed == 4).then_some(())
    });
    let done = submit(&["--out", "out"]);
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    let job: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(job["state"], "done");
    let recipients = job["sealed_to"].as_array().expect("a list");
    assert_eq!(recipients.len(), 3);
    let checks = &job["verification"];
    assert_eq!(
        (number(&checks["checked"]), number(&checks["by_verifier"])),
        (3, 0),
        "new workers, each audited"
    );
    assert_eq!(number(&checks["disputed"]), 0);
    for part in job["workers"].as_array().expect("a list") {
        assert!(recipients.contains(&part["worker"]), "{part}");
    }

    let sum = |unit: usize| {
        let row = unit * ROW_WORDS..(unit + 1) * ROW_WORDS;
        row.map(word).fold(0u32, u32::wrapping_add).wrapping_mul(3)
    };
    let result = fs::read(home.path().join("out/y.npy")).expect("the result was written");
    let expected: Vec<u8> = (0..3).flat_map(|unit| sum(unit).to_le_bytes()).collect();
    assert!(result.ends_with(&expected));

    // Again from the kept key; and not without it.
    let id = job["id"].as_str().expect("an id");
    home.json(&["job", "fetch", id, "--out", "again", "--market", &market.address, "--json"]);
    assert_eq!(fs::read(home.path().join("again/y.npy")).expect("written"), result);
    let stranger = home.run(&[
        "job",
        "fetch",
        id,
        "--wallet",
        "elsewhere/w.json",
        "--market",
        &market.address,
        "--json",
    ]);
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert!(said.contains("content_key_missing"), "{said}");

    // The market's folder and the workers' caches hold ciphertext.
    let keys = home.path().join(".config/plexus/sealed");
    let kept =
        fs::read_dir(&keys).expect("the keys' folder").next().expect("one job").expect("an entry").path();
    let key: serde_json::Value =
        serde_json::from_slice(&fs::read(kept.join("key.json")).expect("a key")).expect("JSON");
    let key = key["content_key"].as_str().expect("hex").as_bytes().to_vec();
    let stretch = |at: usize| -> Vec<u8> { (at..at + 8).flat_map(|i| word(i).to_le_bytes()).collect() };
    let secrets = [key, stretch(1_000), stretch(2 * ROW_WORDS + 5), expected];
    let mut found = Vec::new();
    for folder in ["market", ".cache"] {
        let folder = home.path().join(folder);
        if folder.exists() {
            containing(&folder, &secrets, &mut found);
        }
    }
    assert_eq!(found, [] as [String; 0]);
}
