//! What must hold in every world: one file for each invariant, shown every record as it is made.
//!
//! `calls` and `peers` are what several checkers keep in mind; `arithmetic` is the plain definition
//! of a reduction, written without the kernels.

mod abort_leaves_nothing;
mod arithmetic;
mod bounded_blocking;
mod calls;
mod contributions;
mod membership_is_linear;
mod no_complaints;
mod nothing_left_over;
mod one_outcome;
mod peers;
mod right_evictions;
mod same_bits;
mod silences_end;
mod state_parity;
#[cfg(test)]
mod story;

use std::time::Duration;

pub use abort_leaves_nothing::AbortLeavesNothing;
pub use bounded_blocking::BoundedBlocking;
pub use contributions::Contributions;
pub use membership_is_linear::MembershipIsLinear;
pub use no_complaints::NoComplaints;
pub use nothing_left_over::NothingLeftOver;
pub use one_outcome::OneOutcome;
pub use right_evictions::{RightEvictions, Tolerance};
pub use same_bits::SameBits;
pub use silences_end::SilencesEnd;
pub use state_parity::StateParity;

use super::history::{ProcessId, Record, WorldTime};

/// Watches one invariant.
pub trait Checker: Send {
    /// Its name, which is that of its file.
    fn invariant(&self) -> &'static str;

    /// The next record; in words, what is wrong with it.
    fn see(&mut self, record: &Record) -> Result<(), String>;

    /// Nothing more will happen.
    fn end(&mut self, _end: &End) -> Result<(), String> {
        Ok(())
    }
}

/// How a world ended.
#[derive(Clone, Debug)]
pub struct End {
    /// When.
    pub at: WorldTime,
    /// When the last fault was over.
    pub calm: WorldTime,
    /// How long everything may take from then on.
    pub bound: Duration,
    /// Who must have come right.
    pub owed: Vec<ProcessId>,
}

/// All of them.
pub fn all(tolerance: Tolerance) -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(MembershipIsLinear::default()),
        Box::new(SameBits::default()),
        Box::new(OneOutcome::default()),
        Box::new(Contributions::default()),
        Box::new(StateParity::default()),
        Box::new(BoundedBlocking::default()),
        Box::new(AbortLeavesNothing::default()),
        Box::new(NothingLeftOver::default()),
        Box::new(RightEvictions::new(tolerance)),
        Box::new(SilencesEnd::new(tolerance)),
        Box::new(NoComplaints),
    ]
}
