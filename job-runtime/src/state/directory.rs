//! The state directory: whose it is, and that only one process uses it.
//!
//! # Layout
//! - `job.json`: `{"version": 1, "jobUid": "...", "name": "...", "shards": 16}`, written before anything else
//! - `LOCK`: locked by the process that uses the directory (`flock`); its content means nothing
//! - `log/`: the local commit log (`commit::local`)
//! - `shards/<n>/`: one database per shard (`state::rocks`)
//! - `snapshots/`: copies of databases while they are uploaded; emptied at every start
//! - `RESTORING`: there while `log/` and `shards/` are filled from a snapshot (`snapshot::start`)

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dataflow::key::Shards;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const JOB_FILE: &str = "job.json";
const LOCK_FILE: &str = "LOCK";
const OURS: [&str; 3] = ["log", "shards", "snapshots"];
const RESTORING_FILE: &str = "RESTORING";
/// Between two tries to lock a directory that another process still has.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Whose directory it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobFile {
    version: u32,
    job_uid: String,
    name: String,
    shards: u16,
}

/// The job that wants to use a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobIdentity<'a> {
    /// `metadata.uid`, if the job has one; else the directory's own is used, made once.
    pub uid: Option<&'a str>,
    /// `metadata.name`.
    pub name: &'a str,
    /// `spec.shards`.
    pub shards: u16,
}

/// How long to wait for another process to let go of a directory.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// No longer than this.
    pub longest: Duration,
    /// Asked again and again: true ends the wait at once.
    pub given_up: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// No wait at all.
    pub const NONE: Patience<'static> = Patience { longest: Duration::ZERO, given_up: &|| true };
}

/// A state directory in use by this process until dropped.
#[derive(Debug)]
pub struct StateDirectory {
    root: PathBuf,
    uid: String,
    found: bool,
    _lock: File,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system said no.
    #[error("state directory: cannot {action} {}: {source}; check that the path exists, is writable and has free space, or choose another with --state-dir", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("state directory {} is in use by another process; stop that one first, or choose another directory with --state-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It holds the state of another job.
    #[error("state directory {} belongs to job {found}, not to {wanted}; choose another with --state-dir", path.display())]
    OtherJob {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
    /// The number of shards differs.
    #[error(
        "state directory {} was made with spec.shards {found}, the job says {wanted}; write {found} back, or drop the state with --fresh", path.display()
    )]
    Shards {
        /// The directory.
        path: PathBuf,
        /// In the directory.
        found: u16,
        /// In the job.
        wanted: u16,
    },
    /// A newer release wrote it.
    #[error(
        "state directory {} was written by a newer release of Millstream (layout {found}, this one reads up to {VERSION}); run that release, or drop the state with --fresh", path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// It is not a state directory, or `job.json` is damaged.
    #[error("{} is not a state directory of Millstream: {message}; choose another with --state-dir", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

impl StateDirectory {
    /// Takes a directory for a job, made if it is not there, once no other process uses it any more. With `fresh` the job's earlier state is
    /// removed first, and a job without a uid of its own gets a new one.
    ///
    /// # Errors
    /// When it belongs to another job, stays in use, was written by a newer release, or cannot be read or written.
    pub fn open(
        root: &Path,
        job: JobIdentity<'_>,
        fresh: bool,
        patience: Patience<'_>,
    ) -> Result<Self, DirectoryError> {
        fs::create_dir_all(root).map_err(io("create", root))?;
        let lock = lock(root, patience)?;
        let mut found = read_job(root, job, fresh)?;
        if fresh {
            remove_state(root)?;
            found = None;
        }
        if let Some(file) = &found {
            check(root, file, job)?;
        }
        let (uid, known) = match found {
            Some(file) => (file.job_uid, true),
            None => (write_job(root, job)?, false),
        };
        for name in OURS {
            fs::create_dir_all(root.join(name)).map_err(io("create", &root.join(name)))?;
        }
        Ok(Self { root: root.to_owned(), uid, found: known, _lock: lock })
    }

