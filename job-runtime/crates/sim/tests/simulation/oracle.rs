//! What must come out, told from the input alone, and an independent reader of the output that looks on while things break.
//!
//! Owns I1, I2, I3 for outputs, I4 and I9. It shares no code with the pods: it asks the broker beside the network.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::names;
use sim::message::{Answer, Fetched, Isolation, Place, Request};
use sim::world::World;

use super::commit::{TRANSACTION_TIMEOUT_MS, UID};
use super::job::{Row, SIZE_MS, decode};
use super::pod::output_topic;

/// Values of a partition's rows begin at its number times this.
pub(crate) const PER_PARTITION: i64 = 1_000_000;
/// The coordinator looks for old transactions this often.
const EXPIRY_MS: u64 = 10_000;
/// Longest time that a last stable offset may stand still: a transaction's timeout, until somebody looks, and until its marker is written.
const STILL_MS: u64 = 2 * TRANSACTION_TIMEOUT_MS + EXPIRY_MS + 1_000;

/// Windows by key and start.
pub(crate) type Windows = BTreeMap<(i64, i64), Vec<i64>>;

/// Reads the output topics as a read_committed consumer does.
#[derive(Default)]
pub(crate) struct Reader {
    next: BTreeMap<Place, i64>,
    /// Since when each partition's last stable offset has stood still before its end.
    still: BTreeMap<Place, (i64, u64)>,
    /// Rows by value.
    rows: BTreeMap<i64, Vec<i64>>,
    /// The last value of each input partition.
    last: BTreeMap<i64, i64>,
    /// Windows by key and start.
    windows: Windows,
    /// The last window of each key.
    last_window: BTreeMap<i64, i64>,
}

pub(crate) fn fetch(world: &World, from: Place, offset: i64) -> Fetched {
    match world.ask(&Request::Fetch { from, offset, most: 1_000, isolation: Isolation::ReadCommitted }) {
        Ok(Answer::Fetched(fetched)) => fetched,
        other => unreachable!("{other:?}"),
    }
}

/// First offset and end of a partition.
pub(crate) fn edges(world: &World, of: Place) -> (i64, i64) {
    match world.ask(&Request::ListOffsets { of }) {
        Ok(Answer::Edges(low, high)) => (low, high),
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
                self.i4_readers_go_on(world, &place, &fetched)?;
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
        i1_once(self.rows.insert(value, row).is_none(), || format!("row {value}"))?;
        i2_in_order(last, value, || format!("input partition {}", value / PER_PARTITION))
    }

    fn window(&mut self, row: Vec<i64>) -> Result<(), String> {
        let (key, start) = (row[0], row[1]);
        let last = self.last_window.insert(key, start).unwrap_or(i64::MIN);
        i1_once(self.windows.insert((key, start), row).is_none(), || format!("the window of key {key} at {start}"))?;
        i2_in_order(last, start, || format!("windows of key {key}"))
    }

    /// I4: no last stable offset stands still for longer than a transaction can last, times without the broker not counted.
    fn i4_readers_go_on(&mut self, world: &World, place: &Place, fetched: &Fetched) -> Result<(), String> {
        let (stable, now) = (fetched.last_stable_offset, world.broker_ms());
        if stable == fetched.high_watermark {
            self.still.remove(place);
            return Ok(());
        }
        let since = self.still.entry(place.clone()).or_insert((stable, now));
        if since.0 != stable {
            *since = (stable, now);
        }
        let still = now.saturating_sub(since.1);
        if still <= STILL_MS { Ok(()) } else { Err(format!("I4: {place:?} has stood at {stable} for {still} ms")) }
    }

    /// True when as much has come as should.
    pub(crate) fn is_complete(&self, rows: usize, windows: &Windows) -> bool {
        self.rows.len() >= rows && self.windows.len() >= windows.len()
    }

    /// Rows of an input partition that have come: with I2, the first ones.
    pub(crate) fn rows_of(&self, partition: usize) -> usize {
        let first = partition as i64 * PER_PARTITION;
        self.rows.range(first..first + PER_PARTITION).count()
    }

    /// How far it has come, for a message.
    pub(crate) fn progress(&self, rows: usize, windows: &Windows) -> String {
        format!("{} of {rows} rows, {} of {} windows", self.rows.len(), self.windows.len(), windows.len())
    }

    /// I1 and I3 at the end: what is missing, wrong, or was never in the input.
    pub(crate) fn i1_i3_all_is_there(&self, input: &[Row], windows: &Windows) -> Result<(), String> {
        let rows: BTreeMap<i64, Vec<i64>> = input.iter().map(|row| (row[2], row.to_vec())).collect();
        if let Some(lost) = rows.keys().find(|value| !self.rows.contains_key(value)) {
            return Err(format!("I1: row {lost} was lost"));
        }
        if rows != self.rows {
            return Err("I1: rows that were never read, or whose transaction was aborted".to_owned());
        }
        match windows.iter().find(|(key, window)| self.windows.get(key) != Some(window)) {
            Some((key, window)) => {
                Err(format!("I3: window {key:?} should be {window:?} and is {:?}", self.windows.get(key)))
            }
            None if windows.len() == self.windows.len() => Ok(()),
            None => Err("I1: windows that should not be there".to_owned()),
        }
    }
}

/// I1: nothing comes twice.
fn i1_once(new: bool, what: impl Fn() -> String) -> Result<(), String> {
    if new { Ok(()) } else { Err(format!("I1: {} came twice", what())) }
}

/// I2: of one key, and of one input partition, order is kept.
fn i2_in_order(last: i64, next: i64, what: impl Fn() -> String) -> Result<(), String> {
    if next > last { Ok(()) } else { Err(format!("I2: {}: {next} came after {last}", what())) }
}

/// I9 on the broker: the job has used the transactional ids of its pods and its own consumer group, and nothing is left open.
pub(crate) fn i9_nothing_is_left_on_the_broker(world: &World, pods: u16) -> Result<(), String> {
    let (ids, groups) = world.known();
    let mut ours: BTreeSet<String> = (0..pods).map(|pod| names::transactional_id(UID, pod)).collect();
    ours.insert(FOREIGN.to_owned());
    if let Some(id) = ids.iter().find(|id| !ours.contains(*id)) {
        return Err(format!("I9: transactional id {id} is nobody's"));
    }
    match groups.iter().find(|group| **group != names::consumer_group(UID)) {
        Some(group) => Err(format!("I9: consumer group {group} is nobody's")),
        None => Ok(()),
    }
}

/// Somebody else who writes to the input.
pub(crate) const FOREIGN: &str = "foreign";

/// The windows that the last rows of the partitions close.
pub(crate) fn closed_windows<'a>(input: impl Iterator<Item = &'a Row>) -> Windows {
    let mut windows = Windows::new();
    for [key, time, value] in input.filter(|row| row[0] >= 0) {
        let start = time.div_euclid(SIZE_MS) * SIZE_MS;
        let window = windows.entry((*key, start)).or_insert_with(|| vec![*key, start, start + SIZE_MS, 0, 0]);
        window[3] += 1;
        window[4] += value;
    }
    windows
}
