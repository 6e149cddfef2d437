//! What a contradicted package costs its owner, and how an appeal gives it back.

mod rules;

use plexus_engine::{
    Account, Answer, Command, Event, OpenVerdict, Outcome, Params, Policy, ReceiptOutcome, Rejection, Verdict,
};
use protocol::{Amount, BASE_UNITS_PER_TOKEN, JobId, PublicKey, VerdictId};
use rules::{AUDIT, CLIENT, MARKET, World, key, spec, world_with};

const FIRST: VerdictId = VerdictId(1);
/// What a package of the tests costs its client, in base units.
const PRICE: u64 = 1_000_000;

fn world(workers: &[u8]) -> World {
    let mut world = world_with(Params::default(), workers);
    world.fund(CLIENT, 10);
    world.announce(MARKET);
    world
}

fn stake(world: &mut World, who: u8, tokens: u64) {
    world.fund(key(who), tokens);
    let amount = Amount(tokens * BASE_UNITS_PER_TOKEN);
    world.run(Command::Bond { account: key(who), amount }).expect("bonded");
}

fn account(world: &World, who: u8) -> Account {
    world.state.accounts().get(&key(who)).copied().unwrap_or_default()
}

fn hear(world: &mut World, worker: PublicKey) {
    let alive = Command::Heartbeat { worker, instance: "one".into(), leases: vec![] };
    if world.run(alive).is_err() {
        world.announce(worker);
    }
}

/// Two units in one package of worker 1, who lies as told. The other units keep money for third opinions in the escrow.
fn committed(world: &mut World, lie: u8) -> JobId {
    let mut two = spec(8, AUDIT);
    (two.stages[0].unit_price, two.stages[0].package_units) = (Amount(PRICE / 2), Some(2));
    let job = world.submit(two);
    hear(world, key(1));
    let lease = world.lease(key(1), 1)[0];
    assert_eq!(world.commit(lease, lie), Ok(ReceiptOutcome::Checking));
    job
}

/// The next check for a worker.
fn check(world: &mut World, worker: PublicKey, lie: u8) {
    hear(world, worker);
    let check = world.lease(worker, 1)[0];
    assert!(world.check_of(check).is_some(), "it is a check");
    world.commit(check, lie).expect("taken");
}

fn by_verifier(world: &mut World, lie: u8) {
    world.advance(2_000);
    check(world, MARKET, lie);
}

/// A lie that the market's verifier finds.
fn found_out(world: &mut World) -> JobId {
    let job = committed(world, 1);
    by_verifier(world, 0);
    job
}

/// Workers 2 and 3 agree on a lie against an honest package of worker 1.
fn outvoted(world: &mut World) -> JobId {
    let job = committed(world, 0);
    check(world, key(2), 7);
    check(world, key(3), 7);
    job
}

fn verdict(world: &World) -> &OpenVerdict {
    world.state.verdicts().values().next_back().expect("a verdict")
}

fn contest(world: &mut World, by: u8) -> Result<Answer, Rejection> {
    world.run(Command::Contest { verdict: FIRST, by: key(by) }).map(|decision| decision.answer)
}

fn outcomes(world: &World) -> Vec<Outcome> {
    let closed = world.journal.iter().filter_map(|(_, event)| match event {
        Event::VerdictClosed { outcome, .. } => Some(*outcome),
        _ => None,
    });
    closed.collect()
}

#[test]
fn a_lie_costs_half_of_the_stake_which_is_frozen_until_nobody_can_contest_it() {
    let mut world = world(&[1]);
    stake(&mut world, 1, 8);
    let job = found_out(&mut world);
    let found = verdict(&world).clone();
    assert_eq!((found.job, found.worker, found.owner), (job, key(1), key(1)));
    assert_eq!((found.cause, found.disputed), (Verdict::VerifierDisagrees, vec![0, 1]));
    assert_eq!(found.opinions.len(), 1);
    assert!(found.opinions[0].receipt.is_some() && found.opinions[0].evidence.contains("was committed"));
    let half = Amount(4 * BASE_UNITS_PER_TOKEN);
    assert_eq!((account(&world, 1).bonded, account(&world, 1).frozen), (half, half));
    let (burned, treasury) = (world.state.ledger().burned, world.state.ledger().treasury);
    assert_eq!((burned, treasury), (Amount::ZERO, Amount::ZERO), "nobody has it yet");
    let wait_ms = Params::default().appeal_ms;
    world.advance(wait_ms - 1);
    assert_eq!(account(&world, 1).frozen, half);
    world.advance(1);
    assert_eq!(account(&world, 1).frozen, Amount::ZERO);
    let quarter = Amount(2 * BASE_UNITS_PER_TOKEN);
    assert_eq!((world.state.ledger().burned, world.state.ledger().treasury), (quarter, quarter));
    assert_eq!(outcomes(&world), [Outcome::Uncontested]);
    assert_eq!(contest(&mut world, 1), Err(Rejection::VerdictFinal(FIRST)));
}

