//! The savepoint that a job begins from: found by its location, checked, and its state divided into the job's own shards.
//!
//! Owns that. It is read again whenever a shard has neither local state nor a snapshot, and the job's changelog begins behind it. Where an entry
//! goes is decided in `dataflow::state::reshard`.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use checkpoint::snapshot::key::savepoint_name;
use checkpoint::snapshot::{SavepointManifest, SavepointPart, StoredPosition};
use dataflow::graph::OperatorUid;
use dataflow::key::{KeyGroup, ShardId, Shards};
use dataflow::state::{ChangeBatch, LogOffset, ShardStore, reshard, state_key_prefix};
use tokio_util::sync::CancellationToken;

use super::place::StorePlace;
use super::store::ObjectStore;
use super::take::{io, remove_dir};
use super::{SnapshotError, restore};
use crate::crash::{self, Step};
use crate::state::place::{PlaceOfState, in_words};
use crate::state::rocks::RocksDatabases;

/// A batch of entries is written when it is larger than this.
const BATCH_BYTES: usize = 1 << 20;
/// What stands between a job's prefix and a savepoint's name.
const SAVEPOINTS: &str = "/savepoints/";

/// A savepoint that a job begins from.
pub struct Origin {
    location: String,
    store: Arc<dyn ObjectStore>,
    root: SavepointManifest,
    parts: Vec<SavepointPart>,
}

/// A savepoint's location, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Where snapshots are.
    pub place: StorePlace,
    /// Name of the job that it is of.
    pub job_name: &'a str,
    /// Uid of that job.
    pub job_uid: &'a str,
    /// The savepoint's name.
    pub name: &'a str,
}

impl<'a> Location<'a> {
    /// Reads what [`location`] writes.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(location: &'a str) -> Result<Self, SnapshotError> {
        let wrong = |why: &str| SnapshotError::NoSavepoint { location: location.to_owned(), why: why.to_owned() };
        let form = "write it as `millstream savepoint` printed it: PLACE/JOB/UID/savepoints/NAME";
        let (job, name) = location.trim_end_matches('/').rsplit_once(SAVEPOINTS).ok_or_else(|| wrong(form))?;
        savepoint_name(name).map_err(|error| wrong(&error.to_string()))?;
        let (rest, job_uid) = job.rsplit_once('/').ok_or_else(|| wrong(form))?;
        let (place, job_name) = rest.rsplit_once('/').ok_or_else(|| wrong(form))?;
        let place = StorePlace::parse(place).map_err(|why| wrong(&why))?;
        Ok(Self { place, job_name, job_uid, name })
    }
}

/// Where a savepoint is, as a job is told to begin from it.
pub fn location(place: &StorePlace, job_name: &str, job_uid: &str, savepoint: &str) -> String {
    format!("{place}/{job_name}/{job_uid}{SAVEPOINTS}{savepoint}")
}

impl Origin {
    /// Finds a savepoint. A bucket is reached as `like` is, if that is one.
    ///
    /// # Errors
    /// When `location` is none, or the savepoint is not there, not whole, or cannot be read.
    pub fn open(location: &str, like: Option<&StorePlace>, cancel: &CancellationToken) -> Result<Self, SnapshotError> {
        let Location { place, job_name, job_uid, name } = Location::parse(location)?;
        let store = place.reached_like(like).open(job_name, job_uid, cancel)?;
        let found = restore::savepoint(store.as_ref(), job_uid, name)?;
        let (root, parts) = found.ok_or_else(|| SnapshotError::NoSavepoint {
            location: location.to_owned(),
            why: "there is none of this name in this place, or it was never complete; `millstream savepoint` prints the location when it is".to_owned(),
        })?;
        Ok(Self { location: location.to_owned(), store, root, parts })
    }

    /// As the user wrote it.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Checks that the job has all stream operators whose state the savepoint has.
    ///
    /// # Errors
    /// [`SnapshotError::StateWouldBeLost`].
    pub fn check_plan(&self, has: impl Fn(OperatorUid) -> bool) -> Result<(), SnapshotError> {
        let lost: Vec<&str> =
            self.root.operators.iter().filter(|saved| !has(saved.uid)).map(|saved| saved.name.as_str()).collect();
        if lost.is_empty() {
            return Ok(());
        }
        Err(SnapshotError::StateWouldBeLost { location: self.location.clone(), operators: lost.join(", ") })
    }

