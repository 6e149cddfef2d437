//! A job's result files, made here from the units' outputs: nobody's word is taken for what they are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use api::{Job, Unit};
use bytes::Bytes;
use client::Client;
use futures::{StreamExt, TryStreamExt, stream};
use job::{JoinError, join};
use protocol::{Hash, JobId, JoinSpec, OutputCommitment};
use serde::Serialize;

use crate::{exit::Failure, say, sealed::Opener};

/// Blobs fetched at the same time.
const FETCHES_AT_ONCE: usize = 8;
/// The largest blob beside the outputs that a join may read.
const BLOB_BYTES_MAX: u64 = 1 << 30;

/// One written file.
#[derive(Serialize)]
pub struct ResultFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    #[serde(with = "protocol::decimal")]
    pub bytes: u64,
    /// Its hash.
    pub sha256: Hash,
    /// Units that are not in it.
    #[serde(with = "protocol::decimal")]
    pub units_missing: u64,
    /// The share of rows that are as the job expects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// All units of a job.
pub async fn units(client: &Client, id: JobId) -> Result<Vec<Unit>, Failure> {
    let (mut units, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = client.units(id, cursor.as_deref()).await?;
        units.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            units.sort_by_key(|unit: &Unit| unit.id.index);
            return Ok(units);
        }
    }
}

/// Units of one stage, and of the last iteration of a loop.
async fn stage_units(client: &Client, job: &Job, stage: Option<&str>) -> Result<Vec<Unit>, Failure> {
    let iteration = job.iteration.map(|iteration| iteration.current);
    let (mut units, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = client.stage_units(job.id, stage, iteration, cursor.as_deref()).await?;
        units.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(units);
        }
    }
}

/// Writes a job's result files to `out`: the joined ones, or every unit's outputs where the job joins none.
///
/// Those of a sealed job are opened with the key in the folder `keys`.
pub async fn fetch(client: &Client, job: &Job, keys: &Path, out: &Path) -> Result<Vec<ResultFile>, Failure> {
    let opener = Opener::of(client, job, keys).await?;
    let opener = opener.as_ref();
    fs::create_dir_all(out)
        .map_err(|error| Failure::new(format!("failed to make the folder {}: {error}", out.display())))?;
    let mut files = Vec::new();
    let joins = opener.map_or(&job.joins, |opener| &opener.joins);
    for spec in joins {
        files.push(fetch_joined(client, job, opener, spec, out).await?);
    }
    if joins.is_empty() {
        let stage = job.stages.last().map(|stage| stage.name.as_str());
        for unit in stage_units(client, job, stage).await? {
            for (number, output) in unit.outputs.iter().enumerate() {
                let bytes = fetch_output(client, opener, unit.index, number, output).await?;
                let name = format!("unit-{}-output-{number}.bin", unit.index);
                files.push(write(out, &name, &bytes, 0, None)?);
            }
        }
    }
    Ok(files)
}

async fn fetch_joined(
    client: &Client,
    job: &Job,
    opener: Option<&Opener>,
    spec: &JoinSpec,
    out: &Path,
) -> Result<ResultFile, Failure> {
    let failed = |error: JoinError| Failure::new(format!("{} cannot be joined: {error}", spec.file));
    let stage = match &spec.stage {
        Some(name) => job.stages.iter().find(|stage| stage.name == *name),
        None => job.stages.last(),
    };
    let (manifest, count) = stage.map_or((job.manifest, job.units), |stage| (stage.manifest, stage.units));
    let manifest = client.blob(&manifest, program::MANIFEST_BYTES_MAX as u64).await?;
    let manifest = program::parse(&manifest)
        .map_err(|error| Failure::new(format!("the job's manifest is not one: {error}")).fix(error.fix()))?;
    // Before anything is fetched: a specification that makes no sense, or too much memory.
    job::check_join(spec, &manifest, count).map_err(failed)?;
    let units = stage_units(client, job, stage.map(|stage| stage.name.as_str())).await?;
    let output = spec.output as usize;
    let wanted: Vec<(u64, OutputCommitment)> =
        units.iter().filter_map(|unit| Some((unit.index, *unit.outputs.get(output)?))).collect();
    let fetched: BTreeMap<u64, Bytes> = stream::iter(wanted)
        .map(|(unit, of_unit)| async move {
            fetch_output(client, opener, unit, output, &of_unit).await.map(|bytes| (unit, bytes))
        })
        .buffer_unordered(FETCHES_AT_ONCE)
        .try_collect()
        .await?;
    let mut beside = BTreeMap::new();
    for blob in spec.blobs() {
        let bytes = match opener {
            Some(opener) => opener.beside(&blob)?,
            None => client.blob(&blob, BLOB_BYTES_MAX).await?,
        };
        beside.insert(blob, bytes);
    }
    let outputs = (0..count).map(|unit| fetched.get(&unit));
    let joined = join(spec, &manifest, count, outputs, |blob| beside.get(blob).cloned()).map_err(failed)?;
    let accuracy = joined
        .agreement
        .filter(|agreement| agreement.total > 0)
        .map(|agreement| agreement.matching as f64 / agreement.total as f64);
    write(out, &spec.file, &joined.bytes, joined.units_missing, accuracy)
}

/// Output number `number` of a unit, checked against its hash and length, and opened if it is sealed.
async fn fetch_output(
    client: &Client,
    opener: Option<&Opener>,
    unit: u64,
    number: usize,
    output: &OutputCommitment,
) -> Result<Bytes, Failure> {
    let bytes = client.blob(&output.blob, output.length).await?;
    if bytes.len() as u64 == output.length {
        return match opener {
            Some(opener) => opener.open(unit, number as u32, &bytes),
            None => Ok(bytes),
        };
    }
    let (blob, found, length) = (output.blob, bytes.len(), output.length);
    Err(Failure::new(format!("output {blob} has {found} bytes, and its worker committed to {length}")))
}

/// Writes whole or not at all.
fn write(
    out: &Path,
    name: &str,
    bytes: &[u8],
    units_missing: u64,
    accuracy: Option<f64>,
) -> Result<ResultFile, Failure> {
    // The name comes from whoever submitted the job: it must not lead out of the folder.
    let mut parts = Path::new(name).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(Failure::new(format!(
            "the job names its result {name:?}, which is not a plain file name"
        )));
    }
    let path = out.join(name);
    let partial = out.join(format!("{name}.partial"));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(&partial);
        Failure::new(format!("failed to write {}: {error}", path.display()))
    })?;
    Ok(ResultFile { path, bytes: bytes.len() as u64, sha256: Hash::of(bytes), units_missing, accuracy })
}

/// Prints what was written.
pub fn print(files: &[ResultFile]) {
    for file in files {
        let mut line = format!("wrote {} ({} bytes)", file.path.display(), file.bytes);
        if let Some(accuracy) = file.accuracy {
            line += &format!(", {:.2} % as expected", accuracy * 100.0);
        }
        if file.units_missing > 0 {
            line += &format!(", {} units missing", file.units_missing);
        }
        say::out(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_stays_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(dir.path(), "a.csv", b"x", 0, None).unwrap();
        assert_eq!(fs::read(written.path).unwrap(), b"x");
        for name in ["", ".", "..", "../a.csv", "/etc/passwd", "a/b.csv"] {
            assert!(write(dir.path(), name, b"x", 0, None).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
