//! The market service: everything around the engine that touches the world.
//!
//! ```text
//!   HTTP (http/) ──commands──▶ committer ──groups──▶ journal
//!        ▲                        │ └──────groups──▶ follower ──▶ read model, changes
//!        └──────queries───────────┘                                   │
//!   event stream (live) ◀──────────────────────────────────────────────┘      judge: comparisons ──▶ opinions
//! ```
//!
//! Several processes may serve one market ([`leadership`]): one leads, the others fold what it appends, and [`forward`] requests.
//!
//! The [`committer`] is one thread that owns the state: it decides what waits together, journals it as one group and only then
//! answers. Handlers check whatever can be checked without the state beforehand, in parallel. The follower keeps the read model
//! and tells the event stream what changed, so that no command waits for a list or a watcher.
//!
//! No rule is decided here: who may do what, who is paid and why something waits is the engine's.

mod archives;
mod auth;
mod challenges;
mod collector;
mod committer;
mod failure;
mod follower;
mod forward;
mod http;
mod judge;
mod keys;
mod leadership;
mod limits;
mod live;
mod metrics;
mod parked;
mod projection;
mod quotas;
mod records;
mod serve;
mod snapshots;
mod time;
mod tls;
mod uploads;
mod view;

use std::{
    fs::{self, File, TryLockError},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use engine::Params;
use protocol::{Amount, Hash, PublicKey, SecretKey};
use store::{
    BlobError, BlobOptions, BlobPlace, BlobStore, Journal, JournalOptions, Leaders, ReadModel, Snapshots,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::{
    archives::{Archives, Archivist},
    challenges::Challenges,
    collector::Collector,
    committer::{Committer, Founding, Group, Replayed},
    follower::Follower,
    forward::Forwarder,
    keys::Secrets,
    leadership::Leadership,
    live::Live,
    metrics::Metrics,
    projection::{Changes, Projection},
    snapshots::Keeper,
    tls::Certificates,
    uploads::Uploads,
};

pub use archives::ArchivingError;
pub use collector::CollectError;
pub use http::openapi;
pub use keys::KeyFileError;
pub use leadership::{Leader, Standing};
pub use limits::Limits;
pub use quotas::Quotas;
pub use store::{BlobKeys, BlobKeysError, Collected, Location, S3Options, StoreError};
pub use tls::{TlsError, TlsFiles};

/// Makes a span part of the trace that a `traceparent` header names (W3C Trace Context).
pub type AdoptParent = fn(&tracing::Span, &str);

/// Programs compiled at once.
const SUBMISSIONS_AT_ONCE: usize = 4;
/// Results joined at once.
const JOINS_AT_ONCE: usize = 2;
/// Rows after which a catch-up writes to the read model.
const CATCH_UP_ROWS: usize = 20_000;

/// How a market is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where this process keeps what is its own; made if missing. Without [`database`](Self::database) that is everything.
    pub data_dir: PathBuf,
    /// Where the journal is kept when several processes serve the market: they all name the same. One of them leads.
    pub database: Option<Location>,
    /// Where the other processes reach this one, such as `http://10.0.0.7:7700`; the address it listens on when absent.
    pub advertise: Option<String>,
    /// The file with the market's secrets, the same for all processes; `market-key.json` in the data folder when absent.
    pub key_file: Option<PathBuf>,
    /// The folder with the blobs, the same for all processes; `blobs` in the data folder when absent.
    pub blobs_dir: Option<PathBuf>,
    /// The bucket with the blobs, instead of a folder.
    pub blobs_s3: Option<S3Options>,
    /// Encrypts blobs at rest; they are stored as they come when absent.
    pub blob_keys: Option<BlobKeys>,
    /// How long blobs are kept that no unfinished job names, a day at least.
    pub blobs_keep: Duration,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Its public names, with port where it is not 80: what clients may call it when they log in. Loopback and the address it
    /// listens on are always known.
    pub hosts: Vec<String>,
    /// The most test tokens of one deposit; no faucet when absent.
    pub faucet: Option<Amount>,
    /// Most bytes of one blob.
    pub blob_bytes_max: u64,
    /// Most bytes of all blobs together; no limit but the disk when absent.
    pub blobs_bytes_max: Option<u64>,
    /// Most bytes of the journal; no limit but the disk when absent.
    pub journal_bytes_max: Option<u64>,
    /// The certificate, where TLS is spoken.
    pub tls: Option<TlsFiles>,
    /// Events after which the state is saved, so that a start folds only what came after.
    pub snapshot_events: u64,
    /// How long requests in flight may take to end when the market stops.
    pub shutdown_max: Duration,
    /// How fast each caller may ask.
    pub limits: Limits,
    /// How much each account may have.
    pub quotas: Quotas,
    /// How a request's span becomes part of its caller's trace; left out where nobody collects spans.
    pub adopt_parent: Option<AdoptParent>,
    /// How long a key for drawing checks is used; it is shown when all that it drew is settled. Of a chain of keys that is in use it
    /// is the journal's.
    pub challenge_epoch: Duration,
    /// The rules' parameters when the market is founded; later they are the journal's.
    pub params: Params,
}

impl Config {
    /// A market in this folder on a free loopback port, without a faucet.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            database: None,
            advertise: None,
            key_file: None,
            blobs_dir: None,
            blobs_s3: None,
            blob_keys: None,
            blobs_keep: Duration::from_secs(30 * 24 * 3600),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            hosts: Vec::new(),
            faucet: None,
            blob_bytes_max: 1 << 30,
            blobs_bytes_max: None,
            journal_bytes_max: None,
            tls: None,
            snapshot_events: 250_000,
            shutdown_max: Duration::from_secs(10),
            limits: Limits::default(),
            quotas: Quotas::default(),
            adopt_parent: None,
            challenge_epoch: Duration::from_secs(3600),
            params: Params::default(),
        }
    }
}

