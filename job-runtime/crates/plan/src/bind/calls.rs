//! Calls of scalar functions, and the functions that have a syntax of their own.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use sqlparser::ast::{
    CeilFloorKind, DateTimeField, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    TrimWhereField,
};

use super::aggregates::aggregate_of;
use super::{Binder, Bound};
use crate::diagnostic::did_you_mean;
use crate::expr::{Typed, common_type, is_integer, millis_interval};
use crate::functions::{self, Kind};
use crate::sql::types;

/// Functions of Flink that have their own reason for not being here.
const REFUSED: &[(&[&str], &str, &str)] = &[
    (
        &["TUMBLE", "HOP", "CUMULATE", "SESSION"],
        "is a window table function",
        "write it in FROM: `FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE))`",
    ),
    (
        &["TUMBLE_START", "TUMBLE_END", "TUMBLE_ROWTIME", "TUMBLE_PROCTIME"],
        "belongs to the old form of windows",
        "use `window_start` and `window_end` of `TABLE(TUMBLE(...))`",
    ),
    (
        &["ROW_NUMBER"],
        "needs `OVER`",
        "write `ROW_NUMBER() OVER (PARTITION BY k ORDER BY ts) AS rn`, and `WHERE rn = 1` in the query around it",
    ),
    (
        &["PROCTIME"],
        "is not supported: results would change with the speed of the job",
        "use an event time column with WATERMARK FOR",
    ),
    (
        &[
            "NOW",
            "CURRENT_TIMESTAMP",
            "CURRENT_ROW_TIMESTAMP",
            "LOCALTIMESTAMP",
            "CURRENT_DATE",
            "CURRENT_TIME",
            "LOCALTIME",
            "RAND",
            "RAND_INTEGER",
            "UUID",
        ],
        "is not supported: after a failure it would give other results",
        "use a column of the input",
    ),
    (
        &["ROW_NUMBER", "RANK", "DENSE_RANK", "LAG", "LEAD", "NTILE"],
        "needs OVER, which is not supported yet",
        "windows are `TABLE(TUMBLE(...))`",
    ),
    (
        &[
            "FIRST_VALUE",
            "LAST_VALUE",
            "LISTAGG",
            "COLLECT",
            "STDDEV",
            "STDDEV_POP",
            "STDDEV_SAMP",
            "VARIANCE",
            "VAR_POP",
            "VAR_SAMP",
            "APPROX_COUNT_DISTINCT",
            "ARRAY_AGG",
            "JSON_OBJECTAGG",
            "JSON_ARRAYAGG",
        ],
        "is an aggregate that is not supported yet",
        "COUNT, SUM, AVG, MIN and MAX are",
    ),
];

