//! What differs between operating systems, each with a portable module beside it.

#[cfg(unix)]
pub(super) mod fork;
#[cfg(not(unix))]
#[path = "fork_portable.rs"]
pub(super) mod fork;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(super) use linux::{
    congestion_control, round_trip, send_vectored, set_congestion_control, set_steady_retries,
    set_unsent_bytes_max, set_user_timeout,
};

#[cfg(not(target_os = "linux"))]
mod portable;
#[cfg(not(target_os = "linux"))]
pub(super) use portable::{
    congestion_control, round_trip, send_vectored, set_congestion_control, set_steady_retries,
    set_unsent_bytes_max, set_user_timeout,
};
