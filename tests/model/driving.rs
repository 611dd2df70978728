//! Feeds the master's machine and obeys it, and carries messages, as the library's drivers do.
//!
//! What a machine asks for inside its own process is done at once, in the order it asks.

use std::time::Duration;

use pccl::Epoch;
use pccl::protocol::master::{self, ConnectionId, MasterConfig, Solution};
use pccl::protocol::peer::{self, RequestId};
use pccl::topology;
use pccl::wire::control::{
    Frame, Heartbeat, Hello, Outcome, Settlement, ToMaster, ToPeer, Welcome,
};

use super::state::{Line, State};

/// A peer's deadline for operations with tag 0: so far away that it passes only where the model
/// says so.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3600);

/// Requests with these numbers are joint calls; an operation's is its tag. A number is used again
/// once it was answered: machines hand it back and do not look at it.
pub(crate) const CONNECT: RequestId = RequestId(100);
pub(crate) const UPDATE: RequestId = RequestId(101);
pub(crate) const OTHER: RequestId = RequestId(102);

/// Settings under which the model can tell one kind of waiting from another: a silent peer is
/// overdue long before one whose connection broke.
pub(crate) fn master_config() -> MasterConfig {
    MasterConfig {
        heartbeat_interval: Duration::from_millis(500),
        silence_floor: Duration::from_secs(1),
        silence_ceiling: Duration::from_secs(1),
        resume_grace: Duration::from_secs(4),
        wiring_timeout: Duration::from_secs(100),
        peers_max: 16,
        ..MasterConfig::default().new_run()
    }
}

impl State {
    /// What a connected peer says reaches the master.
    pub(crate) fn deliver(&mut self, node: usize) {
        let Line::Up(connection) = self.nodes[node].line else {
            return;
        };
        let Some(frame) = self.nodes[node].change().up.pop_front() else {
            return;
        };
        let sequence = frame.sequence;
        if self.nodes[node].up.is_empty() {
            self.nodes[node].change().tail = None;
        }
        if let ToMaster::EpochAcknowledged { epoch } = frame.message
            && self.world.proposed == Some(epoch)
            && let Some(id) = self.nodes[node].id
        {
            self.world.change().acknowledged.insert(id);
        }
        if let ToMaster::LinkFailed { .. } = frame.message {
            let now = self.world.now;
            self.world.change().complaint = Some(now);
        }
        if let ToMaster::LinkState { peer, up: true } = frame.message
            && let Some(other) = self.nodes.iter().position(|node| node.id == Some(peer))
        {
            let pair = (node.min(other), node.max(other));
            if self.world.complained.contains_key(&pair) {
                self.world.change().complained.remove(&pair);
            }
        }
        self.tell_master(master::Input::Message { connection, frame });
        // A heartbeat says that it was heard.
        if matches!(self.nodes[node].line, Line::Up(now) if now == connection) {
            self.hear(node, nothing_but(sequence, ToPeer::LeaveAcknowledged));
        }
    }

    /// A message of the master reaches a node, which acknowledges it.
    pub(crate) fn hear(&mut self, node: usize, frame: Frame<ToPeer>) {
        let Line::Up(connection) = self.nodes[node].line else {
            return;
        };
        let sequence = frame.sequence;
        self.tell_peer(node, peer::Input::Message(frame));
        if sequence > 0 {
            let frame = nothing_but(sequence, WORD);
            self.tell_master(master::Input::Message { connection, frame });
        }
    }

    pub(crate) fn tell_master(&mut self, input: master::Input) {
        let now = self.world.now;
        self.master.change().handle(now, input);
        while let Some(output) = self.master.change().poll_output() {
            self.obey_master(output);
        }
    }

    fn obey_master(&mut self, output: master::Output) {
        match output {
            master::Output::Send { connection, frame } => self.send_down(connection, frame),
            master::Output::Close { connection } => self.close_down(connection),
            // Welcomed and refused in the step that says hello; see `greet`.
            master::Output::Welcome { .. } | master::Output::Refuse { .. } => {
                self.answer(output);
            }
            master::Output::Probe { peer, .. } => {
                if self.node_of(peer).is_some_and(|n| !self.nodes[n].alive) {
                    self.tell_master(master::Input::PortRefused { peer });
                }
            }
            // It is started again in memory of nothing.
            master::Output::Record(_) => {}
            master::Output::Solve(request) => {
                let solutions = request.groups.iter().map(|(group, members)| {
                    let solution = match topology::ring(members, &request.broken, 10_000) {
                        topology::Solution::Ring(ring) => Solution::Ring(ring),
                        _ => {
                            let mut joined = members.clone();
                            joined.sort();
                            let dropped = topology::whom_to_drop(
                                members,
                                &request.newcomers,
                                &request.broken,
                                &request.complaints,
                                &joined,
                            );
                            Solution::Drop(dropped.expect("a group has members"))
                        }
                    };
                    (*group, solution)
                });
                let solutions = solutions.collect();
                self.tell_master(master::Input::Solved {
                    request: request.request,
                    solutions,
                });
            }
        }
    }

    fn at(&self, connection: ConnectionId) -> Option<usize> {
        let is_its = |line: &Line| matches!(line, Line::Up(id) if *id == connection);
        self.nodes.iter().position(|node| is_its(&node.line))
    }

