//! The groups of one open window: key → group number → columns of accumulators, and which groups changed since the last barrier.
//!
//! Owns the hash table and the keys in memory. No allocation per row: a group's key is copied once, into one arena.

use std::ops::Range;

use hashbrown::HashTable;

use super::WindowError;
use super::accumulator::{Accumulator, Argument, Call};
use crate::key::{EncodedKeys, KeyEncoder, write_fixed_key};

/// Rows of a batch.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// The first `n`, that is all.
    All(usize),
    /// These.
    Some(&'a [u32]),
}

impl Rows<'_> {
    /// Calls `f` with each row.
    #[inline(always)]
    pub(super) fn each(&self, mut f: impl FnMut(usize)) {
        match self {
            Self::All(rows) => (0..*rows).for_each(f),
            Self::Some(rows) => rows.iter().for_each(|&row| f(row as usize)),
        }
    }
}

/// Set in a group's flags while the next barrier must write it.
const DIRTY: u8 = 1;
/// Set once a barrier has written it.
const STORED: u8 = 2;

/// A slot of the hash table. `tag` is the key itself for fixed-width keys, else its hash.
struct Slot {
    tag: u64,
    group: u32,
}

enum Keys {
    /// Values as in [`EncodedKeys::Fixed`]; the null key's group stands beside.
    Fixed { values: Vec<u64>, null: Option<u32>, width: usize },
    /// Encodings in one arena.
    Bytes { bytes: Vec<u8>, ends: Vec<usize> },
}

pub(super) struct Groups {
    table: HashTable<Slot>,
    keys: Keys,
    hashes: Vec<u64>,
    flags: Vec<u8>,
    dirty: Vec<u32>,
    /// The commit that last wrote each group. May be shorter than the others: groups behind its end were never written.
    written: Vec<u32>,
    accumulators: Vec<Accumulator>,
    /// Group of each row of the batch at hand; kept to reuse the memory.
    scratch: Vec<u32>,
}

/// Where the hash table looks. The low bits choose the key group and with it the worker, so the keys of one worker share them: the table
/// must not use them first.
#[inline]
fn place(hash: u64) -> u64 {
    hash.rotate_left(32)
}

