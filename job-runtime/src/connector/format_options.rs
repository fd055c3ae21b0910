//! From options to formats: `format` and everything under `csv.` and `json.`, the same for every connector.
//!
//! Owns that mapping and `on-error`. It does not decode.

use super::ConnectorError;
use super::options::{self, TableOptions};
use crate::format::{CsvFormat, Format, JsonFormat, TimestampStyle};

/// What happens with a record that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The job fails and names the place.
    Fail,
    /// The record is counted and left out.
    Skip,
    /// The record is written elsewhere.
    DeadLetter,
}

/// The format of the table's values.
///
/// # Errors
/// When there is none.
pub fn format(options: &TableOptions<'_>) -> Result<Format, ConnectorError> {
    named(options, options.format_name())
}

/// The format of the table's keys, if it has one.
///
/// # Errors
/// When it is unknown.
pub fn key_format(options: &TableOptions<'_>) -> Result<Option<Format>, ConnectorError> {
    options.raw(options::KEY_FORMAT.key).map(|name| named(options, Some(name))).transpose()
}

fn named(options: &TableOptions<'_>, name: Option<&str>) -> Result<Format, ConnectorError> {
    match name {
        Some("json") => Ok(Format::Json(JsonFormat {
            timestamps: match options.text(&options::JSON_TIMESTAMP_FORMAT) {
                Some("ISO-8601") => TimestampStyle::Iso8601,
                _ => TimestampStyle::Sql,
            },
        })),
        Some("csv") => Ok(Format::Csv(CsvFormat {
            delimiter: options.character(&options::CSV_FIELD_DELIMITER).unwrap_or(b','),
            quote: match options.boolean(&options::CSV_DISABLE_QUOTE_CHARACTER) {
                true => None,
                false => options.character(&options::CSV_QUOTE_CHARACTER),
            },
            null_literal: options.raw(options::CSV_NULL_LITERAL.key).map(str::to_owned),
            comments: options.boolean(&options::CSV_ALLOW_COMMENTS),
            header: options.boolean(&options::CSV_HEADER),
        })),
        Some(other) => Err(options.error(options::FORMAT.key, format!("no format is named '{other}': json or csv"))),
        None => Err(options.error(options::FORMAT.key, "the option 'format' is missing: json or csv")),
    }
}

/// Whether the format can carry the table's columns.
///
/// # Errors
/// Names the column that it cannot carry.
pub fn check(options: &TableOptions<'_>, format: &Format) -> Result<(), ConnectorError> {
    format.check(&options.table().physical).map_err(|e| options.error(options::FORMAT.key, e.message))
}

/// `on-error`, or the format's `ignore-parse-errors`.
///
/// # Errors
/// When the two contradict each other.
pub fn on_error(options: &TableOptions<'_>) -> Result<OnError, ConnectorError> {
    let ignore = [&options::CSV_IGNORE_PARSE_ERRORS, &options::JSON_IGNORE_PARSE_ERRORS]
        .into_iter()
        .find(|o| options.raw(o.key).is_some() && options.boolean(o));
    match (options.raw(options::ON_ERROR.key), ignore) {
        (None, None) | (Some("fail"), None) => Ok(OnError::Fail),
        (None | Some("skip"), Some(_)) | (Some("skip"), None) => Ok(OnError::Skip),
        (Some("dead-letter"), None) => Ok(OnError::DeadLetter),
        (Some(word), Some(ignore)) => {
            let message = format!("'on-error' = '{word}' contradicts '{}' = 'true': leave one out", ignore.key);
            Err(options.error(options::ON_ERROR.key, message))
        }
        (Some(_), None) => Err(options.error(options::ON_ERROR.key, "'on-error' is fail, skip or dead-letter")),
    }
}
