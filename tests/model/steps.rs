//! What a step does to a state.

use std::collections::BTreeSet;

use pccl::protocol::master::{Master, MasterConfig};
use pccl::protocol::peer::{Command, LinkLoss};
use pccl::protocol::{master, peer};
use pccl::wire::control::{LinkFault, ToPeer};
use pccl::{OperationId, PeerId, RunId, Timestamp};

use super::driving::{CONNECT, DEADLINE, OTHER, UPDATE, master_config, nothing_but};
use super::moves::{Action, Fault};
use super::state::{Line, Once, Shared, State};

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
            Action::Resume(node) => {
                let before = self.clone();
                self.resume(node);
                // Dialling in vain is waiting: that it was one time more means nothing.
                self.seal();
                let says_the_same = self.nodes[node].line == before.nodes[node].line;
                let is_as_before = self.master == before.master && self.world == before.world;
                if says_the_same && is_as_before {
                    *self = before;
                }
            }
            Action::NoticeSilence(node) => {
                let reason = "silent".to_owned();
                self.tell_peer(node, peer::Input::Disconnected { reason });
            }
            Action::GiveUpOn(node) => {
                let config = master_config();
                let limit = match self.nodes[node].line {
                    Line::Deaf(_) => config.silence_ceiling,
                    _ => config.resume_grace,
                };
                self.pass_at_master(limit, node);
            }
            Action::GiveUpMaster(node) => {
                // Tick by tick: time that it does not see pass is no absence of the master's.
                let mut now = self.clock(node);
                while !self.nodes[node].is_gone() {
                    now = now + master_config().heartbeat_interval;
                    self.tell_peer_at(node, now, peer::Input::Tick);
                }
                // That it is gone shows nowhere before the master gives up on it, too.
                if self.is_in_run(node) {
                    self.pass_at_master(master_config().resume_grace, node);
                }
            }
            Action::Listen => {
                let before = self.clone();
                let config = master_config();
                let patience = config.silence_ceiling + config.resume_grace;
                self.pass_at_master(patience + config.heartbeat_interval, usize::MAX);
                // Waiting in vain is waiting: the time that has passed means nothing.
                if !self.master.rules() {
                    *self = before;
                }
            }
            Action::Judge => {
                self.world.change().complaint = None;
                self.pass_at_master(master_config().heartbeat_interval, usize::MAX);
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
            Fault::RestartMaster => self.restart_master(),
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

    fn restart_master(&mut self) {
        let starts = self.world.starts + 1;
        let run = RunId(7000 + u64::from(starts));
        let config = MasterConfig {
            // Longer than anybody waits: there is one run.
            recovery_window: DEADLINE,
            begins_new_run: false,
            ..master_config()
        };
        // Its clock is its own, and begins anew.
        let now = Timestamp::default();
        let master = Master::new(config, run, 1, [100 + starts; 32], now);
        self.master = Shared::new(master);
        self.forget_what_nobody_knows();
        let waits = self.nodes.iter().any(|node| node.update == Once::Calling);
        let world = self.world.change();
        world.skips |= waits;
        world.starts = starts;
        world.now = now;
        for index in 0..self.nodes.len() {
            self.nodes[index].change().touched = true;
            if matches!(self.nodes[index].line, Line::Up(_)) {
                let reason = "reset".to_owned();
                self.tell_peer(index, peer::Input::Disconnected { reason });
            }
        }
    }

    /// What a master told to nobody who is left happened to nobody.
    fn forget_what_nobody_knows(&mut self) {
        let living = || self.nodes.iter().filter(|node| node.lives());
        let is_known = |op: &OperationId| {
            living().any(|node| node.heard.contains(op) || node.epoch > Some(op.epoch))
        };
        let active = living().filter_map(|node| node.epoch).max();
        let voters = active.and_then(|epoch| self.world.rings.get(&epoch));
        let voters: BTreeSet<PeerId> = voters.into_iter().flatten().copied().collect();
        let decided = self.world.decided.clone().into_iter();
        let holds = |op: &OperationId| is_known(op) && !self.world.detached.contains(op);
        let decided = decided.filter(|(op, _)| holds(op)).collect();
        let ends = self.world.ends.clone().into_iter();
        let ends = ends.filter(|(op, _)| holds(op)).collect();
        let world = self.world.change();
        world.decided = decided;
        world.detached.clear();
        world.ends = ends;
        world.active = active;
        world.voters = voters;
        // Without lanes there is no second witness of who died before it came.
        world.agreed.clear();
        world.proposed = None;
        world.to_decide.clear();
        world.acknowledged.clear();
        world.complaint = None;
        world.settled.clear();
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
