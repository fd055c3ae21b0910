//! The one thread of a process that waits for the outside world: signals, HTTP, the progress display.
//!
//! Owns a small runtime and ends it in order. Nothing of the data path runs here.

use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// What still blocks at the end is left after this time.
const GIVE_UP: Duration = Duration::from_secs(2);

/// The running thread. Dropping it cancels what runs on it and waits for it.
pub(crate) struct Background {
    cancel: CancellationToken,
    join: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread; `work` is given the token that tells it to end.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be started.
    pub(crate) fn start<F, W>(work: W) -> std::io::Result<Self>
    where
        F: Future<Output = ()>,
        W: FnOnce(CancellationToken) -> F + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("background".into());
        let join = thread.spawn(move || {
            runtime.block_on(work(token));
            // An order that the job does not answer to must not hold up the end of the process.
            runtime.shutdown_timeout(GIVE_UP);
        })?;
        Ok(Self { cancel, join: Some(join) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(join) = self.join.take() {
            // A panic there has been printed, and nothing of the job depends on it.
            let _ = join.join();
        }
    }
}
