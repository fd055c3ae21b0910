//! CSV records into columns.
//!
//! Owns the splitting of one record into fields (`csv-core` where there are quotes) and which field is which column. It does not find
//! where a record ends (the reader of the file does) and does not spell values (see `scalar`).

use arrow::datatypes::{Schema, SchemaRef};
use csv_core::ReadRecordResult;

use super::super::{BadRecord, CsvFormat, FormatError, Rows};

/// Decodes CSV records for one schema.
#[derive(Debug)]
pub(in crate::format) struct Decoder {
    delimiter: u8,
    quote: Option<u8>,
    null_literal: Option<Vec<u8>>,
    reader: csv_core::Reader,
    /// For each field of a record, the column that it fills.
    targets: Vec<Option<usize>>,
    unquoted: Vec<u8>,
    ends: Vec<usize>,
}

impl Decoder {
    /// Fields stand in the order of `physical` until a header says otherwise.
    pub(in crate::format) fn new(
        format: &CsvFormat,
        physical: &SchemaRef,
        decoded: &SchemaRef,
    ) -> Result<Self, FormatError> {
        let mut builder = csv_core::ReaderBuilder::new();
        builder.delimiter(format.delimiter);
        match format.quote {
            Some(quote) => builder.quote(quote),
            None => builder.quoting(false),
        };
        let targets = physical.fields().iter().map(|field| decoded.index_of(field.name()).ok()).collect();
        Ok(Decoder {
            delimiter: format.delimiter,
            quote: format.quote,
            null_literal: format.null_literal.as_ref().map(|text| text.as_bytes().to_vec()),
            reader: builder.build(),
            targets,
            unquoted: Vec::new(),
            ends: Vec::new(),
        })
    }

    pub(in crate::format) fn read_header(&mut self, record: &[u8], decoded: &Schema) -> Result<(), FormatError> {
        let malformed = |message: String| FormatError { column: None, message };
        self.split_quoted(record).map_err(|bad| malformed(format!("header: {bad}")))?;
        let mut names = Vec::with_capacity(self.ends.len());
        let mut start = 0;
        for &end in &self.ends {
            let name = std::str::from_utf8(&self.unquoted[start..end])
                .map_err(|_| malformed("header: not UTF-8".to_owned()))?;
            names.push(name.trim().to_owned());
            start = end;
        }
        for field in decoded.fields() {
            let found = names.iter().filter(|n| *n == field.name()).count();
            if found != 1 {
                let message = header_problem(field.name(), found, &names);
                return Err(FormatError { column: Some(field.name().clone()), message });
            }
        }
        self.targets = names.iter().map(|name| decoded.index_of(name).ok()).collect();
        Ok(())
    }

    pub(in crate::format) fn push(&mut self, record: &[u8], rows: &mut Rows) -> Result<(), BadRecord> {
        if let Err(e) = std::str::from_utf8(record) {
            return Err(BadRecord::record(format!("byte {} is not UTF-8", e.valid_up_to())));
        }
        if self.quote.is_some_and(|quote| memchr::memchr(quote, record).is_some()) {
            return self.push_quoted(record, rows);
        }
        let mut count = 0;
        let mut start = 0;
        for end in memchr::memchr_iter(self.delimiter, record).chain([record.len()]) {
            self.field(count, &record[start..end], rows)?;
            count += 1;
            start = end + 1;
        }
        self.check_count(count)
    }

    fn push_quoted(&mut self, record: &[u8], rows: &mut Rows) -> Result<(), BadRecord> {
        self.split_quoted(record)?;
        self.check_count(self.ends.len())?;
        let mut start = 0;
        for index in 0..self.ends.len() {
            let end = self.ends[index];
            self.field(index, &self.unquoted[start..end], rows)?;
            start = end;
        }
        Ok(())
    }

    /// Splits a record that may have quotes into `unquoted` and `ends`.
    fn split_quoted(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        self.reader.reset();
        self.unquoted.resize(record.len() + 1, 0);
        // One field more than there are delimiters, and one more so that the reader never asks for room.
        self.ends.resize(memchr::memchr_iter(self.delimiter, record).count() + 2, 0);
        let (first, _, written, ended) = self.reader.read_record(record, &mut self.unquoted, &mut self.ends);
        if first != ReadRecordResult::InputEmpty {
            return Err(BadRecord::record("a line end stands inside the record but outside quotes"));
        }
        // A line end finishes the record, unless a quote is still open.
        let (last, _, _, fields) =
            self.reader.read_record(b"\n", &mut self.unquoted[written..], &mut self.ends[ended..]);
        if last != ReadRecordResult::Record {
            return Err(BadRecord::record("a quote is not closed"));
        }
        self.ends.truncate(ended + fields);
        Ok(())
    }

    #[inline]
    fn field(&self, index: usize, text: &[u8], rows: &mut Rows) -> Result<(), BadRecord> {
        let Some(&Some(target)) = self.targets.get(index) else { return Ok(()) };
        let column = &mut rows.columns[target];
        let is_null = self.null_literal.as_deref() == Some(text) || (text.is_empty() && !column.takes_empty());
        if is_null {
            return rows.push_null(target);
        }
        column.push_text(text).map_err(|reason| BadRecord::column(rows.schema.field(target).name(), reason))
    }

    fn check_count(&self, count: usize) -> Result<(), BadRecord> {
        if count == self.targets.len() {
            return Ok(());
        }
        Err(BadRecord::record(format!("has {count} fields, expected {}", self.targets.len())))
    }
}

fn header_problem(column: &str, found: usize, names: &[String]) -> String {
    if found > 1 {
        return format!("the header names column {column} {found} times");
    }
    let nearest =
        names.iter().max_by(|a, b| strsim::jaro_winkler(a, column).total_cmp(&strsim::jaro_winkler(b, column)));
    let hint = match nearest {
        Some(name) if strsim::jaro_winkler(name, column) > 0.8 => format!("; did you mean {name}?"),
        _ => String::new(),
    };
    format!("the header has no column {column}{hint} (it has {})", names.join(", "))
}
