//! What a made-up column holds: a sequence or random values of its type.
//!
//! Owns ranges and their defaults, which are Flink's: the whole range of the type. It reads no options itself.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array,
    StringArray, Time32MillisecondArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;

use super::super::generated::{below, random};
use super::super::options::duration_ms;

const DAY_MS: i64 = 86_400_000;
/// Keeps the numbers of a column's different uses apart.
const NULLS: u64 = 0x6e75_6c6c;

/// Which part of the column's options is wrong, and how.
type Wrong = (&'static str, String);

/// What a column holds.
#[derive(Clone, Debug)]
pub(super) enum Filler {
    Sequence { data_type: DataType, start: i64, end: i64 },
    Random(Random),
}

/// Random values of one type.
#[derive(Clone, Debug)]
pub(super) enum Random {
    Boolean,
    Integer {
        data_type: DataType,
        min: i64,
        max: i64,
    },
    Float {
        data_type: DataType,
        min: f64,
        max: f64,
    },
    Decimal {
        precision: u8,
        scale: i8,
        min: i128,
        max: i128,
    },
    String {
        length: usize,
    },
    Bytes {
        length: usize,
    },
    /// Today.
    Date,
    Time,
    Timestamp {
        data_type: DataType,
        max_past_ms: u64,
    },
}

/// Scales 64 random bits to `0.0..1.0`.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn parsed<T: std::str::FromStr>(text: Option<&str>, default: T, part: &'static str) -> Result<T, Wrong> {
    match text {
        None => Ok(default),
        Some(text) => text.trim().parse().map_err(|_| (part, format!("'{text}' is no number of its type"))),
    }
}

impl Random {
    /// `option` gives the column's options by the last part of their keys.
    pub(super) fn of<'o>(data_type: &DataType, option: &dyn Fn(&str) -> Option<&'o str>) -> Result<Random, Wrong> {
        let integer = |least: i64, most: i64| {
            let (min, max) = (parsed(option("min"), least, "min")?, parsed(option("max"), most, "max")?);
            if min < least || max > most || min > max {
                return Err(("max", format!("the range from {min} to {max} is not inside {least} to {most}")));
            }
            Ok(Random::Integer { data_type: data_type.clone(), min, max })
        };
        let float = |least: f64, most: f64| {
            let (min, max) = (parsed(option("min"), least, "min")?, parsed(option("max"), most, "max")?);
            if min <= max && min >= least && max <= most {
                return Ok(Random::Float { data_type: data_type.clone(), min, max });
            }
            Err(("max", format!("there is no number from {min} to {max}")))
        };
        let length = || parsed(option("length"), 100usize, "length");
        Ok(match data_type {
            DataType::Boolean => Random::Boolean,
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into())?,
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into())?,
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into())?,
            DataType::Int64 => integer(i64::MIN, i64::MAX)?,
            DataType::Float32 => float(f32::MIN.into(), f32::MAX.into())?,
            DataType::Float64 => float(f64::MIN, f64::MAX)?,
            DataType::Decimal128(precision, scale) => decimal(*precision, *scale, option)?,
            DataType::Utf8 => Random::String { length: length()? },
            DataType::Binary => Random::Bytes { length: length()? },
            DataType::Date32 => Random::Date,
            DataType::Time32(TimeUnit::Millisecond) => Random::Time,
            DataType::Timestamp(..) => {
                let max_past_ms = option("max-past").map_or(Some(0), duration_ms);
                let max_past_ms = max_past_ms.ok_or_else(|| ("max-past", "is no duration".to_owned()))?;
                Random::Timestamp { data_type: data_type.clone(), max_past_ms }
            }
            other => return Err(("kind", format!("datagen cannot make {other} yet"))),
        })
    }

    fn fill(
        &self,
        key: u64,
        rows: Range<u64>,
        valid: &dyn Fn(u64) -> bool,
        now_ms: i64,
    ) -> Result<ArrayRef, ArrowError> {
        macro_rules! array {
            ($array:ty, $value:expr) => {
                Arc::new(rows.map(|row| valid(row).then(|| $value(random(key, row)))).collect::<$array>()) as ArrayRef
            };
        }
        Ok(match self {
            Random::Boolean => array!(BooleanArray, |bits| bits & 1 == 1),
            Random::Integer { data_type, min, max } => {
                let wide = array!(Int64Array, |bits| between(bits, *min, *max));
                cast(&wide, data_type)?
            }
            Random::Float { data_type, min, max } => {
                // Halves first: the whole range of doubles is wider than a double.
                let value = |bits| min + unit(bits) * (max / 2.0 - min / 2.0) * 2.0;
                match data_type {
                    #[expect(clippy::cast_possible_truncation, reason = "the range is that of FLOAT")]
                    DataType::Float32 => array!(Float32Array, |bits| value(bits) as f32),
                    _ => array!(Float64Array, value),
                }
            }
            Random::Decimal { precision, scale, min, max } => {
                let value = |bits: u64| {
                    let low = random(bits, 1);
                    let wide = (u128::from(bits) << 64 | u128::from(low)) % ((max - min).cast_unsigned() + 1);
                    min + wide.cast_signed()
                };
                let values: Decimal128Array = rows.map(|row| valid(row).then(|| value(random(key, row)))).collect();
                Arc::new(values.with_precision_and_scale(*precision, *scale)?)
            }
            Random::String { length } => array!(StringArray, |bits| hex(bits, *length)),
            Random::Bytes { length } => {
                let values: Vec<_> = rows.map(|row| valid(row).then(|| bytes(random(key, row), *length))).collect();
                Arc::new(values.iter().map(Option::as_deref).collect::<BinaryArray>())
            }
            Random::Date => {
                let today = i32::try_from(now_ms.div_euclid(DAY_MS)).unwrap_or(i32::MAX);
                array!(Date32Array, |_| today)
            }
            Random::Time => {
                let value = |bits| i32::try_from(between(bits, 0, DAY_MS - 1)).expect("a day's milliseconds");
                array!(Time32MillisecondArray, value)
            }
            Random::Timestamp { data_type, max_past_ms } => {
                let value = |bits| now_ms - below(bits, max_past_ms + 1).cast_signed();
                cast(&array!(TimestampMillisecondArray, value), data_type)?
            }
        })
    }
}

