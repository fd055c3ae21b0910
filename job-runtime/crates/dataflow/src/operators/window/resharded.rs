//! A job's windows across savepoints into other numbers of shards, against an oracle: every window is emitted once, with all its rows.
//!
//! Owns the sequences of divisions. What one shard stores and reads is tested in `tests`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray, TimestampMillisecondArray, new_null_array};
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use proptest::prelude::*;

use super::tests::{apply, fire, input, operator_of};
use super::*;
use crate::state::{LogOffset, ShardStore, reshard};
use crate::testing::{Disk, MemoryStore};

/// Length of the windows of `operator_of`.
const SIZE: i64 = 10;

/// What happens between one savepoint and the next.
#[derive(Clone, Debug)]
struct Round {
    shards: u16,
    /// Key, and by how much the row is after the watermark.
    rows: Vec<(u8, i64)>,
    /// Rows of windows that were emitted, which are late: any of them.
    late: Vec<prop::sample::Index>,
    advance: i64,
    /// Rows come before, or behind, the barrier in the middle.
    barrier: bool,
}

fn round() -> impl Strategy<Value = Round> {
    let rows = prop::collection::vec((0u8..40, 1i64..40), 0..12);
    let late = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (1u16..7, rows, late, 0i64..30, any::<bool>()).prop_map(|(shards, rows, late, advance, barrier)| Round {
        shards,
        rows,
        late,
        advance,
        barrier,
    })
}

/// A key and the end of its window.
type Window = (String, i64);

/// A job and its oracle.
#[derive(Default)]
struct Job {
    division: Option<Shards>,
    disks: Vec<Disk>,
    watermark: i64,
    open: BTreeMap<Window, i64>,
    emitted: BTreeSet<Window>,
}

/// Rows of the input: each with a key and a time, and nothing else.
fn batch(rows: &[(String, i64)]) -> Batch {
    let schema = input().schema();
    let column = |(place, field): (usize, &Arc<arrow::datatypes::Field>)| -> ArrayRef {
        match place {
            0 => Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|(_, time)| *time))),
            1 => Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| key))),
            _ => new_null_array(field.data_type(), rows.len()),
        }
    };
    let columns = schema.fields().iter().enumerate().map(column).collect();
    Batch::new(arrow::array::RecordBatch::try_new(schema, columns).unwrap())
}

impl Job {
    /// The shards of a savepoint become those of another division, as a start from one does it.
    fn cut(&mut self, next: Shards) {
        let disks: Vec<Disk> = next.all().map(|_| Disk::default()).collect();
        for (new, disk) in next.all().zip(&disks) {
            let mut store = MemoryStore::new(new, disk.clone());
            let old = self.division.iter().flat_map(|division| division.all().map(|shard| division.groups(shard)));
            for (groups, before) in old.zip(&self.disks) {
                if groups == next.groups(new) {
                    disk.replace(before);
                    continue;
                }
                for (key, value) in before.entries() {
                    let mut changes = ChangeBatch::new();
                    if let Some(key) = reshard(&key, &groups, &next.groups(new)) {
                        changes.put(&key, &value);
                    }
                    store.apply(&changes, LogOffset(0)).unwrap();
                }
            }
        }
        (self.division, self.disks) = (Some(next), disks);
    }

    fn run(&mut self, round: &Round) -> Result<(), TestCaseError> {
        let shards = Shards::new(round.shards).unwrap();
        self.cut(shards);
        let store = |(shard, disk): (ShardId, &Disk)| Box::new(MemoryStore::new(shard, disk.clone())) as _;
        let mut stores = Stores::new(shards, shards.all().zip(&self.disks).map(store).collect());
        let mut windows = operator_of(shards);
        windows.restore(&stores).unwrap();
        if round.barrier {
            apply(&mut stores, &windows.take_changes(CommitId(1)));
        }
        self.feed(&mut windows, &stores, round);
        self.watermark += round.advance;
        self.check(&fire(&mut windows, self.watermark, &stores))?;
        apply(&mut stores, &windows.take_changes(CommitId(2)));
        Ok(())
    }

    fn feed(&mut self, windows: &mut WindowAggregate, stores: &Stores, round: &Round) {
        let on_time = round.rows.iter().map(|(key, after)| (format!("k{key}"), self.watermark + after));
        let mut rows: Vec<(String, i64)> = on_time.collect();
        for (key, time) in &rows {
            let end = time.div_euclid(SIZE) * SIZE + SIZE;
            *self.open.entry((key.clone(), end)).or_default() += 1;
        }
        let emitted: Vec<&Window> = self.emitted.iter().collect();
        let late = round.late.iter().filter(|_| !emitted.is_empty()).map(|index| *index.get(&emitted));
        rows.extend(late.map(|(key, end)| (key.clone(), end - 1)));
        windows.update(&batch(&rows), stores).unwrap();
    }

    /// What is emitted is what the watermark has passed, whole, and nothing of it comes again.
    fn check(&mut self, batches: &[arrow::array::RecordBatch]) -> Result<(), TestCaseError> {
        let mut came = BTreeMap::new();
        for batch in batches {
            let ends = batch.column(2).as_primitive::<TimestampMillisecondType>();
            let counts = batch.column(3).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let window = (batch.column(0).as_string::<i32>().value(row).to_owned(), ends.value(row));
                prop_assert!(self.emitted.insert(window.clone()), "{window:?} came again");
                came.insert(window, counts.value(row));
            }
        }
        let watermark = self.watermark;
        let due: BTreeMap<Window, i64> = self.open.extract_if(.., |(_, end), _| *end - 1 <= watermark).collect();
        prop_assert_eq!(came, due);
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_window_is_emitted_once_and_whole_however_often_the_shards_are_merged_and_split(
        rounds in prop::collection::vec(round(), 1..8),
    ) {
        let mut job = Job::default();
        for round in &rounds {
            job.run(round)?;
        }
        job.run(&Round { shards: 2, rows: Vec::new(), late: Vec::new(), advance: 1_000, barrier: false })?;
        prop_assert!(job.open.is_empty());
    }
}

/// The case that the sequences above found: the note of a shard that had become part of a larger one lay where the larger one's note belonged
/// when it was split again, and said what was true before the merge.
#[test]
fn a_note_from_before_a_merge_does_not_stand_for_the_shard_that_is_split_off_again() {
    let row = |shards, after| Round {
        shards,
        rows: (0..40).map(|key| (key, after)).collect(),
        late: Vec::new(),
        advance: 0,
        barrier: false,
    };
    let mut job = Job::default();
    // Two shards know of a window; one shard knows of another, and emits the first; two shards go on.
    for round in [row(2, 1), Round { advance: 10, ..row(1, 15) }, Round { advance: 20, rows: Vec::new(), ..row(2, 0) }]
    {
        job.run(&round).unwrap();
    }
    assert_eq!((job.emitted.len(), job.open.len()), (80, 0));
}
