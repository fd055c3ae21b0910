//! Constants: numbers, strings, dates, times, intervals.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use sqlparser::ast::{DateTimeField, Expr as Ast, Interval, TypedString, Value};

use super::{Binder, Bound};
use crate::expr::Typed;
use crate::functions::time;
use crate::sql::types;

impl Binder<'_> {
    pub(super) fn literal(&self, value: &Value, ast: &Ast) -> Bound<Typed> {
        match value {
            Value::Number(text, _) => self.number(text, ast),
            Value::SingleQuotedString(text) => Ok(Typed::literal(ScalarValue::Utf8(Some(text.clone())))),
            Value::DoubleQuotedString(text) => Err(self
                .problem(ast, "a string stands in single quotes")
                .help(format!("write '{text}' for the string, `{text}` in backticks for a column"))),
            Value::Boolean(b) => Ok(Typed::literal(ScalarValue::Boolean(Some(*b)))),
            Value::Null => Ok(Self::null()),
            _ => Err(self.unsupported(ast)),
        }
    }

    /// As in Flink: INT if it fits, else BIGINT; with a point DECIMAL; with an exponent DOUBLE.
    pub(super) fn number(&self, text: &str, ast: &Ast) -> Bound<Typed> {
        if let Ok(n) = text.parse::<i32>() {
            return Ok(Typed::literal(ScalarValue::Int32(Some(n))));
        }
        if let Ok(n) = text.parse::<i64>() {
            return Ok(Typed::literal(ScalarValue::Int64(Some(n))));
        }
        if text.contains(['e', 'E'])
            && let Ok(n) = text.parse::<f64>()
        {
            return Ok(Typed::literal(ScalarValue::Float64(Some(n))));
        }
        decimal(text).map(Typed::literal).ok_or_else(|| {
            self.problem(ast, format!("`{text}` has more than 38 digits")).help("write it with an exponent: a DOUBLE")
        })
    }

    /// `DATE '…'`, `TIMESTAMP '…'`, `TIMESTAMP_LTZ '…'`
    pub(super) fn typed_string(&self, typed: &TypedString, ast: &Ast) -> Bound<Typed> {
        let kind = types::parse(&typed.data_type.to_string())
            .map(|t| t.arrow)
            .or_else(
                |problem| {
                    if typed.data_type.to_string() == "TIMESTAMP" { Ok(types::timestamp()) } else { Err(problem) }
                },
            )
            .map_err(|problem| self.problem(ast, problem.message).help_if(problem.help))?;
        let Some(text) = typed.value.value.clone().into_string() else { return Err(self.unsupported(ast)) };
        let value = match &kind {
            DataType::Date32 => time::parse_date(&text).map(|days| ScalarValue::Date32(Some(days))),
            DataType::Time32(_) => time::parse_time(&text).map(|ms| ScalarValue::Time32Millisecond(Some(ms))),
            DataType::Timestamp(_, zone) => {
                time::parse_timestamp(&text).map(|ms| ScalarValue::TimestampMillisecond(Some(ms), zone.clone()))
            }
            _ => return Err(self.unsupported(ast)),
        };
        value.map(Typed::literal).ok_or_else(|| {
            self.problem(ast, format!("`{text}` is not a {}", types::name(&kind)))
                .help("write e.g. DATE '2026-01-31' or TIMESTAMP '2026-01-31 12:00:00.000'")
        })
    }

    /// `INTERVAL '5' SECOND`
    pub(super) fn interval(&self, interval: &Interval, ast: &Ast) -> Bound<Typed> {
        const HELP: &str =
            "write e.g. INTERVAL '5' SECOND, INTERVAL '1' HOUR, INTERVAL '1:30' HOUR TO MINUTE or INTERVAL '2' MONTH";
        let problem = |message: String| self.problem(ast, message).help(HELP);
        let Some(unit) = &interval.leading_field else { return Err(problem("the interval has no unit".to_owned())) };
        let text = match interval.value.as_ref() {
            Ast::Value(v) => match &v.value {
                Value::SingleQuotedString(s) => s.clone(),
                _ => return Err(problem("the interval's value stands in quotes".to_owned())),
            },
            _ => return Err(problem("the interval's value stands in quotes".to_owned())),
        };
        let bad = || problem(format!("`{text}` is not a value of an interval in {unit}"));
        match months_of(unit) {
            Some(months) if interval.last_field.is_none() => {
                let count: i32 = text.trim().parse().map_err(|_| bad())?;
                count
                    .checked_mul(months)
                    .map(|n| Typed::literal(ScalarValue::IntervalYearMonth(Some(n))))
                    .ok_or_else(bad)
            }
            Some(_) => Err(problem("`YEAR TO MONTH` intervals are not supported".to_owned())),
            None => {
                let unit_ms =
                    millis_of(unit).ok_or_else(|| problem(format!("`{unit}` is not a unit of an interval")))?;
                let ms = match &interval.last_field {
                    None => parse_count(&text, unit_ms),
                    Some(last) => parse_compound(&text, unit, last),
                };
                ms.map(|ms| Typed::literal(ScalarValue::DurationMillisecond(Some(ms)))).ok_or_else(bad)
            }
        }
    }
}

