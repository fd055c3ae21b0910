//! CSV against Arrow's own reader, and the cases that people meet.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;

use super::super::tests::encode;
use super::super::{CsvFormat, Format, RecordDecoder, RowEnd};

fn schema() -> SchemaRef {
    let fields = [("a", DataType::Int64), ("b", DataType::Utf8)];
    Arc::new(Schema::new(fields.map(|(name, t)| Field::new(name, t, true)).to_vec()))
}

fn decoder(format: CsvFormat) -> RecordDecoder {
    Format::Csv(format).decoder(&schema(), &schema()).unwrap()
}

fn error(decoder: &mut RecordDecoder, record: &str) -> String {
    decoder.push(record.as_bytes()).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn arrow_reads_what_we_write(texts in prop::collection::vec(prop_oneof!["[a-z\",\n# ]{1,10}", "\\PC{1,8}"], 1..10)) {
        let array: Arc<dyn Array> = Arc::new(texts.iter().map(Some).collect::<StringArray>());
        let batch = RecordBatch::try_from_iter_with_nullable([("t", array.clone(), true), ("u", array, true)]).unwrap();
        let encoded = encode(&Format::Csv(CsvFormat::default()), &batch, RowEnd::Newline);
        let reader = arrow::csv::ReaderBuilder::new(batch.schema()).build(Cursor::new(&encoded.bytes)).unwrap();
        let batches = reader.collect::<Result<Vec<_>, _>>().unwrap();
        prop_assert_eq!(arrow::compute::concat_batches(&batch.schema(), &batches).unwrap(), batch);
    }
}

#[test]
fn columns_are_found_by_the_headers_names() {
    let mut decoder = decoder(CsvFormat { header: true, ..CsvFormat::default() });
    decoder.read_header(b"x, b ,\"a\"").unwrap();
    decoder.push(b"1,two,3").unwrap();
    assert_eq!(error(&mut decoder, "1,2"), "has 2 fields, expected 3");
    let batch = decoder.finish().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 3);
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "two");
    assert!(decoder.read_header(b"a,b,a").unwrap_err().message.contains("names column a 2 times"));
}

#[test]
fn null_is_the_literal_or_what_is_empty_and_no_string() {
    let mut decoder = decoder(CsvFormat { null_literal: Some("NA".to_owned()), ..CsvFormat::default() });
    for record in ["NA,NA", ",", "1,\"\""] {
        decoder.push(record.as_bytes()).unwrap();
    }
    let batch = decoder.finish().unwrap();
    assert_eq!((batch.column(0).null_count(), batch.column(1).null_count()), (2, 1));
    assert_eq!(batch.column(1).as_string::<i32>().value(1), "");
}

#[test]
fn malformed_records_say_what_is_wrong() {
    let mut decoder = decoder(CsvFormat::default());
    assert_eq!(error(&mut decoder, "1"), "has 1 fields, expected 2");
    assert_eq!(error(&mut decoder, "1,\"x"), "a quote is not closed");
    assert_eq!(error(&mut decoder, "1,x\n2,\"y\""), "a line end stands inside the record but outside quotes");
    assert_eq!(error(&mut decoder, "1.5,x"), "column a: '1.5' is no BIGINT");
    assert_eq!(decoder.finish().unwrap().num_rows(), 0);
}

#[test]
fn without_quoting_a_quote_is_text() {
    let mut decoder = decoder(CsvFormat { quote: None, delimiter: b'\t', ..CsvFormat::default() });
    decoder.push(b"1\t\"x").unwrap();
    assert_eq!(decoder.finish().unwrap().column(1).as_string::<i32>().value(0), "\"x");
}
