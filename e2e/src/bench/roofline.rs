//! What the work of a Kafka → Kafka job costs at least with this client: its bare consume, decode, encode and produce, on the records of the
//! same run, one after the other.
//!
//! Owns the four loops. Consume and produce are librdkafka's batch calls with the settings of the runtime (`read_committed`, lz4, idempotent; no
//! transaction); decode and encode are sonic-rs into and out of a struct made for the record. No columns, no state, no commit: what a job
//! spends beyond it is the engine's.
#![expect(unsafe_code, reason = "the client's batch calls have no safe form")]

use std::ffi::CString;
use std::fmt;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::job::Columns;
use super::kafka::{config, producer};
use super::process::cpu_of;

/// Records that are kept to be decoded, encoded and produced again and again.
const SAMPLE: usize = 200_000;
/// How often they are.
const ROUNDS: usize = 10;
const BATCH: usize = 8_192;
/// Neither loop takes so long.
const LONGEST: Duration = Duration::from_secs(60);
/// `RD_KAFKA_PARTITION_UA`: the partitioner chooses. A macro in C, so not among the bindings.
const ANY_PARTITION: i32 = -1;

/// CPU time of each part in nanoseconds per record.
#[derive(Clone, Copy, Debug)]
pub struct Roofline {
    consume: f64,
    decode_all: f64,
    decode_three: f64,
    encode: f64,
    produce: f64,
}

impl fmt::Display for Roofline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { consume, decode_all, decode_three, encode, produce } = self;
        write!(
            f,
            "consume {consume:.0}, decode {decode_all:.0} (three of four columns: {decode_three:.0}), encode {encode:.0}, produce {produce:.0} ns of CPU per record; \
             pass-through {:.2} M records per CPU-second",
            1e3 / self.per_record_ns(Columns::All, 1.0)
        )
    }
}

#[derive(Deserialize, Serialize)]
struct All<'a> {
    k: &'a str,
    v: i64,
    ts: i64,
    pad: &'a str,
}

#[derive(Deserialize)]
struct Three<'a> {
    k: &'a str,
    v: i64,
    ts: i64,
}

impl Roofline {
    /// Measures with the `records` records of `input`; `output` is written to.
    ///
    /// # Errors
    /// When Kafka does not answer in time, or a record is not as `kafka::fill` makes it.
    pub fn measure(input: &str, output: &str, partitions: i32, records: u64) -> anyhow::Result<Self> {
        let mut sample = Vec::with_capacity(SAMPLE);
        let consume = per_record(records, || consume(input, partitions, records, &mut sample))?;
        let times = (sample.len() * ROUNDS) as u64;
        let decode_all =
            per_record(times, || rounds(&sample, |text| sonic_rs::from_slice::<All<'_>>(text).map(|r| r.v)))?;
        let three = |text: &[u8]| sonic_rs::from_slice::<Three<'_>>(text).map(|r| r.v + r.ts + r.k.len() as i64);
        let decode_three = per_record(times, || rounds(&sample, three))?;
        let rows = sample.iter().map(|text| sonic_rs::from_slice(text)).collect::<Result<Vec<All<'_>>, _>>()?;
        let encode = per_record(times, || encode(&rows))?;
        let produce = per_record(times, || produce(output, &sample))?;
        Ok(Self { consume, decode_all, decode_three, encode, produce })
    }

    /// The least for a job that reads these columns and writes `out` records for each that it reads.
    pub fn per_record_ns(&self, columns: Columns, out: f64) -> f64 {
        let decode = match columns {
            Columns::All => self.decode_all,
            Columns::Three => self.decode_three,
        };
        self.consume + decode + out * (self.encode + self.produce)
    }
}

/// CPU time of this process, the client's threads included, which does nothing else meanwhile.
fn per_record(records: u64, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let before = cpu_of("self")?;
    work()?;
    Ok((cpu_of("self")? - before).as_nanos() as f64 / records as f64)
}

fn rounds(sample: &[Vec<u8>], read: impl Fn(&[u8]) -> sonic_rs::Result<i64>) -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        for text in sample {
            std::hint::black_box(read(text)?);
        }
    }
    Ok(())
}

