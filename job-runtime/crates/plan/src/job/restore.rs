//! The fields of `spec.restoreFrom`: the savepoint that a new job begins with.

use super::fields::Fields;
use super::yaml::Node;
use crate::diagnostic::Diagnostic;

/// Reads `spec.restoreFrom`; answers with the savepoint's location.
pub(super) fn read(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<String> {
    let fields = Fields::new(node, "`restoreFrom`", &["checkpoint", "location"], problems)?;
    let checkpoint = fields.string("checkpoint", problems);
    let location = fields.string("location", problems);
    match (checkpoint, location) {
        (None, Some((location, span))) => {
            if location.is_empty() || location.contains(char::is_whitespace) {
                let problem = Diagnostic::at(span, format!("`{location}` is no location of a savepoint"));
                problems.push(problem.help("write it as `millstream savepoint` printed it"));
                return None;
            }
            Some(location)
        }
        (Some((name, span)), None) => {
            // The operator puts the location into what pods read.
            let problem = Diagnostic::at(span, format!("Checkpoint `{name}` can be looked up on Kubernetes only"));
            problems.push(problem.help(format!(
                "write `location:` with what `kubectl get checkpoint {name} -o jsonpath={{.status.location}}` prints"
            )));
            None
        }
        (Some(_), Some((_, span))) => {
            let problem = Diagnostic::at(span, "`checkpoint` and `location` are both given");
            problems.push(problem.help("keep one of them"));
            None
        }
        (None, None) => {
            // What is there and of the wrong kind has its problem already.
            if fields.get("checkpoint").is_none() && fields.get("location").is_none() {
                let problem = Diagnostic::at(node.span, "`restoreFrom` says nothing");
                problems.push(problem.help("write `location:` with what `millstream savepoint` printed"));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::yaml;

    fn parse(text: &str) -> (Option<String>, Vec<String>) {
        let mut problems = Vec::new();
        let read = read(&yaml::parse(text).unwrap(), &mut problems);
        (read, problems.iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn a_location_is_taken_as_it_is() {
        assert_eq!(parse("location: s3://streams/a/b"), (Some("s3://streams/a/b".to_owned()), vec![]));
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(parse("{}").1, ["`restoreFrom` says nothing"]);
        assert_eq!(parse("location: ''").1, ["`` is no location of a savepoint"]);
        assert_eq!(parse("location: a b").1, ["`a b` is no location of a savepoint"]);
        assert_eq!(parse("location: 3").1, ["`location` must be a string, this is an integer"]);
        assert_eq!(parse("checkpoint: one").1, ["Checkpoint `one` can be looked up on Kubernetes only"]);
        assert_eq!(parse("checkpoint: one\nlocation: two").1, ["`checkpoint` and `location` are both given"]);
        assert_eq!(parse("savepoint: one").1, ["`restoreFrom` has no field `savepoint`", "`restoreFrom` says nothing"]);
    }
}