    fn send_down(&mut self, connection: ConnectionId, frame: Frame<ToPeer>) {
        match &frame.message {
            ToPeer::Heartbeat(_) => return,
            ToPeer::EpochProposed(proposal) => {
                // What is said again after a resume may be old.
                let newest = self.world.proposed.max(self.world.active);
                if newest < Some(proposal.epoch) {
                    let world = self.world.change();
                    world.proposed = Some(proposal.epoch);
                    world.acknowledged.clear();
                    let outcomes = proposal.outcomes.iter();
                    world.to_decide = outcomes.map(|o| (o.op, is_committed(o))).collect();
                }
            }
            ToPeer::EpochActive { epoch } => self.note_active(*epoch),
            ToPeer::OperationSettled(settlement)
                if Some(settlement.op.epoch) == self.world.active =>
            {
                let op = settlement.op;
                let settled = self.world.change().settled.entry(op.tag.0).or_insert(0);
                *settled = (*settled).max(op.n + 1);
                self.note_decided(op, is_committed(settlement));
            }
            _ => {}
        }
        let Some(node) = self.at(connection) else {
            return;
        };
        if self.delivers_later {
            self.nodes[node].change().down.push_back(frame);
        } else {
            self.hear(node, frame);
        }
    }

    fn close_down(&mut self, connection: ConnectionId) {
        // What was sent before is read first; `Evicted` and `LeaveAcknowledged` end the peer then.
        if let Some(node) = self.at(connection) {
            while let Some(frame) = self.nodes[node].change().down.pop_front() {
                self.hear(node, frame);
            }
            if matches!(self.nodes[node].line, Line::Up(_)) {
                let reason = "closed by the master".to_owned();
                self.tell_peer(node, peer::Input::Disconnected { reason });
            }
        }
    }

    /// Says a hello on a new connection and takes the answer.
    pub(crate) fn greet(&mut self, node: usize, hello: Hello) {
        // The lowest number that the master does not know for this node: two at most are in use.
        let older = match self.nodes[node].line {
            Line::Up(id) | Line::Deaf(id) => Some(id),
            Line::None | Line::Broken(_) => None,
        };
        let ids = [2 * node as u64 + 1, 2 * node as u64 + 2].map(ConnectionId);
        let connection = if older == Some(ids[0]) {
            ids[1]
        } else {
            ids[0]
        };
        self.nodes[node].change().line = Line::Up(connection);
        // What was said of its links while it was away counted for nothing, and is said again.
        let is_other = |pair: &(usize, usize)| pair.0 != node && pair.1 != node;
        if self.world.complained.keys().any(|pair| !is_other(pair)) {
            self.world
                .change()
                .complained
                .retain(|pair, _| is_other(pair));
        }
        self.tell_master(master::Input::Greeted {
            connection,
            hello,
            from: ([127, 0, 0, 1], 5000 + node as u16).into(),
        });
    }

    fn answer(&mut self, output: master::Output) {
        match output {
            master::Output::Welcome {
                connection,
                welcome,
                ..
            } => {
                let Some(node) = self.at(connection) else {
                    return;
                };
                if let Welcome::Registered { peer, .. } = &welcome {
                    self.nodes[node].change().id = Some(*peer);
                }
                self.tell_peer(node, peer::Input::Welcomed(welcome));
                // Its first heartbeat shows that it is alive.
                let message = ToMaster::Heartbeat(Heartbeat {
                    number: 1,
                    ..Heartbeat::default()
                });
                let frame = nothing_but(0, message);
                self.tell_master(master::Input::Message { connection, frame });
            }
            master::Output::Refuse { connection, reason } => {
                if let Some(node) = self.at(connection) {
                    self.nodes[node].change().line = Line::None;
                    self.tell_peer(node, peer::Input::Refused { reason });
                }
            }
            _ => {}
        }
    }

    /// Lets so much time pass at the master that a peer of which nothing is heard is overdue.
    /// Everybody else is heard in time, `but` is not.
    pub(crate) fn pass_at_master(&mut self, duration: Duration, but: usize) {
        let step = master_config().heartbeat_interval;
        let end = self.world.now + duration;
        while self.world.now < end {
            let now = self.world.now + step;
            self.world.change().now = now;
            for node in 0..self.nodes.len() {
                let heard = match self.nodes[node].line {
                    Line::Up(connection) | Line::Deaf(connection) => Some(connection),
                    Line::None | Line::Broken(_) => None,
                };
                if let Some(connection) = heard.filter(|_| node != but) {
                    let frame = nothing_but(0, WORD);
                    self.tell_master(master::Input::Message { connection, frame });
                }
            }
            self.tell_master(master::Input::Tick);
        }
    }
}

/// A word from a peer that says nothing. A heartbeat would teach the master's watch what gaps to
/// expect, and no time passes between those of the model.
const WORD: ToMaster = ToMaster::Wired {
    epoch: Epoch { term: 0, count: 0 },
};

fn is_committed(settlement: &Settlement) -> bool {
    matches!(settlement.outcome, Outcome::Committed { .. })
}

/// A frame that does nothing but acknowledge up to this number.
pub(crate) fn nothing_but<M>(acknowledged: u64, message: M) -> Frame<M> {
    Frame {
        sequence: 0,
        acknowledged,
        message,
    }
}
