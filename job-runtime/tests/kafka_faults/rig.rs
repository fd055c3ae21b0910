//! What every case works with: a job with a stateless sink and a windowed one, a feeder that never stops, pods as processes, and a watcher.
//!
//! It breaks nothing itself. Readings are numbered; the number says all of a reading, so what must come out is known without running anything.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use super::broker::{create_topic_at, unique};
use super::tls;
use super::watcher::Watcher;
use super::workshop::{Outcome, Running, Workshop};

pub(crate) const PARTITIONS: u64 = 2;
pub(crate) const SENSORS: u64 = 7;
/// Readings in a second of event time.
pub(crate) const PER_SECOND: u64 = 100;
/// Readings in a second of the test's own time.
const PACE: u64 = 400;
/// A wait that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// The topics of a job.
#[derive(Clone)]
pub(crate) struct Topics {
    pub(crate) input: String,
    pub(crate) copies: String,
    pub(crate) totals: String,
}

/// Where a job's brokers are, for the job and for the test: a fault stands between the job and them.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) job: String,
    pub(crate) test: String,
}

impl Address {
    pub(crate) fn plain(servers: &str) -> Self {
        Self { job: servers.to_owned(), test: servers.to_owned() }
    }
}

/// See the module's documentation.
pub(crate) struct Rig {
    pub(crate) uid: String,
    pub(crate) topics: Topics,
    pub(crate) job: String,
    feeder: Feeder,
    pub(crate) watcher: Watcher,
}

impl Rig {
    /// Topics, a feeder at work and a watcher; no pod yet. `sinks` goes into the options of both sinks.
    pub(crate) fn new(address: Address, sinks: &str) -> Self {
        Self::at_pace(address, sinks, PACE)
    }

    /// As [`Self::new`], with so many readings in a second.
    pub(crate) fn at_pace(address: Address, sinks: &str, pace: u64) -> Self {
        let topics = Topics { input: unique("readings"), copies: unique("copies"), totals: unique("totals") };
        create_topic_at(&address.test, &topics.input, PARTITIONS as i32, &[]);
        [&topics.copies, &topics.totals].into_iter().for_each(|topic| create_topic_at(&address.test, topic, 1, &[]));
        let feeder = Feeder::start(&address.test, &topics.input, pace);
        let watcher = Watcher::start(&address.test, &topics);
        let job = job(&address.job, &topics, sinks);
        Self { uid: unique("uid"), topics, job, feeder, watcher }
    }

    /// Readings sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.feeder.sent()
    }

    /// A place for pod 0 of a job of one pod, with nothing in it: as on another node.
    pub(crate) fn home(&self) -> Home {
        Home::new(&self.job, &self.uid, "")
    }

    /// Feeds `more` than there is now and waits until all of that is copied, while `pods` are kept running.
    pub(crate) fn passes(&self, more: u64, pods: &mut [&mut Kept]) {
        let goal = self.sent() + more;
        self.wait(&format!("{goal} copies"), pods, || self.watcher.copied() >= goal);
    }

    /// Waits for a condition, while `pods` are kept running and nothing that is read is wrong.
    pub(crate) fn wait(&self, what: &str, pods: &mut [&mut Kept], mut seen: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !seen() {
            self.watcher.check();
            pods.iter_mut().for_each(|pod| pod.mend());
            let said = || pods.iter().map(|pod| pod.home.said()).collect::<Vec<_>>().join("\n---\n");
            assert!(Instant::now() < deadline, "not yet {what}; {} copies: {}", self.watcher.copied(), said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the input; everything must come out, once; then the pods are stopped, and nothing more may come.
    pub(crate) fn finish(self, mut pods: Vec<Kept>) -> u64 {
        let sent = self.feeder.finish();
        let deadline = Instant::now() + DEADLINE;
        while !self.watcher.complete(sent) {
            self.watcher.check();
            pods.iter_mut().for_each(Kept::mend);
            let said = || pods.iter().map(|pod| pod.home.said()).collect::<Vec<_>>().join("\n---\n");
            assert!(Instant::now() < deadline, "{sent} readings, {}: {}", self.watcher.counts(), said());
            std::thread::sleep(Duration::from_millis(5));
        }
        pods.iter_mut().for_each(Kept::stop);
        self.watcher.finish(sent);
        sent
    }
}

fn job(servers: &str, topics: &Topics, sinks: &str) -> String {
    let Topics { input, copies, totals } = topics;
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: faults
spec:
  commitInterval: 20ms
  shards: 4
  workers: 2
  sql: |
    CREATE TABLE readings (
      id BIGINT, sensor BIGINT, at BIGINT, event_time AS TO_TIMESTAMP_LTZ(at, 3),
      WATERMARK FOR event_time AS event_time - INTERVAL '2' SECOND
    ) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE copies (id BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{copies}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'{sinks}
    );
    CREATE TABLE totals (sensor BIGINT, least BIGINT, n BIGINT, total BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{totals}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'{sinks}
    );
    EXECUTE STATEMENT SET BEGIN
      INSERT INTO copies SELECT id FROM readings;
      INSERT INTO totals SELECT sensor, MIN(id), COUNT(*), SUM(id)
        FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(event_time), INTERVAL '1' SECOND))
        GROUP BY sensor, window_start, window_end;
    END;
"
    )
}

