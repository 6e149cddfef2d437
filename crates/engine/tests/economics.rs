//! Score, price, stake, reputation and rewards, one promise a test.

mod rules;

use plexus_engine::{
    Command, JobSpec, Misfit, PPM, Params, Priority, Rejection, Royalty, Submission, UnitWork, WorkerReason,
    emission,
};
use proptest::prelude::*;
use protocol::{Amount, BASE_UNITS_PER_TOKEN, JobId, WorkerOffer};
use rules::{AUDIT, CLIENT, MARKET, World, key, spec};

const TOKEN: u64 = BASE_UNITS_PER_TOKEN;
const HOUR_MS: u64 = 3_600_000;

/// A unit that takes the reference device a second.
fn second(units: u64) -> JobSpec {
    let mut spec = spec(units, AUDIT);
    spec.stages[0].work = UnitWork { flops: 1_000_000_000_000, bytes: 0 };
    spec.stages[0].package_units = Some(1);
    spec.stages[0].time_ms_max = 60_000;
    spec
}

fn offer(claimed_gflops: u64, ask: u64) -> WorkerOffer {
    WorkerOffer { claimed_mflops: claimed_gflops * 1_000, ask: Amount(ask), ..WorkerOffer::default() }
}

fn submit_quoted(world: &mut World, spec: JobSpec, budget: Option<Amount>) -> Result<JobId, Rejection> {
    let submission = Submission {
        owner: CLIENT,
        spec,
        quoted: vec![0],
        budget,
        key: None,
        canaries: vec![],
        sealed: None,
    };
    world.run(Command::Submit(submission.into())).map(|decision| match decision.answer {
        plexus_engine::Answer::Job(job) => job,
        other => panic!("{other:?}"),
    })
}

/// Lets a worker hold its leases for `ms`, then commit to them.
fn work(world: &mut World, worker: u8, ms: u64) -> usize {
    let leases = world.lease(key(worker), 1);
    world.now_ms += ms;
    let beat = Command::Heartbeat { worker: key(worker), instance: "one".into(), leases: leases.clone() };
    world.run(beat).expect("alive");
    for lease in &leases {
        world.commit(*lease, 0).expect("taken");
    }
    leases.len()
}

fn world(workers: &[(u8, WorkerOffer)]) -> World {
    let mut world = World::new(Params::default());
    world.fund(CLIENT, 1_000_000);
    for (worker, offer) in workers {
        world.announce_with(key(*worker), offer.clone());
    }
    world
}

#[test]
fn what_was_quoted_is_paid_whatever_the_market_does_later() {
    let mut world = world(&[(1, offer(1_000, 4_000)), (2, offer(1_000, 2_000)), (3, offer(1_000, 3_000))]);
    let quote = world.state.quote(&second(3), &[0], world.now_ms);
    let stage = &quote.stages[0];
    assert_eq!((stage.base, stage.ask_min, stage.rate), (Amount(3_000), Amount(2_000), Amount(3_000)));
    assert_eq!((stage.demand_ppm, stage.capability_ppm, stage.season_ppm), (0, 0, PPM));
    assert_eq!((stage.unit_price, quote.escrow), (Amount(3_000), Some(Amount(18_000))));
    let job = submit_quoted(&mut world, second(3), quote.escrow).expect("within the quote");
    // Everybody asks ten times as much, then hardly anything, and the queue grows.
    world.submit(second(50));
    for (ask, price) in [(30_000, 30_000), (1, 1)] {
        for worker in [1, 2, 3] {
            world.announce_with(key(worker), offer(1_000, ask));
        }
        let now = world.state.quote(&second(3), &[0], world.now_ms).stages[0].unit_price;
        assert!((price..price + price / 10 + 1).contains(&now.0), "{now}");
    }
    while !world.state.jobs()[&job].state.ended() {
        for worker in [1, 2, 3] {
            work(&mut world, worker, 1_000);
        }
    }
    let money = world.state.jobs()[&job].money;
    let done = &world.state.jobs()[&job];
    let executed = 3 + done.verification.checked - done.verification.by_verifier;
    assert_eq!(money.paid.0 + money.treasury.0 + money.burned.0, 3_000 * executed);
}

