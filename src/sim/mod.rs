//! A simulated world that the whole library runs in, as it is shipped.

pub mod checkers;
mod dice;
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
pub use network::{Machine, Network, Path, Strike};
pub use plan::{Fault, FaultKind, Mode, Plan, Profile};
pub use play::{Verdict, play};
pub use shrink::shrink;
