//! A job of several pods on a real broker: its pods as processes, killed with SIGKILL at random moments, and what an independent
//! `read_committed` reader sees is exactly what an oracle says.
//!
//! The source's partitions are not keyed: every row's key lives on one pod, and most rows must go there through the shuffle.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "kafka_pods/distributed.rs"]
mod distributed;
#[path = "kafka_pods/held.rs"]
mod held;
#[path = "kafka_pods/proposed.rs"]
mod proposed;
#[path = "kafka_pods/rescale.rs"]
mod rescale;
#[path = "kafka_pods/soak.rs"]
mod soak;
#[path = "kafka_pods/times.rs"]
mod times;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broker::{Reader, create_topic, servers, unique};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use workshop::{Moments, Outcome, Running, Workshop};

const PARTITIONS: i32 = 3;
const KILLS: usize = 20;

/// One flight: hour, origin and destination, delay.
type Flight = (String, String, Option<i64>);
/// Per hour and route: flights with a delay known, sum of delays, worst.
type Answer = BTreeMap<(String, String), (i64, Option<i64>, Option<i64>)>;

/// The sample, each flight at most one hour behind one before it.
fn flights() -> Vec<Flight> {
    let path = format!("{}/../examples/flights/flights.csv", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let at = |name| names.iter().position(|n| *n == name).unwrap();
    let (hour, origin, dest, delay) = (at("time_hour"), at("origin"), at("dest"), at("dep_delay"));
    let mut all: Vec<Flight> = lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let route = format!("{}-{}", fields[origin], fields[dest]);
            (fields[hour][..19].replace('T', " "), route, fields[delay].parse().ok())
        })
        .collect();
    let mut hours: Vec<String> = all.iter().map(|flight| flight.0.clone()).collect();
    hours.sort();
    hours.dedup();
    let mut number = 0;
    all.sort_by_cached_key(|flight| {
        number += 1;
        hours.binary_search(&flight.0).unwrap() + number % 2
    });
    all
}

fn oracle(flights: &[Flight]) -> Answer {
    let mut groups: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
    for (hour, route, delay) in flights {
        groups.entry((hour[..16].to_owned(), route.clone())).or_default().extend(delay);
    }
    let answer = |delays: Vec<i64>| {
        let sum = (!delays.is_empty()).then(|| delays.iter().sum());
        (delays.len() as i64, sum, delays.into_iter().max())
    };
    groups.into_iter().map(|(key, delays)| (key, answer(delays))).collect()
}

fn answer(records: &[String]) -> Answer {
    let mut found = Answer::new();
    for record in records {
        let row: Value = serde_json::from_str(record).unwrap_or_else(|e| panic!("{record}: {e}"));
        let hour = row["window_start"].as_str().unwrap()[..16].replace('T', " ");
        let key = (hour, row["route"].as_str().unwrap().to_owned());
        let values = (row["departures"].as_i64().unwrap(), row["total"].as_i64(), row["worst"].as_i64());
        assert!(found.insert(key, values).is_none(), "twice: {record}");
    }
    found
}

/// A producer of the test's own, without transactions.
struct Feeder(BaseProducer);

impl Feeder {
    fn new() -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("enable.idempotence", "true").set("linger.ms", "1");
        Self(config.create().unwrap())
    }

    fn send(&self, topic: &str, partition: i32, text: &str) {
        self.0.send(BaseRecord::<(), str>::to(topic).partition(partition).payload(text)).map_err(|(e, _)| e).unwrap();
        self.0.poll(Duration::ZERO);
    }

    fn flush(&self) {
        self.0.flush(Duration::from_secs(10)).unwrap();
    }
}

/// Sends the flights over half a minute.
fn feed(input: &str, flights: &[Flight]) {
    feed_over(Duration::from_secs(30), input, flights, |number, _| number as i32 % PARTITIONS);
}

/// Sends the flights over a time, each to its partition.
fn feed_over(whole: Duration, input: &str, flights: &[Flight], partition: impl Fn(usize, &Flight) -> i32) {
    let (feeder, start) = (Feeder::new(), Instant::now());
    for (number, flight) in flights.iter().enumerate() {
        feeder.send(input, partition(number, flight), &record(flight));
        let due = whole.mul_f64(number as f64 / flights.len() as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    feeder.flush();
}

fn record((hour, route, delay): &Flight) -> String {
    json!({"time_hour": hour, "route": route, "dep_delay": delay}).to_string()
}

fn job(input: &str, output: &str, more: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: routes
spec:
  shards: 8
  workers: 2
  sql: |
    CREATE TABLE flights (
      time_hour  TIMESTAMP(3),
      route      STRING,
      dep_delay  INT,
      WATERMARK FOR time_hour AS time_hour - INTERVAL '2' HOUR
    ) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'{more}
    );
    CREATE TABLE routes (
      window_start TIMESTAMP(3), route STRING, departures BIGINT, total BIGINT, worst INT
    ) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    INSERT INTO routes
    SELECT window_start, route, COUNT(dep_delay), SUM(CAST(dep_delay AS BIGINT)), MAX(dep_delay)
    FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(time_hour), INTERVAL '1' HOUR))
    GROUP BY route, window_start, window_end;
