//! Functions of dates and times.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Date32Array, Int64Array, PrimitiveArray, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMillisecondType};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_functions::datetime;

use super::string::library;
use super::time::{self, Pattern};
use crate::expr::{Native, Typed};
use crate::sql::types;

type Arguments = Vec<Typed>;
type Call = Result<Typed, String>;

/// A point in time without its zone: all are UTC, and kernels need not look a zone up.
fn plain_time(value: Typed) -> Typed {
    if value.data_type == DataType::Date32 { value } else { value.cast(&types::timestamp()) }
}

fn unit(name: &str) -> Typed {
    Typed::literal(ScalarValue::Utf8(Some(name.to_owned())))
}

fn part(name: &str, value: Typed) -> Call {
    Ok(library(datetime::date_part(), vec![unit(name), plain_time(value)])?.cast(&DataType::Int64))
}

/// Sunday is 1.
fn week_day(value: Typed) -> Call {
    let one = Typed::literal(ScalarValue::Int64(Some(1)));
    Ok(part("dow", value)?.binary(Operator::Plus, one, DataType::Int64))
}

pub(super) fn extract(mut a: Arguments) -> Call {
    let value = a.remove(1);
    let name = a[0].as_string().unwrap_or_default().to_uppercase();
    match name.as_str() {
        "DOW" | "DAYOFWEEK" => week_day(value),
        "YEAR" | "QUARTER" | "MONTH" | "WEEK" | "DAY" | "DOY" | "HOUR" | "MINUTE" | "SECOND" | "EPOCH" | "ISODOW" => {
            part(&name.to_lowercase(), value)
        }
        "MILLISECOND" => {
            let thousand = Typed::literal(ScalarValue::Int64(Some(1000)));
            Ok(part("millisecond", value)?.binary(Operator::Modulo, thousand, DataType::Int64))
        }
        other => Err(format!("`{other}` is not a part of a time")),
    }
}

macro_rules! parts {
    ($($name:ident $unit:literal;)*) => {
        $(pub(super) fn $name(mut a: Arguments) -> Call {
            part($unit, a.remove(0))
        })*
    };
}

parts! {
    year "year";
    quarter "quarter";
    month "month";
    week "week";
    day "day";
    day_of_year "doy";
    hour "hour";
    minute "minute";
    second "second";
}

pub(super) fn day_of_week(mut a: Arguments) -> Call {
    week_day(a.remove(0))
}

pub(super) fn floor_to(mut a: Arguments) -> Call {
    let value = a.remove(0);
    let to = value.data_type.clone();
    let name = a[0].as_string().unwrap_or_default().to_uppercase();
    let millis = match name.as_str() {
        "SECOND" => 1000,
        "MINUTE" => 60_000,
        "HOUR" => 3_600_000,
        "DAY" => 86_400_000,
        "WEEK" | "MONTH" | "QUARTER" | "YEAR" => {
            let truncated = library(datetime::date_trunc(), vec![unit(&name.to_lowercase()), plain_time(value)])?;
            return Ok(truncated.cast(&types::timestamp()).cast(&to));
        }
        other => return Err(format!("a time cannot be rounded to `{other}`")),
    };
    Ok(Native::call(format!("floor_to_{}", name.to_lowercase()), vec![value], to, move |arrays| {
        let times = arrays[0].as_primitive::<TimestampMillisecondType>();
        let floored: PrimitiveArray<TimestampMillisecondType> = times.unary(|t: i64| t - t.rem_euclid(millis));
        Ok(Arc::new(floored.with_data_type(times.data_type().clone())))
    }))
}

/// The pattern at an index of the arguments, or a default.
fn pattern(a: &Arguments, index: usize, default: &str) -> Result<Pattern, String> {
    Pattern::compile(a.get(index).and_then(Typed::as_string).unwrap_or(default))
}

const SECONDS: &str = "yyyy-MM-dd HH:mm:ss";

