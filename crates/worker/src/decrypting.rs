//! Programs that decrypt their own inputs: before its first pass, a pass of `kernels/chacha20` turns each large sealed input
//! into the buffer that the program reads. The plaintext of such an input is in device memory alone.
//!
//! The program is rewritten as a manifest and checked like any other, so that runtimes need know nothing of it. Where the
//! rewritten one does not pass or does not fit (an input that is no whole number of words, or memory for ciphertext beside
//! plaintext that nobody lent), the worker decrypts by itself.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use kernels::CHACHA20;
use protocol::{
    DeviceFacts, Hash, Manifest,
    manifest::{Buffer, Dispatch, Dtype, Kernel, Override, Pass},
};
use seal::Keystream;

use crate::device::Program;

/// Inputs from this size on are decrypted on the device: a smaller one costs the processor less than the pass costs the device.
const BYTES_MIN: u64 = 1 << 20;
/// Bytes of what decrypts one part: key, nonce, and the number of the first block.
const STREAM_BYTES: u32 = 48;
/// Words of a block of the cipher.
const BLOCK_WORDS: u32 = 16;
/// Invocations of the kernel's workgroup when nobody says.
const WORKGROUP: u32 = 64;
/// Rewritten programs kept ready to be run again.
const KEPT: usize = 8;
/// What the kernel and its buffers are called; a program that has such names itself is left as it is.
const PREFIX: &str = "unsealing_";

/// A program that takes some of its inputs as ciphertext.
#[derive(Debug)]
pub(crate) struct Decrypting {
    /// What the device runs.
    pub(crate) program: Arc<Program>,
    /// The inputs that it decrypts, ascending. What decrypts them are its last inputs, in this order.
    pub(crate) inputs: Vec<usize>,
}

/// Programs rewritten before, the last used one first; nothing for those that cannot be.
#[derive(Default)]
pub(crate) struct Rewritten(Mutex<VecDeque<(Hash, Option<Arc<Decrypting>>)>>);

impl Rewritten {
    /// The rewritten form of a program, where a device with `memory_bytes` to lend can run one.
    pub(crate) fn of(
        &self,
        program: &Program,
        device: &DeviceFacts,
        memory_bytes: u64,
    ) -> Option<Arc<Decrypting>> {
        let found = self.kept(program.id);
        found.unwrap_or_else(|| {
            let made = rewrite(program, device, memory_bytes, BYTES_MIN).map(Arc::new);
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_front((program.id, made.clone()));
            kept.truncate(KEPT);
            made
        })
    }

    fn kept(&self, id: Hash) -> Option<Option<Arc<Decrypting>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(of, _)| *of == id)?;
        let found = kept.remove(at)?;
        let rewritten = found.1.clone();
        kept.push_front(found);
        Some(rewritten)
    }
}

/// What the kernel takes to decrypt one part: block 1 is the first one of RFC 8439, because block 0 makes the key of the tag.
pub(crate) fn stream_bytes(stream: &Keystream) -> Bytes {
    [&stream.key[..], &stream.nonce, &1u32.to_le_bytes()].concat().into()
}

