//! Pods on a real broker for as long as one likes: killed with SIGKILL, rescaled, started again, while a `read_committed` reader compares every
//! row as it comes with what the input says. `make soak KAFKA=1 MINUTES=n`; without MINUTES a quarter of a minute.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use serde_json::Value;

use crate::broker::{Reader, create_topic, unique};
use crate::workshop::Moments;
use crate::{Feeder, PARTITIONS, Pods, job, record};

const ROUTES: u64 = 40;
/// Ten seconds of event time between two records.
const PER_HOUR: u64 = 360;
/// Records in a second of real time.
const PER_SECOND: u64 = 400;
const MOST_PODS: usize = 4;
/// No output for this long is a failure: a start, a transaction's timeout and the pods' deadlines fit.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

fn flight(number: u64) -> (String, String, Option<i64>) {
    let begin: Timestamp = "2013-01-01T00:00:00Z".parse().unwrap();
    let at = begin + ((number * 10) as i64).seconds();
    let hour = at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    (hour, format!("route-{}", number % ROUTES), Some(delay(number)))
}

fn delay(number: u64) -> i64 {
    (number % 97) as i64
}

/// What a row must be, told from its window's place alone.
fn expected(hour: u64, route: u64) -> (i64, i64, i64) {
    let delays: Vec<i64> =
        (hour * PER_HOUR..(hour + 1) * PER_HOUR).filter(|n| n % ROUTES == route).map(delay).collect();
    (delays.len() as i64, delays.iter().sum(), delays.into_iter().max().unwrap_or(0))
}

/// Looks at every row as it comes.
struct Checker {
    reader: Reader,
    seen: BTreeSet<(u64, u64)>,
    heard: Instant,
}

impl Checker {
    /// Reads for a while. Every row is right, and none comes twice.
    fn read(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if self.reader.poll(Duration::from_millis(20)) {
                self.heard = Instant::now();
            }
        }
        for text in std::mem::take(&mut self.reader.values) {
            let row: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let start: Timestamp =
                format!("{}Z", row["window_start"].as_str().unwrap().trim_end_matches('Z').replace(' ', "T"))
                    .parse()
                    .unwrap_or_else(|e| panic!("{text}: {e}"));
            let begin: Timestamp = "2013-01-01T00:00:00Z".parse().unwrap();
            let hour = (start.as_second() - begin.as_second()) as u64 / 3600;
            let route = row["route"].as_str().unwrap();
            if route == "end" {
                continue;
            }
            let route: u64 = route.trim_start_matches("route-").parse().unwrap();
            let got =
                (row["departures"].as_i64().unwrap(), row["total"].as_i64().unwrap(), row["worst"].as_i64().unwrap());
            assert_eq!(got, expected(hour, route), "hour {hour}, route {route}");
            assert!(self.seen.insert((hour, route)), "twice: {text}");
        }
    }
}

/// As the operator and the kubelet do it: another number of pods, and whatever has ended is started again.
fn rescale(job: &mut Pods, before: usize, pods: usize, moments: &mut Moments) {
    job.resize(pods.max(before));
    job.settings(pods);
    (before..pods).for_each(|pod| job.start(pod));
    // Pod 0 makes the assignment when it starts.
    job.restart(0);
    std::thread::sleep(moments.between(200, 4_000));
    // Those that are too many end, whether or not they have released what they had.
    (pods..before).for_each(|pod| drop(job.running[pod].take()));
}

#[test]
#[ignore = "needs the lab"]
fn soak() {
    let minutes = std::env::var("MINUTES").ok().filter(|text| !text.is_empty());
    let time = minutes.map_or(Duration::from_secs(15), |text| Duration::from_secs(60 * text.parse::<u64>().unwrap()));
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let mut moments = Moments::new();
    let (begin, mut pods) = (Instant::now(), 2);
    let mut running = Pods::new(pods, &job(&input, &output, ""));
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let feeding = {
        let (stop, sent, input) = (Arc::clone(&stop), Arc::clone(&sent), input.clone());
        std::thread::spawn(move || feed(&input, &stop, &sent))
    };
    let mut checker = Checker { reader: Reader::new(&output, 1), seen: BTreeSet::new(), heard: Instant::now() };
    let (mut kills, mut rescales, mut revived, mut told) = (0, 0, 0, Instant::now());
    while begin.elapsed() < time {
        checker.read(moments.between(100, 1_500));
        assert!(checker.heard.elapsed() < LONGEST_SILENCE, "no output: {}", running.said());
        revived += (0..pods).filter(|pod| running.start_if_ended(*pod)).count();
        let dice = moments.between(0, 10).as_millis();
        if dice == 0 {
            let next = 1 + moments.between(0, MOST_PODS as u64).as_millis() as usize;
            rescale(&mut running, pods, next, &mut moments);
            rescales += 1;
            pods = next;
        } else if dice < 8 {
            let victim = moments.between(0, pods as u64).as_millis() as usize;
            running.kill_and_start(victim, moments.between(0, 500));
            kills += 1;
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!("{:?}: {} rows right, {kills} kills, {rescales} rescales", begin.elapsed(), checker.seen.len());
        }
    }
    stop.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    finish(&mut running, pods, &input, &mut checker, sent.load(Ordering::Relaxed));
    println!(
        "soak: {:.0} s, {} records, {} rows, all right; {kills} kills, {rescales} rescales, {revived} pods that ended by themselves",
        begin.elapsed().as_secs_f32(),
        sent.load(Ordering::Relaxed),
        checker.seen.len()
    );
}

/// Sends records at their rate until told to stop; ends with a whole hour.
fn feed(input: &str, stop: &AtomicBool, sent: &AtomicU64) {
    let (feeder, start) = (Feeder::new(), Instant::now());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) && number % PER_HOUR == 0 {
            sent.store(number, Ordering::Relaxed);
            break;
        }
        feeder.send(input, number as i32 % PARTITIONS, &record(&flight(number)));
        let due = Duration::from_secs(1).mul_f64(number as f64 / PER_SECOND as f64);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    feeder.flush();
}

/// Nothing is killed any more: all rows must come.
fn finish(running: &mut Pods, pods: usize, input: &str, checker: &mut Checker, sent: u64) {
    let all = sent / PER_HOUR * ROUTES;
    let (feeder, deadline) = (Feeder::new(), Instant::now() + Duration::from_secs(90));
    let end = record(&("2033-12-31 00:00:00".to_owned(), "end".to_owned(), None));
    while checker.seen.len() < all as usize {
        (0..pods).for_each(|pod| {
            running.start_if_ended(pod);
        });
        // A pod that has started again knows a partition's event time with its next record only.
        (0..PARTITIONS).for_each(|partition| feeder.send(input, partition, &end));
        feeder.flush();
        checker.read(Duration::from_secs(1));
        assert!(Instant::now() < deadline, "{} of {all} rows: {}", checker.seen.len(), running.said());
    }
    checker.read(Duration::from_secs(1));
    assert_eq!(checker.seen.len() as u64, all);
}
