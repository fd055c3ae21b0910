//! Expressions as people read them.

use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, Operator};

use crate::sql::types;

/// An expression in the manner of SQL.
pub(crate) fn expression(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        Expr::Literal(value, _) => literal(value),
        Expr::BinaryExpr(b) => format!("{} {} {}", operand(&b.left), operator(b.op), operand(&b.right)),
        Expr::Not(e) => format!("NOT {}", operand(e)),
        Expr::Negative(e) => format!("-{}", operand(e)),
        Expr::IsNull(e) => format!("{} IS NULL", operand(e)),
        Expr::IsNotNull(e) => format!("{} IS NOT NULL", operand(e)),
        Expr::IsTrue(e) => format!("{} IS TRUE", operand(e)),
        Expr::IsFalse(e) => format!("{} IS FALSE", operand(e)),
        Expr::IsNotTrue(e) => format!("{} IS NOT TRUE", operand(e)),
        Expr::IsNotFalse(e) => format!("{} IS NOT FALSE", operand(e)),
        Expr::Cast(c) if *c.field.data_type() == types::INTERVAL => interval(&c.expr),
        Expr::Cast(c) => format!("CAST({} AS {})", expression(&c.expr), types::name(c.field.data_type())),
        Expr::TryCast(c) => format!("TRY_CAST({} AS {})", expression(&c.expr), types::name(c.field.data_type())),
        Expr::Between(b) => {
            let not = if b.negated { "NOT " } else { "" };
            format!("{} {not}BETWEEN {} AND {}", operand(&b.expr), operand(&b.low), operand(&b.high))
        }
        Expr::InList(i) => {
            let not = if i.negated { "NOT " } else { "" };
            format!("{} {not}IN ({})", operand(&i.expr), joined(&i.list))
        }
        Expr::Like(l) => {
            let not = if l.negated { "NOT " } else { "" };
            format!("{} {not}LIKE {}", operand(&l.expr), operand(&l.pattern))
        }
        Expr::Case(c) => {
            let branches: String = c
                .when_then_expr
                .iter()
                .map(|(when, then)| format!(" WHEN {} THEN {}", expression(when), expression(then)))
                .collect();
            let otherwise = c.else_expr.as_ref().map(|e| format!(" ELSE {}", expression(e))).unwrap_or_default();
            format!("CASE{branches}{otherwise} END")
        }
        Expr::ScalarFunction(f) => format!("{}({})", f.func.name().to_uppercase(), joined(&f.args)),
        other => other.to_string(),
    }
}

/// Milliseconds that stand for an interval; a number of units is shown as such.
fn interval(millis: &Expr) -> String {
    match millis {
        Expr::BinaryExpr(b) if b.op == Operator::Multiply => match (b.left.as_ref(), b.right.as_ref()) {
            (Expr::Cast(count), Expr::Literal(ScalarValue::Int64(Some(ms)), _)) => {
                format!("{} * INTERVAL {}", operand(&count.expr), duration(*ms))
            }
            (count, Expr::Literal(ScalarValue::Int64(Some(ms)), _)) => {
                format!("{} * INTERVAL {}", operand(count), duration(*ms))
            }
            _ => format!("INTERVAL of {} milliseconds", operand(millis)),
        },
        other => format!("INTERVAL of {} milliseconds", operand(other)),
    }
}

fn joined(list: &[Expr]) -> String {
    list.iter().map(expression).collect::<Vec<_>>().join(", ")
}

fn operand(expr: &Expr) -> String {
    match expr {
        Expr::BinaryExpr(_) | Expr::Between(_) | Expr::Not(_) => format!("({})", expression(expr)),
        _ => expression(expr),
    }
}

fn operator(op: Operator) -> String {
    match op {
        Operator::NotEq => "<>".to_owned(),
        other => other.to_string(),
    }
}

fn literal(value: &ScalarValue) -> String {
    match value {
        ScalarValue::Utf8(Some(text)) => format!("'{}'", text.replace('\'', "''")),
        ScalarValue::DurationMillisecond(Some(ms)) => format!("INTERVAL {}", duration(*ms)),
        ScalarValue::TimestampMillisecond(Some(ms), _) => {
            format!("TIMESTAMP '{}'", crate::functions::time::format_timestamp(*ms).unwrap_or_else(|| ms.to_string()))
        }
        value if value.is_null() => "NULL".to_owned(),
        other => other.to_string(),
    }
}

/// Milliseconds in the greatest unit that holds them whole.
pub(crate) fn duration(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1000, "second")];
    let found = UNITS.iter().find(|(unit, _)| ms != 0 && ms % unit == 0);
    let (count, name) = found.map_or((ms, "millisecond"), |(unit, name)| (ms / unit, *name));
    format!("{count} {name}{}", if count.abs() == 1 { "" } else { "s" })
}
