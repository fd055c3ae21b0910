//! Text formats: records of bytes into Arrow batches, and batches into encoded rows.
//!
//! Owns decoding and encoding, made for one schema. It does not read or write anything, and it does not know where records come from.
//!
//! A decoder takes one record at a time and writes straight into columns. A record that cannot be decoded is a value ([`BadRecord`]) and
//! leaves no trace in the batch. The JSON format follows Flink's `json`, the CSV format Flink's `csv`, with these differences: an
//! unreadable field makes the whole record bad (Flink's `ignore-parse-errors` sets it to null and loses it silently), whole numbers are
//! never cut out of fractions, and `TIMESTAMP` is read with `T` or a space between date and time.

mod column;
mod csv;
mod json;
mod scalar;
mod store;
mod values;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use dataflow::sink::EncodedRows;

use self::column::Column;

/// When a batch under construction holds this many payload bytes, it must be finished: Arrow's 32-bit offsets end at 2 GiB.
const MAX_BATCH_BYTES: usize = 256 << 20;

/// How timestamps are written (`json.timestamp-format.standard`). Both are read always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimestampStyle {
    /// `2013-01-01 10:00:00`
    #[default]
    Sql,
    /// `2013-01-01T10:00:00`
    Iso8601,
}

impl TimestampStyle {
    fn separator(self) -> u8 {
        match self {
            TimestampStyle::Sql => b' ',
            TimestampStyle::Iso8601 => b'T',
        }
    }
}

/// Settings of the JSON format.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct JsonFormat {
    /// `json.timestamp-format.standard`
    pub timestamps: TimestampStyle,
}

/// Settings of the CSV format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvFormat {
    /// `csv.field-delimiter`
    pub delimiter: u8,
    /// `csv.quote-character`; `None` if quoting is switched off.
    pub quote: Option<u8>,
    /// `csv.null-literal`
    pub null_literal: Option<String>,
    /// `csv.allow-comments`: a record that starts with `#` is no record.
    pub comments: bool,
    /// `csv.header`: columns are found by name in the first record of each file.
    pub header: bool,
}

impl Default for CsvFormat {
    fn default() -> Self {
        CsvFormat { delimiter: b',', quote: Some(b'"'), null_literal: None, comments: false, header: false }
    }
}

/// A format with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per record.
    Json(JsonFormat),
    /// One line of separated values per record.
    Csv(CsvFormat),
}

/// A record that does not fit the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", column.as_ref().map(|c| format!("column {c}: ")).unwrap_or_default())]
pub struct BadRecord {
    /// The column, if it is one column's fault.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl BadRecord {
    fn record(reason: impl Into<String>) -> Self {
        BadRecord { column: None, reason: reason.into() }
    }

    fn column(name: &str, reason: impl Into<String>) -> Self {
        BadRecord { column: Some(name.to_owned()), reason: reason.into() }
    }
}

/// The format cannot carry the table's schema, or the data's header does not fit it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FormatError {
    /// The column, if it is one column's fault.
    pub column: Option<String>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Format {
    /// Name as in the option `format`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Format::Json(_) => "json",
            Format::Csv(_) => "csv",
        }
    }

    /// Whether the format can carry every column.
    ///
    /// # Errors
    /// Names the first column that it cannot carry.
    pub fn check(&self, schema: &SchemaRef) -> Result<(), FormatError> {
        schema.fields().iter().try_for_each(|field| column_for(field, self.name()).map(drop))
    }

    /// A decoder that reads the columns of `decoded` out of records that have the columns of `physical`.
    ///
    /// # Errors
    /// When a type is not supported by the format.
    pub fn decoder(&self, physical: &SchemaRef, decoded: &SchemaRef) -> Result<RecordDecoder, FormatError> {
        let columns = decoded.fields().iter().map(|f| column_for(f, self.name())).collect::<Result<_, _>>()?;
        let rows = Rows { schema: decoded.clone(), columns, rows: 0, bytes: 0 };
        let parser = match self {
            Format::Json(_) => Parser::Json(json::Decoder::new(decoded)),
            Format::Csv(format) => Parser::Csv(Box::new(csv::Decoder::new(format, physical, decoded)?)),
        };
        Ok(RecordDecoder { rows, parser })
    }

    /// An encoder for batches of `schema`.
    ///
    /// # Errors
    /// When a type is not supported by the format.
    pub fn encoder(&self, schema: &SchemaRef, end: RowEnd) -> Result<RowEncoder, FormatError> {
        self.check(schema)?;
        Ok(RowEncoder {
            writer: match self {
                Format::Json(format) => RowWriter::Json(json::Encoder::new(format, schema)),
                Format::Csv(format) => RowWriter::Csv(csv::Encoder::new(format, schema)),
            },
            end,
        })
    }
}

fn column_for(field: &Field, format: &str) -> Result<Column, FormatError> {
    Column::new(field).ok_or_else(|| FormatError {
        column: Some(field.name().clone()),
        message: format!("column {}: format '{format}' cannot carry {} yet", field.name(), field.data_type()),
    })
}

/// The batch under construction.
#[derive(Debug)]
struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

