//! SIGINT and SIGTERM: the first asks the job to commit and end, a second SIGINT ends the process at once.
//!
//! Owns the waiting; ending a job is the driver's.
//!
//! A pod begins anew by replacing its process, which forgets its handlers. A signal at that moment would end it without its last words, or,
//! because it is the first process of its container, be lost. So a pod [holds] signals back in all of its threads but the one that watches:
//! whatever comes while nobody watches stays pending, also through the replacement.
//!
//! [holds]: hold
#![expect(unsafe_code, reason = "a thread's signal mask; there is no other way to hold a signal back")]

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::pod::monitor::Monitor;

/// Exit code after a second Ctrl-C.
const ABORTED: i32 = 130;
/// For the handler's word to come through: it is written already.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// Holds SIGINT and SIGTERM back in this thread, and in all that it starts from now on, until one of them [watches](watch).
pub(super) fn hold() {
    mask(libc::SIG_BLOCK);
}

fn mask(how: libc::c_int) {
    // SAFETY: `sigemptyset` makes a whole set of what is zeroed, the calls change only it and this thread's mask, and the old mask is not
    // asked for. None fails with these arguments.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for signals until cancelled; on a runtime of one thread, that of the caller.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) async fn watch(monitor: Arc<Monitor>, cancel: CancellationToken) -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    mask(libc::SIG_UNBLOCK);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
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
    // What the handlers took until now is told; what comes later is left pending.
    hold();
    let last = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    };
    if tokio::time::timeout(LAST_LOOK, last).await.is_ok() {
        monitor.stop();
    }
    Ok(())
}
