//! One open window with about ten times the state that its memory has room for: the right answer, bounded memory, whatever is killed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::workshop::{Moments, Workshop};

const KEYS: i64 = 450_000;
const ROWS: i64 = 900_000;
/// What the process may take at most. The budget is 10 MiB; the rest is the program, its batches and the commits under way.
const MOST: i64 = 160 << 20;

/// Per key: count and sum.
fn oracle() -> BTreeMap<i64, (i64, i64)> {
    let mut keys = BTreeMap::new();
    for n in 0..ROWS {
        let (count, sum) = keys.entry(n * 7919 % KEYS).or_insert((0, 0));
        (*count, *sum) = (*count + 1, *sum + n);
    }
    keys
}

fn check(workshop: &Workshop) {
    let text = workshop.read("out/counts.csv");
    let mut found = BTreeMap::new();
    for line in text.lines().map(|line| line.rsplit_once(": ").unwrap().1.replace('"', "")) {
        let numbers: Vec<i64> = line.split(',').map(|number| number.parse().unwrap()).collect();
        assert!(found.insert(numbers[0], (numbers[1], numbers[2])).is_none(), "twice: {line}");
    }
    assert!(found == oracle(), "{} keys of {KEYS}", found.len());
}

#[test]
fn state_of_ten_times_the_memory_gives_the_right_answer_through_kills() {
    let workshop = Workshop::new();
    workshop.copy("job-runtime/tests/cli/jobs/larger.yaml", "larger.yaml");
    let mut moments = Moments::new();
    for _ in 0..4 {
        let killed = workshop.start(&["run", "larger.yaml", "--workers", "2"]).kill_after(moments.between(800, 4000));
        if !killed {
            break;
        }
    }
    let outcome = workshop.run(&["run", "larger.yaml", "--workers", "2", "--report", "json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    let peak = report["peak_rss_bytes"].as_i64().unwrap();
    println!("peak resident set: {} MiB", peak >> 20);
    assert!(peak < MOST, "{report}");
    check(&workshop);
}