impl Rows {
    fn roll_back(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.rows);
        }
    }

    /// Fills columns that the record did not mention with null and counts the row.
    fn end_row(&mut self) -> Result<(), BadRecord> {
        for (column, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            if column.len() == self.rows {
                if !field.is_nullable() {
                    return Err(BadRecord::column(field.name(), "is NOT NULL, and the record has no value for it"));
                }
                column.push_null();
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn push_null(&mut self, index: usize) -> Result<(), BadRecord> {
        let field = self.schema.field(index);
        if !field.is_nullable() {
            return Err(BadRecord::column(field.name(), "is NOT NULL, and the record has null"));
        }
        self.columns[index].push_null();
        Ok(())
    }
}

#[derive(Debug)]
enum Parser {
    Json(json::Decoder),
    Csv(Box<csv::Decoder>),
}

/// Turns records into a batch of one schema.
#[derive(Debug)]
pub struct RecordDecoder {
    rows: Rows,
    parser: Parser,
}

impl RecordDecoder {
    /// Decodes one record: a Kafka value, or a line without its end.
    ///
    /// # Errors
    /// When the record does not fit; the batch is as if it had not been there.
    #[inline]
    pub fn push(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let pushed = match &mut self.parser {
            Parser::Json(json) => json.push(record, &mut self.rows),
            Parser::Csv(csv) => csv.push(record, &mut self.rows),
        };
        let ended = pushed.and_then(|()| self.rows.end_row());
        match ended {
            Ok(()) => self.rows.bytes += record.len(),
            Err(_) => self.rows.roll_back(),
        }
        ended
    }

    /// The first record of a CSV file with a header: says where each column stands from now on.
    ///
    /// # Errors
    /// When a column is missing in it.
    pub fn read_header(&mut self, record: &[u8]) -> Result<(), FormatError> {
        match &mut self.parser {
            Parser::Json(_) => Ok(()),
            Parser::Csv(csv) => csv.read_header(record, &self.rows.schema),
        }
    }

    /// Rows since the last `finish`.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.rows
    }

    /// True if the batch has so many bytes that it must be finished now, however few rows it has.
    #[must_use]
    pub fn full(&self) -> bool {
        self.rows.bytes >= MAX_BATCH_BYTES
    }

    /// The batch of all rows since the last call.
    ///
    /// # Errors
    /// Only if a decoder broke a rule of Arrow; the message is Arrow's.
    pub fn finish(&mut self) -> Result<RecordBatch, BadRecord> {
        let rows = std::mem::take(&mut self.rows.rows);
        self.rows.bytes = 0;
        let arrow = |e: arrow::error::ArrowError| BadRecord::record(e.to_string());
        let arrays = self.rows.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>().map_err(arrow)?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.rows.schema.clone(), arrays, &options).map_err(arrow)
    }
}

/// What stands after each encoded row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowEnd {
    /// Nothing: a Kafka value.
    Nothing,
    /// A newline that belongs to the row: a line of a file.
    Newline,
}

#[derive(Debug)]
enum RowWriter {
    Json(json::Encoder),
    Csv(csv::Encoder),
}

/// Turns batches of one schema into rows of text.
#[derive(Debug)]
pub struct RowEncoder {
    writer: RowWriter,
    end: RowEnd,
}

impl RowEncoder {
    /// Appends every row of the batch to `out.bytes` and its end to `out.ends`.
    ///
    /// # Errors
    /// When the batch does not have the encoder's schema, or `out` would pass 4 GiB.
    pub fn encode(&mut self, batch: &RecordBatch, out: &mut EncodedRows) -> Result<(), FormatError> {
        let tail: &[u8] = match self.end {
            RowEnd::Nothing => b"",
            RowEnd::Newline => b"\n",
        };
        match &mut self.writer {
            RowWriter::Json(json) => json.encode(batch, tail, &mut out.bytes, &mut out.ends),
            RowWriter::Csv(csv) => csv.encode(batch, tail, &mut out.bytes, &mut out.ends),
        }
    }

    /// Like `encode`, into the keys of `out`: for a sink that writes keys.
    ///
    /// # Errors
    /// As `encode`.
    pub fn encode_keys(&mut self, batch: &RecordBatch, out: &mut EncodedRows) -> Result<(), FormatError> {
        match &mut self.writer {
            RowWriter::Json(json) => json.encode(batch, b"", &mut out.key_bytes, &mut out.key_ends),
            RowWriter::Csv(csv) => csv.encode(batch, b"", &mut out.key_bytes, &mut out.key_ends),
        }
    }
}

/// The end of the row just written, as stored in [`EncodedRows`].
fn row_end(bytes: &[u8]) -> Result<u32, FormatError> {
    u32::try_from(bytes.len())
        .map_err(|_| FormatError { column: None, message: "one piece of output would pass 4 GiB".to_owned() })
}

/// Every value of the batch as text, row by row; null is `NULL`. For people to look at.
#[must_use]
pub fn text_cells(batch: &RecordBatch) -> Vec<String> {
    let Ok(mut columns) = values::Values::of(batch, TimestampStyle::Sql.separator()) else { return Vec::new() };
    let mut cells = Vec::with_capacity(batch.num_rows() * columns.len());
    for row in 0..batch.num_rows() {
        for column in &mut columns {
            let mut text = Vec::new();
            match column.get(row) {
                values::Value::Null => text.extend_from_slice(b"NULL"),
                values::Value::Text(value) => text.extend_from_slice(value),
                values::Value::Plain(_) => column.write(row, &mut text),
            }
            cells.push(String::from_utf8_lossy(&text).into_owned());
        }
    }
    cells
}

/// A decimal of `DECIMAL(precision, scale)` as its unscaled digits, read as the formats read it.
///
/// # Errors
/// When the text is no such number.
pub fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, String> {
    scalar::parse_decimal(text.trim().as_bytes(), precision, scale)
}

#[cfg(test)]
mod tests;
