//! A set of key groups. Takes next to no memory while it is empty.

use std::ops::Range;

use super::{KEY_GROUPS, KeyGroup};

const WORDS: usize = KEY_GROUPS as usize / 64;

/// A set of key groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyGroupSet {
    words: Option<Box<[u64; WORDS]>>,
    len: usize,
}

impl KeyGroupSet {
    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.words.is_none()
    }

    /// Number of key groups.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if `group` is in it.
    #[inline]
    pub fn contains(&self, group: KeyGroup) -> bool {
        let at = usize::from(group.0);
        self.words.as_ref().is_some_and(|words| words[at / 64] >> (at % 64) & 1 == 1)
    }

    /// Adds `group`.
    pub fn insert(&mut self, group: KeyGroup) {
        let at = usize::from(group.0);
        let word = &mut self.words.get_or_insert_with(|| Box::new([0; WORDS]))[at / 64];
        self.len += usize::from(*word >> (at % 64) & 1 == 0);
        *word |= 1 << (at % 64);
    }

    /// Removes the groups of `range`.
    pub fn remove(&mut self, range: &Range<u16>) {
        let Some(words) = &mut self.words else { return };
        for at in range.clone().map(usize::from) {
            self.len -= usize::from(words[at / 64] >> (at % 64) & 1 == 1);
            words[at / 64] &= !(1 << (at % 64));
        }
        if self.len == 0 {
            self.words = None;
        }
    }

    /// True if there is a group of `range`.
    pub fn any_in(&self, range: &Range<u16>) -> bool {
        !self.is_empty() && range.clone().any(|group| self.contains(KeyGroup(group)))
    }

    /// All groups, ascending.
    pub fn iter(&self) -> impl Iterator<Item = KeyGroup> {
        (0..KEY_GROUPS).map(KeyGroup).filter(|group| self.contains(*group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_in_it() {
        let mut set = KeyGroupSet::default();
        assert!(set.is_empty() && !set.contains(KeyGroup(0)) && !set.any_in(&(0..KEY_GROUPS)));
        for group in [0, 63, 64, 4095, 64] {
            set.insert(KeyGroup(group));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 4095].map(KeyGroup));
        assert_eq!(set.len(), 4);
        assert!(set.any_in(&(60..64)) && !set.any_in(&(65..4095)));
        set.remove(&(1..64));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 4095].map(KeyGroup));
        set.remove(&(0..KEY_GROUPS));
        assert!(set.is_empty());
    }
}
