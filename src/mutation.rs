//! Rules of the protocol that a test can switch off, to prove that its checks would notice.
//!
//! Each place that keeps such a rule asks [`mutated`]. Without the feature `sim` the answer is a
//! constant `false` and the question costs nothing; with it the switch belongs to one thread and
//! to the work that `with` runs.

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// The master commits an operation when the first member is done with it.
    SettleAtFirstDone,
    /// A proposal that replaces another one keeps its epoch number.
    ReuseEpochNumber,
    /// A proposed epoch becomes active before anybody has acknowledged it.
    ActivateWithoutMajority,
    /// At the end of an epoch every operation that was begun counts as committed.
    CommitAllAtEpochEnd,
    /// A peer forgets the failure of an operation that its caller had not called.
    ForgetDebt,
    /// Operations go on being settled in an epoch whose successor is proposed.
    SettleWhileChanging,
    /// A peer takes the outcomes of a proposal for true before it is active.
    OutcomesAtProposal,
    /// What the next epoch does not list is not put back and started again.
    KeepUnlisted,
    /// A resumed session does not say again what the other side has missed.
    ResumeSaysNothing,
}

#[cfg(feature = "sim")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static BROKEN: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether this rule is broken in the work that this thread does now.
    pub fn mutated(mutation: Mutation) -> bool {
        BROKEN.with(|broken| broken.get() == Some(mutation))
    }

    /// Does `work` with this rule broken, or with all kept; afterwards it is as it was before.
    pub fn with<R>(mutation: Option<Mutation>, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<Mutation>);
        impl Drop for Restore {
            fn drop(&mut self) {
                BROKEN.with(|broken| broken.set(self.0));
            }
        }
        let _restore = Restore(BROKEN.with(|broken| broken.replace(mutation)));
        work()
    }
}

#[cfg(feature = "sim")]
pub use switch::{mutated, with};

/// Whether this rule is broken: never, as this build has no switches.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub const fn mutated(_: Mutation) -> bool {
    false
}
