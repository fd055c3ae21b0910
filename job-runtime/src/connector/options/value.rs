//! Option values: what each kind looks like.
//!
//! Owns parsing of durations, sizes and characters. It does not know any option.

use std::time::Duration;

use super::ValueKind;

/// Whether `text` is a value of the kind; else what would be.
pub(super) fn check(kind: ValueKind, text: &str) -> Result<(), String> {
    let (right, expected) = match kind {
        ValueKind::Text => (!text.is_empty(), "a text that is not empty".to_owned()),
        ValueKind::Character => (character(text).is_some(), "one ASCII character, or \\t".to_owned()),
        ValueKind::Boolean => {
            (text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false"), "true or false".to_owned())
        }
        ValueKind::Integer(min, max) => {
            let right = text.trim().parse::<i64>().is_ok_and(|v| (min..=max).contains(&v));
            let range = match (min, max) {
                (i64::MIN, i64::MAX) => "a whole number".to_owned(),
                (_, i64::MAX) => format!("a whole number of at least {min}"),
                _ => format!("a whole number from {min} to {max}"),
            };
            (right, range)
        }
        ValueKind::Duration => (duration(text).is_some(), "a duration like 500 ms, 10 s, 2 min, 1 h".to_owned()),
        ValueKind::Size => (size(text).is_some(), "a size like 64 KB, 128 MB, 1 GB".to_owned()),
        ValueKind::OneOf(words) => {
            let list: Vec<_> = words.iter().map(|w| format!("'{w}'")).collect();
            (words.contains(&text), list.join(" or "))
        }
    };
    if right { Ok(()) } else { Err(expected) }
}

/// A number and a unit, spaces allowed between.
fn number_and_unit(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..unit_at].parse().ok()?, text[unit_at..].trim().to_ascii_lowercase()))
}

/// As Flink reads durations; no unit means milliseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let nanos_per_unit: u64 = match unit.as_str() {
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        _ => return None,
    };
    number.checked_mul(nanos_per_unit).map(Duration::from_nanos)
}

/// As Flink reads sizes: powers of 1024, no unit means bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit.as_str() {
        "" | "b" | "bytes" => 0,
        "k" | "kb" | "kib" | "kibibytes" => 10,
        "m" | "mb" | "mib" | "mebibytes" => 20,
        "g" | "gb" | "gib" | "gibibytes" => 30,
        "t" | "tb" | "tib" | "tebibytes" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// One ASCII character, or an escape of one.
pub(super) fn character(text: &str) -> Option<u8> {
    match text.as_bytes() {
        b"\\t" | b"\t" => Some(b'\t'),
        [b] if b.is_ascii() && !matches!(b, b'\n' | b'\r') => Some(*b),
        _ => None,
    }
}
