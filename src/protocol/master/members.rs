//! Who is here: registration, resume, and the three ways of going.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::absence::Closed;
use super::calls::Call;
use super::returning::Later;
use super::{ConnectionId, Master, MasterConfig, Output, number};
use crate::mutation::{Mutation, mutated};
use crate::protocol::session::Session;
use crate::protocol::silence::{Watch, Watcher, away, next_beat};
use crate::types::{GroupId, PeerId, PeerName, Timestamp};
use crate::wire::control::{Heartbeat, Hello, Join, Report, ToPeer, Welcome};

/// How many peers that are gone are remembered with their reason.
const GONE_MAX: usize = 1000;

/// A registered or accepted peer.
#[derive(Clone, Debug, Hash)]
pub(super) struct Member {
    pub(super) name: PeerName,
    pub(super) group: GroupId,
    pub(super) lanes: Option<u16>,
    /// How many masters it may follow.
    pub(super) masters: u32,
    /// A member of an epoch that was active.
    pub(super) accepted: bool,
    /// Took part in a sync that committed: its word counts for the next epoch.
    pub(super) synced: bool,
    pub(super) session: Session<ToPeer>,
    pub(super) connection: Option<ConnectionId>,
    pub(super) watch: Watch,
    /// When it last said anything; unlike what `watch` counts from, never excused.
    pub(super) last_word: Timestamp,
    /// When it was last heard of again after it had been away.
    pub(super) back_since: Option<Timestamp>,
    /// Neighbours that saw all their lanes to it close.
    pub(super) unreachable_from: BTreeSet<PeerId>,
    pub(super) call: Option<Call>,
    /// Outcomes it is not known to have: the number of the message, and that of the outcome.
    pub(super) told: VecDeque<(u64, u64)>,
    /// It has every outcome of its group up to this number.
    pub(super) has: u64,
    pub(super) token: u64,
    pub(super) closed: Option<Closed>,
    /// It has said that it gives its connection up.
    pub(super) redials: bool,
    /// What it holds of the run, where this master has come back to it.
    pub(super) report: Option<Box<Report>>,
    /// What else it said before this master ruled.
    pub(super) later: Later,
}

/// Far beyond the end of every simulated world.
const NEVER: Duration = Duration::from_secs(1 << 30);

impl Member {
    /// When the master must look at this member again.
    pub(super) fn next_timeout(&self, config: &MasterConfig) -> Timestamp {
        match &self.closed {
            Some(closed) => (closed.since + self.grace(config)).min(closed.next_probe),
            None if mutated(Mutation::IgnoreSilence) => self.last_word + NEVER,
            None => self.watch.next_timeout(),
        }
    }

    /// Why it must go, if it has been away, or silent, for too long at `now`.
    fn overdue(&self, config: &MasterConfig, now: Timestamp) -> Option<String> {
        match &self.closed {
            Some(Closed { since, reason, .. }) => {
                let grace = self.grace(config);
                (*since + grace <= now).then(|| {
                    let grace_ms = grace.as_millis();
                    format!(
                        "its control connection closed ({reason}) and it did not resume within {grace_ms} ms"
                    )
                })
            }
            None if mutated(Mutation::IgnoreSilence) => None,
            None => self.watch.verdict(now).map(|silence| silence.to_string()),
        }
    }

    /// How long it may take to resume: on a long path no less than the redial itself takes. Who hears
    /// nothing of this master asks others first.
    fn grace(&self, config: &MasterConfig) -> Duration {
        let grace = config.resume_grace.max(self.watch.redial_time());
        match self.redials && self.masters > 1 {
            true => grace + config.silence_ceiling,
            false => grace,
        }
    }

    /// Whether nothing is heard of it, for no longer than silence allows. A heartbeat may be late,
    /// not two.
    pub(super) fn is_absent(&self, config: &MasterConfig, now: Timestamp) -> bool {
        now.since(self.last_word) > 2 * config.heartbeat_interval
    }

    /// It says something.
    pub(super) fn speaks(&mut self, config: &MasterConfig, now: Timestamp) {
        if self.is_absent(config, now) {
            self.back_since = Some(now);
        }
        self.last_word = now;
    }

    /// Registered, and as far as is known alive, which a hello alone does not show: may be let in.
    pub(super) fn is_waiting(&self, now: Timestamp) -> bool {
        let is_alive = self.watch.has_spoken() && !self.watch.is_suspicious(now);
        !self.accepted && self.connection.is_some() && is_alive
    }
}

