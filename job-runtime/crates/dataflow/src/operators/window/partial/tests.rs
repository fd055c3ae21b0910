//! Rows that were aggregated elsewhere give the same results as the rows themselves, whichever rows they are.

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, TimeUnit};

use super::super::tests::{calls, fire, input, operator, stores, text};
use super::*;
use crate::graph::{NodeId, NodeKind, OperatorUid};
use crate::shuffle::block::{BlockBuilder, Source, decode};

fn preaggregate() -> Preaggregate {
    let time = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), true);
    let mut fields = vec![Field::new("k", DataType::Utf8, true), time("window_start"), time("window_end")];
    fields.extend(calls().into_iter().enumerate().map(|(i, c)| Field::new(format!("a{i}"), c.output_type, true)));
    let window = WindowKind::Tumble { size_ms: 10, offset_ms: 0 };
    let spec = WindowAggregateNode { window, rowtime: 0, keys: vec![1], aggregates: calls() };
    let (schema, kind) = (Arc::new(Schema::new(fields)), NodeKind::WindowAggregate(spec.clone()));
    let node = Node { id: NodeId(0), uid: OperatorUid(20), name: "windows".to_owned(), inputs: vec![], schema, kind };
    let made = Preaggregate::new(&node, &spec, &input().schema()).unwrap();
    assert_eq!(*made.schema(), super::schema(&node, &spec, &input().schema()).unwrap(), "both sides agree");
    made
}

fn rows(of: impl Iterator<Item = u32>) -> RecordBatch {
    take_record_batch(&input(), &UInt32Array::from_iter_values(of)).unwrap()
}

/// Over the way between two pods.
fn sent(batch: &RecordBatch) -> Batch {
    let mut block = BlockBuilder::new(&batch.schema());
    let all: Vec<u32> = (0..batch.num_rows() as u32).collect();
    assert_eq!(block.take(&Source::new(batch), &all), all.len());
    Batch { rows: decode(&batch.schema(), &block.finish()).unwrap(), hashes: None, partial: true }
}

#[test]
fn any_choice_of_rows_may_be_aggregated_elsewhere() {
    let mut whole = operator();
    whole.update(&Batch::new(input()), &stores()).unwrap();
    let expected = text(&fire(&mut whole, i64::MAX, &stores()));
    let count = input().num_rows() as u32;
    for choice in 0..1u32 << count {
        let (mut windows, mut elsewhere) = (operator(), preaggregate());
        let batch = rows((0..count).filter(|row| choice >> row & 1 == 1));
        let hashes = elsewhere.encoder.encode(&batch).hashes();
        elsewhere.update(&batch, &hashes).unwrap();
        windows.update(&Batch::new(rows((0..count).filter(|row| choice >> row & 1 == 0))), &stores()).unwrap();
        assert_eq!(elsewhere.reduction().0, batch.num_rows());
        for (partial, hashes) in elsewhere.take().unwrap() {
            assert_eq!(partial.num_rows(), hashes.len());
            windows.update(&sent(&partial), &stores()).unwrap();
        }
        assert_eq!(elsewhere.reduction(), (0, 0));
        assert_eq!(text(&fire(&mut windows, i64::MAX, &stores())), expected, "rows {choice:b}");
    }
}

#[test]
fn rows_of_one_key_and_window_become_one() {
    let (mut elsewhere, batch) = (preaggregate(), input());
    let hashes = elsewhere.encoder.encode(&batch).hashes();
    (0..100).for_each(|_| elsewhere.update(&batch, &hashes).unwrap());
    assert_eq!(elsewhere.reduction(), (500, 3));
    let made: usize = elsewhere.take().unwrap().iter().map(|(batch, _)| batch.num_rows()).sum();
    assert_eq!(made, 3);
}
