//! The golden vectors, and the examples themselves, on whatever adapter this machine has. A software one will do; none at
//! all is a failure with advice, not a skip. The vectors run on each software adapter besides, because two of them disagree
//! wherever WGSL lets them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock},
    time::Duration,
};

use gpu::{ADAPTER_VARIABLE, Gpu, GpuError, Program};
use job::CompiledJob;
use kernels::path_trace::{Rounding, Scene, Tile, path_trace};
use kernels::vectors::{Buffer, Vector, all, decode};
use protocol::Hash;

static GPU: LazyLock<Gpu> = LazyLock::new(|| match Gpu::open(None) {
    Ok(gpu) => gpu,
    Err(GpuError::NoAdapter) => panic!("no Vulkan adapter: install mesa-vulkan-drivers"),
    Err(error) => panic!("the adapter cannot be used: {error}"),
});

const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a vector with this text in place of its kernel's.
fn check(vector: &Vector, wgsl: &str) {
    let name = &vector.name;
    let blob = Hash::of(wgsl.as_bytes());
    let texts = BTreeMap::from([(blob, wgsl.to_owned())]);
    let plan =
        program::check(&vector.manifest(blob), &texts).unwrap_or_else(|error| panic!("{name}: {error}"));
    let program = Program::load(&GPU, Arc::new(plan), &BTreeMap::<Hash, Vec<u8>>::new()).expect("it loads");
    let inputs: Vec<_> = vector
        .buffers
        .iter()
        .filter_map(|buffer| match buffer {
            Buffer::In { data, .. } => Some(decode(data).expect("valid Base64")),
            Buffer::Out { .. } => None,
        })
        .collect();
    let outcome = program.submit(&inputs).and_then(|mut unit| unit.wait(TIMEOUT)).expect("it runs");
    let mut outputs = outcome.outputs.iter();
    for buffer in &vector.buffers {
        if let Buffer::Out { dtype, expect, compare, .. } = buffer {
            let output = outputs.next().expect("one output for each");
            let comparison = proof::compare(output, &decode(expect).expect("valid Base64"), *dtype, compare);
            assert!(comparison.agrees(), "{name} on {}: {comparison}", GPU.facts().adapter);
        }
    }
}

#[test]
fn every_vector_comes_out() {
    let mut without = 0;
    for vector in all() {
        let kernel =
            kernels::KERNELS.iter().find(|kernel| kernel.path == vector.wgsl).expect("it is in the library");
        check(&vector, kernel.wgsl);
        if kernel.wgsl.contains("dot4I8Packed(") {
            check(&vector, &format!("{}\n{}", kernel.wgsl, kernels::PACKED_4X8));
            without += 1;
        }
    }
    assert!(without > 0, "no kernel uses what the stand-in is for");
    println!("{RAN_ON}{}", GPU.facts().adapter);
}

/// What the test above says last.
const RAN_ON: &str = "every vector came out on ";

/// A process has one set of drivers, so each adapter gets a process: this program again, with the test above alone.
fn every_vector_comes_out_on(adapter: &str, driver: &Path) {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", "every_vector_comes_out", "--nocapture"])
        .env_remove("VK_DRIVER_FILES")
        .env("VK_ICD_FILENAMES", driver)
        .env(ADAPTER_VARIABLE, adapter)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("it runs again");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(RAN_ON), "{}:\n{said}{errors}", driver.display());
    let ran_on = said.split(RAN_ON).nth(1).unwrap_or_default();
    assert!(ran_on.to_lowercase().contains(adapter), "{adapter} was asked for, it ran on {ran_on}");
}

#[test]
#[cfg(target_os = "linux")]
fn every_vector_comes_out_on_lavapipe() {
    let folder = Path::new("/usr/share/vulkan/icd.d");
    let driver = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("lvp_icd"))
        .map(|entry| entry.path());
    let driver =
        driver.unwrap_or_else(|| panic!("no lvp_icd in {}: install mesa-vulkan-drivers", folder.display()));
    every_vector_comes_out_on("llvmpipe", &driver);
}

