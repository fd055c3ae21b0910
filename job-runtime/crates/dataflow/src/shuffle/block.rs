//! Rows on their way to another pod: gathered column by column from batches, and made a batch again on the other side.
//!
//! Owns the layout of a block. It does not know whose rows they are (see `message`). One layout serves one row and ten thousand: a column
//! costs one byte besides its values.
//!
//! # Block (integers little-endian; a varint is LEB128 of a u32)
//! `rows varint | per column of the agreed schema: nulls u8 (0 none, 1 some) | if some: ⌈rows/8⌉ bytes, bit set = there is a value | values`
//!
//! | type | values |
//! | --- | --- |
//! | Boolean | ⌈rows/8⌉ bytes, one bit each, least significant first |
//! | Int8 to Int64, Float32, Float64, Date32, Time32, Time64, Timestamp, Decimal128 | rows × width |
//! | Utf8, Binary | rows × length varint, then all bytes |
//!
//! A null has a value of zeroes or of no length. What follows the last column is damage.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{DataType, Schema, SchemaRef};

use crate::columns::{ByteValues, Physical};

/// A block is given out when it has so many bytes: a message of one block stays well below a broker's limit of a megabyte. Small in the tests of
/// this crate, so that whole jobs fill some.
pub const BLOCK_BYTES: usize = if cfg!(test) { 2 << 10 } else { 512 << 10 };

/// A column's type cannot go to another pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "column {column} of type {data_type} cannot be sent to another pod: select the fields that are needed, or CAST it"
)]
pub struct UnsupportedColumn {
    /// The column's name.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

/// A block does not fit the layout or the schema.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block of rows is damaged, or of another plan: {0}")]
pub struct BlockError(pub String);

/// Gathers rows of batches of one schema.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    columns: Vec<Column>,
    rows: usize,
    /// Bytes of one row without its texts.
    fixed: usize,
}

#[derive(Debug)]
struct Column {
    physical: Physical,
    nulls: Option<Bits>,
    /// Values of fixed width; all bytes of texts.
    values: Vec<u8>,
    /// Booleans.
    bits: Bits,
    /// Lengths of texts.
    lengths: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    fn ones(len: usize) -> Self {
        let mut bits = Self::default();
        (0..len).for_each(|_| bits.push(true));
        bits
    }

    fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(bit) << (self.len % 8);
        }
        self.len += 1;
    }
}

/// A batch made ready to take rows from.
pub(crate) struct Source(Vec<SourceColumn>);

struct SourceColumn {
    nulls: Option<NullBuffer>,
    values: SourceValues,
}

enum SourceValues {
    Fixed { width: usize, bytes: Buffer },
    Boolean(BooleanBuffer),
    Bytes(ByteValues),
}

impl Source {
    pub(crate) fn new(batch: &RecordBatch) -> Self {
        let column = |array: &ArrayRef| {
            let values = match Physical::of(array.data_type()) {
                Some(Physical::Boolean) => SourceValues::Boolean(array.as_boolean().values().clone()),
                Some(Physical::Bytes) | None => SourceValues::Bytes(ByteValues::new(array)),
                Some(physical) => {
                    let (data, width) = (array.to_data(), physical.width().unwrap_or(1));
                    let bytes = data.buffers()[0].slice_with_length(data.offset() * width, data.len() * width);
                    SourceValues::Fixed { width, bytes }
                }
            };
            SourceColumn { nulls: array.nulls().filter(|n| n.null_count() > 0).cloned(), values }
        };
        Self(batch.columns().iter().map(column).collect())
    }

    /// Bytes of a row's texts, with their lengths.
    fn texts(&self, row: usize) -> usize {
        let text = |column: &SourceColumn| match &column.values {
            SourceValues::Bytes(values) => values.len_of(row) + 5,
            SourceValues::Fixed { .. } | SourceValues::Boolean(_) => 0,
        };
        self.0.iter().map(text).sum()
    }

    fn has_texts(&self) -> bool {
        self.0.iter().any(|column| matches!(column.values, SourceValues::Bytes(_)))
    }
}

/// Checks that every column can be sent.
pub(crate) fn check(schema: &Schema) -> Result<(), UnsupportedColumn> {
    match schema.fields().iter().find(|field| Physical::of(field.data_type()).is_none()) {
        None => Ok(()),
        Some(field) => Err(UnsupportedColumn { column: field.name().clone(), data_type: field.data_type().clone() }),
    }
}

impl BlockBuilder {
    /// For a schema that passed [`check`].
    pub(crate) fn new(schema: &Schema) -> Self {
        let physical = |data_type: &DataType| Physical::of(data_type).unwrap_or(Physical::Bytes);
        let column =
            |physical| Column { physical, nulls: None, values: Vec::new(), bits: Bits::default(), lengths: Vec::new() };
        let columns: Vec<_> = schema.fields().iter().map(|f| column(physical(f.data_type()))).collect();
        let fixed = columns.iter().map(|c| c.physical.width().unwrap_or(0) + 1).sum();
        Self { columns, rows: 0, fixed }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// About how many bytes the block has.
    fn byte_len(&self) -> usize {
        let column = |c: &Column| c.values.len() + c.lengths.len() + c.bits.bytes.len() + c.nulls_len();
        8 + self.columns.iter().map(column).sum::<usize>()
    }

    /// Takes rows of a batch until [`BLOCK_BYTES`] are reached; returns how many it took, at least one if it was empty.
    pub(crate) fn take(&mut self, source: &Source, rows: &[u32]) -> usize {
        let room = BLOCK_BYTES.saturating_sub(self.byte_len());
        let fitting = if source.has_texts() {
            let mut sum = 0;
            let fits = |row: &&u32| {
                sum += self.fixed + source.texts(**row as usize);
                sum <= room
            };
            rows.iter().take_while(fits).count()
        } else {
            (room / self.fixed.max(1)).min(rows.len())
        };
        let count = if self.is_empty() { fitting.max(1) } else { fitting }.min(rows.len());
        for (column, from) in self.columns.iter_mut().zip(&source.0) {
            column.append(from, &rows[..count], self.rows);
        }
        self.rows += count;
        count
    }

    /// The encoded block; the builder is empty again.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.byte_len() + self.columns.len());
        put_varint(&mut out, self.rows as u32);
        for column in &mut self.columns {
            match column.nulls.take() {
                None => out.push(0),
                Some(nulls) => {
                    out.push(1);
                    out.extend_from_slice(&nulls.bytes);
                }
            }
            out.extend_from_slice(&std::mem::take(&mut column.bits).bytes);
            out.append(&mut column.lengths);
            out.append(&mut column.values);
        }
        self.rows = 0;
        out
    }
}