    /// Takes the directory of a job that does not run, whichever job that is, and says how many shards it has.
    ///
    /// # Errors
    /// When it is in use, is no state directory, or cannot be read.
    pub fn of_stopped_job(root: &Path) -> Result<(Self, Shards), DirectoryError> {
        let foreign = |message: &str| DirectoryError::Foreign { path: root.to_owned(), message: message.to_owned() };
        let path = root.join(JOB_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(foreign("it has no job.json")),
            Err(e) => return Err(io("read", &path)(e)),
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| foreign("job.json is not JSON"))?;
        let name = value.get("name").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
        let shards =
            value.get("shards").and_then(serde_json::Value::as_u64).and_then(|count| u16::try_from(count).ok());
        let shards = shards.and_then(Shards::new).ok_or_else(|| foreign("job.json has no number of shards"))?;
        let identity = JobIdentity { uid: None, name: &name, shards: shards.count() };
        Ok((Self::open(root, identity, false, Patience::NONE)?, shards))
    }

    /// The job's uid: its own, or the one made for this directory.
    pub fn job_uid(&self) -> &str {
        &self.uid
    }

    /// True if the directory was there before: the job resumes.
    pub fn resumes(&self) -> bool {
        self.found
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of the local commit log.
    pub fn log_dir(&self) -> PathBuf {
        self.root.join(OURS[0])
    }

    /// Directory of the shards' databases.
    pub fn shards_dir(&self) -> PathBuf {
        self.root.join(OURS[1])
    }

    /// Directory of copies that are being uploaded.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root.join(OURS[2])
    }

    /// The file that is there while the state is being restored.
    pub fn restoring_file(&self) -> PathBuf {
        self.root.join(RESTORING_FILE)
    }

    /// True if a directory belongs to a job already.
    pub fn is_taken(root: &Path) -> bool {
        root.join(JOB_FILE).exists()
    }
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> DirectoryError + 'a {
    move |source| DirectoryError::Io { action, path: path.to_owned(), source }
}

/// A process that holds the lock may be on its way out: a pod that was deleted by force still commits and leaves while its successor
/// starts on the same volume.
fn lock(root: &Path, patience: Patience<'_>) -> Result<File, DirectoryError> {
    let path = root.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(io("open", &path))?;
    let (begin, mut told) = (Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < patience.longest && !(patience.given_up)() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(path = %root.display(), "another process still has the state directory; waiting for it");
                }
                std::thread::park_timeout(LOCK_AGAIN);
            }
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(DirectoryError::Io { action: "lock", path, source }),
        }
    }
}

/// What `job.json` says. With `fresh` only the job's name must fit: the rest is about to be removed.
fn read_job(root: &Path, job: JobIdentity<'_>, fresh: bool) -> Result<Option<JobFile>, DirectoryError> {
    let path = root.join(JOB_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return no_job(root),
        Err(e) => return Err(io("read", &path)(e)),
    };
    let foreign = |message: String| DirectoryError::Foreign { path: root.to_owned(), message };
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| foreign(format!("{JOB_FILE} is not JSON: {e}")))?;
    let name = value.get("name").and_then(|v| v.as_str()).ok_or_else(|| foreign(format!("{JOB_FILE} names no job")))?;
    if name != job.name {
        return Err(DirectoryError::OtherJob { path: root.to_owned(), found: name.into(), wanted: job.name.into() });
    }
    if fresh {
        return Ok(None);
    }
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(VERSION) => {
            return Err(DirectoryError::Newer { path: root.to_owned(), found: version });
        }
        Some(_) => {}
        None => return Err(foreign(format!("{JOB_FILE} has no version"))),
    }
    serde_json::from_value(value).map(Some).map_err(|e| foreign(format!("{JOB_FILE}: {e}")))
}

fn no_job(root: &Path) -> Result<Option<JobFile>, DirectoryError> {
    match OURS.iter().find(|name| root.join(name).exists()) {
        Some(name) => Err(DirectoryError::Foreign {
            path: root.to_owned(),
            message: format!("it has `{name}` and no {JOB_FILE}"),
        }),
        None => Ok(None),
    }
}

fn check(root: &Path, file: &JobFile, job: JobIdentity<'_>) -> Result<(), DirectoryError> {
    if let Some(uid) = job.uid
        && uid != file.job_uid
    {
        let label = |uid: &str| format!("{} (uid {uid})", job.name);
        return Err(DirectoryError::OtherJob {
            path: root.to_owned(),
            found: label(&file.job_uid),
            wanted: label(uid),
        });
    }
    if file.shards != job.shards {
        return Err(DirectoryError::Shards { path: root.to_owned(), found: file.shards, wanted: job.shards });
    }
    Ok(())
}

