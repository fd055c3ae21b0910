//! Emitting a window that the watermark has passed, a batch at a time, from memory and the stores; and the deletes behind it.
//!
//! Owns the order of the rows. Which window is due is decided here, when the watermark moves is not.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};

use super::groups::Groups;
use super::memory::checked;
use super::{EMIT_ROWS, Open, WindowAggregate, WindowError, retyped, write_state_key};
use crate::batch::Batch;
use crate::graph::WindowKind;
use crate::key::{KEY_GROUPS, KeyGroup, group_of, hash_bytes, in_group};
use crate::operators::placing::Placing;
use crate::state::Stores;

/// A window that is being emitted.
pub(super) struct Firing {
    end: i64,
    open: Open,
    /// All groups in memory, in the order in which they are emitted.
    order: Vec<u32>,
    /// How many of them are emitted.
    at: usize,
    /// The next key group to merge with the stores.
    next: u16,
}

impl Firing {
    fn new(end: i64, open: Open) -> Self {
        let mut order = open.groups.ordered();
        if !open.spilled.is_empty() {
            order.sort_by_key(|&group| group_of(open.groups.hash(group)));
        }
        Self { end, open, order, at: 0, next: 0 }
    }

    /// The end of the window.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// True if the stores have, or are about to get, entries of the window in these key groups.
    pub(super) fn has_entries(&self, groups: &Range<u16>) -> bool {
        self.open.stored.any_in(groups)
    }

    /// The groups in memory of the next key group.
    fn take_key_group(&mut self, key_group: KeyGroup) -> Range<usize> {
        let same = |group: &&u32| group_of(self.open.groups.hash(**group)) == key_group;
        let start = self.at;
        self.at += self.order[start..].iter().take_while(same).count();
        start..self.at
    }
}

