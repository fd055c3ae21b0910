//! What a running process does when another assignment comes into force: take it up at a barrier, wait for what it gains, or begin anew.
//!
//! Owns the decision. Who may act on which shard is `ownership`'s; barriers, files and processes are the runtime's, which does what this says
//! and asks again.
//!
//! # The rules
//! - A process takes an assignment up between two commits. The last commit that holds a lost shard is begun after the loss was read, and asks the
//!   broker: so it proves that the process is not fenced, and the release may follow at once.
//! - A pod that gains nothing works under the new number from there on. One that gains something speaks of event time under no number until it
//!   has what it gains: it does not read all of its sources. First it gives up what it loses.
//! - A pod that gains goes on with what it has until all who had the gained shards have released them, or had time enough to, and what
//!   can be fetched of their state is there. Then it begins anew: a start settles, restores and catches up.
//! - What a start alone can put right makes a process begin anew at once: its first shard is lost, where it keeps positions and names; it loses
//!   all; it was alone, or is.

use std::collections::BTreeSet;

use crate::assignment::Assignment;
use crate::ownership::{Process, Step, View};

/// A process at work.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// Its pod.
    pub ordinal: u16,
    /// The assignment that it works under.
    pub under: &'a Assignment,
    /// What it holds.
    pub process: &'a Process,
    /// What it has read of the control topic.
    pub view: &'a View,
}

/// How far the wait for gained shards is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Those who had them have had time enough to release them.
    pub long_enough: bool,
    /// What can be fetched of their state is not there yet.
    pub fetching: bool,
}

/// What to take up at the next barrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The assignment in force.
    pub number: u64,
    /// Shards that the process holds and the pod does not own any more.
    pub lost: Vec<u16>,
    /// The pod owns shards that the process does not hold: its event time stands still until it begins anew.
    pub gains: bool,
}

/// What a process must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its work: it has all that is its own.
    GoOn,
    /// Take this up with its next commit.
    TakeUp(Change),
    /// Its work, and fetch what there is of these shards.
    Await(Vec<u16>),
    /// Commit, release what it lost, and begin anew.
    Anew,
}

/// What a process must do, over what was read of the control topic.
pub fn decide(pod: Running<'_>, waiting: Waiting) -> Turn {
    let Some(next) = pod.view.in_force() else { return Turn::GoOn };
    let held: BTreeSet<u16> = (0..next.shards).filter(|shard| pod.process.holds(*shard)).collect();
    let share = next.share(pod.ordinal).into_iter();
    let own: BTreeSet<u16> = share.flat_map(|share| share.shards.iter().cloned().flatten()).collect();
    if held == own && next.number == pod.under.number {
        return Turn::GoOn;
    }
    if !can_go_on(pod.under, next, &held, &own) {
        return Turn::Anew;
    }
    let lost: Vec<u16> = held.difference(&own).copied().collect();
    let gained: Vec<u16> = own.difference(&held).copied().collect();
    if !lost.is_empty() || gained.is_empty() {
        return Turn::TakeUp(Change { number: next.number, lost, gains: !gained.is_empty() });
    }
    match (is_settled(pod) || waiting.long_enough) && !waiting.fetching {
        true => Turn::Anew,
        false => Turn::Await(gained),
    }
}

/// True if nobody may act on what the pod gains any more. As long as a release of its own is not in the control topic that is not known.
fn is_settled(pod: Running<'_>) -> bool {
    pod.process.steps(pod.view).iter().all(|step| match step {
        Step::Restore { .. } => true,
        Step::InitTransactions
        | Step::ReadControlLog
        | Step::Settle { .. }
        | Step::Prove
        | Step::EndTransaction
        | Step::Release(_) => false,
    })
}

