//! The connector `nexmark`: the benchmark's auction site, one table per stream (person, auction, bid).
//!
//! Owns options, partitions and their positions; events are made by `generator`. A partition's rows are the stream's rows whose number
//! is the partition's modulo `nexmark.split.num`.

mod generator;
#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use dataflow::source::{PartitionId, SourcePartition};

use self::generator::{EVENTS_PER_EPOCH, EventTimes, Generator, Stream};
use super::generated::{GeneratedPartition, Pace, RowMaker, next_row};
use super::options::{self, OptionDoc, TableOptions};
use super::stats::Unit;
use super::{ConnectorError, Opening, SizeHint, SourceFactory};

/// Makes partitions of one of the three streams.
#[derive(Debug)]
pub(super) struct NexmarkFactory {
    table: String,
    stream: Stream,
    decoded: SchemaRef,
    times: EventTimes,
    seed: u64,
    splits: u64,
    /// Events of all streams; `None` never ends.
    events: Option<u64>,
    /// Events of all streams in a second; `None` is as fast as possible.
    rate: Option<u64>,
}

/// Checks that the columns are the stream's.
pub(super) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    check_columns(options, &options.table().physical)
}

fn check_columns(options: &TableOptions<'_>, schema: &SchemaRef) -> Result<(), ConnectorError> {
    generator::columns(stream(options)?, schema)
        .map(drop)
        .map_err(|message| options.error(options::NEXMARK_TABLE_TYPE.key, message))
}

fn stream(options: &TableOptions<'_>) -> Result<Stream, ConnectorError> {
    Ok(match options.required(&options::NEXMARK_TABLE_TYPE)? {
        "person" => Stream::Person,
        "auction" => Stream::Auction,
        _ => Stream::Bid,
    })
}

fn number(options: &TableOptions<'_>, option: &OptionDoc) -> u64 {
    options.integer(option).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

impl NexmarkFactory {
    pub(super) fn new(options: &TableOptions<'_>, decoded: &SchemaRef) -> Result<Self, ConnectorError> {
        check_columns(options, decoded)?;
        let rate = Some(number(options, &options::NEXMARK_RATE)).filter(|&rate| rate > 0);
        let event_rate = match (options.raw(options::NEXMARK_EVENT_RATE.key), rate) {
            (None, Some(rate)) => rate,
            (Some(_), _) | (None, None) => number(options, &options::NEXMARK_EVENT_RATE),
        };
        Ok(NexmarkFactory {
            table: options.table().name.clone(),
            stream: stream(options)?,
            decoded: decoded.clone(),
            times: EventTimes { base_ms: number(options, &options::NEXMARK_BASE_TIME), per_second: event_rate.max(1) },
            seed: number(options, &options::NEXMARK_SEED),
            splits: number(options, &options::NEXMARK_SPLIT_NUM).max(1),
            events: Some(number(options, &options::NEXMARK_EVENTS)).filter(|&events| events > 0),
            rate,
        })
    }

    fn name(&self, split: u64) -> String {
        format!("{split}-of-{}", self.splits)
    }

    /// Rows of one split.
    fn rows(&self, split: u64) -> Option<u64> {
        let all = self.stream.rows_of(self.events?);
        Some((all + self.splits - 1 - split) / self.splits)
    }
}

impl SourceFactory for NexmarkFactory {
    fn partitions(&self) -> Result<Vec<PartitionId>, ConnectorError> {
        Ok((0..self.splits).map(|split| PartitionId(self.name(split))).collect())
    }

    fn open(
        &self,
        id: &PartitionId,
        Opening { start, wake, stats }: Opening,
    ) -> Result<Box<dyn SourcePartition>, ConnectorError> {
        let fail = |message: String| ConnectorError {
            table: self.table.clone(),
            option: Some(options::NEXMARK_SPLIT_NUM.key.to_owned()),
            message,
        };
        let split = (0..self.splits).find(|&split| self.name(split) == id.0).ok_or_else(|| {
            fail(format!(
                "partition {} is of another 'nexmark.split.num': set it back, or start over with --fresh",
                id.0
            ))
        })?;
        let next = next_row(&self.table, &start)?;
        stats.measure(Unit::Records, next, self.rows(split));
        #[expect(clippy::cast_precision_loss, reason = "rates are below 10^9")]
        let pace = self.rate.map(|rate| {
            let share = self.stream.per_epoch() as f64 / EVENTS_PER_EPOCH as f64 / self.splits as f64;
            Pace::start(rate as f64 * share, next, wake)
        });
        let columns = generator::columns(self.stream, &self.decoded).map_err(&fail)?;
        Ok(Box::new(GeneratedPartition {
            id: id.clone(),
            table: self.table.clone(),
            maker: Split {
                generator: Generator::new(self.stream, columns, self.decoded.clone(), self.times, self.seed),
                split,
                splits: self.splits,
            },
            next,
            rows: self.rows(split),
            pace: pace.transpose().map_err(|e| fail(e.to_string()))?,
            stats,
        }))
    }

    fn bounded(&self) -> bool {
        self.events.is_some()
    }

    fn size_hint(&self) -> Option<SizeHint> {
        self.events.map(|events| SizeHint::Rows(self.stream.rows_of(events)))
    }
}

struct Split {
    generator: Generator,
    split: u64,
    splits: u64,
}

impl RowMaker for Split {
    fn make(&mut self, from: u64, count: usize) -> Result<RecordBatch, String> {
        self.generator.rows(self.split + from * self.splits, self.splits, count)
    }
}
