//! Aggregates in two steps: what one pod has of a group as columns, and taking such columns into the accumulators of another.
//!
//! Owns which columns stand for an accumulator. Sums, minima and maxima are values like any other; a count needs adding, and a mean its
//! count and sum.
//!
//! | aggregate | columns |
//! | --- | --- |
//! | COUNT | count |
//! | SUM | sum (Int64, Float64, Decimal128 of 38 digits), null if there was no value |
//! | AVG | count, sum |
//! | MIN, MAX | value, null if there was none |

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};

use super::{Accumulator, Argument, Call, Kind, Number, Values};
use crate::columns::native_values;
use crate::operators::window::WindowError;
use crate::operators::window::groups::Rows;

impl Call {
    /// Types of the columns that stand for an accumulator of this call.
    pub(in crate::operators::window) fn partial_types(&self) -> Vec<DataType> {
        let scale = match self.input_type {
            DataType::Decimal128(_, scale) => scale,
            _ => 0,
        };
        let exact = DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale);
        match self.kind {
            Kind::Count | Kind::Sum(Number::Int) => vec![DataType::Int64],
            Kind::Sum(Number::Float) => vec![DataType::Float64],
            Kind::Sum(Number::Decimal) => vec![exact],
            Kind::Avg(Number::Float) => vec![DataType::Int64, DataType::Float64],
            Kind::Avg(Number::Int | Number::Decimal) => vec![DataType::Int64, exact],
            Kind::Extreme(_, _) => vec![self.output_type.clone()],
        }
    }

    /// The argument of a batch of such columns, of which this call's begin at `column`.
    pub(in crate::operators::window) fn partial_argument(&self, batch: &RecordBatch, column: usize) -> Argument {
        let first = batch.column(column);
        let valid = first.logical_nulls().filter(|n| n.null_count() > 0).map(|nulls| nulls.into_inner());
        let values = match self.kind {
            Kind::Count => Values::Counted(native_values(first), None),
            Kind::Avg(_) => {
                let sums = Values::of(batch.column(column + 1));
                Values::Counted(native_values(first), Some(Box::new(sums)))
            }
            Kind::Sum(_) | Kind::Extreme(_, _) => Values::of(first),
        };
        Argument { values, valid }
    }
}

impl Accumulator {
    /// The columns that stand for groups, in their order.
    pub(in crate::operators::window) fn partial(
        &self,
        order: &[u32],
        call: &Call,
    ) -> Result<Vec<ArrayRef>, WindowError> {
        let counts = |count: &[i64]| -> ArrayRef {
            Arc::new(order.iter().map(|&group| count[group as usize]).collect::<Int64Array>())
        };
        let exact = |values: Decimal128Array| -> Result<ArrayRef, WindowError> {
            let types = call.partial_types();
            let Some(DataType::Decimal128(precision, scale)) = types.last() else { return Err(call.overflow()) };
            Ok(Arc::new(values.with_precision_and_scale(*precision, *scale)?))
        };
        Ok(match self {
            Self::Count(count) => vec![counts(count)],
            Self::SumFloat(sum) => {
                vec![Arc::new(order.iter().map(|&group| sum.get(group).copied()).collect::<Float64Array>())]
            }
            Self::SumDecimal(sum) => vec![exact(order.iter().map(|&group| sum.get(group).copied()).collect())?],
            Self::AvgExact(count, sum) => {
                vec![counts(count), exact(order.iter().map(|&group| Some(sum[group as usize])).collect())?]
            }
            Self::AvgFloat(count, sum) => {
                let sums = order.iter().map(|&group| sum[group as usize]).collect::<Float64Array>();
                vec![counts(count), Arc::new(sums)]
            }
            Self::SumInt(_)
            | Self::ExtremeInt(_, _)
            | Self::ExtremeFloat(_, _)
            | Self::ExtremeDecimal(_, _)
            | Self::ExtremeBytes(_, _) => vec![self.finish(order, call)?],
        })
    }

    /// Adds counts, and sums if there are any.
    pub(super) fn add_counted(
        &mut self,
        counts: &ScalarBuffer<i64>,
        sums: Option<&Values>,
        argument: &Argument,
        (rows, groups): (&Rows<'_>, &[u32]),
        call: &Call,
    ) -> Result<(), WindowError> {
        let mut overflow = false;
        match (self, sums) {
            (Self::Count(count), None) => argument.each(rows, groups, |row, group| count[group] += counts[row]),
            (Self::AvgExact(count, sum), Some(Values::Decimal(sums))) => argument.each(rows, groups, |row, group| {
                let (next, over) = sum[group].overflowing_add(sums[row]);
                overflow |= over;
                sum[group] = next;
                count[group] += counts[row];
            }),
            (Self::AvgFloat(count, sum), Some(Values::Float(sums))) => argument.each(rows, groups, |row, group| {
                sum[group] += sums[row];
                count[group] += counts[row];
            }),
            _ => unreachable!("columns are made for the accumulator that they stand for (Call::partial_types)"),
        }
        if overflow { Err(call.overflow()) } else { Ok(()) }
    }
}