#[test]
fn a_price_has_four_factors() {
    let mut world = world(&[(1, offer(1_000, 1_000)), (2, offer(3_000, 1_000))]);
    let mut large = second(1);
    large.stages[0].requirements.storage_buffer_bytes = 1 << 29;
    let quote = world.state.quote(&large, &[0], world.now_ms);
    assert_eq!((quote.stages[0].providers, quote.wait_ms), (0, None));
    assert_eq!(quote.stages[0].base, Amount(world.state.params().base_price), "nobody fits, nobody asks");
    assert_eq!(quote.stages[0].capability_ppm, PPM, "and what nobody has is scarce");
    assert_eq!(quote.stages[0].rate, Amount(2_000_000));
    // 4 reference devices have 2 400 s of work for ten minutes; the forecast is most of the way there after an hour.
    world.submit(second(2_400));
    world.advance(1);
    for _ in 0..60 {
        for worker in [1, 2] {
            let beat = Command::Heartbeat { worker: key(worker), instance: "one".into(), leases: vec![] };
            world.run(beat).expect("alive");
        }
        world.now_ms += 10_000;
        let beat = Command::Heartbeat { worker: key(1), instance: "one".into(), leases: vec![] };
        world.run(beat).expect("alive");
        let beat = Command::Heartbeat { worker: key(2), instance: "one".into(), leases: vec![] };
        world.run(beat).expect("alive");
    }
    let demand = world.state.demand_factor_ppm(world.now_ms);
    assert!((800_000..PPM).contains(&demand), "{demand}");
    let quote = world.state.quote(&second(1), &[0], world.now_ms);
    assert_eq!(quote.stages[0].rate, Amount(1_000 * (PPM + demand) / PPM));
    assert_eq!(quote.wait_ms, Some(600_000));
    assert!(quote.run_ms.is_some_and(|ms| (250..=1_300).contains(&ms)), "{quote:?}");
}

