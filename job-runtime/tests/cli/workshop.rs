//! A folder of its own per test, the binary run in it as a process, signals, and random moments to kill it.
//!
//! Every wait has a deadline, and what the process wrote is shown when it passes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No run of these tests takes near as long on a machine that works.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder with a job in it.
pub(crate) struct Workshop(tempfile::TempDir);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A run that goes on.
pub(crate) struct Running {
    child: Child,
    dir: PathBuf,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Copies a file of the repository, given from its root.
    pub(crate) fn copy(&self, from: &str, name: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(from);
        std::fs::copy(&from, self.path(name)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }

    /// Starts `millstream` in the folder.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.start_as(&[env!("CARGO_BIN_EXE_millstream")], arguments)
    }

    /// Starts a command that ends by starting `millstream`, or `millstream` itself.
    pub(crate) fn start_as(&self, command: &[&str], arguments: &[&str]) -> Running {
        let output = |name| File::create(self.path(name)).unwrap();
        let child = Command::new(command[0])
            .args(&command[1..])
            .args(arguments)
            .current_dir(self.dir())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output(".stdout"))
            .stderr(output(".stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", command[0]));
        Running { child, dir: self.dir().to_owned() }
    }

    /// Runs `millstream` to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).end()
    }
}

impl Running {
    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// Waits until the process ends by itself.
    pub(crate) fn end(mut self) -> Outcome {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Outcome {
                    code: status.code(),
                    stdout: self.written(".stdout"),
                    stderr: self.written(".stderr"),
                };
            }
            assert!(Instant::now() < deadline, "still running after {DEADLINE:?}: {}", self.written(".stderr"));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `seen`, or the end of the process, which is a failure.
    pub(crate) fn wait_until(&mut self, what: &str, mut seen: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !seen() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended before {what}: {ended:?}: {}", self.written(".stderr"));
            assert!(Instant::now() < deadline, "not yet {what}: {}", self.written(".stderr"));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// True until the process has ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Kills the process with SIGKILL after a while; false if it ended before that.
    pub(crate) fn kill_after(mut self, delay: Duration) -> bool {
        let at = Instant::now() + delay;
        while Instant::now() < at {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}", self.written(".stderr"));
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ends what a failed test leaves; one that has ended already refuses.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Random moments, other ones at each run; MILLSTREAM_TEST_SEED repeats a run.
pub(crate) struct Moments(u64);

impl Moments {
    pub(crate) fn new() -> Self {
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let given = std::env::var("MILLSTREAM_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed: u64 = given.unwrap_or_else(now);
        println!("MILLSTREAM_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A time between two, in milliseconds.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> Duration {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(least + self.0 % (most - least))
    }
}
