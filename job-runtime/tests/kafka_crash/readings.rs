//! Readings by number, a job that copies them and adds them up, and what must come out of it whatever was cut.
//!
//! A reading's number says all of it, so the oracle runs nothing. It cuts nothing itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use super::broker::{Reader, create_topic, servers, unique};
use super::workshop::{Running, Workshop};

const PARTITIONS: i32 = 2;
const KEYS: u64 = 7;
/// Readings in a second of event time.
pub(crate) const PER_SECOND: u64 = 100;
/// A reading is sent again behind so many others.
const AGAIN: u64 = 150;
/// A point that is not reached in this time, and a job that does not come to its end, has failed.
const DEADLINE: Duration = Duration::from_secs(90);

/// Copies as they are read.
pub(crate) const EACH: &str = "SELECT id, note FROM readings";
/// Copies of what was not copied before: state that holds every reading.
pub(crate) const EACH_ONCE: &str = "SELECT DISTINCT id, note FROM readings";

/// One job with its topics, its folder and its feeder.
pub(crate) struct Rig {
    pub(crate) workshop: Workshop,
    pub(crate) uid: String,
    pub(crate) feeder: Feeder,
    output: Output,
}

/// Copies, and per key and second what readings add up to.
fn job(uid: &str, [input, copies, totals]: &[String; 3], spec: &str, select: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: crash
  uid: {uid}
spec:
  commitInterval: 10ms
{spec}  sql: |
    CREATE TABLE readings (
      id BIGINT, note STRING, sensor BIGINT, at BIGINT, event_time AS TO_TIMESTAMP_LTZ(at, 3),
      WATERMARK FOR event_time AS event_time - INTERVAL '2' SECOND
    ) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE copies (id BIGINT, note STRING) WITH (
      'connector' = 'kafka', 'topic' = '{copies}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    CREATE TABLE totals (sensor BIGINT, least BIGINT, n BIGINT, total BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{totals}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    EXECUTE STATEMENT SET BEGIN
      INSERT INTO copies {select};
      INSERT INTO totals SELECT sensor, MIN(id), COUNT(*), SUM(id)
        FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
        GROUP BY sensor, window_start, window_end;
    END;
"
    )
}

/// So much text that a shard's files are objects of their own, and that does not compress well.
fn note(id: u64) -> String {
    let mut bits = id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut word = || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        format!("{bits:016x}")
    };
    (0..10).map(|_| word()).collect()
}

pub(crate) struct Feeder {
    producer: BaseProducer,
    topic: String,
    /// The next reading.
    pub(crate) next: u64,
    again: bool,
    ended: bool,
}

impl Feeder {
    /// Sends the next readings; if copies are of each once, some of those before them again, which then add nothing.
    pub(crate) fn send(&mut self, count: u64) {
        for id in self.next..self.next + count {
            let at = id * 1000 / PER_SECOND;
            self.put(id, &json!({"id": id, "note": note(id), "sensor": id % KEYS, "at": at}));
            if let Some(before) = id.checked_sub(AGAIN).filter(|before| self.again && before.is_multiple_of(3)) {
                self.put(id, &json!({"id": before, "note": note(before), "sensor": null, "at": at}));
            }
        }
        self.next += count;
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// The rest of a whole second, and a reading far in the future for each partition, once: all windows before it close.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.send(PER_SECOND - self.next % PER_SECOND);
        let end = json!({"id": null, "note": null, "sensor": null, "at": 1_000_000_000});
        (0..PARTITIONS as u64).for_each(|partition| self.put(partition, &end));
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn put(&self, id: u64, reading: &Value) {
        let (partition, text) = ((id % PARTITIONS as u64) as i32, reading.to_string());
        let record = BaseRecord::<(), str>::to(&self.topic).partition(partition).payload(&text);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
    }
}

/// Per key and second: the least reading, how many, and their sum.
type Windows = BTreeMap<(u64, u64), (u64, u64, u64)>;

/// Of readings up to a number.
fn oracle(readings: u64) -> Windows {
    let mut windows = Windows::new();
    for id in 0..readings {
        let window = windows.entry((id % KEYS, id / PER_SECOND)).or_insert((id, 0, 0));
        *window = (window.0, window.1 + 1, window.2 + id);
    }
    windows
}

/// What has come out, as anybody reads it.
struct Output {
    copies: Reader,
    totals: Reader,
    numbers: Vec<u64>,
    windows: Windows,
}

impl Output {
    fn new([_, copies, totals]: &[String; 3]) -> Self {
        let (copies, totals) = (Reader::new(copies, 1), Reader::new(totals, 1));
        Self { copies, totals, numbers: Vec::new(), windows: Windows::new() }
    }

    /// Reads until nothing comes for so long; true if anything came. No window may be there twice.
    fn read(&mut self, patience: Duration) -> bool {
        while self.copies.poll(patience) || self.totals.poll(patience) {}
        let row = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
        let (copies, totals) = (std::mem::take(&mut self.copies.values), std::mem::take(&mut self.totals.values));
        let any = !copies.is_empty() || !totals.is_empty();
        self.numbers.extend(copies.into_iter().map(row).filter_map(|row| row["id"].as_u64()));
        // Readings that were sent again, and those that end the input, have no sensor.
        for row in totals.into_iter().map(row).filter(|row| !row["sensor"].is_null()) {
            let number = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{row}"));
            let (least, key) = (number("least"), number("sensor"));
            let twice = self.windows.insert((key, least / PER_SECOND), (least, number("n"), number("total")));
            assert!(twice.is_none(), "twice: {row}");
        }
        any
    }

