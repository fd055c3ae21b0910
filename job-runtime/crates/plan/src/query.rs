//! From queries to the streaming logical plan.
//!
//! Owns relations: FROM, WHERE, SELECT, UNION ALL, WITH and views. A relation is kept as one filter and one projection over an operator, so
//! that projections and filters melt together through any number of views; aggregation is in `query::aggregate`, INSERT in `query::insert`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_expr::Expr;
use sqlparser::ast::{
    Distinct, Expr as Ast, GroupByExpr, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    SetOperator, SetQuantifier, Spanned, TableAlias,
};

use crate::Span;
use crate::bind::{Binder, Bound, ScopeColumn};
use crate::catalog::TableDef;
use crate::diagnostic::Diagnostic;
use crate::expr::{self, Typed, common_type};
use crate::logical::{PlanId, PlanNode, PlanOp, StreamPlan, schema};
use crate::settings::StateTtl;
use crate::sql::place::Places;
use crate::sql::types;
use first::RowNumber;

mod aggregate;
mod first;
mod from;
mod insert;

/// A query's result: columns over an operator's output, after a filter.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) input: PlanId,
    pub(crate) filter: Option<Expr>,
    pub(crate) columns: Vec<ScopeColumn>,
    /// A row number among the columns, of which the first must be asked for.
    pub(crate) row_number: Option<RowNumber>,
}

/// Plans the queries of one job.
pub(crate) struct QueryPlanner<'a> {
    pub(crate) places: &'a Places<'a>,
    pub(crate) tables: Vec<TableDef>,
    pub(crate) views: Vec<(String, Relation)>,
    /// Names of views that could not be planned: their use is no second problem.
    pub(crate) broken: Vec<String>,
    pub(crate) plan: StreamPlan,
    pub(crate) state_ttl: Option<StateTtl>,
    ctes: Vec<(String, Relation)>,
    /// Where a problem is shown whose syntax has no place.
    fallback: Span,
}

impl<'a> QueryPlanner<'a> {
    pub(crate) fn new(places: &'a Places<'a>) -> Self {
        Self {
            places,
            tables: Vec::new(),
            views: Vec::new(),
            broken: Vec::new(),
            plan: StreamPlan::default(),
            state_ttl: None,
            ctes: Vec::new(),
            fallback: Span::default(),
        }
    }

