//! Records that do not fit: each is a dead letter once, whatever is killed, and a job of nothing else stays small.

use std::fmt::Write;

use serde_json::Value;

use super::workshop::{Moments, Workshop};

const RECORDS: usize = 150_000;
const KILLS: usize = 10;

const JOB: &str = "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: parcels
spec:
  sql: |
    CREATE TABLE small (id BIGINT, weight INT) WITH (
      'connector' = 'filesystem', 'path' = 'parcels/a.csv', 'format' = 'csv',
      'on-error' = 'dead-letter', 'dead-letter.path' = 'out/letters.jsonl'
    );
    CREATE TABLE large (id BIGINT, weight INT) WITH (
      'connector' = 'filesystem', 'path' = 'parcels/large', 'format' = 'csv',
      'on-error' = 'dead-letter', 'dead-letter.path' = 'out/letters.jsonl'
    );
    CREATE TABLE heavy (id BIGINT, weight INT) WITH (
      'connector' = 'filesystem', 'path' = 'out/heavy.csv', 'format' = 'csv'
    );
    INSERT INTO heavy SELECT id, weight FROM small UNION ALL SELECT id, weight FROM large;
";

fn is_bad(id: usize) -> bool {
    id % 5 == 3 || id % 1000 < 40
}

const FILES: [&str; 3] = ["parcels/a.csv", "parcels/large/b.csv", "parcels/large/c.csv"];

/// Three files of two tables, which write letters to one file.
fn parcels() -> [String; 3] {
    let mut files = [const { String::new() }; 3];
    for id in 0..RECORDS {
        let weight = if is_bad(id) { "heavy".to_owned() } else { (id % 50).to_string() };
        writeln!(files[id % 3], "{id},{weight}").unwrap();
    }
    files
}

fn workshop(files: &[String; 3]) -> Workshop {
    let workshop = Workshop::new();
    workshop.write("job.yaml", JOB);
    std::fs::create_dir_all(workshop.path("parcels/large")).unwrap();
    FILES.iter().zip(files).for_each(|(name, text)| workshop.write(name, text));
    workshop
}

fn check(workshop: &Workshop) {
    let outcome = workshop.run(&["run", "job.yaml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let number = |text: &str| text.split(',').next().unwrap().parse::<usize>().unwrap();
    let mut good: Vec<usize> = workshop.read("out/heavy.csv").lines().map(number).collect();
    good.sort_unstable();
    assert!(good == (0..RECORDS).filter(|id| !is_bad(*id)).collect::<Vec<_>>(), "{} rows", good.len());
    let mut bad = Vec::new();
    for line in workshop.read("out/letters.jsonl").lines() {
        let letter: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let id = number(letter["record"].as_str().unwrap());
        // Line by line, one record for each file in turn.
        assert_eq!(letter["line"].as_u64(), Some(id as u64 / 3 + 1), "{line}");
        assert!(letter["file"].as_str().unwrap().ends_with(FILES[id % 3]), "{line}");
        assert_eq!(letter["table"], if id % 3 == 0 { "small" } else { "large" });
        assert_eq!(letter["record"], format!("{id},heavy"));
        bad.push(id);
    }
    bad.sort_unstable();
    assert!(bad == (0..RECORDS).filter(|id| is_bad(*id)).collect::<Vec<_>>(), "{} letters", bad.len());
}

#[test]
fn killed_at_random_moments_each_dead_letter_is_written_once() {
    let files = parcels();
    let begin = std::time::Instant::now();
    check(&workshop(&files));
    let whole = begin.elapsed().as_millis() as u64;
    let mut moments = Moments::new();
    let (mut kills, mut rounds) = (0, 0);
    while kills < KILLS {
        let workshop = workshop(&files);
        while kills < KILLS && workshop.start(&["run", "job.yaml"]).kill_after(moments.between(5, whole.max(20))) {
            kills += 1;
        }
        check(&workshop);
        rounds += 1;
        assert!(rounds < 100, "only {kills} kills hit in {rounds} rounds");
    }
}

#[test]
fn a_job_whose_every_record_is_bad_stays_small_and_loses_none() {
    let workshop = Workshop::new();
    workshop.write("job.yaml", JOB);
    std::fs::create_dir_all(workshop.path("parcels/large")).unwrap();
    workshop.write(FILES[1], "");
    let records = 200_000;
    workshop.write(FILES[0], &format!("many,{}\n", "x".repeat(400)).repeat(records));
    let outcome = workshop.run(&["run", "job.yaml", "--report", "json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&report["dead_letters"], &report["rows_in"]), (&records.into(), &0.into()));
    let letters = std::fs::metadata(workshop.path("out/letters.jsonl")).unwrap().len();
    let peak = report["peak_rss_bytes"].as_u64().unwrap();
    println!("{letters} bytes of letters, {peak} bytes of memory at most");
    assert!(letters > 100 << 20, "{letters}");
    assert!(peak < 128 << 20, "{peak}");
}
