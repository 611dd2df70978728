//! The rules one by one: strategies, revisions, taint, content that may differ, invalid states.

use super::*;
use crate::shared_state::{DigestHasher, MAX_NAME_BYTES};

#[test]
fn strategies_of_two_peers_with_equal_content() {
    // Who is evicted, for each pair.
    let matrix: [(SyncStrategy, SyncStrategy, &[u64]); 9] = [
        (ENFORCE, ENFORCE, &[]),
        (ENFORCE, RECEIVE, &[2]),
        (ENFORCE, SEND, &[2]),
        (RECEIVE, ENFORCE, &[1]),
        (RECEIVE, RECEIVE, &[1, 2]),
        (RECEIVE, SEND, &[]),
        (SEND, ENFORCE, &[1]),
        (SEND, RECEIVE, &[]),
        (SEND, SEND, &[]),
    ];
    for (one, other, evicted) in matrix {
        let outcome =
            Group::default().sync([(1, present(0, one, b"x")), (2, present(0, other, b"x"))]);
        outcome.evicted(evicted);
    }
}

#[test]
fn a_receiver_has_no_vote_and_never_holds() {
    let plan = Group::default()
        .sync([
            (1, present(0, RECEIVE, b"y")),
            (2, present(0, RECEIVE, b"y")),
            (3, present(0, SEND, b"x")),
            (4, present(0, RECEIVE, b"x")),
        ])
        .plan();
    assert_plan(&plan, 0, &[3], &[(1, &[0]), (2, &[0])]);
}

#[test]
fn a_receiver_takes_the_elected_revision_even_if_its_own_is_higher() {
    let plan = Group::default()
        .sync([(1, present(9, RECEIVE, b"y")), (2, present(4, SEND, b"x"))])
        .plan();
    assert_plan(&plan, 4, &[2], &[(1, &[0])]);
}

#[test]
fn an_outdated_sender_is_evicted_even_with_equal_content() {
    let outcome =
        Group::expecting(5).sync([(1, present(4, SEND, b"x")), (2, present(5, SEND, b"x"))]);
    outcome.evicted(&[1]);
    assert!(outcome.evicted[&1].contains("revision 4 is outdated by 5"));
}

#[test]
fn outdated_peers_never_win_over_one_that_is_up_to_date() {
    let plan = Group::expecting(5)
        .sync([
            (1, present(4, ENFORCE, b"x")),
            (2, present(4, ENFORCE, b"x")),
            (3, present(5, ENFORCE, b"y")),
        ])
        .plan();
    assert_plan(&plan, 5, &[3], &[(1, &[0]), (2, &[0])]);
}

#[test]
fn a_tie_goes_to_the_content_of_the_lowest_id() {
    let plan = Group::default()
        .sync([
            (1, present(0, ENFORCE, b"p")),
            (2, present(0, ENFORCE, b"y")),
            (3, present(0, ENFORCE, b"x")),
            (4, present(0, ENFORCE, b"x")),
            (5, present(0, ENFORCE, b"y")),
        ])
        .plan();
    assert_plan(&plan, 0, &[2, 5], &[(1, &[0]), (3, &[0]), (4, &[0])]);
}

#[test]
fn a_revision_that_nobody_raised_fails_without_moving_the_expected_one() {
    let mut group = Group::expecting(5);
    let stale = || {
        [
            (1, present(4, ENFORCE, b"x")),
            (2, present(3, ENFORCE, b"y")),
        ]
    };
    for _ in 0..3 {
        let failure = group.sync(stale()).failure();
        let (presented, expected) = (Revision(4), Revision(5));
        assert_eq!(
            failure,
            Failure::StaleRevision {
                presented,
                expected
            }
        );
    }
    let plan = group
        .sync([
            (1, present(5, ENFORCE, b"x")),
            (2, present(5, ENFORCE, b"x")),
        ])
        .plan();
    assert_plan(&plan, 5, &[1, 2], &[]);
}

#[test]
fn only_the_one_ahead_is_evicted() {
    let outcome = Group::expecting(5).sync([
        (1, present(6, ENFORCE, b"x")),
        (2, present(5, ENFORCE, b"y")),
    ]);
    outcome.evicted(&[1]);
    assert_plan(&outcome.end.unwrap(), 5, &[2], &[]);
}

#[test]
fn who_was_ahead_is_no_reason_to_evict_for_mixing() {
    let outcome = Group::expecting(5).sync([
        (1, present(6, ENFORCE, b"x")),
        (2, present(5, SEND, b"y")),
        (3, present(5, RECEIVE, b"x")),
    ]);
    outcome.evicted(&[1]);
    assert_plan(&outcome.end.unwrap(), 5, &[2], &[(3, &[0])]);
}

