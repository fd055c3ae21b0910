//! From the streaming logical plan to the job graph: exchanges, pruned sources, physical expressions and stable ids.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use dataflow::graph::{
    AggregateCall, Calc, DeduplicateNode, Distribution, ExchangeNode, ExprRef, FirstBy, JobGraph, Node, NodeId,
    NodeKind, OperatorUid, SinkNode, SourceNode, WatermarkSpec, WindowAggregateNode, WindowKind,
};
use datafusion_expr::Expr;

use crate::catalog::{TableDef, TableDistribution};
use crate::expr::column;
use crate::expression::compile;
use crate::logical::{Aggregate, PlanId, PlanNode, PlanOp, StreamPlan, schema};
use crate::show;
use crate::uid::Uids;
use dataflow::placement::Spreads;

/// Something that must not happen: the plan is typed, and yet an expression cannot be compiled.
#[derive(Debug)]
pub(crate) struct LowerError(pub(crate) String);

type Lowered<T> = Result<T, LowerError>;

/// Makes the graph. `ttl` is how long state lives that has no end of its own.
pub(crate) fn lower(plan: &StreamPlan, tables: &[TableDef], ttl: Option<Duration>) -> Lowered<JobGraph> {
    let mut lowering = Lowering {
        plan,
        tables,
        needs_watermark: plan.needs_watermark(ttl.is_some()),
        ttl,
        needed: needed_columns(plan),
        graph: JobGraph::default(),
        spreads: Spreads::default(),
        nodes: HashMap::new(),
        uids: Uids::default(),
    };
    for (i, node) in plan.nodes.iter().enumerate() {
        if reaches_sink(plan, PlanId(i)) {
            lowering.node(PlanId(i), node)?;
        }
    }
    Ok(lowering.graph)
}

/// A view that nobody reads has nodes without a sink.
fn reaches_sink(plan: &StreamPlan, id: PlanId) -> bool {
    matches!(plan.node(id).op, PlanOp::Sink { .. })
        || plan
            .nodes
            .iter()
            .enumerate()
            .skip(id.0 + 1)
            .any(|(i, n)| n.inputs.contains(&id) && reaches_sink(plan, PlanId(i)))
}

/// The columns of every node that those behind it use, by name. Only scans are narrowed: calcs are made of what is needed already.
fn needed_columns(plan: &StreamPlan) -> Vec<BTreeSet<String>> {
    let mut needed: Vec<BTreeSet<String>> = vec![BTreeSet::new(); plan.nodes.len()];
    for (i, node) in plan.nodes.iter().enumerate() {
        if !reaches_sink(plan, PlanId(i)) {
            continue;
        }
        let mut names = BTreeSet::new();
        let all = match &node.op {
            PlanOp::Calc { filter, columns } => {
                for expr in columns.iter().chain(filter) {
                    names.extend(expr.column_refs().iter().map(|c| c.name.clone()));
                }
                false
            }
            PlanOp::Scan { .. }
            | PlanOp::WindowAggregate { .. }
            | PlanOp::Deduplicate { .. }
            | PlanOp::Union
            | PlanOp::Sink { .. } => true,
        };
        for input in &node.inputs {
            if all {
                needed[input.0].extend(plan.node(*input).schema.fields().iter().map(|f| f.name().clone()));
            } else {
                needed[input.0].extend(names.iter().cloned());
            }
        }
    }
    needed
}

struct Lowering<'a> {
    plan: &'a StreamPlan,
    tables: &'a [TableDef],
    needs_watermark: Vec<bool>,
    ttl: Option<Duration>,
    needed: Vec<BTreeSet<String>>,
    graph: JobGraph,
    /// Of the graph's nodes.
    spreads: Spreads,
    nodes: HashMap<PlanId, NodeId>,
    uids: Uids,
}