impl WindowAggregate {
    /// The watermark has reached `watermark_ms`: the next batch of the windows that it has passed; `None` if there is no more.
    /// Called again until then, before anything else.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn fire_next(&mut self, watermark_ms: i64, stores: &Stores) -> Result<Option<Batch>, WindowError> {
        self.watermark_ms = self.watermark_ms.max(watermark_ms);
        loop {
            let mut firing = match self.firing.take() {
                Some(firing) => firing,
                None => match self.next_due() {
                    Some(firing) => firing,
                    None => return Ok(None),
                },
            };
            let rows = match firing.open.spilled.is_empty() {
                true => self.all_in_memory(&mut firing)?,
                false => self.merged(&mut firing, stores)?,
            };
            match rows {
                Some(rows) => {
                    self.firing = Some(firing);
                    return Ok(Some(rows));
                }
                None => self.delete(&firing),
            }
        }
    }

    fn next_due(&mut self) -> Option<Firing> {
        let entry = self.open.first_entry().filter(|entry| entry.key() - 1 <= self.watermark_ms)?;
        let (end, open) = entry.remove_entry();
        self.closed_through = self.closed_through.max(end);
        self.bytes -= open.groups.bytes();
        Some(Firing::new(end, open))
    }

    fn all_in_memory(&self, firing: &mut Firing) -> Result<Option<Batch>, WindowError> {
        let order = &firing.order[firing.at..];
        let order = &order[..order.len().min(EMIT_ROWS)];
        firing.at += order.len();
        match order.is_empty() {
            true => Ok(None),
            false => self.batch(firing.end, &firing.open.groups, order).map(Some),
        }
    }

    /// Some key groups, whole: what is in memory, and what only the stores have.
    fn merged(&self, firing: &mut Firing, stores: &Stores) -> Result<Option<Batch>, WindowError> {
        let mut out = Groups::new(&self.encoder, &self.calls);
        while out.len() < EMIT_ROWS && firing.next < KEY_GROUPS {
            let key_group = KeyGroup(firing.next);
            firing.next += 1;
            let here = firing.take_key_group(key_group);
            let mut here = firing.order[here].iter().map(|&group| copied(&firing.open.groups, group)).peekable();
            if firing.open.spilled.contains(key_group) {
                let mut prefix = Vec::new();
                write_state_key(&mut prefix, key_group, self.uid, firing.end);
                let mut failed = None;
                stores.of(key_group)?.scan(&prefix, &mut |key, value| {
                    let key = &key[prefix.len()..];
                    let mut take = || -> Result<(), WindowError> {
                        while let Some((own, value)) = here.next_if(|(own, _)| own.as_slice() < key) {
                            out.restore(&own, in_group(hash_bytes(&own), key_group), &value)?;
                        }
                        // What is in memory is at least as new.
                        match here.peek().map(|(own, _)| own.as_slice().cmp(key)) {
                            Some(Ordering::Equal) => Ok(()),
                            _ => self.restore_stored(&mut out, key_group, key, value),
                        }
                    };
                    if failed.is_none() {
                        failed = take().err();
                    }
                })?;
                if let Some(error) = failed {
                    return Err(error);
                }
            }
            here.try_for_each(|(own, value)| out.restore(&own, in_group(hash_bytes(&own), key_group), &value))?;
        }
        match out.len() as u32 {
            0 => Ok(None),
            rows => self.batch(firing.end, &out, &(0..rows).collect::<Vec<_>>()).map(Some),
        }
    }

    fn batch(&self, end: i64, groups: &Groups, order: &[u32]) -> Result<Batch, WindowError> {
        let hashes = self.placing.carries().then(|| order.iter().map(|&group| groups.hash(group)).collect());
        Ok(Batch { rows: self.rows(end, groups, order)?, hashes, partial: false })
    }

    /// Takes what only a store has of a group. Where a key lies by its own hash, another place is damage.
    fn restore_stored(
        &self,
        out: &mut Groups,
        key_group: KeyGroup,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), WindowError> {
        let hash = hash_bytes(key);
        match &self.placing {
            Placing::Given | Placing::Own if group_of(hash) != key_group => {
                let message = format!("a key of group {} stands in group {}", group_of(hash).0, key_group.0);
                return Err(WindowError::damaged(message));
            }
            Placing::Given | Placing::Own | Placing::Columns(_) | Placing::Carried => {}
        }
        out.restore(key, in_group(hash, key_group), checked(value)?)
    }

    fn rows(&self, end: i64, groups: &Groups, order: &[u32]) -> Result<RecordBatch, WindowError> {
        let WindowKind::Tumble { size_ms, .. } = self.window;
        let mut encoded = Vec::new();
        let mut ends = Vec::with_capacity(order.len());
        for &group in order {
            groups.write_key(group, &mut encoded);
            ends.push(encoded.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let keys: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &encoded[start..end]).collect();
        let mut columns = self.decoder.decode(&keys)?;
        for time in [end - size_ms, end] {
            let data_type = self.schema.field(columns.len()).data_type();
            columns.push(retyped(&Int64Array::from(vec![time; order.len()]), data_type)?);
        }
        for (accumulator, call) in groups.accumulators().iter().zip(&self.calls) {
            columns.push(accumulator.finish(order, call)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// Notes the deletes of an emitted window: of each group that a barrier has written if they are few and all here, else of whole key groups.
    fn delete(&mut self, firing: &Firing) {
        let Firing { end, open, .. } = firing;
        let mut key = Vec::new();
        if open.spilled.is_empty() && open.groups.stored().count() <= 4 * open.stored.len() {
            for group in open.groups.stored() {
                let key_group = group_of(open.groups.hash(group));
                write_state_key(&mut key, key_group, self.uid, *end);
                open.groups.write_key(group, &mut key);
                self.deletes.of(self.shards, key_group).delete(&key);
            }
            return;
        }
        for key_group in open.stored.iter() {
            write_state_key(&mut key, key_group, self.uid, *end);
            self.deletes.of(self.shards, key_group).delete_prefix(&key);
        }
    }
}

/// A group's key and value as they would be stored, the value without its version.
fn copied(groups: &Groups, group: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    groups.write_key(group, &mut key);
    groups.accumulators().iter().for_each(|a| a.write(group, &mut value));
    (key, value)
}
