//! What a run, or many, have seen: how often each fault happened, and what the pods did.
//!
//! Owns the sums and the line that says them. It judges nothing.

use std::time::Duration;

use super::pod::Counts;

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) runs: u64,
    /// Runs in which the broker speaks transaction protocol 2; in the others it speaks 1.
    pub(crate) protocol_two: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) starts: u64,
    pub(crate) kills: u64,
    pub(crate) pauses: u64,
    pub(crate) cuts: u64,
    pub(crate) outages: u64,
    pub(crate) full_disks: u64,
    pub(crate) lies: u64,
    pub(crate) slow_disks: u64,
    pub(crate) jumps: u64,
    pub(crate) rescales: u64,
    pub(crate) foreign: u64,
    /// Runs in which a partition of the input lost what it had.
    pub(crate) losses: u64,
    pub(crate) breaks: u64,
    pub(crate) store_failures: u64,
    pub(crate) damaged: u64,
    pub(crate) counts: Counts,
    pub(crate) checks: u64,
    pub(crate) events: u64,
    pub(crate) trace: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.protocol_two += other.protocol_two;
        self.simulated_ms += other.simulated_ms;
        self.starts += other.starts;
        self.kills += other.kills;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.outages += other.outages;
        self.full_disks += other.full_disks;
        self.lies += other.lies;
        self.slow_disks += other.slow_disks;
        self.jumps += other.jumps;
        self.rescales += other.rescales;
        self.foreign += other.foreign;
        self.losses += other.losses;
        self.breaks += other.breaks;
        self.store_failures += other.store_failures;
        self.damaged += other.damaged;
        self.counts.add(&other.counts);
        self.checks += other.checks;
        self.events += other.events;
        self.trace ^= other.trace;
    }

    /// Everything that was done to the job, by name.
    fn faults(&self) -> [(u64, &'static str); 14] {
        [
            (self.kills, "kills"),
            (self.pauses, "pauses"),
            (self.cuts, "cut off"),
            (self.breaks, "broken connections"),
            (self.outages, "times without the broker"),
            (self.rescales, "other numbers of pods"),
            (self.foreign, "foreign transactions"),
            (self.losses, "losses of input"),
            (self.full_disks, "full disks"),
            (self.slow_disks, "slow disks"),
            (self.lies, "flushes that were none"),
            (self.jumps, "jumps of clocks"),
            (self.store_failures, "failed answers of the object store"),
            (self.damaged, "damaged answers of it"),
        ]
    }

    /// What must have happened in many runs, or they prove nothing: how often the rarest of it did.
    pub(crate) fn rarest(&self) -> u64 {
        let Counts { commits, messages, fences, releases, snapshots, restored, damage_found, gone } = self.counts;
        let done = [commits, messages, fences, releases, snapshots, restored, damage_found, gone];
        let protocols = [self.protocol_two, self.runs - self.protocol_two];
        self.faults().map(|(count, _)| count).into_iter().chain(done).chain(protocols).min().unwrap_or(0)
    }

    /// One line for people.
    pub(crate) fn report(&self, took: Duration) -> String {
        let Self { runs, protocol_two, starts, counts, checks, events, .. } = self;
        let per_minute = *runs as f64 * 60.0 / took.as_secs_f64().max(0.001);
        let all: u64 = self.faults().map(|(count, _)| count).into_iter().sum();
        let faults = self.faults().map(|(count, name)| format!("{count} {name}"));
        format!(
            "simulation: {runs} seeds of {} simulated s in {:.1} s ({per_minute:.0} per minute), {} with transaction protocol 1 and {protocol_two} with \
             2; {all} faults: {}; {starts} starts, {} commits, {} messages between pods, {} releases, {} fences, {} snapshots, {} shards restored from one, \
             {} damaged objects found, {} stops because of lost input, {checks} comparisons of state, {events} events",
            self.simulated_ms / 1000 / runs.max(&1),
            took.as_secs_f32(),
            runs - protocol_two,
            faults.join(", "),
            counts.commits,
            counts.messages,
            counts.releases,
            counts.fences,
            counts.snapshots,
            counts.restored,
            counts.damage_found,
            counts.gone,
        )
    }
}
