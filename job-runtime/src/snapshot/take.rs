//! Taking a snapshot: copies by hard links, upload of what is new, manifests, the checkpoint last.
//!
//! Owns the order of the steps and what a failed one leaves behind: nothing that anybody reads. When to take one is `thread`'s.

mod savepoint;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpoint::snapshot::{
    CheckpointManifest, FileEntry, LogPart, ObjectId, PartId, Place, ShardEntry, ShardManifest, checksum,
};
use dataflow::key::ShardId;
use dataflow::state::LogOffset;

use super::store::{Body, ObjectStore, Put};
use super::{Damage, SnapshotError, now_ms, restore, transfer};
use crate::commit::local::{LogHandle, LogTail};
use crate::crash::Step;
use crate::planted;
use crate::state::rocks::{FlushHandle, RocksDatabases};

pub use savepoint::{CopiedSavepoint, SavepointOf, StoredSavepoint, Whole, complete};

/// Files up to this size lie in the shard's manifest: they are many, and an object each would cost more than their bytes.
const INLINE: u64 = 16 << 10;

/// Files in manifests, by shard and name.
type Files = HashMap<(ShardId, String), FileEntry>;
/// Per shard, the last commit that a snapshot has of it.
type Offsets = BTreeMap<ShardId, Option<LogOffset>>;

/// What a snapshot is of.
#[derive(Clone, Debug)]
pub struct JobOf {
    /// Uid of the job.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Number of shards.
    pub shards: u16,
    /// The pod.
    pub pod: u16,
}

/// What takes snapshots of one pod.
pub struct Taker {
    /// Where they go.
    pub store: Arc<dyn ObjectStore>,
    /// What they are of.
    pub job: JobOf,
    /// The pod's shards.
    pub shards: Vec<FlushHandle>,
    /// Opens copies.
    pub databases: Arc<RocksDatabases>,
    /// The local commit log; `None` if the log is in Kafka.
    pub log: Option<LogHandle>,
    /// Directory for copies, on the file system of the databases.
    pub copies: PathBuf,
    base: Option<Base>,
    /// Checksums of files of this process' databases: a number is never used for another file while a database is open.
    known: HashMap<(ShardId, String), (u64, u128)>,
    process: u128,
    count: u32,
}

/// The last checkpoint of the pod, and the files that it has.
struct Base {
    number: u64,
    entries: BTreeMap<ShardId, ShardEntry>,
    files: Files,
}

impl Base {
    fn of(manifest: &CheckpointManifest, files: Files) -> Self {
        let entries = manifest.entries.iter().map(|entry| (entry.shard, entry.clone())).collect();
        Self { number: manifest.number, entries, files }
    }
}

/// The pod's shards at one moment, on local disk.
struct Copies {
    number: u64,
    created_ms: u64,
    dir: PathBuf,
    files: Vec<CopiedFile>,
    offsets: Offsets,
    tail: Option<LogTail>,
    copying: Duration,
}

/// A snapshot that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its manifest.
    pub manifest: CheckpointManifest,
    /// Bytes uploaded for it.
    pub uploaded: u64,
    /// Files uploaded for it, those inside of manifests included.
    pub new_files: u64,
    /// Files that an earlier one had already.
    pub kept_files: u64,
    /// From the first copy to the last.
    pub copying: Duration,
}

/// One file of a copy.
struct CopiedFile {
    shard: ShardId,
    name: String,
    path: PathBuf,
    length: u64,
}

/// How a file came into a manifest.
struct Stored {
    shard: ShardId,
    entry: FileEntry,
    uploaded: u64,
    kept: bool,
}