fn encode(rows: &[All<'_>]) -> anyhow::Result<()> {
    let mut out = Vec::with_capacity(1 << 20);
    for _ in 0..ROUNDS {
        for piece in rows.chunks(BATCH) {
            out.clear();
            piece.iter().try_for_each(|row| sonic_rs::to_writer(&mut out, row))?;
            std::hint::black_box(&out);
        }
    }
    Ok(())
}

fn consume(topic: &str, partitions: i32, records: u64, sample: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
    let mut config = config()?;
    config
        .set("group.id", "bench-roofline")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut messages, mut read, end) =
        (Vec::<*mut c::rd_kafka_message_t>::with_capacity(BATCH), 0, Instant::now() + LONGEST);
    // SAFETY: the consumer, and with it the client, lives until the end of this function; the queue is given back before.
    let queue = unsafe { c::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    ensure!(!queue.is_null(), "the consumer has no queue");
    while read < records && Instant::now() < end {
        messages.clear();
        // SAFETY: the vector has room for `BATCH` pointers; the client initialises as many as it returns (or -1 for none).
        unsafe {
            let taken = c::rd_kafka_consume_batch_queue(queue, 100, messages.as_mut_ptr(), BATCH).max(0) as usize;
            messages.set_len(taken);
        }
        for message in messages.drain(..) {
            // SAFETY: the client gave us this message; its memory is valid until it is destroyed, and its value for its length.
            unsafe {
                if (*message).err == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !(*message).payload.is_null()
                {
                    read += 1;
                    if sample.len() < SAMPLE {
                        let value =
                            std::slice::from_raw_parts((*message).payload.cast::<u8>().cast_const(), (*message).len);
                        sample.push(value.to_vec());
                    }
                }
                c::rd_kafka_message_destroy(message);
            }
        }
    }
    // SAFETY: last use of the queue.
    unsafe { c::rd_kafka_queue_destroy(queue) };
    ensure!(read >= records, "{read} of {records} records of {topic} were read in {} s", LONGEST.as_secs());
    Ok(())
}

fn message(value: &[u8]) -> c::rd_kafka_message_t {
    c::rd_kafka_message_t {
        err: c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: ptr::null_mut(),
        partition: ANY_PARTITION,
        payload: value.as_ptr().cast_mut().cast(),
        len: value.len(),
        key: ptr::null_mut(),
        key_len: 0,
        offset: 0,
        _private: ptr::null_mut(),
    }
}

fn produce(topic: &str, sample: &[Vec<u8>]) -> anyhow::Result<()> {
    let (producer, name, end) = (producer("5")?, CString::new(topic)?, Instant::now() + LONGEST);
    // SAFETY: the client lives until the end of this function; a null configuration means the default one; the handle is given back before.
    let handle = unsafe { c::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
    ensure!(!handle.is_null(), "no handle for {topic}");
    let mut batches = (0..ROUNDS).flat_map(|_| sample.chunks(BATCH));
    let sent = batches.try_for_each(|values| send(&producer, handle, values, end));
    // SAFETY: last use of the handle.
    unsafe { c::rd_kafka_topic_destroy(handle) };
    sent?;
    producer.flush(LONGEST).context("flush")
}

fn send(
    producer: &BaseProducer,
    topic: *mut c::rd_kafka_topic_t,
    values: &[Vec<u8>],
    end: Instant,
) -> anyhow::Result<()> {
    let mut messages: Vec<c::rd_kafka_message_t> = values.iter().map(|value| message(value)).collect();
    let mut rest = messages.as_mut_slice();
    while !rest.is_empty() {
        let count = i32::try_from(rest.len())?;
        // SAFETY: topic and client are alive; each message points to a value that outlives the call, and F_COPY makes the client copy it.
        unsafe { c::rd_kafka_produce_batch(topic, ANY_PARTITION, c::RD_KAFKA_MSG_F_COPY, rest.as_mut_ptr(), count) };
        let bad = rest.iter().position(|m| m.err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
        let Some(bad) = bad else { break };
        if rest[bad].err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL || Instant::now() >= end {
            bail!("the client does not take records: {:?}", rest[bad].err);
        }
        rest = &mut rest[bad..];
        producer.poll(Duration::from_millis(5));
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
