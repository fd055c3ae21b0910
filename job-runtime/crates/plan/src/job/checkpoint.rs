//! The fields of `spec.checkpoint`: how often a snapshot is taken, and how many are kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::duration;
use super::fields::Fields;
use super::yaml::{Node, Value};
use crate::diagnostic::Diagnostic;

/// `spec.checkpoint`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointing {
    /// `interval`: time between two snapshots.
    pub interval: Duration,
    /// `retention.count`: how many are kept.
    pub count: u16,
    /// `retention.age`: how long they are kept; the newest is kept whatever its age.
    pub age: Duration,
}

impl Default for Checkpointing {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), count: 10, age: Duration::from_secs(24 * 3600) }
    }
}

/// What `interval` may be.
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// What `retention.age` may be.
const AGE: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 3600);

/// Reads `spec.checkpoint`.
pub(super) fn read(node: &Node, problems: &mut Vec<Diagnostic>) -> Checkpointing {
    let mut out = Checkpointing::default();
    let Some(fields) = Fields::new(node, "`checkpoint`", &["interval", "retention"], problems) else { return out };
    let range = (INTERVAL, "use 1s to 24h; the default is 60s");
    out.interval = duration(&fields, "interval", range, problems).unwrap_or(out.interval);
    let Some(node) = fields.get("retention") else { return out };
    let Some(fields) = Fields::new(node, "`retention`", &["count", "age"], problems) else { return out };
    out.count = fields.integer("count", 1..=1000, problems).map_or(out.count, |(count, _)| count);
    let range = (AGE, "use 1m to 87600h (ten years); the default is 24h");
    out.age = duration(&fields, "age", range, problems).unwrap_or(out.age);
    out
}

/// Reads a duration within a range, with what to write if it is not.
pub(super) fn duration(
    fields: &Fields<'_>,
    name: &str,
    (range, help): (RangeInclusive<Duration>, &str),
    problems: &mut Vec<Diagnostic>,
) -> Option<Duration> {
    if let Some(Node { value: Value::Integer(number), span }) = fields.get(name) {
        problems.push(
            Diagnostic::at(*span, format!("`{name}` has no unit: {number} of what?"))
                .help(format!("write `{number}ms` or `{number}s`")),
        );
        return None;
    }
    let (written, span) = fields.string(name, problems)?;
    let problem = match duration::parse(&written) {
        Ok(found) if range.contains(&found) => return Some(found),
        Ok(_) => Diagnostic::at(span, format!("`{name}` is {written}")).help(help),
        Err(why) => Diagnostic::at(span, format!("`{written}` is not a duration")).help(why),
    };
    problems.push(problem);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::yaml;

    fn parse(text: &str) -> (Checkpointing, Vec<String>) {
        let mut problems = Vec::new();
        let read = read(&yaml::parse(text).unwrap(), &mut problems);
        (read, problems.iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn what_is_not_written_has_its_default() {
        assert_eq!(parse("{}"), (Checkpointing::default(), vec![]));
        let (read, problems) = parse("interval: 5s\nretention: {count: 3, age: 90m}\n");
        assert_eq!(read, Checkpointing { interval: Duration::from_secs(5), count: 3, age: Duration::from_secs(5400) });
        assert_eq!(problems, [] as [&str; 0]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(parse("interval: 10ms").1, ["`interval` is 10ms"]);
        assert_eq!(parse("interval: 60").1, ["`interval` has no unit: 60 of what?"]);
        assert_eq!(parse("retention: {count: 0}").1, ["`count` cannot be 0"]);
        assert_eq!(parse("retention: {age: soon}").1, ["`soon` is not a duration"]);
        assert_eq!(parse("retention: {number: 3}").1, ["`retention` has no field `number`"]);
    }
}
