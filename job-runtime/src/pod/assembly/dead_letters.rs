//! The sinks of dead letters in the start of a pod: one per source node whose table has a place for them.
//!
//! Owns that several sources may write to one file. To the driver they are sinks like any other, under the id of their source.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataflow::graph::{Node, NodeKind};
use dataflow::sink::SinkChunk;
use dataflow::worker::CommitId;

use super::{OpenSink, table};
use crate::connector::options::{DEAD_LETTER_PATH, TableOptions};
use crate::connector::{ConnectorError, ExternalSink, SinkTarget, Ticket, registry};
use crate::pod::{PodConfig, PodError};

/// Opens the places of all dead letters.
pub(super) fn open<'a>(config: &PodConfig, nodes: &'a [Node]) -> Result<Vec<OpenSink<'a>>, PodError> {
    let (mut out, mut files) = (Vec::new(), BTreeMap::new());
    for node in nodes {
        let NodeKind::Source(source) = &node.kind else { continue };
        let table = table(config, &source.table);
        let Some(target) = registry::dead_letters(table, &config.connectors)? else { continue };
        let target = match target {
            SinkTarget::Kafka(topic) => SinkTarget::Kafka(topic),
            SinkTarget::External(file) => {
                let path =
                    TableOptions::check(table)?.raw(DEAD_LETTER_PATH.key).map(|p| config.connectors.base_dir.join(p));
                SinkTarget::External(Box::new(shared(&mut files, path, file)))
            }
        };
        out.push(OpenSink { node, table: &source.table, factory: None, target });
    }
    Ok(out)
}

type File = Arc<Mutex<Box<dyn ExternalSink>>>;

/// The first source that writes to a file also commits it.
fn shared<K: Ord>(files: &mut BTreeMap<K, File>, path: K, file: Box<dyn ExternalSink>) -> Shared {
    if let Some(first) = files.get(&path) {
        return Shared { file: Arc::clone(first), commits: false };
    }
    let file = Arc::new(Mutex::new(file));
    files.insert(path, Arc::clone(&file));
    Shared { file, commits: true }
}

/// A file that several sources write to. All calls come from the committer's thread.
struct Shared {
    file: File,
    commits: bool,
}

impl Shared {
    fn file(&self) -> MutexGuard<'_, Box<dyn ExternalSink>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExternalSink for Shared {
    fn recover(&mut self, tickets: &[Ticket]) -> Result<(), ConnectorError> {
        if self.commits { self.file().recover(tickets) } else { Ok(()) }
    }

    fn write(&mut self, chunk: &SinkChunk) -> Result<(), ConnectorError> {
        self.file().write(chunk)
    }

    fn prepare(&mut self, commit: CommitId) -> Result<Vec<Ticket>, ConnectorError> {
        if self.commits { self.file().prepare(commit) } else { Ok(Vec::new()) }
    }

    fn committed(&mut self, commit: CommitId, last: bool) -> Result<(), ConnectorError> {
        if self.commits { self.file().committed(commit, last) } else { Ok(()) }
    }
}
