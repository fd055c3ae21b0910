//! Batches into CSV records.
//!
//! Owns quoting. It does not spell values (see `values` and `scalar`).

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::super::values::{Value, Values};
use super::super::{CsvFormat, FormatError, TimestampStyle, row_end};

/// Encodes batches of one schema.
#[derive(Debug)]
pub(in crate::format) struct Encoder {
    delimiter: u8,
    quote: Option<u8>,
    null_literal: Vec<u8>,
    columns: usize,
}

impl Encoder {
    pub(in crate::format) fn new(format: &CsvFormat, schema: &SchemaRef) -> Self {
        Encoder {
            delimiter: format.delimiter,
            quote: format.quote,
            null_literal: format.null_literal.clone().unwrap_or_default().into_bytes(),
            columns: schema.fields().len(),
        }
    }

    pub(in crate::format) fn encode(
        &mut self,
        batch: &RecordBatch,
        tail: &[u8],
        out: &mut Vec<u8>,
        ends: &mut Vec<u32>,
    ) -> Result<(), FormatError> {
        let mut columns = Values::of(batch, TimestampStyle::Sql.separator())?;
        debug_assert_eq!(columns.len(), self.columns);
        for row in 0..batch.num_rows() {
            for (i, column) in columns.iter_mut().enumerate() {
                if i > 0 {
                    out.push(self.delimiter);
                }
                match column.get(row) {
                    Value::Null => out.extend_from_slice(&self.null_literal),
                    Value::Text(text) => self.text(text, out)?,
                    Value::Plain(_) => column.write(row, out),
                }
            }
            out.extend_from_slice(tail);
            ends.push(row_end(out)?);
        }
        Ok(())
    }

    fn text(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
        let special = |b: &u8| *b == self.delimiter || Some(*b) == self.quote || matches!(b, b'\n' | b'\r' | b'#');
        // A text equal to the null literal reads back as null, quoted or not: nothing can be done in CSV.
        let needs_quotes = text.is_empty() && self.columns == 1 || text.iter().any(special);
        let Some(quote) = self.quote else {
            if needs_quotes {
                let message = "a value has the delimiter or a line end, and 'csv.disable-quote-character' is true";
                return Err(FormatError { column: None, message: message.to_owned() });
            }
            out.extend_from_slice(text);
            return Ok(());
        };
        if !needs_quotes {
            out.extend_from_slice(text);
            return Ok(());
        }
        out.push(quote);
        for &b in text {
            if b == quote {
                out.push(quote);
            }
            out.push(b);
        }
        out.push(quote);
        Ok(())
    }
}
