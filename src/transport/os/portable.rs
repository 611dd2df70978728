//! Answers where Linux's socket options do not exist: the settings are reported as unsupported
//! and the connection works without them.

use std::io::{self, IoSlice};
use std::time::Duration;

use socket2::SockRef;

/// Not available here; silence on a lane is found by the heartbeat alone.
pub(in crate::transport) fn set_user_timeout(_: &SockRef<'_>, _: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes the first of several buffers: not every system has a flag against SIGPIPE.
pub(in crate::transport) fn send_vectored(
    socket: &SockRef<'_>,
    bufs: &[IoSlice<'_>],
) -> io::Result<usize> {
    let first = bufs.iter().find(|buf| !buf.is_empty());
    socket.send(first.map_or(&[], |buf| buf))
}

/// Not available here; the kernel takes what fits its buffer.
pub(in crate::transport) fn set_unsent_bytes_max(_: &SockRef<'_>, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not available here; pauses between retries double.
pub(in crate::transport) fn set_steady_retries(_: &SockRef<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not known here.
pub(in crate::transport) fn congestion_control(_: &SockRef<'_>) -> Option<String> {
    None
}

/// Not known here.
pub(in crate::transport) fn round_trip(_: &SockRef<'_>) -> Option<Duration> {
    None
}

/// Not available here; the system's algorithm is used.
pub(in crate::transport) fn set_congestion_control(_: &SockRef<'_>, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
