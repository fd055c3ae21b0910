//! What a person sees.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use dataflow::graph::{NodeId, SinkNode};
use dataflow::sink::{SinkChunk, SinkPayload};
use dataflow::worker::CommitId;

use crate::connector::testing::{context, schema, table};
use crate::connector::{SinkTarget, registry};

fn columns() -> SchemaRef {
    schema(&[("airport", DataType::Utf8), ("n", DataType::Int64), ("mean", DataType::Float64)])
}

fn batch(rows: &[(&str, Option<i64>, f64)]) -> RecordBatch {
    let airports = StringArray::from_iter_values(rows.iter().map(|r| r.0));
    let counts = rows.iter().map(|r| r.1).collect::<Int64Array>();
    let means = Float64Array::from_iter_values(rows.iter().map(|r| r.2));
    RecordBatch::try_new(columns(), vec![Arc::new(airports), Arc::new(counts), Arc::new(means)]).unwrap()
}

/// Prints two batches, one per commit, and one that is never committed.
fn printed(options: &[(&str, &str)], bounded: bool) -> String {
    let options = [&[("connector", "print")], options].concat();
    let (mut context, printed) = context(Path::new("."));
    context.bounded = bounded;
    let factory = registry::sink(&table(&columns(), &options), &SinkNode { table: "t".to_owned() }, &context).unwrap();
    let SinkTarget::External(mut sink) = factory.target().unwrap() else { unreachable!("not Kafka") };
    let mut encoder = factory.encoder(0).unwrap();
    sink.recover(&[]).unwrap();
    let batches = [
        batch(&[("EWR", Some(12), 9.5), ("JFK", None, 120.0)]),
        batch(&[("Los Angeles", Some(1_000_000), 0.125)]),
        batch(&[("never", Some(0), 0.0)]),
    ];
    for (commit, batch) in (1..).zip(&batches) {
        let mut payloads = Vec::new();
        encoder.encode(batch, &mut payloads).unwrap();
        encoder.flush(&mut payloads).unwrap();
        for payload in payloads {
            assert!(matches!(payload, SinkPayload::Batch(_)));
            sink.write(&SinkChunk { sink: NodeId(0), worker: 0, payload }).unwrap();
        }
        if commit < 3 {
            sink.prepare(CommitId(commit)).unwrap();
            sink.committed(CommitId(commit), commit == 2).unwrap();
        }
    }
    String::from_utf8(printed.lock().unwrap().clone()).unwrap()
}

#[test]
fn a_bounded_job_ends_with_one_table() {
    let shown = printed(&[("print-identifier", "delays")], true);
    let expected = "
delays
┌─────────────┬─────────┬─────────┐
│ airport     ┆       n ┆    mean │
╞═════════════╪═════════╪═════════╡
│ EWR         ┆      12 ┆   9.500 │
│ JFK         ┆    NULL ┆ 120.000 │
│ Los Angeles ┆ 1000000 ┆   0.125 │
└─────────────┴─────────┴─────────┘
";
    assert_eq!(shown, expected);
}

#[test]
fn a_table_is_cut_at_the_most_rows() {
    let expected = "
t
┌─────────┬────┬──────┐
│ airport ┆  n ┆ mean │
╞═════════╪════╪══════╡
│ EWR     ┆ 12 ┆  9.5 │
└─────────┴────┴──────┘
… and 2 more rows
";
    assert_eq!(printed(&[("print.max-rows", "1")], true), expected);
}

#[test]
fn an_endless_job_prints_aligned_rows_under_one_header() {
    let expected = "\
airport       n    mean
───────  ──────  ──────
EWR          12     9.5
JFK        NULL   120.0
Los Angeles  1000000   0.125
";
    assert_eq!(printed(&[], false), expected);
}

#[test]
fn other_styles_are_a_line_per_row() {
    let style = |style| printed(&[("print.style", style), ("print-identifier", "d")], true);
    let json = r#"d> {"airport":"EWR","n":12,"mean":9.5}
d> {"airport":"JFK","n":null,"mean":120.0}
d> {"airport":"Los Angeles","n":1000000,"mean":0.125}
"#;
    assert_eq!(style("json"), json);
    let pairs =
        "d> airport=EWR n=12 mean=9.5\nd> airport=JFK n=NULL mean=120.0\nd> airport=Los Angeles n=1000000 mean=0.125\n";
    assert_eq!(style("kv"), pairs);
}
