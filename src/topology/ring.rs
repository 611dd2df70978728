//! A ring through all peers that uses no broken link, as near to the preferred order as it comes.
//!
//! Three attempts, from cheap to complete:
//!
//! 1. the preferred order itself;
//! 2. repair: each broken link of the ring is mended by turning round a stretch of it. With few
//!    broken links this finds a ring in a few steps and leaves most neighbours as they are; it
//!    always succeeds where each pair with a broken link between it has at least as many working
//!    links together as there are peers (Ore);
//! 3. backtracking over all rings, cut off where the peers that are left can no longer be reached.

use std::collections::BTreeSet;

use super::{Link, is_broken};
use crate::types::PeerId;

/// What the search for a ring came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Solution {
    /// Neighbours in it, and its last and first peer, have working links.
    Ring(Vec<PeerId>),
    /// There is none, proved.
    None,
    /// None was found in the steps that were allowed; there may be one.
    BudgetSpent,
}

/// A ring of `members` (each once) that uses none of the `broken` links.
///
/// `members` is the preferred order: the ring as it is, newcomers last. It is kept where it has no
/// broken link. One peer is a ring, and so are two with a working link. `budget_steps` bounds the
/// backtracking; a step costs a few passes over the links of the peers that are left, and what
/// comes before it a time that grows with the cube of the members.
pub fn ring(members: &[PeerId], broken: &BTreeSet<Link>, budget_steps: u64) -> Solution {
    let graph = Graph::new(members, broken);
    let named = |order: Vec<usize>| Solution::Ring(order.iter().map(|&at| members[at]).collect());
    let mut order: Vec<usize> = (0..members.len()).collect();
    if graph.gap(&order).is_none() || graph.repair(&mut order) {
        return named(order);
    }
    if graph.obviously_has_no_ring() {
        return Solution::None;
    }
    let mut search = Search::new(&graph, budget_steps);
    match search.extend() {
        Outcome::Found => named(search.path),
        Outcome::DeadEnd => Solution::None,
        Outcome::BudgetSpent => Solution::BudgetSpent,
    }
}

/// Which members can talk to which, by position in the preferred order.
struct Graph {
    works: Vec<Vec<bool>>,
}

impl Graph {
    fn new(members: &[PeerId], broken: &BTreeSet<Link>) -> Self {
        let row = |&one: &PeerId| {
            let works = |&other: &PeerId| one != other && !is_broken(broken, one, other);
            members.iter().map(works).collect()
        };
        Self {
            works: members.iter().map(row).collect(),
        }
    }

    fn len(&self) -> usize {
        self.works.len()
    }

    fn degree(&self, one: usize) -> usize {
        self.works[one].iter().filter(|&&works| works).count()
    }

    /// Where in this ring the first broken link is: the position of its first end.
    fn gap(&self, order: &[usize]) -> Option<usize> {
        let n = order.len();
        if n < 2 {
            return None;
        }
        (0..n).find(|&at| !self.works[order[at]][order[(at + 1) % n]])
    }

    /// Mends gap after gap: with the gap turned to the end of the order, the stretch up to a later
    /// link is turned round, so that both links it gets in exchange work. Each turn leaves fewer
    /// gaps, so this ends. False where a gap cannot be mended like this.
    fn repair(&self, order: &mut [usize]) -> bool {
        let n = order.len();
        if n < 4 {
            return false;
        }
        let first = order[0];
        while let Some(gap) = self.gap(order) {
            order.rotate_left((gap + 1) % n);
            // Now the broken link is the one from the last to the first.
            let (head, tail) = (order[0], order[n - 1]);
            let mend = (1..n - 2)
                .find(|&at| self.works[tail][order[at]] && self.works[head][order[at + 1]]);
            let Some(at) = mend else {
                return false;
            };
            order[..=at].reverse();
        }
        if let Some(at) = order.iter().position(|&one| one == first) {
            order.rotate_left(at);
        }
        true
    }

    /// Cheap proofs: a peer with fewer than two links, or one without which the others fall apart.
    fn obviously_has_no_ring(&self) -> bool {
        let n = self.len();
        if n < 3 {
            return self.gap(&(0..n).collect::<Vec<_>>()).is_some();
        }
        (0..n).any(|one| self.degree(one) < 2)
            || (0..n).any(|left_out| {
                let mut rest = vec![true; n];
                rest[left_out] = false;
                !self.connects(usize::from(left_out == 0), &rest)
            })
    }

