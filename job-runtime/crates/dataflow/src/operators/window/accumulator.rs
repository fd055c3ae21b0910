//! Accumulators in columns: one vector per aggregate, one element per group, updated a batch at a time.
//!
//! Owns the arithmetic of the aggregate functions. How their state is stored is in `stored`, how results become columns in `output`. It knows
//! nothing of keys and windows.

mod output;
mod partial;
mod stored;

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

use super::WindowError;
use super::groups::{Rows, keep};
use crate::columns::{ByteValues, Physical, native_values};
use crate::graph::{AggregateCall, AggregateFunction};

/// One aggregate, checked.
pub(super) struct Call {
    name: String,
    kind: Kind,
    argument: Option<usize>,
    filter: Option<usize>,
    input_type: DataType,
    output_type: DataType,
}

/// What is computed, and in which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Count,
    Sum(Number),
    Avg(Number),
    Extreme(Value, Ordering),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Int,
    Float,
    Decimal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Int,
    Float,
    Decimal,
    Bytes,
}

impl Call {
    pub(super) fn new(call: &AggregateCall, name: &str) -> Result<Self, WindowError> {
        let unsupported = || WindowError::Unsupported {
            aggregate: name.to_owned(),
            message: format!("{:?} of {} as {} is not known", call.function, call.input_type, call.output_type),
        };
        let physical = Physical::of(&call.input_type);
        let kind = match call.function {
            AggregateFunction::CountStar => Kind::Count,
            AggregateFunction::Count => Kind::Count,
            AggregateFunction::Sum => Kind::Sum(number(physical, &call.input_type).ok_or_else(unsupported)?),
            AggregateFunction::Avg => Kind::Avg(number(physical, &call.input_type).ok_or_else(unsupported)?),
            AggregateFunction::Min => Kind::Extreme(value(physical).ok_or_else(unsupported)?, Ordering::Less),
            AggregateFunction::Max => Kind::Extreme(value(physical).ok_or_else(unsupported)?, Ordering::Greater),
        };
        let output = &call.output_type;
        let fits = match kind {
            Kind::Count | Kind::Sum(Number::Int) => *output == DataType::Int64,
            Kind::Sum(Number::Float) => matches!(output, DataType::Float64 | DataType::Float32),
            Kind::Avg(Number::Int | Number::Float) => matches!(output, DataType::Float64 | DataType::Float32),
            Kind::Sum(Number::Decimal) => match (&call.input_type, output) {
                (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => from == to,
                _ => false,
            },
            Kind::Avg(Number::Decimal) => match (&call.input_type, output) {
                (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => from <= to,
                _ => false,
            },
            Kind::Extreme(_, _) => *output == call.input_type,
        };
        let needs_argument = call.function != AggregateFunction::CountStar;
        if !fits || needs_argument != call.argument.is_some() {
            return Err(unsupported());
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            argument: call.argument,
            filter: call.filter,
            input_type: call.input_type.clone(),
            output_type: call.output_type.clone(),
        })
    }

    /// The argument's values and the rows that count, for a whole batch.
    pub(super) fn argument(&self, batch: &RecordBatch) -> Argument {
        let column = self.argument.map(|index| batch.column(index).as_ref());
        let nulls = column.and_then(|c| c.logical_nulls()).filter(|n| n.null_count() > 0);
        let filter = self.filter.map(|index| {
            let filter = batch.column(index).as_boolean();
            match filter.nulls() {
                Some(nulls) => filter.values() & nulls.inner(),
                None => filter.values().clone(),
            }
        });
        let valid = match (nulls, filter) {
            (Some(nulls), Some(filter)) => Some(nulls.inner() & &filter),
            (Some(nulls), None) => Some(nulls.into_inner()),
            (None, filter) => filter,
        };
        let values = match (self.kind, column) {
            (Kind::Count, _) | (_, None) => Values::None,
            (_, Some(column)) => Values::of(column),
        };
        Argument { values, valid }
    }

    fn overflow(&self) -> WindowError {
        WindowError::Overflow { aggregate: self.name.clone(), data_type: self.output_type.clone() }
    }
}

fn number(physical: Option<Physical>, data_type: &DataType) -> Option<Number> {
    if !data_type.is_numeric() {
        return None;
    }
    match physical? {
        Physical::Int8 | Physical::Int16 | Physical::Int32 | Physical::Int64 => Some(Number::Int),
        Physical::Float32 | Physical::Float64 => Some(Number::Float),
        Physical::Int128 => Some(Number::Decimal),
        Physical::Boolean | Physical::Bytes => None,
    }
}

fn value(physical: Option<Physical>) -> Option<Value> {
    Some(match physical? {
        Physical::Boolean | Physical::Int8 | Physical::Int16 | Physical::Int32 | Physical::Int64 => Value::Int,
        Physical::Float32 | Physical::Float64 => Value::Float,
        Physical::Int128 => Value::Decimal,
        Physical::Bytes => Value::Bytes,
    })
}

/// An aggregate's argument for one batch.
pub(super) struct Argument {
    values: Values,
    /// Rows that count: not null and let through by the filter; `None` for all.
    valid: Option<BooleanBuffer>,
}

/// Values widened to what accumulators work with.
enum Values {
    None,
    Int(ScalarBuffer<i64>),
    Float(ScalarBuffer<f64>),
    Decimal(ScalarBuffer<i128>),
    Bytes(ByteValues),
    /// Counts, and what they go with, of groups that were aggregated elsewhere (see `partial`).
    Counted(ScalarBuffer<i64>, Option<Box<Values>>),
}

impl Values {
    fn of(column: &dyn Array) -> Self {
        match Physical::of(column.data_type()) {
            None => Self::None,
            Some(Physical::Boolean) => Self::Int(column.as_boolean().values().iter().map(i64::from).collect()),
            Some(Physical::Int8) => Self::Int(native_values::<i8>(column).iter().map(|&v| i64::from(v)).collect()),
            Some(Physical::Int16) => Self::Int(native_values::<i16>(column).iter().map(|&v| i64::from(v)).collect()),
            Some(Physical::Int32) => Self::Int(native_values::<i32>(column).iter().map(|&v| i64::from(v)).collect()),
            Some(Physical::Int64) => Self::Int(native_values(column)),
            Some(Physical::Float32) => {
                Self::Float(native_values::<f32>(column).iter().map(|&v| f64::from(v)).collect())
            }
            Some(Physical::Float64) => Self::Float(native_values(column)),
            Some(Physical::Int128) => Self::Decimal(native_values(column)),
            Some(Physical::Bytes) => Self::Bytes(ByteValues::new(column)),
        }
    }
}

impl Argument {
    /// Calls `f` with the place in `groups` resolved: (row, group) for each row that counts.
    #[inline(always)]
    fn each(&self, rows: &Rows<'_>, groups: &[u32], mut f: impl FnMut(usize, usize)) {
        let mut next = groups.iter();
        let mut group = move || next.next().map_or(0, |&g| g as usize);
        match &self.valid {
            None => rows.each(|row| f(row, group())),
            Some(valid) => rows.each(|row| {
                let group = group();
                if valid.value(row) {
                    f(row, group);
                }
            }),
        }
    }
}

/// The state of one aggregate for all groups of a window.
pub(super) enum Accumulator {
    Count(Vec<i64>),
    SumInt(Seen<i64>),
    SumFloat(Seen<f64>),
    SumDecimal(Seen<i128>),
    /// AVG of integers or decimals.
    AvgExact(Vec<i64>, Vec<i128>),
    AvgFloat(Vec<i64>, Vec<f64>),
    ExtremeInt(Seen<i64>, Ordering),
    ExtremeFloat(Seen<f64>, Ordering),
    ExtremeDecimal(Seen<i128>, Ordering),
    ExtremeBytes(Seen<Vec<u8>>, Ordering),
}

/// Values of which some are not there yet.
#[derive(Default)]
pub(super) struct Seen<T> {
    seen: Vec<bool>,
    value: Vec<T>,
}

impl<T: Clone + Default> Seen<T> {
    fn resize(&mut self, groups: usize) {
        self.seen.resize(groups, false);
        self.value.resize(groups, T::default());
    }

