//! The job's control topic as a whole: who owns what and what is proposed, savepoints under way, where the job's state came from, and whether its
//! input has ended.
//!
//! Owns the fold of all records into one value. What each part means is in `ownership`, `proposal` and `savepoint`.

use crate::ownership::record::ControlRecord;
use crate::ownership::{Effect, View};
use crate::proposal::Proposed;
use crate::savepoint::Board;

/// What the control topic says, as far as it was read: always from its start, never with a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlLog {
    /// Who may act on which shard.
    pub view: View,
    /// The next assignment, while it is only proposed.
    pub proposed: Option<Proposed>,
    /// Savepoints.
    pub board: Board,
    /// The savepoint that the job began from; the first word counts.
    pub origin: Option<String>,
    /// What is read is all there is, whoever starts and whatever is assigned from here on.
    pub drained: bool,
}

impl ControlLog {
    /// Takes the next record.
    pub fn append(&mut self, record: &ControlRecord) {
        match record {
            ControlRecord::Assignment(_) => {
                if self.view.append(record) == Effect::InForce {
                    self.board.reassigned();
                    self.proposed = None;
                }
            }
            ControlRecord::Proposal(proposal) => {
                self.proposed = Proposed::propose(self.proposed.take(), *proposal, self.view.in_force());
            }
            ControlRecord::Ready(ready) => {
                if let Some(proposed) = &mut self.proposed {
                    proposed.ready(*ready);
                }
            }
            ControlRecord::Release(_) => {
                self.view.append(record);
            }
            ControlRecord::Savepoint(savepoint) => self.board.append(savepoint, self.view.in_force()),
            ControlRecord::Origin(location) => {
                self.origin.get_or_insert_with(|| location.clone());
            }
            ControlRecord::Drain => self.drained = true,
        }
    }
}
