//! Sink encoders that connectors share: text rows for files, whole batches for sinks that look at rows.
//!
//! Owns the size of pieces. It does not write anything.

use arrow::array::RecordBatch;
use dataflow::sink::{EncodedRows, SinkEncoder, SinkError, SinkPayload};

use crate::format::RowEncoder;

/// How many bytes make a piece.
const PIECE: usize = 1 << 20;

/// Encodes rows as text.
#[derive(Debug)]
pub(super) struct TextEncoder {
    table: String,
    encoder: RowEncoder,
    rows: EncodedRows,
}

impl TextEncoder {
    pub(super) fn new(table: &str, encoder: RowEncoder) -> Self {
        TextEncoder { table: table.to_owned(), encoder, rows: EncodedRows::default() }
    }
}

impl SinkEncoder for TextEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        self.encoder
            .encode(batch, &mut self.rows)
            .map_err(|e| SinkError { table: self.table.clone(), message: e.message })?;
        if self.rows.bytes.len() >= PIECE { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        if !self.rows.ends.is_empty() {
            out.push(SinkPayload::Rows(std::mem::take(&mut self.rows)));
        }
        Ok(())
    }
}

/// Hands batches on as they are.
#[derive(Debug)]
pub(super) struct BatchEncoder;

impl SinkEncoder for BatchEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        out.push(SinkPayload::Batch(batch.clone()));
        Ok(())
    }

    fn flush(&mut self, _out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        Ok(())
    }
}