fn months_of(unit: &DateTimeField) -> Option<i32> {
    match unit {
        DateTimeField::Month | DateTimeField::Months => Some(1),
        DateTimeField::Quarter => Some(3),
        DateTimeField::Year | DateTimeField::Years => Some(12),
        _ => None,
    }
}

/// Milliseconds of a unit of fixed length.
pub(super) fn millis_of(unit: &DateTimeField) -> Option<i64> {
    match unit {
        DateTimeField::Millisecond | DateTimeField::Milliseconds => Some(1),
        DateTimeField::Second | DateTimeField::Seconds => Some(1000),
        DateTimeField::Minute | DateTimeField::Minutes => Some(60_000),
        DateTimeField::Hour | DateTimeField::Hours => Some(3_600_000),
        DateTimeField::Day | DateTimeField::Days => Some(86_400_000),
        DateTimeField::Week(None) | DateTimeField::Weeks => Some(7 * 86_400_000),
        _ => None,
    }
}

/// `5` or `0.25` units.
fn parse_count(text: &str, unit_ms: i64) -> Option<i64> {
    let (negative, digits) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut ms = whole.parse::<u32>().ok().map(i64::from)?.checked_mul(unit_ms)?;
    if !fraction.is_empty() {
        let part: f64 = format!("0.{fraction}").parse().ok()?;
        ms += (part * unit_ms as f64).round() as i64;
    }
    Some(if negative { -ms } else { ms })
}

/// `1 10:00:00.5` from one unit to another.
fn parse_compound(text: &str, first: &DateTimeField, last: &DateTimeField) -> Option<i64> {
    const UNITS: [i64; 4] = [86_400_000, 3_600_000, 60_000, 1000];
    let place = |unit: &DateTimeField| millis_of(unit).and_then(|ms| UNITS.iter().position(|u| *u == ms));
    let (from, to) = (place(first)?, place(last)?);
    let (negative, digits) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    let parts: Vec<&str> = digits.split([' ', ':']).collect();
    if from >= to || parts.len() != to - from + 1 {
        return None;
    }
    let mut ms: i64 = 0;
    for (part, unit) in parts.iter().zip(&UNITS[from..=to]) {
        ms = ms.checked_add(parse_count(part, *unit)?)?;
    }
    Some(if negative { -ms } else { ms })
}

fn decimal(text: &str) -> Option<ScalarValue> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let joined = format!("{whole}{fraction}");
    let significant = joined.trim_start_matches('0').len().max(fraction.len()).max(1);
    if significant > 38 || !joined.chars().all(|c| c.is_ascii_digit()) || joined.is_empty() {
        return None;
    }
    let value: i128 = joined.parse().ok()?;
    let value = if negative { -value } else { value };
    Some(ScalarValue::Decimal128(Some(value), significant as u8, fraction.len() as i8))
}
