//! Layout of two manifests: one shard's files, and a checkpoint's shards. (A savepoint's are in `savepoint`.)
//!
//! Owns encoding, decoding and the check that a manifest is the one that was asked for. The envelope (magic, version, length, checksum) is in
//! `codec`; text is `length u16 | UTF-8`, an optional offset `0` or `1 | i64`, object ids are keys below the job's prefix as text.
//!
//! # Shard manifest, magic `MSSH`, version 1
//! `job uid text | shard u16 | shards of the job u16 | offset optional | files u32 | per file: name text | length u64 | xxh3_128 u128 |
//! place u8: 0 in here, followed by the bytes; 1 an object, followed by its id`
//!
//! # Checkpoint manifest, magic `MSCP`, version 1
//! `job uid text | job name text | kind u8, always 1 | pod u16 | number u64 | created, ms since 1970, u64 | shards of the
//! job u16 | entries u16 | per entry: shard u16 | offset optional | manifest's id | length u64 | xxh3_128 u128 | bytes of its files u64 |
//! log u8: 0 Kafka; 1 local, followed by: next commit u64 | length u64 | xxh3_128 u128 | object id`

use dataflow::key::ShardId;
use dataflow::state::LogOffset;

use super::codec::{Reader, Writer};
use super::key::ObjectId;

const VERSION: u8 = 1;
const SHARD: [u8; 4] = *b"MSSH";
const CHECKPOINT: [u8; 4] = *b"MSCP";
/// The only kind of checkpoint.
const PERIODIC: u8 = 1;

/// A manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Other bytes.
    #[error("this is not a manifest of a snapshot")]
    NotAManifest,
    /// Written by a newer release.
    #[error("its layout {0} is newer than this release of Millstream reads ({VERSION})")]
    Version(u8),
    /// Cut short, changed, or with a name that cannot be.
    #[error("it is damaged")]
    Damaged,
    /// Of another job, shard or number than was asked for.
    #[error("it is the manifest of something else: {0}")]
    Foreign(String),
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the manifest: small files cost no object of their own.
    Inline(Vec<u8>),
    /// In an object.
    Object(ObjectId),
}

/// One file of a shard's database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name in the database's directory: a plain name.
    pub name: String,
    /// Length in bytes.
    pub length: u64,
    /// [`super::checksum`] of its bytes.
    pub checksum: u128,
    /// Where they are.
    pub place: Place,
}

/// The files of one shard at one place of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardManifest {
    /// Uid of the job.
    pub job_uid: String,
    /// The shard.
    pub shard: ShardId,
    /// Number of shards of the job.
    pub shards: u16,
    /// The last commit in it; `None` if nothing was applied yet.
    pub offset: Option<LogOffset>,
    /// Its files.
    pub files: Vec<FileEntry>,
}

/// A shard in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    /// The shard.
    pub shard: ShardId,
    /// The last commit in it.
    pub offset: Option<LogOffset>,
    /// Its manifest.
    pub manifest: ObjectId,
    /// Length of the manifest.
    pub length: u64,
    /// [`super::checksum`] of the manifest.
    pub checksum: u128,
    /// Sum of the lengths of its files.
    pub bytes: u64,
}

/// What a checkpoint needs of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPart {
    /// Nothing: the changelog is in Kafka, and each shard goes on behind its own offset.
    Kafka,
    /// The end of the local log: with it all shards come to the same commit.
    Local {
        /// The commit that comes next.
        next: u64,
        /// Length of the log's part.
        length: u64,
        /// [`super::checksum`] of it.
        checksum: u128,
        /// Where it is.
        object: ObjectId,
    },
}

/// The shards of one pod at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointManifest {
    /// Uid of the job.
    pub job_uid: String,
    /// Name of the job, for people.
    pub job_name: String,
    /// The pod that made it.
    pub pod: u16,
    /// Rising per pod.
    pub number: u64,
    /// When it was begun, in milliseconds since 1970-01-01T00:00:00Z, by the pod's clock.
    pub created_ms: u64,
    /// Number of shards of the job.
    pub shards: u16,
    /// The shards in it.
    pub entries: Vec<ShardEntry>,
    /// What it needs of the log.
    pub log: LogPart,
}

impl ShardManifest {
    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(SHARD, VERSION);
        out.text(&self.job_uid);
        out.u16(self.shard.0);
        out.u16(self.shards);
        out.optional(self.offset.map(|offset| offset.0));
        out.u32(u32::try_from(self.files.len()).expect("a database has far fewer files"));
        for file in &self.files {
            out.text(&file.name);
            out.u64(file.length);
            out.u128(file.checksum);
            match &file.place {
                Place::Inline(bytes) => {
                    out.u8(0);
                    out.bytes(bytes);
                }
                Place::Object(id) => {
                    out.u8(1);
                    out.text(&id.to_string());
                }
            }
        }
        out.finish()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// See [`ManifestError`]; also when a file has a name that is not a plain one, or bytes inside that do not fit its checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut body = Reader::open(bytes, SHARD, VERSION)?;
        let job_uid = body.text()?.to_owned();
        let (shard, shards) = (ShardId(body.u16()?), body.u16()?);
        let offset = body.optional()?.map(LogOffset);
        let count = body.u32()?;
        let mut files = Vec::new();
        for _ in 0..count {
            files.push(file(&mut body, shard)?);
        }
        body.end()?;
        Ok(Self { job_uid, shard, shards, offset, files })
    }

    /// Checks that it is the one that an entry of a checkpoint or savepoint of a job with so many shards names.
    ///
    /// # Errors
    /// [`ManifestError::Foreign`].
    pub fn check(&self, job_uid: &str, shards: u16, entry: &ShardEntry) -> Result<(), ManifestError> {
        let same = self.job_uid == job_uid
            && self.shard == entry.shard
            && self.shards == shards
            && self.offset == entry.offset;
        if same { Ok(()) } else { Err(foreign(&format!("shard {} of job {}", self.shard.0, self.job_uid))) }
    }

    /// Sum of the lengths of the files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }
}

