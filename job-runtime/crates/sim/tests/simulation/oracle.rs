//! What must come out, told from the input alone, and an independent reader of the output that looks on while things break.
//!
//! Owns the invariants I1 to I3. It shares no code with the pod: it asks the broker beside the network.

use std::collections::BTreeMap;

use checkpoint::changelog;
use dataflow::key::ShardId;
use dataflow::state::Change;
use sim::message::{Answer, Fetched, Isolation, Place, Request};
use sim::world::World;

use super::commit::{JOB, changelog_place};
use super::job::{Row, SIZE_MS, decode};
use super::pod::output_topic;

/// Values of a partition's rows begin at its number times this.
pub(crate) const PER_PARTITION: i64 = 1_000_000;

/// Reads the output topics as a read_committed consumer does.
#[derive(Default)]
pub(crate) struct Reader {
    next: BTreeMap<Place, i64>,
    /// Rows by value.
    rows: BTreeMap<i64, Vec<i64>>,
    /// The last value of each input partition.
    last: BTreeMap<i64, i64>,
    /// Windows by key and start.
    windows: BTreeMap<(i64, i64), Vec<i64>>,
}

fn fetch(world: &World, from: Place, offset: i64) -> Fetched {
    match world.ask(&Request::Fetch { from, offset, most: 1_000, isolation: Isolation::ReadCommitted }) {
        Ok(Answer::Fetched(fetched)) => fetched,
        other => unreachable!("{other:?}"),
    }
}

impl Reader {
    /// Reads on. Says what is wrong with what came.
    pub(crate) fn read(&mut self, world: &World) -> Result<(), String> {
        for windows in [false, true] {
            for partition in 0..2 {
                let place = (output_topic(windows), partition);
                let offset = self.next.get(&place).copied().unwrap_or(0);
                let fetched = fetch(world, place.clone(), offset);
                self.next.insert(place, fetched.next_offset);
                for (_, record) in fetched.records {
                    let row = decode(record.value.as_deref().unwrap_or_default());
                    if windows { self.window(row)? } else { self.row(row)? }
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, row: Vec<i64>) -> Result<(), String> {
        let value = row[2];
        let last = self.last.insert(value / PER_PARTITION, value).unwrap_or(-1);
        if self.rows.insert(value, row).is_some() {
            return Err(format!("I1: row {value} came twice"));
        }
        if value <= last { Err(format!("I2: row {value} came after row {last}")) } else { Ok(()) }
    }

    fn window(&mut self, row: Vec<i64>) -> Result<(), String> {
        let (key, start) = (row[0], row[1]);
        match self.windows.insert((key, start), row) {
            None => Ok(()),
            Some(_) => Err(format!("I1: the window of key {key} at {start} came twice")),
        }
    }

    /// True when as much has come as should.
    pub(crate) fn is_complete(&self, input: &[Row]) -> bool {
        self.rows.len() >= input.len() && self.windows.len() >= closed_windows(input).len()
    }

    /// What is missing or wrong at the end.
    pub(crate) fn check(&self, input: &[Row]) -> Result<(), String> {
        let rows: BTreeMap<i64, Vec<i64>> = input.iter().map(|row| (row[2], row.to_vec())).collect();
        if let Some(lost) = rows.keys().find(|value| !self.rows.contains_key(value)) {
            return Err(format!("I1: row {lost} was lost"));
        }
        if rows != self.rows {
            return Err("I1: rows that were never read".to_owned());
        }
        let windows = closed_windows(input);
        match windows.iter().find(|(key, window)| self.windows.get(key) != Some(window)) {
            Some((key, window)) => {
                Err(format!("I3: window {key:?} should be {window:?} and is {:?}", self.windows.get(key)))
            }
            None if windows.len() == self.windows.len() => Ok(()),
            None => Err("I1: windows that should not be there".to_owned()),
        }
    }
}

/// The windows that the last row of every partition closes: all but its own.
fn closed_windows(input: &[Row]) -> BTreeMap<(i64, i64), Vec<i64>> {
    let mut windows: BTreeMap<(i64, i64), Vec<i64>> = BTreeMap::new();
    for [key, time, value] in input.iter().filter(|row| row[0] >= 0) {
        let start = time.div_euclid(SIZE_MS) * SIZE_MS;
        let window = windows.entry((*key, start)).or_insert_with(|| vec![*key, start, start + SIZE_MS, 0, 0]);
        window[3] += 1;
        window[4] += value;
    }
    windows
}

/// The entries of a shard's state, from its changelog alone.
pub(crate) fn replayed(world: &World, shard: ShardId) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut entries, mut offset) = (BTreeMap::new(), 0);
    loop {
        let fetched = fetch(world, changelog_place(shard), offset);
        for (_, record) in &fetched.records {
            let value = record.value.as_deref().unwrap_or_default();
            for change in changelog::decode(JOB, shard, value).expect("the changelog is ours").iter() {
                match change {
                    Change::Put { key, value } => drop(entries.insert(key.to_vec(), value.to_vec())),
                    Change::Delete { key } => drop(entries.remove(key)),
                    Change::DeletePrefix { prefix } => entries.retain(|key, _| !key.starts_with(prefix)),
                }
            }
        }
        if fetched.next_offset == offset {
            return entries;
        }
        offset = fetched.next_offset;
    }
}
