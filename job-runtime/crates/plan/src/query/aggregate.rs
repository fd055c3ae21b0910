//! GROUP BY over windows.

use arrow::datatypes::DataType;
use dataflow::graph::WindowKind;
use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, Operator};
use sqlparser::ast::{Expr as Ast, Select, Spanned};

use super::{QueryPlanner, Relation};
use crate::bind::{AggregateScope, Binder, Bound, ScopeColumn};
use crate::expr::{self, Typed};
use crate::functions::window::{self, Bound as WindowBound};
use crate::logical::{Aggregate, PlanNode, PlanOp, schema};
use crate::sql::types;

const HELP: &str = "group by the window too: `FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY ..., window_start, window_end`";

/// What GROUP BY names.
struct Groups {
    window: WindowKind,
    /// The rowtime over the input.
    rowtime: Expr,
    /// Everything but the window: its name, and its value over the input.
    keys: Vec<(String, Typed)>,
}

/// Columns that are made for an aggregation, each once.
#[derive(Default)]
pub(super) struct Columns(Vec<(String, Typed)>);

impl Columns {
    pub(super) fn add(&mut self, wanted: &str, value: &Typed) -> String {
        if let Some((name, _)) = self.0.iter().find(|(_, known)| known.expr == value.expr) {
            return name.clone();
        }
        let mut name = wanted.to_owned();
        let mut n = 2;
        while self.0.iter().any(|(other, _)| *other == name) {
            name = format!("{wanted}#{n}");
            n += 1;
        }
        self.0.push((name.clone(), value.clone()));
        name
    }

    pub(super) fn into_inner(self) -> Vec<(String, Typed)> {
        self.0
    }
}

