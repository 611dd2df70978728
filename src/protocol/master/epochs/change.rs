//! The next epoch in the making: what it is started from, when it is replaced, and its rings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::debug;

use super::active::ActiveEpoch;
use super::{Rings, neighbours};
use crate::mutation::{Mutation, mutated};
use crate::protocol::master::{Master, Output};
use crate::types::{Epoch, GroupId, PeerId, Timestamp};
use crate::wire::control::JointCall;

/// The next epoch in the making.
#[derive(Clone, Debug, Hash)]
pub(in crate::protocol::master) struct Change {
    pub(super) basis: Basis,
    pub(super) stage: Stage,
}

/// What a change was started from; when it is no longer so, the change is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Basis {
    pub(super) members: BTreeMap<GroupId, BTreeSet<PeerId>>,
    pub(super) newcomers: BTreeSet<PeerId>,
    pub(super) broken: BTreeSet<(PeerId, PeerId)>,
    /// Whose acknowledgement the epoch after it needs a majority of.
    pub(super) voters: BTreeSet<PeerId>,
}

impl Basis {
    /// Whether what is so `now` leaves a change as it is. A ring without a link is as good as before
    /// when the link is sound again; that there is none without it is not.
    fn is_that_of(&self, now: &Self, stage: &Stage) -> bool {
        let same_peers = self.members == now.members
            && self.newcomers == now.newcomers
            && self.voters == now.voters;
        match stage {
            Stage::Undecided { .. } => self == now,
            Stage::Solving { .. } | Stage::Proposed { .. } => {
                same_peers && now.broken.is_subset(&self.broken)
            }
        }
    }
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Stage {
    Solving {
        request: u64,
    },
    /// There is no ring, and it cannot be told yet who has to go.
    Undecided {
        suspects: Vec<PeerId>,
    },
    Proposed {
        epoch: Epoch,
        rings: Rings,
        acknowledged: BTreeSet<PeerId>,
        wired: BTreeSet<PeerId>,
        /// Given up on by then, if newcomers are to be wired.
        deadline: Option<Timestamp>,
    },
}

impl Change {
    /// Whether newcomers are on their way in, so that `update_topology` ends with the epoch.
    pub(in crate::protocol::master) fn lets_newcomers_in(&self) -> bool {
        !self.basis.newcomers.is_empty()
    }

    /// Whether no peer has heard of it, nor of one that it replaced.
    fn is_untold(&self, master: &Master) -> bool {
        !matches!(self.stage, Stage::Proposed { .. })
            && master.last_count == master.active.epoch.count
    }

    /// The master was away for so long: nobody could tell it anything.
    pub(in crate::protocol::master) fn postpone(&mut self, away: Duration) {
        if let Stage::Proposed {
            deadline: Some(deadline),
            ..
        } = &mut self.stage
        {
            *deadline = *deadline + away;
        }
    }

    pub(in crate::protocol::master) fn deadline(&self) -> Option<Timestamp> {
        match &self.stage {
            // What stays although its time is over would be due again at once, for ever.
            Stage::Proposed { .. } if mutated(Mutation::NeverReplaceProposal) => None,
            Stage::Proposed { deadline, .. } => *deadline,
            Stage::Solving { .. } | Stage::Undecided { .. } => None,
        }
    }
}

/// Rings wanted for the next epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SolveRequest {
    /// Its number, for the answer.
    pub request: u64,
    /// The members of each group, in the order they would best keep: the ring so far, then
    /// newcomers.
    pub groups: BTreeMap<GroupId, Vec<PeerId>>,
    /// Those of them that are not accepted yet.
    pub newcomers: BTreeSet<PeerId>,
    /// Links that cannot be made, as (lower, higher) id.
    pub broken: BTreeSet<(PeerId, PeerId)>,
    /// Who complained of whom.
    pub complaints: BTreeMap<PeerId, BTreeSet<PeerId>>,
}

/// The answer for one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Solution {
    /// All members in an order in which every neighbour can be reached.
    Ring(Vec<PeerId>),
    /// There is none; this peer must go.
    Drop(PeerId),
}

