//! The journal: every fact a market believes, in order, one row a committed group.
//!
//! A group's key is `(market, first sequence)`. That key is the fence: of two processes that believe they lead a market,
//! one finds the place taken and steps down. Each row carries a checksum over its content *and the checksum before it*, so
//! that a changed, missing or swapped group is found when the journal is read.
//!
//! The same table is kept in an SQLite file, for one process, or on a server that speaks PostgreSQL's protocol, for several.
//! Bytes go in and come out; what they encode is the caller's business, told by `encoding_version`.

mod file;
mod server;

use protocol::{Hash, PublicKey};

use crate::{Location, StoreError};

/// Version of the tables.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// How a journal is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalOptions {
    /// Most bytes the journal may take; no limit but the disk when absent. At the limit appends fail with
    /// [`StoreError::Full`]. A file counts whole, a server only the bytes of this market's events.
    pub bytes_max: Option<u64>,
}

/// One committed group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Sequence of the first event.
    pub first_seq: u64,
    /// How many events.
    pub count: u32,
    /// When it was decided.
    pub at_ms: u64,
    /// How the events are encoded.
    pub encoding_version: u32,
    /// The encoded events, one after the other.
    pub events: Vec<u8>,
}

impl Group {
    /// Sequence of the first event after it.
    fn end(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    fn checksum(&self, previous: &Hash) -> Hash {
        checksum(previous, self.first_seq, self.count, self.at_ms, self.encoding_version, &self.events)
    }
}

/// An open journal of one market. One writer; any number of readers.
///
/// On a server its calls block on the network: make them from a plain thread.
pub struct Journal {
    backend: Backend,
    market: PublicKey,
    next_seq: u64,
    head: Hash,
}

enum Backend {
    File(file::File),
    Server(server::Server),
}

/// A group about to be written.
struct Append<'a> {
    first_seq: u64,
    at_ms: u64,
    count: u32,
    encoding_version: u32,
    checksum: Hash,
    events: &'a [u8],
}

/// The end of a journal: its last group's first sequence, count and checksum.
type Last = (u64, u32, Hash);

impl Journal {
    /// Opens the journal for writing and creates its tables where there are none. The first sequence is 0.
    pub fn open(
        location: impl Into<Location>,
        market: &PublicKey,
        options: JournalOptions,
    ) -> Result<Self, StoreError> {
        let backend = match location.into() {
            Location::File(path) => Backend::File(file::File::open(&path)?),
            Location::Server(url) => Backend::Server(server::Server::open(&url)?),
        };
        let mut journal = Self { backend, market: *market, next_seq: 0, head: Hash([0; 32]) };
        journal.set_bytes_max(options.bytes_max)?;
        journal.find_head()?;
        Ok(journal)
    }

    /// Opens the journal for reading beside a writer.
    pub fn open_reader(location: impl Into<Location>, market: &PublicKey) -> Result<Self, StoreError> {
        let backend = match location.into() {
            Location::File(path) => Backend::File(file::File::open_reader(&path)?),
            Location::Server(url) => Backend::Server(server::Server::open_reader(&url)?),
        };
        Ok(Self { backend, market: *market, next_seq: 0, head: Hash([0; 32]) })
    }

    /// Sets the most bytes the journal may take. A limit below its present size stops growth, nothing else.
    pub fn set_bytes_max(&mut self, bytes_max: Option<u64>) -> Result<(), StoreError> {
        match &mut self.backend {
            Backend::File(file) => file.set_bytes_max(bytes_max),
            Backend::Server(server) => server.set_bytes_max(&self.market, bytes_max),
        }
    }

    /// The sequence the next appended event gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Another market that is kept there too: this one's key was perhaps lost. It looks through all of this market's groups,
    /// so it is for an empty journal.
    pub fn another_market(&self) -> Result<Option<PublicKey>, StoreError> {
        match &self.backend {
            Backend::File(file) => file.another_market(&self.market),
            Backend::Server(server) => server.another_market(&self.market),
        }
    }

    /// Looks again where the journal ends, for a writer that is unsure after a failure.
    pub fn find_head(&mut self) -> Result<(), StoreError> {
        let last = match &self.backend {
            Backend::File(file) => file.last(&self.market)?,
            Backend::Server(server) => server.last(&self.market)?,
        };
        (self.next_seq, self.head) = match last {
            None => (0, Hash([0; 32])),
            Some((first_seq, count, checksum)) => (first_seq + u64::from(count), checksum),
        };
        Ok(())
    }

