//! Merkle trees exactly as RFC 9162 §2.1: leaf prefix 0x00, node prefix 0x01, the left subtree a full power of two.

use crate::Hash;

/// Bytes in one chunk of an output; its Merkle tree has a leaf a chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The hash of one leaf.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Hash::of_parts(&[&[0], leaf])
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::of_parts(&[&[1], &left.0, &right.0])
}

/// The largest power of two smaller than `n` (n ≥ 2).
fn split_point(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// The root over leaf hashes in order; the hash of no bytes when there are none.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::of(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split_point(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The inclusion proof of leaf `index`, from the leaf's sibling up. Nothing when there is no such leaf.
pub fn proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(split_point(leaves.len()));
        if index < left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            index -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that `leaf` is number `index` of `count` leaves under `root` (RFC 9162 §2.1.3.2).
pub fn verify(root: &Hash, leaf: &Hash, index: u64, count: u64, path: &[Hash]) -> bool {
    if index >= count {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, count - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// The root over the 64 KiB chunks of an output.
pub fn chunk_root(bytes: &[u8]) -> Hash {
    let leaves: Vec<_> = bytes.chunks(CHUNK_BYTES).map(leaf_hash).collect();
    root(&leaves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_leaf_is_proved_and_no_other_passes(count in 1usize..70, pick in any::<prop::sample::Index>(), flip in 0usize..32) {
            let leaves: Vec<_> = (0..count).map(|i| leaf_hash(&[i as u8])).collect();
            let (top, index) = (root(&leaves), pick.index(count));
            let path = proof(&leaves, index).expect("index is in range");
            prop_assert!(verify(&top, &leaves[index], index as u64, count as u64, &path));
            let mut wrong = leaves[index];
            wrong.0[flip] ^= 1;
            prop_assert!(!verify(&top, &wrong, index as u64, count as u64, &path));
            prop_assert!(!verify(&top, &leaves[index], count as u64, count as u64, &path));
            if count > 1 {
                let other = (index + 1) % count;
                prop_assert!(!verify(&top, &leaves[index], other as u64, count as u64, &path));
                prop_assert!(!verify(&top, &leaves[index], index as u64, count as u64, &path[1..]));
            }
        }
    }

    #[test]
    fn a_node_never_passes_for_a_leaf() {
        let leaves = [leaf_hash(b"a"), leaf_hash(b"b")];
        let joined: Vec<u8> = leaves.iter().flat_map(|h| h.0).collect();
        assert_ne!(leaf_hash(&joined), root(&leaves));
    }
}
