//! Records that do not fit their table: what is done with each, the same for every source; and the dead letter, its one layout.
//!
//! Owns the policy (`on-error`), the options of dead letters and the layout. Letters travel with the rows of their source to the commit and
//! are written by the sink that `target` makes: so they are in the same commit as the position behind them. It writes nothing itself.
//!
//! # Layout, version 1
//! One JSON object: a line of the file, or the value of a Kafka record (without key). Fields in this order; those of the other kind of
//! origin are left out.
//!
//! | field | what |
//! |---|---|
//! | `version` | 1 |
//! | `table` | the table |
//! | `file`, `line` | origin in files: path, and the number of the record's first line |
//! | `topic`, `partition`, `offset` | origin in Kafka |
//! | `timestamp` | Kafka: the record's, in milliseconds since 1970-01-01T00:00:00Z, if it has one |
//! | `key` or `key_base64` | Kafka: the record's key, if it has one |
//! | `error` | why it does not fit |
//! | `time` | when that was seen, UTC |
//! | `attempts` | how often it was tried: 1, because the same bytes give the same answer |
//! | `record` or `record_base64` | the original bytes: as text if they are UTF-8, else in base64; a line without its end |

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataflow::sink::EncodedRows;
use dataflow::source::SourceError;
use serde::Serialize;

use super::format_options::{self, OnError};
use super::options::{self, Connector, TableOptions};
use super::stats::SourceStats;
use super::{ConnectorError, filesystem};
use crate::connector::SinkTarget;
use crate::connector::registry::ConnectorContext;
use crate::format::{BadRecord, RowEnd};
use crate::kafka;

const VERSION: u8 = 1;
/// A poll ends at this much: a source of bad records only must not fill the memory.
const ENOUGH: usize = 1 << 20;
const SAY_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// Where a table's dead letters go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    Path(&'a str),
    Topic(&'a str),
}

/// Checks the options of dead letters, without I/O.
///
/// # Errors
/// When they contradict each other.
pub(crate) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    place(options).map(drop)
}

fn place<'a>(options: &TableOptions<'a>) -> Result<Option<Place<'a>>, ConnectorError> {
    let (path, topic) = (&options::DEAD_LETTER_PATH, &options::DEAD_LETTER_TOPIC);
    let wanted = format_options::on_error(options)? == OnError::DeadLetter;
    let (at_path, at_topic) = (options.raw(path.key), options.raw(topic.key));
    match (wanted, at_path, at_topic) {
        (false, None, None) => Ok(None),
        (false, Some(_), _) => {
            Err(options.error(path.key, "'dead-letter.path' does nothing without 'on-error' = 'dead-letter'"))
        }
        (false, None, Some(_)) => {
            Err(options.error(topic.key, "'dead-letter.topic' does nothing without 'on-error' = 'dead-letter'"))
        }
        (true, Some(_), Some(_)) => {
            Err(options.error(topic.key, "dead letters go to one place: 'dead-letter.path' or 'dead-letter.topic'"))
        }
        (true, Some(at), None) => Ok(Some(Place::Path(at))),
        (true, None, Some(at)) if options.raw(options::TOPIC.key) == Some(at) => Err(options.error(
            topic.key,
            "'dead-letter.topic' is the topic that is read: each dead letter would become another one",
        )),
        (true, None, Some(at)) => Ok(Some(Place::Topic(at))),
        (true, None, None) => Err(match options.connector() {
            Connector::Kafka => {
                options.error(topic.key, "'on-error' = 'dead-letter' needs 'dead-letter.topic' or 'dead-letter.path'")
            }
            _ => {
                let message =
                    "'on-error' = 'dead-letter' needs 'dead-letter.path', the file for records that do not fit";
                options.error(path.key, message)
            }
        }),
    }
}

/// What writes a table's dead letters, if it has any: a file sink, or records in the commit's transaction.
///
/// # Errors
/// When an option is wrong, or the place is not there or not writable.
pub(crate) fn target(
    options: &TableOptions<'_>,
    context: &ConnectorContext,
) -> Result<Option<SinkTarget>, ConnectorError> {
    Ok(match place(options)? {
        None => None,
        Some(Place::Path(path)) => Some(filesystem::dead_letters(options, path, context)?),
        Some(Place::Topic(topic)) => Some(kafka::dead_letters(options, topic, context)?),
    })
}

/// Where a record came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin<'a> {
    File { file: &'a str, line: u64 },
    Kafka { topic: &'a str, partition: i32, offset: i64, timestamp_ms: Option<i64>, key: Option<&'a [u8]> },
}

impl Origin<'_> {
    /// For people.
    fn place(&self) -> String {
        match self {
            Self::File { file, line } => format!("{file}:{line}"),
            Self::Kafka { topic, partition, offset, .. } => {
                format!("topic {topic}, partition {partition}, offset {offset}")
            }
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::File { .. } => "mend the record, or set 'on-error' = 'skip' or 'dead-letter'",
            Self::Kafka { .. } => "mend the producer, or set 'on-error' = 'skip' or 'dead-letter'",
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Serialize)]
struct Letter<'a> {
    version: u8,
    table: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    error: &'a str,
    time: &'a str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record_base64: Option<String>,
}

