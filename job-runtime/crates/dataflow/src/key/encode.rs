//! Columns → encoded keys and their hashes, a batch at a time.
//!
//! Owns the writing half of the key encoding (layout: see `key`). It does not decide who owns a key.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Schema};
use xxhash_rust::xxh3::xxh3_64;

use crate::columns::{ByteValues, Physical, native_values};

/// Marker of a null key column.
pub(crate) const NULL: u8 = 0;
/// Marker of a key column with a value.
pub(crate) const VALUE: u8 = 1;

/// A column's type cannot be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "column {column} of type {data_type} cannot be a key: group or partition by a scalar column, or CAST it to one"
)]
pub struct UnsupportedKey {
    /// The column's name.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

/// The hash of an encoded key.
#[inline]
pub fn hash_bytes(encoded: &[u8]) -> u64 {
    xxh3_64(encoded)
}

/// The encoded keys of a batch.
#[derive(Clone, Debug)]
pub enum EncodedKeys {
    /// One key column of fixed width up to eight bytes: the bytes behind the marker as a number (so numbers order as encodings do).
    Fixed {
        /// One per row; meaningless where null.
        values: Vec<u64>,
        /// Which rows are null.
        nulls: Option<NullBuffer>,
        /// Bytes of a value.
        width: usize,
    },
    /// Anything else: all encodings one after the other.
    Bytes {
        /// All encodings.
        bytes: Vec<u8>,
        /// End of each row's encoding in `bytes`.
        ends: Vec<usize>,
    },
}

impl EncodedKeys {
    /// Number of keys.
    pub fn len(&self) -> usize {
        match self {
            Self::Fixed { values, .. } => values.len(),
            Self::Bytes { ends, .. } => ends.len(),
        }
    }

    /// True if there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the encoding of row `row` to `out`.
    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Fixed { values, nulls, width } => {
                let value = nulls.as_ref().is_none_or(|n| n.is_valid(row)).then(|| values[row]);
                write_fixed(value, *width, out);
            }
            Self::Bytes { bytes, ends } => out.extend_from_slice(slice(bytes, ends, row)),
        }
    }

    /// The encoding of row `row`; `scratch` is where one is put together that is not there yet.
    #[inline]
    pub fn bytes_of<'a>(&'a self, row: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        match self {
            Self::Fixed { .. } => {
                scratch.clear();
                self.write(row, scratch);
                scratch
            }
            Self::Bytes { bytes, ends } => slice(bytes, ends, row),
        }
    }

    /// The hash of every key.
    pub fn hashes(&self) -> Arc<[u64]> {
        match self {
            Self::Fixed { values, nulls, width } => {
                let hash: fn(u64) -> u64 = match width {
                    1 => hash_fixed::<2>,
                    2 => hash_fixed::<3>,
                    4 => return hash_all::<5>(values, nulls.as_ref()),
                    _ => return hash_all::<9>(values, nulls.as_ref()),
                };
                with_nulls(values.iter().map(|&v| hash(v)).collect(), nulls.as_ref())
            }
            Self::Bytes { bytes, ends } => (0..ends.len()).map(|row| xxh3_64(slice(bytes, ends, row))).collect(),
        }
    }
}

#[inline]
fn slice<'a>(bytes: &'a [u8], ends: &[usize], row: usize) -> &'a [u8] {
    let start = if row == 0 { 0 } else { ends[row - 1] };
    &bytes[start..ends[row]]
}

/// Appends the encoding of one fixed-width key column.
pub(crate) fn write_fixed(value: Option<u64>, width: usize, out: &mut Vec<u8>) {
    match value {
        None => out.push(NULL),
        Some(value) => {
            out.push(VALUE);
            out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
        }
    }
}

/// `xxh3_64` of the marker and a value of `N - 1` bytes.
#[inline]
fn hash_fixed<const N: usize>(value: u64) -> u64 {
    let mut encoded = [VALUE; N];
    encoded[1..].copy_from_slice(&value.to_be_bytes()[9 - N..]);
    xxh3_64(&encoded)
}

