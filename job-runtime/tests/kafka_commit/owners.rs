//! Two pods and a shard that passes from one to the other, on a real broker: who acts on what, and who may not any more.
//!
//! The assignments are written by the tests, as pod 0 does when the number of pods changes.

use std::time::Duration;

use checkpoint::assignment::Assignment;
use checkpoint::ownership::record::{ControlRecord, Release};
use checkpoint::{local_log, names};
use dataflow::key::ShardId;
use job_runtime::commit::kafka::{KafkaCommitLog, KafkaLogConfig};
use job_runtime::commit::{CommitError, CommitLog};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::broker::{config, servers, start, unique};
use crate::{Disk, change, request};

const SHARDS: u16 = 4;

/// A job of two pods: the first has shards 0 and 1, the second 2 and 3.
struct Job {
    uid: String,
}

impl Job {
    fn new() -> Self {
        Self { uid: unique("job") }
    }

    fn pod(&self, ordinal: u16) -> KafkaLogConfig {
        KafkaLogConfig { ordinal, pods: 2, ..config(&self.uid, SHARDS) }
    }

    fn start(&self, ordinal: u16) -> KafkaCommitLog {
        let own = usize::from(ordinal) * 2;
        start(self.pod(ordinal), &mut Disk::new().stores(SHARDS)[own..own + 2])
    }

    /// Starts a pod that has these shards.
    fn start_with(&self, ordinal: u16, shards: &[u16]) -> KafkaCommitLog {
        let disk = Disk::new();
        let all = disk.stores(SHARDS).into_iter().enumerate();
        let mut own: Vec<_> =
            all.filter(|(shard, _)| shards.contains(&(*shard as u16))).map(|(_, store)| store).collect();
        start(self.pod(ordinal), &mut own)
    }

    fn append(&self, record: &ControlRecord) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let (topic, value) = (names::control_topic(&self.uid), record.encode(local_log::job_hash(&self.uid)));
        producer.send(BaseRecord::<(), [u8]>::to(&topic).partition(0).payload(&value)).map_err(|(e, _)| e).unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// The next assignment: shard 2 passes from the second pod to the first.
    fn move_a_shard(&self) {
        let mut next = Assignment::first(SHARDS, 2);
        next.number = 2;
        next.pods[0].shards = std::iter::once(0..3).collect();
        next.pods[1].shards = std::iter::once(3..4).collect();
        self.append(&ControlRecord::Assignment(next));
    }

    /// The one after that: shard 0 passes from the first pod to the second.
    fn move_another_back(&self) {
        let mut next = Assignment::first(SHARDS, 2);
        next.number = 3;
        next.pods[0].shards = std::iter::once(1..3).collect();
        next.pods[1].shards = [0..1, 3..4].into();
        self.append(&ControlRecord::Assignment(next));
    }

    /// All releases in the control topic.
    fn releases(&self) -> Vec<Release> {
        let (topic, job) = (names::control_topic(&self.uid), local_log::job_hash(&self.uid));
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers())
            .set("group.id", "independent-reader")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let (_, end) = consumer.fetch_watermarks(&topic, 0, Duration::from_secs(10)).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut releases = Vec::new();
        loop {
            let message = consumer.poll(Duration::from_secs(10)).expect("there is a record before the end").unwrap();
            match ControlRecord::decode(job, message.payload().unwrap()).unwrap() {
                ControlRecord::Release(release) => releases.push(release),
                ControlRecord::Assignment(_)
                | ControlRecord::Proposal(_)
                | ControlRecord::Ready(_)
                | ControlRecord::Savepoint(_)
                | ControlRecord::Origin(_)
                | ControlRecord::Drain => {}
            }
            if message.offset() + 1 >= end {
                return releases;
            }
        }
    }
}

#[test]
#[ignore = "needs the lab"]
fn a_pod_that_starts_again_reads_behind_its_fence_what_it_has_lost() {
    let job = Job::new();
    let (first, second) = (job.start(0), job.start(1));
    job.move_a_shard();
    let again = KafkaCommitLog::fence(job.pod(1)).unwrap().assigned(&mut ()).unwrap();
    let (number, shards) = (again.assignment().number, again.assignment().share(1).unwrap().shards.clone());
    assert_eq!((number, shards), (2, std::iter::once(3..4).collect()));
    drop((first, second));
}

