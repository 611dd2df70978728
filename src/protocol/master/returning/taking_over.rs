//! The moment from which a master rules: what it makes its own of what the reports say, and who is
//! not part of it.

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;

use super::catching_up::Remembered;
use super::findings::Findings;
use crate::mutation::{Mutation, mutated};
use crate::protocol::master::epochs::ActiveEpoch;
use crate::protocol::master::members::Departure;
use crate::protocol::master::operations::Operations;
use crate::protocol::master::{Master, first_round};
use crate::types::{Epoch, GroupId, OperationId, PeerId, PeerName};
use crate::wire::control::{CallCounts, Outcome, Proposal, Report, ToPeer};

/// Ids that are left free above the highest one that is known: another master may have given some
/// to peers that were not let in.
const IDS_APART: u64 = 1000;
/// Higher ones were given by no master: a report that has them lies.
const HIGHEST_ID: u64 = u64::MAX / 2;
/// Ranges of ids among which the start of a master chooses.
const STARTS_APART: u64 = 90;

impl Master {
    /// Rules from now on, over those who have reported.
    pub(super) fn take_over(&mut self, findings: Findings) {
        let run = self.run_that_returns().unwrap_or(self.run);
        let dead = self.known_dead();
        self.run = run;
        self.next_round = first_round(self.reign.term);
        let Findings {
            active,
            proposed,
            expected,
            is_everybody,
            ..
        } = findings;
        self.learn_numbers(active.as_ref(), proposed.as_ref(), &expected);
        let reported: BTreeSet<PeerId> = self.reports().map(|(peer, _)| *peer).collect();
        let members = active.as_ref().map(|p| self.members_of(p));
        let members = members.unwrap_or_default();
        info!(
            %run,
            term = self.reign.term,
            peers = reported.len(),
            absent = expected.len().saturating_sub(reported.len()),
            goes_on = is_everybody,
            "this master rules"
        );
        if let Some(active) = &active {
            self.active = self.epoch_of(active);
            self.active.must_end = !is_everybody && !mutated(Mutation::GoOnWithoutTheAbsent);
            for (group, names) in self.groups_of(active) {
                let lost = names
                    .into_iter()
                    .filter(|name| !reported.contains(&name.id));
                for name in lost {
                    if dead.contains(&name.id) && self.active.voters.contains(&name.id) {
                        self.active.agreed.insert(name.id);
                    }
                    let reason = "it did not come back to the master".to_owned();
                    self.note_gone(name.id, reason.clone());
                    self.active
                        .lost
                        .entry(group)
                        .or_default()
                        .push((name, reason));
                }
            }
            self.operations = self.operations_of(active.epoch);
        }
        self.inherited = match is_everybody || mutated(Mutation::InheritNothing) {
            true => BTreeMap::new(),
            false => self.outcomes_until(active.as_ref(), proposed.as_ref(), &members, &expected),
        };
        let everybody: Vec<PeerId> = self.members.keys().copied().collect();
        let has_standbys = self.reports().any(|(_, report)| report.masters > 1);
        self.active.has_standbys = has_standbys;
        self.remember_ruling();
        let remembered = Remembered {
            reports: self.remembered().cloned().collect(),
            outcomes: active
                .as_ref()
                .map_or(Vec::new(), |active| self.remembered_outcomes(active.epoch)),
        };
        // From here on outputs go out as of one who rules.
        let Some(listening) = self.listening.take() else {
            return;
        };
        for peer in everybody {
            let is_member = members.contains_key(&peer);
            let is_left_out = is_member && !expected.contains_key(&peer);
            let Some(member) = self.members.get_mut(&peer) else {
                continue;
            };
            let was_member = member
                .report
                .as_ref()
                .is_some_and(|report| report.active.is_some());
            if !reported.contains(&peer) {
                let is_of_another = listening.runs.get(&peer) != Some(&run);
                let reason = match member.report.is_some() && is_of_another {
                    true => "more peers of another run have come back",
                    false => "it did not report to the master in time",
                };
                self.remove(peer, Departure::Evicted, reason.to_owned());
            } else if (is_left_out && !mutated(Mutation::TakeBackWhoWasLeftOut))
                || (was_member && !is_member)
            {
                self.leave_out(peer);
            } else {
                member.accepted = is_member;
                self.say(peer, ToPeer::RunGoesOn);
            }
        }
        self.tell_what_is_missing(active.as_ref(), remembered);
    }

