//! How a record is earned and lost, and how pay is held back meanwhile.

mod rules;

use plexus_engine::{Command, Event, PPM, Params, Policy, ReceiptOutcome, economic_floor_ppm};
use proptest::prelude::*;
use protocol::{Amount, LeaseId, PublicKey};
use rules::{AUDIT, CLIENT, MARKET, World, key, spec, world, world_with};

/// Sixteen tokens, so that work is worth little against them.
const STAKE: u64 = 16;

/// One unit a package, from first execution to the verdict. Answers whether it was drawn for a check.
fn package(world: &mut World, worker: PublicKey, lie: u8) -> bool {
    hear(world, worker);
    let mut one = spec(1, AUDIT);
    one.stages[0].unit_price = Amount(1);
    let job = world.submit(one);
    let lease = first_execution(world, worker);
    let checked = world.commit(lease, lie).expect("taken") == ReceiptOutcome::Checking;
    if checked {
        world.advance(2_500);
        hear(world, MARKET);
        let check = world.lease(MARKET, 1)[0];
        world.commit(check, 0).expect("taken");
    }
    if lie > 0 && checked {
        world.run(Command::Cancel { job, by: CLIENT }).expect("its unit waits again");
    }
    checked
}

fn hear(world: &mut World, worker: PublicKey) {
    let alive = Command::Heartbeat { worker, instance: "one".into(), leases: vec![] };
    if world.run(alive).is_err() {
        world.announce(worker);
    }
}

fn first_execution(world: &mut World, worker: PublicKey) -> LeaseId {
    let leases = world.lease(worker, 1);
    *leases.first().expect("there is a unit to be run")
}

/// Honest packages until the worker has so many in a row.
fn earn(world: &mut World, worker: PublicKey, packages: u32) {
    for _ in 0..packages {
        package(world, worker, 0);
    }
}

fn staked(workers: &[u8]) -> World {
    let mut world = world(&[]);
    world.fund(CLIENT, 1_000);
    world.announce(MARKET);
    for worker in workers {
        world.fund(key(*worker), STAKE);
        let amount = Amount(STAKE * protocol::BASE_UNITS_PER_TOKEN);
        world.run(Command::Bond { account: key(*worker), amount }).expect("bonded");
        world.announce(key(*worker));
    }
    world
}

fn delegate(world: &mut World, wallet: PublicKey, session: PublicKey) {
    let expires_at_ms = world.now_ms + 1_000_000_000;
    world.run(Command::DelegateSession { wallet, session, expires_at_ms }).expect("a fresh key");
    world.announce(session);
}

fn rate(world: &World, worker: PublicKey) -> u32 {
    world.state.audit_terms(worker, Amount(1), 1).rate_ppm(0)
}

#[test]
fn a_new_owner_is_checked_always_and_then_one_time_in_as_many_as_held() {
    let mut world = staked(&[1]);
    for n in 0..10 {
        assert_eq!(rate(&world, key(1)), PPM as u32, "after {n} packages");
        assert!(package(&mut world, key(1), 0), "every unit is drawn");
    }
    assert_eq!(rate(&world, key(1)), 100_000);
    earn(&mut world, key(1), 10);
    assert_eq!(rate(&world, key(1)), 50_000);
    let terms = world.state.audit_terms(key(1), Amount(1), 1);
    assert_eq!((terms.worker_streak, terms.owner_streak), (20, 20));
    assert_eq!(terms.rate_ppm(300_000), 300_000, "the job may want more");
}

