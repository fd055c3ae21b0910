//! What a pod sends at a commit: one message per exchange and shard that has rows, and heartbeats.
//!
//! Owns the decision, over all workers of the pod. It knows no topic and no clock: the caller says what time it is.
//!
//! # Heartbeats
//! A message with rows says the event time by itself. A shard for which there are no rows is told of a change at the next commit that is at least a
//! period after what it was told last; the period grows with the number of exchanges and shards, so that a pod sends at most
//! [`MARKERS_PER_SECOND`]. The end of the input is told at once.

use super::message::{BlockKind, FIXED, MESSAGE_BYTES, Message, PER_BLOCK, Route};
use super::{PodView, ShuffleBlock, ShuffleMessage, ShuffleShare};
use crate::graph::{NodeId, OperatorUid};
use crate::key::ShardId;
use crate::watermark::{EventTime, MinOfInputs};
use crate::worker::CommitId;

/// Heartbeats that a pod sends per second at most.
pub const MARKERS_PER_SECOND: u64 = 1_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Outgoing {
    view: PodView,
    exchanges: Vec<Exchange>,
    period_ms: u64,
    /// Nothing is said of event time.
    mute: bool,
}

#[derive(Debug)]
struct Exchange {
    node: NodeId,
    uid: OperatorUid,
    /// Over the pod's workers.
    time: MinOfInputs,
    shards: Vec<Shard>,
}

#[derive(Clone, Debug)]
struct Shard {
    id: ShardId,
    /// What the shard was told last, and when.
    told: EventTime,
    told_ms: Option<u64>,
    blocks: Vec<(BlockKind, Vec<u8>)>,
}

impl Shard {
    fn new(id: ShardId) -> Self {
        Self { id, told: EventTime::START, told_ms: None, blocks: Vec::new() }
    }
}

impl Exchange {
    /// When the shard must be told of the event time, if it does not know it.
    fn due_ms(&self, shard: &Shard, period_ms: u64) -> Option<u64> {
        let time = self.time.combined();
        let wait = if time.is_end() { 0 } else { period_ms };
        (shard.told != time).then(|| shard.told_ms.map_or(0, |told| told + wait))
    }
}

impl Outgoing {
    /// For a pod of so many workers and the shards of other pods.
    pub fn new(
        view: PodView,
        exchanges: impl Iterator<Item = (NodeId, OperatorUid)>,
        shards: &[ShardId],
        workers: usize,
    ) -> Self {
        let exchange = |(node, uid)| {
            let (time, shards) = (MinOfInputs::new(workers), shards.iter().copied().map(Shard::new).collect());
            Exchange { node, uid, time, shards }
        };
        let exchanges: Vec<Exchange> = exchanges.map(exchange).collect();
        let period_ms = period_ms(exchanges.len() * shards.len());
        Self { view, exchanges, period_ms, mute: false }
    }

    /// Between two commits: another assignment is in force, and these shards are other pods' too from now on. Under it each shard is told of
    /// event time anew; without a `view` of it nothing is said of that (see [`Switch`](super::Switch)).
    pub fn take_up(&mut self, view: Option<PodView>, lost: &[ShardId]) {
        for exchange in &mut self.exchanges {
            exchange.shards.extend(lost.iter().copied().map(Shard::new));
        }
        self.period_ms = period_ms(self.exchanges.iter().map(|exchange| exchange.shards.len()).sum());
        self.mute = view.is_none();
        if let Some(view) = view {
            self.view = view;
            let shards = self.exchanges.iter_mut().flat_map(|exchange| &mut exchange.shards);
            shards.for_each(|shard| (shard.told, shard.told_ms) = (EventTime::START, None));
        }
    }

    /// A block that is full before the barrier: it goes at once, and says of event time what the shard knows already.
    pub fn full_block(&self, block: ShuffleBlock, commit: CommitId) -> Option<ShuffleMessage> {
        let exchange = self.exchanges.iter().find(|exchange| exchange.node == block.exchange)?;
        let shard = exchange.shards.iter().find(|shard| shard.id == block.shard)?;
        Some(message(&self.view, exchange, shard.id, shard.told, commit, vec![(block.kind, &block.bytes)]))
    }

    /// Takes a worker's share of a commit.
    pub fn take(&mut self, worker: usize, shares: Vec<ShuffleShare>) {
        for share in shares {
            let Some(exchange) = self.exchanges.iter_mut().find(|e| e.node == share.exchange) else { continue };
            exchange.time.update(worker, share.time);
            for block in share.blocks {
                if let Some(shard) = exchange.shards.iter_mut().find(|shard| shard.id == block.shard) {
                    shard.blocks.push((block.kind, block.bytes));
                }
            }
        }
    }

