//! The options of `WITH (…)`: each defined once, with its type, default and documentation.
//!
//! Owns reading and checking of option values; the definitions are in `options/list.rs`. It does not open anything, and it does not say
//! what an option does beyond its documentation: that is the connector's.

mod list;
#[cfg(test)]
mod tests;
mod value;

use std::time::Duration;

pub use list::*;

use super::ConnectorError;

/// The connectors that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connector {
    /// `kafka`
    Kafka,
    /// `filesystem`
    Filesystem,
    /// `datagen`
    Datagen,
    /// `nexmark`
    Nexmark,
    /// `print`
    Print,
    /// `blackhole`
    Blackhole,
}

impl Connector {
    /// All of them.
    pub const ALL: [Connector; 6] = [
        Connector::Kafka,
        Connector::Filesystem,
        Connector::Datagen,
        Connector::Nexmark,
        Connector::Print,
        Connector::Blackhole,
    ];

    /// As written in `'connector' = '…'`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Connector::Kafka => "kafka",
            Connector::Filesystem => "filesystem",
            Connector::Datagen => "datagen",
            Connector::Nexmark => "nexmark",
            Connector::Print => "print",
            Connector::Blackhole => "blackhole",
        }
    }
}

/// Where an option comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Flink has it, with this name and meaning.
    Flink,
    /// Ours.
    Millstream,
}

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueKind {
    /// Any text.
    Text,
    /// One character.
    Character,
    /// `true` or `false`.
    Boolean,
    /// A whole number from the first to the second, both included.
    Integer(i64, i64),
    /// `10 s`, `500 ms`, `2 min`.
    Duration,
    /// `128 MB`, `1 GB`; powers of 1024, as Flink has them.
    Size,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One option.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptionDoc {
    /// The key; `#` stands for a name of the user's, a last `.*` for anything.
    pub key: &'static str,
    /// What it takes.
    pub kind: ValueKind,
    /// What holds if it is not given.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// The connectors that have it.
    pub connectors: &'static [Connector],
    /// Only with this format.
    pub format: Option<&'static str>,
    /// Flink's or ours.
    pub origin: Origin,
    /// For the reference, in Markdown.
    pub doc: &'static str,
}

impl OptionDoc {
    fn matches(&self, key: &str) -> bool {
        if let Some(prefix) = self.key.strip_suffix('*') {
            return key.len() > prefix.len() && key.starts_with(prefix);
        }
        match self.key.split_once('#') {
            Some((before, after)) => {
                key.len() > before.len() + after.len() && key.starts_with(before) && key.ends_with(after)
            }
            None => self.key == key,
        }
    }
}

/// Every option, for the generated reference.
#[must_use]
pub fn reference() -> Vec<OptionDoc> {
    ALL.iter().map(|option| **option).collect()
}

/// The checked options of one table.
#[derive(Clone, Debug)]
pub struct TableOptions<'a> {
    table: &'a plan::Table,
    connector: Connector,
}

impl<'a> TableOptions<'a> {
    /// Checks every option of the table: known to its connector and format, and of the right kind.
    ///
    /// # Errors
    /// At the first that is wrong; the error names its key.
    pub fn check(table: &'a plan::Table) -> Result<Self, ConnectorError> {
        let connector = connector_of(table)?;
        let options = TableOptions { table, connector };
        for option in &table.options {
            let doc = options.known(&option.key)?;
            value::check(doc.kind, &option.value).map_err(|expected| {
                options.error(&option.key, format!("'{}' = '{}': expected {expected}", option.key, option.value))
            })?;
        }
        for doc in ALL.iter().filter(|d| d.required && d.connectors.contains(&connector)) {
            if options.raw(doc.key).is_none() {
                let message = format!("connector '{}' needs the option '{}'", connector.name(), doc.key);
                return Err(options.error(doc.key, message));
            }
        }
        Ok(options)
    }

