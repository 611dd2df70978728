//! Joint calls: they end when all accepted peers in scope have called, or at once where that can
//! never happen.

use std::collections::BTreeSet;

use tracing::debug;

use super::Master;
use super::epochs::Change;
use super::members::Member;
use crate::mutation::{Mutation, mutated};
use crate::types::{GroupId, OperationId, PeerId};
use crate::wire::control::{AbortCause, CallResult, JointCall, Outcome, ToPeer};

/// The joint call a member is in.
pub(super) type Call = JointCall;

impl Member {
    pub(super) fn is_calling(&self, kind: impl FnOnce(&JointCall) -> bool) -> bool {
        self.call.as_ref().is_some_and(kind)
    }

    /// The group whose members this member's call waits for; none for all groups.
    fn scope(&self) -> Option<GroupId> {
        match self.call {
            Some(JointCall::SyncSharedState(_)) => Some(self.group),
            _ => None,
        }
    }
}

impl Master {
    pub(super) fn on_call(&mut self, peer: PeerId, call: JointCall) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        debug!(name = %member.name, call = call.name(), "joint call");
        if let Some(running) = &member.call {
            let reason = format!("it called {} while in {}", call.name(), running.name());
            self.evict(peer, reason);
        } else if !member.accepted {
            self.evict(
                peer,
                format!("it called {} before it was accepted", call.name()),
            );
        } else {
            member.call = Some(call);
        }
    }

    pub(super) fn on_cancel_call(&mut self, peer: PeerId) {
        let Some(member) = self.members.get(&peer) else {
            return;
        };
        match &member.call {
            None => return,
            // It has ended for others.
            Some(_) if self.answers_owed.contains_key(&peer) => return,
            Some(JointCall::SyncSharedState(_)) if self.is_committing(member.group) => return,
            Some(JointCall::SyncSharedState(_)) if self.is_syncing(member.group) => {
                let group = member.group;
                self.abort_sync(group, format!("{} cancelled it", self.name(peer)));
                return;
            }
            Some(JointCall::UpdateTopology)
                if self.change.as_ref().is_some_and(Change::lets_newcomers_in) =>
            {
                // Newcomers may be on their way in: the call ends with the epoch.
                return;
            }
            Some(_) => {}
        }
        self.finish_calls(&[peer], 0, |_| Some(CallResult::Cancelled));
    }

    /// Ends the calls of these peers for which `result` has an answer. Where that is all in scope,
    /// `number` says which of its kind it was; otherwise it is 0.
    pub(super) fn finish_calls(
        &mut self,
        peers: &[PeerId],
        number: u64,
        result: impl Fn(&JointCall) -> Option<CallResult>,
    ) {
        for peer in peers {
            let Some(member) = self.members.get_mut(peer) else {
                continue;
            };
            if let Some(result) = member.call.as_ref().and_then(&result) {
                member.call = None;
                self.say(*peer, ToPeer::CallDone { number, result });
            }
        }
    }

    /// Ends the calls of all groups that everybody is in. (Those that let newcomers in end with
    /// their epoch, a sync with its transfers.)
    pub(super) fn finish_joint_calls(&mut self) -> bool {
        let everybody: Vec<PeerId> = self.accepted(None).map(|(peer, _)| *peer).collect();
        if everybody.is_empty() {
            return false;
        }
        let all_call = |kind: fn(&JointCall) -> bool| {
            self.accepted(None)
                .all(|(_, member)| member.is_calling(kind))
        };
        let (number, result) = if all_call(|call| *call == JointCall::ArePeersPending) {
            let pending = self.members.values().any(|m| m.is_waiting(self.now));
            (self.tally.next_pending(), CallResult::Pending(pending))
        } else if all_call(|call| *call == JointCall::UpdateTopology) {
            // `newcomers_due` found nobody, or the epoch would be changing.
            (self.tally.next_update(), CallResult::Updated)
        } else {
            return false;
        };
        self.finish_calls(&everybody, number, |_| Some(result.clone()));
        true
    }

    /// Ends calls and operations of which each needs a peer that the other holds.
    pub(super) fn fail_what_cannot_meet(&mut self) -> bool {
        if mutated(Mutation::MeetingNeverFails) {
            return false;
        }
        let calls = self.calls_that_cannot_meet();
        if let Some((detail, callers)) = calls {
            self.finish_calls(&callers, 0, |_| {
                Some(CallResult::CannotMeet {
                    detail: detail.clone(),
                })
            });
            return true;
        }
        let Some((group, op, detail, callers)) = self.operation_that_cannot_meet() else {
            return false;
        };
        self.finish_calls(&callers, 0, |_| {
            Some(CallResult::CannotMeet {
                detail: detail.clone(),
            })
        });
        self.settle(
            group,
            op,
            Outcome::Aborted(AbortCause::CannotMeet { detail }),
        );
        true
    }

    /// Two peers in different joint calls, each in the scope of the other's call.
    fn calls_that_cannot_meet(&self) -> Option<(String, Vec<PeerId>)> {
        let callers: Vec<(&PeerId, &Member, &JointCall)> = self
            .accepted(None)
            .filter_map(|(peer, member)| Some((peer, member, member.call.as_ref()?)))
            .collect();
        let needs = |a: &Member, b: &Member| a.scope().is_none_or(|group| group == b.group);
        for (index, (_, here, call)) in callers.iter().enumerate() {
            for (_, there, other) in &callers[index + 1..] {
                if call.name() != other.name() && needs(here, there) && needs(there, here) {
                    let detail = format!(
                        "{} called {}, {} called {}",
                        here.name,
                        call.name(),
                        there.name,
                        other.name()
                    );
                    let involved = callers
                        .iter()
                        .filter(|(_, member, c)| {
                            (c.name() == call.name() && member.scope() == here.scope())
                                || (c.name() == other.name() && member.scope() == there.scope())
                        })
                        .map(|(peer, _, _)| **peer)
                        .collect();
                    return Some((detail, involved));
                }
            }
        }
        None
    }

    /// An operation that needs a peer whose joint call needs one of those that have begun it.
    fn operation_that_cannot_meet(&self) -> Option<(GroupId, OperationId, String, Vec<PeerId>)> {
        for (group, operations) in &self.operations {
            for (op, operation) in operations.unsettled() {
                let mut holders = self
                    .accepted(Some(*group))
                    .filter(|(peer, _)| operation.has_begun(**peer));
                let Some((_, beginner)) = holders.next() else {
                    continue;
                };
                // `are_peers_pending` may run beside operations, so it holds nobody against one.
                let held = |(peer, member): &(&PeerId, &Member)| {
                    !operation.has_begun(**peer)
                        && member.is_calling(|call| *call != JointCall::ArePeersPending)
                };
                let Some((_, caller)) = self.accepted(Some(*group)).find(held) else {
                    continue;
                };
                let call = caller.call.as_ref()?;
                let detail = format!(
                    "{} called all_reduce with tag {}, {} called {}",
                    beginner.name,
                    op.tag,
                    caller.name,
                    call.name()
                );
                let scope = caller.scope();
                let callers: BTreeSet<PeerId> = self
                    .accepted(scope)
                    .filter(|(_, member)| member.is_calling(|c| c.name() == call.name()))
                    .map(|(peer, _)| *peer)
                    .collect();
                return Some((*group, op, detail, callers.into_iter().collect()));
            }
        }
        None
    }
}