    /// True if the shares taken hold rows, or a heartbeat is due: there is something to commit.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.due_ms().is_some_and(|due| due <= now_ms)
            || self.exchanges.iter().flat_map(|exchange| &exchange.shards).any(|shard| !shard.blocks.is_empty())
    }

    /// When the next heartbeat is due, if there is one to send.
    pub fn due_ms(&self) -> Option<u64> {
        if self.mute {
            return None;
        }
        let due = |exchange: &Exchange| {
            exchange.shards.iter().filter_map(|shard| exchange.due_ms(shard, self.period_ms)).min()
        };
        self.exchanges.iter().filter_map(due).min()
    }

    /// The messages of a commit of which all shares were taken.
    pub fn messages(&mut self, commit: CommitId, now_ms: u64) -> Vec<ShuffleMessage> {
        let mut out = Vec::new();
        for exchange in &mut self.exchanges {
            let time = exchange.time.combined();
            for place in 0..exchange.shards.len() {
                let due = exchange.due_ms(&exchange.shards[place], self.period_ms).is_some_and(|due| due <= now_ms);
                let (due, time) = if self.mute { (false, exchange.shards[place].told) } else { (due, time) };
                let blocks = std::mem::take(&mut exchange.shards[place].blocks);
                if blocks.is_empty() && !due {
                    continue;
                }
                let shard = &exchange.shards[place];
                let parts = parts(&blocks);
                let last = parts.len().saturating_sub(1);
                for (number, part) in parts.into_iter().enumerate() {
                    // Event time holds behind all rows.
                    let time = if number == last { time } else { shard.told };
                    out.push(message(&self.view, exchange, shard.id, time, commit, part));
                }
                let shard = &mut exchange.shards[place];
                (shard.told, shard.told_ms) = (time, Some(now_ms));
            }
        }
        out
    }
}

fn period_ms(shards: usize) -> u64 {
    shards as u64 * 1_000 / MARKERS_PER_SECOND
}

/// The blocks of each message: at least one message, none beyond [`MESSAGE_BYTES`] unless by a single block.
fn parts(blocks: &[(BlockKind, Vec<u8>)]) -> Vec<Vec<(BlockKind, &[u8])>> {
    let (mut parts, mut size) = (vec![Vec::new()], FIXED);
    for (kind, block) in blocks {
        let more = PER_BLOCK + block.len();
        if size + more > MESSAGE_BYTES && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(Vec::new());
            size = FIXED;
        }
        size += more;
        if let Some(part) = parts.last_mut() {
            part.push((*kind, block.as_slice()));
        }
    }
    parts
}

fn message(
    view: &PodView,
    exchange: &Exchange,
    shard: ShardId,
    time: EventTime,
    commit: CommitId,
    blocks: Vec<(BlockKind, &[u8])>,
) -> ShuffleMessage {
    let rows = !blocks.is_empty();
    let message = Message { assignment: view.assignment, slot: view.slot, commit: commit.0, time, blocks };
    let route = Route { job: view.job, exchange: exchange.uid, shard };
    ShuffleMessage { exchange: exchange.node, shard, bytes: message.encode(route), rows }
}

#[cfg(test)]
mod tests {
    use super::super::message::decode;
    use super::*;

    const NODE: NodeId = NodeId(1);
    const UID: OperatorUid = OperatorUid(17);

    fn outgoing(shards: u16, workers: usize) -> Outgoing {
        let view = PodView { job: 5, assignment: 1, slot: 0, others: vec![1] };
        let shards: Vec<ShardId> = (0..shards).map(ShardId).collect();
        Outgoing::new(view, [(NODE, UID)].into_iter(), &shards, workers)
    }

    fn at(watermark_ms: i64) -> EventTime {
        EventTime { watermark_ms, idle: false }
    }

    fn share(time: EventTime, blocks: &[(u16, usize)]) -> Vec<ShuffleShare> {
        let block = |(shard, len): &(u16, usize)| ShuffleBlock {
            exchange: NODE,
            shard: ShardId(*shard),
            kind: BlockKind::Rows,
            bytes: vec![9; *len],
        };
        vec![ShuffleShare { exchange: NODE, time, blocks: blocks.iter().map(block).collect() }]
    }

    /// Per message: shard, watermark, sizes of blocks.
    fn sent(outgoing: &mut Outgoing, now_ms: u64) -> Vec<(u16, i64, Vec<usize>)> {
        let show = |m: ShuffleMessage| {
            let route = Route { job: 5, exchange: UID, shard: m.shard };
            let decoded = decode(route, &m.bytes).unwrap();
            assert_eq!(m.rows, !decoded.blocks.is_empty());
            (m.shard.0, decoded.time.watermark_ms, decoded.blocks.iter().map(|(_, b)| b.len()).collect())
        };
        outgoing.messages(CommitId(1), now_ms).into_iter().map(show).collect()
    }

