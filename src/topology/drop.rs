//! Who has to go where no ring exists.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Link, is_broken};
use crate::types::PeerId;

/// The member to drop where the broken links leave no ring; `None` only without members.
///
/// Out goes a newcomer with a broken link; where there is none, anybody may have to. Among those,
/// who reaches fewest others; among equals, who has complaints with two different partners, made or
/// received; among equals, who joined last.
///
/// A newcomer without a broken link stays: it fits between any two neighbours, so the ring does
/// not fail because of it. `complaints` are testimonies of a stalled link, by who made them;
/// `joined_order` lists members from the first that joined to the last, and who is not in it joined
/// after all of them.
pub fn whom_to_drop(
    members: &[PeerId],
    newcomers: &BTreeSet<PeerId>,
    broken: &BTreeSet<Link>,
    complaints: &BTreeMap<PeerId, BTreeSet<PeerId>>,
    joined_order: &[PeerId],
) -> Option<PeerId> {
    let reaches = |one: PeerId| {
        members
            .iter()
            .filter(|&&other| other != one && !is_broken(broken, one, other))
            .count()
    };
    let everybody_else = members.len().saturating_sub(1);
    let suspects: Vec<PeerId> = members
        .iter()
        .copied()
        .filter(|&one| newcomers.contains(&one) && reaches(one) < everybody_else)
        .collect();
    let suspects = if suspects.is_empty() {
        members
    } else {
        &suspects
    };
    let joined = |one: PeerId| {
        let place = joined_order.iter().position(|&other| other == one);
        place.unwrap_or(joined_order.len())
    };
    suspects.iter().copied().min_by_key(|&one| {
        let many_complaints = partners(one, complaints) >= 2;
        (
            reaches(one),
            Reverse(many_complaints),
            Reverse(joined(one)),
            Reverse(one),
        )
    })
}

/// With how many different peers `one` has a complaint, made or received. A stalled link is heard
/// of from its sender only, so which end is at fault shows in how many partners it has.
fn partners(one: PeerId, complaints: &BTreeMap<PeerId, BTreeSet<PeerId>>) -> usize {
    let made = complaints.get(&one).into_iter().flatten().copied();
    let received = complaints
        .iter()
        .filter(|(_, about)| about.contains(&one))
        .map(|(&by, _)| by);
    let partners: BTreeSet<PeerId> = made.chain(received).filter(|&other| other != one).collect();
    partners.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Solution, link, ring};

    #[test]
    fn a_newcomer_with_a_broken_link_goes_before_anybody_else() {
        // Peer 1 reaches nobody, yet it was there before.
        let broken = [(1, 2), (1, 3), (1, 4)];
        assert_eq!(dropped(&[1, 2, 3, 4], &[4], &broken, &[]), 4);
    }

    #[test]
    fn a_newcomer_that_reaches_all_stays() {
        assert_eq!(dropped(&[1, 2, 3], &[3], &[(1, 2)], &[]), 2);
    }

    #[test]
    fn of_two_newcomers_the_one_that_reaches_fewer_goes() {
        let broken = [(1, 4), (2, 4), (1, 5)];
        assert_eq!(dropped(&[1, 2, 3, 4, 5], &[4, 5], &broken, &[]), 4);
    }

    #[test]
    fn who_reaches_fewest_goes() {
        let broken = [(2, 1), (2, 3), (2, 4)];
        assert_eq!(dropped(&[1, 2, 3, 4], &[], &broken, &[(3, 4), (3, 1)]), 2);
    }

    #[test]
    fn complaints_with_two_partners_decide_between_equals() {
        let broken = [(1, 3), (2, 4)];
        // Made or received, and the same partner twice counts once.
        assert_eq!(dropped(&[1, 2, 3, 4], &[], &broken, &[(1, 3), (1, 2)]), 1);
        assert_eq!(dropped(&[1, 2, 3, 4], &[], &broken, &[(3, 1), (2, 1)]), 1);
        assert_eq!(dropped(&[1, 2, 3, 4], &[], &broken, &[(1, 3), (3, 1)]), 4);
    }

    #[test]
    fn else_who_joined_last_goes() {
        assert_eq!(dropped(&[4, 3, 1, 2], &[], &[(1, 2), (3, 4)], &[]), 4);
        let late = whom_to_drop(
            &peers(&[4, 3]),
            &BTreeSet::new(),
            &links(&[(3, 4)]),
            &BTreeMap::new(),
            &peers(&[4, 3]),
        );
        assert_eq!(late, Some(PeerId(3)));
    }

    #[test]
    fn without_members_nobody_goes() {
        let (nobody, none) = (BTreeSet::new(), BTreeMap::new());
        assert_eq!(
            whom_to_drop(&[], &nobody, &BTreeSet::new(), &none, &[]),
            None
        );
    }

    #[test]
    fn dropping_ends_in_a_ring() {
        // Peers 1, 2, 3 reach each other; 4 and 5 reach only one of them.
        let broken = links(&[(1, 4), (2, 4), (4, 5), (2, 5), (3, 5)]);
        let mut members = peers(&[1, 2, 3, 4, 5]);
        let joined = members.clone();
        while ring(&members, &broken, 1000) == Solution::None {
            let (nobody, none) = (BTreeSet::new(), BTreeMap::new());
            let out = whom_to_drop(&members, &nobody, &broken, &none, &joined).unwrap();
            members.retain(|&member| member != out);
        }
        assert_eq!(members, peers(&[1, 2, 3]));
    }

    fn dropped(
        members: &[u64],
        newcomers: &[u64],
        broken: &[(u64, u64)],
        complained: &[(u64, u64)],
    ) -> u64 {
        let mut complaints: BTreeMap<PeerId, BTreeSet<PeerId>> = BTreeMap::new();
        for &(by, about) in complained {
            complaints
                .entry(PeerId(by))
                .or_default()
                .insert(PeerId(about));
        }
        let newcomers = peers(newcomers).into_iter().collect();
        let mut joined = peers(members);
        joined.sort();
        let out = whom_to_drop(
            &peers(members),
            &newcomers,
            &links(broken),
            &complaints,
            &joined,
        );
        out.unwrap().0
    }

    fn peers(ids: &[u64]) -> Vec<PeerId> {
        ids.iter().copied().map(PeerId).collect()
    }

    fn links(pairs: &[(u64, u64)]) -> BTreeSet<Link> {
        pairs
            .iter()
            .map(|&(one, other)| link(PeerId(one), PeerId(other)))
            .collect()
    }
}
