//! Keys of a job's objects in an object store: the only place where they are built and read.
//!
//! Owns the layout below the prefix; whatever does not parse as one of these keys is not ours and is never touched.
//!
//! # Layout
//! `<prefix>/<job name>/<job uid>/` and then
//!
//! | key | object |
//! | --- | --- |
//! | `checkpoints/<pod>-<number>` | manifest of a checkpoint of one pod; numbers rise |
//! | `savepoints/<name>/<pod>` | one pod's part of a savepoint |
//! | `savepoints/<name>/savepoint` | the savepoint: its parts; written last |
//! | `shards/<shard>/<part>` | manifest of one shard |
//! | `files/<shard>/<part>` | a file of a shard's database |
//! | `logs/<part>` | the end of the local commit log |
//! | `tmp/<part>` | a write under way (directory form only) |
//!
//! Pods and shards have 5 digits, numbers 20, so that names sort as numbers do. A part is
//! `<number of the checkpoint, 20 digits>-<process, 32 hex digits>-<count, 8 hex digits>`. No key lies below another object's key: some
//! S3 servers are file systems.

use std::fmt;

use dataflow::key::ShardId;

/// The last part of a savepoint's own key.
const ROOT: &str = "savepoint";

/// Where a job's objects lie: everything below it is the job's, and nothing else is ever touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPrefix {
    /// Ends with a slash.
    text: String,
}

/// A prefix or name that cannot be part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} cannot be part of a path in an object store: {why}")]
pub struct KeyError {
    /// Which part.
    pub what: &'static str,
    /// As given.
    pub text: String,
    /// What is wrong and what to write.
    pub why: &'static str,
}

/// One object of a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// Manifest of a checkpoint.
    Checkpoint {
        /// The pod that made it.
        pod: u16,
        /// Rising.
        number: u64,
    },
    /// One pod's part of a savepoint.
    Savepoint {
        /// Its name: lower-case letters, digits, dashes.
        name: String,
        /// The pod.
        pod: u16,
    },
    /// A savepoint as a whole.
    SavepointRoot {
        /// Its name.
        name: String,
    },
    /// Manifest of one shard.
    Shard(ShardId, PartId),
    /// A file of a shard's database.
    File(ShardId, PartId),
    /// The end of the local commit log.
    Log(PartId),
    /// A write under way.
    Temporary(PartId),
}

/// What makes a name unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId {
    /// Number of the checkpoint that it was written for.
    pub number: u64,
    /// Drawn by the process that wrote it.
    pub process: u128,
    /// Counted by that process.
    pub count: u32,
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:032x}-{:08x}", self.number, self.process, self.count)
    }
}

impl fmt::Display for ObjectId {
    /// The key below the job's prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint { pod, number } => write!(f, "checkpoints/{pod:05}-{number:020}"),
            Self::Savepoint { name, pod } => write!(f, "savepoints/{name}/{pod:05}"),
            Self::SavepointRoot { name } => write!(f, "savepoints/{name}/{ROOT}"),
            Self::Shard(shard, part) => write!(f, "shards/{:05}/{part}", shard.0),
            Self::File(shard, part) => write!(f, "files/{:05}/{part}", shard.0),
            Self::Log(part) => write!(f, "logs/{part}"),
            Self::Temporary(part) => write!(f, "tmp/{part}"),
        }
    }
}

impl ObjectId {
    /// Reads the key below the job's prefix; `None` if it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self::read(text)?;
        // One name per object: leading zeros, plus signs and upper case are somebody else's.
        (id.to_string() == text).then_some(id)
    }

    fn read(text: &str) -> Option<Self> {
        let (class, rest) = text.split_once('/')?;
        match class {
            "checkpoints" => {
                let (pod, number) = rest.split_once('-')?;
                Some(Self::Checkpoint { pod: pod.parse().ok()?, number: number.parse().ok()? })
            }
            "savepoints" => {
                let (name, pod) = rest.split_once('/')?;
                savepoint_name(name).ok()?;
                let name = name.to_owned();
                if pod == ROOT {
                    return Some(Self::SavepointRoot { name });
                }
                Some(Self::Savepoint { name, pod: pod.parse().ok()? })
            }
            "shards" => in_shard(rest).map(|(shard, part)| Self::Shard(shard, part)),
            "files" => in_shard(rest).map(|(shard, part)| Self::File(shard, part)),
            "logs" => part(rest).map(Self::Log),
            "tmp" => part(rest).map(Self::Temporary),
            _ => None,
        }
    }
}