impl QueryPlanner<'_> {
    pub(super) fn window_aggregate(&mut self, select: &Select, groups: &[Ast], relation: Relation) -> Bound<Relation> {
        self.settled(&relation)?;
        let mut scope = AggregateScope::default();
        let groups = self.groups(groups, &relation, &mut scope)?;
        let mut binder = Binder::new(self.places, &relation.columns, self.fallback);
        binder.aggregation = Some(scope);
        let mut columns = Vec::new();
        for item in &select.projection {
            let (ast, name) = self.select_item(item, columns.len()).map_err(|problem| {
                if matches!(item, sqlparser::ast::SelectItem::Wildcard(_)) {
                    self.problem(item, "`*` cannot be used with GROUP BY")
                        .help("name the grouped columns and the aggregates")
                } else {
                    problem
                }
            })?;
            columns.push(ScopeColumn { qualifier: None, name, value: binder.bind(ast)? });
        }
        let filter = match &select.having {
            Some(having) => Some(binder.condition(having, "HAVING")?.expr),
            None => None,
        };
        let scope = binder.aggregation.take().unwrap_or_default();
        let input = self.aggregation_node(relation, &groups, &scope);
        Ok(Relation { input, filter, columns, row_number: None })
    }

    fn groups(&self, groups: &[Ast], relation: &Relation, scope: &mut AggregateScope) -> Bound<Groups> {
        scope.names.extend(["window_start".to_owned(), "window_end".to_owned()]);
        let mut found: Option<(WindowKind, Expr)> = None;
        let (mut start, mut end) = (None, None);
        let mut keys = Vec::new();
        for ast in groups {
            let value = Binder::new(self.places, &relation.columns, self.fallback).bind(ast)?;
            let Some((bound, window, rowtime)) = window::as_bound(&value.expr) else {
                let name = scope.fresh_name(&group_name(ast));
                self.check_key("GROUP BY", ast, &value)?;
                scope.groups.push((value.expr.clone(), Typed::column(&name, &value.data_type)));
                keys.push((name, value));
                continue;
            };
            if found.as_ref().is_some_and(|(w, r)| *w != window || r != rowtime) {
                return Err(self.problem(ast, "GROUP BY names two different windows").help("group by one"));
            }
            found = Some((window, rowtime.clone()));
            match bound {
                WindowBound::Start => start = Some(value),
                WindowBound::End => end = Some(value),
                WindowBound::Time => {}
            }
        }
        let (start, end, (window, rowtime)) = match (start, end, found) {
            (Some(start), Some(end), Some(found)) => (start, end, found),
            (_, _, Some(_)) => {
                return Err(self
                    .problem(&Both(groups), "GROUP BY names half of the window")
                    .help("group by `window_start` and `window_end`"));
            }
            (_, _, None) => {
                let place = Both(groups);
                let has_window = relation.columns.iter().any(|c| window::as_bound(&c.value.expr).is_some());
                let message = if has_window {
                    "GROUP BY does not name the window"
                } else {
                    "`GROUP BY` without a window is not supported yet: its groups would never be complete"
                };
                return Err(self.problem(&place, message).help(HELP));
            }
        };
        let (start_out, end_out) =
            (Typed::column("window_start", &start.data_type), Typed::column("window_end", &end.data_type));
        let rowtime_typed = Typed::new(rowtime.clone(), end.data_type.clone());
        let time = window::bound(WindowBound::Time, window, &rowtime_typed);
        scope.groups.push((start.expr, start_out));
        scope.groups.push((end.expr, end_out.clone()));
        scope.groups.push((time.expr, window_time(end_out)));
        Ok(Groups { window, rowtime, keys })
    }

    pub(super) fn check_key(&self, clause: &str, ast: &impl Spanned, value: &Typed) -> Bound<()> {
        match &value.data_type {
            DataType::Float32 | DataType::Float64 => Err(self
                .problem(
                    ast,
                    format!("{clause} does not take {}: two of them are seldom equal", types::name(&value.data_type)),
                )
                .help("write `CAST(... AS DECIMAL(20, 2))` or ROUND it to an integer")),
            DataType::Null | DataType::Duration(_) | DataType::Interval(_) => {
                Err(self.problem(ast, format!("{clause} does not take {}", types::name(&value.data_type))))
            }
            _ => Ok(()),
        }
    }

    /// The projection that the aggregation needs, and the aggregation.
    fn aggregation_node(
        &mut self,
        relation: Relation,
        groups: &Groups,
        scope: &AggregateScope,
    ) -> crate::logical::PlanId {
        let mut input = Columns::default();
        let keys: Vec<String> = groups.keys.iter().map(|(name, value)| input.add(name, value)).collect();
        let time_type = scope
            .groups
            .iter()
            .find_map(|(_, out)| (out.expr == expr::column("window_end")).then(|| out.data_type.clone()))
            .unwrap_or_else(types::timestamp_ltz);
        let rowtime_value = Typed::new(groups.rowtime.clone(), time_type.clone());
        let rowtime_name = match &groups.rowtime {
            Expr::Column(column) => column.name.clone(),
            _ => "rowtime".to_owned(),
        };
        let rowtime = input.add(&rowtime_name, &rowtime_value);
        let mut aggregates = Vec::with_capacity(scope.calls.len());
        for call in &scope.calls {
            let name_of = |value: &Typed| match &value.expr {
                Expr::Column(column) => column.name.clone(),
                other => other.to_string(),
            };
            let argument = call.argument.as_ref().map(|value| input.add(&name_of(value), value));
            let filter = call.filter.as_ref().map(|value| input.add(&name_of(value), value));
            aggregates.push(Aggregate {
                function: call.function,
                argument,
                filter,
                output_type: call.output_type.clone(),
            });
        }
        let below = self.materialize(relation.input, relation.filter, input.0);
        let mut output: Vec<(String, DataType)> =
            groups.keys.iter().map(|(name, value)| (name.clone(), value.data_type.clone())).collect();
        output.push(("window_start".to_owned(), time_type.clone()));
        output.push(("window_end".to_owned(), time_type.clone()));
        output.extend(scope.calls.iter().map(|call| (call.name.clone(), call.output_type.clone())));
        let times = vec![window_time(Typed::column("window_end", &time_type)).expr];
        let op = PlanOp::WindowAggregate { window: groups.window, rowtime, keys, aggregates };
        self.plan.add(PlanNode { op, inputs: vec![below], schema: schema(output), times })
    }
}

/// The last instant of a window: its end minus one millisecond.
fn window_time(end: Typed) -> Typed {
    let one = Typed::literal(ScalarValue::DurationMillisecond(Some(1)));
    let data_type = end.data_type.clone();
    end.binary(Operator::Minus, one, data_type)
}

pub(super) fn group_name(ast: &Ast) -> String {
    match ast {
        Ast::Identifier(name) => name.value.clone(),
        Ast::CompoundIdentifier(parts) => parts.last().map(|p| p.value.clone()).unwrap_or_default(),
        other => other.to_string(),
    }
}

/// The place of several expressions.
struct Both<'a>(&'a [Ast]);

impl Spanned for Both<'_> {
    fn span(&self) -> sqlparser::tokenizer::Span {
        sqlparser::tokenizer::Span::union_iter(self.0.iter().map(Spanned::span))
    }
}
