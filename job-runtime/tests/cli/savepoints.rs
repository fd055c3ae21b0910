//! Savepoints of a run on this machine: taken while it runs, or with its end; another job goes on from them, in as many shards as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::pod::free_port;
use super::workshop::{Outcome, Running, Workshop};

const JOB: &str = include_str!("jobs/savepoints.yaml");
const TICKS: i64 = 100_000;
const KEYS: i64 = 37;

/// By second and key: count and sum.
type Rows = BTreeMap<(i64, i64), (i64, i64)>;

fn oracle() -> Rows {
    let mut rows = Rows::new();
    for id in 0..TICKS {
        let row = rows.entry((id / 1000, id % KEYS)).or_default();
        *row = (row.0 + 1, row.1 + id);
    }
    rows
}

/// The rows of a file; none may be there twice.
fn rows(text: &str) -> Rows {
    let mut found = Rows::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let second = row["second"].as_str().unwrap();
        let (minutes, seconds) = (second[14..16].parse::<i64>().unwrap(), second[17..19].parse::<i64>().unwrap());
        let number = |name: &str| row[name].as_i64().unwrap();
        let key = (minutes * 60 + seconds, number("key"));
        assert!(found.insert(key, (number("ticks"), number("total"))).is_none(), "twice: {line}");
    }
    found
}

struct Job {
    workshop: Workshop,
    port: u16,
}

impl Job {
    fn new() -> Self {
        let (workshop, port) = (Workshop::new(), free_port());
        workshop.write("job.yaml", JOB);
        Self { workshop, port }
    }

    fn start(&self) -> Running {
        let address = self.control();
        let arguments = ["run", "job.yaml", "--control", &address, "--checkpoint-dir", "snapshots", "--report", "json"];
        let mut running = self.workshop.start(&arguments);
        let output = self.workshop.path("out/seconds.jsonl");
        running.wait_until("output", || std::fs::metadata(&output).is_ok_and(|file| file.len() > 0));
        running
    }

    fn control(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn order(&self, arguments: &[&str]) -> Outcome {
        Workshop::new().run(&[arguments, &["--control", &self.control()]].concat())
    }

    /// Takes a savepoint; returns its location.
    fn savepoint(&self, name: &str, more: &[&str]) -> String {
        let outcome = self.order(&[&["savepoint", name], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.contains(&format!("savepoint {name} is complete")), "{outcome:?}");
        outcome.stdout.trim().to_owned()
    }

    fn output(&self) -> Rows {
        rows(&self.workshop.read("out/seconds.jsonl"))
    }
}

/// A new job that begins with the savepoint and runs to the end of its input.
fn go_on(location: &str, shards: u16) -> Rows {
    let workshop = Workshop::new();
    workshop.write("job.yaml", &JOB.replace("shards: 8", &format!("shards: {shards}")).replace("'20000'", "'200000'"));
    let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", location]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // Its state is its own now: nothing is read twice, with the savepoint's location or without.
    let again = workshop.run(&["run", "job.yaml", "--from-savepoint", location]);
    assert_eq!(again.code, Some(0), "{again:?}");
    rows(&workshop.read("out/seconds.jsonl"))
}

#[test]
fn a_job_that_was_stopped_with_a_savepoint_goes_on_as_another_one_in_other_shards() {
    let job = Job::new();
    let running = job.start();
    let location = job.savepoint("last", &["--stop"]);
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("\"at_end\":false"), "{ended:?}");
    let before = job.output();
    assert!(!before.is_empty() && before.len() < oracle().len(), "{} rows", before.len());
    for shards in [8, 3, 1, 20] {
        let after = go_on(&location, shards);
        assert!(before.keys().all(|key| !after.contains_key(key)), "{shards} shards: a row of the first job again");
        let all: Rows = before.clone().into_iter().chain(after).collect();
        assert!(all == oracle(), "{shards} shards: {} rows instead of {}", all.len(), oracle().len());
    }
}

#[test]
fn a_job_goes_on_after_a_savepoint_and_loses_nothing_and_neither_does_one_that_begins_from_it() {
    let job = Job::new();
    let running = job.start();
    let first = job.savepoint("first", &[]);
    let again = job.savepoint("first", &[]);
    assert_eq!(first, again, "asking again takes no other one");
    let second = job.savepoint("second", &[]);
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(job.output() == oracle());
    for location in [first, second] {
        let rest = go_on(&location, 5);
        let begin = *rest.keys().map(|(second, _)| second).min().expect("the input was not at its end");
        let wanted: Rows = oracle().into_iter().filter(|((second, _), _)| *second >= begin).collect();
        assert!(rest == wanted, "{location}: {} rows instead of {}", rest.len(), wanted.len());
    }
}

#[test]
fn a_drained_job_closes_its_windows() {
    let job = Job::new();
    let running = job.start();
    let outcome = job.order(&["stop", "--drain"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report: Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    let counted: i64 = job.output().values().map(|(count, _)| count).sum();
    assert_eq!((Some(counted), &report["at_end"]), (report["rows_in"].as_i64(), &Value::Bool(true)), "{report}");
    assert!(counted < TICKS);
}

#[test]
fn a_job_without_state_and_with_a_worker_without_input_takes_savepoints_too() {
    let job = Job::new();
    let text = JOB.replace(
        &JOB[JOB.find("    INSERT").unwrap()..],
        "    INSERT INTO seconds SELECT event_time, id, id, id FROM ticks;\n",
    );
    job.workshop.write("job.yaml", &text.replace("spec:\n", "spec:\n  workers: 2\n"));
    let running = job.start();
    let location = job.savepoint("one", &["--stop"]);
    assert_eq!(running.end().code, Some(0));
    let workshop = Workshop::new();
    workshop.write("job.yaml", &text.replace("'20000'", "'200000'"));
    let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &location]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines = |text: String| text.lines().count();
    let all = lines(job.workshop.read("out/seconds.jsonl")) + lines(workshop.read("out/seconds.jsonl"));
    assert_eq!(all as i64, TICKS);
}

/// Every file below a folder, with its size.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path(), entry.metadata().unwrap().len());
        }
    }
    found
}

