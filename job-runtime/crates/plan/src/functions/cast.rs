//! CAST and TRY_CAST by Flink's rules.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Date32Array, StringArray, Time32MillisecondArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, TimestampMillisecondType};

use super::time;
use crate::expr::{Native, Typed, is_numeric};
use crate::sql::types;

/// `CAST(value AS to)`; `None` if Flink has no such cast.
pub(crate) fn explicit(value: Typed, to: &DataType, try_cast: bool) -> Option<Typed> {
    let from = value.data_type.clone();
    if from == *to {
        return Some(value);
    }
    let plain = |value: Typed| if try_cast { value.try_cast(to) } else { value.cast(to) };
    match (&from, to) {
        (DataType::Null, _) => Some(value.cast(to)),
        (DataType::Utf8, _) if time::is_temporal(to) => Some(string_to_time(value, to, try_cast)),
        (DataType::Utf8, _) if is_numeric(to) || *to == DataType::Boolean => {
            let trimmed = Typed::new(datafusion_functions::string::btrim().call(vec![value.expr]), DataType::Utf8);
            Some(plain(trimmed))
        }
        (DataType::Utf8, DataType::Binary) | (DataType::Binary, DataType::Utf8) => Some(plain(value)),
        (DataType::Timestamp(_, _), DataType::Utf8) => Some(timestamp_to_string(value)),
        (DataType::Boolean, DataType::Utf8) => Some(boolean_to_string(value)),
        (_, DataType::Utf8) if is_numeric(&from) || time::is_temporal(&from) => Some(plain(value)),
        _ if is_numeric(&from) && is_numeric(to) => Some(plain(value)),
        (DataType::Boolean, _) if is_numeric(to) => Some(plain(value)),
        (_, DataType::Boolean) if from.is_integer() => Some(plain(value)),
        (DataType::Timestamp(_, _), DataType::Timestamp(_, _) | DataType::Date32 | DataType::Time32(_))
        | (DataType::Date32, DataType::Timestamp(_, _)) => Some(plain(value)),
        _ => None,
    }
}

fn string_to_time(value: Typed, to: &DataType, try_cast: bool) -> Typed {
    if let Some(constant) = value.as_string().and_then(|text| time::constant(text, to)) {
        return Typed::literal(constant);
    }
    let target = to.clone();
    let name = format!("{}_{}", if try_cast { "try_cast" } else { "cast" }, types::name(to).to_lowercase());
    Native::call(name, vec![value], to.clone(), move |arrays| {
        let strings = arrays[0].as_string::<i32>();
        fn read<T>(
            strings: &StringArray,
            keep_null: bool,
            what: &DataType,
            parse: impl Fn(&str) -> Option<T>,
        ) -> Result<Vec<Option<T>>, String> {
            let one = |s: Option<&str>| match s.map(|s| (s, parse(s))) {
                Some((text, None)) if !keep_null => Err(format!("'{text}' is not a {}", types::name(what))),
                Some((_, value)) => Ok(value),
                None => Ok(None),
            };
            strings.iter().map(one).collect()
        }
        Ok(match &target {
            DataType::Date32 => {
                Arc::new(Date32Array::from(read(strings, try_cast, &target, time::parse_date)?)) as ArrayRef
            }
            DataType::Time32(_) => {
                Arc::new(Time32MillisecondArray::from(read(strings, try_cast, &target, time::parse_time)?))
            }
            _ => {
                let times = TimestampMillisecondArray::from(read(strings, try_cast, &target, time::parse_timestamp)?);
                Arc::new(times.with_data_type(target.clone()))
            }
        })
    })
}

fn timestamp_to_string(value: Typed) -> Typed {
    Native::call("cast_string", vec![value], DataType::Utf8, |arrays| {
        let times = arrays[0].as_primitive::<TimestampMillisecondType>();
        Ok(Arc::new(times.iter().map(|t| t.and_then(time::format_timestamp)).collect::<StringArray>()))
    })
}

/// `TRUE` and `FALSE`, in capitals.
fn boolean_to_string(value: Typed) -> Typed {
    Native::call("cast_string", vec![value], DataType::Utf8, |arrays| {
        let values: &BooleanArray = arrays[0].as_boolean();
        Ok(Arc::new(values.iter().map(|b| b.map(|b| if b { "TRUE" } else { "FALSE" })).collect::<StringArray>()))
    })
}