#[test]
fn a_slash_takes_stake_then_stake_on_its_way_back_then_pay_that_is_held_back() {
    let params = Params { slash_bps: 10_000, epoch_emission: 0, ..Params::default() };
    let mut world = world_with(params, &[1]);
    world.fund(CLIENT, 10);
    world.announce(MARKET);
    stake(&mut world, 1, 4);
    let amount = Amount(3 * BASE_UNITS_PER_TOKEN);
    world.run(Command::Unbond { account: key(1), amount }).expect("unbonding");
    committed(&mut world, 0);
    by_verifier(&mut world, 0);
    let pending = account(&world, 1).pending;
    assert_eq!(pending, Amount(PRICE / 10 * 9));
    found_out(&mut world);
    let slash = verdict(&world).slash.clone();
    assert_eq!(slash.bonded, Amount(BASE_UNITS_PER_TOKEN));
    assert_eq!(slash.unbonding.iter().map(|(_, amount)| amount.0).sum::<u64>(), amount.0);
    assert_eq!(slash.pending.iter().map(|(_, amount)| amount.0).sum::<u64>(), pending.0);
    let left = account(&world, 1);
    assert_eq!((left.bonded, left.unbonding, left.pending), (Amount::ZERO, Amount::ZERO, Amount::ZERO));
    assert_eq!(left.frozen, slash.total());
    // Nothing of it comes free as if nothing had happened.
    world.advance(Params::default().unbond_ms);
    assert_eq!(account(&world, 1).available, Amount::ZERO);
}

#[test]
fn a_slash_is_at_least_some_packages_worth() {
    let params = Params { slash_bps: 1, ..Params::default() };
    let mut world = world_with(params, &[1]);
    world.fund(CLIENT, 10);
    world.announce(MARKET);
    stake(&mut world, 1, 4);
    found_out(&mut world);
    assert_eq!(verdict(&world).slash.total(), Amount(10 * PRICE));
}

#[test]
fn nobody_is_slashed_on_one_opinion() {
    let mut world = world(&[1, 2, 3]);
    stake(&mut world, 1, 1);
    committed(&mut world, 0);
    check(&mut world, key(2), 7);
    assert!(world.state.verdicts().is_empty(), "one dissent brings a third opinion");
    check(&mut world, key(3), 0);
    assert!(world.state.verdicts().is_empty(), "and the third one was the accused's");
    assert_eq!(account(&world, 1).bonded, Amount(BASE_UNITS_PER_TOKEN));
    assert_eq!(account(&world, 1).pending, Amount(PRICE / 10 * 9));
}

#[test]
fn nobody_is_slashed_for_what_nobody_could_execute() {
    let mut world = world(&[1]);
    stake(&mut world, 1, 1);
    committed(&mut world, 0);
    for worker in 10..15 {
        world.announce(key(worker));
        let lease = world.lease(key(worker), 1)[0];
        let generation = world.state.leases()[&lease].generation;
        let release = plexus_engine::Release::Failed { code: "timed_out".into(), detail: "slow".into() };
        world.run(Command::Release { worker: key(worker), lease, generation, release }).expect("given back");
    }
    assert_eq!(world.state.workers()[&key(1)].rejected, 1);
    assert!(world.state.verdicts().is_empty());
    assert_eq!(account(&world, 1).frozen, Amount::ZERO);
}

