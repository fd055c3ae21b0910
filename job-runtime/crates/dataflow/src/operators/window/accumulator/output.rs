//! Results of accumulators as columns.
//!
//! Owns the types of results and the rounding of means. It does not say when a group is finished.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, StringArray,
};
use arrow::datatypes::DataType;

use super::{Accumulator, Call, Kind, Number};
use crate::columns::Physical;
use crate::operators::window::{WindowError, retyped};

impl Accumulator {
    /// The results of groups, in their order.
    pub(in crate::operators::window) fn finish(&self, order: &[u32], call: &Call) -> Result<ArrayRef, WindowError> {
        let at = |group: u32| group as usize;
        Ok(match self {
            Self::Count(count) => Arc::new(order.iter().map(|&g| count[at(g)]).collect::<Int64Array>()),
            Self::SumInt(sum) => Arc::new(order.iter().map(|&g| sum.get(g).copied()).collect::<Int64Array>()),
            Self::SumFloat(v) => floats(order.iter().map(|&g| v.get(g).copied()), &call.output_type),
            Self::ExtremeFloat(v, _) => floats(order.iter().map(|&g| v.get(g).copied()), &call.output_type),
            Self::SumDecimal(v) | Self::ExtremeDecimal(v, _) => {
                decimals(order.iter().map(|&g| v.get(g).copied()), call)?
            }
            Self::AvgExact(count, sum) => match call.kind {
                Kind::Avg(Number::Decimal) => {
                    let mean = |&g: &u32| decimal_mean(sum[at(g)], count[at(g)], call);
                    decimals(order.iter().map(mean).collect::<Result<Vec<_>, _>>()?.into_iter(), call)?
                }
                _ => {
                    let mean = |&g: &u32| (count[at(g)] > 0).then(|| sum[at(g)] as f64 / count[at(g)] as f64);
                    floats(order.iter().map(mean), &call.output_type)
                }
            },
            Self::AvgFloat(count, sum) => {
                let mean = |&g: &u32| (count[at(g)] > 0).then(|| sum[at(g)] / count[at(g)] as f64);
                floats(order.iter().map(mean), &call.output_type)
            }
            Self::ExtremeInt(v, _) => ints(order.iter().map(|&g| v.get(g).copied()), &call.output_type)?,
            Self::ExtremeBytes(v, _) => {
                let values = order.iter().map(|&g| v.get(g).map(Vec::as_slice));
                match call.output_type {
                    DataType::Utf8 => Arc::new(StringArray::try_from_binary(values.collect::<BinaryArray>())?),
                    _ => Arc::new(values.collect::<BinaryArray>()),
                }
            }
        })
    }
}

fn floats(values: impl Iterator<Item = Option<f64>>, output: &DataType) -> ArrayRef {
    match output {
        DataType::Float32 => Arc::new(values.map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
        _ => Arc::new(values.collect::<Float64Array>()),
    }
}

/// Integers back in the type that they came from.
fn ints(values: impl Iterator<Item = Option<i64>>, output: &DataType) -> Result<ArrayRef, WindowError> {
    let narrow: ArrayRef = match Physical::of(output) {
        Some(Physical::Boolean) => return Ok(Arc::new(values.map(|v| v.map(|v| v != 0)).collect::<BooleanArray>())),
        Some(Physical::Int8) => Arc::new(values.map(|v| v.map(|v| v as i8)).collect::<Int8Array>()),
        Some(Physical::Int16) => Arc::new(values.map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
        Some(Physical::Int32) => Arc::new(values.map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        _ => Arc::new(values.collect::<Int64Array>()),
    };
    Ok(retyped(narrow.as_ref(), output)?)
}

fn decimals(values: impl Iterator<Item = Option<i128>>, call: &Call) -> Result<ArrayRef, WindowError> {
    let DataType::Decimal128(precision, scale) = call.output_type else { return Err(call.overflow()) };
    let array = values.collect::<Decimal128Array>().with_precision_and_scale(precision, scale)?;
    array.validate_decimal_precision(precision).map_err(|_| call.overflow())?;
    Ok(Arc::new(array))
}

/// The mean at the output's scale, rounded half away from zero.
fn decimal_mean(sum: i128, count: i64, call: &Call) -> Result<Option<i128>, WindowError> {
    let (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) = (&call.input_type, &call.output_type) else {
        return Err(call.overflow());
    };
    if count == 0 {
        return Ok(None);
    }
    let count = i128::from(count);
    let digits = u32::from(to.abs_diff(*from));
    // Whole part first, so that only the remainder is widened before it is divided.
    let scale = 10i128.checked_pow(digits).ok_or_else(|| call.overflow())?;
    let (whole, rest) = (sum / count, sum % count);
    let rest = rest.checked_mul(scale).ok_or_else(|| call.overflow())?;
    let (fraction, rest) = (rest / count, rest % count);
    let up = if rest.abs() * 2 >= count { rest.signum() } else { 0 };
    let mean = whole.checked_mul(scale).and_then(|w| w.checked_add(fraction + up));
    mean.map(Some).ok_or_else(|| call.overflow())
}
