//! From sqlparser's lines and columns to bytes of the job file.

use sqlparser::tokenizer;

use crate::Span;
use crate::job::SqlText;

/// The SQL with an index of its lines.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    sql: &'a SqlText,
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(sql: &'a SqlText) -> Self {
        let starts = sql.text.match_indices('\n').map(|(at, _)| at + 1);
        Self { sql, lines: std::iter::once(0).chain(starts).collect() }
    }

    /// The SQL's text.
    pub(crate) fn text(&self) -> &'a str {
        &self.sql.text
    }

    /// Byte of the SQL at a line and column, both from 1, columns in characters.
    pub(crate) fn byte(&self, line: u64, column: u64) -> usize {
        let Some(&start) = self.lines.get((line as usize).saturating_sub(1)) else { return self.sql.text.len() };
        let before = (column as usize).saturating_sub(1);
        start + self.sql.text[start..].chars().take(before).map(char::len_utf8).sum::<usize>()
    }

    /// The bytes of the SQL that a span covers; `None` for sqlparser's "unknown".
    pub(crate) fn range(&self, span: tokenizer::Span) -> Option<std::ops::Range<usize>> {
        if span.start.line == 0 {
            return None;
        }
        let start = self.byte(span.start.line, span.start.column);
        let end = self.byte(span.end.line, span.end.column);
        Some(start..end.max(start))
    }

    /// A span in the file.
    pub(crate) fn span(&self, span: tokenizer::Span) -> Option<Span> {
        self.range(span).map(|range| self.sql.file_span(range))
    }

    /// A range of the SQL in the file.
    pub(crate) fn file_span(&self, range: std::ops::Range<usize>) -> Span {
        self.sql.file_span(range)
    }
}
