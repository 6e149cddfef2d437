//! `plexus up` as an operator meets it: settings, signals, TLS, logs, spans.
#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use client::Client;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use protocol::{Amount, SecretKey};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long but on a machine that stands still.
const PATIENCE: Duration = Duration::from_secs(60);

fn plexus(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.args(arguments).current_dir(home).stdin(Stdio::null());
    command.env("HOME", home).env("NO_COLOR", "1");
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("PLEXUS_") || name.starts_with("OTEL_"))
    {
        command.env_remove(name);
    }
    command
}

/// A market in a process of its own.
struct Up {
    child: Child,
    address: String,
    /// Its log, line by line, until it ends.
    log: mpsc::Receiver<String>,
}

impl Up {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut all = vec!["up", "--json", "--no-verifier", "--listen", "127.0.0.1:0", "--data", "market"];
        all.extend(arguments);
        let mut child =
            plexus(home, &all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (sender, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{line:?}: {:?}", log.iter().collect::<Vec<_>>()));
        let address = ready["address"].as_str().expect("an address").to_owned();
        Self { child, address, log }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }

    fn ended(&mut self) -> ExitStatus {
        until(|| self.child.try_wait().expect("it is ours"))
    }

    /// The rest of its log, once it has ended.
    fn log(&self) -> Vec<String> {
        self.log.iter().collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "the condition never came true");
        std::thread::yield_now();
    }
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn client(address: &str, seed: u8) -> Client {
    Client::new(address, SecretKey::from_seed([seed; 32])).expect("an address")
}

#[test]
fn settings_come_from_a_file_and_mistakes_in_it_have_a_place() {
    let home = home();
    fs::create_dir(home.path().join("etc")).expect("made");
    let file = home.path().join("etc/plexus.toml");
    fs::write(&file, "data = \"store\"\n[blobs]\nblob_mib_max = 7\n[params]\nlease_ms = 12345\n")
        .expect("written");
    let print = |arguments: &[&str]| {
        let mut all = vec!["up", "--config", "etc/plexus.toml", "--print-config"];
        all.extend(arguments);
        plexus(home.path(), &all).output().expect("it starts")
    };
    let output = print(&["--blob-mib-max", "9", "--tls-cert", "a.pem", "--tls-key", "b.pem"]);
    assert!(output.status.success());
    let printed: toml::Table =
        toml::from_str(&String::from_utf8(output.stdout).expect("text")).expect("what is printed is TOML");
    assert_eq!(printed["data"].as_str(), Some("etc/store"), "relative to the file");
    assert_eq!(printed["blobs"]["blob_mib_max"].as_integer(), Some(9), "flags go before the file");
    assert_eq!(printed["params"]["lease_ms"].as_integer(), Some(12345));
    assert_eq!(printed["params"]["burn_bps"].as_integer(), Some(500), "a default");
    assert!(!home.path().join("etc/store").exists(), "nothing is begun");

    fs::write(&file, "[limits]\nwrite_per_s = 7\n").expect("written");
    let output = print(&[]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).expect("text");
    for said in ["etc/plexus.toml:2:1", "there is no key \"write_per_s\"", "did you mean \"writes_per_s\"?"] {
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn workers_payments_and_the_place_in_the_queue_can_be_asked_for() {
    let home = home();
    let up = Up::start(home.path(), &["--faucet"]);
    let ask = |arguments: &[&str]| {
        let output =
            plexus(home.path(), arguments).env("PLEXUS_MARKET", &up.address).output().expect("it runs");
        let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
        assert!(output.status.success(), "{arguments:?}: {err:?}");
        out.expect("text")
    };
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&ask(arguments)).expect("JSON") };
    assert_eq!(ask(&["worker", "list"]), "no workers\n");
    assert_eq!(json(&["worker", "list", "--json"]), Value::Array(vec![]));
    let nobody = SecretKey::from_seed([9; 32]).public().to_string();
    let unknown = plexus(home.path(), &["worker", "show", &nobody, "--market", &up.address]).output();
    assert!(!unknown.expect("it runs").status.success());

    ask(&["wallet", "new"]);
    ask(&["wallet", "faucet", "5"]);
    ask(&["wallet", "bond", "2"]);
    let kinds: Vec<_> = json(&["wallet", "history", "--json"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|payment| (payment["kind"].clone(), payment["amount"].clone()))
        .collect();
    let expected = [("bond", "2000000000"), ("deposit", "5000000000")];
    assert_eq!(kinds, expected.map(|(kind, amount)| (kind.into(), amount.into())));
    assert!(ask(&["wallet", "history"]).contains("bond"));

    // The file's terms count, and the options go before them.
    ask(&["submit", "--init", "first"]);
    let file = home.path().join("first/job.toml");
    let text = fs::read_to_string(&file).expect("written");
    let terms = "version = 1\npriority = \"high\"\nattempts_max = 7\ndeadline_s = 3600";
    fs::write(&file, text.replacen("version = 1", terms, 1)).expect("writable");
    let first = json(&["submit", "first/job.toml", "--json"]);
    assert!(first["deadline"].is_string(), "{first}");
    let second = json(&["submit", "first/job.toml", "--priority", "low", "--json"]);
    let why = |job: &Value| ask(&["job", "why", job["id"].as_str().expect("an id")]);
    assert!(why(&first).contains("It is the next in the queue."), "{}", why(&first));
    assert!(why(&second).contains("1 job is before it in the queue."), "{}", why(&second));
}

#[test]
fn a_market_that_is_told_to_end_answers_what_was_begun_and_loses_nothing() {
    let home = home();
    let mut up = Up::start(home.path(), &["--faucet"]);
    let runtime = runtime();
    let (begun, many) = mpsc::channel();
    // Some change something as fast as they can until nobody answers, and tell how often they were answered.
    let load: Vec<_> = (1..=4)
        .map(|seed| {
            let (client, begun) = (client(&up.address, seed), begun.clone());
            runtime.spawn(async move {
                let key = client.key().expect("a key").public();
                let mut answered = 0;
                while client.deposit(&key, Amount(1)).await.is_ok() {
                    answered += 1;
                    let _ = begun.send(());
                }
                (key, answered)
            })
        })
        .collect();
    // One waits for work.
    let worker = client(&up.address, 9);
    let device = protocol::DeviceFacts {
        kind: protocol::WorkerKind::Native,
        adapter: "test".into(),
        vendor: String::new(),
        backend: String::new(),
        features: vec![],
        limits: protocol::DeviceLimits {
            storage_buffer_bytes_max: 1,
            buffer_bytes_max: 1,
            storage_buffers_max: 1,
            workgroup_invocations_max: 1,
            workgroup_bytes_max: 1,
            workgroups_per_dimension_max: 1,
        },
    };
    let announce = serde_json::json!({"instance": "one", "device": device, "version": "test"});
    let announce = serde_json::from_value(announce).expect("a request");
    runtime.block_on(worker.announce(&announce)).expect("announced");
    let parked = runtime.spawn(async move {
        let wish = api::LeaseRequest {
            instance: "one".into(),
            packages_max: 1,
            wait_ms: 30_000,
            others_only: false,
        };
        worker.lease(&wish).await
    });
    let metrics = format!("{}/metrics", up.address);
    let http = client::plain_http();
    until(|| {
        let text = runtime.block_on(async { http.get(&metrics).send().await.ok()?.text().await.ok() })?;
        text.contains("plexus_lease_requests_waiting 1\n").then_some(())
    });
    for _ in 0..200 {
        many.recv_timeout(PATIENCE).expect("the load goes on");
    }
    let told = Instant::now();
    up.signal("TERM");
    assert!(up.ended().success(), "{:?}", up.log());
    assert!(told.elapsed() < Duration::from_secs(10 + 5), "it took {:?}", told.elapsed());
    let lease = runtime.block_on(parked).expect("no panic").expect("who waits is answered");
    assert!(lease.leases.is_empty());
    // All that was answered is there.
    let up = Up::start(home.path(), &["--faucet"]);
    let anonymous = Client::anonymous(&up.address).expect("an address");
    for load in load {
        let (key, answered) = runtime.block_on(load).expect("no panic");
        let account = runtime.block_on(anonymous.account(&key)).expect("it answers");
        assert!(answered > 0 && account.available >= Amount(answered), "{answered}: {account:?}");
    }
}

#[test]
fn what_is_not_answered_in_time_is_cut_off_and_a_second_signal_ends_at_once() {
    for (arguments, signals, code) in [(["--shutdown-s", "1"], 1, 0), (["--shutdown-s", "3600"], 2, 130)] {
        let home = home();
        let mut up = Up::start(home.path(), &arguments);
        let authority = up.address.strip_prefix("http://").expect("an address").to_owned();
        // A request whose body never ends.
        let mut stuck = TcpStream::connect(&authority).expect("it listens");
        let head = format!(
            "POST /v1/auth/login HTTP/1.1\r\nhost: {authority}\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
        );
        stuck.write_all(head.as_bytes()).expect("sent");
        // It is being read.
        let mut word = [0; 12];
        stuck.read_exact(&mut word).expect("an answer");
        assert_eq!(&word, b"HTTP/1.1 100");
        up.signal("TERM");
        if signals > 1 {
            // Once it takes no more connections it waits for this one.
            until(|| TcpStream::connect(&authority).is_err().then_some(()));
            assert!(up.child.try_wait().expect("it is ours").is_none());
            up.signal("INT");
        }
        assert_eq!(up.ended().code(), Some(code), "{:?}", up.log());
    }
}

#[test]
fn the_log_is_json_names_requests_and_keeps_secrets() {
    let home = home();
    let mut up = Up::start(home.path(), &["--faucet", "--log", "trace", "--log-format", "json"]);
    let runtime = runtime();
    let ada = client(&up.address, 1);
    let session = SecretKey::from_seed([2; 32]);
    let login = runtime.block_on(async {
        let login = ada.login().await.expect("logged in");
        ada.delegate(&session, Duration::from_secs(600)).await.expect("delegated");
        ada.deposit(&login.account, Amount(5)).await.expect("deposited");
        ada.upload_blob(bytes::Bytes::from_static(b"the contents of a blob")).await.expect("uploaded");
        login
    });
    up.signal("TERM");
    assert!(up.ended().success());
    let lines = up.log();
    let answered: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .filter(|line| line["target"] == "plexus::request")
        .collect();
    let deposit = answered.iter().find(|line| line["route"] == "/v1/accounts/{id}/deposit").expect("a line");
    assert_eq!((&deposit["method"], &deposit["status"]), (&"POST".into(), &200.into()));
    assert_eq!(deposit["account"], login.account.to_string());
    assert!(deposit["duration_ms"].as_f64().is_some() && deposit["id"].as_str().is_some());
    let all = lines.join("\n");
    let market_key =
        fs::read_to_string(home.path().join("market/market-key.json")).expect("the market's key");
    for secret in [
        login.token.as_str(),
        login.token.rsplit('.').next().expect("a signature"),
        market_key.trim(),
        "the contents of a blob",
        &hex_of(&[1; 32]),
        &hex_of(&[2; 32]),
        "Bearer ey",
    ] {
        assert!(!all.contains(secret), "the log tells {secret}");
    }
    for text in market_key.split('"').filter(|text| text.len() > 40) {
        assert!(!all.contains(text) || text == login.account.to_string(), "the log tells the market's key");
    }
}

/// A certificate for this machine by an authority of its own: `ca.pem`, `cert.pem` and `key.pem`.
fn certify(folder: &Path) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().expect("a key"));
    let authority = authority.expect("signed");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let cert = params.signed_by(&key, &authority).expect("signed");
    for (name, text) in
        [("ca.pem", authority.pem()), ("key.pem", key.serialize_pem()), ("cert.pem", cert.pem())]
    {
        fs::write(folder.join(name), text).expect("written");
    }
}

