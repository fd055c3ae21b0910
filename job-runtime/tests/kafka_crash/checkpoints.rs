//! Every step of a checkpoint in a real S3 server, and of a start without local state: cut, then started again with the directory as it was left
//! and without it, in both orders.
//!
//! Each time the outputs are the oracle's and the state holds every reading once. Every checkpoint that is left can be restored, and no object is
//! left that nothing refers to (I9): the job itself removes what the crash left.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use checkpoint::snapshot::{ObjectId, Place};
use job_runtime::crash::Step;
use job_runtime::snapshot::place::StorePlace;
use job_runtime::snapshot::restore;
use job_runtime::snapshot::store::{Listing, ObjectStore};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::broker::unique;
use super::readings::{EACH_ONCE, Rig};
use super::workshop::{Outcome, Running, Workshop};
use super::{ended_well, places};

/// Two shards, so that each has much; a snapshot a second; two are kept.
pub(crate) const SPEC: &str = "  shards: 2\n  checkpoint: {interval: 1s, retention: {count: 2}}\n";
/// What is garbage goes at once, not an hour later.
const NO_GRACE: &str = "MILLSTREAM_GRACE_MS=0";
const DEADLINE: Duration = Duration::from_secs(60);
const KEPT: usize = 2;
/// Where `millstream run` keeps the job's state.
const STATE: &str = ".millstream/crash";

/// Which start comes first behind the cut.
const ORDERS: [&str; 2] = ["kept", "lost"];

/// Each as `<point> <first>`: the state directory of the first start behind the cut is kept or lost; that of the second the other way.
pub(crate) fn cases() -> Vec<String> {
    let mut cases = Vec::new();
    for step in Step::CHECKPOINT {
        let unsent = (step == Step::Checkpoint).then_some("unsent");
        for place in places(step).chain(unsent) {
            for first in ORDERS {
                cases.push(format!("{}:{place}:{} {first}", step.name(), time(step)));
            }
        }
    }
    cases
}

/// In the second checkpoint, when there is one to go on from; in the first start.
fn time(step: Step) -> u32 {
    match step {
        // Of two shards, the first of the second checkpoint.
        Step::Memtable | Step::Link | Step::Upload | Step::ShardManifest => 3,
        // Of garbage, several go together.
        Step::Checkpoint | Step::Trim | Step::Garbage => 2,
        _ => 1,
    }
}

/// A new bucket on the lab's server.
pub(crate) fn bucket() -> String {
    let name = unique("crash");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = aws_config::defaults(BehaviorVersion::latest()).load().await;
        let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true).build();
        aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(&name).send().await.unwrap_or_else(|e| {
            panic!("no S3 server: {e:?}; `make test` starts one; by hand: `make lab`, then use the environment that it prints")
        });
    });
    name
}

struct Case {
    rig: Rig,
    place: String,
    store: Arc<dyn ObjectStore>,
}

impl Case {
    fn new() -> Self {
        let (rig, place) = (Rig::new(SPEC, EACH_ONCE), format!("s3://{}", bucket()));
        let store = StorePlace::parse(&place).unwrap().open("crash", &rig.uid, &CancellationToken::new()).unwrap();
        Self { rig, place, store }
    }

    fn start(&self, environment: &[&str]) -> Running {
        let environment = [environment, &[NO_GRACE]].concat();
        self.rig.start(&environment, &["--checkpoint-dir", &self.place])
    }

    /// Feeds until the process has taken so many snapshots, then kills it.
    fn until_taken(&mut self, mut running: Running, count: usize) {
        let taken = |rig: &Rig| rig.said().matches("snapshot taken").count() >= count;
        assert!(self.rig.feed_until(&mut running, u64::MAX, taken), "ended by itself: {}", self.rig.said());
        assert!(running.kill_after(Duration::ZERO), "ended by itself: {}", self.rig.said());
    }

    fn lose_state(&self) {
        fs::remove_dir_all(self.rig.workshop.path(STATE)).unwrap();
    }

    /// Runs the process to its cut. One that only loses an answer goes on, and takes a snapshot nevertheless.
    fn run_to_the_cut(&mut self, point: &str) {
        let mut dying = self.start(&[&format!("MILLSTREAM_CRASH={point}")]);
        let healed = |rig: &Rig| {
            let said = rig.said();
            said.split_once("the answer is lost").is_some_and(|(_, after)| after.contains("snapshot taken"))
        };
        if self.rig.feed_until(&mut dying, u64::MAX, healed) {
            assert!(dying.kill_after(Duration::ZERO), "ended by itself: {}", self.rig.said());
        } else {
            let outcome = dying.end();
            assert_eq!(outcome.code, None, "{outcome:?}");
            ended_well(point, &outcome);
        }
    }

