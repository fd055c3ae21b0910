//! The benchmark's sheet: lines of the rows that were run, as text for the terminal and as a page for the book.
//!
//! Owns the form, and which rows are wanted. What is in a line was measured elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::rows::{Better, ROWS, RowInfo, Table, row};

/// A row that was run.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its figure, in words.
    pub figure: String,
    /// Its figure, if it has a goal.
    pub value: Option<f64>,
    /// Of a row of the table of throughput: the rest of [`COLUMNS`].
    pub more: Vec<String>,
}

/// Titles of what only the table of throughput has.
pub const COLUMNS: [&str; 7] =
    ["of roofline", "records in", "M rec/s", "peak RSS MiB", "commit p50 ms", "commit p99 ms", "first commit ms"];

/// What was measured so far.
pub struct Sheet {
    wanted: Vec<String>,
    lines: Vec<(&'static RowInfo, Line)>,
    /// How the roofline was measured, once it was.
    pub roofline: Option<String>,
}

impl Sheet {
    /// For the rows and groups of these names; for all if there are none.
    ///
    /// # Errors
    /// Names one that is not known.
    pub fn new(wanted: Vec<String>) -> anyhow::Result<Self> {
        for name in &wanted {
            let known = ROWS.iter().any(|row| row.name == name || row.group == name);
            anyhow::ensure!(known, "there is no row {name}; there are {}", names());
        }
        Ok(Self { wanted, lines: Vec::new(), roofline: None })
    }

    /// True if a row is to be run.
    pub fn wants(&self, name: &str) -> bool {
        let asked = |row: &RowInfo| self.wanted.iter().any(|wanted| wanted == row.name || wanted == row.group);
        row(name).is_some_and(|row| self.wanted.is_empty() || asked(row))
    }

    /// True if any row of a group is to be run.
    pub fn wants_of(&self, group: &str) -> bool {
        ROWS.iter().any(|row| row.group == group && self.wants(row.name))
    }

    /// Keeps a row, if it is wanted.
    #[expect(clippy::print_stdout, reason = "who runs a benchmark wants to see that it goes on")]
    pub fn add(&mut self, name: &str, line: Line) {
        if let (true, Some(row)) = (self.wants(name), row(name)) {
            println!("{name}: {} {}", line.figure, line.more.join(" | "));
            self.lines.push((row, line));
        }
    }

    /// Keeps why the rows of a group that are wanted and not there yet are missing.
    pub fn failed(&mut self, group: &str, error: &anyhow::Error) {
        for row in ROWS.iter().filter(|row| row.group == group) {
            if !self.lines.iter().any(|(there, _)| there.name == row.name) {
                let text = format!("{error:#}").replace(['\n', '|'], " ");
                let figure = format!("failed: {}", text.chars().take(300).collect::<String>());
                self.add(row.name, Line { figure, ..Line::default() });
            }
        }
    }

    /// True if a row could not be run.
    pub fn has_failures(&self) -> bool {
        self.lines.iter().any(|(_, line)| line.figure.starts_with("failed:"))
    }

    /// The rows of a table, in the order of [`ROWS`].
    pub fn table(&self, of: Table) -> String {
        let (title, more): (_, &[&str]) = match of {
            Table::Throughput => ("M rec per CPU-s", &COLUMNS),
            Table::Figures => ("figure", &[]),
        };
        let header = ["row", "work", title, "floor", "target", "met"].into_iter().chain(more.iter().copied());
        let mut lines = vec![header.map(str::to_owned).collect::<Vec<_>>()];
        for row in ROWS.iter().filter(|row| row.table == of) {
            let of_row = self.lines.iter().filter(|(there, _)| there.name == row.name);
            lines.extend(of_row.map(|(_, line)| cells(row, line, more.len())));
        }
        format(&lines)
    }

    /// Rows whose target is missed, each with its note.
    pub fn missed(&self, note: impl Fn(&str) -> Option<&'static str>) -> String {
        let mut out = String::new();
        for (row, line) in &self.lines {
            if let Some(goal) = row.goal
                && ["no", "floor"].contains(&goal.met(line.value))
                && let Some(note) = note(row.name)
            {
                writeln!(out, "- `{}`: {note}", row.name).expect("writing to a string");
            }
        }
        out
    }
}

/// All names that can be asked for.
fn names() -> String {
    let groups: BTreeSet<&str> = ROWS.iter().map(|row| row.group).collect();
    let rows = ROWS.iter().map(|row| row.name).filter(|name| !groups.contains(name));
    groups.iter().copied().chain(rows).collect::<Vec<_>>().join(", ")
}

fn cells(row: &RowInfo, line: &Line, more: usize) -> Vec<String> {
    let shown = |value: f64| match row.goal {
        Some(goal) if !goal.unit.is_empty() => format!("{value} {}", goal.unit),
        Some(_) | None => value.to_string(),
    };
    let direction = row.goal.map_or("", |goal| match goal.better {
        Better::More => "",
        Better::Less => "at most ",
    });
    let floor = row.goal.map(|goal| format!("{direction}{}", shown(goal.floor)));
    let target = row.goal.and_then(|goal| goal.target).map(shown);
    let met = row.goal.map_or("", |goal| goal.met(line.value)).to_owned();
    let first = [row.name.to_owned(), row.work.to_owned(), line.figure.clone()];
    let goals = [floor.unwrap_or_default(), target.unwrap_or_default(), met];
    let rest = line.more.iter().cloned().chain(std::iter::repeat_n("–".to_owned(), more - line.more.len().min(more)));
    first.into_iter().chain(goals).chain(rest).collect()
}

/// A Markdown table, columns padded so that it reads well on a terminal too.
fn format(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let cell = if is_text(&lines[0][column]) { format!("| {cell}{pad} ") } else { format!("| {pad}{cell} ") };
            out.push_str(&cell);
        }
        out.push_str("|\n");
        if number == 0 {
            let rule = |(title, width): (&String, &usize)| {
                if is_text(title) {
                    format!("| {} ", "-".repeat(*width))
                } else {
                    format!("| {}: ", "-".repeat(width - 1))
                }
            };
            out.push_str(&lines[0].iter().zip(&widths).map(rule).collect::<String>());
            out.push_str("|\n");
        }
    }
    out
}

/// Columns that begin at the left.
fn is_text(title: &str) -> bool {
    ["row", "work", "figure", "met"].contains(&title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_a_row_that_failed_says_why() {
        let mut sheet = Sheet::new(vec!["nexmark".into(), "stall".into()]).unwrap();
        assert!(sheet.wants("q0") && sheet.wants_of("recovery") && !sheet.wants("recovery"));
        sheet.add("q0", Line { figure: "20.67".into(), value: Some(20.67), more: vec!["1".into(); COLUMNS.len()] });
        sheet.add("recovery", Line::default());
        sheet.failed("nexmark", &anyhow::anyhow!("no | disk\nleft"));
        let text = sheet.table(Table::Throughput);
        let lengths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{text}");
        assert!(text.contains("failed: no   disk left") && sheet.has_failures());
        assert_eq!(text.lines().count(), 2 + 5, "{text}");
        assert_eq!(sheet.table(Table::Figures).lines().count(), 2);
        assert!(sheet.missed(|_| Some("why")).starts_with("- `q5-like`: why"), "{}", sheet.missed(|_| Some("why")));
    }

    #[test]
    fn a_row_that_is_not_known_is_named() {
        let error = Sheet::new(vec!["q9".into()]).err().unwrap().to_string();
        assert!(error.contains("no row q9") && error.contains("kafka-count-100k"), "{error}");
    }
}
