//! `millstream state export`: every entry, as lines of JSON or as rows of Parquet.
//!
//! Owns the output and what a line of JSON says: keyed state by its columns, else key and value in hexadecimal. Rows of Parquet are `table`'s.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use dataflow::graph::OperatorUid;
use dataflow::key::ShardId;
use dataflow::state::{STATE_KEY_PREFIX, ShardStore, StateError};
use serde_json::{Map, Value, json};

use super::draft::{self, Draft, DraftError};
use super::keyed::Operators;
use super::table::{ParquetFile, TableError};
use super::{Opened, operators, prefix, start, what};
use crate::cli::failure::Failure;
use crate::cli::{ExportArgs, ExportFormat};

/// One entry as it is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    /// Its shard.
    pub(super) shard: ShardId,
    /// Its key group.
    pub(super) group: u16,
    /// The stream operator that it is of.
    pub(super) operator: OperatorUid,
    /// The whole key.
    pub(super) key: &'a [u8],
    /// The value.
    pub(super) value: &'a [u8],
}

impl<'a> Stored<'a> {
    /// The key without what all keys begin with.
    pub(super) fn own_key(&self) -> &'a [u8] {
        &self.key[STATE_KEY_PREFIX..]
    }
}

/// State cannot be exported.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error("cannot write {}: {source}", path.display())]
    Table { path: PathBuf, source: TableError },
    #[error("cannot write standard output: {0}")]
    Output(#[source] std::io::Error),
}

/// Does it.
pub(super) fn run(opened: &Opened, args: &ExportArgs) -> Result<(), Failure> {
    let operators = operators(opened)?;
    let done = match (args.format, &args.output) {
        (ExportFormat::Json, None) => to_output(opened, args, &operators),
        (ExportFormat::Json, Some(path)) => to_file(opened, args, &operators, path),
        (ExportFormat::Parquet, Some(path)) => match args.operator {
            Some(uid) => to_table(opened, args, &operators, OperatorUid(uid), path),
            None => to_tables(opened, args, &operators, path),
        },
        (ExportFormat::Parquet, None) => return Err(Failure::Usage("say with --output where to write".to_owned())),
    };
    match done {
        // A closed pipe (`| head`) is the reader's wish, not a failure.
        Err(ExportError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(start),
    }
}

/// Visits the entries that are asked for, shard by shard in the order of their keys, until the first error.
fn each(
    opened: &Opened,
    args: &ExportArgs,
    visit: &mut dyn FnMut(Stored<'_>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    for store in opened.stores.iter().filter(|store| args.shard.is_none_or(|shard| store.shard() == ShardId(shard))) {
        let mut result = Ok(());
        store.scan(b"", &mut |key, value| {
            let Some((group, operator)) = prefix(key) else { return };
            if result.is_ok() && args.operator.is_none_or(|wanted| wanted == operator.0) {
                result = visit(Stored { shard: store.shard(), group, operator, key, value });
            }
        })?;
        result?;
    }
    Ok(())
}

fn to_output(opened: &Opened, args: &ExportArgs, operators: &Operators) -> Result<(), ExportError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    each(opened, args, &mut |stored| writeln!(out, "{}", line(operators, &stored)).map_err(ExportError::Output))?;
    out.flush().map_err(ExportError::Output)
}

fn to_file(opened: &Opened, args: &ExportArgs, operators: &Operators, path: &Path) -> Result<(), ExportError> {
    let draft = Draft::new(path)?;
    let mut out = BufWriter::new(File::create_new(draft.path()).map_err(draft::io("create", path))?);
    each(opened, args, &mut |stored| {
        Ok(writeln!(out, "{}", line(operators, &stored)).map_err(draft::io("write", path))?)
    })?;
    let file = out.into_inner().map_err(|error| draft::io("write", path)(error.into_error()))?;
    file.sync_all().map_err(draft::io("sync", path))?;
    Ok(draft.finish()?)
}

/// One file of one stream operator; without rows if it has no entries.
fn to_table(
    opened: &Opened,
    args: &ExportArgs,
    operators: &Operators,
    operator: OperatorUid,
    path: &Path,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Table { path: path.to_owned(), source };
    let draft = Draft::new(path)?;
    let file = File::create_new(draft.path()).map_err(draft::io("create", path))?;
    let mut table = ParquetFile::new(file, operators.get(operator)).map_err(failed)?;
    each(opened, args, &mut |stored| table.push(operators, &stored).map_err(failed))?;
    let file = table.finish().map_err(failed)?;
    file.sync_all().map_err(draft::io("sync", path))?;
    Ok(draft.finish()?)
}

/// A directory with a file for each stream operator that has entries.
fn to_tables(opened: &Opened, args: &ExportArgs, operators: &Operators, path: &Path) -> Result<(), ExportError> {
    let draft = Draft::new(path)?;
    std::fs::create_dir(draft.path()).map_err(draft::io("create", path))?;
    let mut tables: BTreeMap<u32, ParquetFile> = BTreeMap::new();
    let failed = |uid: u32| {
        let path = path.join(file_name(uid));
        move |source| ExportError::Table { path, source }
    };
    each(opened, args, &mut |stored| {
        let uid = stored.operator.0;
        let table = match tables.entry(uid) {
            Entry::Occupied(table) => table.into_mut(),
            Entry::Vacant(free) => {
                let own = draft.path().join(file_name(uid));
                let file = File::create_new(&own).map_err(draft::io("create", &path.join(file_name(uid))))?;
                free.insert(ParquetFile::new(file, operators.get(stored.operator)).map_err(failed(uid))?)
            }
        };
        table.push(operators, &stored).map_err(failed(uid))
    })?;
    for (uid, table) in tables {
        let file = table.finish().map_err(failed(uid))?;
        file.sync_all().map_err(draft::io("sync", &path.join(file_name(uid))))?;
    }
    draft::sync(draft.path())?;
    Ok(draft.finish()?)
}

/// As `explain` shows the uid, without its `0x`.
fn file_name(uid: u32) -> String {
    format!("{uid:08x}.parquet")
}

/// An entry as a line of JSON.
pub(super) fn line(operators: &Operators, stored: &Stored<'_>) -> Value {
    let entry = operators.entry(stored.operator, stored.key, stored.value);
    let mut line = Map::new();
    let head =
        [("shard", json!(stored.shard.0)), ("keyGroup", json!(stored.group)), ("operator", json!(stored.operator.0))];
    line.extend(head.map(|(name, value)| (name.to_owned(), value)));
    match entry.and_then(|entry| entry.json()) {
        Some(fields) => line.extend(fields),
        None => line.extend(
            [
                ("what", json!(what(stored.operator))),
                ("key", json!(hex(stored.own_key()))),
                ("value", json!(hex(stored.value))),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        ),
    }
    Value::Object(line)
}

/// Bytes as text.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
