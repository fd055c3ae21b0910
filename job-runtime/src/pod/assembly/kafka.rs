//! The Kafka form of the commit log in the start of a pod: which cluster, which sources ride in its transaction, where they stood.
//!
//! Owns those three choices. The protocol itself is in `commit::kafka`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use checkpoint::snapshot::choice::LogBounds;
use dataflow::graph::{JobGraph, NodeId, NodeKind};
use dataflow::key::ShardId;
use dataflow::source::{PartitionId, Reached, SourcePosition};

use super::{OpenSink, OpenSource, Seat, reassign, table};
use crate::commit::KafkaOffset;
use crate::commit::kafka::{Assigned, ControlTopic, KafkaCommitLog, KafkaLogConfig};
use crate::connector::options::{Connector, TableOptions};
use crate::connector::{ConnectorError, SinkTarget};
use crate::kafka;
use crate::kafka::properties::KafkaProperties;
use crate::pod::reassign::Moving;
use crate::pod::{PodConfig, PodError};
use crate::state::rocks::{RocksDatabases, RocksShardStore};

/// How far a partition of a source node is read.
type Position = ((NodeId, PartitionId), Reached);

/// How long a start waits for Kafka.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// The log, and the source nodes whose offsets it commits.
pub(super) struct KafkaLog {
    pub(super) log: KafkaCommitLog,
    pub(super) sources: Vec<NodeId>,
}

/// Where the log is, and the consumer group of its offsets.
pub(super) struct LogCluster {
    pub(super) properties: KafkaProperties,
    pub(super) group: String,
}

/// The pod's earlier process can write no more, and the pod has its seat; the log is not read yet.
pub(super) struct FencedLog {
    assigned: Assigned,
    sources: Vec<NodeId>,
}

/// Fences, if the job has a Kafka sink.
pub(super) fn fence(
    config: &PodConfig,
    job_uid: &str,
    sinks: &[OpenSink<'_>],
    databases: &Arc<RocksDatabases>,
    stop: Arc<AtomicBool>,
) -> Result<Option<FencedLog>, PodError> {
    let Some(properties) = log_cluster(sinks)? else { return Ok(None) };
    let (sources, group) = riding(config, &config.planned.graph, &properties)?;
    let bound = config.planned.graph.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Source(source) if !sources.contains(&node.id) => Some(source.table.clone()),
        _ => None,
    });
    let log = KafkaLogConfig {
        properties,
        job_uid: job_uid.to_owned(),
        ordinal: config.ordinal,
        pods: config.pods,
        waited: config.waited,
        shards: config.shards,
        group,
        exchanges: dataflow::shuffle::exchanges(&config.planned.graph).map(|(_, uid)| uid).collect(),
        replication: config.connectors.kafka.as_ref().map(|kafka| kafka.internal_topic_replication),
        bound_source: bound,
        origin: config.restore_from.clone(),
        stays_ended: config.stays_ended,
        deadline: DEADLINE,
        stop,
    };
    let topic = ControlTopic::new(&log);
    let fenced = KafkaCommitLog::fence(log)?;
    let fetch = reassign::fetch(config, job_uid, Arc::clone(databases), topic);
    // Ends with this: the start may begin with what is there.
    let mut moving = Moving::new(Some(fetch), std::thread::current());
    Ok(Some(FencedLog { assigned: fenced.assigned(&mut moving)?, sources }))
}

