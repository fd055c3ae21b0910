//! The next assignment while it is only proposed: it comes into force when those who gain by it have the files of what they gain.
//!
//! Owns the two records of it, which of them count, and when the time has come. It decides nothing of who may act on a shard: that is by
//! assignments alone, and whoever reads none of this is as safe as who does.
//!
//! # Record values, version 1 (all integers little-endian)
//! - Proposal: `kind u8 = 6 | job u64 | number u64 | pods u16 | by u16 | crc32 u32 of all before`.
//! - Ready: `kind u8 = 7 | job u64 | number u64 | pods u16 | pod u16 | crc32 u32 of all before`.

use std::collections::BTreeSet;

use crate::assignment::Assignment;
use crate::ownership::record::ControlError;

pub(crate) const PROPOSAL: u8 = 6;
pub(crate) const READY: u8 = 7;
const LENGTH: usize = 25;

/// Which assignment is meant: with the one in force, these say all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Its number.
    pub number: u64,
    /// How many pods it is for.
    pub pods: u16,
}

/// The next assignment is to be for so many pods. One for as many as there are takes back what was proposed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// What is proposed.
    pub next: Next,
    /// The pod that puts it into force: who said this last.
    pub by: u16,
}

/// A pod has the files of all that it gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// By what.
    pub next: Next,
    /// The pod.
    pub pod: u16,
}

impl Proposal {
    pub(crate) fn encode(&self, job: u64) -> Vec<u8> {
        encode(PROPOSAL, job, self.next, self.by)
    }

    pub(crate) fn decode(job: u64, value: &[u8]) -> Result<Self, ControlError> {
        decode(job, value).map(|(next, by)| Self { next, by })
    }
}

impl Ready {
    pub(crate) fn encode(&self, job: u64) -> Vec<u8> {
        encode(READY, job, self.next, self.pod)
    }

    pub(crate) fn decode(job: u64, value: &[u8]) -> Result<Self, ControlError> {
        decode(job, value).map(|(next, pod)| Self { next, pod })
    }
}

fn encode(kind: u8, job: u64, next: Next, pod: u16) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&job.to_le_bytes());
    out.extend_from_slice(&next.number.to_le_bytes());
    out.extend_from_slice(&next.pods.to_le_bytes());
    out.extend_from_slice(&pod.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

fn decode(job: u64, value: &[u8]) -> Result<(Next, u16), ControlError> {
    let value: &[u8; LENGTH] = value.try_into().map_err(|_| ControlError::Damaged)?;
    let (body, crc) = value.split_last_chunk::<4>().ok_or(ControlError::Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(ControlError::Damaged);
    }
    let eight = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let two = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
    if eight(1) != job {
        return Err(ControlError::Foreign);
    }
    Ok((Next { number: eight(9), pods: two(17) }, two(19)))
}

/// What is proposed, and who is ready for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    proposal: Proposal,
    ready: BTreeSet<u16>,
}

impl Proposed {
    /// What is proposed after another word, while `current` is in force.
    #[must_use]
    pub fn propose(before: Option<Self>, proposal: Proposal, current: Option<&Assignment>) -> Option<Self> {
        let Some(current) = current.filter(|current| proposal.next.number == current.number + 1) else { return before };
        match before {
            _ if usize::from(proposal.next.pods) == current.pods.len() || proposal.next.pods == 0 => None,
            Some(before) if before.proposal.next == proposal.next => Some(Self { proposal, ..before }),
            Some(_) | None => Some(Self { proposal, ready: BTreeSet::new() }),
        }
    }

    /// A pod is ready for something.
    pub fn ready(&mut self, ready: Ready) {
        if ready.next == self.proposal.next {
            self.ready.insert(ready.pod);
        }
    }

    /// What is proposed.
    pub fn next(&self) -> Next {
        self.proposal.next
    }

    /// The pod that puts it into force.
    pub fn by(&self) -> u16 {
        self.proposal.by
    }

    /// What a pod must have the files of and has not said that it has; nothing if it gains nothing.
    pub fn wanted(&self, current: &Assignment, pod: u16) -> Vec<u16> {
        let next = current.rescaled(self.proposal.next.pods);
        let gained = |shard: &u16| next.owner(*shard) == Some(pod) && current.owner(*shard) != Some(pod);
        (0..current.shards).filter(|shard| !self.ready.contains(&pod) && gained(shard)).collect()
    }

    /// Who is waited for.
    pub fn awaited(&self, current: &Assignment) -> Vec<u16> {
        (0..self.proposal.next.pods).filter(|pod| !self.wanted(current, *pod).is_empty()).collect()
    }

