//! Every metric of a job's pod.
//!
//! Owns names, kinds, labels and texts; a new metric starts here, and the book's table is made from here. It has no logic.

/// What kind of series a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricDoc {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its own labels, beside `job`, `revision` and `pod`.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> MetricDoc {
    MetricDoc { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> MetricDoc {
    MetricDoc { name, kind: Kind::Gauge, labels, help }
}

const TABLE: &[&str] = &["table"];
const PARTITION: &[&str] = &["table", "partition"];
const OPERATOR: &[&str] = &["operator", "uid"];
const SHARD: &[&str] = &["shard"];
const QUEUE: &[&str] = &["operator", "uid", "worker"];

macro_rules! metrics {
    ($($name:ident = $value:expr;)*) => {
        $(pub(super) static $name: MetricDoc = $value;)*
        /// Every metric, in the order of the reference.
        pub static ALL: &[&MetricDoc] = &[$(&$name),*];
    };
}

metrics! {
    SOURCE_RECORDS = counter("millstream_source_records_total", TABLE, "Rows read from a table.");
    SOURCE_BYTES = counter("millstream_source_bytes_total", TABLE,
        "Bytes of the records read from a table, uncompressed. Generators have none.");
    SOURCE_ERRORS = counter("millstream_source_errors_total", &["table", "kind"],
        "Records that did not fit their table, by what was done with them: `skipped` or `dead_letter`. One more with `'on-error' = 'fail'` ends the job.");
    SOURCE_LAG_RECORDS = gauge("millstream_source_lag_records", PARTITION,
        "Records of a partition that are there and not read yet: Kafka's high watermark less the position; what is left of bounded generators.");
    SOURCE_LAG_BYTES = gauge("millstream_source_lag_bytes", PARTITION,
        "Bytes of a file, as stored, that are there and not read yet.");
    SOURCE_HELD = counter("millstream_source_held_seconds_total", &[],
        "Time that the sources of a pod were held because another pod had not read what this one sent it. Jobs of several pods.");
    SOURCE_WATERMARK = gauge("millstream_source_watermark_seconds", TABLE,
        "Watermark of a table in seconds since 1970-01-01T00:00:00Z, the least of all workers.");
    OPERATOR_IN = counter("millstream_stream_operator_records_in_total", OPERATOR, "Rows that a stream operator was given.");
    OPERATOR_OUT = counter("millstream_stream_operator_records_out_total", OPERATOR, "Rows that a stream operator emitted.");
    OPERATOR_LATE = counter("millstream_stream_operator_late_records_total", OPERATOR,
        "Rows that came behind the watermark and were dropped.");
    OPERATOR_BUSY = counter("millstream_stream_operator_busy_seconds_total", OPERATOR,
        "Time that workers were in a stream operator itself, without those that it gives rows to; its rate by the number of workers is its part of the busy ratio.");
    OPERATOR_WATERMARK = gauge("millstream_stream_operator_watermark_seconds", OPERATOR,
        "Watermark in seconds since 1970-01-01T00:00:00Z, the least of all workers.");
    STATE_ENTRIES = gauge("millstream_state_entries", OPERATOR, "Entries of keyed state in memory.");
    STATE_BYTES = gauge("millstream_state_bytes", OPERATOR, "Size of keyed state in memory, about.");
    STATE_HITS = counter("millstream_state_hits_total", OPERATOR, "Rows whose entry was in memory, or new and known to be nowhere else.");
    STATE_MISSES = counter("millstream_state_misses_total", OPERATOR, "Entries that were looked up on disk.");
    STATE_EVICTIONS = counter("millstream_state_evictions_total", OPERATOR, "Entries that left memory to make room; they are on disk.");
    STATE_DISK = gauge("millstream_state_disk_bytes", SHARD, "Size of a shard's database on disk.");
    STATE_BUFFERS = gauge("millstream_state_write_buffer_bytes", SHARD, "Changes of a shard that are applied and not in its files yet.");
    STATE_STALLED = gauge("millstream_state_write_stalled", SHARD,
        "1 while RocksDB slows or stops writes to a shard because flushes or compactions are behind.");
    QUEUE_BATCHES = gauge("millstream_exchange_queue_batches", QUEUE,
        "Batches, watermarks and barriers that wait in the queues of an exchange to a worker.");
    QUEUE_CAPACITY = gauge("millstream_exchange_queue_capacity_batches", QUEUE,
        "How many may wait there; a sender whose queue is full stands still.");
    SINK_RECORDS = counter("millstream_sink_records_total", TABLE, "Rows handed to a sink; visible after their commit.");
    SINK_BYTES = counter("millstream_sink_bytes_total", TABLE, "Encoded bytes handed to a sink.");
    WORKER_BUSY = counter("millstream_worker_busy_seconds_total", &["worker"],
        "Time that a worker spent on rows; its rate is the busy ratio.");
    COMMIT = counter("millstream_commit_total", &["outcome"], "Commits by outcome: `committed`, `aborted`, `unknown`, `fenced`, `fatal`.");
    COMMIT_DURATION = MetricDoc {
        name: "millstream_commit_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "Duration of the successful commits.",
    };
    COMMIT_LAST = gauge("millstream_commit_last_timestamp_seconds", &[],
        "When the last commit succeeded, in seconds since 1970-01-01T00:00:00Z.");
    SNAPSHOT = counter("millstream_snapshot_total", &["outcome"], "Snapshots by outcome: `taken`, `failed`.");
    SNAPSHOT_UPLOADED = counter("millstream_snapshot_uploaded_bytes_total", &[], "Bytes uploaded for snapshots, manifests included.");
    SNAPSHOT_FILES = counter("millstream_snapshot_files_total", &["how"],
        "Files in snapshots: `uploaded` for it, or `kept` from an earlier one.");
    SNAPSHOT_REMOVED = counter("millstream_snapshot_objects_removed_total", &[],
        "Objects removed because nothing needs them any more.");
    SNAPSHOT_DAMAGED = counter("millstream_snapshot_damaged_total", &[],
        "Snapshots that the start passed over because they are damaged.");
    SNAPSHOT_STORED_BYTES = gauge("millstream_snapshot_stored_bytes", &[], "Size of all objects of the job in the store.");
    SNAPSHOT_STORED = gauge("millstream_snapshot_stored_count", &[], "Checkpoints in the store.");
    SNAPSHOT_RESTORED_BYTES = gauge("millstream_snapshot_restored_bytes", &[], "Bytes that the start took from snapshots.");
    SNAPSHOT_LAST = gauge("millstream_snapshot_last_timestamp_seconds", &[],
        "When the last snapshot was complete, in seconds since 1970-01-01T00:00:00Z.");
    SNAPSHOT_LAST_BYTES = gauge("millstream_snapshot_last_bytes", &[], "Size of what the last snapshot holds.");
    SNAPSHOT_LAST_DURATION = gauge("millstream_snapshot_last_duration_seconds", &["step"],
        "Duration of the last snapshot (`all`), and of its flushes and copies on local disk (`copy`).");
    POD_RUNNING = gauge("millstream_pod_running", &[], "1 while rows flow, 0 while the pod starts.");
}
