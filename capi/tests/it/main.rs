//! `libpccl.so` as programs see it: through `dlopen` and C types, over loopback.
#![allow(unsafe_code, reason = "it calls C functions")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it says what it skips"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "no pure room: it waits for other threads, and asks the system for ports"
)]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says so when it fails"
)]

mod calls;
mod library;
mod masters;
mod programs;
mod reduces;
mod states;
