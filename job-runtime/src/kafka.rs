//! Kafka: client properties, the source, the sink, and the transactional producer under the commit log.
//!
//! Owns every call of the Kafka client; the C calls are in `ffi` alone. It does not decide when to commit (crate `checkpoint`), and does not
//! know formats (module `format`).

pub mod client;
pub mod fence;
pub mod ffi;
pub mod producer;
pub mod properties;
pub mod shuffle;
pub mod sink;
pub mod source;

use std::path::Path;

use crate::connector::options::{self, TableOptions};
use crate::connector::registry::ConnectorContext;
use crate::connector::{ConnectorError, SinkTarget};
use properties::{ClusterDefaults, Credentials, KafkaProperties};

/// Checks a table's options without I/O.
pub(crate) fn validate(options: &TableOptions<'_>, as_source: bool, as_sink: bool) -> Result<(), ConnectorError> {
    // Whether a cluster names the brokers is not known here: only the table's own properties are looked at.
    let anywhere = ClusterDefaults { bootstrap_servers: Some("known later".to_owned()), ..ClusterDefaults::default() };
    checked(options, &anywhere)?;
    if as_source {
        source::validate(options)?;
    }
    if as_sink {
        sink::validate(options)?;
    }
    Ok(())
}

/// The topic of a table's dead letters, which is on the table's cluster and must be there.
pub(crate) fn dead_letters(
    options: &TableOptions<'_>,
    topic: &str,
    context: &ConnectorContext,
) -> Result<SinkTarget, ConnectorError> {
    let properties = table_properties(options, context)?;
    sink::topic(&properties, topic)
        .map_err(|error| options.error(sink::blamed(&error, &options::DEAD_LETTER_TOPIC), error.to_string()))
}

/// A table's client properties: its own, over its cluster's.
pub(crate) fn table_properties(
    options: &TableOptions<'_>,
    context: &ConnectorContext,
) -> Result<KafkaProperties, ConnectorError> {
    let dir = Path::new(job_api::KAFKA_SECRET_DIR);
    let unreadable = |e: std::io::Error| {
        options.error("connector", format!("cannot read the Kafka credentials in {}: {e}", dir.display()))
    };
    let credentials = Credentials::read(dir).map_err(unreadable)?;
    let cluster = match &context.kafka {
        None => ClusterDefaults { credentials, ..ClusterDefaults::default() },
        Some(kafka) => ClusterDefaults {
            bootstrap_servers: Some(kafka.bootstrap_servers.clone()),
            properties: kafka.properties.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            credentials,
        },
    };
    checked(options, &cluster)
}

fn checked(options: &TableOptions<'_>, cluster: &ClusterDefaults) -> Result<KafkaProperties, ConnectorError> {
    let own: Vec<(String, String)> =
        options.with_prefix("properties.").map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    KafkaProperties::new(cluster, &own).map_err(|e| options.error(&e.option, e.message))
}
