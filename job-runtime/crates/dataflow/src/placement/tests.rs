//! What is promised of the analysis: where it says that no exchange is needed, rows of one key are together.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::graph::{
    DeduplicateNode, Distribution, ExchangeNode, ExprRef, FirstBy, OperatorUid, SinkNode, SourceNode,
    WindowAggregateNode, WindowKind,
};
use crate::testing::{Column, Function};

/// A graph that grows; schemas say nothing here.
#[derive(Default)]
struct Plan {
    graph: JobGraph,
    spreads: Spreads,
}

impl Plan {
    fn add(&mut self, inputs: &[NodeId], kind: NodeKind) -> NodeId {
        let id = NodeId(self.graph.nodes.len() as u32);
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let uid = OperatorUid(16 + id.0);
        let node = Node { id, uid, name: String::new(), inputs: inputs.to_vec(), schema, kind };
        self.spreads.push(&node);
        self.graph.nodes.push(node);
        id
    }

    fn source(&mut self, columns: Option<&[usize]>) -> NodeId {
        let distribution = columns.map(|columns| Distribution { columns: columns.to_vec(), buckets: 8 });
        let decoded = Arc::new(Schema::empty());
        let table = "t".to_owned();
        let source = SourceNode { table, decoded, computed: None, watermark: None, distribution };
        self.add(&[], NodeKind::Source(source))
    }

    fn exchange(&mut self, input: NodeId, keys: &[usize]) -> NodeId {
        self.add(&[input], NodeKind::Exchange(ExchangeNode { keys: keys.to_vec() }))
    }

    /// Of these columns; `None` is a computed one.
    fn calc(&mut self, input: NodeId, columns: &[Option<usize>]) -> NodeId {
        let computed = |batch: &RecordBatch| -> ArrayRef { Arc::clone(batch.column(0)) };
        let expr = |column: &Option<usize>| -> ExprRef {
            match column {
                Some(column) => Arc::new(Column(*column)),
                None => Arc::new(Function(computed)),
            }
        };
        let projection = columns.iter().map(expr).collect();
        self.add(&[input], NodeKind::Calc(Calc { filter: None, projection, schema: Arc::new(Schema::empty()) }))
    }

    fn window(&mut self, input: NodeId, keys: &[usize]) -> NodeId {
        let window = WindowKind::Tumble { size_ms: 1, offset_ms: 0 };
        let keys = keys.to_vec();
        let node = WindowAggregateNode { window, rowtime: 9, keys, aggregates: Vec::new() };
        self.add(&[input], NodeKind::WindowAggregate(node))
    }

    fn first(&mut self, input: NodeId, keys: &[usize]) -> NodeId {
        let node = DeduplicateNode { keys: keys.to_vec(), first: FirstBy::Arrival, ttl: None };
        self.add(&[input], NodeKind::Deduplicate(node))
    }

    fn needs(&self, input: NodeId, keys: &[usize]) -> bool {
        self.spreads.placement(input, keys).is_none()
    }
}

#[test]
fn rows_of_an_exchange_need_no_other_by_the_same_or_more_keys() {
    let mut plan = Plan::default();
    let source = plan.source(None);
    assert!(plan.needs(source, &[0]) && plan.needs(source, &[]));
    let exchange = plan.exchange(source, &[2, 0]);
    let place = |plan: &Plan, keys: &[usize]| plan.spreads.placement(exchange, keys);
    assert_eq!(place(&plan, &[2, 0]), Some(Placement::Key));
    assert_eq!(place(&plan, &[0, 2]), Some(Placement::Columns(vec![2, 0])), "in the order in which they were hashed");
    assert_eq!(place(&plan, &[1, 0, 2]), Some(Placement::Columns(vec![2, 0])));
    assert!(plan.needs(exchange, &[0]) && plan.needs(exchange, &[1]) && plan.needs(exchange, &[]));
    let window = plan.window(exchange, &[2, 0]);
    assert_eq!(plan.spreads.placement(window, &[0, 1]), Some(Placement::Key), "the window's keys come first");
    assert_eq!(plan.spreads.placement(window, &[0, 1, 3]), Some(Placement::Columns(vec![0, 1])));
}

#[test]
fn columns_may_be_renamed_and_not_computed_or_dropped() {
    let mut plan = Plan::default();
    let source = plan.source(None);
    let exchange = plan.exchange(source, &[0, 1]);
    let renamed = plan.calc(exchange, &[None, Some(1), Some(0), Some(1)]);
    assert_eq!(plan.spreads.placement(renamed, &[2, 1]), Some(Placement::Key));
    let first = plan.first(renamed, &[2, 1]);
    assert_eq!(plan.spreads.node(first), plan.spreads.node(renamed));
    for columns in [&[Some(0)][..], &[Some(0), None]] {
        let lost = plan.calc(exchange, columns);
        assert_eq!(plan.spreads.node(lost), &Spread::Anywhere);
    }
}

#[test]
fn what_met_without_a_key_is_spread_again() {
    let mut plan = Plan::default();
    let source = plan.source(None);
    let exchange = plan.exchange(source, &[]);
    let window = plan.window(exchange, &[]);
    assert!(plan.needs(window, &[0]));
    assert_eq!(plan.spreads.placement(window, &[]), Some(Placement::Key));
}

#[test]
fn a_declaration_holds_for_keys_that_have_all_its_columns() {
    let mut plan = Plan::default();
    let source = plan.source(Some(&[1, 2]));
    assert!(plan.needs(source, &[1]) && plan.needs(source, &[0, 2]) && plan.needs(source, &[]));
    assert_eq!(plan.spreads.placement(source, &[2, 1, 0]), Some(Placement::Partition(source)));
    assert!(!relied_upon(&plan.graph, source), "no operator does yet");
    let moved = plan.calc(source, &[Some(2), Some(1)]);
    let window = plan.window(moved, &[1, 0]);
    assert!(relied_upon(&plan.graph, source));
    assert_eq!(plan.spreads.of_state(&plan.graph.nodes[window.0 as usize]), Some(Placement::Partition(source)));
    assert_eq!(plan.spreads.placement(window, &[0, 1, 2]), Some(Placement::Partition(source)), "and behind it");
    let unread = plan.source(Some(&[]));
    assert!(plan.needs(unread, &[0]), "the columns are not read");
}

#[test]
fn a_union_keeps_what_all_its_inputs_share() {
    let mut plan = Plan::default();
    let (one, two) = (plan.source(Some(&[0])), plan.source(Some(&[0])));
    let again = plan.calc(one, &[Some(0), None]);
    let same = plan.add(&[one, again], NodeKind::Union);
    assert_eq!(plan.spreads.placement(same, &[0]), Some(Placement::Partition(one)));
    let tables = plan.add(&[one, two], NodeKind::Union);
    assert!(plan.needs(tables, &[0]), "two tables need not have the same partitioner");
    let (left, right) = (plan.exchange(one, &[0]), plan.exchange(two, &[0]));
    let hashed = plan.add(&[left, right], NodeKind::Union);
    assert_eq!(plan.spreads.placement(hashed, &[0]), Some(Placement::Key), "equal values have equal hashes");
    let turned = plan.calc(right, &[None, Some(0)]);
    let mixed = [plan.add(&[left, turned], NodeKind::Union), plan.add(&[left, one], NodeKind::Union)];
    assert!(mixed.into_iter().all(|union| plan.needs(union, &[0])));
    let sink = plan.add(&[hashed], NodeKind::Sink(SinkNode { table: "out".to_owned() }));
    assert_eq!(plan.spreads.node(sink), &Spread::Anywhere);
}
