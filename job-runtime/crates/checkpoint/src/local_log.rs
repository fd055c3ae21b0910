//! Layout of the local commit log: segments of checksummed records, one record per commit.
//!
//! Owns encoding, decoding and the decision what a damaged place means. It does not open files. All integers are little-endian.
//!
//! # Segment header, version 1 (29 bytes)
//! `"MSLOGSEG" | version u8 = 1 | job u64 | first commit u64 | crc32 u32 of all before`; `job` = xxh3_64 of the job uid.
//!
//! # Record, version 1
//! `"MSCR" | body length u32 | crc32 u32 of the 8 bytes before | body | crc32 u32 of body`;
//! body = `version u8 = 1 | commit u64 | shards u16 | repeated: shard u16 | length u32 | change batch (its own layout)`.
//!
//! Commits are numbered without a gap from one segment to the next. A record is either whole or, at the very end of the last segment, torn:
//! it was being written when the process or the machine ended, so nobody was told that its commit had happened.

use dataflow::key::ShardId;
use dataflow::state::{ChangeBatch, ChangeBatchError};

/// Version of the segment header and of the record body.
pub const VERSION: u8 = 1;
/// Length of a segment header in bytes.
pub const SEGMENT_HEADER: usize = 29;
/// Largest body that a record may have.
pub const MAX_BODY: usize = 1 << 30;

const SEGMENT_MAGIC: &[u8; 8] = b"MSLOGSEG";
const RECORD_MAGIC: &[u8; 4] = b"MSCR";
const RECORD_HEADER: usize = 12;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Hash of the job's uid: [`job_hash`].
    pub job: u64,
    /// Number of the first commit of the segment.
    pub first: u64,
}

/// One commit as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The commit's number in this log.
    pub commit: u64,
    /// Changes per shard.
    pub changes: Vec<(ShardId, ChangeBatch)>,
}

/// Something in the log cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not a segment of ours.
    #[error("this is not a commit log segment")]
    NotASegment,
    /// Written by a newer release.
    #[error("version {0} is newer than this release can read ({VERSION})")]
    Version(u8),
    /// A checksum differs, or lengths do not fit.
    #[error("it is damaged")]
    Damaged,
    /// The changes of a shard cannot be read.
    #[error("shard {}: {source}", shard.0)]
    Changes {
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        source: ChangeBatchError,
    },
    /// The commit is too large for one record.
    #[error("a commit of {0} bytes is larger than the log can hold in one record ({MAX_BODY})")]
    TooLarge(usize),
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole record; the next one starts `length` bytes further.
    Record {
        /// The record.
        record: Record,
        /// Its length with header and checksum.
        length: usize,
    },
    /// The end of the segment.
    End,
    /// An unfinished write: cut the segment here.
    Torn,
}

/// The job part of a segment header.
pub fn job_hash(uid: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(uid.as_bytes())
}

