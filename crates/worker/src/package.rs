//! From a lease to a package that is ready to run: manifest, kernels, blobs and inputs at hand, everything checked here
//! again. A market is not trusted with what a device runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use api::{GatheredInput, GatheredUnit, LeaseInput, ReleaseCause, code};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use protocol::{Hash, InputSplit, seal::SEALED_INPUT_EXTRA_BYTES};
use seal::ContentKey;

use crate::{backoff::Backoff, context::Context, device::Program, leases::Holding, sealed};

/// A package larger than this is a mistake of the market.
const UNITS_MAX: u64 = 1 << 20;
/// Blobs up to this size are fetched whole, which is what lets them be checked and kept; of larger ones only the package's part.
const WHOLE_BYTES_MAX: u64 = 256 << 20;
/// Largest part of one blob that one package may need.
const PART_BYTES_MAX: u64 = 8 << 30;
/// Outputs that one package may be gathered from.
const GATHERED_BLOBS_MAX: usize = 1 << 20;
/// Ranges, and blobs that are gathered, fetched at the same time.
const RANGES_AT_ONCE: usize = 8;
/// Programs kept ready to be run again.
const PROGRAMS_KEPT: usize = 8;

/// A package ready to run.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) holding: Arc<Holding>,
    pub(crate) program: Arc<Program>,
    /// Unit indices, in package order.
    pub(crate) units: Vec<u64>,
    /// The same as numbers in their stage, as inputs are split.
    places: Vec<u64>,
    inputs: Vec<Input>,
    /// Seals the outputs of a sealed job.
    pub(crate) content: Option<ContentKey>,
}

/// Why a lease is given back.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) cause: ReleaseCause,
    pub(crate) detail: String,
}

impl Refusal {
    /// The worker leaves, or wants its device for something else.
    pub(crate) fn leaving() -> Self {
        Self { cause: ReleaseCause::Leaving, detail: "the worker goes on without it".into() }
    }
}

#[derive(Debug)]
enum Input {
    /// Each unit's part of one blob.
    Split { split: InputSplit, blob_bytes: u64, part: Part },
    /// Each unit's part of other units' outputs.
    Gathered { length: usize, blobs: Vec<Bytes>, units: Vec<GatheredUnit> },
    /// What each unit of the package sees, opened; one for all where they see the same.
    Opened(Vec<Bytes>),
}

#[derive(Debug)]
enum Part {
    /// The blob's bytes from `start`.
    Run { start: u64, bytes: Bytes },
    /// What each unit of the package sees.
    Units(Vec<Bytes>),
}

/// The programs that were used last.
#[derive(Default)]
pub(crate) struct Programs(Mutex<VecDeque<Arc<Program>>>);

impl Package {
    /// How many inputs a unit has, sealed or not.
    pub(crate) fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// Whether all units see the same of an input.
    pub(crate) fn is_shared(&self, input: usize) -> bool {
        matches!(&self.inputs[input], Input::Split { split, .. } if split.stride == 0)
    }

    /// What unit number `position` of the package sees of one input.
    pub(crate) fn input(&self, input: usize, position: usize) -> Bytes {
        self.inputs[input].unit(self.places[position], position)
    }

    /// The same package with its inputs opened, and the program that takes them so.
    pub(crate) fn opened(self, program: Arc<Program>, inputs: Vec<Vec<Bytes>>) -> Self {
        Self { program, inputs: inputs.into_iter().map(Input::Opened).collect(), ..self }
    }

    /// What unit number `position` of the package sees.
    pub(crate) fn inputs(&self, position: usize) -> Vec<Bytes> {
        self.inputs.iter().map(|input| input.unit(self.places[position], position)).collect()
    }
}

impl Input {
    /// What the unit sees that is number `unit` where the input is split, and number `position` in the package.
    fn unit(&self, unit: u64, position: usize) -> Bytes {
        let (present, length) = match self {
            Self::Split { split, part: Part::Units(units), .. } => {
                (units[position].clone(), split.length as usize)
            }
            Self::Split { split, blob_bytes, part: Part::Run { start, bytes } } => {
                let range = split.range(unit, *blob_bytes);
                let present = if range.is_empty() {
                    Bytes::new()
                } else {
                    bytes.slice((range.start - start) as usize..(range.end - start) as usize)
                };
                (present, split.length as usize)
            }
            Self::Opened(units) => {
                let bytes = units.get(position).or(units.first()).cloned().unwrap_or_default();
                let length = bytes.len();
                (bytes, length)
            }
            Self::Gathered { length, blobs, units } => (gathered(units[position], blobs, *length), *length),
        };
        if present.len() == length {
            return present;
        }
        let mut padded = present.to_vec();
        padded.resize(length, 0);
        padded.into()
    }
}