/// Why a market did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder cannot be used.
    #[error("cannot use the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process runs a market there.
    #[error("another market runs in {path}")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The secrets cannot be read or made.
    #[error("cannot load the market's key")]
    Key(#[from] KeyFileError),
    /// The journal is another key's.
    #[error(
        "the journal in {path} belongs to another key than market-key.json; restore the key that was lost"
    )]
    KeyLost {
        /// The folder.
        path: PathBuf,
    },
    /// The database is another market's.
    #[error("the database belongs to the market {market}, whose key this process does not have")]
    OtherMarket {
        /// The market in the database.
        market: PublicKey,
    },
    /// The blobs are not where the other processes have them.
    #[error("the blobs in {path} are not those of the market's other processes")]
    BlobsElsewhere {
        /// The folder.
        path: PathBuf,
    },
    /// Where the other processes are to reach this one.
    #[error("{url:?} is no address that the market's other processes can reach this one at")]
    Advertise {
        /// As given.
        url: String,
    },
    /// Parameters to found a market with that are not safe.
    #[error("the parameters are not safe")]
    Params(#[from] engine::ParamError),
    /// The client that hands requests to the leader.
    #[error("cannot set up HTTP")]
    Http(#[from] reqwest::Error),
    /// The journal or the read model failed.
    #[error("cannot open the journal")]
    Store(#[from] StoreError),
    /// The blobs cannot be used.
    #[error("cannot open the blob store")]
    Blobs(#[from] BlobError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error("cannot use the certificate")]
    Tls(#[from] TlsError),
    /// No thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// A running market. Dropping it leaves it running until the process ends; [`shutdown`](Self::shutdown) ends it well.
pub struct Market {
    addr: SocketAddr,
    /// Where the market's own parts reach it without TLS, where others need it.
    local: Option<SocketAddr>,
    host: Option<String>,
    certificates: Option<Arc<Certificates>>,
    shutdown_max: Duration,
    key: SecretKey,
    committer: Committer,
    blobs: Arc<BlobStore>,
    collector: Collector,
    archivist: Archivist,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    /// Saves snapshots.
    keeper: JoinHandle<()>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Held as long as the market runs.
    _lock: File,
}

impl Market {
    /// Opens the stores, replays the journal, and serves.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let opened = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || Opened::open(&config))
                .await
                .map_err(|panic| StartError::Thread(io::Error::other(panic)))??
        };
        let Opened {
            lock,
            secrets,
            journal,
            snapshots,
            keeper,
            replayed,
            read_model,
            reader,
            journal_reader,
            projection,
        } = opened;
        let secrets = Arc::new(secrets);
        let seq = replayed.as_ref().map_or(0, |replayed| replayed.state.seq());
        let blobs_dir = config.blobs_dir.clone().unwrap_or_else(|| config.data_dir.join("blobs"));
        let blobs = BlobStore::open(BlobOptions {
            place: match config.blobs_s3.clone() {
                Some(bucket) => BlobPlace::S3(bucket),
                None => BlobPlace::Folder(blobs_dir.clone()),
            },
            keys: config.blob_keys.clone(),
            blob_bytes_max: config.blob_bytes_max,
            total_bytes_max: config.blobs_bytes_max,
        });
        let blobs = Arc::new(blobs.await?);
        let listen_error = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let addr = listener.local_addr().map_err(listen_error)?;
        let leadership = match &config.database {
            None => Leadership::alone(),
            Some(database) => {
                check_shared(&blobs, &secrets, seq > 0, blobs_dir).await?;
                let url = advertised(config.advertise.clone(), addr, config.tls.is_some())?;
                let (database, market) = (database.clone(), secrets.key.public());
                let holder = hex::encode(keys::random::<16>());
                let opening = move || Leaders::open(database, &market, holder, url);
                let leaders = tokio::task::spawn_blocking(opening).await;
                Leadership::shared(Box::new(
                    leaders.map_err(|panic| StartError::Thread(io::Error::other(panic)))??,
                ))
            }
        };

        // Names in a certificate are not ours to know: the market's own parts come in by another door, which is open to this
        // machine alone.
        let local = match &config.tls {
            Some(_) => Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(listen_error)?),
            None => None,
        };
        let local_addr = local.as_ref().map(TcpListener::local_addr).transpose().map_err(listen_error)?;

        let metrics = Arc::new(Metrics::default());
        let certificates = config.tls.map(|files| Certificates::open(files, &metrics)).transpose()?;
        let acceptor = certificates.as_ref().map(Certificates::acceptor).transpose()?;
        let (stop, stopped) = watch::channel(false);
        let (follower, groups, follower_thread) =
            Follower::start(read_model, projection, seq, metrics.clone()).map_err(StartError::Thread)?;
        let challenges = Arc::new(Challenges::new(secrets.challenge_secret(), config.challenge_epoch));
        let founding = Founding {
            market: secrets.key.public(),
            params: config.params.clone(),
            challenges: challenges.clone(),
        };
        let starting = {
            let metrics = metrics.clone();
            move || Committer::start(journal, snapshots, replayed, founding, leadership, groups, metrics)
        };
        let (committer, committer_thread) = tokio::task::spawn_blocking(starting)
            .await
            .map_err(|panic| StartError::Thread(io::Error::other(panic)))??;
        let standing = committer.status().standing.subscribe();
        let forwarder = Forwarder::new(standing, &secrets.process_token(), metrics.clone())?;
        let live = Live::start(committer.clone(), follower.clone(), metrics.clone(), stopped.clone());
        let mut tasks = vec![tokio::spawn(judge::judge(
            committer.clone(),
            blobs.clone(),
            metrics.clone(),
            secrets.clone(),
            stopped.clone(),
        ))];
        let keeper = keeper.run(committer.clone(), config.snapshot_events, metrics.clone(), stopped.clone());
        let keeper = tokio::spawn(keeper);
        if let Some(certificates) = &certificates {
            let watch = certificates.clone().watch(metrics.clone(), stopped.clone());
            tasks.push(tokio::spawn(watch));
        }
        let archives = Arc::new(Archives::new(blobs.clone()));
        let archivist =
            Archivist { committer: committer.clone(), blobs: blobs.clone(), metrics: metrics.clone() };
        tasks.push(tokio::spawn(archivist.clone().run(stopped.clone())));
        let reader = Arc::new(Mutex::new(reader));
        let collector = Collector {
            archives: archives.clone(),
            read_model: reader.clone(),
            follower: follower.clone(),
            blobs: blobs.clone(),
            committer: committer.clone(),
            metrics: metrics.clone(),
            keep: config.blobs_keep,
            own: Hash::of(mark(&secrets).as_bytes()),
        };
        tasks.push(tokio::spawn(collector.clone().run(stopped.clone())));
        let uploads = Arc::new(Uploads::open(config.data_dir.join("uploads.json"), config.blobs_keep));
        tasks.push(tokio::spawn(uploads.clone().keep(stopped.clone())));
        let key = secrets.key.clone();
        let host = config.hosts.first().cloned();
        let app = http::App {
            committer: committer.clone(),
            follower,
            live,
            auth: auth::Auth::new(&key, addr, config.hosts, certificates.is_some()),
            blobs: blobs.clone(),
            secrets,
            challenges,
            metrics,
            limiter: limits::Limiter::new(config.limits),
            quotas: quotas::Keeper::new(config.quotas, uploads),
            adopt_parent: config.adopt_parent,
            faucet: config.faucet,
            stop: stopped.clone(),
            read_model: reader,
            archives,
            journal_file: config.database.is_none().then(|| config.data_dir.join("journal.db")),
            journal: Mutex::new(journal_reader),
            output_lengths: Default::default(),
            submissions: Semaphore::new(SUBMISSIONS_AT_ONCE),
            joins: Semaphore::new(JOINS_AT_ONCE),
        };
        let router = http::router(Arc::new(app), forwarder);
        let server = {
            let serve = |listener, tls| {
                serve::serve(listener, router.clone(), tls, serve::HEAD_TIME_MAX, stopped.clone())
            };
            let (public, local) = (serve(listener, acceptor), local.map(|local| serve(local, None)));
            tokio::spawn(async move {
                match local {
                    Some(local) => drop(tokio::join!(public, local)),
                    None => public.await,
                }
            })
        };
        tracing::info!(%addr, market = %key.public(), "the market is open");
        let threads = vec![committer_thread, follower_thread];
        Ok(Self {
            addr,
            local: local_addr,
            host,
            certificates,
            shutdown_max: config.shutdown_max,
            key,
            committer,
            blobs,
            collector,
            archivist,
            stop,
            server,
            tasks,
            keeper,
            threads,
            _lock: lock,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where clients find it: by its first public name where it speaks TLS, as the certificate is for that.
    pub fn url(&self) -> String {
        match (&self.certificates, &self.host) {
            (None, _) => format!("http://{}", self.addr),
            (Some(_), None) => format!("https://{}", self.addr),
            (Some(_), Some(host)) if host.contains(':') => format!("https://{host}"),
            (Some(_), Some(host)) => format!("https://{host}:{}", self.addr.port()),
        }
    }

    /// Where the market's own parts on this machine reach it, whatever its certificate says.
    pub fn local_url(&self) -> String {
        self.local.map_or_else(|| self.url(), |local| format!("http://{local}"))
    }

    /// Looks now whether there is a new certificate, instead of within seconds.
    pub fn reload_certificate(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.look_now();
        }
    }

    /// The market's own key: a worker that logs in with it is its verifier.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Sets the most bytes that the journal may take.
    pub async fn set_journal_bytes_max(&self, bytes_max: Option<u64>) {
        // A market that stops needs no limit.
        let _ = self.committer.set_journal_bytes_max(bytes_max).await;
    }

    /// Sets the most bytes that all blobs together may take.
    pub fn set_blobs_bytes_max(&self, bytes_max: Option<u64>) {
        self.blobs.set_total_bytes_max(bytes_max);
    }

    /// Who leads the market, now and later. A process that shares its database with no other always does.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.committer.status().standing.subscribe()
    }

    /// Removes blobs that nothing needs and that nobody stored or asked for during the last `age_min`; it happens by itself every
    /// few hours.
    pub async fn collect_blobs(&self, age_min: Duration) -> Result<Collected, CollectError> {
        self.collector.collect(age_min).await
    }

    /// Archives every job that ended long enough ago, and says how many they are; it happens by itself every few seconds.
    pub async fn archive_jobs(&self) -> Result<usize, ArchivingError> {
        self.archivist.archive().await
    }

    /// Waits until the market cannot go on: a rule of its own was broken, or another process writes its journal though none may.
    /// Only a new start helps.
    pub async fn failed(&self) {
        let mut dead = self.committer.status().dead.subscribe();
        if dead.wait_for(|dead| *dead).await.is_err() {
            // Its sender lives as long as `self`.
            std::future::pending::<()>().await;
        }
    }

    /// Stops taking requests, answers those that wait, and ends. What was answered is durable.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        self.committer.drain().await;
        let mut server = self.server;
        if tokio::time::timeout(self.shutdown_max, &mut server).await.is_err() {
            tracing::warn!(after = ?self.shutdown_max, "some requests were not answered in time");
            server.abort();
            // The router and all that it holds are gone once the task is.
            let _ = server.await;
        }
        // The last snapshot only shortens the next start.
        let _ = tokio::time::timeout(self.shutdown_max, self.keeper).await;
        let committer = self.committer.clone();
        let _ = tokio::task::spawn_blocking(move || committer.stop()).await;
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        drop(self.collector);
        drop(self.archivist);
        drop(self.committer);
        let threads = self.threads;
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(|t| t.join())).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("a thread of the market ended by a broken rule");
        }
        tracing::info!("the market is closed");
    }
}

