//! A market without a network: the real rules, and workers that take turns.
//!
//! Every turn takes a second. In it each worker, in an order that is drawn anew, asks for work, computes what it gets, and
//! commits to it. Nothing is lost or late, so what becomes of a cheat depends on the rules and on the draw alone.

use std::{collections::BTreeMap, rc::Rc};

use engine::{
    Answer, Command, Decision, Event, JobSpec, Outcome, Params, Policy, Rejection, Requirements, Stage,
    State, Submission, UnitWork, Work, violations,
};
use protocol::{
    Amount, CheckId, DeviceFacts, Hash, JobId, LeaseId, OutputCommitment, PackageId, PublicKey, Receipt,
    Signature, VerdictId, WorkerOffer,
    manifest::{Compare, Dtype, JobKind, Tolerance},
};

use super::results::{Content, right};
use crate::{chance::Chance, devices::Devices};

/// What one unit pays, in base units: the market's base price of the reference second that it takes.
pub(super) const UNIT_PRICE: u64 = 1_000_000;
const TURN_MS: u64 = 1_000;
const FOUNDED_MS: u64 = 1_700_000_000_000;
/// Between two heartbeats, in turns.
const BEAT_TURNS: u64 = 5;
const MARKET: PublicKey = PublicKey([255; 32]);
const INSTANCE: &str = "1";

/// What is computed, and how it is verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub policy: Policy,
    /// Whether results compare bit for bit; otherwise within a tolerance.
    pub exact: bool,
    pub package_units: u32,
    pub job_units: u64,
    /// Whether the program gives another result each time.
    pub random: bool,
}

/// A lease in a worker's hands. Whether it is a check is what no worker is told; here it is known to whoever counts.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub lease: LeaseId,
    pub generation: u32,
    pub job: JobId,
    pub units: Vec<u64>,
    pub check: bool,
}

impl Held {
    /// What a worker can see: a package is a whole run of units, what was drawn of one has gaps or is shorter.
    pub fn looks_like_a_check(&self, package_units: u32) -> bool {
        let gaps = self.units.windows(2).any(|pair| pair[1] != pair[0] + 1);
        gaps || self.units.len() < package_units as usize
    }
}

/// Who is at work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Player {
    pub key: PublicKey,
    /// Of two kinds of device whose right results differ in their last bits, which one it has.
    pub class: u32,
    /// Whether it still asks for work.
    pub asks: bool,
}

/// A package that was committed.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub job: JobId,
    pub worker: PublicKey,
    pub wrong: u64,
    pub units: u64,
    /// What it was worth to draw, before the commitment: the rate of each unit.
    pub rate_ppm: u32,
}

/// How a package ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Paid(Amount),
    Rejected,
}

/// A verdict that is final.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    /// Who was accused.
    pub owner: PublicKey,
    pub stands: bool,
    /// What was taken from the accused.
    pub slash: Amount,
    /// What the accused got after all, and who paid for it.
    pub compensation: Amount,
    pub seized: Vec<(PublicKey, Amount)>,
}

/// The market and everybody on it.
pub(super) struct Square {
    pub state: State,
    pub chance: Chance,
    pub players: Vec<Player>,
    pub client: PublicKey,
    pub terms: Terms,
    pub jobs: Vec<JobId>,
    now_ms: u64,
    turns: u64,
    contents: BTreeMap<Hash, Vec<u8>>,
    pub made: BTreeMap<PackageId, Made>,
    slashes: BTreeMap<VerdictId, (PublicKey, Amount)>,
    /// Verdicts that are to be contested, and by whom.
    contests: Vec<(VerdictId, PublicKey)>,
    /// Verdicts that became final since somebody looked.
    pub closed: Vec<Closed>,
    /// Packages that ended since somebody looked.
    pub ended: Vec<(PackageId, Made, Ending)>,
    /// Checks by who made them, and whether they are wrong.
    checks: BTreeMap<CheckId, (PublicKey, bool)>,
    /// Checks that were paid since somebody looked: who made it, whether it was wrong, and the pay.
    pub checks_paid: Vec<(PublicKey, bool, Amount)>,
    pub executed: u64,
    /// Of each worker, units that it committed in packages, and those of them that were drawn.
    pub drawn: BTreeMap<PublicKey, (u64, u64)>,
    pub checked: u64,
    pub accepted: u64,
    /// Packages of right results that were rejected.
    pub wronged: u64,
    pub problems: Vec<String>,
    digest: u64,
    device: Rc<DeviceFacts>,
}

