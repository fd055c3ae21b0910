//! A plan as text for people: what the job computes, the stream operators that do it with their state, and what each sink promises.
//!
//! Owns the text. It decides nothing: what it says of exchanges is `dataflow::placement`'s.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::datatypes::Schema;
use dataflow::graph::{
    Calc, DeduplicateNode, FirstBy, JobGraph, Node, NodeKind, SourceNode, WindowAggregateNode, WindowKind,
};

use dataflow::placement::Spreads;

use crate::catalog::TableDef;
use crate::logical::{PlanId, PlanNode, PlanOp};
use crate::show;
use crate::sql::types;
use crate::{Guarantee, PlannedJob};

mod exchange;

/// The plan of a job. `guarantees` are its sinks', by table; a sink that is not in it is listed without one.
pub fn explain(job: &PlannedJob, guarantees: &BTreeMap<String, Guarantee>) -> String {
    let mut out = String::from("Logical plan\n");
    for node in &job.logical.nodes {
        if let PlanOp::Sink { table } = &node.op {
            line(&mut out, 1, &format!("insert into {table}  (rows are only added)"));
            for input in &node.inputs {
                logical(job, *input, 2, &mut out);
            }
        }
    }
    operators(job, &mut out);
    sinks(job, guarantees, &mut out);
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    let _ = writeln!(out, "{}{text}", "  ".repeat(depth));
}

fn logical(job: &PlannedJob, id: PlanId, depth: usize, out: &mut String) {
    let node = job.logical.node(id);
    let text = match &node.op {
        PlanOp::Scan { table } => format!("read {table}"),
        PlanOp::Calc { filter, columns } => {
            let below = job.logical.node(node.inputs[0]);
            let filter = filter.as_ref().map(|f| format!(" where {}", show::expression(f))).unwrap_or_default();
            format!("select {}{filter}", assignments(node, below, columns))
        }
        PlanOp::Union => "union all".to_owned(),
        PlanOp::Deduplicate { keys, rowtime: Some(rowtime) } => {
            format!("first row per {} by {rowtime}", keys.join(", "))
        }
        PlanOp::Deduplicate { rowtime: None, .. } => "each row once".to_owned(),
        PlanOp::WindowAggregate { window, rowtime, keys, .. } => {
            let values = node.schema.fields().iter().skip(keys.len() + 2).map(|f| f.name().clone());
            let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
            format!("per {} of {rowtime}{by}: {}", window_text(*window), values.collect::<Vec<_>>().join(", "))
        }
        PlanOp::Sink { table } => format!("insert into {table}"),
    };
    line(out, depth, &text);
    for input in &node.inputs {
        logical(job, *input, depth + 1, out);
    }
}

/// `name` for a column that passes, `name = expression` for one that is made.
fn assignments(node: &PlanNode, below: &PlanNode, columns: &[datafusion_expr::Expr]) -> String {
    let one = |(expr, field): (&datafusion_expr::Expr, &arrow::datatypes::FieldRef)| {
        let text = show::expression(expr);
        let plain =
            text == *field.name() || (below.schema.column_with_name(field.name()).is_none() && text == *field.name());
        if plain { text } else { format!("{} = {text}", field.name()) }
    };
    columns.iter().zip(node.schema.fields()).map(one).collect::<Vec<_>>().join(", ")
}

fn window_text(window: WindowKind) -> String {
    let WindowKind::Tumble { size_ms, offset_ms } = window;
    let offset = if offset_ms == 0 { String::new() } else { format!(" shifted by {}", show::duration(offset_ms)) };
    format!("tumbling window of {}{offset}", show::duration(size_ms))
}

/// The stage of every node: one more behind each exchange.
fn stages(graph: &JobGraph) -> Vec<usize> {
    let mut stages: Vec<usize> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let of = |id: &dataflow::graph::NodeId| {
            let input = id.0 as usize;
            stages[input] + usize::from(matches!(graph.nodes[input].kind, NodeKind::Exchange(_)))
        };
        let stage = node.inputs.iter().map(of).max().unwrap_or(1);
        stages.push(stage);
    }
    stages
}

fn operators(job: &PlannedJob, out: &mut String) {
    let (stages, spreads) = (stages(&job.graph), Spreads::of(&job.graph));
    let last = stages.iter().copied().max().unwrap_or(0);
    for stage in 1..=last {
        let place =
            if stage == 1 { "on the workers that read the sources" } else { "on the workers that own the keys" };
        let _ = writeln!(out, "\nStage {stage}, {place}");
        for (node, _) in job.graph.nodes.iter().zip(&stages).filter(|(_, s)| **s == stage) {
            operator(job, &spreads, node, out);
        }
    }
}

