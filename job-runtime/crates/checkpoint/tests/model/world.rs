//! The state of the modelled world: broker, control topic, processes, disks, and how many faults may still happen.
//!
//! Owns the data and its encoding. What may happen to it is in `broker`, `pods` and `faults`.
//!
//! One pod has one transactional id. A shard stands for all that is committed together and owned together: a source partition, the output
//! and changelog records made of it, and its committed offset. Input `n` of a shard makes exactly record `n` and sets bit `n` of the state.

use std::fmt;

/// Pods, and places for processes.
pub(crate) const PODS: usize = 3;
/// Shards.
pub(crate) const SHARDS: usize = 2;
/// Records of a shard that may wait for their marker at once.
const WAITING: usize = 6;
/// Records of the control topic.
const CONTROL: usize = 16;
/// Releases on their way.
const ON_THE_WAY: usize = 8;

/// A record of the control topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Record {
    /// Owner of each shard.
    Assignment { number: u8, owners: [u8; SHARDS] },
    /// A set of shards, by bit.
    Release { number: u8, pod: u8, shards: u8 },
}

/// The control topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    records: [Record; CONTROL],
    len: u8,
}

/// A small list that lies in the state itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<T, const N: usize> {
    items: [Option<T>; N],
}

/// Where a transactional id stands at its coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transaction {
    /// None is open.
    Empty,
    /// Records or offsets are in it.
    Open,
    /// The commit is in the coordinator's log; these markers are still to be written.
    Committed { data_marker: bool, offset_marker: bool },
}

/// A transactional id at its coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coordinator {
    pub(crate) transaction: Transaction,
    /// A request to commit, of the present epoch, is on its way.
    pub(crate) end_on_the_way: bool,
}

/// A record that a read_committed reader does not get yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pod: u8,
    pub(crate) input: u8,
    pub(crate) committed: bool,
    pub(crate) marked: bool,
}

/// An offset that is sent and whose transaction has no marker yet. `None` when a later one has become visible before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingOffset {
    pub(crate) pod: u8,
    pub(crate) offset: Option<u8>,
}

/// What the broker holds of one shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partition {
    /// Records before the last stable offset, aborted ones not counted.
    pub(crate) visible: u8,
    pub(crate) waiting: List<Entry, WAITING>,
    pub(crate) offset: u8,
    pub(crate) pending: List<PendingOffset, PODS>,
}

/// How far a process is with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Nothing,
    /// Its offset is read.
    OffsetRead,
    /// Restored.
    Held,
}

/// How far a process is with its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    Produced,
    OffsetsSent,
    /// The commit is asked for.
    EndSent,
    /// The coordinator has decided, and its reply is on its way.
    Replied,
}

/// What a process has on its disk of one shard: the inputs that its state holds, and up to which record of the changelog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) inputs: u8,
    pub(crate) applied: u8,
}

/// How far the code of `checkpoint::ownership` is with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Down,
    Started,
    Initialised,
    Running,
}

/// One process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) stage: Stage,
    /// Records of the control topic that it has read.
    pub(crate) read: u8,
    /// Its epoch is the coordinator's.
    pub(crate) live: bool,
    pub(crate) holding: [Holding; SHARDS],
    /// The next input of each shard.
    pub(crate) next: [u8; SHARDS],
    /// Number under which it fenced each pod.
    pub(crate) fenced: [u8; PODS],
    pub(crate) proven: u8,
    pub(crate) phase: Phase,
    /// The input of each shard that is in the transaction.
    pub(crate) open: [Option<u8>; SHARDS],
}

/// How often something may still happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Further assignments.
    pub(crate) assignments: u8,
    /// Crashes.
    pub(crate) crashes: u8,
    /// Outcomes of a commit that stay unknown.
    pub(crate) unknown: u8,
    /// Assignments that lost a race or come again: with a number that is no longer the next.
    pub(crate) stale: u8,
}

/// The whole world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) releases: List<Record, ON_THE_WAY>,
    pub(crate) coordinators: [Coordinator; PODS],
    pub(crate) partitions: [Partition; SHARDS],
    pub(crate) processes: [Process; PODS],
    pub(crate) disks: [[Disk; SHARDS]; PODS],
    pub(crate) budget: Budget,
}

impl<T: Copy + PartialEq, const N: usize> List<T, N> {
    pub(crate) const EMPTY: Self = Self { items: [None; N] };

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.items.iter().map_while(|item| *item)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().map_while(Option::as_mut)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items[0].is_none()
    }

    pub(crate) fn push(&mut self, item: T) {
        let place = self.items.iter().position(Option::is_none).expect("the list has room in these bounds");
        self.items[place] = Some(item);
    }

    pub(crate) fn remove_first(&mut self, count: usize) {
        self.items.rotate_left(count);
        self.items[N - count..].fill(None);
    }

    pub(crate) fn sort(&mut self)
    where
        T: Ord,
    {
        // The empty places stay behind.
        self.items.sort_unstable_by_key(|item| (item.is_none(), *item));
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(T) -> bool) {
        let mut kept = [None; N];
        self.iter().filter(|item| keep(*item)).zip(&mut kept).for_each(|(item, place)| *place = Some(item));
        self.items = kept;
    }
}

