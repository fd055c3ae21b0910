//! The file sink: rows appended to part files whose committed lengths are in the commit.
//!
//! A part is written under a hidden name of the job's own (`.part-0-3.<job>.inprogress`), made durable in `prepare`, and gets its final
//! name (`part-0-3.jsonl`) when it is rolled or the job ends; recovery cuts it back to its committed length. With a path that is one file,
//! there is one part that takes the final name with its first commit and is appended to in place: a reader may then see rows of an
//! interval that is not committed yet, which recovery cuts off. Compressed parts have one gzip member or zstd frame per commit, which
//! readers of both take as one file. It does not encode rows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use dataflow::sink::{SinkChunk, SinkEncoder, SinkPayload};
use dataflow::worker::CommitId;

use super::ticket::PartTicket;
use super::{Compression, explain, path_of};
use crate::connector::encoder::TextEncoder;
use crate::connector::format_options;
use crate::connector::options::{self, TableOptions};
use crate::connector::registry::ConnectorContext;
use crate::connector::{ConnectorError, ExternalSink, SinkFactory, SinkTarget, Ticket};
use crate::format::{Format, JsonFormat, RowEnd};

/// The one part of a sink that is a single file.
const SINGLE: u32 = u32::MAX;

/// Where parts stand and what they are called.
#[derive(Clone, Debug)]
struct Layout {
    directory: PathBuf,
    /// The file's name if the sink is one file.
    single: Option<String>,
    /// Ending of a part's final name.
    ending: String,
    /// Marks our own files that are not finished.
    job: String,
}

impl Layout {
    fn last_name(&self, worker: u32, number: u64) -> PathBuf {
        self.directory.join(match &self.single {
            Some(name) => name.clone(),
            None => format!("part-{worker}-{number}{}", self.ending),
        })
    }

    fn hidden_name(&self, worker: u32, number: u64) -> PathBuf {
        let stem = match &self.single {
            Some(name) => name.clone(),
            None => format!("part-{worker}-{number}"),
        };
        self.directory.join(format!(".{stem}.{}.inprogress", self.job))
    }

    /// Whether a file name is one of `hidden_name`'s.
    fn is_ours(&self, name: &str) -> bool {
        let stem = match &self.single {
            Some(single) => name.strip_prefix('.').is_some_and(|n| n.starts_with(single.as_str())),
            None => name.starts_with(".part-"),
        };
        stem && name.ends_with(&format!(".{}.inprogress", self.job))
    }
}

/// Makes the encoders and the target of a table of files.
#[derive(Debug)]
pub(in crate::connector) struct FileSinkFactory {
    table: String,
    schema: SchemaRef,
    format: Format,
    layout: Layout,
    compression: Compression,
    roll_at: u64,
    roll_after: Duration,
    /// The option that names the path.
    option: &'static str,
}

/// Checks what only sinks need.
pub(super) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    if options.raw(options::SOURCE_MONITOR_INTERVAL.key).is_some() {
        let message = "'source.monitor-interval' is for sources, and this table is written to";
        return Err(options.error(options::SOURCE_MONITOR_INTERVAL.key, message));
    }
    Ok(())
}

fn is_single(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.trim_end_matches(".gz").trim_end_matches(".zst");
    [".json", ".jsonl", ".ndjson", ".csv"].iter().any(|ending| name.ends_with(ending))
}

impl FileSinkFactory {
    pub(in crate::connector) fn new(
        options: &TableOptions<'_>,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let path = path_of(options, context)?;
        let format = format_options::format(options)?;
        Ok(Self::at(options, &path, format, options::PATH.key, context))
    }

    /// A sink of JSON lines at `dead-letter.path`; nothing is encoded by it.
    pub(super) fn dead_letters(options: &TableOptions<'_>, path: &Path, context: &ConnectorContext) -> Self {
        let format = Format::Json(JsonFormat::default());
        Self::at(options, path, format, options::DEAD_LETTER_PATH.key, context)
    }

