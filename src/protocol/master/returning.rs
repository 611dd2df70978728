//! A master that has just come: it listens before it rules.
//!
//! ```text
//!             hello of a peer that had another master
//!   listening ──────────────────────────────► it follows, and reports what it holds
//!      │                                          │
//!      │ nobody within recovery_window            │ a majority of the voters of the last active
//!      ▼                                          ▼ epoch, and half of every proposal above it
//!   a new run                       everybody ────┴──── the rest does not come in time
//!                                       │                        │
//!                           the epoch goes on           it ends by a proposal,
//!                                                       nothing is settled before
//! ```
//!
//! Two masters cannot decide differently: each needs the word of a majority, given in its own term,
//! and who has given it acknowledges nothing of a lower one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{info, warn};

use super::epochs::ActiveEpoch;
use super::members::Departure;
use super::operations::Operations;
use super::{ConnectionId, Master, Output, first_round};
use crate::mutation::{Mutation, mutated};
use crate::types::{Epoch, GroupId, OperationId, PeerId, PeerName, RunId, Timestamp};
use crate::wire::control::{
    CallResult, Hello, Join, JointCall, Outcome, Proposal, Report, Settlement, ToMaster, ToPeer,
    Welcome,
};

/// Messages of one peer that are kept until the master rules: more than an honest one can have
/// under way.
const LATER_MAX: usize = 4096;

/// Pauses between two looks at the ports of those who are not back.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// Ids that are left free above the highest one that is known: another master may have given some
/// to peers that were not let in.
const IDS_APART: u64 = 1000;
/// Ranges of ids among which the start of a master chooses.
const STARTS_APART: u64 = 90;

/// What a master knows before it rules.
#[derive(Clone, Debug, Hash)]
pub(super) struct Listening {
    /// The run that comes back, once a peer of one has reported.
    run: Option<RunId>,
    /// Of which run those are who have said hello.
    runs: BTreeMap<PeerId, RunId>,
    /// When one who has reported was last here, or the master came.
    last_here: Timestamp,
    /// Who wants to join, and waits until it is known what.
    joins: VecDeque<(ConnectionId, Join, SocketAddr)>,
    /// Since when a majority is here.
    enough_since: Option<Timestamp>,
    /// Nobody listens on their ports any more.
    refused: BTreeSet<PeerId>,
    dead: BTreeSet<PeerId>,
    next_probe: Timestamp,
}

impl Listening {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            run: None,
            runs: BTreeMap::new(),
            last_here: now,
            joins: VecDeque::new(),
            enough_since: None,
            refused: BTreeSet::new(),
            dead: BTreeSet::new(),
            next_probe: now,
        }
    }

    pub(super) fn note_refused(&mut self, peer: PeerId) {
        self.refused.insert(peer);
    }

    pub(super) fn note_dead(&mut self, peer: PeerId) {
        self.dead.insert(peer);
    }
}

/// What the reports come to.
struct Findings {
    /// The newest epoch that anybody knows to be active.
    active: Option<Proposal>,
    /// The newest proposal above it.
    proposed: Option<Proposal>,
    /// Its members, or those of the active epoch where nothing is proposed.
    expected: BTreeMap<PeerId, PeerName>,
    /// Of them, who has neither reported nor is known dead.
    absent: BTreeMap<PeerId, PeerName>,
    /// Enough have reported for nothing that was decided to be unknown.
    is_enough: bool,
    /// Everybody is here, in the same epoch, and nothing else was proposed.
    is_everybody: bool,
}