#[test]
fn a_further_key_begins_its_own_row_and_a_suspicion_begins_all_of_them_anew() {
    let mut world = staked(&[1]);
    earn(&mut world, key(1), 12);
    delegate(&mut world, key(1), key(101));
    assert_eq!(rate(&world, key(101)), PPM as u32, "a new key is checked always");
    earn(&mut world, key(101), 11);
    assert_eq!(rate(&world, key(101)), PPM as u32 / 11, "the owner has 23, the worker 11");
    assert_eq!(rate(&world, key(1)), PPM as u32 / 12);
    while !package(&mut world, key(101), 1) {}
    for worker in [key(1), key(101)] {
        assert_eq!(rate(&world, worker), PPM as u32);
        assert_eq!(world.state.streak(worker), 0);
    }
    earn(&mut world, key(1), 9);
    assert_eq!((rate(&world, key(1)), world.state.provider(key(1)).streak), (PPM as u32, 9));
    earn(&mut world, key(1), 1);
    assert_eq!((rate(&world, key(1)), rate(&world, key(101))), (100_000, PPM as u32));
}

#[test]
fn a_record_does_not_go_along_with_a_key() {
    let mut world = staked(&[1, 2]);
    earn(&mut world, key(2), 10);
    delegate(&mut world, key(1), key(101));
    earn(&mut world, key(101), 12);
    // The session ends, and another wallet that has a record takes the key over.
    world.advance(1_000_000_001);
    world.announce(key(1));
    let other =
        Command::DelegateSession { wallet: key(2), session: key(101), expires_at_ms: world.now_ms + 1 };
    assert!(world.run(other).is_err(), "a key stays with its wallet");
    assert_eq!(world.state.streak(key(101)), 12, "and so does its record");
}

#[test]
fn who_has_nothing_to_lose_is_checked_always() {
    let mut world = world(&[1]);
    world.announce(MARKET);
    earn(&mut world, key(1), 30);
    let terms = world.state.audit_terms(key(1), Amount(1), 1);
    assert_eq!((terms.record_ppm, terms.economic_ppm), (PPM as u32 / 30, PPM as u32));
    // Pay that is held back is something to lose.
    let mut world = world_with(Params::default(), &[1]);
    world.announce(MARKET);
    earn(&mut world, key(1), 40);
    let terms = world.state.audit_terms(key(1), Amount(1), 1);
    assert_eq!(world.state.at_risk(key(1)), Amount(40));
    assert_eq!((terms.loss, terms.economic_ppm), (Amount(20), 47_620), "half of 40; 1/21, rounded up");
}

#[test]
fn a_checker_who_is_outvoted_begins_anew() {
    let mut world = staked(&[1, 2]);
    earn(&mut world, key(2), 12);
    let mut one = spec(1, AUDIT);
    one.stages[0].unit_price = Amount(1);
    world.submit(one);
    hear(&mut world, key(1));
    hear(&mut world, key(2));
    let lease = first_execution(&mut world, key(1));
    world.commit(lease, 0).expect("taken");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 1).expect("taken");
    let before = world.state.provider(key(2)).reliability_milli;
    world.advance(2_500);
    hear(&mut world, MARKET);
    let third = world.lease(MARKET, 1)[0];
    assert_eq!(world.commit(third, 0), Ok(ReceiptOutcome::Checking));
    assert_eq!(world.state.streak(key(2)), 0);
    assert!(world.state.provider(key(2)).reliability_milli < before);
    assert_eq!(world.state.accounts()[&key(2)].earned, Amount(12), "a wrong opinion is not paid");
    assert_eq!(world.state.streak(key(1)), 1, "and the package stands");
}

#[test]
fn nobody_is_blamed_for_what_nobody_could_check() {
    let mut world = staked(&[1, 2, 3]);
    let mut three = spec(1, Policy::Quorum { agree: 3 });
    three.stages[0].unit_price = Amount(1);
    world.submit(three);
    hear(&mut world, key(1));
    hear(&mut world, key(2));
    let lease = first_execution(&mut world, key(1));
    world.commit(lease, 0).expect("taken");
    let agrees = world.lease(key(2), 1)[0];
    world.commit(agrees, 0).expect("taken");
    let before = world.state.provider(key(2));
    for n in 0..5 {
        world.announce(key(50 + n));
        let fails = world.lease(key(50 + n), 1)[0];
        let generation = world.state.leases()[&fails].generation;
        let release = plexus_engine::Release::Failed { code: "timed_out".into(), detail: "slow".into() };
        world
            .run(Command::Release { worker: key(50 + n), lease: fails, generation, release })
            .expect("given back");
    }
    assert_eq!(world.state.workers()[&key(1)].rejected, 1);
    assert_eq!(world.state.provider(key(2)), before, "who made a check that nobody contradicted");
}

