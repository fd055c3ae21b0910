//! From syntax to typed expressions: names are looked up, types are checked by Flink's rules, every problem has its place.
//!
//! Owns scalar and aggregate expressions. Relations are `query`'s.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use sqlparser::ast::{Expr as Ast, Ident, Spanned, UnaryOperator, Value};
use sqlparser::tokenizer;

use crate::Span;
use crate::diagnostic::{Diagnostic, did_you_mean, list};
use crate::expr::Typed;
use crate::sql::place::Places;
use crate::sql::types;

mod aggregates;
mod calls;
mod conditions;
mod literals;
mod operators;

pub(crate) use aggregates::AggregateScope;

/// A column that an expression may name.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumn {
    /// The table or alias before the dot.
    pub(crate) qualifier: Option<String>,
    pub(crate) name: String,
    /// What it is, over the columns of the operator below.
    pub(crate) value: Typed,
}

/// What is bound, or what is wrong.
pub(crate) type Bound<T> = Result<T, Diagnostic>;

/// Binds expressions of one clause.
pub(crate) struct Binder<'a> {
    pub(crate) places: &'a Places<'a>,
    pub(crate) columns: &'a [ScopeColumn],
    /// Where a problem is shown whose expression has no place.
    pub(crate) fallback: Span,
    /// Set while the select list and HAVING of an aggregation are bound.
    pub(crate) aggregation: Option<AggregateScope>,
}

impl<'a> Binder<'a> {
    pub(crate) fn new(places: &'a Places<'a>, columns: &'a [ScopeColumn], fallback: Span) -> Self {
        Self { places, columns, fallback, aggregation: None }
    }

    /// Where a piece of syntax stands.
    pub(crate) fn span(&self, syntax: &impl Spanned) -> Span {
        self.place(syntax.span())
    }

    pub(crate) fn place(&self, span: tokenizer::Span) -> Span {
        self.places.span(span).unwrap_or(self.fallback)
    }

