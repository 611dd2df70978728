//! What each peer is told of the next epoch, and what the peers answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::info;

use super::change::{Change, Stage};
use super::{Rings, neighbours};
use crate::mutation::{Mutation, mutated};
use crate::protocol::master::Master;
use crate::protocol::master::members::Member;
use crate::types::{Epoch, GroupId, OperationId, PeerId, PeerName, WorldSizes};
use crate::wire::control::{AbortCause, LinkSpec, Outcome, Proposal, Settlement, ToPeer};

/// How many of the longest round trips that neighbours are told to expect there are in
/// `wiring_timeout`. A link may take three and a half of them.
const ROUND_TRIPS_OF_WIRING: u32 = 7;

impl Master {
    pub(super) fn propose(&mut self, rings: Rings) {
        let Some(change) = &mut self.change else {
            return;
        };
        let is_replacement = self.last_count > self.active.epoch.count;
        if !(mutated(Mutation::ReuseEpochNumber) && is_replacement) {
            self.last_count = self.last_count.saturating_add(1);
        }
        let epoch = Epoch {
            term: self.reign.term,
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
        let voters: Vec<PeerId> = change.basis.voters.iter().copied().collect();
        let all_names: BTreeMap<GroupId, Vec<PeerName>> = rings
            .iter()
            .map(|(group, ring)| {
                let members = ring.iter().filter_map(|peer| self.members.get(peer));
                (*group, members.map(|member| member.name.clone()).collect())
            })
            .collect();
        for (group, ring) in &rings {
            let sizes = WorldSizes {
                global,
                group: count(ring.len()),
                groups: count(rings.len()),
                largest_group,
            };
            let names = all_names.get(group).cloned().unwrap_or_default();
            let others: Vec<(GroupId, Vec<PeerName>)> = all_names
                .iter()
                .filter(|(other, _)| *other != group)
                .map(|(other, names)| (*other, names.clone()))
                .collect();
            let mut calls = self.tally.counts(*group);
            calls.updates += u64::from(has_newcomers);
            let outcomes: Vec<Settlement> = self
                .outcomes(*group, ring)
                .into_iter()
                .map(|(op, outcome)| self.settlement(*group, ring, op, outcome))
                .collect();
            for peer in ring {
                let proposal = Proposal {
                    epoch,
                    sizes,
                    ring: names.clone(),
                    links: self.links(*peer, ring),
                    outcomes: outcomes.clone(),
                    others: others.clone(),
                    voters: voters.clone(),
                    calls,
                };
                self.say(*peer, ToPeer::EpochProposed(proposal));
            }
        }
    }

    /// How the operations of a group end if `next` is the ring that follows. An operation that is
    /// not finished although its group lost nobody is not listed: its members start it again.
    fn outcomes(&self, group: GroupId, next: &[PeerId]) -> BTreeMap<OperationId, Outcome> {
        let (Some(operations), Some(ring)) =
            (self.operations.get(&group), self.active.rings.get(&group))
        else {
            return BTreeMap::new();
        };
        let staying: BTreeSet<PeerId> = ring.iter().filter(|p| next.contains(p)).copied().collect();
        let lost = self.active.lost.get(&group);
        let mut outcomes = self.inherited.get(&group).cloned().unwrap_or_default();
        let ended: Vec<(OperationId, Outcome)> = operations
            .unsettled()
            .filter(|(op, _)| !outcomes.contains_key(op))
            .filter(|(_, operation)| staying.iter().any(|peer| operation.has_begun(*peer)))
            .filter_map(|(op, operation)| {
                let is_done = staying.iter().all(|peer| operation.is_done(*peer));
                let has_all = operation.needs_all_of(ring) || mutated(Mutation::EmptyNeedsNobody);
                let contributors = if mutated(Mutation::NewRingContributes) {
                    next
                } else {
                    ring
                };
                if (is_done && has_all) || mutated(Mutation::CommitAllAtEpochEnd) {
                    Some((
                        op,
                        Outcome::Committed {
                            contributors: contributors.to_vec(),
                        },
                    ))
                } else {
                    let lost = lost?.clone();
                    Some((op, Outcome::Aborted(AbortCause::PeersLost(lost))))
                }
            })
            .collect();
        outcomes.extend(ended);
        outcomes
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
                secret: self.link_secret(low, high),
                lanes: here.lanes.max(there.lanes),
                dials: peer == low,
                round_trip: self.round_trip(here, there),
            });
        }
        links
    }

    /// A link keeps its secret when the master is another.
    fn link_secret(&self, low: PeerId, high: PeerId) -> [u8; 16] {
        let inherited = self.link_secrets.get(&(low, high)).copied();
        inherited.unwrap_or_else(|| self.secret("link", &[low.0, high.0]))
    }

    /// Between two peers: the way over the master's machine is one that exists. Not more than lets
    /// them tell of a broken link well before `wiring_timeout`: what a machine that was busy, or one
    /// that is slow on purpose, made it look like would hold for as long as the epoch does.
    pub(in crate::protocol::master) fn round_trip(&self, one: &Member, other: &Member) -> Duration {
        let sum = one.watch.round_trip() + other.watch.round_trip();
        sum.min(self.config.wiring_timeout / ROUND_TRIPS_OF_WIRING)
    }

    pub(in crate::protocol::master) fn on_acknowledged(
        &mut self,
        peer: PeerId,
        acknowledges: Epoch,
    ) {
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

    pub(in crate::protocol::master) fn on_wired(&mut self, peer: PeerId, reports: Epoch) {
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
    pub(in crate::protocol::master) fn overdue_wiring(
        &self,
    ) -> Option<(BTreeSet<PeerId>, Rings, Vec<PeerId>)> {
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
}