impl Master {
    /// Starts, or replaces, the change to the next epoch if members, links or callers ask for it.
    pub(in crate::protocol::master) fn replace_epoch_where_needed(&mut self) {
        let newcomers = self.newcomers_due();
        let mut members: BTreeMap<GroupId, BTreeSet<PeerId>> = BTreeMap::new();
        for (peer, member) in &self.members {
            if member.accepted || newcomers.contains(peer) {
                members.entry(member.group).or_default().insert(*peer);
            }
        }
        let basis = Basis {
            voters: self.voters_among(&members),
            members,
            newcomers,
            broken: self.testimony.broken(),
        };
        match &self.change {
            Some(Change {
                basis: before,
                stage: Stage::Undecided { suspects },
            }) if *before == basis => {
                let is_undecided = |peer: &PeerId| self.is_undecided(*peer, &basis.broken);
                if suspects.iter().any(is_undecided) {
                    return;
                }
            }
            // Nobody was told of a change yet, and it is over: what runs goes on.
            Some(change) if change.is_untold(self) && self.active_still_fits(&basis) => {
                self.change = None;
                return;
            }
            Some(change) if change.basis.is_that_of(&basis, &change.stage) => return,
            Some(_) if mutated(Mutation::NeverReplaceProposal) => return,
            Some(_) => {}
            None if self.active_still_fits(&basis) => return,
            None => {}
        }
        if basis.members.is_empty() {
            // Everybody is gone: whoever comes next starts afresh.
            self.active = ActiveEpoch {
                epoch: self.active.epoch,
                ..ActiveEpoch::none(self.reign.term)
            };
            self.inherited.clear();
            self.change = None;
            self.operations.clear();
            self.shared_state.clear();
            return;
        }
        let request = self.next_request;
        self.next_request += 1;
        let groups = basis
            .members
            .iter()
            .map(|(group, members)| {
                let ring = self.active.rings.get(group);
                let mut order: Vec<PeerId> = ring
                    .into_iter()
                    .flatten()
                    .filter(|p| members.contains(p))
                    .copied()
                    .collect();
                let others: Vec<PeerId> = members
                    .iter()
                    .filter(|p| !order.contains(p))
                    .copied()
                    .collect();
                order.extend(others);
                (*group, order)
            })
            .collect();
        self.outputs.push_back(Output::Solve(SolveRequest {
            request,
            groups,
            newcomers: basis.newcomers.clone(),
            broken: basis.broken.clone(),
            complaints: self.testimony.complaints().clone(),
        }));
        self.change = Some(Change {
            basis,
            stage: Stage::Solving { request },
        });
    }

    /// Registered peers that the next epoch lets in: those present when the last accepted peer
    /// calls `update_topology`, or all where nobody is accepted.
    fn newcomers_due(&self) -> BTreeSet<PeerId> {
        if let Some(change) = &self.change {
            let started = change.basis.newcomers.iter().copied();
            let waiting: BTreeSet<PeerId> = started
                .filter(|p| self.members.get(p).is_some_and(|m| !m.accepted))
                .collect();
            if !waiting.is_empty() {
                return waiting;
            }
        }
        let all_call = self
            .accepted(None)
            .all(|(_, member)| member.is_calling(|call| *call == JointCall::UpdateTopology));
        if !all_call {
            return BTreeSet::new();
        }
        let registered = self.members.iter().filter(|(_, m)| m.is_waiting(self.now));
        registered.map(|(peer, _)| *peer).collect()
    }

    fn active_still_fits(&self, basis: &Basis) -> bool {
        let same_members = basis.members.len() == self.active.rings.len()
            && self.active.rings.iter().all(|(group, ring)| {
                basis.members.get(group).is_some_and(|members| {
                    members.len() == ring.len() && ring.iter().all(|p| members.contains(p))
                })
            });
        let links_hold = self.active.rings.values().all(|ring| {
            neighbours(ring)
                .iter()
                .all(|pair| !self.testimony.is_broken(pair))
        });
        let same_voters = basis.voters == self.active.voters;
        same_members && same_voters && links_hold && !self.active.must_end
    }

    pub(in crate::protocol::master) fn on_solved(
        &mut self,
        request: u64,
        solutions: BTreeMap<GroupId, Solution>,
    ) {
        let is_awaited = matches!(
            &self.change,
            Some(Change { stage: Stage::Solving { request: awaited }, .. }) if *awaited == request
        );
        if !is_awaited {
            debug!(request, "a solution for an epoch that is over is dropped");
            return;
        }
        let mut rings = BTreeMap::new();
        let mut dropped = Vec::new();
        for (group, solution) in solutions {
            match solution {
                Solution::Ring(ring) => {
                    rings.insert(group, ring);
                }
                Solution::Drop(peer) => dropped.push(peer),
            }
        }
        if dropped.is_empty() {
            self.propose(rings);
            return;
        }
        let broken = self.testimony.broken();
        let is_accepted = |peer: &PeerId| self.members.get(peer).is_some_and(|m| m.accepted);
        let is_undecided = dropped.iter().any(|peer| self.is_undecided(*peer, &broken));
        let costs_a_place = dropped.iter().any(is_accepted);
        // `advance` solves anew where links are sound again by now.
        let has_better = self
            .change
            .as_ref()
            .is_some_and(|change| change.basis.broken != broken);
        if is_undecided || has_better || (costs_a_place && self.try_links_again(&broken)) {
            if let Some(change) = &mut self.change {
                change.stage = Stage::Undecided { suspects: dropped };
            }
            return;
        }
        for peer in dropped {
            let others: Vec<String> = self
                .testimony
                .partners(peer)
                .map(|other| self.name(other))
                .collect();
            self.evict(
                peer,
                format!("no link can be made with {}", others.join(", ")),
            );
        }
    }
}
