//! Layout of a record of the changelog topic: the changes of one commit to one shard, or a part of them.
//!
//! Owns encoding and decoding. Partition = shard. All records of a commit lie in one Kafka transaction, so a commit that is too large for
//! one message is split without harm: its parts are applied one after the other.
//!
//! # Record value, version 1 (all integers little-endian)
//! `version u8 = 1 | job u64 | shard u16 | commit u64 | crc32 u32 of all before | change batch (its own layout and checksum)`;
//! `job` = xxh3_64 of the job uid, `commit` = the number that the writing process gave it (for people).

use dataflow::key::ShardId;
use dataflow::state::{Change, ChangeBatch, ChangeBatchError};

const VERSION: u8 = 1;
const HEADER: usize = 23;

/// A record of the changelog cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangelogError {
    /// Written by a newer release.
    #[error("changelog record version {0} is newer than this release can read ({VERSION})")]
    Version(u8),
    /// Cut short, or the header's checksum differs.
    #[error("the changelog record's header is damaged")]
    Damaged,
    /// Of another job, or in the wrong partition.
    #[error("the changelog record is of another job or shard")]
    Foreign,
    /// The changes cannot be read.
    #[error(transparent)]
    Changes(#[from] ChangeBatchError),
}

/// Encodes the changes of a commit to a shard as one record, or more if one would have more than about `max_bytes`.
pub fn encode(job: u64, shard: ShardId, commit: u64, changes: &ChangeBatch, max_bytes: usize) -> Vec<Vec<u8>> {
    if changes.byte_len() <= max_bytes {
        return vec![record(job, shard, commit, changes)];
    }
    let (mut out, mut part) = (Vec::new(), ChangeBatch::new());
    for change in changes.iter() {
        let length = match change {
            Change::Put { key, value } => key.len() + value.len(),
            Change::Delete { key } => key.len(),
            Change::DeletePrefix { prefix } => prefix.len(),
        };
        if !part.is_empty() && part.byte_len() + length > max_bytes {
            out.push(record(job, shard, commit, &std::mem::take(&mut part)));
        }
        match change {
            Change::Put { key, value } => part.put(key, value),
            Change::Delete { key } => part.delete(key),
            Change::DeletePrefix { prefix } => part.delete_prefix(prefix),
        }
    }
    out.push(record(job, shard, commit, &part));
    out
}

/// Decodes a record that was read from the partition of `shard`.
///
/// # Errors
/// See [`ChangelogError`].
pub fn decode(job: u64, shard: ShardId, value: &[u8]) -> Result<ChangeBatch, ChangelogError> {
    match value.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(ChangelogError::Version(version)),
        None => return Err(ChangelogError::Damaged),
    }
    let (header, body) = value.split_at_checked(HEADER).ok_or(ChangelogError::Damaged)?;
    let (fields, crc) = header.split_last_chunk::<4>().ok_or(ChangelogError::Damaged)?;
    if crc32fast::hash(fields) != u32::from_le_bytes(*crc) {
        return Err(ChangelogError::Damaged);
    }
    if fields[1..9] != job.to_le_bytes() || fields[9..11] != shard.0.to_le_bytes() {
        return Err(ChangelogError::Foreign);
    }
    Ok(ChangeBatch::decode(body)?)
}

fn record(job: u64, shard: ShardId, commit: u64, changes: &ChangeBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + changes.byte_len() + 4);
    out.push(VERSION);
    out.extend_from_slice(&job.to_le_bytes());
    out.extend_from_slice(&shard.0.to_le_bytes());
    out.extend_from_slice(&commit.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out.extend_from_slice(&changes.encode());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_of_a_commit_are_its_changes_in_order(
            entries in proptest::collection::vec((any::<Vec<u8>>(), any::<Option<Vec<u8>>>()), 1..20),
            max in 1usize..400,
        ) {
            let mut changes = ChangeBatch::new();
            for (key, value) in &entries {
                match value {
                    Some(value) => changes.put(key, value),
                    None => changes.delete(key),
                }
            }
            let mut back = ChangeBatch::new();
            for record in encode(7, ShardId(3), 9, &changes, max) {
                back.append(&decode(7, ShardId(3), &record).unwrap());
            }
            prop_assert_eq!(back, changes);
        }
    }

    #[test]
    fn foreign_newer_and_damaged_records_are_told_apart() {
        let mut changes = ChangeBatch::new();
        changes.put(b"k", b"v");
        let record = encode(7, ShardId(3), 9, &changes, 1000).remove(0);
        assert_eq!(decode(8, ShardId(3), &record), Err(ChangelogError::Foreign));
        assert_eq!(decode(7, ShardId(4), &record), Err(ChangelogError::Foreign));
        let newer = [&[2], &record[1..]].concat();
        assert_eq!(decode(7, ShardId(3), &newer), Err(ChangelogError::Version(2)));
        for at in 1..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 1;
            assert!(decode(7, ShardId(3), &damaged).is_err(), "byte {at}");
            assert!(decode(7, ShardId(3), &record[..at]).is_err(), "cut at {at}");
        }
    }
}