fn operator(job: &PlannedJob, spreads: &Spreads, node: &Node, out: &mut String) {
    let from: Vec<String> = node.inputs.iter().map(|id| format!("#{}", id.0)).collect();
    let from = if from.is_empty() { String::new() } else { format!("  from {}", from.join(", ")) };
    line(out, 1, &format!("#{} {}{from}  uid {}", node.id.0, title(node), node.uid));
    match &node.kind {
        NodeKind::Source(source) => source_lines(job, source, out),
        NodeKind::Calc(calc) => calc_lines(calc, out),
        NodeKind::Exchange(exchange) => {
            let names: Vec<&str> = exchange.keys.iter().map(|k| node.schema.field(*k).name().as_str()).collect();
            let why = if names.is_empty() {
                "there is no key: all rows meet on one worker".to_owned()
            } else {
                let before = exchange::why(job, spreads, node);
                format!("rows with equal {} meet on one worker: {before}", names.join(", "))
            };
            entry(out, "why", &why);
            entry(
                out,
                "pods",
                "with one pod: in memory; with several: rows of other pods' keys go through a Kafka topic",
            );
            if feeds_one_window(job, node) {
                entry(out, "", "aggregated before that, per key and window and commit");
            }
            entry(out, "columns", &columns(&node.schema));
        }
        NodeKind::WindowAggregate(window) => {
            exchange::why_not(job, spreads, node).into_iter().for_each(|why| entry(out, "why", &why));
            window_lines(job, node, window, out);
        }
        NodeKind::Deduplicate(deduplicate) => {
            exchange::why_not(job, spreads, node).into_iter().for_each(|why| entry(out, "why", &why));
            deduplicate_lines(node, deduplicate, out);
        }
        NodeKind::Union => entry(out, "watermark", "the least of its inputs"),
        NodeKind::Sink(_) => entry(out, "columns", &columns(&node.schema)),
    }
}

/// True if a window aggregate is all that reads an exchange: all its functions can be combined.
fn feeds_one_window(job: &PlannedJob, exchange: &Node) -> bool {
    let mut readers = job.graph.nodes.iter().filter(|node| node.inputs.contains(&exchange.id));
    let window = readers.next().is_some_and(|node| matches!(node.kind, NodeKind::WindowAggregate(_)));
    window && readers.next().is_none()
}

fn title(node: &Node) -> String {
    match &node.kind {
        NodeKind::Source(source) => format!("source {}", source.table),
        NodeKind::Calc(_) => "calc".to_owned(),
        NodeKind::Exchange(_) => "exchange".to_owned(),
        NodeKind::WindowAggregate(_) => "window aggregate".to_owned(),
        NodeKind::Deduplicate(DeduplicateNode { first: FirstBy::EventTime { .. }, .. }) => "deduplicate".to_owned(),
        NodeKind::Deduplicate(DeduplicateNode { first: FirstBy::Arrival, .. }) => "distinct".to_owned(),
        NodeKind::Union => "union".to_owned(),
        NodeKind::Sink(sink) => format!("sink {}", sink.table),
    }
}

fn entry(out: &mut String, what: &str, text: &str) {
    line(out, 3, &format!("{what:<10}{text}"));
}

fn columns(schema: &Schema) -> String {
    schema
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), types::name(f.data_type())))
        .collect::<Vec<_>>()
        .join(", ")
}

fn source_lines(job: &PlannedJob, source: &SourceNode, out: &mut String) {
    entry(out, "reads", &columns(&source.decoded));
    if let Some(computed) = &source.computed {
        let made = computed.schema.fields().iter().zip(&computed.projection).filter(|(_, e)| e.as_column().is_none());
        for (field, expr) in made {
            entry(out, "computes", &format!("{} = {expr:?}", field.name()));
        }
    }
    let def = job.definitions.iter().find(|def| def.table.name == source.table);
    if let Some(distribution) = def.and_then(|def| def.distribution.as_ref()) {
        let (columns, buckets) = (distribution.columns.join(", "), distribution.buckets);
        entry(out, "declared", &format!("rows with equal {columns} are in one of {buckets} partitions"));
    }
    let text = |def: &TableDef| def.watermark.as_ref().map(|w| w.text.clone());
    let declared = def.and_then(text);
    let watermark = match (&source.watermark, declared) {
        (Some(spec), Some(text)) => {
            let idle = match spec.idle_timeout {
                Some(timeout) => {
                    format!("a partition without rows for {} is left out", show::duration(timeout.as_millis() as i64))
                }
                None => "a partition without rows holds it back".to_owned(),
            };
            format!("{text}, the least of all partitions; {idle}")
        }
        (None, Some(text)) => format!("{text}: declared, and nothing waits for it"),
        _ => "none".to_owned(),
    };
    entry(out, "watermark", &watermark);
    entry(out, "state", "the position of each partition");
}