    /// Checks that the job will look for an operator's state where the savepoint has it: by `place`, and, if that is by source partitions,
    /// in as many shards. Whatever else the user allows: state in another place would give wrong results.
    ///
    /// # Errors
    /// [`SnapshotError::StateElsewhere`], [`SnapshotError::StateByPartition`].
    pub fn check_place(&self, uid: OperatorUid, place: &PlaceOfState, shards: Shards) -> Result<(), SnapshotError> {
        check_place(&self.location, &self.root, (uid, place), shards)
    }

    /// Where the source partitions stood.
    pub fn positions(&self) -> impl Iterator<Item = &StoredPosition> {
        self.parts.iter().flat_map(|part| &part.positions)
    }

    /// Makes the directory of one of the job's shards, from whichever of the savepoint's shards have a part of it. The log is to be applied from
    /// behind `before` on. Returns the number of bytes read.
    ///
    /// # Errors
    /// When the savepoint is damaged, or the store or the disk fails.
    pub fn import(
        &self,
        databases: &RocksDatabases,
        shards: Shards,
        shard: ShardId,
        before: LogOffset,
    ) -> Result<u64, SnapshotError> {
        let path = databases.path(shard);
        let (new, old) = (path.with_extension("restore"), path.with_extension("savepoint"));
        remove_dir(&new)?;
        let bytes = self.import_into(databases, shards, shard, before, (&new, &old))?;
        remove_dir(&old)?;
        remove_dir(&path)?;
        crash::around(Step::Place, || fs::rename(&new, &path)).map_err(io("rename", &new))?;
        let parent = path.parent().expect("a shard's directory lies in the state directory");
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(io("sync", parent))?;
        tracing::info!(shard = shard.0, savepoint = self.location, bytes, "restored from a savepoint");
        Ok(bytes)
    }

    fn import_into(
        &self,
        databases: &RocksDatabases,
        shards: Shards,
        shard: ShardId,
        before: LogOffset,
        (new, old): (&Path, &Path),
    ) -> Result<u64, SnapshotError> {
        let before_shards = Shards::new(self.root.shards).expect("a manifest whose parts were checked has shards");
        let wanted = shards.groups(shard);
        let overlapping = before_shards.all().filter(|old| overlap(&before_shards.groups(*old), &wanted));
        let mut bytes = 0;
        let mut begun = false;
        for from in overlapping {
            let groups = before_shards.groups(from);
            let (part, entry) = self.entry(from);
            let manifest = restore::shard(self.store.as_ref(), part, entry)?;
            bytes += manifest.bytes();
            if groups == wanted {
                restore::files(self.store.as_ref(), &manifest, new)?;
                let mut store = databases.open_at(shard, new)?;
                store.apply(&forget_job(groups.start), before)?;
                store.flush_handle().flush()?;
                return Ok(bytes);
            }
            restore::files(self.store.as_ref(), &manifest, old)?;
            let source = databases.open_at(from, old)?;
            let mut target = databases.open_at(shard, new)?;
            begun = true;
            copy(&source, &groups, &mut target, &wanted, before)?;
            target.flush_handle().flush()?;
            drop(source);
            remove_dir(old)?;
        }
        debug_assert!(begun, "every range of key groups overlaps with one of a whole division");
        Ok(bytes)
    }

    fn entry(&self, shard: ShardId) -> (&SavepointPart, &checkpoint::snapshot::ShardEntry) {
        let mut all = self.parts.iter().flat_map(|part| part.entries.iter().map(move |entry| (part, entry)));
        all.find(|(_, entry)| entry.shard == shard).expect("the parts were checked to have every shard")
    }
}

fn check_place(
    location: &str,
    root: &SavepointManifest,
    (uid, place): (OperatorUid, &PlaceOfState),
    shards: Shards,
) -> Result<(), SnapshotError> {
    let Some(saved) = root.operators.iter().find(|saved| saved.uid == uid) else { return Ok(()) };
    let (location, operator) = (location.to_owned(), saved.name.clone());
    if saved.place != place.words() {
        let (was, now) = (in_words(&saved.place), in_words(&place.words()));
        return Err(SnapshotError::StateElsewhere { location, operator, was, now });
    }
    match place {
        PlaceOfState::Partitions { .. } if root.shards != shards.count() => {
            Err(SnapshotError::StateByPartition { location, operator, shards: root.shards })
        }
        PlaceOfState::Partitions { .. } | PlaceOfState::Keys | PlaceOfState::Columns(_) => Ok(()),
    }
}

