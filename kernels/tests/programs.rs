//! Every kernel is a program that markets and workers accept.

use std::collections::BTreeMap;

use protocol::Hash;

#[test]
fn every_vector_is_an_accepted_program() {
    for vector in kernels::vectors::all() {
        let kernel =
            kernels::KERNELS.iter().find(|kernel| kernel.path == vector.wgsl).expect("it is in the library");
        let blob = Hash::of(kernel.wgsl.as_bytes());
        let texts = BTreeMap::from([(blob, kernel.wgsl.to_owned())]);
        if let Err(error) = program::check(&vector.manifest(blob), &texts) {
            panic!("{}: {error}", vector.name);
        }
    }
}
