#![allow(
    unsafe_code,
    reason = "std has no poll, no priorities of threads, and no FIFOs"
)]
//! What the emulator asks of the kernel beyond what std offers.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Above all ordinary threads, below those of the kernel.
const PRIORITY: i32 = 20;

/// Descriptors to wait for.
pub(super) struct Poll(Vec<libc::pollfd>);

impl Poll {
    pub(super) fn new(descriptors: impl Iterator<Item = RawFd>) -> Self {
        let wanted = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        Self(descriptors.map(wanted).collect())
    }

    /// Waits until something can be read from one of them, or for so long.
    pub(super) fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: at_most.as_secs() as libc::time_t,
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let (all, len) = (self.0.as_mut_ptr(), self.0.len() as libc::nfds_t);
        // SAFETY: `all` points to `len` entries which nobody else uses meanwhile, and a null mask
        // leaves signals as they are.
        let found = unsafe { libc::ppoll(all, len, &timeout, std::ptr::null()) };
        if found < 0 {
            let error = io::Error::last_os_error();
            self.0.iter_mut().for_each(|entry| entry.revents = 0);
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether there is something to read, an error included.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        self.0[index].revents != 0
    }
}

/// This thread is run before all ordinary ones from here on, and woken when it asked to be.
pub(super) fn hurry() -> io::Result<()> {
    // SAFETY: takes numbers only. Where it fails, wakeups are 50 us late.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64) };
    let priority = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: 0 is the calling thread, and `priority` lives through the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CPU time that this thread has taken.
pub(super) fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is written to, and lives through the call. Where it fails, it stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub(super) fn make_fifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` ends with a zero and lives through the call.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
