//! The two state machines of the library, sans-IO: [`master::Master`] orders membership and
//! settles what was begun, [`peer::Peer`] is one member's side of it.
//!
//! Neither knows a clock, a socket or a random number. Each takes inputs with the time they
//! happened at, and gives back outputs that a driver obeys. The two speak through numbered
//! messages ([`session::Session`]) that survive a broken connection.

pub mod master;
pub mod peer;
pub mod session;
pub mod silence;

#[cfg(test)]
mod tests;
