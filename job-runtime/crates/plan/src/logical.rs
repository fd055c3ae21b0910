//! The streaming logical plan: what a job computes, as a graph of stream operators without ids and physical expressions.
//!
//! Equal parts are the same node: a view that two sinks read is computed once.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use dataflow::graph::{AggregateFunction, WindowKind};
use datafusion_expr::Expr;

/// Place of a node in [`StreamPlan::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PlanId(pub(crate) usize);

/// The plan of a whole job, inputs before the nodes that read them.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamPlan {
    pub(crate) nodes: Vec<PlanNode>,
    known: HashMap<String, PlanId>,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct PlanNode {
    pub(crate) op: PlanOp,
    pub(crate) inputs: Vec<PlanId>,
    /// Output columns; their names are unique.
    pub(crate) schema: SchemaRef,
    /// Expressions over the output that advance with the watermark.
    pub(crate) times: Vec<Expr>,
}

/// What is done. Every result is a stream of inserts: nothing here ever takes a row back.
#[derive(Clone, Debug)]
pub(crate) enum PlanOp {
    /// All columns of a table, the computed ones too.
    Scan { table: String },
    /// Filter, then projection.
    Calc { filter: Option<Expr>, columns: Vec<Expr> },
    /// Aggregates per key and window.
    WindowAggregate { window: WindowKind, rowtime: String, keys: Vec<String>, aggregates: Vec<Aggregate> },
    /// The first row per key: by arrival, or by a time column.
    Deduplicate { keys: Vec<String>, rowtime: Option<String> },
    /// The rows of all inputs.
    Union,
    /// Writes to a table.
    Sink { table: String },
}

/// One aggregate over columns of the input.
#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    pub(crate) function: AggregateFunction,
    pub(crate) argument: Option<String>,
    pub(crate) filter: Option<String>,
    pub(crate) output_type: DataType,
}

impl StreamPlan {
    /// Adds a node, or finds the one that does the same.
    pub(crate) fn add(&mut self, node: PlanNode) -> PlanId {
        let mut key = String::new();
        let names: Vec<_> = node.schema.fields().iter().map(|f| f.name()).collect();
        write!(key, "{:?} {:?} {names:?}", node.op, node.inputs).expect("a String takes everything");
        // Two INSERTs into one table are two sinks, even with equal queries.
        if let (Some(id), false) = (self.known.get(&key), matches!(node.op, PlanOp::Sink { .. })) {
            return *id;
        }
        let id = PlanId(self.nodes.len());
        self.nodes.push(node);
        self.known.insert(key, id);
        id
    }

    pub(crate) fn node(&self, id: PlanId) -> &PlanNode {
        &self.nodes[id.0]
    }

    /// For every node: does its watermark matter to something behind it? State that `ages` does with the watermark.
    pub(crate) fn needs_watermark(&self, ages: bool) -> Vec<bool> {
        let mut needs = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let waits = match &node.op {
                PlanOp::WindowAggregate { .. } => true,
                PlanOp::Deduplicate { rowtime, .. } => rowtime.is_some() || ages,
                PlanOp::Scan { .. } | PlanOp::Calc { .. } | PlanOp::Union | PlanOp::Sink { .. } => false,
            };
            let here = needs[i] || waits;
            for input in &node.inputs {
                needs[input.0] |= here;
            }
        }
        needs
    }
}

/// A schema of nullable columns.
pub(crate) fn schema(columns: impl IntoIterator<Item = (String, DataType)>) -> SchemaRef {
    Arc::new(Schema::new(columns.into_iter().map(|(name, t)| Field::new(name, t, true)).collect::<Vec<_>>()))
}