/// Sends readings at an even pace, with a producer of its own.
struct Feeder {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    fn start(servers: &str, topic: &str, pace: u64) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, told, servers, topic) =
            (Arc::clone(&stop), Arc::clone(&sent), servers.to_owned(), topic.to_owned());
        let thread = std::thread::spawn(move || feed(&servers, &topic, pace, &stopped, &told));
        Self { stop, sent, thread: Some(thread) }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn finish(mut self) -> u64 {
        self.end();
        self.sent()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the feeder failed");
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.end();
    }
}

/// Until told to stop; then a reading far in the future for each partition, so that all windows close.
fn feed(servers: &str, topic: &str, pace: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("enable.idempotence", "true").set("linger.ms", "1");
    let producer: BaseProducer = config.create().unwrap();
    let put = |partition: u64, reading: Value| {
        let text = reading.to_string();
        let record = BaseRecord::<(), str>::to(topic).partition(partition as i32).payload(&text);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.poll(Duration::ZERO);
    };
    let begin = Instant::now();
    for id in 0.. {
        // Whole seconds of event time, so that every window's values are known.
        if stop.load(Ordering::Relaxed) && id % PER_SECOND == 0 {
            break;
        }
        put(id % PARTITIONS, json!({"id": id, "sensor": id % SENSORS, "at": id * 1000 / PER_SECOND}));
        sent.store(id + 1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs_f64((id + 1) as f64 / pace as f64).saturating_sub(begin.elapsed()));
    }
    (0..PARTITIONS).for_each(|p| put(p, json!({"id": null, "sensor": null, "at": 100_000_000_000_u64})));
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// A pod's folders and ports.
pub(crate) struct Home {
    pub(crate) shop: Workshop,
    name: String,
    pub(crate) control: u16,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Home {
    /// Of pod 0; `more` are lines of its settings.
    pub(crate) fn new(job: &str, uid: &str, more: &str) -> Self {
        Self::of(0, job, uid, more)
    }

    /// Of a pod.
    pub(crate) fn of(pod: usize, job: &str, uid: &str, more: &str) -> Self {
        let shop = Workshop::new();
        shop.write("job.yaml", job);
        let home = Self { shop, name: format!("faults-{pod}"), control: free_port() };
        home.settings(uid, more);
        home
    }

    /// Writes the pod's settings, as the operator does.
    pub(crate) fn settings(&self, uid: &str, more: &str) {
        let replicas = if more.contains("replicas:") { "" } else { "replicas: 1\n" };
        self.shop.write("settings.yaml", &format!("version: 1\njobUid: {uid}\nrevision: a\n{replicas}{more}"));
    }

    /// Starts the pod with more in its environment, as `NAME=value`, by a command that ends by starting it.
    pub(crate) fn start_by(&self, command: &[&str], environment: &[&str]) -> Running {
        self.start_all(command, environment, &[])
    }

    /// Starts the pod with more arguments.
    pub(crate) fn start_with(&self, more: &[&str]) -> Running {
        self.start_all(&[], &[], more)
    }

    fn start_all(&self, command: &[&str], environment: &[&str], more: &[&str]) -> Running {
        let control = self.control.to_string();
        let program = ["env", "RUST_LOG=info"].iter().chain(environment).chain(command);
        let program: Vec<&str> = program.copied().chain([env!("CARGO_BIN_EXE_millstream")]).collect();
        let arguments = ["pod", "--config-dir", ".", "--state-dir", "state", "--pod-name", &self.name];
        let ports = ["--termination-file", "last-words", "--health-port", "0", "--control-port", &control];
        self.shop.start_as(&program, &[&arguments[..], &ports[..], more].concat())
    }

    pub(crate) fn start(&self, environment: &[&str]) -> Running {
        self.start_by(&[], environment)
    }

    /// Reason and message that the pod left.
    pub(crate) fn last_words(&self) -> (String, String) {
        let words: Value = serde_json::from_str(&self.shop.read("last-words")).unwrap();
        (words["reason"].as_str().unwrap().to_owned(), words["message"].as_str().unwrap().to_owned())
    }

    /// The end of what it wrote.
    pub(crate) fn said(&self) -> String {
        let text = self.shop.read(".stderr");
        let tail: Vec<&str> = text.lines().rev().take(12).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Keeps a process of it running.
    pub(crate) fn keep(self) -> Kept {
        let running = Some(self.start(&[]));
        Kept { home: self, environment: Vec::new(), running, ended: Vec::new() }
    }

    /// As [`Self::keep`], with a process that runs already.
    pub(crate) fn keep_running(self, running: Running) -> Kept {
        Kept { home: self, environment: Vec::new(), running: Some(running), ended: Vec::new() }
    }
}

/// A pod whose process is started again when it ends, as Kubernetes does.
pub(crate) struct Kept {
    pub(crate) home: Home,
    /// Of the processes that are started from now on.
    pub(crate) environment: Vec<String>,
    pub(crate) running: Option<Running>,
    /// Why its processes ended by themselves.
    pub(crate) ended: Vec<(String, String)>,
}

impl Kept {
    /// Starts the process again if it has ended. Whatever was broken, it is never an error of ours, and never a panic.
    pub(crate) fn mend(&mut self) {
        if self.running.as_mut().is_some_and(Running::runs) {
            return;
        }
        if let Some(running) = self.running.take() {
            self.ended.push(last_outcome(&self.home, &running.end()));
        }
        let environment: Vec<&str> = self.environment.iter().map(String::as_str).collect();
        self.running = Some(self.home.start(&environment));
    }

    pub(crate) fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.signal("TERM");
        let outcome = running.end();
        assert_eq!(outcome.code, Some(0), "{}", self.home.said());
    }
}

/// Why a process ended by itself.
pub(crate) fn last_outcome(home: &Home, outcome: &Outcome) -> (String, String) {
    assert!(matches!(outcome.code, Some(1 | 3)), "{outcome:?}");
    let (reason, message) = home.last_words();
    assert!(reason != "Internal" && !message.contains("bug"), "{reason}: {message}");
    println!("  ended: {reason}: {message}");
    (reason, message)
}

/// What the pod says on its control port; `None` while nobody answers.
pub(crate) fn status(port: u16) -> Option<Value> {
    let (_, body) = tls::ask(([127, 0, 0, 1], port).into(), "GET", "/status", None, "")?;
    serde_json::from_str(&body).ok()
}
