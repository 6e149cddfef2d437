//! Sealed jobs: from an envelope to inputs that a device can take, and from outputs to what the market may see.
//!
//! Plaintext is in memory only, of this process and the executor's: what is fetched, cached, uploaded and committed to is
//! ciphertext. Large inputs are decrypted on the device where the program allows it: then the plaintext is in device memory
//! alone. Their tags are checked here first, so that no device ever computes on what was changed.

use api::{Lease, LeaseInput};
use bytes::Bytes;
use protocol::{Envelope, SealContext};
use seal::{ContentKey, SealError, check_input, open_input, open_key, seal_output};

use crate::{
    context::Context,
    decrypting::{Decrypting, stream_bytes},
    package::{Package, Refusal, input_failed},
};

/// Opens a lease's envelope. It was sealed for this program and these inputs, in this market: beside anything else it does not
/// open.
pub(crate) fn content(context: &Context, lease: &Lease, envelope: &Envelope) -> Result<ContentKey, Refusal> {
    let mut inputs = Vec::with_capacity(lease.inputs.len());
    for input in &lease.inputs {
        let LeaseInput::Split(split) = input else {
            return Err(input_failed("a sealed job reads other units' outputs, which nobody could open"));
        };
        inputs.push(*split);
    }
    let market = context.market.market;
    let sealed_for = SealContext { market, manifest: lease.manifest, inputs }.digest();
    open_key(&context.opening, market, context.worker, &sealed_for, envelope)
        .map_err(|error| input_failed(error.to_string()))
}

/// Opens a package's inputs, or has the device do it.
pub(crate) async fn open(context: &Context, package: Package) -> Result<Package, Refusal> {
    let (device, memory_bytes) = (context.device(), context.offer.memory_bytes);
    let rewritten = context.rewritten.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let decrypting = rewritten.of(&package.program, &device, memory_bytes);
        let program = decrypting.as_ref().map_or(&package.program, |decrypting| &decrypting.program).clone();
        let on_device = decrypting.as_deref();
        open_inputs(&package, on_device).map(|inputs| package.opened(program, inputs))
    });
    let opened = opening.await.map_err(|error| input_failed(error.to_string()))?;
    opened.map_err(|error| input_failed(error.to_string()))
}

/// What each unit sees of each input of the program that runs: opened here, or checked here and followed by what decrypts it.
fn open_inputs(package: &Package, on_device: Option<&Decrypting>) -> Result<Vec<Vec<Bytes>>, SealError> {
    let content = package.content.as_ref().expect("only sealed packages are opened");
    let count = package.input_count();
    let mut inputs = Vec::with_capacity(count);
    let mut streams = Vec::new();
    for input in 0..count {
        let shared = package.is_shared(input);
        let positions = if shared { 0..1 } else { 0..package.units.len() };
        let decrypts = on_device.is_some_and(|on_device| on_device.inputs.contains(&input));
        let mut parts = Vec::with_capacity(positions.len());
        let mut keys = Vec::new();
        for position in positions {
            let sealed = package.input(input, position);
            let unit = if shared { 0 } else { package.units[position] };
            if decrypts {
                let (ciphertext, stream) = check_input(content, input as u32, unit, &sealed)?;
                keys.push(stream_bytes(&stream));
                parts.push(sealed.slice_ref(ciphertext));
            } else {
                parts.push(open_input(content, input as u32, unit, &sealed)?.into());
            }
        }
        inputs.push(parts);
        if decrypts {
            streams.push(keys);
        }
    }
    inputs.append(&mut streams);
    Ok(inputs)
}

/// Seals the outputs of one unit.
pub(crate) fn seal(content: &ContentKey, unit: u64, outputs: &[Bytes]) -> Vec<Bytes> {
    let sealed = |(number, bytes): (usize, &Bytes)| seal_output(content, unit, number as u32, bytes).into();
    outputs.iter().enumerate().map(sealed).collect()
}
