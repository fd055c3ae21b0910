//! Layout of a savepoint: one part per pod, and the savepoint's own manifest, which names the parts and is written last.
//!
//! Owns encoding, decoding, and the check that parts and savepoint belong together. A savepoint needs no log: nothing was in flight when it was
//! made, and where sources stood is in it. The envelope is `codec`'s; text is `length u16 | UTF-8`.
//!
//! # Part, magic `MSSP`, version 1
//! `job uid text | job name text | name text | cut u128 | pod u16 | created, ms since 1970, u64 | shards of the job u16 | entries u16 | per
//! entry as in a checkpoint's manifest | positions u32 | per position: operator uid u32 | partition text | length u32 | bytes`
//!
//! # Savepoint, magic `MSSR`, version 1
//! `job uid text | job name text | name text | cut u128 | created u64 | shards u16 | parts u16 | per part: pod u16 | length u64 |
//! xxh3_128 u128 | operators u16 | per operator with state: uid u32 | name text`
//!
//! Version 2 has one text more per operator: where its state lies if that is not the place of its own keys. A savepoint without such a one is
//! written as version 1.

use dataflow::graph::OperatorUid;

use super::codec::{Reader, Writer};
use super::key::ObjectId;
use super::manifest::{ManifestError, ShardEntry, foreign, read_entry, write_entry};

const PART_VERSION: u8 = 1;
/// Without and with places of state.
const ROOT_VERSIONS: [u8; 2] = [1, 2];
const PART: [u8; 4] = *b"MSSP";
const ROOT: [u8; 4] = *b"MSSR";

/// Where a source partition stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPosition {
    /// The source.
    pub operator: OperatorUid,
    /// The partition's name.
    pub partition: String,
    /// The position, in the runtime's own versioned layout.
    pub bytes: Vec<u8>,
}

/// One pod's part of a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointPart {
    /// Uid of the job.
    pub job_uid: String,
    /// Name of the job.
    pub job_name: String,
    /// Name of the savepoint.
    pub name: String,
    /// The attempt that made it.
    pub cut: u128,
    /// The pod.
    pub pod: u16,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z, by the pod's clock.
    pub created_ms: u64,
    /// Number of shards of the job.
    pub shards: u16,
    /// The pod's shards.
    pub entries: Vec<ShardEntry>,
    /// The pod's source partitions.
    pub positions: Vec<StoredPosition>,
}

/// A part as the savepoint names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartEntry {
    /// The pod.
    pub pod: u16,
    /// Length of its manifest.
    pub length: u64,
    /// [`super::checksum`] of its manifest.
    pub checksum: u128,
}

/// A savepoint as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointManifest {
    /// Uid of the job.
    pub job_uid: String,
    /// Name of the job.
    pub job_name: String,
    /// Name of the savepoint.
    pub name: String,
    /// The attempt that made it.
    pub cut: u128,
    /// When it was complete, in milliseconds since 1970-01-01T00:00:00Z, by a pod's clock.
    pub created_ms: u64,
    /// Number of shards of the job.
    pub shards: u16,
    /// Its parts.
    pub parts: Vec<PartEntry>,
    /// Stream operators with state.
    pub operators: Vec<SavedOperator>,
}

/// A stream operator whose state a savepoint has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedOperator {
    /// Its stable identity.
    pub uid: OperatorUid,
    /// Its name.
    pub name: String,
    /// Where its state lies, in words of the runtime that are compared and shown; empty where its own keys say.
    pub place: String,
}

impl SavepointPart {
    /// Where it is stored.
    pub fn id(&self) -> ObjectId {
        ObjectId::Savepoint { name: self.name.clone(), pod: self.pod }
    }

    /// Sum of the lengths of the files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(PART, PART_VERSION);
        out.text(&self.job_uid);
        out.text(&self.job_name);
        out.text(&self.name);
        out.u128(self.cut);
        out.u16(self.pod);
        out.u64(self.created_ms);
        out.u16(self.shards);
        out.u16(u16::try_from(self.entries.len()).expect("a job has at most 4096 shards"));
        self.entries.iter().for_each(|entry| write_entry(&mut out, entry));
        out.u32(u32::try_from(self.positions.len()).expect("a job has far fewer source partitions"));
        for position in &self.positions {
            out.u32(position.operator.0);
            out.text(&position.partition);
            out.u32(u32::try_from(position.bytes.len()).expect("a position is short"));
            out.bytes(&position.bytes);
        }
        out.finish()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut body = Reader::open(bytes, PART, PART_VERSION)?;
        let (job_uid, job_name) = (body.text()?.to_owned(), body.text()?.to_owned());
        let name = body.text()?.to_owned();
        let (cut, pod, created_ms, shards) = (body.u128()?, body.u16()?, body.u64()?, body.u16()?);
        let count = body.u16()?;
        let entries = (0..count).map(|_| read_entry(&mut body)).collect::<Result<_, _>>()?;
        let count = body.u32()?;
        let positions = (0..count).map(|_| read_position(&mut body)).collect::<Result<_, _>>()?;
        body.end()?;
        Ok(Self { job_uid, job_name, name, cut, pod, created_ms, shards, entries, positions })
    }
}

