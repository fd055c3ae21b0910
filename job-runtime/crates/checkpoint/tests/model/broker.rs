//! What the broker does by itself and when asked: transactions, markers, fencing, offsets, the last stable offset.
//!
//! Owns the modelled part of Kafka (transaction protocol version 1, as librdkafka speaks it). Whom it serves is in `pods`.
//!
//! A commit that returned is durable and not yet visible: the markers come later, one for the records and one for the offsets, in any
//! order. A new epoch aborts what is open, refuses everything older, and waits while markers are being written.

use super::world::{Coordinator, Entry, PODS, Partition, PendingOffset, Phase, Process, SHARDS, Transaction, World};

impl Coordinator {
    pub(crate) const NEW: Self = Self { transaction: Transaction::Empty, end_on_the_way: false };

    /// False while markers are being written: whoever asks is told to come again.
    pub(crate) fn answers(&self) -> bool {
        !matches!(self.transaction, Transaction::Committed { .. })
    }
}

impl Partition {
    /// Committed records, visible or not.
    pub(crate) fn committed(&self) -> u8 {
        self.visible + self.waiting.iter().filter(|entry| entry.committed).count() as u8
    }

    /// True if the last stable offset is the end: every writer's last transaction has its marker.
    pub(crate) fn is_stable(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn produce(&mut self, pod: u8, input: u8) {
        self.waiting.push(Entry { pod, input, committed: false, marked: false });
    }

    pub(crate) fn send_offset(&mut self, pod: u8, offset: u8) {
        self.pending.retain(|pending| pending.pod != pod);
        self.pending.push(PendingOffset { pod, offset: Some(offset) });
    }

    /// An abort marker.
    pub(crate) fn abort(&mut self, pod: u8) {
        self.waiting.retain(|entry| entry.pod != pod || entry.committed);
        self.pending.retain(|pending| pending.pod != pod);
        self.show();
    }

    fn mark_data(&mut self, pod: u8) {
        self.waiting
            .iter_mut()
            .filter(|entry| entry.pod == pod && entry.committed)
            .for_each(|entry| entry.marked = true);
        self.show();
    }

    /// Of two offsets the one that was *sent* later stands, whichever marker comes first.
    fn mark_offset(&mut self, pod: u8) {
        let Some(own) = self.pending.iter().find(|pending| pending.pod == pod) else { return };
        if let Some(offset) = own.offset {
            self.offset = offset;
            let older = self.pending.iter_mut().take_while(|pending| pending.pod != pod);
            older.for_each(|pending| pending.offset = None);
        }
        self.pending.retain(|pending| pending.pod != pod);
    }

    /// Moves the last stable offset over what is marked.
    fn show(&mut self) {
        let marked = self.waiting.iter().take_while(|entry| entry.marked).count();
        self.visible += marked as u8;
        self.waiting.remove_first(marked);
    }
}

/// The pod that a process belongs to: one beyond the pods is a second process of pod 0.
pub(crate) fn pod_of(pods: u8, process: usize) -> u8 {
    if process < usize::from(pods) { process as u8 } else { 0 }
}

impl World {
    /// `InitProducerId`: a new epoch. What is open is aborted; every earlier process of the pod and every request under way is refused.
    pub(crate) fn new_epoch(&mut self, pods: u8, pod: u8) {
        let coordinator = &mut self.coordinators[usize::from(pod)];
        if coordinator.transaction == Transaction::Open {
            coordinator.transaction = Transaction::Empty;
            self.partitions.iter_mut().for_each(|partition| partition.abort(pod));
        }
        self.coordinators[usize::from(pod)].end_on_the_way = false;
        for (index, process) in self.processes.iter_mut().enumerate() {
            process.live &= pod_of(pods, index) != pod;
        }
    }

    /// A request to commit arrives. Says what is wrong with what is then committed (I1).
    pub(crate) fn end_arrives(&mut self, pods: u8, pod: u8) -> Option<String> {
        let coordinator = &mut self.coordinators[usize::from(pod)];
        coordinator.end_on_the_way = false;
        let open = coordinator.transaction == Transaction::Open;
        if open {
            coordinator.transaction = Transaction::Committed { data_marker: false, offset_marker: false };
        }
        let waits = |index: usize, process: &Process| {
            pod_of(pods, index) == pod && process.live && process.phase == Phase::EndSent
        };
        for (index, process) in self.processes.iter_mut().enumerate() {
            if waits(index, process) {
                process.phase = Phase::Replied;
            }
        }
        if !open {
            return None;
        }
        (0..SHARDS).filter_map(|shard| self.partitions[shard].commit(shard, pod)).next()
    }

    /// The marker that makes committed records visible.
    pub(crate) fn data_marker(&mut self, pod: u8) {
        self.partitions.iter_mut().for_each(|partition| partition.mark_data(pod));
        self.marked(pod, |data, _| *data = true);
    }

    /// The marker that makes committed offsets visible.
    pub(crate) fn offset_marker(&mut self, pod: u8) {
        self.partitions.iter_mut().for_each(|partition| partition.mark_offset(pod));
        self.marked(pod, |_, offset| *offset = true);
    }

    fn marked(&mut self, pod: u8, set: impl Fn(&mut bool, &mut bool)) {
        let transaction = &mut self.coordinators[usize::from(pod)].transaction;
        if let Transaction::Committed { data_marker, offset_marker } = transaction {
            set(data_marker, offset_marker);
            if *data_marker && *offset_marker {
                *transaction = Transaction::Empty;
            }
        }
    }

    /// The pods with a process that has the coordinator's epoch.
    pub(crate) fn live_processes(&self, pods: u8, pod: u8) -> impl Iterator<Item = usize> + '_ {
        (0..PODS).filter(move |index| pod_of(pods, *index) == pod && self.processes[*index].live)
    }
}

impl Partition {
    /// Decides the pod's records. Every committed record must be the one that follows the one before it.
    fn commit(&mut self, shard: usize, pod: u8) -> Option<String> {
        self.waiting.iter_mut().filter(|entry| entry.pod == pod).for_each(|entry| entry.committed = true);
        let committed = self.waiting.iter().filter(|entry| entry.committed);
        committed.zip(self.visible..).find(|(entry, due)| entry.input != *due).map(|(entry, due)| {
            let what = if entry.input < due { "twice" } else { "with one before it lost" };
            format!("I1: shard {shard} has the record of input {} {what}", entry.input)
        })
    }
}