#[test]
fn pay_is_held_back_and_released_in_few_buckets() {
    let mut world = world_with(Params::default(), &[1, 2]);
    let job = world.submit(spec(6, AUDIT));
    world.finish(&[key(1), key(2)]);
    let account = world.state.accounts()[&key(1)];
    assert_eq!((account.available, account.pending), (Amount::ZERO, account.earned));
    assert!(account.earned > Amount::ZERO);
    let releases = world.state.pending_of(key(1));
    assert_eq!(releases.len(), 1, "what is free at about the same time is one sum");
    let (free_at_ms, amount) = releases[0];
    assert_eq!(amount, account.earned);
    let ended = world.state.jobs()[&job].ended_at_ms.expect("it ended");
    let held = Params::default().appeal_ms;
    assert!((ended + held..=ended + held + held / 8).contains(&free_at_ms), "{free_at_ms}");
    let not_yet = world.run(Command::Bond { account: key(1), amount });
    assert!(not_yet.is_err(), "what is held back cannot be staked");
    let wait_ms = free_at_ms - world.now_ms;
    world.advance(wait_ms - 1);
    assert_eq!(world.state.accounts()[&key(1)].available, Amount::ZERO);
    assert!(world.state.next_deadline_ms(world.now_ms).is_some_and(|at| at <= free_at_ms));
    let before = world.journal.len();
    world.advance(1);
    let released = world.journal[before..]
        .iter()
        .filter(|(_, event)| matches!(event, Event::PayReleased { account, .. } if *account == key(1)));
    assert_eq!(released.count(), 1);
    assert_eq!(world.state.accounts()[&key(1)].available, account.earned);
    assert_eq!(world.state.accounts()[&key(1)].pending, Amount::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever was computed, staked or lied about: the rate is never below any of the floors, and 1 without a record.
    #[test]
    fn the_audit_rate_is_never_below_the_floor(
        history in prop::collection::vec((prop::sample::select(vec![1u8, 101]), 0u8..20), 1..60),
        price in 1u64..1_000_000,
        stake in 0u64..1_000_000_000,
        rate_min in 0u32..1_000_000,
    ) {
        let mut world = staked(&[]);
        world.announce(key(1));
        delegate(&mut world, key(1), key(101));
        if stake > 0 {
            world.fund(key(1), 1);
            world.run(Command::Bond { account: key(1), amount: Amount(stake) }).expect("bonded");
        }
        for (worker, lie) in history {
            package(&mut world, key(worker), u8::from(lie == 0));
        }
        for worker in [key(1), key(101)] {
            let terms = world.state.audit_terms(worker, Amount(price), 1);
            let rate = terms.rate_ppm(rate_min);
            let loss = world.state.slash_of(key(1), Amount(price));
            prop_assert!(rate >= world.state.params().audit_rate_floor_ppm.max(rate_min));
            prop_assert!(rate >= economic_floor_ppm(Amount(price), loss));
            let unseen = PPM - u64::from(rate);
            prop_assert!(rate == PPM as u32 || u128::from(unseen) * u128::from(price) < u128::from(rate) * u128::from(loss.0));
            let streak = terms.worker_streak.min(terms.owner_streak);
            let by_record = if streak < 10 { PPM as u32 } else { PPM as u32 / streak };
            prop_assert!(rate >= by_record);
        }
    }
}
