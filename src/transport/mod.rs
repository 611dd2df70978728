#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the room where sockets and their timeouts live"
)]
//! Sockets: listening, dialling, and the greeting that opens every connection.
//!
//! ```text
//!   dialling side                              accepting side
//!   resolve -> dial -> greet   == TCP ==>   listen_in_range -> Acceptor -> Incoming
//!                       ^                                                   |
//!                       +----- Welcome or Refused ------- welcome / refuse -+
//! ```
//!
//! A connection is only a [`Stream`] of bytes to everybody above; another transport would change
//! this room and nothing else. No write here can raise SIGPIPE, no signal handler is set, and a
//! child that the process forks lets go of every socket of this room (`os::fork`).

mod accept;
mod close_log;
mod congestion;
mod dial;
mod greet;
mod listen;
mod network;
mod options;
mod os;
mod probe;
mod stream;

pub use accept::{Acceptor, AcceptorOptions, Incoming};
pub use dial::{dial, resolve};
pub use greet::{GreetError, greet, refuse, welcome};
pub use listen::{ListenError, Listener, listen_in_range};
pub use network::Network;
#[cfg(any(test, feature = "sim"))]
pub use network::{Connecting, InMemory, InMemoryListener};
pub use options::SocketOptions;
pub use probe::{Probe, probe, reachable_from};
#[cfg(any(test, feature = "sim"))]
pub use stream::Ends;
pub use stream::{ReadHalf, Stream, WriteHalf};