pub(super) fn date_format(mut a: Arguments) -> Call {
    let pattern = pattern(&a, 1, SECONDS)?;
    let value = a.remove(0).cast(&types::timestamp());
    Ok(Native::call(format!("date_format[{pattern}]"), vec![value], DataType::Utf8, move |arrays| {
        let times = arrays[0].as_primitive::<TimestampMillisecondType>();
        Ok(Arc::new(times.iter().map(|t| t.and_then(|ms| pattern.format(ms))).collect::<StringArray>()))
    }))
}

pub(super) fn from_unixtime(mut a: Arguments) -> Call {
    let pattern = pattern(&a, 1, SECONDS)?;
    let value = a.remove(0).cast(&DataType::Int64);
    Ok(Native::call(format!("from_unixtime[{pattern}]"), vec![value], DataType::Utf8, move |arrays| {
        let seconds = arrays[0].as_primitive::<Int64Type>();
        let format = |s: i64| s.checked_mul(1000).and_then(|ms| pattern.format(ms));
        Ok(Arc::new(seconds.iter().map(|s| s.and_then(format)).collect::<StringArray>()))
    }))
}

pub(super) fn to_timestamp(mut a: Arguments) -> Call {
    let value = a.remove(0).cast(&DataType::Utf8);
    let Some(text) = a.first().and_then(Typed::as_string) else {
        return Ok(Native::call("to_timestamp", vec![value], types::timestamp(), |arrays| {
            let times = arrays[0].as_string::<i32>().iter().map(|s| s.and_then(time::parse_timestamp));
            Ok(Arc::new(times.collect::<TimestampMillisecondArray>()))
        }));
    };
    let pattern = Pattern::compile(text)?;
    Ok(Native::call(format!("to_timestamp[{pattern}]"), vec![value], types::timestamp(), move |arrays| {
        let times = arrays[0].as_string::<i32>().iter().map(|s| s.and_then(|s| pattern.parse(s)));
        Ok(Arc::new(times.collect::<TimestampMillisecondArray>()))
    }))
}

pub(super) fn to_date(mut a: Arguments) -> Call {
    let pattern = pattern(&a, 1, "yyyy-MM-dd")?;
    let value = a.remove(0).cast(&DataType::Utf8);
    Ok(Native::call(format!("to_date[{pattern}]"), vec![value], DataType::Date32, move |arrays| {
        let day = |s: &str| pattern.parse(s).and_then(|ms| i32::try_from(ms.div_euclid(86_400_000)).ok());
        Ok(Arc::new(arrays[0].as_string::<i32>().iter().map(|s| s.and_then(day)).collect::<Date32Array>()))
    }))
}

pub(super) fn unix_timestamp(mut a: Arguments) -> Call {
    let pattern = pattern(&a, 1, SECONDS)?;
    let value = a.remove(0).cast(&DataType::Utf8);
    Ok(Native::call(format!("unix_timestamp[{pattern}]"), vec![value], DataType::Int64, move |arrays| {
        let seconds = |s: &str| pattern.parse(s).map(|ms| ms.div_euclid(1000));
        Ok(Arc::new(arrays[0].as_string::<i32>().iter().map(|s| s.and_then(seconds)).collect::<Int64Array>()))
    }))
}

pub(super) fn to_timestamp_ltz(a: Arguments) -> Call {
    let [number, precision] =
        <[Typed; 2]>::try_from(a).map_err(|_| "a number and a precision are needed".to_owned())?;
    let scale = match precision.as_literal().map(|p| p.cast_to(&DataType::Int64)) {
        Some(Ok(ScalarValue::Int64(Some(0)))) => 1000,
        Some(Ok(ScalarValue::Int64(Some(3)))) => 1,
        _ => return Err("the precision is 0 (seconds) or 3 (milliseconds)".to_owned()),
    };
    let number = number.cast(&DataType::Int64);
    Ok(Native::call(format!("to_timestamp_ltz[{scale}]"), vec![number], types::timestamp_ltz(), move |arrays| {
        let numbers = arrays[0].as_primitive::<Int64Type>();
        let times: PrimitiveArray<TimestampMillisecondType> = numbers.unary(|n: i64| n.saturating_mul(scale));
        Ok(Arc::new(times.with_data_type(types::timestamp_ltz())))
    }))
}