fn hash_all<const N: usize>(values: &[u64], nulls: Option<&NullBuffer>) -> Arc<[u64]> {
    with_nulls(values.iter().map(|&v| hash_fixed::<N>(v)).collect(), nulls)
}

fn with_nulls(mut hashes: Arc<[u64]>, nulls: Option<&NullBuffer>) -> Arc<[u64]> {
    if let Some(nulls) = nulls.filter(|n| n.null_count() > 0) {
        let null = xxh3_64(&[NULL]);
        let all = Arc::get_mut(&mut hashes).expect("just made, not shared");
        for row in (0..all.len()).filter(|&row| nulls.is_null(row)) {
            all[row] = null;
        }
    }
    hashes
}

/// Encodes the key columns of batches of one schema.
#[derive(Clone, Debug)]
pub struct KeyEncoder {
    columns: Vec<(usize, Physical)>,
    exact: bool,
}

impl KeyEncoder {
    /// For the columns `keys` of `schema`.
    ///
    /// # Errors
    /// When a column's type has no key encoding.
    pub fn new(schema: &Schema, keys: &[usize]) -> Result<Self, UnsupportedKey> {
        let column = |&index: &usize| {
            let field = schema.field(index);
            let unsupported = || UnsupportedKey { column: field.name().clone(), data_type: field.data_type().clone() };
            Ok((index, Physical::of(field.data_type()).ok_or_else(unsupported)?))
        };
        Ok(Self { columns: keys.iter().map(column).collect::<Result<_, _>>()?, exact: false })
    }

    /// For rows and not for keys: as [`KeyEncoder::new`], but every float keeps all of its bits, so that what is decoded is what was
    /// encoded. Encodings are not equal for `0.0` and `-0.0`, nor for all NaN.
    ///
    /// # Errors
    /// As there.
    pub fn exact(schema: &Schema, columns: &[usize]) -> Result<Self, UnsupportedKey> {
        Ok(Self { exact: true, ..Self::new(schema, columns)? })
    }

    /// Width of the value if keys are [`EncodedKeys::Fixed`].
    pub fn fixed_width(&self) -> Option<usize> {
        match self.columns[..] {
            [(_, physical)] => physical.width().filter(|&w| w <= 8),
            _ => None,
        }
    }

    /// Encodes the keys of all rows.
    pub fn encode(&self, batch: &RecordBatch) -> EncodedKeys {
        match (self.fixed_width(), &self.columns[..]) {
            (Some(width), &[(index, physical), ..]) => {
                let array = batch.column(index).as_ref();
                EncodedKeys::Fixed {
                    values: fixed_values(array, physical, self.exact),
                    nulls: array.logical_nulls(),
                    width,
                }
            }
            _ => self.encode_bytes(batch),
        }
    }

    fn encode_bytes(&self, batch: &RecordBatch) -> EncodedKeys {
        let columns: Vec<Column> =
            self.columns.iter().map(|&(i, p)| Column::new(batch.column(i).as_ref(), p, self.exact)).collect();
        let mut lengths = vec![0usize; batch.num_rows()];
        for column in &columns {
            column.add_lengths(&mut lengths);
        }
        let mut total = 0;
        let mut cursors: Vec<usize> = Vec::with_capacity(lengths.len());
        for length in &mut lengths {
            cursors.push(total);
            total += *length;
            *length = total;
        }
        let mut bytes = vec![0u8; total];
        for column in &columns {
            column.write(&mut bytes, &mut cursors);
        }
        EncodedKeys::Bytes { bytes, ends: lengths }
    }
}