/// True if no start is needed for anything but gained shards.
fn can_go_on(under: &Assignment, next: &Assignment, held: &BTreeSet<u16>, own: &BTreeSet<u16>) -> bool {
    let several = under.pods.len() > 1 && (next.pods.len() > 1 || own.is_superset(held));
    let keeps_first = held.first().is_some_and(|first| own.contains(first));
    // A partition that is owned by name does not pass with a shard.
    let by_name = [under, next].into_iter().flat_map(|assignment| &assignment.pods).any(|pod| !pod.sources.is_empty());
    several && keeps_first && !by_name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::PodShare;
    use crate::ownership::record::{ControlRecord, Release};

    fn assign(number: u64, owners: &[u16]) -> Assignment {
        let mine =
            |pod: u16| (0u16..).zip(owners).filter(move |(_, owner)| **owner == pod).map(|(s, _)| s..s + 1).collect();
        let mut pods: Vec<u16> = owners.to_vec();
        pods.sort_unstable();
        pods.dedup();
        let share = |ordinal| PodShare { ordinal, shards: mine(ordinal), sources: Vec::new() };
        Assignment { number, shards: owners.len() as u16, pods: pods.into_iter().map(share).collect() }
    }

    /// Pod 0 of a job that goes from one assignment to others, holding these shards.
    struct Case {
        assignments: Vec<Assignment>,
        view: View,
        process: Process,
    }

    impl Case {
        fn new(held: &[u16], owners: &[&[u16]]) -> Self {
            let assignments: Vec<Assignment> = (1..).zip(owners).map(|(n, owners)| assign(n, owners)).collect();
            let mut view = View::default();
            for assignment in &assignments {
                view.append(&ControlRecord::Assignment(assignment.clone()));
            }
            let mut process = Process::new(0);
            process.initialised();
            process.caught_up();
            held.iter().for_each(|shard| process.restored(*shard));
            Self { assignments, view, process }
        }

        fn turn_of(&self, under: &Assignment, waiting: Waiting) -> Turn {
            decide(Running { ordinal: 0, under, process: &self.process, view: &self.view }, waiting)
        }

        fn turn(&self) -> Turn {
            self.turn_of(&self.assignments[0], Waiting::default())
        }
    }

    fn take_up(number: u64, lost: &[u16], gains: bool) -> Turn {
        Turn::TakeUp(Change { number, lost: lost.to_vec(), gains })
    }

    #[test]
    fn what_a_pod_does_under_another_assignment() {
        let held: &[u16] = &[0, 1];
        for (what, owners, expected) in [
            ("nothing is new", vec![&[0, 0, 1, 1][..]], Turn::GoOn),
            ("others exchange shards", vec![&[0, 0, 1, 1], &[0, 0, 1, 2]], take_up(2, &[], false)),
            ("it only loses", vec![&[0, 0, 1, 1], &[0, 2, 1, 1]], take_up(2, &[1], false)),
            ("it loses and gains", vec![&[0, 0, 1, 1], &[0, 1, 0, 1]], take_up(2, &[1], true)),
            ("it gains", vec![&[0, 0, 1, 1], &[0, 0, 0, 1]], Turn::Await(vec![2])),
            ("it gains all that others had", vec![&[0, 0, 1, 1], &[0, 0, 0, 0]], Turn::Await(vec![2, 3])),
            ("it lost and has again", vec![&[0, 0, 1, 1], &[0, 1, 1, 1], &[0, 0, 1, 1]], take_up(3, &[], false)),
            ("two changes at once", vec![&[0, 0, 1, 1], &[0, 0, 1, 2], &[0, 2, 1, 2]], take_up(3, &[1], false)),
            ("it loses its first shard", vec![&[0, 0, 1, 1], &[1, 0, 1, 1]], Turn::Anew),
            ("it loses all", vec![&[0, 0, 1, 1], &[1, 1, 1, 1]], Turn::Anew),
        ] {
            assert_eq!(Case::new(held, &owners).turn(), expected, "{what}");
        }
        assert_eq!(Case::new(&[0, 1, 2, 3], &[&[0, 0, 0, 0], &[0, 0, 1, 1]]).turn(), Turn::Anew, "it was alone");
    }

    #[test]
    fn who_gains_begins_anew_when_all_have_released_and_what_can_be_fetched_is_there() {
        let mut case = Case::new(&[0], &[&[0, 1, 2], &[0, 2, 2], &[0, 0, 0]]);
        let awaits = Turn::Await(vec![1, 2]);
        let release =
            |number, pod, shards: &[u16]| ControlRecord::Release(Release { number, pod, shards: shards.to_vec() });
        assert_eq!(case.turn(), awaits);
        case.view.append(&release(3, 2, &[1, 2]));
        assert_eq!(case.turn(), awaits, "shard 1 had another owner before");
        let under = case.assignments[0].clone();
        let long_enough = Waiting { long_enough: true, fetching: false };
        assert_eq!(case.turn_of(&under, long_enough), Turn::Anew);
        case.view.append(&release(2, 1, &[1]));
        assert_eq!(case.turn(), Turn::Anew);
        for waiting in [Waiting { fetching: true, ..long_enough }, Waiting { fetching: true, ..Waiting::default() }] {
            assert_eq!(case.turn_of(&under, waiting), awaits);
        }
    }

    #[test]
    fn who_has_given_up_what_it_lost_waits_for_what_it_gains() {
        let mut case = Case::new(&[0, 1], &[&[0, 0, 1, 1], &[0, 1, 0, 1]]);
        case.process.let_go(&[1]);
        assert_eq!(case.turn(), Turn::Await(vec![2]));
        let release = |pod, shards: &[u16]| ControlRecord::Release(Release { number: 2, pod, shards: shards.to_vec() });
        case.view.append(&release(1, &[2]));
        assert_eq!(case.turn(), Turn::Await(vec![2]), "its own release is not read yet");
        let mut released = case.view.clone();
        released.append(&release(0, &[1]));
        let under = &case.assignments[0];
        let running = Running { ordinal: 0, under, process: &case.process, view: &released };
        assert_eq!(decide(running, Waiting::default()), Turn::Anew);
        // The next assignment takes back what it would have gained.
        case.view.append(&ControlRecord::Assignment(assign(3, &[0, 1, 1, 1])));
        assert_eq!(case.turn(), take_up(3, &[], false));
    }

    #[test]
    fn partitions_that_are_owned_by_name_need_a_start() {
        let mut case = Case::new(&[0, 1], &[&[0, 0, 1, 1]]);
        let mut next = assign(2, &[0, 0, 1, 2]);
        next.pods[1].sources.push(("t".to_owned(), "t-0".to_owned()));
        case.view.append(&ControlRecord::Assignment(next));
        assert_eq!(case.turn(), Turn::Anew);
    }
}
