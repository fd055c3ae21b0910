//! How a run is stopped by hand: the first Ctrl-C commits, the second does not wait.

use std::io::Read;
use std::process::Command;

use super::workshop::Workshop;

/// More output than a pipe holds, in the first piece that is written.
const WORDY: &str = "
apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: wordy
spec:
  sql: |
    CREATE TABLE words (word STRING) WITH ('connector' = 'datagen', 'fields.word.length' = '1000');
    CREATE TABLE shown (word STRING) WITH ('connector' = 'print', 'print.style' = 'json');
    INSERT INTO shown SELECT word FROM words;
";

#[test]
fn a_second_interrupt_ends_a_run_that_cannot_commit() {
    let workshop = Workshop::new();
    workshop.write("job.yaml", WORDY);
    let pipe = workshop.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let into_the_pipe = ["sh", "-c", "exec \"$0\" \"$@\" > pipe", env!("CARGO_BIN_EXE_millstream")];
    let mut running = workshop.start_as(&into_the_pipe, &["run", "job.yaml", "--workers", "1"]);
    // Opened when the run has opened its end; one byte, and nobody reads on: the run is in the middle of a write that cannot end.
    let mut reader = std::fs::File::open(&pipe).unwrap();
    reader.read_exact(&mut [0]).unwrap();
    running.signal("INT");
    running.wait_until("the first interrupt is heard", || workshop.read(".stderr").contains("Ctrl-C again"));
    assert!(running.runs(), "it is still trying to commit");
    running.signal("INT");
    let outcome = running.end();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
}
