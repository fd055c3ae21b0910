//! Entries of one stream operator as rows of a Parquet file.
//!
//! Owns the columns and how much of a file is in memory: rows of one batch, and one row group. Where the file lies and which entries are in it
//! `export` knows.
//!
//! # Columns, version 1
//! The version is in the file's metadata, as `millstream.state.export`. Times are milliseconds since 1970.
//!
//! | column | type | null |
//! | --- | --- | --- |
//! | `shard`, `keyGroup` | UInt16 | never |
//! | `operator` | UInt32: the stream operator's uid | never |
//! | `name` | Utf8: the stream operator's name | if the entry is no keyed state |
//! | `what` | Utf8: `value`, `list`, `map`, `timer`, `note`, or as `millstream state count` says | never |
//! | `number` | UInt8: which of its states of this kind | if the entry is no keyed state, or a note |
//! | `key` | struct of the columns of user keys | of a note |
//! | `mapKey` | struct of the columns of map keys | if it is no entry of a map |
//! | `value` | struct of the columns of values | if there is none |
//! | `index` | UInt64: place in a list | if it is no element of a list |
//! | `first`, `next` | UInt64: a list's first index, and the one behind its last | if it is not a list's bounds |
//! | `time` | Int64: of a timer, or how far a note's operator was | else |
//! | `timersFrom` | list of Int64: of a note | else |
//! | `expires` | Int64 | if it does not expire |
//! | `keyBytes`, `valueBytes` | Binary: key (without what all keys begin with) and value as stored | if the columns say it |
//!
//! `key`, `mapKey` and `value` are there if the stream operator has such columns.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, ListArray, RecordBatch, StringArray, StructArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use dataflow::key::KeyDecodeError;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::export::Stored;
use super::keyed::{Encoded, Operator, Operators};
use super::what;

const VERSION_KEY: &str = "millstream.state.export";
const VERSION: &str = "1";
/// Rows that become columns at a time: at most so many, and begun anew when they are larger than this.
const BATCH_ROWS: usize = 4096;
const BATCH_BYTES: usize = 1 << 20;
/// A row group is in memory until it is written. A state has few stream operators, each with a file that is open.
const GROUP_ROWS: usize = 1 << 16;
const GROUP_BYTES: usize = 8 << 20;

/// A Parquet file under way.
pub(super) struct ParquetFile {
    writer: ArrowWriter<File>,
    schema: SchemaRef,
    structs: Structs,
    rows: Vec<Row>,
    bytes: usize,
}

/// Columns that the stream operator names; an absent one has no columns, or none that can be decoded.
struct Structs {
    key: Option<Encoded>,
    map_key: Option<Encoded>,
    value: Option<Encoded>,
}

