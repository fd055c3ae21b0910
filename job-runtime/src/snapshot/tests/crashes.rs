//! A crash, or a lost reply, at every single call of a snapshot and of the retention behind it.

use std::time::Duration;

use checkpoint::snapshot::retention::Retention;

use super::rig::{Kind, Rig, UID};
use crate::snapshot::retain::Keeper;

/// What is done when the store fails at a certain call.
fn snapshot_and_retention(rig: &mut Rig) -> bool {
    let mut keeper = Keeper::new(Retention { count: 1, age_ms: u64::MAX }, Duration::ZERO);
    let taken = rig.take();
    if let Ok(Some(_)) = &taken {
        return keeper.run(rig.store.as_ref(), UID).is_ok();
    }
    false
}

/// One crash at a call; returns false if there is no such call.
fn crash_at(kind: Kind, call: u64, reply_lost: bool) -> bool {
    let context = format!("{kind:?}, call {call}, reply lost: {reply_lost}");
    let mut rig = Rig::new(kind);
    rig.commits(6);
    rig.take().unwrap();
    rig.commits(6);
    rig.fail(call, reply_lost);
    let through = snapshot_and_retention(&mut rig);
    rig.heal();
    rig.check_all_restorable();
    // The process is gone, and its disk with it.
    let restored = rig.lose_and_restart();
    assert!(!restored.shards.is_empty() && restored.damaged == 0, "{context}: {restored:?}");
    match (kind, restored.newest()) {
        (Kind::Kafka, _) | (Kind::Local, Some(2)) => rig.check_state(12),
        (Kind::Local, Some(1)) => rig.check_state(6),
        (Kind::Local, other) => panic!("{context}: checkpoint {other:?}"),
    }
    // The next process goes on, and what the crash has left behind is found and removed.
    rig.commits(3);
    rig.take().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(2));
    let kept = Keeper::new(Retention { count: 1, age_ms: u64::MAX }, Duration::ZERO).run(rig.store.as_ref(), UID);
    assert_eq!(kept.unwrap().checkpoints, 1, "{context}");
    rig.check_all_restorable();
    let end = rig.end();
    rig.lose_and_restart();
    rig.check_state(end);
    !through
}

fn crash_everywhere(kind: Kind) {
    let mut points = 0;
    for reply_lost in [false, true] {
        let mut call = 0;
        while crash_at(kind, call, reply_lost) {
            call += 1;
            points += 1;
            assert!(call < 200, "the calls come to an end");
        }
    }
    assert!(points > 30, "{points} points");
}

#[test]
fn a_crash_at_any_call_loses_and_repeats_nothing_with_the_changelog_in_kafka() {
    crash_everywhere(Kind::Kafka);
}

#[test]
fn a_checkpoint_that_exists_is_whole_whichever_call_was_the_last() {
    for call in 0.. {
        let mut rig = Rig::new(Kind::Kafka);
        rig.commits(6);
        rig.fail_from(call);
        let taken = rig.take().is_ok();
        rig.heal();
        rig.check_all_restorable();
        if taken {
            assert!(call > 5, "{call} calls");
            return;
        }
    }
}

#[test]
fn a_crash_at_any_call_leaves_a_whole_snapshot_with_the_local_log() {
    crash_everywhere(Kind::Local);
}

#[test]
fn a_crash_in_the_middle_of_a_restore_is_made_good_by_the_next_start() {
    for kind in [Kind::Kafka, Kind::Local] {
        let mut call = 0;
        loop {
            let mut rig = Rig::new(kind);
            rig.commits(6);
            rig.take().unwrap();
            rig.fail_from(call);
            let failed = rig.try_lose_and_restart().is_err();
            rig.heal();
            rig.restart();
            rig.check_state(6);
            if !failed {
                break;
            }
            call += 1;
        }
        assert!(call > 5, "{kind:?}: {call} calls");
    }
}
