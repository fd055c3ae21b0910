//! Writing: after a crash at any step, a file holds exactly the committed rows.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use arrow::datatypes::{DataType, SchemaRef};
use dataflow::graph::NodeId;
use dataflow::sink::{EncodedRows, SinkChunk, SinkPayload};
use dataflow::worker::CommitId;
use proptest::prelude::*;

use crate::connector::testing::{schema, sink, table};
use crate::connector::{ConnectorError, ExternalSink, SinkTarget, Ticket};

fn columns() -> SchemaRef {
    schema(&[("a", DataType::Int64)])
}

fn target(dir: &Path, options: &[(&str, &str)]) -> Result<Box<dyn ExternalSink>, ConnectorError> {
    let fixed = [("connector", "filesystem"), ("format", "json")];
    match sink(&table(&columns(), &[fixed.as_slice(), options].concat()), dir)?.target()? {
        SinkTarget::External(sink) => Ok(sink),
        SinkTarget::Kafka(_) => unreachable!("a file sink"),
    }
}

fn chunk(worker: usize, row: &str) -> SinkChunk {
    let bytes = format!("{row}\n").into_bytes();
    let ends = vec![u32::try_from(bytes.len()).unwrap()];
    let rows = EncodedRows { bytes, ends, ..EncodedRows::default() };
    SinkChunk { sink: NodeId(0), worker, payload: SinkPayload::Rows(rows) }
}

/// The rows of all files, by content; hidden files too if `hidden`.
fn rows(path: &Path, hidden: bool) -> Vec<String> {
    let files = match path.is_dir() {
        true => std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect(),
        false if path.exists() => vec![path.to_owned()],
        false => Vec::new(),
    };
    let mut rows = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') && !hidden {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        let mut text = String::new();
        match bytes.get(..2) {
            Some([0x1f, 0x8b]) => {
                flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
            }
            Some([0x28, 0xb5]) => text = String::from_utf8(zstd::decode_all(bytes.as_slice()).unwrap()).unwrap(),
            _ => text = String::from_utf8(bytes).unwrap(),
        }
        rows.extend(text.lines().map(str::to_owned));
    }
    rows.sort();
    rows
}

/// Where a process is killed in an interval.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Cut {
    AfterWrite,
    AfterPrepare,
    AfterLog,
    Never,
}

fn merge(tickets: &mut BTreeMap<Vec<u8>, Ticket>, changed: Vec<Ticket>) {
    tickets.extend(changed.into_iter().map(|t| (t.key.clone(), t)));
}

/// Runs intervals, killing the process where told; returns nothing, checks that committed rows and only those are there.
fn check_crashes(options: &[(&str, &str)], name: &str, intervals: &[(Vec<usize>, Cut)]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let options = [options, &[("path", name)]].concat();
    let mut tickets = BTreeMap::new();
    let mut committed: Vec<String> = Vec::new();
    let mut running: Option<Box<dyn ExternalSink>> = None;
    let mut next = 0;
    for (interval, (workers, cut)) in intervals.iter().enumerate() {
        let mut sink = running.take().unwrap_or_else(|| {
            let mut sink = target(dir.path(), &options).unwrap();
            sink.recover(&tickets.values().cloned().collect::<Vec<_>>()).unwrap();
            sink
        });
        let id = CommitId(interval as u64);
        let mut written = Vec::new();
        for &worker in workers {
            let row = format!("{next:06}");
            next += 1;
            sink.write(&chunk(worker, &row)).unwrap();
            written.push(row);
        }
        if *cut == Cut::AfterWrite {
            continue;
        }
        let changed = sink.prepare(id).unwrap();
        if *cut == Cut::AfterPrepare {
            continue;
        }
        // The log has it from here on.
        merge(&mut tickets, changed);
        committed.extend(written);
        if *cut == Cut::AfterLog {
            continue;
        }
        sink.committed(id, false).unwrap();
        running = Some(sink);
    }
    drop(running);
    let mut sink = target(dir.path(), &options).unwrap();
    sink.recover(&tickets.values().cloned().collect::<Vec<_>>()).unwrap();
    assert_eq!(rows(&path, true), committed, "after recovery");
    sink.committed(CommitId(0), true).unwrap();
    assert_eq!(rows(&path, false), committed, "after the end");
    // A finished job that is started again finds nothing to do.
    let mut sink = target(dir.path(), &options).unwrap();
    sink.recover(&tickets.values().cloned().collect::<Vec<_>>()).unwrap();
    assert_eq!(rows(&path, false), committed, "after another start");
}

