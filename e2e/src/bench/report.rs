//! The benchmark's table: as text for the terminal and as a page for the book.
//!
//! Owns the form only; what is in it was measured elsewhere.

use std::fmt::Write;

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was run.
    pub work: String,
    /// Figure names and values, in the order of [`COLUMNS`].
    pub cells: Vec<String>,
}

/// Titles of the figures.
pub const COLUMNS: [&str; 8] = [
    "records in",
    "M rec/s",
    "M rec per CPU-s",
    "floor",
    "peak RSS MiB",
    "commit p50 ms",
    "commit p99 ms",
    "first commit ms",
];

/// A Markdown table, columns padded so that it reads well on a terminal too.
pub fn table(rows: &[Row]) -> String {
    let header: Vec<String> = std::iter::once("work").chain(COLUMNS).map(String::from).collect();
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| std::iter::once(row.work.clone()).chain(row.cells.iter().cloned()).collect()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            std::iter::once(&header).chain(&lines).map(|line| line[column].chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    write_line(&mut out, &header, &widths);
    out.push_str(&widths.iter().enumerate().map(|(i, w)| rule(i, *w)).collect::<String>());
    out.push_str("|\n");
    lines.iter().for_each(|line| write_line(&mut out, line, &widths));
    out
}

fn rule(column: usize, width: usize) -> String {
    if column == 0 { format!("| {} ", "-".repeat(width)) } else { format!("| {}: ", "-".repeat(width - 1)) }
}

fn write_line(out: &mut String, line: &[String], widths: &[usize]) {
    for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
        let pad = " ".repeat(width - cell.chars().count());
        let cell = if column == 0 { format!("| {cell}{pad} ") } else { format!("| {pad}{cell} ") };
        write!(out, "{cell}").expect("writing to a string");
    }
    out.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = Row { work: "q0".into(), cells: COLUMNS.iter().map(|_| "1".into()).collect() };
        let text = table(&[row]);
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{text}");
    }
}
