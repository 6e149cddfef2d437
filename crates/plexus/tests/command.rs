//! The command line as a script sees it: help texts, exit codes, what goes to which stream.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
};

fn plexus(home: &Path, arguments: &[&str]) -> Output {
    command(home, arguments).output().expect("the binary starts")
}

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plexus"));
    command.args(arguments).current_dir(home).stdin(Stdio::null());
    command.env("HOME", home).env("NO_COLOR", "1").env("COLUMNS", "100");
    for name in ["PLEXUS_MARKET", "PLEXUS_WALLET", "PLEXUS_ADAPTER", "PLEXUS_LOG", "XDG_CONFIG_HOME"] {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn help_texts() {
    let home = tempfile::tempdir().unwrap();
    for command in [
        "",
        "up",
        "worker",
        "worker list",
        "worker show",
        "submit",
        "job",
        "job ls",
        "job show",
        "job watch",
        "job cancel",
        "job fetch",
        "wallet",
        "wallet new",
        "wallet show",
        "wallet balance",
        "wallet history",
        "wallet delegate",
        "wallet faucet",
        "verdict",
        "verdict list",
        "verdict show",
        "verdict contest",
        "device",
        "sim",
        "completions",
    ] {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let output = plexus(home.path(), &arguments);
        assert!(output.status.success(), "{command}");
        let name = format!("help {command}").trim().replace(' ', "-");
        insta::assert_snapshot!(name, text(&output.stdout));
    }
}

#[test]
fn completions_exist_for_the_usual_shells() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = plexus(home.path(), &["completions", shell]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("submit"), "{shell}");
    }
}

#[test]
fn a_wallet_is_made_once_and_shown_without_its_secret() {
    let home = tempfile::tempdir().unwrap();
    let missing = plexus(home.path(), &["wallet", "show"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("plexus wallet new"), "{}", text(&missing.stderr));

    let made = plexus(home.path(), &["wallet", "new", "--json"]);
    assert!(made.status.success());
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let file = home.path().join(".config/plexus/wallet.json");
    assert_eq!(made["file"], file.to_str().unwrap());
    let secret = std::fs::read_to_string(&file).unwrap();

    let again = plexus(home.path(), &["wallet", "new", "--json"]);
    assert_eq!(again.status.code(), Some(1));
    let error: serde_json::Value = serde_json::from_slice(&again.stderr).unwrap();
    assert_eq!(error["error"]["code"], "wallet_exists");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);

    let shown = text(&plexus(home.path(), &["wallet", "show"]).stdout);
    assert!(shown.contains(made["address"].as_str().unwrap()));
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let home = tempfile::tempdir().unwrap();
    // A port that nobody listens on.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let check = |arguments: &[&str], code: i32, says: &str| {
        let output = plexus(home.path(), arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
    };
    check(&["job", "ls", "--market", &nobody], 4, "plexus up");
    check(&["job", "ls", "--market", "ftp://nowhere"], 1, "neither http nor https");
    check(&["job", "show", "seven"], 2, "job-7");
    check(&["frobnicate"], 2, "unrecognized");
    check(&["submit"], 2, "FILE");
    check(&["submit", "nowhere.toml"], 1, "plexus submit --init");
    check(&["wallet", "faucet", "1.0000000001"], 2, "9 decimal places");
}

#[test]
fn openings_are_verified_without_a_market() {
    let home = tempfile::tempdir().unwrap();
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/openings.json");
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
    let case = &vectors["openings"][0];
    let (market, worker) = (case["market"].as_str().unwrap(), case["worker"].as_str().unwrap());
    let opening = &case["opening"];
    std::fs::write(home.path().join("proof.json"), opening.to_string()).unwrap();
    // The bytes that the vectors are made of: output 1 of unit 41, from its third chunk on.
    let chunk: Vec<u8> = (131_072..131_172_u64).map(|i| (i * 31 + 7 * 41 + 1) as u8).collect();
    std::fs::write(home.path().join("chunk"), &chunk).unwrap();
    std::fs::write(home.path().join("other"), &chunk[1..]).unwrap();
    let check = |arguments: &[&str], code: i32, says: &str| {
        let output = plexus(home.path(), &[&["proof", "verify", "proof.json"], arguments].concat());
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(says), "{arguments:?}: {all}");
    };
    check(
        &["--market-key", market, "--worker-key", worker],
        0,
        opening["outputs"][0]["blob"].as_str().unwrap(),
    );
    check(&["--market-key", market, "--bytes", "chunk"], 0, "these are its bytes");
    check(&["--market-key", market, "--bytes", "other"], 1, "not the chunk's bytes");
    check(&["--market-key", worker], 1, "another market");
    check(&["--market-key", market, "--worker-key", market], 1, "another worker");
    check(&[], 1, "--market-key");
    let mut changed = opening.clone();
    changed["outputs"][0]["length"] = "13".into();
    std::fs::write(home.path().join("proof.json"), changed.to_string()).unwrap();
    check(&["--market-key", market], 1, "the unit with these outputs is not at that place");
    std::fs::write(home.path().join("proof.json"), "{}").unwrap();
    check(&["--market-key", market], 1, "plexus proof show");
}

#[test]
fn devices_are_shown_without_complaints_of_their_drivers() {
    let home = tempfile::tempdir().unwrap();
    let output = command(home.path(), &["device", "--json"]).env_remove("XDG_RUNTIME_DIR").output().unwrap();
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("XDG_RUNTIME_DIR"), "{stderr}");
    let answer: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("JSON, even of no adapters");
    assert_eq!(output.status.success(), answer["adapters"] != serde_json::json!([]), "{stderr}");
}

