//! What happens without any process doing it: requests arrive late or never, markers are written, transactions time out, somebody else
//! fences, and new assignments are made.
//!
//! Owns the steps of broker, network and operator.

use super::explorer::Step;
use super::job::{ALL, Action, Job, OWNERS};
use super::world::{Record, SHARDS, Transaction, World};

fn push(
    world: &World,
    out: &mut Vec<Step<Job>>,
    action: Action,
    fair: u8,
    act: impl FnOnce(&mut World) -> Option<String>,
) {
    let mut next = *world;
    let violation = act(&mut next);
    out.push(Step { action, next, fair, violation });
}

impl Job {
    /// What the coordinators of all pods may do next.
    pub(crate) fn broker_steps(&self, world: &World, owners: &[Option<u8>; SHARDS], out: &mut Vec<Step<Job>>) {
        for pod in 0..self.pods {
            let coordinator = world.coordinators[usize::from(pod)];
            let both = OWNERS | ALL;
            if coordinator.end_on_the_way {
                push(world, out, Action::EndArrives(pod), both, |next| next.end_arrives(self.pods, pod));
            }
            match coordinator.transaction {
                Transaction::Committed { data_marker, offset_marker } => {
                    if !data_marker {
                        push(world, out, Action::DataMarker(pod), both, |next| {
                            next.data_marker(pod);
                            None
                        });
                    }
                    if !offset_marker {
                        push(world, out, Action::OffsetMarker(pod), both, |next| {
                            next.offset_marker(pod);
                            None
                        });
                    }
                }
                Transaction::Open => {
                    // At any moment, for the clocks are not ours; surely, when nobody is left who could end it.
                    let ends = |process: usize| self.fair(process, owners);
                    let others = world.live_processes(self.pods, pod).fold(0, |bits, process| bits | ends(process));
                    push(world, out, Action::Timeout(pod), both & !others, |next| {
                        next.new_epoch(self.pods, pod);
                        None
                    });
                }
                Transaction::Empty => {
                    // A call to `InitProducerId` that was long on its way, of a process that may be gone.
                    if world.live_processes(self.pods, pod).next().is_some() {
                        push(world, out, Action::StrayFence(pod), 0, |next| {
                            next.new_epoch(self.pods, pod);
                            None
                        });
                    }
                }
            }
        }
    }

    /// What may happen to the control topic.
    pub(crate) fn control_steps(&self, world: &World, out: &mut Vec<Step<Job>>) {
        for release in world.releases.iter() {
            push(world, out, Action::ReleaseArrives(release), OWNERS | ALL, |next| {
                next.releases.retain(|other| other != release);
                if !next.control.all().contains(&release) {
                    next.control.append(release);
                }
                None
            });
            push(world, out, Action::ReleaseLost(release), 0, |next| {
                next.releases.retain(|other| other != release);
                None
            });
        }
        let numbers = world.control.all().iter().filter_map(|record| match record {
            Record::Assignment { number, .. } => Some(*number),
            Record::Release { .. } => None,
        });
        let last = numbers.max().expect("the control topic begins with an assignment");
        if world.budget.assignments > 0 {
            self.proposals(world, out, last + 1, |next| next.budget.assignments -= 1);
        }
        if world.budget.stale > 0 {
            // Two pods append at the same time, or an append is repeated after others.
            self.proposals(world, out, last, |next| next.budget.stale -= 1);
        }
    }

    fn proposals(&self, world: &World, out: &mut Vec<Step<Job>>, number: u8, pay: impl Fn(&mut World) + Copy) {
        let made = self.path.len().saturating_sub(usize::from(world.budget.assignments));
        let mut owners = [0; SHARDS];
        let all = usize::from(self.pods).pow(self.shards as u32);
        for choice in 0..all {
            owners[0] = (choice % usize::from(self.pods)) as u8;
            owners[1] = (choice / usize::from(self.pods)) as u8;
            let record = Record::Assignment { number, owners };
            let planned = self.path.get(made).is_none_or(|plan| *plan == owners);
            let repeated = world
                .control
                .all()
                .iter()
                .rev()
                .find(|r| matches!(r, Record::Assignment { .. }))
                .is_some_and(|last| matches!(last, Record::Assignment { owners: before, .. } if *before == owners));
            if planned && !repeated {
                push(world, out, Action::Assign(record), 0, |next| {
                    pay(next);
                    next.control.append(record);
                    None
                });
            }
        }
    }
}