fn cuts() -> impl Strategy<Value = Vec<(Vec<usize>, Cut)>> {
    let cut = prop_oneof![Just(Cut::AfterWrite), Just(Cut::AfterPrepare), Just(Cut::AfterLog), Just(Cut::Never)];
    prop::collection::vec((prop::collection::vec(0usize..3, 0..4), cut), 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn parts_hold_the_committed_rows(intervals in cuts()) {
        check_crashes(&[("sink.rolling-policy.file-size", "20 b")], "out", &intervals);
    }

    #[test]
    fn one_file_holds_the_committed_rows(intervals in cuts()) {
        check_crashes(&[], "out.jsonl", &intervals);
    }

    #[test]
    fn compressed_files_hold_the_committed_rows(intervals in cuts()) {
        check_crashes(&[], "out.jsonl.gz", &intervals);
        check_crashes(&[("compression", "zstd")], "out", &intervals);
    }
}

fn refused(dir: &Path, options: &[(&str, &str)]) -> String {
    let mut sink = target(dir, options).unwrap();
    sink.recover(&[]).expect_err("the target is not empty").to_string()
}

#[test]
fn output_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("out.jsonl"), "{}\n").unwrap();
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    std::fs::write(dir.path().join("parts/part-0-0.jsonl"), "{}\n").unwrap();
    std::fs::create_dir(dir.path().join("unfinished")).unwrap();
    std::fs::write(dir.path().join("unfinished/.part-0-0.00000000.inprogress"), "{}\n").unwrap();
    for path in ["out.jsonl", "parts", "unfinished"] {
        let message = refused(dir.path(), &[("path", path)]);
        assert!(message.contains("is there already and is not this run's output: remove it or choose"), "{message}");
    }
}

#[test]
fn committed_output_that_is_gone_or_cut_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let options = [("path", "out.jsonl")];
    let mut sink = target(dir.path(), &options).unwrap();
    sink.recover(&[]).unwrap();
    sink.write(&chunk(0, "1")).unwrap();
    let tickets = sink.prepare(CommitId(1)).unwrap();
    sink.committed(CommitId(1), false).unwrap();
    drop(sink);
    let again = || target(dir.path(), &options).unwrap().recover(&tickets).expect_err("damage").to_string();
    std::fs::write(dir.path().join("out.jsonl"), "").unwrap();
    assert!(again().contains("has 0 bytes, but 2 were committed"), "{}", again());
    std::fs::remove_file(dir.path().join("out.jsonl")).unwrap();
    assert!(again().contains("what this job has committed there is gone"), "{}", again());
}

#[test]
fn a_target_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = target(dir.path(), &[("path", "file/out")]).err().unwrap();
    assert_eq!(error.option.as_deref(), Some("path"));
    assert!(error.message.contains("cannot create the directory"), "{error}");
}

#[test]
fn a_csv_sink_with_a_header_writes_it_once_per_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = target(dir.path(), &[("format", "csv"), ("csv.header", "true"), ("path", "o.csv")]).unwrap();
    sink.recover(&[]).unwrap();
    for row in ["1", "2"] {
        sink.write(&chunk(0, row)).unwrap();
        sink.prepare(CommitId(1)).unwrap();
        sink.committed(CommitId(1), false).unwrap();
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("o.csv")).unwrap(), "a\n1\n2\n");
}