impl<'a> Letter<'a> {
    fn new(table: &'a str, origin: &Origin<'a>, error: &'a str, time: &'a str, record: &'a [u8]) -> Self {
        let (record, record_base64) = text_or_base64(record);
        let (version, attempts) = (VERSION, 1);
        let letter = Self {
            version,
            table,
            file: None,
            line: None,
            topic: None,
            partition: None,
            offset: None,
            timestamp: None,
            key: None,
            key_base64: None,
            error,
            time,
            attempts,
            record,
            record_base64,
        };
        match *origin {
            Origin::File { file, line } => Self { file: Some(file), line: Some(line), ..letter },
            Origin::Kafka { topic, partition, offset, timestamp_ms, key } => {
                let (key, key_base64) = key.map(text_or_base64).unwrap_or_default();
                let (topic, partition, offset) = (Some(topic), Some(partition), Some(offset));
                Self { topic, partition, offset, timestamp: timestamp_ms, key, key_base64, ..letter }
            }
        }
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(base64(bytes))),
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) & 63;
            out.push(if digit <= three.len() { char::from(DIGITS[at as usize]) } else { '=' });
        }
    }
    out
}

/// What a source partition does with records that do not fit.
#[derive(Debug)]
pub(crate) struct Misfits {
    table: String,
    on_error: OnError,
    /// Stands behind each letter.
    end: RowEnd,
    stats: Arc<SourceStats>,
    letters: EncodedRows,
    left_out: u64,
    said: Option<Instant>,
}

impl Misfits {
    /// For a partition of a table.
    pub(crate) fn new(rules: &Rules, table: &str, stats: Arc<SourceStats>) -> Self {
        let Rules { on_error, end } = *rules;
        Self { table: table.to_owned(), on_error, end, stats, letters: EncodedRows::default(), left_out: 0, said: None }
    }

    /// Deals with a record that does not fit.
    ///
    /// # Errors
    /// When the table says that it ends the job.
    #[cold]
    pub(crate) fn add(&mut self, origin: &Origin<'_>, bad: &BadRecord, record: &[u8]) -> Result<(), SourceError> {
        match self.on_error {
            OnError::Fail => {
                let message = format!("{bad}; {}", origin.advice());
                return Err(SourceError { table: self.table.clone(), place: origin.place(), message });
            }
            OnError::Skip => self.stats.skip(),
            OnError::DeadLetter => {
                self.stats.dead_letter();
                self.write(origin, bad, record);
            }
        }
        self.left_out += 1;
        if self.said.is_none_or(|at| at.elapsed() >= SAY_AT_MOST_EVERY) {
            self.said = Some(Instant::now());
            let (table, place) = (&self.table, origin.place());
            tracing::warn!(table, place, error = %bad, left_out = self.left_out, "record does not fit and is left out");
        }
        Ok(())
    }

    fn write(&mut self, origin: &Origin<'_>, bad: &BadRecord, record: &[u8]) {
        let (error, time) = (bad.to_string(), jiff::Timestamp::now().to_string());
        let letter = Letter::new(&self.table, origin, &error, &time, record);
        let bytes = &mut self.letters.bytes;
        serde_json::to_writer(&mut *bytes, &letter).expect("text and numbers can always be written as JSON to memory");
        match self.end {
            RowEnd::Newline => bytes.push(b'\n'),
            RowEnd::Nothing => {}
        }
        let end = u32::try_from(bytes.len()).expect("a poll ends far below 4 GiB of letters");
        self.letters.ends.push(end);
    }

    /// True if the poll must end, so that what waits can be handed on.
    pub(crate) fn enough(&self) -> bool {
        self.letters.bytes.len() >= ENOUGH
    }

    /// The letters since the last call.
    pub(crate) fn take(&mut self) -> Option<EncodedRows> {
        (!self.letters.ends.is_empty()).then(|| std::mem::take(&mut self.letters))
    }

    /// How many records have been left out.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// A table's rules for records that do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    on_error: OnError,
    end: RowEnd,
}

impl Rules {
    /// Reads them.
    ///
    /// # Errors
    /// When the options contradict each other.
    pub(crate) fn new(options: &TableOptions<'_>) -> Result<Self, ConnectorError> {
        let end = match place(options)? {
            Some(Place::Topic(_)) => RowEnd::Nothing,
            Some(Place::Path(_)) | None => RowEnd::Newline,
        };
        Ok(Self { on_error: format_options::on_error(options)?, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The book's examples: a layout that changes is another version.
    const FILE: &str = include_str!("../../../docs/src/sql/dead-letter-of-a-file.json");
    const KAFKA: &str = include_str!("../../../docs/src/sql/dead-letter-of-a-topic.json");

    #[test]
    fn the_layout_is_the_book_s() {
        let time = "2024-03-01T10:00:07.123456Z";
        let origin = Origin::File { file: "/data/orders.csv", line: 3 };
        let letter = Letter::new("orders", &origin, "column amount: 'many' is no BIGINT", time, b"2,many,2024-03-01");
        assert_eq!(serde_json::to_string(&letter).unwrap(), FILE.trim_end());
        let origin = Origin::Kafka {
            topic: "orders",
            partition: 4,
            offset: 1077,
            timestamp_ms: Some(1_709_287_207_000),
            key: Some(b"customer-7"),
        };
        let letter = Letter::new("orders", &origin, "no JSON: expected a value", time, &[0xff, 0x00, 0x41]);
        assert_eq!(serde_json::to_string(&letter).unwrap(), KAFKA.trim_end());
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = ["", "a", "ab", "abc", "abcd"];
        let expected = ["", "YQ==", "YWI=", "YWJj", "YWJjZA=="];
        assert_eq!(texts.map(|text| base64(text.as_bytes())), expected);
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
