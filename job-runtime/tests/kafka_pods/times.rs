//! Event time of source partitions over restarts on a real broker: what a partition had reached counts without another record of it, for the
//! same pods and for others. It compares with what the input says and looks at nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use crate::broker::{Reader, create_topic, servers, unique};
use crate::{Feeder, PARTITIONS, Pods, read_until, ticks};

const ROUTES: i64 = 50;

fn tick(ts: i64, route: i64) -> String {
    json!({"ts": ts, "route": route.to_string()}).to_string()
}

/// Waits until all of a topic is read and committed.
fn until_committed(job: &Pods, topic: &str) {
    let group = format!("millstream-{}", job.uid);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers())
        .set("group.id", group)
        .set("isolation.level", "read_uncommitted")
        .create()
        .unwrap();
    let (timeout, deadline) = (Duration::from_secs(5), Instant::now() + Duration::from_secs(30));
    let mut wanted = TopicPartitionList::new();
    (0..PARTITIONS).for_each(|partition| {
        wanted.add_partition(topic, partition);
    });
    loop {
        let committed = consumer.committed_offsets(wanted.clone(), timeout).unwrap();
        let end = |partition| consumer.fetch_watermarks(topic, partition, timeout).unwrap().1;
        if committed.elements().iter().all(|element| element.offset().to_raw() == Some(end(element.partition()))) {
            return;
        }
        assert!(Instant::now() < deadline, "not all is committed: {}", job.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ticks per window and route.
fn answer(rows: &[String]) -> BTreeMap<(i64, i64), i64> {
    let mut found = BTreeMap::new();
    for text in rows {
        let row: Value = serde_json::from_str(text).unwrap();
        let route = row["route"].as_str().unwrap().parse().unwrap();
        let key = (row["until"].as_i64().unwrap() / 1_000, route);
        assert!(found.insert(key, row["ticks"].as_i64().unwrap()).is_none(), "twice: {text}");
    }
    found
}

#[test]
#[ignore = "needs the lab"]
fn windows_close_after_a_restart_without_another_record_of_each_partition() {
    let (input, output) = (unique("ticks"), unique("counts"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let feeder = Feeder::new();
    let send = |partition, ts, route| feeder.send(&input, partition, &tick(ts, route));
    let mut want: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for route in 0..ROUTES {
        for window in 0..5 {
            (0..PARTITIONS).for_each(|partition| send(partition, window * 1_000 + 10, route));
            want.insert((window, route), i64::from(PARTITIONS));
        }
    }
    // One partition is far ahead, and has no record any more.
    for route in 0..ROUTES {
        send(0, 7_010, route);
        send(0, 15_010, route);
    }
    send(0, 19_500, 0);
    (1..PARTITIONS).for_each(|partition| send(partition, 5_000, 0));
    feeder.flush();
    let mut job = Pods::new(2, &ticks(&input, &output));
    let mut reader = Reader::new(&output, 1);
    read_until(&mut reader, want.len(), &mut job);
    until_committed(&job, &input);
    (0..2).for_each(|pod| job.kill(pod, Duration::ZERO));
    (1..PARTITIONS).for_each(|partition| send(partition, 9_400, 1));
    feeder.flush();
    (0..2).for_each(|pod| job.start(pod));
    want.insert((5, 0), 2);
    want.extend((0..ROUTES).map(|route| ((7, route), 1)));
    read_until(&mut reader, want.len(), &mut job);
    assert_eq!(answer(&reader.values), want, "the same pods");
    // The partitions are read by others now.
    job.rescale(3);
    until_committed(&job, &input);
    (1..PARTITIONS).for_each(|partition| send(partition, 19_400, 1));
    feeder.flush();
    want.insert((9, 1), 2);
    want.extend((0..ROUTES).map(|route| ((15, route), 1)));
    read_until(&mut reader, want.len(), &mut job);
    assert!(!reader.poll(Duration::from_secs(1)), "nothing more comes");
    assert_eq!(answer(&reader.values), want, "three pods");
    job.stop();
}
