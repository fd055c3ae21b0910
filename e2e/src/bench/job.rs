//! The texts of the benchmark's jobs: SQL, and the file around it.
//!
//! It runs nothing (see `process`) and measures nothing.

/// What a job's file says beside its SQL.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// `spec.commitInterval`
    pub commit_interval: &'a str,
    /// `spec.stateMemory`
    pub memory: &'a str,
    /// `spec.shards`
    pub shards: u16,
    /// `spec.checkpoint.interval`
    pub snapshot_interval: &'a str,
}

impl Default for Settings<'_> {
    /// Those of a job that says nothing.
    fn default() -> Self {
        Self { commit_interval: "50ms", memory: "256Mi", shards: 16, snapshot_interval: "60s" }
    }
}

/// The job's file.
pub fn job_text(name: &str, uid: &str, sql: &str, settings: &Settings<'_>) -> String {
    let Settings { commit_interval, memory, shards, snapshot_interval } = settings;
    let sql: String = sql.trim().lines().map(|line| format!("    {}\n", line.trim())).collect();
    format!(
        "apiVersion: millstream.io/v1alpha1\nkind: StreamJob\nmetadata:\n  name: {name}\n  uid: {uid}\nspec:\n  commitInterval: {commit_interval}\n  stateMemory: {memory}\n  shards: {shards}\n  workers: 1\n  checkpoint: {{interval: {snapshot_interval}, retention: {{count: 2}}}}\n  sql: |\n{sql}"
    )
}

/// The Nexmark bids of a sequence of `events` events, as a table.
pub fn bids(events: u64) -> String {
    format!(
        "CREATE TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, dateTime TIMESTAMP(3), extra STRING,
         WATERMARK FOR dateTime AS dateTime - INTERVAL '4' SECOND)
         WITH ('connector' = 'nexmark', 'nexmark.table.type' = 'bid', 'nexmark.events' = '{events}');\n"
    )
}

/// Read-modify-write of keyed state: name, `spec.stateMemory`, keys. The keys come in no order, each twice.
pub const STATE: [(&str, &str, u64); 2] = [("state-memory", "1Gi", 1_000_000), ("state-disk", "32Mi", 3_000_000)];

