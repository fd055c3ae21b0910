//! The connector `print`: committed rows for people to look at.
//!
//! Rows are held back until their commit is made. The style `table` shows one aligned table at the end of a bounded job, and for one that
//! does not end, aligned rows as they come under a header that is written once. It promises nothing: rows printed before a restart are
//! not printed again, and the table at the end has only those of this run.

mod table;
#[cfg(test)]
mod tests;

use std::sync::PoisonError;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use dataflow::sink::{EncodedRows, SinkChunk, SinkEncoder, SinkPayload};
use dataflow::worker::CommitId;

use self::table::{RowTable, cells};
use super::encoder::BatchEncoder;
use super::options::{self, TableOptions};
use super::registry::{ConnectorContext, Output};
use super::{ConnectorError, ExternalSink, SinkFactory, SinkTarget, Ticket};
use crate::format::{Format, JsonFormat, RowEncoder, RowEnd};

/// Makes printers.
pub(super) struct PrintFactory {
    table: String,
    schema: SchemaRef,
    style: StyleName,
    identifier: Option<String>,
    max_rows: usize,
    bounded: bool,
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StyleName {
    Table,
    Json,
    KeyValue,
}

fn json() -> Format {
    Format::Json(JsonFormat::default())
}

/// Checks that every column can be shown.
pub(super) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    let checked = json().check(&options.table().physical);
    checked.map_err(|e| options.error(options::CONNECTOR.key, e.message))
}

impl PrintFactory {
    pub(super) fn new(options: &TableOptions<'_>, context: &ConnectorContext) -> Result<Self, ConnectorError> {
        validate(options)?;
        let max_rows = options.integer(&options::PRINT_MAX_ROWS).and_then(|n| usize::try_from(n).ok());
        Ok(PrintFactory {
            table: options.table().name.clone(),
            schema: options.table().physical.clone(),
            style: match options.text(&options::PRINT_STYLE) {
                Some("json") => StyleName::Json,
                Some("kv") => StyleName::KeyValue,
                _ => StyleName::Table,
            },
            identifier: options.raw(options::PRINT_IDENTIFIER.key).map(str::to_owned),
            max_rows: max_rows.unwrap_or(usize::MAX),
            bounded: context.bounded,
            output: context.output.clone(),
        })
    }
}

impl SinkFactory for PrintFactory {
    fn encoder(&self, _worker: usize) -> Result<Box<dyn SinkEncoder>, ConnectorError> {
        Ok(Box::new(BatchEncoder))
    }

    fn target(&self) -> Result<SinkTarget, ConnectorError> {
        let style = match self.style {
            StyleName::Table if self.bounded => Style::TableAtEnd(RowTable::new(&self.schema, self.max_rows)),
            StyleName::Table => Style::Growing(table::Growing::new(&self.schema)),
            StyleName::Json => {
                let encoder = json().encoder(&self.schema, RowEnd::Newline).map_err(|e| ConnectorError {
                    table: self.table.clone(),
                    option: Some(options::CONNECTOR.key.to_owned()),
                    message: e.message,
                })?;
                Style::Json(encoder)
            }
            StyleName::KeyValue => Style::KeyValue,
        };
        Ok(SinkTarget::External(Box::new(Printer {
            table: self.table.clone(),
            identifier: self.identifier.clone(),
            output: self.output.clone(),
            style,
            waiting: Vec::new(),
        })))
    }

    fn guarantee(&self) -> plan::Guarantee {
        plan::Guarantee::None
    }
}

enum Style {
    TableAtEnd(RowTable),
    Growing(table::Growing),
    Json(RowEncoder),
    KeyValue,
}

struct Printer {
    table: String,
    identifier: Option<String>,
    output: Output,
    style: Style,
    waiting: Vec<RecordBatch>,
}

impl Printer {
    fn show(&mut self, last: bool) -> Result<Vec<u8>, ConnectorError> {
        let mut text = Vec::new();
        for batch in std::mem::take(&mut self.waiting) {
            match &mut self.style {
                Style::TableAtEnd(rows) => rows.add(&batch),
                Style::Growing(growing) => growing.show(&batch, &mut text),
                Style::Json(encoder) => {
                    let mut rows = EncodedRows::default();
                    encoder.encode(&batch, &mut rows).map_err(|e| ConnectorError {
                        table: self.table.clone(),
                        option: None,
                        message: e.message,
                    })?;
                    let identifier = self.identifier.as_ref().map(|i| format!("{i}> "));
                    for line in rows.bytes.split_inclusive(|&b| b == b'\n') {
                        text.extend_from_slice(identifier.as_deref().unwrap_or_default().as_bytes());
                        text.extend_from_slice(line);
                    }
                }
                Style::KeyValue => key_values(&batch, self.identifier.as_deref(), &mut text),
            }
        }
        if let Style::TableAtEnd(rows) = &mut self.style
            && last
        {
            let title = self.identifier.as_deref().unwrap_or(&self.table);
            text.extend_from_slice(rows.render(title).as_bytes());
        }
        Ok(text)
    }
}

fn key_values(batch: &RecordBatch, identifier: Option<&str>, text: &mut Vec<u8>) {
    let schema: &Schema = batch.schema_ref();
    for row in cells(batch) {
        let pairs: Vec<_> = row.iter().zip(schema.fields()).map(|(cell, f)| format!("{}={cell}", f.name())).collect();
        let start = identifier.map(|i| format!("{i}> ")).unwrap_or_default();
        text.extend_from_slice(format!("{start}{}\n", pairs.join(" ")).as_bytes());
    }
}

impl ExternalSink for Printer {
    fn recover(&mut self, _tickets: &[Ticket]) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn write(&mut self, chunk: &SinkChunk) -> Result<(), ConnectorError> {
        match &chunk.payload {
            SinkPayload::Batch(batch) => self.waiting.push(batch.clone()),
            SinkPayload::Rows(_) => {
                let message = "was given encoded rows (a bug of Millstream)".to_owned();
                return Err(ConnectorError { table: self.table.clone(), option: None, message });
            }
        }
        Ok(())
    }

    fn prepare(&mut self, _commit: CommitId) -> Result<Vec<Ticket>, ConnectorError> {
        Ok(Vec::new())
    }

    fn committed(&mut self, _commit: CommitId, last: bool) -> Result<(), ConnectorError> {
        let text = self.show(last)?;
        if text.is_empty() {
            return Ok(());
        }
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&text).and_then(|()| output.flush()).map_err(|e| ConnectorError {
            table: self.table.clone(),
            option: None,
            message: format!("cannot print: {e}"),
        })
    }
}
