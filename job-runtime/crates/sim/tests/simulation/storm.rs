//! What is done to a run while the storm lasts: to its processes, its machines, the broker, the number of its pods, and its input.
//!
//! Owns the doing. How often each happens is `faults`'; what becomes of it is told to nobody here.

use sim::message::{Answer, Record, Request, Transactional};
use sim::world::Cut;

use super::{Gone, Process, Run, STORM_MS};
use crate::job::{INPUT, encode};
use crate::machine::Disks;
use crate::oracle::FOREIGN;

impl Run {
    /// A process, if there is one, once in so many times.
    fn victim(&mut self, once_in: usize) -> Option<usize> {
        (self.random.once_in(once_in) && !self.processes.is_empty()).then(|| self.random.below(self.processes.len()))
    }

    /// Kills, sends to sleep, cuts off, fills disks, changes the number of pods; and starts a process of each pod that has none awake, or
    /// sometimes a second one.
    pub(super) fn disturb(&mut self) {
        let now = self.now();
        self.processes.retain(|process| self.job.world.is_alive(process.task));
        if let Some(victim) = self.victim(self.plan.kill) {
            self.kill(victim);
        }
        if let Some(victim) = self.victim(self.plan.pause) {
            let ms = [50, 1_000, 5_000, 20_000][self.random.below(4)];
            self.job.world.pause(self.processes[victim].task, ms);
            self.processes[victim].asleep_until_ms = now + ms;
            self.outcome.pauses += 1;
        }
        if let Some(victim) = self.victim(self.plan.cut) {
            let way = if self.random.once_in(2) { Cut::Both } else { Cut::Answers };
            let ms = 100 + self.random.below(6_000) as u64;
            self.job.world.cut(self.processes[victim].task, ms, way);
            self.outcome.cuts += 1;
        }
        self.disturb_machines();
        if self.random.once_in(self.plan.away) {
            self.job.world.broker_away(200 + self.random.below(6_000) as u64);
            self.outcome.outages += 1;
        }
        if self.plan.pods > 1 && self.random.once_in(self.plan.rescale) {
            self.job.pods.set(1 + self.random.below(usize::from(self.plan.pods)) as u16);
            self.outcome.rescales += 1;
        }
        self.disturb_input(now);
        self.lose_input(now);
        for pod in 0..self.job.pods.get() {
            let awake = |process: &&Process| process.pod == pod && process.asleep_until_ms <= now;
            let none = self.processes.iter().filter(awake).count() == 0;
            if (none && self.random.once_in(3)) || self.random.once_in(self.plan.second) {
                self.start(pod);
            }
        }
    }

    /// Disks are full, slow, lie, or are copied; clocks jump.
    fn disturb_machines(&mut self) {
        if let Some(victim) = self.victim(self.plan.full_disk) {
            self.disks_of(victim).fill_up();
            self.outcome.full_disks += 1;
        }
        if let Some(victim) = self.victim(self.plan.lie) {
            self.disks_of(victim).lie();
            self.outcome.lies += 1;
        }
        if let Some(victim) = self.victim(self.plan.slow) {
            self.disks_of(victim).slow_down(500);
            self.outcome.slow_disks += 1;
        } else if self.random.once_in(20) {
            self.machines.iter().flatten().for_each(|disks| disks.slow_down(0));
        }
        if let Some(victim) = self.victim(self.plan.jump) {
            let skew_ms = self.skew_ms();
            self.processes[victim].skew_ms.set(skew_ms);
            self.outcome.jumps += 1;
        }
        if self.random.once_in(80) {
            self.machines.iter().flatten().for_each(Disks::back_up);
        }
    }

    fn disks_of(&self, process: usize) -> &Disks {
        let process = &self.processes[process];
        &self.machines[usize::from(process.pod)][process.machine]
    }

    /// Once at most, and only in some runs: a partition of the input loses all that it has, read or not.
    fn lose_input(&mut self, now: u64) {
        if self.gone.is_some() || now < STORM_MS / 4 || !self.random.once_in(self.plan.lose_input) {
            return;
        }
        let partition = self.random.below(self.rows.len());
        let from = (INPUT.to_owned(), partition as i32);
        let Some(Answer::Edges(_, before)) = self.ask(&Request::ListOffsets { of: from.clone() }) else { return };
        self.ask(&Request::DeleteRecords { from, before });
        self.gone = Some(Gone { partition, rows: self.fed[partition] });
        self.outcome.losses += 1;
    }

    /// Somebody else begins a transaction on the input and leaves it open for a while, then aborts it: nothing of it may be seen.
    fn disturb_input(&mut self, now: u64) {
        if let Some((by, until)) = self.foreign.clone() {
            if now >= until {
                self.ask(&Request::EndTxn { by, commit: false });
                self.foreign = None;
            }
            return;
        }
        if !self.random.once_in(self.plan.foreign) {
            return;
        }
        let init = Request::InitProducerId { transactional_id: FOREIGN.to_owned(), timeout_ms: 60_000 };
        let Some(Answer::Producer(producer)) = self.ask(&init) else { return };
        let by = Transactional { id: FOREIGN.to_owned(), producer };
        let to = (INPUT.to_owned(), self.random.below(self.rows.len()) as i32);
        let records = vec![Record { value: Some(encode(&[0, 0, -1])), ..Record::default() }];
        self.ask(&Request::AddPartitionsToTxn { by: by.clone(), partitions: vec![to.clone()] });
        self.ask(&Request::Produce { by: Some(by.clone()), to, sequence: 0, records });
        self.foreign = Some((by, now + self.random.below(5_000) as u64));
        self.outcome.foreign += 1;
    }
}
