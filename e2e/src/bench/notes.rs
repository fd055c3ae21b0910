//! Where the time goes in rows that miss their targets, and the next step: what profiles said, for the page.
//!
//! Written by hand when a profile was taken; a note is printed only while its row misses its target.

/// The note of a row.
pub fn note(row: &str) -> Option<&'static str> {
    NOTES.iter().find(|(of, _)| *of == row).map(|(_, note)| *note)
}

const MEMTABLE: &str = "about 65 % of the worker's time is the insert into RocksDB's memtables (`perf`): the changed keys of each commit go down a skip list, in key order, \
     with a miss of the cache at most steps. The lookup in memory is 8 %. Next: hold what is changed over several commits and give it to RocksDB before a \
     snapshot; the changelog has it anyway.";
const TABLE: &str = "18 % of the worker's time is the lookup in memory, a miss of the cache for each new key, and 35 % the insert into RocksDB's memtables (`perf`). \
     Next: as for `state-memory`, and prefetching the places of a whole batch.";
const DISK: &str = "reading blocks: a sixth of the time is unpacking the last level's zstd, the rest filters, indexes and comparisons of keys, each a few per \
     cent (`perf` of `value-disk`). Next: LZ4 for the last level too, which a snapshot then pays with its size.";
const CLIENT: &str = "the column beside it says how many times as fast as bare loops of the same libraries the job is: the client and JSON are nearly all of it. \
     Next: decode only the columns that are read, without the client's copy of each record.";
const MANY: &str = "about 40 % of the worker's time, which is seven tenths of all, is the insert of each commit's changed keys into RocksDB's memtables; the client and JSON \
     are most of the rest (`perf`). The more commits a run has, the more often the same key is written. Next: as for `state-memory`.";
const COMMITS: &str = "the job is busy for a quarter of a core, the broker for four fifths: at a commit interval of 20 ms a commit, with its markers on each \
     partition, follows the other (`top`). Next: transaction protocol 2, in which partitions are not announced by a request of their own.";
const LARGE: &str = "all of this runs on two cores: the broker alone is busy for more than one with the 16 changelog partitions of each commit, and what uploads, \
     downloads and compacts a gigabyte takes the other (`top`, `perf`). The row says what the same gap is without it. Next: a broker and an object store on \
     machines of their own, and a limit for the rate of uploads.";

const MOVED: &str = "who gains a shard has its state before it is given up; what is left is the last commit under the old owner, the release, the start of the new one \
     and its first commit, with three pods, broker and object store on two cores (`top`). Next: as for `recovery`.";

const NOTES: &[(&str, &str)] = &[
    ("state-memory", MEMTABLE),
    ("state-disk", DISK),
    ("value-memory", TABLE),
    ("value-disk", DISK),
    ("first-memory", TABLE),
    ("first-disk", DISK),
    ("kafka-q0", CLIENT),
    ("kafka-q1", CLIENT),
    ("kafka-count", CLIENT),
    ("kafka-count-100k", MANY),
    ("latency", COMMITS),
    (
        "rss-load",
        "the client's queues: what was sent to the topic before the job had caught up is prefetched, up to 64 MiB. Next: a bound by what one commit interval takes.",
    ),
    ("latency-shuffle", COMMITS),
    (
        "recovery",
        "a start: the new process, its connections, the fence, the control topic and the changelog's end are one round trip after the other. Next: those that do not \
         need each other at the same time.",
    ),
    (
        "stall",
        "the new process must be there and have a connection before it can fence. Next: nothing; the fence itself takes milliseconds.",
    ),
    ("snapshot-pause", LARGE),
    ("snapshot-cpu", LARGE),
    ("local", LARGE),
    ("restore", LARGE),
    ("rescale-moved", MOVED),
    ("rescale-other", LARGE),
    (
        "rss-idle",
        "about 33 MiB are pages of files, nearly all of the program itself: they are shared and can be dropped. Next: a smaller program, without what of DataFusion \
         no job uses.",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::rows::row;
    use super::*;

    #[test]
    fn each_note_is_of_a_row_with_a_target() {
        assert!(
            NOTES.iter().all(|(of, _)| row(of).is_some_and(|row| row.goal.is_some_and(|goal| goal.target.is_some())))
        );
    }
}
