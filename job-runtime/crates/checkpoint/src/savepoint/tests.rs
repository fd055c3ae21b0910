//! What the board promises: no step before all have done the last one, and one end whatever happens.

use proptest::prelude::*;

use super::*;
use crate::control::ControlLog;
use crate::ownership::record::{ControlError, ControlRecord};

fn assignment(number: u64, pods: u16) -> ControlRecord {
    let mut next = Assignment::first(8, 1);
    for _ in 1..number {
        next = next.rescaled(pods);
    }
    ControlRecord::Assignment(next)
}

fn begin(cut: u128, assignment: u64) -> Begin {
    Begin { cut, name: "v2".into(), stop: false, assignment, rounds: 2 }
}

fn say(record: SavepointRecord) -> ControlRecord {
    ControlRecord::Savepoint(record)
}

fn done(pod: u16, steps: u16) -> ControlRecord {
    say(SavepointRecord::Done { cut: 7, pod, steps })
}

/// Two pods under assignment 2, and a savepoint.
fn two() -> ControlLog {
    let mut log = ControlLog::default();
    [assignment(1, 1), assignment(2, 2), say(SavepointRecord::Begin(begin(7, 2)))].iter().for_each(|r| log.append(r));
    log
}

fn todo(log: &ControlLog, pod: u16) -> Todo {
    log.board.open().unwrap().todo(pod)
}

#[test]
fn no_pod_begins_a_step_before_all_have_done_the_one_before() {
    let mut log = two();
    let steps = [Todo::Prepare, Todo::Drain, Todo::Drain, Todo::Copy, Todo::Store];
    for (step, expected) in (0u16..).zip(steps) {
        assert_eq!((todo(&log, 0), todo(&log, 1)), (expected, expected));
        assert_eq!(log.board.open().unwrap().is_copied(), expected == Todo::Store);
        log.append(&done(0, step + 1));
        assert_eq!((todo(&log, 0), todo(&log, 1)), (Todo::Wait, expected));
        log.append(&done(1, step + 1));
    }
    assert_eq!((todo(&log, 0), todo(&log, 1)), (Todo::Complete, Todo::Wait));
    log.append(&say(SavepointRecord::End { cut: 7, failure: None }));
    assert_eq!(log.board.open(), None);
    assert_eq!(log.board.ended(7).unwrap().failure, None);
}

#[test]
fn another_assignment_ends_it_for_all() {
    let mut log = two();
    log.append(&done(0, 1));
    log.append(&assignment(3, 3));
    assert_eq!(log.board.open(), None);
    assert!(log.board.ended(7).unwrap().failure.as_ref().unwrap().contains("anew"));
    // What a pod says that has not seen it counts for nothing.
    log.append(&done(1, 1));
    log.append(&say(SavepointRecord::End { cut: 7, failure: None }));
    assert!(log.board.ended(7).unwrap().failure.is_some());
}

#[test]
fn one_at_a_time_and_only_for_the_assignment_in_force() {
    let mut log = two();
    log.append(&say(SavepointRecord::Begin(begin(8, 2))));
    assert_eq!(log.board.open().unwrap().begin.cut, 7);
    log.append(&say(SavepointRecord::End { cut: 7, failure: Some("a pod failed".into()) }));
    log.append(&say(SavepointRecord::Begin(begin(9, 1))));
    assert_eq!(log.board.open(), None, "it was asked for under an assignment that is gone");
    log.append(&say(SavepointRecord::Begin(begin(10, 2))));
    assert_eq!(log.board.open().unwrap().begin.cut, 10);
    assert_eq!(log.board.open().unwrap().todo(5), Todo::Wait, "no pod of the assignment");
}

#[test]
fn a_job_that_ended_with_a_savepoint_stays_so_until_it_is_distributed_anew() {
    let mut log = two();
    log.append(&say(SavepointRecord::End { cut: 7, failure: None }));
    assert_eq!(log.board.stopped(), None, "it was not to stop");
    let stop = |cut| say(SavepointRecord::Begin(Begin { stop: true, ..begin(cut, 2) }));
    log.append(&stop(8));
    log.append(&say(SavepointRecord::End { cut: 8, failure: Some("a pod failed".into()) }));
    assert_eq!(log.board.stopped(), None);
    log.append(&stop(9));
    log.append(&say(SavepointRecord::End { cut: 9, failure: None }));
    assert_eq!(log.board.stopped(), Some("v2"));
    log.append(&assignment(3, 3));
    assert_eq!(log.board.stopped(), None);
}

#[test]
fn only_so_many_are_remembered() {
    let mut log = two();
    for cut in 100..200 {
        let open = log.board.open().map(|open| open.begin.cut);
        open.into_iter().for_each(|cut| log.append(&say(SavepointRecord::End { cut, failure: None })));
        log.append(&say(SavepointRecord::Begin(begin(cut, 2))));
    }
    assert_eq!(log.board.ended.len(), REMEMBERED);
    assert!(log.board.ended(198).is_some() && log.board.ended(7).is_none());
}

#[test]
fn the_first_origin_counts() {
    let mut log = ControlLog::default();
    log.append(&ControlRecord::Origin("s3://b/j/u/savepoints/a".into()));
    log.append(&ControlRecord::Origin("elsewhere".into()));
    assert_eq!(log.origin.as_deref(), Some("s3://b/j/u/savepoints/a"));
}

fn any_record() -> impl Strategy<Value = ControlRecord> {
    let begin = (any::<u128>(), "[a-z0-9-]{1,63}", any::<bool>(), any::<u64>(), any::<u16>()).prop_map(
        |(cut, name, stop, assignment, rounds)| SavepointRecord::Begin(Begin { cut, name, stop, assignment, rounds }),
    );
    let done = any::<(u128, u16, u16)>().prop_map(|(cut, pod, steps)| SavepointRecord::Done { cut, pod, steps });
    let end = (any::<u128>(), any::<Option<String>>()).prop_map(|(cut, failure)| SavepointRecord::End { cut, failure });
    prop_oneof![
        begin.prop_map(ControlRecord::Savepoint),
        done.prop_map(ControlRecord::Savepoint),
        end.prop_map(ControlRecord::Savepoint),
        "[ -~]{0,200}".prop_map(ControlRecord::Origin),
    ]
}

proptest! {
    #[test]
    fn records_come_back_and_damage_is_found(record in any_record(), job in any::<u64>(), place in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = record.encode(job);
        prop_assert_eq!(ControlRecord::decode(job, &bytes), Ok(record));
        prop_assert_eq!(ControlRecord::decode(job ^ 1, &bytes), Err(ControlError::Foreign));
        let place = 1 + place.index(bytes.len() - 1);
        bytes[place] ^= flip;
        prop_assert!(ControlRecord::decode(job, &bytes).is_err());
    }
}

#[test]
fn the_layouts_are_pinned_and_a_long_reason_is_cut() {
    let bytes = done(3, 2).encode(5);
    assert_eq!(bytes[..9], [3, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[9..30], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 0, 2, 0]);
    assert_eq!(ControlRecord::Origin("ab".into()).encode(5)[..13], [4, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, b'a', b'b']);
    let long = say(SavepointRecord::End { cut: 1, failure: Some("ä".repeat(2000)) });
    let ControlRecord::Savepoint(SavepointRecord::End { failure: Some(why), .. }) =
        ControlRecord::decode(1, &long.encode(1)).unwrap()
    else {
        panic!("an end")
    };
    assert_eq!(why, "ä".repeat(500));
}
