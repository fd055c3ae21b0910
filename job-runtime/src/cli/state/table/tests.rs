//! What is read back from a file is what the lines of JSON say, for every kind of entry and every type of column.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use dataflow::graph::OperatorUid;
use dataflow::key::{KeyEncoder, ShardId};
use dataflow::sink::EncodedRows;
use dataflow::state::keyed::{Columns, Description, Kind, StoredNote};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Map, Value, json};

use super::*;
use crate::cli::state::export::{hex, line};
use crate::format::{Format, JsonFormat, RowEnd};

const UID: OperatorUid = OperatorUid(99);

fn every_type() -> Columns {
    let times = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let mut types = vec![
        DataType::Boolean,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Date32,
        DataType::Time32(TimeUnit::Second),
        DataType::Time32(TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Decimal128(20, 3),
        DataType::Utf8,
        DataType::Binary,
    ];
    types.extend(times.map(|unit| DataType::Timestamp(unit, None)));
    types.extend(times.map(|unit| DataType::Timestamp(unit, Some("UTC".into()))));
    types.into_iter().enumerate().map(|(number, data_type)| (format!("c{number}"), data_type)).collect()
}

fn operators(keys: Columns, map_keys: Columns, values: Columns) -> (Operators, Vec<u8>) {
    let description = Description { name: "o(k)".to_owned(), keys, map_keys, values };
    let note = StoredNote { groups_end: 5, time_ms: 7, description, buckets: vec![3, 60] };
    let (mut value, mut operators) = (Vec::new(), Operators::default());
    note.write(&mut value);
    operators.learn(UID, &[Kind::Note.byte(0)], &value);
    (operators, value)
}

/// Key and value of an entry.
fn entry(kind: u8, parts: &[&[u8]], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    ([&[0, 9, 0, 0, 0, 99, kind][..], &parts.concat()].concat(), value.to_vec())
}

fn stored((key, value): &(Vec<u8>, Vec<u8>), operator: OperatorUid) -> Stored<'_> {
    Stored { shard: ShardId(2), group: 9, operator, key, value }
}

/// The file that the entries make, read back.
fn written(operators: &Operators, entries: &[Stored<'_>]) -> (Vec<RecordBatch>, ParquetMetaData) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut file = ParquetFile::new(File::create(&path).unwrap(), operators.get(UID)).unwrap();
    entries.iter().for_each(|entry| file.push(operators, entry).unwrap());
    file.finish().unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
    let metadata = reader.metadata().as_ref().clone();
    (reader.build().unwrap().map(Result::unwrap).collect(), metadata)
}

/// A row of a struct as JSON writes it.
fn fields(column: &StructArray, row: usize) -> Option<Value> {
    let (schema, mut out) = (Arc::new(Schema::new(column.fields().clone())), EncodedRows::default());
    let batch = RecordBatch::try_new(Arc::clone(&schema), column.slice(row, 1).columns().to_vec()).unwrap();
    let mut encoder = Format::Json(JsonFormat::default()).encoder(&schema, RowEnd::Nothing).unwrap();
    encoder.encode(&batch, &mut out).unwrap();
    column.is_valid(row).then(|| serde_json::from_slice(&out.bytes).unwrap())
}

/// A row as a line of JSON.
fn shown(batch: &RecordBatch, row: usize) -> Value {
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let text = |name: &str| column(name).as_string::<i32>().value(row).to_owned();
    let there = |name: &str| batch.column_by_name(name).is_some_and(|column| column.is_valid(row));
    let count = |name: &str| column(name).as_primitive::<UInt64Type>().value(row);
    let time = |name: &str| json!(column(name).as_primitive::<Int64Type>().value(row));
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    put("shard", json!(column("shard").as_primitive::<UInt16Type>().value(row)));
    put("keyGroup", json!(column("keyGroup").as_primitive::<UInt16Type>().value(row)));
    put("operator", json!(column("operator").as_primitive::<UInt32Type>().value(row)));
    if there("name") {
        put("name", json!(text("name")));
    }
    put("what", json!(text("what")));
    if there("number") {
        put("number", json!(column("number").as_primitive::<UInt8Type>().value(row)));
    }
    for name in ["key", "mapKey", "value"].into_iter().filter(|name| there(name)) {
        put(name, fields(column(name).as_struct(), row).unwrap());
    }
    if there("index") {
        put("index", json!(count("index")));
    }
    if there("first") {
        put("value", json!({"first": count("first"), "next": count("next")}));
    }
    for name in ["time", "expires"].into_iter().filter(|name| there(name)) {
        put(name, time(name));
    }
    if there("timersFrom") {
        let times = column("timersFrom").as_list::<i32>().value(row);
        put("timersFrom", json!(times.as_primitive::<Int64Type>().values().to_vec()));
    }
    if there("keyBytes") {
        put("key", json!(hex(column("keyBytes").as_binary::<i32>().value(row))));
        put("value", json!(hex(column("valueBytes").as_binary::<i32>().value(row))));
    }
    Value::Object(out)
}

/// Compares the file with the lines.
fn check(operators: &Operators, entries: &[Stored<'_>]) {
    let (batches, metadata) = written(operators, entries);
    let rows = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| shown(batch, row)));
    let lines = entries.iter().map(|entry| {
        let mut line = line(operators, entry);
        // A column says "no value" by not being there.
        line.as_object_mut().unwrap().retain(|name, value| name != "value" || !value.is_null());
        line
    });
    let (rows, lines): (Vec<Value>, Vec<Value>) = (rows.collect(), lines.collect());
    assert_eq!(rows, lines);
    let about = metadata.file_metadata().key_value_metadata().unwrap();
    assert!(about.iter().any(|one| one.key == VERSION_KEY && one.value.as_deref() == Some("1")), "{about:?}");
}