#[test]
fn a_savepoint_is_removed_when_it_is_told_twice_and_nothing_else_is_touched() {
    let job = Job::new();
    let running = job.start();
    let first = job.savepoint("first", &[]);
    let last = job.savepoint("last", &["--stop"]);
    running.end();
    let snapshots = job.workshop.path("snapshots");
    let before = files(&snapshots);
    let remove = |more: &[&str]| Workshop::new().run(&[&["remove-savepoint"], more].concat());

    let asked = remove(&[&first]);
    assert_eq!(asked.code, Some(1), "{asked:?}");
    assert!(asked.stderr.contains("8 shards") && asked.stderr.contains("repeat with --force"), "{asked:?}");
    assert!(files(&snapshots) == before, "looking changes nothing");
    let done = remove(&[&first, "--force"]);
    assert!(done.code == Some(0) && done.stderr.contains("removed, 2 objects"), "{done:?}");
    let left: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| !path.starts_with(&first)).collect();
    assert!(files(&snapshots) == left);

    let again = remove(&[&first, "--force"]);
    assert!(again.code == Some(3) && again.stderr.contains("there is none of this name"), "{again:?}");
    let no_place = remove(&["somewhere", "--force"]);
    assert!(no_place.code == Some(3) && no_place.stderr.contains("write it as"), "{no_place:?}");
    // The other one, which shares files with it, is whole.
    let all: Rows = job.output().into_iter().chain(go_on(&last, 5)).collect();
    assert!(all == oracle());
    let workshop = Workshop::new();
    workshop.write("job.yaml", JOB);
    let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &first]);
    assert!(outcome.code == Some(3) && outcome.stderr.contains("there is none of this name"), "{outcome:?}");
}

#[test]
fn what_is_no_savepoint_is_named() {
    let workshop = Workshop::new();
    workshop.write("job.yaml", JOB);
    let told = |location: &str, what: &str| {
        let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", location]);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(outcome.stderr.contains(what), "{location}: {outcome:?}");
    };
    told("somewhere", "\"somewhere\" is no savepoint: write it as `millstream savepoint` printed it");
    told("/nowhere/job/uid/savepoints/x", "there is none of this name in this place");
    told("/nowhere/job/uid/savepoints/A_B", "lower-case letters, digits and dashes");
}

