//! What may happen next, and what follows from it.

use std::time::Duration;

use pccl::protocol::peer::{Command, Peer};
use pccl::protocol::{master, peer};
use pccl::wire::control::ToMaster;
use pccl::{Epoch, OperationId, PeerId, Timestamp};

use super::driving::{CONNECT, DEADLINE, OTHER, UPDATE, master_config};
use super::state::{Line, Once, State, Use};

/// One step. Nodes are numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The caller at a node reduces under a tag.
    Call(usize, u64),
    /// The caller at a node calls `update_topology`.
    Update(usize),
    /// A newcomer connects.
    Join(usize),
    /// The master hears the next message of a node.
    Deliver(usize),
    /// A node hears the next message of the master.
    Hear(usize),
    /// All of the result is at a node.
    Finish(usize, OperationId),
    /// A node whose connection broke resumes.
    Resume(usize),
    /// A node that hears nothing gives its connection up and resumes.
    NoticeSilence(usize),
    /// The master evicts a node that has been away for too long.
    GiveUpOn(usize),
    /// A node has waited for the master for too long.
    GiveUpMaster(usize),
    /// Something breaks; the budget counts these.
    Fault(Fault),
}

/// What can break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies: its sockets close, its port refuses.
    Kill(usize),
    /// The control connection is reset; what was on it is lost.
    Break(usize),
    /// Nothing passes on the control connection any more, and nobody is told.
    Silence(usize),
    /// The deadline of the operation with tag 0 passes, or an operation with another tag cannot
    /// go on, at this node.
    Report(usize, u64),
    /// A node has lost the link to another and cannot make it again.
    CutLink(usize, usize),
    /// The caller cancels whatever runs at this node.
    Cancel(usize),
    /// The caller ends its part in the run at once.
    Close(usize),
}

/// Which faults an instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kill,
    Break,
    Silence,
    Report,
    CutLink,
    Cancel,
    Close,
}

/// What the network and the machines do.
pub(crate) const MISHAPS: &[Kind] = &[
    Kind::Kill,
    Kind::Break,
    Kind::Silence,
    Kind::Report,
    Kind::CutLink,
];

/// And what callers do.
pub(crate) const ALL: &[Kind] = &[
    Kind::Kill,
    Kind::Break,
    Kind::Silence,
    Kind::Report,
    Kind::CutLink,
    Kind::Cancel,
    Kind::Close,
];

/// Without those that in a run where nobody joins are to the protocol as another one: a broken
/// connection as a silent one.
pub(crate) const DISTINCT: &[Kind] = &[Kind::Kill, Kind::Silence, Kind::Report, Kind::CutLink];