/// A key that sorts anywhere.
pub(super) fn key(tag: u8, number: u64) -> PublicKey {
    let mut bytes = [tag; 32];
    bytes[..8].copy_from_slice(&crate::chance::mixed(&[tag.into(), number]).to_be_bytes());
    PublicKey(bytes)
}

impl Square {
    /// A market with `honest` workers, each of an owner of its own, and the market's verifier.
    pub fn new(seed: u64, honest: u64, terms: Terms, params: Params) -> Self {
        let (state, _) = State::found(MARKET, params, FOUNDED_MS).expect("the parameters are safe");
        let client = key(200, seed);
        let mut square = Self {
            state,
            chance: Chance::new(seed),
            players: Vec::new(),
            client,
            terms,
            jobs: Vec::new(),
            now_ms: FOUNDED_MS,
            turns: 0,
            contents: BTreeMap::new(),
            made: BTreeMap::new(),
            slashes: BTreeMap::new(),
            contests: Vec::new(),
            closed: Vec::new(),
            ended: Vec::new(),
            checks: BTreeMap::new(),
            checks_paid: Vec::new(),
            executed: 0,
            drawn: BTreeMap::new(),
            checked: 0,
            accepted: 0,
            wronged: 0,
            problems: Vec::new(),
            digest: 0,
            device: Devices::verifier().facts,
        };
        square.fund(client);
        square.join(MARKET, 0, None);
        for number in 0..honest {
            square.join(key(1, number), number as u32 % 2, None);
            // For the deposit of an appeal.
            square.fund(key(1, number));
        }
        square
    }

    /// Gives a client enough for all it may want.
    pub fn fund(&mut self, account: PublicKey) {
        self.must(Command::Deposit { account, amount: Amount(100_000_000_000_000), key: None });
    }

    /// A worker comes, which is its own owner.
    pub fn join(&mut self, worker: PublicKey, class: u32, feature: Option<&str>) -> usize {
        self.announce(worker, feature);
        self.players.push(Player { key: worker, class, asks: true });
        self.players.len() - 1
    }

    fn announce(&mut self, worker: PublicKey, feature: Option<&str>) {
        let features = feature.into_iter().map(str::to_owned).collect();
        let device = DeviceFacts { features, ..DeviceFacts::clone(&self.device) };
        let offer = WorkerOffer { claimed_mflops: 1_000_000, ..WorkerOffer::default() };
        let (instance, version) = (INSTANCE.to_owned(), "sim".to_owned());
        self.must(Command::Announce { worker, instance, device, version, offer });
    }

