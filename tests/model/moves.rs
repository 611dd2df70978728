//! What may happen next: steps of callers, messages and data, and faults.

use pccl::OperationId;

use super::shared::Shared;
use super::state::{Line, Node, Once, State, Use};

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
    /// A node whose connection broke dials a master. It may dial any, in any order.
    Resume(usize, usize),
    /// A node that hears nothing gives its connection up and resumes.
    NoticeSilence(usize),
    /// A master evicts a node that has been away for too long.
    GiveUpOn(usize, usize),
    /// A node has waited for the master for too long.
    GiveUpMaster(usize),
    /// A master that has come waits for those who are not back for as long as it does.
    Listen(usize),
    /// The second testimony about a link that cannot be made has had its time.
    Judge(usize),
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
    /// So are all connections to one master.
    BreakAll(usize),
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
    /// A master dies, and is started again in memory of nothing.
    RestartMaster(usize),
}

/// Which faults an instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kill,
    Break,
    BreakAll,
    Silence,
    Report,
    CutLink,
    Cancel,
    Close,
    RestartMaster,
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

/// The two ways in which an operation ends at once.
pub(crate) const ABRUPT: &[Kind] = &[Kind::Kill, Kind::Report];

/// The master dies, and so do peers.
pub(crate) const DEATHS: &[Kind] = &[Kind::RestartMaster, Kind::Kill];

/// The master dies, and peers are not heard.
pub(crate) const SILENCES: &[Kind] = &[Kind::RestartMaster, Kind::Silence];

/// Peers part from their master, all at once or one by one, and some die.
pub(crate) const PARTINGS: &[Kind] = &[Kind::BreakAll, Kind::Break, Kind::Kill];

/// The master dies, and so do peers, or they are not heard.
pub(crate) const CRASHES: &[Kind] = &[Kind::RestartMaster, Kind::Kill, Kind::Silence];

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
                    let masters = 0..self.masters.len();
                    actions.extend(masters.map(|master| Action::Resume(index, master)));
                    if node.epoch.is_some() {
                        actions.push(Action::GiveUpMaster(index));
                    }
                }
                Line::Up(_) if node.lives() && node.epoch.is_some() && !self.is_ruled(index) => {
                    actions.push(Action::GiveUpMaster(index));
                }
                Line::Deaf(_) if node.lives() => actions.push(Action::NoticeSilence(index)),
                _ => {}
            }
            for master in 0..self.masters.len() {
                let is_there = node.at == master && matches!(node.line, Line::Up(_));
                if !is_there && self.is_in_run_of(master, index) {
                    actions.push(Action::GiveUpOn(master, index));
                }
            }
        }
        for (master, ruling) in self.rulings.iter().enumerate() {
            if ruling.complaint.is_some() {
                actions.push(Action::Judge(master));
            }
            let is_there = |node: &Shared<Node>| {
                node.at == master && node.lives() && matches!(node.line, Line::Up(_))
            };
            if !self.masters[master].rules() && self.nodes.iter().any(is_there) {
                actions.push(Action::Listen(master));
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
        for master in 0..self.masters.len() {
            if kinds.contains(&Kind::RestartMaster) {
                add(Fault::RestartMaster(master));
            }
            if kinds.contains(&Kind::BreakAll) {
                add(Fault::BreakAll(master));
            }
        }
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
}
