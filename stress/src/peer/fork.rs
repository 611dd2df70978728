#![allow(
    unsafe_code,
    reason = "std starts programs only, and `exec` closes the sockets that a forked child keeps"
)]
//! A forked child that does nothing but hold copies of all descriptors, as a data loader does.

use std::io;

/// The child ends by itself after so long, whatever becomes of everybody else.
const LIFETIME_S: u32 = 120;

/// Forks; returns the child's process id.
pub(super) fn fork() -> io::Result<u32> {
    // SAFETY: the child calls `alarm` and `pause` only, which are async-signal-safe, and never
    // returns from here.
    let child = unsafe { libc::fork() };
    match child {
        0 => {
            // SAFETY: takes no pointers.
            unsafe { libc::alarm(LIFETIME_S) };
            loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            }
        }
        child => u32::try_from(child).map_err(|_| io::Error::last_os_error()),
    }
}
