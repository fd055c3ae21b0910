//! The bounds of a row's window, as expressions over its rowtime.
//!
//! A grouped window is recognised by these calls; where rows are not grouped they are simply computed.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, TimestampMillisecondType};
use dataflow::graph::WindowKind;
use datafusion_common::DataFusionError;
use datafusion_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::expr::Typed;

/// Which bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bound {
    Start,
    End,
    /// The last instant inside: end - 1 ms.
    Time,
}

impl Bound {
    /// The column's name.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Bound::Start => "window_start",
            Bound::End => "window_end",
            Bound::Time => "window_time",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct WindowBound {
    bound: Bound,
    size_ms: i64,
    offset_ms: i64,
    signature: Signature,
}

/// The bound of the window into which `rowtime` falls.
pub(crate) fn bound(bound: Bound, window: WindowKind, rowtime: &Typed) -> Typed {
    let WindowKind::Tumble { size_ms, offset_ms } = window;
    let function = WindowBound { bound, size_ms, offset_ms, signature: Signature::any(1, Volatility::Immutable) };
    Typed::new(ScalarUDF::new_from_impl(function).call(vec![rowtime.expr.clone()]), rowtime.data_type.clone())
}

/// The window and rowtime of an expression that [`bound`] made.
pub(crate) fn as_bound(expr: &Expr) -> Option<(Bound, WindowKind, &Expr)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let inner: &dyn Any = call.func.inner().as_ref();
    let function = inner.downcast_ref::<WindowBound>()?;
    let window = WindowKind::Tumble { size_ms: function.size_ms, offset_ms: function.offset_ms };
    call.args.first().map(|rowtime| (function.bound, window, rowtime))
}

impl ScalarUDFImpl for WindowBound {
    fn name(&self) -> &str {
        self.bound.column()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> datafusion_common::Result<DataType> {
        arguments.first().cloned().ok_or_else(|| DataFusionError::Plan("a window needs a rowtime".to_owned()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let times = arrays[0].as_primitive::<TimestampMillisecondType>();
        let (size, offset) = (self.size_ms, self.offset_ms);
        let start = |t: i64| t - (t - offset).rem_euclid(size);
        let bounds: PrimitiveArray<TimestampMillisecondType> = match self.bound {
            Bound::Start => times.unary(start),
            Bound::End => times.unary(|t| start(t) + size),
            Bound::Time => times.unary(|t| start(t) + size - 1),
        };
        let bounds = bounds.with_data_type(times.data_type().clone());
        Ok(ColumnarValue::Array(Arc::new(bounds)))
    }
}
