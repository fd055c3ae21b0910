//! From text to plan: the StreamJob file, its SQL in Flink's dialect, the streaming logical plan, and the job graph that workers run.
//!
//! Owns every message about what a user wrote, with its place. The only crate that knows DataFusion. No I/O.
#![deny(clippy::disallowed_methods)]

use arrow::datatypes::SchemaRef;
use dataflow::graph::JobGraph;

/// What a sink promises, as the job is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// No loss and no repetition is ever visible.
    ExactlyOnce,
    /// Repetition is possible after a failure, loss is not.
    AtLeastOnce,
    /// Output is for looking at.
    None,
}

/// A place in the job file: byte offsets into its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
}

/// A `WITH` option as written, in order of appearance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOption {
    /// Key, e.g. `scan.startup.mode`.
    pub key: String,
    /// Value.
    pub value: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Where the value stands.
    pub value_span: Span,
}

/// A declared table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Name.
    pub name: String,
    /// Where the name stands.
    pub span: Span,
    /// Physical columns (what the connector and format read or write): computed columns left out, all declared ones in order.
    pub physical: SchemaRef,
    /// Columns of `PRIMARY KEY … NOT ENFORCED`, indexes into `physical`.
    pub primary_key: Vec<usize>,
    /// Options.
    pub options: Vec<TableOption>,
}

/// A job, planned.
#[derive(Clone, Debug)]
pub struct PlannedJob {
    /// The declared tables that the graph reads or writes.
    pub tables: Vec<Table>,
    /// What workers run.
    pub graph: JobGraph,
}
