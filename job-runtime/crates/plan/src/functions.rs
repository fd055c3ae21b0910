//! The functions of SQL: one table of them, from which calls are bound and the reference page is made.
//!
//! Owns names, arguments and meaning under Flink's names. The kernels that DataFusion lacks are in the modules below.

use arrow::datatypes::DataType;

use crate::expr::{Typed, is_integer, is_numeric, is_string};

pub(crate) mod cast;
mod convert;
mod general;
mod math;
mod pattern;
mod registry;
mod string;
pub(crate) mod time;
pub(crate) mod window;

/// A function for the reference page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionDoc {
    /// Name in capitals.
    pub name: &'static str,
    /// Heading under which it is listed.
    pub category: &'static str,
    /// How it is called.
    pub signature: &'static str,
    /// What it gives, in one line.
    pub description: &'static str,
    /// An example: `call` is `value`.
    pub example: (&'static str, &'static str),
}

/// All functions, in the order of the reference page.
pub fn reference() -> Vec<FunctionDoc> {
    registry::SCALARS.iter().map(|f| f.doc).chain(registry::OTHERS.iter().copied()).collect()
}

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    String,
    Number,
    Integer,
    Boolean,
    Timestamp,
    /// A point in time or a date.
    Temporal,
    /// A string constant: it is compiled before the job runs.
    Constant,
}

impl Kind {
    /// True if a value may stand here.
    pub(crate) fn takes(self, value: &Typed) -> bool {
        let t = &value.data_type;
        *t == DataType::Null && self != Kind::Constant
            || match self {
                Kind::Any => true,
                Kind::String => is_string(t),
                Kind::Number => is_numeric(t),
                Kind::Integer => is_integer(t),
                Kind::Boolean => *t == DataType::Boolean,
                Kind::Timestamp => matches!(t, DataType::Timestamp(_, _)),
                Kind::Temporal => matches!(t, DataType::Timestamp(_, _) | DataType::Date32),
                Kind::Constant => value.as_string().is_some(),
            }
    }

    /// How a message calls it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Kind::Any => "a value",
            Kind::String => "a STRING",
            Kind::Number => "a number",
            Kind::Integer => "a whole number",
            Kind::Boolean => "a BOOLEAN",
            Kind::Timestamp => "a TIMESTAMP",
            Kind::Temporal => "a TIMESTAMP or DATE",
            Kind::Constant => "a string constant",
        }
    }
}

/// A scalar function.
pub(crate) struct Scalar {
    pub(crate) doc: FunctionDoc,
    pub(crate) arguments: &'static [Kind],
    /// How many of `arguments` may be left out at the end.
    pub(crate) optional: usize,
    /// True if the last argument may be repeated.
    pub(crate) variadic: bool,
    /// Makes the call of checked arguments.
    pub(crate) bind: fn(Vec<Typed>) -> Result<Typed, String>,
}

/// The scalar function of a name in capitals.
pub(crate) fn scalar(name: &str) -> Option<&'static Scalar> {
    let name = registry::ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    registry::SCALARS.iter().find(|f| f.doc.name == name)
}

/// All names that a call may have.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let docs = registry::SCALARS.iter().map(|f| f.doc.name);
    docs.chain(registry::ALIASES.iter().map(|(alias, _)| *alias)).chain(registry::OTHERS.iter().map(|doc| doc.name))
}
