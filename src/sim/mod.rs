//! A simulated world that the whole library runs in, as it is shipped.
//!
//! ```text
//!   seed ─► Plan ─► World ── runs ──► processes ── each its own runtime, with a paused clock
//!          faults    │                   │ programs call communicators; one process is the master
//!                    └──► Network ◄──────┤ bytes
//!                                        └ Recorder ─► checkers ─► Verdict
//! ```
//!
//! Nothing in a world reads a clock, draws a number or opens a socket of the system: a seed is
//! played the same way each time. [`shrink()`] makes a plan that fails smaller.

pub mod checkers;
mod dice;
mod disk;
pub mod history;
mod network;
mod plan;
mod play;
mod process;
mod program;
pub mod recorder;
mod shrink;
#[cfg(test)]
mod tests;
mod world;

pub use dice::Dice;
pub use disk::DiskFate;
pub use network::{Machine, Network, Path, Strike};
pub use plan::{Fault, FaultKind, Mode, Plan, Profile};
pub use play::{Verdict, play};
pub use shrink::shrink;
