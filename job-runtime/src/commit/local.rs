//! The commit log without Kafka: an append-only log on local disk, one checksummed record per commit.
//!
//! Owns the files below the state directory's `log/`: segments `<first commit, 20 digits>.log` in the layout of `checkpoint::local_log`.
//! A commit has happened when its record is on disk (`fdatasync`). At open a torn record at the very end is cut off, every other damage is
//! an error, and records newer than a shard's applied offset are applied to it. Segments that every shard has flushed past are removed;
//! when the log grows beyond its bound, a thread of this log flushes the shards.
//!
//! It does not decide when to commit, and knows no sink.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use checkpoint::local_log::{self, LogError, Next, Record, SegmentHeader};
use dataflow::key::ShardId;
use dataflow::sink::SinkChunk;
use dataflow::state::{ChangeBatch, LogOffset, ShardStore, StateError};
use dataflow::worker::AppliedOffsets;

use super::{CommitError, CommitLog, CommitRequest};
use crate::state::rocks::{FlushHandle, RocksShardStore};

mod tail;

pub use tail::{LogHandle, LogHold, LogTail, restore};

/// Sizes of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalLogConfig {
    /// A segment is closed when it is larger than this.
    pub segment_bytes: u64,
    /// The shards are flushed when the log is larger than this, so that segments can go.
    pub log_bytes: u64,
}

impl Default for LocalLogConfig {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, log_bytes: 128 << 20 }
    }
}

/// The local log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LocalLogError {
    /// The file system said no.
    #[error("commit log: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A record or a header is damaged.
    #[error(
        "commit log {} at byte {at}: {source}; the job cannot go on exactly from here: restore the file from a copy, or drop the state with --fresh", path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// What is wrong.
        source: LogError,
    },
    /// A segment of another job.
    #[error("commit log {} belongs to another job; choose another directory with --state-dir", path.display())]
    OtherJob {
        /// The segment.
        path: PathBuf,
    },
    /// Commits are missing between segments, or after the last one.
    #[error("commit log {}: commits {expected} to {before} are missing; restore the log from a copy, or drop the state with --fresh", path.display())]
    Missing {
        /// The log's directory or the segment after the gap.
        path: PathBuf,
        /// First missing commit.
        expected: u64,
        /// Last missing commit.
        before: u64,
    },
    /// A record names a shard that the job does not have.
    #[error("commit log {}: commit {commit} has changes of shard {}, which the job does not have", path.display(), shard.0)]
    UnknownShard {
        /// The segment.
        path: PathBuf,
        /// The commit.
        commit: u64,
        /// The shard.
        shard: ShardId,
    },
    /// A shard could not be brought up to date.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A closed or open segment: which shards need it, and up to which commit.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// Per shard, the last commit in this segment that changed it.
    touched: Vec<Option<u64>>,
}

/// See the module's documentation.
pub struct LocalCommitLog {
    dir: PathBuf,
    job: u64,
    config: LocalLogConfig,
    segments: VecDeque<Segment>,
    file: File,
    next: u64,
    shards: Vec<FlushHandle>,
    flusher: Option<Flusher>,
    handle: LogHandle,
    broken: Option<String>,
}

impl LocalCommitLog {
    /// Opens the log of a job in `dir` and brings `stores` (all shards, in order) up to its end.
    ///
    /// # Errors
    /// See [`LocalLogError`].
    pub fn open(
        dir: &Path,
        job_uid: &str,
        config: LocalLogConfig,
        stores: &mut [RocksShardStore],
    ) -> Result<Self, LocalLogError> {
        let job = local_log::job_hash(job_uid);
        let applied = stores.iter().filter_map(|store| store.applied()).map(|offset| offset.0 as u64).max();
        let mut replay = Replay { dir, job, next: None, stores, segments: VecDeque::new() };
        let paths = segment_paths(dir)?;
        for (index, path) in paths.iter().enumerate() {
            replay.segment(path, index + 1 == paths.len())?;
        }
        let next = replay.next.unwrap_or(1);
        if let Some(applied) = applied
            && applied >= next
        {
            // Durable state is never ahead of the log, unless somebody removed a part of the log.
            return Err(LocalLogError::Missing { path: dir.to_owned(), expected: next, before: applied });
        }
        let mut segments = replay.segments;
        let file = match segments.back() {
            Some(segment) => OpenOptions::new().append(true).open(&segment.path).map_err(io("open", &segment.path))?,
            None => {
                let (segment, file) = create_segment(dir, SegmentHeader { job, first: next }, stores.len())?;
                segments.push_back(segment);
                file
            }
        };
        let shards: Vec<FlushHandle> = stores.iter().map(RocksShardStore::flush_handle).collect();
        let flusher = Some(Flusher::start(shards.clone())?);
        let touched = (0..shards.len()).map(|shard| segments.iter().filter_map(|segment| segment.touched[shard]).max());
        let handle = LogHandle::new(dir, job, next, touched.collect());
        Ok(Self { dir: dir.to_owned(), job, config, segments, file, next, shards, flusher, handle, broken: None })
    }

