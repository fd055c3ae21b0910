//! The pod's settings as they are now: the mounted file is read again when it may have changed, so that new keys of the tokens' issuer reach a
//! pod that runs.
//!
//! It takes only what may change under a running pod: whose orders to take, and the number of pods. Everything else is read at the start.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use job_api::PodSettings;

use super::token::{TokenError, Verifier};

/// How often the file is read at most. The kubelet brings a change within a minute or two.
const READ_EVERY: Duration = Duration::from_secs(5);
/// A ConfigMap holds at most a MiB.
const FILE_MAX: u64 = 1 << 20;

/// See the module's documentation.
pub(super) struct LiveSettings {
    file: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    read_at: Instant,
    settings: PodSettings,
    verifier: Option<Verifier>,
}

/// Why somebody may not give orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The settings name nobody.
    NoOperator,
    /// There is no token.
    NoToken,
    /// The token is not good.
    Token(TokenError),
}

impl LiveSettings {
    pub(super) fn new(file: PathBuf, settings: &PodSettings) -> Self {
        let known = Known {
            read_at: Instant::now(),
            settings: settings.clone(),
            verifier: settings.control.as_ref().map(Verifier::new),
        };
        Self { file, known: Mutex::new(known) }
    }

    /// Whether who has this token may give orders. Reads a file now and then.
    pub(super) fn check(&self, token: Option<&str>) -> Result<(), Denied> {
        self.refresh();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let verifier = known.verifier.as_ref().ok_or(Denied::NoOperator)?;
        let token = token.ok_or(Denied::NoToken)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        verifier.check(token, i64::try_from(now).unwrap_or(i64::MAX)).map_err(Denied::Token)
    }

    /// The number of pods. Reads a file now and then.
    pub(super) fn replicas(&self) -> u16 {
        self.refresh();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).settings.replicas
    }

    /// Reads the file again if the last time is long ago. One that cannot be read changes nothing.
    fn refresh(&self) {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.read_at.elapsed() < READ_EVERY {
                return;
            }
            known.read_at = Instant::now();
        }
        match read(&self.file) {
            Ok(settings) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.settings.control != settings.control {
                    tracing::info!("the settings name other keys of those whose orders are taken");
                    known.verifier = settings.control.as_ref().map(Verifier::new);
                }
                known.settings = settings;
            }
            Err(error) => tracing::warn!(error, "the settings cannot be read again; the last ones hold"),
        }
    }
}

fn read(file: &Path) -> Result<PodSettings, String> {
    let size = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("{size} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| e.to_string())?;
    serde_saphyr::from_str(&text).map_err(|e| e.to_string())
}