impl Lowering<'_> {
    fn add(
        &mut self,
        meaning: &str,
        name: String,
        inputs: Vec<NodeId>,
        schema: SchemaRef,
        kind: NodeKind,
    ) -> Lowered<NodeId> {
        let uid = self.uids.assign(meaning).map_err(LowerError)?;
        let id = NodeId(self.graph.nodes.len() as u32);
        let node = Node { id, uid, name, inputs, schema, kind };
        self.spreads.push(&node);
        self.graph.nodes.push(node);
        Ok(id)
    }

    fn input(&self, node: &PlanNode, index: usize) -> NodeId {
        self.nodes[&node.inputs[index]]
    }

    fn uid(&self, id: NodeId) -> OperatorUid {
        self.graph.nodes[id.0 as usize].uid
    }

    fn schema(&self, id: NodeId) -> SchemaRef {
        Arc::clone(&self.graph.nodes[id.0 as usize].schema)
    }

    fn node(&mut self, id: PlanId, node: &PlanNode) -> Lowered<()> {
        let lowered = match &node.op {
            PlanOp::Scan { table } => self.scan(id, table)?,
            PlanOp::Calc { filter, columns } => self.calc(node, filter.as_ref(), columns)?,
            PlanOp::Union => {
                let inputs: Vec<NodeId> = node.inputs.iter().map(|input| self.nodes[input]).collect();
                let parts: Vec<String> = inputs.iter().map(|i| self.uid(*i).to_string()).collect();
                self.add(
                    &format!("union|{}", parts.join(",")),
                    "union".to_owned(),
                    inputs,
                    Arc::clone(&node.schema),
                    NodeKind::Union,
                )?
            }
            PlanOp::WindowAggregate { window, rowtime, keys, aggregates } => {
                self.window_aggregate(node, *window, rowtime, keys, aggregates)?
            }
            PlanOp::Deduplicate { keys, rowtime } => self.deduplicate(node, keys, rowtime.as_deref())?,
            PlanOp::Sink { table } => {
                let input = self.input(node, 0);
                let kind = NodeKind::Sink(SinkNode { table: table.clone() });
                self.add(
                    &format!("sink|{table}"),
                    format!("sink({table})"),
                    vec![input],
                    Arc::clone(&node.schema),
                    kind,
                )?
            }
        };
        self.nodes.insert(id, lowered);
        Ok(())
    }

    fn scan(&mut self, id: PlanId, table: &str) -> Lowered<NodeId> {
        let def = self
            .tables
            .iter()
            .find(|def| def.table.name == *table)
            .ok_or_else(|| LowerError(format!("the plan reads `{table}`, which is not declared")))?;
        let watermark = def.watermark.as_ref().filter(|_| self.needs_watermark[id.0]);
        let mut needed = self.needed[id.0].clone();
        if let Some(watermark) = watermark {
            needed.insert(watermark.column.clone());
            needed.extend(watermark.expr.column_refs().iter().map(|c| c.name.clone()));
        }
        // A batch without columns has no place for its number of rows in every format: COUNT(*) reads the first column.
        if needed.is_empty() {
            needed.extend(def.columns.iter().find(|c| c.computed.is_none()).map(|c| c.name.clone()));
        }
        let used: Vec<_> = def.columns.iter().filter(|c| needed.contains(&c.name)).collect();
        let output = schema(used.iter().map(|c| (c.name.clone(), c.data_type.clone())));
        let decoded = decoded_schema(def, &needed);
        let computed = if used.iter().any(|c| c.computed.is_some()) || decoded.fields().len() != used.len() {
            let columns: Vec<Expr> =
                used.iter().map(|c| c.computed.clone().unwrap_or_else(|| column(&c.name))).collect();
            Some(compile_calc(None, &columns, &decoded, &output)?)
        } else {
            None
        };
        let watermark = match watermark {
            Some(watermark) => {
                let rowtime = output.index_of(&watermark.column).map_err(|error| LowerError(error.to_string()))?;
                let expr = compile_expr(&watermark.expr, &output)?;
                Some(WatermarkSpec { rowtime, expr, idle_timeout: watermark.idle_timeout })
            }
            None => None,
        };
        let distribution = def.distribution.as_ref().map(|declared| distribution(declared, &output));
        let kind = NodeKind::Source(SourceNode { table: table.to_owned(), decoded, computed, watermark, distribution });
        self.add(&format!("source|{table}"), format!("source({table})"), Vec::new(), output, kind)
    }

    fn calc(&mut self, node: &PlanNode, filter: Option<&Expr>, columns: &[Expr]) -> Lowered<NodeId> {
        let input = self.input(node, 0);
        let below = self.schema(input);
        let identity = filter.is_none()
            && columns.len() == below.fields().len()
            && columns
                .iter()
                .zip(below.fields())
                .zip(node.schema.fields())
                .all(|((e, b), out)| *e == column(b.name()) && b.name() == out.name());
        if identity {
            return Ok(input);
        }
        let calc = compile_calc(filter, columns, &below, &node.schema)?;
        let names: Vec<&str> = node.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let meaning = format!("calc|{}|{}", self.uid(input), names.join(","));
        let name = match filter {
            Some(filter) => format!("calc({})", show::expression(filter)),
            None => format!("calc({})", names.join(", ")),
        };
        self.add(&meaning, name, vec![input], Arc::clone(&node.schema), NodeKind::Calc(calc))
    }

    fn window_aggregate(
        &mut self,
        node: &PlanNode,
        window: WindowKind,
        rowtime: &str,
        keys: &[String],
        aggregates: &[Aggregate],
    ) -> Lowered<NodeId> {
        let input = self.input(node, 0);
        let below = self.schema(input);
        let index = |name: &str| below.index_of(name).map_err(|error| LowerError(error.to_string()));
        let key_columns = keys.iter().map(|k| index(k)).collect::<Lowered<Vec<_>>>()?;
        let calls = aggregates
            .iter()
            .map(|a| {
                let argument = a.argument.as_deref().map(index).transpose()?;
                let input_type = argument.map_or(DataType::Null, |i| below.field(i).data_type().clone());
                let filter = a.filter.as_deref().map(index).transpose()?;
                Ok(AggregateCall {
                    function: a.function,
                    argument,
                    filter,
                    input_type,
                    output_type: a.output_type.clone(),
                })
            })
            .collect::<Lowered<Vec<_>>>()?;
        let WindowKind::Tumble { size_ms, offset_ms } = window;
        let sources = source_tables(self.plan, node).into_iter().collect::<Vec<_>>().join(",");
        let outputs: Vec<&str> = node.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let meaning =
            format!("window|{sources}|tumble {size_ms} {offset_ms}|{rowtime}|{}|{}", keys.join(","), outputs.join(","));
        let by = if keys.is_empty() { "one key".to_owned() } else { keys.join(", ") };
        let exchanged = self.exchange(&meaning, &by, input, &key_columns)?;
        let kind = NodeKind::WindowAggregate(WindowAggregateNode {
            window,
            rowtime: index(rowtime)?,
            keys: key_columns,
            aggregates: calls,
        });
        self.add(&meaning, format!("window_aggregate({by})"), vec![exchanged], Arc::clone(&node.schema), kind)
    }

    fn deduplicate(&mut self, node: &PlanNode, keys: &[String], rowtime: Option<&str>) -> Lowered<NodeId> {
        let input = self.input(node, 0);
        let below = self.schema(input);
        let index = |name: &str| below.index_of(name).map_err(|error| LowerError(error.to_string()));
        let key_columns = keys.iter().map(|k| index(k)).collect::<Lowered<Vec<_>>>()?;
        let first = match rowtime {
            Some(rowtime) => FirstBy::EventTime { rowtime: index(rowtime)? },
            None => FirstBy::Arrival,
        };
        // What is stored is rows of these columns: with others it is another operator.
        let sources = source_tables(self.plan, node).into_iter().collect::<Vec<_>>().join(",");
        let column = |f: &FieldRef| format!("{} {}", f.name(), crate::sql::types::name(f.data_type()));
        let columns = below.fields().iter().map(column).collect::<Vec<_>>().join(",");
        let by = keys.join(", ");
        let meaning = format!("first|{sources}|{}|{}|{columns}", keys.join(","), rowtime.unwrap_or_default());
        let exchanged = self.exchange(&meaning, &by, input, &key_columns)?;
        let name = if rowtime.is_some() { format!("deduplicate({by})") } else { format!("distinct({by})") };
        let kind = NodeKind::Deduplicate(DeduplicateNode { keys: key_columns, first, ttl: self.ttl });
        self.add(&meaning, name, vec![exchanged], below, kind)
    }

    /// What the operator with this meaning reads so that rows with equal keys are on one worker: an exchange, or `input` itself where they are already.
    fn exchange(&mut self, meaning: &str, by: &str, input: NodeId, keys: &[usize]) -> Lowered<NodeId> {
        let meaning = format!("exchange|{meaning}");
        if self.spreads.placement(input, keys).is_some() {
            // Its id is taken all the same: those of others must not depend on whether it is there.
            self.uids.assign(&meaning).map_err(LowerError)?;
            return Ok(input);
        }
        let kind = NodeKind::Exchange(ExchangeNode { keys: keys.to_vec() });
        self.add(&meaning, format!("exchange({by})"), vec![input], self.schema(input), kind)
    }
}

