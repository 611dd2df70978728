//! What holds for every election, whatever is presented.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::shared_state::assignment::{assign, reassign};

proptest! {
    /// Renaming peers without changing their order renames the verdict and nothing else, and the
    /// order of insertion leaves no trace.
    #[test]
    fn the_verdict_depends_on_content_alone(calls in calls(), expected in expected()) {
        let verdict = elect(expected, &calls);
        let backwards: BTreeMap<_, _> = calls.clone().into_iter().rev().collect();
        prop_assert_eq!(&elect(expected, &backwards), &verdict);

        let rename = |peer: PeerId| PeerId(peer.0 * 1000 + 17);
        let renamed = calls.into_iter().map(|(peer, p)| (rename(peer), p)).collect();
        match (verdict, elect(expected, &renamed)) {
            (Verdict::Evict(one), Verdict::Evict(other)) => {
                let one: BTreeMap<_, _> = one.into_iter().map(|(p, r)| (rename(p), r)).collect();
                prop_assert_eq!(one, other);
            }
            (Verdict::Fail(one), Verdict::Fail(other)) => {
                prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&other));
            }
            (Verdict::Plan(one), Verdict::Plan(other)) => {
                prop_assert_eq!(one.entries, other.entries);
                prop_assert_eq!(one.revision, other.revision);
                let holders: BTreeSet<_> = one.holders.into_iter().map(rename).collect();
                prop_assert_eq!(holders, other.holders);
                let receive: BTreeMap<_, _> =
                    one.receive.into_iter().map(|(p, r)| (rename(p), r)).collect();
                prop_assert_eq!(receive, other.receive);
            }
            (one, other) => prop_assert!(false, "{one:?} became {other:?}"),
        }
    }

    #[test]
    fn evicting_and_electing_again_ends_and_the_plan_makes_all_equal(
        calls in calls(),
        expected in expected(),
    ) {
        let mut calls = calls;
        for _ in 0..=calls.len() {
            match elect(expected, &calls) {
                Verdict::Evict(peers) => {
                    prop_assert!(!peers.is_empty());
                    for peer in peers.keys() {
                        prop_assert!(calls.remove(peer).is_some());
                    }
                }
                Verdict::Fail(_) => return Ok(()),
                Verdict::Plan(plan) => return check_plan(expected, &calls, &plan),
            }
        }
        prop_assert!(false, "it does not end");
    }

    #[test]
    fn a_peer_of_the_winning_content_is_never_evicted_by_the_comparison(
        content in content(), peers in 1u64..6,
    ) {
        let calls: BTreeMap<_, _> = (0..peers)
            .map(|peer| (PeerId(peer), present(3, ENFORCE, &content)))
            .collect();
        for expected in [None, Some(Revision(3))] {
            let Verdict::Plan(plan) = elect(expected, &calls) else {
                return Err(TestCaseError::fail("no plan"));
            };
            prop_assert_eq!(plan.holders.len() as u64, peers);
            prop_assert!(plan.receive.is_empty());
        }
    }
}

fn check_plan(
    expected: Option<Revision>,
    calls: &BTreeMap<PeerId, Presentation>,
    plan: &Plan,
) -> Result<(), TestCaseError> {
    prop_assert!(expected.is_none_or(|expected| expected == plan.revision));
    for (&peer, p) in calls {
        let received = plan.receive.get(&peer).cloned().unwrap_or_default();
        prop_assert_eq!(p.entries.len(), plan.entries.len());
        for (index, (own, elected)) in p.entries.iter().zip(&plan.entries).enumerate() {
            let differs = own.digest != elected.digest || own.tainted;
            let renewed = elected.digest.is_none() && p.revision < plan.revision;
            prop_assert_eq!(received.contains(&index), differs || renewed);
        }
        if plan.holders.contains(&peer) {
            prop_assert!(received.is_empty() && p.strategy != RECEIVE);
        }
        if p.strategy == SEND {
            prop_assert!(plan.holders.contains(&peer));
        }
        // Nobody electable has more votes than the winner.
        let votes = |entries: &[Entry]| {
            let same = |other: &&Presentation| {
                other.strategy != RECEIVE
                    && other.revision == plan.revision
                    && other.entries == entries
            };
            calls.values().filter(same).count()
        };
        let electable =
            p.strategy != RECEIVE && p.revision == plan.revision && p.first_tainted().is_none();
        prop_assert!(!electable || votes(&p.entries) <= votes(&plan.entries));
    }
    let assignment = assign(plan, &BTreeMap::new());
    prop_assert_eq!(
        assignment.len(),
        plan.receive.len(),
        "somebody serves each receiver"
    );
    // Every holder is tried before there is none left.
    for &receiver in plan.receive.keys() {
        let mut failed = BTreeSet::from([(receiver, assignment[&receiver])]);
        while let Some(holder) = reassign(plan, &assignment, &failed, &BTreeSet::new(), receiver) {
            prop_assert!(plan.holders.contains(&holder) && failed.insert((receiver, holder)));
        }
        prop_assert_eq!(failed.len(), plan.holders.len());
    }
    Ok(())
}

fn expected() -> impl Strategy<Value = Option<Revision>> {
    proptest::option::of((0u64..4).prop_map(Revision))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(b'x'..b'z', 1..3)
}

/// Few peers that choose among few values: most cases have conflicts.
fn calls() -> impl Strategy<Value = BTreeMap<PeerId, Presentation>> {
    let strategy = proptest::sample::select(vec![ENFORCE, ENFORCE, RECEIVE, SEND, SEND]);
    let change = proptest::option::weighted(0.3, (0usize..2, 0u8..4));
    let call =
        (0u64..4, strategy, content(), change).prop_map(|(revision, strategy, content, change)| {
            let mut call = present(revision, strategy, &content);
            if let Some((index, kind)) = change {
                let index = index.min(call.entries.len() - 1);
                let entry = &mut call.entries[index];
                match kind {
                    0 => entry.tainted = true,
                    1 => entry.digest = None,
                    2 => entry.name = "other".into(),
                    _ => entry.name = "a".into(),
                }
            }
            call
        });
    proptest::collection::btree_map((0u64..20).prop_map(PeerId), call, 0..7)
}
