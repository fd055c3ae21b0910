//! The dead-letter file: records that do not fit, as JSON lines.
//!
//! One object per line: `table`, `file`, `line`, `error`, `time`, `record` (the text as it stood; what is not UTF-8 is shown as U+FFFD).
//! A letter is durable before the position behind it can be committed, and when a partition is opened, letters at or after its position
//! are taken out, since they will be written again: after a restart each bad record stands in the file once. Letters of an interval that
//! is not committed yet can be seen. It does not decide which records are bad.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The file, shared by all partitions of a table.
#[derive(Debug)]
pub(super) struct DeadLetters {
    table: String,
    path: PathBuf,
    file: Option<File>,
}

/// One record that does not fit.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) file: &'a str,
    pub(super) line: u64,
    pub(super) error: &'a str,
    pub(super) record: &'a [u8],
}

impl DeadLetters {
    pub(super) fn new(table: &str, path: &Path) -> Self {
        DeadLetters { table: table.to_owned(), path: path.to_owned(), file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes out the letters of a file from a line on: the partition is going to read them again.
    pub(super) fn rewind(&mut self, file: &str, from_line: u64) -> io::Result<()> {
        let content = match std::fs::read(&self.path) {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        let again = |letter: &Value| {
            letter["table"] == self.table.as_str()
                && letter["file"] == file
                && letter["line"].as_u64().is_some_and(|line| line >= from_line)
        };
        let kept: Vec<u8> = content
            .split_inclusive(|&b| b == b'\n')
            // A torn last line is not JSON and was never committed.
            .filter(|line| serde_json::from_slice(line).is_ok_and(|letter| !again(&letter)))
            .flatten()
            .copied()
            .collect();
        if kept.len() == content.len() {
            return Ok(());
        }
        let fresh = self.path.with_extension("rewriting");
        let mut out = File::create(&fresh)?;
        out.write_all(&kept)?;
        out.sync_data()?;
        self.file = None;
        std::fs::rename(&fresh, &self.path)
    }

    /// Appends letters.
    pub(super) fn write(&mut self, letter: &Letter<'_>) -> io::Result<()> {
        let time = jiff::Timestamp::now().to_string();
        let line = json!({
            "table": self.table,
            "file": letter.file,
            "line": letter.line,
            "error": letter.error,
            "time": time,
            "record": String::from_utf8_lossy(letter.record),
        });
        let mut text = line.to_string();
        text.push('\n');
        self.open()?.write_all(text.as_bytes())
    }

    /// Makes them durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) => file.sync_data(),
            None => Ok(()),
        }
    }

    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            if let Some(parent) = self.path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            self.file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        }
        Ok(self.file.as_mut().expect("just opened"))
    }
}
