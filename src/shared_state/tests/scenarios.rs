//! The shared-state scenarios of PCCL's own tests, as far as they can be told as elections. Where
//! the two libraries differ on purpose, the test says so.

use super::*;

#[test]
fn two_peers_that_differ_make_exactly_one_transfer() {
    let plan = Group::default()
        .sync([
            (1, present(0, ENFORCE, b"x")),
            (2, present(0, ENFORCE, b"y")),
        ])
        .plan();
    assert_plan(&plan, 0, &[1], &[(2, &[0])]);
    assert_eq!(plan.receive_bytes(PeerId(2)), 10);
    assert_eq!(plan.receive_bytes(PeerId(1)), 0);
}

#[test]
fn identical_state_moves_nothing() {
    let plan = Group::default()
        .sync([
            (1, present(0, ENFORCE, b"xy")),
            (2, present(0, ENFORCE, b"xy")),
        ])
        .plan();
    assert_plan(&plan, 0, &[1, 2], &[]);
}

#[test]
fn only_the_tensor_that_differs_moves() {
    let plan = Group::default()
        .sync([
            (1, present(0, ENFORCE, b"xyz")),
            (2, present(0, ENFORCE, b"xwz")),
        ])
        .plan();
    assert_plan(&plan, 0, &[1], &[(2, &[1])]);
}

#[test]
fn the_majority_overwrites_a_minority_with_a_lower_id() {
    let plan = Group::default()
        .sync([
            (1, present(0, ENFORCE, b"y")),
            (2, present(0, ENFORCE, b"x")),
            (3, present(0, ENFORCE, b"x")),
        ])
        .plan();
    assert_plan(&plan, 0, &[2, 3], &[(1, &[0])]);
}

#[test]
fn popularity_is_of_the_whole_state_not_of_each_tensor() {
    // Tensor by tensor "w" and "z" would win, which nobody holds together as often as "wy".
    let plan = Group::default()
        .sync([
            (1, present(0, ENFORCE, b"xz")),
            (2, present(0, ENFORCE, b"wy")),
            (3, present(0, ENFORCE, b"wy")),
            (4, present(0, ENFORCE, b"wz")),
            (5, present(0, ENFORCE, b"vz")),
        ])
        .plan();
    assert_plan(&plan, 0, &[2, 3], &[(1, &[0, 1]), (4, &[1]), (5, &[0, 1])]);
}

#[test]
fn groups_with_identical_state_move_nothing() {
    for _group in 0..2 {
        let plan = Group::default()
            .sync([
                (1, present(0, ENFORCE, b"x")),
                (2, present(0, ENFORCE, b"x")),
            ])
            .plan();
        assert_plan(&plan, 0, &[1, 2], &[]);
    }
}

/// `…MultiplePeerGroupsDifferentKeys` and `…Concurrent`: groups are elected apart, so what differs
/// between them is no conflict, in any interleaving.
#[test]
fn groups_with_different_tensors_do_not_conflict() {
    let (mut one, mut other) = (Group::default(), Group::default());
    for step in 0..3 {
        let wide = one.sync([
            (1, present(step, ENFORCE, b"xyz")),
            (3, present(step, ENFORCE, b"xyz")),
        ]);
        let narrow = other.sync([
            (2, present(step, ENFORCE, b"q")),
            (4, present(step, ENFORCE, b"q")),
        ]);
        assert_plan(&wide.plan(), step, &[1, 3], &[]);
        assert_plan(&narrow.plan(), step, &[2, 4], &[]);
    }
}

#[test]
fn equal_steps_never_move_a_byte() {
    let mut group = Group::default();
    for step in 0..5 {
        let content = [step as u8];
        let plan = group
            .sync([
                (1, present(step, ENFORCE, &content)),
                (2, present(step, ENFORCE, &content)),
            ])
            .plan();
        assert_plan(&plan, step, &[1, 2], &[]);
    }
}

/// Concurrent advancement within groups: each group counts for itself.
#[test]
fn groups_advance_at_their_own_pace() {
    let (mut fast, mut slow) = (Group::expecting(7), Group::default());
    for step in 0..3 {
        let calls = |revision| {
            [
                (1, present(revision, ENFORCE, b"x")),
                (2, present(revision, ENFORCE, b"x")),
            ]
        };
        assert_plan(&fast.sync(calls(7 + step)).plan(), 7 + step, &[1, 2], &[]);
        assert_plan(&slow.sync(calls(step)).plan(), step, &[1, 2], &[]);
    }
}

#[test]
fn a_peer_that_never_raises_its_revision_is_dragged_along() {
    let mut group = Group::default();
    // First it lacks the content, then only the revision.
    for (step, own, moves) in [(0, b"o", true), (1, b"x", false), (2, b"x", false)] {
        let plan = group
            .sync([
                (1, present(step, ENFORCE, b"x")),
                (2, present(step, ENFORCE, b"x")),
                (3, present(0, ENFORCE, own)),
            ])
            .plan();
        let receive: &[(u64, &[usize])] = if moves { &[(3, &[0])] } else { &[] };
        let holders: &[u64] = if moves { &[1, 2] } else { &[1, 2, 3] };
        assert_plan(&plan, step, holders, receive);
    }
}

/// Also `ConcurrentDragAlongAcrossPeerGroups`: a group knows nothing of another.
#[test]
fn a_dragged_peer_receives_each_round_while_the_leaders_advance() {
    for _group in 0..2 {
        let mut group = Group::default();
        for step in 0..4 {
            let content = [b'a' + step as u8];
            let last = [b'a' + (step as u8).saturating_sub(1)];
            let own: &[u8] = if step == 0 { b"z" } else { &last };
            let plan = group
                .sync([
                    (1, present(step, ENFORCE, &content)),
                    (2, present(step, ENFORCE, &content)),
                    (3, present(step.saturating_sub(1), ENFORCE, own)),
                ])
                .plan();
            assert_plan(&plan, step, &[1, 2], &[(3, &[0])]);
            let assignment = crate::shared_state::assignment::assign(&plan, &BTreeMap::new());
            assert_eq!(assignment.len(), 1, "exactly one leader sends");
        }
    }
}

