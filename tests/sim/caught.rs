//! Every rule of the protocol that is broken on purpose is noticed, by the checker of the invariant
//! that it is about; and nothing is wrong in those worlds while the rule is kept.
//!
//! One of a rule's seeds is enough: what a world shows moves with whatever changes what peers say or
//! when. The lists are what `stress sim --mutation all --seeds 2000 --enough 6` prints in the end.

use std::collections::BTreeSet;

use pccl::mutation::Mutation;

use super::{assert_clean, verdict};

/// Rules, and seeds in which breaking them was seen.
type Caught = &'static [(Mutation, &'static [u64])];

/// Seen by I1.
const MEMBERSHIP_IS_LINEAR: Caught = &[
    (Mutation::OpenAtProposal, &[1, 3, 4, 0]),
    (Mutation::RingOfItsOwn, &[1, 4, 2, 0]),
];

/// Seen by I2.
const SAME_BITS: Caught = &[
    (Mutation::SettleAtFirstDone, &[2, 0, 3]),
    (Mutation::TakeRepeats, &[34, 44, 8, 14]),
];

/// Seen by I3.
const ONE_OUTCOME: Caught = &[
    (Mutation::ForgetDebt, &[28, 7, 1, 15]),
    (Mutation::EndAtDeadline, &[12, 16, 56, 4]),
];

/// Seen by I4.
const CONTRIBUTIONS: Caught = &[
    (Mutation::SettleAtFirstDone, &[4]),
    (Mutation::ReuseEpochNumber, &[12, 100]),
    (Mutation::CommitAllAtEpochEnd, &[5, 1, 6, 4]),
    (Mutation::TakeRepeats, &[46, 56]),
    (Mutation::TakeTornSegments, &[68, 8, 56, 104]),
    (Mutation::TakeStaleFrames, &[68, 16, 56, 52]),
    (Mutation::DropDescriptorCheck, &[667, 59, 127, 263]),
    (Mutation::NewRingContributes, &[54, 64, 46, 48]),
    (Mutation::EmptyNeedsNobody, &[12, 6, 16, 20]),
    (Mutation::StoreInsteadOfCombine, &[1, 4, 2, 0]),
    (Mutation::RestartWithoutRollBack, &[245, 197, 62]),
];

/// Seen by I5.
const STATE_PARITY: Caught = &[
    (Mutation::SettleWhileChanging, &[32]),
    (Mutation::CommitSyncAtFirstReceived, &[0, 31, 28, 4]),
    (Mutation::SayReceivedTooEarly, &[1, 4, 2, 3]),
    (Mutation::RevisionByTwo, &[3, 1, 0]),
    (Mutation::TaintedElectable, &[524, 452, 92]),
    (Mutation::ForgetTaint, &[452, 92, 504]),
];

/// Seen by I6.
const BOUNDED_BLOCKING: Caught = &[
    (Mutation::ReuseEpochNumber, &[8, 19, 7]),
    (Mutation::SettleWhileChanging, &[1]),
    (Mutation::KeepUnlisted, &[88, 32, 78, 98]),
    (Mutation::ResumeSaysNothing, &[179]),
    (Mutation::GoOnWithoutTheAbsent, &[792]),
    (Mutation::RuleBesideStandbys, &[29, 88, 143, 93]),
    (Mutation::NeverReplaceProposal, &[8, 12, 19, 7]),
    (Mutation::NoResendAfterBrokenLane, &[49, 56, 16, 8]),
    (Mutation::NoGrant, &[5, 49, 41, 46]),
    (Mutation::MeetingNeverFails, &[15, 19, 28, 7]),
];

/// Seen by I7.
const ABORT_LEAVES_NOTHING: Caught = &[
    (Mutation::RestartWithoutRollBack, &[152]),
    (Mutation::SkipRollBack, &[7, 1, 4, 8]),
    (Mutation::PutBackFirstSegmentOnly, &[1, 4, 8, 10]),
    (Mutation::ReplyBeforeRollBack, &[7, 1, 4, 8]),
];

/// Seen by I8.
const NOTHING_LEFT_OVER: Caught = &[
    (Mutation::KeepLaneTasks, &[0, 1, 3, 4]),
    (Mutation::KeepListener, &[3, 0, 1, 4]),
    (Mutation::KeepMemory, &[1, 3, 0, 4]),
];

/// Seen by a checker without a number.
const RIGHT_EVICTIONS: Caught = &[
    (Mutation::ResumeSaysNothing, &[38]),
    (Mutation::OneWitnessKills, &[18, 13, 38, 24]),
    (Mutation::KeepComplaints, &[237, 417]),
    (Mutation::IgnoreHeartbeats, &[7, 13, 0, 8]),
];

/// Seen by a checker without a number.
const SILENCES_END: Caught = &[
    (Mutation::NeverReplaceProposal, &[20]),
    (Mutation::IgnoreSilence, &[7, 15, 6, 16]),
];

