//! A wrong option is refused with its key and what to write instead.

use arrow::datatypes::DataType;

use super::*;
use crate::connector::registry;
use crate::connector::testing::{schema, table};

fn refused(options: &[(&str, &str)]) -> ConnectorError {
    let table = table(&schema(&[("a", DataType::Int64)]), options);
    registry::validate(&table, true, false).expect_err("a wrong option")
}

fn says(options: &[(&str, &str)], key: &str, message: &str) {
    let error = refused(options);
    assert_eq!(error.option.as_deref(), Some(key), "{error}");
    assert!(error.message.contains(message), "{error}");
}

const FILE: [(&str, &str); 3] = [("connector", "filesystem"), ("path", "p"), ("format", "csv")];

fn file<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [FILE.as_slice(), more].concat()
}

#[test]
fn the_nearest_right_word_is_given() {
    says(&[("connector", "kafak")], "connector", "did you mean 'kafka'?");
    says(&[("path", "p")], "connector", "the option 'connector' is missing: one of kafka, filesystem");
    says(&file(&[("csv.hedaer", "true")]), "csv.hedaer", "did you mean 'csv.header'?");
    says(&file(&[("qqqqqqqq", "1")]), "qqqqqqqq", "connector 'filesystem' has no option 'qqqqqqqq'");
}

#[test]
fn an_option_of_another_connector_or_format_says_whose_it_is() {
    says(&file(&[("topic", "t")]), "topic", "it belongs to 'kafka'");
    let key = "json.ignore-parse-errors";
    says(&file(&[(key, "true")]), key, "belongs to 'format' = 'json', and this table has 'format' = 'csv'");
    says(&file(&[("sink.parallelism", "2")]), "sink.parallelism", "set the job's workers instead");
}

#[test]
fn a_wrong_value_says_what_is_allowed() {
    says(&file(&[("csv.header", "yes")]), "csv.header", "expected true or false");
    says(&file(&[("csv.field-delimiter", "||")]), "csv.field-delimiter", "expected one ASCII character");
    says(&file(&[("source.monitor-interval", "soon")]), "source.monitor-interval", "expected a duration like 500 ms");
    says(&file(&[("sink.rolling-policy.file-size", "1 EB")]), "sink.rolling-policy.file-size", "expected a size like");
    says(&file(&[("compression", "lzo")]), "compression", "expected 'auto' or 'none' or 'gzip' or 'zstd'");
    says(&[("connector", "datagen"), ("rows-per-second", "0")], "rows-per-second", "a whole number of at least 1");
    says(&FILE[..2], "format", "needs the option 'format'");
    says(&[("connector", "filesystem"), ("format", "csv")], "path", "needs the option 'path'");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    says(&file(&[("on-error", "dead-letter")]), "dead-letter.path", "needs 'dead-letter.path'");
    says(&file(&[("dead-letter.path", "d")]), "dead-letter.path", "does nothing without");
    let both = [("on-error", "fail"), ("csv.ignore-parse-errors", "true")];
    says(&file(&both), "on-error", "contradicts 'csv.ignore-parse-errors' = 'true'");
}

#[test]
fn a_direction_that_a_connector_lacks_is_refused() {
    says(&[("connector", "print")], "connector", "cannot be read: it is a sink only");
    let table = table(&schema(&[("a", DataType::Int64)]), &[("connector", "datagen")]);
    let error = registry::validate(&table, false, true).expect_err("a source");
    assert!(error.message.contains("cannot be written to: it is a source only"), "{error}");
}

#[test]
fn whether_a_table_ends_and_what_it_promises_is_known_without_io() {
    let bounded = |options: &[(&str, &str)]| registry::bounded(&table(&schema(&[]), options)).unwrap();
    assert!(bounded(&FILE));
    assert!(!bounded(&file(&[("source.monitor-interval", "1 s")])));
    assert!(!bounded(&[("connector", "kafka"), ("topic", "t"), ("format", "json")]));
    assert!(!bounded(&[("connector", "datagen")]));
    assert!(bounded(&[("connector", "datagen"), ("fields.a.kind", "sequence")]));
    let promise = |options: &[(&str, &str)]| registry::guarantee(&table(&schema(&[]), options)).unwrap();
    assert_eq!(promise(&FILE), plan::Guarantee::ExactlyOnce);
    assert_eq!(promise(&[("connector", "print")]), plan::Guarantee::None);
    let weaker =
        [("connector", "kafka"), ("topic", "t"), ("format", "json"), ("sink.delivery-guarantee", "at-least-once")];
    assert_eq!(promise(&weaker), plan::Guarantee::AtLeastOnce);
}

#[test]
fn every_option_is_documented_and_its_default_is_one_of_its_values() {
    let mut keys = std::collections::BTreeSet::new();
    for option in reference() {
        assert!(keys.insert(option.key), "{} is defined twice", option.key);
        assert!(option.doc.ends_with('.') && !option.connectors.is_empty(), "{}", option.key);
        if let Some(default) = option.default {
            assert_eq!(value::check(option.kind, default), Ok(()), "{}", option.key);
        }
    }
}