fn calc_lines(calc: &Calc, out: &mut String) {
    if let Some(filter) = &calc.filter {
        entry(out, "keeps", &format!("{filter:?}"));
    }
    let one = |(expr, field): (&dataflow::graph::ExprRef, &arrow::datatypes::FieldRef)| {
        let text = format!("{expr:?}");
        if text == *field.name() { text } else { format!("{} = {text}", field.name()) }
    };
    let columns: Vec<String> = calc.projection.iter().zip(calc.schema.fields()).map(one).collect();
    entry(out, "columns", &columns.join(", "));
}

fn window_lines(job: &PlannedJob, node: &Node, window: &WindowAggregateNode, out: &mut String) {
    let input = node.inputs.first().map(|id| &job.graph.nodes[id.0 as usize].schema);
    let name = |i: usize| input.map_or_else(String::new, |schema| schema.field(i).name().clone());
    let keys: Vec<String> = window.keys.iter().map(|k| name(*k)).collect();
    entry(out, "windows", &format!("{} on {}", window_text(window.window), name(window.rowtime)));
    let values: Vec<&str> = node.schema.fields().iter().skip(keys.len() + 2).map(|f| f.name().as_str()).collect();
    let per = if keys.is_empty() { "window".to_owned() } else { format!("{} and window", keys.join(", ")) };
    let what = if values.is_empty() { " that it exists" } else { "" };
    entry(out, "state", &format!("one entry per {per}:{what}"));
    for value in values {
        entry(out, "", value);
    }
    entry(out, "dropped", "when the watermark passes the window's end and its row is sent on");
    entry(out, "late rows", "of closed windows are dropped and counted");
    entry(out, "columns", &columns(&node.schema));
}

fn deduplicate_lines(node: &Node, deduplicate: &DeduplicateNode, out: &mut String) {
    let name = |i: &usize| node.schema.field(*i).name().as_str();
    let keys = deduplicate.keys.iter().map(name).collect::<Vec<_>>().join(", ");
    match deduplicate.first {
        FirstBy::Arrival => {
            entry(out, "keeps", &format!("the first row of each {keys}, as soon as it comes"));
            entry(out, "state", &format!("one entry per {keys}: that it was there"));
        }
        FirstBy::EventTime { rowtime } => {
            let time = name(&rowtime);
            entry(
                out,
                "keeps",
                &format!("the row of each {keys} with the least {time}, when the watermark has reached it"),
            );
            entry(out, "state", &format!("one entry per {keys}: the row until then, with a timer; that it was there"));
            entry(out, "late rows", "are dropped and counted");
        }
    }
    let dropped = match deduplicate.ttl {
        Some(ttl) => format!("{} of event time after the row has gone on", show::duration(ttl.as_millis() as i64)),
        None => "never; SET 'table.exec.state.ttl' gives it an end".to_owned(),
    };
    entry(out, "dropped", &dropped);
    entry(out, "columns", &columns(&node.schema));
}

fn sinks(job: &PlannedJob, guarantees: &BTreeMap<String, Guarantee>, out: &mut String) {
    out.push_str("\nSinks\n");
    for node in &job.graph.nodes {
        let NodeKind::Sink(sink) = &node.kind else { continue };
        let promise = match guarantees.get(&sink.table) {
            Some(Guarantee::ExactlyOnce) => "exactly once: no row is lost, none is seen twice",
            Some(Guarantee::AtLeastOnce) => "at least once: no row is lost, some may be seen twice after a failure",
            Some(Guarantee::None) => "none: for looking at",
            None => "not known here: the connector decides",
        };
        line(out, 1, &format!("{}  {promise}", sink.table));
    }
}
