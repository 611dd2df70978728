//! What a master has told, as it is written down: one more report for one that comes back, never a
//! substitute for those of a majority. It may be an old copy, so it is not heard where anybody has
//! followed another master since.

use std::collections::BTreeMap;

use super::Master;
use crate::types::{Epoch, GroupId, PeerId, PeerName, Revision, RunId};
use crate::wire::control::{CallResult, Completed, Proposal, Reign, Report, Settlement, ToPeer};
use crate::wire::record::Record;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct Memory {
    run: RunId,
    reign: Reign,
    next_peer: u64,
    /// What the members of each group know, as one of them would report it.
    groups: BTreeMap<GroupId, Report>,
}

impl Memory {
    /// The highest term that it knows.
    pub fn term(&self) -> u32 {
        self.reign.term
    }

    /// All of it, for a file that begins anew.
    pub fn records(&self) -> Vec<Record> {
        let ruling = Record::Ruling {
            run: self.run,
            reign: self.reign,
        };
        let known = self.groups.values().cloned();
        [ruling, Record::NextPeer(self.next_peer)]
            .into_iter()
            .chain(known.map(|report| Record::Known(Box::new(report))))
            .collect()
    }

    /// Takes in what was written after the rest.
    pub fn learn(&mut self, record: Record) {
        match record {
            Record::Ruling { run, reign } => {
                *self = Self {
                    run,
                    reign,
                    ..Self::default()
                };
            }
            Record::NextPeer(id) => self.next_peer = id,
            Record::Known(report) => {
                self.groups.insert(report.group, *report);
            }
            Record::Told { group, message } => self.hear(group, message),
        }
    }

