//! What `chacha20.wgsl` computes.

/// The words of `x` decrypted (or encrypted, which is the same): `x` XOR the keystream of ChaCha20 (RFC 8439) with this key and
/// nonce, from block number `first` on.
pub fn chacha20(x: &[u32], key: &[u32; 8], nonce: &[u32; 3], first: u32) -> Vec<u32> {
    let blocks = x.chunks(16).zip(0u32..);
    blocks.flat_map(|(words, n)| apply(words, block(key, nonce, first.wrapping_add(n)))).collect()
}

fn apply(words: &[u32], keystream: [u32; 16]) -> Vec<u32> {
    words.iter().zip(keystream).map(|(word, key)| word ^ key).collect()
}

/// Block number `counter` of the keystream.
pub fn block(key: &[u32; 8], nonce: &[u32; 3], counter: u32) -> [u32; 16] {
    let mut start =
        [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, counter, 0, 0, 0];
    start[4..12].copy_from_slice(key);
    start[13..].copy_from_slice(nonce);
    let mut state = start;
    for _ in 0..10 {
        for [a, b, c, d] in [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]] {
            quarter_round(&mut state, a, b, c, d);
        }
        for [a, b, c, d] in [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]] {
            quarter_round(&mut state, a, b, c, d);
        }
    }
    std::array::from_fn(|i| state[i].wrapping_add(start[i]))
}

fn quarter_round(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (x, y, z, places) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
        state[x] = state[x].wrapping_add(state[y]);
        state[z] = (state[z] ^ state[x]).rotate_left(places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
        std::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes")))
    }

    /// RFC 8439, section 2.3.2.
    #[test]
    fn the_block_of_the_standard() {
        let key: Vec<u8> = (0..32).collect();
        let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        let expected = [
            0xe4e7f110, 0x15593bd1, 0x1fdd0f50, 0xc47120a3, 0xc7f4d1c7, 0x0368c033, 0x9aaa2204, 0x4e6cd4c3,
            0x466482d2, 0x09aa9f07, 0x05d7c214, 0xa2028bd9, 0xd19c12b5, 0xb94e16de, 0xe883d0cb, 0x4e3c50a2,
        ];
        assert_eq!(block(&words(&key), &words(&nonce), 1), expected);
    }

    /// RFC 8439, section 2.4.2.
    #[test]
    fn the_message_of_the_standard() {
        let key: Vec<u8> = (0..32).collect();
        let nonce = [0, 0, 0, 0, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        // Its first 112 bytes; the last two are no whole word.
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let x: Vec<u32> =
            text[..112].chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect();
        let y = chacha20(&x, &words(&key), &words(&nonce), 1);
        let hex: String =
            y.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357",
            "1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736",
            "5af90bbf74a35be6b40b8eedf2785e42",
        );
        assert_eq!(hex, expected);
        assert_eq!(chacha20(&y, &words(&key), &words(&nonce), 1), x, "decryption is encryption");
    }
}
