//! What some members know of a run that goes on, and others have missed.

use std::collections::BTreeMap;

use super::Later;
use crate::mutation::{Mutation, mutated};
use crate::protocol::master::Master;
use crate::types::{GroupId, PeerId};
use crate::wire::control::{CallResult, JointCall, Proposal, Report, Settlement, ToMaster, ToPeer};

/// What was written down that those who are here may not know.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) reports: Vec<Report>,
    /// Outcomes of the active epoch.
    pub(super) outcomes: Vec<(GroupId, Settlement)>,
}

impl Master {
    /// Tells each member what others know that it does not, and takes in what it said since.
    pub(super) fn tell_what_is_missing(
        &mut self,
        active: Option<&Proposal>,
        remembered: Remembered,
    ) {
        let epoch = active.map(|active| active.epoch);
        let accepted: Vec<PeerId> = self.accepted(None).map(|(peer, _)| *peer).collect();
        // Outcomes of the active epoch, each once, in the order in which they came about.
        let mut known: BTreeMap<(GroupId, u64), Settlement> = BTreeMap::new();
        let mut answers: BTreeMap<(GroupId, &'static str), (u64, CallResult)> = BTreeMap::new();
        for (group, settlement) in remembered.outcomes {
            known.insert((group, settlement.number), settlement);
        }
        let reports: Vec<&Report> = accepted
            .iter()
            .filter_map(|peer| self.members.get(peer)?.report.as_deref())
            .collect();
        for report in &reports {
            for settlement in &report.outcomes {
                if Some(settlement.op.epoch) == epoch {
                    known.insert((report.group, settlement.number), settlement.clone());
                }
            }
        }
        // What peers say comes first: of two answers of a number the first one stays.
        for report in reports.into_iter().chain(&remembered.reports) {
            let completed = &report.completed;
            let pending = (completed.counts.pendings, &completed.pending);
            let sync = (completed.counts.syncs, &completed.sync);
            for (kind, (number, answer)) in
                [("are_peers_pending", pending), ("sync_shared_state", sync)]
            {
                let Some(answer) = answer else { continue };
                let entry = answers.entry((report.group, kind));
                let newest = entry.or_insert_with(|| (number, answer.clone()));
                if newest.0 < number {
                    *newest = (number, answer.clone());
                }
            }
        }
        // Asked by all groups, answered once.
        let of_all = answers
            .iter()
            .filter(|((_, kind), _)| *kind == "are_peers_pending")
            .map(|(_, answer)| answer.clone())
            .max_by_key(|(number, _)| *number);
        let mut told = Vec::new();
        for peer in accepted {
            let Some(member) = self.members.get_mut(&peer) else {
                continue;
            };
            let Some(report) = member.report.take() else {
                continue;
            };
            let group = member.group;
            member.has = self.tally.settlements(group);
            let sync = answers.get(&(group, "sync_shared_state"));
            // Who knows of no epoch that was active has not called.
            let synced_by_others = sync.is_some_and(|(number, answer)| {
                report.active.is_some()
                    && *number == report.completed.counts.syncs.saturating_add(1)
                    && matches!(answer, CallResult::Synced { .. })
            });
            member.synced = report.expected.is_some() || synced_by_others;
            let is_in_it = report.active.as_ref().map(|a| a.epoch) == epoch;
            if is_in_it && !self.active.must_end {
                let settled: BTreeMap<_, _> = report.settled.iter().copied().collect();
                let missing: Vec<Settlement> = known
                    .range((group, 0)..=(group, u64::MAX))
                    .map(|(_, settlement)| settlement)
                    .filter(|s| settled.get(&s.op.tag).is_none_or(|count| *count <= s.op.n))
                    .cloned()
                    .collect();
                if let (Some(first), Some(member)) = (missing.first(), self.members.get_mut(&peer))
                {
                    member.has = first.number.saturating_sub(1);
                }
                for settlement in missing {
                    self.say(peer, ToPeer::OperationSettled(settlement));
                }
            }
            told.push((peer, report));
        }
        // What they said since may end something: later than what has ended before.
        for (peer, report) in told {
            let later = self
                .members
                .get_mut(&peer)
                .map(|m| std::mem::take(&mut m.later));
            let sync = answers.get(&(report.group, "sync_shared_state"));
            for message in later.into_iter().flat_map(Later::into_messages) {
                // Those of whom it would be a witness were here after it.
                if !matches!(message, ToMaster::LinkState { up: false, .. }) {
                    self.on_message(peer, message);
                }
                // Before it can cancel what has ended for others.
                self.answer_who_is_behind(peer, &report, sync, of_all.as_ref());
            }
        }
        if !self.active.must_end {
            self.answer_who_is_owed();
        }
    }

    /// Those whose epoch ends hear it when the next one is active.
    pub(in crate::protocol::master) fn answer_who_is_owed(&mut self) {
        for (peer, (number, answer)) in std::mem::take(&mut self.answers_owed) {
            self.finish_calls(&[peer], number, |_| Some(answer.clone()));
        }
    }

    /// Ends a call that has ended for others.
    fn answer_who_is_behind(
        &mut self,
        peer: PeerId,
        report: &Report,
        sync: Option<&(u64, CallResult)>,
        pending: Option<&(u64, CallResult)>,
    ) {
        let counts = report.completed.counts;
        let Some(call) = self.members.get(&peer).and_then(|m| m.call.as_ref()) else {
            return;
        };
        let one_behind = |newest: Option<&(u64, CallResult)>, own: u64| {
            newest
                .filter(|(number, _)| *number == own.saturating_add(1))
                .cloned()
        };
        let answer = match call {
            JointCall::UpdateTopology => (self.tally.updates == counts.updates.saturating_add(1))
                .then_some((self.tally.updates, CallResult::Updated)),
            JointCall::ArePeersPending => one_behind(pending, counts.pendings),
            JointCall::SyncSharedState(_) => one_behind(sync, counts.syncs),
        };
        if let Some(answer) = answer.filter(|_| !mutated(Mutation::AnswerNobodyBehind)) {
            self.answers_owed.insert(peer, answer);
        }
    }
}
