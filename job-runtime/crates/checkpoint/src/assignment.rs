//! Layout of the control topic's records: assignments, which say which pod owns which shards and source partitions.
//!
//! Owns encoding, decoding and the rule which record is in force. It does not read topics.
//!
//! An assignment is in force from its place in the control topic. Numbers rise by one; of two records with one number the first stands (two
//! pods may append at the same time), and a number that is not the next one is no assignment; neither is one with another number of shards.
//!
//! # Record value, version 1 (all integers little-endian)
//! `version u8 = 1 | job u64 | number u64 | shards u16 | pods u16 | per pod: ordinal u16 | ranges u16 | per range: first shard u16, end shard u16
//! | sources u32 | per source: table length u16, table, partition length u16, partition name | crc32 u32 of all before`.
//!
//! A source partition that no pod lists belongs to pod number `index % pods`, where `index` is its place among the table's partitions: so a
//! topic may grow without a new assignment.

use std::ops::Range;

const VERSION: u8 = 1;

/// Who owns what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Rising by one from 1.
    pub number: u64,
    /// Number of shards of the job.
    pub shards: u16,
    /// The pods, by ordinal.
    pub pods: Vec<PodShare>,
}

/// What one pod owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodShare {
    /// The pod's ordinal.
    pub ordinal: u16,
    /// Its shards, as ranges.
    pub shards: Vec<Range<u16>>,
    /// Source partitions that it owns by name: (table, partition).
    pub sources: Vec<(String, String)>,
}

/// A control record cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// Written by a newer release.
    #[error("assignment version {0} is newer than this release can read ({VERSION})")]
    Version(u8),
    /// Cut short, the checksum differs, or ranges do not cover the shards exactly once.
    #[error("the assignment is damaged")]
    Damaged,
    /// Of another job.
    #[error("the assignment is of another job")]
    Foreign,
}

impl Assignment {
    /// The first assignment of a job: shards in contiguous ranges of nearly equal size.
    pub fn first(shards: u16, pods: u16) -> Self {
        let edge = |pod: u16| (u32::from(pod) * u32::from(shards) / u32::from(pods)) as u16;
        let share =
            |ordinal| PodShare { ordinal, shards: single_range(edge(ordinal), edge(ordinal + 1)), sources: Vec::new() };
        Self { number: 1, shards, pods: (0..pods).map(share).collect() }
    }

    /// True if this one is in force when it is read after `current`.
    pub fn follows(&self, current: Option<&Assignment>) -> bool {
        current.map_or(self.number == 1, |current| self.number == current.number + 1 && self.shards == current.shards)
    }

    /// The share of a pod, if it has one.
    pub fn share(&self, ordinal: u16) -> Option<&PodShare> {
        self.pods.iter().find(|pod| pod.ordinal == ordinal)
    }

    /// True if a pod owns a source partition: it lists it, or nobody does and it is the pod's turn. `index` is the partition's place among the
    /// table's.
    pub fn owns_source(&self, ordinal: u16, table: &str, partition: &str, index: usize) -> bool {
        let lists = |pod: &&PodShare| pod.sources.iter().any(|(t, p)| t == table && p == partition);
        let owner = self.pods.iter().find(lists).or_else(|| self.pods.get(index % self.pods.len().max(1)));
        owner.is_some_and(|pod| pod.ordinal == ordinal)
    }

    /// Encodes for a job.
    pub fn encode(&self, job: u64) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&job.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.shards.to_le_bytes());
        out.extend_from_slice(&(self.pods.len() as u16).to_le_bytes());
        for pod in &self.pods {
            out.extend_from_slice(&pod.ordinal.to_le_bytes());
            out.extend_from_slice(&(pod.shards.len() as u16).to_le_bytes());
            for range in &pod.shards {
                out.extend_from_slice(&range.start.to_le_bytes());
                out.extend_from_slice(&range.end.to_le_bytes());
            }
            out.extend_from_slice(&(pod.sources.len() as u32).to_le_bytes());
            for name in pod.sources.iter().flat_map(|(table, partition)| [table, partition]) {
                out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// Decodes a record of a job.
    ///
    /// # Errors
    /// See [`AssignmentError`].
    pub fn decode(job: u64, value: &[u8]) -> Result<Self, AssignmentError> {
        match value.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(AssignmentError::Version(version)),
            None => return Err(AssignmentError::Damaged),
        }
        let (body, crc) = value.split_last_chunk::<4>().ok_or(AssignmentError::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(AssignmentError::Damaged);
        }
        let mut rest = &body[1..];
        if take(&mut rest)? != job.to_le_bytes() {
            return Err(AssignmentError::Foreign);
        }
        let number = u64::from_le_bytes(take(&mut rest)?);
        let (shards, pods) = (take_u16(&mut rest)?, take_u16(&mut rest)?);
        let pods = (0..pods).map(|_| take_pod(&mut rest)).collect::<Result<Vec<_>, _>>()?;
        let assignment = Self { number, shards, pods };
        if rest.is_empty() && assignment.is_whole() { Ok(assignment) } else { Err(AssignmentError::Damaged) }
    }

    /// True if every shard has exactly one owner.
    fn is_whole(&self) -> bool {
        let mut owned = vec![0u8; usize::from(self.shards)];
        for range in self.pods.iter().flat_map(|pod| &pod.shards) {
            match owned.get_mut(usize::from(range.start)..usize::from(range.end)) {
                Some(owned) => owned.iter_mut().for_each(|count| *count = count.saturating_add(1)),
                None => return false,
            }
        }
        owned.iter().all(|count| *count == 1)
    }
}

