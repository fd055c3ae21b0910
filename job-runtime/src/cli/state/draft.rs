//! A file or directory that is there as a whole or not at all: made under a name of its own, and renamed at the end.
//!
//! Owns the names and the order. A process that is killed leaves the draft, whose name begins with a dot; it knows nothing of what is written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What is being written. It goes when it is dropped before [`Draft::finish`].
pub(super) struct Draft {
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

/// The output cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum DraftError {
    /// Nothing that is there is overwritten.
    #[error("{} is there already: remove it, or write another --output", path.display())]
    Exists {
        /// What was to be written.
        path: PathBuf,
    },
    /// Not the name of a file.
    #[error("{} is no name of a file: write another --output", path.display())]
    NoName {
        /// As given.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("cannot {action} {}: {source}; check that the path is there and writable and has free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// For `map_err`.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DraftError {
    let path = path.to_owned();
    move |source| DraftError::Io { action, path, source }
}

impl Draft {
    /// A draft beside `target`, which must not be there. Nothing is made yet.
    pub(super) fn new(target: &Path) -> Result<Self, DraftError> {
        let name = target.file_name().ok_or_else(|| DraftError::NoName { path: target.to_owned() })?;
        match target.symlink_metadata() {
            Ok(_) => return Err(DraftError::Exists { path: target.to_owned() }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io("look for", target)(e)),
        }
        let mut own = std::ffi::OsString::from(".");
        own.push(name);
        own.push(format!(".{}.part", uuid::Uuid::new_v4().simple()));
        Ok(Self { path: target.with_file_name(own), target: target.to_owned(), finished: false })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name. What is in it must be durable already.
    pub(super) fn finish(mut self) -> Result<(), DraftError> {
        fs::rename(&self.path, &self.target).map_err(io("write", &self.target))?;
        self.finished = true;
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            // Why it is not finished is told already.
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync(directory: &Path) -> Result<(), DraftError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("sync", directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for make in [
            |path: &Path| fs::write(path, "half").unwrap(),
            |path: &Path| {
                fs::create_dir(path).unwrap();
                fs::write(path.join("file"), "half").unwrap();
            },
        ] {
            let draft = Draft::new(&target).unwrap();
            make(draft.path());
            assert_eq!(names(dir.path()).len(), 1);
            drop(draft);
            assert_eq!(names(dir.path()), [] as [&str; 0]);
        }
        let draft = Draft::new(&target).unwrap();
        fs::write(draft.path(), "whole").unwrap();
        draft.finish().unwrap();
        assert_eq!(names(dir.path()), ["out"]);
        assert!(matches!(Draft::new(&target), Err(DraftError::Exists { path }) if path == target));
        assert_eq!(fs::read_to_string(&target).unwrap(), "whole");
    }

    #[test]
    fn a_path_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Draft::new(&dir.path().join("..")), Err(DraftError::NoName { .. })));
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let below = file.join("out");
        let error = Draft::new(&below).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(&below.display().to_string()), "{error}");
        let nowhere = Draft::new(&dir.path().join("nowhere/out")).unwrap();
        assert!(matches!(nowhere.finish(), Err(DraftError::Io { .. })));
    }
}