    /// A view of the log for snapshots.
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    fn append(&mut self, record: &[u8]) -> Result<(), CommitError> {
        let segment = self.segments.back().expect("an open log has a segment");
        if let Err(e) = self.file.write_all(record) {
            return Err(CommitError::Fatal { message: write_failed(&segment.path, &e) });
        }
        // Whether the record is on disk is not known after a failed sync: the next start reads what is there.
        self.file.sync_data().map_err(|e| CommitError::Unknown {
            id: dataflow::worker::CommitId(self.next),
            message: write_failed(&segment.path, &e),
        })
    }

    fn after_append(&mut self, bytes: u64, changes: &[(ShardId, ChangeBatch)]) -> Result<(), CommitError> {
        let segment = self.segments.back_mut().expect("an open log has a segment");
        segment.bytes += bytes;
        for (shard, _) in changes {
            segment.touched[usize::from(shard.0)] = Some(self.next);
        }
        self.handle.committed(self.next, changes.iter().map(|(shard, _)| *shard));
        self.next += 1;
        if segment.bytes >= self.config.segment_bytes {
            let header = SegmentHeader { job: self.job, first: self.next };
            let (segment, file) = create_segment(&self.dir, header, self.shards.len()).map_err(|e| {
                CommitError::Fatal { message: format!("{e}; free some space or move the state with --state-dir") }
            })?;
            self.segments.push_back(segment);
            self.file = file;
        }
        self.trim()
    }

    /// Removes the oldest segments that no shard needs any more; asks for a flush if the log is still too large.
    fn trim(&mut self) -> Result<(), CommitError> {
        while self.segments.len() > 1 && self.unneeded(&self.segments[0]) {
            let path = self.segments[0].path.clone();
            let Some(removed) = self.handle.unless_held(|| fs::remove_file(&path)) else { break };
            removed.map_err(|e| CommitError::Fatal { message: format!("cannot remove {}: {e}", path.display()) })?;
            self.segments.pop_front();
        }
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        match &self.flusher {
            Some(flusher) if bytes > self.config.log_bytes && self.segments.len() > 1 => flusher.ask(),
            Some(_) | None => Ok(()),
        }
    }

    fn unneeded(&self, segment: &Segment) -> bool {
        segment.touched.iter().zip(&self.shards).all(|(touched, shard)| match (touched, shard.flushed()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(commit), Some(flushed)) => *commit <= flushed.0 as u64,
        })
    }

    fn try_commit(&mut self, request: &CommitRequest) -> Result<AppliedOffsets, CommitError> {
        let fatal = |message: String| CommitError::Fatal { message };
        if !request.kafka_offsets.is_empty() {
            return Err(fatal("Kafka offsets were given to the local commit log, which keeps positions as state (a bug of Millstream)".into()));
        }
        if let Some((shard, _)) = request.changes.iter().find(|(shard, _)| usize::from(shard.0) >= self.shards.len()) {
            return Err(fatal(format!(
                "changes of shard {}, which the job does not have (a bug of Millstream)",
                shard.0
            )));
        }
        if request.changes.is_empty() {
            return Ok(AppliedOffsets::new());
        }
        let record = local_log::encode_record(self.next, &request.changes)
            .map_err(|e| fatal(format!("{e}; commit more often")))?;
        let offset = LogOffset(self.next as i64);
        self.append(&record)?;
        self.after_append(record.len() as u64, &request.changes)?;
        Ok(request.changes.iter().map(|(shard, _)| (*shard, offset)).collect())
    }
}

impl CommitLog for LocalCommitLog {
    fn write(&mut self, topic: &str, _: &SinkChunk) -> Result<(), CommitError> {
        Err(CommitError::Fatal {
            message: format!("output for Kafka topic {topic} was given to the local commit log (a bug of Millstream)"),
        })
    }

    fn send(&mut self, topic: &str, _: i32, _: &[u8]) -> Result<(), CommitError> {
        Err(CommitError::Fatal {
            message: format!("rows for topic {topic} were given to the local commit log (a bug of Millstream)"),
        })
    }

    fn commit(&mut self, request: CommitRequest) -> Result<AppliedOffsets, CommitError> {
        if let Some(message) = &self.broken {
            return Err(CommitError::Fatal { message: format!("an earlier commit failed: {message}") });
        }
        let result = self.try_commit(&request).map_err(|error| match error {
            CommitError::Unknown { message, .. } => CommitError::Unknown { id: request.id, message },
            other => other,
        });
        if let Err(error) = &result {
            self.broken = Some(error.to_string());
        }
        result
    }
}

/// Reads the segments in order at open.
struct Replay<'a> {
    dir: &'a Path,
    job: u64,
    next: Option<u64>,
    stores: &'a mut [RocksShardStore],
    segments: VecDeque<Segment>,
}