impl Taker {
    /// A taker that knows nothing of earlier snapshots yet: it reads the last one when it takes its first.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        job: JobOf,
        shards: Vec<FlushHandle>,
        databases: Arc<RocksDatabases>,
        log: Option<LogHandle>,
        copies: PathBuf,
    ) -> Self {
        let process = uuid::Uuid::new_v4().as_u128();
        let store = planted::manifest_first(store);
        Self { store, job, shards, databases, log, copies, base: None, known: HashMap::new(), process, count: 0 }
    }

    /// Takes a snapshot, or `None` if nothing was committed since the last one.
    ///
    /// # Errors
    /// See [`SnapshotError`]. The checkpoint may exist after an error whose reply was lost; the next snapshot finds out.
    pub fn take(&mut self) -> Result<Option<Taken>, SnapshotError> {
        self.forget_left();
        let base = match self.base.take() {
            Some(base) => base,
            None => self.last()?,
        };
        if self.unchanged(&base) {
            self.base = Some(base);
            return Ok(None);
        }
        let copies = self.copies(&base)?;
        let stored = self.store_copies(&base, &copies);
        // The next attempt, and the next start, clean up what could not be removed now.
        let removed = remove_dir(&copies.dir);
        let (taken, files) = stored?;
        removed?;
        self.base = Some(Base::of(&taken.manifest, files));
        Ok(Some(taken))
    }

    /// True if every shard, and no other, stands where the last checkpoint has it.
    fn unchanged(&self, base: &Base) -> bool {
        let same =
            |shard: &FlushHandle| base.entries.get(&shard.shard()).is_some_and(|entry| entry.offset == shard.applied());
        !base.entries.is_empty() && base.entries.len() == self.shards.len() && self.shards.iter().all(same)
    }

    /// Shards that have become another pod's are none of this pod's snapshots any more. One that is under way keeps them to its end.
    fn forget_left(&mut self) {
        let known = &mut self.known;
        self.shards.retain(|handle| {
            let left = handle.is_left();
            if left {
                known.retain(|(shard, _), _| *shard != handle.shard());
            }
            !left
        });
    }

    /// The pod's last checkpoint in the store. One that cannot be read counts, but nothing of it is used.
    fn last(&self) -> Result<Base, SnapshotError> {
        let mut base = Base { number: 0, entries: BTreeMap::new(), files: HashMap::new() };
        let found = restore::numbers(self.store.as_ref(), self.job.pod)?;
        let Some(number) = found.last().copied() else { return Ok(base) };
        base.number = number;
        let id = ObjectId::Checkpoint { pod: self.job.pod, number };
        match self.contents(&id) {
            Ok((manifest, shards)) => {
                self.check_not_older(&manifest)?;
                base.entries = manifest.entries.into_iter().map(|entry| (entry.shard, entry)).collect();
                for shard in shards {
                    base.files.extend(shard.files.into_iter().map(|file| ((shard.shard, file.name.clone()), file)));
                }
            }
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "the last snapshot cannot be read; the next one is a full one");
            }
            Err(error) => return Err(error),
        }
        Ok(base)
    }

    /// An older copy of the state directory must not become the newest snapshot.
    fn check_not_older(&self, last: &CheckpointManifest) -> Result<(), SnapshotError> {
        match (&last.log, &self.log) {
            (LogPart::Local { next, .. }, Some(log)) if *next > log.next_commit() => {
                let (local, place) = (log.next_commit(), self.store.place());
                Err(SnapshotError::OlderDirectory { local, stored: *next, place })
            }
            (LogPart::Kafka | LogPart::Local { .. }, _) => Ok(()),
        }
    }

    fn contents(&self, id: &ObjectId) -> Result<(CheckpointManifest, Vec<ShardManifest>), SnapshotError> {
        let store = self.store.as_ref();
        let manifest = restore::checkpoint(store, &self.job.uid, id)?;
        let shards = transfer::each(&manifest.entries, |entry| restore::shard(store, &manifest, entry))?;
        Ok((manifest, shards))
    }

    /// Copies what has changed: the moment that the snapshot is of. If it fails, what it leaves is removed by the next one.
    fn copies(&self, base: &Base) -> Result<Copies, SnapshotError> {
        let (begin, created_ms, number) = (Instant::now(), now_ms(), base.number + 1);
        let dir = self.copies.join(number.to_string());
        remove_dir(&dir)?;
        let hold = self.log.as_ref().map(LogHandle::hold);
        let (files, offsets) = self.copy(base, &dir)?;
        let copying = begin.elapsed();
        let tail = hold.map(|hold| hold.tail(&offsets)).transpose()?;
        Ok(Copies { number, created_ms, dir, files, offsets, tail, copying })
    }

    /// Uploads copies, and makes a checkpoint of them.
    fn store_copies(&mut self, base: &Base, copies: &Copies) -> Result<(Taken, Files), SnapshotError> {
        let Copies { number, created_ms, offsets, copying, .. } = copies;
        let stored = self.upload(base, *number, &copies.files)?;
        let (new_files, kept_files) =
            stored.iter().fold((0, 0), |(new, kept), file| if file.kept { (new, kept + 1) } else { (new + 1, kept) });
        let mut uploaded = stored.iter().map(|file| file.uploaded).sum::<u64>();
        let manifests = self.manifests(offsets, &stored);
        let entries = self.put_shards(base, *number, &manifests, &mut uploaded)?;
        let log = match &copies.tail {
            None => LogPart::Kafka,
            Some(tail) => self.put_log(*number, tail, &mut uploaded)?,
        };
        let JobOf { uid, name, shards, pod } = self.job.clone();
        let (number, created_ms, copying) = (*number, *created_ms, *copying);
        let manifest =
            CheckpointManifest { job_uid: uid, job_name: name, pod, number, created_ms, shards, entries, log };
        uploaded += self.put_checkpoint(&manifest)?;
        let mut files: HashMap<_, _> =
            stored.into_iter().map(|file| ((file.shard, file.entry.name.clone()), file.entry)).collect();
        let untouched = |shard: &ShardId| !manifests.contains_key(shard);
        files.extend(base.files.iter().filter(|((shard, _), _)| untouched(shard)).map(|(k, v)| (k.clone(), v.clone())));
        Ok((Taken { manifest, uploaded, new_files, kept_files, copying }, files))
    }

    /// Copies the shards that have changed. Returns their files, and for every shard the commit that the snapshot has it at.
    fn copy(&self, base: &Base, copies: &Path) -> Result<(Vec<CopiedFile>, Offsets), SnapshotError> {
        fs::create_dir_all(copies).map_err(io("create", copies))?;
        let (mut files, mut offsets) = (Vec::new(), BTreeMap::new());
        for handle in &self.shards {
            let shard = handle.shard();
            let known = base.entries.get(&shard).filter(|entry| entry.offset == handle.applied());
            if let Some(entry) = known {
                // Its state is that of the last checkpoint: the same place in the same log.
                offsets.insert(shard, entry.offset);
                continue;
            }
            let path = copies.join(shard.0.to_string());
            handle.copy(&path)?;
            let listed = list(shard, &path)?;
            let offset = self.databases.copied(shard, &path)?.ok_or_else(|| SnapshotError::Io {
                action: "open the copy",
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
            offsets.insert(shard, offset);
            files.extend(listed);
        }
        Ok((files, offsets))
    }

    /// Uploads what the base does not have, several files at a time.
    fn upload(&mut self, base: &Base, number: u64, files: &[CopiedFile]) -> Result<Vec<Stored>, SnapshotError> {
        let first = self.count;
        self.count += u32::try_from(files.len()).expect("a pod has far fewer files");
        let (store, known, process) = (self.store.as_ref(), &self.known, self.process);
        let numbered: Vec<(u32, &CopiedFile)> = (first..).zip(files).collect();
        let stored = transfer::each(&numbered, |(count, file)| {
            let part = PartId { number, process, count: *count };
            store_file(store, base, known, file, ObjectId::File(file.shard, part))
        })?;
        self.known.retain(|(shard, name), _| {
            let copied = files.iter().any(|file| file.shard == *shard);
            !copied || files.iter().any(|file| file.shard == *shard && file.name == *name)
        });
        for file in &stored {
            let entry = &file.entry;
            self.known.insert((file.shard, entry.name.clone()), (entry.length, entry.checksum));
        }
        Ok(stored)
    }

    /// The manifests of the shards that were copied.
    fn manifests(&self, offsets: &Offsets, stored: &[Stored]) -> BTreeMap<ShardId, ShardManifest> {
        let manifest = |shard: ShardId, offset: Option<LogOffset>| ShardManifest {
            job_uid: self.job.uid.clone(),
            shard,
            shards: self.job.shards,
            offset,
            files: stored.iter().filter(|file| file.shard == shard).map(|file| file.entry.clone()).collect(),
        };
        // A database that was copied has at least two files.
        let copied = |shard: &ShardId| stored.iter().any(|file| file.shard == *shard);
        let changed = offsets.iter().filter(|(shard, _)| copied(shard));
        changed.map(|(shard, offset)| (*shard, manifest(*shard, *offset))).collect()
    }

    fn put_shards(
        &mut self,
        base: &Base,
        number: u64,
        manifests: &BTreeMap<ShardId, ShardManifest>,
        uploaded: &mut u64,
    ) -> Result<Vec<ShardEntry>, SnapshotError> {
        let first = self.count;
        self.count += u32::try_from(manifests.len()).expect("a job has at most 4096 shards");
        let (store, process) = (self.store.as_ref(), self.process);
        let numbered: Vec<(u32, &ShardManifest)> = (first..).zip(manifests.values()).collect();
        let put = transfer::each(&numbered, |(count, manifest)| {
            let bytes = manifest.encode();
            let id = ObjectId::Shard(manifest.shard, PartId { number, process, count: *count });
            transfer::put(store, Step::ShardManifest, &id, Body::Bytes(&bytes))?;
            Ok(ShardEntry {
                shard: manifest.shard,
                offset: manifest.offset,
                manifest: id,
                length: bytes.len() as u64,
                checksum: checksum(&bytes),
                bytes: manifest.bytes(),
            })
        })?;
        *uploaded += put.iter().map(|entry| entry.length).sum::<u64>();
        let mut entries: BTreeMap<ShardId, ShardEntry> = put.into_iter().map(|entry| (entry.shard, entry)).collect();
        for handle in &self.shards {
            if let (false, Some(entry)) = (entries.contains_key(&handle.shard()), base.entries.get(&handle.shard())) {
                entries.insert(handle.shard(), entry.clone());
            }
        }
        Ok(entries.into_values().collect())
    }

    fn put_log(&mut self, number: u64, tail: &LogTail, uploaded: &mut u64) -> Result<LogPart, SnapshotError> {
        self.count += 1;
        let object = ObjectId::Log(PartId { number, process: self.process, count: self.count });
        transfer::put(self.store.as_ref(), Step::Upload, &object, Body::Bytes(&tail.bytes))?;
        let length = tail.bytes.len() as u64;
        *uploaded += length;
        Ok(LogPart::Local { next: tail.next, length, checksum: checksum(&tail.bytes), object })
    }

    /// The step that makes the snapshot exist.
    fn put_checkpoint(&self, manifest: &CheckpointManifest) -> Result<u64, SnapshotError> {
        let (id, bytes) = (manifest.id(), manifest.encode());
        let put = transfer::put(self.store.as_ref(), Step::Checkpoint, &id, Body::Bytes(&bytes));
        match put {
            Ok(Put::Written) => {}
            // Either an earlier try of ours whose reply was lost, or another process of the job.
            Ok(Put::Exists) => self.is_ours(&id, &bytes)?,
            // Perhaps it is there although the store said nothing.
            Err(error) => match self.is_ours(&id, &bytes) {
                Ok(()) => tracing::info!(%error, "the checkpoint is there although its reply was lost"),
                Err(_) => return Err(error.into()),
            },
        }
        Ok(bytes.len() as u64)
    }

    fn is_ours(&self, id: &ObjectId, bytes: &[u8]) -> Result<(), SnapshotError> {
        let found = transfer::read(self.store.as_ref(), id)?;
        match (found == bytes, id) {
            (true, _) => Ok(()),
            (false, ObjectId::Checkpoint { number, .. }) => Err(SnapshotError::Overtaken { number: *number }),
            (false, _) => Err(SnapshotError::Damaged { key: self.store.key(id), what: Damage::Checksum }),
        }
    }
}

/// The files of a database's copy that a database needs; logs and options are not among them.
fn list(shard: ShardId, path: &Path) -> Result<Vec<CopiedFile>, SnapshotError> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(io("list", path))? {
        let entry = entry.map_err(io("list", path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let needed = name == "CURRENT"
            || name.starts_with("MANIFEST-")
            || [".sst", ".blob"].iter().any(|ending| name.ends_with(ending));
        if needed {
            let length = entry.metadata().map_err(io("read", &entry.path()))?.len();
            out.push(CopiedFile { shard, name, path: entry.path(), length });
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn store_file(
    store: &dyn ObjectStore,
    base: &Base,
    known: &HashMap<(ShardId, String), (u64, u128)>,
    file: &CopiedFile,
    id: ObjectId,
) -> Result<Stored, SnapshotError> {
    let (shard, name, key) = (file.shard, file.name.clone(), (file.shard, file.name.clone()));
    let read = io("read", &file.path);
    if file.length <= INLINE {
        let bytes = fs::read(&file.path).map_err(read)?;
        let (length, checksum) = (bytes.len() as u64, checksum(&bytes));
        let kept = base.files.get(&key).is_some_and(|old| (old.length, old.checksum) == (length, checksum));
        return Ok(Stored {
            shard,
            entry: FileEntry { name, length, checksum, place: Place::Inline(bytes) },
            uploaded: 0,
            kept,
        });
    }
    let table = name.ends_with(".sst") || name.ends_with(".blob");
    let (length, checksum) = match known.get(&key) {
        Some(found) if table && found.0 == file.length => *found,
        Some(_) | None => transfer::measure(&file.path).map_err(read)?,
    };
    // The number alone says little: after a restore from an older snapshot it may have been used for another file.
    let old = base.files.get(&key).filter(|old| (old.length, old.checksum) == (length, checksum));
    if let Some(old @ FileEntry { place: Place::Object(_), .. }) = old {
        return Ok(Stored { shard, entry: old.clone(), uploaded: 0, kept: true });
    }
    transfer::put(store, Step::Upload, &id, Body::File(&file.path))?;
    let entry = FileEntry { name, length, checksum, place: Place::Object(id) };
    Ok(Stored { shard, entry, uploaded: length, kept: false })
}

pub(crate) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Io { action, path: path.to_owned(), source }
}

pub(crate) fn remove_dir(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}
