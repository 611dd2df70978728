//! A peer whose control connection broke: whether anything else says that it is dead.

use std::time::Duration;

use tracing::debug;

use super::epochs::neighbours;
use super::members::{Departure, Member};
use super::{ConnectionId, Master, Output};
use crate::mutation::{Mutation, mutated};
use crate::types::{PeerId, Timestamp};

/// The first pause between two looks at the port of a peer whose control connection broke; each
/// is as long as all before it together. Once is not enough: a process that dies closes its
/// sockets one after the other, and the listener may be the last.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// Nobody is at another master sooner: it dials this one again first.
const DIES_WITHIN: Duration = Duration::from_millis(250);

/// A control connection that broke and is not resumed.
#[derive(Clone, Debug, Hash)]
pub(super) struct Closed {
    pub(super) since: Timestamp,
    pub(super) reason: String,
    pub(super) next_probe: Timestamp,
}

impl Master {
    pub(super) fn on_closed(&mut self, connection: ConnectionId, reason: String) {
        let Some(peer) = self.connections.remove(&connection) else {
            return;
        };
        let now = self.now;
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        if member.connection != Some(connection) {
            return;
        }
        debug!(name = %member.name, %reason, "control connection closed");
        let may_follow_another = member.report.as_ref().is_some_and(|r| r.masters > 1);
        if self.listening.is_some() && may_follow_another {
            // It is counted on once it is here again.
            return self.forget_silent(peer);
        }
        if mutated(Mutation::OneWitnessKills) {
            return self.remove(peer, Departure::KnownDead, reason);
        }
        member.connection = None;
        member.closed = Some(Closed {
            since: now,
            reason,
            next_probe: now + PROBE_PAUSE,
        });
        let address = member.name.address.clone();
        if member.unreachable_from.is_empty() || !self.are_lanes_witnesses(peer) {
            self.outputs.push_back(Output::Probe { peer, address });
        } else {
            self.on_second_witness(peer, "and its lanes too");
        }
    }

    /// It hears nothing, or too little, of this master, and may give up its lanes for that as well.
    pub(super) fn on_redialling(&mut self, peer: PeerId) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.redials = true;
        }
    }

    /// Whether lanes that close are a second witness that a peer is dead. Not where it may be at another
    /// master: one that resets all connections of a live peer would make a majority of two.
    fn are_lanes_witnesses(&self, peer: PeerId) -> bool {
        let redials = self.members.get(&peer).is_some_and(|m| m.redials);
        !redials && !self.active.has_standbys
    }

    /// Only neighbours of the active epoch are witnesses: who has activated it a moment later than
    /// the other end sees a link close that the new ring does not have.
    pub(super) fn on_link_state(&mut self, reporter: PeerId, other: PeerId, up: bool) {
        let pair = (reporter.min(other), reporter.max(other));
        if up {
            self.on_link_up(pair);
        }
        if !self
            .active
            .rings
            .values()
            .any(|ring| neighbours(ring).contains(&pair))
        {
            return;
        }
        let Some(member) = self.members.get_mut(&other) else {
            return;
        };
        if up {
            member.unreachable_from.remove(&reporter);
            return;
        }
        member.unreachable_from.insert(reporter);
        if member.connection.is_none() && self.are_lanes_witnesses(other) {
            self.on_second_witness(other, "and its lanes too");
        }
    }

    pub(super) fn on_port_refused(&mut self, peer: PeerId) {
        if let Some(listening) = &mut self.listening {
            listening.note_refused(peer);
        }
        if !self.may_have_been_at_another(peer) {
            self.on_second_witness(peer, "and its port refuses connections");
        }
    }

    /// Whether a peer that is dead may have been at another master after this one. Then it is not
    /// known to what it agreed there, and its vote is not given: it is evicted in its time.
    fn may_have_been_at_another(&self, peer: PeerId) -> bool {
        let Some(member) = self.members.get(&peer) else {
            return false;
        };
        let Some(closed) = &member.closed else {
            return false;
        };
        let at_once = DIES_WITHIN.max(member.watch.redial_time());
        let may_be = member.redials || self.now.since(closed.since) > at_once;
        may_be && self.active.has_standbys
    }

    /// One broken connection is a symptom; two witnesses are death at once.
    fn on_second_witness(&mut self, peer: PeerId, second: &str) {
        let Some(Member {
            closed: Some(Closed { reason: first, .. }),
            ..
        }) = self.members.get(&peer)
        else {
            return;
        };
        let reason = format!("its control connection closed ({first}), {second}");
        self.remove(peer, Departure::KnownDead, reason);
    }

    /// Looks again at the ports of those whose control connection is still broken.
    pub(super) fn probe_again(&mut self) {
        for (peer, member) in &mut self.members {
            if let Some(closed) = &mut member.closed
                && closed.next_probe <= self.now
            {
                closed.next_probe = self.now + self.now.since(closed.since).max(PROBE_PAUSE);
                let (peer, address) = (*peer, member.name.address.clone());
                self.outputs.push_back(Output::Probe { peer, address });
            }
        }
    }
}
