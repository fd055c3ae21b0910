//! Flink SQL's data types and the Arrow types that hold them.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};

/// A type as written in SQL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SqlType {
    /// How we hold it.
    pub(crate) arrow: DataType,
}

/// The Arrow type of `TIMESTAMP(3)`.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
}

/// The Arrow type of `TIMESTAMP_LTZ(3)`.
pub(crate) fn timestamp_ltz() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The Arrow type of day-time intervals.
pub(crate) const INTERVAL: DataType = DataType::Duration(TimeUnit::Millisecond);
/// The Arrow type of year-month intervals.
pub(crate) const INTERVAL_MONTHS: DataType = DataType::Interval(IntervalUnit::YearMonth);

/// Types that a message may propose.
pub(crate) const TYPE_NAMES: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "INTEGER",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "STRING",
    "VARCHAR",
    "CHAR",
    "BYTES",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMP_LTZ",
];

/// Why a type cannot be used.
#[derive(Debug, PartialEq)]
pub(crate) struct TypeProblem {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

fn problem(message: impl Into<String>, help: &str) -> TypeProblem {
    TypeProblem { message: message.into(), help: Some(help.to_owned()) }
}

/// Reads a type from its text, e.g. `DECIMAL(10, 2)` or `timestamp(3) with local time zone`.
pub(crate) fn parse(text: &str) -> Result<SqlType, TypeProblem> {
    let upper = text.to_uppercase();
    let (name, rest) = match upper.find(['(', '<']) {
        Some(at) => (upper[..at].trim(), &upper[at..]),
        None => (upper.trim(), ""),
    };
    let (arguments, suffix) = split_arguments(rest);
    let full = [name, suffix].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join(" ");
    let full = full.split_whitespace().collect::<Vec<_>>().join(" ");
    let arrow = match full.as_str() {
        "BOOLEAN" => DataType::Boolean,
        "TINYINT" => DataType::Int8,
        "SMALLINT" => DataType::Int16,
        "INT" | "INTEGER" => DataType::Int32,
        "BIGINT" => DataType::Int64,
        "FLOAT" => DataType::Float32,
        "DOUBLE" | "DOUBLE PRECISION" => DataType::Float64,
        "DECIMAL" | "DEC" | "NUMERIC" => decimal(arguments)?,
        "STRING" | "VARCHAR" | "CHAR" | "CHARACTER" | "CHARACTER VARYING" | "CHAR VARYING" => DataType::Utf8,
        "BYTES" | "VARBINARY" | "BINARY" => DataType::Binary,
        "DATE" => DataType::Date32,
        "TIME" | "TIME WITHOUT TIME ZONE" => {
            precision("TIME", arguments, 0)?;
            DataType::Time32(TimeUnit::Millisecond)
        }
        "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" => {
            precision("TIMESTAMP", arguments, 6)?;
            timestamp()
        }
        "TIMESTAMP_LTZ" | "TIMESTAMP WITH LOCAL TIME ZONE" => {
            precision("TIMESTAMP_LTZ", arguments, 6)?;
            timestamp_ltz()
        }
        "TIMESTAMP WITH TIME ZONE" => {
            return Err(problem("TIMESTAMP WITH TIME ZONE is not supported", "use TIMESTAMP_LTZ(3): an instant"));
        }
        "ROW" | "ARRAY" | "MAP" | "MULTISET" | "RAW" | "VARIANT" => {
            return Err(problem(
                format!("the type {full} is not supported yet"),
                "declare the nested fields as columns of their own, or the whole as STRING",
            ));
        }
        other => {
            let help = crate::diagnostic::did_you_mean(other, TYPE_NAMES.iter().copied())
                .unwrap_or_else(|| format!("known types are {}", TYPE_NAMES.join(", ")));
            return Err(TypeProblem { message: format!("`{}` is not a type", text.trim()), help: Some(help) });
        }
    };
    Ok(SqlType { arrow })
}

fn split_arguments(rest: &str) -> (&str, &str) {
    match (rest.strip_prefix('('), rest.find(')')) {
        (Some(inner), Some(end)) => (inner[..end - 1].trim(), rest[end + 1..].trim()),
        _ => ("", ""),
    }
}

fn decimal(arguments: &str) -> Result<DataType, TypeProblem> {
    const HELP: &str = "write DECIMAL(precision, scale) with 1 <= precision <= 38 and 0 <= scale <= precision";
    if arguments.is_empty() {
        return Ok(DataType::Decimal128(10, 0));
    }
    let numbers: Result<Vec<u8>, _> = arguments.split(',').map(|n| n.trim().parse()).collect();
    match numbers.as_deref() {
        Ok([p]) if (1..=38).contains(p) => Ok(DataType::Decimal128(*p, 0)),
        Ok([p, s]) if (1..=38).contains(p) && s <= p => Ok(DataType::Decimal128(*p, *s as i8)),
        _ => Err(problem(format!("DECIMAL({arguments}) does not exist"), HELP)),
    }
}

/// We keep milliseconds: a type that promises more is refused, so that nothing is cut silently.
fn precision(name: &str, arguments: &str, default: u8) -> Result<(), TypeProblem> {
    let digits = if arguments.is_empty() { Ok(default) } else { arguments.parse::<u8>() };
    match digits {
        Ok(0..=3) => Ok(()),
        _ => Err(problem(
            format!("{name} with a precision of more than milliseconds is not supported"),
            &format!("write {name}(3)"),
        )),
    }
}

/// A type's name in Flink SQL.
pub(crate) fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Utf8 => "STRING".to_owned(),
        DataType::Binary => "BYTES".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Time32(_) => "TIME(0)".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP(3)".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP_LTZ(3)".to_owned(),
        DataType::Duration(_) => "INTERVAL DAY TO SECOND".to_owned(),
        DataType::Interval(_) => "INTERVAL YEAR TO MONTH".to_owned(),
        other => other.to_string(),
    }
}
