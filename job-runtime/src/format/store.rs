//! Text into a column: which parser each type has.
//!
//! Owns the mapping from types to spellings, the same for JSON and CSV. It does not know quoting, escapes or null.

use super::column::Column;
use super::scalar::{self, Reason};

impl Column {
    /// Appends the value that `text` spells; on error a half-written cell may be left (the row is rolled back).
    pub(super) fn push_text(&mut self, text: &[u8]) -> Result<(), Reason> {
        match self {
            Column::String(c) => c.push(text),
            Column::Boolean(c) => c.push(scalar::parse_boolean(text.trim_ascii())?),
            Column::Int8(c) => c.push(scalar::parse_integer(text.trim_ascii(), "TINYINT")?),
            Column::Int16(c) => c.push(scalar::parse_integer(text.trim_ascii(), "SMALLINT")?),
            Column::Int32(c) => c.push(scalar::parse_integer(text.trim_ascii(), "INT")?),
            Column::Int64(c) => c.push(scalar::parse_integer(text.trim_ascii(), "BIGINT")?),
            Column::Float32(c) => c.push(scalar::parse_float(text.trim_ascii(), "FLOAT")?),
            Column::Float64(c) => c.push(scalar::parse_float(text.trim_ascii(), "DOUBLE")?),
            Column::Decimal { cells, precision, scale } => {
                cells.push(scalar::parse_decimal(text.trim_ascii(), *precision, *scale)?);
            }
            Column::Bytes(c) => {
                scalar::parse_base64(text, c.open())?;
                c.close();
            }
            Column::Date(c) => c.push(scalar::parse_date(text.trim_ascii())?),
            Column::Time(c) => c.push(scalar::parse_time(text.trim_ascii())?),
            Column::Timestamp { cells, unit, zone } => {
                cells.push(scalar::parse_timestamp(text.trim_ascii(), *unit, zone.is_some())?);
            }
        }
        Ok(())
    }

    /// Whether an empty text is a value of this type.
    pub(super) fn takes_empty(&self) -> bool {
        matches!(self, Column::String(_) | Column::Bytes(_))
    }

    /// Whether bare numbers are values of this type.
    pub(super) fn takes_numbers(&self) -> bool {
        match self {
            Column::Int8(_)
            | Column::Int16(_)
            | Column::Int32(_)
            | Column::Int64(_)
            | Column::Float32(_)
            | Column::Float64(_)
            | Column::Decimal { .. }
            | Column::String(_) => true,
            Column::Boolean(_) | Column::Bytes(_) | Column::Date(_) | Column::Time(_) | Column::Timestamp { .. } => {
                false
            }
        }
    }
}
