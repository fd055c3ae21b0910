//! The sample job gives the answer that the test works out from the file by itself.

use serde_json::Value;

use super::oracle::{answer, flights, oracle};
use super::workshop::Workshop;

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
    let (got, want) =
        (answer(workshop.read("out/delays.jsonl").lines()), oracle(&flights(&workshop.read("flights.csv"))));
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
    assert_eq!(answer(workshop.read("out/delays.jsonl").lines()), answer(first.lines()));
}

#[test]
fn one_worker_and_four_give_the_same_answer() {
    let workshop = sample();
    for workers in ["1", "4"] {
        let outcome =
            workshop.run(&["run", "delays.yaml", "--workers", workers, "--state-dir", &format!("state-{workers}")]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let want = oracle(&flights(&workshop.read("flights.csv")));
        assert_eq!(answer(workshop.read("out/delays.jsonl").lines()), want);
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
