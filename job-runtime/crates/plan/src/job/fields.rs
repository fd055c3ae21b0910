//! Typed access to the fields of a YAML mapping, with a problem for everything that is not as it should be.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::yaml::{Node, Value};
use crate::Span;
use crate::diagnostic::{Diagnostic, did_you_mean, list};

/// The fields of one mapping.
pub(super) struct Fields<'a> {
    what: String,
    span: Span,
    entries: Vec<(&'a str, &'a Node)>,
}

impl<'a> Fields<'a> {
    /// Takes a mapping apart; fields that are not in `known` are problems. `None` if it is no mapping.
    pub(super) fn new(node: &'a Node, what: &str, known: &[&str], problems: &mut Vec<Diagnostic>) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            problems
                .push(Diagnostic::at(node.span, format!("{what} must be a mapping, this is {}", node.value.kind())));
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.name.as_str()) {
                let help = did_you_mean(&key.name, known.iter().copied())
                    .unwrap_or_else(|| format!("known fields are {}", list(known.iter().copied())));
                problems.push(Diagnostic::at(key.span, format!("{what} has no field `{}`", key.name)).help(help));
            }
        }
        let entries = entries.iter().map(|(key, node)| (key.name.as_str(), node)).collect();
        Some(Self { what: what.to_owned(), span: node.span, entries })
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        let (_, node) = self.entries.iter().find(|(key, _)| *key == name)?;
        (!matches!(node.value, Value::Null)).then_some(*node)
    }

    /// A field that must be there.
    pub(super) fn required(&self, name: &str, problems: &mut Vec<Diagnostic>) -> Option<&'a Node> {
        let node = self.get(name);
        if node.is_none() {
            problems.push(Diagnostic::at(self.span, format!("{} lacks the field `{name}`", self.what)));
        }
        node
    }

    /// A string field, if it is there.
    pub(super) fn string(&self, name: &str, problems: &mut Vec<Diagnostic>) -> Option<(String, Span)> {
        let node = self.get(name)?;
        match &node.value {
            Value::String(s) => Some((s.clone(), node.span)),
            other => {
                problems.push(
                    Diagnostic::at(node.span, format!("`{name}` must be a string, this is {}", other.kind())).help_if(
                        matches!(other, Value::Integer(_) | Value::Bool | Value::Float)
                            .then(|| "put it in quotes".to_owned()),
                    ),
                );
                None
            }
        }
    }

    /// An integer field in a range, if it is there.
    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<u16>,
        problems: &mut Vec<Diagnostic>,
    ) -> Option<(u16, Span)> {
        let node = self.get(name)?;
        let help = format!("write a number from {} to {}", range.start(), range.end());
        match &node.value {
            Value::Integer(i) => match u16::try_from(*i).ok().filter(|n| range.contains(n)) {
                Some(n) => Some((n, node.span)),
                None => {
                    problems.push(Diagnostic::at(node.span, format!("`{name}` cannot be {i}")).help(help));
                    None
                }
            },
            other => {
                problems.push(
                    Diagnostic::at(node.span, format!("`{name}` must be an integer, this is {}", other.kind()))
                        .help(help),
                );
                None
            }
        }
    }

    /// A mapping of strings to strings; empty if it is not there.
    pub(super) fn string_map(&self, name: &str, problems: &mut Vec<Diagnostic>) -> BTreeMap<String, String> {
        let Some(node) = self.get(name) else { return BTreeMap::new() };
        let Value::Mapping(entries) = &node.value else {
            problems
                .push(Diagnostic::at(node.span, format!("`{name}` must be a mapping, this is {}", node.value.kind())));
            return BTreeMap::new();
        };
        let mut map = BTreeMap::new();
        for (key, node) in entries {
            match &node.value {
                Value::String(s) => {
                    map.insert(key.name.clone(), s.clone());
                }
                other => problems.push(
                    Diagnostic::at(node.span, format!("`{}` must be a string, this is {}", key.name, other.kind()))
                        .help("put it in quotes"),
                ),
            }
        }
        map
    }
}