/// What a table declares, in terms of the columns that are read.
fn distribution(declared: &TableDistribution, output: &Schema) -> Distribution {
    let columns = declared.columns.iter().map(|name| output.index_of(name).ok()).collect::<Option<Vec<_>>>();
    Distribution { columns: columns.unwrap_or_default(), buckets: declared.buckets }
}

/// The physical columns that the needed ones are made of.
fn decoded_schema(def: &TableDef, needed: &BTreeSet<String>) -> SchemaRef {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for column in def.columns.iter().filter(|c| needed.contains(&c.name)) {
        match &column.computed {
            None => {
                names.insert(&column.name);
            }
            Some(expr) => names.extend(expr.column_refs().iter().map(|c| c.name.as_str())),
        }
    }
    let fields = def.table.physical.fields().iter();
    schema(fields.filter(|f| names.contains(f.name().as_str())).map(|f| (f.name().clone(), f.data_type().clone())))
}

fn compile_calc(filter: Option<&Expr>, columns: &[Expr], input: &Schema, output: &SchemaRef) -> Lowered<Calc> {
    Ok(Calc {
        filter: filter.map(|f| compile_expr(f, input)).transpose()?,
        projection: columns.iter().map(|c| compile_expr(c, input)).collect::<Lowered<Vec<_>>>()?,
        schema: Arc::clone(output),
    })
}

fn compile_expr(expr: &Expr, input: &Schema) -> Lowered<ExprRef> {
    let text = show::expression(expr);
    compile(expr, input, text.clone()).map_err(|why| LowerError(format!("{text}: {why}")))
}

/// The tables that a node reads, through everything between.
pub(crate) fn source_tables(plan: &StreamPlan, node: &PlanNode) -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    if let PlanOp::Scan { table } = &node.op {
        tables.insert(table.clone());
    }
    for input in &node.inputs {
        tables.extend(source_tables(plan, plan.node(*input)));
    }
    tables
}