impl Master {
    pub(super) fn on_hello_while_listening(
        &mut self,
        connection: ConnectionId,
        hello: Hello,
        from: SocketAddr,
    ) {
        let peers_max = self.config.peers_max;
        let Some(listening) = &mut self.listening else {
            return;
        };
        let Hello::Resume {
            run,
            peer,
            token,
            reign,
            ..
        } = hello
        else {
            if let Hello::Join(join) = hello {
                listening.joins.push_back((connection, join, from));
                if listening.joins.len() > peers_max
                    && let Some((connection, ..)) = listening.joins.pop_front()
                {
                    self.outputs.push_back(Output::Close { connection });
                }
            }
            return;
        };
        // Not refused: that would be for good, and it may be somebody else who is wrong.
        let is_stranger = match self.members.get(&peer) {
            Some(member) => member.report.is_some() && member.token != token,
            None => self.members.len() >= peers_max,
        };
        if is_stranger {
            return self.outputs.push_back(Output::Close { connection });
        }
        listening.runs.insert(peer, run);
        listening.refused.remove(&peer);
        listening.dead.remove(&peer);
        if reign.start != self.reign.start && reign.term >= self.reign.term {
            self.raise_term(reign.term);
        }
        if let Some(Some(older)) = self.members.get(&peer).map(|member| member.connection) {
            self.connections.remove(&older);
            self.outputs.push_back(Output::Close { connection: older });
        }
        // Known better once it has reported.
        let name = PeerName {
            id: peer,
            label: String::new(),
            address: from.to_string(),
        };
        let member = self.new_member(name, token, connection);
        self.members.insert(peer, member);
        self.connections.insert(connection, peer);
        self.outputs.push_back(Output::Welcome {
            connection,
            welcome: Welcome::Returned {
                reign: self.reign,
                timings: self.config.timings(),
            },
            accepted: true,
        });
    }

    /// Who is silent before the master rules is no longer counted on, and may come again: nobody is
    /// removed from a run without its majority.
    pub(super) fn forget_silent(&mut self, peer: PeerId) {
        let member = self.members.remove(&peer);
        if let Some(connection) = member.and_then(|member| member.connection) {
            self.connections.remove(&connection);
            self.outputs.push_back(Output::Close { connection });
        }
    }

    /// Takes a term above this one; who follows in a lower one is asked again.
    fn raise_term(&mut self, above: u32) {
        let term = above.saturating_add(1);
        info!(term, "a higher term is known; taking one above it");
        self.reign.term = term;
        let asked: Vec<PeerId> = self.members.keys().copied().collect();
        for peer in asked {
            self.say(peer, ToPeer::TermRaised { term });
        }
    }

