//! Crash points: the places of named steps (`step`) at which a test ends or stops the process, or loses the answer to what was just done.
//!
//! Owns the counting and what happens at a point. `MILLSTREAM_CRASH=<step>:<before|after|lost|unsent>[:<which time>]` arms one; `before` and
//! `after` end the process with SIGKILL, at `lost` the step is done and its caller is told that nobody answered, at `unsent` it is told the same
//! and nothing was done. `MILLSTREAM_SLEEP=<step>:<before|after>[:…]` arms one where the process stops by SIGSTOP, and goes on at SIGCONT as if no
//! time had passed. A process that begins anew under another assignment counts on. Only in builds with debug assertions: in an optimised build
//! nothing here does anything. `tests/kafka_crash.rs` goes through all crashes, `tests/kafka_faults.rs` sleeps.

mod step;

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

pub use step::Step;

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
        let step = Step::all().find(|step| step.name() == name).ok_or_else(wrong)?;
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
    /// The variable that says how often the process before this one passed it.
    passed: &'static str,
    armed: OnceLock<Option<Armed>>,
    seen: AtomicU32,
}

static CRASH: Trap = Trap::new("MILLSTREAM_CRASH", "MILLSTREAM_CRASH_PASSED");
static SLEEP: Trap = Trap::new("MILLSTREAM_SLEEP", "MILLSTREAM_SLEEP_PASSED");

impl Trap {
    const fn new(variable: &'static str, passed: &'static str) -> Self {
        Self { variable, passed, armed: OnceLock::new(), seen: AtomicU32::new(0) }
    }

    fn armed(&self) -> Option<&Armed> {
        let armed = self.armed.get_or_init(|| {
            let text = std::env::var(self.variable).ok()?;
            let parsed: Result<Armed, String> = text.parse();
            let passed = std::env::var(self.passed).ok().and_then(|text| text.parse().ok());
            self.seen.store(passed.unwrap_or(0), Ordering::Relaxed);
            Some(parsed.unwrap_or_else(|message| panic!("{}: {message}", self.variable)))
        });
        armed.as_ref()
    }

    /// True the one time that the armed point is reached.
    fn reached(&self, step: Step, place: Place) -> bool {
        if !cfg!(debug_assertions) {
            return false;
        }
        let Some(armed) = self.armed() else { return false };
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

/// As [`around`], if `this` is the step's case.
pub fn around_if<T>(this: bool, step: Step, run: impl FnOnce() -> T) -> T {
    if this { around(step, run) } else { run() }
}

/// As [`around`], for a step that asks somebody: `None` if the answer is lost.
pub fn asked<T>(step: Step, run: impl FnOnce() -> T) -> Option<T> {
    if loses(step, Place::Unsent) {
        return None;
    }
    let answer = around(step, run);
    (!loses(step, Place::Lost)).then_some(answer)
}

fn loses(step: Step, place: Place) -> bool {
    let lost = CRASH.reached(step, place);
    if lost {
        tracing::warn!(step = step.name(), ?place, "the answer is lost at a crash point");
    }
    lost
}

static FIRST: AtomicBool = AtomicBool::new(true);

/// As [`asked`], the first time in this process; later it only runs.
pub fn asked_first<T>(step: Step, run: impl FnOnce() -> T) -> Option<T> {
    if FIRST.swap(false, Ordering::Relaxed) { asked(step, run) } else { Some(run()) }
}

/// What a process that takes the place of this one must find in its environment to count on.
pub fn passed() -> Vec<(&'static str, String)> {
    let passed =
        |trap: &'static Trap| trap.armed().map(|_| (trap.passed, trap.seen.load(Ordering::Relaxed).to_string()));
    [&CRASH, &SLEEP].into_iter().filter(|_| cfg!(debug_assertions)).filter_map(passed).collect()
}

/// How long an object that nothing refers to is left alone: a test cannot wait for an hour, and says `MILLSTREAM_GRACE_MS`.
pub fn grace(real: Duration) -> Duration {
    let given = || std::env::var("MILLSTREAM_GRACE_MS").ok()?.parse().ok();
    if cfg!(debug_assertions) { given().map_or(real, Duration::from_millis) } else { real }
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
        assert_eq!("shard-manifest:lost".parse(), armed(Step::ShardManifest, Place::Lost, 1));
        for wrong in ["", "end", "end:now", "poll:lost", "commit:before", "end:after:x"] {
            let refused: Result<Armed, String> = wrong.parse();
            assert!(refused.is_err(), "{wrong}");
        }
    }
}
