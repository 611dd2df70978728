//! Operations of one group in one epoch: who has begun, who is done, and the one outcome.

use std::collections::{BTreeMap, BTreeSet};

use tracing::debug;

use super::Master;
use crate::mutation::{Mutation, mutated};
use crate::types::{Descriptor, Epoch, GroupId, OperationId, PeerId, Tag};
use crate::wire::control::{AbortCause, Outcome, ToPeer};

/// The operations of a group in the active epoch.
#[derive(Clone, Debug, Hash)]
pub(super) struct Operations {
    epoch: Epoch,
    unsettled: BTreeMap<Tag, Operation>,
    /// How many uses of each tag were settled in this epoch.
    settled: BTreeMap<Tag, u32>,
}

/// What the members said of one operation.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Operation {
    begun: BTreeMap<PeerId, Descriptor>,
    done: BTreeSet<PeerId>,
}

impl Operation {
    pub(super) fn has_begun(&self, peer: PeerId) -> bool {
        self.begun.contains_key(&peer)
    }

    pub(super) fn is_done(&self, peer: PeerId) -> bool {
        self.done.contains(&peer)
    }

    /// Whether nobody of this ring can be missing in the result of who is done. An empty buffer is
    /// done with at once, whoever else has called, and whatever they meant.
    pub(super) fn needs_all_of(&self, ring: &[PeerId]) -> bool {
        let mut begun = self.begun.values();
        let first = begun.next();
        let agree = begun.all(|other| first.is_none_or(|first| first.difference(other).is_none()));
        self.begun.values().all(|descriptor| descriptor.count > 0)
            || (agree && ring.iter().all(|peer| self.has_begun(*peer)))
    }
}

impl Operations {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            unsettled: BTreeMap::new(),
            settled: BTreeMap::new(),
        }
    }

    /// As another master had settled uses of a tag.
    pub(super) fn learn(&mut self, tag: Tag, settled: u32) {
        let count = self.settled.entry(tag).or_insert(0);
        *count = (*count).max(settled);
    }

    pub(super) fn unsettled(&self) -> impl Iterator<Item = (OperationId, &Operation)> {
        self.unsettled
            .iter()
            .map(|(tag, operation)| (self.id(*tag), operation))
    }

    fn id(&self, tag: Tag) -> OperationId {
        OperationId {
            epoch: self.epoch,
            tag,
            n: self.settled_count(tag),
        }
    }

    fn settled_count(&self, tag: Tag) -> u32 {
        self.settled.get(&tag).copied().unwrap_or(0)
    }

    /// The operation with this number, if it is the one its tag is at.
    fn current(&mut self, op: OperationId) -> Option<&mut Operation> {
        if op != self.id(op.tag) {
            return None;
        }
        self.unsettled.get_mut(&op.tag)
    }
}

impl Master {
    pub(super) fn on_begun(&mut self, peer: PeerId, op: OperationId, descriptor: Descriptor) {
        let Some(group) = self.group_of_accepted(peer) else {
            return;
        };
        if op.epoch < self.active.epoch {
            // The peer learns from the epoch it has not seen yet what becomes of it.
            return;
        }
        let Some(operations) = self.operations.get_mut(&group) else {
            return;
        };
        let settled = operations.settled_count(op.tag);
        if op.epoch == self.active.epoch && op.n < settled {
            return;
        }
        if op.epoch > self.active.epoch || op.n > settled {
            self.evict(
                peer,
                format!("it began operation {op}, which cannot exist yet"),
            );
            return;
        }
        let operation = operations.unsettled.entry(op.tag).or_default();
        let disagreement = operation.begun.iter().find_map(|(other, theirs)| {
            theirs.difference(&descriptor).map(|field| (*other, field))
        });
        operation.begun.insert(peer, descriptor);
        if let Some((other, field)) = disagreement
            && self.change.is_none()
            && !self.active.must_end
            && !mutated(Mutation::DropDescriptorCheck)
        {
            let detail = format!("{} and {} differ", self.name(other), self.name(peer));
            self.settle(
                group,
                op,
                Outcome::Aborted(AbortCause::Mismatch { field, detail }),
            );
        }
    }

    /// Who is not accepted yet has no say in operations.
    fn group_of_accepted(&mut self, peer: PeerId) -> Option<GroupId> {
        let member = self.members.get(&peer)?;
        if !member.accepted {
            let reason = "it spoke of an operation before it was accepted".to_owned();
            self.evict(peer, reason);
            return None;
        }
        Some(member.group)
    }