fn remove_state(root: &Path) -> Result<(), DirectoryError> {
    for name in OURS {
        let path = root.join(name);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io("remove", &path)(e)),
            Ok(()) | Err(_) => {}
        }
    }
    match fs::remove_file(root.join(RESTORING_FILE)) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(io("remove", &root.join(RESTORING_FILE))(e)),
        Ok(()) | Err(_) => {}
    }
    // Last: until then the directory still says whose it is.
    let path = root.join(JOB_FILE);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io("remove", &path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_job(root: &Path, job: JobIdentity<'_>) -> Result<String, DirectoryError> {
    let uid = job.uid.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let file = JobFile { version: VERSION, job_uid: uid.clone(), name: job.name.to_owned(), shards: job.shards };
    let text = serde_json::to_string_pretty(&file).expect("strings and numbers are JSON");
    let (temporary, path) = (root.join("job.json.new"), root.join(JOB_FILE));
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&temporary)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(root)?.sync_all()
    };
    write().map_err(io("write", &path))?;
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const JOB: JobIdentity<'static> = JobIdentity { uid: None, name: "delays", shards: 16 };

    fn open_now(root: &Path, job: JobIdentity<'_>, fresh: bool) -> Result<StateDirectory, DirectoryError> {
        StateDirectory::open(root, job, fresh, Patience::NONE)
    }

    #[test]
    fn a_job_without_a_uid_keeps_the_one_made_for_it_until_fresh() {
        let dir = tempfile::tempdir().unwrap();
        let open = |fresh| open_now(dir.path(), JOB, fresh).unwrap();
        let first = open(false).job_uid().to_owned();
        let second = open(false);
        assert_eq!((second.job_uid(), second.resumes()), (first.as_str(), true));
        fs::write(second.log_dir().join("old"), "x").unwrap();
        drop(second);
        let third = open(true);
        assert_ne!(third.job_uid(), first);
        assert!(!third.resumes() && !third.log_dir().join("old").exists());
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open_now(dir.path(), JOB, false).unwrap();
        let error = open_now(dir.path(), JOB, false).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_process_that_leaves_is_waited_for_until_the_wait_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let first = open_now(dir.path(), JOB, false).unwrap();
        let asked = AtomicUsize::new(0);
        let third_time = || asked.fetch_add(1, Ordering::Relaxed) == 2;
        let patience = Patience { longest: Duration::from_secs(60), given_up: &third_time };
        let error = StateDirectory::open(dir.path(), JOB, false, patience).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse { .. }), "{error}");
        assert_eq!(asked.load(Ordering::Relaxed), 3);

        let (waits, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                waiting.recv().unwrap();
                drop(first);
            });
            let goes_on = || {
                // Told again and again: once is enough, and then nobody listens.
                let _ = waits.send(());
                false
            };
            let patience = Patience { longest: Duration::from_secs(60), given_up: &goes_on };
            StateDirectory::open(dir.path(), JOB, false, patience).unwrap();
        });
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        drop(open_now(dir.path(), JobIdentity { uid: Some("u1"), ..JOB }, false).unwrap());
        let refuse = |job| open_now(dir.path(), job, false).unwrap_err().to_string();
        assert!(refuse(JobIdentity { name: "other", ..JOB }).contains("belongs to job delays, not to other"));
        assert!(refuse(JobIdentity { uid: Some("u2"), ..JOB }).contains("uid u1"));
        assert!(refuse(JobIdentity { shards: 8, ..JOB }).contains("write 16 back, or drop the state with --fresh"));
        assert!(
            open_now(dir.path(), JobIdentity { name: "other", ..JOB }, true).is_err(),
            "fresh takes no other job's state"
        );
        fs::write(dir.path().join(JOB_FILE), r#"{"version": 9, "name": "delays", "new": 1}"#).unwrap();
        assert!(refuse(JOB).contains("newer release"));
        assert!(open_now(dir.path(), JOB, true).is_ok());
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        let error = open_now(dir.path(), JOB, false).unwrap_err().to_string();
        assert!(error.contains("is not a state directory"), "{error}");
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(open_now(&file, JOB, false), Err(DirectoryError::Io { .. })));
    }
}