    pub(crate) fn problem(&self, syntax: &impl Spanned, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.span(syntax), message)
    }

    /// Binds an expression.
    pub(crate) fn bind(&mut self, ast: &Ast) -> Bound<Typed> {
        if let Some(value) = self.bind_grouped(ast)? {
            return Ok(value);
        }
        match ast {
            Ast::Nested(inner) => self.bind(inner),
            Ast::Identifier(name) => self.column(None, name),
            Ast::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, name] => self.column(Some(table), name),
                _ => {
                    Err(self.problem(ast, format!("`{ast}` is not a column")).help("write `column` or `table.column`"))
                }
            },
            Ast::Value(value) => self.literal(&value.value, ast),
            Ast::TypedString(typed) => self.typed_string(typed, ast),
            Ast::Interval(interval) => self.interval(interval, ast),
            Ast::BinaryOp { left, op, right } => self.binary(ast, left, op, right),
            Ast::UnaryOp { op, expr } => self.unary(ast, op, expr),
            Ast::IsNull(_)
            | Ast::IsNotNull(_)
            | Ast::IsTrue(_)
            | Ast::IsNotTrue(_)
            | Ast::IsFalse(_)
            | Ast::IsNotFalse(_)
            | Ast::IsUnknown(_)
            | Ast::IsNotUnknown(_)
            | Ast::IsDistinctFrom(..)
            | Ast::IsNotDistinctFrom(..) => self.is_condition(ast),
            Ast::InList { expr, list, negated } => self.in_list(ast, expr, list, *negated),
            Ast::Between { expr, negated, low, high } => self.between(expr, *negated, low, high),
            Ast::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, *negated, escape_char.as_ref().map(|v| &v.value))
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                self.case(ast, operand.as_deref(), conditions, else_result.as_deref())
            }
            Ast::Cast { kind, expr, data_type, .. } => self.cast_expr(ast, kind, expr, data_type),
            Ast::Function(function) => self.function(ast, function),
            Ast::Extract { .. }
            | Ast::Substring { .. }
            | Ast::Trim { .. }
            | Ast::Position { .. }
            | Ast::Overlay { .. }
            | Ast::Ceil { .. }
            | Ast::Floor { .. } => self.keyword_function(ast),
            other => Err(self.unsupported(other)),
        }
    }

    /// Binds an expression that must be true or false.
    pub(crate) fn condition(&mut self, ast: &Ast, clause: &str) -> Bound<Typed> {
        let bound = self.bind(ast)?;
        match bound.data_type {
            DataType::Boolean => Ok(bound),
            DataType::Null => Ok(bound.cast(&DataType::Boolean)),
            other => Err(self
                .problem(ast, format!("{clause} needs a condition, this is of type {}", types::name(&other)))
                .help("compare it with something")),
        }
    }

    /// Looks a column up.
    pub(crate) fn column(&self, table: Option<&Ident>, name: &Ident) -> Bound<Typed> {
        let matches = |c: &&ScopeColumn| {
            c.name == name.value && table.is_none_or(|t| c.qualifier.as_deref() == Some(t.value.as_str()))
        };
        let found: Vec<&ScopeColumn> = self.columns.iter().filter(matches).collect();
        match found.as_slice() {
            [column] => Ok(column.value.clone()),
            [] => Err(self.no_column(table, name)),
            [first, ..] => Err(Diagnostic::at(self.place(name.span), format!("`{}` is ambiguous", name.value))
                .help(format!("write `{}.{}`", first.qualifier.as_deref().unwrap_or("table"), name.value))),
        }
    }

    fn no_column(&self, table: Option<&Ident>, name: &Ident) -> Diagnostic {
        if let Some(table) = table {
            let tables: std::collections::BTreeSet<&str> =
                self.columns.iter().filter_map(|c| c.qualifier.as_deref()).collect();
            if !tables.contains(table.value.as_str()) {
                let help = did_you_mean(&table.value, tables.iter().copied())
                    .unwrap_or_else(|| format!("tables here are {}", list(tables.iter().copied())));
                return Diagnostic::at(self.place(table.span), format!("there is no table `{}` here", table.value))
                    .help(help);
            }
        }
        let names: Vec<&str> = self
            .columns
            .iter()
            .filter(|c| table.is_none_or(|t| c.qualifier.as_deref() == Some(t.value.as_str())))
            .map(|c| c.name.as_str())
            .collect();
        let case = names.iter().find(|n| n.eq_ignore_ascii_case(&name.value));
        let help = match case {
            Some(n) => format!("names are case-sensitive: write `{n}`"),
            None => did_you_mean(&name.value, names.iter().copied()).unwrap_or_else(|| {
                if names.is_empty() {
                    "no columns can be named here".to_owned()
                } else {
                    format!("columns here are {}", list(names))
                }
            }),
        };
        Diagnostic::at(self.place(name.span), format!("there is no column `{}`", name.value)).help(help)
    }

    fn unary(&mut self, ast: &Ast, op: &UnaryOperator, inner: &Ast) -> Bound<Typed> {
        match op {
            UnaryOperator::Plus => self.bind(inner),
            UnaryOperator::Not => {
                let value = self.condition(inner, "NOT")?;
                Ok(Typed::new(datafusion_expr::Expr::Not(Box::new(value.expr)), DataType::Boolean))
            }
            UnaryOperator::Minus => {
                // `-2147483648` is an INT although `2147483648` is not.
                if let Ast::Value(v) = inner
                    && let Value::Number(text, _) = &v.value
                {
                    return self.number(&format!("-{text}"), ast);
                }
                let value = self.bind(inner)?;
                self.negate(value, ast)
            }
            _ => Err(self.unsupported(ast)),
        }
    }

    /// Refuses syntax that we know and do not run yet, by its name.
    pub(crate) fn unsupported(&self, ast: &Ast) -> Diagnostic {
        let (what, help) = match ast {
            Ast::Subquery(_) | Ast::Exists { .. } | Ast::InSubquery { .. } | Ast::AnyOp { .. } | Ast::AllOp { .. } => (
                "a subquery in an expression",
                "a subquery may stand in FROM; for a look-up, joins will come with a later release",
            ),
            Ast::ILike { .. } => ("`ILIKE`", "write `LOWER(x) LIKE '...'`"),
            Ast::SimilarTo { .. } => ("`SIMILAR TO`", "write `REGEXP(x, '...')`"),
            Ast::RLike { .. } => ("`RLIKE`", "write `REGEXP(x, '...')`"),
            Ast::AtTimeZone { .. } => ("`AT TIME ZONE`", "times are UTC; add or subtract an INTERVAL"),
            Ast::Array(_) | Ast::Map(_) | Ast::Struct { .. } | Ast::Tuple(_) | Ast::Dictionary(_) => {
                ("a ROW, ARRAY or MAP value", "use columns of their own")
            }
            Ast::CompoundFieldAccess { .. } | Ast::JsonAccess { .. } => {
                ("access to a nested value", "declare the nested field as a column of its own")
            }
            Ast::GroupingSets(_) | Ast::Cube(_) | Ast::Rollup(_) => {
                ("GROUPING SETS, CUBE and ROLLUP", "write one INSERT per grouping")
            }
            Ast::Prefixed { prefix, .. } if prefix.value == crate::sql::dialect::TABLE_ARGUMENT => {
                ("a TABLE argument outside of a window table function", "write it in FROM")
            }
            _ => return self.problem(ast, format!("`{ast}` is not supported")),
        };
        self.problem(ast, format!("{what} is not supported")).help(help)
    }

    /// A null of no type yet.
    pub(crate) fn null() -> Typed {
        Typed::literal(ScalarValue::Null)
    }
}
