//! Crash points: named steps of a commit and of a start at which a test ends or stops the process, or loses the answer to what was just done.
//!
//! Owns the names and the counting. `MILLSTREAM_CRASH=<step>:<before|after|lost|unsent>[:<which time>]` arms one point; `before` and `after` end
//! the process with SIGKILL, at `lost` the step is done and its caller is told that nobody answered, at `unsent` it is told the same and nothing
//! was done. `MILLSTREAM_SLEEP=<step>:<before|after>[:…]` arms one where the process stops by SIGSTOP, and goes on at SIGCONT as if no time had
//! passed. Only in builds with debug assertions: in an optimised build nothing here does anything. `tests/kafka_crash.rs` goes through all
//! crashes, `tests/kafka_faults.rs` sleeps.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A step that can be cut. The order is that of a start and then of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `init_transactions`.
    Fence,
    /// Internal topics are made.
    Topics,
    /// The first assignment is appended.
    Assign,
    /// The changelog's tail goes into the stores.
    Restore,
    /// A batch is taken from a source.
    Poll,
    /// Output is given to the log or a sink.
    Write,
    /// State changes are given to the client.
    Changelog,
    /// The brokers take all records.
    Flush,
    /// Source offsets join the transaction.
    Offsets,
    /// The transaction is committed: the broker's decision.
    End,
    /// Local state takes the commit.
    Apply,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Fence,
        Self::Topics,
        Self::Assign,
        Self::Restore,
        Self::Poll,
        Self::Write,
        Self::Changelog,
        Self::Flush,
        Self::Offsets,
        Self::End,
        Self::Apply,
    ];

    /// As `MILLSTREAM_CRASH` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Topics => "topics",
            Self::Assign => "assign",
            Self::Restore => "restore",
            Self::Poll => "poll",
            Self::Write => "write",
            Self::Changelog => "changelog",
            Self::Flush => "flush",
            Self::Offsets => "offsets",
            Self::End => "end",
            Self::Apply => "apply",
        }
    }

    /// True if the step asks somebody whose answer can be lost.
    pub fn has_answer(self) -> bool {
        match self {
            Self::Fence | Self::Topics | Self::Assign | Self::Flush | Self::Offsets | Self::End => true,
            Self::Restore | Self::Poll | Self::Write | Self::Changelog | Self::Apply => false,
        }
    }
}

/// Where in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing of it was done.
    Before,
    /// It was done.
    After,
    /// It was done, and its caller does not hear of it.
    Lost,
    /// It was not done, and its caller hears nothing.
    Unsent,
}

#[derive(Debug, PartialEq, Eq)]
struct Armed {
    step: Step,
    place: Place,
    time: u32,
}

impl FromStr for Armed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("crash point {text}: write <step>:<before|after|lost|unsent>[:<which time>]");
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let step = Step::ALL.into_iter().find(|step| step.name() == name).ok_or_else(wrong)?;
        let place = match parts.next() {
            Some("before") => Place::Before,
            Some("after") => Place::After,
            Some("lost") if step.has_answer() => Place::Lost,
            Some("unsent") if step.has_answer() => Place::Unsent,
            Some(_) | None => return Err(wrong()),
        };
        let time = parts.next().map_or(Ok(1), str::parse).map_err(|_| wrong())?;
        Ok(Self { step, place, time })
    }
}

/// A point that an environment variable arms, and how often it was passed.
struct Trap {
    variable: &'static str,
    armed: OnceLock<Option<Armed>>,
    seen: AtomicU32,
}

static CRASH: Trap = Trap::new("MILLSTREAM_CRASH");
static SLEEP: Trap = Trap::new("MILLSTREAM_SLEEP");

impl Trap {
    const fn new(variable: &'static str) -> Self {
        Self { variable, armed: OnceLock::new(), seen: AtomicU32::new(0) }
    }

    /// True the one time that the armed point is reached.
    fn reached(&self, step: Step, place: Place) -> bool {
        if !cfg!(debug_assertions) {
            return false;
        }
        let armed = self.armed.get_or_init(|| {
            let text = std::env::var(self.variable).ok()?;
            let parsed: Result<Armed, String> = text.parse();
            Some(parsed.unwrap_or_else(|message| panic!("{}: {message}", self.variable)))
        });
        let Some(armed) = armed else { return false };
        armed.step == step && armed.place == place && self.seen.fetch_add(1, Ordering::Relaxed) + 1 == armed.time
    }
}

fn signal(name: &str) -> std::io::Result<std::process::ExitStatus> {
    std::process::Command::new("kill").args(["-s", name, &std::process::id().to_string()]).status()
}

fn kill(step: Step, place: Place) {
    tracing::warn!(step = step.name(), ?place, "crash point");
    // SIGKILL, which nothing can catch: no destructor runs, no buffer is flushed.
    let killed = signal("KILL");
    panic!("the process outlived its own kill: {killed:?}");
}

fn sleep(step: Step, place: Place) {
    tracing::warn!(step = step.name(), ?place, "stopped at a crash point");
    // All threads stand still, those of the Kafka client too, until somebody sends SIGCONT.
    let slept = signal("STOP");
    tracing::warn!(step = step.name(), ?place, ?slept, "goes on");
}

/// Passes a point of a step: does nothing unless it is armed.
fn pass(step: Step, place: Place) {
    if SLEEP.reached(step, place) {
        sleep(step, place);
    }
    if CRASH.reached(step, place) {
        kill(step, place);
    }
}

/// Does a step, unless the process is to die before or after it.
pub fn around<T>(step: Step, run: impl FnOnce() -> T) -> T {
    pass(step, Place::Before);
    let result = run();
    pass(step, Place::After);
    result
}

/// As [`around`], for a step that asks somebody: `None` if the answer is lost.
pub fn asked<T>(step: Step, run: impl FnOnce() -> T) -> Option<T> {
    if CRASH.reached(step, Place::Unsent) {
        return None;
    }
    let answer = around(step, run);
    (!CRASH.reached(step, Place::Lost)).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_named_as_they_are_written() {
        let armed = |step, place, time| Ok(Armed { step, place, time });
        assert_eq!("end:lost:3".parse(), armed(Step::End, Place::Lost, 3));
        assert_eq!("end:unsent".parse(), armed(Step::End, Place::Unsent, 1));
        assert_eq!("poll:after".parse(), armed(Step::Poll, Place::After, 1));
        for wrong in ["", "end", "end:now", "poll:lost", "commit:before", "end:after:x"] {
            let refused: Result<Armed, String> = wrong.parse();
            assert!(refused.is_err(), "{wrong}");
        }
    }
}