#[test]
fn a_peer_alone_succeeds_with_what_it_has() {
    for strategy in SyncStrategy::ALL {
        let mut group = Group::default();
        let plan = group.sync([(1, present(3, strategy, b"x"))]).plan();
        assert_eq!(plan.revision, Revision(3));
        assert!(plan.receive.is_empty());
        group.sync([(1, present(4, strategy, b"y"))]).plan();
    }
}

#[test]
fn a_peer_alone_may_be_stale_or_ahead_as_any_other() {
    let failure = Group::expecting(5)
        .sync([(1, present(4, ENFORCE, b"x"))])
        .failure();
    assert!(matches!(failure, Failure::StaleRevision { .. }));
    Group::expecting(5)
        .sync([(1, present(6, ENFORCE, b"x"))])
        .evicted(&[1]);
}

#[test]
fn a_group_that_everybody_left_takes_any_revision() {
    let mut group = Group::expecting(5);
    group.sync([(1, present(6, ENFORCE, b"x"))]).evicted(&[1]);
    group.sync([(2, present(0, ENFORCE, b"x"))]).plan();
}

#[test]
fn tainted_tensors_are_received_even_if_their_digest_is_right() {
    let plan = Group::default()
        .sync([
            (1, tainted(present(0, ENFORCE, b"xy"), 1)),
            (2, present(0, ENFORCE, b"xy")),
        ])
        .plan();
    assert_plan(&plan, 0, &[2], &[(1, &[1])]);
}

#[test]
fn taint_takes_away_the_vote() {
    let half = || tainted(present(0, ENFORCE, b"y"), 0);
    let plan = Group::default()
        .sync([(1, half()), (2, half()), (3, present(0, ENFORCE, b"x"))])
        .plan();
    assert_plan(&plan, 0, &[3], &[(1, &[0]), (2, &[0])]);
}

#[test]
fn a_tainted_revision_does_not_count_as_the_current_one() {
    let plan = Group::default()
        .sync([
            (1, tainted(present(13, ENFORCE, b"y"), 0)),
            (2, present(4, ENFORCE, b"x")),
        ])
        .plan();
    assert_plan(&plan, 4, &[2], &[(1, &[0])]);
}

#[test]
fn without_a_clean_copy_all_fail_and_nobody_leaves() {
    for group in [Group::default(), Group::expecting(0)] {
        let mut group = group;
        let failure = group
            .sync([
                (1, tainted(present(0, ENFORCE, b"xy"), 1)),
                (2, tainted(present(0, ENFORCE, b"xz"), 0)),
            ])
            .failure();
        let Failure::NoCleanState { reason } = failure else {
            panic!("{failure:?}");
        };
        assert!(reason.contains("\"b\" of peer 1"), "{reason}");
    }
    let alone = Group::default().sync([(1, tainted(present(0, ENFORCE, b"x"), 0))]);
    assert!(matches!(alone.failure(), Failure::NoCleanState { .. }));
}

#[test]
fn a_revision_that_only_receivers_hold_cannot_be_sent() {
    let failure = Group::expecting(5)
        .sync([(1, present(5, RECEIVE, b"x")), (2, present(4, SEND, b"y"))])
        .failure();
    let reason = "nobody who may send presents revision 5".into();
    assert_eq!(failure, Failure::NoCleanState { reason });
}

#[test]
fn a_tainted_sender_is_evicted() {
    let outcome = Group::default().sync([
        (1, tainted(present(0, SEND, b"x"), 0)),
        (2, present(0, SEND, b"x")),
    ]);
    outcome.evicted(&[1]);
}

#[test]
fn content_that_may_differ_goes_to_outdated_peers_only() {
    let mut group = Group::default();
    let own = |revision| unequal(present(revision, ENFORCE, b"xy"), 1);
    let newcomer = |revision| (3, own(revision));
    let plan = group.sync([(1, own(7)), (2, own(7)), newcomer(0)]).plan();
    assert_plan(&plan, 7, &[1, 2], &[(3, &[1])]);
    // Once it is at the same revision, never again.
    let plan = group.sync([(1, own(8)), (2, own(8)), newcomer(8)]).plan();
    assert_plan(&plan, 8, &[1, 2, 3], &[]);
}