/// Chromium brings SwiftShader along, beside its program.
#[test]
#[cfg(target_os = "linux")]
fn every_vector_comes_out_on_swiftshader() {
    const DRIVER: &str = "vk_swiftshader_icd.json";
    let named = std::env::var_os("PLEXUS_SWIFTSHADER_ICD").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let browsers = ["chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable"];
    let installed = std::env::split_paths(&on_path)
        .flat_map(|folder| browsers.map(|browser| folder.join(browser)))
        .chain(std::env::var_os("PLEXUS_CHROMIUM").map(PathBuf::from))
        .filter(|browser| browser.exists());
    let beside = installed.flat_map(|browser| {
        let target = browser.canonicalize().unwrap_or_else(|_| browser.clone());
        [browser, target].map(|browser| browser.with_file_name(DRIVER))
    });
    let usual = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"];
    let places: Vec<_> =
        named.into_iter().chain(beside).chain(usual.map(|folder| Path::new(folder).join(DRIVER))).collect();
    let Some(driver) = places.iter().find(|place| place.is_file()) else {
        panic!("no {DRIVER}: install Chromium, or set PLEXUS_SWIFTSHADER_ICD")
    };
    every_vector_comes_out_on("swiftshader", driver);
}

/// An example as the command line compiles it.
fn compiled(example: &str) -> CompiledJob {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
    let text = std::fs::read_to_string(folder.join("job.toml")).expect("the example is there");
    job::compile(&text, "job.toml", &job::Folder(folder)).unwrap_or_else(|error| panic!("{error}"))
}

/// The outputs of `units` of a job.
fn run(job: &CompiledJob, units: impl Iterator<Item = u64>) -> Vec<Vec<Vec<u8>>> {
    let texts = job.manifest.program.kernels.values().map(|kernel| {
        (kernel.blob, String::from_utf8(job.blobs[&kernel.blob].to_vec()).expect("WGSL is text"))
    });
    let plan = program::check(&job.manifest, &texts.collect()).unwrap_or_else(|error| panic!("{error}"));
    let blobs = plan.blobs().map(|hash| (hash, job.blobs[&hash].to_vec())).collect();
    let program = Program::load(&GPU, Arc::new(plan), &blobs).expect("it loads");
    units
        .map(|unit| {
            let inputs = job.inputs.iter().map(|split| split.unit_bytes(unit, &job.blobs[&split.blob]));
            let inputs: Vec<_> = inputs.map(|bytes| bytes.into_owned()).collect();
            program.submit(&inputs).and_then(|mut unit| unit.wait(TIMEOUT)).expect("it runs").outputs
        })
        .collect()
}

#[test]
fn digits_are_classified() {
    let job = compiled("digits");
    let outputs = run(&job, 0..job.units);
    let classes = outputs.iter().map(|unit| Some(&unit[0]));
    let blob = |hash: &Hash| job.blobs.get(hash).cloned();
    let joined = job::join(&job.joins[0], &job.manifest, job.units, classes, blob).expect("it joins");
    let agreement = joined.agreement.expect("the job names the expected classes");
    assert_eq!((job.units, agreement.matching, agreement.total), (75, 584, 599));
}

#[test]
fn a_tile_of_render_is_what_the_reference_draws() {
    let job = compiled("render");
    assert_eq!(job.units, 60);
    // The fourth row's sixth tile: glass, with its shadow and what it mirrors.
    let unit = 35;
    let outputs = run(&job, unit..unit + 1);
    // The reference is slow: the first rows will do.
    let rows = 16;
    let output = &outputs[0][0][..96 * rows as usize * 12];

    let floats = |buffer: &str| -> Vec<f32> {
        let hash = job.manifest.program.buffers[buffer].blob.expect("the same for every unit");
        let (words, _) = job.blobs[&hash].as_chunks();
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    };
    let (view, spheres) = (floats("view"), floats("spheres"));
    let scene = Scene {
        view: view.as_chunks().0.try_into().expect("the view has 8 rows"),
        spheres: spheres.as_chunks().0.to_vec(),
    };
    let tile = Tile { picture: [960, 540], tile: [480, 270, 96, rows], samples: 64, bounces: 7 };
    let expected: Vec<_> =
        path_trace(&scene, &tile, Rounding::Separate).iter().flat_map(|value| value.to_le_bytes()).collect();
    let pixels = &job.manifest.program.buffers["pixels"];
    let compare = pixels.compare.expect("the job declares a tolerance");
    let comparison = proof::compare(output, &expected, pixels.dtype, &compare);
    assert!(comparison.agrees(), "{comparison}");
}