    #[test]
    fn one_message_holds_the_rows_of_all_workers_and_the_least_time() {
        let mut outgoing = outgoing(2, 2);
        outgoing.take(0, share(at(50), &[(1, 3)]));
        outgoing.take(1, share(at(40), &[(1, 4)]));
        assert_eq!(sent(&mut outgoing, 0), [(0, 40, vec![]), (1, 40, vec![3, 4])]);
        assert_eq!(sent(&mut outgoing, 10_000), [], "nothing changed, nothing is sent");
    }

    #[test]
    fn a_message_stays_small_and_only_the_last_one_moves_time() {
        let mut outgoing = outgoing(1, 1);
        outgoing.take(0, share(at(50), &[(0, 500_000), (0, 500_000), (0, 2_000_000), (0, 5)]));
        let found = sent(&mut outgoing, 0);
        let start = i64::MIN;
        let expected =
            [(0, start, vec![500_000]), (0, start, vec![500_000]), (0, start, vec![2_000_000]), (0, 50, vec![5])];
        assert_eq!(found, expected);
    }

    #[test]
    fn heartbeats_keep_their_period_and_the_end_does_not_wait() {
        let mut outgoing = outgoing(2_000, 1);
        outgoing.take(0, share(at(50), &[]));
        assert_eq!(sent(&mut outgoing, 100).len(), 2_000);
        outgoing.take(0, share(at(60), &[(7, 1)]));
        assert_eq!(outgoing.due_ms(), Some(2_100), "2000 shards, 1000 heartbeats a second");
        assert!(outgoing.is_due(100), "there are rows");
        assert_eq!(sent(&mut outgoing, 1_000), [(7, 60, vec![1])]);
        assert!(!outgoing.is_due(2_099));
        assert_eq!(sent(&mut outgoing, 2_100).len(), 1_999);
        assert_eq!(outgoing.due_ms(), None);
        outgoing.take(0, share(EventTime::END, &[]));
        assert!(outgoing.is_due(2_100));
        assert_eq!(sent(&mut outgoing, 2_100).len(), 2_000);
    }

    #[test]
    fn under_another_assignment_every_shard_is_told_anew_and_those_that_were_lost_too() {
        let mut outgoing = outgoing(1, 1);
        outgoing.take(0, share(at(50), &[]));
        assert_eq!(sent(&mut outgoing, 0), [(0, 50, vec![])]);
        let view = PodView { job: 5, assignment: 2, slot: 0, others: vec![1, 2] };
        outgoing.take_up(Some(view), &[ShardId(3)]);
        outgoing.take(0, share(at(50), &[(3, 7)]));
        let messages = outgoing.messages(CommitId(1), 10);
        let route = |shard| Route { job: 5, exchange: UID, shard };
        let said = messages.iter().map(|m| decode(route(m.shard), &m.bytes).unwrap());
        let said: Vec<_> = said.map(|m| (m.assignment, m.time, m.blocks.len())).collect();
        assert_eq!(said, [(2, at(50), 0), (2, at(50), 1)]);
    }

    #[test]
    fn who_lacks_what_an_assignment_gives_it_sends_rows_and_moves_no_time() {
        let mut outgoing = outgoing(1, 1);
        outgoing.take(0, share(at(50), &[]));
        assert_eq!(sent(&mut outgoing, 0), [(0, 50, vec![])]);
        outgoing.take_up(None, &[ShardId(3)]);
        outgoing.take(0, share(at(90), &[(0, 1), (3, 7)]));
        assert!(outgoing.is_due(0), "there are rows");
        assert_eq!(sent(&mut outgoing, 0), [(0, 50, vec![1]), (3, i64::MIN, vec![7])]);
        assert!(!outgoing.is_due(10_000) && outgoing.due_ms().is_none());
        outgoing.take_up(Some(PodView { job: 5, assignment: 3, slot: 0, others: vec![1] }), &[]);
        assert_eq!(sent(&mut outgoing, 10_000), [(0, 90, vec![]), (3, 90, vec![])]);
    }

    #[test]
    fn a_full_block_goes_at_once_and_moves_no_time() {
        let mut outgoing = outgoing(1, 1);
        outgoing.take(0, share(at(50), &[]));
        let block = ShuffleBlock { exchange: NODE, shard: ShardId(0), kind: BlockKind::Partial, bytes: vec![1, 2] };
        let early = outgoing.full_block(block, CommitId(1)).unwrap();
        let route = Route { job: 5, exchange: UID, shard: ShardId(0) };
        assert_eq!(decode(route, &early.bytes).unwrap().time, EventTime::START);
        assert_eq!(sent(&mut outgoing, 0), [(0, 50, vec![])]);
    }
}
