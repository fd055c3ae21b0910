//! The envelope of manifests, and the few kinds of fields in them. All integers are little-endian.
//!
//! `magic, 4 bytes | version u8 | body length u32 | body | xxh3_64 of all before`. It knows no manifest.

use super::manifest::ManifestError;

/// Largest body of a manifest.
const MAX_BODY: usize = 256 << 20;
const HEAD: usize = 9;
const TAIL: usize = 8;

/// Writes an envelope.
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new(magic: [u8; 4], version: u8) -> Self {
        let mut out = magic.to_vec();
        out.push(version);
        out.extend_from_slice(&[0; 4]);
        Self { out }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// One byte that says whether it is there, then the value.
    pub(super) fn optional(&mut self, value: Option<i64>) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Length u16, then the bytes.
    pub(super) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).expect("names in manifests are short: keys, file names, uids"));
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let body = u32::try_from(self.out.len() - HEAD).expect("a manifest is far below four gigabytes");
        self.out[5..HEAD].copy_from_slice(&body.to_le_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&self.out);
        self.out.extend_from_slice(&sum.to_le_bytes());
        self.out
    }
}

/// Reads the body of an envelope.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the envelope.
    pub(super) fn open(bytes: &'a [u8], magic: [u8; 4], version: u8) -> Result<Self, ManifestError> {
        Self::open_any(bytes, magic, &[version]).map(|(body, _)| body)
    }

    /// As [`Reader::open`], for a layout of one of several versions, in ascending order; returns which.
    pub(super) fn open_any(bytes: &'a [u8], magic: [u8; 4], versions: &[u8]) -> Result<(Self, u8), ManifestError> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(ManifestError::Damaged)?;
        if head[..4] != magic {
            return Err(ManifestError::NotAManifest);
        }
        let version = head[4];
        if versions.last().is_some_and(|newest| version > *newest) {
            return Err(ManifestError::Version(version));
        }
        let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
        if !versions.contains(&version) || length > MAX_BODY || rest.len() != length + TAIL {
            return Err(ManifestError::Damaged);
        }
        let (all, sum) = bytes.split_last_chunk::<TAIL>().ok_or(ManifestError::Damaged)?;
        if xxhash_rust::xxh3::xxh3_64(all) != u64::from_le_bytes(*sum) {
            return Err(ManifestError::Damaged);
        }
        Ok((Self { rest: &rest[..length] }, version))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let (value, rest) = self.rest.split_first_chunk::<N>().ok_or(ManifestError::Damaged)?;
        self.rest = rest;
        Ok(*value)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ManifestError> {
        self.array::<1>().map(|[value]| value)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ManifestError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ManifestError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ManifestError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, ManifestError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn optional(&mut self) -> Result<Option<i64>, ManifestError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.array().map(|bytes| Some(i64::from_le_bytes(bytes))),
            _ => Err(ManifestError::Damaged),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, ManifestError> {
        let length = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(length))?).map_err(|_| ManifestError::Damaged)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], ManifestError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ManifestError::Damaged)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), ManifestError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ManifestError::Damaged) }
    }
}
