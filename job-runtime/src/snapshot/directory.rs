//! The object store as a directory: a laptop's disk, or a file system that several machines mount.
//!
//! Owns how an object becomes visible at once: it is written and made durable under a temporary name and then linked to its own, which fails
//! if there is one already. It knows no manifest.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::UNIX_EPOCH;

use checkpoint::snapshot::retention::Listed;
use checkpoint::snapshot::{JobPrefix, ObjectId, PartId};

use super::store::{Body, Listing, ObjectStore, Put, StoreError};

const BUFFER: usize = 1 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub struct DirectoryStore {
    root: PathBuf,
    prefix: JobPrefix,
    process: u128,
    count: AtomicU32,
}

impl DirectoryStore {
    /// The objects of a job below `root`. Directories are made when something is written.
    pub fn new(root: &Path, prefix: JobPrefix) -> Self {
        let process = uuid::Uuid::new_v4().as_u128();
        Self { root: root.to_owned(), prefix, process, count: AtomicU32::new(0) }
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        self.root.join(self.prefix.key(id))
    }

    fn failed<'a>(&'a self, action: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StoreError + 'a {
        move |error| {
            let (place, action) = (self.place(), format!("{action} {}", path.display()));
            match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
                    let message = format!("{error}; make the directory writable, or name another");
                    StoreError::Refused { place, action, message }
                }
                _ => StoreError::Unavailable { place, action, message: error.to_string() },
            }
        }
    }

    /// Writes and syncs the body under a temporary name.
    fn stage(&self, body: Body<'_>) -> Result<PathBuf, StoreError> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&ObjectId::Temporary(PartId { number: 0, process: self.process, count }));
        make_parent(&path).map_err(self.failed("create the directory of", &path))?;
        let mut out = File::create(&path).map_err(self.failed("create", &path))?;
        match body {
            Body::Bytes(bytes) => out.write_all(bytes).map_err(self.failed("write", &path))?,
            Body::File(file) => {
                let local = |source| StoreError::Local { action: "read", path: file.to_owned(), source };
                let mut from = File::open(file).map_err(local)?;
                std::io::copy(&mut from, &mut out).map_err(self.failed("write", &path))?;
            }
        }
        out.sync_all().map_err(self.failed("sync", &path))?;
        Ok(path)
    }

    fn walk(&self, directory: &Path, key: &str, out: &mut Vec<Listed>) -> Result<(), StoreError> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.failed("list", directory)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(self.failed("list", directory))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (path, key) = (entry.path(), format!("{key}{name}"));
            let about = match fs::symlink_metadata(&path) {
                Ok(about) => about,
                // Removed meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(self.failed("read", &path)(e)),
            };
            if about.is_dir() {
                self.walk(&path, &format!("{key}/"), out)?;
            } else if about.is_file()
                && let Some(id) = ObjectId::parse(&key)
            {
                let modified = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let modified_ms = modified.map_or(0, |since| since.as_millis() as u64);
                out.push(Listed { id, length: about.len(), modified_ms });
            }
        }
        Ok(())
    }
}

fn make_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

impl ObjectStore for DirectoryStore {
    fn place(&self) -> String {
        format!("directory {}", self.root.display())
    }

    fn key(&self, id: &ObjectId) -> String {
        self.path(id).display().to_string()
    }

    fn put(&self, id: &ObjectId, body: Body<'_>) -> Result<Put, StoreError> {
        let path = self.path(id);
        let staged = self.stage(body)?;
        make_parent(&path).map_err(self.failed("create the directory of", &path))?;
        let linked = fs::hard_link(&staged, &path);
        fs::remove_file(&staged).map_err(self.failed("remove", &staged))?;
        match linked {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(Put::Exists),
            Err(e) => return Err(self.failed("create", &path)(e)),
        }
        let parent = path.parent().expect("an object's path has a directory");
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(self.failed("sync", parent))?;
        Ok(Put::Written)
    }

    fn get(&self, id: &ObjectId, part: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), StoreError> {
        let path = self.path(id);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(StoreError::Missing { place: self.place(), key: self.key(id) });
            }
            Err(e) => return Err(self.failed("open", &path)(e)),
        };
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => part(&buffer[..read]).map_err(|source| StoreError::Local {
                    action: "write what was read from",
                    path: path.clone(),
                    source,
                })?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed("read", &path)(e)),
            }
        }
    }

    fn list(&self, listing: Listing) -> Result<Vec<Listed>, StoreError> {
        let mut out = Vec::new();
        let below = self.root.join(format!("{}{}", self.prefix.as_str(), listing.prefix()));
        self.walk(&below, listing.prefix(), &mut out)?;
        out.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(out)
    }

    fn delete(&self, id: &ObjectId) -> Result<(), StoreError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.failed("remove", &path)(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataflow::key::ShardId;

    fn store(root: &Path) -> DirectoryStore {
        DirectoryStore::new(root, JobPrefix::new("p", "j", "u").unwrap())
    }

    fn read(store: &DirectoryStore, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        store.get(id, &mut |part| {
            out.extend_from_slice(part);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn an_object_is_written_once_and_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (store, other) = (store(dir.path()), store(dir.path()));
        let id = ObjectId::Checkpoint { pod: 0, number: 1 };
        assert!(matches!(read(&store, &id), Err(StoreError::Missing { .. })));
        assert_eq!(store.put(&id, Body::Bytes(b"first")).unwrap(), Put::Written);
        assert_eq!(other.put(&id, Body::Bytes(b"second")).unwrap(), Put::Exists);
        assert_eq!(read(&store, &id).unwrap(), b"first");
        let listed = store.list(Listing::All).unwrap();
        assert_eq!(listed.len(), 1, "no temporary file is left: {listed:?}");
        store.delete(&id).unwrap();
        store.delete(&id).unwrap();
        assert_eq!(store.list(Listing::All).unwrap(), []);
    }

    #[test]
    fn files_of_others_are_neither_listed_nor_named() {
        let dir = tempfile::tempdir().unwrap();
        let ours = store(dir.path());
        let part = PartId { number: 1, process: 2, count: 3 };
        let id = ObjectId::File(ShardId(3), part);
        let body = dir.path().join("body");
        fs::write(&body, "bytes").unwrap();
        ours.put(&id, Body::File(&body)).unwrap();
        fs::write(dir.path().join("p/j/u/notes.txt"), "mine").unwrap();
        let other = DirectoryStore::new(dir.path(), JobPrefix::new("p", "j", "u2").unwrap());
        other.put(&ObjectId::Checkpoint { pod: 0, number: 9 }, Body::Bytes(b"x")).unwrap();
        let all: Vec<_> =
            ours.list(Listing::All).unwrap().into_iter().map(|object| (object.id, object.length)).collect();
        assert_eq!(all, [(id, 5)]);
        assert_eq!(ours.list(Listing::Checkpoints).unwrap(), []);
    }

    #[test]
    fn a_place_that_cannot_be_written_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = store(&file).put(&ObjectId::Checkpoint { pod: 0, number: 1 }, Body::Bytes(b"x")).unwrap_err();
        assert!(matches!(&error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("name another"), "{error}");
    }
}
