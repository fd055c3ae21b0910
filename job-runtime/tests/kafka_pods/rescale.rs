//! Shards that pass from pod to pod while rows flow: who keeps or only loses goes on in its process, and its other shards' commits are not held up.
//!
//! The assignments are written by the test, as the operator orders them.

use checkpoint::assignment::Assignment;
use checkpoint::ownership::record::ControlRecord;
use checkpoint::{local_log, names};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::*;

const SHARDS: u16 = 8;
pub(super) const ROUTES: i32 = 50;
/// The longest that the commits of a shard may be apart which does not move, beside what they are apart anyhow, and of one that does.
const STAYS: i64 = 1_000;
const MOVES: i64 = 10_000;

/// By window's end and route: records.
pub(super) type Ticks = BTreeMap<(i64, String), i64>;

/// Sends a record per millisecond, each partition in turn, until told to stop; returns what the windows must say.
pub(super) fn feed_and_count(input: &str, stop: &AtomicBool) -> Ticks {
    let (feeder, mut sent) = (Feeder::new(), Ticks::new());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let ts = now_ms();
        let route = format!("route {}", number % ROUTES);
        feeder.send(input, number % PARTITIONS, &json!({"ts": ts, "route": route}).to_string());
        *sent.entry(((ts / 1_000 + 1) * 1_000, route)).or_default() += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = json!({"ts": now_ms() + 3_600_000, "route": "end"}).to_string();
    (0..PARTITIONS).for_each(|partition| feeder.send(input, partition, &end));
    feeder.flush();
    sent
}

pub(super) fn counted(records: &[String]) -> Ticks {
    let mut found = Ticks::new();
    for record in records {
        let row: Value = serde_json::from_str(record).unwrap();
        let end = (row["until"].as_i64().unwrap() / 1_000 + 1) * 1_000;
        let key = (end, row["route"].as_str().unwrap().to_owned());
        assert!(found.insert(key, row["ticks"].as_i64().unwrap()).is_none(), "twice: {record}");
    }
    found
}

/// Times at which each shard's changes were written, of all commits.
fn commits(uid: &str) -> Vec<Vec<i64>> {
    let topic = names::changelog_topic(uid);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers())
        .set("group.id", "independent-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    (0..i32::from(SHARDS)).for_each(|p| list.add_partition_offset(&topic, p, Offset::Beginning).unwrap());
    consumer.assign(&list).unwrap();
    let (mut times, mut open) = (vec![Vec::new(); usize::from(SHARDS)], SHARDS);
    while open > 0 {
        match consumer.poll(Duration::from_secs(10)).expect("there is more, or an end") {
            Ok(message) => times[message.partition() as usize].push(message.timestamp().to_millis().unwrap()),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => panic!("{error}"),
        }
    }
    times
}

/// The longest time between two commits of a shard, of those that touch a stretch of time.
fn longest(commits: &[i64], from: i64, until: i64) -> i64 {
    let touching = commits.windows(2).filter(|pair| pair[1] >= from && pair[0] <= until);
    touching.map(|pair| pair[1] - pair[0]).max().expect("the shard commits")
}

impl Pods {
    /// Puts an assignment into force; returns when.
    fn assign(&self, assignment: &Assignment) -> i64 {
        let now = now_ms();
        self.say(&ControlRecord::Assignment(assignment.clone()));
        now
    }

    /// Appends a record to the control topic.
    pub(super) fn say(&self, record: &ControlRecord) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
        let (topic, job) = (names::control_topic(&self.uid), local_log::job_hash(&self.uid));
        let value = record.encode(job);
        producer.send(BaseRecord::<(), [u8]>::to(&topic).partition(0).payload(&value)).map_err(|(e, _)| e).unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn count(&self, pod: usize, text: &str) -> usize {
        self.shops[pod].read(".stderr").matches(text).count()
    }

    /// How often a pod has started, and taken an assignment up without a start.
    pub(super) fn turns(&self, pod: usize) -> (usize, usize) {
        (self.count(pod, "the pod is an owner"), self.count(pod, "another assignment is taken up"))
    }

