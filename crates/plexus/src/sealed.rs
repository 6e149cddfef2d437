//! Sealed jobs at their client: inputs are sealed before anything leaves this machine, and the content key stays in a folder
//! beside the wallet, where `plexus job fetch` finds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use api::{GraphRequest, Job, Quote, Reservation, ReservationRequest, SealedRequest, WorkerEnvelope};
use bytes::Bytes;
use client::Client;
use job::CompiledGraph;
use protocol::{
    Amount, Hash, InputSplit, JobId, JoinSpec, PublicKey, ReservationId, SealContext, manifest::Compare,
};
use seal::{ContentKey, open_output, seal_key, seal_split};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// The folder with the content keys, in that of the wallet.
const FOLDER: &str = "sealed";
/// The file with what is needed to read one job's results.
const KEY_FILE: &str = "key.json";
/// How long workers are kept while envelopes are made and the job is submitted.
const HOLD_S: u32 = 60;

/// Where this wallet keeps its content keys.
pub fn folder_of(wallet: &Path) -> PathBuf {
    wallet.parent().unwrap_or(Path::new("")).join(FOLDER)
}

/// A job's secret, and what its results become.
pub struct Sealing {
    content: ContentKey,
    joins: Vec<JoinSpec>,
    /// Blobs that the joins read beside the outputs. They never leave this machine.
    beside: BTreeMap<Hash, Bytes>,
}

impl Sealing {
    /// Seals a compiled job: what comes back names ciphertext alone, and nothing else of it may be sent anywhere.
    pub fn of(mut graph: CompiledGraph) -> Result<(Self, CompiledGraph), Failure> {
        let refused = |why: String| {
            Failure::new(why)
                .code("not_sealable")
                .fix("submit it without --sealed, or change the job; see docs/sealed.md")
        };
        if !graph.is_plain() {
            return Err(refused("only a job of one stage that is run once can be sealed".into()));
        }
        let stage = &mut graph.stages[0];
        if !stage.job.canaries.is_empty() {
            return Err(refused("what is known of its units would be sent in the clear".into()));
        }
        if stage.job.manifest.verify.relations().is_some() {
            return Err(refused("the market cannot check relations of what it cannot read".into()));
        }
        let buffers = &stage.job.manifest.program.buffers;
        for (name, buffer) in buffers.iter().filter(|(_, buffer)| buffer.output.is_some()) {
            if !matches!(buffer.compare.unwrap_or_default(), Compare::Exact(_)) {
                let why = format!(
                    "output {name} compares within a tolerance, and only outputs that compare bit for bit can be sealed"
                );
                return Err(refused(why));
            }
        }
        // What every unit reads alike is part of the program where nothing is sealed; here it is an input like the others.
        for buffer in stage.job.manifest.program.buffers.values_mut() {
            let Some(blob) = buffer.blob.take() else { continue };
            let elements: u64 = buffer.shape.iter().map(|extent| u64::from(*extent)).product();
            let length = elements * buffer.dtype.bytes();
            (buffer.input, buffer.resident) = (Some(stage.job.inputs.len() as u32), None);
            stage.job.inputs.push(InputSplit { blob, offset: 0, stride: 0, length });
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key)
            .map_err(|error| Failure::new(format!("there is no randomness: {error}")))?;
        let content = ContentKey::from_bytes(key);
        let mut sealed = Vec::new();
        for (number, split) in (0..).zip(&mut stage.job.inputs) {
            let plain = graph.blobs.get(&split.blob).cloned().unwrap_or_default();
            let (there, bytes) = seal_split(&content, number, split, stage.job.units, &plain)
                .map_err(|error| refused(error.to_string()))?;
            *split = there;
            sealed.push((there.blob, Bytes::from(bytes)));
        }
        let kernels = stage.job.manifest.program.kernels.values();
        let open: BTreeSet<Hash> = kernels.map(|kernel| kernel.blob).collect();
        let joins = std::mem::take(&mut graph.joins);
        let named: BTreeSet<Hash> = joins.iter().flat_map(JoinSpec::blobs).collect();
        let beside = graph.blobs.iter().filter(|(hash, _)| named.contains(hash));
        let beside = beside.map(|(hash, bytes)| (*hash, bytes.clone())).collect();
        graph.blobs.retain(|hash, _| open.contains(hash));
        graph.blobs.extend(sealed);
        Ok((Self { content, joins, beside }, graph))
    }

