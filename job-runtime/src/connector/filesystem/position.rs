//! The stored position in a file.
//!
//! Layout, version 2, integers big-endian:
//! `2u8 | offset u64 | line u64 | check_offset u64 | check_crc u32 | size u64 | modified_ns u64 | ended u8 (0, 1)`.
//! Version 1 has no `ended`: it stands for 0.
//! `offset` counts uncompressed bytes up to the end of the last record given out and `line` is the number of the line that follows.
//! `ended` says that there was nothing behind it when the file was last looked at, which a compressed file's `offset` does not tell.
//! `check_crc` is the CRC-32 of the first `check_offset` uncompressed bytes: a file whose time of change is another is compared with it.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

const VERSION: u8 = 2;
const LEN_1: usize = 1 + 8 + 8 + 8 + 4 + 8 + 8;
const LEN: usize = LEN_1 + 1;

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
    pub(super) ended: bool,
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
        out.push(u8::from(self.ended));
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<FilePosition> {
        let ended = match (bytes.first(), bytes.len()) {
            (Some(1), LEN_1) => false,
            (Some(&VERSION), LEN) if bytes[LEN_1] < 2 => bytes[LEN_1] == 1,
            _ => return None,
        };
        let body: &[u8; LEN_1] = bytes.first_chunk()?;
        let u64_at = |at: usize| body[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        Some(FilePosition {
            offset: u64_at(1)?,
            line: u64_at(9)?,
            check: Prefix { len: u64_at(17)?, crc: u32::from_be_bytes(body[25..29].try_into().ok()?) },
            identity: Identity { size: u64_at(29)?, modified_ns: u64_at(37)? },
            ended,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_position_comes_back_and_no_damage_panics(numbers: [u64; 5], crc: u32, ended: bool, cut in 0usize..LEN) {
            let [offset, line, len, size, modified_ns] = numbers;
            let identity = Identity { size, modified_ns };
            let position = FilePosition { offset, line, check: Prefix { len, crc }, identity, ended };
            let bytes = position.encode();
            prop_assert_eq!(FilePosition::decode(&bytes), Some(position));
            prop_assert_eq!(FilePosition::decode(&bytes[..cut]), None);
        }
    }

    #[test]
    fn a_position_of_version_1_is_read() {
        let mut bytes = vec![1];
        for number in [70u64, 5, 40] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&0xdead_beef_u32.to_be_bytes());
        for number in [90u64, 1_700_000_000] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let identity = Identity { size: 90, modified_ns: 1_700_000_000 };
        let check = Prefix { len: 40, crc: 0xdead_beef };
        let expected = FilePosition { offset: 70, line: 5, check, identity, ended: false };
        assert_eq!(FilePosition::decode(&bytes), Some(expected));
    }
}
