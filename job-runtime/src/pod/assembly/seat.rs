//! A pod's seat in its job: which shards and source partitions are its own, who the others are, and what jobs may have several pods.
//!
//! Owns the placing by the assignment that the pod works under, also when it takes another one up. Who makes assignments is in `commit::kafka`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::assignment::{self, Assignment};
use checkpoint::{local_log, names};
use dataflow::graph::{JobGraph, NodeId, NodeKind, OperatorUid};
use dataflow::key::{ShardId, Shards};
use dataflow::shuffle::outgoing::Outgoing;
use dataflow::shuffle::{self, Gate, OTHER_POD, Place as StoredPlace, PodView, ShuffleConfig, ShuffleReader};
use dataflow::state::ShardStore;
use dataflow::worker::{Wake, WorkerError};

use super::cast::Cast;
use super::kafka::LogCluster;
use super::table;
use crate::connector::options::{self, Connector, TableOptions};
use crate::kafka::properties::KafkaProperties;
use crate::kafka::shuffle::{ReadUpTo, ShuffleClient};
use crate::planted::{self, Bug};
use crate::pod::shuffle::{Outward, Pressure, Readers, Trimmer};
use crate::pod::{PodConfig, PodError};

/// See the module's documentation.
pub(in crate::pod) struct Seat {
    job_uid: String,
    ordinal: u16,
    shards: Shards,
    place: Mutex<Place>,
}

/// What a pod works under, and what it has given up of it.
struct Place {
    assignment: Assignment,
    lost: BTreeSet<ShardId>,
}

/// Refuses several pods for a job that cannot have them.
pub(super) fn check(config: &PodConfig) -> Result<(), PodError> {
    let (pods, shards) = (config.pods, config.shards.count());
    if pods < 2 {
        return Ok(());
    }
    if pods > shards {
        return Err(PodError::MorePodsThanShards { pods, shards });
    }
    let mut kafka = false;
    for node in &config.planned.graph.nodes {
        if let NodeKind::Source(source) = &node.kind {
            check_source(&TableOptions::check(table(config, &source.table))?, pods)?;
        }
        let NodeKind::Sink(sink) = &node.kind else { continue };
        match TableOptions::check(table(config, &sink.table))?.connector() {
            Connector::Kafka => kafka = true,
            Connector::Filesystem => return Err(PodError::PodsAndFiles { pods, table: sink.table.clone() }),
            Connector::Print | Connector::Blackhole | Connector::Datagen | Connector::Nexmark => {}
        }
    }
    if kafka { Ok(()) } else { Err(PodError::PodsNeedKafka { pods }) }
}

/// Files on a pod's disk are its own, and a directory that changes is not the same for all.
fn check_source(options: &TableOptions<'_>, pods: u16) -> Result<(), PodError> {
    let own = [&options::DEAD_LETTER_PATH, &options::SOURCE_MONITOR_INTERVAL];
    match own.into_iter().find(|option| options.raw(option.key).is_some()) {
        Some(option) => {
            let message = format!("a job of {pods} pods cannot have '{}': write spec.replicas: 1", option.key);
            Err(options.error(option.key, message).into())
        }
        None => Ok(()),
    }
}

impl Seat {
    /// Of the only pod of a job.
    pub(super) fn alone(job_uid: &str, shards: Shards) -> Self {
        Self::new(job_uid, 0, shards, Assignment::first(shards.count(), 1))
    }

