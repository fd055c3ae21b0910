//! The job: rows pass through to one topic, and are counted and summed per key and window into another.
//!
//! Owns the graph, the rows' encoding, the source over fetched records and the sinks' encoder. It knows no broker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use dataflow::graph::{
    AggregateCall, AggregateFunction, ExchangeNode, JobGraph, Node, NodeId, NodeKind, OperatorUid, SinkNode,
    SourceNode, WatermarkSpec, WindowAggregateNode, WindowKind,
};
use dataflow::key::ShardId;
use dataflow::shuffle::ShuffleReader;
use dataflow::sink::{EncodedRows, SinkEncoder, SinkError, SinkPayload};
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};
use dataflow::testing::Function;

/// The source node.
pub(crate) const SOURCE: NodeId = NodeId(0);
/// The sink of the rows themselves.
pub(crate) const ROWS: NodeId = NodeId(1);
/// The sink of the windows.
pub(crate) const WINDOWS: NodeId = NodeId(4);
/// Length of a window.
pub(crate) const SIZE_MS: i64 = 100;
/// How much later than others of its partition a row may be.
pub(crate) const DISORDER_MS: i64 = 50;
/// The input topic.
pub(crate) const INPUT: &str = "input";

/// One row: key, event time, value.
pub(crate) type Row = [i64; 3];

pub(crate) fn encode(row: &[i64]) -> Vec<u8> {
    row.iter().flat_map(|field| field.to_le_bytes()).collect()
}

pub(crate) fn decode(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|field| i64::from_le_bytes(field.try_into().expect("eight bytes"))).collect()
}

fn schema(names: &[&str], times: &[usize]) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let kind = |index: usize| if times.contains(&index) { time.clone() } else { DataType::Int64 };
    Arc::new(Schema::new(
        names.iter().enumerate().map(|(i, name)| Field::new(*name, kind(i), true)).collect::<Vec<_>>(),
    ))
}

pub(crate) fn graph() -> JobGraph {
    let raw = schema(&["k", "ts", "v"], &[1]);
    let windows = schema(&["k", "window_start", "window_end", "n", "total"], &[1, 2]);
    let watermark = |batch: &RecordBatch| -> ArrayRef {
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
        Arc::new(times.unary::<_, TimestampMillisecondType>(|time| time - DISORDER_MS))
    };
    let watermark = WatermarkSpec { rowtime: 1, expr: Arc::new(Function(watermark)), idle_timeout: None };
    let call = |function, argument: Option<usize>| {
        let input_type = if argument.is_some() { DataType::Int64 } else { DataType::Null };
        AggregateCall { function, argument, filter: None, input_type, output_type: DataType::Int64 }
    };
    let aggregates = vec![call(AggregateFunction::CountStar, None), call(AggregateFunction::Sum, Some(2))];
    let window = WindowKind::Tumble { size_ms: SIZE_MS, offset_ms: 0 };
    let sink = || NodeKind::Sink(SinkNode { table: "output".to_owned() });
    let source = SourceNode {
        table: INPUT.to_owned(),
        decoded: raw.clone(),
        computed: None,
        watermark: Some(watermark),
        distribution: None,
    };
    let mut graph = JobGraph::default();
    let mut add = |inputs: &[u32], schema: &SchemaRef, kind: NodeKind| {
        let id = NodeId(graph.nodes.len() as u32);
        let (uid, name) = (OperatorUid(OperatorUid::FIRST_FREE + id.0), format!("node {}", id.0));
        let inputs = inputs.iter().map(|input| NodeId(*input)).collect();
        graph.nodes.push(Node { id, uid, name, inputs, schema: schema.clone(), kind });
    };
    add(&[], &raw, NodeKind::Source(source));
    add(&[0], &raw, sink());
    add(&[0], &raw, NodeKind::Exchange(ExchangeNode { keys: vec![0] }));
    let aggregate = WindowAggregateNode { window, rowtime: 1, keys: vec![0], aggregates };
    add(&[2], &windows, NodeKind::WindowAggregate(aggregate));
    add(&[3], &windows, sink());
    graph
}

/// Rows of a partition that are fetched and not yet taken, with the offset behind each.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    rows: VecDeque<(i64, Row)>,
    /// Rows taken and not yet reported.
    taken: u64,
}

impl Buffer {
    pub(crate) fn push(&self, next_offset: i64, row: Row) {
        self.waiting().rows.push_back((next_offset, row));
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting().rows.len()
    }

    /// Rows that a worker has taken since the last question.
    pub(crate) fn taken(&self) -> u64 {
        std::mem::take(&mut self.waiting().taken)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().expect("one thread")
    }
}

/// The uid of the exchange, which names its topic.
pub(crate) fn exchange_uid() -> OperatorUid {
    OperatorUid(OperatorUid::FIRST_FREE + 2)
}

