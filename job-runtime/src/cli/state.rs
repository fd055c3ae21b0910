//! `millstream state`: what lies in a stopped job's state directory, or in a snapshot.
//!
//! Owns the opening, and the tables of `list` and `count`; `export` is a file of its own. A snapshot is first downloaded into a temporary
//! directory, with every check of a restore; a state directory is opened as a start of the job opens it, which brings it to the end of the local
//! log. What Millstream itself keeps (source positions, sink tickets) is named.

mod draft;
mod export;
mod keyed;
mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfy_table::{Table, presets};
use dataflow::graph::OperatorUid;
use dataflow::state::{STATE_KEY_PREFIX, ShardStore};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::{StateCommand, StateOf, progress};
use crate::commit::local::{LocalCommitLog, LocalLogConfig};
use crate::snapshot::place::StorePlace;
use crate::snapshot::restore;
use crate::snapshot::store::ObjectStore;
use crate::state::directory::StateDirectory;
use crate::state::rocks::{RocksConfig, RocksDatabases, RocksShardStore};
use keyed::Operators;

/// Does what was asked.
pub(super) fn run(command: &StateCommand) -> Result<(), Failure> {
    match command {
        StateCommand::List { of } => match place(of)? {
            Place::Directory(_) => list_shards(&open(of)?),
            Place::Snapshots(store, uid) => list_checkpoints(store.as_ref(), &uid),
        },
        StateCommand::Count { of } => count(&open(of)?),
        StateCommand::Export { of, what } => export::run(&open(of)?, what),
    }
}

/// Where the state is.
enum Place {
    Directory(PathBuf),
    Snapshots(Arc<dyn ObjectStore>, String),
}

/// State that can be read.
struct Opened {
    stores: Vec<RocksShardStore>,
    /// Keeps a state directory locked while it is read.
    _locked: Option<StateDirectory>,
    /// Keeps a downloaded snapshot there while it is read.
    _temporary: Option<Temporary>,
}

/// A directory that goes when it is dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What is left in the system's directory for such things, the system removes.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(error: impl std::fmt::Display) -> Failure {
    Failure::Start(error.to_string())
}

fn place(of: &StateOf) -> Result<Place, Failure> {
    match (&of.state_dir, &of.checkpoint_dir, &of.job) {
        (Some(dir), None, _) => Ok(Place::Directory(dir.clone())),
        (None, Some(place), Some(job)) => {
            let (store, uid) = snapshots(place, job, of.uid.as_deref())?;
            Ok(Place::Snapshots(store, uid))
        }
        (None, Some(_), None) => {
            Err(Failure::Usage("give the job's name with --job: a place holds the snapshots of many".into()))
        }
        (Some(_), Some(_), _) | (None, None, _) => {
            Err(Failure::Usage("give either --state-dir or --checkpoint-dir with --job".into()))
        }
    }
}

fn snapshots(place: &StorePlace, job: &str, uid: Option<&str>) -> Result<(Arc<dyn ObjectStore>, String), Failure> {
    let cancel = CancellationToken::new();
    let uid = match uid {
        Some(uid) => uid.to_owned(),
        None => place
            .find_uid(job, &cancel)
            .map_err(start)?
            .ok_or_else(|| start(format!("there is no snapshot of a job {job} there")))?,
    };
    Ok((place.open(job, &uid, &cancel).map_err(start)?, uid))
}

fn open(of: &StateOf) -> Result<Opened, Failure> {
    match place(of)? {
        Place::Directory(dir) => open_directory(&dir),
        Place::Snapshots(store, uid) => download(store.as_ref(), &uid, of.number),
    }
}

/// As a start of the job does it.
fn open_directory(dir: &Path) -> Result<Opened, Failure> {
    let (directory, shards) = StateDirectory::of_stopped_job(dir).map_err(start)?;
    let databases = RocksDatabases::new(&directory.shards_dir(), RocksConfig::default()).map_err(start)?;
    let mut stores = shards.all().map(|shard| databases.open(shard)).collect::<Result<Vec<_>, _>>().map_err(start)?;
    let has_log = std::fs::read_dir(directory.log_dir()).is_ok_and(|mut entries| entries.next().is_some());
    if has_log {
        let (log, uid) = (directory.log_dir(), directory.job_uid().to_owned());
        LocalCommitLog::open(&log, &uid, LocalLogConfig::default(), &mut stores).map_err(start)?;
    }
    Ok(Opened { stores, _locked: Some(directory), _temporary: None })
}