impl Groups {
    pub(super) fn new(encoder: &KeyEncoder, calls: &[Call]) -> Self {
        let keys = match encoder.fixed_width() {
            Some(width) => Keys::Fixed { values: Vec::new(), null: None, width },
            None => Keys::Bytes { bytes: Vec::new(), ends: Vec::new() },
        };
        Self {
            table: HashTable::new(),
            keys,
            hashes: Vec::new(),
            flags: Vec::new(),
            dirty: Vec::new(),
            written: Vec::new(),
            accumulators: calls.iter().map(Accumulator::new).collect(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// About how much memory the groups take.
    pub(super) fn bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Fixed { values, .. } => values.len() * 8,
            Keys::Bytes { bytes, ends } => bytes.len() + ends.len() * 8,
        };
        let fixed = size_of::<u64>() + size_of::<u32>() + 1;
        let lists = (self.dirty.len() + self.scratch.len()) * size_of::<u32>();
        let table = self.table.allocation_size();
        keys + self.len() * fixed + lists + table + self.accumulators.iter().map(Accumulator::bytes).sum::<usize>()
    }

    pub(super) fn hash(&self, group: u32) -> u64 {
        self.hashes[group as usize]
    }

    pub(super) fn accumulators(&self) -> &[Accumulator] {
        &self.accumulators
    }

    /// Appends a group's encoded key.
    pub(super) fn write_key(&self, group: u32, out: &mut Vec<u8>) {
        match &self.keys {
            Keys::Fixed { values, null, width } => {
                write_fixed_key((*null != Some(group)).then(|| values[group as usize]), *width, out);
            }
            Keys::Bytes { bytes, ends } => out.extend_from_slice(arena(bytes, ends, group as usize)),
        }
    }

    /// True if there are changes that no barrier has taken.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// All groups in the order of their encoded keys.
    pub(super) fn ordered(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        match &self.keys {
            Keys::Fixed { values, null, .. } => order.sort_unstable_by_key(|&g| (*null != Some(g), values[g as usize])),
            Keys::Bytes { bytes, ends } => {
                order.sort_unstable_by(|&a, &b| arena(bytes, ends, a as usize).cmp(arena(bytes, ends, b as usize)));
            }
        }
        order
    }

    /// Groups that a barrier has written.
    pub(super) fn stored(&self) -> impl Iterator<Item = u32> {
        (0..self.len() as u32).filter(|&group| self.flags[group as usize] & STORED != 0)
    }

    /// Groups that changed since the last call; they count as written by commit `commit` from now on.
    pub(super) fn take_dirty(&mut self, commit: u32) -> Vec<u32> {
        self.written.resize(self.hashes.len(), commit);
        for &group in &self.dirty {
            self.flags[group as usize] = STORED;
            self.written[group as usize] = commit;
        }
        std::mem::take(&mut self.dirty)
    }

    /// Finds the groups of rows for [`Groups::accumulate`], which must be next; returns the groups that were made for it.
    pub(super) fn find(&mut self, keys: &EncodedKeys, hashes: &[u64], rows: &Rows<'_>) -> Range<u32> {
        let mut groups = std::mem::take(&mut self.scratch);
        groups.clear();
        let before = self.hashes.len() as u32;
        self.find_into(keys, hashes, rows, &mut groups);
        self.scratch = groups;
        before..self.hashes.len() as u32
    }

    /// Takes in the rows that [`Groups::find`] has found the groups of.
    pub(super) fn accumulate(
        &mut self,
        rows: &Rows<'_>,
        arguments: &[Argument],
        calls: &[Call],
    ) -> Result<(), WindowError> {
        let (flags, dirty) = (&mut self.flags, &mut self.dirty);
        for &group in &self.scratch {
            let flags = &mut flags[group as usize];
            if *flags & DIRTY == 0 {
                *flags |= DIRTY;
                dirty.push(group);
            }
        }
        let count = self.hashes.len();
        for ((accumulator, argument), call) in self.accumulators.iter_mut().zip(arguments).zip(calls) {
            accumulator.resize(count);
            accumulator.update(argument, rows, &self.scratch, call)?;
        }
        Ok(())
    }

    /// Appends the group of each row, making groups for new keys.
    fn find_into(&mut self, keys: &EncodedKeys, hashes: &[u64], rows: &Rows<'_>, out: &mut Vec<u32>) {
        let Self { table, keys: own, hashes: own_hashes, flags, .. } = self;
        match (keys, own) {
            (EncodedKeys::Fixed { values, nulls, .. }, Keys::Fixed { values: own, null, .. }) => {
                let nulls = nulls.as_ref().filter(|n| n.null_count() > 0);
                rows.each(|row| {
                    if nulls.is_some_and(|n| n.is_null(row)) {
                        let group = *null.get_or_insert_with(|| {
                            own.push(0);
                            new_group(own_hashes, flags, hashes[row])
                        });
                        out.push(group);
                        return;
                    }
                    out.push(find_fixed(table, own, own_hashes, flags, values[row], hashes[row]));
                });
            }
            (EncodedKeys::Bytes { bytes, ends }, Keys::Bytes { bytes: own, ends: own_ends }) => rows.each(|row| {
                let key = arena(bytes, ends, row);
                out.push(find_bytes(table, own, own_ends, own_hashes, flags, key, hashes[row]));
            }),
            (EncodedKeys::Fixed { .. }, Keys::Bytes { .. }) | (EncodedKeys::Bytes { .. }, Keys::Fixed { .. }) => {
                unreachable!("groups are made for the encoder whose keys they are given")
            }
        }
    }

    /// Takes a stored group back that is not here.
    pub(super) fn restore(&mut self, encoded: &[u8], hash: u64, value: &[u8]) -> Result<(), WindowError> {
        let group = match &mut self.keys {
            Keys::Fixed { values, null, width } => match (encoded.split_first(), *width) {
                (Some((0, [])), _) => {
                    values.push(0);
                    let group = new_group(&mut self.hashes, &mut self.flags, hash);
                    *null = Some(group);
                    group
                }
                (Some((1, bytes)), width) if bytes.len() == width => {
                    let mut wide = [0; 8];
                    wide[8 - width..].copy_from_slice(bytes);
                    let value = u64::from_be_bytes(wide);
                    find_fixed(&mut self.table, values, &mut self.hashes, &mut self.flags, value, hash)
                }
                _ => return Err(WindowError::damaged("a key is not of this operator's type")),
            },
            Keys::Bytes { bytes, ends } => {
                find_bytes(&mut self.table, bytes, ends, &mut self.hashes, &mut self.flags, encoded, hash)
            }
        };
        self.load(group, value)
    }

    /// Sets a group that has seen no row to what is stored of it.
    pub(super) fn load(&mut self, group: u32, mut value: &[u8]) -> Result<(), WindowError> {
        self.flags[group as usize] = STORED;
        for accumulator in &mut self.accumulators {
            accumulator.resize(self.hashes.len());
            accumulator.read(group, &mut value)?;
        }
        match value.len() {
            0 => Ok(()),
            more => Err(WindowError::damaged(format!("an entry has {more} bytes too many"))),
        }
    }
}

impl Groups {
    /// Calls `visit` with each group that memory can do without, as its last change was written by commit `applied` or before, and with the
    /// number of commits since then. `now` is the last commit.
    pub(super) fn clean(&self, now: u32, applied: u32, mut visit: impl FnMut(u32, u32)) {
        let pending = now.wrapping_sub(applied);
        for (group, (&flags, &written)) in self.flags.iter().zip(&self.written).enumerate() {
            // Differences, because the numbers wrap around.
            let age = now.wrapping_sub(written);
            if flags == STORED && age >= pending {
                visit(group as u32, age);
            }
        }
    }