#[test]
fn raising_the_revision_by_two_evicts_both() {
    let mut group = Group::default();
    let calls = |revision| {
        [
            (1, present(revision, ENFORCE, b"x")),
            (2, present(revision, ENFORCE, b"x")),
        ]
    };
    group.sync(calls(0)).plan();
    let outcome = group.sync(calls(2));
    outcome.evicted(&[1, 2]);
    let reason = &outcome.evicted[&1];
    assert!(
        reason.contains("revision 2") && reason.contains("where 1 is expected"),
        "{reason}"
    );
}

#[test]
fn the_first_revision_is_free_and_the_highest_counts() {
    let mut group = Group::default();
    let plan = group
        .sync([
            (1, present(0, ENFORCE, b"x")),
            (2, present(13, ENFORCE, b"y")),
        ])
        .plan();
    assert_plan(&plan, 13, &[2], &[(1, &[0])]);
    assert_eq!(group.expected, Some(Revision(14)));
}

#[test]
fn a_minority_with_other_tensors_is_evicted_and_the_rest_go_on() {
    let mut group = Group::default();
    let mut stranger = present(0, ENFORCE, b"xy");
    stranger.entries[1].name = "other".into();
    let outcome = group.sync([
        (1, stranger),
        (2, present(0, ENFORCE, b"xy")),
        (3, present(0, ENFORCE, b"xy")),
    ]);
    outcome.evicted(&[1]);
    let reason = &outcome.evicted[&1];
    assert!(
        reason.contains("tensor 1 is \"other\", not \"b\""),
        "{reason}"
    );
    assert_plan(&outcome.end.unwrap(), 0, &[2, 3], &[]);

    let plan = group
        .sync([
            (2, present(1, ENFORCE, b"pq")),
            (3, present(1, ENFORCE, b"pq")),
        ])
        .plan();
    assert_plan(&plan, 1, &[2, 3], &[]);
}

/// Groups that use the same names for different content do not meet.
#[test]
fn equal_names_in_two_groups_are_no_conflict() {
    for content in [b"x", b"y"] {
        let plan = Group::default()
            .sync([
                (1, present(0, ENFORCE, content)),
                (2, present(0, ENFORCE, content)),
            ])
            .plan();
        assert_plan(&plan, 0, &[1, 2], &[]);
    }
}

#[test]
fn a_newcomer_that_brings_content_and_revision_moves_nothing() {
    let mut group = Group::default();
    for step in 0..3 {
        let plan = group
            .sync([
                (1, present(step, ENFORCE, b"x")),
                (2, present(step, ENFORCE, b"x")),
            ])
            .plan();
        assert_plan(&plan, step, &[1, 2], &[]);
    }
    let plan = group
        .sync([
            (1, present(3, ENFORCE, b"x")),
            (2, present(3, ENFORCE, b"x")),
            (3, present(3, ENFORCE, b"x")),
        ])
        .plan();
    assert_plan(&plan, 3, &[1, 2, 3], &[]);
}

#[test]
fn of_two_senders_that_differ_one_is_evicted() {
    let outcome = Group::default().sync([(1, present(0, SEND, b"x")), (2, present(0, SEND, b"y"))]);
    outcome.evicted(&[2]);
    assert!(outcome.evicted[&2].contains("tensor \"a\" lost the election"));
    assert_plan(&outcome.end.unwrap(), 0, &[1], &[]);
}

#[test]
fn peers_that_all_only_receive_are_all_evicted() {
    for other in [b"x", b"y"] {
        let outcome = Group::default().sync([
            (1, present(0, RECEIVE, b"x")),
            (2, present(0, RECEIVE, other)),
        ]);
        outcome.evicted(&[1, 2]);
        assert!(outcome.evicted[&1].contains("ReceiveOnly"));
    }
}

#[test]
fn enforce_popular_does_not_mix_with_receive_only_or_send_only() {
    for strategy in [RECEIVE, SEND] {
        for other in [b"x", b"y"] {
            let outcome = Group::default().sync([
                (1, present(0, strategy, b"x")),
                (2, present(0, ENFORCE, other)),
            ]);
            outcome.evicted(&[1]);
            assert!(outcome.evicted[&1].contains("EnforcePopular"));
            assert_plan(&outcome.end.unwrap(), 0, &[2], &[]);
        }
    }
}

#[test]
fn one_enforcing_peer_outlives_two_that_do_not() {
    for strategies in [[SEND, SEND], [SEND, RECEIVE], [RECEIVE, RECEIVE]] {
        let outcome = Group::default().sync([
            (1, present(0, strategies[0], b"x")),
            (2, present(0, strategies[1], b"x")),
            (3, present(0, ENFORCE, b"y")),
        ]);
        outcome.evicted(&[1, 2]);
        assert_plan(&outcome.end.unwrap(), 0, &[3], &[]);
    }
}

#[test]
fn mixing_in_one_group_evicts_nobody_of_another() {
    let mixing = Group::default().sync([
        (1, present(0, ENFORCE, b"x")),
        (3, present(0, RECEIVE, b"x")),
    ]);
    let clean = Group::default().sync([
        (2, present(0, ENFORCE, b"x")),
        (4, present(0, ENFORCE, b"x")),
    ]);
    mixing.evicted(&[3]);
    assert_plan(&clean.plan(), 0, &[2, 4], &[]);
}
