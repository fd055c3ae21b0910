//! Reading and writing points in time: SQL's form, ISO 8601, and patterns as Java writes them. All times are UTC.

use arrow::datatypes::DataType;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use datafusion_common::ScalarValue;

pub(crate) fn is_temporal(t: &DataType) -> bool {
    matches!(t, DataType::Timestamp(_, _) | DataType::Date32 | DataType::Time32(_))
}

/// A string constant as a value of a temporal type.
pub(crate) fn constant(text: &str, to: &DataType) -> Option<ScalarValue> {
    match to {
        DataType::Date32 => parse_date(text).map(|days| ScalarValue::Date32(Some(days))),
        DataType::Time32(_) => parse_time(text).map(|ms| ScalarValue::Time32Millisecond(Some(ms))),
        DataType::Timestamp(_, zone) => {
            parse_timestamp(text).map(|ms| ScalarValue::TimestampMillisecond(Some(ms), zone.clone()))
        }
        _ => None,
    }
}

/// `2026-01-31` as days since 1970-01-01.
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d").ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

/// `12:30:00.5` as milliseconds since midnight.
pub(crate) fn parse_time(text: &str) -> Option<i32> {
    let time = NaiveTime::parse_from_str(text.trim(), "%H:%M:%S%.f").ok()?;
    i32::try_from(i64::from(time.num_seconds_from_midnight()) * 1000 + i64::from(time.nanosecond()) / 1_000_000).ok()
}

/// `2026-01-31 12:30:00.5`, with `T` instead of the blank, a `Z` or an offset, or the date alone, as milliseconds since 1970.
pub(crate) fn parse_timestamp(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.timestamp_millis());
    }
    for pattern in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, pattern) {
            return Some(time.and_utc().timestamp_millis());
        }
    }
    parse_date(text).map(|days| i64::from(days) * 86_400_000)
}

/// `2026-01-31 12:30:00.500`: milliseconds always, as Flink prints a `TIMESTAMP(3)`.
pub(crate) fn format_timestamp(ms: i64) -> Option<String> {
    DateTime::from_timestamp_millis(ms).map(|t| t.format("%Y-%m-%d %H:%M:%S%.3f").to_string())
}

/// A pattern of Java's `DateTimeFormatter`, as far as it is common to Flink jobs.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    /// The same for chrono.
    chrono: String,
    has_time: bool,
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Translates a pattern.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let mut chrono = String::new();
        let mut has_time = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                let quoted: String = chars.by_ref().take_while(|q| *q != '\'').collect();
                chrono.push_str(&if quoted.is_empty() { "'".to_owned() } else { quoted.replace('%', "%%") });
                continue;
            }
            if !c.is_ascii_alphabetic() {
                chrono.push_str(if c == '%' { "%%" } else { "" });
                if c != '%' {
                    chrono.push(c);
                }
                continue;
            }
            let mut run = 1;
            while chars.next_if_eq(&c).is_some() {
                run += 1;
            }
            has_time |= matches!(c, 'H' | 'h' | 'k' | 'm' | 's' | 'S');
            chrono.push_str(
                directive(c, run)
                    .ok_or_else(|| format!("`{}` in the pattern is not supported", c.to_string().repeat(run)))?,
            );
        }
        Ok(Self { text: text.to_owned(), chrono: chrono.replace(".%3f", "%.3f").replace(".%6f", "%.6f"), has_time })
    }

    /// A time as text.
    pub(crate) fn format(&self, ms: i64) -> Option<String> {
        use std::fmt::Write;
        let mut out = String::new();
        write!(out, "{}", DateTime::from_timestamp_millis(ms)?.format(&self.chrono)).ok()?;
        Some(out)
    }

    /// Milliseconds since 1970 of a text; `None` if it does not fit.
    pub(crate) fn parse(&self, text: &str) -> Option<i64> {
        if self.has_time {
            return NaiveDateTime::parse_from_str(text, &self.chrono).ok().map(|t| t.and_utc().timestamp_millis());
        }
        let date = NaiveDate::parse_from_str(text, &self.chrono).ok()?;
        date.and_hms_opt(0, 0, 0).map(|t| t.and_utc().timestamp_millis())
    }
}

fn directive(letter: char, run: usize) -> Option<&'static str> {
    Some(match (letter, run) {
        ('y' | 'u', 4) => "%Y",
        ('y' | 'u', 2) => "%y",
        ('M' | 'L', 2) => "%m",
        ('M' | 'L', 1) => "%-m",
        ('M' | 'L', 3) => "%b",
        ('M' | 'L', 4) => "%B",
        ('d', 2) => "%d",
        ('d', 1) => "%-d",
        ('D', 3) => "%j",
        ('H', 2) => "%H",
        ('H', 1) => "%-H",
        ('h', 2) => "%I",
        ('h', 1) => "%-I",
        ('m', 2) => "%M",
        ('m', 1) => "%-M",
        ('s', 2) => "%S",
        ('s', 1) => "%-S",
        ('S', 3) => "%3f",
        ('S', 6) => "%6f",
        ('a', 1) => "%p",
        ('E', 1..=3) => "%a",
        ('E', 4) => "%A",
        _ => return None,
    })
}
