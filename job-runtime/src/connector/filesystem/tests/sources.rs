//! Reading: every record once, from where it stopped, and words about what is wrong.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use dataflow::source::{PartitionId, SourcePartition};

use crate::connector::SizeHint;
use crate::connector::stats::SourceStats;
use crate::connector::testing::{drain, open, open_counting, poll, schema, source, table};

const CSV: [(&str, &str); 4] =
    [("connector", "filesystem"), ("format", "csv"), ("path", "in.csv"), ("csv.header", "true")];

fn columns() -> SchemaRef {
    schema(&[("a", DataType::Int64), ("b", DataType::Utf8)])
}

fn one(id: &str) -> PartitionId {
    PartitionId(id.to_owned())
}

fn rows(batches: &[RecordBatch]) -> Vec<(i64, String)> {
    let row = |batch: &RecordBatch, i: usize| {
        (batch.column(0).as_primitive::<Int64Type>().value(i), batch.column(1).as_string::<i32>().value(i).to_owned())
    };
    batches.iter().flat_map(|b| (0..b.num_rows()).map(|i| row(b, i)).collect::<Vec<_>>()).collect()
}

fn partition(dir: &Path, options: &[(&str, &str)], id: &str) -> Box<dyn SourcePartition> {
    let factory = source(&table(&columns(), options), &columns(), dir).unwrap();
    open(factory.as_ref(), &one(id), None).unwrap()
}

fn failure(dir: &Path, options: &[(&str, &str)], id: &str) -> String {
    let mut partition = partition(dir, options, id);
    drain(partition.as_mut(), 100).expect_err("a bad record").to_string()
}

#[test]
fn every_position_resumes_at_the_next_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = b"\xef\xbb\xbfb,x,a\n".to_vec();
    let mut expected = Vec::new();
    for i in 0..500 {
        writeln!(text, "\"line {i}\nof, \"\"two\"\"\",,{i}\r").unwrap();
        expected.push((i, format!("line {i}\nof, \"two\"")));
    }
    std::fs::write(dir.path().join("in.csv"), &text).unwrap();
    std::fs::write(dir.path().join("in.csv.gz"), gzip(&text)).unwrap();
    std::fs::write(dir.path().join("in.csv.zst"), zstd::encode_all(text.as_slice(), 1).unwrap()).unwrap();
    for name in ["in.csv", "in.csv.gz", "in.csv.zst"] {
        let mut options = CSV;
        options[2] = ("path", name);
        let factory = source(&table(&columns(), &options), &columns(), dir.path()).unwrap();
        assert!(factory.bounded());
        let mut found = Vec::new();
        let mut at = None;
        // A new partition for every poll: as if the process were killed after each commit.
        loop {
            let mut partition = open(factory.as_ref(), &one(name), at.clone()).unwrap();
            let Some(batch) = poll(partition.as_mut(), 7).unwrap() else { break };
            found.extend(rows(&[batch]));
            at = Some(partition.position());
        }
        assert_eq!(found, expected, "{name}");
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    // Two members: concatenated gzip files are one file.
    let mut packed = Vec::new();
    for half in text.chunks(text.len().div_ceil(2)) {
        let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        encoder.write_all(half).unwrap();
        encoder.finish().unwrap();
    }
    packed
}

#[test]
fn a_directory_is_one_partition_per_visible_file_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["2.jsonl", "1.jsonl", ".hidden", "_SUCCESS"] {
        std::fs::write(dir.path().join(name), format!("{{\"a\":1,\"b\":\"{name}\"}}\n\n{{\"b\":\"x\",\"a\":2}}"))
            .unwrap();
    }
    let options = [("connector", "filesystem"), ("format", "json"), ("path", ".")];
    let factory = source(&table(&columns(), &options), &columns(), dir.path()).unwrap();
    assert_eq!(factory.partitions().unwrap(), [one("1.jsonl"), one("2.jsonl")]);
    let mut first = open(factory.as_ref(), &one("1.jsonl"), None).unwrap();
    let found = rows(&drain(first.as_mut(), 100).unwrap());
    assert_eq!(found, [(1, "1.jsonl".to_owned()), (2, "x".to_owned())]);
}