#[test]
fn mistakes_in_a_job_are_found_before_anything_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let output = plexus(home.path(), &["submit", "--init", "first", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let dry = plexus(home.path(), &["submit", "first/job.toml", "--dry-run", "--json"]);
    assert!(dry.status.success(), "{}", text(&dry.stderr));
    let dry: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!(dry["units"], "40");

    let again = plexus(home.path(), &["submit", "--init", "first"]);
    assert!(text(&again.stderr).contains("exists already"));

    let check = |file: &str, from: &str, to: &str, says: &[&str]| {
        let path = home.path().join("first").join(file);
        let good = std::fs::read_to_string(&path).unwrap();
        assert!(good.contains(from), "{file} has no {from:?}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let output = plexus(home.path(), &["submit", "first/job.toml", "--dry-run"]);
        std::fs::write(&path, good).unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        for part in says {
            assert!(stderr.contains(part), "{part:?} is not in {stderr}");
        }
    };
    check("job.toml", "name =", "nam =", &["first/job.toml:", "nam"]);
    check("job.toml", "dtype = \"u8\"", "dtype = \"u9\"", &["u9"]);
    check("kernel.wgsl", "fn ", "fun ", &["first/kernel.wgsl: ", "line", "column"]);
    assert!(!home.path().join(".config").exists(), "a dry run makes no wallet");
}

/// A market that knows one job, `job-7`, which goes on for ever. Says when it was asked for the job.
fn market_with_a_running_job() -> (String, mpsc::Receiver<()>) {
    let zero = protocol::Amount::ZERO;
    let job = api::Job {
        id: protocol::JobId(7),
        name: "endless".into(),
        owner: protocol::SecretKey::from_seed([1; 32]).public(),
        kind: protocol::manifest::JobKind::Batch,
        state: api::JobState::Running,
        reason: None,
        units: 2,
        progress: api::Progress { waiting: 1, leased: 1, ..Default::default() },
        stages: vec![],
        iteration: None,
        deadline: None,
        score: None,
        expected_ms: None,
        manifest: protocol::Hash::of(b"a manifest"),
        inputs: vec![],
        joins: vec![],
        unit_price: zero,
        money: api::JobMoney {
            escrowed: zero,
            paid: zero,
            treasury: zero,
            burned: zero,
            royalties: zero,
            refunded: zero,
            held: zero,
        },
        verification: api::VerificationCounts {
            checked: 0,
            by_verifier: 0,
            algebraic: 0,
            sampled_out: 0,
            disputed: 0,
            rejected: 0,
        },
        workers: vec![],
        sealed_to: vec![],
        submitted_at: "2026-11-20T12:00:00.000Z".into(),
        ended_at: None,
    };
    let known = serde_json::to_string(&job).unwrap();
    let fix = "list the jobs with GET /v1/jobs";
    let unknown = api::Problem::new(api::code::NOT_FOUND, "there is no such thing", fix);
    let unknown = serde_json::to_string(&unknown).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (asked, was_asked) = mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let is_known = first.starts_with("GET /v1/jobs/job-7 ");
            let (status, body) = if is_known { ("200 OK", &known) } else { ("404 Not Found", &unknown) };
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
            if is_known {
                let _ = asked.send(());
            }
        }
    });
    (address, was_asked)
}

#[test]
fn a_job_that_is_not_there_is_looked_for_with_this_command() {
    let home = tempfile::tempdir().unwrap();
    let (market, _) = market_with_a_running_job();
    for command in ["show", "watch", "fetch"] {
        let output = plexus(home.path(), &["job", command, "job-9", "--market", &market]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{stderr}");
        assert!(stderr.contains("job-9") && stderr.contains("`plexus job ls`"), "{stderr}");
        assert!(!stderr.contains("/v1/"), "{stderr}");
    }
}

#[cfg(unix)]
#[test]
fn whoever_stops_watching_hears_that_the_job_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (market, asked) = market_with_a_running_job();
    let mut command = command(home.path(), &["job", "watch", "job-7", "--market", &market]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    asked.recv().unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the job goes on") && stderr.contains("plexus job watch job-7"), "{stderr}");
}

#[test]
fn a_simulation_is_the_same_again_and_says_what_is_wrong_with_a_workload() {
    let home = tempfile::tempdir().unwrap();
    let small = ["sim", "--providers", "6", "--minutes", "1", "--faults", "--seed", "7"];
    let simulate = |more: &[&str]| plexus(home.path(), &[&small[..], more].concat());
    let first = simulate(&["--json", "--svg", "plots.svg"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let first: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(first["report"]["problems"].as_array().map(Vec::len), Some(0));
    assert_eq!(first["cost"]["all"]["decisions"], first["report"]["decisions"]);
    let svg = std::fs::read_to_string(home.path().join("plots.svg")).unwrap();
    assert!(svg.starts_with("<svg"));

    let again = simulate(&[]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(text(&again.stdout).contains(first["report"]["digest"].as_str().unwrap()));

    std::fs::write(home.path().join("workload.toml"), "[[stream]]\nnam = \"a\"\n").unwrap();
    let refused = simulate(&["--workload", "workload.toml"]);
    assert_eq!(refused.status.code(), Some(1));
    let stderr = text(&refused.stderr);
    assert!(stderr.contains("workload.toml: ") && stderr.contains("nam"), "{stderr}");
}
