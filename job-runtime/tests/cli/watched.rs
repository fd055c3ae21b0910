//! A watched directory: files that come while the job runs, or while it does not, are read, each once, whatever is killed.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::workshop::{Moments, Workshop};

const ROWS: usize = 50;
/// More than may be open at a time.
const AT_ONCE: usize = 150;

const JOB: &str = "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: inbox
spec:
  workers: 3
  sql: |
    CREATE TABLE inbox (id BIGINT, text STRING) WITH (
      'connector' = 'filesystem', 'path' = 'inbox', 'format' = 'csv', 'csv.header' = 'true', 'source.monitor-interval' = '20 ms'
    );
    CREATE TABLE kept (id BIGINT, text STRING) WITH (
      'connector' = 'filesystem', 'path' = 'out/kept.csv', 'format' = 'csv'
    );
    INSERT INTO kept SELECT id, text FROM inbox;
";

fn workshop() -> Workshop {
    let workshop = Workshop::new();
    workshop.write("job.yaml", JOB);
    std::fs::create_dir(workshop.path("inbox")).unwrap();
    workshop
}

/// Puts a whole file into the directory at once, as one should.
fn post(workshop: &Workshop, number: usize) {
    let mut text = "id,text\n".to_owned();
    (0..ROWS).for_each(|row| writeln!(text, "{},row {row}", number * ROWS + row).unwrap());
    workshop.write("inbox/.coming", &text);
    std::fs::rename(workshop.path("inbox/.coming"), workshop.path(&format!("inbox/{number:04}.csv"))).unwrap();
}

fn ids(workshop: &Workshop) -> Vec<usize> {
    let text = std::fs::read_to_string(workshop.path("out/kept.csv")).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(',')?.0.parse().ok()).collect()
}

fn check(workshop: &Workshop, files: usize) {
    let found = ids(workshop);
    let distinct: BTreeSet<usize> = found.iter().copied().collect();
    assert_eq!((found.len(), distinct.len()), (files * ROWS, files * ROWS));
}

#[test]
fn files_that_come_are_read_once_while_it_runs_and_after_a_stop() {
    let workshop = workshop();
    post(&workshop, 0);
    let mut job = workshop.start(&["run", "job.yaml"]);
    job.wait_until("the first file", || ids(&workshop).len() >= ROWS);
    (1..5).for_each(|number| post(&workshop, number));
    job.wait_until("more files", || ids(&workshop).len() >= 5 * ROWS);
    (5..5 + AT_ONCE).for_each(|number| post(&workshop, number));
    job.wait_until("many files", || ids(&workshop).len() >= (5 + AT_ONCE) * ROWS);
    job.signal("TERM");
    let outcome = job.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    check(&workshop, 5 + AT_ONCE);
    // Read files may go, new ones may come, and nobody looks.
    (0..50).for_each(|number| std::fs::remove_file(workshop.path(&format!("inbox/{number:04}.csv"))).unwrap());
    post(&workshop, 5 + AT_ONCE);
    let mut job = workshop.start(&["run", "job.yaml"]);
    job.wait_until("the last file", || ids(&workshop).len() >= (6 + AT_ONCE) * ROWS);
    job.signal("TERM");
    assert_eq!(job.end().code, Some(0));
    check(&workshop, 6 + AT_ONCE);
}

#[test]
fn killed_while_files_come_it_reads_each_once() {
    let workshop = workshop();
    let (mut moments, mut posted) = (Moments::new(), 0);
    for _ in 0..8 {
        let job = workshop.start(&["run", "job.yaml"]);
        for _ in 0..12 {
            post(&workshop, posted);
            posted += 1;
            std::thread::sleep(moments.between(1, 40));
        }
        assert!(job.kill_after(moments.between(1, 300)), "a job without end");
    }
    post(&workshop, posted);
    let mut job = workshop.start(&["run", "job.yaml"]);
    job.wait_until("all files", || ids(&workshop).len() > posted * ROWS);
    job.signal("TERM");
    assert_eq!(job.end().code, Some(0));
    check(&workshop, posted + 1);
}

#[test]
fn a_new_file_that_cannot_be_read_ends_the_job_with_its_name() {
    let workshop = workshop();
    post(&workshop, 0);
    let mut job = workshop.start(&["run", "job.yaml"]);
    job.wait_until("the first file", || ids(&workshop).len() >= ROWS);
    workshop.write("inbox/.coming", "number,text\n1,x\n");
    std::fs::rename(workshop.path("inbox/.coming"), workshop.path("inbox/wrong.csv")).unwrap();
    let outcome = job.end();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("wrong.csv: the header has no column id"), "{}", outcome.stderr);
}