    /// Seals the content key to reserved workers, for this job alone. The market chose them and could write anything: each
    /// record must be signed by its worker, and each worker be one of `only` where some were named.
    pub fn envelopes(
        &self,
        market: PublicKey,
        request: &GraphRequest,
        reservation: &Reservation,
        only: &[PublicKey],
    ) -> Result<SealedRequest, Failure> {
        let stage = &request.stages[0];
        let split = |input: &api::StageInput| match input {
            api::StageInput::Split(split) => Some(*split),
            api::StageInput::Gather(_) => None,
        };
        let inputs: Option<Vec<_>> = stage.inputs.iter().map(split).collect();
        let inputs = inputs.ok_or_else(|| Failure::new("a sealed job reads blobs alone"))?;
        let manifest = Hash::of(&stage.manifest.to_bytes());
        let context = SealContext { market, manifest, inputs }.digest();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let distrusted = |why: String| {
            Failure::new(format!("nothing is sealed: {why}"))
                .code("recipient_invalid")
                .fix("the market names workers that cannot be trusted; use another market")
        };
        let mut envelopes: Vec<WorkerEnvelope> = Vec::new();
        for signed in &reservation.recipients {
            let worker = signed.record.worker;
            signed.check(market, now_ms).map_err(|error| distrusted(error.to_string()))?;
            if !only.is_empty() && !only.contains(&worker) {
                return Err(distrusted(format!("{worker} is not one of the workers that were named")));
            }
            if envelopes.iter().any(|envelope| envelope.worker == worker) {
                return Err(distrusted(format!("{worker} is named twice")));
            }
            let mut fresh = [0; 32];
            getrandom::fill(&mut fresh)
                .map_err(|error| Failure::new(format!("there is no randomness: {error}")))?;
            let envelope = seal_key(&self.content, &signed.record, &context, fresh)
                .map_err(|error| distrusted(error.to_string()))?;
            envelopes.push(WorkerEnvelope { worker, envelope });
        }
        Ok(SealedRequest { reservation: reservation.id, envelopes })
    }

    /// Keeps what reading the results takes, before the job exists: a key that is lost is a result that is lost.
    pub fn keep(&self, folder: &Path, market: PublicKey, id: ReservationId) -> Result<Kept, Failure> {
        let place = folder.join(format!("{market}-{id}"));
        let failed = |error: io::Error| {
            Failure::new(format!("failed to keep the content key in {}: {error}", place.display()))
        };
        make_private(&place).map_err(failed)?;
        for (hash, bytes) in &self.beside {
            write_private(&place.join(hash.to_string()), bytes).map_err(failed)?;
        }
        let key = KeyFile { content_key: hex(self.content.as_bytes()), joins: self.joins.clone() };
        let text = serde_json::to_vec_pretty(&key).expect("keys and joins have a JSON form");
        write_private(&place.join(KEY_FILE), &text).map_err(failed)?;
        Ok(Kept { place, folder: folder.to_owned(), market })
    }
}

/// What is asked before a sealed job is submitted.
pub fn reservation_request(
    request: &GraphRequest,
    quote: &Quote,
    providers: Option<u32>,
    only: &[PublicKey],
) -> ReservationRequest {
    let stage = &request.stages[0];
    // Those who compute and check a unit, and one more to decide.
    let least = u32::try_from(quote.stages[0].copies).unwrap_or(u32::MAX).saturating_add(1);
    ReservationRequest {
        manifest: stage.manifest.clone(),
        units: stage.units,
        unit_price: stage.unit_price,
        replicas: stage.replicas,
        providers: providers.unwrap_or(least),
        workers: only.to_vec(),
        hold_s: HOLD_S,
    }
}

/// What a sealed job will hold: as many opinions as any other, and a third one of each unit.
pub fn escrow(quote: &Quote) -> Amount {
    let copies = quote.stages[0].copies.max(1);
    Amount((quote.escrow.0 / copies).saturating_mul(copies + 1))
}

/// A content key in its folder.
pub struct Kept {
    place: PathBuf,
    folder: PathBuf,
    market: PublicKey,
}

impl Kept {
    /// Files the key under its job, now that there is one.
    pub fn file_under(self, job: JobId) -> Result<(), Failure> {
        let to = self.folder.join(format!("{}-{job}", self.market));
        fs::rename(&self.place, &to).map_err(|error| {
            let (from, to) = (self.place.display(), to.display());
            Failure::new(format!("{job} is submitted, but its content key could not be moved: {error}"))
                .fix(format!("move {from} to {to}; without it nobody reads the results"))
        })
    }

