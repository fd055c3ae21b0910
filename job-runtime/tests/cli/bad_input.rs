//! What Millstream says when something is wrong: each message is a file of the book (`docs/src/errors`), and this is where it comes from.
//!
//! Run with SNAPSHOTS=overwrite to write the files again after a message has changed on purpose.

use snapbox::{Data, assert_data_eq};

use super::workshop::{Outcome, Workshop};

/// A job that is right. Each case spoils one thing.
const JOB: &str = "\
apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: orders
spec:
  sql: |
    CREATE TABLE orders (
      id      BIGINT,
      amount  INT,
      placed  TIMESTAMP(3),
      WATERMARK FOR placed AS placed - INTERVAL '1' MINUTE
    ) WITH (
      'connector' = 'filesystem',
      'path' = 'orders.csv',
      'format' = 'csv'
    );
    CREATE TABLE large (id BIGINT, amount INT) WITH (
      'connector' = 'filesystem',
      'path' = 'large.jsonl',
      'format' = 'json'
    );
    INSERT INTO large SELECT id, amount FROM orders WHERE amount > 100;
";
const ORDERS: &str = "1,50,2024-03-01 10:00:00\n2,150,2024-03-01 10:00:01\n3,250,2024-03-01 10:00:02\n";

fn workshop(job: &str) -> Workshop {
    let workshop = Workshop::new();
    workshop.write("job.yaml", job);
    workshop.write("orders.csv", ORDERS);
    workshop
}

fn spoilt(right: &str, wrong: &str) -> Workshop {
    assert!(JOB.contains(right), "{right}");
    workshop(&JOB.replace(right, wrong))
}

/// The message is the one of the book, and the exit code the promised one.
fn says(workshop: &Workshop, outcome: &Outcome, code: i32, page: &str) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let dir = workshop.dir().canonicalize().unwrap().display().to_string();
    let text = outcome.stderr.replace(&dir, "/home/you").replace(&workshop.dir().display().to_string(), "/home/you");
    let path = format!("{}/../docs/src/errors/{page}.txt", env!("CARGO_MANIFEST_DIR"));
    assert_data_eq!(text, Data::read_from(path.as_ref(), None).raw());
}

fn run(workshop: &Workshop) -> Outcome {
    workshop.run(&["run", "job.yaml"])
}

#[test]
fn the_job_that_the_cases_spoil_is_right() {
    let workshop = workshop(JOB);
    assert_eq!(run(&workshop).code, Some(0));
    assert_eq!(workshop.read("large.jsonl").lines().count(), 2);
}

#[test]
fn yaml_that_is_no_stream_job() {
    let workshop = workshop("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: orders\n");
    says(&workshop, &run(&workshop), 2, "no-stream-job");
}

#[test]
fn yaml_that_is_no_yaml() {
    let workshop = workshop("apiVersion: millstream.io/v1alpha1\nkind: [StreamJob\n");
    says(&workshop, &run(&workshop), 2, "no-yaml");
}

#[test]
fn unknown_field() {
    let workshop = spoilt("spec:\n", "spec:\n  comitInterval: 1s\n");
    says(&workshop, &run(&workshop), 2, "unknown-field");
}

#[test]
fn unknown_option() {
    let workshop = spoilt("'format' = 'csv'", "'format' = 'csv',\n      'csv.heder' = 'true'");
    says(&workshop, &run(&workshop), 2, "unknown-option");
}

#[test]
fn wrong_sql() {
    let workshop = spoilt("WHERE amount > 100", "WHER amount > 100");
    says(&workshop, &run(&workshop), 2, "wrong-sql");
}

#[test]
fn unknown_table() {
    let workshop = spoilt("FROM orders", "FROM order_s");
    says(&workshop, &run(&workshop), 2, "unknown-table");
}

#[test]
fn type_mismatch() {
    let workshop = spoilt("SELECT id, amount FROM", "SELECT id, placed FROM");
    says(&workshop, &run(&workshop), 2, "type-mismatch");
}

#[test]
fn watermark_on_a_column_that_is_no_time() {
    let workshop = spoilt("WATERMARK FOR placed AS placed - INTERVAL '1' MINUTE", "WATERMARK FOR amount AS amount");
    says(&workshop, &run(&workshop), 2, "watermark-no-time");
}

#[test]
fn missing_job_file() {
    let workshop = Workshop::new();
    says(&workshop, &run(&workshop), 2, "missing-job-file");
}

#[test]
fn missing_input_file() {
    let workshop = spoilt("'path' = 'orders.csv'", "'path' = 'order.csv'");
    says(&workshop, &run(&workshop), 3, "missing-file");
}

