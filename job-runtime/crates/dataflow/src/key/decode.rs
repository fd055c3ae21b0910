//! Encoded keys → columns: what the state holds becomes rows again.
//!
//! Owns the reading half of the key encoding (layout: see `key`).

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BooleanArray, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

use super::encode::{NULL, UnsupportedKey, VALUE};
use crate::columns::Physical;

/// Bytes that are no encoded key of the expected types.
#[derive(Debug, thiserror::Error)]
pub enum KeyDecodeError {
    /// The key is shorter than its types need.
    #[error("an encoded key ends early")]
    Truncated,
    /// The key goes on behind its last column.
    #[error("an encoded key has {0} bytes too many")]
    TooLong(usize),
    /// Neither a null nor a value.
    #[error("an encoded key has the unknown marker {0}")]
    Marker(u8),
    /// The values do not make a column, e.g. text that is not UTF-8.
    #[error("decoded keys do not make a column")]
    Column(#[from] ArrowError),
}

/// Decodes keys of fixed column types.
#[derive(Clone, Debug)]
pub struct KeyDecoder {
    columns: Vec<(DataType, Physical)>,
}

impl KeyDecoder {
    /// For keys made of the columns `keys` of `schema`.
    ///
    /// # Errors
    /// When a column's type has no key encoding.
    pub fn new(schema: &Schema, keys: &[usize]) -> Result<Self, UnsupportedKey> {
        let column = |&index: &usize| {
            let field = schema.field(index);
            let unsupported = || UnsupportedKey { column: field.name().clone(), data_type: field.data_type().clone() };
            Ok((field.data_type().clone(), Physical::of(field.data_type()).ok_or_else(unsupported)?))
        };
        Ok(Self { columns: keys.iter().map(column).collect::<Result<_, _>>()? })
    }

    /// Number of key columns.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Length of the key that `bytes` begin with.
    ///
    /// # Errors
    /// See [`KeyDecodeError`].
    pub fn length(&self, bytes: &[u8]) -> Result<usize, KeyDecodeError> {
        let mut rest = bytes;
        self.columns.iter().try_for_each(|(_, physical)| take_value(*physical, &mut rest).map(drop))?;
        Ok(bytes.len() - rest.len())
    }

    /// The key columns of `keys`, one row per key.
    ///
    /// # Errors
    /// See [`KeyDecodeError`].
    pub fn decode(&self, keys: &[&[u8]]) -> Result<Vec<ArrayRef>, KeyDecodeError> {
        let mut rests: Vec<&[u8]> = keys.to_vec();
        let columns = self.columns.iter().map(|(data_type, physical)| column(data_type, *physical, &mut rests));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        match rests.iter().find(|rest| !rest.is_empty()) {
            Some(rest) => Err(KeyDecodeError::TooLong(rest.len())),
            None => Ok(columns),
        }
    }
}

/// Takes one column off the front of every key.
fn column(data_type: &DataType, physical: Physical, rests: &mut [&[u8]]) -> Result<ArrayRef, KeyDecodeError> {
    let rows = rests.len();
    let mut valid = Vec::with_capacity(rows);
    let mut values: Vec<u8> = Vec::with_capacity(rows * physical.width().unwrap_or(16));
    let mut offsets: Vec<i32> = vec![0];
    for rest in rests.iter_mut() {
        let value = take_value(physical, rest)?;
        valid.push(value.is_some());
        match physical.width() {
            Some(width) => push_native(physical, value, width, &mut values),
            None => {
                values.extend_from_slice(value.unwrap_or_default());
                offsets.push(i32::try_from(values.len()).map_err(|_| ArrowError::OffsetOverflowError(values.len()))?);
            }
        }
    }
    let nulls = NullBuffer::from(valid);
    let nulls = (nulls.null_count() > 0).then_some(nulls);
    if physical == Physical::Boolean {
        return Ok(Arc::new(BooleanArray::new(values.iter().map(|&v| v != 0).collect(), nulls)));
    }
    let data = ArrayData::builder(data_type.clone()).len(rows).nulls(nulls);
    let data = match physical.width() {
        Some(_) => data.add_buffer(Buffer::from_vec(aligned(&values))),
        None => data.add_buffer(Buffer::from_vec(offsets)).add_buffer(Buffer::from_vec(values)),
    };
    Ok(make_array(data.build()?))
}

/// The bytes in memory that is aligned for every native type.
fn aligned(bytes: &[u8]) -> Vec<i128> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 16];
        word[..chunk.len()].copy_from_slice(chunk);
        i128::from_ne_bytes(word)
    };
    bytes.chunks(16).map(word).collect()
}

fn take_value<'a>(physical: Physical, rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, KeyDecodeError> {
    match take(rest, 1)?[0] {
        NULL => return Ok(None),
        VALUE => {}
        marker => return Err(KeyDecodeError::Marker(marker)),
    }
    let length = match physical.width() {
        Some(width) => width,
        None => u32::from_be_bytes(take(rest, 4)?.try_into().expect("four bytes were taken")) as usize,
    };
    take(rest, length).map(Some)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], KeyDecodeError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(KeyDecodeError::Truncated)?;
    *rest = tail;
    Ok(head)
}

/// Undoes the order-keeping encoding: native bytes of the value, zeros for null.
fn push_native(physical: Physical, value: Option<&[u8]>, width: usize, out: &mut Vec<u8>) {
    let Some(value) = value else {
        out.resize(out.len() + width, 0);
        return;
    };
    let mut wide = [0u8; 16];
    wide[16 - width..].copy_from_slice(value);
    let encoded = u128::from_be_bytes(wide);
    let sign = 1u128 << (width * 8 - 1);
    let bits = match physical {
        Physical::Boolean | Physical::Bytes => encoded,
        Physical::Int8 | Physical::Int16 | Physical::Int32 | Physical::Int64 | Physical::Int128 => encoded ^ sign,
        Physical::Float32 | Physical::Float64 => match encoded & sign {
            0 => !encoded,
            _ => encoded ^ sign,
        },
    };
    out.extend_from_slice(&bits.to_le_bytes()[..width]);
}