    /// Forgets the groups of `gone`, which is in ascending order and has none that is dirty.
    pub(super) fn forget(&mut self, gone: &[u32]) {
        let mut gone = gone.iter().copied().peekable();
        let kept: Vec<u32> = (0..self.len() as u32).filter(|group| gone.next_if_eq(group).is_none()).collect();
        self.written.resize(self.hashes.len(), 0);
        keep(&mut self.hashes, &kept);
        keep(&mut self.flags, &kept);
        keep(&mut self.written, &kept);
        self.accumulators.iter_mut().for_each(|accumulator| accumulator.keep(&kept));
        match &mut self.keys {
            Keys::Fixed { values, null, .. } => {
                keep(values, &kept);
                *null = null.and_then(|group| kept.binary_search(&group).ok()).map(|place| place as u32);
            }
            Keys::Bytes { bytes, ends } => keep_arena(bytes, ends, &kept),
        }
        self.dirty.clear();
        self.dirty.extend((0..kept.len() as u32).filter(|&group| self.flags[group as usize] & DIRTY != 0));
        self.scratch = Vec::new();
        self.rebuild();
    }

    fn rebuild(&mut self) {
        let Self { table, keys, hashes, .. } = self;
        table.clear();
        table.shrink_to(hashes.len(), |_| unreachable!("the table was cleared"));
        for (group, &hash) in hashes.iter().enumerate() {
            let group = group as u32;
            let tag = match keys {
                Keys::Fixed { null, .. } if *null == Some(group) => continue,
                Keys::Fixed { values, .. } => values[group as usize],
                Keys::Bytes { .. } => hash,
            };
            table.insert_unique(place(hash), Slot { tag, group }, |slot| place(hashes[slot.group as usize]));
        }
    }
}

/// Keeps the elements at `kept` (ascending) and gives memory back if few are left.
pub(super) fn keep<T>(values: &mut Vec<T>, kept: &[u32]) {
    for (to, &from) in kept.iter().enumerate() {
        values.swap(to, from as usize);
    }
    values.truncate(kept.len());
    if values.len() < values.capacity() / 2 {
        values.shrink_to_fit();
    }
}

fn keep_arena(bytes: &mut Vec<u8>, ends: &mut Vec<usize>, kept: &[u32]) {
    let mut end = 0;
    for (to, &from) in kept.iter().enumerate() {
        let from = from as usize;
        let start = if from == 0 { 0 } else { ends[from - 1] };
        let stop = ends[from];
        bytes.copy_within(start..stop, end);
        end += stop - start;
        // Places before `from` are not read any more, and `to` is at most `from`.
        ends[to] = end;
    }
    bytes.truncate(end);
    ends.truncate(kept.len());
    if bytes.len() < bytes.capacity() / 2 {
        bytes.shrink_to_fit();
        ends.shrink_to_fit();
    }
}

#[inline]
fn arena<'a>(bytes: &'a [u8], ends: &[usize], index: usize) -> &'a [u8] {
    let start = if index == 0 { 0 } else { ends[index - 1] };
    &bytes[start..ends[index]]
}

fn new_group(hashes: &mut Vec<u64>, flags: &mut Vec<u8>, hash: u64) -> u32 {
    let group = hashes.len() as u32;
    hashes.push(hash);
    flags.push(0);
    group
}

#[inline]
fn find_fixed(
    table: &mut HashTable<Slot>,
    keys: &mut Vec<u64>,
    hashes: &mut Vec<u64>,
    flags: &mut Vec<u8>,
    value: u64,
    hash: u64,
) -> u32 {
    if let Some(slot) = table.find(place(hash), |slot| slot.tag == value) {
        return slot.group;
    }
    let group = new_group(hashes, flags, hash);
    keys.push(value);
    table.insert_unique(place(hash), Slot { tag: value, group }, |slot| place(hashes[slot.group as usize]));
    group
}

#[inline]
fn find_bytes(
    table: &mut HashTable<Slot>,
    bytes: &mut Vec<u8>,
    ends: &mut Vec<usize>,
    hashes: &mut Vec<u64>,
    flags: &mut Vec<u8>,
    key: &[u8],
    hash: u64,
) -> u32 {
    let same = |slot: &Slot| slot.tag == hash && arena(bytes, ends, slot.group as usize) == key;
    if let Some(slot) = table.find(place(hash), same) {
        return slot.group;
    }
    let group = new_group(hashes, flags, hash);
    bytes.extend_from_slice(key);
    ends.push(bytes.len());
    table.insert_unique(place(hash), Slot { tag: hash, group }, |slot| place(hashes[slot.group as usize]));
    group
}