/// How a peer went; it decides whether its vote for the next epoch counts as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Departure {
    /// It said goodbye.
    Left,
    /// Two witnesses saw it die.
    KnownDead,
    /// It is silent, or was thrown out: it may be alive and of another opinion.
    Evicted,
}

impl Master {
    pub(super) fn on_hello(&mut self, connection: ConnectionId, hello: Hello, from: SocketAddr) {
        match hello {
            hello if self.listening.is_some() => {
                self.on_hello_while_listening(connection, hello, from);
            }
            Hello::Join(join) => self.register(connection, join, from),
            Hello::Resume {
                run,
                peer,
                token,
                last_seen,
                reign,
                accepted,
                masters,
                ..
            } => {
                let known = self
                    .members
                    .get(&peer)
                    .is_some_and(|member| member.token == token);
                if run != self.run && accepted && masters > 1 {
                    // Another one of its masters may rule its run, and this one have begun its own.
                    warn!(%peer, theirs = %run, ours = %self.run, "a peer of another run has come; it may have masters that are not in one list");
                    self.outputs.push_back(Output::Close { connection });
                } else if run != self.run {
                    self.refuse(
                        connection,
                        format!(
                            "another run has begun at this master, which does not know run {run}"
                        ),
                    );
                } else if reign.start != self.reign.start && reign.term >= self.reign.term {
                    // A stranger's word costs nobody anything, and a member not its place: it may be
                    // this master that does not know. Who was only proposed joins again.
                    if known || self.accepted(None).next().is_none() {
                        self.step_down(connection, reign.term);
                    } else if accepted {
                        self.outputs.push_back(Output::Close { connection });
                    } else {
                        self.refuse(connection, format!("peer {peer} is not known"));
                    }
                } else if known && reign.start == self.reign.start {
                    self.resume(connection, peer, last_seen);
                } else {
                    let reason = self.gone.get(&peer).cloned();
                    let reason = reason.unwrap_or_else(|| format!("peer {peer} is not known"));
                    self.refuse(connection, reason);
                }
            }
        }
    }

    pub(super) fn register(&mut self, connection: ConnectionId, join: Join, from: SocketAddr) {
        if self.members.len() >= self.config.peers_max {
            let limit = self.config.peers_max;
            self.refuse(connection, format!("the run is full: {limit} peers"));
            return;
        }
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        self.remember_next_peer();
        let address = if join.advertised_host.is_empty() {
            SocketAddr::new(from.ip().to_canonical(), join.port).to_string()
        } else if join.advertised_host.contains(':') {
            format!(
                "[{}]:{}",
                join.advertised_host.trim_matches(['[', ']']),
                join.port
            )
        } else {
            format!("{}:{}", join.advertised_host, join.port)
        };
        let token = number(&self.seed, "session", &[peer.0]);
        let name = PeerName {
            id: peer,
            label: join.label,
            address,
        };
        info!(%name, group = %join.group, "registered");
        let member = Member {
            group: join.group,
            lanes: join.lanes,
            masters: join.masters,
            ..self.new_member(name, token, connection)
        };
        self.members.insert(peer, member);
        self.connections.insert(connection, peer);
        self.outputs.push_back(Output::Welcome {
            connection,
            welcome: Welcome::Registered {
                run: self.run,
                peer,
                token,
                timings: self.config.timings(),
                reign: self.reign,
            },
            accepted: false,
        });
    }

    /// A peer of which nothing is known but its name.
    pub(super) fn new_member(
        &self,
        name: PeerName,
        token: u64,
        connection: ConnectionId,
    ) -> Member {
        let timings = self.config.timings();
        Member {
            name,
            group: GroupId::default(),
            lanes: None,
            masters: 1,
            accepted: false,
            synced: false,
            session: Session::new(),
            connection: Some(connection),
            last_word: self.now,
            back_since: None,
            watch: Watch::new(Watcher::Master, timings, self.now, self.next_heartbeat),
            unreachable_from: BTreeSet::new(),
            call: None,
            told: VecDeque::new(),
            has: 0,
            token,
            closed: None,
            redials: false,
            report: None,
            later: Later::default(),
        }
    }