    /// True if a table or view has this name.
    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.tables.iter().any(|def| def.table.name == name) || self.views.iter().any(|(view, _)| view == name)
    }

    pub(crate) fn set_fallback(&mut self, span: Span) {
        self.fallback = span;
    }

    pub(crate) fn span(&self, syntax: &impl Spanned) -> Span {
        self.places.span(syntax.span()).unwrap_or(self.fallback)
    }

    pub(crate) fn problem(&self, syntax: &impl Spanned, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.span(syntax), message)
    }

    /// Plans a query.
    pub(crate) fn query(&mut self, query: &Query) -> Bound<Relation> {
        self.refuse_query_clauses(query)?;
        let outer = self.ctes.len();
        let result = self.query_with(query);
        self.ctes.truncate(outer);
        result
    }

    fn query_with(&mut self, query: &Query) -> Bound<Relation> {
        if let Some(with) = &query.with {
            if with.recursive {
                return Err(self
                    .problem(with, "`WITH RECURSIVE` is not supported")
                    .help("write the steps out as views"));
            }
            for cte in &with.cte_tables {
                let relation = self.query(&cte.query)?;
                let relation = self.rename(relation, &cte.alias)?;
                self.ctes.push((cte.alias.name.value.clone(), relation));
            }
        }
        self.set_expr(&query.body)
    }

    fn refuse_query_clauses(&self, query: &Query) -> Bound<()> {
        if let Some(order) = &query.order_by {
            return Err(self
                .problem(order, "`ORDER BY` is not supported: a stream has no last row to sort before")
                .help("leave it out; rows leave a window when it closes"));
        }
        if let Some(limit) = &query.limit_clause {
            return Err(self
                .problem(limit, "`LIMIT` and `OFFSET` are not supported: a stream has no end")
                .help("for a bounded job, limit the source, e.g. 'number-of-rows' of datagen"));
        }
        if let Some(fetch) = &query.fetch {
            return Err(self.problem(fetch, "`FETCH` is not supported: a stream has no end"));
        }
        if !query.locks.is_empty() || query.for_clause.is_some() || !query.pipe_operators.is_empty() {
            return Err(self.problem(query, "`FOR ...` behind a query is not supported"));
        }
        Ok(())
    }

    fn set_expr(&mut self, body: &SetExpr) -> Bound<Relation> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::All, .. } => {
                let mut branches = Vec::new();
                union_branches(body, &mut branches);
                self.union(&branches)
            }
            SetExpr::SetOperation { op, set_quantifier, right, .. } => {
                let help = if *op == SetOperator::Union {
                    "write `UNION ALL`, which keeps all rows"
                } else {
                    "only `UNION ALL` is"
                };
                Err(self
                    .problem(
                        right.as_ref(),
                        format!(
                            "`{}` is not supported: it would have to keep all rows for ever",
                            format!("{op} {set_quantifier}").trim()
                        ),
                    )
                    .help(help))
            }
            SetExpr::Values(values) => {
                Err(self.problem(values, "`VALUES` is not supported").help("use the connector `datagen`, or a file"))
            }
            other => {
                Err(self.problem(other, "this is not a query that can be planned").help("write `SELECT ... FROM ...`"))
            }
        }
    }

    fn union(&mut self, branches: &[&SetExpr]) -> Bound<Relation> {
        let mut relations = Vec::with_capacity(branches.len());
        for branch in branches {
            let relation = self.set_expr(branch)?;
            self.settled(&relation)?;
            relations.push((relation, *branch));
        }
        let first = &relations[0].0.columns;
        let mut columns: Vec<(String, DataType)> = Vec::new();
        for (i, column) in first.iter().enumerate() {
            let mut to = DataType::Null;
            for (relation, branch) in &relations {
                let Some(other) = relation.columns.get(i).filter(|_| relation.columns.len() == first.len()) else {
                    return Err(self.problem(
                        *branch,
                        format!("`UNION ALL` joins {} columns with {}", first.len(), relation.columns.len()),
                    ));
                };
                to = common_type(&to, &other.value.data_type).ok_or_else(|| {
                    let (a, b) = (types::name(&to), types::name(&other.value.data_type));
                    self.problem(
                        *branch,
                        format!("column {} of `UNION ALL` is {a} in one part and {b} in another", i + 1),
                    )
                    .help(format!("write `CAST({} AS {a})`", other.name))
                })?;
            }
            let to = if to == DataType::Null { DataType::Utf8 } else { to };
            columns.push((unique(&columns, &column.name), to));
        }
        let mut inputs = Vec::with_capacity(relations.len());
        for (relation, _) in relations {
            let values =
                relation.columns.iter().zip(&columns).map(|(c, (name, to))| (name.clone(), c.value.clone().cast(to)));
            let values = values.collect();
            inputs.push(self.materialize(relation.input, relation.filter, values));
        }
        let times = self.common_times(&inputs);
        let node = PlanNode { op: PlanOp::Union, inputs, schema: schema(columns.iter().cloned()), times };
        let input = self.plan.add(node);
        let columns = columns
            .into_iter()
            .map(|(name, t)| ScopeColumn { qualifier: None, value: Typed::column(&name, &t), name })
            .collect();
        Ok(Relation { input, filter: None, columns, row_number: None })
    }

    /// The time attributes that all inputs share.
    fn common_times(&self, inputs: &[PlanId]) -> Vec<Expr> {
        let Some((first, rest)) = inputs.split_first() else { return Vec::new() };
        let shared = |time: &&Expr| rest.iter().all(|id| self.plan.node(*id).times.contains(time));
        self.plan.node(*first).times.iter().filter(shared).cloned().collect()
    }

    /// Makes an operator's output of expressions over another's; nothing is added where nothing is done.
    pub(crate) fn materialize(&mut self, input: PlanId, filter: Option<Expr>, columns: Vec<(String, Typed)>) -> PlanId {
        let below = self.plan.node(input);
        let identity = filter.is_none()
            && columns.len() == below.schema.fields().len()
            && columns
                .iter()
                .zip(below.schema.fields())
                .all(|((name, value), field)| name == field.name() && value.expr == expr::column(field.name()));
        if identity {
            return input;
        }
        let simplify = expr::df_schema(&below.schema).ok();
        let simple = |e: Expr| match &simplify {
            Some(schema) => expr::simplify(e, schema),
            None => e,
        };
        let times = below
            .times
            .iter()
            .filter_map(|time| columns.iter().find(|(_, v)| v.expr == *time))
            .map(|(name, _)| expr::column(name));
        let times = times.collect();
        let output = schema(columns.iter().map(|(name, value)| (name.clone(), value.data_type.clone())));
        let filter = filter.map(simple);
        let columns = columns.into_iter().map(|(_, value)| simple(value.expr)).collect();
        self.plan.add(PlanNode { op: PlanOp::Calc { filter, columns }, inputs: vec![input], schema: output, times })
    }

    fn select(&mut self, select: &Select) -> Bound<Relation> {
        self.refuse_select_clauses(select)?;
        let mut relation = self.from(select)?;
        if let Some(condition) = &select.selection {
            let bound = Binder::new(self.places, &relation.columns, self.fallback).condition(condition, "WHERE")?;
            relation = match relation.row_number.take() {
                Some(number) => self.first_rows(select, relation, number, (condition, bound.expr))?,
                None => {
                    relation.filter = expr::conjunction(relation.filter.into_iter().chain([bound.expr]));
                    relation
                }
            };
        }
        match &select.group_by {
            GroupByExpr::Expressions(groups, modifiers) if groups.is_empty() && modifiers.is_empty() => {
                if let Some(having) = &select.having {
                    return Err(self.problem(having, "`HAVING` needs `GROUP BY`").help("write `WHERE`"));
                }
                let (columns, number) = self.select_list(select, &relation)?;
                let row_number = number.or(relation.row_number);
                let relation = Relation { columns, row_number, ..relation };
                match select.distinct {
                    Some(Distinct::Distinct) => self.distinct(select, relation),
                    Some(Distinct::On(_) | Distinct::All) | None => Ok(relation),
                }
            }
            GroupByExpr::Expressions(groups, modifiers) if modifiers.is_empty() => {
                if let Some(Distinct::Distinct) = select.distinct {
                    return Err(self
                        .problem(select, "`SELECT DISTINCT` with `GROUP BY` is not supported")
                        .help("groups are distinct already: leave `DISTINCT` out, or put a query around this one"));
                }
                self.window_aggregate(select, groups, relation)
            }
            other => Err(self
                .problem(other, "this form of `GROUP BY` is not supported")
                .help("list the grouped expressions, with `window_start` and `window_end`")),
        }
    }

    fn refuse_select_clauses(&self, select: &Select) -> Bound<()> {
        match &select.distinct {
            Some(Distinct::On(_)) => {
                return Err(self
                    .problem(select, "`SELECT DISTINCT ON` is not Flink SQL")
                    .help("number the rows of each key with `ROW_NUMBER()` and keep `rn = 1`"));
            }
            Some(Distinct::Distinct | Distinct::All) | None => {}
        }
        if let Some(qualify) = &select.qualify {
            return Err(self.problem(qualify, "`QUALIFY` is not supported"));
        }
        if !select.named_window.is_empty() {
            return Err(self
                .problem(select, "`WINDOW` and `OVER` are not supported yet")
                .help("windows are `TABLE(TUMBLE(...))`"));
        }
        let strange = select.top.is_some()
            || select.into.is_some()
            || !select.lateral_views.is_empty()
            || select.prewhere.is_some()
            || !select.connect_by.is_empty()
            || !select.cluster_by.is_empty()
            || !select.distribute_by.is_empty()
            || !select.sort_by.is_empty();
        if strange {
            return Err(self.problem(select, "this query has a clause that is not Flink SQL"));
        }
        Ok(())
    }

    /// The output columns of a query without aggregation.
    fn select_list(&self, select: &Select, relation: &Relation) -> Bound<(Vec<ScopeColumn>, Option<RowNumber>)> {
        let (mut columns, mut number) = (Vec::new(), None);
        for item in &select.projection {
            if self.wildcard(item, &relation.columns, &mut columns)? {
                continue;
            }
            if let Some((column, found)) = self.row_number(item, columns.len(), relation)? {
                if number.replace(found).is_some() {
                    return Err(self
                        .problem(item, "two `ROW_NUMBER()` in one query are not supported")
                        .help("write one"));
                }
                columns.push(column);
                continue;
            }
            let (ast, name) = self.select_item(item, columns.len())?;
            let value = Binder::new(self.places, &relation.columns, self.fallback).bind(ast)?;
            columns.push(ScopeColumn { qualifier: None, name, value });
        }
        Ok((columns, number))
    }

    /// `*` and `t.*`; false if the item is none.
    fn wildcard(&self, item: &SelectItem, from: &[ScopeColumn], out: &mut Vec<ScopeColumn>) -> Bound<bool> {
        let qualifier = match item {
            SelectItem::Wildcard(_) => None,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                Some(name.to_string())
            }
            _ => return Ok(false),
        };
        let qualifier = qualifier.map(|q| q.trim_matches('`').to_owned());
        let before = out.len();
        let chosen = from.iter().filter(|c| qualifier.is_none() || c.qualifier == qualifier);
        out.extend(chosen.map(|c| ScopeColumn { qualifier: None, ..c.clone() }));
        if out.len() == before {
            return Err(self.problem(item, format!("there is no table `{}` here", qualifier.unwrap_or_default())));
        }
        Ok(true)
    }

    /// An expression of the select list with its name; like Flink, expressions without a name are `EXPR$0`, `EXPR$1`, …
    pub(crate) fn select_item<'b>(&self, item: &'b SelectItem, index: usize) -> Bound<(&'b Ast, String)> {
        match item {
            SelectItem::ExprWithAlias { expr, alias } => Ok((expr, alias.value.clone())),
            SelectItem::UnnamedExpr(expr) => {
                let name = match expr {
                    Ast::Identifier(name) => name.value.clone(),
                    Ast::CompoundIdentifier(parts) => parts.last().map(|p| p.value.clone()).unwrap_or_default(),
                    _ => format!("EXPR${index}"),
                };
                Ok((expr, name))
            }
            other => Err(self.problem(other, format!("`{other}` is not supported in a select list"))),
        }
    }

    /// Gives a relation the names of an alias.
    pub(crate) fn rename(&self, mut relation: Relation, alias: &TableAlias) -> Bound<Relation> {
        let names: Vec<&Ident> = alias.columns.iter().map(|c| &c.name).collect();
        self.rename_columns(&mut relation, &names)?;
        for column in &mut relation.columns {
            column.qualifier = Some(alias.name.value.clone());
        }
        Ok(relation)
    }

    pub(crate) fn rename_columns(&self, relation: &mut Relation, names: &[&Ident]) -> Bound<()> {
        if names.is_empty() {
            return Ok(());
        }
        if names.len() != relation.columns.len() {
            let place = names.first().and_then(|n| self.places.span(n.span)).unwrap_or(self.fallback);
            return Err(Diagnostic::at(
                place,
                format!("{} names are given for {} columns", names.len(), relation.columns.len()),
            ));
        }
        for (column, name) in relation.columns.iter_mut().zip(names) {
            column.name = name.value.clone();
        }
        Ok(())
    }

    /// All columns of a table as a relation.
    pub(crate) fn scan(&mut self, table: usize) -> Relation {
        let def = &self.tables[table];
        let name = def.table.name.clone();
        let output = schema(def.columns.iter().map(|c| (c.name.clone(), c.data_type.clone())));
        let times = def.watermark.iter().map(|w| expr::column(&w.column)).collect();
        let columns = def
            .columns
            .iter()
            .map(|c| ScopeColumn {
                qualifier: Some(name.clone()),
                name: c.name.clone(),
                value: Typed::column(&c.name, &c.data_type),
            })
            .collect();
        let node =
            PlanNode { op: PlanOp::Scan { table: name }, inputs: Vec::new(), schema: Arc::clone(&output), times };
        Relation { input: self.plan.add(node), filter: None, columns, row_number: None }
    }
}

fn union_branches<'b>(body: &'b SetExpr, out: &mut Vec<&'b SetExpr>) {
    match body {
        SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::All, left, right } => {
            union_branches(left, out);
            union_branches(right, out);
        }
        other => out.push(other),
    }
}

/// A name that no column before has.
fn unique(columns: &[(String, DataType)], wanted: &str) -> String {
    let mut name = wanted.to_owned();
    let mut n = 2;
    while columns.iter().any(|(other, _)| *other == name) {
        name = format!("{wanted}#{n}");
        n += 1;
    }
    name
}
