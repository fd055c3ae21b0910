//! Removing a savepoint that nobody needs any more: its manifest, then its parts, and nothing else.
//!
//! Owns the order: without its manifest there is no savepoint, so that a crash leaves parts that nobody begins from. The files that it refers to
//! may be checkpoints' too: they are left to the clean-up of the job (`retain`). Whether a job needs the savepoint cannot be seen in the store.

use std::sync::Arc;

use checkpoint::snapshot::{ObjectId, SavepointManifest, SavepointPart};
use tokio_util::sync::CancellationToken;

use super::origin::Location;
use super::retain::GRACE;
use super::store::{Listing, ObjectStore};
use super::{SnapshotError, now_ms, restore, transfer};

/// What there is of a savepoint.
pub struct Found {
    store: Arc<dyn ObjectStore>,
    root: ObjectId,
    parts: Vec<ObjectId>,
    /// What it says of itself.
    pub about: About,
}

/// What a savepoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// It can be used.
    Whole {
        /// When it was complete, in milliseconds since 1970-01-01T00:00:00Z.
        created_ms: u64,
        /// Number of shards.
        shards: u16,
        /// Size of what it holds, in bytes.
        bytes: u64,
    },
    /// It cannot.
    Damaged {
        /// Why.
        why: String,
    },
    /// Parts without a manifest, older than any that is being made: what an end in the middle of making or removing it left.
    Unfinished,
}

impl Found {
    /// Finds a savepoint. Nothing is changed.
    ///
    /// # Errors
    /// When `location` is none, nothing is there, it is of a newer release, or it may be being made.
    pub fn find(location: &str, cancel: &CancellationToken) -> Result<Self, SnapshotError> {
        let Location { place, job_name, job_uid, name } = Location::parse(location)?;
        let store = place.open(job_name, job_uid, cancel)?;
        let root = ObjectId::SavepointRoot { name: name.to_owned() };
        let listed = store.list(Listing::Savepoints)?;
        let is_part = |id: &ObjectId| matches!(id, ObjectId::Savepoint { name: of, .. } if of == name);
        let parts: Vec<_> = listed.iter().filter(|object| is_part(&object.id)).collect();
        let has_root = listed.iter().any(|object| object.id == root);
        let about = match (has_root, parts.iter().map(|part| part.modified_ms).max()) {
            (true, _) => match restore::savepoint(store.as_ref(), job_uid, name) {
                Ok(Some((root, parts))) => whole(&root, &parts),
                Ok(None) => About::Unfinished,
                Err(error) if error.is_damage() => About::Damaged { why: error.to_string() },
                Err(error) => return Err(error),
            },
            (false, Some(newest)) if now_ms().saturating_sub(newest) > GRACE.as_millis() as u64 => About::Unfinished,
            (false, Some(_)) => return Err(SnapshotError::SavepointUnderWay { location: location.to_owned() }),
            (false, None) => {
                let why = "there is none of this name in this place".to_owned();
                return Err(SnapshotError::NoSavepoint { location: location.to_owned(), why });
            }
        };
        let parts = parts.into_iter().map(|part| part.id.clone()).collect();
        Ok(Self { store, root, parts, about })
    }

    /// Removes it; what is not there any more is no error. Returns the number of objects.
    ///
    /// # Errors
    /// When the store fails. What is left can be removed later.
    pub fn remove(&self) -> Result<usize, SnapshotError> {
        self.store.delete(&self.root)?;
        transfer::each(&self.parts, |part| Ok(self.store.delete(part)?))?;
        Ok(self.parts.len() + usize::from(self.about != About::Unfinished))
    }
}