#[test]
fn who_executed_other_units_has_said_nothing_wrong() {
    let mut world = world(&[1, 2, 3]);
    let job = {
        let mut three = spec(2, Policy::Quorum { agree: 3 });
        (three.stages[0].unit_price, three.stages[0].package_units) = (Amount(PRICE / 2), Some(2));
        world.submit(three)
    };
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 1).expect("taken");
    check(&mut world, key(2), 1);
    let before = world.state.provider(key(2)).suspicions;
    by_verifier(&mut world, 0);
    assert_eq!(world.state.provider(key(2)).suspicions, before + 1, "it agreed on the same units");
    assert_eq!(account(&world, 2).earned, Amount::ZERO, "and is not paid for that");
    assert_eq!(world.state.jobs()[&job].verification.rejected, 2);
}

#[test]
fn a_verdict_is_contested_once_by_its_owner_in_time_and_with_a_deposit() {
    let mut world = world(&[1]);
    stake(&mut world, 1, 8);
    assert_eq!(contest(&mut world, 1), Err(Rejection::VerdictUnknown(FIRST)));
    found_out(&mut world);
    assert_eq!(contest(&mut world, 2), Err(Rejection::VerdictForeign(FIRST)));
    let needed = Params::default().appeal_deposit;
    let short = Rejection::DepositTooLow { needed: Amount(needed), available: Amount::ZERO };
    assert_eq!(contest(&mut world, 1), Err(short));
    world.fund(key(1), 1);
    assert_eq!(contest(&mut world, 1), Ok(Answer::Done));
    assert_eq!(contest(&mut world, 1), Err(Rejection::ContestedBefore(FIRST)));
    assert_eq!(account(&world, 1).available, Amount(BASE_UNITS_PER_TOKEN - needed));
    assert_eq!(account(&world, 1).frozen, Amount(4 * BASE_UNITS_PER_TOKEN + needed));
}

#[test]
fn an_appeal_of_a_liar_costs_the_deposit() {
    let mut world = world(&[1, 2, 3]);
    stake(&mut world, 1, 8);
    world.fund(key(1), 1);
    let job = committed(&mut world, 7);
    check(&mut world, key(2), 0);
    check(&mut world, key(3), 0);
    assert_eq!(verdict(&world).cause, Verdict::Outvoted);
    world.run(Command::Cancel { job, by: CLIENT }).expect("an ended job keeps nobody from being examined");
    contest(&mut world, 1).expect("contested");
    hear(&mut world, key(2));
    assert_eq!(world.lease(key(2), 1), [], "who accused does not judge");
    check(&mut world, MARKET, 0);
    assert_eq!(outcomes(&world), [Outcome::Upheld]);
    assert!(world.state.checks().is_empty() && world.state.leases().is_empty());
    let lost = 4 * BASE_UNITS_PER_TOKEN + Params::default().appeal_deposit;
    assert_eq!(world.state.ledger().burned.0 + world.state.ledger().treasury.0, lost + 2 * PRICE / 10);
    assert_eq!(account(&world, 1).frozen, Amount::ZERO);
}

#[test]
fn an_honest_worker_that_was_outvoted_gets_everything_back_from_those_who_lied() {
    let mut world = world(&[1, 2, 3]);
    for who in [1, 2, 3] {
        stake(&mut world, who, 8);
    }
    world.fund(key(1), 1);
    committed(&mut world, 0);
    by_verifier(&mut world, 0);
    let (before, record) = (account(&world, 1), world.state.provider(key(1)));
    assert_eq!(world.state.streak(key(1)), 1);
    outvoted(&mut world);
    assert_eq!((world.state.streak(key(1)), world.state.provider(key(1)).streak), (0, 0));
    assert!(account(&world, 1).bonded < before.bonded);
    contest(&mut world, 1).expect("contested");
    check(&mut world, MARKET, 0);
    assert_eq!(outcomes(&world), [Outcome::Overturned]);
    let after = account(&world, 1);
    assert_eq!(
        (after.available, after.bonded, after.frozen),
        (before.available, before.bonded, Amount::ZERO)
    );
    assert_eq!(after.pending.0, before.pending.0 + PRICE / 10 * 9, "it is paid for the package");
    let liars = account(&world, 2).bonded.0 + account(&world, 3).bonded.0;
    assert_eq!(liars, 16 * BASE_UNITS_PER_TOKEN - PRICE / 10 * 9, "by those who lied");
    let restored = world.state.provider(key(1));
    assert_eq!((restored.streak, restored.reliability_milli), (record.streak, record.reliability_milli));
    assert_eq!((world.state.streak(key(1)), world.state.workers()[&key(1)].rejected), (1, 0));
    for liar in [2, 3] {
        assert_eq!(world.state.provider(key(liar)).suspicions, 1);
    }
}

