//! Savepoints of a job of several pods on a real broker: ordered over the pods' control port, taken while rows cross the shuffle, cut by SIGKILL,
//! and gone on from by another job of more pods and other shards. What an independent `read_committed` reader sees of both jobs together is
//! exactly what an oracle says.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "cli/tls.rs"]
mod tls;
#[path = "cli/tokens.rs"]
#[expect(dead_code, reason = "shared with the tests of the control port")]
mod tokens;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use broker::{Reader, create_topic, servers, unique};
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use tokens::{SigningKey, access, claims};
use workshop::{Moments, Running, Workshop};

const PARTITIONS: i32 = 3;
const KEYS: i64 = 40;
/// Event time per record, in milliseconds.
const STEP: i64 = 7;
const WINDOW: i64 = 1_000;

/// By window and key: count and sum.
type Answer = BTreeMap<(i64, i64), (i64, i64)>;

fn oracle(records: i64) -> Answer {
    let mut out = Answer::new();
    for id in 0..records {
        let group = out.entry((id * STEP / WINDOW * WINDOW, key_of(id))).or_default();
        *group = (group.0 + 1, group.1 + id);
    }
    out
}

fn key_of(id: i64) -> i64 {
    id.wrapping_mul(0x9E37_79B9).rotate_left(17).rem_euclid(KEYS)
}

fn answer(records: &[String]) -> Answer {
    let mut out = Answer::new();
    for record in records {
        let row: Value = serde_json::from_str(record).unwrap();
        let number = |name: &str| row[name].as_i64().unwrap();
        let key = (number("first") * STEP / WINDOW * WINDOW, number("k"));
        assert!(out.insert(key, (number("n"), number("total"))).is_none(), "twice: {record}");
    }
    out
}

struct Feeder {
    producer: BaseProducer,
    topic: String,
    next: i64,
}

impl Feeder {
    fn new(topic: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("enable.idempotence", "true").set("linger.ms", "1");
        Self { producer: config.create().unwrap(), topic: topic.to_owned(), next: 0 }
    }

    fn send(&self, partition: i32, text: &str) {
        let record = BaseRecord::<(), str>::to(&self.topic).partition(partition).payload(text);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    /// Sends records, each a millisecond after the last.
    fn feed(&mut self, records: i64) {
        for _ in 0..records {
            let id = self.next;
            self.next += 1;
            let record = json!({"ts": id * STEP, "id": id, "k": key_of(id)}).to_string();
            self.send((id % i64::from(PARTITIONS)) as i32, &record);
            std::thread::sleep(Duration::from_micros(900));
        }
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// What closes all windows.
    fn end(&self) {
        let record = json!({"ts": i64::from(u32::MAX) * 1000, "id": -1, "k": -1}).to_string();
        (0..PARTITIONS).for_each(|partition| self.send(partition, &record));
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }
}

fn job(input: &str, output: &str, shards: u16) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata: {{name: totals}}
spec:
  shards: {shards}
  workers: 2
  commitInterval: 20ms
  sql: |
    CREATE TABLE ticks (ts BIGINT, id BIGINT, k BIGINT, at AS TO_TIMESTAMP_LTZ(ts, 3),
                        WATERMARK FOR at AS at - INTERVAL '0.1' SECOND) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE totals (first BIGINT, k BIGINT, n BIGINT, total BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    INSERT INTO totals SELECT MIN(id), k, COUNT(*), SUM(id)
    FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(at), INTERVAL '1' SECOND)) GROUP BY k, window_start, window_end;
"
    )
}

/// The pods of one job.
struct Job {
    uid: String,
    key: SigningKey,
    pods: Vec<(Workshop, u16, Option<Running>)>,
    snapshots: PathBuf,
}

impl Job {
    fn start(pods: u16, job: &str, snapshots: &Path, restore_from: Option<&str>) -> Self {
        let (uid, key) = (unique("uid"), SigningKey::p256("one"));
        let mut made = Self { uid, key, pods: Vec::new(), snapshots: snapshots.to_owned() };
        for pod in 0..pods {
            let shop = Workshop::new();
            shop.write("job.yaml", job);
            let mut settings = json!({
                "version": 1, "jobUid": made.uid, "revision": "a", "replicas": pods,
                "control": access(&made.uid, &[&made.key]),
            });
            if let Some(location) = restore_from {
                settings["restoreFrom"] = json!(location);
            }
            shop.write("settings.yaml", &settings.to_string());
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            made.pods.push((shop, port, None));
            made.run(usize::from(pod));
        }
        made
    }