#[test]
fn every_kind_of_entry_is_read_back() {
    let column = |name: &str, data_type| vec![(name.to_owned(), data_type)];
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let (operators, note) = operators(column("k", DataType::Utf8), column("m", DataType::Int32), column("ts", time));
    let (user, value) = ([1, 0, 0, 0, 1, b'a'], [1, 0x80, 0, 0, 0, 0, 0, 3, 0xe8]);
    let lasting = [&[1, 0][..], &value].concat();
    let expiring = [&[1, 1, 5, 0, 0, 0, 0, 0, 0, 0][..], &value].concat();
    let bounds = [&[1, 0, 1][..], &[0; 7], &[3, 0, 0, 0, 0, 0, 0, 0]].concat();
    let entries = [
        entry(0, &[], &note),
        entry(0x10, &[&user], &lasting),
        entry(0x11, &[&user], &expiring),
        entry(0x10, &[&[0]], &[1, 0]),
        entry(0x20, &[&user, &2u64.to_be_bytes()], &lasting),
        entry(0x20, &[&user, &[255; 8]], &bounds),
        entry(0x30, &[&user, &[1, 0x80, 0, 0, 4]], &[1, 0]),
        entry(0x40, &[&[0x80, 0, 0, 0, 0, 0, 0, 9], &user], &[1, 0]),
        // Neither kind nor value of ours, text that is none, and a value of a newer release.
        entry(0x50, &[&user], &lasting),
        entry(0x10, &[&user], &[1, 0, 7]),
        entry(0x10, &[&[1, 0, 0, 0, 1, 0xff]], &lasting),
        entry(0x10, &[&user], &[9]),
    ];
    let stored: Vec<Stored<'_>> = entries.iter().map(|entry| stored(entry, UID)).collect();
    check(&operators, &stored);
    check(&operators, &[]);
}

#[test]
fn what_is_no_keyed_state_is_read_back_as_bytes() {
    let entry = entry(7, &[b"partition"], b"position");
    check(&Operators::default(), &[stored(&entry, OperatorUid::POSITIONS), stored(&entry, UID)]);
}

