//! The committed vectors are what the references compute.

use std::{collections::BTreeSet, path::Path};

use kernels::vectors::{Buffer, Vector, all, decode};

fn committed() -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/kernels.json");
    let text = std::fs::read_to_string(&path).expect("the vectors are in the repository");
    serde_json::from_str(&text).expect("the vectors are well-formed")
}

#[test]
fn committed_vectors_match_the_references() {
    let hint = "run `cargo run -p plexus-kernels --example vectors` if the change is meant";
    let (committed, computed) = (committed(), all());
    assert_eq!(committed.len(), computed.len(), "{hint}");
    for (committed, computed) in committed.iter().zip(&computed) {
        let name = &computed.name;
        assert_eq!(
            (&committed.name, &committed.wgsl, &committed.entry),
            (name, &computed.wgsl, &computed.entry),
            "{hint}"
        );
        assert_eq!(
            (&committed.overrides, committed.dispatch),
            (&computed.overrides, computed.dispatch),
            "{name}: {hint}"
        );
        for (old, new) in committed.buffers.iter().zip(&computed.buffers) {
            let (Buffer::Out { dtype, expect: old, compare, .. }, Buffer::Out { expect: new, .. }) =
                (old, new)
            else {
                assert_eq!(old, new, "{name}: {hint}");
                continue;
            };
            // The platform's powf may round differently, so float references are compared as devices are.
            let (old, new) = (decode(old).expect("valid Base64"), decode(new).expect("valid Base64"));
            let comparison = proof::compare(&old, &new, *dtype, compare);
            assert!(comparison.agrees(), "{name}: {comparison}; {hint}");
        }
    }
}

#[test]
fn every_kernel_has_a_vector_and_a_readme() {
    let vectors = committed();
    let covered: BTreeSet<_> = vectors.iter().map(|vector| vector.wgsl.as_str()).collect();
    for kernel in kernels::KERNELS {
        assert!(covered.contains(kernel.path), "{} has no vector", kernel.name);
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join(kernel.name).join("README.md");
        assert!(readme.exists(), "{} has no README.md", kernel.name);
    }
}
