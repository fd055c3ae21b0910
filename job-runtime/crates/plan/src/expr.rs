//! Typed expressions: the one place where types meet, casts are made and DataFusion's expressions are simplified.
//!
//! Every cast is explicit: DataFusion's own coercion rules are not Flink's and are never asked.

use std::fmt::Display;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion_common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TryCast,
    Volatility,
};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;

use crate::sql::types;

/// An expression with its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Typed {
    pub(crate) expr: Expr,
    pub(crate) data_type: DataType,
}

impl Typed {
    pub(crate) fn new(expr: Expr, data_type: DataType) -> Self {
        Self { expr, data_type }
    }

    /// A column of the operator's input.
    pub(crate) fn column(name: &str, data_type: &DataType) -> Self {
        Self::new(column(name), data_type.clone())
    }

    /// A constant.
    pub(crate) fn literal(value: ScalarValue) -> Self {
        let data_type = value.data_type();
        Self::new(Expr::Literal(value, None), data_type)
    }

    /// The constant that this is.
    pub(crate) fn as_literal(&self) -> Option<&ScalarValue> {
        match &self.expr {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        }
    }

    /// The string constant that this is.
    pub(crate) fn as_string(&self) -> Option<&str> {
        match self.as_literal() {
            Some(ScalarValue::Utf8(Some(text))) => Some(text),
            _ => None,
        }
    }

    /// The same value as another type: a cast unless nothing is to do.
    pub(crate) fn cast(self, to: &DataType) -> Self {
        if self.data_type == *to {
            return self;
        }
        if let Some(Ok(value)) = self.as_literal().map(|value| value.cast_to(to)) {
            return Self::literal(value);
        }
        Self::new(Expr::Cast(Cast::new(Box::new(self.expr), to.clone())), to.clone())
    }

    /// The same value as another type, null where it does not fit.
    pub(crate) fn try_cast(self, to: &DataType) -> Self {
        if self.data_type == *to {
            return self;
        }
        Self::new(Expr::TryCast(TryCast::new(Box::new(self.expr), to.clone())), to.clone())
    }

    /// `self op other` for operands that already fit each other.
    pub(crate) fn binary(self, op: Operator, other: Typed, data_type: DataType) -> Self {
        Self::new(Expr::BinaryExpr(BinaryExpr::new(Box::new(self.expr), op, Box::new(other.expr))), data_type)
    }
}

/// A column by name, as written.
pub(crate) fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

pub(crate) fn is_string(t: &DataType) -> bool {
    *t == DataType::Utf8
}

pub(crate) fn is_integer(t: &DataType) -> bool {
    t.is_integer()
}

pub(crate) fn is_numeric(t: &DataType) -> bool {
    t.is_numeric()
}

pub(crate) fn is_timestamp(t: &DataType) -> bool {
    matches!(t, DataType::Timestamp(_, _))
}

/// A type as DECIMAL; integers take the digits that their widest value has.
pub(crate) fn as_decimal(t: &DataType) -> Option<DataType> {
    match t {
        DataType::Int8 => Some(DataType::Decimal128(3, 0)),
        DataType::Int16 => Some(DataType::Decimal128(5, 0)),
        DataType::Int32 => Some(DataType::Decimal128(10, 0)),
        DataType::Int64 => Some(DataType::Decimal128(19, 0)),
        DataType::Decimal128(_, _) => Some(t.clone()),
        _ => None,
    }
}

/// The type that holds every value of both, as Flink chooses it; `None` if they do not belong together.
pub(crate) fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if is_numeric(a) && is_numeric(b) => common_number(a, b),
        (DataType::Date32, DataType::Timestamp(_, None)) | (DataType::Timestamp(_, None), DataType::Date32) => {
            Some(types::timestamp())
        }
        (DataType::Timestamp(_, _), DataType::Timestamp(_, _)) => Some(types::timestamp_ltz()),
        _ => None,
    }
}

fn common_number(a: &DataType, b: &DataType) -> Option<DataType> {
    if a.is_floating() || b.is_floating() {
        return Some(DataType::Float64);
    }
    if is_integer(a) && is_integer(b) {
        return Some(if a.primitive_width() >= b.primitive_width() { a.clone() } else { b.clone() });
    }
    match (as_decimal(a)?, as_decimal(b)?) {
        (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) => {
            let scale = s1.max(s2);
            let whole = (i16::from(p1) - i16::from(s1)).max(i16::from(p2) - i16::from(s2));
            Some(DataType::Decimal128((whole + i16::from(scale)).min(38) as u8, scale))
        }
        _ => None,
    }
}

