//! JSON against Arrow's own reader, and the cases that people meet.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;

use super::super::tests::{encode, records};
use super::super::{Format, JsonFormat, RowEnd};

fn json() -> Format {
    Format::Json(JsonFormat::default())
}

fn schema() -> SchemaRef {
    let fields = [("a", DataType::Int64), ("b", DataType::Utf8), ("c", DataType::Float64), ("d", DataType::Boolean)];
    Arc::new(Schema::new(fields.map(|(name, t)| Field::new(name, t, true)).to_vec()))
}

fn oracle(text: &[u8]) -> Option<RecordBatch> {
    let mut reader = arrow::json::ReaderBuilder::new(schema()).build(Cursor::new(text)).ok()?;
    let batch = reader.next()?.ok()?;
    (batch.num_rows() == 1).then_some(batch)
}

fn decoded(record: &[u8]) -> Result<RecordBatch, String> {
    let mut decoder = json().decoder(&schema(), &schema()).unwrap();
    decoder.push(record).map_err(|bad| bad.to_string())?;
    Ok(decoder.finish().unwrap())
}

/// JSON values of any shape.
fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e15f64..1e15).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_arrow_reads_we_read_the_same(a: Option<i64>, b: Option<String>, c in prop::option::of(-1e300..1e300f64), d: Option<bool>,
                                         extra in value(), pretty: bool, last: bool) {
        let mut object = serde_json::Map::new();
        if !last {
            object.insert("extra \"key\"".to_owned(), extra.clone());
        }
        object.insert("d".to_owned(), d.into());
        object.insert("a".to_owned(), a.into());
        object.insert("c".to_owned(), c.into());
        if b.is_some() {
            object.insert("b".to_owned(), b.into());
        }
        if last {
            object.insert("x".to_owned(), extra);
        }
        let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
        prop_assert_eq!(decoded(text.as_bytes()), Ok(oracle(text.as_bytes()).unwrap()), "{}", text);
    }

    #[test]
    fn what_we_write_anyone_reads(texts in prop::collection::vec(any::<Option<String>>(), 1..8)) {
        let array = texts.iter().cloned().collect::<StringArray>();
        let batch = RecordBatch::try_from_iter_with_nullable([("t\u{e9}xt", Arc::new(array) as _, true)]).unwrap();
        let encoded = encode(&json(), &batch, RowEnd::Newline);
        for (record, text) in records(&encoded).into_iter().zip(&texts) {
            prop_assert!(record.ends_with(b"\n") && !record[..record.len() - 1].contains(&b'\n'));
            let object: serde_json::Value = serde_json::from_slice(record).unwrap();
            prop_assert_eq!(object, serde_json::json!({ "t\u{e9}xt": text }));
        }
    }

    #[test]
    fn what_serde_refuses_we_refuse(text in "[\\[\\]{}\":,\\\\u0-9abcdefnulrts. eE+-]{0,24}") {
        let record = format!("{{\"x\":{text}}}");
        let known = match serde_json::from_str::<serde_json::Value>(&record) {
            Ok(_) => true,
            // A float that overflows is serde's limit, not the grammar's.
            Err(e) => e.to_string().contains("number out of range"),
        };
        let column = Arc::new(Schema::new(vec![Field::new("z", DataType::Int64, true)]));
        let mut decoder = json().decoder(&column, &column).unwrap();
        prop_assert_eq!(decoder.push(record.as_bytes()).is_ok(), known, "{}", record);
    }
}

#[test]
fn order_repetition_and_escapes_of_keys_do_not_matter() {
    let mut decoder = json().decoder(&schema(), &schema()).unwrap();
    for record in [
        r#"{"a":1,"b":"x"}"#,
        r#"{"b":"x","a":1}"#,
        r#" { "\u0061" : 1 , "b" : "x" } "#,
        r#"{"a":9,"b":"y","b":"x","a":1}"#,
    ] {
        decoder.push(record.as_bytes()).unwrap();
    }
    let batch = decoder.finish().unwrap();
    assert!(batch.column(0).as_primitive::<Int64Type>().values().iter().all(|&a| a == 1));
    assert!(batch.column(1).as_string::<i32>().iter().all(|b| b == Some("x")));
    assert_eq!(batch.column(2).null_count(), 4);
}

#[test]
fn values_are_converted_where_nothing_is_lost() {
    let batch = decoded(br#"{"a":"42","b":{"n":[1, 2]},"c":7,"d":"TRUE"}"#).unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 42);
    assert_eq!(batch.column(1).as_string::<i32>().value(0), r#"{"n":[1, 2]}"#);
    assert!(batch.column(3).as_boolean().value(0));
    assert_eq!(decoded(br#"{"a":1.5}"#).unwrap_err(), "column a: '1.5' is no BIGINT");
    assert_eq!(decoded(br#"{"a":{}}"#).unwrap_err(), "column a: is an object in the record");
    assert_eq!(decoded(br#"{"d":1}"#).unwrap_err().split(';').next(), Some("column d: is the number 1"));
}

#[test]
fn what_is_no_json_is_said_with_the_byte() {
    let says = |record: &[u8], message: &str| assert_eq!(decoded(record).unwrap_err(), message);
    says(b"", "not JSON at byte 0: found the end, expected an object: '{'");
    says(b"[1]", "not JSON at byte 0: found '[', expected an object: '{'");
    says(br#"{"a":1"#, "not JSON at byte 6: found the end, expected ',' or '}'");
    says(br#"{"a":01}"#, "not JSON at byte 6: found '1', expected ',' or '}'");
    says(br#"{"a":1} x"#, "not JSON at byte 8: found 'x', expected the end of the record");
    says(b"{\"b\":\"\xff\"}", "byte 6 is not UTF-8");
    says(b"{\"b\":\"a\nb\"}", "not JSON at byte 7: found byte 0x0a, expected no control character in a string");
    says(br#"{"b":"\ud800"}"#, "not JSON at byte 7: found 'u', expected a surrogate pair (\\ud83d\\ude00)");
}
