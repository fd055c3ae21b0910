//! The job graph: what the planner hands to the engine. Nodes in topological order, each with a stable id, its expressions and its schema.
//!
//! Owns the vocabulary of a dataflow. It does not run anything (see `worker`) and knows no connector: a source or sink names its table, and
//! the runtime finds the connector for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};

/// Position of a node in [`JobGraph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Stable identity of a stream operator: derived from the plan's meaning, stored in every state key, and equal again after an upgrade
/// that did not change the operator. Values below [`OperatorUid::FIRST_FREE`] are reserved for the engine's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorUid(pub u32);

impl OperatorUid {
    /// State of the sources: positions that are not Kafka offsets in the transaction.
    pub const POSITIONS: OperatorUid = OperatorUid(0);
    /// State of two-phase sinks: their durable tickets.
    pub const TICKETS: OperatorUid = OperatorUid(1);
    /// State of the shuffle: how far a shard has read other pods' rows, and their event time.
    pub const SHUFFLES: OperatorUid = OperatorUid(2);
    /// Which stream operators with state the job has had.
    pub const OPERATORS: OperatorUid = OperatorUid(3);
    /// The least uid that a planned operator may have.
    pub const FIRST_FREE: u32 = 16;
}

impl fmt::Display for OperatorUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A whole job. `nodes[i].id == NodeId(i)`, and every input of a node stands before it.
#[derive(Clone, Debug, Default)]
pub struct JobGraph {
    /// All nodes, inputs first.
    pub nodes: Vec<Node>,
}

/// One stream operator, source, sink or exchange.
#[derive(Clone, Debug)]
pub struct Node {
    /// Place in the graph.
    pub id: NodeId,
    /// Stable identity.
    pub uid: OperatorUid,
    /// Name for people, metrics and logs, e.g. `source(flights)`, `window_aggregate(origin)`.
    pub name: String,
    /// The nodes whose output this one reads, in the order the operator numbers its inputs.
    pub inputs: Vec<NodeId>,
    /// Schema of what this node emits (for a sink: of what it is given).
    pub schema: SchemaRef,
    /// What it does.
    pub kind: NodeKind,
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// Reads a table's partitions.
    Source(SourceNode),
    /// Filters, then projects.
    Calc(Calc),
    /// Sends each row to the worker that owns its key's shard.
    Exchange(ExchangeNode),
    /// Aggregates per key and window; emits when the watermark passes the window's end.
    WindowAggregate(WindowAggregateNode),
    /// Lets the first row of each key pass.
    Deduplicate(DeduplicateNode),
    /// All rows of all inputs.
    Union,
    /// Writes to a table.
    Sink(SinkNode),
}

impl NodeKind {
    /// True if it keeps state by key, under its uid.
    pub fn has_state(&self) -> bool {
        match self {
            Self::WindowAggregate(_) | Self::Deduplicate(_) => true,
            Self::Source(_) | Self::Calc(_) | Self::Exchange(_) | Self::Union | Self::Sink(_) => false,
        }
    }
}

/// An expression over the columns of one batch. Implemented by the planner's wrapper of its expression library.
pub trait Expression: Send + Sync + fmt::Debug {
    /// Evaluates for every row; the result has `batch.num_rows()` entries.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError>;
    /// The column index, if the expression is nothing but a column.
    fn as_column(&self) -> Option<usize> {
        None
    }
}

/// A shared expression.
pub type ExprRef = Arc<dyn Expression>;

/// An expression failed on data, e.g. a division by zero or a cast that does not fit.
#[derive(Debug, thiserror::Error)]
#[error("{expression}: {message}")]
pub struct ExpressionError {
    /// The expression as SQL text.
    pub expression: String,
    /// What went wrong.
    pub message: String,
}

/// Reads one table. Decoded columns → `computed` → the node's schema → watermark.
#[derive(Clone, Debug)]
pub struct SourceNode {
    /// The table's name: the runtime's key to its connector.
    pub table: String,
    /// What the decoder must produce: only the columns that the plan uses, in this order.
    pub decoded: SchemaRef,
    /// Computed columns, from `decoded` to the node's schema; `None` if they are the same.
    pub computed: Option<Calc>,
    /// How event time advances; `None` for a table without `WATERMARK FOR`.
    pub watermark: Option<WatermarkSpec>,
    /// What the table says about its partitions; `None` for a table without `DISTRIBUTED BY`.
    pub distribution: Option<Distribution>,
}

