//! What is counted over all epochs: joint calls that ended for all, and outcomes until all have them.

use std::collections::{BTreeMap, BTreeSet};

use super::Master;
use super::members::Member;
use crate::types::{GroupId, OperationId, PeerId};
use crate::wire::control::{CallCounts, Outcome, Settlement};

/// See the module's text.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Tally {
    pub(super) updates: u64,
    pub(super) pendings: u64,
    groups: BTreeMap<GroupId, OfGroup>,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
struct OfGroup {
    syncs: u64,
    settlements: u64,
}

impl Tally {
    /// What the members of a group are to know.
    pub(super) fn counts(&self, group: GroupId) -> CallCounts {
        let of_group = self.groups.get(&group).copied().unwrap_or_default();
        CallCounts {
            updates: self.updates,
            pendings: self.pendings,
            syncs: of_group.syncs,
        }
    }

    /// The number of an update that ends for all. (No report, however wrong, makes a number overflow.)
    pub(super) fn next_update(&mut self) -> u64 {
        self.updates = self.updates.saturating_add(1);
        self.updates
    }

    /// The number of an answer about who is waiting that all are given.
    pub(super) fn next_pending(&mut self) -> u64 {
        self.pendings = self.pendings.saturating_add(1);
        self.pendings
    }

    /// The number of a sync that ends for all.
    pub(super) fn next_sync(&mut self, group: GroupId) -> u64 {
        let of_group = self.groups.entry(group).or_default();
        of_group.syncs = of_group.syncs.saturating_add(1);
        of_group.syncs
    }

    /// The number of an outcome.
    pub(super) fn next_settlement(&mut self, group: GroupId) -> u64 {
        let of_group = self.groups.entry(group).or_default();
        of_group.settlements = of_group.settlements.saturating_add(1);
        of_group.settlements
    }

    pub(super) fn settlements(&self, group: GroupId) -> u64 {
        self.groups
            .get(&group)
            .map_or(0, |of_group| of_group.settlements)
    }

    /// As a peer has it that another master told.
    pub(super) fn learn(&mut self, group: GroupId, counts: CallCounts, settlements: u64) {
        self.updates = self.updates.max(counts.updates);
        self.pendings = self.pendings.max(counts.pendings);
        let of_group = self.groups.entry(group).or_default();
        of_group.syncs = of_group.syncs.max(counts.syncs);
        of_group.settlements = of_group.settlements.max(settlements);
    }
}

impl Member {
    /// It has all that was said to it up to this number.
    pub(super) fn note_acknowledged(&mut self, acknowledged: u64) {
        while let Some((sequence, number)) = self.told.front().copied()
            && sequence <= acknowledged
        {
            self.told.pop_front();
            self.has = number;
        }
    }
}

impl Master {
    /// An outcome as these members of a group are to hear of it.
    pub(super) fn settlement(
        &mut self,
        group: GroupId,
        members: &[PeerId],
        op: OperationId,
        outcome: Outcome,
    ) -> Settlement {
        let members = members.iter().filter_map(|peer| self.members.get(peer));
        let everybody_has = members.map(|member| member.has).min().unwrap_or(0);
        Settlement {
            op,
            outcome,
            number: self.tally.next_settlement(group),
            everybody_has,
        }
    }

    /// Who is a member from now on owes nothing of before.
    pub(super) fn count_from_now_on(&mut self, newcomers: &BTreeSet<PeerId>) {
        for peer in newcomers {
            if let Some(member) = self.members.get_mut(peer) {
                member.has = self.tally.settlements(member.group);
            }
        }
    }
}