/// The assignment in force after reading a control topic from its start.
pub fn in_force(records: impl IntoIterator<Item = Assignment>) -> Option<Assignment> {
    records.into_iter().fold(None, |current, next| if next.follows(current.as_ref()) { Some(next) } else { current })
}

fn single_range(start: u16, end: u16) -> Vec<Range<u16>> {
    if start < end { std::iter::once(start..end).collect() } else { Vec::new() }
}

fn take_pod(rest: &mut &[u8]) -> Result<PodShare, AssignmentError> {
    let (ordinal, ranges) = (take_u16(rest)?, take_u16(rest)?);
    let shards =
        (0..ranges).map(|_| Ok(take_u16(rest)?..take_u16(rest)?)).collect::<Result<Vec<_>, AssignmentError>>()?;
    let count = u32::from_le_bytes(take(rest)?);
    // Collected one by one: a count is not trusted with memory.
    let mut sources = Vec::new();
    for _ in 0..count {
        sources.push((take_text(rest)?, take_text(rest)?));
    }
    Ok(PodShare { ordinal, shards, sources })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], AssignmentError> {
    let (chunk, tail) = rest.split_first_chunk::<N>().ok_or(AssignmentError::Damaged)?;
    *rest = tail;
    Ok(*chunk)
}

fn take_u16(rest: &mut &[u8]) -> Result<u16, AssignmentError> {
    take(rest).map(u16::from_le_bytes)
}

fn take_text(rest: &mut &[u8]) -> Result<String, AssignmentError> {
    let length = usize::from(take_u16(rest)?);
    let (text, tail) = rest.split_at_checked(length).ok_or(AssignmentError::Damaged)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| AssignmentError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_first_assignment_is_whole_and_comes_back(shards in 1u16..4096, pods in 1u16..64, names: Vec<(String, String)>) {
            let mut assignment = Assignment::first(shards, pods);
            assignment.pods[0].sources = names.into_iter().filter(|(a, b)| a.len() < 1000 && b.len() < 1000).collect();
            prop_assert!(assignment.is_whole());
            let bytes = assignment.encode(7);
            prop_assert_eq!(Assignment::decode(7, &bytes), Ok(assignment));
        }
    }

    #[test]
    fn foreign_newer_damaged_and_incomplete_are_refused() {
        let assignment = Assignment::first(4, 2);
        let bytes = assignment.encode(7);
        assert_eq!(Assignment::decode(8, &bytes), Err(AssignmentError::Foreign));
        for at in 1..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Assignment::decode(7, &damaged), Err(AssignmentError::Damaged), "byte {at}");
            assert_eq!(Assignment::decode(7, &bytes[..at]), Err(AssignmentError::Damaged), "cut at {at}");
        }
        let newer = [&[2], &bytes[1..]].concat();
        assert_eq!(Assignment::decode(7, &newer), Err(AssignmentError::Version(2)));
        for pods in [vec![assignment.pods[0].clone()], vec![assignment.pods[0].clone(), assignment.pods[0].clone()]] {
            let wrong = Assignment { pods, ..assignment.clone() };
            assert_eq!(Assignment::decode(7, &wrong.encode(7)), Err(AssignmentError::Damaged), "{wrong:?}");
        }
    }

    #[test]
    fn a_source_partition_has_one_owner() {
        let mut assignment = Assignment::first(4, 3);
        assignment.pods[2].sources.push(("flights".to_owned(), "flights-0".to_owned()));
        let owners = |table: &str, index: usize| -> Vec<u16> {
            (0..3).filter(|pod| assignment.owns_source(*pod, table, &format!("flights-{index}"), index)).collect()
        };
        assert_eq!(owners("flights", 0), [2]);
        assert_eq!(owners("other", 0), [0]);
        assert_eq!(owners("flights", 4), [1]);
    }

    #[test]
    fn the_first_record_of_the_next_number_is_in_force() {
        let numbered = |number, pods| Assignment { number, ..Assignment::first(8, pods) };
        assert_eq!(in_force([]), None);
        assert_eq!(in_force([numbered(2, 1)]), None, "there was no first");
        let twice = [numbered(1, 1), numbered(1, 2), numbered(2, 3), numbered(2, 4), numbered(4, 5)];
        assert_eq!(in_force(twice), Some(numbered(2, 3)));
    }
}