#[test]
fn commands_reach_a_market_over_tls_and_a_new_certificate_needs_no_restart() {
    let home = home();
    certify(home.path());
    let tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let mut up = Up::start(home.path(), &tls);
    assert!(up.address.starts_with("https://"), "{}", up.address);
    let url = up.address.replace("127.0.0.1", "localhost");
    let list = |arguments: &[&str], cert_file: Option<&str>| {
        let mut all = vec!["job", "ls", "--json", "--market", &url];
        all.extend(arguments);
        let mut command = plexus(home.path(), &all);
        if let Some(file) = cert_file {
            command.env("SSL_CERT_FILE", home.path().join(file));
        }
        command.output().expect("it starts")
    };
    assert!(list(&["--ca", "ca.pem"], None).status.success());
    assert!(list(&[], Some("ca.pem")).status.success());
    let untrusted = list(&["--ca", "cert.pem"], None);
    assert_eq!(untrusted.status.code(), Some(4));
    let error: Value = serde_json::from_slice(&untrusted.stderr).expect("JSON");
    assert_eq!(error["error"]["code"], "market_untrusted");
    if let Ok(version) = Command::new("curl").arg("--version").output()
        && version.status.success()
    {
        let health = format!("{url}/v1/health");
        let mut curl = Command::new("curl");
        curl.current_dir(home.path()).args(["-sS", "--tlsv1.3", "--cacert", "ca.pem", &health]);
        let answer = curl.output().expect("it ran before");
        assert!(answer.status.success(), "{answer:?}");
    }
    // Another authority and another key, without a restart.
    certify(home.path());
    up.signal("HUP");
    until(|| list(&["--ca", "ca.pem"], None).status.success().then_some(()));
    up.signal("TERM");
    assert!(up.ended().success());

    // A market whose certificate cannot be used says why.
    fs::write(home.path().join("key.pem"), "no key").expect("written");
    let mut all = vec!["up", "--listen", "127.0.0.1:0", "--data", "market"];
    all.extend(tls);
    let refused = plexus(home.path(), &all).output().expect("it starts");
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8(refused.stderr).expect("text");
    assert!(stderr.contains("key.pem holds no private key") && stderr.contains("--tls-key"), "{stderr}");
}