    fn at(
        options: &TableOptions<'_>,
        path: &Path,
        format: Format,
        option: &'static str,
        context: &ConnectorContext,
    ) -> Self {
        let table = options.table();
        // How the table's own files are packed says nothing of the letters.
        let compression = match option == options::PATH.key {
            true => Compression::of(options, path),
            false => Compression::by_name(path),
        };
        let (directory, single) = match path.file_name() {
            Some(name) if is_single(path) => {
                (path.parent().unwrap_or(Path::new(".")).to_owned(), Some(name.to_string_lossy().into_owned()))
            }
            Some(_) | None => (path.to_owned(), None),
        };
        let text = match &format {
            Format::Json(_) => ".jsonl",
            Format::Csv(_) => ".csv",
        };
        let job = format!("{:08x}", xxhash_rust::xxh3::xxh3_64(context.job_uid.as_bytes()) >> 32);
        let layout = Layout { directory, single, ending: format!("{text}{}", compression.ending()), job };
        FileSinkFactory {
            table: table.name.clone(),
            schema: table.physical.clone(),
            format,
            layout,
            compression,
            roll_at: options.size(&options::SINK_ROLLING_FILE_SIZE).unwrap_or(u64::MAX),
            roll_after: options.duration(&options::SINK_ROLLING_INTERVAL).unwrap_or(Duration::MAX),
            option,
        }
    }

    fn preamble(&self) -> Vec<u8> {
        match &self.format {
            Format::Csv(csv) if csv.header => {
                let names: Vec<_> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
                let mut header = names.join(&char::from(csv.delimiter).to_string()).into_bytes();
                header.push(b'\n');
                header
            }
            Format::Csv(_) | Format::Json(_) => Vec::new(),
        }
    }
}

impl SinkFactory for FileSinkFactory {
    fn encoder(&self, _worker: usize) -> Result<Box<dyn SinkEncoder>, ConnectorError> {
        let encoder = self.format.encoder(&self.schema, RowEnd::Newline).map_err(|e| ConnectorError {
            table: self.table.clone(),
            option: Some(options::FORMAT.key.to_owned()),
            message: e.message,
        })?;
        Ok(Box::new(TextEncoder::new(&self.table, encoder)))
    }

    fn target(&self) -> Result<SinkTarget, ConnectorError> {
        let directory = &self.layout.directory;
        let fail =
            |message| ConnectorError { table: self.table.clone(), option: Some(self.option.to_owned()), message };
        std::fs::create_dir_all(directory).map_err(|e| fail(explain("create the directory", directory, &e)))?;
        let probe = directory.join(format!(".{}.probe", self.layout.job));
        let writable = File::create(&probe).and_then(|_| std::fs::remove_file(&probe));
        writable.map_err(|e| fail(explain("write into the directory", directory, &e)))?;
        Ok(SinkTarget::External(Box::new(FileSink {
            table: self.table.clone(),
            option: self.option,
            layout: self.layout.clone(),
            compression: self.compression,
            preamble: self.preamble(),
            roll_at: self.roll_at,
            roll_after: self.roll_after,
            parts: BTreeMap::new(),
            next_number: BTreeMap::new(),
        })))
    }

    fn guarantee(&self) -> plan::Guarantee {
        plan::Guarantee::ExactlyOnce
    }
}

/// One part that is being written.
struct Part {
    number: u64,
    file: File,
    path: PathBuf,
    /// Bytes in the file, those of the running interval included.
    length: u64,
    member: Member,
    since: Instant,
    dirty: bool,
    rolled: bool,
}

/// The running interval's compressor.
enum Member {
    None,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(Box<zstd::Encoder<'static, Vec<u8>>>),
}

impl Member {
    fn begin(compression: Compression) -> io::Result<Member> {
        Ok(match compression {
            Compression::None => Member::None,
            Compression::Gzip => {
                Member::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()))
            }
            Compression::Zstd => Member::Zstd(Box::new(zstd::Encoder::new(Vec::new(), 0)?)),
        })
    }
}

impl Part {
    fn write(&mut self, bytes: &[u8], compression: Compression) -> io::Result<()> {
        if matches!(self.member, Member::None) {
            self.member = Member::begin(compression)?;
        }
        self.dirty = true;
        let packed = match &mut self.member {
            Member::None => {
                self.length += bytes.len() as u64;
                return self.file.write_all(bytes);
            }
            Member::Gzip(member) => {
                member.write_all(bytes)?;
                member.get_mut()
            }
            Member::Zstd(member) => {
                member.write_all(bytes)?;
                member.get_mut()
            }
        };
        self.length += packed.len() as u64;
        self.file.write_all(packed)?;
        packed.clear();
        Ok(())
    }

