//! The `millstream` binary as a process of its own: started on a job, watched from outside, stopped or killed.
//!
//! Owns the files and the end of every process that it starts. What the job does is in `job`; CPU, memory and commit times are the
//! process's own accounts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::job::{Settings, job_text};
use super::until;
use crate::cluster::run;

/// No job of the benchmark takes longer to its end.
const LONGEST: Duration = Duration::from_secs(180);
/// A job that was told to stop has ended in this time.
const STOPS: Duration = Duration::from_secs(30);

/// What `millstream run --report json` prints as its last line.
#[derive(Clone, Debug, Deserialize)]
pub struct RunReport {
    /// Rows read from sources.
    pub rows_in: u64,
    /// Rows written to sinks.
    pub rows_out: u64,
    /// Wall-clock time of the run in seconds.
    pub seconds: f64,
    /// User and system CPU time of the process in seconds.
    pub cpu_seconds: f64,
    /// Largest resident set in bytes.
    pub peak_rss_bytes: u64,
    /// Median time of a commit in milliseconds; absent if there was none.
    pub commit_p50_ms: Option<f64>,
    /// 99th percentile of the time of a commit in milliseconds.
    pub commit_p99_ms: Option<f64>,
    /// From process start to the first commit's end in milliseconds.
    pub start_to_first_commit_ms: Option<f64>,
}

/// The binary and a directory for job files and state.
pub struct Runner {
    binary: PathBuf,
    dir: PathBuf,
    tag: String,
}

impl Runner {
    /// Uses `binary`, and `dir` for everything written. `tag` begins every name outside: topics, uids, buckets.
    pub fn new(binary: &Path, dir: &Path, tag: &str) -> Self {
        Self { binary: binary.to_owned(), dir: dir.to_owned(), tag: tag.to_owned() }
    }

    /// A name outside that only this run of the benchmark has.
    pub fn own(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A path of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the state of a job of [`Runner::start`] is.
    pub fn state_dir(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}-state"))
    }

    /// Runs a bounded job to its end on one worker.
    ///
    /// # Errors
    /// When the job fails, does not end in time or prints no report.
    pub fn run(&self, name: &str, sql: &str, settings: &Settings<'_>) -> anyhow::Result<RunReport> {
        self.start(name, sql, settings, &[])?.ended(LONGEST)
    }

    /// Starts a job on one worker, with what it has from an earlier start. `more` are further arguments of `run`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&self, name: &str, sql: &str, settings: &Settings<'_>, more: &[&str]) -> anyhow::Result<Job> {
        let file = self.path(&format!("{name}.yaml"));
        std::fs::write(&file, job_text(name, &self.own(name), sql, settings))?;
        let mut command = self.command("run");
        command.arg(file).args(["--workers", "1", "--report", "json", "--state-dir"]).arg(self.state_dir(name));
        Job::start(command.args(more), &self.path(name))
    }

    /// The binary with a command of its own.
    pub fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(what).env("RUST_LOG", "info,kafka=error");
        command
    }
}

/// A process of the binary. It is killed (SIGKILL) when dropped.
pub struct Job {
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Job {
    /// Starts a command; what it writes goes to `files` with the endings `out` and `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, files: &Path) -> anyhow::Result<Self> {
        let (output, log) = (files.with_extension("out"), files.with_extension("log"));
        command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(File::create(&log)?);
        Ok(Self { child: command.spawn().context("start millstream")?, output, log })
    }

    /// False once it has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// An error with the job's last words, if it does not run.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if !self.runs()? {
            bail!("the job ended by itself: {}", self.last_words());
        }
        Ok(())
    }

    /// Ends it in order; what it says of its run.
    ///
    /// # Errors
    /// When it fails, does not end in time or prints no report.
    pub fn stop(self) -> anyhow::Result<RunReport> {
        self.terminate()?;
        self.ended(STOPS)
    }

    /// Asks it to end, and does not wait.
    ///
    /// # Errors
    /// When it is gone.
    pub fn terminate(&self) -> anyhow::Result<()> {
        run("kill", &["-TERM", &self.child.id().to_string()]).map(drop)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it fails, does not end in time or prints no report.
    pub fn ended(mut self, longest: Duration) -> anyhow::Result<RunReport> {
        let status = until("the job's end", longest, || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!("the job failed with {status}: {}", self.last_words());
        }
        let output = std::fs::read_to_string(&self.output)?;
        let line = output.lines().rev().find(|line| line.starts_with('{')).context("the run printed no report")?;
        serde_json::from_str(line).with_context(|| format!("its report: {line}"))
    }

    /// Ends it at once (SIGKILL); when that was.
    pub fn kill(self) -> Instant {
        let at = Instant::now();
        drop(self);
        at
    }

    /// Resident set now, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(3).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // A benchmark's job has nothing to save; a failure to end it shows in the next run's figures.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process (`self` for this one), all threads together.
///
/// # Errors
/// When the process is gone.
pub fn cpu_of(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat has no name")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // Linux reports these in USER_HZ, which is 100 on every architecture that we build for.
    Ok(Duration::from_millis(ticks * 10))
}

/// What all processors of the machine did so far.
#[derive(Clone, Copy)]
pub struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    /// Until now.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let all = ticks.iter().sum();
        // The fourth and fifth are idle, and waiting for a disk.
        Ok(Self { busy: all - ticks.iter().skip(3).take(2).sum::<u64>(), all })
    }

    /// Percent of its processors that were busy since then.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn busy_since(self) -> anyhow::Result<u64> {
        let now = Self::now()?;
        Ok((now.busy - self.busy) * 100 / (now.all - self.all).max(1))
    }
}