"
    )
}

/// The pods of one job, each a process with a folder of its own.
struct Pods {
    uid: String,
    job: String,
    shops: Vec<Workshop>,
    running: Vec<Option<Running>>,
}

impl Pods {
    fn new(pods: usize, job: &str) -> Self {
        let mut made = Self { uid: unique("uid"), job: job.to_owned(), shops: Vec::new(), running: Vec::new() };
        made.resize(pods);
        (0..pods).for_each(|pod| made.start(pod));
        made
    }

    /// Folders for so many pods, with their settings.
    fn resize(&mut self, pods: usize) {
        while self.shops.len() < pods {
            self.shops.push(Workshop::new());
            self.running.push(None);
        }
        self.settings(pods);
    }

    /// As the operator writes them.
    fn settings(&self, pods: usize) {
        for shop in &self.shops {
            shop.write("job.yaml", &self.job);
            shop.write("settings.yaml", &format!("version: 1\njobUid: {}\nrevision: a\nreplicas: {pods}\n", self.uid));
        }
    }

    /// As the kubelet does: a pod that has ended is started again; true if it had.
    fn start_if_ended(&mut self, pod: usize) -> bool {
        let runs = self.running[pod].as_mut().is_some_and(Running::runs);
        if !runs {
            self.start(pod);
        }
        !runs
    }

    /// Ends a pod in order, if it goes on, and starts it again.
    fn restart(&mut self, pod: usize) {
        if let Some(mut running) = self.running[pod].take()
            && running.runs()
        {
            running.signal("TERM");
            running.end();
        }
        self.start(pod);
    }

    /// Kills a pod whether or not it has just ended by itself, and starts it again after a while.
    fn kill_and_start(&mut self, pod: usize, after: Duration) {
        // Dropped, it is killed.
        drop(self.running[pod].take());
        std::thread::sleep(after);
        self.start(pod);
    }

    /// As the operator does it: pods that are missing are started; pod 0 starts again, and makes the assignment; pods that are too many are
    /// ended when they have no share any more.
    fn rescale(&mut self, pods: usize) {
        let before = self.running.iter().flatten().count();
        self.resize(pods);
        (before..pods).for_each(|pod| self.start(pod));
        self.end(0);
        self.start(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        for pod in pods..before {
            while !self.shops[pod].read(".stderr").contains("the pod has no share") {
                self.revive();
                assert!(Instant::now() < deadline, "pod {pod} does not leave: {}", self.said());
                std::thread::sleep(Duration::from_millis(20));
            }
            self.end(pod);
        }
    }

    fn end(&mut self, pod: usize) {
        self.revive();
        let running = self.running[pod].take().unwrap();
        running.signal("TERM");
        let outcome = running.end();
        assert!(outcome.code == Some(0) || is_fenced(&outcome), "pod {pod}: {outcome:?}");
    }

    /// Starts pods again that ended because others fenced them, as Kubernetes does: on a busy machine one may not release in time what it lost.
    fn revive(&mut self) {
        for pod in 0..self.running.len() {
            if self.running[pod].as_mut().is_some_and(|running| !running.runs()) {
                let outcome = self.running[pod].take().unwrap().end();
                assert!(is_fenced(&outcome), "pod {pod} ended by itself: {outcome:?}");
                self.start(pod);
            }
        }
    }

    fn start(&mut self, pod: usize) {
        let name = format!("routes-{pod}");
        let arguments = [
            "pod",
            "--config-dir",
            ".",
            "--state-dir",
            "state",
            "--pod-name",
            &name,
            "--termination-file",
            "last-words",
            "--health-port",
            "0",
            "--control-port",
            "0",
        ];
        self.running[pod] = Some(self.shops[pod].start(&arguments));
    }

    fn kill(&mut self, pod: usize, after: Duration) {
        self.revive();
        let killed = self.running[pod].take().unwrap().kill_after(after);
        assert!(killed, "pod {pod} ended by itself: {}", self.shops[pod].read(".stderr"));
    }

    /// Ends all, cleanly.
    fn stop(&mut self) {
        self.running.iter().flatten().for_each(|pod| pod.signal("TERM"));
        for (pod, running) in self.running.iter_mut().enumerate() {
            let Some(running) = running.take() else { continue };
            let outcome = running.end();
            assert!(outcome.code == Some(0) || is_fenced(&outcome), "pod {pod}: {outcome:?}");
        }
    }

    /// How far the topics between the pods go, all partitions together.
    fn shuffled(&self) -> i64 {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let timeout = Duration::from_secs(5);
        let end = |topic: &str, partition| consumer.fetch_watermarks(topic, partition, timeout).unwrap().1;
        let ends = self.shuffle_topics().into_iter().map(|topic| {
            let metadata = consumer.fetch_metadata(Some(&topic), timeout).unwrap();
            metadata.topics()[0].partitions().iter().map(|p| end(&topic, p.id())).sum::<i64>()
        });
        ends.sum()
    }

    /// The topics between the pods.
    fn shuffle_topics(&self) -> Vec<String> {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).unwrap();
        let prefix = format!("millstream-{}-shuffle-", self.uid);
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        names.filter(|name| name.starts_with(&prefix)).collect()
    }

