//! Text of single values: parsing and writing of numbers, dates, times, decimals and base64, as Flink's text formats have them.
//!
//! Owns the spelling of values, the same for every text format. It does not know records or columns.

use arrow::datatypes::TimeUnit;

const DAY_NANOS: i128 = 86_400_000_000_000;

/// How many of `unit` are in a second.
pub(super) const fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Days since 1970-01-01 of a civil date (proleptic Gregorian). Howard Hinnant's algorithm.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let shifted = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The civil date of days since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).expect("1..=12"), u32::try_from(day).expect("1..=31"))
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Exactly `N` digits at the start.
fn digits<const N: usize>(text: &[u8]) -> Option<u32> {
    let head = text.get(..N)?;
    let mut value = 0;
    for &b in head {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        value = value * 10 + u32::from(d);
    }
    Some(value)
}

/// `2013-01-31`, at the start of `text`; returns days since 1970-01-01 and the rest.
fn date_prefix(text: &[u8]) -> Option<(i64, &[u8])> {
    let year = i64::from(digits::<4>(text)?);
    let month = digits::<2>(text.get(5..)?)?;
    let day = digits::<2>(text.get(8..)?)?;
    let right = text[4] == b'-'
        && text[7] == b'-'
        && (1..=12).contains(&month)
        && day >= 1
        && day <= days_in_month(year, month);
    right.then(|| (days_from_civil(year, month, day), &text[10..]))
}

/// `10:00`, `10:00:00`, `10:00:00.123456789` at the start of `text`; nanoseconds of the day and the rest.
fn time_prefix(text: &[u8]) -> Option<(i64, &[u8])> {
    let hour = digits::<2>(text)?;
    let minute = digits::<2>(text.get(3..)?)?;
    if text[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let minutes = i64::from(hour * 60 + minute) * 60_000_000_000;
    if text.get(5) != Some(&b':') {
        return Some((minutes, &text[5..]));
    }
    let second = digits::<2>(text.get(6..)?)?;
    if second > 59 {
        return None;
    }
    let whole = minutes + i64::from(second) * 1_000_000_000;
    let rest = &text[8..];
    if rest.first() != Some(&b'.') {
        return Some((whole, rest));
    }
    let mut nanos = 0;
    let mut used = 1;
    for (scale, &b) in [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1].iter().zip(&rest[1..]) {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            break;
        }
        nanos += i64::from(d) * scale;
        used += 1;
    }
    (used > 1).then(|| (whole + nanos, &rest[used..]))
}

/// `Z`, `+02`, `+02:00`, `+0200` or nothing: minutes east of UTC, `None` inside if there is no zone; the outer `None` is malformed.
#[expect(clippy::option_option, reason = "absent and malformed are different answers")]
fn zone(text: &[u8]) -> Option<Option<i64>> {
    let (sign, rest) = match text.split_first() {
        None => return Some(None),
        Some((b'Z' | b'z', [])) => return Some(Some(0)),
        Some((b'+', rest)) => (1, rest),
        Some((b'-', rest)) => (-1, rest),
        Some(_) => return None,
    };
    let hours = digits::<2>(rest)?;
    let minutes = match &rest[2..] {
        [] => 0,
        [b':', tail @ ..] | tail if tail.len() == 2 => digits::<2>(tail)?,
        _ => return None,
    };
    (hours <= 18 && minutes <= 59).then(|| Some(sign * i64::from(hours * 60 + minutes)))
}

/// Why a text is no value of the type.
pub(super) type Reason = String;

fn shown(text: &[u8]) -> String {
    const LONGEST: usize = 60;
    let head = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]);
    if text.len() > LONGEST { format!("'{head}…'") } else { format!("'{head}'") }
}

/// `DATE`: days since 1970-01-01.
pub(super) fn parse_date(text: &[u8]) -> Result<i32, Reason> {
    match date_prefix(text) {
        Some((days, [])) => Ok(i32::try_from(days).expect("four digits of a year fit")),
        _ => Err(format!("{} is no DATE (write 2013-01-31)", shown(text))),
    }
}

/// `TIME`: milliseconds of the day; finer digits are cut off.
pub(super) fn parse_time(text: &[u8]) -> Result<i32, Reason> {
    match time_prefix(text) {
        Some((nanos, [] | [b'Z'])) => Ok(i32::try_from(nanos / 1_000_000).expect("a day's milliseconds fit")),
        _ => Err(format!("{} is no TIME (write 10:00:00 or 10:00:00.123)", shown(text))),
    }
}

