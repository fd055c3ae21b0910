//! The benchmark's parts: running the job binary, filling topics, measuring from outside, and printing the page.
//!
//! Everything is measured on the release that users run: the `millstream` binary as processes of its own. Owns no engine code.

use std::time::{Duration, Instant};

use anyhow::bail;

pub mod job;
pub mod kafka;
pub mod large;
pub mod latency;
pub mod memory;
pub mod notes;
pub mod pods;
pub mod process;
pub mod recovery;
pub mod report;
pub mod rescale;
pub mod roofline;
pub mod rows;
pub mod throughput;
pub mod watch;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until there is something.
///
/// # Errors
/// When a look fails, or there is nothing in time.
pub fn until<T>(
    what: &str,
    longest: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + longest;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("not in {} s: {what}", longest.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}