/// The trace and the span that the client's calls are part of.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

#[test]
fn a_collector_sees_a_request_down_to_the_group_that_made_it_durable() {
    let runtime = runtime();
    let (sender, received) = mpsc::channel();
    let collect = async move |body: axum::body::Bytes| {
        let request =
            <ExportTraceServiceRequest as prost::Message>::decode(body).expect("OTLP in Protocol Buffers");
        let _ = sender.send(request);
        // An empty answer is a whole one.
        axum::body::Bytes::new()
    };
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let collector = axum::Router::new().route("/v1/traces", axum::routing::post(collect));
    runtime.spawn(async { axum::serve(listener, collector).await });

    let home = home();
    let mut up = Up::start(home.path(), &["--faucet", "--otlp-endpoint", &endpoint]);
    let key = SecretKey::from_seed([1; 32]);
    let options = client::Options { ca: None, traceparent: Some(|| Some(format!("00-{TRACE}-{SPAN}-01"))) };
    let ada = Client::with(&up.address, Some(key.clone()), &options).expect("an address");
    runtime.block_on(ada.deposit(&key.public(), Amount(5))).expect("deposited");
    up.signal("TERM");
    // What is left is sent before it ends.
    assert!(up.ended().success(), "{:?}", up.log());
    let requests: Vec<ExportTraceServiceRequest> = received.try_iter().collect();
    let resource = format!("{:?}", requests.first().expect("spans").resource_spans[0].resource);
    assert!(resource.contains("plexus-market"), "{resource}");
    let spans: Vec<_> = requests
        .into_iter()
        .flat_map(|request| request.resource_spans)
        .flat_map(|spans| spans.scope_spans)
        .flat_map(|spans| spans.spans)
        .filter(|span| hex_of(&span.trace_id) == TRACE)
        .collect();
    let find = |name: &str, parent: &[u8]| {
        spans.iter().find(|span| span.name == name && span.parent_span_id == parent).unwrap_or_else(|| {
            panic!("no {name} among {:?}", spans.iter().map(|s| &s.name).collect::<Vec<_>>())
        })
    };
    let caller: Vec<u8> =
        (0..16).step_by(2).map(|i| u8::from_str_radix(&SPAN[i..i + 2], 16).expect("hex")).collect();
    let request = find("POST /v1/accounts/{id}/deposit", &caller);
    let decide = find("decide", &request.span_id);
    let commit = find("commit", &decide.span_id);
    assert!(request.start_time_unix_nano <= decide.start_time_unix_nano);
    assert!(commit.end_time_unix_nano <= request.end_time_unix_nano);
    let attributes = format!("{:?} {:?}", request.attributes, decide.attributes);
    for said in ["http.response.status_code", &key.public().to_string(), "deposit"] {
        assert!(attributes.contains(said), "{said}: {attributes}");
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
