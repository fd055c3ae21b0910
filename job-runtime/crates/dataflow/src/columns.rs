//! Raw access to Arrow columns by physical width, so that all integer-like types (integers, dates, times, timestamps) share one code path.
//!
//! Owns small helpers only; what the values mean is the caller's business.

use arrow::array::Array;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{ArrowNativeType, DataType};

/// How a type's values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Physical {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Int128,
    Float32,
    Float64,
    /// Utf8 or Binary with 32-bit offsets.
    Bytes,
}

impl Physical {
    /// `None` for a type that is neither a key nor an argument of an aggregate.
    pub(crate) fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 => Self::Int8,
            DataType::Int16 => Self::Int16,
            DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Self::Int32,
            DataType::Int64 | DataType::Timestamp(_, _) | DataType::Time64(_) => Self::Int64,
            DataType::Decimal128(_, _) => Self::Int128,
            DataType::Float32 => Self::Float32,
            DataType::Float64 => Self::Float64,
            DataType::Utf8 | DataType::Binary => Self::Bytes,
            _ => return None,
        })
    }

    /// Bytes of one value; `None` if that varies.
    pub(crate) fn width(self) -> Option<usize> {
        match self {
            Self::Boolean | Self::Int8 => Some(1),
            Self::Int16 => Some(2),
            Self::Int32 | Self::Float32 => Some(4),
            Self::Int64 | Self::Float64 => Some(8),
            Self::Int128 => Some(16),
            Self::Bytes => None,
        }
    }
}

/// The values of a fixed-width column whose native type is `T` (the unit or time zone does not matter). Shares the memory.
pub(crate) fn native_values<T: ArrowNativeType>(array: &dyn Array) -> ScalarBuffer<T> {
    let data = array.to_data();
    ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len())
}

/// The bytes of each value of a Utf8 or Binary column: all offsets, and the buffer that they point into.
pub(crate) struct ByteValues {
    offsets: ScalarBuffer<i32>,
    bytes: arrow::buffer::Buffer,
}

impl ByteValues {
    pub(crate) fn new(array: &dyn Array) -> Self {
        let data = array.to_data();
        let offsets = match data.buffers()[0].is_empty() {
            true => ScalarBuffer::from(vec![0]),
            false => ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len() + 1),
        };
        Self { offsets, bytes: data.buffers()[1].clone() }
    }

    #[inline]
    pub(crate) fn len_of(&self, row: usize) -> usize {
        (self.offsets[row + 1] - self.offsets[row]) as usize
    }

    #[inline]
    pub(crate) fn value(&self, row: usize) -> &[u8] {
        &self.bytes[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}
