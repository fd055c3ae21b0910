//! Where the time goes in rows that miss their targets, and the next step: what profiles said, for the page.
//!
//! Written by hand when a profile was taken; a note is printed only while its row misses its target.

/// The note of a row.
pub fn note(row: &str) -> Option<&'static str> {
    NOTES.iter().find(|(of, _)| *of == row).map(|(_, note)| *note)
}

const NOTES: &[(&str, &str)] = &[];

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
