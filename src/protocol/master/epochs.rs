//! How one epoch follows another: solve, propose, activate.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};

use super::members::{Departure, Member};
use super::operations::Operations;
use super::{Master, Output};
use crate::mutation::{Mutation, mutated};
use crate::types::{Epoch, GroupId, OperationId, PeerId, PeerName, Timestamp, WorldSizes};
use crate::wire::control::{
    AbortCause, CallResult, JointCall, LinkSpec, Outcome, Proposal, ToPeer,
};

pub(super) type Rings = BTreeMap<GroupId, Vec<PeerId>>;

/// The epoch that holds now.
#[derive(Clone, Debug, Hash)]
pub(super) struct ActiveEpoch {
    pub(super) epoch: Epoch,
    pub(super) rings: Rings,
    /// Whose acknowledgement the next epoch needs a majority of.
    voters: BTreeSet<PeerId>,
    /// Voters that left or are known dead: they count as agreed.
    agreed: BTreeSet<PeerId>,
    /// Members that are gone, with the reason.
    lost: BTreeMap<GroupId, Vec<(PeerName, String)>>,
}

impl ActiveEpoch {
    pub(super) fn none(term: u32) -> Self {
        Self {
            epoch: Epoch { term, count: 0 },
            rings: BTreeMap::new(),
            voters: BTreeSet::new(),
            agreed: BTreeSet::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Voters are the members with a committed sync, or all where nobody has one.
    pub(super) fn count_synced(&mut self, members: &BTreeMap<PeerId, Member>) {
        let everybody = || self.rings.values().flatten().copied();
        let synced = |peer: &PeerId| members.get(peer).is_some_and(|member| member.synced);
        self.voters = everybody().filter(synced).collect();
        if self.voters.is_empty() {
            self.voters = everybody().collect();
        }
    }

    pub(super) fn note_departure(
        &mut self,
        group: GroupId,
        name: PeerName,
        departure: Departure,
        reason: String,
    ) {
        if departure != Departure::Evicted && self.voters.contains(&name.id) {
            self.agreed.insert(name.id);
        }
        self.lost.entry(group).or_default().push((name, reason));
    }
}

/// The next epoch in the making.
#[derive(Clone, Debug, Hash)]
pub(super) struct Change {
    basis: Basis,
    stage: Stage,
}

/// What a change was started from; when it is no longer so, the change is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Basis {
    members: BTreeMap<GroupId, BTreeSet<PeerId>>,
    newcomers: BTreeSet<PeerId>,
    broken: BTreeSet<(PeerId, PeerId)>,
}

#[derive(Clone, Debug, Hash)]
enum Stage {
    Solving {
        request: u64,
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
    pub(super) fn lets_newcomers_in(&self) -> bool {
        !self.basis.newcomers.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match &self.stage {
            Stage::Proposed { deadline, .. } => *deadline,
            Stage::Solving { .. } => None,
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
    pub(super) fn replace_epoch_where_needed(&mut self) {
        let newcomers = self.newcomers_due();
        let mut members: BTreeMap<GroupId, BTreeSet<PeerId>> = BTreeMap::new();
        for (peer, member) in &self.members {
            if member.accepted || newcomers.contains(peer) {
                members.entry(member.group).or_default().insert(*peer);
            }
        }
        let basis = Basis {
            members,
            newcomers,
            broken: self.testimony.broken(),
        };
        match &self.change {
            Some(change) if change.basis == basis => return,
            Some(_) => {}
            None if self.active_still_fits(&basis) => return,
            None => {}
        }
        if basis.members.is_empty() {
            // Everybody is gone: whoever comes next starts afresh.
            self.active = ActiveEpoch {
                epoch: self.active.epoch,
                ..ActiveEpoch::none(self.term)
            };
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
        let registered = self
            .members
            .iter()
            .filter(|(_, m)| !m.accepted && m.connection.is_some());
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
        same_members && links_hold
    }

    pub(super) fn on_solved(&mut self, request: u64, solutions: BTreeMap<GroupId, Solution>) {
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

    fn propose(&mut self, rings: Rings) {
        let Some(change) = &mut self.change else {
            return;
        };
        let is_replacement = self.last_count > self.active.epoch.count;
        if !(mutated(Mutation::ReuseEpochNumber) && is_replacement) {
            self.last_count += 1;
        }
        let epoch = Epoch {
            term: self.term,
            count: self.last_count,
        };
        let has_newcomers = !change.basis.newcomers.is_empty();
        change.stage = Stage::Proposed {
            epoch,
            rings: rings.clone(),
            acknowledged: BTreeSet::new(),
            wired: BTreeSet::new(),
            deadline: has_newcomers.then(|| self.now + self.config.wiring_timeout),
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let global = count(rings.values().map(Vec::len).sum());
        let largest_group = count(rings.values().map(Vec::len).max().unwrap_or(0));
        info!(%epoch, world = global, newcomers = change.basis.newcomers.len(), "epoch proposed");
        for (group, ring) in &rings {
            let sizes = WorldSizes {
                global,
                group: count(ring.len()),
                groups: count(rings.len()),
                largest_group,
            };
            let names: Vec<PeerName> = ring
                .iter()
                .filter_map(|peer| self.members.get(peer).map(|member| member.name.clone()))
                .collect();
            let outcomes = self.outcomes(*group, ring);
            for peer in ring {
                let proposal = Proposal {
                    epoch,
                    sizes,
                    ring: names.clone(),
                    links: self.links(*peer, ring),
                    outcomes: outcomes.clone(),
                };
                self.say(*peer, ToPeer::EpochProposed(proposal));
            }
        }
    }

    /// How the operations of a group end if `next` is the ring that follows. An operation that is
    /// not finished although its group lost nobody is not listed: its members start it again.
    fn outcomes(&self, group: GroupId, next: &[PeerId]) -> Vec<(OperationId, Outcome)> {
        let (Some(operations), Some(ring)) =
            (self.operations.get(&group), self.active.rings.get(&group))
        else {
            return Vec::new();
        };
        let staying: BTreeSet<PeerId> = ring.iter().filter(|p| next.contains(p)).copied().collect();
        let lost = self.active.lost.get(&group);
        operations
            .unsettled()
            .filter(|(_, operation)| staying.iter().any(|peer| operation.has_begun(*peer)))
            .filter_map(|(op, operation)| {
                let all_done = staying.iter().all(|peer| operation.is_done(*peer));
                if all_done || mutated(Mutation::CommitAllAtEpochEnd) {
                    Some((
                        op,
                        Outcome::Committed {
                            contributors: ring.clone(),
                        },
                    ))
                } else {
                    let lost = lost?.clone();
                    Some((op, Outcome::Aborted(AbortCause::PeersLost(lost))))
                }
            })
            .collect()
    }

    fn links(&self, peer: PeerId, ring: &[PeerId]) -> Vec<LinkSpec> {
        let mut links = Vec::new();
        for (low, high) in neighbours(ring) {
            let other = match (low == peer, high == peer) {
                (true, _) => high,
                (_, true) => low,
                _ => continue,
            };
            let (Some(here), Some(there)) = (self.members.get(&peer), self.members.get(&other))
            else {
                continue;
            };
            links.push(LinkSpec {
                peer: there.name.clone(),
                secret: self.secret("link", &[low.0, high.0]),
                lanes: here.lanes.max(there.lanes),
                dials: peer == low,
            });
        }
        links
    }

    pub(super) fn on_acknowledged(&mut self, peer: PeerId, acknowledges: Epoch) {
        if let Some(Change {
            stage:
                Stage::Proposed {
                    epoch,
                    acknowledged,
                    ..
                },
            ..
        }) = &mut self.change
            && *epoch == acknowledges
        {
            acknowledged.insert(peer);
        }
    }

    pub(super) fn on_wired(&mut self, peer: PeerId, reports: Epoch) {
        if let Some(Change {
            stage: Stage::Proposed { epoch, wired, .. },
            ..
        }) = &mut self.change
            && *epoch == reports
        {
            wired.insert(peer);
        }
    }

    /// Newcomers, rings and late members of a proposal whose links have had their time.
    pub(super) fn overdue_wiring(&self) -> Option<(BTreeSet<PeerId>, Rings, Vec<PeerId>)> {
        let Change {
            basis,
            stage:
                Stage::Proposed {
                    rings,
                    wired,
                    deadline,
                    ..
                },
        } = self.change.as_ref()?
        else {
            return None;
        };
        let is_over = deadline.is_some_and(|deadline| self.now >= deadline);
        let late = rings
            .values()
            .flatten()
            .filter(|peer| !wired.contains(peer));
        let late: Vec<PeerId> = late.copied().collect();
        (is_over && !late.is_empty()).then(|| (basis.newcomers.clone(), rings.clone(), late))
    }

    /// Makes the proposed epoch the active one if enough of those who must have agreed to it.
    pub(super) fn activate_where_agreed(&mut self) -> bool {
        let Some(Change {
            basis,
            stage:
                Stage::Proposed {
                    epoch,
                    rings,
                    acknowledged,
                    wired,
                    ..
                },
        }) = &self.change
        else {
            return false;
        };
        let everybody = || rings.values().flatten();
        if !basis.newcomers.is_empty() && !everybody().all(|peer| wired.contains(peer)) {
            return false;
        }
        let voters = &self.active.voters;
        let agreed = voters
            .iter()
            .filter(|voter| acknowledged.contains(voter) || self.active.agreed.contains(voter))
            .count();
        let possible = voters
            .iter()
            .filter(|voter| self.members.contains_key(voter) || self.active.agreed.contains(voter))
            .count();
        let is_majority = |number: usize| number * 2 > voters.len();
        let detached = !voters.is_empty() && !is_majority(possible);
        if voters.is_empty() {
            if !everybody().all(|peer| acknowledged.contains(peer)) {
                return false;
            }
        } else if !is_majority(agreed) && !detached && !mutated(Mutation::ActivateWithoutMajority) {
            return false;
        }
        let epoch = *epoch;
        if detached {
            warn!(%epoch, "half of the voters or more are silent or evicted; going on without a majority");
        }
        let rings = rings.clone();
        let lets_in = !basis.newcomers.is_empty();
        self.change = None;
        self.activate(epoch, rings, lets_in);
        true
    }

    fn activate(&mut self, epoch: Epoch, rings: Rings, lets_in: bool) {
        // A group that nobody of before is in starts afresh.
        let before = std::mem::take(&mut self.active.rings);
        self.shared_state.retain(|group, _| {
            let (Some(old), Some(new)) = (before.get(group), rings.get(group)) else {
                return false;
            };
            old.iter().any(|peer| new.contains(peer))
        });
        self.operations = rings
            .keys()
            .map(|group| (*group, Operations::new(epoch)))
            .collect();
        let everybody: Vec<PeerId> = rings.values().flatten().copied().collect();
        for peer in &everybody {
            if let Some(member) = self.members.get_mut(peer) {
                member.accepted = true;
                member.unreachable_from.clear();
            }
        }
        info!(%epoch, world = everybody.len(), "epoch active");
        self.active = ActiveEpoch {
            epoch,
            rings,
            ..ActiveEpoch::none(self.term)
        };
        self.active.count_synced(&self.members);
        for peer in &everybody {
            self.say(*peer, ToPeer::EpochActive { epoch });
        }
        if lets_in {
            self.finish_calls(&everybody, |call| match call {
                JointCall::UpdateTopology => Some(CallResult::Updated),
                JointCall::ArePeersPending | JointCall::SyncSharedState(_) => None,
            });
        }
    }
}

/// The links of a ring, each once, as (lower, higher) id.
pub(super) fn neighbours(ring: &[PeerId]) -> BTreeSet<(PeerId, PeerId)> {
    let successors = ring.iter().cycle().skip(1);
    ring.iter()
        .zip(successors)
        .filter(|(a, b)| a != b)
        .map(|(a, b)| (*a.min(b), *a.max(b)))
        .collect()
}
