//! What may go: old checkpoints, objects that nothing refers to, and the part of the changelog that lies behind every snapshot kept.
//!
//! Pure decisions over what is there; whoever asks deletes. Three rules make them safe with a second process of the same job about:
//! the newest checkpoint of a pod and the newest that holds a shard are never removed; what something kept refers to is never removed; and
//! an object that nothing refers to is left alone until it is older than any write under way can be.

use std::collections::{BTreeMap, BTreeSet};

use dataflow::key::ShardId;
use dataflow::state::LogOffset;

use super::key::ObjectId;
use super::manifest::{CheckpointManifest, LogPart, ShardEntry};

/// How many checkpoints a job keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At most so many of a pod; at least one is kept.
    pub count: u32,
    /// None that is older, but for the newest.
    pub age_ms: u64,
}

/// The checkpoints that retention removes, oldest first. Savepoints are not given and never removed.
pub fn expired(checkpoints: &[CheckpointManifest], retention: Retention, now_ms: u64) -> Vec<ObjectId> {
    let mut newest: BTreeMap<ShardId, (Option<LogOffset>, u64, u16)> = BTreeMap::new();
    for checkpoint in checkpoints {
        for entry in &checkpoint.entries {
            // The place in the log says which is newer: numbers of two pods do not compare, and clocks go back.
            let this = (entry.offset, checkpoint.number, checkpoint.pod);
            let newest = newest.entry(entry.shard).or_insert(this);
            *newest = this.max(*newest);
        }
    }
    let behind = |one: &CheckpointManifest| {
        checkpoints.iter().filter(|other| other.pod == one.pod && other.number > one.number).count() as u64
    };
    let mut out: Vec<&CheckpointManifest> = checkpoints
        .iter()
        .filter(|one| {
            let newer = behind(one);
            let holds = |entry: &ShardEntry| newest[&entry.shard] == (entry.offset, one.number, one.pod);
            let too_many = newer >= u64::from(retention.count.max(1));
            let too_old = now_ms.saturating_sub(one.created_ms) > retention.age_ms;
            newer > 0 && !one.entries.iter().any(holds) && (too_many || too_old)
        })
        .collect();
    out.sort_by_key(|one| (one.created_ms, one.number));
    out.into_iter().map(CheckpointManifest::id).collect()
}

/// The objects that a manifest names itself; the files are named by the shard manifests among them.
pub fn references(manifest: &CheckpointManifest) -> impl Iterator<Item = &ObjectId> {
    let log = match &manifest.log {
        LogPart::Kafka => None,
        LogPart::Local { object, .. } => Some(object),
    };
    manifest.entries.iter().map(|entry| &entry.manifest).chain(log)
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub id: ObjectId,
    /// Length in bytes.
    pub length: u64,
    /// When it was written, in milliseconds since 1970-01-01T00:00:00Z, by the store's clock.
    pub modified_ms: u64,
}

/// The objects that nothing refers to and that no write under way can need: those written at least `grace_ms` before the newest one, all by
/// the store's own clock. A pod's clock may be hours ahead, and by it what another pod is writing would look old. Manifests of checkpoints
/// and savepoints are never garbage: they are what refers.
pub fn garbage(listed: &[Listed], referenced: &BTreeSet<ObjectId>, grace_ms: u64) -> Vec<ObjectId> {
    let newest = listed.iter().map(|object| object.modified_ms).max().unwrap_or(0);
    let may_go = |object: &&Listed| match object.id {
        ObjectId::Checkpoint { .. } | ObjectId::Savepoint { .. } | ObjectId::SavepointRoot { .. } => false,
        ObjectId::Shard(..) | ObjectId::File(..) | ObjectId::Log(_) | ObjectId::Temporary(_) => {
            !referenced.contains(&object.id) && newest - object.modified_ms >= grace_ms
        }
    };
    listed.iter().filter(may_go).map(|object| object.id.clone()).collect()
}

