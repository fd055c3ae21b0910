//! Typed views of a batch's columns for writing: found once per batch, then one `match` per value and no dynamic call.
//!
//! Owns how values of each type are spelled apart from quoting, which is the format's. It does not parse.

use arrow::array::{Array, AsArray, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Time32MillisecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};

use super::FormatError;
use super::scalar::{self, TimestampWriter};

/// One column of one batch.
pub(super) struct Values {
    nulls: Option<NullBuffer>,
    kind: Kind,
}

/// How the text of a value stands in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As it is: numbers, booleans.
    Bare,
    /// In quotes, with nothing to escape: dates, base64, `NaN`.
    Quoted,
}

enum Kind {
    Boolean(BooleanArray),
    Int8(ScalarBuffer<i8>),
    Int16(ScalarBuffer<i16>),
    Int32(ScalarBuffer<i32>),
    Int64(ScalarBuffer<i64>),
    Float32(ScalarBuffer<f32>),
    Float64(ScalarBuffer<f64>),
    Decimal(ScalarBuffer<i128>, i8),
    String(StringArray),
    Bytes(BinaryArray),
    Date(ScalarBuffer<i32>),
    Time(ScalarBuffer<i32>),
    Timestamp(ScalarBuffer<i64>, TimestampWriter),
}

/// A value to write.
pub(super) enum Value<'a> {
    Null,
    /// Text that may need escaping or quoting.
    Text(&'a [u8]),
    /// Any other: written by `Values::write`.
    Plain(Shape),
}

fn buffer<T: ArrowPrimitiveType>(array: &dyn Array) -> ScalarBuffer<T::Native> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    array.values().clone()
}

impl Values {
    /// The columns of a batch, ready to write.
    pub(super) fn of(batch: &RecordBatch, separator: u8) -> Result<Vec<Values>, FormatError> {
        let columns = batch.columns().iter().zip(batch.schema_ref().fields());
        columns
            .map(|(array, field)| {
                let kind = Kind::of(array, separator).ok_or_else(|| FormatError {
                    column: Some(field.name().clone()),
                    message: format!("column {}: a text format cannot carry {} yet", field.name(), field.data_type()),
                })?;
                Ok(Values { nulls: array.nulls().cloned(), kind })
            })
            .collect()
    }

    #[inline]
    pub(super) fn get(&self, row: usize) -> Value<'_> {
        if self.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return Value::Null;
        }
        match &self.kind {
            Kind::String(array) => Value::Text(array.value(row).as_bytes()),
            Kind::Float32(v) if !v[row].is_finite() => Value::Plain(Shape::Quoted),
            Kind::Float64(v) if !v[row].is_finite() => Value::Plain(Shape::Quoted),
            Kind::Boolean(_)
            | Kind::Int8(_)
            | Kind::Int16(_)
            | Kind::Int32(_)
            | Kind::Int64(_)
            | Kind::Float32(_)
            | Kind::Float64(_)
            | Kind::Decimal(..) => Value::Plain(Shape::Bare),
            Kind::Bytes(_) | Kind::Date(_) | Kind::Time(_) | Kind::Timestamp(..) => Value::Plain(Shape::Quoted),
        }
    }

    /// Appends the text of a value that is not null and no string.
    #[inline]
    pub(super) fn write(&mut self, row: usize, out: &mut Vec<u8>) {
        match &mut self.kind {
            Kind::Boolean(v) => out.extend_from_slice(if v.value(row) { b"true" } else { b"false" }),
            Kind::Int8(v) => scalar::write_i64(v[row].into(), out),
            Kind::Int16(v) => scalar::write_i64(v[row].into(), out),
            Kind::Int32(v) => scalar::write_i64(v[row].into(), out),
            Kind::Int64(v) => scalar::write_i64(v[row], out),
            Kind::Float32(v) => scalar::write_f32(v[row], out),
            Kind::Float64(v) => scalar::write_f64(v[row], out),
            Kind::Decimal(v, scale) => scalar::write_decimal(v[row], *scale, out),
            Kind::String(v) => out.extend_from_slice(v.value(row).as_bytes()),
            Kind::Bytes(v) => scalar::write_base64(v.value(row), out),
            Kind::Date(v) => scalar::write_date(v[row].into(), out),
            Kind::Time(v) => scalar::write_time(i64::from(v[row]).rem_euclid(86_400_000), TimeUnit::Millisecond, out),
            Kind::Timestamp(v, writer) => writer.write(v[row], out),
        }
    }
}

impl Kind {
    fn of(array: &dyn Array, separator: u8) -> Option<Kind> {
        Some(match array.data_type() {
            DataType::Boolean => Kind::Boolean(array.as_boolean().clone()),
            DataType::Int8 => Kind::Int8(buffer::<Int8Type>(array)),
            DataType::Int16 => Kind::Int16(buffer::<Int16Type>(array)),
            DataType::Int32 => Kind::Int32(buffer::<Int32Type>(array)),
            DataType::Int64 => Kind::Int64(buffer::<Int64Type>(array)),
            DataType::Float32 => Kind::Float32(buffer::<Float32Type>(array)),
            DataType::Float64 => Kind::Float64(buffer::<Float64Type>(array)),
            DataType::Decimal128(_, scale) if *scale >= 0 => Kind::Decimal(buffer::<Decimal128Type>(array), *scale),
            DataType::Utf8 => Kind::String(array.as_string().clone()),
            DataType::Binary => Kind::Bytes(array.as_binary().clone()),
            DataType::Date32 => Kind::Date(buffer::<Date32Type>(array)),
            DataType::Time32(TimeUnit::Millisecond) => Kind::Time(buffer::<Time32MillisecondType>(array)),
            DataType::Timestamp(unit, zone) => {
                let values = match unit {
                    TimeUnit::Second => buffer::<TimestampSecondType>(array),
                    TimeUnit::Millisecond => buffer::<TimestampMillisecondType>(array),
                    TimeUnit::Microsecond => buffer::<TimestampMicrosecondType>(array),
                    TimeUnit::Nanosecond => buffer::<TimestampNanosecondType>(array),
                };
                Kind::Timestamp(values, TimestampWriter::new(*unit, separator, zone.is_some()))
            }
            _ => return None,
        })
    }
}
