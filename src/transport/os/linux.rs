//! Socket options that only Linux has.

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// TCP_USER_TIMEOUT: closes the connection once sent data has gone unacknowledged for `timeout`.
pub(in crate::transport) fn set_user_timeout(
    socket: &SockRef<'_>,
    timeout: Duration,
) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(timeout))
}

/// TCP_THIN_LINEAR_TIMEOUTS: with fewer than four packets in flight, the first six retries come at
/// the same pause.
pub(in crate::transport) fn set_steady_retries(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_thin_linear_timeouts(true)
}

/// TCP_CONGESTION: takes the algorithm of this name, which the kernel must have loaded and allow.
pub(in crate::transport) fn set_congestion_control(
    socket: &SockRef<'_>,
    name: &str,
) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes())
}
