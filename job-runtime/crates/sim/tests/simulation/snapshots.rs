//! Snapshots of a pod's shards in the simulated object store: taken beside the commits, removed when old, and read at a start.
//!
//! Owns the calls, in the order of `job-runtime::snapshot`. Keys, manifests, retention, trim and choice are `checkpoint::snapshot`'s, the very code
//! of the program. A shard's database is one file: its entries as a change batch.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use checkpoint::snapshot::retention::{self, Listed, Retention};
use checkpoint::snapshot::{
    CheckpointManifest, FileEntry, JobPrefix, LogPart, ObjectId, PartId, Place, ShardEntry, ShardManifest, checksum,
};
use dataflow::key::ShardId;
use dataflow::state::{Change, ChangeBatch};
use dataflow::testing::Disk;
use sim::message::Request;
use sim::store::StoreError;

use super::commit::{CALL_TIMEOUT_MS, UID, changelog_place};
use super::machine::Disks;
use super::mutant::Mutant;
use super::pod::Job;

/// Files up to this size lie in the shard's manifest.
const INLINE: usize = 300;
const RETENTION: Retention = Retention { count: 2, age_ms: 3_600_000 };
/// An object that nothing refers to stays as long: longer than a process can sleep in the middle of a snapshot.
const GRACE_MS: u64 = 60_000;
/// How often an object is read again after bytes that differ.
const READS: usize = 2;

/// Why a snapshot was not taken or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The store did not answer.
    Store,
    /// An object is not what it should be.
    Damaged,
    /// Another process has written the checkpoint.
    Overtaken,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Missing => Self::Damaged,
            StoreError::Unavailable => Self::Store,
        }
    }
}

pub(crate) fn prefix() -> JobPrefix {
    JobPrefix::new("", "job", UID).expect("plain names")
}

fn key(id: &ObjectId) -> String {
    prefix().key(id)
}

fn encode(disk: &Disk) -> Vec<u8> {
    let mut batch = ChangeBatch::new();
    disk.entries().iter().for_each(|(key, value)| batch.put(key, value));
    batch.encode()
}

fn decode(bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    // As a database does that is opened on wrong bytes, it finds what it finds: the checksum in the manifest is what must tell.
    let batch = ChangeBatch::decode(bytes).unwrap_or_default();
    let entry = |change: Change<'_>| match change {
        Change::Put { key, value } => Some((key.to_vec(), value.to_vec())),
        Change::Delete { .. } | Change::DeletePrefix { .. } => None,
    };
    batch.iter().filter_map(entry).collect()
}

/// What takes snapshots of one pod, for one process.
pub(crate) struct Taker {
    pub(crate) job: Rc<Job>,
    pub(crate) pod: u16,
    pub(crate) shards: Vec<ShardId>,
    pub(crate) disks: Disks,
    pub(crate) process: u64,
    /// The clock of the pod is wrong by so much.
    pub(crate) skew_ms: Rc<Cell<i64>>,
    pub(crate) count: u32,
    /// The pod's last checkpoint; `None` until it was looked for.
    pub(crate) base: Option<(u64, BTreeMap<ShardId, ShardEntry>)>,
}

impl Taker {
    /// Takes one snapshot if anything has changed, then removes what is old. What fails is tried again the next time.
    pub(crate) async fn round(mut self) -> Self {
        let taken = self.take().await;
        match taken {
            Ok(true) => {
                self.job.counts.borrow_mut().snapshots += 1;
                let _later = self.retain().await;
            }
            Ok(false) => {}
            Err(_) => self.base = None,
        }
        self
    }

    fn part(&mut self, number: u64) -> PartId {
        self.count += 1;
        PartId { number, process: u128::from(self.process), count: self.count }
    }

    fn wall_ms(&self) -> u64 {
        (i64::try_from(self.job.world.now_ms()).expect("a run is short") + 10_000_000 + self.skew_ms.get()) as u64
    }

