//! Rules that can be taken away, one at a time: some seed must show it.
//!
//! Owns their names. Where a rule is left out, the code of the simulation says so; the real runtime's are in `job-runtime/src/planted.rs`.

/// One rule less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Offsets are committed beside the transaction, before it.
    OffsetsFirst,
    /// The local state takes a commit's changes before its outcome is known.
    StateBeforeCommit,
    /// A commit whose answer is lost is asked for again in the same epoch.
    CommitAskedAgain,
    /// A process gets its epoch after it has read state and offsets.
    FencedLate,
    /// The control topic is read before the fence, and not again behind it.
    ControlReadFirst,
    /// Who owned a shard before is neither waited for nor fenced.
    NotSettled,
    /// A release without the proof that this process is not fenced.
    ReleaseUnproved,
    /// A shard does not wait for one of the pods that send to it.
    SlotIgnored,
    /// The manifest of a checkpoint is written before what it refers to.
    ManifestFirst,
    /// What is read from the object store is not compared with its checksum.
    NoChecksum,
    /// The changelog is trimmed further than the oldest snapshot kept reaches.
    EarlyTrim,
    /// Local state is used whether or not the changelog reaches it.
    LocalUnchecked,
    /// The place of one source partition is not in the commit.
    PositionLeftOut,
}
