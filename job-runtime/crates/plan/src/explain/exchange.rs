//! Why there is an exchange, and why there is none where one might be expected.
//!
//! Owns these sentences. What is said is read off the analysis by which the planner leaves exchanges out.

use dataflow::graph::{JobGraph, Node, NodeId, NodeKind};
use dataflow::placement::{Placement, Spread, Spreads};

use crate::PlannedJob;

/// How rows lie before an exchange, so that those of one key are not together.
pub(super) fn why(job: &PlannedJob, spreads: &Spreads, exchange: &Node) -> String {
    let input = exchange.inputs[0];
    match spreads.node(input) {
        Spread::Declared { source, .. } => {
            format!("{}, which is not among them", declared(job, *source))
        }
        Spread::Hashed { columns, exchange } if columns.is_empty() => {
            format!("they were all on one since exchange #{}", exchange.0)
        }
        Spread::Hashed { columns, exchange } => {
            let columns = names(&job.graph, input, columns);
            format!("they lie by {columns} since exchange #{}, which is not among them", exchange.0)
        }
        Spread::Anywhere if was_exchanged(&job.graph, input) => "they come from several workers".to_owned(),
        Spread::Anywhere => "they are read from several partitions".to_owned(),
    }
}

/// Why an operator with state has no exchange; `None` if it has one.
pub(super) fn why_not(job: &PlannedJob, spreads: &Spreads, operator: &Node) -> Option<String> {
    let input = *operator.inputs.first()?;
    if matches!(job.graph.nodes[input.0 as usize].kind, NodeKind::Exchange(_)) {
        return None;
    }
    let why = match (spreads.of_state(operator)?, spreads.node(input)) {
        (Placement::Partition(source), _) => declared(job, source),
        (Placement::Key | Placement::Columns(_), Spread::Hashed { columns, exchange }) if columns.is_empty() => {
            format!("all rows are on one worker since exchange #{}", exchange.0)
        }
        (Placement::Key | Placement::Columns(_), Spread::Hashed { columns, exchange }) => {
            let columns = names(&job.graph, input, columns);
            format!("already distributed by ({columns}) since exchange #{}", exchange.0)
        }
        (Placement::Key | Placement::Columns(_), Spread::Declared { .. } | Spread::Anywhere) => return None,
    };
    Some(format!("not shuffled: {why}"))
}

/// What the table of a source says.
fn declared(job: &PlannedJob, source: NodeId) -> String {
    let NodeKind::Source(source) = &job.graph.nodes[source.0 as usize].kind else { return String::new() };
    let def = job.definitions.iter().find(|def| def.table.name == source.table);
    let columns = def.and_then(|def| def.distribution.as_ref()).map(|declared| declared.columns.join(", "));
    format!("{} is DISTRIBUTED BY ({})", source.table, columns.unwrap_or_default())
}

fn names(graph: &JobGraph, node: NodeId, columns: &[usize]) -> String {
    let schema = &graph.nodes[node.0 as usize].schema;
    columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", ")
}

/// True if there is an exchange before a node.
fn was_exchanged(graph: &JobGraph, id: NodeId) -> bool {
    // Inputs stand before the nodes that read them, so that one pass backwards finds all.
    let mut before = vec![false; graph.nodes.len()];
    before[id.0 as usize] = true;
    graph.nodes.iter().rev().any(|node| {
        let here = before[node.id.0 as usize];
        node.inputs.iter().filter(|_| here).for_each(|input| before[input.0 as usize] = true);
        here && matches!(node.kind, NodeKind::Exchange(_))
    })
}