fn overlap(a: &Range<u16>, b: &Range<u16>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Removes what belongs to the savepoint's job and not to keys; all of it lies at the shard's first key group.
fn forget_job(first: u16) -> ChangeBatch {
    let mut changes = ChangeBatch::new();
    for uid in [OperatorUid::POSITIONS, OperatorUid::TICKETS, OperatorUid::SHUFFLES, OperatorUid::OPERATORS] {
        let mut prefix = Vec::new();
        state_key_prefix(KeyGroup(first), uid, &mut prefix);
        changes.delete_prefix(&prefix);
    }
    changes
}

/// Copies what of a shard goes to another one.
fn copy(
    source: &dyn ShardStore,
    old: &Range<u16>,
    target: &mut dyn ShardStore,
    new: &Range<u16>,
    before: LogOffset,
) -> Result<(), SnapshotError> {
    let mut batch = ChangeBatch::new();
    let shared = old.start.max(new.start)..old.end.min(new.end);
    // Notes lie at the old shard's beginning, which need not be in the new one.
    let outside = (!shared.contains(&old.start)).then_some(old.start);
    for group in outside.into_iter().chain(shared) {
        let mut result = Ok(());
        source.scan(&group.to_be_bytes(), &mut |key, value| {
            if let (Ok(()), Some(key)) = (&result, reshard(key, old, new)) {
                batch.put(&key, value);
                if batch.byte_len() >= BATCH_BYTES {
                    result = target.apply(&std::mem::take(&mut batch), before);
                }
            }
        })?;
        result?;
    }
    Ok(target.apply(&batch, before)?)
}

#[cfg(test)]
mod tests {
    use checkpoint::snapshot::SavedOperator;

    use super::*;

    #[test]
    fn state_is_looked_for_where_it_lies_or_not_at_all() {
        let partitions = |buckets| PlaceOfState::Partitions { table: "flights".into(), buckets };
        let root = |place: &PlaceOfState| SavepointManifest {
            job_uid: "u".into(),
            job_name: "j".into(),
            name: "s".into(),
            cut: 1,
            created_ms: 0,
            shards: 8,
            parts: Vec::new(),
            operators: vec![SavedOperator { uid: OperatorUid(20), name: "distinct(a)".into(), place: place.words() }],
        };
        let start = |saved: &PlaceOfState, uid: u32, place: &PlaceOfState, shards: u16| {
            let shards = Shards::new(shards).unwrap();
            check_place("dir/s", &root(saved), (OperatorUid(uid), place), shards).map_err(|error| error.to_string())
        };
        let columns = PlaceOfState::Columns(vec!["a".into()]);
        for place in [PlaceOfState::Keys, columns.clone(), partitions(8)] {
            assert_eq!(start(&place, 20, &place, 8), Ok(()));
            assert_eq!(start(&place, 21, &partitions(9), 8), Ok(()), "an operator that the savepoint does not have");
        }
        assert_eq!(
            (start(&columns, 20, &columns, 4), start(&PlaceOfState::Keys, 20, &PlaceOfState::Keys, 4)),
            (Ok(()), Ok(()))
        );
        let error = start(&columns, 20, &PlaceOfState::Keys, 8).unwrap_err();
        assert!(
            error
                .contains("the state of distinct(a) by the columns (a), and the job would look for it by its own keys"),
            "{error}"
        );
        assert!(start(&partitions(8), 20, &partitions(9), 8).unwrap_err().contains("of flights, of 9"));
        let error = start(&partitions(8), 20, &partitions(8), 4).unwrap_err();
        assert!(error.contains("distinct(a) by source partitions") && error.contains("spec.shards: 8"), "{error}");
    }

    #[test]
    fn a_location_is_read_as_it_is_written() {
        for place in ["/var/snapshots", "s3://streams", "s3://streams/team/a"] {
            let place = StorePlace::parse(place).unwrap();
            let written = location(&place, "delays", "u-1", "before-v2");
            let read = Location::parse(&written).unwrap();
            assert_eq!(read, Location { place, job_name: "delays", job_uid: "u-1", name: "before-v2" });
        }
        for text in ["", "somewhere", "/a/b/savepoints/", "/a/j/u/savepoints/A", "/a/j/u/savepoints/x/y"] {
            assert!(matches!(Location::parse(text), Err(SnapshotError::NoSavepoint { .. })), "{text}");
        }
    }
}
