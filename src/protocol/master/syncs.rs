//! Shared-state syncs of one group: elected when all have called, settled when all have received.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{debug, info, warn};

use super::Master;
use crate::mutation::{Mutation, mutated};
use crate::shared_state::Presentation;
use crate::shared_state::assignment::{assign, reassign};
use crate::shared_state::election::{Failure, Plan, Verdict, elect};
use crate::types::{GroupId, PeerId, Revision};
use crate::wire::control::{CallResult, JointCall, SyncPlan, ToPeer};

/// What the master knows of a group's shared state.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct SharedStateOfGroup {
    /// One above the last committed revision; none before the first sync commits.
    pub(super) expected: Option<Revision>,
    round: Option<Round>,
}

/// A sync that was elected and is not settled.
#[derive(Clone, Debug, Hash)]
struct Round {
    number: u64,
    plan: Plan,
    assignment: BTreeMap<PeerId, PeerId>,
    /// Who has not received all of its share yet.
    receiving: BTreeSet<PeerId>,
    failed: BTreeSet<(PeerId, PeerId)>,
    lost: BTreeSet<PeerId>,
    /// All have received: it commits, once an epoch is active in which those who have it then vote.
    is_committing: bool,
}

impl Master {
    /// Whether the sync of this group can only commit.
    pub(super) fn is_committing(&self, group: GroupId) -> bool {
        self.shared_state
            .get(&group)
            .and_then(|state| state.round.as_ref())
            .is_some_and(|round| round.is_committing)
    }

    pub(super) fn is_syncing(&self, group: GroupId) -> bool {
        self.shared_state
            .get(&group)
            .is_some_and(|state| state.round.is_some())
    }

    /// Starts the syncs that everybody has called, and commits those that everybody is done with.
    pub(super) fn step_syncs(&mut self) -> bool {
        let groups: Vec<GroupId> = self.active.rings.keys().copied().collect();
        groups
            .into_iter()
            .fold(false, |any, group| any | self.step_sync(group))
    }

    fn step_sync(&mut self, group: GroupId) -> bool {
        let state = self.shared_state.entry(group).or_default();
        match &mut state.round {
            Some(round) if round.is_committing => {
                self.commit_sync(group);
                true
            }
            Some(round) if round.receiving.is_empty() => {
                round.is_committing = true;
                // `advance` comes here again, after the epoch that it may need.
                true
            }
            Some(_) => false,
            None => self.elect(group),
        }
    }

    fn elect(&mut self, group: GroupId) -> bool {
        let expected = self
            .shared_state
            .get(&group)
            .and_then(|state| state.expected);
        let mut presentations: BTreeMap<PeerId, Presentation> = BTreeMap::new();
        for (peer, member) in self.accepted(Some(group)) {
            let Some(JointCall::SyncSharedState(presentation)) = &member.call else {
                return false;
            };
            let mut presentation = presentation.clone();
            if mutated(Mutation::TaintedElectable) {
                let entries = presentation.entries.iter_mut();
                entries.for_each(|entry| entry.tainted = false);
            }
            presentations.insert(*peer, presentation);
        }
        if presentations.is_empty() {
            return false;
        }
        match elect(expected, &presentations) {
            Verdict::Evict(reasons) => {
                for (peer, reason) in reasons {
                    self.evict(peer, reason);
                }
                // The rest is elected again once the epoch without them is active.
                true
            }
            Verdict::Fail(failure) => {
                warn!(%group, ?failure, "sync failed for all");
                let result = match failure {
                    Failure::StaleRevision {
                        presented,
                        expected,
                    } if self.has_holder(group) => CallResult::StaleRevision {
                        presented,
                        expected,
                    },
                    // Raising the revision would pass what a newcomer happens to hold for it.
                    Failure::StaleRevision { expected, .. } => CallResult::NoCleanState {
                        reason: format!(
                            "all peers that held revision {} are gone",
                            expected.0.saturating_sub(1)
                        ),
                    },
                    Failure::NoCleanState { reason } => CallResult::NoCleanState { reason },
                    Failure::InvalidState { reason } => CallResult::InvalidState { reason },
                };
                self.finish_sync(group, result);
                true
            }
            Verdict::Plan(plan) => {
                self.start_round(group, plan, presentations.keys().copied().collect());
                true
            }
        }
    }

    /// Whether any member was there when the last revision was committed.
    fn has_holder(&self, group: GroupId) -> bool {
        self.accepted(Some(group)).any(|(_, member)| member.synced)
    }

    fn start_round(&mut self, group: GroupId, plan: Plan, members: Vec<PeerId>) {
        let number = self.next_round;
        self.next_round += 1;
        let receiving: BTreeSet<PeerId> = plan
            .receive
            .iter()
            .filter(|(_, entries)| !entries.is_empty())
            .map(|(peer, _)| *peer)
            .collect();
        let assignment = assign(&plan, &BTreeMap::new());
        debug!(%group, round = number, revision = %plan.revision, receivers = receiving.len(), "sync elected");
        let round = Round {
            number,
            plan,
            assignment,
            receiving,
            failed: BTreeSet::new(),
            lost: BTreeSet::new(),
            is_committing: false,
        };
        if let Some(state) = self.shared_state.get_mut(&group) {
            state.round = Some(round);
        }
        for peer in members {
            self.send_plan(group, peer);
        }
    }