    /// Writes a group durably. Nothing is written when it fails, except perhaps with [`StoreError::Unknown`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Taken`] if somebody else appended since this journal was opened, [`StoreError::Full`] without room,
    /// [`StoreError::Unknown`] if a server ceased to answer and could not be asked what became of the group: it may be
    /// durable now or become so, and the journal has to be read again before anything else is decided.
    ///
    /// # Panics
    ///
    /// If the group is empty, or `first_seq` is not where this journal ends: the caller has lost count of its own events.
    pub fn append(
        &mut self,
        first_seq: u64,
        at_ms: u64,
        count: u32,
        encoding_version: u32,
        events: &[u8],
    ) -> Result<(), StoreError> {
        assert!(count > 0, "a group has at least one event");
        assert_eq!(first_seq, self.next_seq, "groups follow one another without gaps");
        let checksum = checksum(&self.head, first_seq, count, at_ms, encoding_version, events);
        let group = Append { first_seq, at_ms, count, encoding_version, checksum, events };
        match &mut self.backend {
            Backend::File(file) => file.append(&self.market, &group)?,
            Backend::Server(server) => server.append(&self.market, &group)?,
        }
        self.next_seq = first_seq + u64::from(count);
        self.head = checksum;
        Ok(())
    }

    /// The group that holds the event `seq`, if it was appended.
    pub fn group(&self, seq: u64) -> Result<Option<Group>, StoreError> {
        enum Stop {
            Found(Group),
            Failed(StoreError),
        }
        impl From<StoreError> for Stop {
            fn from(error: StoreError) -> Self {
                Self::Failed(error)
            }
        }
        match self.replay(seq, |group| Err(Stop::Found(group))) {
            Ok(()) => Ok(None),
            Err(Stop::Found(group)) => Ok(Some(group)),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Reads the groups from the one that holds `from_seq`, in order, and checks that none is damaged or missing. Stops at
    /// the first error of `visit`.
    pub fn replay<E: From<StoreError>>(
        &self,
        from_seq: u64,
        mut visit: impl FnMut(Group) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut chain = Chain { from_seq, before: None };
        let each = |group: Group, stored: Hash| match chain.check(group, stored)? {
            Some(group) => visit(group),
            None => Ok(()),
        };
        match &self.backend {
            Backend::File(file) => file.read(&self.market, from_seq, each),
            Backend::Server(server) => server.read(&self.market, from_seq, each),
        }
    }
}

/// Checks that groups follow one another and are what was written. The group before the first one vouches for it.
struct Chain {
    from_seq: u64,
    /// The end and the checksum of the group before.
    before: Option<(u64, Hash)>,
}

impl Chain {
    /// The group, if it is one of those asked for.
    fn check(&mut self, group: Group, stored: Hash) -> Result<Option<Group>, StoreError> {
        let (seq, end) = (group.first_seq, group.end());
        let (expected, previous) = match self.before {
            Some(before) => before,
            // Read for its checksum alone.
            None if seq > 0 && end <= self.from_seq => {
                self.before = Some((end, stored));
                return Ok(None);
            }
            None => (0, Hash([0; 32])),
        };
        if seq != expected {
            let detail = format!("the events from {expected} on are missing");
            return Err(StoreError::Corrupt { seq, detail });
        }
        if group.checksum(&previous) != stored {
            return Err(StoreError::Corrupt { seq, detail: "the checksum does not match".into() });
        }
        self.before = Some((end, stored));
        Ok((end > self.from_seq).then_some(group))
    }
}

fn stored_checksum(seq: u64, bytes: Vec<u8>) -> Result<Hash, StoreError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| StoreError::Corrupt { seq, detail: "the checksum is not a hash".into() })?;
    Ok(Hash(bytes))
}