fn read_position(body: &mut Reader<'_>) -> Result<StoredPosition, ManifestError> {
    let (operator, partition) = (OperatorUid(body.u32()?), body.text()?.to_owned());
    let length = body.u32()? as usize;
    Ok(StoredPosition { operator, partition, bytes: body.bytes(length)?.to_vec() })
}

impl SavepointManifest {
    /// Where it is stored.
    pub fn id(&self) -> ObjectId {
        ObjectId::SavepointRoot { name: self.name.clone() }
    }

    /// Where a part is stored.
    pub fn part(&self, entry: &PartEntry) -> ObjectId {
        ObjectId::Savepoint { name: self.name.clone(), pod: entry.pod }
    }

    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let placed = self.operators.iter().any(|operator| !operator.place.is_empty());
        let mut out = Writer::new(ROOT, ROOT_VERSIONS[usize::from(placed)]);
        out.text(&self.job_uid);
        out.text(&self.job_name);
        out.text(&self.name);
        out.u128(self.cut);
        out.u64(self.created_ms);
        out.u16(self.shards);
        out.u16(u16::try_from(self.parts.len()).expect("a job has at most 4096 pods"));
        for part in &self.parts {
            out.u16(part.pod);
            out.u64(part.length);
            out.u128(part.checksum);
        }
        out.u16(u16::try_from(self.operators.len()).expect("a job has far fewer stream operators"));
        for operator in &self.operators {
            out.u32(operator.uid.0);
            out.text(&operator.name);
            if placed {
                out.text(&operator.place);
            }
        }
        out.finish()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (mut body, version) = Reader::open_any(bytes, ROOT, &ROOT_VERSIONS)?;
        let (job_uid, job_name) = (body.text()?.to_owned(), body.text()?.to_owned());
        let name = body.text()?.to_owned();
        let (cut, created_ms, shards) = (body.u128()?, body.u64()?, body.u16()?);
        let count = body.u16()?;
        let part =
            |body: &mut Reader<'_>| Ok(PartEntry { pod: body.u16()?, length: body.u64()?, checksum: body.u128()? });
        let parts = (0..count).map(|_| part(&mut body)).collect::<Result<_, ManifestError>>()?;
        let count = body.u16()?;
        let operator = |body: &mut Reader<'_>| {
            let (uid, name) = (OperatorUid(body.u32()?), body.text()?.to_owned());
            let place = if version == 1 { String::new() } else { body.text()?.to_owned() };
            Ok(SavedOperator { uid, name, place })
        };
        let operators = (0..count).map(|_| operator(&mut body)).collect::<Result<_, ManifestError>>()?;
        body.end()?;
        Ok(Self { job_uid, job_name, name, cut, created_ms, shards, parts, operators })
    }

    /// Checks that it is the one that stands at `name` of a job.
    ///
    /// # Errors
    /// [`ManifestError::Foreign`].
    pub fn check(&self, job_uid: &str, name: &str) -> Result<(), ManifestError> {
        if self.job_uid == job_uid && self.name == name {
            return Ok(());
        }
        Err(foreign(&format!("savepoint {} of job {}", self.name, self.job_uid)))
    }

    /// Checks that the parts belong to it, and that together they have each shard once.
    ///
    /// # Errors
    /// [`ManifestError::Foreign`] or [`ManifestError::Damaged`].
    pub fn check_parts(&self, parts: &[SavepointPart]) -> Result<(), ManifestError> {
        for part in parts {
            let same = (&part.job_uid, &part.name, part.cut, part.shards)
                == (&self.job_uid, &self.name, self.cut, self.shards);
            if !same {
                return Err(foreign(&format!("part {} of savepoint {} of job {}", part.pod, part.name, part.job_uid)));
            }
        }
        let mut shards: Vec<u16> = parts.iter().flat_map(|part| &part.entries).map(|entry| entry.shard.0).collect();
        shards.sort_unstable();
        if shards.into_iter().eq(0..self.shards) { Ok(()) } else { Err(ManifestError::Damaged) }
    }
}

