//! The sink `kafka`: rows encoded on the worker, written by the commit log in the commit's transaction.
//!
//! Owns keys and values of records. It does not produce (`commit::kafka`).
//!
//! Without `key.fields` records have no key and go to partitions in runs; with them the key decides the partition as Kafka's own clients do
//! (murmur2). `'sink.delivery-guarantee' = 'at-least-once'` is written with the same transaction and promises less than it does.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use dataflow::sink::{EncodedRows, SinkEncoder, SinkError, SinkPayload};
use plan::Guarantee;

use super::client::{CONNECT_DEADLINE, ConnectError, ConsumerClient};
use super::properties::KafkaProperties;
use super::table_properties;
use crate::connector::format_options;
use crate::connector::options::{self, OptionDoc, TableOptions};
use crate::connector::registry::ConnectorContext;
use crate::connector::{ConnectorError, KafkaSinkTarget, SinkFactory, SinkTarget};
use crate::format::{Format, FormatError, RowEncoder, RowEnd};

/// About how many bytes make a piece.
const PIECE: usize = 1 << 20;

/// Makes the encoders of a table.
pub struct KafkaSinkFactory {
    table: String,
    topic: String,
    properties: KafkaProperties,
    schema: SchemaRef,
    format: Format,
    key: Option<Key>,
    guarantee: Guarantee,
}

#[derive(Clone)]
struct Key {
    format: Format,
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// Checks what only sinks need, without I/O.
pub(crate) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    let format = format_options::format(options)?;
    format_options::check(options, &format)?;
    key(options).map(drop)
}

fn key(options: &TableOptions<'_>) -> Result<Option<Key>, ConnectorError> {
    let schema = &options.table().physical;
    let (fields, format) = (options.raw(options::KEY_FIELDS.key), format_options::key_format(options)?);
    let (fields, format) = match (fields, format) {
        (None, None) => return Ok(None),
        (Some(fields), Some(format)) => (fields, format),
        (Some(_), None) => {
            return Err(options.error(options::KEY_FIELDS.key, "'key.fields' needs 'key.format': json or csv"));
        }
        (None, Some(_)) => {
            return Err(options.error(
                options::KEY_FORMAT.key,
                "'key.format' needs 'key.fields': the columns of the key, separated by ';'",
            ));
        }
    };
    let mut columns = Vec::new();
    for name in fields.split(';').map(str::trim).filter(|name| !name.is_empty()) {
        columns.push(schema.index_of(name).map_err(|_| {
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let message = format!(
                "'key.fields': table {} has no column {name}; it has {}",
                options.table().name,
                names.join(", ")
            );
            options.error(options::KEY_FIELDS.key, message)
        })?);
    }
    if columns.is_empty() {
        return Err(options.error(options::KEY_FIELDS.key, "'key.fields' names no column"));
    }
    let key_schema: SchemaRef =
        Arc::new(Schema::new(columns.iter().map(|at| schema.field(*at).clone()).collect::<Vec<_>>()));
    format.check(&key_schema).map_err(|e| options.error(options::KEY_FORMAT.key, e.message))?;
    Ok(Some(Key { format, columns, schema: key_schema }))
}

impl KafkaSinkFactory {
    /// Reads the options; connects to nothing.
    ///
    /// # Errors
    /// When an option is wrong.
    pub(crate) fn new(options: &TableOptions<'_>, context: &ConnectorContext) -> Result<Self, ConnectorError> {
        validate(options)?;
        let guarantee = match options.text(&options::SINK_DELIVERY_GUARANTEE) {
            Some("at-least-once") => Guarantee::AtLeastOnce,
            _ => Guarantee::ExactlyOnce,
        };
        Ok(Self {
            table: options.table().name.clone(),
            topic: options.required(&options::TOPIC)?.to_owned(),
            properties: table_properties(options, context)?,
            schema: options.table().physical.clone(),
            format: format_options::format(options)?,
            key: key(options)?,
            guarantee,
        })
    }

    fn format_error(&self, error: FormatError) -> ConnectorError {
        ConnectorError {
            table: self.table.clone(),
            option: Some(options::FORMAT.key.to_owned()),
            message: error.message,
        }
    }
}

impl SinkFactory for KafkaSinkFactory {
    fn encoder(&self, _worker: usize) -> Result<Box<dyn SinkEncoder>, ConnectorError> {
        let values = self.format.encoder(&self.schema, RowEnd::Nothing).map_err(|e| self.format_error(e))?;
        let keys = match &self.key {
            None => None,
            Some(key) => {
                let encoder = key.format.encoder(&key.schema, RowEnd::Nothing).map_err(|e| self.format_error(e))?;
                Some((key.columns.clone(), encoder))
            }
        };
        Ok(Box::new(KafkaEncoder { table: self.table.clone(), values, keys, rows: EncodedRows::default() }))
    }

    /// Checks that the topic is there: a topic is never made for the user.
    fn target(&self) -> Result<SinkTarget, ConnectorError> {
        topic(&self.properties, &self.topic).map_err(|error| ConnectorError {
            table: self.table.clone(),
            option: Some(blamed(&error, &options::TOPIC).to_owned()),
            message: error.to_string(),
        })
    }

    fn guarantee(&self) -> Guarantee {
        self.guarantee
    }
}

/// A topic as a target of the transaction, if it is there.
pub(super) fn topic(properties: &KafkaProperties, topic: &str) -> Result<SinkTarget, ConnectError> {
    ConsumerClient::new(properties, &[], CONNECT_DEADLINE)?.partitions(topic)?;
    Ok(SinkTarget::Kafka(KafkaSinkTarget { topic: topic.to_owned(), properties: properties.pairs() }))
}

/// The option to look at when a topic that `named` names cannot be used.
pub(super) fn blamed(error: &ConnectError, named: &OptionDoc) -> &'static str {
    match error {
        ConnectError::NoTopic { .. } => named.key,
        _ => "properties.bootstrap.servers",
    }
}

struct KafkaEncoder {
    table: String,
    values: RowEncoder,
    keys: Option<(Vec<usize>, RowEncoder)>,
    rows: EncodedRows,
}

impl SinkEncoder for KafkaEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        let failed = |message: String| SinkError { table: self.table.clone(), message };
        self.values.encode(batch, &mut self.rows).map_err(|e| failed(e.message))?;
        if let Some((columns, encoder)) = &mut self.keys {
            let key = batch.project(columns).map_err(|e| failed(e.to_string()))?;
            encoder.encode_keys(&key, &mut self.rows).map_err(|e| failed(e.message))?;
        }
        if self.rows.bytes.len() >= PIECE { self.flush(out) } else { Ok(()) }
    }

    fn flush(&mut self, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        if !self.rows.ends.is_empty() {
            out.push(SinkPayload::Rows(std::mem::take(&mut self.rows)));
        }
        Ok(())
    }
}