    /// The epoch that followed, or was proposed, is without this peer.
    fn leave_out(&mut self, peer: PeerId) {
        let group = self.members.get(&peer).map(|member| member.group);
        let name = self.members.get(&peer).map(|member| member.name.clone());
        let reason = "the run has gone on without it".to_owned();
        self.evict(peer, reason.clone());
        if let (Some(group), Some(name)) = (group, name)
            && self
                .active
                .rings
                .get(&group)
                .is_some_and(|ring| ring.contains(&peer))
        {
            self.active
                .lost
                .entry(group)
                .or_default()
                .push((name, reason));
        }
    }

    fn groups_of(&self, proposal: &Proposal) -> BTreeMap<GroupId, Vec<PeerName>> {
        let mut groups: BTreeMap<GroupId, Vec<PeerName>> =
            proposal.others.iter().cloned().collect();
        let ring = &proposal.ring;
        // Of an epoch that its members have not heard of only what was written down tells.
        let told = self.reports().map(|(_, report)| report);
        let own = told.chain(self.remembered()).find_map(|report| {
            let known = [&report.active, &report.proposed].into_iter().flatten();
            let mut same = known.filter(|other| other.epoch == proposal.epoch);
            same.any(|other| other.ring == *ring)
                .then_some(report.group)
        });
        if let Some(own) = own {
            groups.insert(own, ring.clone());
        }
        groups
    }

    fn epoch_of(&self, proposal: &Proposal) -> ActiveEpoch {
        let groups = self.groups_of(proposal);
        let ids = |names: Vec<PeerName>| names.into_iter().map(|name| name.id).collect();
        ActiveEpoch {
            rings: groups
                .into_iter()
                .map(|(group, names)| (group, ids(names)))
                .collect(),
            voters: proposal.voters.iter().copied().collect(),
            epoch: proposal.epoch,
            ..ActiveEpoch::none(self.reign.term)
        }
    }

    /// Numbers, revisions and secrets that another master gave.
    fn learn_numbers(
        &mut self,
        active: Option<&Proposal>,
        proposed: Option<&Proposal>,
        expected: &BTreeMap<PeerId, PeerName>,
    ) {
        let known = [active, proposed];
        let members: BTreeSet<PeerId> = active
            .map(|active| self.members_of(active).into_keys().collect())
            .unwrap_or_default();
        // Who the run goes on without may know of calls, and of a state, that are lost with it; and so
        // may an old copy of what was written down.
        let is_current = |peer: &Option<PeerId>, report: &Report| match peer {
            Some(peer) => members.contains(peer) && expected.contains_key(peer),
            None => report.active.as_ref().map(|a| a.epoch) == active.map(|a| a.epoch),
        };
        let of_run = self.listening.as_ref().map(|l| &l.runs);
        let of_run = of_run
            .into_iter()
            .flatten()
            .filter(|(_, run)| **run == self.run);
        let mut highest = of_run.map(|(peer, _)| peer.0).max().unwrap_or(0);
        let reports = self.reports();
        let remembered = self.remembered().map(|report| (None, report.clone()));
        let reports = reports.map(|(p, r)| (Some(*p), r.clone()));
        // What was written down is nobody's.
        let reports: Vec<(Option<PeerId>, Report)> = reports.chain(remembered).collect();
        for (peer, report) in &reports {
            for proposal in [&report.active, &report.proposed].into_iter().flatten() {
                let known = self.members_of(proposal);
                highest = highest.max(known.keys().next_back().map_or(0, |peer| peer.0));
                let Some(peer) = *peer else { continue };
                for link in &proposal.links {
                    let pair = (peer.min(link.peer.id), peer.max(link.peer.id));
                    self.link_secrets.insert(pair, link.secret);
                }
            }
            let proposals = [&report.active, &report.proposed].into_iter().flatten();
            let listed = proposals.flat_map(|proposal| &proposal.outcomes);
            let numbers = report.outcomes.iter().chain(listed).map(|s| s.number);
            let settlements = numbers.max().unwrap_or(0);
            let counts = match is_current(peer, report) {
                true => report.completed.counts,
                false => CallCounts::default(),
            };
            self.tally.learn(report.group, counts, settlements);
            // The update that let newcomers in has ended, for all that know the epoch or not.
            if let Some(active) = &report.active {
                self.tally.learn(report.group, active.calls, 0);
            }
            if is_current(peer, report) {
                let state = self.shared_state.entry(report.group).or_default();
                state.expected = state.expected.max(report.expected);
            }
        }
        let counts = known.into_iter().flatten();
        let count = counts.map(|p| p.epoch.count).max().unwrap_or(0);
        self.last_count = self.last_count.max(count);
        // By the start as well, or two masters would give the same to those of whom nobody told
        // the other.
        let apart = highest.min(HIGHEST_ID) / IDS_APART + 1 + self.reign.start % STARTS_APART;
        self.next_peer = self.next_peer.max(apart * IDS_APART + 1);
        self.next_peer = self.next_peer.max(self.remembered_next_peer(self.run));
    }

