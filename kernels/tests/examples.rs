//! The examples' data gives what their READMEs promise, and the tolerance of `render` tells honest work from cheating.

use std::path::{Path, PathBuf};

use kernels::{
    argmax_i32::argmax_i32,
    matmul_i8::matmul_i8,
    path_trace::{Rounding, Scene, Tile, path_trace},
    requant_i8::{Factor, requant_i8},
};
use protocol::manifest::{Compare, Dtype};

fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(file)
}

/// The data of a `.npy` file, little endian as all files of the examples are.
fn npy<const N: usize, T>(file: &str, value: fn([u8; N]) -> T) -> Vec<T> {
    let bytes = std::fs::read(example(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..].chunks_exact(N).map(|chunk| value(chunk.try_into().expect("whole chunks"))).collect()
}

#[test]
fn digits_reach_their_accuracy() {
    let images = npy("digits/images.npy", i8::from_le_bytes);
    let labels = npy("digits/labels.npy", i32::from_le_bytes);
    let (w1, b1) = (npy("digits/w1.npy", i8::from_le_bytes), npy("digits/b1.npy", i32::from_le_bytes));
    let (w2, b2) = (npy("digits/w2.npy", i8::from_le_bytes), npy("digits/b2.npy", i32::from_le_bytes));
    let factors: Vec<_> = npy("digits/requant.npy", u32::from_le_bytes)
        .chunks_exact(2)
        .map(|f| Factor { multiplier: f[0], shift: f[1] })
        .collect();

    let hidden = requant_i8(&matmul_i8(&images, &w1, &b1, 64), &factors, true);
    let classes = argmax_i32(&matmul_i8(&hidden, &w2, &b2, 96), 10);

    let right = classes.iter().zip(&labels).filter(|(class, label)| class == label).count();
    assert_eq!((right, labels.len()), (584, 599));
}

fn tolerance() -> Compare {
    let text = std::fs::read_to_string(example("render/job.toml")).expect("the example is there");
    let job: toml::Table = text.parse().expect("the job file is TOML");
    job["outputs"]["pixels"]["compare"].clone().try_into().expect("it declares a tolerance")
}

/// A tile of the example's picture, and how it compares with honest separate rounding.
fn against_honest(tile: [u32; 4], samples: u32, bounces: u32, rounding: Rounding) -> proof::Comparison {
    let floats = |file| npy(file, f32::from_le_bytes);
    let (view, spheres) = (floats("render/view.npy"), floats("render/spheres.npy"));
    let scene = Scene {
        view: view.as_chunks().0.try_into().expect("the view has 8 rows"),
        spheres: spheres.as_chunks().0.to_vec(),
    };
    let pixels = |samples, bounces, rounding| -> Vec<u8> {
        let tile = Tile { picture: [960, 540], tile, samples, bounces };
        path_trace(&scene, &tile, rounding).iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    let honest = pixels(64, 7, Rounding::Separate);
    proof::compare(&pixels(samples, bounces, rounding), &honest, Dtype::F32, &tolerance())
}

/// Glass with other spheres behind it, where paths are longest.
const BUSY: [u32; 4] = [440, 280, 40, 24];

#[test]
fn fused_operations_are_within_the_tolerance_of_render() {
    let comparison = against_honest(BUSY, 64, 7, Rounding::Fused);
    assert!(comparison.differing > 0, "the test compares two ways to round");
    assert!(comparison.agrees(), "{comparison}");
}

#[test]
fn one_sample_less_is_outside_the_tolerance_of_render() {
    let comparison = against_honest(BUSY, 63, 7, Rounding::Separate);
    assert!(!comparison.agrees(), "{comparison}");
}

#[test]
fn one_bounce_less_is_outside_the_tolerance_of_render() {
    let comparison = against_honest(BUSY, 64, 6, Rounding::Separate);
    assert!(!comparison.agrees(), "{comparison}");
}
