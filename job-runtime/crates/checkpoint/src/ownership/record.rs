//! Layout of the control topic's records: an assignment, a word on the next one, a release of shards, a word on a savepoint, the job's origin, or the
//! end of its input.
//!
//! Owns the layout of a release and of a drain, and telling all apart. Which record counts is `ownership::View`'s and `savepoint::Board`'s to say.
//!
//! The first byte says what a record is and in which version: 1 an assignment (layout in `assignment`), 2 a release, 3 a savepoint's and 4 an
//! origin (layouts in `savepoint::record`), 5 a drain, 6 and 7 words on the next assignment (layouts in `proposal`).
//!
//! # Release, version 1 (all integers little-endian)
//! `kind u8 = 2 | job u64 | number u64 | pod u16 | count u16 | shards u16 each | crc32 u32 of all before`.
//!
//! # Drain, version 1
//! `kind u8 = 5 | job u64 | crc32 u32 of all before`.

use crate::assignment::{Assignment, AssignmentError};
use crate::proposal::{self, Proposal, Ready};
use crate::savepoint::record::{self as savepoint, SavepointRecord};

const RELEASE: u8 = 2;
const DRAIN: u8 = 5;
const FIXED: usize = 21;

/// A record of the control topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRecord {
    /// Who owns what from here on.
    Assignment(Assignment),
    /// What the next assignment is to be.
    Proposal(Proposal),
    /// A pod is ready for it.
    Ready(Ready),
    /// A pod has let go of shards.
    Release(Release),
    /// A pod's word on a savepoint.
    Savepoint(SavepointRecord),
    /// The savepoint that the job's state comes from.
    Origin(String),
    /// What is read is all there is, for ever: the sources of all pods are at their end.
    Drain,
}

/// A pod holds nothing of these shards any more and will write nothing of them under what it lost them by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The greatest number of an assignment under which the pod lost one of the shards: it vouches for losses up to this one.
    pub number: u64,
    /// The pod.
    pub pod: u16,
    /// The shards.
    pub shards: Vec<u16>,
}

/// A control record cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Written by a newer release of Millstream.
    #[error("control record of kind {0} is newer than this release can read")]
    Kind(u8),
    /// Cut short, or the checksum differs.
    #[error("the control record is damaged")]
    Damaged,
    /// Of another job.
    #[error("the control record is of another job")]
    Foreign,
}

impl ControlRecord {
    /// Encodes for a job.
    pub fn encode(&self, job: u64) -> Vec<u8> {
        match self {
            Self::Assignment(assignment) => assignment.encode(job),
            Self::Proposal(proposal) => proposal.encode(job),
            Self::Ready(ready) => ready.encode(job),
            Self::Release(release) => release.encode(job),
            Self::Savepoint(record) => record.encode(job),
            Self::Origin(location) => savepoint::encode_origin(job, location),
            Self::Drain => encode_drain(job),
        }
    }

    /// Decodes a record of a job.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn decode(job: u64, value: &[u8]) -> Result<Self, ControlError> {
        match value.first() {
            Some(&RELEASE) => return Release::decode(job, value).map(Self::Release),
            Some(&savepoint::SAVEPOINT) => return SavepointRecord::decode(job, value).map(Self::Savepoint),
            Some(&savepoint::ORIGIN) => return savepoint::decode_origin(job, value).map(Self::Origin),
            Some(&proposal::PROPOSAL) => return Proposal::decode(job, value).map(Self::Proposal),
            Some(&proposal::READY) => return Ready::decode(job, value).map(Self::Ready),
            Some(&DRAIN) => return decode_drain(job, value).map(|()| Self::Drain),
            Some(_) | None => {}
        }
        Assignment::decode(job, value).map(Self::Assignment).map_err(|error| match error {
            AssignmentError::Version(kind) => ControlError::Kind(kind),
            AssignmentError::Damaged => ControlError::Damaged,
            AssignmentError::Foreign => ControlError::Foreign,
        })
    }
}

fn encode_drain(job: u64) -> Vec<u8> {
    let mut out = vec![DRAIN];
    out.extend_from_slice(&job.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

fn decode_drain(job: u64, value: &[u8]) -> Result<(), ControlError> {
    let (body, crc) = value.split_last_chunk::<4>().ok_or(ControlError::Damaged)?;
    match body.split_first_chunk::<9>() {
        Some((head, [])) if crc32fast::hash(body) == u32::from_le_bytes(*crc) => {
            if head[1..] == job.to_le_bytes() {
                Ok(())
            } else {
                Err(ControlError::Foreign)
            }
        }
        Some(_) | None => Err(ControlError::Damaged),
    }
}

impl Release {
    fn encode(&self, job: u64) -> Vec<u8> {
        let mut out = vec![RELEASE];
        out.extend_from_slice(&job.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.pod.to_le_bytes());
        out.extend_from_slice(&(self.shards.len() as u16).to_le_bytes());
        self.shards.iter().for_each(|shard| out.extend_from_slice(&shard.to_le_bytes()));
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    fn decode(job: u64, value: &[u8]) -> Result<Self, ControlError> {
        let (body, crc) = value.split_last_chunk::<4>().ok_or(ControlError::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(ControlError::Damaged);
        }
        let (fixed, shards) = body.split_first_chunk::<FIXED>().ok_or(ControlError::Damaged)?;
        if fixed[1..9] != job.to_le_bytes() {
            return Err(ControlError::Foreign);
        }
        let number = u64::from_le_bytes(fixed[9..17].try_into().expect("eight bytes"));
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
        if shards.len() != usize::from(u16_at(19)) * 2 {
            return Err(ControlError::Damaged);
        }
        let shards = shards.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
        Ok(Self { number, pod: u16_at(17), shards })
    }
}
