//! The file source: one partition per file, decoded on the worker, resumed at the exact record.
//!
//! Owns which files there are, where a partition goes on, and what happens with bad records. Reading is the `reader`'s.
//!
//! With `source.monitor-interval` one file is followed as it grows and has no end; a directory is looked through again and again, and each
//! file in it is read once to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use dataflow::sink::EncodedRows;
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};

use super::position::{FilePosition, Identity, Prefix};
use super::reader::{Chunk, FileSpec, Next, Reader, first_record, prefix_crc};
use super::records::Splitter;
use super::{Compression, explain, path_of};
use crate::connector::dead_letter::{Misfits, Origin, Rules};
use crate::connector::format_options;
use crate::connector::options::{self, TableOptions};
use crate::connector::registry::ConnectorContext;
use crate::connector::stats::{SourceStats, Unit};
use crate::connector::{ConnectorError, Opening, SizeHint, SourceFactory, Start};
use crate::format::{Format, RecordDecoder};

/// Files of a watched directory that are read at a time: each has a thread and some chunks in memory.
const MOST_OPEN: usize = 64;

/// Opens the files of a table.
#[derive(Debug)]
pub(in crate::connector) struct FileSourceFactory {
    table: String,
    path: PathBuf,
    directory: bool,
    /// The files there were at the start.
    files: Vec<PathBuf>,
    /// `None` goes by the name of each file.
    compression: Option<Compression>,
    format: Format,
    physical: SchemaRef,
    decoded: SchemaRef,
    monitor: Option<Duration>,
    misfits: Rules,
}

impl FileSourceFactory {
    pub(in crate::connector) fn new(
        options: &TableOptions<'_>,
        decoded: &SchemaRef,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let table = options.table();
        let path = path_of(options, context)?;
        let monitor = options.duration(&options::SOURCE_MONITOR_INTERVAL);
        let directory = path.is_dir();
        let files = list(&path).map_err(|message| options.error(options::PATH.key, message))?;
        if files.is_empty() && monitor.is_none() {
            let message = format!("the directory {} has no files to read", path.display());
            return Err(options.error(options::PATH.key, message));
        }
        let compression = Compression::given(options);
        if monitor.is_some() && !directory && Compression::of(options, &path) != Compression::None {
            let message = format!("{} is compressed: only a plain file can be followed as it grows", path.display());
            return Err(options.error(options::SOURCE_MONITOR_INTERVAL.key, message));
        }
        Ok(FileSourceFactory {
            table: table.name.clone(),
            path,
            directory,
            files,
            compression,
            format: format_options::format(options)?,
            physical: table.physical.clone(),
            decoded: decoded.clone(),
            monitor,
            misfits: Rules::new(options)?,
        })
    }

    fn fail(&self, option: &options::OptionDoc, message: impl Into<String>) -> ConnectorError {
        ConnectorError { table: self.table.clone(), option: Some(option.key.to_owned()), message: message.into() }
    }

    fn file(&self, id: &PartitionId) -> PathBuf {
        if self.directory { self.path.join(&id.0) } else { self.path.clone() }
    }

    fn stored(&self, id: &PartitionId, position: &SourcePosition) -> Result<FilePosition, ConnectorError> {
        decode_position(position).ok_or_else(|| {
            self.fail(&options::PATH, format!("the stored position of {} is not readable by this version", id.0))
        })
    }

    /// Finds the columns in the file's header; returns where the rows begin, if the header is there already.
    fn header(&self, spec: &FileSpec, decoder: &mut RecordDecoder) -> Result<Option<(u64, u64)>, ConnectorError> {
        let comments = comments(&self.format);
        let found = first_record(spec, |record| !is_no_record(line(record), comments))
            .map_err(|e| self.fail(&options::PATH, explain("read", &spec.path, &e)))?;
        let Some((record, bytes, lines)) = found else { return Ok(None) };
        decoder
            .read_header(without_mark(line(&record)))
            .map_err(|e| self.fail(&options::CSV_HEADER, format!("{}: {}", spec.path.display(), e.message)))?;
        Ok(Some((bytes, lines)))
    }

