//! Durations as Go and Kubernetes write them: `50ms`, `1h30m`, `1.5s`.

use std::time::Duration;

/// Reads a duration; the error says what is wrong with it.
pub fn parse(text: &str) -> Result<Duration, String> {
    const EXAMPLE: &str = "write a number with a unit, e.g. `50ms`, `10s`, `1h30m`";
    let mut rest = text;
    if rest.is_empty() || rest == "0" {
        return if rest.is_empty() { Err(EXAMPLE.to_owned()) } else { Ok(Duration::ZERO) };
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| EXAMPLE.to_owned())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("the unit is missing: {EXAMPLE}")),
            unit => return Err(format!("`{}` is no unit: use ns, us, ms, s, m or h, without blanks", unit.trim())),
        };
        nanos += number * scale;
        rest = &rest[letters..];
    }
    if nanos > 3600e9 * 24.0 * 36500.0 {
        return Err("more than a hundred years".to_owned());
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// Writes a duration as [`parse`] reads it.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}