    fn said(&self) -> String {
        let tail = |text: String| text.lines().rev().take(8).map(str::to_owned).collect::<Vec<_>>().join("\n");
        self.shops.iter().map(|shop| tail(shop.read(".stderr"))).collect::<Vec<_>>().join("\n---\n")
    }
}

/// Another pod took over what this one had: it goes on from its last commit when it is started again.
fn is_fenced(outcome: &Outcome) -> bool {
    outcome.code == Some(1) && outcome.stderr.contains("fenced by another process of this job")
}

fn read_until(reader: &mut Reader, count: usize, pods: &mut Pods) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while reader.values.len() < count {
        reader.poll(Duration::from_millis(100));
        pods.revive();
        assert!(Instant::now() < deadline, "{} of {count} rows: {}", reader.values.len(), pods.said());
    }
}

fn compare(reader: &mut Reader, want: &Answer, pods: &mut Pods) {
    read_until(reader, want.len(), pods);
    reader.poll(Duration::from_secs(1));
    let got = answer(&reader.values);
    let wrong: Vec<_> = want.iter().filter(|(key, values)| got.get(*key) != Some(*values)).take(5).collect();
    assert!(wrong.is_empty(), "{} rows for {}; wrong: {wrong:?}", got.len(), want.len());
    assert_eq!(got.len(), want.len());
}

fn killed_at_random(pods: usize) {
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let (flights, mut moments) = (flights(), Moments::new());
    let mut job = Pods::new(pods, &job(&input, &output, ""));
    let feeding = {
        let (flights, input) = (flights.clone(), input.clone());
        std::thread::spawn(move || feed(&input, &flights))
    };
    let mut kills = 0;
    while kills < KILLS || !feeding.is_finished() {
        std::thread::sleep(moments.between(100, 1_000));
        let victim = moments.between(0, pods as u64).as_millis() as usize;
        job.kill(victim, moments.between(1, 200));
        // Now and then the others go on alone for a while.
        std::thread::sleep(moments.between(0, 400));
        job.start(victim);
        kills += 1;
    }
    feeding.join().unwrap();
    let (feeder, end) = (Feeder::new(), record(&("2013-12-31 00:00:00".to_owned(), "end".to_owned(), None)));
    (0..PARTITIONS).for_each(|partition| feeder.send(&input, partition, &end));
    feeder.flush();
    // No record follows: what the partitions have reached closes all windows, whenever the pods die.
    for victim in 0..pods {
        job.kill(victim, moments.between(1, 300));
        job.start(victim);
    }
    let want = oracle(&flights);
    let mut reader = Reader::new(&output, 1);
    compare(&mut reader, &want, &mut job);
    job.stop();
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    let shuffled = job.shuffled();
    // Rows do go between pods; how many messages depends on how long pods live on a busy machine.
    assert!(shuffled > 0, "nothing went between the pods");
    println!("{pods} pods, {kills} kills, {} records, {} rows, {shuffled} offsets between", flights.len(), want.len());
}

#[test]
#[ignore = "needs the lab"]
fn two_pods_killed_at_random_moments_give_each_row_once() {
    killed_at_random(2);
}

#[test]
#[ignore = "needs the lab"]
fn three_pods_killed_at_random_moments_give_each_row_once() {
    killed_at_random(3);
}

/// Milliseconds since 1970-01-01T00:00:00Z, now.
fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Sends a record per millisecond with its own time, each partition in turn, until told to stop.
fn feed_by_the_clock(input: &str, stop: &AtomicBool) {
    let feeder = Feeder::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let record = json!({"ts": now_ms(), "route": format!("route {}", number % 50)}).to_string();
        feeder.send(input, number % PARTITIONS, &record);
        std::thread::sleep(Duration::from_millis(1));
    }
    feeder.flush();
}

