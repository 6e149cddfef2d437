//! The spine with real processes: a market, native workers, the command line.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use plexus_tests::{Home, Market, Worker, number, until};
use serde_json::Value;

const SQUARE: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() {
    y[0] = x[0] * x[0];
}
";

/// The same, after some ten milliseconds on a software device.
const SLOW_SQUARE: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    var noise = x[0] + group.x;
    for (var i = 0u; i < 50000u; i++) { noise = noise * 1664525u + 1013904223u; }
    // Never, but no compiler knows.
    if noise == group.x && noise == 77u { y[0] = 1u; }
    if group.x == 0u { y[0] = x[0] * x[0]; }
}
";

/// Never ends. The many workgroups are for llvmpipe, which leaves every loop in the end.
const ENDLESS: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1)
fn main() {
    loop {
        y[0] += x[0];
        if y[0] == 4294967295u { break; }
    }
}
";

/// A job of `units` units, each of which sees its own number.
fn job(home: &Home, name: &str, units: u64, kernel: &str, dispatch: &str, more: &str) -> String {
    let last = units - 1;
    let text = format!(
        "version = 1\nname = \"{name}\"\n\n[kernels.main]\nfile = \"main.wgsl\"\n\n\
         [inputs.x]\nsweep = {{ from = 0, to = {last} }}\ndtype = \"u32\"\n\n\
         [outputs.y]\ndtype = \"u32\"\nshape = [1]\njoin = {{ file = \"y.csv\" }}\n\n\
         [[passes]]\nkernel = \"main\"\nbind = [\"x\", \"y\"]\ndispatch = {dispatch}\n\n\
         [pay]\nunit_price = \"0.001\"\n{more}\n"
    );
    home.files(name, &[("job.toml", &text), ("main.wgsl", kernel)])
}

fn squares(home: &Home, name: &str, units: u64) -> String {
    job(home, name, units, SQUARE, "[1]", "")
}

fn submit(home: &Home, market: &Market, file: &str) -> String {
    let job = home.json(&["submit", file, "--market", &market.address, "--json"]);
    job["id"].as_str().expect("a job has an id").to_owned()
}

#[test]
fn a_short_job_does_not_wait_behind_a_long_one_on_the_same_device() {
    let home = Home::default();
    let market = Market::start(&home, &["--no-verifier"]);
    let worker = Worker::start(&home, &market, "worker.json");
    worker.ready();
    // One package, so that only turns on the device let the other job through.
    let long = job(&home, "long", 4_000, SLOW_SQUARE, "[64]", "[schedule]\npackage_units = 4000");
    let long = submit(&home, &market, &long);
    worker.status("units of the long job", |status| number(&status["units_run"]) >= 3);
    let short = submit(&home, &market, &squares(&home, "short", 5));
    let progress = |id: &str| {
        let job = market.job(id);
        let progress = &job["progress"];
        let committed = number(&progress["checking"]) + number(&progress["accepted"]);
        (committed, number(&progress["leased"]))
    };
    until("the short job to be computed", || (progress(&short).0 == 5).then_some(()));
    let (committed, leased) = progress(&long);
    assert_eq!(committed + leased, 4_000, "nothing of the long job was given back");
    assert!(leased > 0, "the long job is not at its end");
}

#[test]
fn a_job_is_run_verified_paid_and_fetched() {
    let home = Home::default();
    let market = Market::start(&home, &[]);
    let worker = Worker::start(&home, &market, "worker.json");
    worker.ready();
    let file = squares(&home, "squares", 20);
    let submitted =
        home.json(&["submit", &file, "--market", &market.address, "--wait", "--out", "out", "--json"]);

    let csv = std::fs::read_to_string(home.path().join("out/y.csv")).expect("the result was written");
    let expected: String =
        std::iter::once("x,y\n".to_owned()).chain((0..20u64).map(|x| format!("{x},{}\n", x * x))).collect();
    assert_eq!(csv, expected);

    assert_eq!(submitted["state"], "done");
    let money = &submitted["money"];
    let sum: u64 =
        ["paid", "treasury", "burned", "refunded", "held"].iter().map(|part| number(&money[*part])).sum();
    assert_eq!(number(&money["escrowed"]), sum);
    assert_eq!(number(&money["held"]), 0);
    assert_eq!(number(&money["paid"]), 20 * 900_000, "90 % of 20 units at 0.001 tokens");
    let checks = &submitted["verification"];
    assert_eq!(number(&checks["checked"]) + number(&checks["sampled_out"]), 20);
    assert!(number(&checks["checked"]) > 0, "a new worker is checked");

    let earned =
        home.json(&["wallet", "balance", "--wallet", "worker.json", "--market", &market.address, "--json"]);
    assert_eq!(earned["earned"], "18000000");
    worker.status("the worker to see what it earned", |status| status["earned"] == "18000000");
    let ledger = market.ledger();
    let parts = ["available", "pending", "held", "treasury", "burned"];
    let parts: u64 = parts.iter().map(|part| number(&ledger[*part])).sum();
    assert_eq!(number(&ledger["deposited"]), parts);
}

