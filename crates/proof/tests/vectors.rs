//! Golden vectors of sum-check proofs: this test computes them and verifies the committed bytes.
//!
//! `UPDATE_VECTORS=1 cargo nextest run -p plexus-proof --test vectors` rewrites `tests/vectors/sumcheck.json`. After the first
//! release a changed value there is a new version of the proof, not a repair.

use plexus_proof::{
    freivalds::Product,
    matrix::{Layout, Matrix},
    sumcheck::{Proof, Statement, prove, verify},
};
use protocol::{Hash, manifest::Dtype};
use serde_json::{Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/sumcheck.json");

/// A product whose elements follow a formula: those of A are i·7 − 3, those of B are 5 − i·11, as 8-bit integers.
struct Work {
    sides: (u64, u64, u64),
    b_layout: Layout,
    bytes: [Vec<u8>; 3],
}

impl Work {
    fn new(sides: (u64, u64, u64), b_layout: Layout) -> Self {
        let (m, k, n) = sides;
        let a: Vec<i8> = (0..m * k).map(|i| (i as i8).wrapping_mul(7).wrapping_sub(3)).collect();
        let b: Vec<i8> = (0..k * n).map(|i| 5_i8.wrapping_sub((i as i8).wrapping_mul(11))).collect();
        let at = |row: u64, column: u64| match b_layout {
            Layout::RowMajor => row * n + column,
            Layout::ColumnMajor => column * k + row,
        };
        let mut c = Vec::new();
        for row in 0..m {
            for column in 0..n {
                let term = |s| i32::from(a[(row * k + s) as usize]) * i32::from(b[at(s, column) as usize]);
                c.extend((0..k).map(term).sum::<i32>().to_le_bytes());
            }
        }
        let bytes = |values: Vec<i8>| values.into_iter().map(|value| value as u8).collect();
        Self { sides, b_layout, bytes: [bytes(a), bytes(b), c] }
    }

    fn statement(&self) -> Statement<'_> {
        let (m, k, n) = self.sides;
        let [a, b, c] = &self.bytes;
        let product = Product::new(
            Matrix::new(a, Dtype::I8, m, k, Layout::RowMajor).expect("A"),
            Matrix::new(b, Dtype::I8, k, n, self.b_layout).expect("B"),
            Matrix::new(c, Dtype::I32, m, n, Layout::RowMajor).expect("C"),
        );
        Statement::of_bytes(product.expect("a product")).expect("supported")
    }
}

fn works() -> Vec<Work> {
    vec![
        Work::new((1, 1, 1), Layout::RowMajor),
        Work::new((4, 8, 2), Layout::RowMajor),
        Work::new((3, 5, 7), Layout::ColumnMajor),
        Work::new((16, 33, 9), Layout::RowMajor),
    ]
}

#[test]
fn the_committed_proofs_are_what_the_code_makes_and_accepts() {
    let vectors: Vec<Value> = works()
        .iter()
        .map(|work| {
            let (m, k, n) = work.sides;
            let [a, b, c] = work.bytes.each_ref().map(|bytes| Hash::of(bytes));
            json!({
                "m": m, "k": k, "n": n, "b_by_columns": work.b_layout == Layout::ColumnMajor,
                "a_sha256": a, "b_sha256": b, "c_sha256": c,
                "proof": hex::encode(prove(&work.statement()).encode()),
            })
        })
        .collect();
    let about = "written by crates/proof/tests/vectors.rs; A[i] = 7i − 3, B[i] = 5 − 11i, as 8-bit integers";
    let computed = json!({ "about": about, "proofs": vectors });
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&computed).expect("JSON values print") + "\n";
        std::fs::write(PATH, text).expect("the vectors can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("tests/vectors/sumcheck.json is there");
    let committed: Value = serde_json::from_str(&committed).expect("JSON");
    assert_eq!(committed, computed, "UPDATE_VECTORS=1 rewrites tests/vectors/sumcheck.json");
    for (work, vector) in works().iter().zip(committed["proofs"].as_array().expect("a list")) {
        let bytes = hex::decode(vector["proof"].as_str().expect("text")).expect("hex");
        assert_eq!(verify(&work.statement(), &Proof::decode(&bytes).expect("a proof")), Ok(()));
    }
}