#[test]
fn a_budget_below_the_quote_is_refused_with_the_quote() {
    let mut world = world(&[(1, offer(1_000, 5_000))]);
    let refused = submit_quoted(&mut world, second(10), Some(Amount(99_999)));
    let Err(Rejection::OverBudget { needed, quote, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((needed, quote.stages[0].unit_price), (Amount(100_000), Amount(5_000)));
    submit_quoted(&mut world, second(10), Some(needed)).expect("enough");
}

#[test]
fn nobody_works_below_what_they_ask() {
    let mut world = world(&[(1, offer(1_000, 1_001)), (2, offer(1_000, 1_002))]);
    // A unit pays 1 001 and takes a reference second.
    world.submit(second(2));
    assert_eq!(world.lease(key(2), 9), []);
    let lacks = Misfit::Price { asks: Amount(1_002), pays: Amount(1_001) };
    assert_eq!(
        world.state.worker_reason(key(2), world.now_ms),
        Some(WorkerReason::NoJobFits { jobs: 1, lacks })
    );
    assert_eq!(world.lease(key(1), 9).len(), 2);
}

#[test]
fn ten_times_its_speed_is_found_out_by_real_work() {
    let mut world = world(&[(1, offer(1_000, 0)), (2, offer(10_000, 0)), (3, offer(1_000, 0))]);
    world.submit(second(30));
    assert_eq!(world.state.workers()[&key(2)].speed.ppm(world.state.params()), 10 * PPM, "believed at first");
    // All three take a second for what takes the reference device a second.
    for _ in 0..30 {
        for worker in [1, 2, 3] {
            work(&mut world, worker, 1_000);
        }
    }
    let speed = |worker: u8| world.state.workers()[&key(worker)].speed;
    assert!(speed(2).overstated && !speed(1).overstated && !speed(3).overstated);
    let measured = speed(2).measured_ppm.expect("measured");
    assert!(measured < 2 * PPM, "{measured}");
    assert_eq!(world.state.reputation(key(2)).performance_milli, 0);
    assert!(world.state.reputation(key(1)).performance_milli > 50_000);
    // It corrects itself, and is believed again.
    world.announce_with(key(2), offer(1_000, 0));
    assert!(world.state.reputation(key(2)).performance_milli > 0);
}

#[test]
fn stake_goes_in_at_once_and_comes_back_late() {
    let mut world = world(&[]);
    let bond = |amount| Command::Bond { account: CLIENT, amount: Amount(amount) };
    let unbond = |amount| Command::Unbond { account: CLIENT, amount: Amount(amount) };
    world.run(bond(10_000 * TOKEN)).expect("it has that");
    assert!(matches!(world.run(bond(u64::MAX)), Err(Rejection::StakeTooLow { .. })));
    assert!(matches!(world.run(bond(0)), Err(Rejection::StakeInvalid(_))));
    let job = world.submit(spec(1, AUDIT));
    assert_eq!(world.state.score(&world.state.jobs()[&job], world.now_ms).stake_ppm, 345_943);
    world.run(unbond(4_000 * TOKEN)).expect("it has bonded more");
    assert!(matches!(world.run(unbond(6_001 * TOKEN)), Err(Rejection::StakeTooLow { .. })));
    assert_eq!(world.state.bonded(CLIENT), Amount(6_000 * TOKEN), "what is on its way counts no more");
    let free = world.state.next_deadline_ms(world.now_ms).expect("something is due");
    assert_eq!(free, world.now_ms + world.state.params().unbond_ms);
    let before = world.state.accounts()[&CLIENT].available;
    world.advance(world.state.params().unbond_ms - 1);
    assert_eq!(world.state.accounts()[&CLIENT].available, before);
    world.advance(1);
    assert_eq!(world.state.accounts()[&CLIENT].available, Amount(before.0 + 4_000 * TOKEN));
}

#[test]
fn a_provider_without_stake_holds_so_much_and_no_more() {
    let mut world = world(&[(1, offer(1_000, 0))]);
    let mut dear = second(3);
    dear.stages[0].unit_price = Amount(60 * TOKEN);
    world.submit(dear);
    assert_eq!(world.lease(key(1), 9).len(), 1, "two are worth more than 100 tokens");
    assert_eq!(world.lease(key(1), 9), []);
    world.fund(key(1), 10);
    world.run(Command::Bond { account: key(1), amount: Amount(10 * TOKEN) }).expect("bonded");
    assert_eq!(world.lease(key(1), 9).len(), 1, "ten times the stake besides");
}

#[test]
fn ratings_come_from_clients_of_workers_that_ran_their_job_and_once() {
    let mut world = world(&[(1, offer(1_000, 0)), (2, offer(1_000, 0))]);
    let job = world.submit(second(1));
    world.finish(&[key(1), key(2)]);
    let ran = *world.state.jobs()[&job].workers.iter().find(|(_, part)| part.units > 0).expect("somebody").0;
    let other = if ran == key(1) { key(2) } else { key(1) };
    let rate = |by, worker, stars| Command::Rate { job, by, worker, stars };
    assert_eq!(world.run(rate(other, ran, 5)), Err(Rejection::JobForeign(job)));
    assert!(matches!(world.run(rate(CLIENT, other, 5)), Err(Rejection::RatingInvalid(_))));
    assert!(matches!(world.run(rate(CLIENT, ran, 6)), Err(Rejection::RatingInvalid(_))));
    world.run(rate(CLIENT, ran, 5)).expect("rated");
    assert_eq!(world.run(rate(CLIENT, ran, 1)), Err(Rejection::RatedBefore { job, worker: ran }));
    // Five ratings of three stars and this one: 20 stars over 6 ratings.
    assert_eq!(world.state.reputation(ran).rating_milli, 58_333);
}

#[test]
fn a_royalty_is_paid_for_first_execution_alone() {
    let mut world = world(&[(1, offer(1_000, 0)), (2, offer(1_000, 0))]);
    let mut spec = second(1);
    spec.royalty = Some(Royalty { account: key(77), bps: 1_000 });
    let job = world.submit(spec.clone());
    world.finish(&[key(1), key(2)]);
    assert_eq!(world.state.accounts()[&key(77)].earned, Amount(100), "a tenth of 1 001, once");
    assert_eq!(world.state.jobs()[&job].money.royalties, Amount(100));
    spec.royalty = Some(Royalty { account: key(77), bps: 3_001 });
    let submission = Submission {
        owner: CLIENT,
        spec,
        quoted: vec![],
        budget: None,
        key: None,
        canaries: vec![],
        sealed: None,
    };
    assert!(matches!(world.run(Command::Submit(submission.into())), Err(Rejection::SpecInvalid(_))));
}

#[test]
fn an_epoch_pays_by_work_role_and_stake_to_the_last_unit() {
    let mut world = world(&[(1, offer(1_000, 0)), (2, offer(1_000, 0)), (3, offer(1_000, 0))]);
    world.fund(key(3), 1_000);
    world.run(Command::Bond { account: key(3), amount: Amount(1_000 * TOKEN) }).expect("bonded");
    let mut paid = second(9);
    paid.stages[0].unit_price = Amount(1_000_000);
    world.submit(paid);
    // Work that is hardly paid for draws nothing, whatever it claims to be.
    let mut sham = second(2);
    sham.stages[0].work.flops = u64::MAX;
    world.submit(sham);
    world.finish(&[key(1), key(2), key(3)]);
    world.advance(HOUR_MS);
    let rewards: Vec<_> = [1, 2, 3].map(|n| world.state.accounts()[&key(n)].rewarded.0).to_vec();
    // Little was paid, so the fees bound what is emitted.
    let ledger = *world.state.ledger();
    let emitted = (ledger.treasury.0 + ledger.burned.0) * 3 / 10;
    assert!(0 < emitted && emitted < emission(0, world.state.params()).0);
    assert_eq!((rewards.iter().sum::<u64>(), ledger.emitted.0), (emitted, emitted));
    assert!(rewards.iter().all(|share| *share > 0), "{rewards:?}");
    world.advance(10 * HOUR_MS);
    assert_eq!(world.state.ledger().emitted.0, emitted, "idle epochs emit nothing");
}

#[test]
fn parameters_change_within_bounds_and_by_the_market_alone() {
    let mut world = world(&[]);
    let set = |by, changes: &[(&str, u64)]| Command::SetParams {
        by,
        changes: changes.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
    };
    assert_eq!(world.run(set(CLIENT, &[("base_price", 5)])), Err(Rejection::NotTheMarket));
    let refused: [&[(&str, u64)]; 5] = [
        &[("base_prise", 5)],
        &[("base_price", 0)],
        &[("score_stake_ppm", 500_000)],
        &[("treasury_bps", 2_000), ("burn_bps", 1_000)],
        &[("burn_bps", u64::MAX)],
    ];
    for changes in refused {
        let refusal = world.run(set(MARKET, changes));
        assert!(matches!(refusal, Err(Rejection::ParamInvalid(_))), "{changes:?}: {refusal:?}");
    }
    world.submit(spec(3, AUDIT));
    let weights = [("score_stake_ppm", 200_000), ("score_urgency_ppm", 500_000), ("base_price", 7)];
    world.run(set(MARKET, &weights)).expect("within bounds");
    assert_eq!(world.state.params().base_price, 7);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn jobs_of_one_standing_take_turns_and_a_higher_class_goes_first() {
    let mut world = world(&[(1, offer(1_000, 0)), (2, offer(1_000, 0))]);
    let mut jobs = Vec::new();
    for priority in [Priority::Normal, Priority::Normal, Priority::High] {
        let mut spec = second(4);
        (spec.priority, spec.name) = (priority, format!("{priority:?}"));
        spec.stages[0].manifest = protocol::Hash::of(format!("{}", jobs.len()).as_bytes());
        jobs.push(world.submit(spec));
    }
    assert_eq!(
        jobs.iter().map(|job| world.state.jobs_ahead(*job, world.now_ms)).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(0)]
    );
    let leases = world.lease(key(1), 1);
    assert_eq!(world.state.leases()[&leases[0]].job, jobs[2]);
}

/// Jobs that come for ever, richer and more urgent than the one that waits.
fn rich(seed: u64) -> JobSpec {
    let mut spec = second(1 + seed % 3);
    spec.priority = Priority::Urgent;
    spec.stages[0].work.flops = u64::MAX / 4;
    spec.stages[0].manifest = protocol::Hash::of(&seed.to_le_bytes());
    if seed.is_multiple_of(4) {
        spec.deadline_ms = Some(10 * HOUR_MS + seed);
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn nothing_starves(seed in any::<u32>(), deadline in prop::option::of(1u64..5)) {
        // Always more work than it can do: each step two rich jobs come and one package is done.
        let mut world = world(&[(1, offer(1_000, 0)), (2, offer(1_000, 0))]);
        world.run(Command::Bond { account: CLIENT, amount: Amount(900_000 * TOKEN) }).expect("bonded");
        world.fund(key(9), 1);
        let mut poor = second(1);
        poor.priority = Priority::Low;
        poor.deadline_ms = deadline.map(|hours| world.now_ms + hours * HOUR_MS);
        let submission = Submission { owner: key(9), spec: poor, quoted: vec![], budget: None, key: None, canaries: vec![], sealed: None };
        world.run(Command::Submit(submission.into())).expect("accepted");
        let job = JobId(1);
        // Whoever comes after (1 + 0.3) / 0.3 of `urgency_wait_ms` comes behind it. Of those before, two come and two are
        // served at a time, so that after as long again it is its turn.
        let bound_ms = world.now_ms + 2 * 13 * HOUR_MS / 3 + HOUR_MS;
        let step_ms = 15 * 60_000;
        let mut arrivals = u64::from(seed);
        while world.state.jobs()[&job].leased_units == 0 && world.state.jobs()[&job].accepted_units == 0 {
            prop_assert!(world.now_ms < bound_ms, "it starves");
            for _ in 0..2 {
                arrivals += 1;
                world.submit(rich(arrivals));
            }
            for worker in [1, 2] {
                let leases = world.lease(key(worker), 1);
                world.now_ms += 1_000;
                for lease in leases {
                    world.commit(lease, 0).expect("taken");
                }
            }
            for worker in [1, 2] {
                world.announce_with(key(worker), offer(1_000, 0));
            }
            world.now_ms += step_ms;
            world.announce_with(key(1), offer(1_000, 0));
            world.announce_with(key(2), offer(1_000, 0));
        }
    }
}
