//! `millstream remove-savepoint`: what a savepoint is, and its end.
//!
//! Owns the words. Without `--force` nothing is removed: whether a job that began from it is still there, nobody can see in the store. What is
//! removed, and in which order, is `snapshot::remove`'s.

use tokio_util::sync::CancellationToken;

use super::RemoveSavepointArgs;
use super::failure::Failure;
use super::progress::{eprint_line, number, time};
use crate::snapshot::SnapshotError;
use crate::snapshot::remove::{About, Found};

/// Says what would go, or removes it.
pub(super) fn savepoint(args: &RemoveSavepointArgs) -> Result<(), Failure> {
    let location = &args.location;
    let found = Found::find(location, &CancellationToken::new()).map_err(|error| match error {
        SnapshotError::SavepointUnderWay { .. } => Failure::Order(error.to_string()),
        error => Failure::Start(error.to_string()),
    })?;
    eprint_line(&format!("{location}: {}", about(&found.about)));
    if !args.force {
        return Err(Failure::Order(
            "it is not removed: a job that began from it reads it at every start, and does not start without it. If there is no such job, \
             or none that is to start again, repeat with --force"
                .to_owned(),
        ));
    }
    let objects = found.remove().map_err(|error| {
        Failure::Order(format!("{error}; what is left is no savepoint, and can be removed when this is mended"))
    })?;
    eprint_line(&format!(
        "removed, {} objects. Files that no checkpoint and no savepoint refers to go with a later snapshot of its job; if that has ended they stay",
        number(objects as u64)
    ));
    Ok(())
}

fn about(about: &About) -> String {
    match about {
        About::Whole { created_ms, shards, bytes } => {
            let at = time(i64::try_from(*created_ms).unwrap_or(i64::MAX));
            format!("a savepoint of {at}, {shards} shards, {} bytes", number(*bytes))
        }
        About::Damaged { why } => format!("a savepoint that cannot be used: {why}"),
        About::Unfinished => "parts of a savepoint that never became whole, or was removed in part".to_owned(),
    }
}