    /// By an assignment that has the pod.
    pub(super) fn new(job_uid: &str, ordinal: u16, shards: Shards, assignment: Assignment) -> Self {
        Self {
            job_uid: job_uid.to_owned(),
            ordinal,
            shards,
            place: Mutex::new(Place { assignment, lost: BTreeSet::new() }),
        }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the pod works under.
    pub(super) fn assignment(&self) -> Assignment {
        self.place().assignment.clone()
    }

    /// The pod gives up what another assignment takes from it, and works under that, unless it lacks something that this gives it: then `next` is
    /// `None`. How it sees the others from then on.
    pub(in crate::pod) fn take_up(&self, next: Option<&Assignment>, lost: &[ShardId]) -> Option<PodView> {
        let place = &mut *self.place();
        place.lost.extend(lost);
        let next = next?;
        *place = Place { assignment: next.clone(), lost: BTreeSet::new() };
        self.view_of(next)
    }

    /// All shards of the job.
    pub(in crate::pod) fn shards(&self) -> Shards {
        self.shards
    }

    /// True if the pod has a shard.
    pub(in crate::pod) fn owns(&self, shard: ShardId) -> bool {
        self.place().owns(shard, self.ordinal)
    }

    /// True if the assignment has other pods.
    pub(super) fn has_others(&self) -> bool {
        self.place().assignment.pods.len() > 1
    }

    /// The pod's shards, ascending.
    pub(super) fn own_shards(&self) -> Vec<ShardId> {
        self.shards.all().filter(|shard| self.owns(*shard)).collect()
    }

    /// True if the pod reads a source partition, the `index`-th of its table.
    pub(in crate::pod) fn owns_source(&self, table: &str, partition: &str, index: usize) -> bool {
        let place = self.place();
        !place.lost.contains(&self.shard_of_source(index))
            && place.assignment.owns_source(self.ordinal, table, partition, index)
    }

    /// The shard with which a table's `index`-th partition passes to another pod.
    pub(in crate::pod) fn shard_of_source(&self, index: usize) -> ShardId {
        ShardId(assignment::partition_shard(index, self.shards.count()))
    }

    /// The worker of each shard: the pod's own go round, so that each worker loses its part when the pod loses some.
    pub(super) fn owner(&self, workers: usize) -> Arc<[usize]> {
        let own = self.own_shards();
        let place = |shard| own.binary_search(&shard).map_or(OTHER_POD, |place| place % workers);
        self.shards.all().map(place).collect()
    }

    /// How the pod sees the others; `None` if there never were any.
    fn view(&self) -> Option<PodView> {
        let place = self.place();
        self.view_of(&place.assignment)
    }

    fn view_of(&self, assignment: &Assignment) -> Option<PodView> {
        let mut others: Vec<u16> =
            assignment.pods.iter().map(|pod| pod.ordinal).filter(|p| *p != self.ordinal).collect();
        if planted::is(Bug::SlotIgnored) {
            others.pop();
        }
        let (job, assignment) = (local_log::job_hash(&self.job_uid), assignment.number);
        (assignment > 1 || !others.is_empty()).then_some(PodView { job, assignment, slot: self.ordinal, others })
    }

    /// True if rows go, or went, between pods.
    pub(super) fn shuffles(&self) -> bool {
        self.view().is_some()
    }

    /// What goes to other pods; `gate` is closed while one of them is too far behind.
    pub(super) fn outward(
        &self,
        graph: &JobGraph,
        cluster: Option<&LogCluster>,
        workers: usize,
        gate: &Arc<Gate>,
    ) -> Result<Option<Outward>, PodError> {
        let (Some(view), Some(LogCluster { properties, group })) = (self.view(), cluster) else { return Ok(None) };
        let elsewhere: Vec<ShardId> = self.shards.all().filter(|shard| !self.owns(*shard)).collect();
        let outgoing = Outgoing::new(view, shuffle::exchanges(graph), &elsewhere, workers);
        let trimmer = Trimmer::start(properties.clone()).map_err(PodError::Thread)?;
        let (topics, properties, group) = (self.topics(graph), properties.clone(), group.clone());
        let readers = Readers { properties, group, topics: topics.clone(), owners: self.owners() };
        let pressure = Pressure::start(readers, Arc::clone(gate)).map_err(PodError::Thread)?;
        Ok(Some(Outward { outgoing, topics, trimmer, pressure, running: BTreeMap::new() }))
    }

    /// The pod of each shard.
    fn owners(&self) -> Vec<u16> {
        let place = self.place();
        self.shards.all().map(|shard| place.assignment.owner(shard.0).unwrap_or(self.ordinal)).collect()
    }

    fn topics(&self, graph: &JobGraph) -> BTreeMap<NodeId, String> {
        shuffle::exchanges(graph).map(|(node, uid)| (node, names::shuffle_topic(&self.job_uid, uid))).collect()
    }

    /// What each worker needs to read what other pods send, `None` for each if there are none; and how far that is read.
    pub(super) fn inward(
        &self,
        graph: &JobGraph,
        properties: Option<&KafkaProperties>,
        cast: &Cast,
    ) -> Result<(Vec<Option<ShuffleConfig>>, Vec<ReadUpTo>), PodError> {
        let workers = cast.stores.len();
        let (Some(view), Some(properties)) = (self.view(), properties) else {
            return Ok(((0..workers).map(|_| None).collect(), Vec::new()));
        };
        let exchanges: Vec<_> = shuffle::exchanges(graph).collect();
        let topics = self.topics(graph);
        let client = ShuffleClient::new(properties, topics.values(), &self.own_shards())?;
        let mut out = Vec::with_capacity(workers);
        for (worker, stores) in cast.stores.iter().enumerate() {
            let driver = std::thread::current();
            let activity = Arc::clone(&cast.activity[worker]);
            let moved: Wake = Arc::new(move || activity.moved(&driver));
            let mut readers: Vec<(NodeId, Box<dyn ShuffleReader>)> = Vec::new();
            for &(node, uid) in &exchanges {
                for store in stores {
                    let next = next_offset(store.as_ref(), self.shards, graph, node, uid)?;
                    let (wake, moved) = (cast.wake(worker), Arc::clone(&moved));
                    let reader = client.open(&topics[&node], store.shard(), next, wake, moved)?;
                    readers.push((node, Box::new(reader)));
                }
            }
            out.push(Some(ShuffleConfig { view: view.clone(), readers }));
        }
        Ok((out, client.read()))
    }
}

impl Place {
    fn owns(&self, shard: ShardId, ordinal: u16) -> bool {
        self.assignment.owner(shard.0) == Some(ordinal) && !self.lost.contains(&shard)
    }
}

/// Where a shard goes on reading an exchange's topic.
fn next_offset(
    store: &dyn ShardStore,
    shards: Shards,
    graph: &JobGraph,
    node: NodeId,
    uid: OperatorUid,
) -> Result<i64, PodError> {
    let stored = StoredPlace::stored(store, shards, uid).map_err(|source| {
        let operator = graph.nodes[node.0 as usize].name.clone();
        PodError::Worker(WorkerError::Place { operator, shard: store.shard(), source })
    })?;
    Ok(stored.map_or(0, |place| place.next_offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(ordinal: u16, pods: u16) -> Seat {
        Seat::new("u", ordinal, Shards::new(8).unwrap(), Assignment::first(8, pods))
    }

    #[test]
    fn shards_go_to_pods_in_runs_and_round_the_workers() {
        assert_eq!(*seat(0, 1).owner(3), [0, 1, 2, 0, 1, 2, 0, 1]);
        let other = OTHER_POD;
        assert_eq!(*seat(1, 2).owner(2), [other, other, other, other, 0, 1, 0, 1]);
        assert_eq!(seat(1, 2).own_shards(), [4, 5, 6, 7].map(ShardId));
        assert_eq!(seat(1, 2).owners(), [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_pod_sees_the_others_and_one_alone_sees_none() {
        assert_eq!(seat(0, 1).view(), None);
        let view = seat(1, 3).view().unwrap();
        assert_eq!((view.slot, view.assignment, view.others), (1, 1, vec![0, 2]));
    }

    #[test]
    fn what_a_pod_gives_up_is_not_its_own_and_what_it_gains_only_when_it_has_taken_the_assignment_up() {
        let (seat, next) = (seat(1, 3), Assignment::first(8, 3).rescaled(4));
        assert_eq!(seat.own_shards(), [2, 3, 4].map(ShardId));
        assert_eq!(seat.take_up(None, &[ShardId(4)]), None);
        assert_eq!(seat.own_shards(), [2, 3].map(ShardId));
        let source = (0..8).find(|index| seat.shard_of_source(*index) == ShardId(4)).unwrap();
        assert!(!seat.owns_source("t", "p", source));
        let view = seat.take_up(Some(&next), &[]).unwrap();
        assert_eq!((view.slot, view.assignment, view.others), (1, 2, vec![0, 2, 3]));
        assert_eq!(seat.own_shards(), [2, 3].map(ShardId));
    }
}