#[test]
#[ignore = "needs the lab"]
fn who_gains_a_shard_settles_who_had_it() {
    let job = Job::new();
    let (first, mut second) = (job.start(0), job.start(1));
    second.commit(request(1, vec![(ShardId(2), change("k", "1"))], Vec::new())).unwrap();
    job.move_a_shard();
    drop(first);
    // The second pod does not release: it sleeps. Whoever gains waits for it, then fences it.
    let gained = KafkaCommitLog::fence(job.pod(0)).unwrap().assigned(&mut ()).unwrap();
    assert_eq!(gained.assignment().number, 2);
    let error = second.commit(request(2, vec![(ShardId(2), change("k", "2"))], Vec::new())).expect_err("it is fenced");
    assert!(matches!(error, CommitError::Fenced { .. }), "{error}");
    drop(gained.recover(&mut Disk::new().stores(SHARDS)[0..3]).unwrap());
}

#[test]
#[ignore = "needs the lab"]
fn who_releases_is_not_waited_for() {
    let job = Job::new();
    let (first, mut second) = (job.start(0), job.start(1));
    job.move_a_shard();
    drop(first);
    second.leave().unwrap();
    assert_eq!(job.releases(), [Release { number: 2, pod: 1, shards: vec![2] }]);
    let begin = std::time::Instant::now();
    let gained = KafkaCommitLog::fence(job.pod(0)).unwrap().assigned(&mut ()).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(gained.assignment().number, 2);
    // Not fenced either: it goes on with what it still has.
    second.commit(request(1, vec![(ShardId(3), change("k", "1"))], Vec::new())).unwrap();
}

#[test]
#[ignore = "needs the lab"]
fn a_process_that_was_replaced_cannot_release_what_the_other_holds() {
    let job = Job::new();
    let (first, mut old) = (job.start(0), job.start(1));
    let mut new = job.start(1);
    job.move_a_shard();
    let error = old.leave().expect_err("it is fenced");
    assert!(matches!(error, CommitError::Fenced { .. }), "{error}");
    assert_eq!(job.releases(), []);
    // The other has not been told yet, and still holds the shard.
    new.commit(request(1, vec![(ShardId(2), change("k", "1"))], Vec::new())).unwrap();
    drop(first);
}

#[test]
#[ignore = "needs the lab"]
fn a_pod_that_was_killed_after_it_lost_a_shard_releases_it_at_its_next_start() {
    let job = Job::new();
    let (first, killed) = (job.start(0), job.start(1));
    job.move_a_shard();
    // It ends without a word.
    drop((first, killed));
    assert_eq!(job.releases(), []);
    let mut again = job.start_with(1, &[3]);
    assert_eq!(job.releases(), [Release { number: 2, pod: 1, shards: vec![2] }]);
    let begin = std::time::Instant::now();
    drop(job.start_with(0, &[0, 1, 2]));
    assert!(begin.elapsed() < Duration::from_secs(4), "it was waited for: {:?}", begin.elapsed());
    again.commit(request(1, vec![(ShardId(3), change("k", "1"))], Vec::new())).expect("the gainer has not fenced it");
}

#[test]
#[ignore = "needs the lab"]
fn two_pods_that_lost_shards_to_each_other_and_were_killed_do_not_end_each_other_for_ever() {
    let job = Job::new();
    let killed = (job.start(0), job.start(1));
    job.move_a_shard();
    job.move_another_back();
    drop(killed);
    // The other is away and has not released: it is fenced. What this pod has lost it releases itself.
    let mut first = job.start_with(0, &[1, 2]);
    let mut second = job.start_with(1, &[0, 3]);
    first.commit(request(1, vec![(ShardId(1), change("k", "1"))], Vec::new())).expect("the other has not fenced it");
    second.commit(request(1, vec![(ShardId(0), change("k", "1"))], Vec::new())).unwrap();
    // Nor does a later start.
    drop(job.start_with(0, &[1, 2]));
    second.commit(request(2, vec![(ShardId(0), change("k", "2"))], Vec::new())).expect("nothing is left to settle");
}