/// `DISTRIBUTED BY (columns) INTO n BUCKETS`: rows with equal values of the columns are in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Indexes in the source node's schema; empty if the plan does not read all of them.
    pub columns: Vec<usize>,
    /// Number of partitions.
    pub buckets: u32,
}

/// `WATERMARK FOR rowtime AS expr`, made per source partition.
#[derive(Clone, Debug)]
pub struct WatermarkSpec {
    /// Index of the rowtime column in the source node's schema (Timestamp in milliseconds).
    pub rowtime: usize,
    /// The watermark that a row stands for, over the source node's schema; the partition's watermark is the maximum seen.
    pub expr: ExprRef,
    /// After how long without rows a partition no longer holds the watermark back; `None` for never.
    pub idle_timeout: Option<Duration>,
}

/// A filter, then a projection.
#[derive(Clone, Debug)]
pub struct Calc {
    /// Rows for which this is true are kept (null is false); `None` keeps all.
    pub filter: Option<ExprRef>,
    /// The output columns, each over the input's columns; the node's schema names them.
    pub projection: Vec<ExprRef>,
    /// Schema of the output.
    pub schema: SchemaRef,
}

/// Hash exchange over key groups.
#[derive(Clone, Debug)]
pub struct ExchangeNode {
    /// Indexes of the key columns.
    pub keys: Vec<usize>,
}

/// `GROUP BY keys, window` over a window table function.
///
/// Output columns: the keys in order, `window_start`, `window_end` (Timestamp, milliseconds), then one column per aggregate.
#[derive(Clone, Debug)]
pub struct WindowAggregateNode {
    /// Which windows.
    pub window: WindowKind,
    /// Index of the rowtime column (Timestamp in milliseconds).
    pub rowtime: usize,
    /// Indexes of the key columns; may be empty (one global key).
    pub keys: Vec<usize>,
    /// The aggregates.
    pub aggregates: Vec<AggregateCall>,
}

/// The first row of each key; the output has the input's columns.
#[derive(Clone, Debug)]
pub struct DeduplicateNode {
    /// Indexes of the key columns; at least one.
    pub keys: Vec<usize>,
    /// Which row is the first.
    pub first: FirstBy,
    /// For how long a key is remembered, in event time, once its row has gone on; `None` for ever.
    pub ttl: Option<Duration>,
}

/// Which of a key's rows is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBy {
    /// The one that comes first; it goes on at once.
    Arrival,
    /// The one with the least event time; it goes on when the watermark has reached that.
    EventTime {
        /// Index of the rowtime column (Timestamp in milliseconds).
        rowtime: usize,
    },
}

/// The windows that the engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Fixed size, no overlap. Windows start at `offset_ms` modulo `size_ms` since 1970-01-01T00:00:00Z.
    Tumble {
        /// Length in milliseconds, positive.
        size_ms: i64,
        /// Shift in milliseconds, `0 <= offset_ms < size_ms`.
        offset_ms: i64,
    },
}

/// One aggregate of a query.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// Which function.
    pub function: AggregateFunction,
    /// Index of the argument's column; `None` only for [`AggregateFunction::CountStar`].
    pub argument: Option<usize>,
    /// Index of a Boolean column: rows that are not true do not count (`FILTER (WHERE …)`).
    pub filter: Option<usize>,
    /// Type of the argument (`Null` for `COUNT(*)`).
    pub input_type: DataType,
    /// Type of the result.
    pub output_type: DataType,
}

/// The aggregate functions. Integer sums are Int64 and fail on overflow; AVG of integers and floats is Float64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// `COUNT(*)`
    CountStar,
    /// `COUNT(x)`: non-null values.
    Count,
    /// `SUM(x)`: null if there was no value.
    Sum,
    /// `AVG(x)`: null if there was no value.
    Avg,
    /// `MIN(x)`
    Min,
    /// `MAX(x)`
    Max,
}

/// Writes to one table.
#[derive(Clone, Debug)]
pub struct SinkNode {
    /// The table's name: the runtime's key to its connector.
    pub table: String,
}