impl Binder<'_> {
    pub(super) fn function(&mut self, ast: &Ast, function: &Function) -> Bound<Typed> {
        let name = function.name.to_string().to_uppercase();
        if function.over.is_some() {
            return Err(self
                .problem(ast, "`OVER` is not supported yet")
                .help("windows are `TABLE(TUMBLE(...))` with GROUP BY"));
        }
        if let Some(kind) = aggregate_of(&name) {
            return self.aggregate(ast, function, kind);
        }
        if let Some((_, why, help)) = REFUSED.iter().find(|(names, ..)| names.contains(&name.as_str())) {
            return Err(self.problem(&function.name, format!("`{name}` {why}")).help(*help));
        }
        if let Some(filter) = &function.filter {
            return Err(self.problem(filter.as_ref(), "`FILTER` belongs to an aggregate").help("use CASE or WHERE"));
        }
        let arguments = self.plain_arguments(ast, function, &name)?;
        if matches!(name.as_str(), "TIMESTAMPADD" | "TIMESTAMPDIFF") {
            return self.timestamp_arithmetic(ast, &name, &arguments);
        }
        let mut values = Vec::with_capacity(arguments.len());
        for argument in &arguments {
            values.push((self.bind(argument)?, *argument));
        }
        self.call(ast, &name, values)
    }

    fn plain_arguments<'b>(&self, ast: &Ast, function: &'b Function, name: &str) -> Bound<Vec<&'b Ast>> {
        let list = match &function.args {
            FunctionArguments::None => return Ok(Vec::new()),
            FunctionArguments::Subquery(_) => {
                return Err(self.problem(ast, "a subquery as an argument is not supported"));
            }
            FunctionArguments::List(list) => list,
        };
        if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
            return Err(self.problem(ast, format!("`{name}` takes plain arguments only")));
        }
        list.args
            .iter()
            .map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => Ok(argument),
                _ => Err(self.problem(ast, format!("`{name}` takes plain arguments only"))),
            })
            .collect()
    }

    /// Calls a function of the registry.
    pub(super) fn call(&self, ast: &Ast, name: &str, values: Vec<(Typed, &Ast)>) -> Bound<Typed> {
        let Some(function) = functions::scalar(name) else {
            let help = did_you_mean(name, functions::names())
                .unwrap_or_else(|| "the SQL reference lists all functions".to_owned());
            return Err(self.problem(ast, format!("there is no function `{name}`")).help(help));
        };
        let signature = function.doc.signature;
        let (most, least) = (function.arguments.len(), function.arguments.len() - function.optional);
        if values.len() < least || (values.len() > most && !function.variadic) {
            return Err(self
                .problem(ast, format!("`{name}` does not take {} arguments", values.len()))
                .help(format!("write `{signature}`")));
        }
        for (i, (value, argument)) in values.iter().enumerate() {
            let kind = function.arguments.get(i).or(function.arguments.last()).copied().unwrap_or(Kind::Any);
            if !kind.takes(value) {
                let got =
                    if kind == Kind::Constant { "an expression".to_owned() } else { types::name(&value.data_type) };
                return Err(self
                    .problem(
                        *argument,
                        format!("argument {} of `{name}` must be {}, this is {got}", i + 1, kind.words()),
                    )
                    .help(format!("`{signature}`")));
            }
        }
        (function.bind)(values.into_iter().map(|(value, _)| value).collect())
            .map_err(|message| self.problem(ast, message).help(format!("`{signature}`")))
    }

    /// `TIMESTAMPADD(MINUTE, n, ts)` and `TIMESTAMPDIFF(MINUTE, from, to)`: their first argument is a word.
    fn timestamp_arithmetic(&mut self, ast: &Ast, name: &str, arguments: &[&Ast]) -> Bound<Typed> {
        let help = if name == "TIMESTAMPADD" {
            "write e.g. `TIMESTAMPADD(MINUTE, 5, ts)`"
        } else {
            "write e.g. `TIMESTAMPDIFF(SECOND, earlier, later)`"
        };
        let [Ast::Identifier(unit), first, second] = arguments else {
            return Err(self.problem(ast, format!("`{name}` takes a unit and two values")).help(help));
        };
        let word = unit.value.to_uppercase();
        let millis = match word.as_str() {
            "MILLISECOND" => Some(1),
            "SECOND" | "SQL_TSI_SECOND" => Some(1000),
            "MINUTE" | "SQL_TSI_MINUTE" => Some(60_000),
            "HOUR" | "SQL_TSI_HOUR" => Some(3_600_000),
            "DAY" | "SQL_TSI_DAY" => Some(86_400_000),
            "WEEK" | "SQL_TSI_WEEK" => Some(7 * 86_400_000_i64),
            _ => None,
        };
        let Some(millis) = millis else {
            return Err(crate::diagnostic::Diagnostic::at(
                self.place(unit.span),
                format!("`{}` cannot be the unit of `{name}`", unit.value),
            )
            .help("units are MILLISECOND, SECOND, MINUTE, HOUR, DAY and WEEK"));
        };
        let unit = || Typed::literal(ScalarValue::Int64(Some(millis)));
        let (a, b) = (self.bind(first)?, self.bind(second)?);
        if name == "TIMESTAMPADD" {
            if !is_integer(&a.data_type) || !Kind::Temporal.takes(&b) {
                return Err(self
                    .problem(ast, "`TIMESTAMPADD` takes a unit, a whole number and a point in time")
                    .help(help));
            }
            let moved = match a.as_literal().map(|n| n.cast_to(&DataType::Int64)) {
                Some(Ok(ScalarValue::Int64(Some(n)))) => {
                    Typed::literal(ScalarValue::DurationMillisecond(n.checked_mul(millis)))
                }
                _ => millis_interval(a.cast(&DataType::Int64).binary(Operator::Multiply, unit(), DataType::Int64)),
            };
            return self.shift(ast, Operator::Plus, b, moved);
        }
        if !Kind::Temporal.takes(&a) || !Kind::Temporal.takes(&b) {
            return Err(self.problem(ast, "`TIMESTAMPDIFF` takes a unit and two points in time").help(help));
        }
        let to = common_type(&a.data_type, &b.data_type).unwrap_or_else(types::timestamp_ltz);
        let to = if to == DataType::Date32 { types::timestamp() } else { to };
        let ms = |t: Typed| t.cast(&to).cast(&DataType::Int64);
        let difference = ms(b).binary(Operator::Minus, ms(a), DataType::Int64);
        Ok(difference.binary(Operator::Divide, unit(), DataType::Int64).cast(&DataType::Int32))
    }

    /// EXTRACT, SUBSTRING, TRIM, POSITION, OVERLAY, CEIL and FLOOR.
    pub(super) fn keyword_function(&mut self, ast: &Ast) -> Bound<Typed> {
        match ast {
            Ast::Extract { field, expr, .. } => {
                let unit = Typed::literal(ScalarValue::Utf8(Some(field.to_string().to_uppercase())));
                let value = self.bind(expr)?;
                self.call(ast, "EXTRACT", vec![(unit, ast), (value, expr)])
            }
            Ast::Substring { expr, substring_from, substring_for, .. } => {
                let mut values = vec![(self.bind(expr)?, expr.as_ref())];
                for part in [substring_from, substring_for].into_iter().flatten() {
                    values.push((self.bind(part)?, part.as_ref()));
                }
                self.call(ast, "SUBSTRING", values)
            }
            Ast::Trim { trim_where, trim_what, expr, trim_characters: None } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "TRIM",
                    Some(TrimWhereField::Leading) => "LTRIM",
                    Some(TrimWhereField::Trailing) => "RTRIM",
                };
                let mut values = vec![(self.bind(expr)?, expr.as_ref())];
                if let Some(what) = trim_what {
                    values.push((self.bind(what)?, what.as_ref()));
                }
                self.call(ast, name, values)
            }
            Ast::Position { expr, r#in } => {
                let values = vec![(self.bind(expr)?, expr.as_ref()), (self.bind(r#in)?, r#in.as_ref())];
                self.call(ast, "POSITION", values)
            }
            Ast::Ceil { expr, field } => self.round_to(ast, "CEIL", expr, field),
            Ast::Floor { expr, field } => self.round_to(ast, "FLOOR", expr, field),
            other => Err(self.unsupported(other)),
        }
    }

    /// `FLOOR(x)` of a number, `FLOOR(ts TO HOUR)` of a point in time.
    fn round_to(&mut self, ast: &Ast, name: &str, inner: &Ast, field: &CeilFloorKind) -> Bound<Typed> {
        let value = self.bind(inner)?;
        match field {
            CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => self.call(ast, name, vec![(value, inner)]),
            CeilFloorKind::DateTimeField(unit) if name == "FLOOR" => {
                let unit = Typed::literal(ScalarValue::Utf8(Some(unit.to_string().to_uppercase())));
                self.call(ast, "FLOOR TO", vec![(value, inner), (unit, ast)])
            }
            _ => Err(self
                .problem(ast, format!("this form of `{name}` is not supported"))
                .help("write `FLOOR(ts TO HOUR)`")),
        }
    }
}
