//! Random numbers from a seed, in the form that arkworks asks for.

use ark_std::rand::{CryptoRng, Error, RngCore};
use sha2::{Digest, Sha256};

/// SHA-256 in counter mode.
pub(crate) struct Stream {
    key: [u8; 32],
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Stream {
    /// The stream of a seed for one purpose.
    pub(crate) fn new(purpose: &[u8], seed: &[u8; 32]) -> Self {
        let key =
            Sha256::new().chain_update(b"plexus/zk/v1\0").chain_update(seed).chain_update(purpose).finalize();
        Self { key: key.into(), counter: 0, block: [0; 32], used: 32 }
    }
}

impl RngCore for Stream {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.block.len() {
                let block = Sha256::new().chain_update(self.key).chain_update(self.counter.to_le_bytes());
                self.block = block.finalize().into();
                self.counter += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Stream {}
