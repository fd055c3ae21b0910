//! Every option there is.
//!
//! Owns names, defaults and documentation; a new option starts here. It has no logic.

use super::{Connector, OptionDoc, Origin, ValueKind};
use Connector::{Datagen, Filesystem, Kafka, Nexmark, Print};

const EVERY: &[Connector] = &Connector::ALL;
const FORMATS: &[&str] = &["json", "csv"];
const MOST: i64 = i64::MAX;

const fn option(key: &'static str, kind: ValueKind, connectors: &'static [Connector], doc: &'static str) -> OptionDoc {
    OptionDoc { key, kind, default: None, required: false, connectors, format: None, origin: Origin::Flink, doc }
}

impl OptionDoc {
    const fn needed(mut self) -> Self {
        self.required = true;
        self
    }
    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }
    const fn ours(mut self) -> Self {
        self.origin = Origin::Millstream;
        self
    }
    const fn of_format(mut self, format: &'static str) -> Self {
        self.format = Some(format);
        self
    }
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub static $name: OptionDoc = $value;)*
        /// Every option, in the order of the reference.
        pub static ALL: &[&OptionDoc] = &[$(&$name),*];
    };
}

options! {
    /// `connector`
    CONNECTOR = option("connector", ValueKind::OneOf(&["kafka", "filesystem", "datagen", "nexmark", "print", "blackhole"]), EVERY,
        "What the table stands for.").needed();
    /// `scan.watermark.idle-timeout`
    SCAN_WATERMARK_IDLE_TIMEOUT = option("scan.watermark.idle-timeout", ValueKind::Duration, &[Kafka, Filesystem, Datagen, Nexmark],
        "A partition without rows for this long no longer holds the watermark back.");
    /// `on-error`
    ON_ERROR = option("on-error", ValueKind::OneOf(&["fail", "skip", "dead-letter"]), &[Kafka, Filesystem],
        "What happens with a record that does not fit the schema: the job fails and names the place, the record is counted and left out, or it becomes a dead letter in `dead-letter.path` or, for kafka, `dead-letter.topic`.").or("fail").ours();
    /// `dead-letter.path`
    DEAD_LETTER_PATH = option("dead-letter.path", ValueKind::Text, &[Kafka, Filesystem],
        "JSON lines for records that do not fit: where each came from, the error, the time and the original bytes; each once, whatever is killed. A path that ends in `.jsonl` (or as in `path`) is one file, any other a directory of part files; relative to the job file.").ours();
    /// `dead-letter.topic`
    DEAD_LETTER_TOPIC = option("dead-letter.topic", ValueKind::Text, &[Kafka],
        "Topic for records that do not fit, on the table's cluster: the same JSON as in `dead-letter.path`, in the transaction of the commit. It must exist.").ours();
    /// `topic`
    TOPIC = option("topic", ValueKind::Text, &[Kafka],
        "The topic.").needed();
    /// `properties.*`
    PROPERTIES = option("properties.*", ValueKind::Text, &[Kafka],
        "Client properties of Kafka from an allow-list, e.g. `properties.bootstrap.servers`, `properties.group.id`, `properties.security.protocol`.");
    /// `scan.startup.mode`
    SCAN_STARTUP_MODE = option("scan.startup.mode", ValueKind::OneOf(&["group-offsets", "earliest-offset", "latest-offset", "timestamp", "specific-offsets"]), &[Kafka],
        "Where a partition without a committed position starts.").or("group-offsets");
    /// `scan.startup.timestamp-millis`
    SCAN_STARTUP_TIMESTAMP_MILLIS = option("scan.startup.timestamp-millis", ValueKind::Integer(0, MOST), &[Kafka],
        "For `timestamp`: milliseconds since 1970-01-01T00:00:00Z.");
    /// `scan.startup.specific-offsets`
    SCAN_STARTUP_SPECIFIC_OFFSETS = option("scan.startup.specific-offsets", ValueKind::Text, &[Kafka],
        "For `specific-offsets`: `partition:0,offset:42;partition:1,offset:300`.");
    /// `scan.topic-partition-discovery.interval`
    SCAN_DISCOVERY_INTERVAL = option("scan.topic-partition-discovery.interval", ValueKind::Duration, &[Kafka],
        "How often to look for partitions that were added to the topic; they are read from their beginning. `0 s` does not look: they are found at the next start.").or("5 min");
    /// `scan.bounded.mode`
    SCAN_BOUNDED_MODE = option("scan.bounded.mode", ValueKind::OneOf(&["unbounded", "latest-offset"]), &[Kafka],
        "`latest-offset` ends the source at the offsets that are the latest at its start.").or("unbounded");
    /// `key.format`
    KEY_FORMAT = option("key.format", ValueKind::OneOf(FORMATS), &[Kafka],
        "Format of record keys; needs `key.fields`.");
    /// `key.fields`
    KEY_FIELDS = option("key.fields", ValueKind::Text, &[Kafka],
        "Columns that make the record key, separated by `;`.");
    /// `value.format`
    VALUE_FORMAT = option("value.format", ValueKind::OneOf(FORMATS), &[Kafka],
        "The same as `format`.");
    /// `sink.delivery-guarantee`
    SINK_DELIVERY_GUARANTEE = option("sink.delivery-guarantee", ValueKind::OneOf(&["exactly-once", "at-least-once"]), &[Kafka],
        "Whether rows are part of the commit's transaction. The default is ours: Flink's is `at-least-once`.").or("exactly-once");
    /// `path`
    PATH = option("path", ValueKind::Text, &[Filesystem],
        "A file or a directory; relative to the job file. A source reads one file or every file of a directory (names that begin with `.` or `_` are left out). A sink whose path ends in `.json`, `.jsonl`, `.ndjson` or `.csv` (and `.gz` or `.zst`) writes one file, any other path is a directory of part files. The one file is appended to in place, so that a reader may see rows of an interval that is not committed yet and that a recovery cuts off; part files get their name when they are finished.").needed();
    /// `format`
    FORMAT = option("format", ValueKind::OneOf(FORMATS), &[Kafka, Filesystem],
        "How records are written as text.");
    /// `source.monitor-interval`
    SOURCE_MONITOR_INTERVAL = option("source.monitor-interval", ValueKind::Duration, &[Filesystem],
        "Never end. A directory is looked through this often: files that have come into it are read, each once, in the order of their names; move a file into it when it is whole, since lines that are added to one that was read are found at the next start only. One file is looked at this often for lines that were added to it; it cannot be compressed. Without the option the source ends with the last file.");
    /// `compression`
    COMPRESSION = option("compression", ValueKind::OneOf(&["auto", "none", "gzip", "zstd"]), &[Filesystem],
        "`auto` goes by the ending of the file's name: `.gz` is gzip, `.zst` is zstd. For a directory that is written, `auto` is none.").or("auto").ours();
    /// `sink.rolling-policy.file-size`
    SINK_ROLLING_FILE_SIZE = option("sink.rolling-policy.file-size", ValueKind::Size, &[Filesystem],
        "A part file of at least this size gets its final name and a new one is begun.").or("128MB");
    /// `sink.rolling-policy.rollover-interval`
    SINK_ROLLING_INTERVAL = option("sink.rolling-policy.rollover-interval", ValueKind::Duration, &[Filesystem],
        "A part file of at least this age gets its final name at the next commit that writes to it.").or("30 min");
    /// `csv.header`
    CSV_HEADER = option("csv.header", ValueKind::Boolean, &[Filesystem],
        "The first record of each file names the columns: they are found by name, in any order, and others are passed over. A sink writes it.").or("false").ours().of_format("csv");
    /// `csv.field-delimiter`
    CSV_FIELD_DELIMITER = option("csv.field-delimiter", ValueKind::Character, &[Kafka, Filesystem],
        "Between fields.").or(",").of_format("csv");
    /// `csv.quote-character`
    CSV_QUOTE_CHARACTER = option("csv.quote-character", ValueKind::Character, &[Kafka, Filesystem],
        "Around fields that hold the delimiter or a line end.").or("\"").of_format("csv");
    /// `csv.disable-quote-character`
    CSV_DISABLE_QUOTE_CHARACTER = option("csv.disable-quote-character", ValueKind::Boolean, &[Kafka, Filesystem],
        "Quotes are plain text.").or("false").of_format("csv");
    /// `csv.null-literal`
    CSV_NULL_LITERAL = option("csv.null-literal", ValueKind::Text, &[Kafka, Filesystem],
        "This text is null. An empty field is null too, except for STRING and BYTES.").of_format("csv");
    /// `csv.allow-comments`
    CSV_ALLOW_COMMENTS = option("csv.allow-comments", ValueKind::Boolean, &[Kafka, Filesystem],
        "A record that begins with `#` is passed over.").or("false").of_format("csv");
    /// `csv.ignore-parse-errors`
    CSV_IGNORE_PARSE_ERRORS = option("csv.ignore-parse-errors", ValueKind::Boolean, &[Kafka, Filesystem],
        "The same as `'on-error' = 'skip'`. Flink sets single fields to null; we leave the record out and count it.").or("false").of_format("csv");
    /// `json.ignore-parse-errors`
    JSON_IGNORE_PARSE_ERRORS = option("json.ignore-parse-errors", ValueKind::Boolean, &[Kafka, Filesystem],
        "The same as `'on-error' = 'skip'`. Flink sets single fields to null; we leave the record out and count it.").or("false").of_format("json");
    /// `json.timestamp-format.standard`
    JSON_TIMESTAMP_FORMAT = option("json.timestamp-format.standard", ValueKind::OneOf(&["SQL", "ISO-8601"]), &[Kafka, Filesystem],
        "How timestamps are written: `2013-01-01 10:00:00` or `2013-01-01T10:00:00`; TIMESTAMP_LTZ ends in `Z`. Both are read.").or("SQL").of_format("json");
    /// `rows-per-second`
    ROWS_PER_SECOND = option("rows-per-second", ValueKind::Integer(1, MOST), &[Datagen],
        "At most so many rows a second.").or("10000");
    /// `number-of-rows`
    NUMBER_OF_ROWS = option("number-of-rows", ValueKind::Integer(1, MOST), &[Datagen],
        "The source ends after so many rows; without it and without a sequence it never ends.");
    /// `seed`
    DATAGEN_SEED = option("seed", ValueKind::Integer(0, MOST), &[Datagen],
        "The same seed makes the same rows.").or("0").ours();
    /// `fields.#.kind`
    FIELD_KIND = option("fields.#.kind", ValueKind::OneOf(&["random", "sequence"]), &[Datagen],
        "How a column is filled. A sequence ends the source.").or("random");
    /// `fields.#.min`
    FIELD_MIN = option("fields.#.min", ValueKind::Text, &[Datagen],
        "Least random number.");
    /// `fields.#.max`
    FIELD_MAX = option("fields.#.max", ValueKind::Text, &[Datagen],
        "Greatest random number.");
    /// `fields.#.max-past`
    FIELD_MAX_PAST = option("fields.#.max-past", ValueKind::Duration, &[Datagen],
        "Random timestamps lie at most this long before the row is made.").or("0 s");
    /// `fields.#.length`
    FIELD_LENGTH = option("fields.#.length", ValueKind::Integer(0, 1 << 20), &[Datagen],
        "Length of random strings (hexadecimal digits) and bytes.").or("100");
    /// `fields.#.null-rate`
    FIELD_NULL_RATE = option("fields.#.null-rate", ValueKind::Text, &[Datagen],
        "Share of nulls, from 0 to 1.").or("0");
    /// `fields.#.start`
    FIELD_START = option("fields.#.start", ValueKind::Integer(i64::MIN, MOST), &[Datagen],
        "First value of a sequence.");
    /// `fields.#.end`
    FIELD_END = option("fields.#.end", ValueKind::Integer(i64::MIN, MOST), &[Datagen],
        "Last value of a sequence.");
    /// `nexmark.table.type`
    NEXMARK_TABLE_TYPE = option("nexmark.table.type", ValueKind::OneOf(&["person", "auction", "bid"]), &[Nexmark],
        "Which of the three streams.").needed().ours();
    /// `nexmark.events`
    NEXMARK_EVENTS = option("nexmark.events", ValueKind::Integer(0, 1 << 53), &[Nexmark],
        "Number of events of all three streams together; of 50 events 1 is a person, 3 are auctions, 46 are bids. 0 never ends.").or("0").ours();
    /// `nexmark.rate`
    NEXMARK_RATE = option("nexmark.rate", ValueKind::Integer(0, 1_000_000_000), &[Nexmark],
        "Events a second, all three streams together; 0 is as fast as possible.").or("0").ours();
    /// `nexmark.seed`
    NEXMARK_SEED = option("nexmark.seed", ValueKind::Integer(0, MOST), &[Nexmark],
        "The same seed makes the same events.").or("0").ours();
    /// `nexmark.split.num`
    NEXMARK_SPLIT_NUM = option("nexmark.split.num", ValueKind::Integer(1, 4096), &[Nexmark],
        "Number of partitions; events are dealt out to them in turn.").or("1").ours();
    /// `nexmark.base-time-millis`
    NEXMARK_BASE_TIME = option("nexmark.base-time-millis", ValueKind::Integer(0, 1 << 50), &[Nexmark],
        "Event time of the first event, in milliseconds since 1970-01-01T00:00:00Z.").or("1436918400000").ours();
    /// `nexmark.event-rate`
    NEXMARK_EVENT_RATE = option("nexmark.event-rate", ValueKind::Integer(1, 1_000_000_000), &[Nexmark],
        "How many events lie in one second of event time, whatever the rate of their making. The default is `nexmark.rate`, if that is set.").or("10000").ours();
    /// `print.style`
    PRINT_STYLE = option("print.style", ValueKind::OneOf(&["table", "json", "kv"]), &[Print],
        "A table for people, JSON lines, or `name=value` pairs.").or("table").ours();
    /// `print.max-rows`
    PRINT_MAX_ROWS = option("print.max-rows", ValueKind::Integer(1, MOST), &[Print],
        "Rows shown in all by the style `table`; the rest is counted.").or("100").ours();
    /// `print-identifier`
    PRINT_IDENTIFIER = option("print-identifier", ValueKind::Text, &[Print],
        "Stands before each row (`json`, `kv`) or above the table.");
}

/// Options that Flink has and we refuse: what to do instead.
pub(super) static REFUSED: &[(&str, &str)] = &[
    ("sink.transactional-id-prefix", "transactions are named after the job's uid; leave the option out"),
    ("sink.parallelism", "set the job's workers instead"),
    ("scan.parallelism", "set the job's workers instead"),
    (
        "sink.partitioner",
        "rows with a key go to the partition that Kafka's default partitioner gives them; leave the option out",
    ),
    ("json.fail-on-missing-field", "declare the column NOT NULL instead"),
    ("json.map-null-key.mode", "maps are not supported yet"),
    ("value.fields-include", "keys repeat columns of the value; leave the option out"),
    ("key.fields-prefix", "keys repeat columns of the value; leave the option out"),
    ("topic-pattern", "name one topic with 'topic'"),
    ("partition.default-name", "partitioned directories are not supported yet"),
    ("auto-compaction", "part files are not compacted; set 'sink.rolling-policy.file-size'"),
];