impl Replay<'_> {
    fn segment(&mut self, path: &Path, last: bool) -> Result<(), LocalLogError> {
        let bytes = fs::read(path).map_err(io("read", path))?;
        let header = match local_log::decode_segment(&bytes) {
            Ok(header) => header,
            // The header is synced before the first record: a short last file is a segment that was being made.
            Err(_) if last && bytes.len() <= local_log::SEGMENT_HEADER => return remove(self.dir, path),
            Err(source) => return Err(LocalLogError::Damaged { path: path.to_owned(), at: 0, source }),
        };
        if header.job != self.job {
            return Err(LocalLogError::OtherJob { path: path.to_owned() });
        }
        let expected = *self.next.get_or_insert(header.first);
        if header.first != expected {
            let before = header.first.saturating_sub(1);
            return Err(LocalLogError::Missing { path: path.to_owned(), expected, before });
        }
        let mut segment = Segment { path: path.to_owned(), bytes: 0, touched: vec![None; self.stores.len()] };
        segment.bytes = self.records(&mut segment, &bytes, last)?;
        if segment.bytes < bytes.len() as u64 {
            cut(path, segment.bytes)?;
        }
        self.segments.push_back(segment);
        Ok(())
    }

    /// Applies the segment's records; returns the length of its whole part.
    fn records(&mut self, segment: &mut Segment, bytes: &[u8], last: bool) -> Result<u64, LocalLogError> {
        let mut at = local_log::SEGMENT_HEADER;
        loop {
            let damaged = |source| LocalLogError::Damaged { path: segment.path.clone(), at: at as u64, source };
            match local_log::next_record(&bytes[at..], last).map_err(damaged)? {
                Next::End | Next::Torn => return Ok(at as u64),
                Next::Record { record, length } => {
                    let expected = self.next.expect("set by the segment's header");
                    if record.commit != expected {
                        let before = record.commit.saturating_sub(1);
                        return Err(LocalLogError::Missing { path: segment.path.clone(), expected, before });
                    }
                    self.apply(segment, record)?;
                    self.next = Some(expected + 1);
                    at += length;
                }
            }
        }
    }

    fn apply(&mut self, segment: &mut Segment, record: Record) -> Result<(), LocalLogError> {
        let commit = record.commit;
        for (shard, changes) in record.changes {
            let index = usize::from(shard.0);
            let store = self.stores.get_mut(index).ok_or_else(|| LocalLogError::UnknownShard {
                path: segment.path.clone(),
                commit,
                shard,
            })?;
            segment.touched[index] = Some(commit);
            if store.applied().is_none_or(|applied| (applied.0 as u64) < commit) {
                store.apply(&changes, LogOffset(commit as i64))?;
            }
        }
        Ok(())
    }
}

/// A thread that flushes all shards when asked; joined when dropped.
struct Flusher {
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<Result<(), StateError>>>,
}

impl Flusher {
    fn start(shards: Vec<FlushHandle>) -> Result<Self, LocalLogError> {
        let (ask, asked) = sync_channel::<()>(1);
        let run = move || {
            while asked.recv().is_ok() {
                shards.iter().try_for_each(FlushHandle::flush)?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("millstream-flush".into()).spawn(run).map_err(|source| {
            LocalLogError::Io { action: "start a thread for", path: PathBuf::from("flushes"), source }
        })?;
        Ok(Self { ask: Some(ask), thread: Some(thread) })
    }

    fn ask(&self) -> Result<(), CommitError> {
        match self.ask.as_ref().map(|ask| ask.try_send(())) {
            None | Some(Ok(()) | Err(TrySendError::Full(()))) => Ok(()),
            Some(Err(TrySendError::Disconnected(()))) => Err(CommitError::Fatal {
                message: "the state could not be flushed to disk; free some space and start again".into(),
            }),
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!(%error, "the state was not flushed; the commit log has it");
        }
    }
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> LocalLogError + 'a {
    move |source| LocalLogError::Io { action, path: path.to_owned(), source }
}

fn write_failed(path: &Path, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space there, or move the state directory; then start again"
        }
        _ => "check the disk; then start again",
    };
    format!("cannot write {}: {error}; {advice} (nothing that was committed is lost)", path.display())
}

fn segment_paths(dir: &Path) -> Result<Vec<PathBuf>, LocalLogError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let path = entry.map_err(io("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    // Names have a fixed number of digits: this is the order of commits.
    paths.sort();
    Ok(paths)
}

fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

fn create_segment(dir: &Path, header: SegmentHeader, shards: usize) -> Result<(Segment, File), LocalLogError> {
    let path = dir.join(segment_name(header.first));
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path).map_err(io("create", &path))?;
    let bytes = local_log::encode_segment(header);
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io("write", &path))?;
    sync_dir(dir)?;
    Ok((Segment { path, bytes: bytes.len() as u64, touched: vec![None; shards] }, file))
}

fn remove(dir: &Path, path: &Path) -> Result<(), LocalLogError> {
    fs::remove_file(path).map_err(io("remove", path))?;
    sync_dir(dir)
}

fn cut(path: &Path, length: u64) -> Result<(), LocalLogError> {
    let file = OpenOptions::new().write(true).open(path).map_err(io("open", path))?;
    file.set_len(length).and_then(|()| file.sync_all()).map_err(io("cut", path))
}

fn sync_dir(dir: &Path) -> Result<(), LocalLogError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))
}

#[cfg(test)]
mod tests;
