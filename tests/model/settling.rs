//! What follows a step by itself: links, timers that are due, messages without a consequence,
//! burials.

use pccl::protocol::peer::{self, Peer};
use pccl::wire::control::ToMaster;
use pccl::{OperationId, PeerId};

use super::state::{Line, State};

impl State {
    /// What follows by itself: links that both ends want come up, or are known to fail; timers
    /// that are due; messages that can only be dropped.
    pub(crate) fn settle(&mut self) {
        self.settle_links();
        for index in 0..self.nodes.len() {
            let now = self.clock(index);
            let is_due = |node: &super::state::Node| {
                let due = node.peer.as_ref().and_then(Peer::next_timeout);
                node.hours > 0 && node.lives() && due.is_some_and(|due| due <= now)
            };
            while is_due(&self.nodes[index]) {
                self.tell_peer_at(index, now, peer::Input::Tick);
            }
        }
        for index in 0..self.nodes.len() {
            while self.has_stale_head(index) {
                self.deliver(index);
            }
        }
        self.bury_the_dead();
        self.forget_the_past();
        self.seal();
    }

    fn settle_links(&mut self) {
        for index in 0..self.nodes.len() {
            for other in 0..self.nodes.len() {
                let (here, there) = (&self.nodes[index], &self.nodes[other]);
                let (Some(id), Some(peer)) = (here.id, there.id) else {
                    continue;
                };
                let both_want = here.wanted.contains(&peer) && there.wanted.contains(&id);
                let pair = (index.min(other), index.max(other));
                if !both_want || !here.lives() || !there.alive {
                    continue;
                }
                if !self.world.cut.contains(&pair) {
                    if !here.links_up.contains(&peer) {
                        self.nodes[index].change().links_up.insert(peer);
                        self.tell_peer(index, peer::Input::LinkUp { peer });
                    }
                } else if index < other
                    && self
                        .world
                        .complained
                        .get(&pair)
                        .is_none_or(|last| *last < here.wired)
                {
                    self.complain(index, other);
                }
            }
        }
    }

    fn bury_the_dead(&mut self) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.lives() {
                continue;
            }
            let is_awaited = |op: &OperationId| {
                let mut living = self.nodes.iter().filter(|other| other.lives());
                living.any(|other| other.running.get(op).is_some_and(|r| !r.finished))
            };
            let kept: Vec<OperationId> = node
                .running
                .iter()
                .filter(|(op, running)| running.finished && is_awaited(op))
                .map(|(op, _)| *op)
                .collect();
            if node.peer.is_some() || node.running.len() > kept.len() {
                self.nodes[index].change().bury(|op| kept.contains(op));
            }
        }
    }

    /// Whether no link can be made between a node and a peer.
    pub(crate) fn is_cut(&self, index: usize, peer: PeerId) -> bool {
        let other = self.nodes.iter().position(|node| node.id == Some(peer));
        other.is_some_and(|other| {
            let pair = (index.min(other), index.max(other));
            self.world.cut.contains(&pair)
        })
    }

    /// Whether the next message of a node can only be dropped by its number, now and at any later
    /// time: numbers rise.
    fn has_stale_head(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        let Some(frame) = node.up.front().filter(|_| matches!(node.line, Line::Up(_))) else {
            return false;
        };
        let ruling = &self.rulings[node.at];
        let active = ruling.active.unwrap_or_default();
        let is_over = |op: &OperationId| {
            let settled = ruling.settled.get(&op.tag.0).copied().unwrap_or(0);
            op.epoch < active || op.epoch == active && op.n < settled
        };
        match &frame.message {
            // Kept until it rules, in the order in which one peer said it.
            message if !self.is_ruled(index) => {
                let arrives_whole = self.has_standbys() && !self.delivers_later;
                arrives_whole || !matches!(message, ToMaster::Report(_) | ToMaster::Promised { .. })
            }
            ToMaster::EpochAcknowledged { epoch } | ToMaster::Wired { epoch } => {
                ruling.proposed.is_none_or(|proposed| *epoch < proposed)
            }
            // Nobody has said that it was down: the model's processes die as a whole. Of a link that
            // is cut since, it takes a complaint back.
            ToMaster::LinkState { peer, up } => *up && !self.is_cut(index, *peer),
            ToMaster::OperationBegun { op, .. }
            | ToMaster::OperationDone { op }
            | ToMaster::OperationFailed { op, .. }
            | ToMaster::DeadlinePassed { op } => is_over(op),
            _ => false,
        }
    }
}