    /// Forgets the key of a job that was not submitted.
    pub fn forget(self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// Reads a sealed job's results.
pub struct Opener {
    content: ContentKey,
    /// The files that the outputs become.
    pub joins: Vec<JoinSpec>,
    place: PathBuf,
}

impl Opener {
    /// The key of a job, if it is sealed.
    pub async fn of(client: &Client, job: &Job, folder: &Path) -> Result<Option<Self>, Failure> {
        if job.sealed_to.is_empty() {
            return Ok(None);
        }
        let market = client.market().await?.market;
        let place = folder.join(format!("{market}-{}", job.id));
        let file = place.join(KEY_FILE);
        let missing = |what: String| {
            Failure::new(format!("{} is sealed, and its content key is not here: {what}", job.id))
                .code("content_key_missing")
                .fix(format!(
                    "put it into {}, or name the wallet that submitted the job with --wallet",
                    file.display()
                ))
        };
        let text = fs::read(&file).map_err(|error| missing(error.to_string()))?;
        // serde's own message would quote the key.
        let key: KeyFile =
            serde_json::from_slice(&text).map_err(|_| missing("the file is damaged".into()))?;
        let content = unhex(&key.content_key).ok_or_else(|| missing("the file is damaged".into()))?;
        Ok(Some(Self { content: ContentKey::from_bytes(content), joins: key.joins, place }))
    }

    /// Opens one output of one unit.
    pub fn open(&self, unit: u64, output: u32, sealed: &[u8]) -> Result<Bytes, Failure> {
        let opened = open_output(&self.content, unit, output, sealed);
        opened.map(Bytes::from).map_err(|error| Failure::new(error.to_string()).code("output_sealed_wrongly"))
    }

    /// A blob that a join reads beside the outputs.
    pub fn beside(&self, blob: &Hash) -> Result<Bytes, Failure> {
        let path = self.place.join(blob.to_string());
        let read = fs::read(&path);
        read.map(Bytes::from)
            .map_err(|error| Failure::new(format!("failed to read {}: {error}", path.display())))
    }
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    content_key: String,
    joins: Vec<JoinSpec>,
}

fn hex(bytes: &[u8; 32]) -> String {
    Hash(*bytes).to_string()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    text.parse::<Hash>().ok().map(|hash| hash.0)
}

/// A folder for its owner alone.
fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(folder)
}

/// A new file for its owner alone, on disk before this returns.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_sealed_job_but_its_kernels_leaves_as_it_is() {
        let kernel = "
            @group(0) @binding(0) var<storage, read> x: array<u32>;
            @group(0) @binding(1) var<storage, read> w: array<u32>;
            @group(0) @binding(2) var<storage, read_write> y: array<u32>;
            @compute @workgroup_size(1) fn main() { y[0] = x[0] * w[0]; }";
        let text = r#"
            version = 1
            name = "a"
            kernels.main.file = "main.wgsl"
            inputs.x = { file = "x.csv", split = { axis = 0, size = 1 }, dtype = "u32" }
            inputs.w = { file = "w.csv", dtype = "u32" }
            outputs.y = { dtype = "u32", shape = [1] }
            passes = [{ kernel = "main", bind = ["x", "w", "y"], dispatch = [1] }]
            pay.unit_price = "0.001"
        "#;
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("main.wgsl", kernel), ("x.csv", "11\n22\n33\n"), ("w.csv", "77\n")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let folder = job::Folder(dir.path().to_owned());
        let graph = job::compile_any(text, "job.toml", &folder).unwrap().into_graph();
        let stage = &graph.stages[0].job;
        assert_eq!((stage.inputs.len(), graph.blobs.len()), (1, 3), "the weights are part of the program");
        let (sealing, sealed) = Sealing::of(graph.clone()).unwrap();
        let stage = &sealed.stages[0].job;
        assert_eq!(stage.inputs.len(), 2);
        assert!(stage.manifest.program.buffers.values().all(|buffer| buffer.blob.is_none()));
        let open: Vec<_> = sealed.blobs.keys().filter(|hash| graph.blobs.contains_key(hash)).collect();
        assert_eq!(open, [&Hash::of(kernel.as_bytes())]);
        let weights = &sealed.blobs[&stage.inputs[1].blob];
        let opened = seal::open_input(&sealing.content, 1, 0, weights).unwrap();
        assert_eq!(opened, 77u32.to_le_bytes());
        // Another submission of the same job has nothing in common with it.
        let again = Sealing::of(graph).unwrap().1;
        assert_ne!(again.stages[0].job.inputs, stage.inputs);
    }

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_filed_under_its_job() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, market) = (folder_of(&dir.path().join("wallet.json")), PublicKey([7; 32]));
        let blob = Bytes::from_static(b"labels");
        let content = ContentKey::from_bytes([0xab; 32]);
        let beside = BTreeMap::from([(Hash::of(&blob), blob.clone())]);
        let sealing = Sealing { content, joins: vec![], beside };
        let kept = sealing.keep(&folder, market, ReservationId(3)).unwrap();
        kept.file_under(JobId(9)).unwrap();
        let place = folder.join(format!("{market}-job-9"));
        let text = fs::read_to_string(place.join(KEY_FILE)).unwrap();
        assert!(text.contains(&"ab".repeat(32)));
        assert_eq!(fs::read(place.join(Hash::of(&blob).to_string())).unwrap(), blob);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&place), mode(&place.join(KEY_FILE))), (0o700, 0o600));
        }
        sealing.keep(&folder, market, ReservationId(4)).unwrap().forget();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
