//! What a step does to a state.

use pccl::protocol::peer::{Command, LinkLoss};
use pccl::protocol::{master, peer};
use pccl::wire::control::{LinkFault, ToPeer};
use pccl::{OperationId, Timestamp};

use super::driving::{
    CONNECT, DEADLINE, OTHER, UPDATE, master_config, nothing_but, one_that_comes,
};
use super::moves::{Action, Fault};
use super::shared::Shared;
use super::state::{Line, Once, Ruling, State};

impl State {
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
                self.resume(node, 0);
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
            Action::Resume(node, master) => {
                let before = self.clone();
                self.resume(node, master);
                // Dialling in vain is waiting: that it was one time more means nothing.
                if self.nodes[node].line == before.nodes[node].line {
                    self.nodes[node] = before.nodes[node].clone();
                    self.world.change().complained = before.world.complained.clone();
                }
            }
            Action::NoticeSilence(node) => {
                let reason = "silent".to_owned();
                self.tell_peer(node, peer::Input::Disconnected { reason });
                if !self.has_standbys() {
                    self.resume(node, 0);
                }
            }
            Action::GiveUpOn(master, node) => {
                let config = master_config();
                let limit = match self.end_at(master, node) {
                    Some(_) => config.silence_ceiling,
                    None => config.resume_grace,
                };
                self.pass_at_master(master, limit, node);
            }
            Action::GiveUpMaster(node) => {
                // Tick by tick: time that it does not see pass is no absence of the master's.
                let mut now = self.clock(node);
                while !self.nodes[node].is_gone() {
                    now = now + master_config().heartbeat_interval;
                    self.tell_peer_at(node, now, peer::Input::Tick);
                }
                // That it is gone shows nowhere before the master gives up on it, too.
                for master in 0..self.masters.len() {
                    if self.is_in_run_of(master, node) {
                        self.pass_at_master(master, master_config().resume_grace, node);
                    }
                }
            }
            Action::Listen(master) => {
                let before = self.clone();
                let config = master_config();
                let patience = config.silence_ceiling + config.resume_grace;
                let patience = match self.has_standbys() {
                    true => 2 * patience,
                    false => patience,
                };
                let patience = patience + config.heartbeat_interval;
                self.pass_at_master(master, patience, usize::MAX);
                // Waiting in vain is waiting: the time that has passed means nothing.
                if !self.masters[master].rules() {
                    *self = before;
                }
            }
            Action::Judge(master) => {
                self.rulings[master].change().complaint = None;
                self.pass_at_master(master, master_config().heartbeat_interval, usize::MAX);
            }
            Action::Fault(ref fault) => {
                self.world.change().faults_left -= 1;
                self.suffer(fault);
            }
        }
        self.settle();
    }

    pub(crate) fn clock(&self, node: usize) -> Timestamp {
        Timestamp::from_start(DEADLINE * self.nodes[node].hours)
    }

    fn resume(&mut self, node: usize, master: usize) {
        if let Line::Broken(hello) = self.nodes[node].line.clone() {
            self.greet(node, master, hello);
        }
    }

    fn suffer(&mut self, fault: &Fault) {
        match *fault {
            Fault::Kill(index) => self.kill(index),
            Fault::Break(index) => self.break_line(index),
            Fault::BreakAll(master) => {
                for index in 0..self.nodes.len() {
                    if self.nodes[index].at == master {
                        self.break_line(index);
                    }
                }
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
                // The master was heard all the while.
                let word = nothing_but(0, ToPeer::LeaveAcknowledged);
                self.tell_peer_at(index, now, peer::Input::Message(word));
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
            Fault::RestartMaster(master) => self.restart_master(master),
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

    fn break_line(&mut self, index: usize) {
        let Line::Up(connection) = self.nodes[index].line else {
            return;
        };
        let master = self.nodes[index].change().at;
        self.nodes[index].change().touched = true;
        let reason = "reset".to_owned();
        let closed = master::Input::Closed {
            connection,
            reason: reason.clone(),
        };
        self.tell_master(master, closed);
        // It may have been closed by the master meanwhile.
        if matches!(self.nodes[index].line, Line::Up(_)) {
            self.tell_peer(index, peer::Input::Disconnected { reason });
        }
    }

    fn restart_master(&mut self, master: usize) {
        let starts = self.world.starts + 1;
        self.masters[master] = Shared::new(one_that_comes(100 + starts));
        // Its clock is its own, and begins anew.
        self.rulings[master] = Shared::new(Ruling::default());
        self.forget_what_nobody_knows(master);
        let waits = self.nodes.iter().any(|node| node.update == Once::Calling);
        let world = self.world.change();
        world.skips |= waits;
        world.starts = starts;
        for index in 0..self.nodes.len() {
            let node = self.nodes[index].change();
            node.touched = true;
            node.left.remove(&master);
            if node.at == master && matches!(node.line, Line::Up(_)) {
                let reason = "reset".to_owned();
                self.tell_peer(index, peer::Input::Disconnected { reason });
            }
        }
    }

    /// What a master that is dead, or begins anew, told to nobody who is left happened to nobody.
    pub(crate) fn forget_what_nobody_knows(&mut self, master: usize) {
        let decided = self.world.decided.clone().into_iter();
        let is_anothers = |op: &OperationId| {
            let decision = self.world.decided.get(op);
            decision.is_some_and(|decision| decision.by != master)
        };
        let holds = |op: &OperationId| {
            is_anothers(op) || self.is_known(op) && !self.world.detached.contains(op)
        };
        let decided = decided.filter(|(op, _)| holds(op)).collect();
        let ends = self.world.ends.clone().into_iter();
        let ends = ends.filter(|(op, _)| holds(op)).collect();
        let world = self.world.change();
        world.decided = decided;
        world.detached.clear();
        world.ends = ends;
    }

    /// Its vote for the next epoch counts as given.
    pub(crate) fn will_agree(&mut self, index: usize) {
        let Some(id) = self.nodes[index].id else {
            return;
        };
        for master in 0..self.masters.len() {
            if self.dies_at(master, index) {
                self.rulings[master].change().agreed.insert(id);
            }
        }
    }

    /// Whether a master may take a node that dies for one that has followed no other since.
    pub(crate) fn dies_at(&self, master: usize, index: usize) -> bool {
        self.is_in_run_of(master, index) && self.nodes[index].at == master
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
        let (at, left) = (node.at, std::mem::take(&mut node.left));
        let Some(peer) = node.id else { return };
        self.will_agree(index);
        for master in 0..self.masters.len() {
            let open = match line {
                Line::Up(connection) if at == master => Some(connection),
                _ => left.get(&master).copied(),
            };
            if let Some(connection) = open {
                let reason = "closed by the other side".to_owned();
                self.tell_master(master, master::Input::Closed { connection, reason });
            } else if self.dies_at(master, index) {
                self.tell_master(master, master::Input::PortRefused { peer });
            }
        }
    }

    fn lose_link(&mut self, index: usize, other: usize) {
        let Some(peer) = self.nodes[other].id else {
            return;
        };
        if self.nodes[index].change().links_up.remove(&peer) {
            let loss = LinkLoss::GivenUp;
            self.tell_peer(index, peer::Input::LinkDown { peer, loss });
        }
    }

    /// Says that the link cannot be made. The driver says so again and again; once in each wiring is
    /// enough, and once more where a word from before took it back.
    pub(crate) fn complain(&mut self, index: usize, other: usize) {
        let pair = (index.min(other), index.max(other));
        let wired = self.nodes[index].wired;
        self.world.change().complained.insert(pair, wired);
        if let Some(peer) = self.nodes[other].id {
            let reason = "no lane within 5000 ms".to_owned();
            let failed = peer::Input::LinkFailed {
                peer,
                fault: LinkFault::NoLane,
                reason,
            };
            self.tell_peer(index, failed);
        }
    }
}
