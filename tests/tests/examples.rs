//! The examples with stages, and the one that the market verifies by itself, on a real market with native workers, against a
//! plain computation of the same.
//!
//! k-means runs on the first of its points, so that it takes seconds; the sweep runs as it is.

use std::{fs, path::PathBuf};

use plexus_tests::{Home, Market, Worker, number};
use serde_json::Value;

const AXES: usize = 64;
const CLUSTERS: usize = 10;
/// Centroids are in parts of this.
const SCALE: i64 = 256;

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// Where the numbers of a `.npy` file begin.
fn npy_data(bytes: &[u8]) -> &[u8] {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    &bytes[10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))..]
}

fn words<T>(bytes: &[u8], read: fn([u8; 4]) -> T) -> Vec<T> {
    bytes.chunks_exact(4).map(|word| read(word.try_into().unwrap())).collect()
}

/// A `.npy` file of 32-bit integers in rows.
fn npy(rows: usize, columns: usize, values: &[i32]) -> Vec<u8> {
    assert_eq!(values.len(), rows * columns);
    let mut header = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// A market with its own verifier, and two workers of two owners.
fn network(home: &Home) -> (Market, [Worker; 2]) {
    let market = Market::start(home, &[]);
    let workers = ["one.json", "two.json"].map(|wallet| Worker::start(home, &market, wallet));
    for worker in &workers {
        worker.ready();
    }
    (market, workers)
}

fn run(home: &Home, market: &Market, file: &str) -> Value {
    let job = home.json(&["submit", file, "--market", &market.address, "--wait", "--out", "out", "--json"]);
    assert_eq!(job["state"], "done", "{job}");
    assert_eq!(number(&job["verification"]["rejected"]), 0, "{job}");
    assert!(number(&job["verification"]["checked"]) > 0, "new workers are checked");
    job
}

/// The first of the nearest centroids.
fn nearest(point: &[i64], centroids: &[Vec<i64>]) -> usize {
    let distance =
        |centroid: &Vec<i64>| point.iter().zip(centroid).map(|(p, c)| (SCALE * p - c).pow(2)).sum::<i64>();
    (0..centroids.len()).min_by_key(|&k| distance(&centroids[k])).unwrap()
}

/// Labels and centroids when they change no more, and the number of iterations.
fn kmeans(points: &[Vec<i64>], mut centroids: Vec<Vec<i64>>) -> (Vec<usize>, Vec<Vec<i64>>, u64) {
    for iteration in 1.. {
        let labels: Vec<_> = points.iter().map(|point| nearest(point, &centroids)).collect();
        let moved: Vec<Vec<i64>> = (0..CLUSTERS)
            .map(|k| {
                let members: Vec<_> =
                    points.iter().zip(&labels).filter(|(_, label)| **label == k).map(|(p, _)| p).collect();
                let sum = |axis: usize| members.iter().map(|member| member[axis]).sum::<i64>();
                match members.len() as i64 {
                    0 => centroids[k].clone(),
                    count => (0..AXES).map(|axis| SCALE * sum(axis) / count).collect(),
                }
            })
            .collect();
        if moved == centroids {
            return (labels, centroids, iteration);
        }
        centroids = moved;
    }
    unreachable!()
}

#[test]
fn kmeans_finds_what_a_plain_computation_finds() {
    const POINTS: usize = 300;
    let folder = example("kmeans");
    let all = words(npy_data(&fs::read(folder.join("points.npy")).unwrap()), i32::from_le_bytes);
    let points = &all[..POINTS * (AXES + 1)];
    let initial: Vec<i32> = (0..CLUSTERS)
        .flat_map(|k| points[30 * k * (AXES + 1)..][..AXES].iter().map(|value| SCALE as i32 * value))
        .collect();

    let home = Home::default();
    for kernel in ["assign.wgsl", "sums.wgsl", "update.wgsl"] {
        home.files("kmeans", &[(kernel, &fs::read_to_string(folder.join(kernel)).unwrap())]);
    }
    // What the example expects is for all points.
    let text = fs::read_to_string(folder.join("job.toml")).unwrap();
    let text = text.replace("BLOCKS = 57", "BLOCKS = 10").replace(", expect = \"labels.npy\"", "");
    let file = home.files("kmeans", &[("job.toml", &text.replace(", expect = \"centroids.npy\"", ""))]);
    fs::write(home.path().join("kmeans/points.npy"), npy(POINTS, AXES + 1, points)).unwrap();
    fs::write(home.path().join("kmeans/initial.npy"), npy(CLUSTERS, AXES, &initial)).unwrap();

    let (market, _workers) = network(&home);
    let job = run(&home, &market, &file);

    let wide = |rows: &[i32], columns: usize| -> Vec<Vec<i64>> {
        rows.chunks(columns).map(|row| row[..AXES].iter().map(|value| i64::from(*value)).collect()).collect()
    };
    let (labels, centroids, iterations) = kmeans(&wide(points, AXES + 1), wide(&initial, AXES));
    assert!(iterations > 3, "the loop has something to do");
    let csv = fs::read_to_string(home.path().join("out/labels.csv")).unwrap();
    let expected: String = labels.iter().map(|label| format!("{label}\n")).collect();
    assert_eq!(csv, format!("cluster\n{expected}"));
    let found = fs::read(home.path().join("out/centroids.npy")).unwrap();
    assert_eq!(wide(&words(npy_data(&found), i32::from_le_bytes), AXES), centroids);
    // It ended because nothing moved any more, and the iterations that it did not need were not paid.
    let iteration = &job["iteration"];
    assert_eq!(
        (&iteration["reached"], iteration["current"].as_u64()),
        (&Value::Bool(true), Some(iterations))
    );
    assert_eq!(number(&job["progress"]["accepted"]), 11 * iterations);
    assert_eq!(number(&job["progress"]["skipped"]), 11 * (60 - iterations));
}

/// A model of the sweep: its learning rate, the loss that the job found and the one that 64-bit arithmetic finds.
#[derive(Debug)]
struct Model {
    rate: f32,
    loss: f32,
}

fn models(home: &Home, name: &str) -> Vec<Model> {
    let bytes = fs::read(home.path().join("out").join(name)).unwrap();
    let values = words(npy_data(&bytes), f32::from_le_bytes);
    values.chunks(67).map(|row| Model { loss: row[0], rate: row[1] }).collect()
}

/// The loss on the second half of the points after so many steps on the first half.
fn loss_after(points: &[Vec<f64>], rate: f64, steps: u32) -> f64 {
    let (training, held_out) = points.split_at(points.len() / 2);
    let mut weights = vec![0.0; AXES + 1];
    let belief = |weights: &[f64], point: &[f64]| {
        let sum: f64 = weights[AXES] + (0..AXES).map(|axis| weights[axis] * point[axis] / 16.0).sum::<f64>();
        (1.0 / (1.0 + (-sum.clamp(-30.0, 30.0)).exp())).clamp(0.0001, 0.9999)
    };
    for _ in 0..steps {
        let errors: Vec<f64> = training.iter().map(|point| belief(&weights, point) - point[AXES]).collect();
        for axis in 0..=AXES {
            let value = |point: &[f64]| if axis == AXES { 1.0 } else { point[axis] / 16.0 };
            let slope: f64 = training.iter().zip(&errors).map(|(point, error)| error * value(point)).sum();
            weights[axis] -= rate * slope / training.len() as f64;
        }
    }
    let losses = held_out.iter().map(|point| {
        let (p, odd) = (belief(&weights, point), point[AXES]);
        -(odd * p.ln() + (1.0 - odd) * (1.0 - p).ln())
    });
    losses.sum::<f64>() / held_out.len() as f64
}

#[test]
fn the_sweep_keeps_the_best_quarter_twice_and_its_winner_is_the_right_one() {
    let home = Home::default();
    let (market, _workers) = network(&home);
    let job = run(&home, &market, &example("sweep").join("job.toml").display().to_string());
    let units: Vec<u64> = job["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| number(&stage["progress"]["accepted"]))
        .collect();
    assert_eq!(units, [16, 1, 4, 1, 1]);

    let raw = fs::read(example("sweep").join("points.npy")).unwrap();
    let numbers = words(npy_data(&raw), i32::from_le_bytes);
    let points: Vec<Vec<f64>> =
        numbers.chunks(AXES + 1).map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect();
    let raw = fs::read(example("sweep").join("models.npy")).unwrap();
    let mut rates: Vec<f32> =
        words(npy_data(&raw), f32::from_le_bytes).chunks(67).map(|row| row[1]).collect();
    for (file, steps, kept) in [("first.npy", 20, 16), ("second.npy", 80, 4), ("best.npy", 180, 1)] {
        rates.truncate(kept);
        let found = models(&home, file);
        assert_eq!(found.iter().map(|model| model.rate).collect::<Vec<_>>(), rates, "{file}");
        let mut right = Vec::new();
        for model in &found {
            let loss = loss_after(&points, model.rate.into(), steps);
            assert!((f64::from(model.loss) - loss).abs() < 0.01, "{file}: {model:?}, {loss}");
            right.push((loss, model.rate));
        }
        // The best go on, the very best first.
        right.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        rates = right.into_iter().map(|(_, rate)| rate).collect();
    }
}

#[test]
fn a_layer_is_verified_without_executing_it_again() {
    let home = Home::default();
    let market = Market::start(&home, &[]);
    // One owner alone: nobody else could check it.
    let worker = Worker::start(&home, &market, "one.json");
    worker.ready();
    let file = example("layer").join("job.toml").display().to_string();
    let job = home.json(&["submit", &file, "--market", &market.address, "--wait", "--out", "out", "--json"]);
    assert_eq!(job["state"], "done", "{job}");
    let checks = ["algebraic", "checked", "disputed"].map(|count| number(&job["verification"][count]));
    assert_eq!(checks, [8, 0, 0], "{job}");
    let data = |path: PathBuf| npy_data(&fs::read(path).unwrap()).to_vec();
    assert_eq!(data(home.path().join("out/y.npy")), data(example("layer").join("y.npy")));
}