    /// What was settled in an epoch, as those have it who are here.
    fn operations_of(&self, epoch: Epoch) -> BTreeMap<GroupId, Operations> {
        let mut operations: BTreeMap<GroupId, Operations> = self
            .active
            .rings
            .keys()
            .map(|group| (*group, Operations::new(epoch)))
            .collect();
        for (_, report) in self.reports() {
            let is_in_it = report.active.as_ref().is_some_and(|a| a.epoch == epoch);
            if let Some(operations) = operations.get_mut(&report.group)
                && is_in_it
            {
                for (tag, settled) in &report.settled {
                    operations.learn(*tag, *settled);
                }
            }
        }
        for (group, settlement) in self.remembered_outcomes(epoch) {
            if let Some(operations) = operations.get_mut(&group) {
                let op = settlement.op;
                operations.learn(op.tag, op.n.saturating_add(1));
            }
        }
        operations
    }

    /// How operations have ended, or are to end, that a member may not know of: what a member holds,
    /// else what the active epoch began with, else what the newest proposal says.
    fn outcomes_until(
        &self,
        active: Option<&Proposal>,
        proposed: Option<&Proposal>,
        members: &BTreeMap<PeerId, PeerName>,
        expected: &BTreeMap<PeerId, PeerName>,
    ) -> BTreeMap<GroupId, BTreeMap<OperationId, Outcome>> {
        let mut outcomes: BTreeMap<GroupId, BTreeMap<OperationId, Outcome>> = BTreeMap::new();
        let staying = self
            .reports()
            .filter(|(peer, _)| members.contains_key(peer) && expected.contains_key(peer));
        let staying: Vec<&Report> = staying.map(|(_, report)| report).collect();
        for epoch in [active, proposed].into_iter().flatten() {
            for report in &staying {
                let known = [&report.active, &report.proposed].into_iter().flatten();
                let same = known.filter(|known| known.epoch == epoch.epoch);
                let of_group = outcomes.entry(report.group).or_default();
                for settlement in same.flat_map(|known| &known.outcomes) {
                    let outcome = of_group.entry(settlement.op);
                    outcome.or_insert_with(|| settlement.outcome.clone());
                }
            }
        }
        if let Some(active) = active {
            for (group, settlement) in self.remembered_outcomes(active.epoch) {
                let outcome = outcomes.entry(group).or_default().entry(settlement.op);
                outcome.or_insert(settlement.outcome);
            }
        }
        for report in staying {
            let of_group = outcomes.entry(report.group).or_default();
            for settlement in &report.outcomes {
                of_group.insert(settlement.op, settlement.outcome.clone());
            }
        }
        outcomes
    }
}