    /// Ends the interval's member and makes everything durable.
    fn finish_interval(&mut self) -> io::Result<()> {
        let tail = match std::mem::replace(&mut self.member, Member::None) {
            Member::None => Vec::new(),
            Member::Gzip(member) => member.finish()?,
            Member::Zstd(member) => member.finish()?,
        };
        self.length += tail.len() as u64;
        self.file.write_all(&tail)?;
        self.dirty = false;
        self.file.sync_data()
    }
}

struct FileSink {
    table: String,
    option: &'static str,
    layout: Layout,
    compression: Compression,
    preamble: Vec<u8>,
    roll_at: u64,
    roll_after: Duration,
    /// By worker.
    parts: BTreeMap<u32, Part>,
    /// The number of the next part, for workers that have had one.
    next_number: BTreeMap<u32, u64>,
}

impl FileSink {
    fn fail(&self, message: impl Into<String>) -> ConnectorError {
        let option = Some(self.option.to_owned());
        ConnectorError { table: self.table.clone(), option, message: message.into() }
    }

    fn io(&self, doing: &str, path: &Path, error: &io::Error) -> ConnectorError {
        self.fail(explain(doing, path, error))
    }

    fn begin_part(&mut self, worker: u32) -> Result<(), ConnectorError> {
        let number = self.next_number.get(&worker).copied().unwrap_or(0);
        let path = self.layout.hidden_name(worker, number);
        let part = (|| {
            let file = OpenOptions::new().create_new(true).append(true).open(&path)?;
            // The name must be durable before a ticket can speak of it.
            sync_directory(&self.layout.directory)?;
            let path = path.clone();
            let mut part = Part {
                number,
                file,
                path,
                length: 0,
                member: Member::None,
                since: Instant::now(),
                dirty: true,
                rolled: false,
            };
            if !self.preamble.is_empty() {
                part.write(&self.preamble, self.compression)?;
            }
            Ok(part)
        })();
        let part = part.map_err(|e| self.io("create", &path, &e))?;
        self.parts.insert(worker, part);
        Ok(())
    }

    /// Without tickets nothing of this job is committed here: only its own leftovers may be there.
    fn check_empty(&self) -> Result<(), ConnectorError> {
        if let Some(name) = &self.layout.single {
            let path = self.layout.directory.join(name);
            let length = path.metadata().map_or(0, |m| m.len());
            return if length == 0 { Ok(()) } else { Err(self.foreign(&path)) };
        }
        for name in self.names()? {
            let unfinished = name.starts_with(".part-") && name.ends_with(".inprogress");
            if !name.starts_with('.') || (unfinished && !self.layout.is_ours(&name)) {
                return Err(self.foreign(&self.layout.directory.join(name)));
            }
        }
        Ok(())
    }

    fn foreign(&self, path: &Path) -> ConnectorError {
        let shown = path.display();
        self.fail(format!(
            "{shown} is there already and is not this run's output: remove it or choose another '{}' (--fresh does not delete output)",
            self.option
        ))
    }

    fn names(&self) -> Result<Vec<String>, ConnectorError> {
        let directory = &self.layout.directory;
        let listed = std::fs::read_dir(directory).and_then(|entries| {
            entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
        });
        listed.map_err(|e| self.io("list", directory, &e))
    }

    fn restore(&mut self, ticket: PartTicket) -> Result<(), ConnectorError> {
        let PartTicket { worker, number, length, rolled } = ticket;
        let hidden = self.layout.hidden_name(worker, number);
        let last = self.layout.last_name(worker, number);
        self.next_number.insert(worker, number + 1);
        let is_single = self.layout.single.is_some();
        let path = match (hidden.exists(), last.exists()) {
            (true, false) => hidden,
            (_, true) if is_single => last,
            // Renamed at the end of the job, or rolled: what follows goes into a new part.
            (false, true) if !rolled && last.metadata().is_ok_and(|m| m.len() != length) => {
                return Err(self.fail(format!("{} is not as long as it was committed", last.display())));
            }
            (false, true) => return Ok(()),
            // A finished part may have been taken away by who reads it.
            (false, false) if rolled => return Ok(()),
            (true, true) => return Err(self.foreign(&last)),
            (false, false) => {
                let message = "what this job has committed there is gone: put it back, or start over with --fresh";
                return Err(self.fail(format!("{}: {message}", last.display())));
            }
        };
        let file = (|| {
            let file = OpenOptions::new().append(true).open(&path)?;
            let found = file.metadata()?.len();
            if found >= length {
                file.set_len(length)?;
                file.sync_data()?;
            }
            Ok((file, found))
        })();
        let (file, found) = file.map_err(|e| self.io("write", &path, &e))?;
        if found < length {
            let message = format!("{} has {found} bytes, but {length} were committed", path.display());
            return Err(self.fail(message));
        }
        let part =
            Part { number, file, path, length, member: Member::None, since: Instant::now(), dirty: false, rolled };
        self.parts.insert(worker, part);
        if rolled || is_single { self.publish(worker) } else { Ok(()) }
    }

