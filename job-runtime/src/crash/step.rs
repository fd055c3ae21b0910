//! The steps that can be cut, by the part of the runtime that they belong to.
//!
//! Owns their names and which of them ask somebody. Where a step is, is where `crash` is called.

/// A step that can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `init_transactions`.
    Fence,
    /// Internal topics are made.
    Topics,
    /// The first assignment is appended.
    Assign,
    /// The changelog's tail goes into the stores.
    Restore,
    /// A batch is taken from a source.
    Poll,
    /// Output is given to the log or a sink.
    Write,
    /// State changes are given to the client.
    Changelog,
    /// The brokers take all records.
    Flush,
    /// Source offsets join the transaction.
    Offsets,
    /// The transaction is committed: the broker's decision.
    End,
    /// Local state takes the commit.
    Apply,
    /// What a shard has in memory goes into its files.
    Memtable,
    /// A shard is copied by hard links.
    Link,
    /// A file goes up, or the end of the local log.
    Upload,
    /// A shard's manifest is put.
    ShardManifest,
    /// The checkpoint's manifest is put, if there is none of its number: now it exists.
    Checkpoint,
    /// The manifest of an old checkpoint is removed.
    Retire,
    /// An object is removed that nothing refers to.
    Garbage,
    /// The part of the changelog is removed that no snapshot needs.
    Trim,
    /// A shard's files come down, beside its directory.
    Download,
    /// What came down takes the directory's place.
    Place,
    /// The shards are copied for a savepoint.
    SavepointCopy,
    /// A pod's part of a savepoint is put.
    SavepointPart,
    /// The savepoint's manifest is put: now it exists.
    Savepoint,
    /// The next assignment is proposed: by an order, or by pod 0.
    Propose,
    /// A pod says that it has the files of what it is to gain.
    Ready,
    /// The next assignment is appended.
    Reassign,
    /// A pod hears of another assignment.
    Notice,
    /// The last commit under the old one.
    LastCommit,
    /// The transactional call that shows that a pod is not fenced.
    Prove,
    /// What a pod has lost is released.
    Release,
    /// The process is replaced by a new one.
    Anew,
    /// A pod that did not release what it lost is fenced.
    FenceLoser,
    /// The first commit of a process is asked for.
    FirstCommit,
}

impl Step {
    /// Of a start and of a commit.
    pub const COMMIT: [Self; 11] = [
        Self::Fence,
        Self::Topics,
        Self::Assign,
        Self::Restore,
        Self::Poll,
        Self::Write,
        Self::Changelog,
        Self::Flush,
        Self::Offsets,
        Self::End,
        Self::Apply,
    ];

    /// Of a checkpoint, and of a start without local state.
    pub const CHECKPOINT: [Self; 10] = [
        Self::Memtable,
        Self::Link,
        Self::Upload,
        Self::ShardManifest,
        Self::Checkpoint,
        Self::Retire,
        Self::Garbage,
        Self::Trim,
        Self::Download,
        Self::Place,
    ];

    /// Of a savepoint.
    pub const SAVEPOINT: [Self; 3] = [Self::SavepointCopy, Self::SavepointPart, Self::Savepoint];

    /// Of a change of the number of pods.
    pub const RESCALE: [Self; 10] = [
        Self::Propose,
        Self::Ready,
        Self::Reassign,
        Self::Notice,
        Self::LastCommit,
        Self::Prove,
        Self::Release,
        Self::Anew,
        Self::FenceLoser,
        Self::FirstCommit,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let all = Self::COMMIT.into_iter().chain(Self::CHECKPOINT);
        all.chain(Self::SAVEPOINT).chain(Self::RESCALE)
    }

    /// As `MILLSTREAM_CRASH` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Topics => "topics",
            Self::Assign => "assign",
            Self::Restore => "restore",
            Self::Poll => "poll",
            Self::Write => "write",
            Self::Changelog => "changelog",
            Self::Flush => "flush",
            Self::Offsets => "offsets",
            Self::End => "end",
            Self::Apply => "apply",
            Self::Memtable => "memtable",
            Self::Link => "link",
            Self::Upload => "upload",
            Self::ShardManifest => "shard-manifest",
            Self::Checkpoint => "checkpoint",
            Self::Retire => "retire",
            Self::Garbage => "garbage",
            Self::Trim => "trim",
            Self::Download => "download",
            Self::Place => "place",
            Self::SavepointCopy => "savepoint-copy",
            Self::SavepointPart => "savepoint-part",
            Self::Savepoint => "savepoint",
            Self::Propose => "propose",
            Self::Ready => "ready",
            Self::Reassign => "reassign",
            Self::Notice => "notice",
            Self::LastCommit => "last-commit",
            Self::Prove => "prove",
            Self::Release => "release",
            Self::Anew => "anew",
            Self::FenceLoser => "fence-loser",
            Self::FirstCommit => "first-commit",
        }
    }

    /// True if the step asks somebody whose answer can be lost.
    pub fn has_answer(self) -> bool {
        match self {
            Self::Fence
            | Self::Topics
            | Self::Assign
            | Self::Flush
            | Self::Offsets
            | Self::End
            | Self::Upload
            | Self::ShardManifest
            | Self::Checkpoint
            | Self::Retire
            | Self::Garbage
            | Self::Trim
            | Self::SavepointPart
            | Self::Savepoint
            | Self::Propose
            | Self::Ready
            | Self::Reassign
            | Self::Prove
            | Self::Release
            | Self::FenceLoser
            | Self::FirstCommit => true,
            Self::Restore
            | Self::Poll
            | Self::Write
            | Self::Changelog
            | Self::Apply
            | Self::Memtable
            | Self::Link
            | Self::Download
            | Self::Place
            | Self::SavepointCopy
            | Self::Notice
            | Self::LastCommit
            | Self::Anew => false,
        }
    }
}
