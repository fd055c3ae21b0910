//! The protocol of commits and ownership, explored exhaustively within bounds: docs/src/concepts/exactly-once.md says what that proves.
//!
//! Owns the list of runs and mutants. The model drives `checkpoint::ownership`; it has no broker but a modelled one.

#[path = "model/broker.rs"]
mod broker;
#[path = "model/explorer.rs"]
mod explorer;
#[path = "model/faults.rs"]
mod faults;
#[path = "model/job.rs"]
mod job;
#[path = "model/pods.rs"]
mod pods;
#[path = "model/told.rs"]
mod told;
#[path = "model/world.rs"]
mod world;

use std::io::Write;
use std::time::Instant;

use explorer::explore;
use job::{Job, Mutant};
use world::{Budget, SHARDS};

/// A search that finds more than this is an error: what is not exhaustive proves nothing.
const MOST: usize = 4_000_000;

/// The test runner keeps what a good test prints; these lines are to be seen.
fn say(line: std::fmt::Arguments<'_>) {
    writeln!(std::io::stderr(), "{line}").expect("standard error takes a line");
}

fn budget(assignments: u8, crashes: u8, unknown: u8, stale: u8) -> Budget {
    Budget { assignments, crashes, unknown, stale }
}

/// Two pods with a shard each, and an assignment that gives each the other's.
fn swapped() -> Job {
    Job { shards: 2, first: [0, 1], path: &[[1, 0]], ..Job::small() }
}

/// The searches, with how many states each has: another number is another protocol or another world.
fn searches() -> Vec<(&'static str, usize, Job)> {
    let small = Job { budget: budget(1, 1, 1, 0), ..Job::small() };
    let there_and_back: &[[u8; SHARDS]] = &[[0, 2], [0, 1]];
    let killed = Job { budget: budget(1, 1, 0, 0), ..swapped() };
    vec![
        ("two inputs, one move", 44_396, Job { inputs: 2, ..small.clone() }),
        ("two moves", 284_476, Job { budget: budget(2, 1, 1, 0), ..small.clone() }),
        ("an assignment that lost a race", 69_108, Job { budget: budget(1, 1, 1, 1), ..small.clone() }),
        ("a second process of a pod", 1_031_982, Job { second_process: true, ..small.clone() }),
        ("two shards", 937_145, Job { shards: 2, ..small.clone() }),
        ("three pods, two moves", 2_101_332, Job { pods: 3, budget: budget(2, 0, 0, 0), ..small.clone() }),
        (
            "two pods to three and back",
            3_761_742,
            Job { pods: 3, shards: 2, first: [0, 1], path: there_and_back, budget: budget(2, 0, 0, 0), ..small },
        ),
        ("two pods lose shards to each other", 397_162, killed),
    ]
}

#[test]
fn in_every_order_of_events_nothing_is_lost_or_repeated_and_the_job_goes_on() {
    let (mut total, start) = (0, Instant::now());
    for (name, states, job) in searches() {
        let begin = Instant::now();
        let report = explore(&job, MOST);
        if let Some(bad) = report.violation.as_ref().or(report.stuck.first()) {
            panic!("{name}: {bad}");
        }
        say(format_args!(
            "{name}: {} states, {} steps, up to {} deep, {} good ends, {:.1} s",
            report.states,
            report.transitions,
            report.depth,
            report.goals,
            begin.elapsed().as_secs_f32()
        ));
        assert!(report.whole, "{name}: more than {MOST} states: its bounds are too wide");
        assert_eq!(report.states, states, "{name}");
        total += report.states;
    }
    say(format_args!("model check: {total} states in {:.1} s", start.elapsed().as_secs_f32()));
}

/// Without one rule the search finds a way to break the invariant that the rule keeps.
fn is_caught(mutant: Mutant, invariant: &str, job: Job) {
    let report = explore(&Job { mutant: Some(mutant), ..job }, MOST);
    let Some(bad) = report.violation.as_ref().or(report.stuck.first()) else {
        panic!("{mutant:?} is not caught in {} states (all of them: {})", report.states, report.whole);
    };
    say(format_args!("{mutant:?}: after {} steps, in {} states: {}", bad.steps.len(), report.states, bad.what));
    assert!(bad.what.starts_with(invariant), "{mutant:?} should break {invariant}, but: {}", bad.what);
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident breaks $invariant:literal in $job:expr;)*) => {$(
        #[test]
        fn $name() {
            is_caught(Mutant::$mutant, $invariant, $job);
        }
    )*};
}

mutants! {
    offsets_first: OffsetsFirst breaks "I3" in Job { budget: budget(0, 1, 0, 0), ..Job::small() };
    state_before_commit: StateBeforeCommit breaks "I3" in Job { budget: budget(0, 1, 0, 0), ..Job::small() };
    place_beside_state: PlaceBesideState breaks "I3" in Job { budget: budget(0, 1, 0, 0), ..Job::small() };
    producer_reused_after_unknown: ProducerReused breaks "I3" in Job { inputs: 2, budget: budget(0, 1, 1, 0), ..Job::small() };
    retry_from_memory: RetryFromMemory breaks "I1" in Job { budget: budget(0, 0, 1, 0), ..Job::small() };
    no_fence: NoFence breaks "I5" in Job::small();
    waits_for_ever: WaitsForEver breaks "I13" in Job { budget: budget(1, 1, 0, 0), ..Job::small() };
    control_log_read_first: ControlLogReadFirst breaks "I5" in Job::small();
    control_log_not_read_again: ControlLogNotReadAgain breaks "I5" in Job::small();
    stale_assignment: StaleAssignment breaks "I5" in Job { budget: budget(1, 0, 0, 1), ..Job::small() };
    last_owner_only: LastOwnerOnly breaks "I5" in Job { pods: 3, budget: budget(2, 1, 0, 0), ..Job::small() };
    old_fence: OldFence breaks "I5" in Job::small();
    release_without_proof: ReleaseWithoutProof breaks "I5" in Job { second_process: true, ..Job::small() };
    predecessor_unproved: PredecessorUnproved breaks "I5" in Job { second_process: true, ..Job::small() };
    predecessor_not_released: PredecessorNotReleased breaks "I13" in swapped();
    fences_before_release: FencesBeforeRelease breaks "I13" in swapped();
    release_in_transaction: ReleaseInTransaction breaks "I3" in Job::small();
    fence_by_abort: FenceByAbort breaks "I5" in Job::small();
    offsets_read_early: OffsetsReadEarly breaks "I3" in Job::small();
    unstable_offsets: UnstableOffsets breaks "I3" in Job { budget: budget(1, 1, 0, 0), ..Job::small() };
    changelog_read_short: ChangelogReadShort breaks "I3" in Job { budget: budget(1, 1, 0, 0), ..Job::small() };
}
