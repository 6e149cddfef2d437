//! `plexus submit`: a job file on its way to a market.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
};

use api::{GatherInput, GraphRequest, IterateRequest, Job, Quote, StageInput, StageRequest, Until, code};
use client::Client;
use futures::{StreamExt, TryStreamExt, stream};
use job::{CompiledGraph, CompiledJob};
use protocol::{Amount, Hash, PublicKey};
use serde_json::json;

use crate::{
    arguments::{MarketArgument, WalletArgument},
    exit::{Failure, Place},
    job_commands::{self, Watching},
    quote, results, say,
    sealed::{self, Sealing},
    signals::Interrupts,
};

/// Blobs uploaded at the same time.
const UPLOADS_AT_ONCE: usize = 4;
/// How often test tokens are taken for one job; the first time is normally enough.
const FAUCET_CALLS_MAX: u32 = 4;

#[derive(clap::Args)]
pub struct Options {
    /// The job file
    #[arg(required_unless_present = "init", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write a first job to this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    init: Option<PathBuf>,
    /// Check everything and say what it costs, but send nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait for the job's end
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Wait, and write the result to this folder
    #[arg(long, value_name = "DIR", conflicts_with = "dry_run")]
    out: Option<PathBuf>,
    /// Submit only if a compute second costs at most this many tokens
    #[arg(long, value_name = "TOKENS", value_parser = Amount::from_tokens)]
    max_price: Option<Amount>,
    /// The most that may be set aside for the job, instead of the job file's budget
    #[arg(long, value_name = "TOKENS", value_parser = Amount::from_tokens)]
    budget: Option<Amount>,
    /// The class it is served in, instead of the job file's: a higher one may take devices back from a lower one
    #[arg(long, value_name = "CLASS")]
    priority: Option<Class>,
    /// In how many seconds the job is to be done, instead of the job file's; what is not given out by then is not computed
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u32>,
    /// Failed attempts after which a unit is given up [default: the job file's, or the market's]
    #[arg(long, value_name = "NUMBER")]
    attempts: Option<u32>,
    /// Never take test tokens from the market's faucet
    #[arg(long)]
    no_faucet: bool,
    /// Seal inputs and results: only the workers that compute and check the job can read them, not the market
    #[arg(long, conflicts_with = "dry_run")]
    sealed: bool,
    /// Seal to this many workers of different owners [default: as few as the verification allows]
    #[arg(long, value_name = "NUMBER", requires = "sealed")]
    providers: Option<u32>,
    /// Seal to this worker; may be given several times [default: workers that the market chooses]
    #[arg(long = "to", value_name = "WORKER", requires = "sealed")]
    to: Vec<PublicKey>,
    #[command(flatten)]
    market: MarketArgument,
    #[command(flatten)]
    wallet: WalletArgument,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The classes by their names.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Class {
    Low,
    Normal,
    High,
    Urgent,
}

impl From<Class> for api::Priority {
    fn from(class: Class) -> Self {
        match class {
            Class::Low => Self::Low,
            Class::Normal => Self::Normal,
            Class::High => Self::High,
            Class::Urgent => Self::Urgent,
        }
    }
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    if let Some(dir) = &options.init {
        return init(dir, options.json);
    }
    let file = options.file.as_deref().unwrap_or(Path::new("job.toml"));
    let compiled = compile(file)?;
    if options.dry_run {
        describe(&compiled, escrow(&compiled), options.json);
        return Ok(ExitCode::SUCCESS);
    }
    let client = options.market.with(options.wallet.key_or_new()?)?;
    let keys = sealed::folder_of(&options.wallet.file()?);
    // Before anything is sent, even a hash: whoever knows what an input may be could compare.
    let (sealing, compiled) = if options.sealed {
        let (sealing, compiled) = Sealing::of(compiled)?;
        (Some(sealing), compiled)
    } else {
        (None, compiled)
    };
    upload_kernels(&client, &compiled).await?;
    let asks_market = compiled.stages.iter().any(|stage| stage.job.unit_price.is_none());
    let mut request = request(compiled.clone());
    request.priority = options.priority.map_or(request.priority, Into::into);
    request.deadline_in_s = options.deadline.or(request.deadline_in_s);
    request.attempts_max = options.attempts.or(request.attempts_max);
    let quote = client.quote(&request).await?;
    if !options.json {
        quote::print(&quote);
    }
    let rate = quote.stages.iter().map(|stage| stage.rate).max().unwrap_or_default();
    if let Some(most) = options.max_price.filter(|most| rate > *most) {
        let (rate, most) = (rate.to_tokens(), most.to_tokens());
        return Err(Failure::new(format!("a compute second costs {rate} tokens now, more than {most}"))
            .code(code::OVER_BUDGET)
            .fix("raise --max-price, or wait until there is less to do"));
    }
    request.budget = options.budget.or(request.budget);
    let most = if sealing.is_some() { sealed::escrow(&quote) } else { quote.escrow };
    if asks_market {
        // What was shown is the most that is paid, should the price rise meanwhile.
        request.budget = Some(request.budget.map_or(most, |budget| budget.min(most)));
    }
    upload(&client, &compiled).await?;
    let job = match sealing {
        Some(sealing) => submit_sealed(&client, request, &quote, &sealing, &keys, &options).await?,
        None => submit(&client, request, quote.escrow, options.no_faucet).await?,
    };
    let waits = options.wait || options.out.is_some();
    if !options.json {
        say::out(&format!(
            "{} submitted: {} units, {} tokens in escrow",
            job.id,
            job.units,
            job.money.escrowed.to_tokens()
        ));
        if !waits {
            say::err(&format!("  {} plexus job watch {}", say::bold("next:"), job.id));
        }
    }
    if !waits {
        if options.json {
            say::json(&job);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let watching = if options.json { Watching::Silent } else { Watching::ForPeople };
    let job = job_commands::watch(&client, job.id, watching).await?;
    let mut answer = serde_json::to_value(&job).unwrap_or_default();
    if let Some(out) = &options.out
        && job.state == api::JobState::Done
    {
        let mut interrupts = Interrupts::listen()?;
        let files = tokio::select! {
            files = results::fetch(&client, &job, &keys, out) => files?,
            () = interrupts.next() => {
                let (id, out) = (job.id, out.display());
                return Err(Failure::new(format!("{id} is done, but its result is not written"))
                    .fix(format!("`plexus job fetch {id} --out {out}` writes it")));
            }
        };
        if options.json {
            answer["files"] = json!(files);
        } else {
            results::print(&files);
        }
    }
    if options.json {
        say::json(&answer);
    }
    job_commands::ended(&job)
}

/// Writes the files of a first job; files that are there stay as they are.
fn init(dir: &Path, json: bool) -> Result<ExitCode, Failure> {
    let failed =
        |path: &Path, error: io::Error| Failure::new(format!("failed to write {}: {error}", path.display()));
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let files = job::template();
    if let Some(there) = files.iter().map(|file| dir.join(file.name)).find(|path| path.exists()) {
        return Err(Failure::new(format!("{} exists already", there.display()))
            .code("file_exists")
            .fix("name another folder"));
    }
    let mut written = Vec::new();
    for file in files {
        let path = dir.join(file.name);
        fs::write(&path, file.text).map_err(|error| failed(&path, error))?;
        written.push(path);
    }
    if json {
        say::json(&json!({ "files": written }));
    } else {
        for path in &written {
            say::out(&format!("wrote {}", path.display()));
        }
        say::err(&format!("  {} plexus submit {} --wait", say::bold("next:"), written[0].display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the job file and all that it names, and checks the program: what is wrong here never reaches a market.
pub fn compile(file: &Path) -> Result<CompiledGraph, Failure> {
    let text = fs::read_to_string(file).map_err(|error| {
        let failure = Failure::new(format!("failed to read the job file {}: {error}", file.display()));
        failure.code("job_file_unreadable").fix("`plexus submit --init DIR` writes a first job file")
    })?;
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let files = Files { folder: job::Folder(folder.clone()), read: RefCell::default() };
    let compiled = job::compile_any(&text, &file.display().to_string(), &files)
        .map_err(|error| Failure::new(error.to_string()).code(error.code().as_str()))?
        .into_graph();
    for stage in &compiled.stages {
        check(&stage.job, &compiled, &files, &folder)?;
    }
    Ok(compiled)
}

/// Checks the program of one stage with its kernels' texts.
fn check(stage: &CompiledJob, compiled: &CompiledGraph, files: &Files, folder: &Path) -> Result<(), Failure> {
    let mut kernels = BTreeMap::new();
    for (name, kernel) in &stage.manifest.program.kernels {
        let bytes = compiled.blobs.get(&kernel.blob).cloned().unwrap_or_default();
        let text = String::from_utf8(bytes.into())
            .map_err(|_| Failure::new(format!("kernel {name} is not UTF-8 text")).code("kernel_not_text"))?;
        kernels.insert(kernel.blob, text);
    }
    program::check(&stage.manifest, &kernels).map_err(|error| {
        let kernel = error.kernel().and_then(|name| stage.manifest.program.kernels.get(name));
        let read = files.read.borrow();
        let path = kernel.and_then(|kernel| read.get(&kernel.blob)).map(|path| folder.join(path));
        let path = path.map(|path| path.display().to_string());
        let text = path.as_ref().map_or_else(|| error.to_string(), |path| format!("{path}: {error}"));
        let field = Some(error.field().to_owned()).filter(|field| !field.is_empty());
        let place = Place { file: path, field, line: error.line(), column: error.column() };
        Failure::new(text).code(error.code()).fix(error.fix()).at(place)
    })?;
    Ok(())
}

/// The job file's folder; knows afterwards which bytes came from which file.
struct Files {
    folder: job::Folder,
    read: RefCell<BTreeMap<Hash, String>>,
}

impl job::FileSource for Files {
    fn length(&self, path: &str) -> io::Result<u64> {
        self.folder.length(path)
    }

    fn read(&self, path: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let bytes = self.folder.read(path, range)?;
        // Only a kernel's file is asked for again, and none of those is larger.
        if bytes.len() <= program::KERNEL_BYTES_MAX {
            self.read.borrow_mut().entry(Hash::of(&bytes)).or_insert_with(|| path.to_owned());
        }
        Ok(bytes)
    }
}

/// What the market will put into escrow: every unit, and the most checks that its policy may draw for it. Nobody knows where
/// the job pays the market's price.
fn escrow(compiled: &CompiledGraph) -> Option<Amount> {
    let stage = |stage: &CompiledJob| {
        let executions = u64::from(stage.manifest.verify.executions());
        let units = stage.units.saturating_mul(executions).saturating_mul(compiled.iterations_max());
        stage.unit_price.map(|price| price.checked_mul(units).unwrap_or(Amount(u64::MAX)))
    };
    compiled.stages.iter().try_fold(Amount::ZERO, |sum, of| {
        stage(&of.job).map(|part| sum.checked_add(part).unwrap_or(Amount(u64::MAX)))
    })
}

fn describe(compiled: &CompiledGraph, escrow: Option<Amount>, json: bool) {
    let bytes: usize = compiled.blobs.values().map(|bytes| bytes.len()).sum();
    if json {
        return say::json(&json!({
            "name": compiled.name,
            "units": compiled.units().to_string(),
            "blobs": compiled.blobs.len(),
            "blob_bytes": bytes.to_string(),
            "unit_price": compiled.stages[0].job.unit_price,
            "escrow": escrow,
            "budget": compiled.budget,
            "files": compiled.joins.iter().map(|join| &join.file).collect::<Vec<_>>(),
            "manifest": compiled.stages[0].job.manifest,
            "stages": if compiled.is_plain() { vec![] } else {
                let stage = |stage: &job::CompiledStage| json!({
                    "name": stage.name,
                    "units": stage.job.units.to_string(),
                    "unit_price": stage.job.unit_price,
                    "manifest": stage.job.manifest,
                });
                compiled.stages.iter().map(stage).collect()
            },
            "iterations_max": compiled.iterations_max(),
        }));
    }
    let files: Vec<_> = compiled.joins.iter().map(|join| join.file.as_str()).collect();
    say::facts(&[
        ("job", compiled.name.clone()),
        ("units", units(compiled)),
        ("uploads", format!("{} blobs, {bytes} bytes", compiled.blobs.len())),
        (
            "unit price",
            compiled.stages[0].job.unit_price.map_or_else(
                || "the market's price; `plexus quote` asks for it".to_owned(),
                |price| format!("{} tokens", price.to_tokens()),
            ),
        ),
        (
            "escrow",
            escrow.map_or_else(
                || "by the market's price".to_owned(),
                |escrow| format!("{} tokens; what checks do not use comes back", escrow.to_tokens()),
            ),
        ),
        ("result", if files.is_empty() { "the units' outputs".to_owned() } else { files.join(", ") }),
    ]);
}

/// What a quote needs: the programs' texts.
pub async fn upload_kernels(client: &Client, compiled: &CompiledGraph) -> Result<(), Failure> {
    let kernels = compiled.stages.iter().flat_map(|stage| stage.job.manifest.program.kernels.values());
    for kernel in kernels {
        if let Some(text) = compiled.blobs.get(&kernel.blob) {
            client.upload_blob(text.clone()).await?;
        }
    }
    Ok(())
}

/// How many units, by stage.
fn units(compiled: &CompiledGraph) -> String {
    if compiled.is_plain() {
        return compiled.units().to_string();
    }
    let stages: Vec<_> =
        compiled.stages.iter().map(|stage| format!("{} {}", stage.name, stage.job.units)).collect();
    format!("{}: {}, at most {} times", compiled.units(), stages.join(", "), compiled.iterations_max())
}

async fn upload(client: &Client, compiled: &CompiledGraph) -> Result<(), Failure> {
    stream::iter(compiled.blobs.values().cloned())
        .map(|bytes| client.upload_blob(bytes))
        .buffer_unordered(UPLOADS_AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(())
}

pub fn request(compiled: CompiledGraph) -> GraphRequest {
    let canaries = canaries(&compiled);
    let iterate = compiled.iterate.map(|iterate| IterateRequest {
        times_max: iterate.times_max,
        until: iterate.until.map(|until| match until.equals {
            None => Until::Unchanged { stage: until.stage, output: until.output },
            Some(blob) => Until::Equals { stage: until.stage, output: until.output, blob },
        }),
    });
    let terms = compiled.terms;
    GraphRequest {
        name: compiled.name,
        stages: compiled.stages.into_iter().map(stage_request).collect(),
        iterate,
        joins: compiled.joins,
        priority: terms.priority.map_or(api::Priority::Normal, |priority| match priority {
            job::Priority::Low => api::Priority::Low,
            job::Priority::Normal => api::Priority::Normal,
            job::Priority::High => api::Priority::High,
            job::Priority::Urgent => api::Priority::Urgent,
        }),
        royalty: terms.royalty.map(|(account, bps)| api::Royalty { account, bps }),
        budget: compiled.budget,
        deadline_in_s: terms.deadline_s,
        attempts_max: terms.attempts_max,
        canaries,
        sealed: None,
    }
}

/// What is known of units of the first iteration, by their numbers in the job.
fn canaries(compiled: &CompiledGraph) -> Vec<api::Canary> {
    let mut first = 0;
    let mut found = Vec::new();
    for stage in &compiled.stages {
        found.extend(stage.job.canaries.iter().map(|canary| {
            let known = |(blob, length): &(Hash, u64)| api::KnownOutput { blob: *blob, length: *length };
            api::Canary { unit: first + canary.unit, outputs: canary.outputs.iter().map(known).collect() }
        }));
        first += stage.job.units;
    }
    found
}

fn stage_request(stage: job::CompiledStage) -> StageRequest {
    let job::CompiledStage { name, job, mut gathers } = stage;
    let input = |(number, split)| match gathers.remove(&number) {
        None => StageInput::Split(split),
        Some(gather) => StageInput::Gather(Box::new(GatherInput {
            stage: gather.stage,
            output: gather.output,
            step: gather.step,
            count: gather.count,
            offset: 0,
            stride: gather.stride,
            length: gather.length,
            initial: gather.initial,
        })),
    };
    StageRequest {
        name,
        units: job.units,
        inputs: job.inputs.into_iter().enumerate().map(input).collect(),
        unit_price: job.unit_price,
        package_units: job.package_units,
        devices: job.devices,
        replicas: job.replicas,
        manifest: job.manifest,
    }
}

async fn submit(
    client: &Client,
    request: GraphRequest,
    escrow: Amount,
    no_faucet: bool,
) -> Result<Job, Failure> {
    with_tokens(client, escrow, no_faucet, async || client.submit_graph(&request).await).await
}

/// Reserves workers, seals the content key to them and submits.
async fn submit_sealed(
    client: &Client,
    mut request: GraphRequest,
    quote: &Quote,
    sealing: &Sealing,
    keys: &Path,
    options: &Options,
) -> Result<Job, Failure> {
    let wanted = sealed::reservation_request(&request, quote, options.providers, &options.to);
    let (escrow, no_faucet) = (sealed::escrow(quote), options.no_faucet);
    let reservation = with_tokens(client, escrow, no_faucet, async || client.reserve(&wanted).await).await?;
    let market = client.market().await?.market;
    let submitted = async {
        request.sealed = Some(sealing.envelopes(market, &request, &reservation, &options.to)?);
        let kept = sealing.keep(keys, market, reservation.id)?;
        match submit(client, request, reservation.escrow, no_faucet).await {
            Ok(job) => kept.file_under(job.id).map(|()| job),
            Err(failure) => {
                kept.forget();
                Err(failure)
            }
        }
    };
    let submitted = submitted.await;
    if submitted.is_err()
        && let Err(error) = client.end_reservation(reservation.id).await
    {
        tracing::debug!(%error, "the reservation ends by itself");
    }
    let job = submitted?;
    if !options.json {
        let workers: Vec<_> = job.sealed_to.iter().map(ToString::to_string).collect();
        say::out(&format!("sealed to {}", workers.join(", ")));
    }
    Ok(job)
}

/// Asks; where the wallet has too little and the market gives out test tokens, takes some and asks again.
async fn with_tokens<T>(
    client: &Client,
    escrow: Amount,
    no_faucet: bool,
    ask: impl AsyncFn() -> Result<T, client::Error>,
) -> Result<T, Failure> {
    let mut faucet_calls = 0;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.code() == Some(code::BALANCE_TOO_LOW) => error,
            Err(error) => return Err(error.into()),
        };
        let faucet = client.market().await?.faucet;
        if !faucet {
            return Err(error.into());
        }
        if no_faucet || faucet_calls == FAUCET_CALLS_MAX {
            let tokens = escrow.to_tokens();
            let failure = Failure::from(error);
            return Err(
                failure.fix(format!("`plexus wallet faucet {tokens}` takes test tokens from this market"))
            );
        }
        faucet_calls += 1;
        let Some(key) = client.key() else { return Err(error.into()) };
        let account = client.account(&key.public()).await?;
        // At least one base unit, should our idea of the escrow be lower than the market's.
        let missing = escrow.checked_sub(account.available).filter(|missing| missing.0 > 0).unwrap_or(escrow);
        let amount = Amount(missing.0.max(1));
        client.deposit(&key.public(), amount).await?;
        say::err(&format!("took {} test tokens from the market's faucet", amount.to_tokens()));
    }
}
