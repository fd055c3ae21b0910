//! A YAML document as a tree in which every key and value knows its place.
//!
//! Owns the step from text to tree. What the fields mean is `job`'s.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::Span;
use crate::diagnostic::Diagnostic;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it begins (its end is not always known).
    pub(crate) span: Span,
    /// What it is.
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool,
    Integer(i128),
    Float,
    String(String),
    Sequence,
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) name: String,
}

impl Value {
    /// What a person calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool => "a Boolean",
            Value::Integer(_) => "an integer",
            Value::Float => "a number",
            Value::String(_) => "a string",
            Value::Sequence => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// Reads the one document of `text`.
pub(crate) fn parse(text: &str) -> Result<Node, Diagnostic> {
    match serde_saphyr::from_str::<Spanned<Raw>>(text) {
        Ok(raw) => Ok(node(text, raw)),
        Err(error) => Err(parse_error(text, &error)),
    }
}

fn parse_error(text: &str, error: &serde_saphyr::Error) -> Diagnostic {
    let error = error.without_snippet();
    let mut message =
        error.render_with_options(serde_saphyr::render_options! { snippets: serde_saphyr::SnippetMode::Off });
    if let Some(cut) = message.find(" at line ") {
        message.truncate(cut);
    }
    let message = message.trim_start_matches("error: ").trim_end_matches(':').to_owned();
    match error.location() {
        Some(location) => {
            let span = span_of(text, &location);
            if text[..span.start].lines().any(|line| line.trim_end() == "---") && message.contains("multiple") {
                return Diagnostic::at(span, "a job file holds one StreamJob, and this file has several documents")
                    .help("put each StreamJob into a file of its own");
            }
            Diagnostic::at(span, format!("this is not YAML: {message}"))
        }
        None => Diagnostic::of_file(format!("this is not YAML: {message}")),
    }
}

fn node(text: &str, raw: Spanned<Raw>) -> Node {
    let span = span_of(text, &raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool => Value::Bool,
        Raw::Integer(i) => Value::Integer(i),
        Raw::Float => Value::Float,
        Raw::String(s) => Value::String(s),
        Raw::Sequence => Value::Sequence,
        Raw::Mapping(entries) => Value::Mapping(
            entries
                .into_iter()
                .map(|(k, v)| {
                    let start = span_of(text, &k.referenced).start;
                    let end = start + k.value.len();
                    (Key { span: Span { start, end }, name: k.value }, node(text, v))
                })
                .collect(),
        ),
    };
    Node { span: narrow(text, span, &value), value }
}

/// Where a location of the parser lies in bytes.
fn span_of(text: &str, location: &Location) -> Span {
    let span = location.span();
    if let (Some(start), Some(len)) = (span.byte_offset(), span.byte_len()) {
        let start = (start as usize).min(text.len());
        return Span { start, end: (start + len as usize).min(text.len()) };
    }
    let line_start: usize =
        text.split_inclusive('\n').take((location.line() as usize).saturating_sub(1)).map(str::len).sum();
    let column = (location.column() as usize).saturating_sub(1);
    let start = line_start + text[line_start..].chars().take(column).map(char::len_utf8).sum::<usize>();
    Span { start, end: start }
}

/// A scalar's own characters on its first line; the parser's spans end at the next token.
fn narrow(text: &str, span: Span, value: &Value) -> Span {
    let scalar = !matches!(value, Value::Sequence | Value::Mapping(_) | Value::Null);
    let rest = &text[span.start..];
    let line = rest.lines().next().unwrap_or("");
    let end = if scalar { line.split(" #").next().unwrap_or("").trim_end().len() } else { 1.min(line.len()) };
    Span { start: span.start, end: span.start + end }
}

enum Raw {
    Null,
    Bool,
    Integer(i128),
    Float,
    String(String),
    Sequence,
    Mapping(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Bool)
    }

    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(v.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Float)
    }

    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        // No field of ours is a list that we look into; the items are still read, for their syntax.
        while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Raw::Sequence)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}
