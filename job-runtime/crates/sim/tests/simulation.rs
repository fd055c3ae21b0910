//! A job of one to three pods on the simulated broker, object store and disks: connections break, processes are killed, sleep and are cut off, disks
//! are lost, pods come and go, and nothing is lost or repeated.
//!
//! Owns the list of checks and mutants, and how many seeds are run. What of the program is in it, and what is not, is said in the crate's
//! documentation; the pods are in `simulation/pod` and `simulation/running`, what must come out in `simulation/oracle`, `archive` and `ending`.
//!
//! `SEEDS=`, `MINUTES=` and `FROM=` in the environment (`make soak`) say how many seeds are run, for how long at most, and which is the first.

#[path = "simulation/archive.rs"]
mod archive;
#[path = "simulation/commit.rs"]
mod commit;
#[path = "simulation/ending.rs"]
mod ending;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/feed.rs"]
mod feed;
#[path = "simulation/job.rs"]
mod job;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/member.rs"]
mod member;
#[path = "simulation/mutant.rs"]
mod mutant;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/outcome.rs"]
mod outcome;
#[path = "simulation/pod.rs"]
mod pod;
#[path = "simulation/restore.rs"]
mod restore;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/running.rs"]
mod running;
#[path = "simulation/snapshots.rs"]
mod snapshots;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mutant::Mutant;
use outcome::Outcome;
use run::{simulate, simulate_with};
use sim::message::Protocol;

/// How many seeds are run if nothing else is said: all of them, however long they take.
const SEEDS: u64 = 500;
/// Of so many seeds one is run twice, and both runs must be the same to the last event.
const TWICE: u64 = 100;
/// A mutant must be caught by one of so many seeds.
const MUTANT_SEEDS: u64 = 150;
/// In so many seeds protocol 2 must make the one mutant harmless that it is there for.
const HARMLESS_SEEDS: u64 = 60;
/// Progress of a long run is said so often.
const REPORT: Duration = Duration::from_secs(60);

fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error takes a line");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: write a whole number")))
}

/// Which seeds are run.
struct Plan {
    from: u64,
    /// At most so many.
    seeds: u64,
    /// No new one is begun after this time.
    time: Option<Duration>,
}

impl Plan {
    fn new() -> Self {
        let (from, seeds, minutes) = (number("FROM").unwrap_or(0), number("SEEDS"), number("MINUTES"));
        let seeds = seeds.unwrap_or(if minutes.is_some() { u64::MAX } else { SEEDS });
        Self { from, seeds, time: minutes.map(|minutes| Duration::from_secs(minutes * 60)) }
    }
}

/// Runs a seed, now and then twice.
fn one(seed: u64) -> Result<Outcome, String> {
    let outcome =
        simulate(seed, None).map_err(|wrong| format!("seed {seed}: {wrong}\nagain: make soak SEEDS=1 FROM={seed}"))?;
    if seed.is_multiple_of(TWICE) && simulate(seed, None).as_ref() != Ok(&outcome) {
        return Err(format!("seed {seed}: two runs of it differ"));
    }
    Ok(outcome)
}

#[test]
fn whatever_breaks_sleeps_or_is_killed_the_output_is_that_of_an_undisturbed_run() {
    let (start, plan, next) = (Instant::now(), Plan::new(), AtomicU64::new(0));
    let (done, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = |speaks: bool| {
        let (mut sum, mut said) = (Outcome::default(), start);
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let over = plan.time.is_some_and(|time| start.elapsed() >= time);
            if number >= plan.seeds || over || failed.load(Ordering::SeqCst) {
                return sum;
            }
            match one(plan.from + number) {
                Ok(outcome) => sum.add(&outcome),
                Err(wrong) => {
                    failed.store(true, Ordering::SeqCst);
                    panic!("{wrong}");
                }
            }
            let all = done.fetch_add(1, Ordering::SeqCst) + 1;
            if speaks && said.elapsed() >= REPORT {
                said = Instant::now();
                let per_minute = all as f64 * 60.0 / start.elapsed().as_secs_f64();
                say(&format!("{all} seeds, {per_minute:.0} per minute, up to seed {}", plan.from + number));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let sum = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(false))).collect();
        let mut sum = work(true);
        others.into_iter().for_each(|other| sum.add(&other.join().expect("the other thread's seeds hold")));
        sum
    });
    let line = sum.report(start.elapsed());
    say(&line);
    assert!(plan.time.is_some() || sum.runs == plan.seeds, "{line}");
    // A simulation in which nothing happens proves nothing.
    assert!(sum.runs < SEEDS || sum.rarest() >= SEEDS / 50, "{line}");
}

#[test]
fn a_seed_is_one_run() {
    let first = simulate(3, None).unwrap();
    assert_eq!(first, simulate(3, None).unwrap());
    assert_ne!(first.trace, simulate(13, None).unwrap().trace);
}

/// Without one rule some seed shows it.
fn is_caught(mutant: Mutant) {
    let begin = Instant::now();
    let caught = (0..MUTANT_SEEDS).find_map(|seed| Some((seed, simulate(seed, Some(mutant)).err()?)));
    let Some((seed, wrong)) = caught else { panic!("{mutant:?} is not caught by {MUTANT_SEEDS} seeds") };
    say(&format!("{mutant:?}: seed {seed}, {:.1} s: {wrong}", begin.elapsed().as_secs_f32()));
}

#[test]
fn a_commit_asked_for_again_is_harmless_in_transaction_protocol_2() {
    for seed in 0..HARMLESS_SEEDS {
        let run = simulate_with(seed, Some(Mutant::CommitAskedAgain), Some(Protocol::Two));
        run.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident;)*) => {$(
        #[test]
        fn $name() {
            is_caught(Mutant::$mutant);
        }
    )*};
}

mutants! {
    offsets_outside_the_transaction_are_caught: OffsetsFirst;
    state_before_the_commit_is_caught: StateBeforeCommit;
    a_commit_asked_for_again_in_the_same_epoch_is_caught: CommitAskedAgain;
    an_epoch_taken_after_reading_is_caught: FencedLate;
    a_control_topic_read_before_the_fence_is_caught: ControlReadFirst;
    an_earlier_owner_that_is_not_settled_is_caught: NotSettled;
    a_release_without_proof_is_caught: ReleaseUnproved;
    an_ignored_sender_is_caught: SlotIgnored;
    a_manifest_before_its_objects_is_caught: ManifestFirst;
    a_checksum_that_is_not_compared_is_caught: NoChecksum;
    a_changelog_trimmed_too_far_is_caught: EarlyTrim;
    local_state_that_is_not_checked_is_caught: LocalUnchecked;
    a_position_left_out_of_the_commit_is_caught: PositionLeftOut;
}