fn in_shard(text: &str) -> Option<(ShardId, PartId)> {
    let (shard, rest) = text.split_once('/')?;
    Some((ShardId(shard.parse().ok()?), part(rest)?))
}

fn part(text: &str) -> Option<PartId> {
    let mut fields = text.splitn(3, '-');
    let number = fields.next()?.parse().ok()?;
    let process = u128::from_str_radix(fields.next()?, 16).ok()?;
    let count = u32::from_str_radix(fields.next()?, 16).ok()?;
    Some(PartId { number, process, count })
}

/// Checks the name of a savepoint.
///
/// # Errors
/// When it is not 1 to 63 lower-case letters, digits and dashes.
pub fn savepoint_name(name: &str) -> Result<(), KeyError> {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if (1..=63).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    let why = "use 1 to 63 lower-case letters, digits and dashes";
    Err(KeyError { what: "the savepoint's name", text: name.to_owned(), why })
}

impl JobPrefix {
    /// The prefix of a job below `base` (which may be empty).
    ///
    /// # Errors
    /// When a part has a name that a path cannot have, or that leads elsewhere.
    pub fn new(base: &str, name: &str, uid: &str) -> Result<Self, KeyError> {
        Ok(Self { text: format!("{}{}/", Self::of_name(base, name)?, segment("the job's uid", uid)?) })
    }

    /// Where the objects of all jobs of this name lie, whatever their uid.
    ///
    /// # Errors
    /// See [`JobPrefix::new`].
    pub fn of_name(base: &str, name: &str) -> Result<String, KeyError> {
        let mut text = String::new();
        for part in base.split('/').filter(|part| !part.is_empty()) {
            text.push_str(segment("the prefix", part)?);
            text.push('/');
        }
        text.push_str(segment("the job's name", name)?);
        text.push('/');
        Ok(text)
    }

    /// The uid in a key that lies below [`JobPrefix::of_name`] and is a checkpoint's or savepoint's.
    pub fn uid_in(of_name: &str, key: &str) -> Option<String> {
        let (uid, rest) = key.strip_prefix(of_name)?.split_once('/')?;
        match ObjectId::parse(rest)? {
            ObjectId::Checkpoint { .. } | ObjectId::Savepoint { .. } | ObjectId::SavepointRoot { .. } => {
                Some(uid.to_owned())
            }
            ObjectId::Shard(..) | ObjectId::File(..) | ObjectId::Log(_) | ObjectId::Temporary(_) => None,
        }
    }

    /// What every key of the job begins with; it ends with a slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key of an object.
    pub fn key(&self, object: &ObjectId) -> String {
        format!("{}{object}", self.text)
    }

    /// The object that a key names; `None` if it is not one of this job's.
    pub fn parse(&self, key: &str) -> Option<ObjectId> {
        ObjectId::parse(key.strip_prefix(&self.text)?)
    }
}

