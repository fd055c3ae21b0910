//! One partition: its log, the transactions open in it, and what it knows of producers.
//!
//! Owns offsets, sequence numbers, the last stable offset and what each isolation level reads. Markers take an offset, as in Kafka.

use std::collections::{BTreeMap, VecDeque};

use crate::message::{Answer, ErrorCode, Fetched, Isolation, ProducerEpoch, Record, Response};

/// Batches of a producer that are remembered, to tell a repeated one from a gap.
const REMEMBERED: usize = 5;

#[derive(Clone, Debug)]
enum Entry {
    Data {
        producer: Option<i64>,
        record: Record,
    },
    /// The end of a transaction.
    Marker,
}

#[derive(Clone, Debug, Default)]
struct Producer {
    epoch: i16,
    /// First sequence number, number of records and offset of the last batches of this epoch.
    batches: VecDeque<(i32, i32, i64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Partition {
    start: i64,
    /// From `start` on.
    log: VecDeque<Entry>,
    producers: BTreeMap<i64, Producer>,
    /// Producer → first offset of its open transaction.
    open: BTreeMap<i64, i64>,
    /// Aborted transactions: producer, first offset, offset of the marker.
    aborted: Vec<(i64, i64, i64)>,
}

impl Partition {
    fn end(&self) -> i64 {
        self.start + self.log.len() as i64
    }

    pub(super) fn edges(&self) -> Answer {
        Answer::Edges(self.start, self.end())
    }

    fn last_stable_offset(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.end())
    }

    /// True if the producer has written in its present transaction: with this epoch, for the next one may come before the marker of the last.
    pub(super) fn has_open(&self, producer: ProducerEpoch) -> bool {
        let known = self.producers.get(&producer.id);
        self.open.contains_key(&producer.id) && known.is_some_and(|known| known.epoch == producer.epoch)
    }

    pub(super) fn append(&mut self, by: Option<(ProducerEpoch, i32)>, records: &[Record]) -> Result<i64, ErrorCode> {
        let first = self.end();
        if let Some((producer, sequence)) = by {
            if let Some(offset) = self.producers.entry(producer.id).or_default().accept(producer, sequence)? {
                return Ok(offset);
            }
            let known = self.producers.entry(producer.id).or_default();
            known.remember(sequence, records.len() as i32, first);
            self.open.entry(producer.id).or_insert(first);
        }
        let producer = by.map(|(producer, _)| producer.id);
        self.log.extend(records.iter().map(|record| Entry::Data { producer, record: record.clone() }));
        Ok(first)
    }

    /// Writes the marker that ends a transaction here. It carries the epoch, so that an older one is refused from here on.
    pub(super) fn mark(&mut self, producer: ProducerEpoch, commit: bool) {
        let offset = self.end();
        self.log.push_back(Entry::Marker);
        let known = self.producers.entry(producer.id).or_default();
        if producer.epoch > known.epoch {
            *known = Producer { epoch: producer.epoch, batches: VecDeque::new() };
        }
        if let Some(first) = self.open.remove(&producer.id).filter(|_| !commit) {
            self.aborted.push((producer.id, first, offset));
        }
    }

    pub(super) fn fetch(&self, offset: i64, most: usize, isolation: Isolation) -> Result<Fetched, ErrorCode> {
        if offset < self.start || offset > self.end() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let end = match isolation {
            Isolation::ReadUncommitted => self.end(),
            Isolation::ReadCommitted => self.last_stable_offset(),
        };
        let next_offset = end.min(offset + most as i64).max(offset);
        let mut records = Vec::new();
        for at in offset..next_offset {
            let Entry::Data { producer, record } = &self.log[(at - self.start) as usize] else { continue };
            let is_aborted = producer.is_some_and(|id| self.is_aborted(id, at));
            if isolation == Isolation::ReadUncommitted || !is_aborted {
                records.push((at, record.clone()));
            }
        }
        let (high_watermark, last_stable_offset) = (self.end(), self.last_stable_offset());
        Ok(Fetched { records, next_offset, high_watermark, last_stable_offset, log_start: self.start })
    }

    fn is_aborted(&self, producer: i64, offset: i64) -> bool {
        self.aborted.iter().any(|(id, first, last)| *id == producer && (*first..*last).contains(&offset))
    }

    pub(super) fn delete_before(&mut self, offset: i64) -> Response {
        if offset < self.start || offset > self.end() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        self.log.drain(..(offset - self.start) as usize);
        self.start = offset;
        Ok(Answer::Done)
    }
}

impl Producer {
    /// The offset of a batch that is here already; `None` for the next one.
    fn accept(&mut self, producer: ProducerEpoch, sequence: i32) -> Result<Option<i64>, ErrorCode> {
        if producer.epoch < self.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if producer.epoch > self.epoch {
            *self = Self { epoch: producer.epoch, batches: VecDeque::new() };
        }
        if let Some((_, _, offset)) = self.batches.iter().find(|(first, _, _)| *first == sequence) {
            return Ok(Some(*offset));
        }
        let expected = self.batches.back().map_or(0, |(first, count, _)| first + count);
        match sequence.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(None),
            std::cmp::Ordering::Less => Err(ErrorCode::DuplicateSequenceNumber),
            std::cmp::Ordering::Greater => Err(ErrorCode::OutOfOrderSequenceNumber),
        }
    }

    fn remember(&mut self, sequence: i32, count: i32, offset: i64) {
        self.batches.push_back((sequence, count, offset));
        if self.batches.len() > REMEMBERED {
            self.batches.pop_front();
        }
    }
}