#[test]
fn an_endless_shader_ends_its_lease_and_the_worker_lives_on() {
    let home = Home::default();
    let market = Market::start(&home, &["--no-verifier"]);
    let worker = Worker::start(&home, &market, "worker.json");
    worker.ready();
    let limits = "\n[limits]\ntime_ms_max = 500";
    let endless = submit(&home, &market, &job(&home, "endless", 1, ENDLESS, "[65535, 65535]", limits));
    worker.status("the watchdog", |status| status["leases_failed"] != "0");

    let file = squares(&home, "squares", 5);
    let good = submit(&home, &market, &file);
    until("the worker to compute another job", || {
        let job = market.job(&good);
        (number(&job["progress"]["waiting"]) + number(&job["progress"]["leased"]) == 0).then_some(())
    });
    // Nothing of the endless job was accepted, and its owner can see why.
    let job = market.job(&endless);
    assert_eq!(number(&job["progress"]["accepted"]), 0);
    assert_eq!(number(&job["money"]["paid"]), 0);
    assert!(job["reason"]["text"].is_string(), "{job}");
}

#[test]
fn a_second_worker_with_the_same_key_is_told_so_and_the_first_works_on() {
    let home = Home::default();
    let market = Market::start(&home, &["--heartbeat-ms-max", "1500", "--lease-ms", "5000"]);
    let first = Worker::start(&home, &market, "worker.json");
    first.ready();
    let mut second = Worker::start(&home, &market, "worker.json");
    let status = second
        .status("the second worker to be refused", |status| status["reason"]["code"] == "worker_key_in_use");
    assert_eq!(status["state"], "connecting");
    let file = squares(&home, "squares", 5);
    let id = submit(&home, &market, &file);
    assert_eq!(market.ended_job(&id)["state"], "done");
    assert_eq!(second.exit_code(), Some(5));
    assert_eq!(
        first.status("the first worker to finish", |s| s["units_committed"] == "5")["units_refused"],
        "0"
    );
}

#[test]
fn a_worker_that_is_asked_to_leave_finishes_what_runs() {
    let home = Home::default();
    let market = Market::start(&home, &["--no-verifier"]);
    let mut worker = Worker::start(&home, &market, "worker.json");
    worker.ready();
    let file = squares(&home, "squares", 2000);
    let id = submit(&home, &market, &file);
    worker.status("the worker to run", |status| status["units_run"] != "0");
    worker.terminate();
    assert_eq!(worker.exit_code(), Some(0));
    let job = market.job(&id);
    assert_eq!(number(&job["progress"]["leased"]), 0, "nothing is left in its hands");
    let left = market.workers();
    assert_eq!((&left[0]["state"], &left[0]["reason"]["code"]), (&"gone".into(), &"left".into()));

    // What it did not finish is another one's.
    let _other = Worker::start(&home, &market, "other.json");
    until("the other worker to compute the rest", || {
        let job = market.job(&id);
        (number(&job["progress"]["waiting"]) + number(&job["progress"]["leased"]) == 0).then_some(())
    });
}

#[test]
fn nothing_that_a_market_answered_is_lost_when_it_is_killed() {
    let home = Home::default();
    // A lease whose answer was lost in a crash comes back when it ends.
    let mut market = Market::start(&home, &["--faucet", "--lease-ms", "4000", "--heartbeat-ms-max", "4000"]);
    let worker = Worker::start(&home, &market, "worker.json");
    worker.ready();
    home.json(&["wallet", "new", "--json"]);
    home.json(&["wallet", "faucet", "100", "--market", &market.address, "--json"]);
    let file = squares(&home, "squares", 6);
    let (address, over) = (market.address.clone(), AtomicBool::new(false));
    // What was answered.
    let answered = Mutex::new(Vec::<String>::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let output = home.run(&["submit", &file, "--market", &address, "--json"]);
                    // The market may be away for longer than the command is patient.
                    if !output.status.success() {
                        assert_eq!(
                            output.status.code(),
                            Some(4),
                            "{}",
                            String::from_utf8_lossy(&output.stderr)
                        );
                        continue;
                    }
                    let job: Value = serde_json::from_slice(&output.stdout).expect("JSON");
                    answered.lock().unwrap().push(job["id"].as_str().expect("an id").to_owned());
                }
            });
        }
        // Accepted units by job; a later answer may only have more.
        let mut accepted = BTreeMap::<String, u64>::new();
        for round in 0..10 {
            let before = answered.lock().unwrap().len();
            // The kill falls at another moment of the load each time.
            until("some load", || (answered.lock().unwrap().len() > before + round % 4).then_some(()));
            let known = answered.lock().unwrap().clone();
            market.crash();
            market.restart(&home);
            for id in known {
                let job = market.job(&id);
                assert_eq!(number(&job["units"]), 6);
                let now = number(&job["progress"]["accepted"]);
                let before = accepted.insert(id.clone(), now).unwrap_or(0);
                assert!(now >= before, "{id} had {before} accepted units and has {now}");
            }
        }
        over.store(true, Relaxed);
    });
    let answered = answered.into_inner().unwrap();
    // The worker outlived all of it, and everything is done and paid in the end.
    for id in answered {
        let job = market.ended_job(&id);
        assert_eq!(job["state"], "done", "{job}");
        assert_eq!(number(&job["money"]["paid"]), 6 * 900_000);
    }
    let ledger = market.ledger();
    let parts = ["available", "pending", "held", "treasury", "burned"];
    let parts: u64 = parts.iter().map(|part| number(&ledger[*part])).sum();
    assert_eq!(number(&ledger["deposited"]), parts);
}