/// A job that reads each of `keys` keys twice and counts them in one window.
pub fn count_per_key(keys: u64) -> String {
    format!(
        "CREATE TABLE src (n BIGINT, k AS MOD(n * 7919, {keys}), at AS TO_TIMESTAMP_LTZ(MOD(n, 1000), 3), WATERMARK FOR at AS at)
         WITH ('connector' = 'datagen', 'rows-per-second' = '1000000000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
         CREATE TABLE out (k BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT k, COUNT(*) FROM TABLE(TUMBLE(TABLE src, DESCRIPTOR(at), INTERVAL '1' DAY))
         GROUP BY k, window_start, window_end;",
        keys * 2 - 1
    )
}

/// Values per key and timers: name, `spec.stateMemory`, keys, query. Keys as above.
pub const VALUES: [(&str, &str, u64, &str); 4] = [
    ("value-memory", "1Gi", 1_000_000, DISTINCT),
    ("value-disk", "50Mi", 3_000_000, DISTINCT),
    ("first-memory", "1Gi", 1_000_000, FIRST),
    ("first-disk", "50Mi", 3_000_000, FIRST),
];

const DISTINCT: &str = "SELECT DISTINCT k FROM src";
const FIRST: &str =
    "SELECT k FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY at) AS rn FROM src) WHERE rn = 1";

/// A job that reads each of `keys` keys twice and writes what `query` says of them. A thousand rows are a second.
pub fn each_key(keys: u64, query: &str) -> String {
    format!(
        "CREATE TABLE src (n BIGINT, k AS MOD(n * 7919, {keys}), at AS TO_TIMESTAMP_LTZ(n, 3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
         WITH ('connector' = 'datagen', 'rows-per-second' = '1000000000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
         CREATE TABLE out (k BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out {query};",
        keys * 2 - 1
    )
}

/// The in-process queries: name, DDL of the sink and the query.
pub const NEXMARK: [(&str, &str); 5] = [
    (
        "q0",
        "CREATE TABLE out (auction BIGINT, bidder BIGINT, price BIGINT, dateTime TIMESTAMP(3), extra STRING) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, bidder, price, dateTime, extra FROM bid;",
    ),
    (
        "q1",
        "CREATE TABLE out (auction BIGINT, bidder BIGINT, price DOUBLE, dateTime TIMESTAMP(3), extra STRING) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, bidder, 0.908 * CAST(price AS DOUBLE), dateTime, extra FROM bid;",
    ),
    (
        "q2",
        "CREATE TABLE out (auction BIGINT, price BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0;",
    ),
    (
        "q5-like",
        "CREATE TABLE out (auction BIGINT, window_start TIMESTAMP(3), bids BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))
         GROUP BY auction, window_start, window_end;",
    ),
    (
        "q7-like",
        "CREATE TABLE out (window_start TIMESTAMP(3), price BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT window_start, MAX(price) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))
         GROUP BY window_start, window_end;",
    ),
];

/// The pass-through of Kafka jobs, with `{source}` and `{sink}`, on records of [`crate::bench::kafka::fill`].
pub const PASS: &str = "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT, pad STRING) WITH ({source});
         CREATE TABLE snk (k STRING, v BIGINT, ts BIGINT, pad STRING) WITH ({sink});
         INSERT INTO snk SELECT k, v, ts, pad FROM src;";

const COUNT: &str = "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT, et AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR et AS et - INTERVAL '1' SECOND) WITH ({source});
         CREATE TABLE snk (ws TIMESTAMP_LTZ(3), k STRING, n BIGINT) WITH ({sink});
         INSERT INTO snk SELECT window_start, k, COUNT(*) FROM TABLE(TUMBLE(TABLE src, DESCRIPTOR(et), INTERVAL '10' SECOND))
         WHERE MOD(v, 2) = 0 GROUP BY k, window_start, window_end;";

/// Kafka → Kafka jobs: name, keys of the records, columns that are read, text as of [`PASS`].
pub const KAFKA: [(&str, u64, Columns, &str); 5] = [
    ("kafka-q0", FEW_KEYS, Columns::All, PASS),
    (
        "kafka-q1",
        FEW_KEYS,
        Columns::All,
        "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT, pad STRING) WITH ({source});
         CREATE TABLE snk (k STRING, v DOUBLE, ts BIGINT, pad STRING) WITH ({sink});
         INSERT INTO snk SELECT k, 0.908 * CAST(v AS DOUBLE), ts, pad FROM src;",
    ),
    (
        "kafka-q2",
        FEW_KEYS,
        Columns::Three,
        "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT) WITH ({source});
         CREATE TABLE snk (k STRING, v BIGINT) WITH ({sink});
         INSERT INTO snk SELECT k, v FROM src WHERE MOD(v, 123) = 0;",
    ),
    ("kafka-count", FEW_KEYS, Columns::Three, COUNT),
    ("kafka-count-100k", MANY_KEYS, Columns::Three, COUNT),
];

/// Keys of the records that most jobs read.
pub const FEW_KEYS: u64 = 1_000;
/// Keys of the others.
pub const MANY_KEYS: u64 = 100_000;

/// Which columns of a record a job reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// All four.
    All,
    /// All but the padding.
    Three,
}

/// Each record once by its key, which goes through the shuffle: what comes out is what came in.
pub const ONCE: &str = "CREATE TABLE src (v BIGINT, ts BIGINT) WITH ({source});
         CREATE TABLE snk (v BIGINT, ts BIGINT) WITH ({sink});
         INSERT INTO snk SELECT DISTINCT v, ts FROM src;";

/// A copy without state, and a count per wide key in a window that never closes.
pub const LARGE: &str = "CREATE TABLE src (id BIGINT, ts BIGINT, k STRING, at AS TO_TIMESTAMP_LTZ(MOD(id, 1000), 3), WATERMARK FOR at AS at) WITH ({source});
         CREATE TABLE snk (id BIGINT, ts BIGINT) WITH ({sink});
         CREATE TABLE counts (k STRING, n BIGINT) WITH ('connector' = 'blackhole');
         EXECUTE STATEMENT SET BEGIN
         INSERT INTO snk SELECT id, ts FROM src;
         INSERT INTO counts SELECT k, COUNT(*) FROM TABLE(TUMBLE(TABLE src, DESCRIPTOR(at), INTERVAL '1' DAY))
         GROUP BY k, window_start, window_end;
         END;";

/// A generator of one row a second.
pub const IDLE: &str = "CREATE TABLE src (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '1');
         CREATE TABLE out (n BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT n FROM src;";

/// A Kafka job's text with its source and sink. A bounded one ends at the offsets of now; `key` decides on the output's partition.
pub fn kafka(text: &str, bootstrap: &str, topics: (&str, &str), bounded: bool, key: Option<&str>) -> String {
    let broker = format!("'connector' = 'kafka', 'properties.bootstrap.servers' = '{bootstrap}', 'format' = 'json'");
    let bounded = if bounded { ", 'scan.bounded.mode' = 'latest-offset'" } else { "" };
    let key = key.map(|key| format!(", 'key.format' = 'json', 'key.fields' = '{key}'")).unwrap_or_default();
    let source = format!("{broker}, 'topic' = '{}', 'scan.startup.mode' = 'earliest-offset'{bounded}", topics.0);
    text.replace("{source}", &source).replace("{sink}", &format!("{broker}, 'topic' = '{}'{key}", topics.1))
}