    async fn take(&mut self) -> Result<bool, Failed> {
        if self.base.is_none() {
            self.base = Some(self.last().await?);
        }
        let (before, known) = self.base.clone().expect("found just now");
        let applied = |shard: &ShardId| self.disks.now[usize::from(shard.0)].applied();
        let same = |shard: &ShardId| known.get(shard).is_some_and(|entry| entry.offset == applied(shard));
        let changed: Vec<ShardId> = self.shards.iter().filter(|shard| !same(shard)).copied().collect();
        if changed.is_empty() {
            return Ok(false);
        }
        let (number, created_ms) = (before + 1, self.wall_ms());
        let (mut entries, mut objects) = (BTreeMap::new(), Vec::new());
        for shard in changed {
            // Shards are copied one after the other, while commits go on.
            self.job.world.sleep(2_000).await;
            let copy = self.disks.flush(shard);
            let (manifest, file) = self.manifest(shard, number, &copy);
            let (bytes, id) = (manifest.encode(), ObjectId::Shard(shard, self.part(number)));
            let entry = ShardEntry {
                shard,
                offset: manifest.offset,
                manifest: id.clone(),
                length: bytes.len() as u64,
                checksum: checksum(&bytes),
                bytes: manifest.files[0].length,
            };
            entries.insert(shard, entry);
            objects.extend(file);
            objects.push((id, bytes));
        }
        for shard in &self.shards {
            if let (false, Some(entry)) = (entries.contains_key(shard), known.get(shard)) {
                entries.insert(*shard, entry.clone());
            }
        }
        let manifest = CheckpointManifest {
            job_uid: UID.to_owned(),
            job_name: "job".to_owned(),
            pod: self.pod,
            number,
            created_ms,
            shards: self.job.shards.count(),
            entries: entries.values().cloned().collect(),
            log: LogPart::Kafka,
        };
        if self.job.mutant == Some(Mutant::ManifestFirst) {
            self.put_checkpoint(&manifest).await?;
        }
        for (id, bytes) in objects {
            self.job.store.put(&key(&id), bytes).await?;
        }
        self.put_checkpoint(&manifest).await?;
        self.base = Some((number, entries));
        Ok(true)
    }

    /// A shard's manifest, and its file if that is an object of its own.
    fn manifest(&mut self, shard: ShardId, number: u64, copy: &Disk) -> (ShardManifest, Option<(ObjectId, Vec<u8>)>) {
        let bytes = encode(copy);
        let (length, checksum, name) = (bytes.len() as u64, checksum(&bytes), "000001.sst".to_owned());
        let (place, file) = if bytes.len() <= INLINE {
            (Place::Inline(bytes), None)
        } else {
            let id = ObjectId::File(shard, self.part(number));
            (Place::Object(id.clone()), Some((id, bytes)))
        };
        let files = vec![FileEntry { name, length, checksum, place }];
        let (shards, offset) = (self.job.shards.count(), copy.applied());
        (ShardManifest { job_uid: UID.to_owned(), shard, shards, offset, files }, file)
    }

