//! What a client may ask the simulated broker, and what it says: Kafka's requests and error codes, as far as a job needs them.
//!
//! Owns the vocabulary; it does not answer anything.

/// Kafka's transaction protocols. Broker and client speak the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Partitions and groups are added by requests of their own, and a producer keeps its epoch. librdkafka speaks this one.
    #[default]
    One,
    /// KIP-890: partitions and groups are added by what is written to them, and each transaction has an epoch of its own. So a request of an earlier
    /// transaction is refused.
    Two,
}

/// A record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
}

/// A topic's partition.
pub type Place = (String, i32);

/// A producer's identity: its id, and the epoch that makes it the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch {
    /// Producer id.
    pub id: i64,
    /// Epoch.
    pub epoch: i16,
}

/// What a transactional call is made as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transactional {
    /// `transactional.id`.
    pub id: String,
    /// Who calls.
    pub producer: ProducerEpoch,
}

/// Which records a reader gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// All.
    ReadUncommitted,
    /// Those before the last stable offset whose transaction was not aborted.
    ReadCommitted,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Makes a topic.
    CreateTopic {
        /// Its name.
        topic: String,
        /// Number of partitions.
        partitions: i32,
    },
    /// Gets an epoch; aborts what the last one left open.
    InitProducerId {
        /// `transactional.id`.
        transactional_id: String,
        /// `transaction.timeout.ms`.
        timeout_ms: u64,
    },
    /// Adds partitions to the transaction. Only in protocol 1.
    AddPartitionsToTxn {
        /// As whom.
        by: Transactional,
        /// The partitions.
        partitions: Vec<Place>,
    },
    /// Adds a consumer group's offsets to the transaction. Only in protocol 1.
    AddOffsetsToTxn {
        /// As whom.
        by: Transactional,
        /// The group.
        group: String,
    },
    /// Appends one batch.
    Produce {
        /// As whom, if in a transaction.
        by: Option<Transactional>,
        /// Where to.
        to: Place,
        /// Sequence number of the first record, counted per producer epoch and partition. Only of transactional producers here.
        sequence: i32,
        /// The records.
        records: Vec<Record>,
    },
    /// Sends offsets with the transaction.
    TxnOffsetCommit {
        /// As whom.
        by: Transactional,
        /// The group.
        group: String,
        /// Offsets by partition.
        offsets: Vec<(Place, i64)>,
    },
    /// Ends the transaction. In protocol 2 the answer has the epoch of the next one.
    EndTxn {
        /// As whom.
        by: Transactional,
        /// Commit, or abort.
        commit: bool,
    },
    /// Commits offsets outside any transaction.
    OffsetCommit {
        /// The group.
        group: String,
        /// Offsets by partition.
        offsets: Vec<(Place, i64)>,
    },
    /// Reads committed offsets.
    OffsetFetch {
        /// The group.
        group: String,
        /// The partitions.
        partitions: Vec<Place>,
        /// Refuse while a transaction's offsets are pending.
        require_stable: bool,
    },
    /// Reads records.
    Fetch {
        /// Where from.
        from: Place,
        /// First offset.
        offset: i64,
        /// At most so many entries of the log.
        most: usize,
        /// Which.
        isolation: Isolation,
    },
    /// Asks for a partition's edges.
    ListOffsets {
        /// Where.
        of: Place,
    },
    /// Removes the records before an offset.
    DeleteRecords {
        /// Where.
        from: Place,
        /// The first that stays.
        before: i64,
    },
}

/// An answer that is not an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Done.
    Done,
    /// An epoch.
    Producer(ProducerEpoch),
    /// Appended; the offset of the first record.
    Appended(i64),
    /// Committed offsets, -1 where there is none.
    Offsets(Vec<i64>),
    /// Records.
    Fetched(Fetched),
    /// The first offset that is still there, and the one behind the last.
    Edges(i64, i64),
}

/// What a fetch found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fetched {
    /// Records with their offsets.
    pub records: Vec<(i64, Record)>,
    /// Where to go on: behind the last entry looked at, markers and aborted records included.
    pub next_offset: i64,
    /// The end.
    pub high_watermark: i64,
    /// Before the first record of the oldest open transaction.
    pub last_stable_offset: i64,
    /// The first offset that is still there.
    pub log_start: i64,
}

/// Kafka's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum ErrorCode {
    /// Before the start of the log, or behind its end.
    OffsetOutOfRange = 1,
    /// No such topic or partition.
    UnknownTopicOrPartition = 3,
    /// The topic is there already.
    TopicAlreadyExists = 36,
    /// A gap in the sequence.
    OutOfOrderSequenceNumber = 45,
    /// The batch was appended long ago.
    DuplicateSequenceNumber = 46,
    /// The partition knows a newer epoch.
    InvalidProducerEpoch = 47,
    /// Not possible in this state of the transaction.
    InvalidTxnState = 48,
    /// Not the id that the coordinator gave out.
    InvalidProducerIdMapping = 49,
    /// The last transaction is still being ended: come again.
    ConcurrentTransactions = 51,
    /// The coordinator knows a newer epoch.
    ProducerFenced = 90,
    /// Offsets of a transaction are pending: come again.
    UnstableOffsetCommit = 88,
}

/// What the broker says.
pub type Response = Result<Answer, ErrorCode>;
