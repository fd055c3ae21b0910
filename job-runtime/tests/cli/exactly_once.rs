//! Killed with SIGKILL at random moments and started again, a job's files hold each row once; stopped in order, it goes on where it was.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::workshop::{Moments, Outcome, Workshop};

/// Kills that must hit a running process, together, however fast the machine is.
const KILLS: usize = 20;
const READINGS: i64 = 600_000;

struct Reading {
    id: i64,
    sensor: String,
    measured: i64,
    second: i64,
}

/// 100 a second of event time, each up to 4 s out of order, of 20 sensors.
fn reading(id: i64) -> Reading {
    let mixed = id.wrapping_mul(0x9E37_79B9).rotate_left(13) & 0xffff;
    Reading {
        id,
        sensor: format!("sensor-{}", mixed % 20),
        measured: mixed % 1009 - 500,
        second: 4 + id / 100 - mixed % 5,
    }
}

fn csv() -> String {
    let mut text = String::from("id,sensor,measured,event_time\n");
    for Reading { id, sensor, measured, second } in (0..READINGS).map(reading) {
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        writeln!(text, "{id},{sensor},{measured},2024-03-01 {hour:02}:{minute:02}:{second:02}").unwrap();
    }
    text
}

/// Per minute and sensor: count, sum, least, most.
fn oracle() -> BTreeMap<(String, String), [i64; 4]> {
    let mut groups: BTreeMap<(String, String), [i64; 4]> = BTreeMap::new();
    for Reading { sensor, measured, second, .. } in (0..READINGS).map(reading) {
        let minute = format!("2024-03-01 {:02}:{:02}", second / 3600, second / 60 % 60);
        let [count, sum, least, most] = groups.entry((minute, sensor)).or_insert([0, 0, i64::MAX, i64::MIN]);
        *count += 1;
        *sum += measured;
        *least = measured.min(*least);
        *most = measured.max(*most);
    }
    groups
}

fn totals(lines: &str) -> BTreeMap<(String, String), [i64; 4]> {
    let mut found = BTreeMap::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let minute = row["window_start"].as_str().unwrap()[..16].replace('T', " ");
        let values = ["readings", "total", "least", "most"].map(|name| row[name].as_i64().unwrap());
        let key = (minute, row["sensor"].as_str().unwrap().to_owned());
        assert!(found.insert(key, values).is_none(), "twice: {line}");
    }
    found
}

fn check(workshop: &Workshop, outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let (got, want) = (totals(&workshop.read("out/totals.jsonl")), oracle());
    let wrong = want.iter().filter(|(key, values)| got.get(*key) != Some(*values)).take(5);
    assert_eq!(wrong.count(), 0, "{} rows for {}", got.len(), want.len());
    assert_eq!(got.len(), want.len());
    let mut sevenths: Vec<String> = workshop.read("out/sevenths.csv").lines().map(str::to_owned).collect();
    sevenths.sort();
    let mut want: Vec<String> =
        (0..READINGS).step_by(7).map(reading).map(|r| format!("{},{}", r.id, r.measured)).collect();
    want.sort();
    assert_eq!(sevenths.len(), want.len());
    assert!(sevenths == want, "the rows are others");
}

fn check_run(workshop: &Workshop) {
    check(workshop, &workshop.run(&["run", "readings.yaml"]));
}

#[test]
fn killed_at_random_moments_the_files_hold_each_row_once() {
    let csv = csv();
    let mut moments = Moments::new();
    let fresh = || {
        let workshop = Workshop::new();
        workshop.write("readings.csv", &csv);
        workshop.copy("job-runtime/tests/cli/jobs/readings.yaml", "readings.yaml");
        workshop
    };
    // How long a whole run takes here and now, so that the kills fall into one on any machine.
    let begin = std::time::Instant::now();
    check_run(&fresh());
    let whole = begin.elapsed().as_millis() as u64;
    let (mut kills, mut rounds) = (0, 0);
    while kills < KILLS {
        let workshop = fresh();
        let before = kills;
        while kills < KILLS && workshop.start(&["run", "readings.yaml"]).kill_after(moments.between(5, whole.max(20))) {
            kills += 1;
        }
        check_run(&workshop);
        rounds += 1;
        println!("round {rounds}: {} kills", kills - before);
        assert!(rounds < 200, "only {kills} kills hit in {rounds} rounds");
    }
}

fn seconds(lines: &str) -> Vec<(i64, i64, i64)> {
    let mut rows: Vec<(i64, i64, i64)> = lines
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let second = &row["second"].as_str().unwrap()[14..19];
            let (minute, second) = second.split_once(':').unwrap();
            let at = minute.parse::<i64>().unwrap() * 60 + second.parse::<i64>().unwrap();
            (at, row["ticks"].as_i64().unwrap(), row["total"].as_i64().unwrap())
        })
        .collect();
    rows.sort_unstable();
    rows
}

pub(crate) fn ticks() -> Workshop {
    let workshop = Workshop::new();
    workshop.copy("job-runtime/tests/cli/jobs/ticks.yaml", "ticks.yaml");
    workshop
}

pub(crate) fn check_ticks(workshop: &Workshop) {
    let want: Vec<(i64, i64, i64)> =
        (0..150).map(|second| (second, 1000, (second * 1000..(second + 1) * 1000).sum())).collect();
    assert_eq!(seconds(&workshop.read("out/seconds.jsonl")), want);
}

/// Size of everything below `out`, in whatever state of being finished.
fn written(workshop: &Workshop) -> u64 {
    let files = std::fs::read_dir(workshop.path("out")).into_iter().flatten().flatten();
    files.map(|file| file.metadata().map_or(0, |meta| meta.len())).sum()
}

#[test]
fn stopped_by_ctrl_c_or_sigterm_a_job_commits_ends_well_and_goes_on() {
    for signal in ["INT", "TERM"] {
        let workshop = ticks();
        let mut running = workshop.start(&["run", "ticks.yaml"]);
        running.wait_until("output", || written(&workshop) > 0);
        running.signal(signal);
        let stopped = running.end();
        assert_eq!(stopped.code, Some(0), "{stopped:?}");
        assert!(stopped.stderr.contains("stopped: everything read is committed"), "{}", stopped.stderr);
        let rest = workshop.run(&["run", "ticks.yaml", "--report", "json"]);
        assert_eq!(rest.code, Some(0), "{rest:?}");
        let report: Value = serde_json::from_str(rest.stdout.lines().last().unwrap()).unwrap();
        assert!(report["rows_in"].as_i64().unwrap() < 150_000, "it began again: {report}");
        check_ticks(&workshop);
    }
}

#[test]
fn a_generator_goes_on_after_a_kill_with_the_very_next_row() {
    let workshop = ticks();
    let mut moments = Moments::new();
    let mut kills = 0;
    while kills < 5 && workshop.start(&["run", "ticks.yaml"]).kill_after(moments.between(50, 500)) {
        kills += 1;
    }
    assert_eq!(workshop.run(&["run", "ticks.yaml"]).code, Some(0));
    check_ticks(&workshop);
}