#[test]
fn a_bad_record_fails_with_file_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in.csv"), "a,b\n1,x\n\"2\",\"y\nz\"\nthree,q\n").unwrap();
    let message = failure(dir.path(), &CSV, "in.csv");
    assert!(message.contains("in.csv:5: column a: 'three' is no BIGINT"), "{message}");
    std::fs::write(dir.path().join("in.csv"), "a,b\n1,x\n2\n").unwrap();
    let message = failure(dir.path(), &CSV, "in.csv");
    assert!(message.contains("in.csv:3: has 1 fields, expected 2"), "{message}");
}

#[test]
fn skipped_records_leave_the_others() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in.csv"), "a,b\n1,x\nbad,y\n3,z\n\"4,open\n").unwrap();
    for extra in [("on-error", "skip"), ("csv.ignore-parse-errors", "true")] {
        let options = [CSV.as_slice(), &[extra]].concat();
        let mut partition = partition(dir.path(), &options, "in.csv");
        assert_eq!(rows(&drain(partition.as_mut(), 1).unwrap()), [(1, "x".to_owned()), (3, "z".to_owned())]);
    }
}

#[test]
fn dead_letters_come_with_the_position_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..40).map(|i| if i % 3 == 0 { format!("bad{i},x\n") } else { format!("{i},x\n") }).collect();
    std::fs::write(dir.path().join("in.csv"), format!("a,b\n{text}")).unwrap();
    let extra = [("on-error", "dead-letter"), ("dead-letter.path", "dead/letters.jsonl")];
    let options = [CSV.as_slice(), &extra].concat();
    let factory = source(&table(&columns(), &options), &columns(), dir.path()).unwrap();
    let (mut at, mut letters) = (None, Vec::new());
    loop {
        // A new partition after every poll; what another poll gave and was not committed is given again.
        let mut partition = open(factory.as_ref(), &one("in.csv"), at.clone()).unwrap();
        if poll(partition.as_mut(), 5).unwrap().is_none() {
            break;
        }
        letters.extend(partition.take_letters().into_iter().flat_map(|l| lines(&l)));
        at = Some(partition.position());
        poll(partition.as_mut(), 9).unwrap();
        drop(partition.take_letters());
        assert!(partition.take_letters().is_none(), "each is given once");
    }
    let numbers: Vec<_> = letters.iter().map(|l| l["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..40).filter(|i| i % 3 == 0).map(|i| i + 2).collect::<Vec<_>>());
    assert_eq!((&letters[1]["record"], &letters[1]["table"]), (&"bad3,x".into(), &"t".into()));
    assert_eq!(letters[1]["error"], "column a: 'bad3' is no BIGINT");
}

fn lines(letters: &dataflow::sink::EncodedRows) -> Vec<serde_json::Value> {
    let lines = letters.bytes.split_inclusive(|b| *b == b'\n');
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[test]
fn a_file_of_bad_records_only_is_given_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(1000);
    std::fs::write(dir.path().join("in.csv"), format!("a,b\n{}", format!("bad,{long}\n").repeat(20_000))).unwrap();
    let extra = [("on-error", "dead-letter"), ("dead-letter.path", "letters.jsonl")];
    let options = [CSV.as_slice(), &extra].concat();
    let mut partition = partition(dir.path(), &options, "in.csv");
    let (mut records, mut largest) = (0, 0);
    while poll(partition.as_mut(), usize::MAX).unwrap().is_some() {
        let letters = partition.take_letters().unwrap_or_default();
        records += letters.ends.len();
        largest = largest.max(letters.bytes.len());
    }
    assert_eq!(records, 20_000);
    assert!(largest < (1 << 20) + 2000, "{largest}");
}

#[test]
fn contradictions_of_dead_letters_are_refused() {
    let dead = ("on-error", "dead-letter");
    let kafka = [("connector", "kafka"), ("topic", "t"), ("format", "csv"), ("scan.startup.mode", "earliest-offset")];
    let both = [dead, ("dead-letter.path", "p"), ("dead-letter.topic", "d")];
    for (fixed, extra, said) in [
        (&CSV, &[dead][..], "needs 'dead-letter.path'"),
        (&CSV, &[("dead-letter.path", "p")], "does nothing without"),
        (&kafka, &[dead], "needs 'dead-letter.topic' or 'dead-letter.path'"),
        (&kafka, &[("dead-letter.topic", "d")], "does nothing without"),
        (&kafka, &both, "go to one place"),
        (&kafka, &[dead, ("dead-letter.topic", "t")], "is the topic that is read"),
    ] {
        let table = table(&columns(), &[fixed.as_slice(), extra].concat());
        let error = crate::connector::registry::validate(&table, true, false).unwrap_err();
        assert!(error.message.contains(said), "{extra:?}: {error}");
    }
}

#[test]
fn a_partition_tells_how_far_it_is_and_what_it_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = std::iter::once("a,b\n".to_owned()).chain((0..90_000).map(|i| format!("{i},x\n"))).collect();
    let text = text.replace("\n77,x", "\nbad,x");
    std::fs::write(dir.path().join("in.csv"), &text).unwrap();
    std::fs::write(dir.path().join("in.csv.gz"), gzip(text.as_bytes())).unwrap();
    for name in ["in.csv", "in.csv.gz"] {
        let options = [&CSV[..2], &[("path", name), CSV[3], ("on-error", "skip")]].concat();
        let factory = source(&table(&columns(), &options), &columns(), dir.path()).unwrap();
        let size = std::fs::metadata(dir.path().join(name)).unwrap().len();
        let stats = Arc::<SourceStats>::default();
        let mut partition = open_counting(factory.as_ref(), &one(name), None, &stats).unwrap();
        let Some(SizeHint::Bytes(at_first)) = stats.lag() else { panic!("a file knows its length") };
        assert!(at_first > 0 && at_first <= size, "{at_first} of {size}");
        drain(partition.as_mut(), 1000).unwrap();
        assert_eq!((stats.lag(), stats.done()), (Some(SizeHint::Bytes(0)), Some(SizeHint::Bytes(size))), "{name}");
        assert_eq!((stats.bytes(), stats.skipped(), stats.dead_letters()), (text.len() as u64 - 4, 1, 0), "{name}");
    }
}

