//! Lets a thread stand back: work that nobody waits for takes the processor time that the others leave.
//!
//! Owns the one call to the system. Which threads stand back is decided where they are started.

/// Nice values go from -20 to 19, and a thread that is made has 0 or what its maker has. At 10 it gets a tenth of the time of one at 0 while both want to run.
#[cfg(target_os = "linux")]
const LOW: libc::c_int = 10;

/// The calling thread, and those that it starts from now on, stand back. Where that is not possible nothing happens.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a call of the C library")]
pub(crate) fn stand_back() {
    // SAFETY: it takes numbers only. For Linux, 0 is the calling thread and not its process.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOW) };
    if result != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a thread cannot stand back");
    }
}

/// Nothing happens: elsewhere the call would be about the whole process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn stand_back() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn nice() -> Option<i64> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
        // Behind the name, which ends at the last bracket, it is the 17th field.
        let (_, fields) = stat.rsplit_once(") ")?;
        fields.split(' ').nth(16)?.parse().ok()
    }

    #[test]
    fn a_thread_and_those_that_it_starts_stand_back_and_no_other() {
        let before = nice();
        let low = std::thread::spawn(|| {
            stand_back();
            (nice(), std::thread::spawn(nice).join().unwrap())
        });
        assert_eq!(low.join().unwrap(), (Some(i64::from(LOW)), Some(i64::from(LOW))));
        assert_eq!(nice(), before);
    }
}
