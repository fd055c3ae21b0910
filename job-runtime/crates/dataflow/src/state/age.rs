//! Which entries leave memory: the least recently used first, found by classes of age.
//!
//! Owns the arithmetic. What an entry is, and whether memory can do without it, its table knows.

/// Classes of age: the number of binary digits of the number of commits since an entry was last used.
pub(crate) const AGES: usize = 33;

/// The class of an age in commits.
pub(crate) fn class(age: u32) -> usize {
    (u32::BITS - age.leading_zeros()) as usize
}

/// The youngest class of age that has to leave so that `bytes` are free, and how many bytes of it. `None` if nothing can leave.
pub(crate) fn cut(sizes: &[u64; AGES], bytes: u64) -> Option<(usize, u64)> {
    let mut free = 0;
    let mut last = None;
    for (class, &size) in sizes.iter().enumerate().rev().filter(|(_, size)| **size > 0) {
        if free >= bytes {
            break;
        }
        last = Some((class, size.min(bytes - free)));
        free += size;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leave_first_and_no_more_than_is_needed() {
        let mut sizes = [0; AGES];
        (sizes[1], sizes[3], sizes[9]) = (10, 20, 5);
        assert_eq!(cut(&sizes, 3), Some((9, 3)));
        assert_eq!(cut(&sizes, 5), Some((9, 5)));
        assert_eq!(cut(&sizes, 12), Some((3, 7)));
        assert_eq!(cut(&sizes, 100), Some((1, 10)));
        assert_eq!(cut(&[0; AGES], 100), None);
        assert_eq!((class(0), class(1), class(2), class(u32::MAX)), (0, 1, 2, 32));
    }
}
