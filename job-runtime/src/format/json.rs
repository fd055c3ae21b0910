//! The JSON format: one object per record, members matched to columns by name.
//!
//! Owns the two halves, `decode` and `encode`, and the scan for the next byte of a string that is not plain text.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub(super) use decode::Decoder;
pub(super) use encode::Encoder;

/// Index of the first quote, backslash or control character at or after `at`; `bytes.len()` if there is none.
///
/// Eight bytes at a time: each mask has the top bit of exactly those bytes set that match, up to the first match.
#[inline]
fn next_special(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    const QUOTES: u64 = ONES * b'"' as u64;
    const BACKSLASHES: u64 = ONES * b'\\' as u64;
    const SPACES: u64 = ONES * b' ' as u64;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        let quote = word ^ QUOTES;
        let backslash = word ^ BACKSLASHES;
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(SPACES) & !word);
        let found = found & TOPS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&b) = bytes.get(at) {
        if b == b'"' || b == b'\\' || b < b' ' {
            break;
        }
        at += 1;
    }
    at.min(bytes.len())
}
