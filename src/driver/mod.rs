#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the room where clocks and threads meet the state machines"
)]
//! The loops that feed the state machines and obey them: events in, outputs out, nothing decided.
//!
//! ```text
//!   master   Acceptor ─ greetings ─┐                      ┌─ welcome, refuse, send, close
//!            control connections ──┼─► protocol::Master ──┼─ probe
//!            clock ────────────────┘                      └─ topology
//!
//!   peer     callers' commands ────┐                      ┌─ control connection
//!            control connection ───┤                      ├─ links: dial, accept, mend lanes
//!            data plane's events ──┼─► protocol::Peer ────┼─ data plane: begin, end
//!            links, transfers ─────┤                      ├─ sync: serve, receive, verify
//!            clock ────────────────┘                      └─ replies
//! ```

mod clock;
mod control;
mod handle;
mod host;
mod link;
mod links;
mod master;
mod peer;
mod reach;
mod state_dir;
mod sync;
#[cfg(test)]
mod testing;

pub(crate) use handle::{Driver, Payload, ReduceMemory, Respond, Response};
#[cfg(feature = "sim")]
pub(crate) use host::Host;
#[cfg(feature = "sim")]
pub(crate) use host::observer::{Observed, Observer};
pub use master::{Master, MasterError};
#[cfg(feature = "sim")]
pub(crate) use master::{Secret, listen, serve_for_ever};
#[cfg(feature = "sim")]
pub(crate) use state_dir::Disk;
