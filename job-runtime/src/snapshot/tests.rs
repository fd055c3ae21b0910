//! Promises of snapshots, on the directory store: whatever call fails or object is damaged, a restore has exactly what the log says.
//!
//! The tests here play the commits themselves; whole jobs are in `tests/cli`.

mod crashes;
mod damage;
mod rig;
mod savepoints;

use std::collections::BTreeSet;
use std::time::Duration;

use checkpoint::snapshot::ObjectId;
use checkpoint::snapshot::retention::Retention;

use super::retain::Keeper;
use super::store::{Listing, ObjectStore};
use super::{SnapshotError, restore, start};
use rig::{Kind, Rig};

#[test]
fn a_lost_directory_comes_back_with_both_logs() {
    for kind in [Kind::Kafka, Kind::Local] {
        let mut rig = Rig::new(kind);
        rig.commits(20);
        let taken = rig.take().unwrap().unwrap();
        assert_eq!(taken.manifest.number, 1);
        rig.commits(5);
        let restored = rig.lose_and_restart();
        assert_eq!(restored.shards.len(), usize::from(rig::SHARDS), "{kind:?}");
        // Kafka still has the commits behind the snapshot; the local log went with the directory.
        let expected = match kind {
            Kind::Kafka => 25,
            Kind::Local => 20,
        };
        rig.check_state(expected);
        rig.commits(3);
        rig.restart();
        rig.check_state(expected + 3);
    }
}

#[test]
fn local_state_that_is_right_costs_no_download() {
    for kind in [Kind::Kafka, Kind::Local] {
        let mut rig = Rig::new(kind);
        rig.commits(10);
        rig.take().unwrap();
        rig.commits(10);
        assert_eq!(rig.restart(), start::Restored::default());
        rig.check_state(20);
    }
}

#[test]
fn only_what_is_new_is_uploaded_and_nothing_if_nothing_is() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(40);
    let first = rig.take().unwrap().unwrap();
    assert_eq!(rig.take().unwrap(), None, "nothing was committed");
    rig.one_shard_commit(2);
    let second = rig.take().unwrap().unwrap();
    assert!(second.uploaded * 4 < first.uploaded, "{} bytes, then {}", first.uploaded, second.uploaded);
    let same = first.manifest.entries.iter().filter(|entry| second.manifest.entries.contains(entry)).count();
    assert_eq!(same, usize::from(rig::SHARDS) - 1, "the other shards' manifests are used again");
    // A new process finds the files of the one before it.
    rig.restart();
    rig.one_shard_commit(2);
    let third = rig.take().unwrap().unwrap();
    assert_eq!(third.manifest.number, 3);
    assert!(third.uploaded * 4 < first.uploaded, "{} bytes, then {}", first.uploaded, third.uploaded);
    rig.lose_and_restart();
    rig.check_state(42);
}

#[test]
fn a_snapshot_taken_while_commits_go_on_is_a_whole_one() {
    for kind in [Kind::Kafka, Kind::Local] {
        let mut rig = Rig::new(kind);
        rig.commits(20);
        let last = rig.take_while_committing(60);
        assert!(last >= 20);
        let restored = rig.lose_and_restart();
        assert!(!restored.shards.is_empty());
        match kind {
            Kind::Kafka => rig.check_state(rig.end()),
            Kind::Local => rig.check_state(rig.log_end()),
        }
    }
}

#[test]
fn retention_removes_the_oldest_and_every_one_left_can_be_restored() {
    let mut rig = Rig::new(Kind::Kafka);
    for _ in 0..5 {
        rig.commits(6);
        rig.take().unwrap();
    }
    let retention = Retention { count: 2, age_ms: u64::MAX };
    let mut keeper = Keeper::new(retention, Duration::ZERO);
    std::thread::sleep(Duration::from_millis(5));
    let kept = keeper.run(rig.store.as_ref(), rig::UID).unwrap();
    assert_eq!(kept.checkpoints, 2);
    assert_eq!(restore::numbers(rig.store.as_ref(), 0).unwrap(), [4, 5]);
    rig.check_all_restorable();
    // The older of the two stands behind commit 24, of which two thirds touched each shard.
    assert!(kept.trimmable.values().all(|offset| offset.0 == 15) && kept.trimmable.len() == 3, "{kept:?}");
    assert_eq!(keeper.run(rig.store.as_ref(), rig::UID).unwrap().removed, 0, "nothing is left to remove");
    // The trimmed changelog and any snapshot kept have everything.
    rig.trim(&kept.trimmable);
    rig.store.delete(&ObjectId::Checkpoint { pod: 0, number: 5 }).unwrap();
    rig.lose_and_restart();
    rig.check_state(30);
}