    /// Starts the job behind the cut, with its directory or without.
    fn start_again(&self, kept: bool) -> Running {
        if kept {
            return self.start(&[]);
        }
        self.lose_state();
        let restorable = !restore::checkpoints(self.store.as_ref(), &self.rig.uid).unwrap().0.is_empty();
        let mut running = self.start(&[]);
        running.wait_until("restored", || !restorable || self.rig.said().contains("restored from a snapshot"));
        running
    }

    /// How many checkpoints there are, and what is there that none of them refers to; `None` while one of them is just being removed.
    fn unreferenced(&self) -> Option<(usize, BTreeSet<ObjectId>)> {
        let store = self.store.as_ref();
        let (checkpoints, bad) = restore::checkpoints(store, &self.rig.uid).unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        let mut referenced = BTreeSet::new();
        for manifest in &checkpoints {
            for entry in &manifest.entries {
                referenced.insert(entry.manifest.clone());
                for file in restore::shard(store, manifest, entry).ok()?.files {
                    if let Place::Object(id) = file.place {
                        referenced.insert(id);
                    }
                }
            }
            referenced.insert(manifest.id());
        }
        let listed = store.list(Listing::All).unwrap();
        let left = listed.into_iter().map(|object| object.id).filter(|id| !referenced.contains(id)).collect();
        Some((checkpoints.len(), left))
    }

    /// When all is quiet: the newest checkpoint has everything, the one before it can be restored, and nothing else is there.
    fn check_store(&self, running: &mut Running) {
        let all: BTreeSet<u64> = (0..self.rig.feeder.next).collect();
        let deadline = Instant::now() + DEADLINE;
        let of = ["--checkpoint-dir", &self.place, "--job", "crash", "--uid", &self.rig.uid];
        let quiet = |left: &Option<(usize, BTreeSet<ObjectId>)>| {
            left.as_ref().is_some_and(|(checkpoints, left)| *checkpoints == KEPT && left.is_empty())
        };
        loop {
            assert!(running.runs(), "ended by itself: {}", self.rig.said());
            let left = self.unreferenced();
            if quiet(&left) && held(&of).is_ok_and(|held| held == all) && quiet(&self.unreferenced()) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "checkpoints, and what nothing refers to: {left:?}: {}",
                self.rig.said()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        let (checkpoints, _) = restore::checkpoints(self.store.as_ref(), &self.rig.uid).unwrap();
        for manifest in checkpoints {
            let number = manifest.number.to_string();
            let held = held(&[&of[..], &["--number", &number]].concat()).unwrap();
            assert!(held.is_subset(&all), "checkpoint {number}");
        }
    }
}

/// The readings that a state holds, as `millstream state export` shows them.
fn held(of: &[&str]) -> Result<BTreeSet<u64>, Outcome> {
    let outcome = Workshop::new().run(&[&["state", "export"][..], of].concat());
    if outcome.code != Some(0) {
        return Err(outcome);
    }
    let mut held = BTreeSet::new();
    for line in outcome.stdout.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        if let Some(id) = entry["key"]["id"].as_u64() {
            assert!(held.insert(id), "twice: {line}");
        }
    }
    Ok(held)
}

pub(crate) fn cut(case: &str) {
    let (point, first) = case.split_once(' ').expect("<point> <kept|lost>");
    let mut case = Case::new();
    if ["download:", "place:"].iter().any(|step| point.starts_with(step)) {
        let running = case.start(&[]);
        case.until_taken(running, 2);
        case.lose_state();
    }
    case.run_to_the_cut(point);
    let running = case.start_again(first == "kept");
    case.until_taken(running, 1);
    let mut running = case.start_again(first != "kept");
    case.rig.passes(&mut running, 50);
    case.rig.compare_all(&mut running);
    case.check_store(&mut running);
    case.rig.stop(running);
    let all: BTreeSet<u64> = (0..case.rig.feeder.next).collect();
    let state = case.rig.workshop.path(STATE);
    let held = held(&["--state-dir", state.to_str().unwrap()]).unwrap();
    assert!(held == all, "{} readings in the state, not {}", held.len(), all.len());
}
