//! Columns under construction: typed cells that can be cut back to a row, which Arrow's own builders cannot.
//!
//! Owns how a decoder stores values until the batch is finished. It does not parse text (see `scalar`) and knows no format.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, StringArray, Time32MillisecondArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::error::ArrowError;

/// Validity of a column's cells; costs nothing until the first null.
#[derive(Debug, Default)]
pub(super) struct Nulls {
    bits: Option<BooleanBufferBuilder>,
}

impl Nulls {
    #[inline]
    fn push_valid(&mut self) {
        if let Some(bits) = &mut self.bits {
            bits.append(true);
        }
    }

    /// `before`: how many cells the column already has.
    fn push_null(&mut self, before: usize) {
        self.bits
            .get_or_insert_with(|| {
                let mut bits = BooleanBufferBuilder::new(before.max(1024));
                bits.append_n(before, true);
                bits
            })
            .append(false);
    }

    fn truncate(&mut self, len: usize) {
        if let Some(bits) = &mut self.bits {
            bits.truncate(len);
        }
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        self.bits.take().map(|mut bits| NullBuffer::new(bits.finish()))
    }
}

/// Cells of a fixed-size type.
#[derive(Debug)]
pub(super) struct Cells<T> {
    values: Vec<T>,
    nulls: Nulls,
}

impl<T: Default + Copy> Cells<T> {
    fn new() -> Self {
        Cells { values: Vec::new(), nulls: Nulls::default() }
    }

    #[inline]
    pub(super) fn push(&mut self, value: T) {
        self.values.push(value);
        self.nulls.push_valid();
    }

    fn push_null(&mut self) {
        self.nulls.push_null(self.values.len());
        self.values.push(T::default());
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }

    fn take(&mut self) -> (Vec<T>, Option<NullBuffer>) {
        let capacity = self.values.len();
        (std::mem::replace(&mut self.values, Vec::with_capacity(capacity)), self.nulls.finish())
    }
}

/// Cells of variable length: strings and bytes.
#[derive(Debug)]
pub(super) struct VarCells {
    bytes: Vec<u8>,
    ends: Vec<i32>,
    nulls: Nulls,
}

impl VarCells {
    fn new() -> Self {
        VarCells { bytes: Vec::new(), ends: vec![0], nulls: Nulls::default() }
    }

    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// Appends one cell. The decoders bound a batch's bytes far below `i32::MAX` (see `super::MAX_BATCH_BYTES`).
    #[inline]
    pub(super) fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.close();
    }

    /// The buffer, to write a cell piece by piece before `close`.
    #[inline]
    pub(super) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    #[inline]
    pub(super) fn close(&mut self) {
        self.ends.push(i32::try_from(self.bytes.len()).expect("a batch's bytes are bounded by MAX_BATCH_BYTES"));
        self.nulls.push_valid();
    }

    fn push_null(&mut self) {
        self.nulls.push_null(self.len());
        self.ends.push(*self.ends.last().expect("ends starts with 0"));
    }

    fn truncate(&mut self, len: usize) {
        self.ends.truncate(len + 1);
        self.bytes.truncate(usize::try_from(*self.ends.last().expect("ends starts with 0")).expect("never negative"));
        self.nulls.truncate(len);
    }

    fn take(&mut self) -> (Vec<u8>, OffsetBuffer<i32>, Option<NullBuffer>) {
        let capacity = self.bytes.len();
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let capacity = self.ends.len();
        let ends = std::mem::replace(&mut self.ends, Vec::with_capacity(capacity));
        self.ends.push(0);
        (bytes, OffsetBuffer::new(ScalarBuffer::from(ends)), self.nulls.finish())
    }
}

/// One column of the batch under construction.
#[derive(Debug)]
pub(super) enum Column {
    Boolean(Cells<bool>),
    Int8(Cells<i8>),
    Int16(Cells<i16>),
    Int32(Cells<i32>),
    Int64(Cells<i64>),
    Float32(Cells<f32>),
    Float64(Cells<f64>),
    Decimal {
        cells: Cells<i128>,
        precision: u8,
        scale: i8,
    },
    String(VarCells),
    Bytes(VarCells),
    Date(Cells<i32>),
    /// Milliseconds of the day.
    Time(Cells<i32>),
    Timestamp {
        cells: Cells<i64>,
        unit: TimeUnit,
        zone: Option<Arc<str>>,
    },
}

