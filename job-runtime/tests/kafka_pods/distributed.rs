//! Pods whose input is partitioned by the key already: nothing goes between them, and what is read is what an oracle says, whatever is killed and
//! however many pods there are. Another number of partitions than declared ends the job with both numbers.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use crate::broker::{Reader, create_topic, servers, unique};
use crate::workshop::{Moments, Outcome};
use crate::{Feeder, Flight, PARTITIONS, Pods, compare, feed_over, flights, job, oracle, read_until, record};

const KILLS: usize = 8;
const SECONDS: u64 = 12;

/// The job of the other tests, whose topic is declared to be partitioned by the key.
fn declared(input: &str, output: &str, buckets: i32, more: &str) -> String {
    let clause = format!(") DISTRIBUTED BY (route) INTO {buckets} BUCKETS WITH (");
    job(input, output, more).replacen(") WITH (", &clause, 1)
}

/// Any function of the key will do.
fn partition((_, route, _): &Flight) -> i32 {
    route.bytes().fold(7i32, |sum, byte| sum.wrapping_mul(31).wrapping_add(i32::from(byte))).rem_euclid(PARTITIONS)
}

fn feed_by_key(input: &str, flights: &[Flight]) {
    feed_over(Duration::from_secs(SECONDS), input, flights, |_, flight| partition(flight));
}

#[test]
#[ignore = "needs the lab"]
fn a_topic_partitioned_by_the_key_needs_no_shuffle_whatever_is_killed_or_moved() {
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let (flights, mut moments) = (flights(), Moments::new());
    let mut job = Pods::new(2, &declared(&input, &output, PARTITIONS, ""));
    let feeding = {
        let (flights, input) = (flights.clone(), input.clone());
        std::thread::spawn(move || feed_by_key(&input, &flights))
    };
    for kill in 0..KILLS {
        std::thread::sleep(moments.between(200, 1_200));
        match kill {
            1 => job.rescale(3),
            3 => job.rescale(2),
            _ => {
                let victim = moments.between(0, 2).as_millis() as usize;
                job.kill(victim, moments.between(1, 200));
                std::thread::sleep(moments.between(0, 400));
                job.start(victim);
            }
        }
    }
    feeding.join().unwrap();
    // A key of its own for each partition, as declared.
    let feeder = Feeder::new();
    for partition in 0..PARTITIONS {
        let end = ("2013-12-31 00:00:00".to_owned(), format!("end {partition}"), None);
        feeder.send(&input, partition, &record(&end));
    }
    feeder.flush();
    let want = oracle(&flights);
    let mut reader = Reader::new(&output, 1);
    compare(&mut reader, &want, &mut job);
    job.stop();
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    assert_eq!(job.shuffle_topics(), [""; 0], "nothing goes between the pods");
    println!("{} records, {} rows, {KILLS} kills and moves, no topic between pods", flights.len(), want.len());
}

/// How the job ends whose table says so many partitions.
fn end_of(buckets: i32, more: &str, meanwhile: impl FnOnce(&str, &mut Reader, &mut Pods)) -> Outcome {
    let (input, output) = (unique("flights"), unique("routes"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let mut job = Pods::new(1, &declared(&input, &output, buckets, more));
    meanwhile(&input, &mut Reader::new(&output, 1), &mut job);
    job.running[0].take().unwrap().end()
}

#[test]
#[ignore = "needs the lab"]
fn another_number_of_partitions_than_declared_is_refused_at_the_start_and_later() {
    let outcome = end_of(4, "", |_, _, _| ());
    let expected = "INTO 4 BUCKETS` is declared, and the topic has 3 partitions";
    assert!(outcome.code != Some(0) && outcome.stderr.contains(expected), "{outcome:?}");
    assert!(outcome.stderr.contains("flights"), "the table is named: {outcome:?}");
    let watched = ", 'scan.topic-partition-discovery.interval' = '300 ms'";
    let outcome = end_of(PARTITIONS, watched, |input, reader, job| {
        let feeder = Feeder::new();
        let flights = flights();
        flights.iter().for_each(|flight| feeder.send(input, partition(flight), &record(flight)));
        feeder.flush();
        read_until(reader, 1, job);
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let wanted = NewPartitions::new(input, PARTITIONS as usize + 1);
        let done = futures::executor::block_on(admin.create_partitions(&[wanted], &AdminOptions::new())).unwrap();
        done.into_iter().for_each(|result| drop(result.unwrap()));
    });
    let expected = "INTO 3 BUCKETS` is declared, and the topic has 4 partitions";
    assert!(outcome.code != Some(0) && outcome.stderr.contains(expected), "{outcome:?}");
    assert!(outcome.stderr.contains("flights"), "the table is named: {outcome:?}");
    assert!(outcome.stderr.contains("write `INTO 4 BUCKETS`"), "{outcome:?}");
}