    fn run(&mut self, pod: usize) {
        let (shop, port, running) = &mut self.pods[pod];
        let (name, port, snapshots) = (format!("totals-{pod}"), port.to_string(), self.snapshots.display().to_string());
        let arguments = ["pod", "--config-dir", ".", "--state-dir", "state", "--pod-name", &name];
        let more = ["--termination-file", "last-words", "--health-port", "0", "--control-port", &port];
        let place = ["--checkpoint-dir", &snapshots];
        *running = Some(shop.start(&[&arguments[..], &more[..], &place[..]].concat()));
    }

    fn kill(&mut self, pod: usize, after: Duration) {
        let running = self.pods[pod].2.take().unwrap();
        assert!(running.kill_after(after), "pod {pod} ended by itself: {}", self.said());
    }

    fn ask(&self, pod: usize, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let token = self.key.sign(&claims(&self.uid));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let address = ([127, 0, 0, 1], self.pods[pod].1).into();
        let (code, text) = tls::ask(address, method, path, Some(&token), &body)?;
        Some((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Orders a savepoint until the pod takes it.
    fn order(&self, pod: usize, name: &str, stop: bool) {
        self.until(&format!("{name} is ordered"), || {
            let answer = self.ask(pod, "POST", "/v1/savepoints", &json!({"name": name, "stop": stop}));
            answer.filter(|(code, _)| *code == 202)
        });
    }

    /// Waits until all of a topic is read and committed.
    fn until_committed(&self, topic: &str) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer = config.set("group.id", format!("millstream-{}", self.uid)).create().unwrap();
        let (timeout, mut wanted) = (Duration::from_secs(5), TopicPartitionList::new());
        (0..PARTITIONS).for_each(|partition| {
            wanted.add_partition(topic, partition);
        });
        let end = |partition| Some(consumer.fetch_watermarks(topic, partition, timeout).unwrap().1);
        self.until("all is committed", || {
            let found = consumer.committed_offsets(wanted.clone(), timeout).unwrap();
            found.elements().iter().all(|place| place.offset().to_raw() == end(place.partition())).then_some(())
        });
    }

    /// Waits until a pod says that its work has ended.
    fn until_finished(&self, pod: usize) {
        self.until(&format!("pod {pod} has finished"), || {
            let status = self.ask(pod, "GET", "/status", &Value::Null)?.1;
            (status["phase"] == "Finished").then_some(())
        });
    }

    /// What became of a savepoint.
    fn outcome(&self, pod: usize, name: &str) -> Value {
        self.until(&format!("{name} has ended"), || {
            let answer = self.ask(pod, "GET", &format!("/v1/savepoints/{name}"), &Value::Null);
            answer
                .map(|(_, status)| status)
                .filter(|status| ["Completed", "Failed"].contains(&status["phase"].as_str().unwrap_or("")))
        })
    }

    fn until<T>(&self, what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = seen() {
                return found;
            }
            assert!(Instant::now() < deadline, "not yet: {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        self.pods.iter().filter_map(|(_, _, running)| running.as_ref()).for_each(|running| running.signal("TERM"));
        for (_, _, running) in &mut self.pods {
            let Some(running) = running.take() else { continue };
            let outcome = running.end();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
    }

    fn said(&self) -> String {
        let tail = |text: String| text.lines().rev().take(12).map(str::to_owned).collect::<Vec<_>>().join("\n");
        self.pods.iter().map(|(shop, ..)| tail(shop.read(".stderr"))).collect::<Vec<_>>().join("\n---\n")
    }
}

#[test]
#[ignore = "needs the lab"]
fn a_job_of_pods_goes_on_from_a_savepoint_as_another_one() {
    let (input, output) = (unique("ticks"), unique("totals"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let snapshots = tempfile::tempdir().unwrap();
    let mut feeder = Feeder::new(&input);
    let mut first = Job::start(2, &job(&input, &output, 8), snapshots.path(), None);

    // While rows flow: taken by one pod's word, known to the other.
    let feeding = std::thread::spawn(move || {
        feeder.feed(8_000);
        feeder
    });
    first.order(1, "running", false);
    let running = first.outcome(1, "running");
    assert_eq!(running["phase"], "Completed", "{running} {}", first.said());
    assert_eq!(first.outcome(0, "running")["location"], running["location"]);

    // Cut by SIGKILL at any moment: it is complete or has failed, and the job goes on.
    let mut moments = Moments::new();
    for attempt in 0..3 {
        let name = format!("cut-{attempt}");
        first.order(0, &name, false);
        first.kill(1, moments.between(1, 150));
        first.run(1);
        let outcome = first.outcome(0, &name);
        println!("{name}: {} {}", outcome["phase"], outcome["message"]);
    }
    let mut feeder = feeding.join().unwrap();

    // With the end of the job's work.
    feeder.feed(500);
    first.order(0, "last", true);
    let last = first.outcome(0, "last");
    assert_eq!(last["phase"], "Completed", "{last} {}", first.said());
    let location = last["location"].as_str().unwrap().to_owned();
    feeder.feed(500);
    // A pod that is started again does not go on.
    first.kill(1, Duration::from_millis(1));
    first.run(1);
    first.until("pod 1 stays ended", || {
        first.pods[1].0.read(".stderr").contains("has ended with savepoint last").then_some(())
    });
    let mut reader = Reader::new(&output, 1);
    while reader.poll(Duration::from_secs(2)) {}
    let before = reader.values.len();
    first.stop();

    let mut second = Job::start(3, &job(&input, &output, 5), snapshots.path(), Some(&location));
    // Its first start is cut too.
    second.kill(0, moments.between(300, 1_500));
    second.run(0);
    feeder.feed(2_000);
    feeder.end();
    let want = oracle(feeder.next);
    let deadline = Instant::now() + Duration::from_secs(60);
    while reader.values.len() < want.len() {
        reader.poll(Duration::from_millis(100));
        assert!(Instant::now() < deadline, "{} of {} rows: {}", reader.values.len(), want.len(), second.said());
    }
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    let got = answer(&reader.values);
    let wrong: Vec<_> = want.iter().filter(|(key, value)| got.get(*key) != Some(*value)).take(5).collect();
    assert!(wrong.is_empty() && got.len() == want.len(), "{} rows for {}; wrong: {wrong:?}", got.len(), want.len());
    second.stop();
    println!(
        "{} records, {} rows, {before} of them before the savepoint; sources stood still for {} ms while it ran",
        feeder.next,
        want.len(),
        running["pauseMs"]
    );
}

#[test]
#[ignore = "needs the lab"]
fn a_drain_of_several_pods_closes_all_windows_and_ends_the_jobs_work() {
    let (input, output) = (unique("ticks"), unique("totals"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let snapshots = tempfile::tempdir().unwrap();
    let mut feeder = Feeder::new(&input);
    let mut job = Job::start(2, &job(&input, &output, 8), snapshots.path(), None);
    feeder.feed(3_000);
    job.until_committed(&input);
    let drain = json!({"mode": "Drain"});
    let order = |job: &Job| job.ask(1, "POST", "/v1/stop", &drain).filter(|(code, _)| *code == 202);
    job.until("the drain is ordered", || order(&job));
    // One pod dies in the middle of it.
    job.kill(0, Moments::new().between(1, 600));
    job.run(0);
    (0..2).for_each(|pod| job.until_finished(pod));
    let want = oracle(feeder.next);
    let mut reader = Reader::new(&output, 1);
    reader.until(want.len());
    // What comes later is not read, by a pod that is started again neither.
    feeder.feed(200);
    job.kill(1, Duration::from_millis(1));
    job.run(1);
    job.until_finished(1);
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    assert!(answer(&reader.values) == want, "{} rows for {}: {}", reader.values.len(), want.len(), job.said());
    job.stop();
}
