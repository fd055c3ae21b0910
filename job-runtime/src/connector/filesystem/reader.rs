//! The thread that reads one file: bytes in, chunks of whole records out, through a bounded channel.
//!
//! Owns all blocking of a file source. It does not decode, and it does not know what a record means.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use dataflow::worker::Wake;

use super::position::{FilePosition, Identity, Prefix};
use super::records::{RecordEnd, Splitter};
use super::{Compression, explain};
use crate::connector::stats::SourceStats;

/// How much is read at a time.
const CHUNK: usize = 256 << 10;
/// The longest record.
pub(super) const MAX_RECORD: usize = 16 << 20;
/// Chunks that may wait for the worker.
const CHUNKS_WAITING: usize = 4;

/// Whole records of a file.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<RecordEnd>,
    /// Where it begins in the uncompressed file.
    pub(super) offset: u64,
    /// A prefix of the file that ends at or before the chunk.
    pub(super) check: Prefix,
    pub(super) identity: Identity,
    /// Bytes of the file as stored, up to the chunk's end (compressed: about).
    pub(super) stored: u64,
}

#[derive(Debug)]
enum Event {
    Chunk(Chunk),
    Failed(String),
    End,
}

/// What the worker finds when it looks.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Chunk),
    Failed(String),
    End,
    Nothing,
}

/// Which file and how.
#[derive(Clone, Debug)]
pub(super) struct FileSpec {
    pub(super) path: PathBuf,
    pub(super) compression: Compression,
    pub(super) splitter: Splitter,
    /// Look for growth this often; `None` ends at the end of the file.
    pub(super) monitor: Option<Duration>,
}

/// A running reader; dropping it ends and joins the thread.
#[derive(Debug)]
pub(super) struct Reader {
    events: Option<Receiver<Event>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts reading at a position whose file has been checked.
    pub(super) fn start(spec: FileSpec, from: FilePosition, wake: Wake, stats: Arc<SourceStats>) -> io::Result<Reader> {
        let (events_in, events) = sync_channel(CHUNKS_WAITING);
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("file-reader".to_owned()).spawn(move || {
            let mut run = Run { spec, from, events: events_in, stopped, wake, stats };
            let last = match run.read() {
                Ok(()) => Event::End,
                Err(Stop::Asked) => return,
                Err(Stop::Failed(message)) => Event::Failed(message),
            };
            // An error means that nobody listens any more.
            if run.events.send(last).is_ok() {
                (run.wake)();
            }
        })?;
        Ok(Reader { events: Some(events), stop: Some(stop), thread: Some(thread) })
    }

    pub(super) fn next(&self) -> Next {
        let Some(events) = &self.events else { return Next::End };
        match events.try_recv() {
            Ok(Event::Chunk(chunk)) => Next::Chunk(chunk),
            Ok(Event::Failed(message)) => Next::Failed(message),
            Ok(Event::End) => Next::End,
            Err(TryRecvError::Empty) => Next::Nothing,
            Err(TryRecvError::Disconnected) => Next::Failed("the thread that reads the file is gone".to_owned()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Either end of the thread's waiting is gone with these two.
        drop(self.events.take());
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads a file panicked");
        }
    }
}

enum Stop {
    Asked,
    Failed(String),
}

struct Run {
    spec: FileSpec,
    from: FilePosition,
    events: SyncSender<Event>,
    stopped: Receiver<()>,
    wake: Wake,
    /// Told how long the file is.
    stats: Arc<SourceStats>,
}

impl Run {
    fn read(&mut self) -> Result<(), Stop> {
        let failed = |e: io::Error| Stop::Failed(explain("read", &self.spec.path, &e));
        let (mut input, handle) = open_at(&self.spec, self.from.check.len).map_err(failed)?;
        let mut crc = crc32fast::Hasher::new_with_initial(self.from.check.crc);
        let mut checked = self.from.check.len;
        skip(&mut input, self.from.offset - checked, &mut crc).map_err(failed)?;
        checked = self.from.offset;
        let mut line = self.from.line;
        let mut buffer = Vec::with_capacity(CHUNK);
        let mut ends = Vec::new();
        loop {
            let got = input.by_ref().take(CHUNK as u64).read_to_end(&mut buffer).map_err(failed)?;
            if got > 0 {
                self.spec.splitter.scan(&buffer, &mut ends);
            } else if self.spec.monitor.is_some() {
                self.wait_for_growth(&handle, checked + buffer.len() as u64)?;
                continue;
            } else if buffer.is_empty() {
                return Ok(());
            } else {
                ends.push(RecordEnd { end: u32::try_from(buffer.len()).expect("bounded by MAX_RECORD"), lines: 1 });
            }
            let Some(last) = ends.last() else {
                if buffer.len() > MAX_RECORD {
                    return Err(Stop::Failed(format!(
                        "the record that begins on line {line} is longer than 16 MiB; is a quote not closed?"
                    )));
                }
                continue;
            };
            let taken = last.end as usize;
            let rest = buffer[taken..].to_vec();
            buffer.truncate(taken);
            let lines: u64 = ends.iter().map(|e| u64::from(e.lines)).sum();
            let check = Prefix { len: checked, crc: crc.clone().finalize() };
            crc.update(&buffer);
            let identity = Identity::of(&handle.metadata().map_err(failed)?);
            self.stats.end_at(identity.size);
            let stored = match self.spec.compression {
                Compression::None => checked + taken as u64,
                Compression::Gzip | Compression::Zstd => (&handle).stream_position().map_err(failed)?,
            };
            let ends = std::mem::take(&mut ends);
            let chunk = Chunk { bytes: buffer, ends, offset: checked, check, identity, stored };
            self.events.send(Event::Chunk(chunk)).map_err(|_| Stop::Asked)?;
            (self.wake)();
            self.spec.splitter.taken(taken);
            buffer = rest;
            checked += taken as u64;
            line += lines;
        }
    }

