//! A simulated world that the whole library runs in, as it is shipped.

pub mod checkers;
mod dice;
pub mod history;
mod program;
pub mod recorder;

pub use dice::Dice;
