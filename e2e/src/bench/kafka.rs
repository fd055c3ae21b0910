//! Topics for the benchmark: filling one fast, and feeding one at a rate until told to stop.
//!
//! A client of its own, sharing no code with the runtime. It reads nothing (see `watch`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use futures::executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::kafka::bootstrap;

const PAD: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
/// Records are sent so often.
const TICK: Duration = Duration::from_millis(1);
const FLUSH: Duration = Duration::from_secs(60);
/// Records that follow each other in one partition of a filled topic.
const RUN: u64 = 500;
/// Length of a wide key: 1.2 million of them are a gigabyte.
const WIDE: usize = 850;

/// A client's configuration with the brokers of the environment.
///
/// # Errors
/// When the environment does not say.
pub fn config() -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap()?);
    Ok(config)
}

/// Creates topics with so many partitions each.
///
/// # Errors
/// When the broker refuses.
pub fn create_topics(topics: &[(&str, i32)]) -> anyhow::Result<()> {
    block_on(crate::kafka::create_topics(topics))
}

/// Deletes every topic whose name contains `part`.
///
/// # Errors
/// When the broker refuses.
pub fn delete_topics(part: &str) -> anyhow::Result<()> {
    block_on(crate::kafka::delete_topics(part)).map(drop)
}

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// # Errors
/// When the clock stands before that.
pub fn now_us() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64)
}

/// Settings of a producer as the runtime's are, but for transactions.
///
/// # Errors
/// When the environment names no broker.
pub fn producer(linger_ms: &str) -> anyhow::Result<BaseProducer> {
    let mut config = config()?;
    config.set("compression.type", "lz4").set("enable.idempotence", "true").set("linger.ms", linger_ms);
    config.set("queue.buffering.max.messages", "500000").set("queue.buffering.max.kbytes", "131072");
    Ok(config.create()?)
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

fn write(topic: &str, partitions: u64, records: impl Iterator<Item = anyhow::Result<String>>) -> anyhow::Result<()> {
    let producer = producer("20")?;
    for (at, record) in (0u64..).zip(records) {
        send(&producer, topic, (at / RUN % partitions) as i32, &record?)?;
        if at % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(FLUSH).context("flush")
}

/// A record of about 95 bytes.
fn narrow(key: u64, number: u64, ts: u64) -> String {
    format!("{{\"k\":\"k{key}\",\"v\":{number},\"ts\":{ts},\"pad\":\"{PAD}\"}}")
}

/// Writes `records` JSON records of about 95 bytes: `k` of `keys` keys, `v` the number, `ts` event time in milliseconds. A thousand keys have a
/// millisecond for each record; more keys have as many more records in a millisecond, so that a window has as many rows of each key.
///
/// # Errors
/// When the broker does not take them.
pub fn fill(topic: &str, records: u64, partitions: u64, keys: u64) -> anyhow::Result<()> {
    let each = (keys / super::job::FEW_KEYS).max(1);
    write(topic, partitions, (0..records).map(|i| Ok(narrow(i * 7919 % keys, i, 1_700_000_000_000 + i / each))))
}

/// Text that no compression makes short, the same for the same number.
fn wide_key(number: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = String::with_capacity(WIDE);
    while out.len() < WIDE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (0..10).for_each(|at| out.push(char::from(DIGITS[(state >> (at * 6 + 4) & 63) as usize])));
    }
    out
}

/// A record with a wide key: `id` the number, `ts` now.
///
/// # Errors
/// When the clock is wrong.
pub fn wide(number: u64, key: u64) -> anyhow::Result<String> {
    Ok(format!("{{\"id\":{number},\"ts\":{},\"k\":\"{}\"}}", now_us()?, wide_key(key)))
}

/// Writes records with `keys` wide keys, each once.
///
/// # Errors
/// When the broker does not take them.
pub fn fill_wide(topic: &str, partitions: u64, keys: u64) -> anyhow::Result<()> {
    write(topic, partitions, (0..keys).map(|key| wide(key, key)))
}

/// A thread that feeds a topic at an even pace. Dropped, it ends.
pub struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<u64>>>,
}

impl Feeder {
    /// Feeds `rate` records of 95 bytes a second, each with the time in microseconds as `ts`.
    ///
    /// # Errors
    /// When there is no broker.
    pub fn narrow(topic: &str, partitions: u64, rate: u64) -> anyhow::Result<Self> {
        Self::start(topic, partitions, rate, |number| {
            Ok(narrow(number * 7919 % super::job::FEW_KEYS, number, now_us()?))
        })
    }

    /// Feeds `rate` records with wide keys that are among `keys`.
    ///
    /// # Errors
    /// When there is no broker.
    pub fn wide(topic: &str, partitions: u64, rate: u64, keys: u64) -> anyhow::Result<Self> {
        Self::start(topic, partitions, rate, move |number| wide(number, number.wrapping_mul(7_919) % keys))
    }

    fn start(
        topic: &str,
        partitions: u64,
        rate: u64,
        mut record: impl FnMut(u64) -> anyhow::Result<String> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (producer, stopped, topic) = (producer("1")?, Arc::clone(&stop), topic.to_owned());
        let feed = move || {
            let (start, mut sent) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
                while sent < due {
                    send(&producer, &topic, (sent % partitions) as i32, &record(sent)?)?;
                    sent += 1;
                }
                // Not a poll that waits: with less than a millisecond to go, it turns round and round instead.
                std::thread::sleep(TICK);
                producer.poll(Duration::ZERO);
            }
            producer.flush(FLUSH).context("flush")?;
            Ok(sent)
        };
        Ok(Self { stop, thread: Some(std::thread::Builder::new().name("feeder".into()).spawn(feed)?) })
    }

    /// Stops; how many records were sent.
    ///
    /// # Errors
    /// When it failed before.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a feeder is finished once")?;
        thread.join().map_err(|_| anyhow!("the feeder panicked"))?
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops it without asking has failed for another reason.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn wide_keys_are_wide_and_differ() {
        let keys: BTreeSet<String> = (0..1_000).map(wide_key).collect();
        assert_eq!(keys.len(), 1_000);
        assert!(keys.iter().all(|key| key.len() == WIDE));
        assert_eq!(wide_key(7), wide_key(7));
    }
}