    fn wait_for_growth(&self, handle: &File, seen: u64) -> Result<(), Stop> {
        let interval = self.spec.monitor.unwrap_or_default();
        match self.stopped.recv_timeout(interval) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Err(Stop::Asked),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let size = handle.metadata().map_err(|e| Stop::Failed(explain("read", &self.spec.path, &e)))?.len();
        if size < seen {
            return Err(Stop::Failed(format!("the file became shorter while it was read: {seen} bytes, now {size}")));
        }
        self.stats.end_at(size);
        Ok(())
    }
}

/// The uncompressed content from an offset on, and the file itself for its metadata.
fn open_at(spec: &FileSpec, offset: u64) -> io::Result<(Box<dyn Read + Send>, File)> {
    let mut file = File::open(&spec.path)?;
    let handle = file.try_clone()?;
    let mut content: Box<dyn Read + Send> = match spec.compression {
        Compression::None => {
            file.seek(SeekFrom::Start(offset))?;
            return Ok((Box::new(file), handle));
        }
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        Compression::Zstd => Box::new(zstd::Decoder::new(file)?),
    };
    skip(&mut content, offset, &mut crc32fast::Hasher::new())?;
    Ok((content, handle))
}

/// Reads over `len` bytes and adds them to the checksum.
fn skip(input: &mut impl Read, len: u64, crc: &mut crc32fast::Hasher) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
    let mut left = len;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
        input.read_exact(&mut buffer[..want])?;
        crc.update(&buffer[..want]);
        left -= want as u64;
    }
    Ok(())
}

/// The checksum of the first `len` uncompressed bytes; `None` if there are fewer.
pub(super) fn prefix_crc(path: &Path, compression: Compression, len: u64) -> io::Result<Option<u32>> {
    let spec = FileSpec {
        path: path.to_owned(),
        compression,
        splitter: Splitter::new(&crate::format::Format::Json(crate::format::JsonFormat::default())),
        monitor: None,
    };
    let (mut input, _) = open_at(&spec, 0)?;
    let mut crc = crc32fast::Hasher::new();
    match skip(&mut input, len, &mut crc) {
        Ok(()) => Ok(Some(crc.finalize())),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// The first record for which `wanted` holds, and how many bytes and lines stand before the next one.
pub(super) fn first_record(spec: &FileSpec, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<(Vec<u8>, u64, u64)>> {
    let (mut input, _) = open_at(spec, 0)?;
    let mut splitter = spec.splitter.clone();
    let (mut buffer, mut ends) = (Vec::new(), Vec::new());
    let (mut start, mut lines, mut next) = (0usize, 0u64, 0usize);
    loop {
        let got = input.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        splitter.scan(&buffer, &mut ends);
        if got == 0 && start < buffer.len() {
            ends.push(RecordEnd { end: u32::try_from(buffer.len()).unwrap_or(u32::MAX), lines: 1 });
        }
        while let Some(end) = ends.get(next) {
            next += 1;
            let record = &buffer[start..end.end as usize];
            start = end.end as usize;
            lines += u64::from(end.lines);
            if wanted(record) {
                return Ok(Some((record.to_vec(), start as u64, lines)));
            }
        }
        if got == 0 || buffer.len() > MAX_RECORD {
            return Ok(None);
        }
    }
}