fn segment<'a>(what: &'static str, text: &'a str) -> Result<&'a str, KeyError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let why = match text {
        "" => "it is empty",
        "." | ".." => "it leads to another place; use a plain name",
        text if text.len() > 200 => "it is longer than 200 characters",
        text if !text.chars().all(good) => "use letters, digits, `-`, `_` and `.`",
        _ => return Ok(text),
    };
    Err(KeyError { what, text: text.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PART: PartId = PartId { number: 12, process: 0xabc, count: 7 };
    const PART_TEXT: &str = "00000000000000000012-00000000000000000000000000000abc-00000007";

    #[test]
    fn keys_stay_as_they_are() {
        let prefix = JobPrefix::new("team/a", "delays", "u-1").unwrap();
        let key = |id| prefix.key(&id);
        assert_eq!(
            key(ObjectId::Checkpoint { pod: 0, number: 12 }),
            "team/a/delays/u-1/checkpoints/00000-00000000000000000012"
        );
        assert_eq!(key(ObjectId::Savepoint { name: "v2".into(), pod: 3 }), "team/a/delays/u-1/savepoints/v2/00003");
        assert_eq!(key(ObjectId::SavepointRoot { name: "v2".into() }), "team/a/delays/u-1/savepoints/v2/savepoint");
        assert_eq!(key(ObjectId::Shard(ShardId(4), PART)), format!("team/a/delays/u-1/shards/00004/{PART_TEXT}"));
        assert_eq!(key(ObjectId::File(ShardId(4), PART)), format!("team/a/delays/u-1/files/00004/{PART_TEXT}"));
        assert_eq!(key(ObjectId::Log(PART)), format!("team/a/delays/u-1/logs/{PART_TEXT}"));
        assert_eq!(key(ObjectId::Temporary(PART)), format!("team/a/delays/u-1/tmp/{PART_TEXT}"));
        assert_eq!(JobPrefix::new("/", "delays", "u").unwrap().as_str(), "delays/u/");
    }

    #[test]
    fn nothing_that_leads_elsewhere_is_a_prefix() {
        for (base, name, uid) in [
            ("..", "j", "u"),
            ("a/../b", "j", "u"),
            ("", "", "u"),
            ("", "j", ".."),
            ("", "a/b", "u"),
            ("", "j", "u\\v"),
            ("", "j", ""),
        ] {
            assert!(JobPrefix::new(base, name, uid).is_err(), "{base:?} {name:?} {uid:?}");
        }
    }

    #[test]
    fn a_key_of_another_job_or_of_no_known_kind_is_not_ours() {
        let prefix = JobPrefix::new("", "delays", "u").unwrap();
        for key in [
            "delays/u2/checkpoints/00000-00000000000000000012",
            "delays/u/checkpoints/0-12",
            "delays/u/checkpoints/00000-+0000000000000000012",
            "delays/u/checkpoints/00000-00000000000000000012/x",
            "delays/u/savepoints/../00000",
            "delays/u/files/00004/x",
            "delays/u/other",
            "delays/u",
        ] {
            assert_eq!(prefix.parse(key), None, "{key}");
        }
        let below = JobPrefix::of_name("", "delays").unwrap();
        assert_eq!(JobPrefix::uid_in(&below, "delays/u7/checkpoints/00000-00000000000000000012"), Some("u7".into()));
        assert_eq!(JobPrefix::uid_in(&below, "delays/u7/notes.txt"), None);
    }

    fn any_part() -> impl Strategy<Value = PartId> {
        (any::<u64>(), any::<u128>(), any::<u32>()).prop_map(|(number, process, count)| PartId {
            number,
            process,
            count,
        })
    }

    fn any_object() -> impl Strategy<Value = ObjectId> {
        prop_oneof![
            (any::<u16>(), any::<u64>()).prop_map(|(pod, number)| ObjectId::Checkpoint { pod, number }),
            ("[a-z0-9-]{1,63}", any::<u16>()).prop_map(|(name, pod)| ObjectId::Savepoint { name, pod }),
            "[a-z0-9-]{1,63}".prop_map(|name| ObjectId::SavepointRoot { name }),
            (any::<u16>(), any_part()).prop_map(|(shard, part)| ObjectId::Shard(ShardId(shard), part)),
            (any::<u16>(), any_part()).prop_map(|(shard, part)| ObjectId::File(ShardId(shard), part)),
            any_part().prop_map(ObjectId::Log),
            any_part().prop_map(ObjectId::Temporary),
        ]
    }

    proptest! {
        #[test]
        fn every_key_is_read_back_and_none_lies_below_another(a in any_object(), b in any_object()) {
            let prefix = JobPrefix::new("p", "j", "u").unwrap();
            prop_assert_eq!(prefix.parse(&prefix.key(&a)), Some(a.clone()));
            let below = format!("{}/", prefix.key(&a));
            prop_assert!(!prefix.key(&b).starts_with(&below));
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = ObjectId::parse(&text);
            let _ = JobPrefix::new(&text, &text, &text);
        }
    }
}
