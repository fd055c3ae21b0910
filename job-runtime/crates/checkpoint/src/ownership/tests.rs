//! What the fold of the control topic and the decisions over it promise. Every order of events is explored in `tests/model.rs`.

use proptest::prelude::*;

use super::record::{ControlError, ControlRecord, Release};
use super::*;
use crate::assignment::{self, PodShare};

const A: u16 = 0;
const B: u16 = 1;
const C: u16 = 2;

/// An assignment that names the owner of each shard.
fn assign(number: u64, owners: &[u16]) -> ControlRecord {
    let mine =
        |pod: u16| (0u16..).zip(owners).filter(move |(_, owner)| **owner == pod).map(|(s, _)| s..s + 1).collect();
    let share = |ordinal| PodShare { ordinal, shards: mine(ordinal), sources: Vec::new() };
    ControlRecord::Assignment(Assignment { number, shards: owners.len() as u16, pods: [A, B, C].map(share).into() })
}

fn release(number: u64, pod: u16, shards: &[u16]) -> ControlRecord {
    ControlRecord::Release(Release { number, pod, shards: shards.into() })
}

fn view(records: &[ControlRecord]) -> View {
    let mut view = View::default();
    for record in records {
        view.append(record);
    }
    view
}

fn running(ordinal: u16, held: &[u16]) -> Process {
    let mut process = Process::new(ordinal);
    process.initialised();
    process.caught_up();
    held.iter().for_each(|shard| process.restored(*shard));
    process
}

#[test]
fn a_process_gets_its_epoch_before_it_reads_what_it_owns() {
    let view = view(&[assign(1, &[A])]);
    let mut process = Process::new(A);
    assert_eq!(process.steps(&view), [Step::InitTransactions]);
    process.initialised();
    assert_eq!(process.steps(&view), [Step::ReadControlLog]);
    assert!(!process.may_write(&view, 0));
    process.caught_up();
    assert_eq!(process.steps(&view), [Step::Restore { shard: 0 }]);
    process.restored(0);
    assert_eq!(process.steps(&view), []);
    assert!(process.may_write(&view, 0));
}

#[test]
fn a_gainer_settles_every_earlier_owner_and_not_only_the_last() {
    let moves = [assign(1, &[A]), assign(2, &[B]), assign(3, &[C])];
    let mut process = running(C, &[]);
    assert_eq!(process.steps(&view(&moves)), [Step::Settle { shard: 0, owners: vec![A, B] }]);
    process.fenced(B, 3);
    assert_eq!(process.steps(&view(&moves)), [Step::Settle { shard: 0, owners: vec![A] }]);
    let mut released = view(&moves);
    assert_eq!(released.append(&release(2, A, &[0])), Effect::InForce);
    assert_eq!(process.steps(&released), [Step::Restore { shard: 0 }]);
    assert_eq!(running(A, &[]).steps(&released), [], "released, and never held");
}

#[test]
fn a_fence_or_a_release_says_nothing_of_a_later_loss() {
    let mut again = view(&[assign(1, &[A]), assign(2, &[B]), assign(3, &[A]), assign(4, &[B])]);
    let mut process = running(B, &[]);
    process.fenced(A, 2);
    let settle = [Step::Settle { shard: 0, owners: vec![A] }];
    assert_eq!(process.steps(&again), settle);
    assert_eq!(again.append(&release(2, A, &[0])), Effect::Void, "it came late");
    assert_eq!(process.steps(&again), settle);
    process.fenced(A, 4);
    assert_eq!(process.steps(&again), [Step::Restore { shard: 0 }]);
}

#[test]
fn a_loser_proves_itself_then_ends_its_transaction_then_releases() {
    let lost = view(&[assign(1, &[A, A, A]), assign(2, &[A, B, B])]);
    let mut process = running(A, &[0, 1, 2]);
    process.proven(1);
    process.in_transaction(true);
    assert_eq!(process.steps(&lost), [Step::Prove], "what was proved before the loss was read proves nothing");
    assert!(process.may_write(&lost, 0), "what stays goes on");
    assert!(!process.may_write(&lost, 1));
    process.proven(2);
    assert_eq!(process.steps(&lost), [Step::EndTransaction]);
    process.in_transaction(false);
    let expected = Release { number: 2, pod: A, shards: vec![1, 2] };
    assert_eq!(process.steps(&lost), [Step::Release(expected)]);
    process.let_go(&[1, 2]);
    let mut lost = lost;
    assert_eq!(
        process.steps(&lost),
        [Step::Release(Release { number: 2, pod: A, shards: vec![1, 2] })],
        "not there yet"
    );
    assert_eq!(lost.append(&release(2, A, &[1, 2])), Effect::InForce);
    assert_eq!(process.steps(&lost), []);
}