impl State {
    /// All that may happen next, without any reduction.
    pub(crate) fn enabled(&self, kinds: &[Kind]) -> Vec<Action> {
        let mut actions = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if matches!(node.line, Line::Up(_)) {
                if !node.up.is_empty() {
                    actions.push(Action::Deliver(index));
                }
                if !node.down.is_empty() {
                    actions.push(Action::Hear(index));
                }
            }
            if node.lives() {
                self.calls(index, &mut actions);
            }
            match &node.line {
                Line::Broken(_) if node.lives() => {
                    actions.push(Action::Resume(index));
                    if node.epoch.is_some() {
                        actions.push(Action::GiveUpMaster(index));
                    }
                }
                Line::Deaf(_) if node.lives() => actions.push(Action::NoticeSilence(index)),
                _ => {}
            }
            if !matches!(node.line, Line::Up(_)) && self.is_in_run(index) {
                actions.push(Action::GiveUpOn(index));
            }
        }
        if self.world.faults_left > 0 {
            self.faults(kinds, &mut actions);
        }
        actions
    }

    fn calls(&self, index: usize, actions: &mut Vec<Action>) {
        let node = &self.nodes[index];
        if node.connect == Once::Wanted {
            actions.push(Action::Join(index));
        }
        if node.epoch.is_none() {
            return;
        }
        match node.update {
            Once::Wanted => actions.push(Action::Update(index)),
            Once::Calling => {}
            Once::Never | Once::Done => {
                for (tag, state) in node.uses.iter().enumerate() {
                    if *state == Use::Idle {
                        actions.push(Action::Call(index, tag as u64));
                    }
                }
            }
        }
        for (op, running) in &node.running {
            if !running.finished && self.can_finish(index, *op) {
                actions.push(Action::Finish(index, *op));
            }
        }
    }

    /// Everybody in the ring has begun, and the data can pass.
    fn can_finish(&self, index: usize, op: OperationId) -> bool {
        let ring = &self.nodes[index].running[&op].ring;
        let places: Option<Vec<usize>> = ring.iter().map(|peer| self.node_of(*peer)).collect();
        places.is_some_and(|places| {
            let has_begun = |node: &usize| {
                let node = &self.nodes[*node];
                // What was sent before it died has arrived.
                let running = node.running.get(&op);
                running.is_some_and(|running| node.alive || running.finished)
            };
            let passes = |(one, other): (&usize, &usize)| {
                let pair = (*one.min(other), *one.max(other));
                !self.world.cut.contains(&pair)
            };
            let next = places.iter().cycle().skip(1);
            places.iter().all(has_begun) && places.iter().zip(next).all(passes)
        })
    }

    fn faults(&self, kinds: &[Kind], actions: &mut Vec<Action>) {
        let mut add = |fault| actions.push(Action::Fault(fault));
        for (index, node) in self.nodes.iter().enumerate() {
            if !node.lives() || node.connect == Once::Wanted {
                continue;
            }
            let is_up = matches!(node.line, Line::Up(_));
            for kind in kinds {
                match kind {
                    Kind::Kill => add(Fault::Kill(index)),
                    Kind::Break if is_up => add(Fault::Break(index)),
                    Kind::Silence if is_up => add(Fault::Silence(index)),
                    Kind::Cancel if is_up && !node.waits.is_empty() && node.epoch.is_some() => {
                        add(Fault::Cancel(index));
                    }
                    Kind::Close if is_up => add(Fault::Close(index)),
                    Kind::Report if is_up => {
                        for op in node.running.keys() {
                            add(Fault::Report(index, op.tag.0));
                        }
                    }
                    Kind::CutLink => {
                        for peer in &node.links_up {
                            if let Some(other) = self.node_of(*peer) {
                                add(Fault::CutLink(index, other));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Does one thing, and what follows from it by itself.
    pub(crate) fn perform(&mut self, action: &Action) {
        match *action {
            Action::Call(node, tag) => self.call(node, tag),
            Action::Update(node) => {
                self.nodes[node].change().update = Once::Calling;
                self.command(node, UPDATE, Command::UpdateTopology);
            }
            Action::Join(node) => {
                self.nodes[node].change().connect = Once::Calling;
                self.command(node, CONNECT, Command::Connect);
                self.resume(node);
            }
            Action::Deliver(node) => self.deliver(node),
            Action::Hear(node) => {
                if let Some(frame) = self.nodes[node].change().down.pop_front() {
                    self.hear(node, frame);
                }
            }
            Action::Finish(node, op) => {
                if let Some(running) = self.nodes[node].change().running.get_mut(&op) {
                    running.finished = true;
                }
                self.tell_peer(node, peer::Input::OperationFinished { op });
            }
            Action::Resume(node) => self.resume(node),
            Action::NoticeSilence(node) => {
                let reason = "silent".to_owned();
                self.tell_peer(node, peer::Input::Disconnected { reason });
            }
            Action::GiveUpOn(node) => {
                let config = master_config();
                let limit = match self.nodes[node].line {
                    Line::Deaf(_) => config.heartbeat_timeout,
                    _ => config.resume_grace,
                };
                self.pass_at_master(limit, node);
            }
            Action::GiveUpMaster(node) => {
                let minute = Duration::from_secs(60);
                let now = self.clock(node) + minute;
                self.tell_peer_at(node, now, peer::Input::Tick);
                // That it is gone shows nowhere before the master gives up on it, too.
                if self.is_in_run(node) {
                    self.pass_at_master(master_config().resume_grace, node);
                }
            }
            Action::Fault(ref fault) => {
                self.world.change().faults_left -= 1;
                self.suffer(fault);
            }
        }
        self.settle();
    }

    fn clock(&self, node: usize) -> Timestamp {
        Timestamp::from_start(DEADLINE * self.nodes[node].hours)
    }

    fn resume(&mut self, node: usize) {
        if let Line::Broken(hello) = self.nodes[node].line.clone() {
            self.greet(node, hello);
        }
    }

    fn suffer(&mut self, fault: &Fault) {
        match *fault {
            Fault::Kill(index) => self.kill(index),
            Fault::Break(index) => {
                let Line::Up(connection) = self.nodes[index].line else {
                    return;
                };
                self.nodes[index].change().touched = true;
                let id = self.nodes[index].id.unwrap_or_default();
                let is_witness = |other: PeerId| self.world.unreachable.contains(&(other, id));
                if self.master.peers().any(|name| is_witness(name.id)) {
                    self.will_agree(index);
                }
                let reason = "reset".to_owned();
                self.tell_master(master::Input::Closed {
                    connection,
                    reason: reason.clone(),
                });
                self.tell_peer(index, peer::Input::Disconnected { reason });
            }
            Fault::Silence(index) => {
                let node = self.nodes[index].change();
                if let Line::Up(connection) = node.line {
                    node.line = Line::Deaf(connection);
                    node.touched = true;
                    node.up.clear();
                    node.down.clear();
                }
            }
            Fault::Report(index, 0) => {
                self.nodes[index].change().hours += 1;
                let now = self.clock(index);
                self.tell_peer_at(index, now, peer::Input::Tick);
            }
            Fault::Report(index, tag) => {
                let running = self.nodes[index].running.keys().find(|op| op.tag.0 == tag);
                if let Some(op) = running.copied() {
                    let reason = "out of memory".to_owned();
                    self.tell_peer(index, peer::Input::OperationFailed { op, reason });
                }
            }
            Fault::CutLink(index, other) => {
                let pair = (index.min(other), index.max(other));
                self.world.change().cut.insert(pair);
                self.lose_link(index, other);
                self.lose_link(other, index);
                self.complain(index, other);
            }
            Fault::Cancel(index) => {
                self.world.change().uneven = true;
                self.command(index, OTHER, Command::Cancel);
            }
            Fault::Close(index) => {
                // What it said before is heard before it goes.
                while !self.nodes[index].up.is_empty() {
                    self.deliver(index);
                }
                self.will_agree(index);
                self.command(index, OTHER, Command::Close);
            }
        }
    }

    /// Its vote for the next epoch counts as given.
    pub(crate) fn will_agree(&mut self, index: usize) {
        if let Some(id) = self.nodes[index].id
            && self.is_in_run(index)
            && self.world.voters.contains(&id)
        {
            self.world.change().agreed.insert(id);
        }
    }

    fn kill(&mut self, index: usize) {
        let node = self.nodes[index].change();
        node.alive = false;
        node.up.clear();
        node.down.clear();
        let line = node.line.clone();
        if matches!(line, Line::Deaf(_)) {
            return;
        }
        node.line = Line::None;
        self.will_agree(index);
        match (line, self.nodes[index].id) {
            (Line::Up(connection), _) => {
                let reason = "closed by the other side".to_owned();
                self.tell_master(master::Input::Closed { connection, reason });
            }
            (Line::Broken(_), Some(peer)) => {
                self.tell_master(master::Input::PortRefused { peer });
            }
            _ => {}
        }
    }

    fn lose_link(&mut self, index: usize, other: usize) {
        let Some(peer) = self.nodes[other].id else {
            return;
        };
        if self.nodes[index].change().links_up.remove(&peer) {
            self.tell_peer(index, peer::Input::LinkDown { peer });
        }
    }

    /// Says that the link cannot be made. The driver says so every five seconds; once in each
    /// wiring is enough, as nothing said within one is forgotten.
    fn complain(&mut self, index: usize, other: usize) {
        let pair = (index.min(other), index.max(other));
        let wired = self.nodes[index].wired;
        self.world.change().complained.insert(pair, wired);
        if let Some(peer) = self.nodes[other].id {
            let reason = "no lane within 5000 ms".to_owned();
            self.tell_peer(index, peer::Input::LinkFailed { peer, reason });
        }
    }

    /// What follows by itself: links that both ends want come up, or are known to fail; timers
    /// that are due; messages that can only be dropped.
    fn settle(&mut self) {
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

    /// Whether the next message of a node can only be dropped by its number, now and at any later
    /// time: numbers rise.
    fn has_stale_head(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        let Some(frame) = node.up.front().filter(|_| matches!(node.line, Line::Up(_))) else {
            return false;
        };
        let active = self.world.active.unwrap_or(Epoch::default());
        let is_over = |op: &OperationId| {
            let settled = self.world.settled.get(&op.tag.0).copied().unwrap_or(0);
            op.epoch < active || op.epoch == active && op.n < settled
        };
        match &frame.message {
            ToMaster::EpochAcknowledged { epoch } | ToMaster::Wired { epoch } => {
                self.world.proposed.is_none_or(|proposed| *epoch < proposed)
            }
            // Nobody has said that it was down: the model's processes die as a whole.
            ToMaster::LinkState { up, .. } => *up && self.world.cut.is_empty(),
            ToMaster::OperationBegun { op, .. }
            | ToMaster::OperationDone { op }
            | ToMaster::OperationFailed { op, .. }
            | ToMaster::DeadlinePassed { op } => is_over(op),
            _ => false,
        }
    }
}
