//! What the reports come to: the newest epochs, who is there of them, and whether that is enough.

use std::collections::{BTreeMap, BTreeSet};

use crate::mutation::{Mutation, mutated};
use crate::protocol::master::Master;
use crate::types::{Epoch, PeerId, PeerName, RunId};
use crate::wire::control::{Proposal, Report, ToMaster};

/// What the reports come to.
pub(super) struct Findings {
    /// The newest epoch that anybody knows to be active.
    pub(super) active: Option<Proposal>,
    /// The newest proposal above it.
    pub(super) proposed: Option<Proposal>,
    /// Its members, or those of the active epoch where nothing is proposed.
    pub(super) expected: BTreeMap<PeerId, PeerName>,
    /// Of them, who has neither reported nor is known dead.
    pub(super) absent: BTreeMap<PeerId, PeerName>,
    /// Enough have reported for nothing that was decided to be unknown.
    pub(super) is_enough: bool,
    /// Everybody is here, in the same epoch, and nothing else was proposed.
    pub(super) is_everybody: bool,
}

impl Master {
    /// The run that comes back: that of most who have reported. Somebody of another may have been
    /// asleep since.
    pub(in crate::protocol::master) fn run_that_returns(&self) -> Option<RunId> {
        let reporters = self.reporters_but(None).into_iter();
        reporters
            .max_by_key(|(_, count)| *count)
            .map(|(run, _)| run)
    }

    /// Whether more of this run have reported than of that of a peer, itself left out: each run
    /// counts its own ids, and there is one peer of a number.
    pub(super) fn is_outnumbered(&self, peer: PeerId, by: RunId) -> bool {
        let theirs = self.listening.as_ref().and_then(|l| l.runs.get(&peer));
        let reporters = self.reporters_but(Some(peer));
        let count = |run: &RunId| reporters.get(run).copied().unwrap_or(0);
        theirs.is_some_and(|theirs| count(&by) > count(theirs))
    }

    fn reporters_but(&self, left_out: Option<PeerId>) -> BTreeMap<RunId, usize> {
        let mut reporters = BTreeMap::new();
        for (peer, member) in &self.members {
            let run = self.listening.as_ref().and_then(|l| l.runs.get(peer));
            if let Some(run) = run
                && member.report.is_some()
                && Some(*peer) != left_out
            {
                *reporters.entry(*run).or_default() += 1;
            }
        }
        reporters
    }

    /// What those of the run say who have promised this term.
    pub(in crate::protocol::master) fn reports(&self) -> impl Iterator<Item = (&PeerId, &Report)> {
        let term = self.reign.term;
        let run = self.run_that_returns();
        let runs = self.listening.as_ref().map(|listening| &listening.runs);
        self.members
            .iter()
            .filter_map(|(peer, member)| Some((peer, member.report.as_deref()?)))
            .filter(move |(_, report)| report.term == term)
            .filter(move |(peer, _)| runs.is_none_or(|runs| runs.get(peer).copied() == run))
    }

    pub(super) fn findings(&self) -> Findings {
        let reports: BTreeMap<PeerId, &Report> = self.reports().map(|(p, r)| (*p, r)).collect();
        let remembered: Vec<&Report> = self.remembered().collect();
        let told = || reports.values().chain(&remembered).copied();
        let active = told().filter_map(|report| report.active.as_ref());
        let active = active.max_by_key(|proposal| proposal.epoch).cloned();
        let ended = active.as_ref().map(|active| active.epoch);
        // Those that the same epoch follows from are one proposal, told to each in its own words.
        let mut above: BTreeMap<Epoch, &Proposal> = BTreeMap::new();
        for report in told() {
            if let Some(proposed) = &report.proposed
                && Some(proposed.epoch) > ended
            {
                above.insert(proposed.epoch, proposed);
            }
        }
        let dead = self.known_dead();
        let is_here = |peer: &PeerId| reports.contains_key(peer);
        let here = |proposal: &Proposal| {
            let voters = proposal.voters.iter();
            voters.filter(|voter| is_here(voter)).count()
        };
        let agreed = |proposal: &Proposal| {
            let voters = proposal.voters.iter();
            here(proposal) + voters.filter(|voter| dead.contains(voter)).count()
        };
        // The dead no longer say how far they went: half must be here to know that no majority has
        // gone beyond a proposal. A majority besides, as another master may have the other half.
        let is_half = |p: &Proposal| here(p) * 2 >= p.voters.len();
        let have_spoken = active
            .iter()
            .all(|p| is_half(p) && agreed(p) * 2 > p.voters.len())
            && above.values().all(|p| is_half(p));
        let is_enough =
            !reports.is_empty() && (have_spoken || mutated(Mutation::RuleWithoutMajority));
        let newest = above.values().next_back().copied();
        let expected: BTreeMap<PeerId, PeerName> = newest
            .or(active.as_ref())
            .map(|proposal| self.members_of(proposal))
            .unwrap_or_default();
        let absent: BTreeMap<PeerId, PeerName> = expected
            .iter()
            .filter(|(peer, _)| !is_here(peer) && !dead.contains(peer))
            .map(|(peer, name)| (*peer, name.clone()))
            .collect();
        let is_in_it = |peer: &PeerId| {
            let report = self.members.get(peer).and_then(|m| m.report.as_ref());
            let epoch = report.and_then(|report| report.active.as_ref());
            epoch.map(|active| active.epoch) == ended
        };
        let is_everybody = above.is_empty()
            && active.is_some()
            && expected.keys().all(|peer| is_here(peer) && is_in_it(peer));
        Findings {
            proposed: newest.cloned(),
            active,
            expected,
            absent,
            is_enough,
            is_everybody,
        }
    }

    /// All members of an epoch, of all groups: of each, somebody must know its own ring.
    pub(super) fn members_of(&self, proposal: &Proposal) -> BTreeMap<PeerId, PeerName> {
        let others = proposal.others.iter().flat_map(|(_, ring)| ring);
        let names = proposal.ring.iter().chain(others);
        names.map(|name| (name.id, name.clone())).collect()
    }

    /// Who is not back, has nobody on its port, and has closed its lanes to one who is.
    pub(super) fn known_dead(&self) -> BTreeSet<PeerId> {
        let Some(listening) = &self.listening else {
            return BTreeSet::new();
        };
        let mut dead = listening.dead.clone();
        for member in self.members.values().filter(|m| m.report.is_some()) {
            let mut closed = BTreeSet::new();
            for message in member.later.iter() {
                match message {
                    ToMaster::LinkState { peer, up: false } => closed.insert(*peer),
                    ToMaster::LinkState { peer, up: true } => closed.remove(peer),
                    _ => continue,
                };
            }
            dead.extend(closed.intersection(&listening.refused));
        }
        dead
    }
}