impl Control {
    pub(crate) fn starting_with(record: Record) -> Self {
        Self { records: [record; CONTROL], len: 1 }
    }

    pub(crate) fn read(&self, records: u8) -> &[Record] {
        &self.records[..usize::from(records)]
    }

    pub(crate) fn all(&self) -> &[Record] {
        self.read(self.len)
    }

    pub(crate) fn len(&self) -> u8 {
        self.len
    }

    pub(crate) fn append(&mut self, record: Record) {
        self.records[usize::from(self.len)] = record;
        self.len += 1;
    }
}

impl Disk {
    /// The changes of a commit and its place in the changelog, in one write.
    pub(crate) fn apply(&mut self, input: u8) {
        self.inputs |= 1 << input;
        self.applied = input + 1;
    }
}

/// Bytes on the stack: a world is encoded millions of times.
struct Bytes {
    bytes: [u8; 192],
    len: usize,
}

impl Bytes {
    #[inline(always)]
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline(always)]
    fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(*byte);
        }
    }
}

impl Process {
    pub(crate) const DOWN: Self = Self {
        stage: Stage::Down,
        read: 0,
        live: false,
        holding: [Holding::Nothing; SHARDS],
        next: [0; SHARDS],
        fenced: [0; PODS],
        proven: 0,
        phase: Phase::Idle,
        open: [None; SHARDS],
    };

    fn encode(&self, out: &mut Bytes) {
        let bits = self.stage as u8 | u8::from(self.live) << 2 | (self.phase as u8) << 3;
        out.extend(&[bits, self.read, self.proven]);
        for shard in 0..SHARDS {
            let open = self.open[shard].map_or(7, |input| input);
            out.push(self.holding[shard] as u8 | self.next[shard] << 2 | open << 5);
        }
        out.extend(&self.fenced);
    }
}

impl Partition {
    fn encode(&self, out: &mut Bytes) {
        out.extend(&[self.visible, self.offset]);
        for entry in self.waiting.iter() {
            out.push(
                0x80 | entry.pod << 5 | entry.input << 2 | u8::from(entry.committed) << 1 | u8::from(entry.marked),
            );
        }
        out.push(0xfe);
        for pending in self.pending.iter() {
            out.extend(&[pending.pod, pending.offset.unwrap_or(0xff)]);
        }
        out.push(0xfe);
    }
}

impl Record {
    fn encode(self) -> [u8; 3] {
        match self {
            Self::Assignment { number, owners } => [0x80 | number, owners[0], owners[1]],
            Self::Release { number, pod, shards } => [number, pod, shards],
        }
    }
}

impl World {
    /// Bytes that are equal exactly if two worlds are.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let mut bytes = Bytes { bytes: [0; 192], len: 0 };
        let out = &mut bytes;
        for record in self.control.all() {
            out.extend(&record.encode());
        }
        out.push(0xfe);
        for release in self.releases.iter() {
            out.extend(&release.encode());
        }
        out.push(0xfe);
        for coordinator in &self.coordinators {
            let transaction = match coordinator.transaction {
                Transaction::Empty => 0,
                Transaction::Open => 1,
                Transaction::Committed { data_marker, offset_marker } => {
                    2 | u8::from(data_marker) << 3 | u8::from(offset_marker) << 4
                }
            };
            out.push(transaction | u8::from(coordinator.end_on_the_way) << 2);
        }
        for partition in &self.partitions {
            partition.encode(out);
        }
        for process in &self.processes {
            process.encode(out);
        }
        for disk in self.disks.as_flattened() {
            out.push(disk.inputs << 4 | disk.applied);
        }
        out.extend(&[self.budget.assignments << 4 | self.budget.stale, self.budget.crashes << 4 | self.budget.unknown]);
        to.extend_from_slice(&bytes.bytes[..bytes.len]);
    }
}

/// Encodes a beginning of the control topic.
pub(crate) fn encode_records(records: &[Record], out: &mut Vec<u8>) {
    records.iter().for_each(|record| out.extend(record.encode()));
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assignment { number, owners } => write!(f, "assignment {number} to {owners:?}"),
            Self::Release { number, pod, shards } => {
                write!(f, "release of shards {shards:b} by pod {pod} up to {number}")
            }
        }
    }
}