/// The cluster of the job's Kafka sinks: one, because one transaction cannot span two.
fn log_cluster(sinks: &[OpenSink<'_>]) -> Result<Option<KafkaProperties>, ConnectorError> {
    let mut first: Option<(&str, KafkaProperties)> = None;
    for sink in sinks {
        let SinkTarget::Kafka(target) = &sink.target else { continue };
        let own = KafkaProperties::from_checked(&target.properties);
        match &first {
            None => first = Some((sink.table, own)),
            Some((other, cluster)) if !cluster.same_cluster(&own) => {
                return Err(ConnectorError {
                    table: sink.table.to_owned(),
                    option: Some("properties.bootstrap.servers".into()),
                    message: format!(
                        "is on another Kafka cluster than {other}, which is also written to; one transaction cannot span two clusters: write to one, or make two jobs"
                    ),
                });
            }
            Some(_) => {}
        }
    }
    Ok(first.map(|(_, cluster)| cluster))
}

/// Source nodes on the log's cluster, and the consumer group that they name, if they do.
fn riding(
    config: &PodConfig,
    graph: &JobGraph,
    log: &KafkaProperties,
) -> Result<(Vec<NodeId>, Option<String>), ConnectorError> {
    let (mut nodes, mut group) = (Vec::new(), None);
    for node in &graph.nodes {
        let NodeKind::Source(source) = &node.kind else { continue };
        let options = TableOptions::check(table(config, &source.table))?;
        if options.connector() != Connector::Kafka {
            continue;
        }
        let own = kafka::table_properties(&options, &config.connectors)?;
        if own.same_cluster(log) {
            nodes.push(node.id);
            group = group.or_else(|| own.group_id().map(str::to_owned));
        }
    }
    Ok((nodes, group))
}

impl FencedLog {
    /// What the changelog holds of these shards.
    pub(super) fn bounds(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, LogBounds)>, PodError> {
        Ok(self.assigned.bounds(shards)?)
    }

    /// The savepoint that the job began from.
    pub(super) fn origin(&self) -> Option<&str> {
        self.assigned.origin()
    }

    /// The pod's seat, by the assignment in force.
    pub(super) fn seat(&self, config: &PodConfig, job_uid: &str) -> Seat {
        Seat::new(job_uid, config.ordinal, config.shards, self.assigned.assignment().clone())
    }

    /// Brings the stores up to the end of the changelog.
    pub(super) fn recover(self, stores: &mut [RocksShardStore]) -> Result<KafkaLog, PodError> {
        Ok(KafkaLog { log: self.assigned.recover(stores)?, sources: self.sources })
    }
}

impl KafkaLog {
    /// Where the log is.
    pub(super) fn cluster(&self) -> LogCluster {
        LogCluster { properties: self.log.properties().clone(), group: self.log.group().to_owned() }
    }

    /// Committed offsets of the riding sources.
    pub(super) fn positions(&self, sources: &[OpenSource<'_>]) -> Result<Vec<Position>, PodError> {
        let mut wanted = Vec::new();
        for source in sources.iter().filter(|source| self.sources.contains(&source.node.id)) {
            for id in source.factory.partitions()? {
                if let Some((topic, partition)) = topic_partition(&id) {
                    wanted.push((source.node.id, id, (topic, partition)));
                }
            }
        }
        let keys: Vec<(String, i32)> = wanted.iter().map(|(_, _, key)| key.clone()).collect();
        let found = self.log.committed_offsets(&keys)?;
        let position = |(node, id, key): (NodeId, PartitionId, (String, i32))| {
            let KafkaOffset { topic, partition, next_offset, watermark_ms } = found.get(&key)?.clone();
            let position = SourcePosition::Kafka { topic, partition, next_offset };
            Some(((node, id), Reached { position, watermark_ms }))
        };
        Ok(wanted.into_iter().filter_map(position).collect())
    }
}

/// The topic and number in a Kafka partition's name, `<topic>-<number>`; `None` for another connector's.
fn topic_partition(id: &PartitionId) -> Option<(String, i32)> {
    let (topic, partition) = id.0.rsplit_once('-')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dash_ends_the_topic() {
        assert_eq!(topic_partition(&PartitionId("a-1-b-7".into())), Some(("a-1-b".into(), 7)));
        assert_eq!(topic_partition(&PartitionId("flights.csv".into())), None);
    }
}