/// Per shard, the last offset of the changelog that no snapshot kept needs: what comes behind the oldest of them. A shard that one of them
/// holds empty, or that none holds, is not in the answer.
pub fn trimmable(kept: &[CheckpointManifest]) -> BTreeMap<ShardId, LogOffset> {
    let mut least: BTreeMap<ShardId, Option<LogOffset>> = BTreeMap::new();
    for checkpoint in kept.iter().filter(|checkpoint| checkpoint.log == LogPart::Kafka) {
        for entry in &checkpoint.entries {
            let least = least.entry(entry.shard).or_insert(entry.offset);
            // `None` is the least: with it the shard starts from an empty database and needs the changelog from its beginning.
            *least = (*least).min(entry.offset);
        }
    }
    least.into_iter().filter_map(|(shard, offset)| Some((shard, offset?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::key::PartId;
    use proptest::prelude::*;

    fn part(number: u64, count: u32) -> PartId {
        PartId { number, process: 1, count }
    }

    fn checkpoint(pod: u16, number: u64, created_ms: u64, shards: &[(u16, Option<i64>)]) -> CheckpointManifest {
        let entry = |(shard, offset): &(u16, Option<i64>)| ShardEntry {
            shard: ShardId(*shard),
            offset: offset.map(LogOffset),
            manifest: ObjectId::Shard(ShardId(*shard), part(number, u32::from(*shard))),
            length: 1,
            checksum: 2,
            bytes: 3,
        };
        CheckpointManifest {
            job_uid: "u".into(),
            job_name: "j".into(),
            pod,
            number,
            created_ms,
            shards: 4,
            entries: shards.iter().map(entry).collect(),
            log: LogPart::Kafka,
        }
    }

    fn numbers(ids: &[ObjectId]) -> Vec<u64> {
        let number = |id: &ObjectId| match id {
            ObjectId::Checkpoint { number, .. } => *number,
            other => panic!("{other}"),
        };
        ids.iter().map(number).collect()
    }

    #[test]
    fn the_oldest_beyond_the_count_and_those_beyond_the_age_go() {
        let all: Vec<_> = (1..=6).map(|n| checkpoint(0, n, n * 1000, &[(0, Some(n as i64))])).collect();
        let by = |count, age_ms| numbers(&expired(&all, Retention { count, age_ms }, 6500));
        assert_eq!(by(4, u64::MAX), [1, 2]);
        assert_eq!(by(10, 3000), [1, 2, 3]);
        assert_eq!(by(0, 0), [1, 2, 3, 4, 5], "the newest stays whatever is asked");
    }

    #[test]
    fn the_newest_that_holds_a_shard_stays_though_its_pod_is_gone() {
        let all = [
            checkpoint(1, 3, 10, &[(2, Some(5)), (3, Some(5))]),
            checkpoint(1, 4, 20, &[(2, Some(6))]),
            checkpoint(0, 8, 30, &[(0, Some(9)), (2, Some(7))]),
        ];
        assert_eq!(numbers(&expired(&all, Retention { count: 1, age_ms: 0 }, 99)), [] as [u64; 0]);
        let more = [&all[..], &[checkpoint(0, 9, 40, &[(0, Some(10)), (2, Some(8)), (3, Some(9))])]].concat();
        assert_eq!(numbers(&expired(&more, Retention { count: 1, age_ms: 0 }, 99)), [3, 8]);
    }

    #[test]
    fn the_changelog_goes_up_to_the_oldest_snapshot_kept() {
        let kept = [
            checkpoint(0, 1, 0, &[(0, Some(5)), (1, None), (2, Some(9))]),
            checkpoint(0, 2, 0, &[(0, Some(7)), (1, Some(3)), (2, Some(9))]),
        ];
        assert_eq!(trimmable(&kept), BTreeMap::from([(ShardId(0), LogOffset(5)), (ShardId(2), LogOffset(9))]));
        assert_eq!(trimmable(&[]), BTreeMap::new());
    }

    #[test]
    fn an_object_under_way_is_no_garbage() {
        let listed =
            |count, modified_ms| Listed { id: ObjectId::File(ShardId(0), part(1, count)), length: 1, modified_ms };
        let all = [listed(1, 100), listed(2, 100), listed(3, 901), listed(4, 1000)];
        let referenced = BTreeSet::from([all[1].id.clone()]);
        assert_eq!(garbage(&all, &referenced, 100), [all[0].id.clone()]);
        assert_eq!(
            garbage(&all[..2], &referenced, 100),
            [],
            "nothing was written for long: who knows how late it is there"
        );
    }

    type Facts = Vec<(u16, u64, u64, Vec<(u16, Option<i64>)>)>;

    fn facts() -> impl Strategy<Value = Facts> {
        let entry = (0u16..4, prop::option::of(0i64..50));
        prop::collection::vec((0u16..3, 0u64..20, 0u64..1000, prop::collection::vec(entry, 0..4)), 1..12)
    }

    proptest! {
        #[test]
        fn what_is_left_can_still_restore_every_shard(
            facts in facts(), count in 0u32..4, age_ms in 0u64..1000, now in 0u64..2000
        ) {
            let mut all: Vec<CheckpointManifest> = Vec::new();
            for (pod, number, created, shards) in facts {
                if all.iter().all(|seen| (seen.pod, seen.number) != (pod, number)) {
                    all.push(checkpoint(pod, number, created, &shards));
                }
            }
            let gone = expired(&all, Retention { count, age_ms }, now);
            let kept: Vec<_> = all.iter().filter(|one| !gone.contains(&one.id())).cloned().collect();
            for one in &all {
                prop_assert!(kept.iter().any(|left| left.pod == one.pod && left.number >= one.number), "newest of a pod");
                for entry in &one.entries {
                    prop_assert!(kept.iter().any(|left| left.entry(entry.shard).is_some()), "shard {}", entry.shard.0);
                }
            }
            // A restore from any kept snapshot finds its tail.
            for (shard, trimmed) in trimmable(&kept) {
                for entry in kept.iter().flat_map(|left| &left.entries).filter(|entry| entry.shard == shard) {
                    prop_assert!(entry.offset.is_some_and(|offset| offset >= trimmed));
                }
            }
        }
    }
}
