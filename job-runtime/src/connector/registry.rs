//! From a table's options to its connector: the one place that knows them all.
//!
//! Owns the choice and the check of a table without I/O. It does not read options itself beyond `connector`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use dataflow::graph::{SinkNode, SourceNode};
use plan::{Guarantee, Table};

use super::blackhole::BlackholeFactory;
use super::datagen::{self, DatagenFactory};
use super::filesystem::{self, FileSinkFactory, FileSourceFactory};
use super::nexmark::{self, NexmarkFactory};
use super::options::{self, Connector, TableOptions};
use super::print::{self, PrintFactory};
use super::{ConnectorError, SinkFactory, SinkTarget, SourceFactory, dead_letter};
use crate::kafka;
use crate::kafka::sink::KafkaSinkFactory;
use crate::kafka::source::KafkaSourceFactory;

/// Where `print` writes to. Shared, so that a progress display can stand beside it.
pub type Output = Arc<Mutex<dyn Write + Send>>;

/// What connectors need to know of the job they work for.
#[derive(Clone)]
pub struct ConnectorContext {
    /// Directory that relative paths of options start from: the job file's.
    pub base_dir: PathBuf,
    /// The job's uid: marks the sink's own unfinished files.
    pub job_uid: String,
    /// Kafka of the StreamCluster: defaults of every table's `properties.*`.
    pub kafka: Option<job_api::KafkaSettings>,
    /// Where `print` writes to.
    pub output: Output,
    /// True if every source ends by itself: then `print` shows one table at the end.
    pub bounded: bool,
}

/// Checks a table's options, types and combinations without any I/O.
///
/// # Errors
/// At the first thing that is wrong; `option` names the option to look at.
pub fn validate(table: &Table, as_source: bool, as_sink: bool) -> Result<(), ConnectorError> {
    let options = TableOptions::check(table)?;
    let connector = options.connector();
    if as_source && matches!(connector, Connector::Print | Connector::Blackhole) {
        return Err(wrong_direction(&options, "be read: it is a sink only"));
    }
    if as_sink && matches!(connector, Connector::Datagen | Connector::Nexmark) {
        return Err(wrong_direction(&options, "be written to: it is a source only"));
    }
    match connector {
        Connector::Filesystem => filesystem::validate(&options, as_source, as_sink),
        Connector::Print => print::validate(&options),
        Connector::Nexmark => nexmark::validate(&options),
        Connector::Datagen => datagen::validate(&options),
        Connector::Kafka => kafka::validate(&options, as_source, as_sink),
        Connector::Blackhole => Ok(()),
    }
}

fn wrong_direction(options: &TableOptions<'_>, what: &str) -> ConnectorError {
    let message = format!("a table with connector '{}' cannot {what}", options.connector().name());
    options.error(options::CONNECTOR.key, message)
}

/// Opens a table as a source.
///
/// # Errors
/// When an option is wrong or the source is not there.
pub fn source(
    table: &Table,
    node: &SourceNode,
    context: &ConnectorContext,
) -> Result<Box<dyn SourceFactory>, ConnectorError> {
    validate(table, true, false)?;
    let options = TableOptions::check(table)?;
    match options.connector() {
        Connector::Filesystem => Ok(Box::new(FileSourceFactory::new(&options, &node.decoded, context)?)),
        Connector::Kafka => Ok(Box::new(KafkaSourceFactory::new(&options, &node.decoded, context)?)),
        Connector::Datagen => Ok(Box::new(DatagenFactory::new(&options, &node.decoded)?)),
        Connector::Nexmark => Ok(Box::new(NexmarkFactory::new(&options, &node.decoded)?)),
        Connector::Print | Connector::Blackhole => Err(wrong_direction(&options, "be read: it is a sink only")),
    }
}

/// What writes the dead letters of a table that is read, if it has any.
///
/// # Errors
/// When an option is wrong, or the place is not there or not writable.
pub fn dead_letters(table: &Table, context: &ConnectorContext) -> Result<Option<SinkTarget>, ConnectorError> {
    dead_letter::target(&TableOptions::check(table)?, context)
}

/// Opens a table as a sink.
///
/// # Errors
/// When an option is wrong or the target is not there.
pub fn sink(
    table: &Table,
    _node: &SinkNode,
    context: &ConnectorContext,
) -> Result<Box<dyn SinkFactory>, ConnectorError> {
    validate(table, false, true)?;
    let options = TableOptions::check(table)?;
    match options.connector() {
        Connector::Filesystem => Ok(Box::new(FileSinkFactory::new(&options, context)?)),
        Connector::Print => Ok(Box::new(PrintFactory::new(&options, context)?)),
        Connector::Blackhole => Ok(Box::new(BlackholeFactory { table: table.name.clone() })),
        Connector::Kafka => Ok(Box::new(KafkaSinkFactory::new(&options, context)?)),
        Connector::Datagen | Connector::Nexmark => Err(wrong_direction(&options, "be written to: it is a source only")),
    }
}

/// Whether a table that is read ends by itself, without any I/O.
///
/// # Errors
/// When an option is wrong.
pub fn bounded(table: &Table) -> Result<bool, ConnectorError> {
    let options = TableOptions::check(table)?;
    Ok(match options.connector() {
        Connector::Filesystem => options.raw(options::SOURCE_MONITOR_INTERVAL.key).is_none(),
        Connector::Kafka => options.text(&options::SCAN_BOUNDED_MODE) == Some("latest-offset"),
        Connector::Nexmark => options.integer(&options::NEXMARK_EVENTS).is_some_and(|events| events > 0),
        Connector::Datagen => {
            let sequence = |(key, kind): (&str, &str)| key.ends_with(".kind") && kind == "sequence";
            options.raw(options::NUMBER_OF_ROWS.key).is_some() || options.with_prefix("fields.").any(sequence)
        }
        Connector::Print | Connector::Blackhole => true,
    })
}

/// What a table that is written to can promise, without any I/O.
///
/// # Errors
/// When an option is wrong.
pub fn guarantee(table: &Table) -> Result<Guarantee, ConnectorError> {
    let options = TableOptions::check(table)?;
    Ok(match options.connector() {
        Connector::Filesystem => Guarantee::ExactlyOnce,
        Connector::Kafka => match options.text(&options::SINK_DELIVERY_GUARANTEE) {
            Some("at-least-once") => Guarantee::AtLeastOnce,
            Some(_) | None => Guarantee::ExactlyOnce,
        },
        Connector::Print | Connector::Blackhole | Connector::Datagen | Connector::Nexmark => Guarantee::None,
    })
}