/// Rows cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    /// Bytes that were found to be columns are none.
    #[error(transparent)]
    Decode(#[from] KeyDecodeError),
    /// Columns do not make a batch.
    #[error(transparent)]
    Columns(#[from] ArrowError),
    /// The file cannot be written: its disk, or a type that Parquet does not have.
    #[error("{0}; check the free space, or take --format json")]
    Write(#[from] ParquetError),
}

/// One entry; see the module's text.
struct Row {
    shard: u16,
    group: u16,
    operator: u32,
    name: Option<String>,
    what: &'static str,
    number: Option<u8>,
    key: Option<Vec<u8>>,
    map_key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    index: Option<u64>,
    bounds: Option<(u64, u64)>,
    time: Option<i64>,
    timers_from: Option<Vec<i64>>,
    expires: Option<i64>,
    /// Key and value as stored.
    stored: Option<(Vec<u8>, Vec<u8>)>,
}

impl Row {
    fn of(operators: &Operators, stored: &Stored<'_>) -> Self {
        let row = Self {
            shard: stored.shard.0,
            group: stored.group,
            operator: stored.operator.0,
            name: None,
            what: what(stored.operator),
            number: None,
            key: None,
            map_key: None,
            value: None,
            index: None,
            bounds: None,
            time: None,
            timers_from: None,
            expires: None,
            stored: None,
        };
        match operators.entry(stored.operator, stored.key, stored.value) {
            Some(entry) => Self {
                name: Some(entry.name().to_owned()),
                what: entry.what(),
                number: entry.number,
                key: entry.key.map(<[u8]>::to_vec),
                map_key: entry.map_key.map(<[u8]>::to_vec),
                value: entry.value.map(<[u8]>::to_vec),
                index: entry.index,
                bounds: entry.bounds,
                time: entry.time,
                timers_from: entry.timers_from,
                expires: entry.expires,
                ..row
            },
            None => Self { stored: Some((stored.own_key().to_vec(), stored.value.to_vec())), ..row },
        }
    }
}

impl ParquetFile {
    /// A file of the entries of a stream operator, of which the notes say this.
    pub(super) fn new(file: File, operator: Option<&Operator>) -> Result<Self, TableError> {
        let readable = |encoded: &Encoded| encoded.is_readable().then(|| encoded.clone());
        let structs = Structs {
            key: operator.and_then(|operator| readable(&operator.keys)),
            map_key: operator.and_then(|operator| readable(&operator.map_keys)),
            value: operator.and_then(|operator| readable(&operator.values)),
        };
        let schema = Arc::new(Schema::new(structs.fields()));
        let version = KeyValue::new(VERSION_KEY.to_owned(), VERSION.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .set_key_value_metadata(Some(vec![version]))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))?;
        Ok(Self { writer, schema, structs, rows: Vec::new(), bytes: 0 })
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, operators: &Operators, stored: &Stored<'_>) -> Result<(), TableError> {
        self.rows.push(Row::of(operators, stored));
        self.bytes += stored.key.len() + stored.value.len();
        if self.rows.len() < BATCH_ROWS && self.bytes < BATCH_BYTES {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), TableError> {
        let batch = self.structs.batch(&self.schema, &self.rows)?;
        self.rows.clear();
        self.bytes = 0;
        Ok(self.writer.write(&batch)?)
    }

    /// Writes what is left and the file's end.
    pub(super) fn finish(mut self) -> Result<File, TableError> {
        self.write()?;
        Ok(self.writer.into_inner()?)
    }
}

impl Structs {
    /// See the module's text; the order is that of [`Structs::batch`].
    fn fields(&self) -> Vec<Field> {
        let always = |name: &str, data_type| Field::new(name, data_type, false);
        let maybe = |name: &str, data_type| Field::new(name, data_type, true);
        let of = |name: &str, encoded: &Option<Encoded>| {
            encoded.as_ref().map(|encoded| maybe(name, DataType::Struct(encoded.fields.clone())))
        };
        let times = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
        let mut fields = vec![
            always("shard", DataType::UInt16),
            always("keyGroup", DataType::UInt16),
            always("operator", DataType::UInt32),
            maybe("name", DataType::Utf8),
            always("what", DataType::Utf8),
            maybe("number", DataType::UInt8),
        ];
        fields.extend(of("key", &self.key));
        fields.extend(of("mapKey", &self.map_key));
        fields.extend(of("value", &self.value));
        fields.extend(["index", "first", "next"].map(|name| maybe(name, DataType::UInt64)));
        fields.extend([maybe("time", DataType::Int64), maybe("timersFrom", times), maybe("expires", DataType::Int64)]);
        fields.extend(["keyBytes", "valueBytes"].map(|name| maybe(name, DataType::Binary)));
        fields
    }

    fn batch(&self, schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch, TableError> {
        let counts =
            |of: fn(&Row) -> Option<u64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<UInt64Array>()) };
        let times = |of: fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.shard).collect::<UInt16Array>()),
            Arc::new(rows.iter().map(|row| row.group).collect::<UInt16Array>()),
            Arc::new(rows.iter().map(|row| row.operator).collect::<UInt32Array>()),
            Arc::new(rows.iter().map(|row| row.name.as_deref()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| Some(row.what)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.number).collect::<UInt8Array>()),
        ];
        if let Some(key) = &self.key {
            columns.push(decoded(key, rows.iter().map(|row| row.key.as_deref()))?);
        }
        if let Some(map_key) = &self.map_key {
            columns.push(decoded(map_key, rows.iter().map(|row| row.map_key.as_deref()))?);
        }
        if let Some(value) = &self.value {
            columns.push(decoded(value, rows.iter().map(|row| row.value.as_deref()))?);
        }
        columns.extend([
            counts(|row| row.index),
            counts(|row| row.bounds.map(|(first, _)| first)),
            counts(|row| row.bounds.map(|(_, next)| next)),
            times(|row| row.time),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
                rows.iter().map(|row| row.timers_from.as_ref().map(|times| times.iter().copied().map(Some))),
            )),
            times(|row| row.expires),
            Arc::new(rows.iter().map(|row| row.stored.as_ref().map(|(key, _)| key)).collect::<BinaryArray>()),
            Arc::new(rows.iter().map(|row| row.stored.as_ref().map(|(_, value)| value)).collect::<BinaryArray>()),
        ]);
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}

/// Rows that are there or not, as a struct of their columns.
fn decoded<'a>(encoded: &Encoded, rows: impl Iterator<Item = Option<&'a [u8]>>) -> Result<ArrayRef, TableError> {
    let (mut there, mut places, mut valid) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        valid.push(row.is_some());
        places.push(row.is_some().then_some(there.len() as u32));
        there.extend(row);
    }
    let columns = encoded.decode(&there).expect("what has no decoder has no struct")?;
    let places = UInt32Array::from(places);
    let columns = columns.iter().map(|column| take(column, &places, None)).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(encoded.fields.clone(), columns, Some(NullBuffer::from(valid)))?))
}

#[cfg(test)]
mod tests;