fn checksum(previous: &Hash, first_seq: u64, count: u32, at_ms: u64, version: u32, events: &[u8]) -> Hash {
    Hash::of_parts(&[
        &previous.0,
        &first_seq.to_le_bytes(),
        &count.to_le_bytes(),
        &at_ms.to_le_bytes(),
        &version.to_le_bytes(),
        events,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, PostgresServer};

    const MARKET: PublicKey = PublicKey([7; 32]);

    /// A fresh place on each backend.
    struct Place {
        location: Location,
        _folder: Option<tempfile::TempDir>,
    }

    impl Place {
        fn each() -> [Self; 2] {
            [Self::file(), Self::server()]
        }

        fn file() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            Self { location: folder.path().join("journal.db").into(), _folder: Some(folder) }
        }

        fn server() -> Self {
            Self { location: Location::parse(&testing::database()).expect("a URL"), _folder: None }
        }

        fn open(&self) -> Journal {
            Journal::open(&self.location, &MARKET, JournalOptions::default()).expect("opens")
        }

        /// Changes the tables behind the journal's back. `BYTES` stands for one byte, 1.
        fn execute(&self, sql: &str) {
            match &self.location {
                Location::File(path) => rusqlite::Connection::open(path)
                    .and_then(|connection| connection.execute_batch(&sql.replace("BYTES", "x'01'")))
                    .expect("executed"),
                Location::Server(url) => {
                    let server = crate::server::Server::connect(url).expect("connects");
                    let sql = sql.replace("BYTES", r"'\x01'");
                    server
                        .repeat(crate::server::CALL_MAX, async |session| {
                            session.client.batch_execute(&sql).await
                        })
                        .expect("executed");
                }
            }
        }
    }

    fn groups(journal: &Journal, from: u64) -> Result<Vec<Group>, StoreError> {
        let mut groups = vec![];
        journal.replay(from, |group| {
            groups.push(group);
            Ok::<_, StoreError>(())
        })?;
        Ok(groups)
    }

    fn three_groups(place: &Place) -> Journal {
        let mut journal = place.open();
        journal.append(0, 100, 2, 1, b"aabb").expect("room");
        journal.append(2, 101, 1, 1, b"cc").expect("room");
        journal.append(3, 102, 3, 1, b"ddeeff").expect("room");
        journal
    }

    #[test]
    fn what_was_appended_is_read_again_from_any_place() {
        for place in Place::each() {
            drop(three_groups(&place));
            let journal = place.open();
            assert_eq!(journal.next_seq(), 6);
            for (from, firsts) in [
                (0, vec![0, 2, 3]),
                (1, vec![0, 2, 3]),
                (2, vec![2, 3]),
                (3, vec![3]),
                (5, vec![3]),
                (6, vec![]),
            ] {
                let found: Vec<_> =
                    groups(&journal, from).expect("intact").iter().map(|g| g.first_seq).collect();
                assert_eq!(found, firsts, "from {from}");
            }
            assert_eq!(groups(&journal, 2).expect("intact")[0].events, b"cc");
            let first = |seq| journal.group(seq).expect("intact").map(|group| group.first_seq);
            assert_eq!([0, 1, 2, 5, 6].map(first), [Some(0), Some(0), Some(2), Some(3), None]);
        }
    }

    #[test]
    fn a_long_journal_is_read_whole() {
        for place in Place::each() {
            let mut journal = place.open();
            // More than a page of groups, and one larger than a page.
            let mut large = vec![3; 5 << 20];
            for seq in 0..300 {
                let events = if seq == 150 { std::mem::take(&mut large) } else { seq.to_string().into() };
                journal.append(seq, seq, 1, 1, &events).expect("room");
            }
            let found = groups(&journal, 0).expect("intact");
            assert_eq!(found.len(), 300);
            assert_eq!(found[150].events.len(), 5 << 20);
            assert_eq!(groups(&journal, 299).expect("intact"), found[299..]);
        }
    }

    #[test]
    fn of_two_leaders_one_append_fails() {
        for place in Place::each() {
            let (mut first, mut second) = (place.open(), place.open());
            first.append(0, 0, 1, 1, b"a").expect("the place is free");
            assert!(matches!(second.append(0, 0, 1, 1, b"b"), Err(StoreError::Taken { seq: 0 })));
            // One that begins elsewhere is refused too: the second leader counts from an older end.
            first.append(1, 0, 3, 1, b"abc").expect("the place is free");
            second.find_head().expect("readable");
            second.append(4, 0, 1, 1, b"d").expect("it found the end again");
            assert!(matches!(first.append(4, 0, 1, 1, b"e"), Err(StoreError::Taken { seq: 4 })));
            assert_eq!(groups(&first, 0).expect("intact").len(), 3);
        }
    }

    #[test]
    fn of_many_leaders_at_once_one_has_each_place() {
        for place in Place::each() {
            std::thread::scope(|scope| {
                for leader in 0..4_u8 {
                    let place = &place;
                    scope.spawn(move || {
                        let mut journal = place.open();
                        for _ in 0..20 {
                            match journal.append(journal.next_seq(), 0, 1, 1, &[leader]) {
                                Ok(()) | Err(StoreError::Taken { .. }) => {}
                                Err(error) => panic!("{error:?}"),
                            }
                            journal.find_head().expect("readable");
                        }
                    });
                }
            });
            let found = groups(&place.open(), 0).expect("one chain without gaps");
            assert!((20..=80).contains(&found.len()), "{}", found.len());
        }
    }

    #[test]
    fn a_full_journal_writes_nothing_and_works_again_with_room() {
        for place in Place::each() {
            let mut journal = place.open();
            journal.append(0, 0, 1, 1, b"a").expect("room");
            journal.set_bytes_max(Some(64 * 1024)).expect("a limit");
            assert!(matches!(journal.append(1, 0, 1, 1, &[0; 200_000]), Err(StoreError::Full(_))));
            assert_eq!(journal.next_seq(), 1);
            assert_eq!(groups(&journal, 0).expect("intact").len(), 1);
            journal.append(1, 0, 1, 1, b"b").expect("a small group still fits");
            journal.set_bytes_max(None).expect("no limit");
            journal.append(2, 0, 1, 1, &[0; 200_000]).expect("room again");
            assert_eq!(groups(&place.open(), 0).expect("intact").len(), 3);
        }
    }

    #[test]
    fn damage_is_found_and_names_its_place() {
        for (damage, seq) in [
            ("UPDATE groups SET events = BYTES WHERE first_seq = 2", 2),
            ("UPDATE groups SET at_ms = 5 WHERE first_seq = 3", 3),
            ("DELETE FROM groups WHERE first_seq = 2", 3),
            ("UPDATE groups SET checksum = BYTES WHERE first_seq = 0", 0),
        ] {
            for place in Place::each() {
                let journal = three_groups(&place);
                place.execute(damage);
                match groups(&journal, 0) {
                    Err(StoreError::Corrupt { seq: found, .. }) => assert_eq!(found, seq, "{damage}"),
                    other => panic!("{damage}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn newer_tables_are_refused() {
        for (place, newer) in
            Place::each().iter().zip(["PRAGMA user_version = 9", "UPDATE plexus_schema SET version = 9"])
        {
            drop(place.open());
            place.execute(newer);
            let opened = Journal::open(&place.location, &MARKET, JournalOptions::default());
            assert!(matches!(opened.err(), Some(StoreError::Newer { found: 9, supported: 1, .. })));
        }
    }

    #[test]
    fn a_reader_sees_what_the_writer_appends() {
        for place in Place::each() {
            let mut writer = place.open();
            let reader = Journal::open_reader(&place.location, &MARKET).expect("opens");
            assert!(groups(&reader, 0).expect("intact").is_empty());
            writer.append(0, 0, 1, 1, b"a").expect("room");
            assert_eq!(groups(&reader, 0).expect("intact").len(), 1);
        }
    }

    #[test]
    fn one_server_holds_the_journals_of_several_markets() {
        let place = Place::server();
        let mut ours = three_groups(&place);
        let mut other =
            Journal::open(&place.location, &PublicKey([8; 32]), JournalOptions::default()).expect("opens");
        assert_eq!((other.next_seq(), other.another_market().expect("readable")), (0, Some(MARKET)));
        other.append(0, 0, 6, 1, b"other").expect("its own place");
        ours.append(6, 0, 1, 1, b"g").expect("its own place");
        assert_eq!(groups(&other, 0).expect("intact").len(), 1);
        assert_eq!(ours.another_market().expect("readable"), Some(PublicKey([8; 32])));
        // So does a file. For a process that knows one market, an empty journal beside another's means that a key was lost.
        let place = Place::file();
        drop(three_groups(&place));
        let lost =
            Journal::open(&place.location, &PublicKey([8; 32]), JournalOptions::default()).expect("opens");
        assert_eq!(lost.another_market().expect("readable"), Some(MARKET));
    }

    #[test]
    fn why_a_server_cannot_be_used_is_told_apart() {
        let open = |url: &str| {
            Journal::open(Location::parse(url).expect("a URL"), &MARKET, JournalOptions::default()).err()
        };
        let server = PostgresServer::start_with(&["password_encryption='scram-sha-256'"]);
        let url = server.database();
        testing::execute(&url, "CREATE USER ada PASSWORD 'right'; GRANT ALL ON SCHEMA public TO ada");
        let rules = "local all plexus trust\nlocal all all scram-sha-256\n";
        server.write("pg_hba.conf", rules);
        testing::execute(&url, "SELECT pg_reload_conf()");
        let as_ada = |password: &str| url.replace("user=plexus", &format!("user=ada&password={password}"));
        assert!(matches!(open(&as_ada("wrong")), Some(StoreError::Denied { .. })));
        assert!(open(&as_ada("right")).is_none());
        assert!(matches!(open(&server.url("missing")), Some(StoreError::Denied { .. })));
        server.crash();
        assert!(matches!(open(&url), Some(StoreError::Unreachable { .. })));
    }

    #[test]
    fn a_journal_outlives_its_server() {
        let server = PostgresServer::start();
        let place = Place { location: Location::parse(&server.database()).expect("a URL"), _folder: None };
        let mut journal = three_groups(&place);
        server.crash();
        match journal.append(6, 0, 1, 1, b"g") {
            // The first attempt finds a connection that is broken, so it cannot be sure.
            Err(StoreError::Unknown { seq: 6, .. } | StoreError::Unreachable { .. }) => {}
            other => panic!("{other:?}"),
        }
        server.resume();
        journal.find_head().expect("readable again");
        journal.append(6, 0, 1, 1, b"h").expect("the place is free");
        let found = groups(&journal, 0).expect("intact");
        assert_eq!((found.len(), &found[3].events[..]), (4, &b"h"[..]));
    }

    #[test]
    fn a_server_is_reached_by_tls_and_only_by_a_certificate_that_is_trusted() {
        let server = PostgresServer::start();
        server.database();
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = |file: &str| {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
            std::fs::write(folder.path().join(file), made.cert.pem()).expect("writable");
            made
        };
        let (ours, _others) = (certificate("ours.pem"), certificate("others.pem"));
        server.write("server.crt", &ours.cert.pem());
        server.write("server.key", &ours.signing_key.serialize_pem());
        server.write("pg_hba.conf", "local all all trust\nhostssl all all all trust\n");
        server.configure("ssl=on");
        let port = server.listen();
        let open = |host: &str, rest: &str| {
            let url = format!("postgres://plexus@{host}:{port}/test0{rest}");
            Journal::open(Location::parse(&url).expect("a URL"), &MARKET, JournalOptions::default())
        };
        let trusting =
            |file: &str| format!("?sslmode=require&sslrootcert={}", folder.path().join(file).display());
        let mut journal = open("localhost", &trusting("ours.pem")).expect("opens");
        journal.append(0, 0, 1, 1, b"a").expect("room");
        // In clear the server refuses, and a certificate of somebody else, or for another name, is not taken.
        assert!(matches!(open("localhost", "").err(), Some(StoreError::Denied { .. })));
        for (host, file) in [("localhost", "others.pem"), ("127.0.0.1", "ours.pem")] {
            let opened = open(host, &trusting(file)).err();
            assert!(matches!(opened, Some(StoreError::Unreachable { .. })), "{host} {file}: {opened:?}");
        }
        assert!(matches!(open("localhost", &trusting("missing.pem")).err(), Some(StoreError::Url { .. })));
    }

    /// What is lost between a journal and its server, together with the connection.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Loss {
        /// The next question.
        Question,
        /// The next answer: the server did what it was asked.
        Answer,
    }

    type Losing = std::sync::Mutex<Option<(Loss, Box<dyn FnOnce() + Send>)>>;

    /// Stands between a journal and its server.
    struct Network {
        port: u16,
        losing: std::sync::Arc<Losing>,
    }

    impl Network {
        fn before(server: &PostgresServer) -> Self {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            let network = Self { port, losing: Default::default() };
            let (socket, losing) = (server.socket(), network.losing.clone());
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let Ok(server) = std::os::unix::net::UnixStream::connect(&socket) else { continue };
                    for loss in [Loss::Question, Loss::Answer] {
                        let (client, server) =
                            (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
                        let losing = losing.clone();
                        std::thread::spawn(move || {
                            let _ = match loss {
                                Loss::Question => carry(&client, &server, loss, &losing),
                                Loss::Answer => carry(&server, &client, loss, &losing),
                            };
                            let _ = client.shutdown(std::net::Shutdown::Both);
                            let _ = server.shutdown(std::net::Shutdown::Both);
                        });
                    }
                }
            });
            network
        }

        /// Loses the next message of a kind, once, and does something before the connection breaks.
        fn lose(&self, loss: Loss, then: impl FnOnce() + Send + 'static) {
            *self.losing.lock().expect("not poisoned") = Some((loss, Box::new(then)));
        }
    }

    fn carry(
        mut from: impl std::io::Read,
        mut to: impl std::io::Write,
        loss: Loss,
        losing: &Losing,
    ) -> std::io::Result<()> {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            let mut losing = losing.lock().expect("not poisoned");
            if losing.as_ref().is_some_and(|(lost, _)| *lost == loss) {
                if let Some((_, then)) = losing.take() {
                    then();
                }
                return Ok(());
            }
            drop(losing);
            to.write_all(&bytes[..count])?;
        }
    }

    #[test]
    fn a_group_whose_answer_is_lost_is_written_once_and_not_reported_lost() {
        let server = PostgresServer::start();
        let direct = Location::parse(&server.database()).expect("a URL");
        let network = Network::before(&server);
        let far = format!("postgres://plexus@127.0.0.1:{}/test0", network.port);
        let open =
            |location: &Location| Journal::open(location, &MARKET, JournalOptions::default()).expect("opens");
        let mut journal = open(&Location::parse(&far).expect("a URL"));
        // The first prepares the statement, so that the next answer is the append's.
        journal.append(0, 0, 1, 1, b"a").expect("room");
        for (seq, loss) in [(1, Loss::Answer), (3, Loss::Question), (5, Loss::Answer)] {
            network.lose(loss, || {});
            journal.append(seq, 0, 1, 1, b"lost?").expect("it is there, or was sent again");
            assert!(network.losing.lock().expect("not poisoned").is_none(), "it was lost");
            journal.append(seq + 1, 0, 1, 1, b"prepares").expect("room");
        }
        // While it is unsure, another takes the place.
        let mut other = open(&direct);
        network.lose(Loss::Question, move || other.append(7, 0, 1, 1, b"other").expect("free"));
        assert!(matches!(journal.append(7, 0, 1, 1, b"mine"), Err(StoreError::Taken { seq: 7 })));
        let found = groups(&open(&direct), 0).expect("intact");
        assert_eq!((found.len(), &found[7].events[..]), (8, &b"other"[..]));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 12, failure_persistence: None, ..Default::default() })]

        /// The same appends give the same groups and the same chain of checksums on either backend.
        #[test]
        fn both_backends_keep_the_same_journal(
            appends in proptest::collection::vec(
                (1..200_u32, 0..1_u64 << 50, 0..4_u32, proptest::collection::vec(0..=u8::MAX, 0..300)), 1..40),
            from in 0..4_000_u64)
        {
            let kept = Place::each().map(|place| {
                let mut journal = place.open();
                let mut heads = Vec::new();
                for (count, at_ms, version, events) in &appends {
                    journal.append(journal.next_seq(), *at_ms, *count, *version, events).expect("room");
                    heads.push((journal.next_seq(), journal.head));
                }
                let mut reopened = place.open();
                assert_eq!(Some((reopened.next_seq(), reopened.head)), heads.last().copied());
                assert!(reopened.find_head().is_ok());
                (heads, groups(&reopened, 0).expect("intact"), groups(&reopened, from).expect("intact"))
            });
            proptest::prop_assert_eq!(&kept[0], &kept[1]);
        }
    }
}
