//! The first row of each key: `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …)` with `WHERE … = 1` around it, and `SELECT DISTINCT`.
//!
//! A row number is a column that nothing computes: it stands in a relation until a WHERE asks for the number 1, and then the relation is the
//! first rows. Whatever else is asked of it is refused.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::utils::split_conjunction_owned;
use datafusion_expr::{BinaryExpr, Expr, Operator};
use sqlparser::ast::{
    Expr as Ast, Function, FunctionArguments, GroupByExpr, OrderByExpr, Select, SelectItem, WindowSpec, WindowType,
};

use super::aggregate::Columns;
use super::{QueryPlanner, Relation};
use crate::Span;
use crate::bind::{Binder, Bound, ScopeColumn};
use crate::diagnostic::{Diagnostic, list};
use crate::expr::{self, Typed};
use crate::logical::{PlanId, PlanNode, PlanOp};

/// The column that stands for the number. No column can be named so.
const NUMBER: &str = "\u{0}row number";
const HELP: &str = "the first row of each key is written `SELECT ... FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts) AS rn FROM t) WHERE rn = 1`";

/// A row number that no WHERE has asked for yet.
#[derive(Clone, Debug)]
pub(crate) struct RowNumber {
    /// `PARTITION BY`: names, and values over the relation's input.
    keys: Vec<(String, Typed)>,
    /// `ORDER BY`, likewise.
    rowtime: Typed,
    span: Span,
}