    pub(super) fn on_message_while_listening(&mut self, peer: PeerId, message: ToMaster) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        match message {
            ToMaster::Report(report) => {
                if report.name.id != peer {
                    let reason = format!("it reports as peer {}", report.name.id);
                    return self.evict(peer, reason);
                }
                let Some(listening) = &mut self.listening else {
                    return;
                };
                let run = listening.runs.get(&peer).copied();
                if listening.run.is_some() && listening.run != run {
                    let reason = "peers of another run have come before it".to_owned();
                    return self.evict(peer, reason);
                }
                listening.run = run;
                listening.last_here = self.now;
                member.name = report.name.clone();
                member.group = report.group;
                member.lanes = report.lanes;
                info!(name = %member.name, "has come back, and reports");
                member.report = Some(report);
            }
            ToMaster::Promised { term } => {
                if let Some(report) = &mut member.report {
                    report.term = term;
                }
            }
            ToMaster::Leave => self.on_leave(peer),
            message if member.later.len() < LATER_MAX => member.later.push(message),
            _ => self.evict(peer, "it says too much before the master rules".to_owned()),
        }
    }

    /// Another master has ruled after this one: what is known here may be out of date. All peers are
    /// asked anew, in a term above.
    pub(super) fn step_down(&mut self, connection: ConnectionId, above: u32) {
        warn!(
            ours = self.reign.term,
            theirs = above,
            "another master has ruled after this one; asking all peers anew"
        );
        let mut config = self.config.clone();
        if config.recovery_window.is_zero() {
            config.recovery_window = config.silence_ceiling;
        }
        let seed = blake3::derive_key("pccl 2026 a start of a master", &self.seed);
        let mut anew = Master::new(config, self.run, above.saturating_add(1), seed, self.now);
        let open = self.connections.keys().copied().chain([connection]);
        let closed = open.map(|connection| Output::Close { connection });
        anew.outputs = std::mem::take(&mut self.outputs);
        anew.outputs.extend(closed);
        *self = anew;
    }

    pub(super) fn listening_deadline(&self) -> Option<Timestamp> {
        let listening = self.listening.as_ref()?;
        let enough = listening
            .enough_since
            .map(|since| since + self.patience_with_the_rest());
        let fresh = self.new_run_at();
        let has_reports = self.members.values().any(|member| member.report.is_some());
        let probe = has_reports.then_some(listening.next_probe);
        [enough, fresh, probe].into_iter().flatten().min()
    }

    /// Who is alive notices that the master is another one, and is here, within this.
    fn patience_with_the_rest(&self) -> Duration {
        self.config.silence_ceiling + self.config.resume_grace
    }

    /// When another run begins, if nobody of one before comes and somebody waits.
    fn new_run_at(&self) -> Option<Timestamp> {
        let listening = self.listening.as_ref()?;
        let at = listening.last_here + self.config.recovery_window;
        (!listening.joins.is_empty()).then_some(at)
    }

    /// Begins to rule if it may by now.
    pub(super) fn rule_where_possible(&mut self) -> bool {
        if self.members.values().all(|member| member.report.is_none()) {
            let Some(listening) = &mut self.listening else {
                return true;
            };
            listening.enough_since = None;
            let is_time = self.new_run_at().is_some_and(|at| at <= self.now);
            if is_time {
                self.begin_new_run();
            }
            return is_time;
        }
        let findings = self.findings();
        let now = self.now;
        let patience = self.patience_with_the_rest();
        let Some(listening) = &mut self.listening else {
            return true;
        };
        listening.last_here = now;
        if listening.next_probe <= now {
            listening.next_probe = now + PROBE_PAUSE;
            for (peer, name) in &findings.absent {
                self.outputs.push_back(Output::Probe {
                    peer: *peer,
                    address: name.address.clone(),
                });
            }
        }
        if !findings.is_enough {
            listening.enough_since = None;
            return false;
        }
        let since = *listening.enough_since.get_or_insert(now);
        // What one who is here is about to report may change all of it.
        let is_awaited = self.members.values().any(|member| member.report.is_none());
        if (is_awaited || !findings.absent.is_empty()) && now.since(since) < patience {
            return false;
        }
        self.take_over(findings);
        true
    }

    /// Nobody of a run before has come.
    fn begin_new_run(&mut self) {
        let Some(listening) = self.listening.take() else {
            return;
        };
        info!(run = %self.run, "a new run begins");
        // Who has only said hello does not say what it was part of.
        self.members.clear();
        for connection in std::mem::take(&mut self.connections).into_keys() {
            self.outputs.push_back(Output::Close { connection });
        }
        for (connection, join, from) in listening.joins {
            self.register(connection, join, from);
        }
    }

    fn reports(&self) -> impl Iterator<Item = (&PeerId, &Report)> {
        let term = self.reign.term;
        self.members
            .iter()
            .filter_map(|(peer, member)| Some((peer, member.report.as_deref()?)))
            .filter(move |(_, report)| report.term == term)
    }

    fn findings(&self) -> Findings {
        let active = self.reports().filter_map(|(_, r)| r.active.as_ref());
        let active = active.max_by_key(|proposal| proposal.epoch).cloned();
        let ended = active.as_ref().map(|active| active.epoch);
        // Those that the same epoch follows from are one proposal, told to each in its own words.
        let mut above: BTreeMap<Epoch, &Proposal> = BTreeMap::new();
        for (_, report) in self.reports() {
            if let Some(proposed) = &report.proposed
                && Some(proposed.epoch) > ended
            {
                above.insert(proposed.epoch, proposed);
            }
        }
        let dead = self.known_dead();
        let heard = |proposal: &Proposal| {
            let is_heard = |voter: &&PeerId| {
                dead.contains(voter) || self.reports().any(|(peer, _)| peer == *voter)
            };
            proposal.voters.iter().filter(is_heard).count()
        };
        // Half is enough to know that no majority has gone beyond a proposal.
        let have_spoken = active.iter().all(|p| heard(p) * 2 > p.voters.len())
            && above.values().all(|p| heard(p) * 2 >= p.voters.len());
        let is_enough = self.reports().next().is_some()
            && (have_spoken || mutated(Mutation::RuleWithoutMajority));
        let newest = above.values().next_back().copied();
        let expected: BTreeMap<PeerId, PeerName> = newest
            .or(active.as_ref())
            .map(|proposal| self.members_of(proposal))
            .unwrap_or_default();
        let is_here = |peer: &PeerId| self.reports().any(|(other, _)| other == peer);
        let absent: BTreeMap<PeerId, PeerName> = expected
            .iter()
            .filter(|(peer, _)| !is_here(peer) && !dead.contains(peer))
            .map(|(peer, name)| (*peer, name.clone()))
            .collect();
        let is_in_it = |peer: &PeerId| {
            let report = self.members.get(peer).and_then(|m| m.report.as_ref());
            let epoch = report.and_then(|report| report.active.as_ref());
            epoch.map(|active| active.epoch) == ended
        };
        let is_everybody = above.is_empty()
            && active.is_some()
            && expected.keys().all(|peer| is_here(peer) && is_in_it(peer));
        Findings {
            proposed: newest.cloned(),
            active,
            expected,
            absent,
            is_enough,
            is_everybody,
        }
    }

    /// All members of an epoch, of all groups: of each, somebody must know its own ring.
    fn members_of(&self, proposal: &Proposal) -> BTreeMap<PeerId, PeerName> {
        let others = proposal.others.iter().flat_map(|(_, ring)| ring);
        let names = proposal.ring.iter().chain(others);
        names.map(|name| (name.id, name.clone())).collect()
    }

    /// Who is not back, has nobody on its port, and has closed its lanes to one who is.
    fn known_dead(&self) -> BTreeSet<PeerId> {
        let Some(listening) = &self.listening else {
            return BTreeSet::new();
        };
        let mut dead = listening.dead.clone();
        for member in self.members.values().filter(|m| m.report.is_some()) {
            let mut closed = BTreeSet::new();
            for message in &member.later {
                match message {
                    ToMaster::LinkState { peer, up: false } => closed.insert(*peer),
                    ToMaster::LinkState { peer, up: true } => closed.remove(peer),
                    _ => continue,
                };
            }
            dead.extend(closed.intersection(&listening.refused));
        }
        dead
    }

    /// Rules from now on, over those who have reported.
    fn take_over(&mut self, findings: Findings) {
        let Some(listening) = self.listening.as_ref() else {
            return;
        };
        let run = listening.run.unwrap_or(self.run);
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
        self.learn_numbers(active.as_ref(), proposed.as_ref());
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
        // From here on outputs go out as of one who rules.
        let joins = self.listening.take().map(|listening| listening.joins);
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
                let reason = "it did not report to the master in time".to_owned();
                self.remove(peer, Departure::Evicted, reason);
            } else if (is_left_out && !mutated(Mutation::TakeBackWhoWasLeftOut))
                || (was_member && !is_member)
            {
                self.leave_out(peer);
            } else {
                member.accepted = is_member;
                self.say(peer, ToPeer::RunGoesOn);
            }
        }
        self.tell_what_is_missing(active.as_ref());
        for (connection, join, from) in joins.into_iter().flatten() {
            self.register(connection, join, from);
        }
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
        let own = self.reports().find_map(|(_, report)| {
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
    fn learn_numbers(&mut self, active: Option<&Proposal>, proposed: Option<&Proposal>) {
        let known = [active, proposed];
        let members: BTreeSet<PeerId> = active
            .map(|active| self.members_of(active).into_keys().collect())
            .unwrap_or_default();
        let mut highest = self.members.keys().next_back().map_or(0, |peer| peer.0);
        let reports: Vec<(PeerId, Box<Report>)> = self
            .members
            .iter()
            .filter_map(|(peer, member)| Some((*peer, member.report.clone()?)))
            .collect();
        for (peer, report) in &reports {
            for proposal in [&report.active, &report.proposed].into_iter().flatten() {
                let known = self.members_of(proposal);
                highest = highest.max(known.keys().next_back().map_or(0, |peer| peer.0));
                for link in &proposal.links {
                    let pair = (*peer.min(&link.peer.id), *peer.max(&link.peer.id));
                    self.link_secrets.insert(pair, link.secret);
                }
            }
            let proposals = [&report.active, &report.proposed].into_iter().flatten();
            let listed = proposals.flat_map(|proposal| &proposal.outcomes);
            let numbers = report.outcomes.iter().chain(listed).map(|s| s.number);
            let settlements = numbers.max().unwrap_or(0);
            self.tally
                .learn(report.group, report.completed.counts, settlements);
            // The update that let newcomers in has ended, for all that know the epoch or not.
            if let Some(active) = &report.active {
                self.tally.learn(report.group, active.calls, 0);
            }
            // Who the run has gone on without may know a state that was lost with it.
            if members.contains(peer) {
                let state = self.shared_state.entry(report.group).or_default();
                state.expected = state.expected.max(report.expected);
            }
        }
        let counts = known.into_iter().flatten();
        let count = counts.map(|p| p.epoch.count).max().unwrap_or(0);
        self.last_count = self.last_count.max(count);
        // By the start as well, or two masters would give the same to those of whom nobody told
        // the other.
        let apart = highest / IDS_APART + 1 + self.reign.start % STARTS_APART;
        self.next_peer = self.next_peer.max(apart * IDS_APART + 1);
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
        for report in staying {
            let of_group = outcomes.entry(report.group).or_default();
            for settlement in &report.outcomes {
                of_group.insert(settlement.op, settlement.outcome.clone());
            }
        }
        outcomes
    }

    /// Tells each member what others know that it does not, and takes in what it said since.
    fn tell_what_is_missing(&mut self, active: Option<&Proposal>) {
        let epoch = active.map(|active| active.epoch);
        let accepted: Vec<PeerId> = self.accepted(None).map(|(peer, _)| *peer).collect();
        // Outcomes of the active epoch, each once, in the order in which they came about.
        let mut known: BTreeMap<(GroupId, u64), Settlement> = BTreeMap::new();
        let mut answers: BTreeMap<(GroupId, &'static str), (u64, CallResult)> = BTreeMap::new();
        for peer in &accepted {
            let Some(report) = self.members.get(peer).and_then(|m| m.report.as_ref()) else {
                continue;
            };
            for settlement in &report.outcomes {
                if Some(settlement.op.epoch) == epoch {
                    known.insert((report.group, settlement.number), settlement.clone());
                }
            }
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
            let synced_by_others = sync.is_some_and(|(number, answer)| {
                *number == report.completed.counts.syncs + 1
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
            for message in later.into_iter().flatten() {
                // Those of whom it would be a witness were here after it.
                if !matches!(message, ToMaster::LinkState { up: false, .. }) {
                    self.on_message(peer, message);
                }
            }
            let sync = answers.get(&(report.group, "sync_shared_state"));
            self.answer_who_is_behind(peer, &report, sync, of_all.as_ref());
        }
        if !self.active.must_end {
            self.answer_who_is_owed();
        }
    }

    /// Those whose epoch ends hear it when the next one is active.
    pub(super) fn answer_who_is_owed(&mut self) {
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
            newest.filter(|(number, _)| *number == own + 1).cloned()
        };
        let answer = match call {
            JointCall::UpdateTopology => (self.tally.updates == counts.updates + 1)
                .then_some((self.tally.updates, CallResult::Updated)),
            JointCall::ArePeersPending => one_behind(pending, counts.pendings),
            JointCall::SyncSharedState(_) => one_behind(sync, counts.syncs),
        };
        if let Some(answer) = answer.filter(|_| !mutated(Mutation::AnswerNobodyBehind)) {
            self.answers_owed.insert(peer, answer);
        }
    }
}
