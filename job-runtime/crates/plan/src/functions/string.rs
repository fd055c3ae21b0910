//! Functions of strings, under Flink's names.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type};
use datafusion_common::ScalarValue;
use datafusion_expr::{Operator, ReturnFieldArgs, ScalarUDF};
use datafusion_functions::{crypto, string, unicode};

use crate::expr::{Native, Typed, plain_error};

/// A call of a function of DataFusion, with the type that it really gives.
pub(super) fn library(function: Arc<ScalarUDF>, arguments: Vec<Typed>) -> Result<Typed, String> {
    let fields: Vec<_> = arguments.iter().map(|a| Arc::new(Field::new("", a.data_type.clone(), true))).collect();
    let constants: Vec<Option<&ScalarValue>> = arguments.iter().map(Typed::as_literal).collect();
    let result = function
        .return_field_from_args(ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &constants })
        .map_err(plain_error)?;
    let call = function.call(arguments.into_iter().map(|a| a.expr).collect());
    Ok(Typed::new(call, result.data_type().clone()))
}

type Arguments = Vec<Typed>;
type Call = Result<Typed, String>;

/// Strings stay strings, whole numbers become BIGINT: what DataFusion's string functions take.
fn text(function: Arc<ScalarUDF>, arguments: Arguments) -> Call {
    let arguments = arguments
        .into_iter()
        .map(|a| if a.data_type.is_integer() { a.cast(&DataType::Int64) } else { a.cast(&DataType::Utf8) })
        .collect();
    library(function, arguments).map(|call| call.cast(&DataType::Utf8))
}

fn count(function: Arc<ScalarUDF>, arguments: Arguments) -> Call {
    library(function, arguments.into_iter().map(|a| a.cast(&DataType::Utf8)).collect())
        .map(|call| call.cast(&DataType::Int32))
}

pub(super) fn upper(a: Arguments) -> Call {
    text(string::upper(), a)
}

pub(super) fn lower(a: Arguments) -> Call {
    text(string::lower(), a)
}

pub(super) fn initcap(a: Arguments) -> Call {
    text(unicode::initcap(), a)
}

pub(super) fn char_length(a: Arguments) -> Call {
    count(unicode::character_length(), a)
}

/// Null if one is null, unlike DataFusion's.
pub(super) fn concat(a: Arguments) -> Call {
    let joined = a
        .into_iter()
        .map(|part| part.cast(&DataType::Utf8))
        .reduce(|a, b| a.binary(Operator::StringConcat, b, DataType::Utf8));
    joined.ok_or_else(|| "nothing to join".to_owned())
}

pub(super) fn concat_ws(a: Arguments) -> Call {
    text(string::concat_ws(), a)
}

pub(super) fn substring(a: Arguments) -> Call {
    text(unicode::substr(), a)
}

pub(super) fn left(a: Arguments) -> Call {
    text(unicode::left(), a)
}

pub(super) fn right(a: Arguments) -> Call {
    text(unicode::right(), a)
}

pub(super) fn trim(a: Arguments) -> Call {
    text(string::btrim(), a)
}

pub(super) fn ltrim(a: Arguments) -> Call {
    text(string::ltrim(), a)
}

pub(super) fn rtrim(a: Arguments) -> Call {
    text(string::rtrim(), a)
}

pub(super) fn lpad(a: Arguments) -> Call {
    text(unicode::lpad(), a)
}

pub(super) fn rpad(a: Arguments) -> Call {
    text(unicode::rpad(), a)
}

pub(super) fn replace(a: Arguments) -> Call {
    text(string::replace(), a)
}

pub(super) fn repeat(a: Arguments) -> Call {
    text(string::repeat(), a)
}

pub(super) fn reverse(a: Arguments) -> Call {
    text(unicode::reverse(), a)
}

pub(super) fn ascii(a: Arguments) -> Call {
    count(string::ascii(), a)
}

/// `POSITION(part IN string)`: DataFusion's takes the string first.
pub(super) fn position(mut a: Arguments) -> Call {
    a.swap(0, 1);
    count(unicode::strpos(), a)
}

pub(super) fn starts_with(a: Arguments) -> Call {
    library(string::starts_with(), a.into_iter().map(|a| a.cast(&DataType::Utf8)).collect())
}

pub(super) fn ends_with(a: Arguments) -> Call {
    library(string::ends_with(), a.into_iter().map(|a| a.cast(&DataType::Utf8)).collect())
}

/// From 0, and null behind the last part.
pub(super) fn split_index(a: Arguments) -> Call {
    let arguments = a
        .into_iter()
        .zip([DataType::Utf8, DataType::Utf8, DataType::Int32])
        .map(|(argument, to)| argument.cast(&to))
        .collect();
    Ok(Native::call("split_index", arguments, DataType::Utf8, |arrays| {
        let (strings, separators) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
        let indexes = arrays[2].as_primitive::<Int32Type>();
        let one = |((s, separator), index): ((Option<&str>, Option<&str>), Option<i32>)| {
            let index = usize::try_from(index?).ok()?;
            s?.split(separator?).nth(index).map(str::to_owned)
        };
        Ok(Arc::new(strings.iter().zip(separators.iter()).zip(indexes.iter()).map(one).collect::<StringArray>()))
    }))
}

pub(super) fn md5(a: Arguments) -> Call {
    text(crypto::md5(), a)
}

/// In hexadecimal digits: DataFusion's gives bytes.
pub(super) fn sha256(a: Arguments) -> Call {
    let digest = library(crypto::sha256(), a.into_iter().map(|a| a.cast(&DataType::Utf8)).collect())?;
    let digest = digest.cast(&DataType::Binary);
    Ok(Native::call("hex", vec![digest], DataType::Utf8, |arrays| {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        Ok(Arc::new(arrays[0].as_binary::<i32>().iter().map(|b| b.map(hex)).collect::<StringArray>()))
    }))
}
