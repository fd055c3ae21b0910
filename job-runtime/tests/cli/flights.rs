//! The sample job gives the answer that the test works out from the file by itself.

use std::collections::BTreeMap;

use serde_json::Value;

use super::workshop::Workshop;

/// Per hour and airport: departures, mean delay in millionths (what reads JSON here may be wrong in the last digit), worst delay.
type Answer = BTreeMap<(String, String), (i64, Option<i64>, Option<i64>)>;

fn millionths(mean: f64) -> i64 {
    (mean * 1e6).round() as i64
}

fn oracle(csv: &str) -> Answer {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let at = |name| names.iter().position(|n| *n == name).unwrap();
    let (hour, origin, delay) = (at("time_hour"), at("origin"), at("dep_delay"));
    let mut groups: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let key = (fields[hour][..16].replace('T', " "), fields[origin].to_owned());
        groups.entry(key).or_default().extend(fields[delay].parse::<i64>().ok());
    }
    let answer = |delays: Vec<i64>| {
        let count = delays.len();
        let mean = (count > 0).then(|| millionths(delays.iter().sum::<i64>() as f64 / count as f64));
        (count as i64, mean, delays.into_iter().max())
    };
    groups.into_iter().map(|(key, delays)| (key, answer(delays))).collect()
}

fn answer(lines: &str) -> Answer {
    let mut found = Answer::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let hour = row["window_start"].as_str().unwrap()[..16].replace('T', " ");
        let key = (hour, row["origin"].as_str().unwrap().to_owned());
        let values = (
            row["departures"].as_i64().unwrap(),
            row["mean_delay"].as_f64().map(millionths),
            row["worst_delay"].as_i64(),
        );
        assert!(found.insert(key, values).is_none(), "twice: {line}");
    }
    found
}

fn sample() -> Workshop {
    let workshop = Workshop::new();
    workshop.copy("examples/flights/flights.csv", "flights.csv");
    workshop.copy("examples/flights/delays.yaml", "delays.yaml");
    workshop
}

#[test]
fn the_sample_job_gives_the_oracle_s_answer() {
    let workshop = sample();
    let outcome = workshop.run(&["run", "delays.yaml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let (got, want) = (answer(&workshop.read("out/delays.jsonl")), oracle(&workshop.read("flights.csv")));
    assert!(want.len() > 700, "the sample has {} groups", want.len());
    assert_eq!(got, want);
    assert!(outcome.stdout.contains("mean_delay"), "no table: {}", outcome.stdout);
    assert!(outcome.stderr.contains("12,208 rows in"), "no summary: {}", outcome.stderr);
    assert!(outcome.stderr.contains(" 0 late"), "rows were late: {}", outcome.stderr);
}

#[test]
fn a_finished_job_that_is_run_again_changes_nothing_and_fresh_does_it_anew() {
    let workshop = sample();
    assert_eq!(workshop.run(&["run", "delays.yaml"]).code, Some(0));
    let first = workshop.read("out/delays.jsonl");
    let again = workshop.run(&["run", "delays.yaml"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(workshop.read("out/delays.jsonl"), first);
    std::fs::remove_dir_all(workshop.path("out")).unwrap();
    assert_eq!(workshop.run(&["run", "delays.yaml", "--fresh"]).code, Some(0));
    assert_eq!(answer(&workshop.read("out/delays.jsonl")), answer(&first));
}

#[test]
fn one_worker_and_four_give_the_same_answer() {
    let workshop = sample();
    for workers in ["1", "4"] {
        let outcome =
            workshop.run(&["run", "delays.yaml", "--workers", workers, "--state-dir", &format!("state-{workers}")]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(answer(&workshop.read("out/delays.jsonl")), oracle(&workshop.read("flights.csv")));
        std::fs::remove_dir_all(workshop.path("out")).unwrap();
    }
}

#[test]
fn standard_output_has_no_colour_when_it_is_no_terminal() {
    let workshop = sample();
    let outcome = workshop.run(&["run", "delays.yaml", "--report", "json"]);
    assert!(!outcome.stdout.contains('\u{1b}') && !outcome.stderr.contains('\u{1b}'), "{outcome:?}");
    let report: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["rows_in"], 12_208);
    assert_eq!(report["at_end"], true);
}

#[test]
fn explain_and_validate_answer_without_running() {
    let workshop = sample();
    let explain = workshop.run(&["explain", "delays.yaml"]);
    assert_eq!(explain.code, Some(0), "{explain:?}");
    assert!(explain.stdout.contains("exactly once"), "{}", explain.stdout);
    let validate = workshop.run(&["validate", "delays.yaml"]);
    assert_eq!(validate.code, Some(0), "{validate:?}");
    assert!(!workshop.path(".millstream").exists() && !workshop.path("out").exists());
}

#[test]
fn help_shows_examples_and_completion_is_a_script() {
    let workshop = Workshop::new();
    let help = workshop.run(&["--help"]);
    assert!(help.stdout.contains("millstream run examples/flights/delays.yaml"), "{}", help.stdout);
    let script = workshop.run(&["completion", "bash"]);
    assert!(script.stdout.contains("_millstream()"), "{}", script.stdout);
    assert_eq!(workshop.run(&["walk"]).code, Some(2));
}
