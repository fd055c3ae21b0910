//! A state directory that is gone comes back from a snapshot, and the job's file is the same as if nothing had happened.

use std::fs;

use serde_json::Value;

use super::exactly_once::{check_ticks, ticks};
use super::workshop::{Outcome, Workshop};

const RUN: [&str; 4] = ["run", "ticks.yaml", "--checkpoint-dir", "snapshots"];

/// The job with a snapshot every second.
fn workshop() -> Workshop {
    let workshop = ticks();
    let job = workshop.read("ticks.yaml");
    workshop
        .write("ticks.yaml", &job.replace("spec:\n", "spec:\n  checkpoint: {interval: 1s, retention: {count: 2}}\n"));
    workshop
}

/// Numbers of the checkpoints that are there, rising.
fn checkpoints(workshop: &Workshop) -> Vec<String> {
    let uids = fs::read_dir(workshop.path("snapshots/ticks")).into_iter().flatten().flatten();
    let files = uids.flat_map(|uid| fs::read_dir(uid.path().join("checkpoints")).into_iter().flatten().flatten());
    let mut names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn lose_state(workshop: &Workshop) {
    fs::remove_dir_all(workshop.path(".millstream")).unwrap();
}

fn report(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap()
}

fn run_to_end(workshop: &Workshop) -> Value {
    report(&workshop.run(&[&RUN[..], &["--report", "json"]].concat()))
}

#[test]
fn killed_and_without_its_directory_a_job_goes_on_from_the_snapshot() {
    let workshop = workshop();
    for _ in 0..2 {
        let before = checkpoints(&workshop);
        let mut running = workshop.start(&RUN);
        running.wait_until("a snapshot", || checkpoints(&workshop).last() > before.last());
        drop(running);
        lose_state(&workshop);
    }
    let report = run_to_end(&workshop);
    assert!(report["rows_in"].as_i64().unwrap() < 150_000, "it began again: {report}");
    check_ticks(&workshop);
    assert!(checkpoints(&workshop).len() <= 3, "retention keeps two: {:?}", checkpoints(&workshop));
}

#[test]
fn a_job_that_was_stopped_in_order_has_everything_in_its_last_snapshot() {
    let workshop = workshop();
    let mut running = workshop.start(&[&RUN[..], &["--report", "json"]].concat());
    running.wait_until("output", || workshop.path("out/seconds.jsonl").exists());
    running.signal("TERM");
    assert!(report(&running.end())["rows_in"].as_i64().unwrap() < 150_000);
    let seconds = workshop.read("out/seconds.jsonl").lines().count() as i64;
    lose_state(&workshop);
    let rest = run_to_end(&workshop)["rows_in"].as_i64().unwrap();
    assert!(rest <= 150_000 - 1000 * seconds, "{rest} rows are read behind {seconds} seconds that are written");
    check_ticks(&workshop);
}

#[test]
fn fresh_forgets_the_snapshots_too() {
    let workshop = workshop();
    run_to_end(&workshop);
    assert!(!checkpoints(&workshop).is_empty());
    fs::remove_dir_all(workshop.path("out")).unwrap();
    lose_state(&workshop);
    let outcome = workshop.run(&[&RUN[..], &["--fresh", "--report", "json"]].concat());
    assert_eq!(report(&outcome)["rows_in"], 150_000);
    check_ticks(&workshop);
}

#[test]
fn state_is_shown_from_the_directory_and_from_the_snapshot_alike() {
    let workshop = workshop();
    let mut running = workshop.start(&RUN);
    running.wait_until("output", || workshop.path("out/seconds.jsonl").exists());
    running.signal("TERM");
    assert_eq!(running.end().code, Some(0));
    let show = |what: &[&str]| {
        let outcome = workshop.run(&[&["state"], what].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    let (dir, snapshot) = (["--state-dir", ".millstream/ticks"], ["--checkpoint-dir", "snapshots", "--job", "ticks"]);
    let exported = show(&[&["export"][..], &dir].concat());
    assert_eq!(exported, show(&[&["export"][..], &snapshot].concat()), "stopped in order, both hold the same");
    let entries: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for what in ["source position", "sink ticket", "state"] {
        assert!(entries.iter().any(|entry| entry["what"] == what), "no {what}: {exported}");
    }
    let counted = show(&[&["count"][..], &dir].concat());
    assert_eq!(counted, show(&[&["count"][..], &snapshot].concat()));
    assert!(counted.contains("source position"), "{counted}");
    assert_eq!(show(&[&["list"][..], &dir].concat()).lines().count(), 1 + 16, "a line for each shard");
    let listed = show(&[&["list"][..], &snapshot].concat());
    assert_eq!(listed.lines().count(), 1 + checkpoints(&workshop).len(), "{listed}");
    let none = workshop.run(&["state", "list", "--checkpoint-dir", "snapshots", "--job", "other"]);
    assert_eq!(none.code, Some(3), "{none:?}");
    assert!(none.stderr.contains("there is no snapshot of a job other"), "{}", none.stderr);
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let workshop = workshop();
    workshop.write("file", "x");
    let outcome = workshop.run(&["run", "ticks.yaml", "--checkpoint-dir", "file/below"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("file/below"), "{}", outcome.stderr);
    let outcome = workshop.run(&["run", "ticks.yaml", "--checkpoint-dir", "s3://"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("write s3://BUCKET"), "{}", outcome.stderr);
}
