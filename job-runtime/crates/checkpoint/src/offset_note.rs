//! The note beside a committed offset: that it is this job's, and what the rows before it said about event time.
//!
//! Owns the layout. The group of the offsets may be one that a user names, and hold offsets of something else: those have no note of ours.
//!
//! # Layout
//! Text, for people with Kafka's tools too; the watermark in decimal.
//! - version 1: `millstream/1 <job uid>`; written where no watermark is known
//! - version 2: `millstream/2 <job uid> <watermark in milliseconds>`

/// What the notes of all versions begin with.
const PREFIX: &str = "millstream/";
const VERSION: u32 = 2;

/// Whose a committed offset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetNote {
    /// Of another job, or of something else.
    Foreign,
    /// Of the job.
    Own {
        /// The watermark behind the rows before the offset, if they stand for one.
        watermark_ms: Option<i64>,
    },
}

/// A note of the job's own cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Written by a newer release.
    #[error(
        "the note beside a committed offset has layout {0}, this release reads up to {VERSION}; run the newer release"
    )]
    Version(u32),
    /// The text does not fit the layout.
    #[error("the note beside a committed offset is damaged: {0:?}; the group was changed from outside")]
    Damaged(String),
}

/// The note for an offset.
pub fn encode(job_uid: &str, watermark_ms: Option<i64>) -> String {
    match watermark_ms {
        None => format!("{PREFIX}1 {job_uid}"),
        Some(watermark) => format!("{PREFIX}2 {job_uid} {watermark}"),
    }
}

/// Reads the note of an offset.
///
/// # Errors
/// See [`NoteError`]; what is not of this job is no error.
pub fn decode(job_uid: &str, note: &str) -> Result<OffsetNote, NoteError> {
    let versioned = note.strip_prefix(PREFIX).and_then(|rest| rest.split_once(' '));
    let Some((version, rest)) = versioned else { return Ok(OffsetNote::Foreign) };
    let Some(rest) = rest.strip_prefix(job_uid) else { return Ok(OffsetNote::Foreign) };
    let own = |watermark_ms| Ok(OffsetNote::Own { watermark_ms });
    let damaged = || Err(NoteError::Damaged(note.to_owned()));
    match (version.parse::<u32>(), rest.strip_prefix(' ')) {
        // The uid of another job may begin with ours.
        (_, None) if !rest.is_empty() => Ok(OffsetNote::Foreign),
        (Ok(1), None) => own(None),
        (Ok(2), Some(watermark)) => watermark.parse().map_or_else(|_| damaged(), |watermark| own(Some(watermark))),
        (Ok(newer), _) if newer > VERSION => Err(NoteError::Version(newer)),
        (Ok(_) | Err(_), _) => damaged(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_note_comes_back_and_no_text_panics(
            uid in "[a-z0-9-]{1,40}",
            watermark_ms in any::<Option<i64>>(),
            other in any::<String>(),
        ) {
            prop_assert_eq!(decode(&uid, &encode(&uid, watermark_ms)), Ok(OffsetNote::Own { watermark_ms }));
            let _ = decode(&uid, &format!("{PREFIX}{other}"));
        }
    }

    #[test]
    fn the_layout_is_pinned_and_notes_of_all_versions_are_told_apart() {
        assert_eq!(encode("u", None), "millstream/1 u");
        assert_eq!(encode("u", Some(-5)), "millstream/2 u -5");
        for foreign in ["", "flink", "millstream/1 v", "millstream/2 v 7", "millstream/1 u2", "millstream/2 u2 7"] {
            assert_eq!(decode("u", foreign), Ok(OffsetNote::Foreign), "{foreign}");
        }
        assert_eq!(decode("u", "millstream/3 u 7 x"), Err(NoteError::Version(3)));
        for damaged in ["millstream/2 u", "millstream/2 u x", "millstream/1 u 7", "millstream/x u"] {
            assert_eq!(decode("u", damaged), Err(NoteError::Damaged(damaged.to_owned())), "{damaged}");
        }
    }
}
