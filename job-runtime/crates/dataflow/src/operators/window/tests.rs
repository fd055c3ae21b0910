//! The promises of the window aggregate by itself: every function over nulls and filters, and state that comes back as it was.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use super::assign::window_end;
use super::*;
use crate::graph::{AggregateCall, AggregateFunction as F, NodeId, NodeKind};
use crate::state::{LogOffset, ShardStore};
use crate::testing::{Disk, MemoryStore};

pub(super) fn input() -> RecordBatch {
    let decimal = |values: Vec<Option<i128>>| Decimal128Array::from(values).with_precision_and_scale(10, 2).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3, 4, 15]))),
        ("k", Arc::new(StringArray::from(vec![Some("b"), None, Some("b"), None, Some("b")]))),
        ("i", Arc::new(Int32Array::from(vec![Some(7), None, Some(-2), None, Some(1)]))),
        ("f", Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), Some(2.0), None, None]))),
        ("d", Arc::new(decimal(vec![Some(100), None, Some(201), None, Some(5)]))),
        ("s", Arc::new(StringArray::from(vec![Some("x"), None, Some("aa"), None, Some("z")]))),
        ("day", Arc::new(Date32Array::from(vec![Some(3), None, Some(9), Some(4), None]))),
        ("yes", Arc::new(BooleanArray::from(vec![Some(true), Some(true), None, Some(false), Some(true)]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn column(name: &str) -> Option<usize> {
    Some(input().schema().index_of(name).unwrap())
}

/// All functions over all kinds of arguments; the last one with a filter.
pub(super) fn calls() -> Vec<AggregateCall> {
    let call = |function, name: Option<&str>, output_type| {
        let argument = name.and_then(column);
        let input_type = argument.map_or(DataType::Null, |i| input().schema().field(i).data_type().clone());
        AggregateCall { function, argument, filter: None, input_type, output_type }
    };
    let mut filtered = call(F::CountStar, None, DataType::Int64);
    filtered.filter = column("yes");
    vec![
        call(F::CountStar, None, DataType::Int64),
        call(F::Count, Some("i"), DataType::Int64),
        call(F::Sum, Some("i"), DataType::Int64),
        call(F::Avg, Some("i"), DataType::Float64),
        call(F::Min, Some("i"), DataType::Int32),
        call(F::Max, Some("f"), DataType::Float64),
        call(F::Avg, Some("f"), DataType::Float64),
        call(F::Sum, Some("d"), DataType::Decimal128(38, 2)),
        call(F::Avg, Some("d"), DataType::Decimal128(38, 6)),
        call(F::Min, Some("s"), DataType::Utf8),
        call(F::Max, Some("day"), DataType::Date32),
        call(F::Max, Some("yes"), DataType::Boolean),
        filtered,
    ]
}

pub(super) fn operator() -> WindowAggregate {
    operator_of(Shards::new(4).unwrap())
}

pub(super) fn operator_of(shards: Shards) -> WindowAggregate {
    let time = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), true);
    let mut fields = vec![Field::new("k", DataType::Utf8, true), time("window_start"), time("window_end")];
    let results = calls().into_iter().enumerate().map(|(i, c)| Field::new(format!("a{i}"), c.output_type, true));
    fields.extend(results);
    let window = WindowKind::Tumble { size_ms: 10, offset_ms: 0 };
    let spec = WindowAggregateNode { window, rowtime: 0, keys: vec![1], aggregates: calls() };
    let schema = Arc::new(Schema::new(fields));
    let kind = NodeKind::WindowAggregate(spec.clone());
    let node = Node { id: NodeId(0), uid: OperatorUid(20), name: "windows".to_owned(), inputs: vec![], schema, kind };
    WindowAggregate::new(&node, &spec, &input().schema(), shards, &shards.all().collect::<Vec<_>>(), Placing::Own)
        .unwrap()
}

/// Stores that hold nothing yet.
pub(super) fn stores() -> Stores {
    let shards = Shards::new(4).unwrap();
    Stores::new(shards, shards.all().map(|s| Box::new(MemoryStore::new(s, Disk::default())) as _).collect())
}

pub(super) fn apply(stores: &mut Stores, changes: &[(ShardId, ChangeBatch)]) {
    for store in stores.iter_mut() {
        let shard = store.shard();
        for (_, batch) in changes.iter().filter(|(of, _)| *of == shard) {
            store.apply(batch, LogOffset(0)).unwrap();
        }
    }
}

fn update(windows: &mut WindowAggregate, rows: RecordBatch) {
    windows.update(&Batch::new(rows), &stores()).unwrap();
}

pub(super) fn fire(windows: &mut WindowAggregate, watermark_ms: i64, stores: &Stores) -> Vec<RecordBatch> {
    std::iter::from_fn(|| windows.fire_next(watermark_ms, stores).unwrap()).map(|batch| batch.rows).collect()
}

const COMMIT: CommitId = CommitId::FIRST;

pub(super) fn text(batches: &[RecordBatch]) -> Vec<String> {
    use arrow::util::display::array_value_to_string;
    let row = |b: &RecordBatch, row| {
        let skip_times = b.columns().iter().enumerate().filter(|(i, _)| !(1..3).contains(i));
        let value = |(_, c): (usize, &ArrayRef)| match c.is_null(row) {
            true => "-".to_owned(),
            false => array_value_to_string(c, row).unwrap(),
        };
        skip_times.map(value).collect::<Vec<_>>().join(" ")
    };
    batches.iter().flat_map(|b| (0..b.num_rows()).map(|r| row(b, r)).collect::<Vec<_>>()).collect()
}

const FIRST_WINDOW: [&str; 2] =
    ["- 2 0 - - - NaN NaN - - - 1970-01-05 true 1", "b 2 2 5 2.5 -2 2.0 1.25 3.01 1.505000 aa 1970-01-10 true 1"];
const SECOND_WINDOW: &str = "b 1 1 1 1.0 1 - - 0.05 0.050000 z - true 1";

#[test]
fn every_function_heeds_nulls_and_filters() {
    let mut windows = operator();
    update(&mut windows, input());
    assert_eq!(windows.size().entries, 3);
    assert_eq!(text(&fire(&mut windows, 8, &stores())), Vec::<String>::new());
    assert_eq!(text(&fire(&mut windows, 9, &stores())), FIRST_WINDOW);
    update(&mut windows, input());
    assert_eq!(windows.size().late_dropped, 4);
}

#[test]
fn state_comes_back_as_it_was() {
    let mut before = operator();
    update(&mut before, input());
    let changes = before.take_changes(COMMIT);
    for (shard, batch) in &changes {
        for change in batch.iter() {
            let crate::state::Change::Put { key, .. } = change else { panic!("nothing was deleted") };
            let group = KeyGroup(u16::from_be_bytes([key[0], key[1]]));
            assert_eq!(Shards::new(4).unwrap().shard_of(group), *shard);
        }
    }
    let notes = changes.len();
    assert_eq!(changes.iter().map(|(_, batch)| batch.len()).sum::<usize>(), 3 + notes);
    let mut stores = stores();
    apply(&mut stores, &changes);
    let mut after = operator();
    after.restore(&stores).unwrap();
    assert_eq!(after.size().entries, 0, "nothing is read before it is needed");
    assert!(after.take_changes(COMMIT).is_empty(), "restored state is not dirty");
    let mut lines = text(&fire(&mut after, i64::MAX, &stores));
    lines.sort();
    let mut expected = [FIRST_WINDOW.as_slice(), &[SECOND_WINDOW]].concat();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    apply(&mut stores, &after.take_changes(COMMIT));
    let mut left = 0;
    stores.iter().for_each(|store| store.scan(&[], &mut |_, _| left += 1).unwrap());
    assert_eq!(left, 4, "each shard's note of what is closed");
}

#[test]
fn windows_are_found_however_the_shards_are_cut() {
    for (from, to) in [(4, 4), (4, 1), (1, 4), (4, 3), (3, 4)] {
        let stores = |count| {
            let shards = Shards::new(count).unwrap();
            (shards, shards.all().map(|s| MemoryStore::new(s, Disk::default())).collect::<Vec<_>>())
        };
        let (before, mut old) = stores(from);
        let mut windows = operator_of(before);
        windows.update(&Batch::new(input()), &Stores::new(before, Vec::new())).unwrap();
        for (shard, batch) in windows.take_changes(COMMIT) {
            old[usize::from(shard.0)].apply(&batch, LogOffset(0)).unwrap();
        }
        let (after, mut new) = stores(to);
        for store in &mut new {
            let mut batch = ChangeBatch::new();
            for old in &old {
                old.scan(&[], &mut |key, value| {
                    if after.groups(store.shard()).contains(&u16::from_be_bytes([key[0], key[1]])) {
                        batch.put(key, value);
                    }
                })
                .unwrap();
            }
            store.apply(&batch, LogOffset(0)).unwrap();
        }
        let stores = Stores::new(after, new.into_iter().map(|store| Box::new(store) as _).collect());
        let mut windows = operator_of(after);
        windows.restore(&stores).unwrap();
        assert_eq!(text(&fire(&mut windows, i64::MAX, &stores)).len(), 3, "{from} to {to} shards");
    }
}

#[test]
fn groups_that_left_memory_are_fetched_merged_and_deleted() {
    let mut stores = stores();
    let mut windows = operator();
    for commit in 1..=6 {
        windows.update(&Batch::new(input().slice(commit as usize % 3, 2)), &stores).unwrap();
        let before = windows.size();
        let changes = windows.take_changes(CommitId(commit));
        windows.evict(u64::MAX);
        assert_eq!(windows.size().entries, before.entries, "not in the stores yet");
        apply(&mut stores, &changes);
        windows.applied(CommitId(commit));
        windows.evict(u64::MAX);
        assert_eq!(windows.size().entries, 0);
    }
    assert!(windows.size().misses >= 10, "{:?}", windows.size());
    windows.update(&Batch::new(input().slice(0, 1)), &stores).unwrap();
    let mut other = operator();
    for commit in 1..=6 {
        update(&mut other, input().slice(commit % 3, 2));
    }
    update(&mut other, input().slice(0, 1));
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let found = sorted(text(&fire(&mut windows, i64::MAX, &stores)));
    assert_eq!(found, sorted(text(&fire(&mut other, i64::MAX, &stores))));
    apply(&mut stores, &windows.take_changes(CommitId(7)));
    stores.iter().for_each(|store| store.scan(&[], &mut |key, _| assert_eq!(key.len(), 14)).unwrap());
}

#[test]
fn the_first_to_leave_is_what_was_not_written_for_longest() {
    let mut stores = stores();
    let mut windows = operator();
    for (commit, row) in [(1, 0), (2, 1), (3, 4)] {
        windows.update(&Batch::new(input().slice(row, 1)), &stores).unwrap();
        apply(&mut stores, &windows.take_changes(CommitId(commit)));
        windows.applied(CommitId(commit));
    }
    windows.evict(1);
    assert_eq!((windows.size().entries, windows.size().evictions), (2, 1));
    windows.update(&Batch::new(input().slice(1, 1)), &stores).unwrap();
    assert_eq!(windows.size().misses, 0, "the younger ones are still here");
    windows.update(&Batch::new(input().slice(0, 1)), &stores).unwrap();
    assert_eq!(windows.size().misses, 1);
}

#[test]
fn stored_values_are_for_ever() {
    let mut windows = operator();
    update(&mut windows, input().slice(4, 1));
    let changes = windows.take_changes(COMMIT);
    let Some(crate::state::Change::Put { key, value }) = changes[0].1.iter().next() else { panic!("one put") };
    assert_eq!(&key[2..], [&[0, 0, 0, 20, 0x80, 0, 0, 0, 0, 0, 0, 20, 1, 0, 0, 0, 1, b'b'][..]].concat());
    let long = |n: i64| n.to_le_bytes().to_vec();
    let wide = |n: i128| n.to_le_bytes().to_vec();
    let seen = |mut bytes: Vec<u8>| {
        bytes.insert(0, 1);
        bytes
    };
    let expected = [
        vec![1],
        long(1),
        long(1),
        seen(long(1)),
        [long(1), wide(1)].concat(),
        seen(long(1)),
        vec![0; 9],
        vec![0; 16],
        seen(wide(5)),
        [long(1), wide(5)].concat(),
        seen(vec![1, 0, 0, 0, b'z']),
        vec![0; 9],
        seen(long(1)),
        long(1),
    ];
    assert_eq!(value, expected.concat());
}

#[test]
fn damaged_or_newer_state_is_refused() {
    let mut windows = operator();
    update(&mut windows, input().slice(4, 1));
    let changes = windows.take_changes(COMMIT);
    let Some(crate::state::Change::Put { key, value }) = changes[0].1.iter().next() else { panic!("one put") };
    let refused = |key: &[u8], value: &[u8]| {
        let mut stored = ChangeBatch::new();
        stored.put(key, value);
        let group = KeyGroup(u16::from_be_bytes([key[0], key[1]]));
        let mut stores = stores();
        apply(&mut stores, &[(Shards::new(4).unwrap().shard_of(group), stored)]);
        let mut windows = operator();
        windows.restore(&stores).unwrap();
        windows.fire_next(i64::MAX, &stores).unwrap_err()
    };
    assert!(matches!(refused(key, &[9]), WindowError::Version(9)));
    assert!(matches!(refused(key, &value[..5]), WindowError::Damaged { .. }));
    let longer = [value, &[0]].concat();
    assert!(matches!(refused(key, &longer), WindowError::Damaged { .. }));
    let mut other = key.to_vec();
    other[1] ^= 1;
    assert!(matches!(refused(&other, value), WindowError::Damaged { .. }));
}

#[test]
fn a_null_event_time_stops_with_the_way_out() {
    let columns = input();
    let mut arrays = columns.columns().to_vec();
    arrays[0] = Arc::new(TimestampMillisecondArray::from(vec![Some(1), None, None, None, None]));
    let rows = RecordBatch::try_new(columns.schema(), arrays).unwrap();
    let error = operator().update(&Batch::new(rows), &stores()).unwrap_err();
    assert!(error.to_string().contains("WHERE ts IS NOT NULL"), "{error}");
}

#[test]
fn windows_of_a_batch_are_told_apart() {
    let window = WindowKind::Tumble { size_ms: 10, offset_ms: 3 };
    let ends = [(-8, -7), (-7, 3), (2, 3), (3, 13), (12, 13), (13, 23)];
    for (time, end) in ends {
        assert_eq!(window_end(window, time), end, "{time}");
    }
    let split = split_by_window(window, &[12, 3, 2, 13, 4]);
    let found: Vec<_> = split.iter().map(|(end, rows)| (*end, rows.len())).collect();
    assert_eq!(found, [(3, 1), (13, 3), (23, 1)]);
}
