//! State that is written to files: what is read back of Parquet is what the lines of JSON say, and a file is there as a whole or not at all.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use arrow::json::LineDelimitedWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use super::workshop::{Outcome, Workshop};

const OF: [&str; 2] = ["--state-dir", ".millstream/first-rows"];

/// A folder in which a job with keyed state of two operators has run to its end.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    let mut csv = String::from("id,customer,kind,amount,event_time\n");
    for id in 0..3_000 {
        // Some have no name.
        let customer = if id % 97 == 0 { String::new() } else { format!("customer {}", id % 700) };
        writeln!(csv, "{id},{customer},kind {},{},2024-03-01 00:{:02}:{:02}", id % 3, id % 100, id / 60, id % 60)
            .unwrap();
    }
    workshop.write("events.csv", &csv);
    workshop.copy("job-runtime/tests/cli/jobs/first_rows.yaml", "first_rows.yaml");
    let outcome = workshop.run(&["run", "first_rows.yaml", "--checkpoint-dir", "snapshots"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    workshop
}

fn export(workshop: &Workshop, arguments: &[&str]) -> Outcome {
    workshop.run(&[&["state", "export"], arguments].concat())
}

fn done(workshop: &Workshop, arguments: &[&str]) -> String {
    let outcome = export(workshop, arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

/// Lines of JSON as the rows of Parquet say the same.
fn of_lines(text: &str) -> BTreeSet<String> {
    let row = |line: &str| {
        let mut row: Map<String, Value> = serde_json::from_str(line).unwrap();
        if !row.contains_key("name") {
            for (name, bytes) in [("key", "keyBytes"), ("value", "valueBytes")] {
                let value = row.remove(name).unwrap();
                row.insert(bytes.to_owned(), value);
            }
        }
        // Arrow's JSON leaves out what is null.
        row.values_mut().filter_map(Value::as_object_mut).for_each(|fields| fields.retain(|_, value| !value.is_null()));
        row.retain(|_, value| !value.is_null());
        sorted(row)
    };
    text.lines().map(row).collect()
}

/// The rows of a Parquet file.
fn of_file(path: &Path) -> Vec<String> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut writer = LineDelimitedWriter::new(Vec::new());
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    text.lines().map(|line| sorted(serde_json::from_str(line).unwrap())).collect()
}

fn sorted(mut row: Map<String, Value>) -> String {
    row.sort_keys();
    Value::Object(row).to_string()
}

fn names(workshop: &Workshop) -> Vec<String> {
    let entries = fs::read_dir(workshop.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| ![".stdout", ".stderr"].contains(&name.as_str())).collect();
    names.sort();
    names
}

#[test]
fn what_is_read_back_of_parquet_is_what_the_lines_say() {
    let workshop = workshop();
    let lines = done(&workshop, &OF);
    let wanted = of_lines(&lines);
    assert_eq!(wanted.len(), lines.lines().count(), "every entry is another one");
    assert!(lines.contains(r#""name":"distinct(customer, kind)""#) && lines.contains("source position"), "{lines}");

    done(&workshop, &[&OF[..], &["--format", "parquet", "--output", "all"]].concat());
    let snapshot = ["--checkpoint-dir", "snapshots", "--job", "first-rows"];
    done(&workshop, &[&snapshot[..], &["--format", "parquet", "--output", "of-snapshot"]].concat());
    for directory in ["all", "of-snapshot"] {
        let files: Vec<_> =
            fs::read_dir(workshop.path(directory)).unwrap().map(|entry| entry.unwrap().path()).collect();
        let rows: Vec<String> = files.iter().flat_map(|file| of_file(file)).collect();
        assert_eq!(rows.len(), wanted.len(), "{directory}");
        let rows: BTreeSet<String> = rows.into_iter().collect();
        let differ: Vec<_> = rows.symmetric_difference(&wanted).take(4).collect();
        assert!(differ.is_empty(), "{directory}: {differ:#?}");
        for file in files {
            let uids: BTreeSet<i64> = of_file(&file)
                .iter()
                .map(|row| serde_json::from_str::<Value>(row).unwrap()["operator"].as_i64().unwrap())
                .collect();
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(uids.iter().map(|uid| format!("{uid:08x}.parquet")).eq([name.to_owned()]), "{name}: {uids:?}");
        }
    }

    let first: Value = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|line: &Value| !line["name"].is_null())
        .unwrap();
    let uid = first["operator"].to_string();
    let only = ["--operator", &uid];
    let of_one = done(&workshop, &[&OF[..], &only].concat());
    done(&workshop, &[&OF[..], &only, &["--format", "parquet", "--output", "one.parquet"]].concat());
    assert!(of_file(&workshop.path("one.parquet")).into_iter().collect::<BTreeSet<_>>() == of_lines(&of_one));
    done(&workshop, &[&OF[..], &["--output", "lines.jsonl"]].concat());
    assert!(workshop.read("lines.jsonl") == lines);
}

#[test]
fn a_file_is_written_whole_or_not_at_all_and_what_is_there_stays() {
    let workshop = workshop();
    workshop.write("there", "mine");
    fs::create_dir(workshop.path("folder")).unwrap();
    let before = names(&workshop);
    let told = |more: &[&str], code: i32, what: &str| {
        let outcome = export(&workshop, &[&OF[..], more].concat());
        assert_eq!(outcome.code, Some(code), "{more:?}: {outcome:?}");
        assert!(outcome.stderr.contains(what), "{more:?}: {outcome:?}");
        assert_eq!(names(&workshop), before, "{more:?}");
    };
    for format in ["json", "parquet"] {
        told(&["--format", format, "--output", "there"], 3, "there is there already");
        told(&["--format", format, "--output", "folder"], 3, "folder is there already");
        told(&["--format", format, "--output", "nowhere/file"], 3, "nowhere/file");
        told(&["--format", format, "--output", "there/file"], 3, "there/file");
        told(&["--format", format, "--output", "nowhere/file", "--operator", "20"], 3, "nowhere/file");
    }
    told(&["--format", "parquet"], 2, "--output");
    assert_eq!(workshop.read("there"), "mine");
}