    fn keep(&mut self, kept: &[u32]) {
        keep(&mut self.seen, kept);
        keep(&mut self.value, kept);
    }

    fn get(&self, group: u32) -> Option<&T> {
        self.seen[group as usize].then(|| &self.value[group as usize])
    }
}

impl<T: Copy> Seen<T> {
    #[inline(always)]
    fn keep_if(&mut self, group: usize, value: T, better: impl FnOnce(&T, &T) -> bool) {
        if !self.seen[group] || better(&value, &self.value[group]) {
            self.seen[group] = true;
            self.value[group] = value;
        }
    }
}

impl Accumulator {
    pub(super) fn new(call: &Call) -> Self {
        match call.kind {
            Kind::Count => Self::Count(Vec::new()),
            Kind::Sum(Number::Int) => Self::SumInt(Seen::default()),
            Kind::Sum(Number::Float) => Self::SumFloat(Seen::default()),
            Kind::Sum(Number::Decimal) => Self::SumDecimal(Seen::default()),
            Kind::Avg(Number::Int | Number::Decimal) => Self::AvgExact(Vec::new(), Vec::new()),
            Kind::Avg(Number::Float) => Self::AvgFloat(Vec::new(), Vec::new()),
            Kind::Extreme(Value::Int, order) => Self::ExtremeInt(Seen::default(), order),
            Kind::Extreme(Value::Float, order) => Self::ExtremeFloat(Seen::default(), order),
            Kind::Extreme(Value::Decimal, order) => Self::ExtremeDecimal(Seen::default(), order),
            Kind::Extreme(Value::Bytes, order) => Self::ExtremeBytes(Seen::default(), order),
        }
    }