    /// A new job of this owner, for devices with this feature.
    pub fn submit(&mut self, owner: PublicKey, feature: Option<&str>) -> JobId {
        let Terms { policy, exact, package_units, job_units, .. } = self.terms;
        let stage = Stage {
            name: String::new(),
            manifest: Hash([1; 32]),
            inputs: Vec::new(),
            units: job_units,
            unit_price: Amount(UNIT_PRICE),
            package_units: Some(package_units),
            time_ms_max: 60_000,
            requirements: Requirements {
                features: feature.into_iter().map(str::to_owned).collect(),
                ..Requirements::default()
            },
            outputs_exact: vec![exact],
            output_bytes: vec![super::results::BYTES],
            policy,
            work: UnitWork { flops: 1_000_000_000_000, bytes: 0 },
            devices: 1,
            replicas: 1,
        };
        let spec = JobSpec::plain(String::new(), JobKind::Batch, "[]".to_owned(), stage);
        let submission = Submission {
            owner,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        match self.decide(Command::Submit(submission.into())) {
            Ok(Answer::Job(job)) => {
                self.jobs.push(job);
                job
            }
            other => panic!("the client has money for it: {other:?}"),
        }
    }

    fn must(&mut self, command: Command) -> Answer {
        let shown = format!("{command:?}");
        self.decide(command).unwrap_or_else(|rejection| panic!("refused: {rejection}: {shown}"))
    }

    pub fn decide(&mut self, command: Command) -> Result<Answer, Rejection> {
        let Decision { events, answer } = engine::decide(&mut self.state, self.now_ms, command)?;
        for event in &events {
            self.observe(event);
        }
        Ok(answer)
    }

    fn observe(&mut self, event: &Event) {
        match event {
            Event::ChecksDrawn { package, checks, .. } => {
                let worker = self.made[package].worker;
                let units = checks
                    .iter()
                    .filter(|check| check.tie_of.is_none())
                    .map(|check| check.units.len() as u64);
                self.drawn.entry(worker).or_default().1 += units.sum::<u64>();
            }
            Event::CheckPaid { check, pay } => {
                if let Some((worker, wrong)) = self.checks.get(check) {
                    self.checks_paid.push((*worker, *wrong, pay.provider));
                }
            }
            Event::VerdictReached { verdict, package, owner, slash, .. } => {
                self.slashes.insert(*verdict, (*owner, slash.total()));
                // Whoever computed what was asked for knows it, and contests.
                if self.made[package].wrong == 0 {
                    self.contests.push((*verdict, *owner));
                }
            }
            Event::VerdictClosed { verdict, outcome, closing, .. } => {
                let (owner, slash) = self.slashes.remove(verdict).expect("it was reached");
                let seized = closing.seized.iter().map(|(owner, seizure)| (*owner, seizure.total()));
                self.closed.push(Closed {
                    owner,
                    stands: *outcome != Outcome::Overturned,
                    slash,
                    compensation: closing.compensation,
                    seized: seized.collect(),
                });
            }
            Event::PackageAccepted { package, pay } => {
                let made = self.made.remove(package).expect("it was committed");
                self.accepted += made.units;
                self.ended.push((*package, made, Ending::Paid(pay.provider)));
            }
            Event::PackageRejected { package, .. } => {
                let made = self.made.remove(package).expect("it was committed");
                self.wronged += u64::from(made.wrong == 0);
                self.ended.push((*package, made, Ending::Rejected));
            }
            _ => {}
        }
    }

    /// The rate at which each unit of a package of a worker would be drawn now.
    fn rate_ppm(&self, worker: PublicKey, units: u64) -> u32 {
        let Policy::Audit { rate_min_ppm } = self.terms.policy else { return 1_000_000 };
        self.state.audit_terms(worker, Amount(UNIT_PRICE), units).rate_ppm(rate_min_ppm)
    }

    /// Work for a worker, if there is some.
    pub fn ask(&mut self, worker: PublicKey) -> Option<Held> {
        let instance = INSTANCE.to_owned();
        let ask = Command::RequestLeases { worker, instance, packages_max: 1, others_only: false };
        let Answer::Leases(leases) = self.must(ask) else {
            unreachable!("a request is answered with leases")
        };
        let id = *leases.first()?;
        let lease = &self.state.leases()[&id];
        let units = self.state.lease_units(lease).into_iter().flat_map(|run| run.units()).collect();
        let check = matches!(lease.work, Work::Check { .. });
        Some(Held { lease: id, generation: lease.generation, job: lease.job, units, check })
    }

    /// The receipt and the outputs of a lease.
    pub fn receipt(
        &mut self,
        worker: PublicKey,
        held: &Held,
        contents: Vec<Content>,
    ) -> (Receipt, Vec<(u64, Vec<OutputCommitment>)>) {
        let mut units = Vec::new();
        for (unit, content) in held.units.iter().zip(contents) {
            let bytes = content.bytes();
            let blob = Hash::of(&bytes);
            if !self.terms.exact {
                self.contents.insert(blob, bytes);
            }
            units.push((
                *unit,
                vec![OutputCommitment { blob, length: super::results::BYTES, chunk_root: blob }],
            ));
        }
        let blobs: Vec<&[u8]> = units.iter().map(|(_, outputs)| outputs[0].blob.0.as_slice()).collect();
        let receipt = Receipt {
            market: MARKET,
            lease: held.lease,
            generation: held.generation,
            worker,
            job: held.job,
            units: units.len() as u32,
            package_root: Hash::of_parts(&blobs),
            adapter: "simulated".to_owned(),
            started_at_ms: self.now_ms,
            device_us: 1_000,
            total_us: 1_000,
        };
        (receipt, units)
    }

    /// Commits to these contents.
    pub fn commit(
        &mut self,
        worker: PublicKey,
        held: &Held,
        contents: Vec<Content>,
    ) -> (Receipt, Vec<(u64, Vec<OutputCommitment>)>) {
        let truths = held.units.iter().zip(&contents);
        let wrong =
            truths.filter(|(unit, content)| !self.acceptable(held.job, **unit, content)).count() as u64;
        let units = held.units.len() as u64;
        self.executed += units;
        match self.state.leases().get(&held.lease).map(|lease| lease.work) {
            Some(Work::Package { package, .. }) => {
                let rate_ppm = self.rate_ppm(worker, units);
                self.drawn.entry(worker).or_default().0 += units;
                self.made.insert(package, Made { job: held.job, worker, wrong, units, rate_ppm });
            }
            Some(Work::Check { check }) => {
                self.checked += units;
                self.checks.insert(check, (worker, wrong > 0));
            }
            None => {}
        }
        let (receipt, units) = self.receipt(worker, held, contents);
        let answer = self.hand_in(receipt.clone(), units.clone());
        if let Err(rejection) = answer {
            self.problems.push(format!("a receipt was refused: {rejection}"));
        }
        self.judge();
        (receipt, units)
    }

    /// Hands a receipt in, whoever's and whatever for.
    pub fn hand_in(
        &mut self,
        receipt: Receipt,
        units: Vec<(u64, Vec<OutputCommitment>)>,
    ) -> Result<Answer, Rejection> {
        let seed = Hash::of_parts(&[b"secret", &self.digest.to_le_bytes(), &receipt.digest().0]);
        self.digest = self.chance.below(u64::MAX);
        self.decide(Command::Commit { receipt: receipt.into(), signature: Signature([0; 64]), units, seed })
    }

    /// Whether a result is one that its client takes: the right one, or within the tolerance of it.
    fn acceptable(&self, job: JobId, unit: u64, content: &Content) -> bool {
        let truth = right(job, unit, self.terms.exact, 0);
        if self.terms.random {
            return true;
        }
        if self.terms.exact { *content == truth } else { agree(&truth.bytes(), &content.bytes()) }
    }

    /// Compares by tolerance what the rules leave to the shell.
    fn judge(&mut self) {
        loop {
            let Some(comparison) = self.state.comparisons(1).pop() else { return };
            let agrees =
                comparison.pairs.iter().all(|(_, _, a, b)| agree(&self.contents[a], &self.contents[b]));
            let (check, evidence) = (comparison.check, String::new());
            self.must(Command::RecordOpinion { check, agrees, evidence });
        }
    }

    /// Passes a second; heartbeats are sent every few.
    pub fn pass(&mut self) {
        self.now_ms += TURN_MS;
        self.turns += 1;
        self.must(Command::AdvanceTime);
        for (verdict, by) in std::mem::take(&mut self.contests) {
            self.must(Command::Contest { verdict, by });
        }
        if self.turns.is_multiple_of(BEAT_TURNS) {
            for worker in self.players.iter().map(|player| player.key).collect::<Vec<_>>() {
                let (instance, leases) = (INSTANCE.to_owned(), Vec::new());
                self.must(Command::Heartbeat { worker, instance, leases });
            }
        }
    }

    /// The players in the order of this turn.
    pub fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.players.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.chance.below(at as u64 + 1) as usize);
        }
        order
    }

    /// An honest worker's results.
    pub fn honest(&mut self, player: usize, held: &Held) -> Vec<Content> {
        let (exact, random, class) = (self.terms.exact, self.terms.random, self.players[player].class);
        let units = held.units.iter();
        let result = |unit: &u64| {
            if random {
                Content::noise(self.chance.below(u64::MAX))
            } else {
                right(held.job, *unit, exact, class)
            }
        };
        units.map(result).collect()
    }

    /// What a worker's owner gets for a unit, in prices of one.
    pub fn pay_of_a_unit(&self) -> f64 {
        let params = self.state.params();
        1.0 - f64::from(params.treasury_bps + params.burn_bps) / 10_000.0
    }

    /// Whether enough waits for everybody.
    pub fn keep_busy(&mut self) {
        let jobs = self.jobs.iter().rev().take(4).map(|job| &self.state.jobs()[job]);
        let open: u64 = jobs.filter(|job| job.owner == self.client).map(|job| job.waiting_units()).sum();
        if open < self.players.len() as u64 * u64::from(self.terms.package_units) {
            self.submit(self.client, None);
        }
    }

    /// Lets time pass until nothing is open any more.
    pub fn quiet(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            let due = self.state.next_deadline_ms(self.now_ms).unwrap_or(until);
            self.now_ms = due.clamp(self.now_ms + 1, until);
            self.must(Command::AdvanceTime);
        }
    }

    /// What must hold and does not.
    pub fn check(&mut self) {
        let found = violations(&self.state, self.now_ms);
        self.problems.extend(found.iter().map(ToString::to_string));
    }
}

/// Whether two outputs agree within the jobs' tolerance.
fn agree(a: &[u8], b: &[u8]) -> bool {
    let tolerance = Compare::Within(Tolerance { rel: 1e-4, ..Tolerance::default() });
    proof::compare(a, b, Dtype::F32, &tolerance).agrees()
}
