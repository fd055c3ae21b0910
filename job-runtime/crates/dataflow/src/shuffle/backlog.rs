//! What a pod has sent to other pods' shards and their owners have not read: whether the pod's sources must wait for one of them.
//!
//! Owns the decision. It asks nobody how far a reader is (the runtime asks the log) and knows no clock.
//!
//! # What counts
//! Messages with rows that this process has sent, and that the shard's owner has not committed as read. So what is in the way of nobody never
//! holds the sources: markers and aborted records have offsets too, but are never read; a heartbeat is no work; what others send is theirs to
//! wait for. What an earlier process of the pod has sent does not count either: a pod that is started again while the reader is away may send as
//! much once more.
//!
//! The sources wait while a shard is further behind than the bound, until it has caught up by half.

use std::collections::{BTreeMap, VecDeque};

use crate::graph::NodeId;
use crate::key::ShardId;

/// How far behind one shard may be before the pods that send to it wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Messages with rows of one sender.
    pub messages: u64,
    /// Their bytes, before the client compresses them.
    pub bytes: u64,
}

/// 51 s of commits at the default interval: a reader that is only started again holds nobody up. Twice what a reader lets pile up before it
/// pauses its own sources ([`super::LAG_BOUND`]). The bytes are for senders with full messages; they bound what lies on the brokers' disks: this
/// for each sender and shard of another pod.
pub const BOUND: Bound = Bound { messages: 1_024, bytes: 256 << 20 };
/// Commits of one shard that are kept apart. If it cannot be asked how far readers are, more count as one with the last.
const KEPT: usize = 4_096;

/// An exchange and a shard of another pod.
pub type Target = (NodeId, ShardId);

/// Messages with rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub messages: u64,
    /// Their size.
    pub bytes: u64,
}