    /// Makes room for `groups` groups.
    pub(super) fn resize(&mut self, groups: usize) {
        match self {
            Self::Count(count) => count.resize(groups, 0),
            Self::SumInt(sum) | Self::ExtremeInt(sum, _) => sum.resize(groups),
            Self::SumFloat(sum) | Self::ExtremeFloat(sum, _) => sum.resize(groups),
            Self::SumDecimal(sum) | Self::ExtremeDecimal(sum, _) => sum.resize(groups),
            Self::AvgExact(count, sum) => {
                count.resize(groups, 0);
                sum.resize(groups, 0);
            }
            Self::AvgFloat(count, sum) => {
                count.resize(groups, 0);
                sum.resize(groups, 0.0);
            }
            Self::ExtremeBytes(value, _) => value.resize(groups),
        }
    }

    /// Keeps the groups at `kept`, which is in ascending order, and numbers them anew.
    pub(super) fn keep(&mut self, kept: &[u32]) {
        match self {
            Self::Count(count) => keep(count, kept),
            Self::SumInt(v) | Self::ExtremeInt(v, _) => v.keep(kept),
            Self::SumFloat(v) | Self::ExtremeFloat(v, _) => v.keep(kept),
            Self::SumDecimal(v) | Self::ExtremeDecimal(v, _) => v.keep(kept),
            Self::AvgExact(count, sum) => {
                keep(count, kept);
                keep(sum, kept);
            }
            Self::AvgFloat(count, sum) => {
                keep(count, kept);
                keep(sum, kept);
            }
            Self::ExtremeBytes(v, _) => v.keep(kept),
        }
    }

