//! Independent `read_committed` readers beside a job: how late records are, when they came, and how far a partition is readable.
//!
//! Owns the reading. It shares no code with the runtime and judges nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::kafka::{config, now_us};
use super::until;

const ANSWER: Duration = Duration::from_secs(10);
/// A topic that a job makes is there soon after its start.
const APPEARS: Duration = Duration::from_secs(30);
/// Arrivals that are closer are one.
const SAME_US: u64 = 1_000;

fn client(isolation: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = config()?;
    config.set("group.id", "bench").set("isolation.level", isolation).set("enable.auto.commit", "false");
    Ok(config.set("fetch.wait.max.ms", "5").set("auto.offset.reset", "earliest").create()?)
}

/// A thread that shows every committed record of a topic as it becomes readable. Dropped, it ends.
struct Follower {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Follower {
    /// Of the first `most` partitions.
    fn start(
        topic: &str,
        most: i32,
        from: Offset,
        mut visit: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let consumer = client("read_committed")?;
        let partitions = until(&format!("topic {topic}"), APPEARS, || partitions(&consumer, topic))?;
        // Assigned, not subscribed: joining a group takes seconds, and a reader that must catch up first measures itself.
        let mut all = TopicPartitionList::new();
        for partition in 0..partitions.min(most) {
            all.add_partition_offset(topic, partition, from)?;
        }
        consumer.assign(&all)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let read = move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(message) = consumer.poll(Duration::from_millis(20)) {
                    visit(&message?)?;
                }
            }
            Ok(())
        };
        Ok(Self { stop, thread: Some(std::thread::Builder::new().name("reader".into()).spawn(read)?) })
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("a reader panicked"))?)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Whoever drops it without asking has failed for another reason.
        let _ = self.finish();
    }
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<Option<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    Ok(found.map(|topic| topic.partitions().len() as i32).filter(|count| *count > 0))
}

/// The `ts` of a record: microseconds since 1970.
fn sent_at(message: &BorrowedMessage<'_>) -> anyhow::Result<u64> {
    let payload = message.payload().context("a record without payload")?;
    number_after(payload, b"\"ts\":")
        .with_context(|| format!("a record without ts: {}", String::from_utf8_lossy(payload)))
}

/// Whole parsers cost more than all else that a reader of 100,000 records a second does.
fn number_after(text: &[u8], name: &[u8]) -> Option<u64> {
    let start = text.windows(name.len()).position(|part| part == name)? + name.len();
    let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |sum: Option<u64>, digit| Some(sum.unwrap_or(0) * 10 + u64::from(digit - b'0')))
}

/// How late records are when they can be read.
pub struct Latencies {
    follower: Follower,
    histogram: Arc<Mutex<Histogram<u64>>>,
}

impl Latencies {
    /// Reads one partition of `topic` from its beginning. Keys are spread evenly, so it stands for the others; a reader of all would take a good part
    /// of the machine for itself.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(topic: &str) -> anyhow::Result<Self> {
        let histogram = Arc::new(Mutex::new(Histogram::new(3)?));
        let filled = Arc::clone(&histogram);
        let follower = Follower::start(topic, 1, Offset::Beginning, move |message| {
            let late = now_us()?.saturating_sub(sent_at(message)?).max(1);
            Ok(filled.lock().unwrap_or_else(PoisonError::into_inner).record(late)?)
        })?;
        Ok(Self { follower, histogram })
    }

    /// Those since the last call, in microseconds.
    pub fn take(&self) -> Histogram<u64> {
        let mut histogram = self.histogram.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = histogram.clone();
        histogram.reset();
        taken
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When it failed before.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.follower.finish()
    }
}

/// The newest record that can be read.
pub struct Newest {
    follower: Follower,
    ts: Arc<AtomicU64>,
}

impl Newest {
    /// Reads `topic` from its end.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(topic: &str) -> anyhow::Result<Self> {
        let ts = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&ts);
        let follower = Follower::start(topic, i32::MAX, Offset::End, move |message| {
            seen.fetch_max(sent_at(message)?, Ordering::Relaxed);
            Ok(())
        })?;
        Ok(Self { follower, ts })
    }

    /// Waits for a record that was sent after `since`, in microseconds since 1970; how long after it that could be read.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn after(&self, since: u64, longest: Duration) -> anyhow::Result<Duration> {
        until("a new record", longest, || Ok((self.ts.load(Ordering::Relaxed) > since).then_some(())))?;
        Ok(Duration::from_micros(now_us()?.saturating_sub(since)))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When it failed before.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.follower.finish()
    }
}

/// When committed records of each partition became readable.
pub struct Arrivals {
    follower: Follower,
    at: Arc<Mutex<Vec<Vec<u64>>>>,
}

impl Arrivals {
    /// Reads `topic` from its end.
    ///
    /// # Errors
    /// When it is not there in time.
    pub fn of(topic: &str) -> anyhow::Result<Self> {
        let at = Arc::new(Mutex::new(Vec::<Vec<u64>>::new()));
        let noted = Arc::clone(&at);
        let follower = Follower::start(topic, i32::MAX, Offset::End, move |message| {
            let (now, partition) = (now_us()?, message.partition() as usize);
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            let length = noted.len().max(partition + 1);
            noted.resize_with(length, Vec::new);
            if noted[partition].last().is_none_or(|last| now - last > SAME_US) {
                noted[partition].push(now);
            }
            Ok(())
        })?;
        Ok(Self { follower, at })
    }

    /// Partitions that had a record since `since`.
    pub fn heard_since(&self, since: u64) -> usize {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.iter().filter(|times| times.last().is_some_and(|last| *last > since)).count()
    }

    /// Of each partition, the longest time without a record that lies in `from..to` or reaches into it.
    pub fn gaps(&self, from: u64, to: u64) -> Vec<Duration> {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.iter().map(|times| Duration::from_micros(longest_gap(times, from, to))).collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When it failed before.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.follower.finish()
    }
}

fn longest_gap(times: &[u64], from: u64, to: u64) -> u64 {
    let pairs = times.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

/// How far a partition is written, and how far it is readable.
pub struct Ends {
    written: BaseConsumer,
    readable: BaseConsumer,
}

impl Ends {
    /// Two clients.
    ///
    /// # Errors
    /// When there is no broker.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { written: client("read_uncommitted")?, readable: client("read_committed")? })
    }

    /// Its end.
    ///
    /// # Errors
    /// When the broker does not say.
    pub fn written(&self, topic: &str, partition: i32) -> anyhow::Result<i64> {
        Ok(self.written.fetch_watermarks(topic, partition, ANSWER)?.1)
    }

    /// Its last stable offset.
    ///
    /// # Errors
    /// When the broker does not say.
    pub fn readable(&self, topic: &str, partition: i32) -> anyhow::Result<i64> {
        Ok(self.readable.fetch_watermarks(topic, partition, ANSWER)?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_if_it_reaches_into_the_time() {
        let times = [10, 20, 70, 80, 300];
        assert_eq!(longest_gap(&times, 0, 100), 220);
        assert_eq!(longest_gap(&times, 0, 75), 50);
        assert_eq!(longest_gap(&times, 25, 30), 50);
        assert_eq!(longest_gap(&times, 400, 500), 0);
    }

    #[test]
    fn the_time_of_a_record_is_found() {
        assert_eq!(number_after(br#"{"v":7,"ts":123}"#, b"\"ts\":"), Some(123));
        assert_eq!(number_after(br#"{"v":7,"ts":}"#, b"\"ts\":"), None);
        assert_eq!(number_after(br#"{"v":7}"#, b"\"ts\":"), None);
    }
}
