//! Where the time goes in rows that miss their targets, and the next step: what profiles said, for the page.
//!
//! Written by hand when a profile was taken; a note is printed only while its row misses its target.

/// The note of a row.
pub fn note(row: &str) -> Option<&'static str> {
    NOTES.iter().find(|(of, _)| *of == row).map(|(_, note)| *note)
}

const NOTES: &[(&str, &str)] = &[(
    "rss-idle",
    "of 58 MiB with a generator, 33 are pages of files, nearly all of the program itself: they are shared and can be dropped. Of 25 MiB of the process's own \
     about 13 are the filters of 16 empty memtables, which RocksDB clears when it opens a shard: 5 % of a quarter of the write buffers each (page faults by \
     caller, a build without optimisation of our own code). Next: filters for what one shard of sixteen can hold of the buffers.",
)];

#[cfg(test)]
mod tests {
    use super::super::rows::row;
    use super::*;

    #[test]
    fn each_note_is_of_a_row_with_a_target() {
        assert!(
            NOTES.iter().all(|(of, _)| row(of).is_some_and(|row| row.goal.is_some_and(|goal| goal.target.is_some())))
        );
    }
}