    /// About how much memory is taken.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Count(count) => count.len() * 8,
            Self::SumInt(v) | Self::ExtremeInt(v, _) => v.seen.len() * 9,
            Self::SumFloat(v) | Self::ExtremeFloat(v, _) => v.seen.len() * 9,
            Self::SumDecimal(v) | Self::ExtremeDecimal(v, _) => v.seen.len() * 17,
            Self::AvgExact(count, _) => count.len() * 24,
            Self::AvgFloat(count, _) => count.len() * 16,
            Self::ExtremeBytes(v, _) => v.seen.len() * 57,
        }
    }

    /// Takes rows in; `groups` has the group of each row of `rows`.
    pub(super) fn update(
        &mut self,
        argument: &Argument,
        rows: &Rows<'_>,
        groups: &[u32],
        call: &Call,
    ) -> Result<(), WindowError> {
        if let Values::Counted(counts, sums) = &argument.values {
            return self.add_counted(counts, sums.as_deref(), argument, (rows, groups), call);
        }
        let mut overflow = false;
        match (self, &argument.values) {
            (Self::Count(count), _) => match &argument.valid {
                None => groups.iter().for_each(|&group| count[group as usize] += 1),
                Some(_) => argument.each(rows, groups, |_, group| count[group] += 1),
            },
            (Self::SumInt(sum), Values::Int(values)) => argument.each(rows, groups, |row, group| {
                let (next, over) = sum.value[group].overflowing_add(values[row]);
                overflow |= over;
                sum.value[group] = next;
                sum.seen[group] = true;
            }),
            (Self::SumFloat(sum), Values::Float(values)) => argument.each(rows, groups, |row, group| {
                sum.value[group] += values[row];
                sum.seen[group] = true;
            }),
            (Self::SumDecimal(sum), Values::Decimal(values)) => argument.each(rows, groups, |row, group| {
                let (next, over) = sum.value[group].overflowing_add(values[row]);
                overflow |= over;
                sum.value[group] = next;
                sum.seen[group] = true;
            }),
            (Self::AvgExact(count, sum), Values::Int(values)) => argument.each(rows, groups, |row, group| {
                sum[group] += i128::from(values[row]);
                count[group] += 1;
            }),
            (Self::AvgExact(count, sum), Values::Decimal(values)) => argument.each(rows, groups, |row, group| {
                let (next, over) = sum[group].overflowing_add(values[row]);
                overflow |= over;
                sum[group] = next;
                count[group] += 1;
            }),
            (Self::AvgFloat(count, sum), Values::Float(values)) => argument.each(rows, groups, |row, group| {
                sum[group] += values[row];
                count[group] += 1;
            }),
            (extreme, values) => extreme.update_extreme(values, argument, rows, groups),
        }
        if overflow { Err(call.overflow()) } else { Ok(()) }
    }

    fn update_extreme(&mut self, values: &Values, argument: &Argument, rows: &Rows<'_>, groups: &[u32]) {
        match (self, values) {
            (Self::ExtremeInt(best, Ordering::Less), Values::Int(values)) => {
                argument.each(rows, groups, |row, group| best.keep_if(group, values[row], |a, b| a < b));
            }
            (Self::ExtremeInt(best, _), Values::Int(values)) => {
                argument.each(rows, groups, |row, group| best.keep_if(group, values[row], |a, b| a > b));
            }
            (Self::ExtremeFloat(best, order), Values::Float(values)) => argument.each(rows, groups, |row, group| {
                best.keep_if(group, canonical(values[row]), |a, b| a.total_cmp(b) == *order);
            }),
            (Self::ExtremeDecimal(best, order), Values::Decimal(values)) => {
                argument.each(rows, groups, |row, group| best.keep_if(group, values[row], |a, b| a.cmp(b) == *order));
            }
            (Self::ExtremeBytes(best, order), Values::Bytes(values)) => argument.each(rows, groups, |row, group| {
                let value = values.value(row);
                let held = &mut best.value[group];
                if !best.seen[group] || value.cmp(held.as_slice()) == *order {
                    best.seen[group] = true;
                    held.clear();
                    held.extend_from_slice(value);
                }
            }),
            _ => unreachable!("an accumulator is made for the type of its argument (Call::new)"),
        }
    }
}

/// One NaN, one zero.
fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}