/// Encodes a segment header.
pub fn encode_segment(header: SegmentHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER);
    out.extend_from_slice(SEGMENT_MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&header.job.to_le_bytes());
    out.extend_from_slice(&header.first.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// Decodes a segment header.
///
/// # Errors
/// See [`LogError`].
pub fn decode_segment(bytes: &[u8]) -> Result<SegmentHeader, LogError> {
    let header = bytes.get(..SEGMENT_HEADER).ok_or(LogError::NotASegment)?;
    if &header[..8] != SEGMENT_MAGIC {
        return Err(LogError::NotASegment);
    }
    if header[8] != VERSION {
        return Err(LogError::Version(header[8]));
    }
    if crc32fast::hash(&header[..25]) != u32_at(header, 25) {
        return Err(LogError::Damaged);
    }
    Ok(SegmentHeader { job: u64_at(header, 9), first: u64_at(header, 17) })
}

/// Encodes a record.
///
/// # Errors
/// When it is larger than [`MAX_BODY`].
pub fn encode_record(commit: u64, changes: &[(ShardId, ChangeBatch)]) -> Result<Vec<u8>, LogError> {
    let mut out = Vec::with_capacity(64 + changes.iter().map(|(_, batch)| batch.byte_len() + 16).sum::<usize>());
    out.extend_from_slice(&[0; RECORD_HEADER]);
    out.push(VERSION);
    out.extend_from_slice(&commit.to_le_bytes());
    out.extend_from_slice(&(changes.len() as u16).to_le_bytes());
    for (shard, batch) in changes {
        let bytes = batch.encode();
        out.extend_from_slice(&shard.0.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    let body = out.len() - RECORD_HEADER;
    if body > MAX_BODY {
        return Err(LogError::TooLarge(body));
    }
    out[..4].copy_from_slice(RECORD_MAGIC);
    out[4..8].copy_from_slice(&(body as u32).to_le_bytes());
    let crc = crc32fast::hash(&out[..8]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&out[RECORD_HEADER..]);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Reads what stands at the start of `rest`, the unread part of a segment. `last` is true for the last segment of the log: only there a
/// write can be torn, and only if no whole record follows the bad place.
///
/// # Errors
/// When the record is damaged and not torn, or of a newer release.
pub fn next_record(rest: &[u8], last: bool) -> Result<Next, LogError> {
    if rest.is_empty() {
        return Ok(Next::End);
    }
    match whole_record(rest) {
        Some(length) => {
            let record = decode_body(&rest[RECORD_HEADER..length - 4])?;
            Ok(Next::Record { record, length })
        }
        None if last && !any_whole_record(&rest[1..]) => Ok(Next::Torn),
        None => Err(LogError::Damaged),
    }
}

/// Length of the record at the start of `rest` if it is there as a whole and its checksums are right.
fn whole_record(rest: &[u8]) -> Option<usize> {
    let header = rest.get(..RECORD_HEADER)?;
    if &header[..4] != RECORD_MAGIC || crc32fast::hash(&header[..8]) != u32_at(header, 8) {
        return None;
    }
    let end = RECORD_HEADER + u32_at(header, 4) as usize;
    let body = rest.get(RECORD_HEADER..end)?;
    let crc = rest.get(end..end + 4)?;
    (crc32fast::hash(body) == u32_at(crc, 0)).then_some(end + 4)
}

fn any_whole_record(rest: &[u8]) -> bool {
    rest.windows(RECORD_MAGIC.len())
        .enumerate()
        .any(|(at, window)| window == RECORD_MAGIC && whole_record(&rest[at..]).is_some())
}

fn decode_body(body: &[u8]) -> Result<Record, LogError> {
    match body.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(LogError::Version(version)),
        None => return Err(LogError::Damaged),
    }
    let fixed = body.get(1..11).ok_or(LogError::Damaged)?;
    let (commit, shards) = (u64_at(fixed, 0), u16::from_le_bytes([fixed[8], fixed[9]]));
    let mut rest = &body[11..];
    let mut changes = Vec::with_capacity(usize::from(shards));
    for _ in 0..shards {
        let (head, tail) = rest.split_first_chunk::<6>().ok_or(LogError::Damaged)?;
        let shard = ShardId(u16::from_le_bytes([head[0], head[1]]));
        let length = u32_at(head, 2) as usize;
        let bytes = tail.get(..length).ok_or(LogError::Damaged)?;
        changes.push((shard, ChangeBatch::decode(bytes).map_err(|source| LogError::Changes { shard, source })?));
        rest = &tail[length..];
    }
    if rest.is_empty() { Ok(Record { commit, changes }) } else { Err(LogError::Damaged) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(entries: &[(Vec<u8>, Option<Vec<u8>>)]) -> ChangeBatch {
        let mut batch = ChangeBatch::new();
        for (key, value) in entries {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch
    }

    fn record(commit: u64) -> Vec<u8> {
        encode_record(commit, &[(ShardId(3), batch(&[(b"key".to_vec(), Some(vec![commit as u8; 40]))]))]).unwrap()
    }

    fn commit_of(next: Next) -> u64 {
        match next {
            Next::Record { record, .. } => record.commit,
            other => panic!("no record: {other:?}"),
        }
    }

    #[test]
    fn a_segment_header_comes_back_and_refuses_damage() {
        let header = SegmentHeader { job: job_hash("uid"), first: 77 };
        let bytes = encode_segment(header);
        assert_eq!(bytes.len(), SEGMENT_HEADER);
        assert_eq!(decode_segment(&bytes), Ok(header));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert_eq!(decode_segment(&newer), Err(LogError::Version(2)));
        let mut damaged = bytes.clone();
        damaged[20] ^= 1;
        assert_eq!(decode_segment(&damaged), Err(LogError::Damaged));
        assert_eq!(decode_segment(&bytes[..10]), Err(LogError::NotASegment));
    }

    #[test]
    fn every_cut_of_the_last_record_is_torn_and_never_a_record() {
        let bytes = record(1);
        for cut in 1..bytes.len() {
            assert_eq!(next_record(&bytes[..cut], true), Ok(Next::Torn), "cut at {cut}");
            assert_eq!(next_record(&bytes[..cut], false), Err(LogError::Damaged), "cut at {cut}");
        }
        assert_eq!(next_record(&[], true), Ok(Next::End));
    }

    #[test]
    fn zeros_at_the_end_are_a_torn_write() {
        assert_eq!(next_record(&[0; 4096], true), Ok(Next::Torn));
    }

    #[test]
    fn damage_before_a_whole_record_is_an_error_and_not_cut() {
        let first = record(1);
        for at in 0..first.len() {
            let mut bytes = first.clone();
            bytes[at] ^= 0x40;
            assert_eq!(next_record(&bytes, true), Ok(Next::Torn), "byte {at}, at the end");
            bytes.extend_from_slice(&record(2));
            assert_eq!(next_record(&bytes, true), Err(LogError::Damaged), "byte {at}, in the middle");
        }
    }

    #[test]
    fn records_follow_each_other() {
        let bytes = [record(1), record(2)].concat();
        let length = record(1).len();
        assert_eq!(commit_of(next_record(&bytes, false).unwrap()), 1);
        assert_eq!(commit_of(next_record(&bytes[length..], false).unwrap()), 2);
    }

    type Entries = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    proptest! {
        #[test]
        fn any_commit_comes_back(commit: u64, shards in proptest::collection::vec((0u16..4096, any::<Entries>()), 0..4)) {
            let changes: Vec<_> = shards.iter().map(|(shard, entries)| (ShardId(*shard), batch(entries))).collect();
            let bytes = encode_record(commit, &changes).unwrap();
            let length = bytes.len();
            prop_assert_eq!(next_record(&bytes, true), Ok(Next::Record { record: Record { commit, changes }, length }));
        }
    }
}
