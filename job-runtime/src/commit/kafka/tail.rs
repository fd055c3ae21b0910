//! Reading parts of partitions, all at the same time, to their ends.
//!
//! Owns the readers and how long they wait. What a record means is its caller's.

use std::thread::Thread;
use std::time::{Duration, Instant};

use dataflow::worker::Wake;

use super::recover::RecoverError;
use crate::kafka::client::{ConsumerClient, Watch};
use crate::kafka::ffi::{ClientError, Fetched, PartitionReader};

/// Recovery may take long after a long absence; it fails when nothing arrives for this time.
const STALL: Duration = Duration::from_secs(30);
const READ_BATCH: usize = 1000;

/// A part of a partition: `from` up to `end`.
pub(super) struct Tail {
    pub(super) partition: i32,
    pub(super) from: i64,
    pub(super) end: i64,
}

pub(super) type Visit<'a> = &'a mut dyn FnMut(i32, i64, Option<&[u8]>) -> Result<(), RecoverError>;

/// Reads parts of partitions, all at the same time, and shows each record.
pub(super) fn read_tails(
    client: &ConsumerClient,
    topic: &str,
    tails: &[Tail],
    visit: Visit<'_>,
) -> Result<(), RecoverError> {
    let this: Thread = std::thread::current();
    let wake: Wake = std::sync::Arc::new(move || this.unpark());
    let mut open: Vec<(&Tail, PartitionReader<Watch>)> = Vec::new();
    for tail in tails.iter().filter(|tail| tail.from < tail.end) {
        let read =
            |e: ClientError| RecoverError::Read { topic: topic.to_owned(), partition: tail.partition, reason: e.text };
        let reader = PartitionReader::start(client.consumer().clone(), topic, tail.partition, tail.from, wake.clone())
            .map_err(read)?;
        open.push((tail, reader));
    }
    let mut heard = Instant::now();
    while !open.is_empty() {
        let mut taken = 0;
        let mut still = Vec::with_capacity(open.len());
        for (tail, mut reader) in open {
            let (count, done) = read_some(topic, tail, &mut reader, visit)?;
            taken += count;
            if !done {
                still.push((tail, reader));
            }
        }
        open = still;
        if taken > 0 {
            heard = Instant::now();
        } else if let Some((tail, _)) = open.first() {
            if heard.elapsed() >= STALL {
                let reason = format!("nothing arrived for {} s", STALL.as_secs());
                return Err(RecoverError::Read { topic: topic.to_owned(), partition: tail.partition, reason });
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    }
    Ok(())
}

/// Takes what is there of one partition; true if its part is at its end.
fn read_some(
    topic: &str,
    tail: &Tail,
    reader: &mut PartitionReader<Watch>,
    visit: Visit<'_>,
) -> Result<(usize, bool), RecoverError> {
    let (mut done, mut result) = (false, Ok(()));
    let taken = reader.take(READ_BATCH, |fetched| {
        if result.is_err() {
            return;
        }
        match fetched {
            Fetched::Record { offset, value, .. } if offset < tail.end => {
                result = visit(tail.partition, offset, value);
                done |= offset + 1 >= tail.end;
            }
            Fetched::Record { .. } => done = true,
            Fetched::End { offset } => done |= offset >= tail.end,
            Fetched::Failed(error) => {
                result =
                    Err(RecoverError::Read { topic: topic.to_owned(), partition: tail.partition, reason: error.text });
            }
        }
    });
    result.map(|()| (taken, done))
}