pub(super) fn foreign(what: &str) -> ManifestError {
    ManifestError::Foreign(what.to_owned())
}

fn file(body: &mut Reader<'_>, shard: ShardId) -> Result<FileEntry, ManifestError> {
    let name = body.text()?.to_owned();
    let (length, checksum) = (body.u64()?, body.u128()?);
    let place = match body.u8()? {
        0 => {
            let length = usize::try_from(length).map_err(|_| ManifestError::Damaged)?;
            let bytes = body.bytes(length)?.to_vec();
            if super::checksum(&bytes) != checksum {
                return Err(ManifestError::Damaged);
            }
            Place::Inline(bytes)
        }
        1 => match ObjectId::parse(body.text()?) {
            Some(id @ ObjectId::File(of, _)) if of == shard => Place::Object(id),
            Some(_) | None => return Err(ManifestError::Damaged),
        },
        _ => return Err(ManifestError::Damaged),
    };
    if !plain_name(&name) {
        return Err(ManifestError::Damaged);
    }
    Ok(FileEntry { name, length, checksum, place })
}

/// A name of RocksDB's: never a path.
fn plain_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (1..=128).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}

impl CheckpointManifest {
    /// Where it is stored.
    pub fn id(&self) -> ObjectId {
        ObjectId::Checkpoint { pod: self.pod, number: self.number }
    }

    /// The entry of a shard.
    pub fn entry(&self, shard: ShardId) -> Option<&ShardEntry> {
        self.entries.iter().find(|entry| entry.shard == shard)
    }

    /// Size of what it refers to.
    pub fn bytes(&self) -> u64 {
        let log = match &self.log {
            LogPart::Kafka => 0,
            LogPart::Local { length, .. } => *length,
        };
        self.entries.iter().map(|entry| entry.bytes).sum::<u64>() + log
    }

    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(CHECKPOINT, VERSION);
        out.text(&self.job_uid);
        out.text(&self.job_name);
        out.u8(PERIODIC);
        out.u16(self.pod);
        out.u64(self.number);
        out.u64(self.created_ms);
        out.u16(self.shards);
        out.u16(u16::try_from(self.entries.len()).expect("a job has at most 4096 shards"));
        self.entries.iter().for_each(|entry| write_entry(&mut out, entry));
        match &self.log {
            LogPart::Kafka => out.u8(0),
            LogPart::Local { next, length, checksum, object } => {
                out.u8(1);
                out.u64(*next);
                out.u64(*length);
                out.u128(*checksum);
                out.text(&object.to_string());
            }
        }
        out.finish()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut body = Reader::open(bytes, CHECKPOINT, VERSION)?;
        let (job_uid, job_name) = (body.text()?.to_owned(), body.text()?.to_owned());
        if body.u8()? != PERIODIC {
            return Err(ManifestError::Damaged);
        }
        let (pod, number, created_ms, shards) = (body.u16()?, body.u64()?, body.u64()?, body.u16()?);
        let count = body.u16()?;
        let entries = (0..count).map(|_| read_entry(&mut body)).collect::<Result<_, _>>()?;
        let log = match body.u8()? {
            0 => LogPart::Kafka,
            1 => {
                let (next, length, checksum) = (body.u64()?, body.u64()?, body.u128()?);
                match ObjectId::parse(body.text()?) {
                    Some(object @ ObjectId::Log(_)) => LogPart::Local { next, length, checksum, object },
                    Some(_) | None => return Err(ManifestError::Damaged),
                }
            }
            _ => return Err(ManifestError::Damaged),
        };
        body.end()?;
        Ok(Self { job_uid, job_name, pod, number, created_ms, shards, entries, log })
    }

    /// Checks that it is this job's, and stands where it says.
    ///
    /// # Errors
    /// [`ManifestError::Foreign`].
    pub fn check(&self, job_uid: &str, id: &ObjectId) -> Result<(), ManifestError> {
        let placed = *id == self.id();
        if placed && self.job_uid == job_uid {
            return Ok(());
        }
        Err(foreign(&format!("checkpoint {} of pod {} of job {}", self.number, self.pod, self.job_uid)))
    }
}

pub(super) fn write_entry(out: &mut Writer, entry: &ShardEntry) {
    out.u16(entry.shard.0);
    out.optional(entry.offset.map(|offset| offset.0));
    out.text(&entry.manifest.to_string());
    out.u64(entry.length);
    out.u128(entry.checksum);
    out.u64(entry.bytes);
}

pub(super) fn read_entry(body: &mut Reader<'_>) -> Result<ShardEntry, ManifestError> {
    let shard = ShardId(body.u16()?);
    let offset = body.optional()?.map(LogOffset);
    let manifest = match ObjectId::parse(body.text()?) {
        Some(id @ ObjectId::Shard(of, _)) if of == shard => id,
        Some(_) | None => return Err(ManifestError::Damaged),
    };
    Ok(ShardEntry { shard, offset, manifest, length: body.u64()?, checksum: body.u128()?, bytes: body.u64()? })
}

#[cfg(test)]
mod tests;
