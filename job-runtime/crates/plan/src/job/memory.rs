//! `spec.stateMemory`: an amount of memory in whole `Mi` or `Gi`.

use super::fields::Fields;
use super::yaml::{Node, Value};
use crate::diagnostic::Diagnostic;

/// What holds if nothing is written: 256 MiB.
pub(super) const DEFAULT: u64 = 256 << 20;
/// As in the resource's definition.
const LEAST: u64 = 10 << 20;
const MOST: u64 = 9999 << 30;
const HELP: &str = "write 10Mi to 9999Gi; the default is 256Mi";

/// Reads `name` in bytes.
pub(super) fn read(fields: &Fields<'_>, name: &str, problems: &mut Vec<Diagnostic>) -> Option<u64> {
    if let Some(Node { value: Value::Integer(number), span }) = fields.get(name) {
        let problem = Diagnostic::at(*span, format!("`{name}` has no unit: {number} of what?"));
        problems.push(problem.help(format!("write `{number}Mi` or `{number}Gi`")));
        return None;
    }
    let (written, span) = fields.string(name, problems)?;
    let problem = match parse(&written) {
        Some(bytes) if (LEAST..=MOST).contains(&bytes) => return Some(bytes),
        Some(_) => Diagnostic::at(span, format!("`{name}` is {written}")),
        None => Diagnostic::at(span, format!("`{written}` is not an amount of memory")),
    };
    problems.push(problem.help(HELP));
    None
}

fn parse(text: &str) -> Option<u64> {
    let (digits, shift) = match (text.strip_suffix("Mi"), text.strip_suffix("Gi")) {
        (Some(digits), _) => (digits, 20),
        (None, Some(digits)) => (digits, 30),
        (None, None) => return None,
    };
    let plain = !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse::<u64>().ok().map(|number| number << shift)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::yaml;

    fn parse_field(text: &str) -> (Option<u64>, Vec<String>) {
        let mut problems = Vec::new();
        let node = yaml::parse(text).unwrap();
        let fields = Fields::new(&node, "`spec`", &["stateMemory"], &mut problems).unwrap();
        let read = read(&fields, "stateMemory", &mut problems);
        (read, problems.iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn whole_mebibytes_and_gibibytes_are_read() {
        assert_eq!(parse_field("stateMemory: 64Mi"), (Some(64 << 20), vec![]));
        assert_eq!(parse_field("stateMemory: 3Gi"), (Some(3 << 30), vec![]));
        assert_eq!(parse_field("{}"), (None, vec![]));
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(parse_field("stateMemory: 64").1, ["`stateMemory` has no unit: 64 of what?"]);
        assert_eq!(parse_field("stateMemory: 9Mi").1, ["`stateMemory` is 9Mi"]);
        for wrong in ["64M", "1.5Gi", "+64Mi", "much", "Mi"] {
            assert_eq!(
                parse_field(&format!("stateMemory: {wrong}")).1,
                [format!("`{wrong}` is not an amount of memory")]
            );
        }
    }
}