impl Amount {
    /// Adds to it.
    pub fn add(&mut self, more: Amount) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }

    fn exceeds(self, bound: Bound) -> bool {
        self.messages > bound.messages || self.bytes > bound.bytes
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Backlog {
    bound: Bound,
    targets: BTreeMap<Target, Unread>,
}

#[derive(Debug, Default)]
struct Unread {
    /// Of each commit: the offset of its last message, and what it sent.
    commits: VecDeque<(i64, Amount)>,
    sum: Amount,
    /// The sources wait for it.
    awaited: bool,
}

impl Backlog {
    /// With nothing sent.
    pub fn new(bound: Bound) -> Self {
        Self { bound, targets: BTreeMap::new() }
    }

    fn half(&self) -> Bound {
        Bound { messages: self.bound.messages / 2, bytes: self.bound.bytes / 2 }
    }

    /// A commit is in the log that sent so much to a target; its last message there has offset `last`.
    pub fn sent(&mut self, target: Target, last: i64, amount: Amount) {
        let unread = self.targets.entry(target).or_default();
        unread.sum.add(amount);
        let full = unread.commits.len() >= KEPT;
        match unread.commits.back_mut().filter(|_| full) {
            Some((offset, before)) => {
                *offset = last;
                before.add(amount);
            }
            None => unread.commits.push_back((last, amount)),
        }
    }

    /// Of which targets to ask how far they are read. Until a target is half a bound behind there is nothing to ask: so a job whose readers keep
    /// up asks now and then, and one that sends nothing never.
    pub fn to_ask(&self) -> Vec<Target> {
        let half = self.half();
        let due = self.targets.iter().filter(|(_, unread)| unread.awaited || unread.sum.exceeds(half));
        due.map(|(target, _)| *target).collect()
    }

    /// The reader of a target has committed that it goes on at `next_offset`.
    pub fn read(&mut self, target: Target, next_offset: i64) {
        let (bound, half) = (self.bound, self.half());
        let Some(unread) = self.targets.get_mut(&target) else { return };
        while unread.commits.front().is_some_and(|(last, _)| *last < next_offset) {
            if let Some((_, amount)) = unread.commits.pop_front() {
                unread.sum.messages -= amount.messages;
                unread.sum.bytes -= amount.bytes;
            }
        }
        unread.awaited = unread.sum.exceeds(if unread.awaited { half } else { bound });
    }

    /// The target that the sources wait for, and what it has not read: of several the one that is furthest behind. `None` if they need not wait.
    pub fn awaited(&self) -> Option<(Target, Amount)> {
        let awaited = self.targets.iter().filter(|(_, unread)| unread.awaited);
        awaited.map(|(target, unread)| (*target, unread.sum)).max_by_key(|(_, sum)| (sum.messages, sum.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Target = (NodeId(1), ShardId(5));
    const B: Target = (NodeId(1), ShardId(6));

    fn backlog() -> Backlog {
        Backlog::new(Bound { messages: 10, bytes: 1_000 })
    }

    fn of(messages: u64, bytes: u64) -> Amount {
        Amount { messages, bytes }
    }

    #[test]
    fn sources_wait_beyond_the_bound_until_half_of_it_is_read() {
        let mut backlog = backlog();
        // Every other offset is a marker's.
        (0..10).for_each(|commit| backlog.sent(A, commit * 2, of(1, 1)));
        backlog.read(A, 0);
        assert_eq!(backlog.awaited(), None, "it is at the bound");
        backlog.sent(A, 20, of(1, 1));
        assert_eq!(backlog.awaited(), None, "nobody has asked yet how far it is");
        for (next_offset, behind) in [(0, Some(11)), (1, Some(10)), (9, Some(6)), (11, None), (11, None)] {
            backlog.read(A, next_offset);
            assert_eq!(backlog.awaited(), behind.map(|messages| (A, of(messages, messages))), "{next_offset}");
        }
    }

    #[test]
    fn bytes_count_as_messages_do() {
        let mut backlog = backlog();
        for (commit, bytes, awaited) in [(0, 1_000, false), (1, 1, true)] {
            backlog.sent(A, commit, of(1, bytes));
            backlog.read(A, 0);
            assert_eq!(backlog.awaited().is_some(), awaited);
        }
        backlog.read(A, 1);
        assert_eq!(backlog.awaited(), None);
    }

    #[test]
    fn the_target_that_is_furthest_behind_is_named_and_one_is_enough() {
        let mut backlog = backlog();
        backlog.sent(A, 50, of(11, 0));
        backlog.sent(B, 70, of(12, 0));
        [A, B].into_iter().for_each(|target| backlog.read(target, 0));
        assert_eq!(backlog.awaited(), Some((B, of(12, 0))));
        backlog.read(B, 71);
        assert_eq!(backlog.awaited(), Some((A, of(11, 0))));
        backlog.read(A, 51);
        assert_eq!(backlog.awaited(), None);
    }

    #[test]
    fn readers_that_keep_up_are_asked_for_only_now_and_then() {
        let mut backlog = backlog();
        assert_eq!(backlog.to_ask(), []);
        backlog.sent(A, 1, of(5, 0));
        assert_eq!(backlog.to_ask(), [], "it cannot be further behind than half the bound");
        backlog.sent(A, 3, of(1, 0));
        assert_eq!(backlog.to_ask(), [A]);
        backlog.read(A, 4);
        assert_eq!(backlog.to_ask(), []);
    }

    #[test]
    fn one_that_is_awaited_is_asked_for_until_it_is_not() {
        let mut backlog = backlog();
        backlog.sent(A, 1, of(6, 0));
        backlog.sent(A, 3, of(5, 0));
        backlog.read(A, 0);
        backlog.read(A, 2);
        assert_eq!((backlog.awaited(), backlog.to_ask()), (None, vec![]), "half is read");
    }

    proptest! {
        /// Whatever is sent and read: when all is read nobody waits, and memory stays bounded.
        #[test]
        fn who_has_read_all_holds_nobody_up(steps in proptest::collection::vec((1..4i64, 0..9u64, 0..20i64), 1..200)) {
            let (mut backlog, mut end, mut read) = (backlog(), 0, 0);
            for (gap, messages, on) in steps {
                end += gap;
                backlog.sent(A, end, of(messages, messages * 100));
                read = (read + on).min(end + 1);
                backlog.read(A, read);
            }
            backlog.read(A, end + 1);
            prop_assert_eq!((backlog.awaited(), backlog.to_ask()), (None, vec![]));
        }
    }

    #[test]
    fn what_cannot_be_asked_for_takes_no_more_memory() {
        let mut backlog = backlog();
        (0..2 * KEPT as i64).for_each(|offset| backlog.sent(A, offset, of(1, 0)));
        assert_eq!(backlog.targets[&A].commits.len(), KEPT);
        backlog.read(A, 2 * KEPT as i64 - 1);
        assert_eq!(backlog.targets[&A].sum, of(KEPT as u64 + 1, 0));
        backlog.read(A, 2 * KEPT as i64);
        assert_eq!(backlog.targets[&A].sum, Amount::default());
    }
}