/// `TIMESTAMP` (`zoned` false) or `TIMESTAMP_LTZ`, in `unit` since 1970-01-01T00:00:00(Z): date, `T` or space, time, optional zone.
/// Finer digits than the type has are cut off. A `TIMESTAMP` may end in `Z`, which means nothing; another offset is refused.
pub(super) fn parse_timestamp(text: &[u8], unit: TimeUnit, zoned: bool) -> Result<i64, Reason> {
    let wrong = || format!("{} is no TIMESTAMP (write 2013-01-31 10:00:00 or 2013-01-31T10:00:00Z)", shown(text));
    let (days, rest) = date_prefix(text).ok_or_else(wrong)?;
    let (nanos, rest) = match rest.split_first() {
        Some((b' ' | b'T' | b't', rest)) => time_prefix(rest).ok_or_else(wrong)?,
        None => (0, rest),
        Some(_) => return Err(wrong()),
    };
    let minutes_east = zone(rest).ok_or_else(wrong)?.unwrap_or(0);
    if minutes_east != 0 && !zoned {
        return Err(format!("{} has an offset: declare the column as TIMESTAMP_LTZ", shown(text)));
    }
    let total = i128::from(days) * DAY_NANOS + i128::from(nanos) - i128::from(minutes_east) * 60_000_000_000;
    let per_unit = 1_000_000_000 / i128::from(per_second(unit));
    i64::try_from(total.div_euclid(per_unit))
        .map_err(|_| format!("{} is outside what nanoseconds since 1970 can hold", shown(text)))
}

/// A whole number with optional sign, nothing else.
#[inline]
pub(super) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value: u64 = 0;
    for &b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        value = value * 10 + u64::from(d);
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// A whole number; also `5.0` and `5e0`, but nothing that would lose a fraction.
pub(super) fn parse_integer<T: TryFrom<i64>>(text: &[u8], type_name: &str) -> Result<T, Reason> {
    let wide = match parse_i64(text) {
        Some(wide) => Some(wide),
        None => parse_decimal_digits(text, 0, false).and_then(|d| i64::try_from(d).ok()),
    };
    wide.and_then(|v| T::try_from(v).ok()).ok_or_else(|| format!("{} is no {type_name}", shown(text)))
}

/// A floating point number, `NaN` and `Infinity` included.
pub(super) fn parse_float<T: std::str::FromStr>(text: &[u8], type_name: &str) -> Result<T, Reason> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("{} is no {type_name}", shown(text)))
}

/// `true` or `false` in any case.
pub(super) fn parse_boolean(text: &[u8]) -> Result<bool, Reason> {
    if text.eq_ignore_ascii_case(b"true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case(b"false") {
        Ok(false)
    } else {
        Err(format!("{} is no BOOLEAN (write true or false)", shown(text)))
    }
}

/// Digits scaled by 10^scale. With `round`, digits beyond the scale are rounded half away from zero, else they must be zeros.
fn parse_decimal_digits(text: &[u8], scale: i32, round: bool) -> Option<i128> {
    let (negative, body) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match body.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&body[..at], i32::try_from(parse_i64(&body[at + 1..])?).ok()?),
        None => (body, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&b| b == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &mantissa[..0]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // The place of the point, counted in digits from the first one, after the exponent and the scale.
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(scale);
    let mut value: i128 = 0;
    for (i, &b) in (0i64..).zip(whole.iter().chain(fraction)) {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        if i < point {
            value = value.checked_mul(10)?.checked_add(i128::from(d))?;
        } else if i == point && round {
            value = value.checked_add(i128::from(d >= 5))?;
        } else if d != 0 && !round {
            return None;
        }
    }
    let given = i64::try_from(whole.len() + fraction.len()).ok()?;
    if value != 0 {
        for _ in given..point {
            value = value.checked_mul(10)?;
        }
    }
    Some(if negative { -value } else { value })
}

/// `DECIMAL(precision, scale)`; digits beyond the scale are rounded half up, as Flink does.
pub(super) fn parse_decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, Reason> {
    parse_decimal_digits(text, i32::from(scale), true)
        .filter(|v| v.unsigned_abs() < 10u128.pow(u32::from(precision)))
        .ok_or_else(|| format!("{} is no DECIMAL({precision}, {scale})", shown(text)))
}