fn whole(root: &SavepointManifest, parts: &[SavepointPart]) -> About {
    let bytes = parts.iter().map(SavepointPart::bytes).sum();
    About::Whole { created_ms: root.created_ms, shards: root.shards, bytes }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::{self, FileTimes};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use checkpoint::snapshot::{PartEntry, PartId, ShardEntry, checksum};
    use dataflow::key::ShardId;

    use super::*;
    use crate::snapshot::place::StorePlace;
    use crate::snapshot::store::{Body, Put};

    /// Every file below a directory.
    fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut out = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                out.extend(files(&entry.path()));
            } else {
                out.insert(entry.path().display().to_string(), fs::read(entry.path()).unwrap());
            }
        }
        out
    }

    fn part(name: &str, pod: u16) -> SavepointPart {
        let shard = ShardId(pod);
        let entry = ShardEntry {
            shard,
            offset: None,
            manifest: ObjectId::Shard(shard, PartId { number: 1, process: 2, count: 3 }),
            length: 4,
            checksum: 5,
            bytes: 100,
        };
        SavepointPart {
            job_uid: "u".into(),
            job_name: "j".into(),
            name: name.into(),
            cut: 1,
            pod,
            created_ms: 10,
            shards: 2,
            entries: vec![entry],
            positions: Vec::new(),
        }
    }

    /// Two savepoints of two pods each, what they refer to, and files of others.
    fn place(root: &Path) -> Arc<dyn ObjectStore> {
        let place = StorePlace::Directory(root.to_owned());
        let store = place.open("j", "u", &CancellationToken::new()).unwrap();
        let put = |id: &ObjectId, bytes: &[u8]| assert_eq!(store.put(id, Body::Bytes(bytes)).unwrap(), Put::Written);
        for name in ["one", "one-more"] {
            let parts = [part(name, 0), part(name, 1)];
            parts.iter().for_each(|part| put(&part.id(), &part.encode()));
            let entry = |part: &SavepointPart| {
                let bytes = part.encode();
                PartEntry { pod: part.pod, length: bytes.len() as u64, checksum: checksum(&bytes) }
            };
            let root = SavepointManifest {
                job_uid: "u".into(),
                job_name: "j".into(),
                name: name.into(),
                cut: 1,
                created_ms: 20,
                shards: 2,
                parts: parts.iter().map(entry).collect(),
                operators: Vec::new(),
            };
            put(&root.id(), &root.encode());
        }
        put(&ObjectId::Checkpoint { pod: 0, number: 1 }, b"checkpoint");
        put(&part("one", 0).entries[0].manifest, b"shard");
        fs::write(root.join("j/u/savepoints/one/notes.txt"), "mine").unwrap();
        fs::create_dir_all(root.join("j/u2/savepoints/one")).unwrap();
        fs::write(root.join("j/u2/savepoints/one/savepoint"), "another job's").unwrap();
        store
    }

    fn find(root: &Path, name: &str) -> Result<Found, SnapshotError> {
        Found::find(&format!("{}/j/u/savepoints/{name}", root.display()), &CancellationToken::new())
    }

    #[test]
    fn one_savepoint_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        place(dir.path());
        let before = files(dir.path());
        let found = find(dir.path(), "one").unwrap();
        assert_eq!(found.about, About::Whole { created_ms: 20, shards: 2, bytes: 200 });
        assert_eq!(files(dir.path()), before, "looking changes nothing");
        assert_eq!(found.remove().unwrap(), 3);
        let own = ["00000", "00001", "savepoint"].map(|name| dir.path().join("j/u/savepoints/one").join(name));
        let own = own.map(|path| path.display().to_string());
        let left = before.into_iter().filter(|(path, _)| !own.contains(path)).collect();
        assert_eq!(files(dir.path()), left);
        assert_eq!(found.remove().unwrap(), 3, "again is no error");
        assert!(matches!(find(dir.path(), "one"), Err(SnapshotError::NoSavepoint { .. })));
        assert!(find(dir.path(), "one-more").is_ok());
    }

    #[test]
    fn a_damaged_one_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        place(dir.path());
        fs::write(dir.path().join("j/u/savepoints/one/00001"), "x").unwrap();
        let found = find(dir.path(), "one").unwrap();
        assert!(matches!(&found.about, About::Damaged { why } if why.contains("savepoints/one/00001")));
        assert_eq!(found.remove().unwrap(), 3);
    }

    #[test]
    fn one_that_may_be_under_way_stays_and_its_old_remains_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = place(dir.path());
        // An end between the manifest and the parts.
        store.delete(&ObjectId::SavepointRoot { name: "one".into() }).unwrap();
        assert!(matches!(find(dir.path(), "one"), Err(SnapshotError::SavepointUnderWay { .. })));
        for name in ["00000", "00001"] {
            let file = fs::File::options().write(true).open(dir.path().join("j/u/savepoints/one").join(name)).unwrap();
            let old = SystemTime::now() - GRACE - Duration::from_secs(60);
            file.set_times(FileTimes::new().set_modified(old)).unwrap();
        }
        let found = find(dir.path(), "one").unwrap();
        assert_eq!((&found.about, found.remove().unwrap()), (&About::Unfinished, 2));
    }
}
