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
//! A source partition that no pod lists belongs to the owner of the shard [`partition_shard`] of its place among the table's partitions: so a
//! topic may grow without a new assignment, and whoever settles the earlier owners of its shards has settled those of its source partitions.

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

    /// The owner of a shard.
    pub fn owner(&self, shard: u16) -> Option<u16> {
        let owns = |pod: &&PodShare| pod.shards.iter().any(|range| range.contains(&shard));
        self.pods.iter().find(owns).map(|pod| pod.ordinal)
    }

    /// True if a pod owns a source partition: it lists it, or nobody does and it owns the partition's shard. `index` is the partition's place
    /// among the table's.
    pub fn owns_source(&self, ordinal: u16, table: &str, partition: &str, index: usize) -> bool {
        let lists = |pod: &&PodShare| pod.sources.iter().any(|(t, p)| t == table && p == partition);
        match self.pods.iter().find(lists) {
            Some(pod) => pod.ordinal == ordinal,
            None => self.owner(partition_shard(index, self.shards)) == Some(ordinal),
        }
    }

    /// The next assignment, for pods `0..pods`: shares differ by at most one shard, and no shard moves that need not.
    #[must_use]
    pub fn rescaled(&self, pods: u16) -> Self {
        let wanted = |ordinal: u16| {
            let edge = |pod: u16| u32::from(pod) * u32::from(self.shards) / u32::from(pods);
            (edge(ordinal + 1) - edge(ordinal)) as usize
        };
        let mut owner: Vec<Option<u16>> = Vec::with_capacity(usize::from(self.shards));
        let mut counts = vec![0; usize::from(pods)];
        for shard in 0..self.shards {
            let stays = self.owner(shard).filter(|pod| *pod < pods && counts[usize::from(*pod)] < wanted(*pod));
            stays.into_iter().for_each(|pod| counts[usize::from(pod)] += 1);
            owner.push(stays);
        }
        let mut needy = (0..pods).flat_map(|pod| std::iter::repeat_n(pod, wanted(pod) - counts[usize::from(pod)]));
        for place in owner.iter_mut().filter(|owner| owner.is_none()) {
            *place = needy.next();
        }
        let share = |ordinal| PodShare { ordinal, shards: ranges(&owner, ordinal), sources: Vec::new() };
        Self { number: self.number + 1, shards: self.shards, pods: (0..pods).map(share).collect() }
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

/// The shard whose owner reads the `index`-th partition of a table. Neighbours lie far apart, so that they are read by different pods.
pub fn partition_shard(index: usize, shards: u16) -> u16 {
    let shards = usize::from(shards);
    let common = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    // Golden section: any run of indices is spread evenly; coprime to the number of shards: no shard is left out.
    let stride = (shards * 618 / 1000..=shards).find(|stride| common(*stride, shards) == 1).unwrap_or(1);
    (index % shards * stride % shards) as u16
}

/// The shards of a pod as ranges.
fn ranges(owner: &[Option<u16>], ordinal: u16) -> Vec<Range<u16>> {
    let mut found: Vec<Range<u16>> = Vec::new();
    for shard in (0u16..).zip(owner).filter(|(_, owner)| **owner == Some(ordinal)).map(|(shard, _)| shard) {
        match found.last_mut().filter(|last| last.end == shard) {
            Some(last) => last.end += 1,
            None => found.push(Range { start: shard, end: shard + 1 }),
        }
    }
    found
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

    proptest! {
        #[test]
        fn rescaling_moves_no_more_than_it_must(shards in 1u16..200, steps in prop::collection::vec(1u16..20, 1..6)) {
            let mut before = Assignment::first(shards, steps[0].min(shards));
            for pods in steps.into_iter().map(|pods| pods.min(shards)) {
                let after = before.rescaled(pods);
                prop_assert!(after.is_whole() && after.follows(Some(&before)));
                let size = |assignment: &Assignment, pod| assignment.share(pod).map_or(0, |share| share.shards.iter().map(Range::len).sum::<usize>());
                let sizes: Vec<usize> = (0..pods).map(|pod| size(&after, pod)).collect();
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
                let moved = (0..shards).filter(|shard| before.owner(*shard) != after.owner(*shard)).count();
                let must: usize = before.pods.iter().map(|pod| size(&before, pod.ordinal).saturating_sub(size(&after, pod.ordinal))).sum();
                prop_assert_eq!(moved, must);
                before = after;
            }
        }
    }

    #[test]
    fn neighbouring_partitions_are_read_by_different_pods() {
        let spread = |shards, pods, partitions| {
            let assignment = Assignment::first(shards, pods);
            let mut counts = vec![0; usize::from(pods)];
            (0..partitions)
                .for_each(|i| counts[usize::from(assignment.owner(partition_shard(i, shards)).unwrap())] += 1);
            counts
        };
        assert_eq!(spread(16, 2, 2), [1, 1]);
        assert_eq!(spread(16, 2, 3), [2, 1]);
        assert_eq!(spread(16, 4, 16), [4, 4, 4, 4]);
        assert_eq!(spread(8, 3, 6), [2, 2, 2]);
        assert_eq!(spread(1, 1, 5), [5]);
        let all: std::collections::BTreeSet<u16> = (0..16).map(|i| partition_shard(i, 16)).collect();
        assert_eq!(all.len(), 16);
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
        assert_eq!(owners("flights", 4), [0], "a fifth partition comes round to the first shard");
        assert_eq!(owners("flights", 1), [2]);
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