/// Seen by a checker without a number.
const NO_COMPLAINTS: Caught = &[
    (Mutation::SettleWhileChanging, &[4, 2, 5]),
    (Mutation::AnswerNobodyBehind, &[476, 417, 494]),
    (Mutation::RevisionByTwo, &[4]),
];

/// What no world has shown yet: `tests/model/mutations.rs` does.
const LEFT_TO_THE_MODEL: &[Mutation] = &[
    Mutation::ActivateWithoutMajority,
    Mutation::OutcomesAtProposal,
];

/// What hardly any world shows: `protocol/tests/` does, in runs of the state machines alone.
const LEFT_TO_THE_MACHINES: &[Mutation] = &[
    Mutation::RuleWithoutMajority,
    Mutation::TakeBackWhoWasLeftOut,
    Mutation::InheritNothing,
    Mutation::GoOnWithoutTheAbsent,
    Mutation::AnswerNobodyBehind,
    Mutation::FollowLowerTerms,
];

const ALL: &[Caught] = &[
    MEMBERSHIP_IS_LINEAR,
    SAME_BITS,
    ONE_OUTCOME,
    CONTRIBUTIONS,
    STATE_PARITY,
    BOUNDED_BLOCKING,
    ABORT_LEAVES_NOTHING,
    NOTHING_LEFT_OVER,
    RIGHT_EVICTIONS,
    SILENCES_END,
    NO_COMPLAINTS,
];

fn assert_caught(invariant: &str, caught: Caught) {
    let sees = |rule: Mutation, seed: u64| {
        let violation = verdict(seed, Some(rule)).violation;
        violation.is_some_and(|violation| violation.invariant == invariant)
    };
    let escaped: Vec<Mutation> = caught
        .iter()
        .filter(|(rule, seeds)| !seeds.iter().any(|seed| sees(*rule, *seed)))
        .map(|(rule, _)| *rule)
        .collect();
    assert!(escaped.is_empty(), "not seen: {escaped:?}");
}

#[test]
fn epochs_that_are_not_the_same_for_all_are_seen() {
    assert_caught("membership_is_linear", MEMBERSHIP_IS_LINEAR);
}

#[test]
fn results_that_differ_are_seen() {
    assert_caught("same_bits", SAME_BITS);
}

#[test]
fn an_operation_with_two_ends_is_seen() {
    assert_caught("one_outcome", ONE_OUTCOME);
}

#[test]
fn contributions_lost_or_doubled_are_seen() {
    assert_caught("contributions", CONTRIBUTIONS);
}

#[test]
fn a_sync_that_leaves_different_states_is_seen() {
    assert_caught("state_parity", STATE_PARITY);
}

#[test]
fn calls_that_hang_are_seen() {
    assert_caught("bounded_blocking", BOUNDED_BLOCKING);
}

#[test]
fn inputs_that_an_abort_leaves_changed_are_seen() {
    assert_caught("abort_leaves_nothing", ABORT_LEAVES_NOTHING);
}

#[test]
fn what_outlives_its_communicator_is_seen() {
    assert_caught("nothing_left_over", NOTHING_LEFT_OVER);
}

#[test]
fn the_eviction_of_one_who_is_well_is_seen() {
    assert_caught("right_evictions", RIGHT_EVICTIONS);
}

#[test]
fn the_dead_who_are_kept_are_seen() {
    assert_caught("silences_end", SILENCES_END);
}

#[test]
fn errors_that_nothing_explains_are_seen() {
    assert_caught("no_complaints", NO_COMPLAINTS);
}

#[test]
fn nothing_is_wrong_in_these_worlds_where_no_rule_is_broken() {
    let seeds = ALL
        .iter()
        .copied()
        .flatten()
        .flat_map(|(_, seeds)| *seeds)
        .copied();
    let seeds: BTreeSet<u64> = seeds.collect();
    let count = if cfg!(debug_assertions) {
        8
    } else {
        usize::MAX
    };
    assert_clean(seeds.into_iter().take(count));
}

#[test]
fn every_rule_is_here_or_left_to_others() {
    let seen = ALL.iter().copied().flatten().map(|(rule, _)| rule);
    let elsewhere = LEFT_TO_THE_MODEL.iter().chain(LEFT_TO_THE_MACHINES);
    let known: BTreeSet<_> = seen.chain(elsewhere).collect();
    let forgotten: Vec<_> = Mutation::ALL
        .iter()
        .filter(|m| !known.contains(m))
        .collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn every_invariant_sees_two_rules_broken() {
    // The first eight lists are I1 to I8.
    for (place, caught) in ALL.iter().take(8).enumerate() {
        let rules: BTreeSet<_> = caught.iter().map(|(rule, _)| rule).collect();
        assert!(rules.len() >= 2, "I{}: {rules:?}", place + 1);
    }
}
