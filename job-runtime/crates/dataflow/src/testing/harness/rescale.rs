//! Shards that pass from pod to pod while the job runs: who takes that up with a commit, and who starts anew.
//!
//! Owns the rules of the runtime in short: a pod gives up what it loses at a barrier, and one that gains starts when nobody holds that any more. When a
//! pod that gains has crashed, all who hold what it gains are fenced.

use std::sync::Arc;

use super::{Durable, Harness, Process, Random};
use crate::key::ShardId;
use crate::shuffle::{OTHER_POD, PodView, Switch};
use crate::worker::{CommitId, WorkerError};

/// So often in a run.
pub(super) const MOST: usize = 5;

/// What a process does before its next turn.
pub(super) enum Next {
    GoOn,
    /// With its next commit.
    Switch(Arc<Switch>),
    Start,
}

impl Durable {
    /// The next assignment: some shards have another pod.
    pub(super) fn rescale(&mut self, pods: u16, random: &mut Random) {
        self.assignment += 1;
        for pod in &mut self.pod_of {
            if random.once_in(4) {
                *pod = random.below(usize::from(pods)) as u16;
            }
        }
        self.finished.fill(false);
    }
}

impl Harness {
    /// With which a source partition passes to another pod.
    pub(super) fn shard_of_source(&self, number: usize) -> ShardId {
        ShardId((number * 7 % usize::from(self.shards.count())) as u16)
    }

    pub(super) fn view(&self, pod: u16, durable: &Durable) -> PodView {
        let others = (0..self.pods).filter(|other| *other != pod).collect();
        PodView { job: 1, assignment: durable.assignment, slot: pod, others }
    }

    pub(super) fn next(&self, pod: usize, pods: &[Process], durable: &Durable) -> Next {
        let process = &pods[pod];
        if process.has_all(durable) || process.switching.is_some() || process.due.is_some() {
            return Next::GoOn;
        }
        let loses =
            process.owner.iter().zip(&durable.pod_of).any(|(worker, of)| *worker != OTHER_POD && *of != process.pod);
        let gained: Vec<usize> = process.gained(durable).collect();
        if loses || gained.is_empty() {
            let kept = process.owner.iter().zip(&durable.pod_of);
            let owner = kept.map(|(worker, of)| if *of == process.pod { *worker } else { OTHER_POD }).collect();
            let view = gained.is_empty().then(|| self.view(process.pod, durable));
            return Next::Switch(Arc::new(Switch { owner, view }));
        }
        if pods.iter().any(|other| other.holds_any(&gained)) { Next::GoOn } else { Next::Start }
    }

    /// Starts a pod again, and with it all that hold what it gains: they are fenced.
    pub(super) fn restart(
        &self,
        pod: usize,
        pods: &mut [Process],
        durable: &mut Durable,
        random: &mut Random,
    ) -> Result<(), WorkerError> {
        let mut fenced = vec![pod];
        let mut at = 0;
        while at < fenced.len() {
            let gained: Vec<usize> = pods[fenced[at]].gained(durable).collect();
            for (other, process) in pods.iter().enumerate() {
                if !fenced.contains(&other) && process.holds_any(&gained) {
                    fenced.push(other);
                }
            }
            at += 1;
        }
        for pod in fenced {
            // What it said of its end does not hold for what it has gained since.
            durable.finished[pod] = false;
            pods[pod] = self.start(pod as u16, durable, random)?;
        }
        Ok(())
    }
}

impl Process {
    /// True if it works under the assignment in force, which it then has all of.
    pub(super) fn has_all(&self, durable: &Durable) -> bool {
        self.assignment == durable.assignment
    }

    /// True if it may still write the state of one of these shards: also to a disk, which is one for all pods here.
    fn holds_any(&self, shards: &[usize]) -> bool {
        !shards.is_empty() && (self.switching.is_some() || shards.iter().any(|shard| self.owner[*shard] != OTHER_POD))
    }

    /// What it has not and is to have.
    fn gained<'a>(&'a self, durable: &'a Durable) -> impl Iterator<Item = usize> + 'a {
        let all = self.owner.iter().zip(&durable.pod_of).enumerate();
        all.filter(|(_, (worker, of))| **worker == OTHER_POD && **of == self.pod).map(|(shard, _)| shard)
    }

    /// A commit is in the log: if it takes an assignment up, what was lost is free.
    pub(super) fn switched(&mut self, id: CommitId, durable: &mut Durable) {
        let Some((_, switch)) = self.switching.as_ref().filter(|(with, _)| *with == id) else { return };
        let both = self.owner.iter().zip(switch.owner.iter()).enumerate();
        let lost: Vec<ShardId> =
            both.filter(|(_, (old, new))| old != new).map(|(shard, _)| ShardId(shard as u16)).collect();
        self.outgoing.take_up(switch.view.clone(), &lost);
        self.owner = Arc::clone(&switch.owner);
        if let Some(view) = &switch.view {
            self.assignment = view.assignment;
            durable.taken_up += 1;
        }
    }

    /// The next switch may come when all workers have applied the commit of the last.
    pub(super) fn end_switch(&mut self) {
        let (committed, untold) = (self.committed, &self.untold);
        self.switching.take_if(|(id, _)| *id <= committed && untold.iter().flatten().all(|(told, _)| told != id));
    }
}