/// At most `length` bytes of some blobs, one after the other, from the unit's offset.
fn gathered(unit: GatheredUnit, blobs: &[Bytes], length: usize) -> Bytes {
    let (first, count) = (unit.first as usize, unit.count as usize);
    let mut skip = usize::try_from(unit.offset).unwrap_or(usize::MAX);
    let mut pieces = Vec::new();
    let mut found = 0;
    for blob in &blobs[first..first + count] {
        if found == length {
            break;
        }
        if skip >= blob.len() {
            skip -= blob.len();
            continue;
        }
        let piece = blob.slice(skip..blob.len().min(skip.saturating_add(length - found)));
        skip = 0;
        found += piece.len();
        pieces.push(piece);
    }
    match pieces.as_slice() {
        [] => Bytes::new(),
        // The usual: one unit's output, or a part of it. Nothing is copied.
        [piece] => piece.clone(),
        pieces => pieces.concat().into(),
    }
}

fn program_failed(detail: impl Into<String>) -> Refusal {
    Refusal { cause: ReleaseCause::ProgramFailed, detail: detail.into() }
}

pub(crate) fn input_failed(detail: impl Into<String>) -> Refusal {
    Refusal { cause: ReleaseCause::InputFailed, detail: detail.into() }
}

/// Makes a lease ready to run. An unreachable market is waited for.
pub(crate) async fn prepare(context: &Context, holding: Arc<Holding>) -> Result<Package, Refusal> {
    let lease = &holding.lease;
    let count: u64 = lease.units.iter().map(|run| u64::from(run.count)).sum();
    let in_range = lease.units.iter().all(|run| run.first.checked_add(run.count.into()).is_some());
    if count == 0 || count > UNITS_MAX || !in_range {
        return Err(program_failed(format!("a package of {count} units is not acceptable")));
    }
    let units: Vec<u64> = lease.units.iter().flat_map(|run| run.units()).collect();
    let places: Option<Vec<u64>> = units.iter().map(|unit| unit.checked_sub(lease.unit_base)).collect();
    let places = places.ok_or_else(|| program_failed("a unit comes before its stage"))?;
    let program = program(context, lease.manifest).await?;
    let content =
        lease.envelope.as_ref().map(|envelope| sealed::content(context, lease, envelope)).transpose()?;
    let extra = if content.is_some() { SEALED_INPUT_EXTRA_BYTES } else { 0 };
    let lengths: Vec<u64> = program.plan.input_lengths().map(|length| length + extra).collect();
    let given: Vec<u64> = lease.inputs.iter().map(LeaseInput::length).collect();
    if lengths != given {
        return Err(program_failed(format!(
            "the manifest has inputs of {lengths:?} bytes and the lease gives {given:?}"
        )));
    }
    let mut inputs = Vec::with_capacity(lease.inputs.len());
    for from in &lease.inputs {
        inputs.push(match from {
            LeaseInput::Split(split) => input(context, split, &places).await?,
            LeaseInput::Gathered(gathered) => gather(context, gathered, units.len()).await?,
        });
    }
    let package = Package { holding: holding.clone(), program, units, places, inputs, content };
    if package.content.is_some() { sealed::open(context, package).await } else { Ok(package) }
}