    /// As a member of the group.
    fn hear(&mut self, group: GroupId, message: ToPeer) {
        let report = self.groups.entry(group).or_insert_with(|| nothing(group));
        match message {
            ToPeer::EpochProposed(proposal) => {
                report.proposed = Some(Proposal {
                    links: Vec::new(),
                    ..proposal
                });
            }
            ToPeer::EpochActive { epoch } => {
                let proposed = report.proposed.take_if(|proposed| proposed.epoch == epoch);
                let Some(proposed) = proposed else { return };
                for settlement in proposed.outcomes.clone() {
                    settle(report, settlement);
                }
                if report.active.is_none() {
                    report.completed.counts = proposed.calls;
                }
                // A group that nobody of before is in starts afresh.
                let is_new =
                    |name: &PeerName| proposed.ring.iter().all(|other| other.id != name.id);
                let before = report.active.as_ref();
                if before.is_none_or(|before| before.ring.iter().all(is_new)) {
                    report.expected = None;
                }
                report.active = Some(proposed.clone());
                self.groups.retain(|other, _| {
                    *other == group || proposed.others.iter().any(|(there, _)| there == other)
                });
            }
            ToPeer::OperationSettled(settlement) => {
                settle(report, settlement);
            }
            ToPeer::CallDone { number, result } if number > 0 => {
                let completed = &mut report.completed;
                match result {
                    CallResult::Updated => completed.counts.updates = number,
                    CallResult::Pending(_) => {
                        completed.counts.pendings = number;
                        completed.pending = Some(result);
                    }
                    result => {
                        if let CallResult::Synced { revision } = &result {
                            report.expected = Some(Revision(revision.0.saturating_add(1)));
                        }
                        completed.counts.syncs = number;
                        completed.sync = Some(result);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether a message would tell it anything.
    fn is_news(&self, group: GroupId, message: &ToPeer) -> bool {
        let report = self.groups.get(&group);
        let proposed = report.and_then(|r| r.proposed.as_ref()).map(|p| p.epoch);
        let active = report.and_then(|r| r.active.as_ref()).map(|p| p.epoch);
        match message {
            ToPeer::EpochProposed(proposal) => proposed != Some(proposal.epoch),
            ToPeer::EpochActive { epoch } => active != Some(*epoch),
            ToPeer::OperationSettled(settlement) => report.is_none_or(|report| {
                !report
                    .outcomes
                    .iter()
                    .any(|s| s.number == settlement.number)
            }),
            ToPeer::CallDone { number, result } if *number > 0 => {
                let counts = report.map(|report| report.completed.counts);
                let known = counts.map(|counts| match result {
                    CallResult::Updated => counts.updates,
                    CallResult::Pending(_) => counts.pendings,
                    _ => counts.syncs,
                });
                known != Some(*number)
            }
            _ => false,
        }
    }
}

fn settle(report: &mut Report, settlement: Settlement) {
    let everybody_has = settlement.everybody_has;
    report
        .outcomes
        .retain(|outcome| outcome.number > everybody_has);
    report.outcomes.push(settlement);
}

fn nothing(group: GroupId) -> Report {
    Report {
        term: 0,
        group,
        name: PeerName {
            id: PeerId(0),
            label: String::new(),
            address: String::new(),
        },
        lanes: None,
        masters: 1,
        active: None,
        proposed: None,
        expected: None,
        settled: Vec::new(),
        outcomes: Vec::new(),
        completed: Completed::default(),
    }
}

impl Master {
    /// Remembers what is about to be told, if it does so at all.
    pub(super) fn remember_told(&mut self, group: GroupId, message: &ToPeer) {
        let is_news = |memory: &Memory| memory.is_news(group, message);
        if self.memory.as_ref().is_some_and(is_news) {
            let message = match message {
                ToPeer::EpochProposed(proposal) => ToPeer::EpochProposed(Proposal {
                    links: Vec::new(),
                    ..proposal.clone()
                }),
                message => message.clone(),
            };
            self.remember(Record::Told { group, message });
        }
    }

    /// Remembers what it rules over from now on: what those know who are here, and what was written
    /// down of the same epoch, which the file is about to lose.
    pub(super) fn remember_ruling(&mut self) {
        let epoch = |report: &Report| report.active.as_ref().map(|active| active.epoch);
        let mut newest: BTreeMap<GroupId, Report> = BTreeMap::new();
        let current = Some(self.active.epoch);
        let remembered = self.remembered().filter(|r| epoch(r) == current);
        for report in self.reports().map(|(_, report)| report).chain(remembered) {
            let known = newest.get(&report.group);
            let is_newer = |known: &Report| {
                (epoch(known), known.completed.counts.syncs)
                    < (epoch(report), report.completed.counts.syncs)
            };
            if known.is_none_or(is_newer) {
                newest.insert(report.group, report.clone());
            }
        }
        for (group, settlement) in self.remembered_outcomes(self.active.epoch) {
            if let Some(report) = newest.get_mut(&group)
                && !report.outcomes.iter().any(|s| s.op == settlement.op)
            {
                settle(report, settlement);
            }
        }
        self.remember(Record::Ruling {
            run: self.run,
            reign: self.reign,
        });
        self.remember_next_peer();
        for mut report in newest.into_values() {
            // What settled is in the outcomes, and secrets of links stay with the two that have them.
            report.settled.clear();
            let known = [&mut report.active, &mut report.proposed];
            for proposal in known.into_iter().flatten() {
                proposal.links.clear();
            }
            self.remember(Record::Known(Box::new(report)));
        }
    }

    /// Remembers which ids are given.
    pub(super) fn remember_next_peer(&mut self) {
        self.remember(Record::NextPeer(self.next_peer));
    }

    fn remember(&mut self, record: Record) {
        if let Some(memory) = &mut self.memory {
            memory.learn(record.clone());
            self.outputs.push_back(super::Output::Record(record));
        }
    }

    /// What was written down of the run that comes back, where nobody has followed another master
    /// since.
    pub(super) fn remembered(&self) -> impl Iterator<Item = &Report> {
        let run = self.run_that_returns();
        let listening = self.listening.as_ref();
        let followed = run.and_then(|run| listening?.followed(run));
        let memory = self.recalled.as_ref().filter(|memory| {
            let is_old = followed.is_some_and(|followed| {
                followed.term > memory.reign.term
                    || (followed.term == memory.reign.term && followed != memory.reign)
            });
            Some(memory.run) == run && !is_old
        });
        memory.into_iter().flat_map(|memory| memory.groups.values())
    }

    /// Outcomes of this epoch that were written down, and that nobody who is here has heard of.
    pub(super) fn remembered_outcomes(&self, epoch: Epoch) -> Vec<(GroupId, Settlement)> {
        let mut outcomes = Vec::new();
        for report in self.remembered() {
            let of_epoch = report.outcomes.iter().filter(|s| s.op.epoch == epoch);
            for settlement in of_epoch {
                let op = settlement.op;
                let has_settled = |other: &Report| {
                    other.group == report.group
                        && (other
                            .settled
                            .iter()
                            .any(|(tag, n)| *tag == op.tag && *n > op.n)
                            || other.outcomes.iter().any(|known| known.op == op))
                };
                if !self.reports().any(|(_, other)| has_settled(other)) {
                    outcomes.push((report.group, settlement.clone()));
                }
            }
        }
        outcomes
    }

    /// The lowest id that may be free, as far as was written down.
    pub(super) fn remembered_next_peer(&self, run: RunId) -> u64 {
        let memory = self.recalled.as_ref().filter(|memory| memory.run == run);
        memory.map_or(0, |memory| memory.next_peer)
    }
}