#[cfg(test)]
mod tests {
    use dataflow::key::ShardId;
    use dataflow::state::LogOffset;

    use super::*;
    use crate::snapshot::checksum;
    use crate::snapshot::key::PartId;

    const PART_FIXTURE: &[u8] = include_bytes!("../../fixtures/savepoint-part.v1");
    const ROOT_FIXTURE: &[u8] = include_bytes!("../../fixtures/savepoint.v1");

    fn part(pod: u16, shards: &[u16]) -> SavepointPart {
        let entry = |shard: &u16| ShardEntry {
            shard: ShardId(*shard),
            offset: Some(LogOffset(4711)),
            manifest: ObjectId::Shard(ShardId(*shard), PartId { number: 12, process: 0x00ff, count: 3 }),
            length: 321,
            checksum: 0xfeed,
            bytes: 65_552,
        };
        let position =
            StoredPosition { operator: OperatorUid(0xabcd), partition: "flights-3".into(), bytes: vec![1, 2, 3] };
        SavepointPart {
            job_uid: "3f0c1a".into(),
            job_name: "delays".into(),
            name: "before-v2".into(),
            cut: 0x0123_4567,
            pod,
            created_ms: 1_763_719_200_000,
            shards: 3,
            entries: shards.iter().map(entry).collect(),
            positions: vec![position],
        }
    }

    fn root() -> SavepointManifest {
        let entry = |part: &SavepointPart| PartEntry {
            pod: part.pod,
            length: part.encode().len() as u64,
            checksum: checksum(&part.encode()),
        };
        SavepointManifest {
            job_uid: "3f0c1a".into(),
            job_name: "delays".into(),
            name: "before-v2".into(),
            cut: 0x0123_4567,
            created_ms: 1_763_719_201_000,
            shards: 3,
            parts: vec![entry(&part(0, &[0, 1])), entry(&part(1, &[2]))],
            operators: vec![SavedOperator {
                uid: OperatorUid(0x1234),
                name: "window_aggregate(origin)".into(),
                place: String::new(),
            }],
        }
    }

    #[test]
    fn the_files_of_this_release_are_read_for_ever() {
        assert_eq!(SavepointPart::decode(PART_FIXTURE), Ok(part(0, &[0, 1])));
        assert_eq!(SavepointManifest::decode(ROOT_FIXTURE), Ok(root()));
        assert_eq!(part(0, &[0, 1]).encode(), PART_FIXTURE, "the layout of version 1 does not change");
        assert_eq!(root().encode(), ROOT_FIXTURE);
    }

    #[test]
    fn where_state_lies_makes_it_version_2() {
        let mut placed = root();
        placed.operators[0].place = "the partitions of flights, of 8".into();
        let bytes = placed.encode();
        assert_eq!(bytes[4], 2);
        assert_eq!(SavepointManifest::decode(&bytes), Ok(placed));
    }

    #[test]
    fn damage_and_newer_layouts_are_told_apart() {
        for bytes in [part(0, &[0]).encode(), root().encode()] {
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x20;
                assert!(SavepointPart::decode(&damaged).is_err() && SavepointManifest::decode(&damaged).is_err());
                assert!(
                    SavepointPart::decode(&bytes[..at]).is_err() && SavepointManifest::decode(&bytes[..at]).is_err()
                );
            }
        }
        let mut newer = root().encode();
        newer[4] = 3;
        assert_eq!(SavepointManifest::decode(&newer), Err(ManifestError::Version(3)));
    }

    #[test]
    fn parts_must_be_of_one_attempt_and_have_every_shard_once() {
        let root = root();
        let (one, two) = (part(0, &[0, 1]), part(1, &[2]));
        assert_eq!(root.check_parts(&[one.clone(), two.clone()]), Ok(()));
        assert_eq!(root.check_parts(std::slice::from_ref(&one)), Err(ManifestError::Damaged));
        assert_eq!(root.check_parts(&[one.clone(), part(1, &[1, 2])]), Err(ManifestError::Damaged));
        let other = SavepointPart { cut: 1, ..two };
        assert!(matches!(root.check_parts(&[one, other]), Err(ManifestError::Foreign(_))));
        assert_eq!(root.check("3f0c1a", "before-v2"), Ok(()));
        assert!(root.check("3f0c1a", "other").is_err() && root.check("x", "before-v2").is_err());
    }
}
