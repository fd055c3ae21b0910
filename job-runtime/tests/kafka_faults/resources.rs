//! A disk that is full and memory that is short: many keys, most rows of one of them. The pod ends with words that say what is missing and
//! where, or stays below its limit; and what comes out in the end is exact.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use super::broker::{Reader, create_topic, servers, unique};
use super::rig::{Home, Kept, last_outcome};
use super::workshop::Running;

const PARTITIONS: u64 = 2;
/// Every other row is of the first key.
const KEYS: u64 = 60_000;
const ROWS: u64 = 2 * KEYS;
const DEADLINE: Duration = Duration::from_secs(120);

/// So many letters that do not compress well; the same for the same number.
pub(crate) fn noise(number: u64, length: usize) -> String {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letter = || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"[(bits >> 40) as usize % 64])
    };
    (0..length).map(|_| letter()).collect()
}

/// The key of a row.
fn key(row: u64) -> String {
    let number = if row.is_multiple_of(2) { 0 } else { row / 2 + 1 };
    format!("{number}-{}", noise(number, 120))
}

/// Counts per key in one window that only the end of the input closes.
struct Counts {
    input: String,
    output: String,
    uid: String,
    job: String,
}

impl Counts {
    fn new(shards: u16) -> Self {
        let (input, output) = (unique("many"), unique("counts"));
        create_topic(&input, PARTITIONS as i32);
        create_topic(&output, 1);
        let servers = servers();
        let job = format!(
            "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: faults
spec:
  shards: {shards}
  workers: {shards}
  stateMemory: 10Mi
  sql: |
    CREATE TABLE many (
      k STRING, at BIGINT, event_time AS TO_TIMESTAMP_LTZ(at, 3), WATERMARK FOR event_time AS event_time
    ) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE counts (k STRING, n BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    INSERT INTO counts SELECT k, COUNT(*)
      FROM TABLE(TUMBLE(TABLE many, DESCRIPTOR(event_time), INTERVAL '1' HOUR)) GROUP BY k, window_start, window_end;
"
        );
        let counts = Self { input, output, uid: unique("uid"), job };
        counts.feed();
        counts
    }

    fn feed(&self) {
        let row = |row: u64| (row / 2 % PARTITIONS, json!({"k": key(row), "at": row % 1000}));
        self.send((0..ROWS).map(row));
        self.end();
    }

    /// A record for each partition that closes all windows but its own.
    fn end(&self) {
        self.send((0..PARTITIONS).map(|partition| (partition, json!({"k": null, "at": 100_000_000_000_u64}))));
    }

    fn send(&self, records: impl Iterator<Item = (u64, Value)>) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("enable.idempotence", "true");
        let producer: BaseProducer = config.create().unwrap();
        for (partition, value) in records {
            let text = value.to_string();
            let mut record = BaseRecord::<(), str>::to(&self.input).partition(partition as i32).payload(&text);
            while let Err((_, again)) = producer.send(record) {
                producer.poll(Duration::from_millis(10));
                record = again;
            }
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    fn home(&self) -> Home {
        Home::new(&self.job, &self.uid, "")
    }

    /// Everything comes out, once.
    fn finish(&self, mut pod: Kept, mut look: impl FnMut(&Kept)) -> Vec<(String, String)> {
        let mut reader = Reader::new(&self.output, 1);
        let deadline = Instant::now() + DEADLINE;
        while reader.values.len() < KEYS as usize + 1 {
            while reader.poll(Duration::from_millis(20)) {}
            pod.mend();
            look(&pod);
            assert!(Instant::now() < deadline, "{} rows: {}", reader.values.len(), pod.home.said());
        }
        pod.stop();
        assert!(!reader.poll(Duration::from_millis(300)), "nothing more comes");
        let mut want: BTreeMap<String, u64> = BTreeMap::new();
        (0..ROWS).for_each(|row| *want.entry(key(row)).or_default() += 1);
        let mut found = BTreeMap::new();
        for text in &reader.values {
            let row: Value = serde_json::from_str(text).unwrap();
            let twice = found.insert(row["k"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap());
            assert!(twice.is_none(), "twice: {text}");
        }
        assert!(found == want, "{} keys of {}", found.len(), want.len());
        pod.ended
    }
}

#[test]
#[ignore = "needs the lab"]
fn long_a_full_disk_for_state_ends_the_pod_with_its_name_and_loses_nothing() {
    let counts = Counts::new(1);
    let home = counts.home();
    std::fs::create_dir(home.shop.path("state")).unwrap();
    // A mount that only the process sees, and that goes away with it. Room to begin with, of which the database takes 4 MB at once.
    let script = "mount -t tmpfs -o size=6m tmpfs state && exec \"$0\" \"$@\"";
    let root = std::process::Command::new("id").arg("-u").output().unwrap().stdout.trim_ascii() == b"0";
    let mut command = vec!["unshare", "--mount"];
    if !root {
        command.push("--map-root-user");
    }
    command.extend(["sh", "-c", script]);
    let (reason, message) = last_outcome(&home, &home.start_by(&command, &[]).end());
    assert_eq!(reason, "StateFailed", "{message}");
    assert!(
        message.contains("shard 0") && message.contains("No space left") && message.contains("free some"),
        "{message}"
    );
    // Room is made: the state is not there any more, the log is. A partition's event time comes with its next record.
    counts.end();
    let ended = counts.finish(home.keep(), |_| {});
    assert!(ended.is_empty(), "{ended:?}");
    println!("disk full: {message}; then {KEYS} keys exact");
}

/// A group of processes whose memory the kernel bounds, in either version of control groups.
struct Bounded(PathBuf);

impl Bounded {
    /// `None` if the machine does not let us make one.
    fn new(bytes: u64) -> Option<Self> {
        let name = unique("millstream-faults");
        let limits = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        limits.into_iter().find_map(|(root, limit)| {
            let group = Self(Path::new(root).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    fn script(&self) -> String {
        format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display())
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        // Empty when its process has ended; a failure must not hide the test's own.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The most memory that a process has had, in bytes.
fn peak(process: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What a pod of 10 MiB for state may take: the rest is the program, its batches, the client's buffers and the commits under way.
const LIMIT: u64 = 192 << 20;

#[test]
#[ignore = "needs the lab"]
fn long_many_keys_and_one_that_has_half_of_all_rows_fit_into_the_pods_memory() {
    let counts = Counts::new(2);
    let home = counts.home();
    let group = Bounded::new(LIMIT);
    if group.is_none() {
        println!("no control group can be made here: the peak is measured, and nothing enforces it");
    }
    let script = group.as_ref().map_or_else(|| "exec \"$0\" \"$@\"".to_owned(), Bounded::script);
    let running = home.start_by(&["sh", "-c", &script], &[]);
    let mut most = 0;
    let ended = counts.finish(home.keep_running(running), |pod| {
        most = pod.running.as_ref().map_or(most, |process| most.max(peak(process)));
    });
    assert!(ended.is_empty(), "{ended:?}");
    assert!((32 << 20..LIMIT).contains(&most), "a peak of {} MiB", most >> 20);
    println!("{KEYS} keys, half of the rows of one: at most {} MiB of {}", most >> 20, LIMIT >> 20);
}
