//! Where snapshots go, as the user says it, and the object store that this means.
//!
//! Owns the forms of the place. What lies there is laid out by `checkpoint::snapshot::key`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use checkpoint::snapshot::retention::Retention;
use checkpoint::snapshot::{JobPrefix, ObjectId};
use tokio_util::sync::CancellationToken;

use super::directory::DirectoryStore;
use super::s3::{S3Bucket, S3Place, S3Store};
use super::store::{Listing, ObjectStore};
use super::{SnapshotError, restore, take};

/// Where snapshots go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// A directory.
    Directory(PathBuf),
    /// A bucket.
    S3(S3Place),
}

/// What a job says of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// Where they go.
    pub place: StorePlace,
    /// Time between two.
    pub interval: Duration,
    /// How many are kept.
    pub retention: Retention,
}

impl StorePlace {
    /// Reads what a user writes: a directory, or `s3://bucket/prefix`. How the server is reached the environment says, as for every program
    /// that uses S3: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …
    ///
    /// # Errors
    /// What is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("s3://") else {
            let path = std::path::absolute(text).map_err(|e| format!("{text:?} is no directory: {e}"))?;
            return Ok(Self::Directory(path));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("{text:?} names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX"));
        }
        let own = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        let endpoint = own.iter().find_map(|name| std::env::var(name).ok()).filter(|address| !address.is_empty());
        let (bucket, prefix) = (bucket.to_owned(), prefix.trim_matches('/').to_owned());
        Ok(Self::S3(S3Place { bucket, prefix, path_style: endpoint.is_some(), endpoint, region: None }))
    }

    /// The same place; a bucket is reached as `other` is, if that is one too.
    #[must_use]
    pub fn reached_like(self, other: Option<&Self>) -> Self {
        match (self, other) {
            (Self::S3(own), Some(Self::S3(other))) => {
                let S3Place { endpoint, region, path_style, .. } = other.clone();
                Self::S3(S3Place { endpoint, region, path_style, ..own })
            }
            (own, _) => own,
        }
    }

    /// What the operator says.
    pub fn of_settings(settings: &job_api::CheckpointStorage) -> Self {
        let job_api::S3Settings { bucket, prefix, endpoint, region, path_style } = settings.s3.clone();
        Self::S3(S3Place { bucket, prefix, endpoint, region, path_style })
    }

    /// The store of one job. Nothing is written yet.
    ///
    /// # Errors
    /// When the job's name or uid cannot be part of a key, or the client cannot be made.
    pub fn open(
        &self,
        name: &str,
        uid: &str,
        cancel: &CancellationToken,
    ) -> Result<Arc<dyn ObjectStore>, SnapshotError> {
        match self {
            Self::Directory(root) => Ok(Arc::new(DirectoryStore::new(root, JobPrefix::new("", name, uid)?))),
            Self::S3(place) => {
                let prefix = JobPrefix::new(&place.prefix, name, uid)?;
                Ok(Arc::new(S3Store::new(Arc::new(S3Bucket::new(place, cancel)?), prefix)))
            }
        }
    }

    /// The uid of the job of this name that has the newest snapshot: for a job that has no uid of its own and has lost its state directory.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_uid(&self, name: &str, cancel: &CancellationToken) -> Result<Option<String>, SnapshotError> {
        let mut newest: Option<(u64, String)> = None;
        for uid in self.uids(name, cancel)? {
            let store = self.open(name, &uid, cancel)?;
            let (manifests, _) = restore::checkpoints(store.as_ref(), &uid)?;
            let made = manifests.iter().map(|manifest| manifest.created_ms).max();
            newest = newest.max(made.map(|made| (made, uid)));
        }
        Ok(newest.map(|(_, uid)| uid))
    }

    fn uids(&self, name: &str, cancel: &CancellationToken) -> Result<BTreeSet<String>, SnapshotError> {
        match self {
            Self::Directory(root) => {
                let below = root.join(JobPrefix::of_name("", name)?);
                let entries = match std::fs::read_dir(&below) {
                    Ok(entries) => entries,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
                    Err(e) => return Err(take::io("list", &below)(e)),
                };
                let name = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
                Ok(entries.filter_map(Result::ok).filter_map(name).filter(|uid| is_uid(uid)).collect())
            }
            Self::S3(place) => {
                let below = JobPrefix::of_name(&place.prefix, name)?;
                let keys = S3Bucket::new(place, cancel)?.keys(&below)?;
                Ok(keys.iter().filter_map(|(key, _, _)| JobPrefix::uid_in(&below, key)).collect())
            }
        }
    }
}

impl fmt::Display for StorePlace {
    /// As a user writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3(S3Place { bucket, prefix, .. }) => match prefix.trim_matches('/') {
                "" => write!(f, "s3://{bucket}"),
                prefix => write!(f, "s3://{bucket}/{prefix}"),
            },
        }
    }
}

fn is_uid(text: &str) -> bool {
    JobPrefix::new("", "job", text).is_ok()
}

/// Forgets a job's checkpoints: it starts anew. Savepoints stay; files go with a later snapshot's retention.
///
/// # Errors
/// When the store fails.
pub fn forget(store: &dyn ObjectStore) -> Result<(), SnapshotError> {
    for object in store.list(Listing::Checkpoints)? {
        if let ObjectId::Checkpoint { .. } = object.id {
            store.delete(&object.id)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_a_bucket() {
        let parse = |text| StorePlace::parse(text).unwrap();
        assert_eq!(parse("/var/snapshots"), StorePlace::Directory("/var/snapshots".into()));
        assert!(matches!(parse("snapshots"), StorePlace::Directory(path) if path.is_absolute()));
        let StorePlace::S3(place) = parse("s3://streams/team/a/") else { panic!("a bucket") };
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("streams", "team/a"));
        assert!(StorePlace::parse("s3:///x").unwrap_err().contains("write s3://BUCKET"));
    }

    #[test]
    fn a_job_without_a_uid_finds_its_own_newest_snapshots() {
        let dir = tempfile::tempdir().unwrap();
        let (place, cancel) = (StorePlace::Directory(dir.path().to_owned()), CancellationToken::new());
        assert_eq!(place.find_uid("delays", &cancel).unwrap(), None);
        let put = |name: &str, uid: &str, created_ms| {
            let manifest = checkpoint::snapshot::CheckpointManifest {
                job_uid: uid.into(),
                job_name: name.into(),
                pod: 0,
                number: 1,
                created_ms,
                shards: 1,
                entries: Vec::new(),
                log: checkpoint::snapshot::LogPart::Kafka,
            };
            let store = place.open(name, uid, &cancel).unwrap();
            store.put(&manifest.id(), crate::snapshot::store::Body::Bytes(&manifest.encode())).unwrap();
        };
        put("delays", "older", 10);
        put("delays", "newer", 20);
        put("other", "newest", 30);
        assert_eq!(place.find_uid("delays", &cancel).unwrap(), Some("newer".into()));
    }
}