fn decimal<'o>(precision: u8, scale: i8, option: &dyn Fn(&str) -> Option<&'o str>) -> Result<Random, Wrong> {
    let most = 10i128.pow(u32::from(precision)) - 1;
    let bound = |part: &'static str, default: i128| match option(part) {
        None => Ok(default),
        Some(text) => crate::format::decimal(text, precision, scale).map_err(|reason| (part, reason)),
    };
    let (min, max) = (bound("min", -most)?, bound("max", most)?);
    if min > max {
        return Err(("max", "the greatest value is less than the least".to_owned()));
    }
    Ok(Random::Decimal { precision, scale, min, max })
}

/// A number from `min` to `max`, both included.
#[inline]
fn between(bits: u64, min: i64, max: i64) -> i64 {
    match max.wrapping_sub(min).cast_unsigned().checked_add(1) {
        Some(range) => min.wrapping_add(below(bits, range).cast_signed()),
        None => bits.cast_signed(),
    }
}

fn bytes(bits: u64, length: usize) -> Vec<u8> {
    (0..).flat_map(|i| random(bits, i).to_le_bytes()).take(length).collect()
}

fn hex(bits: u64, length: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |byte: u8| char::from(DIGITS[usize::from(byte & 15)]);
    bytes(bits, length).into_iter().map(digit).collect()
}

impl Filler {
    pub(super) fn sequence(data_type: &DataType, start: i64, end: i64) -> Result<Filler, Wrong> {
        if data_type.is_numeric() || *data_type == DataType::Utf8 {
            return Ok(Filler::Sequence { data_type: data_type.clone(), start, end });
        }
        Err(("kind", format!("there is no sequence of {data_type}; sequences are numbers or strings of numbers")))
    }

    /// How many rows it has values for.
    pub(super) fn rows(&self) -> Option<u64> {
        match self {
            Filler::Sequence { start, end, .. } => Some(end.wrapping_sub(*start).cast_unsigned().saturating_add(1)),
            Filler::Random(_) => None,
        }
    }

    /// Values of some rows.
    pub(super) fn fill(&self, key: u64, null_rate: f64, rows: Range<u64>, now_ms: i64) -> Result<ArrayRef, ArrowError> {
        let valid = |row: u64| null_rate == 0.0 || unit(random(key ^ NULLS, row)) >= null_rate;
        match self {
            Filler::Random(random) => random.fill(key, rows, &valid, now_ms),
            Filler::Sequence { data_type, start, .. } => {
                let value = |row: u64| valid(row).then(|| start.wrapping_add(row.cast_signed()));
                let values: ArrayRef = Arc::new(rows.map(value).collect::<Int64Array>());
                cast(&values, data_type)
            }
        }
    }
}
