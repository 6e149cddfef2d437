//! What the rules promise about devices: checkpoints, yielding, several devices at once.

mod rules;

use plexus_engine::{Answer, Command, JobState, Params, Rejection};
use rules::{AUDIT, CLIENT, World, key, spec};

fn world(workers: &[u8]) -> World {
    let mut world = World::new(Params::default());
    world.fund(CLIENT, 1);
    for worker in workers {
        world.announce(key(*worker));
    }
    world
}

#[test]
fn what_a_checkpoint_committed_is_never_run_again() {
    let mut world = world(&[1, 2]);
    let mut large = spec(10, AUDIT);
    large.stages[0].package_units = Some(10);
    let job = world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (first, units) = world.receipt_of_first(lease, 4, 0);
    let rest = world.checkpoint(lease, 4).expect("six units are left");
    // The same receipt again, because its answer was lost: the same answer, and nothing is split twice.
    let again = Command::Commit {
        receipt: first.into(),
        signature: protocol::Signature([0; 64]),
        units,
        seed: protocol::Hash([0; 32]),
    };
    let events = world.run(again).expect("the first answer again");
    assert!(matches!(events.answer, Answer::Receipt { rest: Some(same), .. } if same == rest));
    assert_eq!(events.events, []);
    let rest = world.checkpoint(rest, 1).expect("five units are left");
    assert_eq!(world.state.workers()[&key(1)].leases.iter().collect::<Vec<_>>(), [&rest]);
    assert_eq!(world.state.jobs()[&job].leased_units, 5);
    // The worker dies. The next one computes the other five only.
    world.advance(40_000);
    world.announce(key(3));
    let units: Vec<u64> = {
        let lease =
            world.lease(key(3), 9).into_iter().find(|id| world.check_of(*id).is_none()).expect("five wait");
        let lease = &world.state.leases()[&lease];
        world.state.lease_units(lease).into_iter().flat_map(|run| run.units()).collect()
    };
    assert_eq!(units, [5, 6, 7, 8, 9]);
    world.announce(key(2));
    world.announce(key(4));
    world.finish(&[key(2), key(3), key(4)]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    let runs: Vec<_> =
        world.state.jobs()[&job].accepted.iter().map(|(first, run)| (*first, run.count)).collect();
    assert_eq!(runs, [(0, 4), (4, 1), (5, 5)]);
    assert_eq!(
        world.state.jobs()[&job].workers[&key(1)].units,
        5,
        "and the first worker is paid for its five"
    );
}

#[test]
fn only_the_first_units_of_an_active_package_are_a_checkpoint() {
    let mut world = world(&[1, 2]);
    let mut large = spec(4, AUDIT);
    large.stages[0].package_units = Some(4);
    world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (mut receipt, mut units) = world.receipt(lease, 0);
    (receipt.units, units) = (2, units.split_off(2));
    let others = world.commit_receipt(receipt, units);
    assert!(matches!(others, Err(Rejection::ReceiptInvalid(_))), "the last units: {others:?}");
    let (mut receipt, _) = world.receipt(lease, 0);
    receipt.units = 0;
    let none = world.commit_receipt(receipt, vec![]);
    assert!(matches!(none, Err(Rejection::ReceiptInvalid(_))), "no units: {none:?}");
    world.commit(lease, 0).expect("all units are taken");
    // A check is made as a whole.
    let check = world.lease(key(2), 1)[0];
    let (receipt, units) = world.receipt_of_first(check, 1, 0);
    assert!(matches!(world.commit_receipt(receipt, units), Err(Rejection::ReceiptInvalid(_))));
    world.commit(check, 0).expect("the whole check is taken");
    // A late receipt is for all units or none.
    let mut large = spec(4, AUDIT);
    large.stages[0].package_units = Some(4);
    world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (part, part_units) = world.receipt_of_first(lease, 1, 0);
    let (whole, whole_units) = world.receipt(lease, 0);
    world.advance(40_000);
    assert!(matches!(world.commit_receipt(part, part_units), Err(Rejection::ReceiptInvalid(_))));
    world.commit_receipt(whole, whole_units).expect("late, and its units are untouched");
}
