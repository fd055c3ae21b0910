//! SIGINT and SIGTERM: the first asks the job to commit and end, a second SIGINT ends the process at once.
//!
//! Owns the waiting; ending a job is the driver's.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::pod::monitor::Monitor;

/// Exit code after a second Ctrl-C.
const ABORTED: i32 = 130;

/// Waits for signals until cancelled.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) async fn watch(monitor: Arc<Monitor>, cancel: CancellationToken) -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = terminate.recv() => tracing::info!("asked to stop: committing what there is"),
            _ = interrupt.recv() => {
                if monitor.stop_asked() {
                    std::process::exit(ABORTED);
                }
                tracing::warn!("stopping: committing what there is; Ctrl-C again stops at once");
            }
        }
        monitor.stop();
    }
}
