//! The end of the log for a snapshot: the commits that a copy of the shards does not have yet, so that all shards come to the same commit.
//!
//! Owns what other threads may know of a log that is being written: where it stands and which commit touched a shard last; and the hold that
//! keeps segments while a snapshot reads them. The copy has the layout of a segment (`checkpoint::local_log`), and is one when restored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::local_log::{self, Next, SegmentHeader};
use dataflow::key::ShardId;
use dataflow::state::LogOffset;

use super::{LocalLogError, io, segment_paths, sync_dir};

/// What the log publishes.
#[derive(Debug)]
pub(super) struct Shared {
    /// While it is not zero, no segment is removed.
    held: u32,
    /// The commit that comes next.
    next: u64,
    /// Per shard, the last commit that changed it.
    touched: Vec<Option<u64>>,
}

/// A view of a local log from another thread.
#[derive(Clone, Debug)]
pub struct LogHandle {
    dir: PathBuf,
    job: u64,
    shared: Arc<Mutex<Shared>>,
}

/// While it lives, no segment of the log is removed.
#[derive(Debug)]
pub struct LogHold {
    handle: LogHandle,
}

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// Number of its first commit.
    pub first: u64,
    /// The commit that comes behind its last one.
    pub next: u64,
    /// A segment.
    pub bytes: Vec<u8>,
}

impl LogHandle {
    pub(super) fn new(dir: &Path, job: u64, next: u64, touched: Vec<Option<u64>>) -> Self {
        Self { dir: dir.to_owned(), job, shared: Arc::new(Mutex::new(Shared { held: 0, next, touched })) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a commit that is on disk.
    pub(super) fn committed(&self, commit: u64, shards: impl Iterator<Item = ShardId>) {
        let mut shared = self.shared();
        shared.next = commit + 1;
        shards.for_each(|shard| shared.touched[usize::from(shard.0)] = Some(commit));
    }

    /// Does something if no segment is held. The hold waits for it.
    pub(super) fn unless_held<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let shared = self.shared();
        (shared.held == 0).then(work)
    }

    /// The commit that comes next.
    pub fn next_commit(&self) -> u64 {
        self.shared().next
    }

    /// Keeps the segments until the hold is dropped. Copies of shards that are made from here on find in the log whatever they lack.
    pub fn hold(&self) -> LogHold {
        self.shared().held += 1;
        LogHold { handle: self.clone() }
    }
}

impl LogHold {
    /// The end of the log from the first commit that one of the shards, copied at these commits, does not have.
    ///
    /// # Errors
    /// When a segment cannot be read or is damaged.
    pub fn tail(&self, copied: &BTreeMap<ShardId, Option<LogOffset>>) -> Result<LogTail, LocalLogError> {
        let (next, from) = {
            let shared = self.handle.shared();
            let behind = shared.touched.iter().enumerate().filter_map(|(index, touched)| {
                let has = copied.get(&ShardId(index as u16)).copied().flatten().map_or(0, |offset| offset.0 as u64);
                (touched.unwrap_or(0) > has).then_some(has + 1)
            });
            (shared.next, behind.min().unwrap_or(shared.next))
        };
        let (mut first, mut end, mut records) = (next, next, Vec::new());
        for segment in self.segments(from)? {
            self.copy(&segment, from, next, &mut |commit, bytes| {
                if records.is_empty() {
                    first = commit;
                }
                end = commit + 1;
                records.extend_from_slice(bytes);
            })?;
        }
        if end != next {
            return Err(LocalLogError::Missing { path: self.handle.dir.clone(), expected: end, before: next - 1 });
        }
        let mut bytes = local_log::encode_segment(SegmentHeader { job: self.handle.job, first });
        bytes.append(&mut records);
        Ok(LogTail { first, next, bytes })
    }

    /// The segments that hold commits from `from` on; their names are their first commits.
    fn segments(&self, from: u64) -> Result<Vec<PathBuf>, LocalLogError> {
        let mut paths = segment_paths(&self.handle.dir)?;
        let first = |path: &PathBuf| path.file_stem().and_then(|name| name.to_str()?.parse::<u64>().ok()).unwrap_or(0);
        let start = paths.iter().rposition(|path| first(path) <= from).unwrap_or(0);
        Ok(paths.split_off(start))
    }

    fn copy(&self, path: &Path, from: u64, next: u64, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), LocalLogError> {
        let bytes = fs::read(path).map_err(io("read", path))?;
        let damaged = |at: usize| move |source| LocalLogError::Damaged { path: path.to_owned(), at: at as u64, source };
        let mut at = local_log::SEGMENT_HEADER;
        while at < bytes.len() {
            // The last record may be in the middle of being written: it is not committed, and not ours to copy.
            match local_log::next_record(&bytes[at..], true).map_err(damaged(at))? {
                Next::Record { record, length } => {
                    if (from..next).contains(&record.commit) {
                        each(record.commit, &bytes[at..at + length]);
                    }
                    at += length;
                }
                Next::End | Next::Torn => break,
            }
        }
        Ok(())
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        self.handle.shared().held -= 1;
    }
}

/// Makes the end of a log the log of a job in an empty directory; returns the commit that comes next.
///
/// # Errors
/// When it is not the end of this job's log, or cannot be written.
pub fn restore(dir: &Path, job_uid: &str, bytes: &[u8]) -> Result<(), LocalLogError> {
    let damaged = |source| LocalLogError::Damaged { path: dir.to_owned(), at: 0, source };
    let header = local_log::decode_segment(bytes).map_err(damaged)?;
    if header.job != local_log::job_hash(job_uid) {
        return Err(LocalLogError::OtherJob { path: dir.to_owned() });
    }
    let path = dir.join(super::segment_name(header.first));
    fs::write(&path, bytes).map_err(io("write", &path))?;
    fs::File::open(&path).and_then(|file| file.sync_all()).map_err(io("sync", &path))?;
    sync_dir(dir)
}