async fn input(context: &Context, split: &InputSplit, units: &[u64]) -> Result<Input, Refusal> {
    let blob_bytes = length(context, &split.blob).await?;
    let split = *split;
    if blob_bytes <= WHOLE_BYTES_MAX {
        let bytes = blob(context, &split.blob, WHOLE_BYTES_MAX).await?;
        let blob_bytes = bytes.len() as u64;
        return Ok(Input::Split { split, blob_bytes, part: Part::Run { start: 0, bytes } });
    }
    let ranges: Vec<_> = units.iter().map(|unit| split.range(*unit, blob_bytes)).collect();
    let start = ranges.iter().map(|r| r.start).min().unwrap_or(0);
    let end = ranges.iter().map(|r| r.end).max().unwrap_or(0);
    let needed: u64 = ranges.iter().map(|r| r.end - r.start).sum();
    if needed.min(end - start) > PART_BYTES_MAX {
        return Err(input_failed(format!("the package needs {needed} bytes of blob {}", split.blob)));
    }
    let fetch = |range| {
        patiently(context, move || {
            let range = std::ops::Range::clone(&range);
            async move { context.client.blob_range(&split.blob, range).await }
        })
    };
    // Fetching the gaps too is cheaper than a request a unit, while there is little of them.
    let part = if end - start <= needed.saturating_mul(2) {
        Part::Run { start, bytes: fetch(start..end).await? }
    } else {
        Part::Units(stream::iter(ranges).map(fetch).buffered(RANGES_AT_ONCE).try_collect().await?)
    };
    Ok(Input::Split { split, blob_bytes, part })
}

/// Other units' outputs, each whole: that is what lets them be checked, and kept for whoever reads them too.
async fn gather(context: &Context, input: &GatheredInput, units: usize) -> Result<Input, Refusal> {
    let blobs = input.blobs.len();
    let within = |unit: &GatheredUnit| unit.first as usize + unit.count as usize <= blobs;
    if blobs > GATHERED_BLOBS_MAX || input.units.len() != units || !input.units.iter().all(within) {
        return Err(input_failed(format!("{blobs} blobs are not what {units} units can be gathered from")));
    }
    let fetch = |hash: Hash| async move { blob(context, &hash, PART_BYTES_MAX).await };
    let mut fetched: HashMap<Hash, Bytes> = HashMap::new();
    let distinct: BTreeSet<Hash> = input.blobs.iter().copied().collect();
    let mut bytes = 0;
    let mut fetching = stream::iter(distinct)
        .map(|hash| fetch(hash).map(move |bytes| (hash, bytes)))
        .buffered(RANGES_AT_ONCE);
    while let Some((hash, blob)) = fetching.next().await {
        let blob = blob?;
        bytes += blob.len() as u64;
        if bytes > PART_BYTES_MAX {
            return Err(input_failed(format!("the package gathers more than {PART_BYTES_MAX} bytes")));
        }
        fetched.insert(hash, blob);
    }
    let blobs = input.blobs.iter().map(|hash| fetched[hash].clone()).collect();
    Ok(Input::Gathered { length: input.length as usize, blobs, units: input.units.clone() })
}

/// The program of a manifest: fetched, checked and found to fit the device.
async fn program(context: &Context, id: Hash) -> Result<Arc<Program>, Refusal> {
    if let Some(program) = context.programs.find(id) {
        return Ok(program);
    }
    let json = blob(context, &id, program::MANIFEST_BYTES_MAX as u64).await?;
    let manifest = program::parse(&json).map_err(|error| program_failed(error.to_string()))?;
    let mut kernels = BTreeMap::new();
    for kernel in manifest.program.kernels.values() {
        let bytes = blob(context, &kernel.blob, program::KERNEL_BYTES_MAX as u64).await?;
        let text = String::from_utf8(bytes.into())
            .map_err(|_| program_failed(format!("kernel {} is not UTF-8", kernel.blob)))?;
        kernels.insert(kernel.blob, text);
    }
    let (manifest, kernels, plan) = tokio::task::spawn_blocking(move || {
        let plan = program::check(&manifest, &kernels);
        (manifest, kernels, plan)
    })
    .await
    .map_err(|error| program_failed(format!("checking the program: {error}")))?;
    let plan = plan.map_err(|error| program_failed(error.to_string()))?;
    let device = context.device();
    program::fits(&plan, &device.limits, &device.features)
        .map_err(|misfit| program_failed(misfit.to_string()))?;
    let (needed, lent) = (plan.memory_bytes, context.offer.memory_bytes);
    if lent > 0 && needed > lent {
        return Err(program_failed(format!("a unit takes {needed} bytes and this worker lends {lent}")));
    }
    let mut blobs = BTreeMap::new();
    for buffer in &plan.buffers {
        let program::Source::Blob(hash) = buffer.source else { continue };
        let bytes = blob(context, &hash, buffer.length_bytes).await?;
        if bytes.len() as u64 != buffer.length_bytes {
            return Err(input_failed(format!(
                "blob {hash} has {} bytes and buffer {} takes {}",
                bytes.len(),
                buffer.name,
                buffer.length_bytes
            )));
        }
        blobs.insert(hash, bytes);
    }
    let program = Arc::new(Program { id, manifest, kernels, plan, blobs });
    context.programs.keep(program.clone());
    Ok(program)
}