#[test]
fn a_process_releases_what_one_before_it_lost_and_only_then_settles() {
    // A and B have lost a shard to each other, and both were killed.
    let mut swapped = view(&[assign(1, &[A, B]), assign(2, &[B, A])]);
    let mut process = running(A, &[]);
    assert_eq!(process.steps(&swapped), [Step::Prove], "its fence may be older than the loss");
    process.proven(2);
    let released = Release { number: 2, pod: A, shards: vec![0] };
    assert_eq!(process.steps(&swapped), [Step::Release(released)]);
    assert_eq!(swapped.append(&release(2, A, &[0])), Effect::InForce);
    assert_eq!(process.steps(&swapped), [Step::Settle { shard: 1, owners: vec![B] }]);
    let mut other = running(B, &[]);
    other.proven(2);
    let released = Step::Release(Release { number: 2, pod: B, shards: vec![1] });
    assert_eq!(other.steps(&swapped), [Step::Restore { shard: 0 }, released]);
    assert_eq!(swapped.append(&release(2, B, &[1])), Effect::InForce);
    assert_eq!(other.steps(&swapped), [Step::Restore { shard: 0 }], "nobody has to be fenced");
    assert_eq!(process.steps(&swapped), [Step::Restore { shard: 1 }]);
}

#[test]
fn what_is_gained_without_anybody_to_settle_is_restored_while_a_release_is_on_its_way() {
    let lost = view(&[assign(1, &[A, A]), assign(2, &[A, B])]);
    assert_eq!(running(A, &[]).steps(&lost), [Step::Restore { shard: 0 }, Step::Prove]);
}

#[test]
fn a_shard_that_is_lost_and_regained_before_it_was_noticed_is_kept() {
    let back = view(&[assign(1, &[A]), assign(2, &[B]), assign(3, &[A])]);
    let process = running(A, &[0]);
    assert_eq!(process.steps(&back), []);
    assert!(process.may_write(&back, 0));
    let new = running(A, &[]);
    assert_eq!(new.steps(&back), [Step::Settle { shard: 0, owners: vec![B] }]);
}

#[test]
fn records_that_do_not_count_change_nothing() {
    let mut view = view(&[assign(1, &[A, A]), assign(2, &[A, B])]);
    let before = view.clone();
    for record in [
        assign(2, &[C, C]),
        assign(1, &[C, C]),
        assign(4, &[C, C]),
        assign(3, &[C, C, C]),
        release(9, C, &[0]),
        release(1, A, &[1]),
        release(9, A, &[7]),
    ] {
        assert_eq!(view.append(&record), Effect::Void, "{record:?}");
        assert_eq!(view, before);
    }
}

#[test]
fn a_damaged_foreign_or_newer_record_is_refused() {
    let record = release(3, B, &[1, 5]);
    let bytes = record.encode(7);
    assert_eq!(ControlRecord::decode(8, &bytes), Err(ControlError::Foreign));
    for at in 1..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(ControlRecord::decode(7, &damaged), Err(ControlError::Damaged), "byte {at}");
        assert_eq!(ControlRecord::decode(7, &bytes[..at]), Err(ControlError::Damaged), "cut at {at}");
    }
    assert_eq!(ControlRecord::decode(7, &[&[8], &bytes[1..]].concat()), Err(ControlError::Kind(8)));
    assert_eq!(ControlRecord::decode(7, &[]), Err(ControlError::Damaged));
}

#[test]
fn the_layout_of_a_drain_stays_as_it_is() {
    let bytes = ControlRecord::Drain.encode(0x0807_0605_0403_0201);
    let fixed = [5, 1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!((&bytes[..9], &bytes[9..]), (&fixed[..], &crc32fast::hash(&fixed).to_le_bytes()[..]));
    assert_eq!(ControlRecord::decode(0x0807_0605_0403_0201, &bytes), Ok(ControlRecord::Drain));
    assert_eq!(ControlRecord::decode(8, &bytes), Err(ControlError::Foreign));
    for at in 0..bytes.len() {
        assert_eq!(ControlRecord::decode(8, &bytes[..at]), Err(ControlError::Damaged), "cut at {at}");
    }
}

#[test]
fn the_layout_of_a_release_stays_as_it_is() {
    let bytes = release(3, 1, &[2, 0x105]).encode(0x0807_0605_0403_0201);
    let fixed = [2, 1, 2, 3, 4, 5, 6, 7, 8, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 2, 0, 5, 1];
    assert_eq!(bytes[..25], fixed);
    assert_eq!(bytes[25..], crc32fast::hash(&fixed).to_le_bytes());
}

proptest! {
    #[test]
    fn a_control_record_comes_back(number: u64, pod: u16, shards: Vec<u16>, owners in proptest::collection::vec(0u16..3, 1..20)) {
        for record in [release(number, pod, &shards), assign(number, &owners)] {
            prop_assert_eq!(ControlRecord::decode(7, &record.encode(7)), Ok(record));
        }
    }

    #[test]
    fn the_view_has_in_force_what_the_assignments_alone_have(numbers in proptest::collection::vec((1u64..6, 0u16..3), 0..12)) {
        let records: Vec<_> = numbers.iter().map(|(number, owner)| assign(*number, &[*owner])).collect();
        let alone = records.iter().filter_map(|record| match record {
            ControlRecord::Assignment(assignment) => Some(assignment.clone()),
            ControlRecord::Release(_)
            | ControlRecord::Proposal(_)
            | ControlRecord::Ready(_)
            | ControlRecord::Savepoint(_)
            | ControlRecord::Origin(_)
            | ControlRecord::Drain => None,
        });
        prop_assert_eq!(view(&records).in_force().cloned(), assignment::in_force(alone));
    }
}