    /// Whether all of `among` can be reached from `start`, itself one of them, inside `among`.
    fn connects(&self, start: usize, among: &[bool]) -> bool {
        let mut unseen = among.to_vec();
        unseen[start] = false;
        let mut open = vec![start];
        while let Some(one) = open.pop() {
            for (other, unseen) in unseen.iter_mut().enumerate() {
                if *unseen && self.works[one][other] {
                    *unseen = false;
                    open.push(other);
                }
            }
        }
        !unseen.contains(&true)
    }
}

enum Outcome {
    Found,
    DeadEnd,
    BudgetSpent,
}

/// Depth-first search for a ring that starts at the first member.
struct Search<'a> {
    graph: &'a Graph,
    path: Vec<usize>,
    /// Those not in the path yet.
    open: Vec<bool>,
    steps_left: u64,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, budget_steps: u64) -> Self {
        let mut open = vec![true; graph.len()];
        open[0] = false;
        Self {
            graph,
            path: vec![0],
            open,
            steps_left: budget_steps,
        }
    }

    fn extend(&mut self) -> Outcome {
        let n = self.graph.len();
        let end = self.path[self.path.len() - 1];
        if self.path.len() == n {
            return match self.graph.works[end][0] {
                true => Outcome::Found,
                false => Outcome::DeadEnd,
            };
        }
        let Some(steps_left) = self.steps_left.checked_sub(1) else {
            return Outcome::BudgetSpent;
        };
        self.steps_left = steps_left;
        if self.is_hopeless(end) {
            return Outcome::DeadEnd;
        }
        // Who has the fewest ways left goes first, or it is stranded; then the preferred order.
        let mut next: Vec<usize> = (0..n)
            .filter(|&one| self.open[one] && self.graph.works[end][one])
            .collect();
        next.sort_by_key(|&one| (self.ways(one), (one + n - end) % n));
        for one in next {
            self.path.push(one);
            self.open[one] = false;
            match self.extend() {
                Outcome::DeadEnd => {}
                outcome => return outcome,
            }
            self.path.pop();
            self.open[one] = true;
        }
        Outcome::DeadEnd
    }

    /// Open peers that `one` has a link to.
    fn ways(&self, one: usize) -> usize {
        (0..self.graph.len())
            .filter(|&other| self.open[other] && self.graph.works[one][other])
            .count()
    }

    /// Whether what is open can no longer be walked through from `end` and back to the start: each
    /// open peer needs a way in and a way out, and all must hang together.
    fn is_hopeless(&self, end: usize) -> bool {
        let works = &self.graph.works;
        let stranded = |one: usize| {
            let ends = usize::from(works[one][end]) + usize::from(end != 0 && works[one][0]);
            // At the very beginning the start is both ends and serves twice.
            let needed = if end == 0 { 1 } else { 2 };
            self.ways(one) + ends < needed
        };
        let mut rest = self.open.clone();
        rest[end] = true;
        rest[0] = true;
        (0..self.open.len()).any(|one| self.open[one] && stranded(one))
            || !self.graph.connects(end, &rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topology::link;

    #[test]
    fn the_preferred_order_is_kept_where_it_works() {
        // A broken link across the ring is no reason to change it.
        let members = peers(&[5, 1, 9, 3]);
        let solution = ring(&members, &broken(&[(5, 9), (1, 3)]), 0);
        assert_eq!(solution, Solution::Ring(members));
    }

    #[test]
    fn the_smallest_worlds() {
        assert_eq!(ring(&[], &broken(&[]), 0), Solution::Ring(vec![]));
        assert_eq!(
            ring(&peers(&[4]), &broken(&[]), 0),
            Solution::Ring(peers(&[4]))
        );
        let two = peers(&[4, 2]);
        assert_eq!(ring(&two, &broken(&[]), 0), Solution::Ring(two.clone()));
        assert_eq!(ring(&two, &broken(&[(2, 4)]), 9), Solution::None);
        let three = peers(&[1, 2, 3]);
        assert_eq!(ring(&three, &broken(&[]), 0), Solution::Ring(three.clone()));
        assert_eq!(ring(&three, &broken(&[(1, 3)]), 9), Solution::None);
    }

    #[test]
    fn one_broken_link_turns_round_one_stretch() {
        let solution = ring(&peers(&[1, 2, 3, 4, 5, 6]), &broken(&[(2, 3)]), 0);
        let Solution::Ring(order) = solution else {
            panic!("{solution:?}");
        };
        assert_ring(&order, 6, &broken(&[(2, 3)]));
        let was = |one: PeerId, other: PeerId| matches!(one.0.abs_diff(other.0), 1 | 5);
        let kept = (0..6)
            .filter(|&at| was(order[at], order[(at + 1) % 6]))
            .count();
        assert_eq!(kept, 4, "{order:?}");
    }

    #[test]
    fn a_peer_with_one_link_proves_that_there_is_none() {
        let lonely: Vec<(u64, u64)> = (2..200).map(|other| (1, other)).collect();
        let members = peers(&(1..=200).collect::<Vec<_>>());
        assert_eq!(ring(&members, &broken(&lonely), 0), Solution::None);
    }

    #[test]
    fn two_halves_that_meet_in_one_peer_have_none() {
        let across = (1..=20).flat_map(|one| (22..=41).map(move |other| (one, other)));
        let members = peers(&(1..=41).collect::<Vec<_>>());
        let broken = broken(&across.collect::<Vec<_>>());
        assert_eq!(ring(&members, &broken, 0), Solution::None);
    }

    #[test]
    fn two_halves_with_two_bridges_have_one() {
        let across = (1..=20).flat_map(|one| (21..=40).map(move |other| (one, other)));
        let bridges = [(3, 35), (11, 24)];
        let broken = broken(
            &across
                .filter(|pair| !bridges.contains(pair))
                .collect::<Vec<_>>(),
        );
        let solution = ring(&peers(&(1..=40).collect::<Vec<_>>()), &broken, 10_000);
        let Solution::Ring(order) = solution else {
            panic!("{solution:?}");
        };
        assert_ring(&order, 40, &broken);
    }

    #[test]
    fn a_spent_budget_is_not_a_proof() {
        // Five peers that only reach four others, all of whom they need twice.
        let apart: Vec<(u64, u64)> = pairs(1..=5).collect();
        let members = peers(&(1..=9).collect::<Vec<_>>());
        assert_eq!(ring(&members, &broken(&apart), 2), Solution::BudgetSpent);
        assert_eq!(ring(&members, &broken(&apart), 100_000), Solution::None);
    }

    proptest! {
        #[test]
        fn it_agrees_with_trying_every_order(n in 1u64..8, mask: u32) {
            let broken = random_links(n, mask);
            let members = peers(&(1..=n).collect::<Vec<_>>());
            let exists = some_order_works(&mut members.clone(), 1, &broken);
            match ring(&members, &broken, u64::MAX) {
                Solution::Ring(order) => {
                    prop_assert!(exists);
                    assert_ring(&order, n, &broken);
                }
                Solution::None => prop_assert!(!exists),
                Solution::BudgetSpent => prop_assert!(false, "the budget is endless"),
            }
        }

        #[test]
        fn with_few_broken_links_no_budget_is_needed(
            lost in proptest::collection::btree_set((1u64..=30, 1u64..=30), 0..14),
        ) {
            // 30 peers that each lost at most 14 links: any two have 30 together.
            let lost: Vec<_> = lost.into_iter().filter(|(one, other)| one != other).collect();
            let broken = broken(&lost);
            let Solution::Ring(order) = ring(&peers(&(1..=30).collect::<Vec<_>>()), &broken, 0)
            else {
                return Err(TestCaseError::fail("no ring"));
            };
            assert_ring(&order, 30, &broken);
        }
    }

    #[track_caller]
    fn assert_ring(order: &[PeerId], n: u64, broken: &BTreeSet<Link>) {
        let members: BTreeSet<u64> = order.iter().map(|peer| peer.0).collect();
        assert_eq!(members, (1..=n).collect());
        assert_eq!(order.len() as u64, n);
        assert!(works(order, broken), "{order:?} avoids {broken:?}");
    }

    fn works(order: &[PeerId], broken: &BTreeSet<Link>) -> bool {
        let n = order.len();
        (0..n).all(|at| !broken.contains(&link(order[at], order[(at + 1) % n])))
    }

    fn some_order_works(order: &mut Vec<PeerId>, from: usize, broken: &BTreeSet<Link>) -> bool {
        if from >= order.len() {
            return works(order, broken);
        }
        (from..order.len()).any(|at| {
            order.swap(from, at);
            let found = some_order_works(order, from + 1, broken);
            order.swap(from, at);
            found
        })
    }

    fn random_links(n: u64, mask: u32) -> BTreeSet<Link> {
        let chosen = pairs(1..=n)
            .enumerate()
            .filter(|(bit, _)| mask & (1 << bit) != 0);
        broken(&chosen.map(|(_, pair)| pair).collect::<Vec<_>>())
    }

    fn pairs(ids: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = (u64, u64)> {
        let end = *ids.end();
        ids.flat_map(move |one| (one + 1..=end).map(move |other| (one, other)))
    }

    fn peers(ids: &[u64]) -> Vec<PeerId> {
        ids.iter().copied().map(PeerId).collect()
    }

    fn broken(pairs: &[(u64, u64)]) -> BTreeSet<Link> {
        pairs
            .iter()
            .map(|&(one, other)| link(PeerId(one), PeerId(other)))
            .collect()
    }
}