    fn resume(&mut self, connection: ConnectionId, peer: PeerId, last_seen: u64) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        info!(name = %member.name, "resumed");
        let older = member.connection.replace(connection);
        member.closed = None;
        member.redials = false;
        member.watch.reconnected(now, self.next_heartbeat);
        member.unreachable_from.clear();
        let accepted = member.accepted;
        let welcome = Welcome::Resumed {
            last_seen: member.session.last_seen(),
        };
        let again = member.session.resume(last_seen);
        if let Some(older) = older {
            self.connections.remove(&older);
            self.outputs.push_back(Output::Close { connection: older });
        }
        self.connections.insert(connection, peer);
        self.outputs.push_back(Output::Welcome {
            connection,
            welcome,
            accepted,
        });
        for frame in again {
            self.outputs.push_back(Output::Send { connection, frame });
        }
    }

    pub(super) fn refuse(&mut self, connection: ConnectionId, reason: String) {
        info!(%reason, "refused a connection");
        self.outputs
            .push_back(Output::Refuse { connection, reason });
    }

    pub(super) fn on_leave(&mut self, peer: PeerId) {
        self.say(peer, ToPeer::LeaveAcknowledged);
        self.remove(peer, Departure::Left, "it left".to_owned());
    }

    /// Removes a peer that breaks the rules or is silent, and tells it why.
    pub(super) fn evict(&mut self, peer: PeerId, reason: String) {
        self.remove(peer, Departure::Evicted, reason);
    }

    pub(super) fn remove(&mut self, peer: PeerId, departure: Departure, reason: String) {
        if departure == Departure::Evicted {
            self.say(
                peer,
                ToPeer::Evicted {
                    reason: reason.clone(),
                },
            );
        }
        let Some(member) = self.members.remove(&peer) else {
            return;
        };
        match departure {
            Departure::Left => info!(name = %member.name, "left"),
            _ => warn!(name = %member.name, %reason, "removed from the run"),
        }
        if let Some(connection) = member.connection {
            self.connections.remove(&connection);
            self.outputs.push_back(Output::Close { connection });
        }
        self.note_gone(peer, reason.clone());
        if let Some(listening) = &mut self.listening
            && departure != Departure::Evicted
        {
            listening.note_dead(peer);
        }
        self.testimony.forget_peer(peer);
        for other in self.members.values_mut() {
            other.unreachable_from.remove(&peer);
        }
        if member.accepted {
            self.active
                .note_departure(member.group, member.name, departure, reason);
        }
        self.sync_lost(member.group, peer);
    }

    /// Remembers why a peer is gone.
    pub(super) fn note_gone(&mut self, peer: PeerId, reason: String) {
        self.gone.insert(peer, reason);
        while self.gone.len() > GONE_MAX {
            self.gone.pop_first();
        }
    }

    pub(super) fn on_tick(&mut self) {
        self.last_tick = self.now;
        self.give_up_on_wiring();
        let (config, now) = (&self.config, self.now);
        let overdue: Vec<(PeerId, String)> = self
            .members
            .iter()
            .filter_map(|(peer, member)| Some((*peer, member.overdue(config, now)?)))
            .collect();
        for (peer, reason) in overdue {
            match self.listening {
                Some(_) => self.forget_silent(peer),
                // It may be about to follow another master, and is not to be told that it is out.
                None if self.has_lost_majority(Some(peer)) => return self.lose_majority(),
                None => self.evict(peer, reason),
            }
        }
        self.probe_again();
        if self.next_heartbeat <= self.now {
            let interval = self.config.heartbeat_interval;
            self.next_heartbeat = next_beat(self.next_heartbeat, self.now, interval);
        }
        for member in self.members.values_mut() {
            if let Some(connection) = member.connection
                && let Some(beat) = member.watch.beat(self.now)
            {
                let frame = member.session.whisper(ToPeer::Heartbeat(beat));
                self.outputs.push_back(Output::Send { connection, frame });
            }
        }
    }

    pub(super) fn on_heartbeat(&mut self, peer: PeerId, beat: &Heartbeat) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        member.watch.hear_beat(self.now, beat);
        if beat.answer
            && let Some(connection) = member.connection
            && let Some(answer) = member.watch.beat(self.now)
        {
            let frame = member.session.whisper(ToPeer::Heartbeat(answer));
            self.outputs.push_back(Output::Send { connection, frame });
        }
    }

    /// Where the master itself was away, stopped or without a core, that time counts against
    /// nobody.
    pub(super) fn excuse_absence(&mut self) {
        let (now, interval) = (self.now, self.config.heartbeat_interval);
        let Some(away) = away(self.last_tick, now, interval) else {
            return;
        };
        self.last_tick = now;
        debug!(away_ms = away.as_millis(), "the master itself was away");
        for member in self.members.values_mut() {
            member.watch.excuse(away, now);
            if let Some(closed) = &mut member.closed {
                closed.since = (closed.since + away).min(now);
            }
        }
        if let Some(change) = &mut self.change {
            change.postpone(away);
        }
    }
}
