//! Back-pressure across the log on a real broker: while a pod does not read, those that send to it hold their sources, what lies between them
//! stays bounded, and afterwards nothing is missing. It does not look into the pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::{Reader, create_topic, unique};
use crate::{Feeder, PARTITIONS, Pods, read_until, ticks};

const ROUTES: i64 = 50;
/// Messages with rows that a sender may be ahead of one shard: `dataflow::shuffle::backlog::BOUND`.
const BOUND: i64 = dataflow::shuffle::backlog::BOUND.messages as i64;
/// Shards of the pod that does not read.
const SHARDS: i64 = 4;
/// A commit that the broker takes its time for seems to be rest. There are two at most: one whose outcome is awaited, one that follows it. Each is a
/// message and a marker for each shard.
const UNDER_WAY: i64 = 2 * 2 * SHARDS;
/// The bound is reached after as many commits, which take what the machine gives them.
const DEADLINE: Duration = Duration::from_secs(180);

/// One millisecond of event time from record to record.
fn tick(number: i64) -> String {
    json!({"ts": number, "route": format!("route {}", number % ROUTES)}).to_string()
}

/// Sends ticks until told to stop, then one for each partition that closes all windows.
fn feed(input: &str, stop: &AtomicBool, sent: &AtomicI64) {
    let (feeder, mut next) = (Feeder::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        (next..next + 20).for_each(|number| feeder.send(input, number as i32 % PARTITIONS, &tick(number)));
        next += 20;
        sent.store(next, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = json!({"ts": next + 10_000, "route": "end"}).to_string();
    (0..PARTITIONS).for_each(|partition| feeder.send(input, partition, &end));
    feeder.flush();
}

/// Per window and route: the last tick and how many.
fn oracle(ticks: i64) -> BTreeMap<(i64, String), (i64, i64)> {
    let mut answer = BTreeMap::new();
    for number in 0..ticks {
        let (last, count) = answer.entry((number / 1_000, format!("route {}", number % ROUTES))).or_insert((0, 0));
        (*last, *count) = (number, *count + 1);
    }
    answer
}

fn answer(rows: &[String]) -> BTreeMap<(i64, String), (i64, i64)> {
    let mut found = BTreeMap::new();
    for text in rows {
        let row: Value = serde_json::from_str(text).unwrap();
        let until = row["until"].as_i64().unwrap();
        let key = (until / 1_000, row["route"].as_str().unwrap().to_owned());
        assert!(found.insert(key, (until, row["ticks"].as_i64().unwrap())).is_none(), "twice: {text}");
    }
    found
}

/// Waits until pod 0 has said something.
fn until_said(job: &Pods, what: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(line) = job.shops[0].read(".stderr").lines().find(|line| line.contains(what)) {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "pod 0 does not say {what:?}: {}", job.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs the lab"]
fn a_pod_that_does_not_read_holds_the_sources_of_those_that_send_to_it() {
    let (input, output) = (unique("ticks"), unique("counts"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let mut job = Pods::new(2, &ticks(&input, &output).replace("20ms", "10ms"));
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let feeding = {
        let (stop, sent, input) = (Arc::clone(&stop), Arc::clone(&sent), input.clone());
        std::thread::spawn(move || feed(&input, &stop, &sent))
    };
    let mut reader = Reader::new(&output, 1);
    read_until(&mut reader, 100, &mut job);
    let before = job.shuffled();
    job.running[1].as_ref().unwrap().signal("STOP");
    let begin = Instant::now();
    let line = until_said(&job, "the sources are held");
    assert!(line.contains("waits for shard ") && line.contains(" of pod 1, "), "{line}");
    let held_after = begin.elapsed();
    // What was on its way comes to rest.
    let (mut between, deadline) = (job.shuffled(), Instant::now() + DEADLINE);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = job.shuffled();
        if std::mem::replace(&mut between, now) == now {
            break;
        }
        assert!(Instant::now() < deadline, "it does not come to rest: {}", job.said());
    }
    // A message and the marker of its transaction; what is sent until the next look comes on top.
    assert!(between - before < SHARDS * 3 * BOUND, "{before} to {between} offsets between the pods");
    let then = sent.load(Ordering::Relaxed);
    while sent.load(Ordering::Relaxed) < then + 5_000 {
        std::thread::sleep(Duration::from_millis(50));
    }
    let more = job.shuffled() - between;
    assert!(more <= UNDER_WAY, "input goes on, and {more} offsets more are sent to a pod that does not read");
    job.running[1].as_ref().unwrap().signal("CONT");
    let deadline = Instant::now() + DEADLINE;
    while !job.shops[0].read(".stderr").contains("the sources go on") {
        // It slept past its transaction's timeout: it ends in one way or another, and is started again.
        job.start_if_ended(1);
        reader.poll(Duration::from_millis(50));
        assert!(Instant::now() < deadline, "the sources stay held: {}", job.said());
    }
    stop.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    let want = oracle(sent.load(Ordering::Relaxed));
    read_until(&mut reader, want.len(), &mut job);
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    assert!(answer(&reader.values) == want, "{} rows for {}", reader.values.len(), want.len());
    job.stop();
    println!("held after {held_after:?} and {} offsets on {SHARDS} shards; {} rows", between - before, want.len());
}