fn download(store: &dyn ObjectStore, uid: &str, number: Option<u64>) -> Result<Opened, Failure> {
    let (checkpoints, bad) = restore::checkpoints(store, uid).map_err(start)?;
    let wanted = checkpoints.iter().find(|manifest| number.is_none_or(|number| manifest.number == number));
    let manifest = wanted.ok_or_else(|| {
        let damaged = bad.last().map_or_else(String::new, |error| format!("; {error}"));
        start(format!("{}: there is no such snapshot of job {uid}{damaged}", store.place()))
    })?;
    let temporary = Temporary(std::env::temp_dir().join(format!("millstream-state-{}", uuid::Uuid::new_v4())));
    let databases = RocksDatabases::new(&temporary.0, RocksConfig::default()).map_err(start)?;
    let mut stores = Vec::new();
    for entry in &manifest.entries {
        let shard = restore::shard(store, manifest, entry).map_err(start)?;
        restore::files(store, &shard, &databases.path(entry.shard)).map_err(start)?;
        stores.push(databases.open(entry.shard).map_err(start)?);
    }
    if let Some((_, log)) = restore::log(store, manifest).map_err(start)? {
        let dir = temporary.0.join("log");
        std::fs::create_dir_all(&dir).map_err(start)?;
        crate::commit::local::restore(&dir, uid, &log).map_err(start)?;
        LocalCommitLog::open(&dir, uid, LocalLogConfig::default(), &mut stores).map_err(start)?;
    }
    Ok(Opened { stores, _locked: None, _temporary: Some(temporary) })
}

fn list_checkpoints(store: &dyn ObjectStore, uid: &str) -> Result<(), Failure> {
    let (checkpoints, bad) = restore::checkpoints(store, uid).map_err(start)?;
    let mut table = plain(&["number", "pod", "begun", "shards", "bytes"]);
    for manifest in &checkpoints {
        let begun = progress::time(i64::try_from(manifest.created_ms).unwrap_or(i64::MAX));
        table.add_row(vec![
            manifest.number.to_string(),
            manifest.pod.to_string(),
            begun,
            manifest.entries.len().to_string(),
            progress::number(manifest.bytes()),
        ]);
    }
    print(&format!("{table}\n"));
    bad.iter().for_each(|error| progress::eprint_line(&format!("cannot be read: {error}")));
    Ok(())
}

fn list_shards(opened: &Opened) -> Result<(), Failure> {
    let mut table = plain(&["shard", "place in the log", "entries", "bytes"]);
    for store in &opened.stores {
        let (mut entries, mut bytes) = (0u64, 0u64);
        scan(store, &mut |key, value| {
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
        })?;
        let at = store.applied().map_or_else(|| "–".to_owned(), |offset| offset.0.to_string());
        table.add_row(vec![store.shard().0.to_string(), at, progress::number(entries), progress::number(bytes)]);
    }
    print(&format!("{table}\n"));
    Ok(())
}

fn count(opened: &Opened) -> Result<(), Failure> {
    let operators = operators(opened)?;
    let mut counts: std::collections::BTreeMap<(u32, String), (u64, u64, u64)> = std::collections::BTreeMap::new();
    for store in &opened.stores {
        scan(store, &mut |key, value| {
            let Some((_, operator)) = prefix(key) else { return };
            let what = match operators.kind(operator, key) {
                Some((name, kind)) => format!("{name}: {}", keyed::what(kind)),
                None => what(operator).to_owned(),
            };
            let count = counts.entry((operator.0, what)).or_default();
            *count = (count.0 + 1, count.1 + key.len() as u64, count.2 + value.len() as u64);
        })?;
    }
    let mut table = plain(&["operator", "what", "entries", "bytes of keys", "bytes of values"]);
    for ((operator, what), (entries, keys, values)) in counts {
        let numbers = [entries, keys, values].map(progress::number);
        table.add_row([vec![operator.to_string(), what], numbers.to_vec()].concat());
    }
    print(&format!("{table}\n"));
    Ok(())
}

/// What the notes of all shards say of operators with keyed state.
fn operators(opened: &Opened) -> Result<Operators, Failure> {
    let mut operators = Operators::default();
    for store in &opened.stores {
        scan(store, &mut |key, value| {
            if let Some((_, operator)) = prefix(key) {
                operators.learn(operator, &key[STATE_KEY_PREFIX..], value);
            }
        })?;
    }
    Ok(operators)
}

fn what(operator: OperatorUid) -> &'static str {
    match operator {
        OperatorUid::POSITIONS => "source position",
        OperatorUid::TICKETS => "sink ticket",
        OperatorUid::OPERATORS => "name of an operator",
        _ => "state",
    }
}

/// Key group and operator of a state key; `None` for what is no state key.
fn prefix(key: &[u8]) -> Option<(u16, OperatorUid)> {
    let (group, rest) = key.split_first_chunk::<2>()?;
    let (operator, _) = rest.split_first_chunk::<4>()?;
    Some((u16::from_be_bytes(*group), OperatorUid(u32::from_be_bytes(*operator))))
}

fn scan(store: &RocksShardStore, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Failure> {
    store.scan(b"", visit).map_err(start)
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn print(text: &str) {
    // A closed pipe (`| head`) is the reader's wish, not a failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