#[test]
#[ignore = "needs the lab"]
fn a_result_behind_a_shuffle_is_seen_soon_after_its_window_ends() {
    let (input, output) = (unique("ticks"), unique("counts"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let mut job = Pods::new(2, &ticks(&input, &output));
    let stop = Arc::new(AtomicBool::new(false));
    let feeding = {
        let (stop, input) = (Arc::clone(&stop), input.clone());
        std::thread::spawn(move || feed_by_the_clock(&input, &stop))
    };
    let mut reader = Reader::new(&output, 1);
    read_until(&mut reader, 200, &mut job);
    reader.values.clear();
    let mut late = Vec::new();
    while late.len() < 1_500 {
        if reader.poll(Duration::from_millis(1)) {
            let row: Value = serde_json::from_str(reader.values.last().unwrap()).unwrap();
            let end = (row["until"].as_i64().unwrap() / 1_000 + 1) * 1_000;
            late.push(now_ms() - end);
        }
    }
    stop.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    job.stop();
    late.sort_unstable();
    let at = |share: usize| late[late.len() * share / 100];
    println!("window end to result seen, one shuffle, 20 ms commits: p50 {} ms, p99 {} ms", at(50), at(99));
    assert!(at(99) < 2_000, "p99 {} ms", at(99));
}

/// Counts per second of event time and route.
fn ticks(input: &str, output: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata: {{name: routes}}
spec:
  shards: 8
  workers: 1
  commitInterval: 20ms
  sql: |
    CREATE TABLE ticks (ts BIGINT, route STRING, at AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR at AS at) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE counts (until BIGINT, route STRING, ticks BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    INSERT INTO counts SELECT MAX(ts), route, COUNT(*)
    FROM TABLE(TUMBLE(TABLE ticks, DESCRIPTOR(at), INTERVAL '1' SECOND)) GROUP BY route, window_start, window_end;
"
    )
}

#[test]
#[ignore = "needs the lab"]
fn pods_that_come_and_go_while_the_job_runs_give_each_row_once() {
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let (flights, mut moments) = (flights(), Moments::new());
    let mut job = Pods::new(2, &job(&input, &output, ""));
    let feeding = {
        let (flights, input) = (flights.clone(), input.clone());
        std::thread::spawn(move || feed(&input, &flights))
    };
    let sizes = [3, 4, 2, 1, 3, 2];
    for pods in sizes {
        std::thread::sleep(moments.between(2_500, 4_000));
        job.rescale(pods);
        // In the middle of it, now and then, one dies.
        let victim = moments.between(0, 2 * pods as u64).as_millis() as usize;
        if victim < pods {
            job.kill(victim, moments.between(1, 1_500));
            job.start(victim);
        }
    }
    feeding.join().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let (feeder, end) = (Feeder::new(), record(&("2013-12-31 00:00:00".to_owned(), "end".to_owned(), None)));
    (0..PARTITIONS).for_each(|partition| feeder.send(&input, partition, &end));
    feeder.flush();
    let want = oracle(&flights);
    let mut reader = Reader::new(&output, 1);
    compare(&mut reader, &want, &mut job);
    job.stop();
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    println!(
        "2 pods, then {sizes:?}: {} records, {} rows, {} offsets between",
        flights.len(),
        want.len(),
        job.shuffled()
    );
}

#[test]
#[ignore = "needs the lab"]
fn bounded_input_ends_on_every_pod() {
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let (flights, feeder) = (flights(), Feeder::new());
    for (number, flight) in flights.iter().enumerate() {
        feeder.send(&input, number as i32 % PARTITIONS, &record(flight));
    }
    feeder.flush();
    let mut job = Pods::new(3, &job(&input, &output, ", 'scan.bounded.mode' = 'latest-offset'"));
    let mut reader = Reader::new(&output, 1);
    compare(&mut reader, &oracle(&flights), &mut job);
    let finished = |job: &Pods| job.shops.iter().all(|shop| shop.read(".stderr").contains("the input is at its end"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !finished(&job) {
        assert!(Instant::now() < deadline, "{}", job.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    job.stop();
}

#[test]
#[ignore = "needs the lab"]
fn jobs_that_cannot_have_several_pods_say_why() {
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, 1);
    let kafka = job(&input, &output, "");
    let servers = servers();
    let into = format!(
        "'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'"
    );
    let cases = [
        (kafka.replace("shards: 8", "shards: 2"), "3 pods and 2 shards"),
        (kafka.replace(&into, "'connector' = 'blackhole'"), "no sink with connector 'kafka'"),
        (
            kafka.replace(&into, "'connector' = 'filesystem', 'path' = 'out', 'format' = 'json'"),
            "cannot be written by 3 pods",
        ),
    ];
    for (text, expected) in cases {
        let mut job = Pods::new(3, &text);
        let outcome = job.running[0].take().unwrap().end();
        assert!(outcome.stderr.contains(expected), "{outcome:?}");
    }
}
