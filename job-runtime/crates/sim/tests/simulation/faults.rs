//! What goes wrong in a run, and how often: drawn from the seed, so that one seed is calm and another is not.
//!
//! Owns the numbers. `run` does it.

use dataflow::testing::Random;
use sim::message::Protocol;
use sim::store::StoreFaults;
use sim::world::Faults;

use super::machine::Fate;
use super::mutant::Mutant;

pub(crate) const QUIET: Faults = Faults { break_once_in: 0, way_us: 2_000, latest_us: 0, marker_us: 5_000 };
pub(crate) const STORE_QUIET: StoreFaults = StoreFaults { fail: 0, lose_reply: 0, damage: 0, longest_us: 10_000 };

/// Each number: once in so many looks (of a tenth of a second); 0 for never.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) network: Faults,
    pub(crate) store: StoreFaults,
    pub(crate) kill: usize,
    pub(crate) pause: usize,
    pub(crate) second: usize,
    pub(crate) cut: usize,
    pub(crate) rescale: usize,
    pub(crate) full_disk: usize,
    /// A disk is slow for a while.
    pub(crate) slow: usize,
    /// A disk says that it has made something durable, and has not.
    pub(crate) lie: usize,
    /// A clock jumps.
    pub(crate) jump: usize,
    /// The broker is away for a while.
    pub(crate) away: usize,
    /// A partition of the input loses what it has.
    pub(crate) lose_input: usize,
    pub(crate) protocol: Protocol,
    /// Somebody else leaves a transaction open on the input.
    pub(crate) foreign: usize,
    /// Once in so many kills the disk is lost; once in so many it is an older copy; or another machine's.
    pub(crate) lost: usize,
    pub(crate) older: usize,
    pub(crate) other: usize,
    /// Clocks of machines are wrong by up to so much.
    pub(crate) skew_ms: usize,
    /// A process at work looks at the control topic after up to so many microseconds.
    pub(crate) look_us: usize,
    /// Most pods that the job has.
    pub(crate) pods: u16,
    /// Partitions of the input.
    pub(crate) partitions: i32,
}

impl Plan {
    pub(crate) fn new(random: &mut Random, mutant: Option<Mutant>) -> Self {
        let mut one = |of: [usize; 4]| of[random.below(4)];
        let network = Faults {
            break_once_in: one([0, 60, 200, 1_000]),
            way_us: one([1_000, 3_000, 8_000, 20_000]) as u64,
            latest_us: one([10_000, 500_000, 2_000_000, 6_000_000]) as u64,
            marker_us: one([2_000, 20_000, 100_000, 500_000]) as u64,
        };
        let store = StoreFaults {
            fail: one([0, 10, 40, 200]),
            lose_reply: one([0, 10, 40, 200]),
            damage: one([0, 5, 20, 100]),
            longest_us: one([5_000, 50_000, 300_000, 2_000_000]) as u64,
        };
        let plan = Self {
            network,
            store,
            kill: one([30, 50, 100, 300]),
            pause: one([40, 60, 150, 400]),
            second: one([60, 150, 300, 0]),
            cut: one([80, 200, 500, 0]),
            rescale: one([30, 60, 120, 0]),
            full_disk: one([0, 300, 600, 0]),
            foreign: one([0, 150, 300, 0]),
            lost: one([2, 4, 8, 0]),
            older: one([3, 6, 12, 0]),
            other: one([4, 8, 16, 0]),
            slow: one([0, 0, 100, 300]),
            lie: one([0, 40, 100, 300]),
            jump: one([0, 0, 20, 100]),
            away: one([0, 0, 150, 400]),
            // Such a run ends without its output: not too many of them.
            lose_input: if one([0, 1, 2, 3]) + one([0, 1, 2, 3]) == 0 { 100 } else { 0 },
            protocol: [Protocol::One, Protocol::Two][one([0, 1, 0, 1])],
            skew_ms: one([1, 5_000, 600_000, 3_600_000]),
            pods: one([1, 2, 2, 3]) as u16,
            partitions: one([1, 2, 3, 3]) as i32,
            look_us: one([200_000, 600_000, 600_000, 3_000_000]),
        };
        mutant.map_or(plan.clone(), |mutant| plan.where_it_hurts(mutant))
    }

    /// A mutant is looked for where it hurts.
    fn where_it_hurts(mut self, mutant: Mutant) -> Self {
        // The only one that protocol 2 makes harmless.
        if mutant == Mutant::CommitAskedAgain {
            self.protocol = Protocol::One;
        }
        self.lose_input = 0;
        match mutant {
            Mutant::OffsetsFirst | Mutant::StateBeforeCommit | Mutant::CommitAskedAgain | Mutant::FencedLate => {
                (self.network.break_once_in, self.network.latest_us) = (20, 6_000_000);
                (self.pods, self.cut, self.second, self.kill) = (1, 0, 60, 100);
            }
            Mutant::ControlReadFirst | Mutant::NotSettled | Mutant::SlotIgnored => {
                (self.pods, self.rescale) = (3, 30);
            }
            // Somebody who is fenced must read a loss before the process that fenced it does.
            Mutant::ReleaseUnproved => {
                (self.pods, self.rescale, self.second, self.kill) = (2, 20, 20, 300);
                self.look_us = 3_000_000;
            }
            Mutant::ManifestFirst | Mutant::NoChecksum | Mutant::EarlyTrim | Mutant::LocalUnchecked => {
                (self.kill, self.lost, self.older) = (30, 2, 3);
                (self.store.damage, self.store.fail) = (4, 10);
            }
            Mutant::PositionLeftOut => self.kill = 30,
        }
        self
    }

    /// What becomes of the disk of a killed process.
    pub(crate) fn fate(&self, random: &mut Random) -> Fate {
        if random.once_in(self.lost) {
            Fate::Lost
        } else if random.once_in(self.older) {
            Fate::Older
        } else if random.once_in(self.other) {
            Fate::Other
        } else if random.once_in(4) {
            Fate::Kept
        } else {
            Fate::Killed
        }
    }
}
