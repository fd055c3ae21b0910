//! State of one division into shards as state of another: where an entry of an old shard lies in a new one.
//!
//! Owns the rule, without I/O. Entries belong to key groups, which never change; so a new shard takes what lies in its range from each old one. Two
//! kinds of entries belong to a shard and not to a key:
//! - The engine's own (uids below [`OperatorUid::FIRST_FREE`]): where sources stood, tickets of sinks, places in shuffle topics. They mean
//!   something in one job only and stay behind; a savepoint has the positions beside the state.
//! - An operator's note of its shard, at the shard's first key group (behind the prefix a window aggregate's has eight zero bytes, that of keyed
//!   state one, which no other entry of theirs has): each new shard that begins within the old one has it at its own first key group. What it says
//!   of windows or timers without entries there does no harm. A note elsewhere in the shard stays behind: it is of a shard that has become part
//!   of this one, and says what was true before that. The whole has its own note from its first barrier on, and there is no savepoint before one.

use std::borrow::Cow;
use std::ops::Range;

use super::STATE_KEY_PREFIX;
use crate::graph::OperatorUid;

/// Of a window aggregate, and of keyed state.
const NOTES: [&[u8]; 2] = [&[0; 8], &[0]];

/// The key in a shard of the key groups `new` of an entry in a shard of the key groups `old`; `None` if it does not go there.
pub fn reshard<'a>(key: &'a [u8], old: &Range<u16>, new: &Range<u16>) -> Option<Cow<'a, [u8]>> {
    let (prefix, user) = key.split_first_chunk::<STATE_KEY_PREFIX>()?;
    let group = u16::from_be_bytes([prefix[0], prefix[1]]);
    let uid = u32::from_be_bytes([prefix[2], prefix[3], prefix[4], prefix[5]]);
    if uid < OperatorUid::FIRST_FREE {
        return None;
    }
    if NOTES.contains(&user) {
        let begin = old.start.max(new.start);
        return (group == old.start && begin < old.end.min(new.end)).then(|| {
            let mut moved = key.to_vec();
            moved[..2].copy_from_slice(&begin.to_be_bytes());
            Cow::Owned(moved)
        });
    }
    new.contains(&group).then_some(Cow::Borrowed(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyGroup;
    use crate::state::state_key_prefix;

    fn key(group: u16, uid: u32, user: &[u8]) -> Vec<u8> {
        let mut key = Vec::new();
        state_key_prefix(KeyGroup(group), OperatorUid(uid), &mut key);
        key.extend_from_slice(user);
        key
    }

    #[test]
    fn entries_go_where_their_key_group_is() {
        let entry = key(300, 20, b"k");
        assert_eq!(reshard(&entry, &(0..512), &(256..512)).as_deref(), Some(entry.as_slice()));
        assert_eq!(reshard(&entry, &(0..512), &(0..256)), None);
    }

    #[test]
    fn a_note_goes_to_the_beginning_of_every_new_shard() {
        for kind in NOTES {
            let note = key(256, 20, kind);
            let at = |new| reshard(&note, &(256..512), &new).map(Cow::into_owned);
            assert_eq!(at(256..384), Some(key(256, 20, kind)));
            assert_eq!(at(384..512), Some(key(384, 20, kind)));
            assert_eq!(at(0..512), Some(key(256, 20, kind)), "in the middle of a larger one");
            assert_eq!((at(0..256), at(512..768)), (None, None));
        }
    }

    #[test]
    fn a_note_of_a_shard_that_has_become_part_of_a_larger_one_stays_behind() {
        for kind in NOTES {
            let part = key(256, 20, kind);
            for new in [0..256, 256..512, 0..512, 0..4096] {
                assert_eq!(reshard(&part, &(0..512), &new), None, "{new:?}");
            }
        }
    }

    #[test]
    fn what_belongs_to_one_job_stays_behind() {
        for uid in [OperatorUid::POSITIONS, OperatorUid::TICKETS, OperatorUid::SHUFFLES] {
            assert_eq!(reshard(&key(0, uid.0, b"x"), &(0..4096), &(0..4096)), None);
        }
    }
}
