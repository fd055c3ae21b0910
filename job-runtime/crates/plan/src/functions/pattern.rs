//! Regular expressions, compiled once before the job runs.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, StringArray};
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use regex::Regex;

use crate::expr::{Native, Typed};

type Arguments = Vec<Typed>;
type Call = Result<Typed, String>;

fn compile(pattern: &Typed) -> Result<Regex, String> {
    let text = pattern.as_string().unwrap_or_default();
    Regex::new(text).map_err(|error| {
        let why = error.to_string();
        format!(
            "the regular expression is not valid: {}",
            why.lines().last().unwrap_or_default().trim_start_matches("error: ")
        )
    })
}

fn string(a: &mut Arguments) -> Typed {
    a.remove(0).cast(&DataType::Utf8)
}

pub(super) fn regexp(mut a: Arguments) -> Call {
    let value = string(&mut a);
    let regex = compile(&a[0])?;
    Ok(Native::call(format!("regexp[{regex}]"), vec![value], DataType::Boolean, move |arrays| {
        let matches = arrays[0].as_string::<i32>().iter().map(|s| s.map(|s| regex.is_match(s)));
        Ok(Arc::new(matches.collect::<BooleanArray>()))
    }))
}

pub(super) fn regexp_extract(mut a: Arguments) -> Call {
    let value = string(&mut a);
    let regex = compile(&a[0])?;
    let group = match a.get(1).map(|g| g.as_literal().map(|v| v.cast_to(&DataType::Int64))) {
        None => 0,
        Some(Some(Ok(ScalarValue::Int64(Some(n))))) => {
            usize::try_from(n).map_err(|_| "the group cannot be negative".to_owned())?
        }
        Some(_) => return Err("the group must be a constant".to_owned()),
    };
    if group >= regex.captures_len() {
        return Err(format!(
            "the regular expression has {} groups, there is no group {group}",
            regex.captures_len() - 1
        ));
    }
    Ok(Native::call(format!("regexp_extract[{regex}, {group}]"), vec![value], DataType::Utf8, move |arrays| {
        let extract = |s: &str| regex.captures(s).and_then(|c| c.get(group).map(|m| m.as_str().to_owned()));
        Ok(Arc::new(arrays[0].as_string::<i32>().iter().map(|s| s.and_then(extract)).collect::<StringArray>()))
    }))
}

pub(super) fn regexp_replace(mut a: Arguments) -> Call {
    let value = string(&mut a);
    let regex = compile(&a[0])?;
    let replacement = a.remove(1).cast(&DataType::Utf8);
    Ok(Native::call(format!("regexp_replace[{regex}]"), vec![value, replacement], DataType::Utf8, move |arrays| {
        let (strings, replacements) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
        let replace = |(s, with): (Option<&str>, Option<&str>)| Some(regex.replace_all(s?, with?).into_owned());
        Ok(Arc::new(strings.iter().zip(replacements.iter()).map(replace).collect::<StringArray>()))
    }))
}
