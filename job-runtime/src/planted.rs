//! Planted bugs: each takes one rule of the runtime away, so that it can be seen that a test finds out.
//!
//! Owns their names and what each breaks. `MILLSTREAM_PLANTED=<name>` plants one. Only in builds with debug assertions: in an optimised build
//! nothing here does anything. `make mutants` runs, for each, the test of `tests/mutants.txt` that must fail with it and pass without it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use checkpoint::ownership::View;
use checkpoint::snapshot::ObjectId;
use checkpoint::snapshot::retention::Listed;
use dataflow::key::ShardId;
use dataflow::state::{ChangeBatch, LogOffset};
use dataflow::worker::AppliedOffsets;

use crate::snapshot::store::{Body, Listing, ObjectStore, Put, StoreError};

/// One rule less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Source offsets are not in the transaction of what was read up to them: what is read again is written again.
    OffsetsLeftOut,
    /// Where a source of files stands is not in the commit of the rows that were read.
    PositionLeftOut,
    /// Local state takes a commit's changes before the log has it: what the log never gets is counted all the same.
    StateBeforeCommit,
    /// A commit call that does not come back counts as done.
    TimeoutIsDone,
    /// Every process has a transactional id of its own: it fences nobody.
    NoFence,
    /// A start acts on what an earlier look at the control topic said, and does not read it behind its fence.
    ControlNotRead,
    /// A gainer neither waits for nor fences those who owned its shards before.
    NotSettled,
    /// A release is appended without the transactional call that proves that this process is not fenced.
    ReleaseUnproved,
    /// A shard does not wait for the event time of one of the pods that send to it.
    SlotIgnored,
    /// The manifest of a checkpoint is written before the objects that it refers to.
    ManifestFirst,
    /// Objects are removed before the manifests that refer to them.
    GarbageFirst,
    /// What is read from the object store is not compared with its checksum.
    NoChecksum,
    /// The changelog is trimmed further than the oldest snapshot kept reaches.
    EarlyTrim,
    /// Local state is used although the changelog does not reach it any more.
    LocalUnchecked,
    /// The changelog's tail is taken for applied when there is any local state.
    TailSkipped,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OffsetsLeftOut,
        Self::PositionLeftOut,
        Self::StateBeforeCommit,
        Self::TimeoutIsDone,
        Self::NoFence,
        Self::ControlNotRead,
        Self::NotSettled,
        Self::ReleaseUnproved,
        Self::SlotIgnored,
        Self::ManifestFirst,
        Self::GarbageFirst,
        Self::NoChecksum,
        Self::EarlyTrim,
        Self::LocalUnchecked,
        Self::TailSkipped,
    ];

    /// As `MILLSTREAM_PLANTED` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OffsetsLeftOut => "offsets-left-out",
            Self::PositionLeftOut => "position-left-out",
            Self::StateBeforeCommit => "state-before-commit",
            Self::TimeoutIsDone => "timeout-is-done",
            Self::NoFence => "no-fence",
            Self::ControlNotRead => "control-not-read",
            Self::NotSettled => "not-settled",
            Self::ReleaseUnproved => "release-unproved",
            Self::SlotIgnored => "slot-ignored",
            Self::ManifestFirst => "manifest-first",
            Self::GarbageFirst => "garbage-first",
            Self::NoChecksum => "no-checksum",
            Self::EarlyTrim => "early-trim",
            Self::LocalUnchecked => "local-unchecked",
            Self::TailSkipped => "tail-skipped",
        }
    }
}

static PLANTED: OnceLock<Option<Bug>> = OnceLock::new();

/// True if this bug is planted in this process.
pub fn is(bug: Bug) -> bool {
    if !cfg!(debug_assertions) {
        return false;
    }
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("MILLSTREAM_PLANTED").ok()?;
        let found = Bug::ALL.into_iter().find(|bug| bug.name() == name);
        Some(found.unwrap_or_else(|| panic!("MILLSTREAM_PLANTED={name}: there is no such bug; see planted.rs")))
    });
    *planted == Some(bug)
}

/// For [`Bug::NoFence`]: an id that no other process has.
pub fn own_id(id: String) -> String {
    if is(Bug::NoFence) { format!("{id}-{}", uuid::Uuid::new_v4()) } else { id }
}

/// For [`Bug::ControlNotRead`]: the first assignment that was ever read here, instead of the present one.
pub fn remembered(view: View) -> View {
    static FIRST: OnceLock<View> = OnceLock::new();
    let old = is(Bug::ControlNotRead) && view.in_force().is_some();
    if old { FIRST.get_or_init(|| view).clone() } else { view }
}

/// For [`Bug::StateBeforeCommit`]: where the changes of a commit would stand, if it were known: behind the last.
pub fn guessed(changes: &[(ShardId, ChangeBatch)]) -> AppliedOffsets {
    let known = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    let last = |shard: &ShardId| known.get(shard).copied().unwrap_or(LogOffset(-1));
    changes.iter().map(|(shard, _)| (*shard, last(shard))).collect()
}

/// For [`Bug::StateBeforeCommit`]: where they stand.
pub fn note(offsets: &AppliedOffsets) {
    APPLIED.lock().unwrap_or_else(PoisonError::into_inner).extend(offsets.iter().copied());
}

static APPLIED: Mutex<BTreeMap<ShardId, LogOffset>> = Mutex::new(BTreeMap::new());

/// For [`Bug::EarlyTrim`]: further than may be.
pub fn further(mut trimmable: BTreeMap<ShardId, LogOffset>) -> BTreeMap<ShardId, LogOffset> {
    if is(Bug::EarlyTrim) {
        trimmable.values_mut().for_each(|offset| offset.0 += 1);
    }
    trimmable
}

/// For [`Bug::ManifestFirst`]: a store that writes everything else behind the checkpoint's manifest.
pub fn manifest_first(store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    if is(Bug::ManifestFirst) { Arc::new(Reversed { store, waiting: Mutex::default() }) } else { store }
}

struct Reversed {
    store: Arc<dyn ObjectStore>,
    waiting: Mutex<Vec<(ObjectId, Vec<u8>)>>,
}

impl ObjectStore for Reversed {
    fn place(&self) -> String {
        self.store.place()
    }

    fn key(&self, id: &ObjectId) -> String {
        self.store.key(id)
    }

    fn put(&self, id: &ObjectId, body: Body<'_>) -> Result<Put, StoreError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(id, ObjectId::Checkpoint { .. }) {
            let read = |path: &std::path::Path| {
                std::fs::read(path).map_err(|source| StoreError::Local {
                    action: "read",
                    path: path.to_owned(),
                    source,
                })
            };
            waiting.push((
                id.clone(),
                match body {
                    Body::Bytes(bytes) => bytes.to_vec(),
                    Body::File(path) => read(path)?,
                },
            ));
            return Ok(Put::Written);
        }
        let put = self.store.put(id, body)?;
        for (id, bytes) in waiting.drain(..) {
            self.store.put(&id, Body::Bytes(&bytes))?;
        }
        Ok(put)
    }

    fn get(&self, id: &ObjectId, part: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), StoreError> {
        self.store.get(id, part)
    }

    fn list(&self, listing: Listing) -> Result<Vec<Listed>, StoreError> {
        self.store.list(listing)
    }

    fn delete(&self, id: &ObjectId) -> Result<(), StoreError> {
        self.store.delete(id)
    }
}

#[cfg(test)]
mod tests;