/// The values of a fixed-width column of at most eight bytes, as their encodings read as a number.
fn fixed_values(array: &dyn Array, physical: Physical, exact: bool) -> Vec<u64> {
    match physical {
        Physical::Boolean => array.as_boolean().values().iter().map(u64::from).collect(),
        Physical::Int8 => native_values::<i8>(array).iter().map(|&v| u64::from(v as u8 ^ 0x80)).collect(),
        Physical::Int16 => native_values::<i16>(array).iter().map(|&v| u64::from(v as u16 ^ 0x8000)).collect(),
        Physical::Int32 => native_values::<i32>(array).iter().map(|&v| u64::from(v as u32 ^ (1 << 31))).collect(),
        Physical::Int64 => native_values::<i64>(array).iter().map(|&v| v as u64 ^ (1 << 63)).collect(),
        Physical::Float32 if exact => {
            native_values::<f32>(array).iter().map(|v| u64::from(ordered_bits_32(v.to_bits()))).collect()
        }
        Physical::Float64 if exact => {
            native_values::<f64>(array).iter().map(|v| ordered_bits_64(v.to_bits())).collect()
        }
        Physical::Float32 => native_values::<f32>(array).iter().map(|&v| u64::from(ordered_f32(v))).collect(),
        Physical::Float64 => native_values::<f64>(array).iter().map(|&v| ordered_f64(v)).collect(),
        Physical::Int128 | Physical::Bytes => unreachable!("not a fixed width of at most eight bytes"),
    }
}

/// Bits that order as the numbers do, with one zero and one NaN.
pub(crate) fn ordered_f64(value: f64) -> u64 {
    let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
    ordered_bits_64(canonical.to_bits())
}

fn ordered_bits_64(bits: u64) -> u64 {
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

fn ordered_f32(value: f32) -> u32 {
    let canonical = if value.is_nan() { f32::NAN } else { value + 0.0 };
    ordered_bits_32(canonical.to_bits())
}

fn ordered_bits_32(bits: u32) -> u32 {
    if bits >> 31 == 1 { !bits } else { bits | (1 << 31) }
}

/// One key column of a batch, ready to be written row by row.
struct Column {
    values: ColumnValues,
    nulls: Option<NullBuffer>,
}

enum ColumnValues {
    Fixed { values: Vec<u64>, width: usize },
    Int128(arrow::buffer::ScalarBuffer<i128>),
    Bytes(ByteValues),
}

impl Column {
    fn new(array: &dyn Array, physical: Physical, exact: bool) -> Self {
        let values = match (physical, physical.width()) {
            (Physical::Bytes, _) | (_, None) => ColumnValues::Bytes(ByteValues::new(array)),
            (Physical::Int128, _) => ColumnValues::Int128(native_values(array)),
            (_, Some(width)) => ColumnValues::Fixed { values: fixed_values(array, physical, exact), width },
        };
        Self { values, nulls: array.logical_nulls().filter(|n| n.null_count() > 0) }
    }

    #[inline]
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|n| n.is_null(row))
    }

    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += 1;
            if !self.is_null(row) {
                *length += match &self.values {
                    ColumnValues::Fixed { width, .. } => *width,
                    ColumnValues::Int128(_) => 16,
                    ColumnValues::Bytes(values) => 4 + values.len_of(row),
                };
            }
        }
    }

    fn write(&self, out: &mut [u8], cursors: &mut [usize]) {
        for (row, cursor) in cursors.iter_mut().enumerate() {
            if self.is_null(row) {
                out[*cursor] = NULL;
                *cursor += 1;
                continue;
            }
            out[*cursor] = VALUE;
            *cursor += 1;
            let mut put = |bytes: &[u8]| {
                out[*cursor..*cursor + bytes.len()].copy_from_slice(bytes);
                *cursor += bytes.len();
            };
            match &self.values {
                ColumnValues::Fixed { values, width } => put(&values[row].to_be_bytes()[8 - width..]),
                ColumnValues::Int128(values) => put(&(values[row] as u128 ^ (1 << 127)).to_be_bytes()),
                ColumnValues::Bytes(values) => {
                    let value = values.value(row);
                    put(&(value.len() as u32).to_be_bytes());
                    put(value);
                }
            }
        }
    }
}