/// True if `INSERT` may convert silently: nothing can be lost but a decimal's last digits.
pub(crate) fn assignable(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        _ if from == to => true,
        (DataType::Null, _) => true,
        _ if is_integer(from) && is_integer(to) => from.primitive_width() <= to.primitive_width(),
        (_, DataType::Float32 | DataType::Float64) if is_integer(from) => true,
        (DataType::Float32, DataType::Float64) => true,
        (DataType::Decimal128(_, _), DataType::Float64 | DataType::Decimal128(_, _)) => true,
        (_, DataType::Decimal128(p, s)) => match as_decimal(from) {
            Some(DataType::Decimal128(digits, _)) => i16::from(digits) <= i16::from(*p) - i16::from(*s),
            _ => false,
        },
        (DataType::Timestamp(_, _), DataType::Timestamp(_, _)) | (DataType::Date32, DataType::Timestamp(_, _)) => true,
        _ => false,
    }
}

/// A day-time interval's milliseconds as BIGINT, and back: they are the same 64 bits.
pub(crate) fn interval_millis(interval: Typed) -> Typed {
    match interval.as_literal() {
        Some(ScalarValue::DurationMillisecond(ms)) => Typed::literal(ScalarValue::Int64(*ms)),
        _ => Typed::new(Expr::Cast(Cast::new(Box::new(interval.expr), DataType::Int64)), DataType::Int64),
    }
}

/// See [`interval_millis`].
pub(crate) fn millis_interval(millis: Typed) -> Typed {
    match millis.as_literal() {
        Some(ScalarValue::Int64(ms)) => Typed::literal(ScalarValue::DurationMillisecond(*ms)),
        _ => {
            let to = DataType::Duration(TimeUnit::Millisecond);
            Typed::new(Expr::Cast(Cast::new(Box::new(millis.expr), to.clone())), to)
        }
    }
}

/// A DataFusion schema of unqualified columns.
pub(crate) fn df_schema(schema: &Schema) -> Result<DFSchema, DataFusionError> {
    DFSchema::try_from(schema.clone())
}

/// Folds constants and simplifies. An expression that fails on its constants is left as it is: it may never be evaluated.
pub(crate) fn simplify(expr: Expr, schema: &DFSchema) -> Expr {
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    ExprSimplifier::new(context).simplify(expr.clone()).unwrap_or(expr)
}

/// `a AND b AND …`
pub(crate) fn conjunction(parts: impl IntoIterator<Item = Expr>) -> Option<Expr> {
    parts.into_iter().reduce(|a, b| Expr::BinaryExpr(BinaryExpr::new(Box::new(a), Operator::And, Box::new(b))))
}

type Kernel = dyn Fn(&[ArrayRef]) -> Result<ArrayRef, String> + Send + Sync;

/// A function of ours as DataFusion sees it. Its name holds its constant parameters, so that equal names mean equal functions.
#[derive(Clone)]
pub(crate) struct Native {
    name: String,
    return_type: DataType,
    signature: Signature,
    kernel: Arc<Kernel>,
}

impl Native {
    /// A call of a deterministic function over `arguments`.
    pub(crate) fn call(
        name: impl Into<String>,
        arguments: Vec<Typed>,
        return_type: DataType,
        kernel: impl Fn(&[ArrayRef]) -> Result<ArrayRef, String> + Send + Sync + 'static,
    ) -> Typed {
        let function = Native {
            name: name.into(),
            return_type: return_type.clone(),
            signature: Signature::variadic_any(Volatility::Immutable),
            kernel: Arc::new(kernel),
        };
        let arguments = arguments.into_iter().map(|a| a.expr).collect();
        Typed::new(ScalarUDF::new_from_impl(function).call(arguments), return_type)
    }
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl PartialEq for Native {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.return_type == other.return_type
    }
}

impl Eq for Native {}

impl std::hash::Hash for Native {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.return_type.hash(state);
    }
}

impl ScalarUDFImpl for Native {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(self.return_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        (self.kernel)(&arrays).map(ColumnarValue::Array).map_err(DataFusionError::Execution)
    }
}

/// What an error of DataFusion says, without its prefixes.
pub(crate) fn plain_error(error: impl Display) -> String {
    let text = error.to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    let prefixes = [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Cast error: ",
        "Compute error: ",
        "Optimizer rule failed: ",
    ];
    let mut text = text;
    while let Some(rest) = prefixes.iter().find_map(|p| text.strip_prefix(p)) {
        text = rest;
    }
    text.to_owned()
}
