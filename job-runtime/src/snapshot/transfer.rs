//! Objects in and out with their checksums: what is read is what was written, or an error that says how it differs.
//!
//! Owns that check and the way to several transfers at a time. It does not know what the objects mean.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use checkpoint::snapshot::ObjectId;
use xxhash_rust::xxh3::Xxh3;

use super::store::{Body, ObjectStore, Put, StoreError};
use super::{Damage, SnapshotError};
use crate::crash::{self, Step};
use crate::planted::{self, Bug};

/// Files that are hashed, uploaded or downloaded at the same time.
pub(super) const PARALLEL: usize = 4;
/// How often an object is read again after bytes that differ: a transfer may fail where an object is whole.
const READS: usize = 2;
/// Largest object that is read into memory: manifests.
const MEMORY: u64 = 256 << 20;

/// Length and checksum of a local file.
pub(super) fn measure(path: &Path) -> std::io::Result<(u64, u128)> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    let (mut hash, mut length) = (Xxh3::new(), 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((length, hash.digest128()));
        }
        hash.update(&buffer[..read]);
        length += read as u64;
    }
}

fn damaged(store: &dyn ObjectStore, id: &ObjectId, what: Damage) -> SnapshotError {
    SnapshotError::Damaged { key: store.key(id), what }
}

/// An object that is not there, although something refers to it, is damage of what refers.
fn or_missing(store: &dyn ObjectStore, id: &ObjectId, error: StoreError) -> SnapshotError {
    match error {
        StoreError::Missing { .. } => damaged(store, id, Damage::Missing),
        other => other.into(),
    }
}

/// Puts an object, as a step that can be cut.
pub(super) fn put(store: &dyn ObjectStore, step: Step, id: &ObjectId, body: Body<'_>) -> Result<Put, StoreError> {
    crash::asked(step, || store.put(id, body)).unwrap_or_else(|| Err(no_answer(store, "put", id)))
}

/// Removes an object, as a step that can be cut.
pub(super) fn delete(store: &dyn ObjectStore, step: Step, id: &ObjectId) -> Result<(), StoreError> {
    crash::asked(step, || store.delete(id)).unwrap_or_else(|| Err(no_answer(store, "delete", id)))
}

fn no_answer(store: &dyn ObjectStore, action: &str, id: &ObjectId) -> StoreError {
    let action = format!("{action} {}", store.key(id));
    StoreError::Unavailable { place: store.place(), action, message: "no answer".into() }
}

/// Reads an object of any length into memory.
pub(super) fn read(store: &dyn ObjectStore, id: &ObjectId) -> Result<Vec<u8>, SnapshotError> {
    let mut out = Vec::new();
    let result = store.get(id, &mut |part| {
        if (out.len() + part.len()) as u64 > MEMORY {
            return Err(std::io::Error::other("the object is larger than any of ours"));
        }
        out.extend_from_slice(part);
        Ok(())
    });
    match result {
        Ok(()) => Ok(out),
        Err(error) => Err(or_missing(store, id, error)),
    }
}

/// Reads an object into memory that must have this length and checksum.
pub(super) fn read_checked(
    store: &dyn ObjectStore,
    id: &ObjectId,
    length: u64,
    checksum: u128,
) -> Result<Vec<u8>, SnapshotError> {
    retry(|| {
        let bytes = read(store, id)?;
        check(store, id, (length, checksum), (bytes.len() as u64, checkpoint::snapshot::checksum(&bytes)))?;
        Ok(bytes)
    })
}

/// Downloads an object into a new file, made durable, that must have this length and checksum.
pub(super) fn download(
    store: &dyn ObjectStore,
    id: &ObjectId,
    path: &Path,
    length: u64,
    checksum: u128,
) -> Result<(), SnapshotError> {
    let local = |source| SnapshotError::Io { action: "write", path: path.to_owned(), source };
    retry(|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(local)?);
        let (mut hash, mut found) = (Xxh3::new(), 0u64);
        let result = store.get(id, &mut |part| {
            found += part.len() as u64;
            if found > length {
                // No more than what was asked for: the disk is not an attacker's to fill.
                return Ok(());
            }
            hash.update(part);
            out.write_all(part)
        });
        result.map_err(|error| or_missing(store, id, error))?;
        check(store, id, (length, checksum), (found, hash.digest128()))?;
        out.into_inner().map_err(|e| local(e.into_error()))?.sync_all().map_err(local)
    })
}

fn check(
    store: &dyn ObjectStore,
    id: &ObjectId,
    (length, checksum): (u64, u128),
    found: (u64, u128),
) -> Result<(), SnapshotError> {
    if planted::is(Bug::NoChecksum) {
        return Ok(());
    }
    if found.0 != length {
        return Err(damaged(store, id, Damage::Length { expected: length, found: found.0 }));
    }
    if found.1 != checksum {
        return Err(damaged(store, id, Damage::Checksum));
    }
    Ok(())
}

fn retry<T>(mut read: impl FnMut() -> Result<T, SnapshotError>) -> Result<T, SnapshotError> {
    let mut result = read();
    for _ in 1..READS {
        match &result {
            Err(SnapshotError::Damaged { what: Damage::Length { .. } | Damage::Checksum, .. }) => result = read(),
            Ok(_) | Err(_) => break,
        }
    }
    result
}

/// Does something for each item, several at a time, and returns the results in order. After an error no further item is begun.
pub(super) fn each<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, SnapshotError> + Sync,
) -> Result<Vec<T>, SnapshotError> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let run = || {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((index, result));
        }
        done
    };
    let mut all = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..PARALLEL.min(items.len())).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for helper in helpers {
            all.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}