impl Column {
    fn nulls_len(&self) -> usize {
        self.nulls.as_ref().map_or(0, |nulls| nulls.bytes.len())
    }

    fn append(&mut self, from: &SourceColumn, rows: &[u32], before: usize) {
        if from.nulls.is_some() && self.nulls.is_none() {
            self.nulls = Some(Bits::ones(before));
        }
        if let Some(nulls) = &mut self.nulls {
            rows.iter().for_each(|&row| nulls.push(from.nulls.as_ref().is_none_or(|n| n.is_valid(row as usize))));
        }
        let valid = |row: usize| from.nulls.as_ref().is_none_or(|n| n.is_valid(row));
        match &from.values {
            SourceValues::Boolean(values) => {
                rows.iter().for_each(|&row| self.bits.push(values.value(row as usize) && valid(row as usize)));
            }
            SourceValues::Bytes(values) => {
                for row in rows.iter().map(|&row| row as usize) {
                    let value = if valid(row) { values.value(row) } else { &[] };
                    put_varint(&mut self.lengths, value.len() as u32);
                    self.values.extend_from_slice(value);
                }
            }
            SourceValues::Fixed { width, bytes } => {
                let gather = match width {
                    1 => gather::<1>,
                    2 => gather::<2>,
                    4 => gather::<4>,
                    8 => gather::<8>,
                    _ => gather::<16>,
                };
                gather(bytes, from.nulls.as_ref(), rows, &mut self.values);
            }
        }
    }
}

fn gather<const N: usize>(bytes: &[u8], nulls: Option<&NullBuffer>, rows: &[u32], out: &mut Vec<u8>) {
    let (values, _) = bytes.as_chunks::<N>();
    match nulls {
        None => rows.iter().for_each(|&row| out.extend_from_slice(&values[row as usize])),
        Some(nulls) => rows.iter().map(|&row| row as usize).for_each(|row| {
            out.extend_from_slice(if nulls.is_valid(row) { &values[row] } else { &[0; N] });
        }),
    }
}

/// Makes the batch of a block.
///
/// # Errors
/// When the bytes do not fit the layout and the schema.
pub fn decode(schema: &SchemaRef, mut block: &[u8]) -> Result<RecordBatch, BlockError> {
    let rest = &mut block;
    let rows = take_varint(rest)? as usize;
    let columns = schema.fields().iter().map(|field| decode_column(field.data_type(), rows, rest));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    if !rest.is_empty() {
        return Err(BlockError(format!("{} bytes follow the last column", rest.len())));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|e| BlockError(e.to_string()))
}

fn decode_column(data_type: &DataType, rows: usize, rest: &mut &[u8]) -> Result<ArrayRef, BlockError> {
    let nulls = match take(rest, 1)?[0] {
        0 => None,
        1 => {
            let bits = Buffer::from(take(rest, rows.div_ceil(8))?);
            Some(NullBuffer::new(BooleanBuffer::new(bits, 0, rows)))
        }
        other => return Err(BlockError(format!("a column says {other} about its nulls"))),
    };
    let mut data = ArrayData::builder(data_type.clone()).len(rows).nulls(nulls);
    data = match Physical::of(data_type) {
        Some(Physical::Boolean) => data.add_buffer(Buffer::from(take(rest, rows.div_ceil(8))?)),
        Some(Physical::Bytes) => {
            // A length takes a byte at least: a number of rows is not trusted with memory.
            let mut ends = Vec::with_capacity(rows.min(rest.len()) + 1);
            let mut end = 0usize;
            ends.push(0i32);
            for _ in 0..rows {
                end += take_varint(rest)? as usize;
                ends.push(i32::try_from(end).map_err(|_| BlockError("texts are too long".to_owned()))?);
            }
            data.add_buffer(Buffer::from_vec(ends)).add_buffer(Buffer::from(take(rest, end)?))
        }
        Some(fixed) => {
            let bytes = rows.checked_mul(fixed.width().unwrap_or(1));
            let bytes = bytes.ok_or_else(|| BlockError("too many rows".to_owned()))?;
            data.add_buffer(Buffer::from(take(rest, bytes)?))
        }
        None => return Err(BlockError(format!("a column of type {data_type} cannot be sent"))),
    };
    data.build().map(make_array).map_err(|e| BlockError(e.to_string()))
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u32, BlockError> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(value).map_err(|_| BlockError("a number is too large".to_owned()));
        }
    }
    Err(BlockError("a number does not end".to_owned()))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], BlockError> {
    let short = || BlockError(format!("{count} bytes expected, {} left", rest.len()));
    let (taken, tail) = rest.split_at_checked(count).ok_or_else(short)?;
    *rest = tail;
    Ok(taken)
}

#[cfg(test)]
mod tests;
