//! Rows as text cells, and the tables made of them.
//!
//! Owns alignment and the limit of rows. It does not write anywhere.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::format::text_cells;

/// Width of a growing table's column that nothing wider has come for.
const LEAST_WIDTH: usize = 6;

/// Every row of a batch as text; null is `NULL`.
pub(super) fn cells(batch: &RecordBatch) -> Vec<Vec<String>> {
    let (text, columns) = (text_cells(batch), batch.num_columns());
    text.chunks(columns.max(1)).map(<[String]>::to_vec).collect()
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// Gives all numbers of a column as many decimals as the one with the most, but no more than are good to look at.
fn align_points<'c>(cells: impl Iterator<Item = &'c mut String>) {
    const MOST: usize = 3;
    let mut cells: Vec<_> = cells.collect();
    let decimals = |text: &str| text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let most = cells.iter().map(|cell| decimals(cell)).max().unwrap_or(0).min(MOST);
    for cell in &mut cells {
        // What is written with an exponent is too large or too small for this.
        if let (Ok(number), false) = (cell.parse::<f64>(), cell.contains('e')) {
            **cell = format!("{number:.most$}");
        }
    }
}

/// The first rows of a job's whole output.
pub(super) struct RowTable {
    schema: SchemaRef,
    max_rows: usize,
    rows: Vec<Vec<String>>,
    more: u64,
}

impl RowTable {
    pub(super) fn new(schema: &SchemaRef, max_rows: usize) -> Self {
        RowTable { schema: schema.clone(), max_rows, rows: Vec::new(), more: 0 }
    }

    pub(super) fn add(&mut self, batch: &RecordBatch) {
        let room = (self.max_rows - self.rows.len()).min(batch.num_rows());
        self.rows.extend(cells(&batch.slice(0, room)));
        self.more += (batch.num_rows() - room) as u64;
    }

    pub(super) fn render(&self, title: &str) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let align = |index: usize, text: &str| {
            let right = is_number(self.schema.field(index).data_type());
            Cell::new(text).set_alignment(if right { CellAlignment::Right } else { CellAlignment::Left })
        };
        table.set_header(self.schema.fields().iter().enumerate().map(|(i, f)| align(i, f.name())));
        let mut rows = self.rows.clone();
        let floating = |index: &usize| self.schema.field(*index).data_type().is_floating();
        for index in (0..self.schema.fields().len()).filter(floating) {
            align_points(rows.iter_mut().map(|row| &mut row[index]));
        }
        for row in &rows {
            table.add_row(row.iter().enumerate().map(|(i, text)| align(i, text)));
        }
        let more = if self.more > 0 { format!("… and {} more rows\n", self.more) } else { String::new() };
        format!("\n{title}\n{table}\n{more}")
    }
}

/// Rows as they come, under a header that is written once; columns grow when something wider comes.
pub(super) struct Growing {
    schema: SchemaRef,
    widths: Vec<usize>,
    header_shown: bool,
}

impl Growing {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        let widths = schema.fields().iter().map(|f| f.name().chars().count().max(LEAST_WIDTH)).collect();
        Growing { schema: schema.clone(), widths, header_shown: false }
    }

    pub(super) fn show(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) {
        let rows = cells(batch);
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !std::mem::replace(&mut self.header_shown, true) {
            let names: Vec<_> = self.schema.fields().iter().map(|f| f.name().clone()).collect();
            self.line(&names, out);
            let rules: Vec<_> = self.widths.iter().map(|&width| "─".repeat(width)).collect();
            self.line(&rules, out);
        }
        for row in &rows {
            self.line(row, out);
        }
    }

    fn line(&self, cells: &[String], out: &mut Vec<u8>) {
        let aligned = cells.iter().enumerate().map(|(i, cell)| {
            let width = self.widths[i];
            if is_number(self.schema.field(i).data_type()) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line = aligned.collect::<Vec<_>>().join("  ");
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
    }
}
