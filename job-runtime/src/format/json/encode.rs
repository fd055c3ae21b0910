//! Batches into JSON objects, nulls written, as Flink's `json` format does.
//!
//! Owns quoting and escaping. It does not spell values (see `values` and `scalar`).

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::super::values::{Shape, Value, Values};
use super::super::{FormatError, JsonFormat, row_end};
use super::next_special;

/// Encodes batches of one schema.
#[derive(Debug)]
pub(in crate::format) struct Encoder {
    separator: u8,
    /// `{"a":` for the first column, `,"b":` for the others.
    prefixes: Vec<Vec<u8>>,
}

impl Encoder {
    pub(in crate::format) fn new(format: &JsonFormat, schema: &SchemaRef) -> Self {
        let prefixes = schema.fields().iter().enumerate().map(|(i, field)| {
            let mut prefix = vec![if i == 0 { b'{' } else { b',' }];
            write_string(field.name().as_bytes(), &mut prefix);
            prefix.push(b':');
            prefix
        });
        Encoder { separator: format.timestamps.separator(), prefixes: prefixes.collect() }
    }

    pub(in crate::format) fn encode(
        &mut self,
        batch: &RecordBatch,
        tail: &[u8],
        out: &mut Vec<u8>,
        ends: &mut Vec<u32>,
    ) -> Result<(), FormatError> {
        let mut columns = Values::of(batch, self.separator)?;
        ends.reserve(batch.num_rows());
        for row in 0..batch.num_rows() {
            if columns.is_empty() {
                out.push(b'{');
            }
            for (column, prefix) in columns.iter_mut().zip(&self.prefixes) {
                out.extend_from_slice(prefix);
                match column.get(row) {
                    Value::Null => out.extend_from_slice(b"null"),
                    Value::Text(text) => write_string(text, out),
                    Value::Plain(Shape::Bare) => column.write(row, out),
                    Value::Plain(Shape::Quoted) => {
                        out.push(b'"');
                        column.write(row, out);
                        out.push(b'"');
                    }
                }
            }
            out.push(b'}');
            out.extend_from_slice(tail);
            ends.push(row_end(out)?);
        }
        Ok(())
    }
}

#[inline]
fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let special = next_special(text, 0);
    if special == text.len() {
        out.extend_from_slice(text);
    } else {
        write_escaped(text, special, out);
    }
    out.push(b'"');
}

#[cold]
fn write_escaped(text: &[u8], mut special: usize, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut start = 0;
    while let Some(&b) = text.get(special) {
        out.extend_from_slice(&text[start..special]);
        match b {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
            }
        }
        start = special + 1;
        special = next_special(text, start);
    }
    out.extend_from_slice(&text[start..]);
}
