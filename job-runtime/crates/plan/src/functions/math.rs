//! Functions of numbers.

use arrow::datatypes::DataType;
use datafusion_expr::Operator;
use datafusion_functions::math;

use super::string::library;
use crate::expr::{Typed, common_type};

type Arguments = Vec<Typed>;
type Call = Result<Typed, String>;

macro_rules! of_double {
    ($($name:ident => $function:path;)*) => {
        $(pub(super) fn $name(a: Arguments) -> Call {
            library($function(), a.into_iter().map(|a| a.cast(&DataType::Float64)).collect())
        })*
    };
}

of_double! {
    power => math::power;
    sqrt => math::sqrt;
    exp => math::exp;
    ln => math::ln;
    log10 => math::log10;
    log2 => math::log2;
    sin => math::sin;
    cos => math::cos;
    tan => math::tan;
    sign => math::signum;
}

fn only(a: Arguments) -> Result<Typed, String> {
    a.into_iter().next().ok_or_else(|| "a number is missing".to_owned())
}

pub(super) fn abs(a: Arguments) -> Call {
    library(math::abs(), a)
}

/// Whole numbers are whole already.
pub(super) fn floor(a: Arguments) -> Call {
    let number = only(a)?;
    if number.data_type.is_integer() { Ok(number) } else { library(math::floor(), vec![number]) }
}

pub(super) fn ceil(a: Arguments) -> Call {
    let number = only(a)?;
    if number.data_type.is_integer() { Ok(number) } else { library(math::ceil(), vec![number]) }
}

pub(super) fn round(a: Arguments) -> Call {
    let mut a = a.into_iter();
    let number = a.next().ok_or_else(|| "a number is missing".to_owned())?;
    let original = number.data_type.clone();
    let number = if original.is_integer() { number.cast(&DataType::Float64) } else { number };
    let arguments = std::iter::once(number).chain(a.map(|digits| digits.cast(&DataType::Int32))).collect();
    let rounded = library(math::round(), arguments)?;
    Ok(if original.is_integer() { rounded.cast(&original) } else { rounded })
}

pub(super) fn modulo(a: Arguments) -> Call {
    let [a, b] = <[Typed; 2]>::try_from(a).map_err(|_| "two numbers are needed".to_owned())?;
    let to = common_type(&a.data_type, &b.data_type).ok_or_else(|| "the numbers have no common type".to_owned())?;
    Ok(a.cast(&to).binary(Operator::Modulo, b.cast(&to), to))
}