    pub(super) fn wait_for_turns(&mut self, pod: usize, turns: (usize, usize)) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.turns(pod) != turns {
            let runs = self.running[pod].as_mut().is_some_and(Running::runs);
            assert!(
                runs && Instant::now() < deadline,
                "pod {pod}: {:?} for {turns:?}: {}",
                self.turns(pod),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The shards that a pod has under both.
fn stays(before: &Assignment, after: &Assignment, pods: &[u16]) -> Vec<u16> {
    (0..SHARDS)
        .filter(|shard| before.owner(*shard) == after.owner(*shard))
        .filter(|shard| after.owner(*shard).is_some_and(|pod| pods.contains(&pod)))
        .collect()
}

/// One change of assignment, and the stretch of time from its order until the job went on everywhere.
struct Step<'a> {
    what: &'static str,
    before: &'a Assignment,
    after: &'a Assignment,
    /// Pods that gain nothing.
    untouched: &'a [u16],
    stretch: (i64, i64),
}

impl Step<'_> {
    /// The longest times between commits of shards that stay where nothing is gained, that stay at all, and that move.
    fn gaps(&self, commits: &[Vec<i64>]) -> [i64; 3] {
        let staying = stays(self.before, self.after, &[0, 1, 2]);
        let moving = (0..SHARDS).filter(|shard| !staying.contains(shard)).collect();
        [stays(self.before, self.after, self.untouched), staying, moving].map(|shards: Vec<u16>| {
            let of_shard = |shard: &u16| longest(&commits[usize::from(*shard)], self.stretch.0, self.stretch.1);
            shards.iter().map(of_shard).max().expect("some shards do")
        })
    }
}

/// Puts an assignment into force and waits until pods have started, or taken it up, so often, and two seconds more of results are there.
fn distribute(job: &mut Pods, reader: &mut Reader, next: &Assignment, turns: &[(usize, (usize, usize))]) -> (i64, i64) {
    let from = job.assign(next);
    turns.iter().for_each(|(pod, turns)| job.wait_for_turns(*pod, *turns));
    let rows = reader.values.len() + 2 * ROUTES as usize;
    read_until(reader, rows, job);
    (from, now_ms())
}

#[test]
#[ignore = "needs the lab"]
fn pods_that_keep_or_only_lose_shards_go_on_and_commits_of_shards_that_stay_are_not_held_up() {
    let (input, output) = (unique("ticks"), unique("counts"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let mut job = Pods::new(2, &super::ticks(&input, &output).replace("workers: 1", "workers: 2"));
    let stop = Arc::new(AtomicBool::new(false));
    let feeding = {
        let (stop, input) = (Arc::clone(&stop), input.clone());
        std::thread::spawn(move || feed_and_count(&input, &stop))
    };
    let mut reader = Reader::new(&output, 1);
    read_until(&mut reader, 2 * ROUTES as usize, &mut job);
    let pids: Vec<u32> = job.running.iter().flatten().map(Running::pid).collect();
    // Two become three: the first two only lose. Then a shard passes from the third to the second: the first keeps what it has. Then three
    // become two: the second keeps, and the first waits until the third has released, and begins anew.
    let calm = (now_ms() - 2_000, now_ms());
    let first = Assignment::first(SHARDS, 2);
    let three = first.rescaled(3);
    let mut moved = three.clone();
    moved.number += 1;
    moved.pods[1].shards.push(7..8);
    moved.pods[2].shards.retain(|range| !range.contains(&7));
    let two = moved.rescaled(2);
    job.resize(3);
    job.start(2);
    let of_three = distribute(&mut job, &mut reader, &three, &[(0, (1, 1)), (1, (1, 1)), (2, (1, 0))]);
    let of_moved = distribute(&mut job, &mut reader, &moved, &[(0, (1, 2)), (1, (2, 1)), (2, (1, 1))]);
    job.settings(2);
    let of_two = distribute(&mut job, &mut reader, &two, &[(0, (2, 2)), (1, (2, 2))]);
    job.end(2);
    stop.store(true, Ordering::Relaxed);
    let want = feeding.join().unwrap();
    read_until(&mut reader, want.len(), &mut job);
    assert_eq!(counted(&reader.values), want);
    let now: Vec<u32> = job.running.iter().flatten().map(Running::pid).collect();
    assert_eq!(now, pids);
    job.stop();
    let commits = commits(&job.uid);
    let calm = commits.iter().map(|shard| longest(shard, calm.0, calm.1)).max().unwrap_or(0);
    println!("longest time between commits of a shard before: {calm} ms");
    for step in [
        Step { what: "2 pods to 3", before: &first, after: &three, untouched: &[0, 1], stretch: of_three },
        Step { what: "one shard passes", before: &three, after: &moved, untouched: &[0, 2], stretch: of_moved },
        Step { what: "3 pods to 2", before: &moved, after: &two, untouched: &[1], stretch: of_two },
    ] {
        let [quiet, staying, moving] = step.gaps(&commits);
        println!(
            "{}: longest time between commits of shards that stay on pods that gain nothing {quiet} ms, of all that stay {staying} ms, of those \
             that move {moving} ms",
            step.what
        );
        // A busy machine holds up everything.
        assert!(quiet < STAYS + 2 * calm && moving < MOVES + 10 * calm, "{}: {quiet} ms, {moving} ms", step.what);
    }
}
