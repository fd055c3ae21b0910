//! What both formats promise: every value comes back, a bad record leaves no trace, no bytes make a decoder panic.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, Time32MillisecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use dataflow::sink::EncodedRows;
use proptest::prelude::*;

use super::*;

/// A column of every type, with nulls.
pub(super) fn batch(rows: &[Row]) -> RecordBatch {
    let each = |value: &dyn Fn(&Row) -> Option<i64>| rows.iter().map(value).collect::<Vec<_>>();
    let small = |value: i64| value % 100;
    let time = TimestampMillisecondArray::from(each(&|r| r.1.map(|v| v % 4_000_000_000_000)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("int64", Arc::new(Int64Array::from(each(&|r| r.1)))),
        ("text", Arc::new(rows.iter().map(|r| r.0.clone()).collect::<StringArray>())),
        ("int8", Arc::new(rows.iter().map(|r| r.1.map(|v| small(v) as i8)).collect::<Int8Array>())),
        ("int16", Arc::new(rows.iter().map(|r| r.1.map(|v| small(v) as i16)).collect::<Int16Array>())),
        ("int32", Arc::new(rows.iter().map(|r| r.1.map(|v| v as i32)).collect::<Int32Array>())),
        ("float", Arc::new(rows.iter().map(|r| r.2.map(|v| v as f32)).collect::<Float32Array>())),
        ("double", Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>())),
        ("yes \"or\" no", Arc::new(rows.iter().map(|r| r.1.map(|v| v % 2 == 0)).collect::<BooleanArray>())),
        (
            "decimal",
            Arc::new(
                rows.iter()
                    .map(|r| r.1.map(i128::from))
                    .collect::<Decimal128Array>()
                    .with_precision_and_scale(25, 4)
                    .unwrap(),
            ),
        ),
        ("bytes", Arc::new(rows.iter().map(|r| r.0.as_ref().map(|t| t.as_bytes())).collect::<BinaryArray>())),
        ("date", Arc::new(rows.iter().map(|r| r.1.map(|v| (v % 50_000) as i32)).collect::<Date32Array>())),
        (
            "time",
            Arc::new(
                rows.iter().map(|r| r.1.map(|v| v.rem_euclid(86_400_000) as i32)).collect::<Time32MillisecondArray>(),
            ),
        ),
        ("at", Arc::new(time.clone())),
        ("at_utc", Arc::new(time.with_timezone("UTC"))),
        ("micros", Arc::new(TimestampMicrosecondArray::from(each(&|r| r.1.map(|v| v % 4_000_000_000_000_000))))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// What a row is made of: text, a number for all whole types, a float.
pub(super) type Row = (Option<String>, Option<i64>, Option<f64>);

pub(super) fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = prop_oneof![any::<String>(), "[a-z\",\n\r\\\\#NA ]{0,12}"];
    let row = (prop::option::of(text), prop::option::of(any::<i64>()), prop::option::of(-1e300f64..1e300));
    prop::collection::vec(row, 1..20)
}

pub(super) fn encode(format: &Format, batch: &RecordBatch, end: RowEnd) -> EncodedRows {
    let mut out = EncodedRows::default();
    format.encoder(&batch.schema(), end).unwrap().encode(batch, &mut out).unwrap();
    assert_eq!(out.ends.len(), batch.num_rows());
    out
}

pub(super) fn records(rows: &EncodedRows) -> Vec<&[u8]> {
    let starts = std::iter::once(0).chain(rows.ends.iter().copied());
    starts.zip(&rows.ends).map(|(start, &end)| &rows.bytes[start as usize..end as usize]).collect()
}

pub(super) fn formats() -> Vec<Format> {
    vec![
        Format::Json(JsonFormat::default()),
        Format::Json(JsonFormat { timestamps: TimestampStyle::Iso8601 }),
        Format::Csv(CsvFormat { null_literal: Some("\u{1}NULL".to_owned()), ..CsvFormat::default() }),
        Format::Csv(CsvFormat { null_literal: Some("\\N".to_owned()), delimiter: b';', ..CsvFormat::default() }),
    ]
}

/// CSV cannot tell the null literal's text from null, nor a line end of its own kind inside quotes.
fn representable(row: &Row) -> bool {
    row.0.as_ref().is_none_or(|text| text != "\\N" && text != "\u{1}NULL")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_value_comes_back(rows in rows(), picked in prop::collection::vec(0usize..15, 0..6)) {
        let rows: Vec<_> = rows.into_iter().filter(representable).collect();
        let batch = batch(&rows);
        let mut picked = picked;
        picked.sort_unstable();
        picked.dedup();
        for format in formats() {
            let encoded = encode(&format, &batch, RowEnd::Nothing);
            // All columns, and only some of them.
            for expected in [batch.clone(), batch.project(&picked).unwrap()] {
                let mut decoder = format.decoder(&batch.schema(), &expected.schema()).unwrap();
                for record in records(&encoded) {
                    decoder.push(record).map_err(|bad| TestCaseError::fail(format!("{bad}: {}", String::from_utf8_lossy(record))))?;
                }
                prop_assert_eq!(decoder.finish().unwrap(), expected);
                prop_assert_eq!(decoder.rows(), 0);
            }
        }
    }

    #[test]
    fn a_bad_record_leaves_no_trace(rows in rows(), garbage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 20)) {
        let rows: Vec<_> = rows.into_iter().filter(representable).collect();
        let batch = batch(&rows);
        for format in formats() {
            let encoded = encode(&format, &batch, RowEnd::Nothing);
            let mut decoder = format.decoder(&batch.schema(), &batch.schema()).unwrap();
            for (record, (at, byte)) in records(&encoded).into_iter().zip(garbage.iter().cycle()) {
                // Damaged first: cut off, then one byte replaced. If it still decodes, it is another row.
                let mut damaged = record.to_vec();
                let at = at.index(damaged.len().max(1));
                for bad in [record[..at.min(record.len())].to_vec(), { if let Some(b) = damaged.get_mut(at) { *b = *byte } damaged }] {
                    let before = decoder.rows();
                    if decoder.push(&bad).is_ok() {
                        prop_assert_eq!(decoder.rows(), before + 1);
                    } else {
                        prop_assert_eq!(decoder.rows(), before);
                    }
                }
                decoder.push(record).unwrap();
            }
            let found = decoder.finish().unwrap();
            // The rows of whole records are there in order, whatever else was.
            let mut next = 0;
            for row in 0..found.num_rows() {
                if next < batch.num_rows() && found.slice(row, 1) == batch.slice(next, 1) {
                    next += 1;
                }
            }
            prop_assert_eq!(next, batch.num_rows());
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(records in prop::collection::vec(prop_oneof![any::<Vec<u8>>(), "[\\[\\]{}\":,\\\\u0-9a-fnulrtse.\n-]{0,40}".prop_map(String::into_bytes)], 0..10)) {
        let schema = batch(&[]).schema();
        for format in formats() {
            let mut decoder = format.decoder(&schema, &schema).unwrap();
            let taken = records.iter().filter(|record| decoder.push(record).is_ok()).count();
            prop_assert_eq!(decoder.finish().unwrap().num_rows(), taken);
        }
    }
}

#[test]
fn a_column_that_must_not_be_null_makes_the_record_bad() {
    let field = arrow::datatypes::Field::new("a", arrow::datatypes::DataType::Int64, false);
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
    let mut json = Format::Json(JsonFormat::default()).decoder(&schema, &schema).unwrap();
    assert_eq!(json.push(b"{}").unwrap_err().to_string(), "column a: is NOT NULL, and the record has no value for it");
    assert_eq!(json.push(br#"{"a":null}"#).unwrap_err().to_string(), "column a: is NOT NULL, and the record has null");
    json.push(br#"{"a":1}"#).unwrap();
    assert_eq!(json.finish().unwrap().num_rows(), 1);
}

#[test]
fn a_decoder_goes_on_after_a_batch() {
    let rows: Vec<Row> = (0..10).map(|i| (Some(format!("row {i}")), (i % 3 > 0).then_some(i), Some(0.5))).collect();
    let batch = batch(&rows);
    let format = Format::Json(JsonFormat::default());
    let encoded = encode(&format, &batch, RowEnd::Newline);
    let mut decoder = format.decoder(&batch.schema(), &batch.schema()).unwrap();
    for (i, record) in (0u32..).zip(records(&encoded)) {
        decoder.push(record).unwrap();
        let one = decoder.finish().unwrap();
        assert_eq!(one, take_record_batch(&batch, &UInt32Array::from(vec![i])).unwrap());
        assert_eq!(one.column(0).null_count(), usize::from(i % 3 == 0));
    }
}

#[test]
fn a_type_that_text_cannot_carry_is_named() {
    let list = arrow::datatypes::DataType::new_list(arrow::datatypes::DataType::Int64, true);
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("xs", list, true)]));
    let error = Format::Json(JsonFormat::default()).check(&schema).unwrap_err();
    assert!(error.message.starts_with("column xs: format 'json' cannot carry List"), "{error}");
}