/// What is on disk, read.
struct Opened {
    lock: File,
    secrets: Secrets,
    journal: Journal,
    /// For reading, when the state has to be made again.
    snapshots: Snapshots,
    keeper: Keeper,
    /// Nothing where the journal is empty.
    replayed: Option<Replayed>,
    read_model: ReadModel,
    /// A second connection to it, for questions.
    reader: ReadModel,
    /// A second connection to the journal, for reading.
    journal_reader: Journal,
    projection: Projection,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, StartError> {
        let folder = &config.data_dir;
        let lock = lock(folder)?;
        let key_file = config.key_file.clone().unwrap_or_else(|| folder.join("market-key.json"));
        let (secrets, made) = Secrets::load_or_make(&key_file)?;
        let market = secrets.key.public();
        let options = JournalOptions { bytes_max: config.journal_bytes_max };
        let journal_at = config.database.clone().unwrap_or_else(|| folder.join("journal.db").into());
        let mut journal = Journal::open(&journal_at, &market, options)?;
        if journal.next_seq() == 0
            && let Some(market) = journal.another_market()?
        {
            return Err(match config.database {
                Some(_) => StartError::OtherMarket { market },
                None => StartError::KeyLost { path: folder.clone() },
            });
        }
        if journal.next_seq() == 0 {
            config.params.check()?;
        }
        if made {
            secrets.save(&key_file)?;
        }
        // A server's read model is everybody's: whoever is further writes, and the others' rows are the same.
        let location = match &config.database {
            Some(database) if database.is_shared() => database.clone(),
            _ => folder.join("read.db").into(),
        };
        let mut read_model = ReadModel::open(location.clone(), &market)?;
        let reader = ReadModel::open(location, &market)?;
        let watermark = read_model.watermark()?;
        // Another process may have written since the journal was opened.
        journal.find_head()?;
        if watermark > journal.next_seq() {
            // The journal was restored from an older copy: the rows tell of what never happened.
            read_model.clear()?;
        }
        let location = match &config.database {
            Some(database) if database.is_shared() => database.clone(),
            _ => folder.join("snapshots.db").into(),
        };
        let mut writer = Snapshots::open(&location, &market)?;
        let snapshots = Snapshots::open(location, &market)?;
        let watermark = read_model.watermark()?;
        let saved = snapshots::load(&snapshots, watermark.min(journal.next_seq())).unwrap_or_default();
        let mut saved_seq = saved.state.seq();
        let mut projection = Projection::of(&saved.state);
        let mut changes = Changes::default();
        let mut failed = None;
        let replayed = committer::replay(&journal, saved, |group| {
            project(&group, watermark, &mut projection, &mut changes);
            if changes.batch.len() > CATCH_UP_ROWS {
                let end = group.first_seq + group.events.len() as u64;
                // After a failure nothing more is written: rows must not be jumped over.
                failed = failed.take().or_else(|| read_model.apply(end, &changes.batch).err());
                changes = Changes::default();
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if let Some(replayed) = &replayed {
            read_model.apply(replayed.state.seq(), &changes.batch)?;
            // Nobody waits for the state yet, so it need not be made a second time for a snapshot.
            if replayed.state.seq() - saved_seq >= config.snapshot_events {
                match snapshots::save(&mut writer, replayed) {
                    Ok(_) => saved_seq = replayed.state.seq(),
                    Err(error) => tracing::warn!(cause = %failure::Causes(&error), "cannot save a snapshot"),
                }
            }
        }
        let state = replayed.as_ref().map(|replayed| &replayed.state);
        debug_assert!(state.is_none_or(|state| projection == Projection::of(state)));
        let journal_reader = Journal::open_reader(&journal_at, &market)?;
        let keeper = Keeper { journal: journal_at, market, snapshots: writer, saved: saved_seq };
        Ok(Self {
            lock,
            secrets,
            journal,
            snapshots,
            keeper,
            replayed,
            read_model,
            reader,
            journal_reader,
            projection,
        })
    }
}

/// Where the others reach this process.
fn advertised(url: Option<String>, addr: SocketAddr, tls: bool) -> Result<String, StartError> {
    let Some(url) = url else {
        let url = format!("{}://{addr}", if tls { "https" } else { "http" });
        return if addr.ip().is_unspecified() { Err(StartError::Advertise { url }) } else { Ok(url) };
    };
    let parsed: Option<axum::http::Uri> = url.parse().ok();
    let plain = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some()
            && matches!(uri.path(), "" | "/")
    });
    if plain { Ok(url.trim_end_matches('/').to_owned()) } else { Err(StartError::Advertise { url }) }
}

/// A blob that says whose blobs they are.
fn mark(secrets: &Secrets) -> String {
    format!("The blobs of the Plexus market {}.\n", secrets.key.public())
}

/// Makes sure that the blobs are those of the market's other processes: the first process left a mark among them.
async fn check_shared(
    blobs: &BlobStore,
    secrets: &Secrets,
    founded: bool,
    path: PathBuf,
) -> Result<(), StartError> {
    let mark = mark(secrets);
    let hash = Hash::of(mark.as_bytes());
    if blobs.length(&hash).await?.is_some() {
        return Ok(());
    }
    if founded {
        return Err(StartError::BlobsElsewhere { path });
    }
    blobs.put(mark.into()).await?;
    Ok(())
}

/// Projects a group; rows before the watermark are there already.
fn project(group: &Group, watermark: u64, projection: &mut Projection, changes: &mut Changes) {
    for (seq, event) in (group.first_seq..).zip(&group.events) {
        if seq < watermark {
            projection.take(seq, group.at_ms, event, &mut Changes::default());
        } else {
            projection.take(seq, group.at_ms, event, changes);
        }
    }
}

/// One market a folder.
fn lock(folder: &Path) -> Result<File, StartError> {
    let error = |source| StartError::Folder { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(error)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}