/// Base64 (standard alphabet, padding optional) appended to `out`.
pub(super) fn parse_base64(text: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
    let wrong = || format!("{} is no base64", shown(text));
    let unpadded = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if unpadded.len() % 4 == 1 || (unpadded.len() != text.len() && !text.len().is_multiple_of(4)) {
        return Err(wrong());
    }
    for group in unpadded.chunks(4) {
        let mut bits: u32 = 0;
        for &b in group {
            let six = match b {
                b'A'..=b'Z' => b - b'A',
                b'a'..=b'z' => b - b'a' + 26,
                b'0'..=b'9' => b - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return Err(wrong()),
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - group.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Ok(())
}

/// Appends base64 with padding.
pub(super) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let bits = group.iter().enumerate().fold(0u32, |bits, (i, &b)| bits | u32::from(b) << (16 - 8 * i));
        for i in 0..4 {
            let six = usize::try_from(bits >> (18 - 6 * i) & 63).expect("six bits");
            out.push(if i <= group.len() { ALPHABET[six] } else { b'=' });
        }
    }
}

fn push_padded(value: u32, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 10];
    let mut rest = value;
    for slot in digits[..width].iter_mut().rev() {
        *slot = b'0' + u8::try_from(rest % 10).expect("one digit");
        rest /= 10;
    }
    out.extend_from_slice(&digits[..width]);
}

/// Appends a whole number.
#[inline]
pub(super) fn write_i64(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest text that reads back as the same number; `NaN`, `Infinity`, `-Infinity` as Java spells them.
pub(super) fn write_f64(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(not_finite(value.is_nan(), value > 0.0));
    }
}

/// See [`write_f64`].
pub(super) fn write_f32(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(not_finite(value.is_nan(), value > 0.0));
    }
}

fn not_finite(nan: bool, positive: bool) -> &'static [u8] {
    match (nan, positive) {
        (true, _) => b"NaN",
        (false, true) => b"Infinity",
        (false, false) => b"-Infinity",
    }
}

/// Appends `2013-01-31`.
pub(super) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    match u32::try_from(year) {
        Ok(year) if year <= 9999 => push_padded(year, 4, out),
        _ => write_i64(year, out),
    }
    out.push(b'-');
    push_padded(month, 2, out);
    out.push(b'-');
    push_padded(day, 2, out);
}

/// Appends `10:00:00`, with a fraction only if there is one and no trailing zeros, as Flink does. `units` of the day.
pub(super) fn write_time(units: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let per_second = per_second(unit);
    let seconds = u32::try_from(units / per_second).expect("seconds of a day");
    push_padded(seconds / 3600, 2, out);
    out.push(b':');
    push_padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    push_padded(seconds % 60, 2, out);
    let fraction = units % per_second;
    if fraction != 0 {
        let width = usize::try_from(per_second.ilog10()).expect("at most 9");
        out.push(b'.');
        push_padded(u32::try_from(fraction).expect("below 10^9"), width, out);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Appends timestamps; keeps the text of the last day, which most rows share.
#[derive(Debug)]
pub(super) struct TimestampWriter {
    unit: TimeUnit,
    separator: u8,
    zoned: bool,
    day: i64,
    day_text: Vec<u8>,
}

impl TimestampWriter {
    pub(super) fn new(unit: TimeUnit, separator: u8, zoned: bool) -> Self {
        TimestampWriter { unit, separator, zoned, day: i64::MIN, day_text: Vec::new() }
    }

    pub(super) fn write(&mut self, value: i64, out: &mut Vec<u8>) {
        let per_day = 86_400 * per_second(self.unit);
        let day = value.div_euclid(per_day);
        if day != self.day {
            self.day = day;
            self.day_text.clear();
            write_date(day, &mut self.day_text);
            self.day_text.push(self.separator);
        }
        out.extend_from_slice(&self.day_text);
        write_time(value.rem_euclid(per_day), self.unit, out);
        if self.zoned {
            out.push(b'Z');
        }
    }
}

/// Appends a decimal with exactly `scale` digits after the point.
pub(super) fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    let scale = usize::try_from(scale).expect("Column::new refuses negative scales");
    if value < 0 {
        out.push(b'-');
    }
    let start = out.len();
    out.extend_from_slice(itoa::Buffer::new().format(value.unsigned_abs()).as_bytes());
    if scale > 0 {
        let digits = out.len() - start;
        if digits <= scale {
            out.splice(start..start, std::iter::repeat_n(b'0', scale + 1 - digits));
        }
        out.insert(out.len() - scale, b'.');
    }
}

#[cfg(test)]
mod tests;
