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

mod catching_up;
mod findings;
mod giving_up_rule;
mod later;
mod taking_over;

pub(super) use later::Later;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, info};

use super::{ConnectionId, Master, Output};
use crate::types::{PeerId, PeerName, RunId, Timestamp};
use crate::wire::control::{Hello, Join, Reign, ToMaster, ToPeer, Welcome};

/// Nobody ends an epoch sooner: who is alive dials several times in this, and may know of a newer one,
/// or be of another run.
const SETTLING: Duration = Duration::from_millis(500);

/// Pauses between two looks at the ports of those who are not back.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// A peer that has asked is taken for one that has lost its master for so long: an attempt to reach
/// the one before may take three seconds of it.
const INTEREST: Duration = Duration::from_secs(5);

/// What a master knows before it rules.
#[derive(Clone, Debug, Hash)]
pub(super) struct Listening {
    /// Of which run those are who have said hello.
    runs: BTreeMap<PeerId, RunId>,
    /// Whom those of the run have followed, at most.
    followed: BTreeMap<RunId, Reign>,
    /// Who may follow several masters, and has asked this one.
    interested: BTreeMap<PeerId, Interest>,
    /// When one of a run was last here, or the master came.
    last_here: Timestamp,
    /// Since when a majority is here.
    enough_since: Option<Timestamp>,
    /// Who has been told to stay because it is.
    staying: BTreeSet<PeerId>,
    /// Nobody listens on their ports any more.
    refused: BTreeSet<PeerId>,
    dead: BTreeSet<PeerId>,
    next_probe: Timestamp,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Interest {
    run: RunId,
    /// Of so many voters it is one.
    of: u32,
    at: Timestamp,
}

impl Listening {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            runs: BTreeMap::new(),
            followed: BTreeMap::new(),
            interested: BTreeMap::new(),
            last_here: now,
            enough_since: None,
            staying: BTreeSet::new(),
            refused: BTreeSet::new(),
            dead: BTreeSet::new(),
            next_probe: now,
        }
    }

    /// The highest reign that anybody of this run has followed.
    pub(super) fn followed(&self, run: RunId) -> Option<Reign> {
        self.followed.get(&run).copied()
    }

    pub(super) fn note_refused(&mut self, peer: PeerId) {
        self.refused.insert(peer);
    }

    pub(super) fn note_dead(&mut self, peer: PeerId) {
        self.dead.insert(peer);
    }
}

