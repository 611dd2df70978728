//! Integration tests on real loopback sockets, a module per behaviour.
//!
//! Every scenario runs its peers as threads under a watchdog ([`common::Task`]): a call that hangs
//! fails its test with the name of the peer that is stuck. What must be alone in its process, to
//! count memory, threads or sockets, runs itself again in a child ([`common::alone`]).
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests stand outside: they open sockets and bound their waits by the clock"
)]
#![allow(clippy::print_stdout, reason = "shown for a test that fails")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers included"
)]

mod churn;
mod common;
mod diloco;
mod failures;
mod hostile;
mod leftovers;
mod masters;
mod membership;
mod processes;
#[cfg(feature = "cli")]
mod program;
mod reduce;
mod shared_state;
