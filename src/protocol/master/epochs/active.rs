//! The epoch that holds, who votes on the next one, and how that one takes its place.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use super::Rings;
use super::change::{Change, Stage};
use crate::mutation::{Mutation, mutated};
use crate::protocol::master::Master;
use crate::protocol::master::members::Departure;
use crate::protocol::master::operations::Operations;
use crate::types::{Epoch, GroupId, PeerId, PeerName};
use crate::wire::control::{CallResult, JointCall, ToPeer};

/// The epoch that holds now.
#[derive(Clone, Debug, Hash)]
pub(in crate::protocol::master) struct ActiveEpoch {
    pub(in crate::protocol::master) epoch: Epoch,
    pub(in crate::protocol::master) rings: Rings,
    /// Whose acknowledgement the next epoch needs a majority of.
    pub(in crate::protocol::master) voters: BTreeSet<PeerId>,
    /// Voters that left or are known dead: they count as agreed.
    pub(in crate::protocol::master) agreed: BTreeSet<PeerId>,
    /// Members that are gone, with the reason.
    pub(in crate::protocol::master) lost: BTreeMap<GroupId, Vec<(PeerName, String)>>,
    /// This master has come back to it, and not all of it with him: another one follows.
    pub(in crate::protocol::master) must_end: bool,
    /// Its members may follow another master: nothing is decided without a majority.
    pub(in crate::protocol::master) has_standbys: bool,
}

impl ActiveEpoch {
    pub(in crate::protocol::master) fn none(term: u32) -> Self {
        Self {
            epoch: Epoch { term, count: 0 },
            rings: BTreeMap::new(),
            voters: BTreeSet::new(),
            agreed: BTreeSet::new(),
            lost: BTreeMap::new(),
            must_end: false,
            has_standbys: false,
        }
    }

    pub(in crate::protocol::master) fn note_departure(
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

impl Master {
    /// Who of these members votes on the epoch after theirs: those with a committed sync, or one
    /// that can only commit, or all where nobody has one.
    pub(super) fn voters_among(
        &self,
        members: &BTreeMap<GroupId, BTreeSet<PeerId>>,
    ) -> BTreeSet<PeerId> {
        let is_synced = |peer: &PeerId| {
            let member = self.members.get(peer);
            member.is_some_and(|member| {
                member.synced || (member.accepted && self.is_committing(member.group))
            })
        };
        let everybody = || members.values().flatten().copied();
        let synced: BTreeSet<PeerId> = everybody().filter(is_synced).collect();
        match synced.is_empty() {
            true => everybody().collect(),
            false => synced,
        }
    }

    /// Makes the proposed epoch the active one if enough of those who must have agreed to it.
    pub(in crate::protocol::master) fn activate_where_agreed(&mut self) -> bool {
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
        let voters = basis.voters.clone();
        let newcomers = basis.newcomers.clone();
        self.change = None;
        self.activate(epoch, rings, voters, &newcomers);
        true
    }

    fn activate(
        &mut self,
        epoch: Epoch,
        rings: Rings,
        voters: BTreeSet<PeerId>,
        newcomers: &BTreeSet<PeerId>,
    ) {
        let lets_in = !newcomers.is_empty();
        self.inherited.clear();
        self.count_from_now_on(newcomers);
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
        if lets_in {
            self.testimony.rings_are_wired(&rings);
        }
        info!(%epoch, world = everybody.len(), "epoch active");
        self.active = ActiveEpoch {
            epoch,
            rings,
            voters,
            has_standbys: everybody
                .iter()
                .filter_map(|peer| self.members.get(peer))
                .any(|member| member.masters > 1),
            ..ActiveEpoch::none(self.reign.term)
        };
        for peer in &everybody {
            self.say(*peer, ToPeer::EpochActive { epoch });
        }
        self.answer_who_is_owed();
        if lets_in {
            let number = self.tally.next_update();
            self.finish_calls(&everybody, number, |call| match call {
                JointCall::UpdateTopology => Some(CallResult::Updated),
                JointCall::ArePeersPending | JointCall::SyncSharedState(_) => None,
            });
        }
    }
}