#[test]
fn content_that_may_differ_is_received_where_it_is_tainted() {
    let own = || unequal(present(0, ENFORCE, b"xy"), 1);
    let plan = Group::default()
        .sync([(1, own()), (2, tainted(own(), 1))])
        .plan();
    assert_plan(&plan, 0, &[1], &[(2, &[1])]);
}

#[test]
fn every_difference_in_layout_evicts_and_is_named() {
    type Change = fn(&mut Presentation);
    let changes: [(&str, Change); 7] = [
        ("tensor 0 is \"z\", not \"a\"", |p| {
            p.entries[0].name = "z".into()
        }),
        ("tensor 0 is \"b\", not \"a\"", |p| p.entries.swap(0, 1)),
        ("tensor \"a\" holds i8, not u8", |p| {
            p.entries[0].data_type = DataType::I8
        }),
        ("tensor \"b\" has 9 elements, not 10", |p| {
            p.entries[1].count = 9
        }),
        ("allow_content_inequality true, not false", |p| {
            p.entries[1].digest = None
        }),
        ("tensor \"b\" is missing", |p| p.entries.truncate(1)),
        ("tensor \"c\" is one too many", |p| {
            p.entries = entries(b"xyz")
        }),
    ];
    // Outdated peers too: they could not receive what they have no room for.
    for revision in [4, 5] {
        for (reason, change) in &changes {
            let mut other = present(revision, ENFORCE, b"xy");
            change(&mut other);
            let outcome = Group::expecting(5).sync([
                (1, present(5, ENFORCE, b"xy")),
                (2, present(5, ENFORCE, b"xy")),
                (3, other),
            ]);
            outcome.evicted(&[3]);
            assert!(outcome.evicted[&3].contains(reason), "{outcome:?}");
        }
    }
}

#[test]
fn a_state_that_makes_no_sense_costs_only_its_own_peer() {
    type Change = fn(&mut Presentation);
    let changes: [(&str, Change); 5] = [
        ("no tensors", |p| p.entries.clear()),
        ("two tensors are named", |p| p.entries[1].name = "a".into()),
        ("tensor 1 has no name", |p| p.entries[1].name.clear()),
        ("where the limit is 1024", |p| {
            p.entries[0].name = "n".repeat(MAX_NAME_BYTES + 1)
        }),
        ("more than memory can hold", |p| {
            p.entries[0].count = 1 << 63
        }),
    ];
    for (reason, change) in changes {
        let mut broken = present(0, ENFORCE, b"xy");
        change(&mut broken);
        assert!(broken.check().unwrap_err().contains(reason));

        let outcome = Group::default().sync([(1, broken.clone()), (2, present(0, ENFORCE, b"xy"))]);
        outcome.evicted(&[1]);
        assert!(outcome.evicted[&1].contains(reason), "{outcome:?}");

        // Where nobody's state makes sense, nobody is evicted for it.
        let failure = Group::default()
            .sync([(1, broken.clone()), (2, broken)])
            .failure();
        assert!(matches!(failure, Failure::InvalidState { .. }));
    }
}

#[test]
fn an_election_without_voters_fails() {
    let verdict = elect(None, &BTreeMap::new());
    assert!(matches!(
        verdict,
        Verdict::Fail(Failure::InvalidState { .. })
    ));
}

#[test]
fn a_digest_made_in_pieces_is_that_of_the_whole() {
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let mut hasher = DigestHasher::default();
    bytes.chunks(777).for_each(|piece| hasher.update(piece));
    assert_eq!(hasher.finish(), digest(&bytes));
    assert_eq!(DigestHasher::default().finish(), digest(b""));
}

#[test]
fn empty_tensors_are_equal() {
    let empty = |data_type| {
        let mut presentation = present(0, ENFORCE, b"x");
        presentation.entries[0] = Entry {
            name: "a".into(),
            data_type,
            count: 0,
            digest: Some(digest(&[])),
            tainted: false,
        };
        presentation
    };
    let calls = [(1, empty(DataType::F32)), (2, empty(DataType::F32))];
    assert_plan(&Group::default().sync(calls).plan(), 0, &[1, 2], &[]);
}

#[test]
fn names_in_reasons_are_escaped_and_cut() {
    let mut stranger = present(0, ENFORCE, b"x");
    stranger.entries[0].name = format!("\n{}", "é".repeat(200));
    let outcome = Group::default().sync([
        (1, present(0, ENFORCE, b"x")),
        (2, present(0, ENFORCE, b"x")),
        (3, stranger),
    ]);
    let reason = &outcome.evicted[&3];
    assert!(reason.contains("\"\\né") && !reason.contains('\n') && reason.len() < 300);
}
