//! Feeds the master's machine and obeys it, and carries messages, as the library's drivers do.
//!
//! What a machine asks for inside its own process is done at once, in the order it asks.

use std::time::Duration;

use pccl::protocol::master::{self, ConnectionId, Master, MasterConfig, Solution};
use pccl::protocol::peer::{self, RequestId};
use pccl::topology;
use pccl::wire::control::{
    Frame, Heartbeat, Hello, Outcome, Settlement, ToMaster, ToPeer, Welcome,
};
use pccl::{Epoch, RunId, Timestamp};

use super::shared::Shared;
use super::state::{Line, Node, Ruling, State};

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

/// A master in memory of nothing, which waits for longer than anybody for those of a run before it
/// begins one: there is one run.
pub(crate) fn one_that_comes(seed: u8) -> Master {
    let config = MasterConfig {
        recovery_window: DEADLINE,
        begins_new_run: false,
        ..master_config()
    };
    let run = RunId(7000 + u64::from(seed));
    Master::new(config, run, 1, [seed; 32], Timestamp::default())
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
        let master = self.nodes[node].at;
        if self.nodes[node].up.is_empty() {
            self.nodes[node].change().tail = None;
        }
        if let ToMaster::EpochAcknowledged { epoch } = frame.message
            && self.rulings[master].proposed == Some(epoch)
            && let Some(id) = self.nodes[node].id
        {
            self.rulings[master].change().acknowledged.insert(id);
        }
        if let ToMaster::LinkFailed { .. } = frame.message {
            let ruling = self.rulings[master].change();
            ruling.complaint = Some(ruling.now);
        }
        if let ToMaster::LinkState { peer, up: true } = frame.message
            && let Some(other) = self.nodes.iter().position(|node| node.id == Some(peer))
        {
            let pair = (node.min(other), node.max(other));
            if self.world.complained.contains_key(&pair) {
                self.world.change().complained.remove(&pair);
            }
        }
        self.tell_master(master, master::Input::Message { connection, frame });
        // A heartbeat says that it was heard.
        if self.is_at(node, master, connection) {
            self.hear(node, nothing_but(sequence, ToPeer::LeaveAcknowledged));
        }
    }

    /// A message of the master reaches a node, which acknowledges it.
    pub(crate) fn hear(&mut self, node: usize, frame: Frame<ToPeer>) {
        let Line::Up(connection) = self.nodes[node].line else {
            return;
        };
        let sequence = frame.sequence;
        let master = self.nodes[node].at;
        self.tell_peer(node, peer::Input::Message(frame));
        if sequence > 0 {
            let frame = nothing_but(sequence, WORD);
            self.tell_master(master, master::Input::Message { connection, frame });
        }
    }

    pub(crate) fn tell_master(&mut self, master: usize, input: master::Input) {
        let now = self.rulings[master].now;
        let ruled = self.masters[master].rules();
        self.masters[master].change().handle(now, input);
        let rules = self.masters[master].rules();
        if rules && !ruled {
            self.note_reign(master);
        }
        while let Some(output) = self.masters[master].change().poll_output() {
            self.obey_master(master, output);
        }
        if ruled && !rules {
            self.rulings[master] = Shared::new(Ruling::at(now));
            self.forget_what_nobody_knows(master);
        }
    }

    fn obey_master(&mut self, master: usize, output: master::Output) {
        match output {
            master::Output::Send { connection, frame } => {
                self.send_down(master, connection, frame);
            }
            master::Output::Close { connection } => self.close_down(master, connection),
            // Welcomed and refused in the step that says hello; see `greet`.
            master::Output::Welcome { .. } | master::Output::Refuse { .. } => {
                self.answer(master, output);
            }
            master::Output::Probe { peer, .. } => {
                let node = self.node_of(peer);
                if node.is_some_and(|node| !self.nodes[node].alive && self.dies_at(master, node)) {
                    self.tell_master(master, master::Input::PortRefused { peer });
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
                let request = request.request;
                self.tell_master(master, master::Input::Solved { request, solutions });
            }
        }
    }

    /// Whether this connection to a master is a node's, and both ends take it for open.
    fn is_at(&self, node: usize, master: usize, connection: ConnectionId) -> bool {
        let node = &self.nodes[node];
        node.at == master && matches!(node.line, Line::Up(id) if id == connection)
    }

    fn at(&self, master: usize, connection: ConnectionId) -> Option<usize> {
        (0..self.nodes.len()).find(|node| self.is_at(*node, master, connection))
    }

    fn send_down(&mut self, master: usize, connection: ConnectionId, frame: Frame<ToPeer>) {
        let ruling = &self.rulings[master];
        match &frame.message {
            ToPeer::Heartbeat(_) => return,
            ToPeer::EpochProposed(proposal) => {
                // What is said again after a resume may be old.
                let newest = ruling.proposed.max(ruling.active);
                if newest < Some(proposal.epoch) {
                    let ruling = self.rulings[master].change();
                    ruling.proposed = Some(proposal.epoch);
                    ruling.acknowledged.clear();
                    let outcomes = proposal.outcomes.iter();
                    ruling.to_decide = outcomes.map(|o| (o.op, is_committed(o))).collect();
                }
            }
            ToPeer::EpochActive { epoch } => self.note_active(master, *epoch),
            ToPeer::OperationSettled(settlement) if Some(settlement.op.epoch) == ruling.active => {
                let op = settlement.op;
                let ruling = self.rulings[master].change();
                let settled = ruling.settled.entry(op.tag.0).or_insert(0);
                *settled = (*settled).max(op.n + 1);
                self.note_decided(master, op, is_committed(settlement));
            }
            _ => {}
        }
        let Some(node) = self.at(master, connection) else {
            return;
        };
        if self.delivers_later {
            self.nodes[node].change().down.push_back(frame);
        } else {
            self.hear(node, frame);
        }
    }

    fn close_down(&mut self, master: usize, connection: ConnectionId) {
        let is_left = |node: &Shared<Node>| node.left.get(&master) == Some(&connection);
        if let Some(node) = self.nodes.iter().position(is_left) {
            self.nodes[node].change().left.remove(&master);
        }
        // What was sent before is read first; `Evicted` and `LeaveAcknowledged` end the peer then.
        if let Some(node) = self.at(master, connection) {
            while let Some(frame) = self.nodes[node].change().down.pop_front() {
                self.hear(node, frame);
            }
            if matches!(self.nodes[node].line, Line::Up(_)) {
                // It may not find its way back in time.
                self.nodes[node].change().touched = true;
                let reason = "reset".to_owned();
                self.tell_peer(node, peer::Input::Disconnected { reason });
            }
        }
    }

    /// Says a hello to a master on a new connection and takes the answer.
    pub(crate) fn greet(&mut self, node: usize, master: usize, hello: Hello) {
        // The lowest number that the master does not know for this node: two at most are in use.
        self.nodes[node].change().at = master;
        let older = self.nodes[node].left.get(&master).copied();
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
        let greeted = master::Input::Greeted {
            connection,
            hello,
            from: ([127, 0, 0, 1], 5000 + node as u16).into(),
        };
        self.tell_master(master, greeted);
    }

    fn answer(&mut self, master: usize, output: master::Output) {
        match output {
            master::Output::Welcome {
                connection,
                welcome,
                ..
            } => {
                let Some(node) = self.at(master, connection) else {
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
                self.tell_master(master, master::Input::Message { connection, frame });
            }
            master::Output::Refuse { connection, reason } => {
                if let Some(node) = self.at(master, connection) {
                    self.nodes[node].change().line = Line::None;
                    self.tell_peer(node, peer::Input::Refused { reason });
                }
            }
            _ => {}
        }
    }

    /// Lets so much time pass at a master that a peer of which nothing is heard is overdue.
    /// Everybody else is heard in time, `but` is not.
    pub(crate) fn pass_at_master(&mut self, master: usize, duration: Duration, but: usize) {
        let step = master_config().heartbeat_interval;
        let end = self.rulings[master].now + duration;
        while self.rulings[master].now < end {
            let now = self.rulings[master].now + step;
            self.rulings[master].change().now = now;
            for node in (0..self.nodes.len()).filter(|node| *node != but) {
                if let Some(connection) = self.end_at(master, node) {
                    let frame = nothing_but(0, WORD);
                    self.tell_master(master, master::Input::Message { connection, frame });
                }
            }
            self.tell_master(master, master::Input::Tick);
        }
    }

    /// What a master takes for a node's open connection.
    pub(crate) fn end_at(&self, master: usize, node: usize) -> Option<ConnectionId> {
        let node = &self.nodes[node];
        match node.line {
            Line::Up(connection) | Line::Deaf(connection) if node.at == master => Some(connection),
            _ => node.left.get(&master).copied(),
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