#[test]
fn a_file_that_changed_is_refused_and_one_that_grew_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.csv");
    let text: String = (0..100_000).map(|i| format!("{i},x\n")).collect();
    std::fs::write(&file, format!("a,b\n{text}")).unwrap();
    let factory = source(&table(&columns(), &CSV), &columns(), dir.path()).unwrap();
    let mut partition = open(factory.as_ref(), &one("in.csv"), None).unwrap();
    // Behind the first chunk, so that there is a prefix to compare with.
    let seen: usize = (0..60).map(|_| poll(partition.as_mut(), 1000).unwrap().unwrap().num_rows()).sum();
    let at = partition.position();
    std::fs::write(&file, format!("a,b\n{text}100000,y\n")).unwrap();
    let mut again = open(factory.as_ref(), &one("in.csv"), Some(at.clone())).unwrap();
    let rest = rows(&drain(again.as_mut(), 1000).unwrap());
    assert_eq!((seen + rest.len(), rest.last().unwrap().1.as_str()), (100_001, "y"));
    std::fs::write(&file, format!("a,b\n{}", text.replace("17,x", "71,x"))).unwrap();
    let message = open(factory.as_ref(), &one("in.csv"), Some(at.clone())).err().unwrap().to_string();
    assert!(message.contains("has changed in the part"), "{message}");
    std::fs::write(&file, "a,b\n1,x\n").unwrap();
    let message = open(factory.as_ref(), &one("in.csv"), Some(at)).err().unwrap().to_string();
    assert!(message.contains("bytes long and is now 8"), "{message}");
}

