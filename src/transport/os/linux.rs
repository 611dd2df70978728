#![allow(unsafe_code, reason = "TCP_INFO has no safe wrapper")]
//! Socket options that only Linux has.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::SockRef;

/// TCP_USER_TIMEOUT: closes the connection once sent data has gone unacknowledged for `timeout`.
pub(in crate::transport) fn set_user_timeout(
    socket: &SockRef<'_>,
    timeout: Duration,
) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(timeout))
}

/// Writes from several buffers at once, and raises no SIGPIPE where the connection is closed.
pub(in crate::transport) fn send_vectored(
    socket: &SockRef<'_>,
    bufs: &[IoSlice<'_>],
) -> io::Result<usize> {
    socket.send_vectored_with_flags(bufs, libc::MSG_NOSIGNAL)
}

/// TCP_NOTSENT_LOWAT: how much the kernel takes of what it cannot send yet.
pub(in crate::transport) fn set_unsent_bytes_max(
    socket: &SockRef<'_>,
    bytes: u32,
) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(bytes)
}

/// TCP_THIN_LINEAR_TIMEOUTS: with fewer than four packets in flight, the first six retries come at
/// the same pause.
pub(in crate::transport) fn set_steady_retries(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_thin_linear_timeouts(true)
}

/// The name of the congestion control algorithm.
pub(in crate::transport) fn congestion_control(socket: &SockRef<'_>) -> Option<String> {
    let name = socket.tcp_congestion().ok()?;
    let name = name.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// TCP_INFO: the kernel's estimate of the round trip, from the handshake on.
pub(in crate::transport) fn round_trip(socket: &SockRef<'_>) -> Option<Duration> {
    // SAFETY: plain integers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes `len` bytes at
    // most to `info`, which is that long.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    let micros = u64::from(info.tcpi_rtt);
    (outcome == 0 && micros > 0).then(|| Duration::from_micros(micros))
}

/// TCP_CONGESTION: takes the algorithm of this name, which the kernel must have loaded and allow.
pub(in crate::transport) fn set_congestion_control(
    socket: &SockRef<'_>,
    name: &str,
) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_closed_connection_is_an_error_and_no_signal() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        let socket = SockRef::from(&near);
        // SAFETY: the child only sets a disposition, sends and leaves; the parent waits for it.
        let status = unsafe {
            let child = libc::fork();
            assert_ne!(child, -1, "fork");
            if child == 0 {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                let bufs = [IoSlice::new(b"a"), IoSlice::new(b"b")];
                let sent = send_vectored(&socket, &bufs);
                libc::_exit(i32::from(sent.is_ok()));
            }
            let mut status = -1;
            libc::waitpid(child, &raw mut status, 0);
            status
        };
        assert_eq!(status, 0, "ended by the signal, or sent");
    }
}