    fn send_plan(&mut self, group: GroupId, peer: PeerId) {
        let Some(round) = self
            .shared_state
            .get(&group)
            .and_then(|state| state.round.as_ref())
        else {
            return;
        };
        let receive = round.plan.receive.get(&peer).map_or(&[][..], Vec::as_slice);
        let holder = round
            .assignment
            .get(&peer)
            .and_then(|holder| self.members.get(holder));
        let plan = SyncPlan {
            round: round.number,
            token: self.secret("sync", &[round.number]),
            digests: round
                .plan
                .entries
                .iter()
                .map(|entry| entry.digest)
                .collect(),
            receive: receive
                .iter()
                .filter_map(|index| u32::try_from(*index).ok())
                .collect(),
            holder: holder
                .filter(|_| !receive.is_empty())
                .map(|member| member.name.clone()),
        };
        self.say(peer, ToPeer::SyncPlan(plan));
    }

    fn commit_sync(&mut self, group: GroupId) {
        let Some(state) = self.shared_state.get_mut(&group) else {
            return;
        };
        let Some(round) = state.round.take() else {
            return;
        };
        let revision = round.plan.revision;
        let raise = match mutated(Mutation::RevisionByTwo) {
            true => 2,
            false => 1,
        };
        state.expected = Some(Revision(revision.0.saturating_add(raise)));
        info!(%group, %revision, "sync committed");
        for member in self.members.values_mut() {
            if member.accepted && member.group == group {
                member.synced = true;
            }
        }
        self.finish_sync(group, CallResult::Synced { revision });
    }

    fn finish_sync(&mut self, group: GroupId, result: CallResult) {
        let members: Vec<PeerId> = self.accepted(Some(group)).map(|(peer, _)| *peer).collect();
        let number = self.tally.next_sync(group);
        self.finish_calls(&members, number, |call| {
            matches!(call, JointCall::SyncSharedState(_)).then(|| result.clone())
        });
    }

    pub(super) fn abort_sync(&mut self, group: GroupId, reason: String) {
        let Some(state) = self.shared_state.get_mut(&group) else {
            return;
        };
        if state.round.take().is_some() {
            warn!(%group, %reason, "sync aborted");
            self.finish_sync(group, CallResult::SyncAborted { reason });
        }
    }

    pub(super) fn on_sync_received(&mut self, peer: PeerId, number: u64) {
        if let Some((_, round)) = self.round_of(peer, number) {
            round.receiving.remove(&peer);
            if mutated(Mutation::CommitSyncAtFirstReceived) {
                round.receiving.clear();
            }
        }
    }

    pub(super) fn on_sync_failed(
        &mut self,
        peer: PeerId,
        number: u64,
        holder: PeerId,
        reason: String,
    ) {
        let Some((group, round)) = self.round_of(peer, number) else {
            return;
        };
        // What is said of any other pair is late, or made up.
        if round.receiving.contains(&peer) && round.assignment.get(&peer) == Some(&holder) {
            round.failed.insert((peer, holder));
            let reason = format!(
                "{} could not receive from {}: {reason}",
                self.name(peer),
                self.name(holder)
            );
            self.reassign(group, peer, reason);
        }
    }

    /// A peer is gone: nobody waits for it, and another holder takes its place.
    pub(super) fn sync_lost(&mut self, group: GroupId, peer: PeerId) {
        let Some(round) = self
            .shared_state
            .get_mut(&group)
            .and_then(|state| state.round.as_mut())
        else {
            return;
        };
        round.lost.insert(peer);
        round.receiving.remove(&peer);
        let served: Vec<PeerId> = round
            .receiving
            .iter()
            .filter(|receiver| round.assignment.get(receiver) == Some(&peer))
            .copied()
            .collect();
        for receiver in served {
            let reason = format!("peer {peer}, which was sending, was lost");
            self.reassign(group, receiver, reason);
        }
    }

    fn reassign(&mut self, group: GroupId, receiver: PeerId, reason: String) {
        let Some(round) = self
            .shared_state
            .get_mut(&group)
            .and_then(|state| state.round.as_mut())
        else {
            return;
        };
        let holder = reassign(
            &round.plan,
            &round.assignment,
            &round.failed,
            &round.lost,
            receiver,
        );
        match holder {
            Some(holder) => {
                debug!(%receiver, %holder, %reason, "another holder serves");
                round.assignment.insert(receiver, holder);
                self.send_plan(group, receiver);
            }
            None => self.abort_sync(group, format!("{reason}; nobody else can serve")),
        }
    }

    fn round_of(&mut self, peer: PeerId, number: u64) -> Option<(GroupId, &mut Round)> {
        let group = self.members.get(&peer)?.group;
        let round = self.shared_state.get_mut(&group)?.round.as_mut()?;
        (round.number == number).then_some((group, round))
    }
}