async fn blob(context: &Context, blob: &Hash, length_max: u64) -> Result<Bytes, Refusal> {
    patiently(context, || context.cache.get(&context.client, blob, length_max)).await
}

async fn length(context: &Context, blob: &Hash) -> Result<u64, Refusal> {
    if let Some(length) = context.cache.length(blob) {
        return Ok(length);
    }
    let length = patiently(context, || context.client.blob_length(blob)).await?;
    length.ok_or_else(|| input_failed(format!("the market has no blob {blob}")))
}

/// Repeats a fetch while the market does not answer.
async fn patiently<T, F>(context: &Context, mut fetch: impl FnMut() -> F) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, client::Error>>,
{
    let mut backoff = Backoff::default();
    loop {
        match fetch().await {
            Ok(value) => return Ok(value),
            Err(error) if error.is_transient() => context.wait_for_market(&error, &mut backoff).await,
            Err(error) if error.code() == Some(code::NOT_FOUND) => {
                return Err(input_failed(error.to_string()));
            }
            Err(error) => return Err(input_failed(error.to_string())),
        }
    }
}

impl Programs {
    fn find(&self, id: Hash) -> Option<Arc<Program>> {
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = programs.iter().position(|program| program.id == id)?;
        let program = programs.remove(at)?;
        programs.push_front(program.clone());
        Some(program)
    }

    fn keep(&self, program: Arc<Program>) {
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        programs.retain(|kept| kept.id != program.id);
        programs.push_front(program);
        programs.truncate(PROGRAMS_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_blob_gives_the_same_units_as_the_whole() {
        let blob: Bytes = (0..100).collect();
        let split = InputSplit { blob: Hash::of(&blob), offset: 4, stride: 7, length: 9 };
        let whole = Part::Run { start: 0, bytes: blob.clone() };
        let whole = Input::Split { split, blob_bytes: 100, part: whole };
        // Units 10 to 14 begin at 74; the last two reach beyond the end.
        let run = Part::Run { start: 74, bytes: blob.slice(74..) };
        let run = Input::Split { split, blob_bytes: 100, part: run };
        let slices =
            (10..15).map(|u| split.range(u, 100)).map(|r| blob.slice(r.start as usize..r.end as usize));
        let units = Input::Split { split, blob_bytes: 100, part: Part::Units(slices.collect()) };
        for (position, unit) in (10..15).enumerate() {
            let expected = split.unit_bytes(unit, &blob);
            assert_eq!(whole.unit(unit, position), *expected, "unit {unit}");
            assert_eq!(run.unit(unit, position), *expected, "unit {unit}");
            assert_eq!(units.unit(unit, position), *expected, "unit {unit}");
        }
        assert_eq!(whole.unit(u64::MAX, 0), vec![0; 9]);
    }

    #[test]
    fn gathered_inputs_are_blobs_one_after_the_other_cut_and_padded() {
        let blobs: Vec<Bytes> = [&[1, 2, 3][..], &[], &[4], &[5, 6]].map(Bytes::copy_from_slice).into();
        let check = |first, count, offset, expected: [u8; 4]| {
            let units = vec![GatheredUnit { first, count, offset }];
            let input = Input::Gathered { length: 4, blobs: blobs.clone(), units };
            assert_eq!(*input.unit(9, 0), expected, "{count} from {first} at {offset}");
        };
        check(0, 4, 0, [1, 2, 3, 4]);
        check(0, 4, 2, [3, 4, 5, 6]);
        check(0, 1, 1, [2, 3, 0, 0]);
        check(2, 2, 0, [4, 5, 6, 0]);
        check(3, 1, 0, [5, 6, 0, 0]);
        check(0, 4, 6, [0; 4]);
        check(0, 4, u64::MAX, [0; 4]);
        check(1, 0, 0, [0; 4]);
    }
}
