//! Topics for the benchmark: filling one fast, feeding one at a rate, and reading an output's latency.
//!
//! A client of its own, sharing no code with the runtime.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Distinct keys in the records.
pub const KEYS: u64 = 1_000;
const PAD: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// Creates `topics`, each with `partitions` partitions and one replica.
///
/// # Errors
/// When the broker refuses.
pub async fn create_topics(bootstrap: &str, topics: &[&str], partitions: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create()?;
    let new: Vec<NewTopic> =
        topics.iter().map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1))).collect();
    for result in admin.create_topics(&new, &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow::anyhow!("topic {topic}: {code}"))?;
    }
    Ok(())
}

fn producer(bootstrap: &str, linger_ms: &str) -> anyhow::Result<BaseProducer> {
    let mut config = config(bootstrap);
    config.set("compression.type", "lz4").set("enable.idempotence", "true").set("linger.ms", linger_ms);
    Ok(config.set("queue.buffering.max.messages", "500000").create()?)
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, payload: &str) -> anyhow::Result<()> {
    let mut record = BaseRecord::<(), str>::to(topic).partition(partition).payload(payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(50));
                record = back;
            }
            Err((error, _)) => bail!("produce to {topic}: {error}"),
        }
    }
}

/// Writes `records` JSON records of about 95 bytes: `k` of [`KEYS`] keys, `v` the number, `ts` one millisecond of event time each.
///
/// # Errors
/// When the broker does not take them.
pub fn fill(bootstrap: &str, topic: &str, records: u64, partitions: u64) -> anyhow::Result<()> {
    let producer = producer(bootstrap, "20")?;
    for i in 0..records {
        let payload =
            format!("{{\"k\":\"k{}\",\"v\":{i},\"ts\":{},\"pad\":\"{PAD}\"}}", i * 7919 % KEYS, 1_700_000_000_000 + i);
        send(&producer, topic, (i / 500 % partitions) as i32, &payload)?;
        if i % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60)).context("flush")
}

/// Feeds `topic` at `rate` records per second for `length`; each record's `ts` is the wall clock in microseconds when it was due.
///
/// # Errors
/// When the broker does not take them.
pub fn feed(bootstrap: &str, topic: &str, rate: u64, partitions: u64, length: Duration) -> anyhow::Result<u64> {
    let producer = producer(bootstrap, "1")?;
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < length {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        while sent < due {
            let payload =
                format!("{{\"k\":\"k{}\",\"v\":{sent},\"ts\":{},\"pad\":\"{PAD}\"}}", sent * 7919 % KEYS, now_us()?);
            send(&producer, topic, (sent % partitions) as i32, &payload)?;
            sent += 1;
        }
        producer.poll(Duration::from_millis(1));
    }
    producer.flush(Duration::from_secs(60)).context("flush")?;
    Ok(sent)
}

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// # Errors
/// When the clock stands before that.
pub fn now_us() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64)
}

/// Reads committed records of `topic` for `length`, and keeps the greatest `ts` of them in `newest`.
///
/// # Errors
/// When the topic cannot be read.
pub fn newest(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    length: Duration,
    newest: &AtomicU64,
) -> anyhow::Result<()> {
    let consumer = reader(bootstrap, topic, partitions)?;
    let start = Instant::now();
    while start.elapsed() < length {
        let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
        newest.fetch_max(sent_at(message?.payload())?, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads committed records of `topic` until `deadline` and records, for each after the warm-up, now minus its `ts` (microseconds).
///
/// # Errors
/// When the topic cannot be read.
pub fn latencies(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let consumer = reader(bootstrap, topic, partitions)?;
    let mut histogram = Histogram::new(3)?;
    let start = Instant::now();
    while start.elapsed() < length {
        let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
        let message = message?;
        if start.elapsed() > warm_up {
            histogram.record(now_us()?.saturating_sub(sent_at(message.payload())?).max(1))?;
        }
    }
    Ok(histogram)
}

/// A reader of committed records from the beginning of all partitions.
fn reader(bootstrap: &str, topic: &str, partitions: i32) -> anyhow::Result<BaseConsumer> {
    let mut config = config(bootstrap);
    config
        .set("group.id", "bench-latency")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.set("enable.auto.commit", "false").set("fetch.wait.max.ms", "5").create()?;
    // Assigned, not subscribed: joining a group takes seconds, and a reader that must catch up first measures itself.
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    Ok(consumer)
}

/// The `ts` of a record of [`feed`].
fn sent_at(payload: Option<&[u8]>) -> anyhow::Result<u64> {
    let payload: serde_json::Value = serde_json::from_slice(payload.context("a record without payload")?)?;
    payload["ts"].as_u64().context("a record without ts")
}