    /// The assignment, if the time has come: all who gain are ready. A pod that works and does not get ready is waited for until it had `long_enough`;
    /// one that never came gets nothing, because who has its shards does work on them.
    pub fn due(&self, current: &Assignment, long_enough: bool) -> Option<Assignment> {
        let works = |pod: &u16| current.share(*pod).is_some();
        let awaited = self.awaited(current);
        (awaited.is_empty() || long_enough && awaited.iter().all(works))
            .then(|| current.rescaled(self.proposal.next.pods))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlLog;
    use crate::ownership::record::ControlRecord;

    const THREE: Next = Next { number: 2, pods: 3 };

    fn proposal(next: Next, by: u16) -> ControlRecord {
        ControlRecord::Proposal(Proposal { next, by })
    }

    fn ready(next: Next, pod: u16) -> ControlRecord {
        ControlRecord::Ready(Ready { next, pod })
    }

    /// A job of two pods and six shards, and what was said since.
    fn log(records: &[ControlRecord]) -> ControlLog {
        let mut log = ControlLog::default();
        log.append(&ControlRecord::Assignment(Assignment::first(6, 2)));
        records.iter().for_each(|record| log.append(record));
        log
    }

    fn next_of(log: &ControlLog, long_enough: bool) -> Option<u64> {
        let due = log.proposed.as_ref()?.due(log.view.in_force()?, long_enough)?;
        Some(due.number)
    }

    #[test]
    fn it_comes_into_force_when_all_who_gain_are_ready() {
        let log_of_three = log(&[proposal(THREE, 1)]);
        let (proposed, current) = (log_of_three.proposed.clone().unwrap(), log_of_three.view.in_force().unwrap());
        assert_eq!((proposed.by(), proposed.awaited(current)), (1, vec![2]));
        assert_eq!(proposed.wanted(current, 2), [2, 5]);
        assert_eq!((proposed.wanted(current, 0), proposed.wanted(current, 1)), (vec![], vec![]));
        assert_eq!(next_of(&log_of_three, false), None);
        assert_eq!(next_of(&log_of_three, true), None, "a pod that never came");
        let said = log(&[proposal(THREE, 1), ready(THREE, 2)]);
        assert_eq!(next_of(&said, false), Some(2));
        assert!(said.proposed.as_ref().unwrap().wanted(current, 2).is_empty(), "it has said so");
        let mut in_force = said;
        in_force.append(&ControlRecord::Assignment(Assignment::first(6, 2).rescaled(3)));
        assert_eq!(in_force.proposed, None);
    }

    #[test]
    fn a_pod_that_works_is_waited_for_only_so_long() {
        let one = Next { number: 2, pods: 1 };
        let log = log(&[proposal(one, 0)]);
        assert_eq!((next_of(&log, false), next_of(&log, true)), (None, Some(2)));
    }

    #[test]
    fn the_last_word_counts_and_who_was_ready_for_something_else_is_not() {
        let four = Next { number: 2, pods: 4 };
        let changed = log(&[proposal(THREE, 0), ready(THREE, 2), proposal(four, 0)]);
        assert_eq!(changed.proposed.as_ref().map(Proposed::next), Some(four));
        assert_eq!(next_of(&changed, false), None);
        let again = log(&[proposal(THREE, 0), ready(THREE, 2), proposal(THREE, 1), ready(four, 3)]);
        assert_eq!(again.proposed.as_ref().map(Proposed::by), Some(1), "who said it last");
        assert_eq!(next_of(&again, false), Some(2));
    }

    #[test]
    fn what_does_not_fit_the_assignment_in_force_changes_nothing_and_its_own_number_takes_it_back() {
        let of = |number, pods| proposal(Next { number, pods }, 0);
        assert_eq!(log(&[of(1, 3)]).proposed, None, "it is in force");
        assert_eq!(log(&[of(3, 3)]).proposed, None, "not the next");
        assert_eq!(log(&[of(2, 0)]).proposed, None);
        assert_eq!(log(&[ready(THREE, 2)]).proposed, None);
        assert_eq!(log(&[of(2, 3), of(2, 2)]).proposed, None, "taken back");
        let mut empty = ControlLog::default();
        empty.append(&of(1, 3));
        assert_eq!(empty.proposed, None);
    }

    #[test]
    fn the_layouts_are_those_of_this_release() {
        let next = Next { number: 0x0102, pods: 3 };
        for (kind, record) in [(6, proposal(next, 5)), (7, ready(next, 5))] {
            let bytes = record.encode(7);
            let body = [&[kind][..], &7u64.to_le_bytes(), &0x0102u64.to_le_bytes(), &[3, 0, 5, 0]].concat();
            assert_eq!(bytes[..21], body);
            assert_eq!(ControlRecord::decode(7, &bytes), Ok(record));
            assert_eq!(ControlRecord::decode(8, &bytes), Err(ControlError::Foreign));
            for at in 1..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert_eq!(ControlRecord::decode(7, &damaged), Err(ControlError::Damaged), "byte {at}");
                assert_eq!(ControlRecord::decode(7, &bytes[..at]), Err(ControlError::Damaged), "cut at {at}");
            }
        }
    }
}