/// A partition of the input topic.
pub(crate) struct InputPartition {
    id: PartitionId,
    partition: i32,
    next_offset: i64,
    buffer: Buffer,
    schema: SchemaRef,
}

impl InputPartition {
    pub(crate) fn new(partition: i32, next_offset: i64, buffer: Buffer) -> Self {
        let schema = schema(&["k", "ts", "v"], &[1]);
        Self { id: PartitionId(format!("{INPUT}-{partition}")), partition, next_offset, buffer, schema }
    }
}

impl SourcePartition for InputPartition {
    fn id(&self) -> &PartitionId {
        &self.id
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        let mut waiting = self.buffer.waiting();
        let rows = max_rows.min(waiting.rows.len());
        if rows == 0 {
            return Ok(SourcePoll::Pending);
        }
        waiting.taken += rows as u64;
        let taken: Vec<_> = waiting.rows.drain(..rows).collect();
        self.next_offset = taken.last().expect("not empty").0;
        let column = |index: usize| taken.iter().map(move |(_, row)| row[index]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(column(0).collect::<Int64Array>()),
            Arc::new(TimestampMillisecondArray::from_iter_values(column(1))),
            Arc::new(column(2).collect::<Int64Array>()),
        ];
        let batch =
            RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("the columns are those of the schema");
        Ok(SourcePoll::Batch(batch))
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::Kafka { topic: INPUT.to_owned(), partition: self.partition, next_offset: self.next_offset }
    }
}

/// Messages of one shard's partition of the exchange's topic: fetched, and not yet taken.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Arrived>>);

#[derive(Default)]
struct Arrived {
    messages: VecDeque<(i64, Vec<u8>)>,
    /// All before this offset was seen.
    seen: i64,
    /// Where the partition ends, as far as is known.
    end: i64,
    taken: u64,
}

impl Inbox {
    fn arrived(&self) -> std::sync::MutexGuard<'_, Arrived> {
        self.0.lock().expect("one thread")
    }

    /// Where to fetch from; nothing before it is needed.
    pub(crate) fn start(&self, next_offset: i64) {
        self.arrived().seen = next_offset;
    }

    pub(crate) fn push(&self, messages: impl Iterator<Item = (i64, Vec<u8>)>, seen: i64, end: i64) {
        let mut arrived = self.arrived();
        arrived.messages.extend(messages);
        (arrived.seen, arrived.end) = (seen, end);
    }

    pub(crate) fn len(&self) -> usize {
        self.arrived().messages.len()
    }

    /// Messages that the worker has taken since the last question.
    pub(crate) fn taken(&self) -> u64 {
        std::mem::take(&mut self.arrived().taken)
    }
}

/// Reads an [`Inbox`], as the runtime's reader reads its client's queue.
pub(crate) struct InboxReader {
    shard: ShardId,
    topic: String,
    inbox: Inbox,
    next_offset: i64,
    /// The partition's end when it was opened.
    there: i64,
}

impl InboxReader {
    pub(crate) fn new(shard: ShardId, topic: &str, inbox: Inbox, next_offset: i64, there: i64) -> Self {
        inbox.start(next_offset);
        Self { shard, topic: topic.to_owned(), inbox, next_offset, there }
    }
}

impl ShuffleReader for InboxReader {
    fn shard(&self) -> ShardId {
        self.shard
    }

    fn topic(&self) -> &str {
        &self.topic
    }

    fn poll(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let mut arrived = self.inbox.arrived();
        let Some((offset, message)) = arrived.messages.pop_front() else { return Ok(None) };
        arrived.taken += 1;
        self.next_offset = offset + 1;
        Ok(Some(message))
    }

    fn next_offset(&self) -> i64 {
        self.next_offset
    }

    fn caught_up(&self) -> bool {
        let arrived = self.inbox.arrived();
        arrived.messages.is_empty() && arrived.seen >= self.there
    }

    fn lag(&self) -> u64 {
        let arrived = self.inbox.arrived();
        let next = if arrived.messages.is_empty() { self.next_offset.max(arrived.seen) } else { self.next_offset };
        // Behind every message stands a marker.
        (arrived.end - next).max(0) as u64 / 2
    }
}

/// Each row as its fields.
#[derive(Default)]
pub(crate) struct FieldEncoder;

impl SinkEncoder for FieldEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        let mut rows = EncodedRows::default();
        for row in 0..batch.num_rows() {
            for column in batch.columns() {
                let value = match column.as_primitive_opt::<Int64Type>() {
                    Some(column) => column.value(row),
                    None => column.as_primitive::<TimestampMillisecondType>().value(row),
                };
                rows.bytes.extend_from_slice(&value.to_le_bytes());
            }
            rows.ends.push(rows.bytes.len() as u32);
        }
        out.push(SinkPayload::Rows(rows));
        Ok(())
    }

    fn flush(&mut self, _: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        Ok(())
    }
}
