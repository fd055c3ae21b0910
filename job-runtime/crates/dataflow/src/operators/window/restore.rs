//! The start of a window aggregate: what is closed and which windows are open, from the notes in the stores. The groups stay there.
//!
//! Owns the layout of the notes (described in `window`).

use std::ops::Range;

use super::groups::Groups;
use super::{NOTE_VERSION, Note, Open, WindowAggregate, WindowError, write_state_key};
use crate::key::KeyGroup;
use crate::state::{STATE_KEY_PREFIX, ShardStore, Stores, state_key_prefix};
use crate::watermark::NO_WATERMARK;

impl Note {
    /// Replaces `out` with the stored form.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.push(NOTE_VERSION);
        out.extend_from_slice(&self.groups_end.to_le_bytes());
        out.extend_from_slice(&self.closed_through.to_le_bytes());
        self.windows.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
    }

    /// Reads the stored form. Version 1 says nothing of key groups and windows: it has 0 as its end.
    fn read(value: &[u8]) -> Result<Self, WindowError> {
        let short = || WindowError::damaged("the note of a shard's windows is cut short");
        let (groups_end, body) = match value.split_first().ok_or_else(short)? {
            (1, body) => (0, body),
            (&NOTE_VERSION, body) => {
                let (end, body) = body.split_first_chunk::<2>().ok_or_else(short)?;
                (u16::from_le_bytes(*end), body)
            }
            (&version, _) => return Err(WindowError::Version(version)),
        };
        let (numbers, rest) = body.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| i64::from_le_bytes(*bytes));
        let (Some(closed_through), true) = (numbers.next(), rest.is_empty()) else { return Err(short()) };
        Ok(Self { groups_end, closed_through, windows: numbers.collect() })
    }
}

impl WindowAggregate {
    /// Finds out which windows are open and what is closed. Called before any row.
    ///
    /// # Errors
    /// When a store cannot be read, or what is in it was not written by an operator like this.
    pub fn restore(&mut self, stores: &Stores) -> Result<(), WindowError> {
        let mut found: Vec<(i64, KeyGroup)> = Vec::new();
        for store in stores.iter().filter(|store| store.applied().is_some()) {
            self.restore_shard(store, &mut found)?;
        }
        for (end, group) in found {
            let open = self.open.entry(end).or_insert_with(|| Open::new(Groups::new(&self.encoder, &self.calls)));
            open.stored.insert(group);
            open.spilled.insert(group);
        }
        Ok(())
    }

    /// Reads the note at the shard's start, and those behind it if the shard was put together from smaller ones. Where there is none, the
    /// entries are searched.
    fn restore_shard(&mut self, store: &dyn ShardStore, found: &mut Vec<(i64, KeyGroup)>) -> Result<(), WindowError> {
        let shard = store.shard();
        let groups = self.shards.groups(shard);
        let (mut at, mut own) = (groups.start, Note::nothing(0));
        while at < groups.end {
            let mut key = Vec::new();
            write_state_key(&mut key, KeyGroup(at), self.uid, NO_WATERMARK);
            let value = store.multi_get(&[&key])?.pop().flatten();
            let note = value.map(|value| Note::read(&value)).transpose()?.unwrap_or_else(|| Note::nothing(0));
            own.closed_through = own.closed_through.max(note.closed_through);
            if note.groups_end <= at {
                self.search(store, at..groups.end, found)?;
                break;
            }
            let here = at..note.groups_end.min(groups.end);
            let open = note.windows.iter().filter(|end| **end > note.closed_through);
            found.extend(open.flat_map(|&end| here.clone().map(move |group| (end, KeyGroup(group)))));
            if at != groups.start {
                self.parts.entry(shard).or_default().push(KeyGroup(at));
            }
            at = here.end;
            if here == groups && note.groups_end == groups.end {
                own = note;
            }
        }
        self.restored_closed = self.restored_closed.max(own.closed_through);
        self.notes.insert(shard, own);
        Ok(())
    }

    /// Reads all entries of key groups to find their windows.
    fn search(
        &self,
        store: &dyn ShardStore,
        groups: Range<u16>,
        found: &mut Vec<(i64, KeyGroup)>,
    ) -> Result<(), WindowError> {
        let mut prefix = Vec::new();
        for group in groups.map(KeyGroup) {
            prefix.clear();
            state_key_prefix(group, self.uid, &mut prefix);
            let mut short = false;
            store.scan(&prefix, &mut |key, _| match key[STATE_KEY_PREFIX..].first_chunk::<8>() {
                Some(end) => {
                    let end = (u64::from_be_bytes(*end) ^ (1 << 63)) as i64;
                    if end != NO_WATERMARK && found.last() != Some(&(end, group)) {
                        found.push((end, group));
                    }
                }
                None => short = true,
            })?;
            if short {
                return Err(WindowError::damaged("the key of an entry is cut short"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn notes_come_back(groups_end in any::<u16>(), closed_through in any::<i64>(), windows in prop::collection::vec(any::<i64>(), 0..5)) {
            let note = Note { groups_end, closed_through, windows };
            let mut value = Vec::new();
            note.write(&mut value);
            prop_assert_eq!(Note::read(&value).unwrap(), note);
            prop_assert!(Note::read(&value[..value.len() - 1]).is_err());
        }
    }

    #[test]
    fn version_1_is_read_and_newer_ones_are_refused() {
        let note = Note::read(&[1, 7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(note, Note { groups_end: 0, closed_through: 7, windows: vec![] });
        assert!(matches!(Note::read(&[3]), Err(WindowError::Version(3))));
    }
}