/// Some values of a type, with a null.
fn some(data_type: &DataType) -> ArrayRef {
    let cast = |array: &dyn Array, data_type: &DataType| arrow::compute::cast(array, data_type).unwrap();
    let numbers = Int64Array::from(vec![Some(1), None, Some(0), Some(3), Some(86_399)]);
    match data_type {
        DataType::Utf8 | DataType::Binary => {
            let texts = StringArray::from(vec![Some("a"), None, Some(""), Some("ä"), Some("long text")]);
            cast(&texts, data_type)
        }
        DataType::Time32(_) | DataType::Date32 => cast(&cast(&numbers, &DataType::Int32), data_type),
        _ => cast(&numbers, data_type),
    }
}

type KeyAndValue = (Vec<u8>, Vec<u8>);

/// Entries with these columns as key and as value, what is known of them, and the columns.
fn entries_of(columns: Columns) -> (Operators, Vec<KeyAndValue>, RecordBatch) {
    let fields = columns.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let arrays = columns.iter().map(|(_, data_type)| some(data_type)).collect();
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), arrays).unwrap();
    let all: Vec<usize> = (0..columns.len()).collect();
    let encoded = KeyEncoder::exact(&schema, &all).unwrap().encode(&batch);
    let mut entries = Vec::new();
    for row in 0..batch.num_rows() {
        let mut bytes = Vec::new();
        encoded.write(row, &mut bytes);
        entries.push(entry(0x10, &[&bytes], &[&[1, 0][..], &bytes].concat()));
    }
    (operators(columns.clone(), Columns::new(), columns).0, entries, batch)
}

#[test]
fn every_type_is_read_back_with_its_nulls() {
    let (operators, entries, batch) = entries_of(every_type());
    let stored: Vec<Stored<'_>> = entries.iter().map(|entry| stored(entry, UID)).collect();
    let (read, _) = written(&operators, &stored);
    let read = read[0].column_by_name("value").unwrap().as_struct();
    assert_eq!(read.columns(), batch.columns(), "types and values are the operator's own");
}

#[test]
fn every_type_that_json_has_is_read_back_as_it_says() {
    let in_json = |data_type: &DataType| !matches!(data_type, DataType::Time32(TimeUnit::Second) | DataType::Time64(_));
    let (operators, entries, _) = entries_of(every_type().into_iter().filter(|(_, t)| in_json(t)).collect());
    check(&operators, &entries.iter().map(|entry| stored(entry, UID)).collect::<Vec<_>>());
}

#[test]
fn a_file_is_made_of_row_groups_that_are_bounded_by_rows_and_by_bytes() {
    let column = |data_type| vec![("c".to_owned(), data_type)];
    let (operators, _) = operators(column(DataType::Int64), Columns::new(), column(DataType::Binary));
    let groups = |count: u64, length: usize| {
        let entries: Vec<_> = (0..count)
            .map(|number| {
                let mut noise = vec![0u8; length];
                let mut word = number;
                for byte in &mut noise {
                    word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    *byte = (word >> 56) as u8;
                }
                let value = [&[1, 0, 1][..], &(length as u32).to_be_bytes(), &noise].concat();
                entry(0x10, &[&[1], &number.to_be_bytes()], &value)
            })
            .collect();
        let stored: Vec<Stored<'_>> = entries.iter().map(|entry| stored(entry, UID)).collect();
        let (read, metadata) = written(&operators, &stored);
        assert_eq!(read.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), count);
        let size = |group: &parquet::file::metadata::RowGroupMetaData| (group.num_rows(), group.total_byte_size());
        metadata.row_groups().iter().map(size).collect::<Vec<_>>()
    };
    let many = groups(GROUP_ROWS as u64 + 10, 1);
    assert_eq!(many.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), [GROUP_ROWS as i64, 10]);
    let large = groups(3_000, 8_192);
    assert!(large.len() > 2, "{large:?}");
    let bound = (GROUP_BYTES + 2 * BATCH_BYTES) as i64;
    assert!(large.iter().all(|(_, bytes)| *bytes <= bound), "{large:?}");
}
