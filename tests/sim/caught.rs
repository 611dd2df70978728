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
    (Mutation::OpenAtProposal, &[1, 61]),
    (Mutation::RingOfItsOwn, &[125, 155]),
];

/// Seen by I2.
const SAME_BITS: Caught = &[
    (Mutation::SettleAtFirstDone, &[81]),
    (Mutation::CommitAllAtEpochEnd, &[156]),
    (Mutation::TakeRepeats, &[129]),
    (Mutation::TakeTornSegments, &[68]),
    (Mutation::TakeStaleFrames, &[100]),
];

/// Seen by I3.
const ONE_OUTCOME: Caught = &[
    (Mutation::ForgetDebt, &[170, 82]),
    (Mutation::EndAtDeadline, &[124, 152]),
];

/// Seen by I4.
const CONTRIBUTIONS: Caught = &[
    (Mutation::SettleAtFirstDone, &[45, 154]),
    (Mutation::ReuseEpochNumber, &[127]),
    (Mutation::CommitAllAtEpochEnd, &[98, 89]),
    (Mutation::TakeRepeats, &[100, 152]),
    (Mutation::TakeTornSegments, &[32, 36]),
    (Mutation::TakeStaleFrames, &[80, 116]),
    (Mutation::DropDescriptorCheck, &[59, 179]),
    (Mutation::NewRingContributes, &[124, 74]),
    (Mutation::EmptyNeedsNobody, &[170, 12]),
    (Mutation::StoreInsteadOfCombine, &[70, 174]),
    (Mutation::RestartWithoutRollBack, &[197]),
    (Mutation::SkipRollBack, &[197]),
    (Mutation::PutBackFirstSegmentOnly, &[197]),
];

/// Seen by I5.
const STATE_PARITY: Caught = &[
    (Mutation::SettleWhileChanging, &[32]),
    (Mutation::CommitSyncAtFirstReceived, &[4, 81]),
    (Mutation::SayReceivedTooEarly, &[1, 34]),
    (Mutation::RevisionByTwo, &[66, 192]),
    (Mutation::TaintedElectable, &[92]),
    (Mutation::ForgetTaint, &[92]),
];

/// Seen by I6.
const BOUNDED_BLOCKING: Caught = &[
    (Mutation::ReuseEpochNumber, &[167, 141]),
    (Mutation::SettleWhileChanging, &[40]),
    (Mutation::KeepUnlisted, &[56, 31]),
    (Mutation::ResumeSaysNothing, &[91, 9]),
    (Mutation::TakeStaleFrames, &[128]),
    (Mutation::NeverReplaceProposal, &[158, 29]),
    (Mutation::NoResendAfterBrokenLane, &[88, 196]),
    (Mutation::NoGrant, &[133, 62]),
    (Mutation::MeetingNeverFails, &[15, 168]),
    (Mutation::IgnoreHeartbeats, &[119]),
    (Mutation::EndAtDeadline, &[16]),
];

/// Seen by I7.
const ABORT_LEAVES_NOTHING: Caught = &[
    (Mutation::RestartWithoutRollBack, &[16]),
    (Mutation::SkipRollBack, &[123, 116]),
    (Mutation::PutBackFirstSegmentOnly, &[116, 124]),
    (Mutation::ReplyBeforeRollBack, &[123, 116]),
];

/// Seen by I8.
const NOTHING_LEFT_OVER: Caught = &[
    (Mutation::KeepLaneTasks, &[63, 175]),
    (Mutation::KeepListener, &[107, 119]),
    (Mutation::KeepMemory, &[107, 163]),
];

/// Seen by a checker without a number.
const RIGHT_EVICTIONS: Caught = &[
    (Mutation::ResumeSaysNothing, &[18]),
    (Mutation::OneWitnessKills, &[18, 140]),
    (Mutation::IgnoreHeartbeats, &[98, 147]),
];

/// Seen by a checker without a number.
const SILENCES_END: Caught = &[
    (Mutation::NeverReplaceProposal, &[135]),
    (Mutation::IgnoreSilence, &[158, 141]),
];

/// Seen by a checker without a number.
const NO_COMPLAINTS: Caught = &[
    (Mutation::SettleWhileChanging, &[34, 57]),
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
