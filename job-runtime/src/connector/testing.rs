//! A test kit: tables, contexts, and partitions that are read to their end. For tests here and on a real broker.
//!
//! Owns nothing that a running job uses.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use dataflow::graph::{SinkNode, SourceNode};
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};

use super::registry::{self, ConnectorContext};
use super::stats::SourceStats;
use super::{ConnectorError, Opening, SinkFactory, SourceFactory, Start};

/// A schema of nullable columns.
pub fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

/// The table `t` with these columns and options.
pub fn table(schema: &SchemaRef, options: &[(&str, &str)]) -> plan::Table {
    let option = |(key, value): &(&str, &str)| plan::TableOption {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
        key_span: plan::Span::default(),
        value_span: plan::Span::default(),
    };
    plan::Table {
        name: "t".to_owned(),
        span: plan::Span::default(),
        physical: schema.clone(),
        primary_key: Vec::new(),
        options: options.iter().map(option).collect(),
    }
}

/// What was printed.
pub type Printed = Arc<Mutex<Vec<u8>>>;

/// What connectors are told of a job, and what they print.
pub fn context(base_dir: &Path) -> (ConnectorContext, Printed) {
    let printed = Printed::default();
    let context = ConnectorContext {
        base_dir: base_dir.to_owned(),
        job_uid: "job".to_owned(),
        kafka: None,
        output: printed.clone(),
        bounded: true,
    };
    (context, printed)
}

/// Opens a table as a source that reads the columns `decoded`.
///
/// # Errors
/// The connector's.
pub fn source(
    table: &plan::Table,
    decoded: &SchemaRef,
    base_dir: &Path,
) -> Result<Box<dyn SourceFactory>, ConnectorError> {
    let node = SourceNode {
        table: "t".to_owned(),
        decoded: decoded.clone(),
        computed: None,
        watermark: None,
        distribution: None,
    };
    registry::source(table, &node, &context(base_dir).0)
}

/// Opens a table as a sink.
///
/// # Errors
/// The connector's.
pub fn sink(table: &plan::Table, base_dir: &Path) -> Result<Box<dyn SinkFactory>, ConnectorError> {
    registry::sink(table, &SinkNode { table: "t".to_owned() }, &context(base_dir).0)
}

/// Opens a partition.
///
/// # Errors
/// The connector's.
pub fn open(
    factory: &dyn SourceFactory,
    id: &PartitionId,
    position: Option<SourcePosition>,
) -> Result<Box<dyn SourcePartition>, ConnectorError> {
    open_counting(factory, id, position, &Arc::default())
}

/// As [`open`], with counters to look at.
///
/// # Errors
/// The connector's.
pub fn open_counting(
    factory: &dyn SourceFactory,
    id: &PartitionId,
    position: Option<SourcePosition>,
    stats: &Arc<SourceStats>,
) -> Result<Box<dyn SourcePartition>, ConnectorError> {
    let start = position.map_or(Start::First, Start::At);
    factory.open(id, Opening { start, wake: Arc::new(|| {}), stats: Arc::clone(stats) })
}

/// Polls once, waiting for the reader where needed; `None` is the end.
///
/// # Errors
/// The partition's.
///
/// # Panics
/// If nothing comes for long.
pub fn poll(partition: &mut dyn SourcePartition, max_rows: usize) -> Result<Option<RecordBatch>, SourceError> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match partition.poll(max_rows)? {
            SourcePoll::Batch(batch) => return Ok(Some(batch)),
            SourcePoll::End => return Ok(None),
            SourcePoll::Pending => {
                assert!(Instant::now() < deadline, "nothing came");
                std::thread::yield_now();
            }
        }
    }
}

/// Everything to the end.
///
/// # Errors
/// The partition's.
pub fn drain(partition: &mut dyn SourcePartition, max_rows: usize) -> Result<Vec<RecordBatch>, SourceError> {
    std::iter::from_fn(|| poll(partition, max_rows).transpose()).collect()
}