    fn known(&self, key: &str) -> Result<&'static OptionDoc, ConnectorError> {
        let named: Vec<&'static OptionDoc> = ALL.iter().copied().filter(|d| d.matches(key)).collect();
        let here = |d: &&&'static OptionDoc| d.connectors.contains(&self.connector);
        let format = self.format_name();
        let Some(doc) = named.iter().find(here) else {
            return Err(self.error(key, self.unknown(key, &named)));
        };
        match doc.format {
            Some(needed) if format != Some(needed) => {
                let message = format!(
                    "option '{key}' belongs to 'format' = '{needed}', and this table has {}",
                    format.map_or("no format".to_owned(), |f| format!("'format' = '{f}'"))
                );
                Err(self.error(key, message))
            }
            Some(_) | None => Ok(doc),
        }
    }

    fn unknown(&self, key: &str, elsewhere: &[&OptionDoc]) -> String {
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == key) {
            return format!("option '{key}' is not supported: {reason}");
        }
        let connector = self.connector.name();
        if let Some(doc) = elsewhere.first() {
            let names: Vec<_> = doc.connectors.iter().map(|c| format!("'{}'", c.name())).collect();
            return format!("connector '{connector}' has no option '{key}': it belongs to {}", names.join(", "));
        }
        let candidates = ALL.iter().filter(|d| d.connectors.contains(&self.connector)).map(|d| d.key);
        match nearest(key, candidates) {
            Some(hint) => format!("connector '{connector}' has no option '{key}'; did you mean '{hint}'?"),
            None => format!("connector '{connector}' has no option '{key}'"),
        }
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &'a plan::Table {
        self.table
    }

    /// The connector.
    #[must_use]
    pub fn connector(&self) -> Connector {
        self.connector
    }

    /// `format` or `value.format`.
    #[must_use]
    pub fn format_name(&self) -> Option<&'a str> {
        self.raw(FORMAT.key).or_else(|| self.raw(VALUE_FORMAT.key))
    }

    /// An error about one option of this table.
    #[must_use]
    pub fn error(&self, key: &str, message: impl Into<String>) -> ConnectorError {
        ConnectorError { table: self.table.name.clone(), option: Some(key.to_owned()), message: message.into() }
    }

    /// The value as written, if it is.
    #[must_use]
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        self.table.options.iter().rev().find(|o| o.key == key).map(|o| o.value.as_str())
    }

    /// Options whose key begins with `prefix`, the rest of the key first.
    pub fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.table.options.iter().filter_map(move |o| Some((o.key.strip_prefix(prefix)?, o.value.as_str())))
    }

    /// The value, or the default.
    #[must_use]
    pub fn text(&self, option: &OptionDoc) -> Option<&'a str> {
        self.raw(option.key).or(option.default)
    }

    /// The value of an option that must be there.
    ///
    /// # Errors
    /// When it is not given.
    pub fn required(&self, option: &OptionDoc) -> Result<&'a str, ConnectorError> {
        self.text(option).ok_or_else(|| {
            let message = format!("connector '{}' needs the option '{}'", self.connector.name(), option.key);
            self.error(option.key, message)
        })
    }

    /// The value of a boolean; false if there is neither value nor default.
    #[must_use]
    pub fn boolean(&self, option: &OptionDoc) -> bool {
        self.text(option).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// The value of a number.
    #[must_use]
    pub fn integer(&self, option: &OptionDoc) -> Option<i64> {
        self.text(option).and_then(|v| v.trim().parse().ok())
    }

    /// The value of a duration.
    #[must_use]
    pub fn duration(&self, option: &OptionDoc) -> Option<Duration> {
        self.text(option).and_then(value::duration)
    }

    /// The value of a size in bytes.
    #[must_use]
    pub fn size(&self, option: &OptionDoc) -> Option<u64> {
        self.text(option).and_then(value::size)
    }

    /// The value of a single character, with Flink's `\t`.
    #[must_use]
    pub fn character(&self, option: &OptionDoc) -> Option<u8> {
        self.text(option).and_then(value::character)
    }
}

fn connector_of(table: &plan::Table) -> Result<Connector, ConnectorError> {
    let fail = |message| ConnectorError { table: table.name.clone(), option: Some(CONNECTOR.key.to_owned()), message };
    let names = || Connector::ALL.map(Connector::name).join(", ");
    let Some(option) = table.options.iter().rev().find(|o| o.key == CONNECTOR.key) else {
        return Err(fail(format!("the option 'connector' is missing: one of {}", names())));
    };
    Connector::ALL.into_iter().find(|c| c.name() == option.value).ok_or_else(|| {
        let hint = match nearest(&option.value, Connector::ALL.iter().map(|c| c.name())) {
            Some(hint) => format!("did you mean '{hint}'? There are "),
            None => "there are ".to_owned(),
        };
        fail(format!("no connector is named '{}'; {hint}{}", option.value, names()))
    })
}

/// A duration as options write it, in milliseconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    value::duration(text).and_then(|d| u64::try_from(d.as_millis()).ok())
}

/// The candidate that `word` was probably meant to be.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let scored = candidates.map(|c| (strsim::jaro_winkler(word, c), c));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.75).map(|(_, c)| c)
}