fn rewrite(program: &Program, device: &DeviceFacts, memory_bytes: u64, bytes_min: u64) -> Option<Decrypting> {
    let lengths: Vec<u64> = program.plan.input_lengths().collect();
    let large = |(_, length): &(usize, &u64)| **length >= bytes_min && length.is_multiple_of(4);
    let inputs: Vec<usize> = lengths.iter().enumerate().filter(large).map(|(input, _)| input).collect();
    let names = &program.manifest.program;
    let taken = names.buffers.keys().chain(names.kernels.keys()).any(|name| name.starts_with(PREFIX));
    if inputs.is_empty() || taken {
        return None;
    }
    let mut manifest: Manifest = program.manifest.clone();
    let wgsl = Hash::of(CHACHA20.wgsl.as_bytes());
    let mut passes = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        let words = u32::try_from(lengths[*input] / 4).ok()?;
        let of_program = &mut manifest.program;
        let found = of_program.buffers.iter_mut().find(|(_, buffer)| buffer.input == Some(*input as u32));
        let (name, plain) = found.map(|(name, buffer)| (name.clone(), buffer))?;
        (plain.input, plain.scratch) = (None, true);
        let sealed = |input: usize, words: u32| Buffer {
            input: Some(input as u32),
            blob: None,
            output: None,
            scratch: false,
            dtype: Dtype::U32,
            shape: vec![words],
            compare: None,
            resident: None,
        };
        let [kernel, ciphertext, stream] =
            ["kernel", "input", "stream"].map(|part| format!("{PREFIX}{part}{number}"));
        of_program.buffers.insert(ciphertext.clone(), sealed(*input, words));
        of_program.buffers.insert(stream.clone(), sealed(lengths.len() + number, STREAM_BYTES / 4));
        let overrides = [("WORDS".to_owned(), Override::Value(words))].into();
        of_program.kernels.insert(kernel.clone(), Kernel { blob: wgsl, entry: "main".into(), overrides });
        let dispatch = vec![Dispatch::Count(words.div_ceil(BLOCK_WORDS * WORKGROUP))];
        passes.push(Pass { kernel, bind: vec![ciphertext, stream, name], dispatch });
        manifest.limits.memory_bytes_max += lengths[*input] + u64::from(STREAM_BYTES);
    }
    if memory_bytes > 0 && manifest.limits.memory_bytes_max > memory_bytes {
        return None;
    }
    passes.append(&mut manifest.program.passes);
    manifest.program.passes = passes;
    let mut kernels = program.kernels.clone();
    kernels.insert(wgsl, CHACHA20.wgsl.to_owned());
    let plan = program::check(&manifest, &kernels).ok()?;
    program::fits(&plan, &device.limits, &device.features).ok()?;
    let id = Hash::of(&manifest.to_bytes());
    let program = Program { id, manifest, kernels, plan, blobs: program.blobs.clone() };
    Some(Decrypting { program: program.into(), inputs })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::{DeviceLimits, WorkerKind};
    use seal::{ContentKey, check_input, seal_input};
    use serde_json::json;

    use super::*;

    const WORDS: u32 = 40;
    const DOUBLE: &str = "
        @group(0) @binding(0) var<storage, read> x: array<u32>;
        @group(0) @binding(1) var<storage, read> w: array<u32>;
        @group(0) @binding(2) var<storage, read_write> y: array<u32>;
        @compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3u) {
            y[id.x] = 2u * x[id.x] + w[0];
        }
    ";

    fn program(name: &str, words: u32) -> Program {
        let blob = Hash::of(DOUBLE.as_bytes());
        let manifest = json!({
            "version": 1, "runtime": "wgsl", "kind": "batch",
            "program": {
                "kernels": {"double": {"blob": blob, "entry": "main"}},
                "buffers": {
                    name: {"input": 1, "dtype": "i8", "shape": [words * 4]},
                    "w": {"input": 0, "dtype": "u32", "shape": [1]},
                    "y": {"output": 0, "dtype": "u32", "shape": [words]}
                },
                "passes": [{"kernel": "double", "bind": [name, "w", "y"], "dispatch": [words / 8]}]
            },
            "limits": {"memory_bytes_max": 8 * words + 4, "time_ms_max": 1000},
            "verify": {"policy": "audit", "rate_min": 0.1}
        });
        let manifest: Manifest = serde_json::from_value(manifest).expect("a manifest");
        let kernels = BTreeMap::from([(blob, DOUBLE.to_owned())]);
        let plan = program::check(&manifest, &kernels).expect("a good program");
        Program { id: Hash::of(&manifest.to_bytes()), manifest, kernels, plan, blobs: BTreeMap::new() }
    }

    fn device() -> DeviceFacts {
        DeviceFacts {
            kind: WorkerKind::Native,
            adapter: String::new(),
            vendor: String::new(),
            backend: String::new(),
            features: vec![],
            limits: DeviceLimits {
                storage_buffer_bytes_max: 1 << 27,
                buffer_bytes_max: 1 << 28,
                storage_buffers_max: 8,
                workgroup_invocations_max: 256,
                workgroup_bytes_max: 16_384,
                workgroups_per_dimension_max: 65_535,
            },
        }
    }

    #[test]
    fn a_large_input_is_decrypted_before_the_first_pass() {
        let plain = program("x", WORDS);
        let made = rewrite(&plain, &device(), 0, 100).expect("it can");
        assert_eq!(made.inputs, [1], "the small one is opened by the worker");
        assert_ne!(made.program.id, plain.id);
        let lengths: Vec<u64> = made.program.plan.input_lengths().collect();
        assert_eq!(lengths, [4, u64::from(WORDS) * 4, u64::from(STREAM_BYTES)]);
        assert_eq!(made.program.manifest.program.passes.len(), 2);
        assert_eq!(made.program.manifest.program.passes[1], plain.manifest.program.passes[0]);
        assert!(made.program.plan.output_lengths().eq(plain.plan.output_lengths()));
    }

    #[test]
    fn a_program_that_cannot_is_left_as_it_is() {
        assert!(rewrite(&program("x", WORDS), &device(), 0, 1 << 20).is_none(), "nothing is large");
        assert!(rewrite(&program("unsealing_x", WORDS), &device(), 0, 100).is_none(), "a name is taken");
        let plain = program("x", WORDS);
        let needed = plain.manifest.limits.memory_bytes_max;
        assert!(rewrite(&plain, &device(), needed, 100).is_none(), "nobody lends memory for the ciphertext");
        assert!(rewrite(&plain, &device(), needed + 1_000, 100).is_some());
        let mut small = device();
        small.limits.storage_buffers_max = 1;
        assert!(rewrite(&plain, &small, 0, 100).is_none(), "the kernel does not fit");
    }

    /// What the pass computes, by the kernel's own definition, is what opening gives.
    #[test]
    fn the_kernel_decrypts_what_was_sealed() {
        let content = ContentKey::from_bytes([5; 32]);
        let plaintext: Vec<u8> = (0..WORDS * 4).map(|i| (i * 13 + 5) as u8).collect();
        let sealed = seal_input(&content, 1, 9, &plaintext);
        let (ciphertext, stream) = check_input(&content, 1, 9, &sealed).expect("whole");
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("whole words"))).collect()
        };
        let stream = words(&stream_bytes(&stream));
        let (key, nonce) = (stream[..8].try_into().expect("8"), stream[8..11].try_into().expect("3"));
        let opened = kernels::chacha20::chacha20(&words(ciphertext), key, nonce, stream[11]);
        assert_eq!(opened, words(&plaintext));
    }
}
