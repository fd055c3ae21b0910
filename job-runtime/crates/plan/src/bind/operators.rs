//! Arithmetic, comparison, logic, concatenation and casts.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;
use sqlparser::ast::{BinaryOperator, CastKind, DataType as AstType, Expr as Ast};

use super::{Binder, Bound};
use crate::expr::{
    self, Typed, as_decimal, common_type, interval_millis, is_integer, is_numeric, is_string, is_timestamp,
    millis_interval,
};
use crate::functions::{cast, time};
use crate::sql::types::{self, INTERVAL, INTERVAL_MONTHS};

impl Binder<'_> {
    pub(super) fn binary(&mut self, ast: &Ast, left: &Ast, op: &BinaryOperator, right: &Ast) -> Bound<Typed> {
        match op {
            BinaryOperator::And | BinaryOperator::Or => {
                let name = op.to_string();
                let (a, b) = (self.condition(left, &name)?, self.condition(right, &name)?);
                let op = if *op == BinaryOperator::And { Operator::And } else { Operator::Or };
                return Ok(a.binary(op, b, DataType::Boolean));
            }
            _ => {}
        }
        let (a, b) = (self.bind(left)?, self.bind(right)?);
        match op {
            BinaryOperator::Eq => self.compare(ast, Operator::Eq, a, b),
            BinaryOperator::NotEq => self.compare(ast, Operator::NotEq, a, b),
            BinaryOperator::Lt => self.compare(ast, Operator::Lt, a, b),
            BinaryOperator::LtEq => self.compare(ast, Operator::LtEq, a, b),
            BinaryOperator::Gt => self.compare(ast, Operator::Gt, a, b),
            BinaryOperator::GtEq => self.compare(ast, Operator::GtEq, a, b),
            BinaryOperator::Plus => self.add(ast, a, b),
            BinaryOperator::Minus => self.subtract(ast, a, b),
            BinaryOperator::Multiply => self.multiply(ast, a, b),
            BinaryOperator::Divide => self.arithmetic(ast, Operator::Divide, a, b),
            BinaryOperator::Modulo => self.arithmetic(ast, Operator::Modulo, a, b),
            BinaryOperator::StringConcat => self.concatenate(ast, a, b),
            _ => Err(self.problem(ast, format!("the operator `{op}` is not supported"))),
        }
    }

    /// Brings both sides of a comparison to one type.
    pub(super) fn comparable(&self, ast: &Ast, what: &str, a: Typed, b: Typed) -> Bound<(Typed, Typed)> {
        if let Some(to) = common_type(&a.data_type, &b.data_type) {
            return Ok((a.cast(&to), b.cast(&to)));
        }
        // A string constant beside a time is read as one, as Flink does.
        if let (Some(text), true) = (b.as_string(), time::is_temporal(&a.data_type))
            && let Some(value) = time::constant(text, &a.data_type)
        {
            return Ok((a, Typed::literal(value)));
        }
        if let (Some(text), true) = (a.as_string(), time::is_temporal(&b.data_type))
            && let Some(value) = time::constant(text, &b.data_type)
        {
            return Ok((Typed::literal(value), b));
        }
        let (left, right) = (types::name(&a.data_type), types::name(&b.data_type));
        let to = if is_string(&a.data_type) { &right } else { &left };
        Err(self
            .problem(ast, format!("{what} {left} and {right}, which are different kinds of values"))
            .help(format!("bring both to one type, e.g. `CAST(... AS {to})`")))
    }

    pub(super) fn compare(&self, ast: &Ast, op: Operator, a: Typed, b: Typed) -> Bound<Typed> {
        let (a, b) = self.comparable(ast, &format!("`{op}` compares"), a, b)?;
        Ok(a.binary(op, b, DataType::Boolean))
    }

    fn add(&self, ast: &Ast, a: Typed, b: Typed) -> Bound<Typed> {
        if is_string(&a.data_type) && is_string(&b.data_type) {
            return Err(self.problem(ast, "`+` does not join strings").help("write `a || b`"));
        }
        let a_interval = a.data_type == INTERVAL || a.data_type == INTERVAL_MONTHS;
        if a_interval && !(b.data_type == INTERVAL || b.data_type == INTERVAL_MONTHS) {
            return self.shift(ast, Operator::Plus, b, a);
        }
        self.shift(ast, Operator::Plus, a, b)
    }

    fn subtract(&self, ast: &Ast, a: Typed, b: Typed) -> Bound<Typed> {
        if is_timestamp(&a.data_type) && is_timestamp(&b.data_type) {
            return Err(self
                .problem(ast, "timestamps cannot be subtracted from each other")
                .help("write `TIMESTAMPDIFF(SECOND, <earlier>, <later>)`"));
        }
        self.shift(ast, Operator::Minus, a, b)
    }

    /// A point in time moved by an interval, the sum of intervals, or plain arithmetic.
    pub(crate) fn shift(&self, ast: &Ast, op: Operator, a: Typed, b: Typed) -> Bound<Typed> {
        match (&a.data_type, &b.data_type) {
            (DataType::Timestamp(_, _), t) if *t == INTERVAL || *t == INTERVAL_MONTHS => {
                let result = a.data_type.clone();
                Ok(a.binary(op, b, result))
            }
            (DataType::Date32, t) if *t == INTERVAL || *t == INTERVAL_MONTHS => {
                let moved = a.cast(&types::timestamp()).binary(op, b, types::timestamp());
                Ok(moved.cast(&DataType::Date32))
            }
            (t, u) if t == u && *t == INTERVAL => {
                let millis = interval_millis(a).binary(op, interval_millis(b), DataType::Int64);
                Ok(millis_interval(millis))
            }
            _ => self.arithmetic(ast, op, a, b),
        }
    }

    /// Numbers, or an interval times a whole number.
    fn multiply(&self, ast: &Ast, a: Typed, b: Typed) -> Bound<Typed> {
        let (interval, factor) = match (a.data_type == INTERVAL, b.data_type == INTERVAL) {
            (true, false) => (a, b),
            (false, true) => (b, a),
            _ => return self.arithmetic(ast, Operator::Multiply, a, b),
        };
        if !is_integer(&factor.data_type) {
            return Err(self
                .problem(
                    ast,
                    format!("an interval is multiplied by a whole number, not by {}", types::name(&factor.data_type)),
                )
                .help("write `CAST(... AS BIGINT) * INTERVAL ...`"));
        }
        let millis =
            factor.cast(&DataType::Int64).binary(Operator::Multiply, interval_millis(interval), DataType::Int64);
        Ok(millis_interval(millis))
    }

    pub(super) fn arithmetic(&self, ast: &Ast, op: Operator, a: Typed, b: Typed) -> Bound<Typed> {
        let Some(operands) = arithmetic_operands(&a, &b) else {
            let (left, right) = (types::name(&a.data_type), types::name(&b.data_type));
            let help = if is_string(&a.data_type) || is_string(&b.data_type) {
                "make the string a number first, e.g. `CAST(... AS INT)`"
            } else {
                "numbers can be computed with, and an INTERVAL can be added to a point in time"
            };
            return Err(self.problem(ast, format!("`{op}` does not work on {left} and {right}")).help(help));
        };
        let (a, b) = (a.cast(&operands.0), b.cast(&operands.1));
        let result = if a.data_type == b.data_type && !matches!(a.data_type, DataType::Decimal128(_, _)) {
            a.data_type.clone()
        } else {
            BinaryTypeCoercer::new(&a.data_type, &op, &b.data_type)
                .get_result_type()
                .map_err(|error| self.problem(ast, expr::plain_error(error)))?
        };
        Ok(a.binary(op, b, result))
    }

    pub(super) fn negate(&self, value: Typed, ast: &Ast) -> Bound<Typed> {
        if value.data_type == INTERVAL {
            let zero = Typed::literal(ScalarValue::Int64(Some(0)));
            return Ok(millis_interval(zero.binary(Operator::Minus, interval_millis(value), DataType::Int64)));
        }
        if !is_numeric(&value.data_type) {
            return Err(self.problem(ast, format!("`-` does not work on {}", types::name(&value.data_type))));
        }
        let data_type = value.data_type.clone();
        Ok(Typed::new(datafusion_expr::Expr::Negative(Box::new(value.expr)), data_type))
    }

    /// `a || b`: null if one is null.
    fn concatenate(&self, ast: &Ast, a: Typed, b: Typed) -> Bound<Typed> {
        for side in [&a, &b] {
            if !is_string(&side.data_type) && side.data_type != DataType::Null {
                return Err(self
                    .problem(ast, format!("`||` joins strings, not {}", types::name(&side.data_type)))
                    .help("write `CAST(... AS STRING)`"));
            }
        }
        Ok(a.cast(&DataType::Utf8).binary(Operator::StringConcat, b.cast(&DataType::Utf8), DataType::Utf8))
    }

    pub(super) fn cast_expr(&mut self, ast: &Ast, kind: &CastKind, inner: &Ast, to: &AstType) -> Bound<Typed> {
        let try_cast = match kind {
            CastKind::Cast => false,
            CastKind::TryCast => true,
            CastKind::SafeCast => {
                return Err(self.problem(ast, "`SAFE_CAST` is not Flink SQL").help("write `TRY_CAST`"));
            }
            CastKind::DoubleColon => {
                return Err(self.problem(ast, "`::` is not Flink SQL").help(format!("write `CAST({inner} AS {to})`")));
            }
        };
        let value = self.bind(inner)?;
        let to = types::parse(&to.to_string()).map_err(|p| self.problem(ast, p.message).help_if(p.help))?.arrow;
        let from = types::name(&value.data_type);
        cast::explicit(value, &to, try_cast)
            .ok_or_else(|| self.problem(ast, format!("{from} cannot be cast to {}", types::name(&to))))
    }
}

/// The types to which both operands are brought.
fn arithmetic_operands(a: &Typed, b: &Typed) -> Option<(DataType, DataType)> {
    let (left, right) = match (&a.data_type, &b.data_type) {
        (DataType::Null, t) | (t, DataType::Null) => (t, t),
        both => both,
    };
    if !is_numeric(left) || !is_numeric(right) {
        return None;
    }
    match (left, right) {
        (DataType::Decimal128(_, _), _) | (_, DataType::Decimal128(_, _))
            if !left.is_floating() && !right.is_floating() =>
        {
            Some((as_decimal(left)?, as_decimal(right)?))
        }
        _ => common_type(left, right).map(|t| (t.clone(), t)),
    }
}
