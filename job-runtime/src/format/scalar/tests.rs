//! Values as text and back.

use proptest::prelude::*;

use super::*;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn timestamps_are_read_leniently_and_written_as_flink_does() {
    let ms = |text: &str| parse_timestamp(text.as_bytes(), TimeUnit::Millisecond, false);
    let ten = 1_357_034_400_000;
    for text in ["2013-01-01 10:00:00", "2013-01-01T10:00:00Z", "2013-01-01T10:00", "2013-01-01 10:00:00.000999"] {
        assert_eq!(ms(text), Ok(ten), "{text}");
    }
    assert_eq!(ms("2013-01-01"), Ok(ten - 36_000_000));
    assert!(ms("2013-01-01T10:00:00+01:00").unwrap_err().contains("declare the column as TIMESTAMP_LTZ"));
    let zoned = |text: &str| parse_timestamp(text.as_bytes(), TimeUnit::Millisecond, true);
    for text in
        ["2013-01-01T11:00:00+01:00", "2013-01-01 09:30:00.0-0030", "2013-01-01 12:00:00+02", "2013-01-01 10:00:00"]
    {
        assert_eq!(zoned(text), Ok(ten), "{text}");
    }
    for text in [
        "2013-02-29 00:00:00",
        "2013-1-1",
        "x",
        "",
        "2013-01-01 25:00:00",
        "2013-01-01 10:00:00.",
        "2013-01-01 10:00:00 ",
    ] {
        assert!(ms(text).is_err(), "{text}");
    }
    let mut writer = TimestampWriter::new(TimeUnit::Millisecond, b' ', false);
    for (value, text) in
        [(ten, "2013-01-01 10:00:00"), (ten + 120, "2013-01-01 10:00:00.12"), (-1, "1969-12-31 23:59:59.999")]
    {
        assert_eq!(written(|out| writer.write(value, out)), text);
    }
    let mut zoned = TimestampWriter::new(TimeUnit::Nanosecond, b'T', true);
    assert_eq!(written(|out| zoned.write(1, out)), "1970-01-01T00:00:00.000000001Z");
}

#[test]
fn whole_numbers_are_never_cut() {
    assert_eq!(parse_integer::<i32>(b"5.0", "INT"), Ok(5));
    assert_eq!(parse_integer::<i32>(b"12e2", "INT"), Ok(1200));
    assert_eq!(parse_integer::<i64>(b"-9223372036854775808", "BIGINT"), Ok(i64::MIN));
    for wrong in ["5.5", "3000000000", "", "-", "1e-1", "9223372036854775808", "0x1"] {
        assert!(parse_integer::<i32>(wrong.as_bytes(), "INT").is_err(), "{wrong}");
    }
}

#[test]
fn decimals_are_exact_and_rounded_half_up() {
    for (text, value) in
        [("1.005", 101), ("-1.005", -101), ("1e2", 10_000), ("0.5e-2", 1), (".1", 10), ("99999999.99", 9_999_999_999)]
    {
        assert_eq!(parse_decimal(text.as_bytes(), 10, 2), Ok(value), "{text}");
    }
    for wrong in ["100000000", "1.2.3", "e5", ".", "1e999999999999"] {
        assert!(parse_decimal(wrong.as_bytes(), 10, 2).is_err(), "{wrong}");
    }
    assert_eq!(written(|out| write_decimal(-5, 2, out)), "-0.05");
    assert_eq!(written(|out| write_decimal(12_345, 0, out)), "12345");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(value: i64, days in -719_000i32..2_900_000, decimal in -10i128.pow(37)..10i128.pow(37), bytes: Vec<u8>, x: f64, y: f32) {
        prop_assert_eq!(parse_i64(written(|out| write_i64(value, out)).as_bytes()), Some(value));
        prop_assert_eq!(parse_date(written(|out| write_date(days.into(), out)).as_bytes()), Ok(days));
        prop_assert_eq!(parse_decimal(written(|out| write_decimal(decimal, 9, out)).as_bytes(), 38, 9), Ok(decimal));
        let mut back = Vec::new();
        parse_base64(written(|out| write_base64(&bytes, out)).as_bytes(), &mut back).unwrap();
        prop_assert_eq!(back, bytes);
        let same = parse_float::<f64>(written(|out| write_f64(x, out)).as_bytes(), "").unwrap();
        prop_assert!(same.to_bits() == x.to_bits() || (same.is_nan() && x.is_nan()));
        let same = parse_float::<f32>(written(|out| write_f32(y, out)).as_bytes(), "").unwrap();
        prop_assert!(same.to_bits() == y.to_bits() || (same.is_nan() && y.is_nan()));
    }

    #[test]
    fn timestamps_read_back(value in -62_000_000_000_000i64..250_000_000_000_000) {
        let mut writer = TimestampWriter::new(TimeUnit::Millisecond, b'T', true);
        let text = written(|out| writer.write(value, out));
        prop_assert_eq!(parse_timestamp(text.as_bytes(), TimeUnit::Millisecond, true), Ok(value));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text: Vec<u8>) {
        let _ = (parse_date(&text), parse_time(&text), parse_boolean(&text), parse_decimal(&text, 38, 10));
        let _ = (parse_timestamp(&text, TimeUnit::Nanosecond, true), parse_integer::<i64>(&text, ""));
        let _ = (parse_float::<f64>(&text, ""), parse_base64(&text, &mut Vec::new()));
    }
}