    pub(super) fn on_done(&mut self, peer: PeerId, op: OperationId) {
        let Some(group) = self.group_of_accepted(peer) else {
            return;
        };
        let Some(operations) = self.operations.get_mut(&group) else {
            return;
        };
        if let Some(operation) = operations.current(op)
            && operation.has_begun(peer)
        {
            operation.done.insert(peer);
        }
    }

    pub(super) fn on_failed(&mut self, peer: PeerId, op: OperationId, reason: String) {
        let reason = format!("{}: {reason}", self.name(peer));
        self.abort(peer, op, AbortCause::Reported { reason });
    }

    pub(super) fn on_deadline(&mut self, peer: PeerId, op: OperationId) {
        let Some(group) = self.group_of_accepted(peer) else {
            return;
        };
        let members: Vec<PeerId> = self.accepted(Some(group)).map(|(id, _)| *id).collect();
        let Some(operation) = self
            .operations
            .get_mut(&group)
            .and_then(|operations| operations.current(op))
        else {
            return;
        };
        let missing: Vec<PeerId> = members
            .iter()
            .filter(|p| !operation.has_begun(**p))
            .copied()
            .collect();
        let unfinished: Vec<PeerId> = members
            .iter()
            .filter(|p| !operation.is_done(**p))
            .copied()
            .collect();
        let (who, what) = if missing.is_empty() {
            (unfinished, "to finish")
        } else {
            (missing, "to call")
        };
        let names: Vec<String> = who.iter().map(|peer| self.name(*peer)).collect();
        let reason = format!(
            "the deadline of {} passed while waiting for {} {what}",
            self.name(peer),
            names.join(", ")
        );
        self.abort(peer, op, AbortCause::DeadlinePassed { reason });
    }

    fn abort(&mut self, peer: PeerId, op: OperationId, cause: AbortCause) {
        if self.change.is_some() || self.active.must_end {
            // The epoch that is coming brings the outcome, or a new start.
            return;
        }
        let Some(group) = self.group_of_accepted(peer) else {
            return;
        };
        let is_current = self
            .operations
            .get_mut(&group)
            .is_some_and(|operations| operations.current(op).is_some());
        if is_current {
            self.settle(group, op, Outcome::Aborted(cause));
        }
    }

    /// Commits what everybody is done with.
    pub(super) fn settle_operations(&mut self) -> bool {
        let mut finished = Vec::new();
        for (group, operations) in &self.operations {
            let Some(ring) = self.active.rings.get(group) else {
                continue;
            };
            for (op, operation) in operations.unsettled() {
                let is_done = |peer: &PeerId| operation.is_done(*peer);
                let early = mutated(Mutation::SettleAtFirstDone) && ring.iter().any(is_done);
                if early || ring.iter().all(is_done) {
                    finished.push((*group, op, ring.clone()));
                }
            }
        }
        let any = !finished.is_empty();
        for (group, op, contributors) in finished {
            self.settle(group, op, Outcome::Committed { contributors });
        }
        any
    }

    /// The one place where an operation of the active epoch ends.
    pub(super) fn settle(&mut self, group: GroupId, op: OperationId, outcome: Outcome) {
        let Some(operations) = self.operations.get_mut(&group) else {
            return;
        };
        if operations.unsettled.remove(&op.tag).is_none() {
            return;
        }
        let settled = operations.settled.entry(op.tag).or_insert(0);
        *settled = settled.saturating_add(1);
        match &outcome {
            Outcome::Committed { .. } => debug!(%op, %group, "committed"),
            Outcome::Aborted(cause) => debug!(%op, %group, ?cause, "aborted"),
        }
        let members = self.active.rings.get(&group).cloned().unwrap_or_default();
        let settlement = self.settlement(group, &members, op, outcome);
        for peer in members {
            self.say(peer, ToPeer::OperationSettled(settlement.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DataType, ReduceOp};

    #[test]
    fn an_empty_buffer_does_not_stand_for_what_another_meant_by_the_operation() {
        let ring = [PeerId(1), PeerId(2)];
        for (counts, holds_all) in [([0, 0], true), ([1, 0], false), ([1, 1], true)] {
            let begun = ring.into_iter().zip(counts).map(|(peer, count)| {
                let descriptor = Descriptor {
                    count,
                    data_type: DataType::U8,
                    op: ReduceOp::Sum,
                    quantization: None,
                };
                (peer, descriptor)
            });
            let operation = Operation {
                begun: begun.collect(),
                done: BTreeSet::from([PeerId(2)]),
            };
            assert_eq!(operation.needs_all_of(&ring), holds_all, "{counts:?}");
        }
    }
}
