//! CPU time of this process, from `/proc`: the sum over its threads, in nanoseconds.

use std::fs;
use std::time::Duration;

/// CPU time that all threads of this process have used; `None` where `/proc` does not tell.
///
/// The time of a thread that has ended is lost, and that of one that is running just now lags
/// behind by up to a scheduler tick: read it when this thread has just been woken.
pub(super) fn used() -> Option<Duration> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task").ok()? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else {
            continue;
        };
        total += Duration::from_nanos(run_time_ns(&text)?);
    }
    Some(total)
}

/// A total with what was used between two readings; `None` as soon as one of them is not known.
pub(super) fn sum(
    total: Option<f64>,
    before: Option<Duration>,
    after: Option<Duration>,
) -> Option<f64> {
    Some(total? + after?.saturating_sub(before?).as_secs_f64())
}

/// The first of the three numbers in a `schedstat` file.
fn run_time_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_time_is_the_first_number() {
        assert_eq!(run_time_ns("123456 78 9\n"), Some(123_456));
        assert_eq!(run_time_ns(""), None);
    }

    /// Other tests' threads end meanwhile and take their time with them, so two readings can't be
    /// compared here.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_runs_has_used_time() {
        assert!(used().is_some_and(|used| used > Duration::ZERO));
    }
}