    /// Whether the file still begins with what has been read of it.
    fn check_unchanged(&self, spec: &FileSpec, at: &FilePosition, now: Identity) -> Result<(), ConnectorError> {
        if now == at.identity {
            return Ok(());
        }
        let file = spec.path.display();
        let advice = "put it back, or start over with --fresh";
        if now.size < at.identity.size && spec.compression == Compression::None {
            let message = format!("{file} was {} bytes long and is now {}: {advice}", at.identity.size, now.size);
            return Err(self.fail(&options::PATH, message));
        }
        let crc = prefix_crc(&spec.path, spec.compression, at.check.len)
            .map_err(|e| self.fail(&options::PATH, explain("read", &spec.path, &e)))?;
        if crc != Some(at.check.crc) {
            let message = format!("{file} has changed in the part that this job has already read: {advice}");
            return Err(self.fail(&options::PATH, message));
        }
        Ok(())
    }
}

impl SourceFactory for FileSourceFactory {
    fn partitions(&self) -> Result<Vec<PartitionId>, ConnectorError> {
        let now = match self.watched() {
            Some(_) => list(&self.path).map_err(|message| self.fail(&options::PATH, message))?,
            None => self.files.clone(),
        };
        Ok(now.iter().map(|file| PartitionId(file_name(file))).collect())
    }

    fn open(
        &self,
        id: &PartitionId,
        Opening { start, wake, stats }: Opening,
    ) -> Result<Box<dyn SourcePartition>, ConnectorError> {
        let file = &self.file(id);
        let spec = FileSpec {
            path: file.clone(),
            compression: self.compression.unwrap_or_else(|| Compression::by_name(file)),
            splitter: Splitter::new(&self.format),
            monitor: self.monitor.filter(|_| !self.directory),
        };
        let metadata = std::fs::metadata(file).map_err(|e| self.fail(&options::PATH, explain("read", file, &e)))?;
        let identity = Identity::of(&metadata);
        let mut decoder =
            self.format.decoder(&self.physical, &self.decoded).map_err(|e| self.fail(&options::FORMAT, e.message))?;
        let wants_header = matches!(&self.format, Format::Csv(csv) if csv.header);
        let header = if wants_header { self.header(&spec, &mut decoder)? } else { None };
        let (offset, lines) = header.unwrap_or((0, 0));
        let from = match start {
            Start::First | Start::Added => {
                let check = Prefix { len: 0, crc: 0 };
                FilePosition { offset, line: lines + 1, check, identity, ended: false }
            }
            Start::At(position) => {
                let at = self.stored(id, &position)?;
                self.check_unchanged(&spec, &at, identity)?;
                at
            }
        };
        let place = if spec.compression == Compression::None { from.offset } else { 0 };
        stats.measure(Unit::Bytes, place, Some(identity.size));
        let reader = Reader::start(spec, from, wake, Arc::clone(&stats));
        let reader = reader.map_err(|e| self.fail(&options::PATH, e.to_string()))?;
        Ok(Box::new(FilePartition {
            id: id.clone(),
            table: self.table.clone(),
            file: file.display().to_string(),
            reader,
            decoder,
            header_pending: wants_header && header.is_none() && from.offset == 0,
            comments: comments(&self.format),
            current: None,
            position: from,
            ended: false,
            misfits: Misfits::new(&self.misfits, &self.table, Arc::clone(&stats)),
            stats,
        }))
    }

    fn bounded(&self) -> bool {
        self.monitor.is_none()
    }

    fn watched(&self) -> Option<Duration> {
        self.monitor.filter(|_| self.directory)
    }

    fn most_open(&self) -> usize {
        // Without an interval nobody would look for those that wait.
        self.watched().map_or(usize::MAX, |_| MOST_OPEN)
    }

    fn is_done(&self, id: &PartitionId, position: &SourcePosition) -> Result<bool, ConnectorError> {
        let at = self.stored(id, position)?;
        let file = self.file(id);
        match std::fs::metadata(&file) {
            Ok(metadata) => Ok(at.ended && Identity::of(&metadata) == at.identity),
            Err(_) if at.ended => Ok(true),
            Err(error) => {
                let advice = "it was not read to its end: put it back, or start over with --fresh";
                Err(self.fail(&options::PATH, format!("{}; {advice}", explain("read", &file, &error))))
            }
        }
    }

    fn size_hint(&self) -> Option<SizeHint> {
        if self.monitor.is_some() {
            return None;
        }
        let sizes = self.files.iter().map(|file| std::fs::metadata(file).map(|m| m.len()));
        sizes.sum::<std::io::Result<u64>>().ok().map(SizeHint::Bytes)
    }
}

fn decode_position(position: &SourcePosition) -> Option<FilePosition> {
    match position {
        SourcePosition::Opaque(bytes) => FilePosition::decode(bytes),
        SourcePosition::Kafka { .. } => None,
    }
}

