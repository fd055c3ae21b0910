//! What is written comes back; damage of any kind is found; the files of this release stay readable.

use proptest::prelude::*;

use super::*;
use crate::snapshot::checksum;
use crate::snapshot::key::PartId;

const SHARD_FIXTURE: &[u8] = include_bytes!("../../../fixtures/shard-manifest.v1");
const CHECKPOINT_FIXTURE: &[u8] = include_bytes!("../../../fixtures/checkpoint-manifest.v1");
const LOCAL_FIXTURE: &[u8] = include_bytes!("../../../fixtures/checkpoint-manifest-local.v1");

fn part(count: u32) -> PartId {
    PartId { number: 12, process: 0x00ff_00ff, count }
}

fn shard() -> ShardManifest {
    let inline = b"MANIFEST-000005\n".to_vec();
    ShardManifest {
        job_uid: "3f0c1a".into(),
        shard: ShardId(3),
        shards: 16,
        offset: Some(LogOffset(4711)),
        files: vec![
            FileEntry { name: "CURRENT".into(), length: 16, checksum: checksum(&inline), place: Place::Inline(inline) },
            FileEntry {
                name: "000012.sst".into(),
                length: 65_536,
                checksum: 0x0123_4567_89ab_cdef,
                place: Place::Object(ObjectId::File(ShardId(3), part(7))),
            },
        ],
    }
}

fn checkpoint() -> CheckpointManifest {
    let entry = |number: u16, offset| ShardEntry {
        shard: ShardId(number),
        offset,
        manifest: ObjectId::Shard(ShardId(number), part(u32::from(number))),
        length: 321,
        checksum: 0xfeed,
        bytes: 65_552,
    };
    CheckpointManifest {
        job_uid: "3f0c1a".into(),
        job_name: "delays".into(),
        pod: 0,
        number: 12,
        created_ms: 1_763_719_200_000,
        shards: 16,
        entries: vec![entry(3, Some(LogOffset(4711))), entry(4, None)],
        log: LogPart::Kafka,
    }
}

fn local() -> CheckpointManifest {
    let log = LogPart::Local { next: 78, length: 1000, checksum: 0xbeef, object: ObjectId::Log(part(9)) };
    CheckpointManifest { log, ..checkpoint() }
}

#[test]
fn the_files_of_this_release_are_read_for_ever() {
    assert_eq!(ShardManifest::decode(SHARD_FIXTURE), Ok(shard()));
    assert_eq!(CheckpointManifest::decode(CHECKPOINT_FIXTURE), Ok(checkpoint()));
    assert_eq!(CheckpointManifest::decode(LOCAL_FIXTURE), Ok(local()));
    assert_eq!(shard().encode(), SHARD_FIXTURE, "the layout of version 1 does not change");
    assert_eq!(checkpoint().encode(), CHECKPOINT_FIXTURE);
    assert_eq!(local().encode(), LOCAL_FIXTURE);
}

#[test]
fn other_bytes_newer_layouts_and_damage_are_told_apart() {
    let bytes = checkpoint().encode();
    assert_eq!(CheckpointManifest::decode(&shard().encode()), Err(ManifestError::NotAManifest));
    let mut newer = bytes.clone();
    newer[4] = 2;
    assert_eq!(CheckpointManifest::decode(&newer), Err(ManifestError::Version(2)));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(CheckpointManifest::decode(&damaged).is_err(), "byte {at}");
        assert!(CheckpointManifest::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(CheckpointManifest::decode(&[&bytes[..], b"x"].concat()), Err(ManifestError::Damaged));
}

#[test]
fn a_file_name_that_is_a_path_is_refused() {
    for name in ["", "../x", "a/b", ".hidden", "..", "a\\b", "a\0b"] {
        let mut manifest = shard();
        manifest.files[0].name = name.into();
        assert_eq!(ShardManifest::decode(&manifest.encode()), Err(ManifestError::Damaged), "{name:?}");
    }
}

#[test]
fn an_object_of_another_kind_or_shard_is_refused() {
    let mut manifest = shard();
    manifest.files[1].place = Place::Object(ObjectId::File(ShardId(4), part(7)));
    assert_eq!(ShardManifest::decode(&manifest.encode()), Err(ManifestError::Damaged));
    manifest.files[1].place = Place::Object(ObjectId::Checkpoint { pod: 0, number: 1 });
    assert_eq!(ShardManifest::decode(&manifest.encode()), Err(ManifestError::Damaged));
    let mut manifest = checkpoint();
    manifest.entries[0].manifest = ObjectId::Shard(ShardId(9), part(1));
    assert_eq!(CheckpointManifest::decode(&manifest.encode()), Err(ManifestError::Damaged));
}

#[test]
fn a_manifest_that_stands_in_the_place_of_another_is_refused() {
    let (checkpoint, shard) = (checkpoint(), shard());
    assert_eq!(checkpoint.check("3f0c1a", &checkpoint.id()), Ok(()));
    assert!(checkpoint.check("other", &checkpoint.id()).is_err());
    assert!(checkpoint.check("3f0c1a", &ObjectId::Checkpoint { pod: 0, number: 13 }).is_err());
    assert!(checkpoint.check("3f0c1a", &ObjectId::Savepoint { name: "x".into(), pod: 0 }).is_err());
    assert_eq!(shard.check("3f0c1a", 16, &checkpoint.entries[0]), Ok(()));
    assert!(shard.check("3f0c1a", 16, &checkpoint.entries[1]).is_err(), "another shard's");
    let older = ShardManifest { offset: Some(LogOffset(4000)), ..shard };
    assert!(older.check("3f0c1a", 16, &checkpoint.entries[0]).is_err(), "an older one of the same shard");
}

fn any_file() -> impl Strategy<Value = FileEntry> {
    let name = "[A-Z0-9][a-zA-Z0-9._-]{0,20}";
    prop_oneof![
        (name, any::<Vec<u8>>()).prop_map(|(name, bytes)| FileEntry {
            name,
            length: bytes.len() as u64,
            checksum: checksum(&bytes),
            place: Place::Inline(bytes),
        }),
        (name, any::<u64>(), any::<u128>(), any::<u32>()).prop_map(|(name, length, checksum, count)| FileEntry {
            name,
            length,
            checksum,
            place: Place::Object(ObjectId::File(ShardId(3), part(count))),
        }),
    ]
}

proptest! {
    #[test]
    fn any_shard_comes_back(
        job_uid in "[a-z0-9-]{0,40}", offset in any::<Option<i64>>(), files in prop::collection::vec(any_file(), 0..6)
    ) {
        let manifest =
            ShardManifest { job_uid, shard: ShardId(3), shards: 16, offset: offset.map(LogOffset), files };
        prop_assert_eq!(ShardManifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
        let _ = ShardManifest::decode(&bytes);
        let _ = CheckpointManifest::decode(&bytes);
    }
}
