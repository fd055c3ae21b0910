//! Made-up rows are inside their ranges, the same for a seed, and end where they should.

use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int8Type, Int64Type, SchemaRef, TimeUnit};

use crate::connector::testing::{open, poll, schema, source, table};

fn columns() -> SchemaRef {
    schema(&[
        ("n", DataType::Int64),
        ("small", DataType::Int8),
        ("x", DataType::Float64),
        ("price", DataType::Decimal128(10, 2)),
        ("s", DataType::Utf8),
        ("b", DataType::Binary),
        ("yes", DataType::Boolean),
        ("f", DataType::Float32),
        ("d", DataType::Date32),
        ("t", DataType::Time32(TimeUnit::Millisecond)),
        ("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
    ])
}

const OPTIONS: [(&str, &str); 14] = [
    ("connector", "datagen"),
    ("rows-per-second", "1000000000"),
    ("fields.n.kind", "sequence"),
    ("fields.n.start", "5"),
    ("fields.n.end", "1004"),
    ("fields.small.min", "-3"),
    ("fields.small.max", "3"),
    ("fields.x.min", "0.5"),
    ("fields.x.max", "1.5"),
    ("fields.price.min", "0.10"),
    ("fields.price.max", "9.99"),
    ("fields.s.length", "7"),
    ("fields.yes.null-rate", "0.5"),
    ("fields.ts.max-past", "1 h"),
];

/// All rows, with a new partition for every poll: positions resume.
fn all(schema: &SchemaRef, decoded: &SchemaRef, options: &[(&str, &str)]) -> RecordBatch {
    let factory = source(&table(schema, options), decoded, Path::new(".")).unwrap();
    assert!(factory.bounded());
    let id = &factory.partitions().unwrap()[0];
    let (mut at, mut batches) = (None, Vec::new());
    loop {
        let mut partition = open(factory.as_ref(), id, at).unwrap();
        let Some(batch) = poll(partition.as_mut(), 300).unwrap() else { break };
        batches.push(batch);
        at = Some(partition.position());
    }
    concat_batches(decoded, &batches).unwrap()
}

#[test]
fn values_are_inside_their_ranges_and_a_sequence_ends_the_rows() {
    let batch = all(&columns(), &columns(), &OPTIONS);
    let sequence = batch.column(0).as_primitive::<Int64Type>();
    assert_eq!(sequence.values().to_vec(), (5..=1004).collect::<Vec<_>>());
    assert!(batch.column(1).as_primitive::<Int8Type>().values().iter().all(|v| (-3..=3).contains(v)));
    assert!(batch.column(2).as_primitive::<Float64Type>().values().iter().all(|v| (0.5..1.5).contains(v)));
    assert!(batch.column(3).as_primitive::<Decimal128Type>().values().iter().all(|v| (10..=999).contains(v)));
    assert!(batch.column(4).as_string::<i32>().iter().all(|v| v.unwrap().len() == 7));
    assert!((400..600).contains(&batch.column(6).null_count()), "half are null");
}

#[test]
fn a_seed_makes_the_same_rows_whichever_columns_are_read() {
    let some = schema(&[("s", DataType::Utf8), ("x", DataType::Float64)]);
    let (full, part) = (all(&columns(), &columns(), &OPTIONS), all(&columns(), &some, &OPTIONS));
    assert_eq!((part.column(0), part.column(1)), (full.column(4), full.column(2)));
    let other = all(&columns(), &some, &[OPTIONS.as_slice(), &[("seed", "1")]].concat());
    assert_ne!(other.column(0), part.column(0));
}

#[test]
fn the_number_of_rows_ends_them_too() {
    let batch = all(&columns(), &columns(), &[OPTIONS.as_slice(), &[("number-of-rows", "42")]].concat());
    assert_eq!(batch.num_rows(), 42);
}

fn refused(options: &[(&str, &str)]) -> String {
    let options = [&[("connector", "datagen")], options].concat();
    source(&table(&columns(), &options), &columns(), Path::new(".")).err().unwrap().to_string()
}

#[test]
fn wrong_options_are_named() {
    assert!(refused(&[("fields.smal.min", "1")]).contains("no column smal; did you mean small?"));
    assert!(refused(&[("fields.small.max", "300")]).contains("not inside -128 to 127"));
    assert!(refused(&[("fields.n.kind", "sequence")]).contains("a sequence needs 'fields.n.start'"));
    assert!(
        refused(&[("fields.yes.kind", "sequence"), ("fields.yes.start", "1"), ("fields.yes.end", "2")])
            .contains("no sequence of Boolean")
    );
}
