//! The stored position in a file.
//!
//! Layout, version 1, integers big-endian: `1u8 | offset u64 | line u64 | check_offset u64 | check_crc u32 | size u64 | modified_ns u64`.
//! `offset` counts uncompressed bytes up to the end of the last record given out and `line` is the number of the line that follows.
//! `check_crc` is the CRC-32 of the first `check_offset` uncompressed bytes: a file whose time of change is another is compared with it.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

const VERSION: u8 = 1;
const LEN: usize = 1 + 8 + 8 + 8 + 4 + 8 + 8;

/// What a file looked like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Bytes as stored.
    pub(super) size: u64,
    /// Time of change, nanoseconds since 1970; 0 if the file system has none.
    pub(super) modified_ns: u64,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Identity {
        let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let modified_ns = since.and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0);
        Identity { size: metadata.len(), modified_ns }
    }
}

/// A prefix of the file's content, uncompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) len: u64,
    pub(super) crc: u32,
}

/// Where to go on reading, and how to know that the file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilePosition {
    pub(super) offset: u64,
    pub(super) line: u64,
    pub(super) check: Prefix,
    pub(super) identity: Identity,
}

impl FilePosition {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.line.to_be_bytes());
        out.extend_from_slice(&self.check.len.to_be_bytes());
        out.extend_from_slice(&self.check.crc.to_be_bytes());
        out.extend_from_slice(&self.identity.size.to_be_bytes());
        out.extend_from_slice(&self.identity.modified_ns.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<FilePosition> {
        let body: &[u8; LEN] = bytes.try_into().ok()?;
        let u64_at = |at: usize| body[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        if body[0] != VERSION {
            return None;
        }
        Some(FilePosition {
            offset: u64_at(1)?,
            line: u64_at(9)?,
            check: Prefix { len: u64_at(17)?, crc: u32::from_be_bytes(body[25..29].try_into().ok()?) },
            identity: Identity { size: u64_at(29)?, modified_ns: u64_at(37)? },
        })
    }
}