/// The file, or every visible file of the directory in order of names.
fn list(path: &Path) -> Result<Vec<PathBuf>, String> {
    let metadata = std::fs::metadata(path).map_err(|e| explain("read", path, &e))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| explain("read", path, &e))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| explain("read", path, &e))?;
        let hidden = entry.file_name().to_string_lossy().starts_with(['.', '_']);
        if !hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn comments(format: &Format) -> bool {
    matches!(format, Format::Csv(csv) if csv.comments)
}

/// A record without its line end.
fn line(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// UTF-8's byte order mark may stand at the beginning of a file.
fn without_mark(record: &[u8]) -> &[u8] {
    record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record)
}

fn is_no_record(record: &[u8], comments: bool) -> bool {
    record.is_empty() || (comments && record[0] == b'#')
}

/// A chunk and the record in it that comes next.
#[derive(Debug)]
struct Current {
    chunk: Chunk,
    next: usize,
}

struct FilePartition {
    id: PartitionId,
    table: String,
    file: String,
    reader: Reader,
    decoder: RecordDecoder,
    header_pending: bool,
    comments: bool,
    current: Option<Current>,
    position: FilePosition,
    ended: bool,
    misfits: Misfits,
    stats: Arc<SourceStats>,
}

impl FilePartition {
    fn error(&self, line: u64, message: impl Into<String>) -> SourceError {
        SourceError { table: self.table.clone(), place: format!("{}:{line}", self.file), message: message.into() }
    }

    /// Decodes records of the current chunk until `budget` is used up; false when the chunk is done.
    fn decode(&mut self, current: &mut Current, budget: &mut usize) -> Result<bool, SourceError> {
        while let Some(end) = current.chunk.ends.get(current.next) {
            if *budget == 0 || self.decoder.full() || self.misfits.enough() {
                return Ok(true);
            }
            *budget -= 1;
            let start = self.position.offset - current.chunk.offset;
            let start = usize::try_from(start).expect("inside the chunk");
            let mut record = line(&current.chunk.bytes[start..end.end as usize]);
            if self.position.offset == 0 {
                record = without_mark(record);
            }
            self.record(record)?;
            current.next += 1;
            self.position.offset = current.chunk.offset + u64::from(end.end);
            self.position.line += u64::from(end.lines);
        }
        Ok(false)
    }

    fn record(&mut self, record: &[u8]) -> Result<(), SourceError> {
        if is_no_record(record, self.comments) {
            return Ok(());
        }
        let line = self.position.line;
        if std::mem::take(&mut self.header_pending) {
            return self.decoder.read_header(record).map_err(|e| self.error(line, e.message));
        }
        match self.decoder.push(record) {
            Ok(()) => Ok(()),
            Err(bad) => self.misfits.add(&Origin::File { file: &self.file, line }, &bad, record),
        }
    }
}

impl SourcePartition for FilePartition {
    fn id(&self) -> &PartitionId {
        &self.id
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        let before = self.position.offset;
        let mut budget = max_rows;
        while budget > 0 && !self.ended && !self.decoder.full() && !self.misfits.enough() {
            let mut current = match self.current.take() {
                Some(current) => current,
                None => match self.reader.next() {
                    Next::Chunk(chunk) => {
                        self.position.check = chunk.check;
                        self.position.ended = false;
                        self.position.identity = chunk.identity;
                        Current { chunk, next: 0 }
                    }
                    Next::Failed(message) => return Err(self.error(self.position.line, message)),
                    Next::End => {
                        (self.ended, self.position.ended) = (true, true);
                        break;
                    }
                    Next::Nothing => break,
                },
            };
            if self.decode(&mut current, &mut budget)? {
                self.current = Some(current);
            } else {
                self.stats.at(current.chunk.stored);
            }
        }
        if self.position.offset > before {
            self.stats.add_bytes(self.position.offset - before);
            let batch = self.decoder.finish().map_err(|bad| self.error(self.position.line, bad.to_string()))?;
            return Ok(SourcePoll::Batch(batch));
        }
        if !self.ended {
            return Ok(SourcePoll::Pending);
        }
        self.stats.at_end();
        if self.misfits.left_out() > 0 {
            tracing::warn!(table = self.table, file = self.file, left_out = self.misfits.left_out(), "file ended");
        }
        Ok(SourcePoll::End)
    }

    fn take_letters(&mut self) -> Option<EncodedRows> {
        self.misfits.take()
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::Opaque(self.position.encode())
    }
}
