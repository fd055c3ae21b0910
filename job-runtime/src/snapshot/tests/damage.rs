//! Every kind of object, damaged in every way: it is found, and an older snapshot with a longer tail gives the same state.

use std::fs;

use checkpoint::snapshot::ObjectId;

use super::rig::{Kind, Rig};
use crate::snapshot::SnapshotError;

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Truncate,
    Empty,
    Lengthen,
    Remove,
    /// Another whole object of the same kind stands in its place.
    Swap,
}

const ALL: [Harm; 6] = [Harm::Flip, Harm::Truncate, Harm::Empty, Harm::Lengthen, Harm::Remove, Harm::Swap];

fn class(id: &ObjectId) -> &'static str {
    match id {
        ObjectId::Checkpoint { .. } => "checkpoint",
        ObjectId::Savepoint { .. } | ObjectId::SavepointRoot { .. } => "savepoint",
        ObjectId::Shard(..) => "shard",
        ObjectId::File(..) => "file",
        ObjectId::Log(_) => "log",
        ObjectId::Temporary(_) => "temporary",
    }
}

/// Harms one object that only the second snapshot has.
fn harm(rig: &Rig, kind: &str, harm: Harm, newest: &ObjectId, other: &ObjectId) {
    let path = rig.object_path(newest);
    let mut bytes = fs::read(&path).unwrap();
    match harm {
        Harm::Flip => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        }
        Harm::Truncate => bytes.truncate(bytes.len() - 1),
        Harm::Empty => bytes.clear(),
        Harm::Lengthen => bytes.push(0),
        Harm::Remove => return fs::remove_file(&path).unwrap(),
        Harm::Swap => bytes = fs::read(rig.object_path(other)).unwrap(),
    }
    fs::write(&path, bytes).unwrap_or_else(|e| panic!("{kind}: {e}"));
}

fn damaged(kind: Kind, class_of: &str, how: Harm) {
    let mut rig = Rig::new(kind);
    rig.commits(9);
    rig.take().unwrap();
    let first = rig.objects();
    rig.commits(9);
    rig.take().unwrap();
    let all = rig.objects();
    let newest = all.difference(&first).find(|id| class(id) == class_of).expect("the second snapshot has one");
    let other = first.iter().find(|id| class(id) == class_of).expect("the first snapshot has one");
    harm(&rig, class_of, how, newest, other);
    let restored = rig.lose_and_restart();
    let context = format!("{kind:?}, {class_of}, {how:?}: {restored:?}");
    match kind {
        Kind::Kafka => rig.check_state(18),
        Kind::Local => rig.check_state(9),
    }
    // A checkpoint's manifest that is gone is only an older state of affairs; all else is seen.
    let unseen = class_of == "checkpoint" && matches!(how, Harm::Remove);
    assert_eq!(restored.damaged, u64::from(!unseen), "{context}");
    assert!(restored.shards.values().any(|number| *number == 1), "{context}");
}

#[test]
fn a_damaged_object_is_found_and_the_older_snapshot_used_with_the_changelog_in_kafka() {
    for class in ["checkpoint", "shard", "file"] {
        ALL.iter().for_each(|how| damaged(Kind::Kafka, class, *how));
    }
}

#[test]
fn a_damaged_object_is_found_and_the_older_snapshot_used_with_the_local_log() {
    for class in ["checkpoint", "shard", "file", "log"] {
        ALL.iter().for_each(|how| damaged(Kind::Local, class, *how));
    }
}

#[test]
fn if_no_snapshot_can_be_read_the_whole_changelog_is() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(9);
    rig.take().unwrap();
    for id in rig.objects().iter().filter(|id| class(id) == "file") {
        fs::write(rig.object_path(id), "garbage").unwrap();
    }
    let restored = rig.lose_and_restart();
    assert_eq!(restored.shards.len(), 0);
    rig.check_state(9);
}

#[test]
fn if_no_snapshot_can_be_read_and_there_is_no_log_the_job_does_not_start_from_nothing() {
    let mut rig = Rig::new(Kind::Local);
    rig.commits(9);
    rig.take().unwrap();
    for id in rig.objects().iter().filter(|id| class(id) == "log") {
        fs::remove_file(rig.object_path(id)).unwrap();
    }
    let error = rig.try_lose_and_restart().unwrap_err();
    assert!(matches!(error, SnapshotError::NoneReadable { tried: 1, .. }), "{error}");
    let again = rig.try_lose_and_restart().unwrap_err();
    assert!(matches!(again, SnapshotError::NoneReadable { .. }), "{again}");
}