    /// Gives a part its final name; a part of a directory is done with then.
    fn publish(&mut self, worker: u32) -> Result<(), ConnectorError> {
        let Some(part) = self.parts.get(&worker) else { return Ok(()) };
        let last = self.layout.last_name(worker, part.number);
        if part.path != last {
            let refused = last.metadata().is_ok_and(|m| m.len() > 0);
            if refused {
                return Err(self.foreign(&last));
            }
            let renamed = std::fs::rename(&part.path, &last).and_then(|()| sync_directory(&self.layout.directory));
            renamed.map_err(|e| self.io("rename to", &last, &e))?;
        }
        if self.layout.single.is_some() {
            if let Some(part) = self.parts.get_mut(&worker) {
                part.path = last;
            }
        } else if let Some(part) = self.parts.remove(&worker) {
            self.next_number.insert(worker, part.number + 1);
        }
        Ok(())
    }
}

impl ExternalSink for FileSink {
    fn recover(&mut self, tickets: &[Ticket]) -> Result<(), ConnectorError> {
        if tickets.is_empty() {
            self.check_empty()?;
        }
        for ticket in tickets {
            let part = PartTicket::decode(ticket)
                .ok_or_else(|| self.fail("the stored state of this sink is not readable by this version"))?;
            self.restore(part)?;
        }
        let kept: Vec<_> = self.parts.values().map(|p| p.path.clone()).collect();
        for name in self.names()? {
            let path = self.layout.directory.join(&name);
            if self.layout.is_ours(&name) && !kept.contains(&path) {
                std::fs::remove_file(&path).map_err(|e| self.io("remove", &path, &e))?;
            }
        }
        Ok(())
    }

    fn write(&mut self, chunk: &SinkChunk) -> Result<(), ConnectorError> {
        let SinkPayload::Rows(rows) = &chunk.payload else {
            return Err(self.fail("was given rows that are not encoded (a bug of Millstream)"));
        };
        if rows.bytes.is_empty() {
            return Ok(());
        }
        let worker = match self.layout.single {
            Some(_) => SINGLE,
            None => u32::try_from(chunk.worker).unwrap_or(SINGLE - 1),
        };
        if !self.parts.contains_key(&worker) {
            self.begin_part(worker)?;
        }
        let part = self.parts.get_mut(&worker).expect("begun above");
        let written = part.write(&rows.bytes, self.compression);
        let path = part.path.clone();
        written.map_err(|e| self.io("write", &path, &e))
    }

    fn prepare(&mut self, _commit: CommitId) -> Result<Vec<Ticket>, ConnectorError> {
        let mut tickets = Vec::new();
        let mut failed = None;
        for (&worker, part) in self.parts.iter_mut().filter(|(_, part)| part.dirty) {
            if let Err(e) = part.finish_interval() {
                failed = Some((part.path.clone(), e));
                break;
            }
            part.rolled = self.layout.single.is_none()
                && (part.length >= self.roll_at || part.since.elapsed() >= self.roll_after);
            let ticket = PartTicket { worker, number: part.number, length: part.length, rolled: part.rolled };
            tickets.push(ticket.encode());
        }
        match failed {
            Some((path, e)) => Err(self.io("write", &path, &e)),
            None => Ok(tickets),
        }
    }

    fn committed(&mut self, _commit: CommitId, last: bool) -> Result<(), ConnectorError> {
        let is_single = self.layout.single.is_some();
        let due = |part: &Part| part.rolled || last || is_single;
        let due: Vec<u32> = self.parts.iter().filter(|(_, part)| due(part)).map(|(&worker, _)| worker).collect();
        due.into_iter().try_for_each(|worker| self.publish(worker))
    }
}

/// Makes names in a directory durable.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