impl QueryPlanner<'_> {
    /// A row number among the items of a select list, with its name.
    pub(super) fn row_number(
        &self,
        item: &SelectItem,
        index: usize,
        relation: &Relation,
    ) -> Bound<Option<(ScopeColumn, RowNumber)>> {
        let (SelectItem::UnnamedExpr(Ast::Function(function))
        | SelectItem::ExprWithAlias { expr: Ast::Function(function), .. }) = item
        else {
            return Ok(None);
        };
        let is_number = function.name.to_string().eq_ignore_ascii_case("ROW_NUMBER");
        let (true, Some(over)) = (is_number, &function.over) else { return Ok(None) };
        let (_, name) = self.select_item(item, index)?;
        let span = self.span(function);
        if relation.row_number.is_some() {
            return Err(Diagnostic::at(span, "`ROW_NUMBER()` over rows that have one is not supported").help(HELP));
        }
        let WindowType::WindowSpec(spec) = over else {
            return Err(Diagnostic::at(span, "`OVER` a named window is not supported")
                .help("write the window out: `OVER (PARTITION BY ... ORDER BY ...)`"));
        };
        let number = self.numbered(function, spec, relation, span)?;
        let value = Typed::column(NUMBER, &DataType::Int64);
        Ok(Some((ScopeColumn { qualifier: None, name, value }, number)))
    }

    fn numbered(&self, function: &Function, spec: &WindowSpec, relation: &Relation, span: Span) -> Bound<RowNumber> {
        let plain = match &function.args {
            FunctionArguments::None => true,
            FunctionArguments::List(list) => list.args.is_empty(),
            FunctionArguments::Subquery(_) => false,
        };
        if !plain || function.filter.is_some() || spec.window_frame.is_some() || spec.window_name.is_some() {
            return Err(Diagnostic::at(span, "`ROW_NUMBER()` takes no argument, filter or frame").help(HELP));
        }
        if spec.partition_by.is_empty() {
            return Err(Diagnostic::at(
                span,
                "`ROW_NUMBER()` without `PARTITION BY` is not supported: there would be one row",
            )
            .help("say what makes rows the same: `PARTITION BY k`"));
        }
        let mut keys = Vec::with_capacity(spec.partition_by.len());
        for ast in &spec.partition_by {
            let value = Binder::new(self.places, &relation.columns, self.fallback).bind(ast)?;
            self.check_key("PARTITION BY", ast, &value)?;
            keys.push((super::aggregate::group_name(ast), value));
        }
        let [order] = spec.order_by.as_slice() else {
            let what = if spec.order_by.is_empty() { "needs `ORDER BY`" } else { "takes one column in `ORDER BY`" };
            return Err(Diagnostic::at(span, format!("`ROW_NUMBER()` {what}"))
                .help("order by the column that has the watermark: `ORDER BY ts`"));
        };
        Ok(RowNumber { keys, rowtime: self.first_order(order, relation)?, span })
    }

    /// `ORDER BY` of a row number: the time column, ascending.
    fn first_order(&self, order: &OrderByExpr, relation: &Relation) -> Bound<Typed> {
        let value = Binder::new(self.places, &relation.columns, self.fallback).bind(&order.expr)?;
        if order.options.asc == Some(false) {
            return Err(self
                .problem(&order.expr, "`ROW_NUMBER()` in descending order is not supported: a later row would take back the row before it")
                .help("write `ASC` for the first row; for the last one per time, `MAX(...)` over `TABLE(TUMBLE(...))`"));
        }
        if order.options.nulls_first.is_some() || order.with_fill.is_some() {
            return Err(self
                .problem(&order.expr, "`NULLS` and `WITH FILL` are not supported here: event time is never null")
                .help("leave it out"));
        }
        let times = &self.plan.node(relation.input).times;
        if times.contains(&value.expr) {
            return Ok(value);
        }
        let known: Vec<&str> =
            relation.columns.iter().filter(|c| times.contains(&c.value.expr)).map(|c| c.name.as_str()).collect();
        let problem =
            self.problem(&order.expr, format!("`ROW_NUMBER()` orders by event time, and `{}` is none", order.expr));
        Err(match known.as_slice() {
            [] => problem
                .help("declare the column's watermark in CREATE TABLE: `WATERMARK FOR ts AS ts - INTERVAL '5' SECOND`"),
            names => problem.help(format!("order by {}", list(names.iter().copied()))),
        })
    }

    /// WHERE around a relation with a row number: it must ask for the first.
    pub(super) fn first_rows(
        &mut self,
        select: &Select,
        mut relation: Relation,
        number: RowNumber,
        (condition, bound): (&Ast, Expr),
    ) -> Bound<Relation> {
        let (first, others): (Vec<Expr>, Vec<Expr>) = split_conjunction_owned(bound).into_iter().partition(is_first);
        if first.is_empty() || others.iter().any(names_number) {
            return Err(self
                .problem(condition, "of the rows that `ROW_NUMBER()` numbers, only the first of each key is supported")
                .help("write `WHERE rn = 1`, with other conditions joined by `AND`")
                .help(HELP));
        }
        let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(groups, _) if groups.is_empty());
        let used = if grouped { relation.columns.clone() } else { self.select_list(select, &relation)?.0 };
        let exprs = used.iter().map(|column| &column.value.expr).chain(&others);
        let needed: BTreeSet<String> =
            exprs.flat_map(|expr| expr.column_refs().into_iter().map(|column| column.name.clone())).collect();
        let mut columns = Columns::default();
        for field in self.plan.node(relation.input).schema.fields().iter().filter(|f| needed.contains(f.name())) {
            columns.add(field.name(), &Typed::column(field.name(), field.data_type()));
        }
        let keys: Vec<String> = number.keys.iter().map(|(name, value)| columns.add(name, value)).collect();
        let rowtime = match &number.rowtime.expr {
            Expr::Column(column) => column.name.clone(),
            _ => "rowtime".to_owned(),
        };
        let rowtime = columns.add(&rowtime, &number.rowtime);
        let input = self.materialize(relation.input, relation.filter.take(), columns.into_inner());
        relation.input = self.deduplicate(input, keys, Some(rowtime));
        for column in &mut relation.columns {
            column.value.expr = with_number_one(column.value.expr.clone());
        }
        relation.filter = expr::conjunction(others);
        Ok(relation)
    }

    /// Each row once.
    pub(super) fn distinct(&mut self, select: &Select, relation: Relation) -> Bound<Relation> {
        self.settled(&relation)?;
        let mut columns = Columns::default();
        let mut out = Vec::with_capacity(relation.columns.len());
        for (place, column) in relation.columns.iter().enumerate() {
            match select.projection.get(place).filter(|_| select.projection.len() == relation.columns.len()) {
                Some(item) => self.check_key("SELECT DISTINCT", item, &column.value)?,
                None => self.check_key("SELECT DISTINCT", select, &column.value)?,
            }
            let name = columns.add(&column.name, &column.value);
            out.push(ScopeColumn { value: Typed::column(&name, &column.value.data_type), ..column.clone() });
        }
        let columns = columns.into_inner();
        let keys: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        let input = self.materialize(relation.input, relation.filter, columns);
        let input = self.deduplicate(input, keys, None);
        Ok(Relation { input, filter: None, columns: out, row_number: None })
    }

    fn deduplicate(&mut self, input: PlanId, keys: Vec<String>, rowtime: Option<String>) -> PlanId {
        let below = self.plan.node(input);
        let (schema, times) = (below.schema.clone(), below.times.clone());
        self.plan.add(PlanNode { op: PlanOp::Deduplicate { keys, rowtime }, inputs: vec![input], schema, times })
    }

    /// Refuses a relation whose row number nobody has asked for.
    pub(super) fn settled(&self, relation: &Relation) -> Bound<()> {
        match &relation.row_number {
            None => Ok(()),
            Some(number) => Err(Diagnostic::at(
                number.span,
                "`ROW_NUMBER()` is supported only to keep the first row of each key, and no `WHERE` around it does",
            )
            .help(HELP)),
        }
    }
}

fn names_number(expr: &Expr) -> bool {
    expr.column_refs().iter().any(|column| column.name == NUMBER)
}

/// `rn = 1` or `1 = rn`.
fn is_first(expr: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = expr else { return false };
    let number = |e: &Expr| *e == expr::column(NUMBER);
    let one = |e: &Expr| match e {
        Expr::Literal(value, _) => {
            value.cast_to(&DataType::Int64).is_ok_and(|value| value == ScalarValue::Int64(Some(1)))
        }
        _ => false,
    };
    (number(left) && one(right)) || (one(left) && number(right))
}

/// The number of first rows is 1.
fn with_number_one(expr: Expr) -> Expr {
    let one = |e: Expr| {
        Ok(match e == expr::column(NUMBER) {
            true => Transformed::yes(Expr::Literal(ScalarValue::Int64(Some(1)), None)),
            false => Transformed::no(e),
        })
    };
    expr.clone().transform(one).map_or(expr, |done| done.data)
}
