//! Rules of the protocol that a test can switch off, to prove that its checks would notice.
//!
//! Each place that keeps such a rule asks [`mutated`]. Without the feature `sim` the answer is a
//! constant `false` and the question costs nothing; with it the switch belongs to one thread and
//! to the work that `with` runs.

/// Names the rules once, for the type and for the list of all.
macro_rules! mutations {
    ($($(#[$text:meta])* $name:ident,)*) => {
        /// A rule that is broken on purpose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutation {
            $($(#[$text])* $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

mutations! {
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

    /// A master that has come back rules with whoever is there.
    RuleWithoutMajority,
    /// A master that has come back takes peers in that the newest proposal is without.
    TakeBackWhoWasLeftOut,
    /// A master that has come back does not care how operations have ended at a member, or were
    /// to end by a proposal.
    InheritNothing,
    /// A master that has come back settles in the epoch that not all of its members have come back
    /// to.
    GoOnWithoutTheAbsent,
    /// A master that has come back does not end the calls that have ended for others.
    AnswerNobodyBehind,
    /// A master goes on without a majority where its peers may follow another one.
    RuleBesideStandbys,
    /// A peer follows a master of a term below one that it has followed.
    FollowLowerTerms,

    /// A peer is in an epoch as soon as it is proposed.
    OpenAtProposal,
    /// A peer ends an operation whose deadline has passed without waiting for the master.
    EndAtDeadline,
    /// A peer puts itself first in the ring.
    RingOfItsOwn,
    /// A segment that was applied is taken again when it comes again, and combined once more.
    TakeRepeats,
    /// A segment whose lane broke in the middle of it counts as received.
    TakeTornSegments,
    /// A frame goes to the operation of its tag that runs, whatever its epoch and number.
    TakeStaleFrames,
    /// Nobody compares what the callers of an operation mean by it.
    DropDescriptorCheck,
    /// An operation that everybody left has finished reports the next epoch's members.
    NewRingContributes,
    /// At the end of an epoch an empty operation is committed for members who had not called it.
    EmptyNeedsNobody,
    /// What comes to be combined takes the place of what is there.
    StoreInsteadOfCombine,
    /// An operation that starts again finds its input as the first start left it.
    RestartWithoutRollBack,
    /// A sync is committed when the first receiver has its share.
    CommitSyncAtFirstReceived,
    /// A peer says that it has its share of a sync before it asks for it.
    SayReceivedTooEarly,
    /// A committed sync raises the revision by two.
    RevisionByTwo,
    /// Tensors that a failed sync left half written are electable.
    TaintedElectable,
    /// A peer does not remember what a failed sync wrote to.
    ForgetTaint,
    /// A proposal stays, whoever of it is lost.
    NeverReplaceProposal,
    /// What was under way on a broken lane is not sent again.
    NoResendAfterBrokenLane,
    /// A receiver never asks for what is more than the eager amount.
    NoGrant,
    /// Nobody is silent for too long.
    IgnoreSilence,
    /// Calls that cannot meet are not failed.
    MeetingNeverFails,
    /// A failed operation leaves in its place what it wrote there.
    SkipRollBack,
    /// Of what a failed operation wrote, its first segment alone is put back.
    PutBackFirstSegmentOnly,
    /// The caller is told of a failure before its input is put back.
    ReplyBeforeRollBack,
    /// Tasks of lanes that are given up go on.
    KeepLaneTasks,
    /// The listener outlives its communicator.
    KeepListener,
    /// The memory of a finished operation is not let go of.
    KeepMemory,
    /// A control connection that breaks is a death.
    OneWitnessKills,
    /// A link that is up again counts as broken for its minute.
    KeepComplaints,
    /// Heartbeats are no sign of life.
    IgnoreHeartbeats,
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
