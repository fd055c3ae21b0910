//! Durations as Flink writes them in settings: `36 h`, `1 d`, `10 min`, `500 ms`; a number alone is in milliseconds.

use std::time::Duration;

/// Labels of units, as Flink's, and their milliseconds.
const UNITS: &[(&[&str], u64)] = &[
    (&["d", "day", "days"], 86_400_000),
    (&["h", "hour", "hours"], 3_600_000),
    (&["min", "m", "minute", "minutes"], 60_000),
    (&["s", "sec", "secs", "second", "seconds"], 1000),
    (&["ms", "milli", "millis", "millisecond", "milliseconds", ""], 1),
];

/// Reads a duration; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const EXAMPLE: &str = "write a number with a unit, e.g. `36 h`, `1 d`, `10 min`";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| EXAMPLE.to_owned())?;
    let unit = text[digits..].trim().to_lowercase();
    let found = UNITS.iter().find(|(labels, _)| labels.contains(&unit.as_str()));
    let (_, ms) = found.ok_or_else(|| format!("`{unit}` is no unit: use d, h, min, s or ms"))?;
    let ms = number.checked_mul(*ms).filter(|ms| *ms <= 36_500 * 86_400_000);
    ms.map(Duration::from_millis).ok_or_else(|| "more than a hundred years".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flinks_durations_are_read() {
        for (text, ms) in [
            ("36 h", 129_600_000),
            ("1d", 86_400_000),
            (" 10 min ", 600_000),
            ("5 SECONDS", 5000),
            ("7", 7),
            ("0 ms", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "h", "1 week", "-1 h", "1.5 h", "99999999999999999999 d", "40000 d", "1 h 3 min"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