impl Column {
    /// A column for `field`, or its type's name if no text format can carry it yet.
    pub(super) fn new(field: &Field) -> Option<Column> {
        Some(match field.data_type() {
            DataType::Boolean => Column::Boolean(Cells::new()),
            DataType::Int8 => Column::Int8(Cells::new()),
            DataType::Int16 => Column::Int16(Cells::new()),
            DataType::Int32 => Column::Int32(Cells::new()),
            DataType::Int64 => Column::Int64(Cells::new()),
            DataType::Float32 => Column::Float32(Cells::new()),
            DataType::Float64 => Column::Float64(Cells::new()),
            DataType::Decimal128(precision, scale) if *scale >= 0 => {
                Column::Decimal { cells: Cells::new(), precision: *precision, scale: *scale }
            }
            DataType::Utf8 => Column::String(VarCells::new()),
            DataType::Binary => Column::Bytes(VarCells::new()),
            DataType::Date32 => Column::Date(Cells::new()),
            DataType::Time32(TimeUnit::Millisecond) => Column::Time(Cells::new()),
            DataType::Timestamp(unit, zone) => {
                Column::Timestamp { cells: Cells::new(), unit: *unit, zone: zone.clone() }
            }
            _ => return None,
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Column::Boolean(c) => c.values.len(),
            Column::Int8(c) => c.values.len(),
            Column::Int16(c) => c.values.len(),
            Column::Int32(c) | Column::Date(c) | Column::Time(c) => c.values.len(),
            Column::Int64(c) | Column::Timestamp { cells: c, .. } => c.values.len(),
            Column::Float32(c) => c.values.len(),
            Column::Float64(c) => c.values.len(),
            Column::Decimal { cells, .. } => cells.values.len(),
            Column::String(c) | Column::Bytes(c) => c.len(),
        }
    }

    pub(super) fn push_null(&mut self) {
        match self {
            Column::Boolean(c) => c.push_null(),
            Column::Int8(c) => c.push_null(),
            Column::Int16(c) => c.push_null(),
            Column::Int32(c) | Column::Date(c) | Column::Time(c) => c.push_null(),
            Column::Int64(c) | Column::Timestamp { cells: c, .. } => c.push_null(),
            Column::Float32(c) => c.push_null(),
            Column::Float64(c) => c.push_null(),
            Column::Decimal { cells, .. } => cells.push_null(),
            Column::String(c) | Column::Bytes(c) => c.push_null(),
        }
    }

    /// Cuts the column back to `len` cells, a half-written one included.
    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Column::Boolean(c) => c.truncate(len),
            Column::Int8(c) => c.truncate(len),
            Column::Int16(c) => c.truncate(len),
            Column::Int32(c) | Column::Date(c) | Column::Time(c) => c.truncate(len),
            Column::Int64(c) | Column::Timestamp { cells: c, .. } => c.truncate(len),
            Column::Float32(c) => c.truncate(len),
            Column::Float64(c) => c.truncate(len),
            Column::Decimal { cells, .. } => cells.truncate(len),
            Column::String(c) | Column::Bytes(c) => c.truncate(len),
        }
    }

    /// The finished array; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        macro_rules! array {
            ($array:ty, $cells:expr) => {{
                let (values, nulls) = $cells.take();
                Arc::new(<$array>::try_new(values.into(), nulls)?) as ArrayRef
            }};
        }
        Ok(match self {
            Column::Boolean(c) => {
                let (values, nulls) = c.take();
                Arc::new(BooleanArray::new(values.into(), nulls))
            }
            Column::Int8(c) => array!(Int8Array, c),
            Column::Int16(c) => array!(Int16Array, c),
            Column::Int32(c) => array!(Int32Array, c),
            Column::Int64(c) => array!(Int64Array, c),
            Column::Float32(c) => array!(Float32Array, c),
            Column::Float64(c) => array!(Float64Array, c),
            Column::Date(c) => array!(Date32Array, c),
            Column::Time(c) => array!(Time32MillisecondArray, c),
            Column::Decimal { cells, precision, scale } => {
                let (values, nulls) = cells.take();
                Arc::new(Decimal128Array::try_new(values.into(), nulls)?.with_precision_and_scale(*precision, *scale)?)
            }
            Column::String(c) => {
                let (bytes, offsets, nulls) = c.take();
                Arc::new(StringArray::try_new(offsets, bytes.into(), nulls)?)
            }
            Column::Bytes(c) => {
                let (bytes, offsets, nulls) = c.take();
                Arc::new(BinaryArray::try_new(offsets, bytes.into(), nulls)?)
            }
            Column::Timestamp { cells, unit, zone } => {
                let (values, nulls) = cells.take();
                let values = ScalarBuffer::from(values);
                match unit {
                    TimeUnit::Second => {
                        Arc::new(TimestampSecondArray::try_new(values, nulls)?.with_timezone_opt(zone.clone()))
                    }
                    TimeUnit::Millisecond => {
                        Arc::new(TimestampMillisecondArray::try_new(values, nulls)?.with_timezone_opt(zone.clone()))
                    }
                    TimeUnit::Microsecond => {
                        Arc::new(TimestampMicrosecondArray::try_new(values, nulls)?.with_timezone_opt(zone.clone()))
                    }
                    TimeUnit::Nanosecond => {
                        Arc::new(TimestampNanosecondArray::try_new(values, nulls)?.with_timezone_opt(zone.clone()))
                    }
                }
            }
        })
    }
}