#[test]
fn a_watched_file_gives_what_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in.csv");
    std::fs::write(&file, "a,b\n1,x\n2,").unwrap();
    let options = [CSV.as_slice(), &[("source.monitor-interval", "1 ms")]].concat();
    let mut partition = partition(dir.path(), &options, "in.csv");
    assert_eq!(rows(&[poll(partition.as_mut(), 10).unwrap().unwrap()]), [(1, "x".to_owned())]);
    let mut appending = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    appending.write_all(b"y\n3,z\n").unwrap();
    assert_eq!(rows(&[poll(partition.as_mut(), 1).unwrap().unwrap()]), [(2, "y".to_owned())]);
    assert_eq!(rows(&[poll(partition.as_mut(), 1).unwrap().unwrap()]), [(3, "z".to_owned())]);
    std::fs::write(&file, "a,b\n").unwrap();
    let message = poll(partition.as_mut(), 10).expect_err("shorter").to_string();
    assert!(message.contains("became shorter"), "{message}");
}

#[test]
fn a_watched_directory_is_listed_anew_and_each_file_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let options = [CSV[0], CSV[1], ("path", "."), ("csv.header", "true"), ("source.monitor-interval", "1 ms")];
    let factory = source(&table(&columns(), &options), &columns(), dir.path()).unwrap();
    assert!(!factory.bounded() && factory.watched().is_some());
    assert_eq!(factory.partitions().unwrap(), []);
    for name in ["b.csv", "a.csv", ".c.csv"] {
        std::fs::write(dir.path().join(name), "a,b\n1,x\n2,y\n").unwrap();
    }
    assert_eq!(factory.partitions().unwrap(), [one("a.csv"), one("b.csv")]);
    let mut partition = open(factory.as_ref(), &one("a.csv"), None).unwrap();
    let half = rows(&[poll(partition.as_mut(), 1).unwrap().unwrap()]);
    let at = partition.position();
    assert_eq!(half, [(1, "x".to_owned())]);
    assert!(!factory.is_done(&one("a.csv"), &at).unwrap());
    assert_eq!(rows(&drain(partition.as_mut(), 10).unwrap()), [(2, "y".to_owned())]);
    let end = partition.position();
    assert!(factory.is_done(&one("a.csv"), &end).unwrap());
    // Lines that were added since are not lost.
    std::fs::write(dir.path().join("a.csv"), "a,b\n1,x\n2,y\n3,z\n").unwrap();
    assert!(!factory.is_done(&one("a.csv"), &end).unwrap());
    let mut partition = open(factory.as_ref(), &one("a.csv"), Some(end.clone())).unwrap();
    assert_eq!(rows(&drain(partition.as_mut(), 10).unwrap()), [(3, "z".to_owned())]);
    // A file may be taken away when it is read, and not before.
    std::fs::remove_file(dir.path().join("a.csv")).unwrap();
    assert!(factory.is_done(&one("a.csv"), &end).unwrap());
    let error = factory.is_done(&one("a.csv"), &at).unwrap_err().to_string();
    assert!(error.contains("was not read to its end"), "{error}");
    // The same of a compressed one, whose length says nothing of how far it was read.
    let text: String = (0..500).map(|i| format!("{i},{}\n", "x".repeat(100))).collect();
    std::fs::write(dir.path().join("d.csv.gz"), gzip(format!("a,b\n{text}").as_bytes())).unwrap();
    let mut partition = open(factory.as_ref(), &one("d.csv.gz"), None).unwrap();
    poll(partition.as_mut(), 400).unwrap();
    let at = partition.position();
    drain(partition.as_mut(), 400).unwrap();
    let end = partition.position();
    assert!(factory.is_done(&one("d.csv.gz"), &end).unwrap() && !factory.is_done(&one("d.csv.gz"), &at).unwrap());
    std::fs::remove_file(dir.path().join("d.csv.gz")).unwrap();
    assert!(factory.is_done(&one("d.csv.gz"), &end).unwrap() && factory.is_done(&one("d.csv.gz"), &at).is_err());
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = source(&table(&columns(), &CSV), &columns(), dir.path()).err().unwrap();
    assert_eq!(error.option.as_deref(), Some("path"));
    assert!(error.message.contains("in.csv: there is no such file"), "{error}");
    std::fs::write(dir.path().join("in.csv"), "aa,b\n").unwrap();
    let factory = source(&table(&columns(), &CSV), &columns(), dir.path()).unwrap();
    let error = open(factory.as_ref(), &one("in.csv"), None).err().unwrap();
    assert!(error.message.contains("the header has no column a; did you mean aa? (it has aa, b)"), "{error}");
}