    /// The step that makes the snapshot exist. A reply may be lost: then it is looked at.
    async fn put_checkpoint(&self, manifest: &CheckpointManifest) -> Result<(), Failed> {
        let (id, bytes) = (key(&manifest.id()), manifest.encode());
        match self.job.store.put(&id, bytes.clone()).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => match self.job.store.get(&id).await {
                Ok(found) if found == bytes => Ok(()),
                Ok(_) => Err(Failed::Overtaken),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// The pod's last checkpoint. One that cannot be read counts, but nothing of it is used.
    async fn last(&self) -> Result<(u64, BTreeMap<ShardId, ShardEntry>), Failed> {
        let numbers = self.job.store.list().await?.into_iter().filter_map(|object| {
            let Some(ObjectId::Checkpoint { pod, number }) = prefix().parse(&object.key) else { return None };
            (pod == self.pod).then_some(number)
        });
        let Some(number) = numbers.max() else { return Ok((0, BTreeMap::new())) };
        match checkpoint(&self.job, &ObjectId::Checkpoint { pod: self.pod, number }).await {
            Ok(manifest) => {
                let mut entries = BTreeMap::new();
                for entry in manifest.entries.clone() {
                    if shard(&self.job, &manifest, &entry).await.is_ok() {
                        entries.insert(entry.shard, entry);
                    }
                }
                Ok((number, entries))
            }
            Err(Failed::Store) => Err(Failed::Store),
            Err(Failed::Damaged | Failed::Overtaken) => Ok((number, BTreeMap::new())),
        }
    }

    /// Removes old checkpoints, then what nothing refers to, then the part of the changelog behind all that is kept.
    async fn retain(&self) -> Result<(), Failed> {
        let kept = remove_old(&self.job, self.wall_ms(), GRACE_MS).await?;
        let mut trimmable = retention::trimmable(&kept);
        if self.job.mutant == Some(Mutant::EarlyTrim) {
            trimmable.values_mut().for_each(|offset| offset.0 += 4);
        }
        for (shard, offset) in trimmable {
            // What is about to go must have been seen by the checks, who read what is stable: a commit is durable a moment before.
            let read = self.job.archive.borrow_mut().read(&self.job.world, std::iter::once(shard));
            read.unwrap_or_else(|wrong| self.job.wrong(wrong));
            if self.job.archive.borrow().last(shard) < Some(offset) {
                continue;
            }
            let request = Request::DeleteRecords { from: changelog_place(shard), before: offset.0 + 1 };
            // One that is refused, or behind another pod's, is harmless.
            let world = &self.job.world;
            let _later = world.call(world.connect(), CALL_TIMEOUT_MS, request).await;
        }
        Ok(())
    }
}

/// Retention over all pods' objects; returns the checkpoints that are kept. Nothing is removed unless everything can be read.
pub(crate) async fn remove_old(job: &Rc<Job>, now_ms: u64, grace_ms: u64) -> Result<Vec<CheckpointManifest>, Failed> {
    let listed = job.store.list().await?;
    let objects: Vec<Listed> = listed
        .iter()
        .filter_map(|object| {
            let (length, modified_ms) = (object.length, object.modified_ms);
            Some(Listed { id: prefix().parse(&object.key)?, length, modified_ms })
        })
        .collect();
    let mut all = Vec::new();
    for object in objects.iter().filter(|object| matches!(object.id, ObjectId::Checkpoint { .. })) {
        all.push(checkpoint(job, &object.id).await?);
    }
    let gone = retention::expired(&all, RETENTION, now_ms);
    let kept: Vec<CheckpointManifest> = all.into_iter().filter(|one| !gone.contains(&one.id())).collect();
    let mut referenced: BTreeSet<ObjectId> = kept.iter().flat_map(retention::references).cloned().collect();
    for manifest in &kept {
        for entry in &manifest.entries {
            let files = shard_manifest(job, manifest, entry).await?.files;
            referenced.extend(files.into_iter().filter_map(|file| match file.place {
                Place::Object(id) => Some(id),
                Place::Inline(_) => None,
            }));
        }
    }
    // The age of an object is by the store's clock, not by a pod's.
    let garbage = retention::garbage(&objects, &referenced, grace_ms);
    for id in gone.iter().chain(&garbage) {
        job.store.delete(&key(id)).await?;
    }
    Ok(kept)
}

/// Reads an object that must have this length and checksum.
async fn read(job: &Rc<Job>, id: &ObjectId, length: u64, sum: u128) -> Result<Vec<u8>, Failed> {
    for _ in 0..READS {
        let bytes = job.store.get(&key(id)).await?;
        let whole = bytes.len() as u64 == length && checksum(&bytes) == sum;
        if whole || job.mutant == Some(Mutant::NoChecksum) {
            return Ok(bytes);
        }
    }
    Err(Failed::Damaged)
}

async fn checkpoint(job: &Rc<Job>, id: &ObjectId) -> Result<CheckpointManifest, Failed> {
    let bytes = job.store.get(&key(id)).await?;
    let manifest = CheckpointManifest::decode(&bytes).map_err(|_| Failed::Damaged)?;
    manifest.check(UID, id).map_err(|_| Failed::Damaged)?;
    Ok(manifest)
}

pub(crate) async fn shard_manifest(
    job: &Rc<Job>,
    manifest: &CheckpointManifest,
    entry: &ShardEntry,
) -> Result<ShardManifest, Failed> {
    let bytes = read(job, &entry.manifest, entry.length, entry.checksum).await?;
    let shard = ShardManifest::decode(&bytes).map_err(|_| Failed::Damaged)?;
    shard.check(UID, manifest.shards, entry).map_err(|_| Failed::Damaged)?;
    Ok(shard)
}

/// All checkpoints that can be read.
pub(crate) async fn checkpoints(job: &Rc<Job>) -> Result<Vec<CheckpointManifest>, Failed> {
    let mut out = Vec::new();
    for object in job.store.list().await? {
        let Some(id @ ObjectId::Checkpoint { .. }) = prefix().parse(&object.key) else { continue };
        match checkpoint(job, &id).await {
            Ok(manifest) => out.push(manifest),
            Err(Failed::Damaged | Failed::Overtaken) => job.counts.borrow_mut().damage_found += 1,
            Err(Failed::Store) => return Err(Failed::Store),
        }
    }
    Ok(out)
}

/// A shard as a checkpoint has it.
pub(crate) async fn shard(job: &Rc<Job>, manifest: &CheckpointManifest, entry: &ShardEntry) -> Result<Disk, Failed> {
    let shard = shard_manifest(job, manifest, entry).await?;
    let file = shard.files.first().ok_or(Failed::Damaged)?;
    let bytes = match &file.place {
        Place::Inline(bytes) => bytes.clone(),
        Place::Object(id) => read(job, id, file.length, file.checksum).await?,
    };
    Ok(Disk::with(decode(&bytes), shard.offset))
}
