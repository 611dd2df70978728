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
    (Mutation::OpenAtProposal, &[1, 61, 186, 3]),
    (Mutation::RingOfItsOwn, &[125, 155, 1, 31]),
];

/// Seen by I2.
const SAME_BITS: Caught = &[
    (Mutation::SettleAtFirstDone, &[156]),
    (Mutation::CommitAllAtEpochEnd, &[133]),
    (Mutation::TakeRepeats, &[34]),
    (Mutation::TakeStaleFrames, &[116]),
];

/// Seen by I3.
const ONE_OUTCOME: Caught = &[
    (Mutation::ForgetDebt, &[170, 82, 83, 38]),
    (Mutation::EndAtDeadline, &[124, 152, 148, 12]),
];

/// Seen by I4.
const CONTRIBUTIONS: Caught = &[
    (Mutation::SettleAtFirstDone, &[45, 47, 154, 170]),
    (Mutation::ReuseEpochNumber, &[127]),
    (Mutation::CommitAllAtEpochEnd, &[98, 89, 135, 82]),
    (Mutation::TakeRepeats, &[100, 24, 8, 104]),
    (Mutation::TakeTornSegments, &[122, 8, 104, 120]),
    (Mutation::TakeStaleFrames, &[80, 68, 96, 152]),
    (Mutation::DropDescriptorCheck, &[59, 127]),
    (Mutation::NewRingContributes, &[124, 74, 41, 70]),
    (Mutation::EmptyNeedsNobody, &[170, 162, 12, 6]),
    (Mutation::StoreInsteadOfCombine, &[34, 57, 86, 1]),
    (Mutation::RestartWithoutRollBack, &[128, 152, 197]),
    (Mutation::SkipRollBack, &[128]),
];

/// Seen by I5.
const STATE_PARITY: Caught = &[
    (Mutation::SettleWhileChanging, &[32]),
    (Mutation::CommitSyncAtFirstReceived, &[156, 4, 81, 6]),
    (Mutation::SayReceivedTooEarly, &[1, 34, 57, 86]),
    (Mutation::RevisionByTwo, &[66, 192, 3, 112]),
    (Mutation::TaintedElectable, &[92, 100, 44]),
    (Mutation::ForgetTaint, &[180, 92, 100, 44]),
];

/// Seen by I6.
const BOUNDED_BLOCKING: Caught = &[
    (Mutation::ReuseEpochNumber, &[88, 167, 185, 141]),
    (Mutation::SettleWhileChanging, &[40]),
    (Mutation::KeepUnlisted, &[125, 102, 127, 32]),
    (Mutation::ResumeSaysNothing, &[183, 179, 91, 80]),
    (Mutation::EndAtDeadline, &[24]),
    (Mutation::NeverReplaceProposal, &[158, 97, 29, 166]),
    (Mutation::NoResendAfterBrokenLane, &[116, 34, 160, 49]),
    (Mutation::NoGrant, &[133, 62, 5, 177]),
    (Mutation::MeetingNeverFails, &[119, 15, 163, 115]),
];

/// Seen by I7.
const ABORT_LEAVES_NOTHING: Caught = &[
    (Mutation::RestartWithoutRollBack, &[68]),
    (Mutation::SkipRollBack, &[123, 116, 149, 82]),
    (Mutation::PutBackFirstSegmentOnly, &[116, 124, 152, 80]),
    (Mutation::ReplyBeforeRollBack, &[123, 116, 149, 82]),
];

/// Seen by I8.
const NOTHING_LEFT_OVER: Caught = &[
    (Mutation::KeepLaneTasks, &[63, 175, 135, 161]),
    (Mutation::KeepListener, &[107, 63, 175, 119]),
    (Mutation::KeepMemory, &[163, 107, 63, 87]),
];

/// Seen by a checker without a number.
const RIGHT_EVICTIONS: Caught = &[
    (Mutation::ReuseEpochNumber, &[38]),
    (Mutation::ResumeSaysNothing, &[18]),
    (Mutation::OneWitnessKills, &[18, 140, 139, 38]),
    (Mutation::KeepComplaints, &[160]),
    (Mutation::IgnoreHeartbeats, &[98, 147, 63, 149]),
];

/// Seen by a checker without a number.
const SILENCES_END: Caught = &[
    (Mutation::NeverReplaceProposal, &[135]),
    (Mutation::IgnoreSilence, &[158, 161, 141, 135]),
];

/// Seen by a checker without a number.
const NO_COMPLAINTS: Caught = &[
    (Mutation::SettleWhileChanging, &[34, 57, 86, 70]),
    (Mutation::RevisionByTwo, &[34]),
];

/// What no world has shown yet: `tests/model/mutations.rs` does.
const LEFT_TO_THE_MODEL: &[Mutation] = &[
    Mutation::ActivateWithoutMajority,
    Mutation::OutcomesAtProposal,
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
fn every_rule_is_here_or_left_to_the_model() {
    let seen = ALL.iter().copied().flatten().map(|(rule, _)| rule);
    let known: BTreeSet<_> = seen.chain(LEFT_TO_THE_MODEL).collect();
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