#[test]
fn directory_that_cannot_be_written() {
    let workshop = spoilt("'path' = 'large.jsonl'", "'path' = 'closed/large.jsonl'");
    let closed = workshop.path("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    // To root every directory is writable: without capabilities, root is like everybody.
    let plain = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let binary = env!("CARGO_BIN_EXE_millstream");
    let command: Vec<&str> = if is_root() { plain.into_iter().chain([binary]).collect() } else { vec![binary] };
    let outcome = workshop.start_as(&command, &["run", "job.yaml"]).end();
    says(&workshop, &outcome, 3, "directory-not-writable");
}

#[test]
fn malformed_record_stops_the_job_with_file_and_line() {
    let workshop = workshop(JOB);
    workshop.write("orders.csv", &ORDERS.replace("150", "many"));
    says(&workshop, &run(&workshop), 1, "malformed-record");
}

#[test]
fn malformed_record_is_skipped_and_counted_if_the_table_says_so() {
    let workshop = spoilt("'format' = 'csv'", "'format' = 'csv',\n      'on-error' = 'skip'");
    workshop.write("orders.csv", &ORDERS.replace("150", "many"));
    let outcome = run(&workshop);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("1 record did not fit: left out"), "{}", outcome.stderr);
    assert_eq!(workshop.read("large.jsonl").lines().count(), 1);
}

#[test]
fn malformed_record_goes_to_the_dead_letter_file_if_the_table_says_so() {
    let option = "'format' = 'csv',\n      'on-error' = 'dead-letter',\n      'dead-letter.path' = 'bad.jsonl'";
    let workshop = spoilt("'format' = 'csv'", option);
    workshop.write("orders.csv", &ORDERS.replace("150", "many"));
    let outcome = run(&workshop);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("1 record did not fit: dead letters"), "{}", outcome.stderr);
    assert_eq!(workshop.read("large.jsonl").lines().count(), 1);
    assert!(workshop.read("bad.jsonl").contains("2,many,2024-03-01 10:00:01"));
}

#[test]
fn state_directory_of_another_job() {
    let workshop = workshop(JOB);
    assert_eq!(workshop.run(&["run", "job.yaml", "--state-dir", "state"]).code, Some(0));
    workshop.write("job.yaml", &JOB.replace("name: orders", "name: refunds"));
    let outcome = workshop.run(&["run", "job.yaml", "--state-dir", "state"]);
    says(&workshop, &outcome, 3, "state-of-another-job");
}

#[test]
fn disk_full() {
    let workshop = spoilt("'path' = 'large.jsonl'", "'path' = 'small/large.jsonl'");
    let job = workshop
        .read("job.yaml")
        .replace("name: orders\n", "name: orders\n  uid: 5d41402a-bc4b-4a76-b971-9d911017c592\n")
        // However slow the machine is, the disk is full before the first commit gives the file its name.
        .replace("spec:\n", "spec:\n  commitInterval: 30s\n");
    workshop.write("job.yaml", &job);
    let rows: String = (0..100_000).map(|id| format!("{id},150,2024-03-01 10:00:00\n")).collect();
    workshop.write("orders.csv", &rows);
    std::fs::create_dir(workshop.path("small")).unwrap();
    // A mount that only the process sees, and that goes away with it.
    let script = "mount -t tmpfs -o size=256k tmpfs small && exec \"$0\" \"$@\"";
    let mut command = vec!["unshare", "--mount"];
    if !is_root() {
        command.push("--map-root-user");
    }
    command.extend(["sh", "-c", script, env!("CARGO_BIN_EXE_millstream")]);
    let outcome = workshop.start_as(&command, &["run", "job.yaml"]).end();
    says(&workshop, &outcome, 1, "disk-full");
}

#[test]
fn broker_that_is_not_there() {
    let workshop = spoilt(
        "'connector' = 'filesystem',\n      'path' = 'large.jsonl'",
        // Nothing listens on port 1.
        "'connector' = 'kafka',\n      'topic' = 'large',\n      'properties.bootstrap.servers' = 'localhost:1'",
    );
    let mut outcome = run(&workshop);
    // How long the client tried and how often is other at each run.
    let (before, rest) = outcome.stderr.split_once(" (after ").unwrap();
    let (_, after) = rest.split_once("); check").unwrap();
    outcome.stderr = format!("{before}); check{after}");
    says(&workshop, &outcome, 3, "no-broker");
}

fn is_root() -> bool {
    let uid = std::process::Command::new("id").arg("-u").output().unwrap().stdout;
    uid.trim_ascii() == b"0"
}