#[test]
fn a_savepoint_that_was_changed_is_not_used() {
    let job = Job::new();
    let running = job.start();
    let location = job.savepoint("one", &["--stop"]);
    running.end();
    // Of a shard that every division of the job needs.
    let shard = std::path::Path::new(&location).parent().unwrap().parent().unwrap().join("shards/00000");
    let newest = std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let workshop = Workshop::new();
    workshop.write("job.yaml", JOB);
    for _ in 0..2 {
        let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &location]);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(
            outcome.stderr.contains("its checksum differs") && outcome.stderr.contains("shards/00000"),
            "{outcome:?}"
        );
    }
    // Nothing of the attempts is left in the way of a whole one.
    std::fs::write(&newest, whole).unwrap();
    let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &location]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let all: Rows = job.output().into_iter().chain(rows(&workshop.read("out/seconds.jsonl"))).collect();
    assert!(all == oracle());
}

#[test]
fn state_that_the_new_job_would_lose_is_named_and_a_job_without_a_place_takes_no_savepoint() {
    let job = Job::new();
    let running = job.start();
    let location = job.savepoint("one", &["--stop"]);
    running.end();
    let workshop = Workshop::new();
    workshop.write("job.yaml", &JOB.replace("MOD(id, 37)", "MOD(id, 41)"));
    let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &location]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("window_aggregate") && outcome.stderr.contains("--allow-lost-state"),
        "{outcome:?}"
    );

    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    workshop.write("job.yaml", JOB);
    let mut running = workshop.start(&["run", "job.yaml", "--control", &address]);
    running.wait_until("the port", || std::net::TcpStream::connect(&address).is_ok());
    let outcome = Workshop::new().run(&["savepoint", "one", "--control", &address]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("--checkpoint-dir"), "{outcome:?}");
    running.signal("INT");
    running.end();
}

/// Distinct rows behind windows by one of their columns: they have no exchange of their own, and their state lies by that column.
const DISTINCT: &str = "
    CREATE VIEW per_second AS SELECT MOD(id, 37) AS key, COUNT(*) AS ticks
    FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
    GROUP BY window_start, window_end, MOD(id, 37);
    CREATE TABLE seen (key BIGINT, ticks BIGINT) WITH (
      'connector' = 'filesystem', 'path' = 'out/seen.jsonl', 'format' = 'json'
    );
    INSERT INTO seen SELECT DISTINCT key, ticks FROM per_second;
";

fn pairs(workshop: &Workshop) -> BTreeSet<(i64, i64)> {
    let mut found = BTreeSet::new();
    for line in workshop.read("out/seen.jsonl").lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let pair = (row["key"].as_i64().unwrap(), row["ticks"].as_i64().unwrap());
        assert!(found.insert(pair), "twice: {line}");
    }
    found
}

#[test]
fn state_by_some_columns_goes_into_other_shards_and_not_to_a_plan_that_would_look_for_it_elsewhere() {
    let job = Job::new();
    let text = format!("{JOB}{DISTINCT}");
    job.workshop.write("job.yaml", &text);
    let running = job.start();
    let location = job.savepoint("one", &["--stop"]);
    assert_eq!(running.end().code, Some(0));
    let (before, all) = (pairs(&job.workshop), oracle().into_iter().map(|((_, key), (count, _))| (key, count)));
    let all: BTreeSet<(i64, i64)> = all.collect();
    assert!(!before.is_empty());
    for shards in [8, 3, 20] {
        let workshop = Workshop::new();
        let text = text.replace("shards: 8", &format!("shards: {shards}")).replace("'20000'", "'200000'");
        workshop.write("job.yaml", &text);
        let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &location]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let after = pairs(&workshop);
        assert!(before.is_disjoint(&after), "{shards} shards: a row of the first job again");
        assert!(before.union(&after).copied().collect::<BTreeSet<_>>() == all, "{shards} shards");
    }
    // The same rows by name and type, and so the same operator: but here it is the first that needs them together.
    let workshop = Workshop::new();
    let direct = "CREATE TABLE counts (key BIGINT, ticks BIGINT) WITH ('connector' = 'blackhole');
    INSERT INTO counts SELECT key, ticks FROM per_second;
    CREATE VIEW direct AS SELECT MOD(id, 37) AS key, id AS ticks FROM ticks;
    INSERT INTO seen SELECT DISTINCT key, ticks FROM direct;";
    workshop.write("job.yaml", &text.replace("INSERT INTO seen SELECT DISTINCT key, ticks FROM per_second;", direct));
    for more in [&[][..], &["--allow-lost-state"]] {
        let outcome = workshop.run(&[&["run", "job.yaml", "--from-savepoint", &location], more].concat());
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        let expected =
            "the state of distinct(key, ticks) by the columns (key), and the job would look for it by its own keys";
        assert!(outcome.stderr.contains(expected), "{outcome:?}");
    }
}