#[test]
fn objects_of_an_unfinished_snapshot_go_after_a_while_and_not_before() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(6);
    rig.take().unwrap();
    let before: BTreeSet<_> = rig.objects();
    rig.commits(6);
    rig.fail_from(3);
    rig.take().unwrap_err();
    rig.heal();
    let orphans = rig.objects().difference(&before).count();
    assert!(orphans > 0);
    let retention = Retention { count: 9, age_ms: u64::MAX };
    let removed = |grace| Keeper::new(retention, grace).run(rig.store.as_ref(), rig::UID).unwrap().removed;
    assert_eq!(removed(Duration::from_secs(60)), 0, "they may be under way");
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(removed(Duration::ZERO), orphans as u64);
    assert_eq!(rig.objects(), before);
}

#[test]
fn a_second_process_of_the_job_cannot_write_the_same_checkpoint() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(4);
    rig.take().unwrap();
    let mut other = rig.another_taker();
    rig.commits(4);
    other.take().unwrap().unwrap();
    let error = rig.take().unwrap_err();
    assert!(matches!(error, SnapshotError::Overtaken { number: 2 }), "{error}");
    rig.commits(4);
    assert_eq!(rig.take().unwrap().unwrap().manifest.number, 3, "it goes on from there");
    rig.check_all_restorable();
}

#[test]
fn each_pod_has_its_own_checkpoints_and_a_shard_is_found_in_whichever_has_it() {
    let mut rig = Rig::new(Kind::Kafka);
    let (mut one, mut two) = (rig.taker_of(0, 0..2), rig.taker_of(1, 2..3));
    rig.commits(6);
    one.take().unwrap().unwrap();
    two.take().unwrap().unwrap();
    rig.commits(6);
    one.take().unwrap().unwrap();
    // The second pod is gone; the third has one of the first's shards and the second's.
    let mut three = rig.taker_of(2, 1..3);
    rig.commits(6);
    three.take().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let kept = Keeper::new(Retention { count: 1, age_ms: u64::MAX }, Duration::ZERO).run(rig.store.as_ref(), rig::UID);
    assert_eq!(kept.unwrap().checkpoints, 3, "the newest of each pod");
    rig.check_all_restorable();
    // They keep the databases open.
    drop((one, two, three));
    let restored = rig.lose_and_restart();
    assert_eq!(restored.shards.len(), usize::from(rig::SHARDS));
    rig.check_state(18);
}

#[test]
fn a_shard_that_was_given_up_is_in_no_later_snapshot_and_the_earlier_one_stays_whole() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(6);
    rig.take().unwrap().unwrap();
    rig.leave(1);
    let taken = rig.take().unwrap().expect("nothing was committed, but this is of other shards");
    let shards: Vec<u16> = taken.manifest.entries.iter().map(|entry| entry.shard.0).collect();
    assert_eq!((shards, taken.uploaded < 4_096), (vec![0, 2], true), "{} bytes uploaded", taken.uploaded);
    assert_eq!(rig.take().unwrap(), None);
    rig.check_all_restorable();
}

#[test]
fn an_older_copy_of_the_directory_is_refused() {
    let mut rig = Rig::new(Kind::Local);
    rig.commits(10);
    let copy = rig.copy_directory();
    rig.commits(10);
    rig.take().unwrap();
    rig.put_directory_back(copy);
    // Started while the store did not answer, it is found out at the first snapshot.
    let error = rig.take().unwrap_err();
    assert!(error.to_string().contains("it is an older copy"), "{error}");
}

#[test]
fn a_directory_that_the_changelog_does_not_reach_is_replaced_from_a_snapshot() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(6);
    rig.take().unwrap();
    let copy = rig.copy_directory();
    rig.commits(12);
    rig.take().unwrap();
    let mut keeper = Keeper::new(Retention { count: 1, age_ms: u64::MAX }, Duration::ZERO);
    let kept = keeper.run(rig.store.as_ref(), rig::UID).unwrap();
    rig.trim(&kept.trimmable);
    rig.commits(3);
    let restored = rig.restart_on(&copy);
    assert_eq!(restored.shards.len(), usize::from(rig::SHARDS), "what lies between is not in the changelog any more");
    rig.check_state(21);
}

#[test]
fn a_changelog_that_has_lost_its_beginning_needs_a_snapshot() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(10);
    rig.take().unwrap();
    rig.commits(10);
    let all = rig.last_offsets();
    rig.trim(&all);
    let error = rig.try_lose_and_restart().unwrap_err();
    assert!(matches!(error, SnapshotError::Lost { .. }), "{error}");
    assert_eq!(rig.store.list(Listing::Checkpoints).unwrap().len(), 1, "and nothing was removed");
}
