//! Functions of any type.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::{BinaryExpr, Case, Expr, Operator};
use datafusion_functions::core;

use super::string::library;
use crate::expr::{Typed, common_type};
use crate::sql::types;

type Arguments = Vec<Typed>;
type Call = Result<Typed, String>;

/// All arguments in their common type.
fn united(a: Arguments) -> Result<(Vec<Expr>, DataType), String> {
    let mut to = DataType::Null;
    for value in &a {
        to = common_type(&to, &value.data_type).ok_or_else(|| {
            format!(
                "the arguments are {} and {}, which have no common type",
                types::name(&to),
                types::name(&value.data_type)
            )
        })?;
    }
    Ok((a.into_iter().map(|value| value.cast(&to).expr).collect(), to))
}

pub(super) fn coalesce(a: Arguments) -> Call {
    let (mut values, to) = united(a)?;
    let Some(last) = values.pop() else { return Err("nothing is given".to_owned()) };
    if values.is_empty() {
        return Ok(Typed::new(last, to));
    }
    let branches = values.into_iter().map(|v| (Box::new(Expr::IsNotNull(Box::new(v.clone()))), Box::new(v))).collect();
    Ok(Typed::new(Expr::Case(Case::new(None, branches, Some(Box::new(last)))), to))
}

pub(super) fn nullif(a: Arguments) -> Call {
    let original = a.first().map_or(DataType::Null, |v| v.data_type.clone());
    let (values, to) = united(a)?;
    let arguments = values.into_iter().map(|v| Typed::new(v, to.clone())).collect();
    Ok(library(core::nullif(), arguments)?.cast(&original))
}

pub(super) fn if_then(mut a: Arguments) -> Call {
    let condition = a.remove(0).cast(&DataType::Boolean);
    let (values, to) = united(a)?;
    let [yes, no] = <[Expr; 2]>::try_from(values).map_err(|_| "two results are needed".to_owned())?;
    let case = Case::new(None, vec![(Box::new(condition.expr), Box::new(yes))], Some(Box::new(no)));
    Ok(Typed::new(Expr::Case(case), to))
}

pub(super) fn greatest(a: Arguments) -> Call {
    extreme(a, core::greatest())
}

pub(super) fn least(a: Arguments) -> Call {
    extreme(a, core::least())
}

/// Null if one is null, unlike DataFusion's.
fn extreme(a: Arguments, function: std::sync::Arc<datafusion_expr::ScalarUDF>) -> Call {
    let (values, to) = united(a)?;
    let or = |a: Expr, b: Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(a), Operator::Or, Box::new(b)));
    let any_null = values.iter().map(|v| Expr::IsNull(Box::new(v.clone()))).reduce(or);
    let call = function.call(values);
    let Some(any_null) = any_null else { return Ok(Typed::new(call, to)) };
    let null = ScalarValue::try_from(&to).map_err(|error| error.to_string())?;
    let case = Case::new(None, vec![(Box::new(any_null), Box::new(Expr::Literal(null, None)))], Some(Box::new(call)));
    Ok(Typed::new(Expr::Case(case), to))
}
