//! Every step of a start and of a commit on a real broker, cut before it, after it, and with its answer lost: each time what an independent
//! `read_committed` reader sees in the end is exactly the oracle's. Nothing is tried twice.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broker::{Reader, create_topic, servers, unique};
use job_runtime::crash::Step;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use workshop::{Running, Workshop};

const PARTITIONS: i32 = 2;
const KEYS: u64 = 7;
/// Seconds of event time, of `PER_SECOND` readings each.
const SECONDS: u64 = 40;
const PER_SECOND: u64 = 25;
/// A case whose point is not reached in this time has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Rows as they are read and per key and second what they add up to: one sink without state, one with.
fn job(input: &str, copies: &str, totals: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: crash
spec:
  commitInterval: 10ms
  shards: 4
  sql: |
    CREATE TABLE readings (
      id BIGINT, sensor BIGINT, at BIGINT, event_time AS TO_TIMESTAMP_LTZ(at, 3),
      WATERMARK FOR event_time AS event_time - INTERVAL '2' SECOND
    ) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE copies (id BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{copies}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    CREATE TABLE totals (sensor BIGINT, n BIGINT, total BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{totals}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    EXECUTE STATEMENT SET BEGIN
      INSERT INTO copies SELECT id FROM readings;
      INSERT INTO totals SELECT sensor, COUNT(*), SUM(id)
        FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
        GROUP BY sensor, window_start, window_end;
    END;
"
    )
}

struct Feeder {
    producer: BaseProducer,
    topic: String,
    next: u64,
}

impl Feeder {
    fn new(topic: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("enable.idempotence", "true").set("linger.ms", "1");
        Self { producer: config.create().unwrap(), topic: topic.to_owned(), next: 0 }
    }

    fn all() -> u64 {
        SECONDS * PER_SECOND
    }

    /// Sends the next readings, at most so many.
    fn send(&mut self, count: u64) {
        for id in self.next..(self.next + count).min(Self::all()) {
            let reading = json!({"id": id, "sensor": id % KEYS, "at": id * 1000 / PER_SECOND});
            self.put((id % PARTITIONS as u64) as i32, &reading.to_string());
            self.next = id + 1;
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// A reading far in the future for each partition: all windows before it close.
    fn end(&self) {
        for partition in 0..PARTITIONS {
            self.put(partition, &json!({"id": null, "sensor": null, "at": 1_000_000_000}).to_string());
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn put(&self, partition: i32, text: &str) {
        let record = BaseRecord::<(), str>::to(&self.topic).partition(partition).payload(text);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
    }
}

/// Per key and second: how many, and their sum; as rows that may come in any order.
fn oracle() -> Vec<(u64, u64, u64)> {
    let mut windows: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for id in 0..Feeder::all() {
        let window = windows.entry((id % KEYS, id * 1000 / PER_SECOND / 1000)).or_default();
        *window = (window.0 + 1, window.1 + id);
    }
    let mut rows: Vec<_> = windows.into_iter().map(|((sensor, _), (n, total))| (sensor, n, total)).collect();
    rows.sort_unstable();
    rows
}

fn start(workshop: &Workshop, point: &str) -> Running {
    let point = format!("MILLSTREAM_CRASH={point}");
    workshop.start_as(&["env", &point, env!("CARGO_BIN_EXE_millstream")], &["run", "job.yaml", "--workers", "2"])
}

/// Runs one case; returns what it took.
fn cut(point: &str) -> Duration {
    let begin = Instant::now();
    let topics = [unique("readings"), unique("copies"), unique("totals")];
    create_topic(&topics[0], PARTITIONS);
    topics[1..].iter().for_each(|topic| create_topic(topic, 1));
    let workshop = Workshop::new();
    workshop.write("job.yaml", &job(&topics[0], &topics[1], &topics[2]));
    let mut feeder = Feeder::new(&topics[0]);
    let mut dying = start(&workshop, point);
    // Fed little by little, so that there are many commits; half stays for the runs after it.
    while dying.runs() {
        assert!(begin.elapsed() < DEADLINE, "{point} is not reached: {}", workshop.read(".stderr"));
        let left = (Feeder::all() / 2).saturating_sub(feeder.next);
        feeder.send(left.min(PER_SECOND));
        std::thread::sleep(Duration::from_millis(15));
    }
    let outcome = dying.end();
    let killed = outcome.code.is_none();
    assert!(killed || point.contains(":lost") || point.contains(":unsent"), "{point}: {outcome:?}");
    assert!(killed || matches!(outcome.code, Some(1 | 3)), "{point}: {outcome:?}");
    let job = start_plain(&workshop);
    feeder.send(u64::MAX / 2);
    feeder.end();
    let want = oracle();
    let (mut copies, mut totals) = (Reader::new(&topics[1], 1), Reader::new(&topics[2], 1));
    totals.until(want.len());
    copies.until(Feeder::all() as usize + PARTITIONS as usize);
    job.signal("TERM");
    let outcome = job.end();
    assert_eq!(outcome.code, Some(0), "{point}: {outcome:?}");
    for reader in [&mut copies, &mut totals] {
        while reader.poll(Duration::from_millis(300)) {}
    }
    let field = |row: &Value, name: &str| row[name].as_u64();
    let rows =
        |reader: &Reader| -> Vec<Value> { reader.values.iter().map(|v| serde_json::from_str(v).unwrap()).collect() };
    let mut ids: Vec<u64> = rows(&copies).iter().filter_map(|row| field(row, "id")).collect();
    ids.sort_unstable();
    assert!(ids == (0..Feeder::all()).collect::<Vec<_>>(), "{point}: {} copies for {}", ids.len(), Feeder::all());
    let number = |row: &Value, name: &str| field(row, name).unwrap_or_else(|| panic!("{row}"));
    let mut got: Vec<_> =
        rows(&totals).iter().map(|row| (number(row, "sensor"), number(row, "n"), number(row, "total"))).collect();
    got.sort_unstable();
    assert_eq!(got, want, "{point}");
    begin.elapsed()
}

fn start_plain(workshop: &Workshop) -> Running {
    workshop.start(&["run", "job.yaml", "--workers", "2"])
}

#[test]
#[ignore = "needs the lab"]
fn every_point_of_a_start_and_of_a_commit_can_be_cut() {
    let mut cases = Vec::new();
    for step in Step::ALL {
        // Steps of a commit are cut in the second one, when there is something to lose.
        let time = match step {
            Step::Fence | Step::Topics | Step::Assign | Step::Restore => 1,
            Step::Poll | Step::Write | Step::Changelog | Step::Flush | Step::Offsets | Step::End | Step::Apply => 2,
        };
        let lost = step.has_answer().then_some("lost");
        // The step that decides, asked for and never heard of.
        let unsent = (step == Step::End).then_some("unsent");
        let places = ["before", "after"].into_iter().chain(lost).chain(unsent);
        cases.extend(places.map(|place| format!("{}:{place}:{time}", step.name())));
    }
    // One of them alone, for whoever looks into it.
    if let Ok(one) = std::env::var("CASE") {
        cases = vec![one];
    }
    for case in &cases {
        println!("{case}: {:.1} s", cut(case).as_secs_f64());
    }
    println!("{} cases", cases.len());
}
