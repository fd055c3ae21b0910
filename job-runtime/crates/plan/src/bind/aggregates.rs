//! Aggregate functions, and the expressions around them in the select list and HAVING.

use std::collections::HashSet;

use arrow::datatypes::DataType;
use dataflow::graph::AggregateFunction;
use datafusion_expr::Expr;
use sqlparser::ast::{DuplicateTreatment, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments};

use super::{Binder, Bound};
use crate::expr::{Typed, is_numeric};
use crate::sql::types;

/// What the select list of an aggregation may use: its groups, and the aggregates found so far.
#[derive(Debug, Default)]
pub(crate) struct AggregateScope {
    /// A grouped expression over the input, and the same value over the aggregation's output.
    pub(crate) groups: Vec<(Expr, Typed)>,
    /// The aggregates, each once.
    pub(crate) calls: Vec<BoundAggregate>,
    /// Names of the aggregation's output columns.
    pub(crate) names: HashSet<String>,
}

/// One aggregate of a query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BoundAggregate {
    pub(crate) function: AggregateFunction,
    pub(crate) argument: Option<Typed>,
    pub(crate) filter: Option<Typed>,
    /// Name and type of the result.
    pub(crate) name: String,
    pub(crate) output_type: DataType,
}

impl AggregateScope {
    /// A name that no other output column has.
    pub(crate) fn fresh_name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut n = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}#{n}");
            n += 1;
        }
        name
    }
}

/// The aggregate function of a name.
pub(crate) fn aggregate_of(name: &str) -> Option<AggregateFunction> {
    match name {
        "COUNT" => Some(AggregateFunction::Count),
        "SUM" => Some(AggregateFunction::Sum),
        "AVG" => Some(AggregateFunction::Avg),
        "MIN" => Some(AggregateFunction::Min),
        "MAX" => Some(AggregateFunction::Max),
        _ => None,
    }
}

impl Binder<'_> {
    /// In an aggregation: the output column that holds this expression, if it is grouped.
    pub(super) fn bind_grouped(&mut self, ast: &Ast) -> Bound<Option<Typed>> {
        let Some(scope) = self.aggregation.take() else { return Ok(None) };
        let plain =
            if matches!(ast, Ast::Value(_) | Ast::Interval(_) | Ast::Nested(_)) { None } else { Some(self.bind(ast)) };
        let scope = self.aggregation.insert(scope);
        let Some(plain) = plain else { return Ok(None) };
        let is_name = matches!(ast, Ast::Identifier(_) | Ast::CompoundIdentifier(_));
        let value = match plain {
            Ok(value) => value,
            // What is wrong in an expression is found again, with its place, in its parts.
            Err(problem) => return if is_name { Err(problem) } else { Ok(None) },
        };
        if let Some((_, output)) = scope.groups.iter().find(|(input, _)| *input == value.expr) {
            return Ok(Some(output.clone()));
        }
        if is_name {
            return Err(self
                .problem(ast, format!("`{ast}` is neither grouped nor aggregated"))
                .help(format!("add it to GROUP BY, or write an aggregate, e.g. `MAX({ast})`")));
        }
        Ok(None)
    }

    pub(super) fn aggregate(&mut self, ast: &Ast, function: &Function, kind: AggregateFunction) -> Bound<Typed> {
        let name = function.name.to_string().to_uppercase();
        let Some(scope) = self.aggregation.take() else {
            return Err(self.problem(ast, format!("`{name}` cannot be used here")).help(
                "aggregates work per window: `SELECT ..., COUNT(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY ..., window_start, window_end`",
            ));
        };
        let bound = self.aggregate_parts(ast, function, kind, &name);
        let scope = self.aggregation.insert(scope);
        let (function, argument, filter, output_type) = bound?;
        let known = scope.calls.iter().find(|c| c.function == function && c.argument == argument && c.filter == filter);
        let output = match known {
            Some(call) => call.name.clone(),
            None => {
                let name = scope.fresh_name(&ast.to_string());
                scope.calls.push(BoundAggregate {
                    function,
                    argument,
                    filter,
                    name: name.clone(),
                    output_type: output_type.clone(),
                });
                name
            }
        };
        Ok(Typed::column(&output, &output_type))
    }

    fn aggregate_parts(
        &mut self,
        ast: &Ast,
        function: &Function,
        kind: AggregateFunction,
        name: &str,
    ) -> Bound<(AggregateFunction, Option<Typed>, Option<Typed>, DataType)> {
        let FunctionArguments::List(list) = &function.args else {
            return Err(self.problem(ast, format!("`{name}` needs an argument")));
        };
        if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
            return Err(self
                .problem(ast, format!("`{name}(DISTINCT ...)` is not supported yet"))
                .help("group by the value first, then count the groups"));
        }
        let filter = match &function.filter {
            Some(filter) => Some(self.condition(filter, "FILTER")?),
            None => None,
        };
        let [argument] = list.args.as_slice() else {
            return Err(self.problem(ast, format!("`{name}` takes one argument, here are {}", list.args.len())));
        };
        let FunctionArg::Unnamed(argument) = argument else {
            return Err(self.problem(ast, format!("`{name}` has no named arguments")));
        };
        let argument = match argument {
            FunctionArgExpr::Wildcard if kind == AggregateFunction::Count => {
                return Ok((AggregateFunction::CountStar, None, filter, DataType::Int64));
            }
            FunctionArgExpr::Expr(argument) => argument,
            _ => {
                return Err(self
                    .problem(ast, format!("`{name}` needs a value"))
                    .help(format!("write `{name}(column)`")));
            }
        };
        let value = self.bind(argument)?;
        // A constant is never null: COUNT(1) is COUNT(*).
        if kind == AggregateFunction::Count && value.as_literal().is_some_and(|v| !v.is_null()) {
            return Ok((AggregateFunction::CountStar, None, filter, DataType::Int64));
        }
        let output = result_type(kind, &value.data_type).ok_or_else(|| {
            self.problem(argument, format!("`{name}` does not work on {}", types::name(&value.data_type)))
                .help("cast the value to a number first")
        })?;
        Ok((kind, Some(value), filter, output))
    }
}

/// Type of an aggregate's result; `None` if it does not take such values.
fn result_type(function: AggregateFunction, input: &DataType) -> Option<DataType> {
    match function {
        AggregateFunction::CountStar | AggregateFunction::Count => Some(DataType::Int64),
        AggregateFunction::Sum => match input {
            t if t.is_integer() => Some(DataType::Int64),
            t if t.is_floating() => Some(DataType::Float64),
            DataType::Decimal128(_, s) => Some(DataType::Decimal128(38, *s)),
            _ => None,
        },
        AggregateFunction::Avg => match input {
            DataType::Decimal128(_, s) => Some(DataType::Decimal128(38, (*s).max(6))),
            t if is_numeric(t) => Some(DataType::Float64),
            _ => None,
        },
        AggregateFunction::Min | AggregateFunction::Max => match input {
            DataType::Boolean | DataType::Binary | DataType::Null | DataType::Duration(_) | DataType::Interval(_) => {
                None
            }
            t => Some(t.clone()),
        },
    }
}
