//! Named steps of a job on a real broker and a real S3 server, each cut before it, after it, and with its answer lost: each time what an independent
//! `read_committed` reader sees in the end is exactly the oracle's. Nothing is tried twice.
//!
//! The steps of a start and of a commit are all cut in `make test`; of checkpoints, savepoints and changes of the number of pods some are, and
//! `make crash` does all. `CASE=<case>` does one alone.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "kafka_crash/checkpoints.rs"]
mod checkpoints;
#[path = "kafka_crash/commits.rs"]
mod commits;
#[path = "kafka_crash/readings.rs"]
mod readings;
#[path = "kafka_crash/rescales.rs"]
mod rescales;
#[path = "kafka_faults/rig.rs"]
#[expect(dead_code, reason = "shared with the tests of faults")]
mod rig;
#[path = "kafka_crash/savepoints.rs"]
mod savepoints;
#[path = "cli/tls.rs"]
mod tls;
#[path = "cli/tokens.rs"]
#[expect(dead_code, reason = "shared with the tests of the control port")]
mod tokens;
#[path = "kafka_faults/watcher.rs"]
mod watcher;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use job_runtime::crash::Step;
use workshop::Outcome;

/// Cases of one pod at the same time: most of a case is waiting.
const AT_ONCE: usize = 3;
/// Those of several pods: with five cases, two processors and one broker do not keep up.
const ALONE: usize = 1;

/// The places of a step that every list of cases has.
fn places(step: Step) -> impl Iterator<Item = &'static str> {
    ["before", "after"].into_iter().chain(step.has_answer().then_some("lost"))
}

/// A process that was cut has died at its point, or has ended by itself because it heard nothing; never by a bug.
fn ended_well(point: &str, outcome: &Outcome) {
    let lost = point.contains(":lost") || point.contains(":unsent");
    let ended = lost && matches!(outcome.code, Some(1 | 3)) && !outcome.stderr.contains("a bug of Millstream");
    assert!(outcome.code.is_none() || ended, "{point}: {outcome:?}");
}

/// Does every case, several at a time, and says what each took. All are done, whatever fails.
fn all(cases: &[String], at_once: usize, cut: fn(&str)) {
    // One alone, on the list or not, for whoever looks into it.
    let one: Option<Vec<String>> = std::env::var("CASE").ok().map(|one| vec![one]);
    let cases = one.as_deref().unwrap_or(cases);
    let (begin, next, failed) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begin = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| cut(case))) {
                Ok(()) => println!("{case}: {:.1} s", begin.elapsed().as_secs_f64()),
                Err(_) => failed.lock().unwrap().push(case),
            }
        }
    };
    std::thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
    println!("{} cases, {:.0} s", cases.len(), begin.elapsed().as_secs_f64());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Those of all cases that `make test` does too.
fn short(all: &[String], short: &[&str]) -> Vec<String> {
    let missing: Vec<_> = short.iter().filter(|case| !all.iter().any(|known| known == *case)).collect();
    assert!(missing.is_empty(), "there are no such cases: {missing:?}");
    short.iter().map(|case| (*case).to_owned()).collect()
}

#[test]
#[ignore = "needs the lab"]
fn every_point_of_a_start_and_of_a_commit_can_be_cut() {
    all(&commits::cases(), AT_ONCE, commits::cut);
}

#[test]
#[ignore = "needs the lab"]
fn points_of_a_checkpoint_and_a_savepoint_can_be_cut() {
    let cases = ["link:after:3 kept", "upload:lost:3 lost", "checkpoint:before:2 lost", "checkpoint:lost:2 kept"];
    let more = ["retire:after:1 lost", "garbage:before:2 kept", "trim:lost:2 lost", "place:before:1 kept"];
    all(&short(&checkpoints::cases(), &[cases, more].concat()), AT_ONCE, checkpoints::cut);
    all(&short(&savepoints::cases(), &["savepoint-part:after:1", "savepoint:lost:1"]), AT_ONCE, savepoints::cut);
}

#[test]
#[ignore = "needs the lab"]
fn points_of_a_change_of_the_number_of_pods_can_be_cut() {
    let cases =
        ["reassign:lost:1 ordered", "last-commit:after:1 loses", "release:lost:1 loses", "fence:before:2 gains"];
    let more = ["fence-loser:after:1 fences", "first-commit:lost:1 joins", "ready:lost:1 gains"];
    all(&short(&rescales::cases(), &[&cases[..], &more[..]].concat()), ALONE, rescales::cut);
}

#[test]
#[ignore = "needs the lab"]
fn long_every_point_of_a_checkpoint_can_be_cut() {
    all(&checkpoints::cases(), AT_ONCE, checkpoints::cut);
}

#[test]
#[ignore = "needs the lab"]
fn long_every_point_of_a_savepoint_can_be_cut() {
    all(&savepoints::cases(), AT_ONCE, savepoints::cut);
}

#[test]
#[ignore = "needs the lab"]
fn long_every_point_of_a_change_of_the_number_of_pods_can_be_cut() {
    all(&rescales::cases(), ALONE, rescales::cut);
}