    /// True when the last readings of all, and the last windows, are there.
    fn is_at_end(&self, all: u64) -> bool {
        let ends = self.numbers.iter().filter(|number| **number + PARTITIONS as u64 >= all).count();
        let last = |key| self.windows.contains_key(&(key, all / PER_SECOND - 1));
        ends >= PARTITIONS as usize && (0..KEYS).all(last)
    }

    fn counts(&self) -> String {
        format!("{} copies, {} windows", self.numbers.len(), self.windows.len())
    }

    /// Each reading from some number on, per partition, is there once, and each window from some second on. Returns numbers and second.
    fn check(&mut self, all: u64) -> (Vec<u64>, u64) {
        self.numbers.sort_unstable();
        let mut firsts = Vec::new();
        for partition in 0..PARTITIONS as u64 {
            let found: Vec<u64> =
                self.numbers.iter().copied().filter(|id| id % PARTITIONS as u64 == partition).collect();
            let first = *found.first().expect("there are copies of every partition");
            let want: Vec<u64> = (first..all).step_by(PARTITIONS as usize).collect();
            assert!(found == want, "partition {partition}: {} copies, not {}", found.len(), want.len());
            firsts.push(first);
        }
        let since = self.windows.keys().map(|(_, second)| *second).min().expect("there are windows");
        let want: Windows = oracle(all).into_iter().filter(|((_, second), _)| *second >= since).collect();
        let wrong = || want.iter().filter(|(key, window)| self.windows.get(*key) != Some(*window)).take(5);
        assert!(
            self.windows == want,
            "{} windows, not {}: {:?}",
            self.windows.len(),
            want.len(),
            wrong().collect::<Vec<_>>()
        );
        (firsts, since)
    }
}

impl Rig {
    /// Topics and a folder with the job in it; nothing runs yet. `spec` are lines of the job's.
    pub(crate) fn new(spec: &str, select: &str) -> Self {
        let topics = [unique("readings"), unique("copies"), unique("totals")];
        create_topic(&topics[0], PARTITIONS);
        topics[1..].iter().for_each(|topic| create_topic(topic, 1));
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("enable.idempotence", "true").set("linger.ms", "1");
        let again = select == EACH_ONCE;
        let feeder =
            Feeder { producer: config.create().unwrap(), topic: topics[0].clone(), next: 0, again, ended: false };
        Self::with(feeder, &topics, spec, select)
    }

    /// Another job that reads the same readings and writes elsewhere.
    pub(crate) fn beside(self, spec: &str, select: &str) -> Self {
        let topics = [self.feeder.topic.clone(), unique("copies"), unique("totals")];
        topics[1..].iter().for_each(|topic| create_topic(topic, 1));
        Self::with(self.feeder, &topics, spec, select)
    }

    fn with(feeder: Feeder, topics: &[String; 3], spec: &str, select: &str) -> Self {
        let (workshop, uid) = (Workshop::new(), unique("uid"));
        workshop.write("job.yaml", &job(&uid, topics, spec, select));
        Self { workshop, uid, feeder, output: Output::new(topics) }
    }

    /// Runs the job with more arguments and more in its environment, as `NAME=value`.
    pub(crate) fn start(&self, environment: &[&str], more: &[&str]) -> Running {
        let program = [&["env", "RUST_LOG=info"][..], environment, &[env!("CARGO_BIN_EXE_millstream")]].concat();
        self.workshop.start_as(&program, &[&["run", "job.yaml", "--workers", "2"][..], more].concat())
    }

    /// What the process said.
    pub(crate) fn said(&self) -> String {
        self.workshop.read(".stderr")
    }

    /// Feeds little by little, at most up to a number, while the process runs, until something is seen; false if it ended before that.
    pub(crate) fn feed_until(&mut self, running: &mut Running, most: u64, mut seen: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while running.runs() {
            if seen(self) {
                return true;
            }
            assert!(Instant::now() < deadline, "not reached: {}", self.said());
            self.feeder.send(most.saturating_sub(self.feeder.next).min(8));
            std::thread::sleep(Duration::from_millis(15));
        }
        false
    }

    /// Feeds until so many readings more are copied.
    pub(crate) fn passes(&mut self, running: &mut Running, more: usize) {
        let goal = self.output.numbers.len() + more;
        let deadline = Instant::now() + DEADLINE;
        while self.output.numbers.len() < goal {
            assert!(running.runs(), "ended by itself: {}", self.said());
            assert!(Instant::now() < deadline, "not {goal} copies: {}: {}", self.output.counts(), self.said());
            self.feeder.send(8);
            self.output.read(Duration::from_millis(15));
        }
    }

    /// Ends the input, waits for all that must come out of it, and compares. Returns the first reading of each partition of which there is a
    /// copy, and the first second of which there are windows.
    pub(crate) fn compare(&mut self, running: &mut Running) -> (Vec<u64>, u64) {
        self.feeder.end();
        let (all, deadline) = (self.feeder.next, Instant::now() + DEADLINE);
        while !self.output.is_at_end(all) {
            assert!(running.runs(), "ended by itself: {}", self.said());
            assert!(Instant::now() < deadline, "{all} readings, {}: {}", self.output.counts(), self.said());
            self.output.read(Duration::from_millis(20));
        }
        self.output.read(Duration::from_millis(300));
        self.output.check(all)
    }

    /// As [`Self::compare`], of a job that has had all readings.
    pub(crate) fn compare_all(&mut self, running: &mut Running) {
        let from_the_beginning: (Vec<u64>, u64) = ((0..PARTITIONS as u64).collect(), 0);
        assert_eq!(self.compare(running), from_the_beginning, "first readings, first second");
    }

    /// Ends the job; nothing more may come.
    pub(crate) fn stop(&mut self, running: Running) {
        running.signal("TERM");
        let outcome = running.end();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(!self.output.read(Duration::from_millis(200)), "more has come");
    }
}
