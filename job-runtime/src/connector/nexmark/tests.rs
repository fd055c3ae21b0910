//! Events are the same for ever, in the published proportions, wherever a partition goes on.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};

use crate::connector::SizeHint;
use crate::connector::testing::{drain, open, poll, schema, source, table};

fn bids() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    schema(&[
        ("auction", DataType::Int64),
        ("bidder", DataType::Int64),
        ("price", DataType::Int64),
        ("channel", DataType::Utf8),
        ("url", DataType::Utf8),
        ("dateTime", time),
        ("extra", DataType::Utf8),
    ])
}

fn all(schema: &SchemaRef, decoded: &SchemaRef, stream: &str, options: &[(&str, &str)]) -> RecordBatch {
    let options = [&[("connector", "nexmark"), ("nexmark.table.type", stream)], options].concat();
    let factory = source(&table(schema, &options), decoded, Path::new(".")).unwrap();
    let mut batches = Vec::new();
    for id in factory.partitions().unwrap() {
        let mut partition = open(factory.as_ref(), &id, None).unwrap();
        batches.extend(drain(partition.as_mut(), 777).unwrap());
    }
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(factory.size_hint(), Some(SizeHint::Rows(rows as u64)));
    concat_batches(decoded, &batches).unwrap()
}

#[test]
fn of_fifty_events_one_is_a_person_three_are_auctions_the_others_bids() {
    let id = schema(&[("id", DataType::Int64)]);
    for (events, expected) in [("100000", [2000, 6000, 92000]), ("53", [2, 5, 46]), ("5", [1, 3, 1])] {
        let options = [("nexmark.events", events)];
        let people = all(&id, &id, "person", &options).num_rows();
        let auctions = all(&id, &id, "auction", &options).num_rows();
        let bids = all(&bids(), &bids(), "bid", &options).num_rows();
        assert_eq!([people, auctions, bids], expected);
    }
}

#[test]
fn bids_have_the_published_distributions() {
    let batch = all(&bids(), &bids(), "bid", &[("nexmark.events", "500000")]);
    let share = |hot: &dyn Fn(usize) -> bool| {
        let count = (0..batch.num_rows()).filter(|&row| hot(row)).count();
        count * 100 / batch.num_rows()
    };
    let integer = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
    let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row);
    assert!((48..=52).contains(&share(&|row| integer(0, row) % 100 == 0)), "hot auctions");
    assert!((73..=77).contains(&share(&|row| integer(1, row) % 100 == 1)), "hot bidders");
    assert!((48..=52).contains(&share(&|row| !text(3, row).starts_with("channel-"))), "hot channels");
    assert!((15..=18).contains(&share(&|row| integer(2, row) < 1000)), "a sixth of the prices per power of ten");
    assert!((0..batch.num_rows()).all(|row| (100..=100_000_000).contains(&integer(2, row))));
    assert!((0..batch.num_rows()).all(|row| (55..82).contains(&text(6, row).len())));
    assert!((0..batch.num_rows()).all(|row| text(4, row).starts_with("https://www.nexmark.com/")));
}

#[test]
fn only_the_columns_asked_for_are_made_and_are_the_same() {
    let options = [("nexmark.events", "5000"), ("nexmark.seed", "7")];
    let full = all(&bids(), &bids(), "bid", &options);
    let some = schema(&[("extra", DataType::Utf8), ("auction", DataType::Int64)]);
    let part = all(&bids(), &some, "bid", &options);
    assert_eq!((part.column(0), part.column(1)), (full.column(6), full.column(0)));
    let other = all(&bids(), &bids(), "bid", &[("nexmark.events", "5000"), ("nexmark.seed", "8")]);
    assert_ne!(full.column(0), other.column(0));
}

#[test]
fn splits_deal_out_the_same_events_and_resume_anywhere() {
    let columns = schema(&[("dateTime", DataType::Timestamp(TimeUnit::Millisecond, None)), ("price", DataType::Int64)]);
    let count = |batch: &RecordBatch| {
        let mut rows = BTreeMap::new();
        for row in 0..batch.num_rows() {
            let price = batch.column(1).as_primitive::<Int64Type>().value(row);
            *rows.entry(price).or_insert(0) += 1;
        }
        rows
    };
    let one = all(&columns, &columns, "bid", &[("nexmark.events", "9999")]);
    let split = [
        ("connector", "nexmark"),
        ("nexmark.table.type", "bid"),
        ("nexmark.events", "9999"),
        ("nexmark.split.num", "3"),
    ];
    let factory = source(&table(&columns, &split), &columns, Path::new(".")).unwrap();
    let mut batches = Vec::new();
    for id in factory.partitions().unwrap() {
        let mut at = None;
        loop {
            let mut partition = open(factory.as_ref(), &id, at).unwrap();
            let Some(batch) = poll(partition.as_mut(), 501).unwrap() else { break };
            batches.push(batch);
            at = Some(partition.position());
        }
    }
    assert_eq!(count(&concat_batches(&columns, &batches).unwrap()), count(&one));
}

#[test]
fn a_rate_is_kept() {
    let columns = schema(&[("id", DataType::Int64)]);
    let options = [("connector", "nexmark"), ("nexmark.table.type", "person"), ("nexmark.rate", "50000")];
    let factory = source(&table(&columns, &options), &columns, Path::new(".")).unwrap();
    assert!(!factory.bounded());
    let begun = std::time::Instant::now();
    let mut partition = open(factory.as_ref(), &factory.partitions().unwrap()[0], None).unwrap();
    let mut rows = 0;
    while rows < 100 {
        rows += poll(partition.as_mut(), 1000).unwrap().unwrap().num_rows();
    }
    // 1,000 people a second: never early, however slow the machine is.
    assert!(begun.elapsed().as_millis() as usize >= rows.saturating_sub(1), "{rows} rows in {:?}", begun.elapsed());
}

#[test]
fn a_column_of_another_stream_or_type_is_named() {
    let wrong = schema(&[("seller", DataType::Int64)]);
    let options = [("connector", "nexmark"), ("nexmark.table.type", "bid")];
    let error = source(&table(&wrong, &options), &wrong, Path::new(".")).err().unwrap();
    assert!(error.message.contains("no column seller; its columns are auction, bidder"), "{error}");
    let wrong = schema(&[("price", DataType::Int32)]);
    let error = source(&table(&wrong, &options), &wrong, Path::new(".")).err().unwrap();
    assert!(error.message.contains("declare the column price as BIGINT"), "{error}");
}