impl Master {
    pub(super) fn on_hello_while_listening(
        &mut self,
        connection: ConnectionId,
        hello: Hello,
        from: SocketAddr,
    ) {
        let peers_max = self.config.peers_max;
        let (run, peer, token, reign) = match hello {
            Hello::Join(join) => return self.begin_or_wait(connection, join, from),
            Hello::Resume {
                run,
                peer,
                masters,
                one_of_voters,
                ..
            } if masters > 1 && !self.is_wanted(peer, run, one_of_voters) => {
                return self.ask_to_wait(connection, false);
            }
            Hello::Resume {
                run,
                peer,
                token,
                reign,
                ..
            } => (run, peer, token, reign),
        };
        // Not refused: that would be for good, and it may be somebody else who is wrong.
        let is_stranger = match self.members.get(&peer) {
            Some(member) if member.report.is_none() || member.token == token => false,
            Some(_) => !self.is_outnumbered(peer, run),
            None => self.members.len() >= peers_max,
        };
        if is_stranger {
            return self.outputs.push_back(Output::Close { connection });
        }
        let Some(listening) = &mut self.listening else {
            return;
        };
        listening.runs.insert(peer, run);
        if reign.start != self.reign.start {
            let followed = listening.followed.entry(run).or_default();
            *followed = reign.max(*followed);
        }
        listening.last_here = self.now;
        listening.staying.remove(&peer);
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

    /// A newcomer begins a new run if nobody of one before has come, here or to any other master that
    /// it may follow.
    fn begin_or_wait(&mut self, connection: ConnectionId, join: Join, from: SocketAddr) {
        let nobody_came = self.nobody_came();
        if nobody_came && join.nobody_came {
            self.begin_new_run();
            self.register(connection, join, from);
        } else {
            debug!(label = %join.label, %from, "a newcomer waits until a run goes on or begins");
            self.ask_to_wait(connection, nobody_came);
        }
    }

    fn ask_to_wait(&mut self, connection: ConnectionId, nobody_came: bool) {
        self.outputs.push_back(Output::Welcome {
            connection,
            welcome: Welcome::Waiting { nobody_came },
            accepted: false,
        });
        self.outputs.push_back(Output::Close { connection });
    }

    /// Whether those of a run that may follow other masters as well are to follow this one: most of
    /// its voters have lost theirs. Their promise costs another master its rule, so a few do not do.
    fn is_wanted(&mut self, peer: PeerId, run: RunId, one_of_voters: u32) -> bool {
        let now = self.now;
        let Some(listening) = &mut self.listening else {
            return false;
        };
        listening.last_here = now;
        let interest = Interest {
            run,
            of: one_of_voters,
            at: now,
        };
        listening
            .interested
            .retain(|_, other| now.since(other.at) < INTEREST);
        if one_of_voters > 0 && listening.interested.len() < self.config.peers_max {
            listening.interested.insert(peer, interest);
        }
        let of_run = listening.interested.values().filter(|i| i.run == run);
        let (count, of) = of_run.fold((0, 0), |(count, of), i| (count + 1, i.of.max(of)));
        count * 2 > of && of > 0
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
                member.name = report.name.clone();
                member.group = report.group;
                member.lanes = report.lanes;
                member.masters = report.masters;
                let name = member.name.clone();
                member.report = Some(report);
                let findings = self.findings();
                let missing: Vec<String> =
                    findings.absent.values().map(PeerName::to_string).collect();
                info!(%name, is_majority = findings.is_enough, ?missing, "has come back, and reports");
            }
            ToMaster::Promised { term } => {
                if let Some(report) = &mut member.report {
                    report.term = term;
                }
            }
            ToMaster::Leave => self.on_leave(peer),
            ToMaster::Redialling => self.on_redialling(peer),
            message => {
                if !member.later.push(message) {
                    self.evict(peer, "it says too much before the master rules".to_owned());
                }
            }
        }
    }

    pub(super) fn listening_deadline(&self) -> Option<Timestamp> {
        let listening = self.listening.as_ref()?;
        let patience = self.patience_with_the_rest();
        let enough = listening.enough_since.into_iter();
        let enough = enough.flat_map(|since| [since + SETTLING, since + patience]);
        let enough = enough.filter(|at| *at > self.now).min();
        let has_reports = self.members.values().any(|member| member.report.is_some());
        let probe = has_reports.then_some(listening.next_probe);
        enough.into_iter().chain(probe).min()
    }

    /// Who is alive notices that the master is another one, and is here, within this. Where there
    /// are several masters it may have gone to another one first, and have waited there.
    fn patience_with_the_rest(&self) -> Duration {
        let patience = self.config.silence_ceiling + self.config.resume_grace;
        match self.has_rivals() {
            true => 2 * patience,
            false => patience,
        }
    }

    /// Whether those who are here may go to another master.
    fn has_rivals(&self) -> bool {
        self.reports().any(|(_, report)| report.masters > 1)
    }

    /// Who may go to another master is to stay, as a majority is here.
    fn ask_to_stay(&mut self) {
        let has_rivals = self.has_rivals();
        // It may have been here for longer than the others.
        let at_most = 2 * self.patience_with_the_rest();
        let here: Vec<PeerId> = self.reports().map(|(peer, _)| *peer).collect();
        for peer in here.into_iter().filter(|_| has_rivals) {
            let listening = self.listening.as_mut();
            if listening.is_some_and(|l| l.staying.insert(peer)) {
                self.say_stay(peer, at_most);
            }
        }
    }

    /// It no longer is: the majority may meet elsewhere.
    fn release(&mut self) {
        let listening = self.listening.as_mut();
        let staying = listening.map(|listening| {
            listening.enough_since = None;
            std::mem::take(&mut listening.staying)
        });
        let at_most = self.config.silence_ceiling / 2;
        for peer in staying.into_iter().flatten() {
            self.say_stay(peer, at_most);
        }
    }

    fn say_stay(&mut self, peer: PeerId, at_most: Duration) {
        let at_most_ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        self.say(peer, ToPeer::Stay { at_most_ms });
    }

    /// Whether it has waited for as long as it does, and nobody of a run was here.
    fn nobody_came(&self) -> bool {
        let window = self.config.recovery_window;
        self.listening
            .as_ref()
            .is_some_and(|listening| self.now.since(listening.last_here) >= window)
    }

    /// Begins to rule if it may by now.
    pub(super) fn rule_where_possible(&mut self) -> bool {
        if self.members.values().all(|member| member.report.is_none()) {
            self.release();
            return self.listening.is_none();
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
            self.release();
            return false;
        }
        let since = *listening.enough_since.get_or_insert(now);
        // What one who is here is about to report may change all of it.
        let is_awaited = self.members.values().any(|member| member.report.is_none());
        let waits_for = match is_awaited || !findings.absent.is_empty() {
            true => patience,
            false if !findings.is_everybody => SETTLING,
            false => Duration::ZERO,
        };
        if now.since(since) < waits_for {
            self.ask_to_stay();
            return false;
        }
        self.take_over(findings);
        true
    }

    /// Nobody of a run before has come.
    fn begin_new_run(&mut self) {
        self.listening = None;
        info!(run = %self.run, "a new run begins");
        self.recalled = None;
        // Who has only said hello does not say what it was part of.
        self.members.clear();
        for connection in std::mem::take(&mut self.connections).into_keys() {
            self.outputs.push_back(Output::Close { connection });
        }
        self.remember_ruling();
    }
}
