//! Layout of what pods say of a savepoint in the control topic, and of where a job's state came from.
//!
//! Owns the layout only; what a record means is the board's to say.
//!
//! # Savepoint record, version 1 (all integers little-endian)
//! `kind u8 = 3 | job u64 | cut u128 | what u8 | rest | crc32 u32 of all before`; text is `length u16 | UTF-8`. The rest by `what`:
//! - 1 begin: `assignment u64 | rounds u16 | stop u8 | name text`
//! - 2 done: `pod u16 | steps u16`
//! - 3 end: `failed u8`, and if it failed `why text`
//!
//! # Origin, version 1
//! `kind u8 = 4 | job u64 | location text | crc32 u32 of all before`.

use crate::ownership::record::ControlError;

pub(crate) const SAVEPOINT: u8 = 3;
pub(crate) const ORIGIN: u8 = 4;
const BEGIN: u8 = 1;
const DONE: u8 = 2;
const END: u8 = 3;
/// A reason is cut to this many bytes.
const LONGEST: usize = 1000;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Drawn for this attempt: what belongs to it carries it.
    pub cut: u128,
    /// The savepoint's name.
    pub name: String,
    /// The job's work ends with it.
    pub stop: bool,
    /// Number of the assignment that it is for.
    pub assignment: u64,
    /// Rounds of draining.
    pub rounds: u16,
}

/// What pods say of a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavepointRecord {
    /// It is begun.
    Begin(Begin),
    /// A pod has done so many steps of it.
    Done {
        /// The attempt.
        cut: u128,
        /// The pod.
        pod: u16,
        /// How many.
        steps: u16,
    },
    /// It is complete, or has failed.
    End {
        /// The attempt.
        cut: u128,
        /// Why it failed.
        failure: Option<String>,
    },
}

impl SavepointRecord {
    /// The attempt that it is of.
    pub fn cut(&self) -> u128 {
        match self {
            Self::Begin(begin) => begin.cut,
            Self::Done { cut, .. } | Self::End { cut, .. } => *cut,
        }
    }

    pub(crate) fn encode(&self, job: u64) -> Vec<u8> {
        let mut out = vec![SAVEPOINT];
        out.extend_from_slice(&job.to_le_bytes());
        out.extend_from_slice(&self.cut().to_le_bytes());
        match self {
            Self::Begin(begin) => {
                out.push(BEGIN);
                out.extend_from_slice(&begin.assignment.to_le_bytes());
                out.extend_from_slice(&begin.rounds.to_le_bytes());
                out.push(u8::from(begin.stop));
                text(&mut out, &begin.name);
            }
            Self::Done { pod, steps, .. } => {
                out.push(DONE);
                out.extend_from_slice(&pod.to_le_bytes());
                out.extend_from_slice(&steps.to_le_bytes());
            }
            Self::End { failure, .. } => {
                out.push(END);
                out.push(u8::from(failure.is_some()));
                failure.iter().for_each(|why| text(&mut out, why));
            }
        }
        seal(out)
    }

    pub(crate) fn decode(job: u64, value: &[u8]) -> Result<Self, ControlError> {
        let mut rest = open(job, value)?;
        let rest = &mut rest;
        let cut = u128::from_le_bytes(take(rest)?);
        let record = match take::<1>(rest)? {
            [BEGIN] => {
                let (assignment, rounds) = (u64::from_le_bytes(take(rest)?), u16::from_le_bytes(take(rest)?));
                let [stop] = take::<1>(rest)?;
                Self::Begin(Begin { cut, name: read_text(rest)?, stop: stop != 0, assignment, rounds })
            }
            [DONE] => Self::Done { cut, pod: u16::from_le_bytes(take(rest)?), steps: u16::from_le_bytes(take(rest)?) },
            [END] => {
                let [failed] = take::<1>(rest)?;
                Self::End { cut, failure: if failed == 0 { None } else { Some(read_text(rest)?) } }
            }
            _ => return Err(ControlError::Damaged),
        };
        if rest.is_empty() { Ok(record) } else { Err(ControlError::Damaged) }
    }
}

pub(crate) fn encode_origin(job: u64, location: &str) -> Vec<u8> {
    let mut out = vec![ORIGIN];
    out.extend_from_slice(&job.to_le_bytes());
    text(&mut out, location);
    seal(out)
}

pub(crate) fn decode_origin(job: u64, value: &[u8]) -> Result<String, ControlError> {
    let mut rest = open(job, value)?;
    let location = read_text(&mut rest)?;
    if rest.is_empty() { Ok(location) } else { Err(ControlError::Damaged) }
}

/// Length, then the text, cut to what a reason needs at most.
fn text(out: &mut Vec<u8>, text: &str) {
    let end = (0..=text.len().min(LONGEST)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    out.extend_from_slice(&(end as u16).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn seal(mut out: Vec<u8>) -> Vec<u8> {
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// Checks the checksum and the job; what is left begins behind them.
fn open(job: u64, value: &[u8]) -> Result<&[u8], ControlError> {
    let (body, crc) = value.split_last_chunk::<4>().ok_or(ControlError::Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(ControlError::Damaged);
    }
    let (head, rest) = body.split_first_chunk::<9>().ok_or(ControlError::Damaged)?;
    if head[1..] == job.to_le_bytes() { Ok(rest) } else { Err(ControlError::Foreign) }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ControlError> {
    let (chunk, tail) = rest.split_first_chunk::<N>().ok_or(ControlError::Damaged)?;
    *rest = tail;
    Ok(*chunk)
}

fn read_text(rest: &mut &[u8]) -> Result<String, ControlError> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, tail) = rest.split_at_checked(length).ok_or(ControlError::Damaged)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_| ControlError::Damaged)
}
