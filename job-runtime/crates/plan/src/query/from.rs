//! FROM: tables, views, subqueries and window table functions.

use arrow::datatypes::DataType;
use dataflow::graph::WindowKind;
use datafusion_common::ScalarValue;
use sqlparser::ast::{
    Expr as Ast, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Select, Spanned, TableFactor,
};

use super::{QueryPlanner, Relation};
use crate::bind::{Binder, Bound, ScopeColumn};
use crate::diagnostic::{Diagnostic, did_you_mean, list};
use crate::functions::window;
use crate::sql::dialect::TABLE_ARGUMENT;
use crate::sql::parser::single_name;
use crate::sql::types;

const TUMBLE_HELP: &str = "write `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))`";

impl QueryPlanner<'_> {
    pub(super) fn from(&mut self, select: &Select) -> Bound<Relation> {
        let [table] = select.from.as_slice() else {
            return Err(match select.from.get(1) {
                Some(second) => self.join(second),
                None => self
                    .problem(select, "a query without `FROM` is not supported")
                    .help("use the connector `datagen` as a source"),
            });
        };
        if let Some(join) = table.joins.first() {
            return Err(self.join(&join.relation));
        }
        self.table_factor(&table.relation)
    }

    fn join(&self, place: &impl Spanned) -> Diagnostic {
        self.problem(place, "joins are not supported yet")
            .help("a query reads one table; several are put together by `UNION ALL`")
    }

    fn table_factor(&mut self, factor: &TableFactor) -> Bound<Relation> {
        let (relation, alias) = match factor {
            TableFactor::Table { name, alias, args: None, version: None, with_hints, .. } if with_hints.is_empty() => {
                (self.named(name)?, alias)
            }
            TableFactor::Table { version: Some(_), .. } => {
                return Err(self.problem(factor, "`FOR SYSTEM_TIME AS OF` is not supported yet"));
            }
            TableFactor::Table { name, args: Some(args), alias, .. } => {
                let arguments: Vec<&FunctionArg> = args.args.iter().collect();
                (self.table_function(factor, name, &arguments)?, alias)
            }
            TableFactor::Function { name, args, alias, .. } => {
                let arguments: Vec<&FunctionArg> = args.iter().collect();
                (self.table_function(factor, name, &arguments)?, alias)
            }
            TableFactor::TableFunction { expr: Ast::Function(function), alias } => {
                let FunctionArguments::List(list) = &function.args else {
                    return Err(self.problem(function, "a table function needs arguments").help(TUMBLE_HELP));
                };
                let arguments: Vec<&FunctionArg> = list.args.iter().collect();
                (self.table_function(function, &function.name, &arguments)?, alias)
            }
            TableFactor::Derived { lateral: false, subquery, alias, .. } => (self.query(subquery)?, alias),
            TableFactor::NestedJoin { .. } => return Err(self.join(factor)),
            TableFactor::MatchRecognize { table, .. } => {
                return Err(self.problem(table.as_ref(), "`MATCH_RECOGNIZE` is not supported yet"));
            }
            other => {
                return Err(self
                    .problem(other, "this form of `FROM` is not supported")
                    .help("name a table, a view, a subquery or `TABLE(TUMBLE(...))`"));
            }
        };
        match alias {
            Some(alias) => self.rename(relation, alias),
            None => Ok(relation),
        }
    }

    /// A WITH table, a view or a table.
    fn named(&mut self, name: &ObjectName) -> Bound<Relation> {
        let Some(ident) = single_name(name) else {
            return Err(self
                .problem(name, format!("`{name}` names a catalog or database, which do not exist here"))
                .help("write the table's name alone"));
        };
        let wanted = ident.value.as_str();
        let inner = self.ctes.iter().rev().chain(&self.views).find(|(name, _)| name == wanted);
        if let Some((_, relation)) = inner {
            let mut relation = relation.clone();
            for column in &mut relation.columns {
                column.qualifier = Some(wanted.to_owned());
            }
            return Ok(relation);
        }
        if self.broken.iter().any(|view| view == wanted) {
            return Err(Diagnostic::consequence(self.span(name)));
        }
        match self.tables.iter().position(|def| def.table.name == wanted) {
            Some(table) => Ok(self.scan(table)),
            None => Err(self.no_table(ident, "table or view")),
        }
    }

    pub(super) fn no_table(&self, ident: &Ident, what: &str) -> Diagnostic {
        let tables = self.tables.iter().map(|def| def.table.name.as_str());
        let others = self.ctes.iter().chain(&self.views).map(|(name, _)| name.as_str());
        let names: Vec<&str> = if what == "table" { tables.collect() } else { tables.chain(others).collect() };
        let help = match names.iter().find(|n| n.eq_ignore_ascii_case(&ident.value)) {
            Some(name) => format!("names are case-sensitive: write `{name}`"),
            None => did_you_mean(&ident.value, names.iter().copied()).unwrap_or_else(|| {
                if names.is_empty() {
                    "declare it first: `CREATE TABLE ... WITH (...)`".to_owned()
                } else {
                    format!("there are {}", list(names.iter().copied()))
                }
            }),
        };
        let place = self.places.span(ident.span).unwrap_or(self.fallback);
        Diagnostic::at(place, format!("there is no {what} `{}`", ident.value)).help(help)
    }

    fn table_function(
        &mut self,
        place: &impl Spanned,
        name: &ObjectName,
        arguments: &[&FunctionArg],
    ) -> Bound<Relation> {
        match name.to_string().to_uppercase().as_str() {
            "TUMBLE" => self.tumble(place, arguments),
            name @ ("HOP" | "CUMULATE" | "SESSION") => {
                Err(self.problem(place, format!("`{name}` windows are not supported yet")).help("TUMBLE windows are"))
            }
            other => {
                let help = did_you_mean(other, ["TUMBLE"]).unwrap_or_else(|| TUMBLE_HELP.to_owned());
                Err(self.problem(place, format!("there is no table function `{other}`")).help(help))
            }
        }
    }

    /// `TUMBLE(TABLE t, DESCRIPTOR(ts), size [, offset])`, also with the names DATA, TIMECOL, SIZE and OFFSET.
    fn tumble(&mut self, place: &impl Spanned, arguments: &[&FunctionArg]) -> Bound<Relation> {
        const NAMES: [&str; 4] = ["DATA", "TIMECOL", "SIZE", "OFFSET"];
        let mut slots: [Option<&Ast>; 4] = [None; 4];
        for (i, argument) in arguments.iter().enumerate() {
            let (slot, value) = match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (Some(i), value),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                    (NAMES.iter().position(|n| name.value.eq_ignore_ascii_case(n)), value)
                }
                _ => return Err(self.problem(place, "`TUMBLE` does not take such an argument").help(TUMBLE_HELP)),
            };
            match slot.and_then(|slot| slots.get_mut(slot)) {
                Some(slot) => *slot = Some(value),
                None => return Err(self.problem(value, "`TUMBLE` has no such argument").help(TUMBLE_HELP)),
            }
        }
        let [Some(data), Some(time), Some(size), offset] = slots else {
            return Err(self.problem(place, "`TUMBLE` takes a table, a descriptor and a size").help(TUMBLE_HELP));
        };
        let mut relation = self.table_argument(data)?;
        let rowtime = self.descriptor(time, &relation, data)?;
        let size_ms = self.window_size(size)?;
        let offset_ms = match offset {
            Some(offset) => self.interval_ms(offset, "the offset of `TUMBLE`")?.rem_euclid(size_ms),
            None => 0,
        };
        let window = WindowKind::Tumble { size_ms, offset_ms };
        let qualifier = relation.columns.first().and_then(|c| c.qualifier.clone());
        for bound in [window::Bound::Start, window::Bound::End, window::Bound::Time] {
            relation.columns.push(ScopeColumn {
                qualifier: qualifier.clone(),
                name: bound.column().to_owned(),
                value: window::bound(bound, window, &rowtime),
            });
        }
        Ok(relation)
    }

    fn table_argument(&mut self, ast: &Ast) -> Bound<Relation> {
        match ast {
            Ast::Prefixed { prefix, value } if prefix.value == TABLE_ARGUMENT => match value.as_ref() {
                Ast::CompoundIdentifier(parts) => self.named(&ObjectName::from(parts.clone())),
                _ => Err(self.problem(ast, "`TABLE` is followed by a table's name").help(TUMBLE_HELP)),
            },
            Ast::Subquery(query) => self.query(query),
            Ast::Identifier(name) => Err(self
                .problem(ast, format!("the first argument of `TUMBLE` is a table, `{name}` is an expression"))
                .help(format!("write `TABLE {name}`"))),
            _ => Err(self.problem(ast, "the first argument of `TUMBLE` is a table").help(TUMBLE_HELP)),
        }
    }

    fn descriptor(&self, ast: &Ast, relation: &Relation, data: &Ast) -> Bound<crate::expr::Typed> {
        let wrong = || {
            self.problem(ast, "the second argument of `TUMBLE` is a descriptor")
                .help("write `DESCRIPTOR(<time column>)`")
        };
        let Ast::Function(function) = ast else { return Err(wrong()) };
        let FunctionArguments::List(list) = &function.args else { return Err(wrong()) };
        let is_descriptor = function.name.to_string().eq_ignore_ascii_case("DESCRIPTOR");
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(column @ Ast::Identifier(name)))] = list.args.as_slice() else {
            return Err(wrong());
        };
        if !is_descriptor {
            return Err(wrong());
        }
        let value = Binder::new(self.places, &relation.columns, self.fallback).column(None, name)?;
        let times = &self.plan.node(relation.input).times;
        if times.contains(&value.expr) {
            return Ok(value);
        }
        let attributes: Vec<&str> =
            relation.columns.iter().filter(|c| times.contains(&c.value.expr)).map(|c| c.name.as_str()).collect();
        let problem = if attributes.is_empty() {
            let table = data.to_string();
            self.problem(
                column,
                format!(
                    "`{}` has no watermark, so a window over it would never close",
                    table.trim_start_matches("TABLE ")
                ),
            )
            .help(format!("add to its CREATE TABLE: `WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND`"))
        } else {
            self.problem(column, format!("`{name}` is not the column that the watermark belongs to"))
                .help(format!("write `DESCRIPTOR({})`", attributes.join("` or `")))
        };
        Err(problem)
    }

    fn window_size(&self, ast: &Ast) -> Bound<i64> {
        let ms = self.interval_ms(ast, "the size of `TUMBLE`")?;
        if ms <= 0 {
            return Err(self
                .problem(ast, "a window must be longer than nothing")
                .help("write e.g. `INTERVAL '1' MINUTE`"));
        }
        Ok(ms)
    }

    fn interval_ms(&self, ast: &Ast, what: &str) -> Bound<i64> {
        let value = Binder::new(self.places, &[], self.fallback).bind(ast)?;
        match (value.as_literal(), &value.data_type) {
            (Some(ScalarValue::DurationMillisecond(Some(ms))), _) => Ok(*ms),
            (_, DataType::Interval(_)) => Err(self
                .problem(ast, format!("{what} must be of fixed length"))
                .help("write it in days: `INTERVAL '30' DAY`")),
            (_, other) => Err(self
                .problem(ast, format!("{what} must be a constant INTERVAL, this is {}", types::name(other)))
                .help("write e.g. `INTERVAL '1' MINUTE`")),
        }
    }
}