#[test]
fn strangers_examine_what_the_verifier_found_and_the_treasury_pays_no_more_than_it_got() {
    let mut world = world(&[1, 4, 5]);
    stake(&mut world, 1, 8);
    world.fund(key(1), 1);
    let job = committed(&mut world, 0);
    by_verifier(&mut world, 9);
    assert_eq!(verdict(&world).cause, Verdict::VerifierDisagrees);
    contest(&mut world, 1).expect("contested");
    world.advance(2_000);
    hear(&mut world, MARKET);
    assert_eq!(world.lease(MARKET, 1), [], "the verifier does not judge itself while others may come");
    check(&mut world, key(4), 0);
    assert_eq!(outcomes(&world), [], "one owner alone overturns nothing");
    check(&mut world, key(5), 0);
    assert_eq!(outcomes(&world), [Outcome::Overturned]);
    assert_eq!(account(&world, 1).bonded, Amount(8 * BASE_UNITS_PER_TOKEN));
    for who in [4, 5] {
        assert_eq!(account(&world, who).earned, Amount(PRICE / 10 * 9), "examining is paid");
    }
    assert_eq!(world.state.jobs()[&job].money.treasury, Amount::ZERO, "the job has paid nothing so far");
    assert_eq!(
        account(&world, 1).earned,
        Amount::ZERO,
        "so there is nothing that the package could be paid from"
    );
    let spent = 2 * PRICE;
    let left = BASE_UNITS_PER_TOKEN - spent;
    assert_eq!(account(&world, 1).available, Amount(left), "and the executions are paid from the deposit");
}

#[test]
fn one_stranger_who_finds_the_same_upholds() {
    let mut world = world(&[1, 4]);
    stake(&mut world, 1, 8);
    world.fund(key(1), 1);
    found_out(&mut world);
    contest(&mut world, 1).expect("contested");
    check(&mut world, key(4), 0);
    assert_eq!(outcomes(&world), [Outcome::Upheld]);
    assert_eq!(account(&world, 4).earned, Amount(PRICE / 10 * 9));
    assert_eq!(account(&world, 1).available, Amount(BASE_UNITS_PER_TOKEN - Params::default().appeal_deposit));
}

#[test]
fn an_appeal_that_nobody_can_examine_leaves_the_verdict_and_returns_the_deposit() {
    let mut world = world(&[1]);
    stake(&mut world, 1, 8);
    world.fund(key(1), 1);
    found_out(&mut world);
    contest(&mut world, 1).expect("contested");
    let wait_ms = Params::default().appeal_ms;
    world.advance(wait_ms);
    assert_eq!(outcomes(&world), [Outcome::Unexamined]);
    let after = account(&world, 1);
    assert_eq!((after.available, after.frozen), (Amount(BASE_UNITS_PER_TOKEN), Amount::ZERO));
    assert_eq!(after.bonded, Amount(4 * BASE_UNITS_PER_TOKEN));
    assert!(world.state.checks().is_empty());
}

#[test]
fn the_verifier_looks_again_itself_when_nobody_else_came() {
    let mut world = world(&[1]);
    stake(&mut world, 1, 8);
    world.fund(key(1), 1);
    committed(&mut world, 0);
    by_verifier(&mut world, 9);
    contest(&mut world, 1).expect("contested");
    let half_ms = Params::default().appeal_ms / 2;
    world.advance(half_ms);
    check(&mut world, MARKET, 0);
    assert_eq!(outcomes(&world), [Outcome::Overturned], "it was its own mistake");
    assert_eq!(account(&world, 1).bonded, Amount(8 * BASE_UNITS_PER_TOKEN));
}

#[test]
fn a_suspicion_since_is_not_forgiven_with_another_verdict() {
    let mut world = world(&[1, 2, 3]);
    stake(&mut world, 1, 8);
    world.fund(key(1), 1);
    outvoted(&mut world);
    found_out(&mut world);
    contest(&mut world, 1).expect("contested");
    world.advance(2_000);
    check(&mut world, MARKET, 0);
    assert_eq!(outcomes(&world), [Outcome::Overturned]);
    assert_eq!(world.state.provider(key(1)).streak, 0);
    assert_eq!(world.state.verdicts().len(), 1, "the other one stands");
}
