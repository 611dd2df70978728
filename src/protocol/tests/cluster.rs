//! A master and peers joined by queues that a test empties in the order it likes.
//!
//! Data is not moved: an operation finishes at a peer once every member of its ring has begun it,
//! which is what the real data path comes to. Links come up when both ends want them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::protocol::master::{self, ConnectionId, Master, MasterConfig, Memory, Solution};
use crate::protocol::peer::{
    self, Command, LinkLoss, Membership, Peer, PeerConfig, Reply, RequestId,
};
use crate::shared_state::{Entry, Presentation, SyncStrategy, digest};
use crate::topology;
use crate::types::{
    DataType, Descriptor, GroupId, OperationId, PeerId, ReduceOp, Revision, RunId, Tag, Timestamp,
};
use crate::wire::control::{
    Frame, Hello, Join, LinkFault, Message, SyncPlan, ToMaster, ToPeer, Welcome,
};
use crate::wire::record::Record;

pub(super) const GRACE: Duration = Duration::from_secs(30);

/// What travels from a peer to the master.
enum Up {
    Hello(Hello),
    Frame(Frame<ToMaster>),
    Close,
}

/// What travels from the master to a peer.
enum Down {
    Welcome(Welcome),
    Refuse(String),
    Frame(Frame<ToPeer>),
    Close,
}

struct Wire {
    node: usize,
    /// The place of the master.
    at: usize,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
}

pub(super) struct Node {
    pub(super) peer: Peer,
    pub(super) id: Option<PeerId>,
    /// The run that it is, or was, part of.
    pub(super) run: Option<RunId>,
    pub(super) alive: bool,
    /// Stopped: takes nothing in, says nothing, but its sockets stay.
    pub(super) frozen: bool,
    pub(super) was_frozen: bool,
    /// Dead, but the system has not closed its listener yet.
    pub(super) port_lingers: bool,
    pub(super) connection: Option<ConnectionId>,
    /// To whom links are asked for, and where they listen.
    wanted: BTreeMap<PeerId, String>,
    up: BTreeSet<PeerId>,
    running: BTreeMap<OperationId, Running>,
    pub(super) replies: BTreeMap<RequestId, Reply>,
    pub(super) commands: BTreeMap<RequestId, Command>,
    pub(super) membership: Option<Membership>,
    pub(super) plan: Option<SyncPlan>,
    /// Operations that ended here, and whether their input was put back.
    pub(super) ended: Vec<(OperationId, bool)>,
    next_request: u64,
}

struct Running {
    nodes: Vec<usize>,
    descriptor: Descriptor,
    finished: bool,
}

pub(super) struct Cluster {
    pub(super) now: Timestamp,
    masters: Vec<Seat>,
    pub(super) nodes: Vec<Node>,
    wires: BTreeMap<ConnectionId, Wire>,
    next_connection: u64,
    /// Pairs that cannot reach each other.
    pub(super) cut: BTreeSet<(PeerId, PeerId)>,
    /// Nodes that cannot reach the master of a place.
    cut_off: BTreeSet<(usize, usize)>,
    /// Who dials a master, the one of this place.
    dialling: Vec<(usize, usize, Hello)>,
    /// Starts of masters so far.
    starts: u8,
}

/// A place of a master.
struct Seat {
    master: Master,
    is_silent: bool,
    /// What it has written down, on a disk that outlives it.
    disk: Option<Memory>,
    /// Its process has ended. Who dials it meanwhile, and has no other, tries again once it is back.
    is_dead: bool,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Move {
    Up(ConnectionId),
    Down(ConnectionId),
    LinkUp(usize, PeerId),
    LinkDown(usize, PeerId),
    Finish(usize, OperationId),
    Receive(usize, u64),
}

impl Seat {
    fn of(master: Master) -> Self {
        Self {
            master,
            disk: None,
            is_silent: false,
            is_dead: false,
        }
    }
}

impl Cluster {
    pub(super) fn new() -> Self {
        let now = Timestamp::default();
        let config = MasterConfig::default().new_run();
        let master = Master::with_memory(config, RunId(7), None, [255; 32], now);
        Self {
            now,
            masters: vec![Seat::of(master)],
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            next_connection: 1,
            cut: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            dialling: Vec::new(),
            starts: 1,
        }
    }

    /// Peers that are all accepted into one group, and may follow this many masters more.
    pub(super) fn with_standbys(size: usize, standbys: usize) -> Self {
        let mut cluster = Self::new();
        for _ in 0..standbys {
            let master = cluster.new_master();
            cluster.masters.push(Seat::of(master));
        }
        cluster.fill(size);
        cluster
    }

    /// The first master.
    pub(super) fn master(&self) -> &Master {
        self.master_at(0)
    }

    pub(super) fn master_at(&self, at: usize) -> &Master {
        &self.masters[at].master
    }

    /// A process that remembers nothing.
    fn new_master(&mut self) -> Master {
        self.starts += 1;
        let (run, seed) = (RunId(7_000 + u64::from(self.starts)), [self.starts; 32]);
        Master::new(MasterConfig::default(), run, 1, seed, self.now)
    }

    /// Peers that are all accepted into one group.
    pub(super) fn of(size: usize) -> Self {
        let mut cluster = Self::new();
        cluster.fill(size);
        cluster
    }

    fn fill(&mut self, size: usize) {
        for node in 0..size {
            self.spawn(GroupId(0));
            self.command(node, Command::Connect);
            self.run();
            if node > 0 {
                let calls: Vec<_> = (0..node).map(|n| (n, Command::UpdateTopology)).collect();
                self.all(calls);
            }
        }
        for node in &mut self.nodes {
            assert_eq!(
                node.membership.as_ref().map(|m| m.sizes.group as usize),
                Some(size)
            );
            node.replies.clear();
            node.commands.clear();
        }
    }

    pub(super) fn spawn(&mut self, group: GroupId) -> usize {
        let index = self.nodes.len();
        let join = Join {
            group,
            label: format!("node-{index}"),
            advertised_host: String::new(),
            port: 1000 + index as u16,
            lanes: Some(2),
            ..Join::default()
        };
        let config = PeerConfig {
            masters: (1..=self.masters.len())
                .map(|n| format!("master:{n}"))
                .collect(),
            join,
            connect_timeout: Duration::from_secs(10),
            master_grace: GRACE,
        };
        self.nodes.push(Node {
            peer: Peer::new(config, self.now),
            id: None,
            run: None,
            alive: true,
            frozen: false,
            was_frozen: false,
            port_lingers: false,
            connection: None,
            wanted: BTreeMap::new(),
            up: BTreeSet::new(),
            running: BTreeMap::new(),
            replies: BTreeMap::new(),
            commands: BTreeMap::new(),
            membership: None,
            plan: None,
            ended: Vec::new(),
            next_request: 1,
        });
        index
    }

    pub(super) fn command(&mut self, node: usize, command: Command) -> RequestId {
        let request = RequestId(self.nodes[node].next_request);
        self.nodes[node].next_request += 1;
        self.nodes[node].commands.insert(request, command.clone());
        self.tell_peer(node, peer::Input::Command { request, command });
        request
    }

    /// Commands, lets everything happen, and gives the replies.
    pub(super) fn all(&mut self, calls: Vec<(usize, Command)>) -> Vec<Option<Reply>> {
        let requests: Vec<_> = calls
            .into_iter()
            .map(|(node, call)| (node, self.command(node, call)))
            .collect();
        self.run();
        requests
            .iter()
            .map(|(node, r)| self.nodes[*node].replies.get(r).cloned())
            .collect()
    }

    pub(super) fn reply(&self, node: usize, request: RequestId) -> Option<&Reply> {
        self.nodes[node].replies.get(&request)
    }

    /// Ends a process: its sockets close.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.dialling.retain(|(other, ..)| *other != node);
        if let Some(connection) = self.nodes[node].connection.take() {
            self.close_up(connection);
        }
    }

    /// The control connection breaks, both ends notice.
    pub(super) fn break_connection(&mut self, node: usize) {
        if let Some(connection) = self.nodes[node].connection.take() {
            let reason = "reset".to_owned();
            if let Some(wire) = self.wires.remove(&connection) {
                let closed = master::Input::Closed {
                    connection,
                    reason: reason.clone(),
                };
                self.tell_master(wire.at, closed);
            }
            self.tell_peer(node, peer::Input::Disconnected { reason });
        }
    }

    /// A node cannot reach the master of a place from now on; if it was connected, both notice.
    pub(super) fn cut_off(&mut self, node: usize, at: usize) {
        self.cut_off.insert((node, at));
        let connection = self.nodes[node].connection;
        let wire = connection.and_then(|connection| self.wires.get(&connection));
        if wire.is_some_and(|wire| wire.at == at) {
            self.break_connection(node);
        }
    }

    /// Everybody reaches every master again.
    pub(super) fn mend(&mut self) {
        self.cut_off.clear();
    }

    fn close_up(&mut self, connection: ConnectionId) {
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.up.push_back(Up::Close);
            wire.down.clear();
        }
    }

    /// Does whatever can be done, in a fixed order, until nothing is left.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            match self.moves().first().copied() {
                Some(next) => self.perform(next),
                None => return,
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// As `run`, but stops when `done` says so.
    pub(super) fn run_until(&mut self, done: impl Fn(&Cluster) -> bool) {
        while !done(self) {
            let next = self.moves().first().copied().expect("it comes to that");
            self.perform(next);
        }
    }

    /// All data moves, nothing else does.
    pub(super) fn finish_data(&mut self) {
        loop {
            let finish = |m: &Move| matches!(m, Move::Finish(..));
            let Some(next) = self.moves().into_iter().find(finish) else {
                return;
            };
            self.perform(next);
        }
    }

    /// A link is reported as one that cannot be mended.
    pub(super) fn fail_link(&mut self, node: usize, peer: PeerId) {
        self.fail_link_so(node, peer, LinkFault::NoLane);
    }

    pub(super) fn fail_link_so(&mut self, node: usize, peer: PeerId, fault: LinkFault) {
        let reason = "no lane within 5000 ms".to_owned();
        let failed = peer::Input::LinkFailed {
            peer,
            fault,
            reason,
        };
        self.tell_peer(node, failed);
    }

    /// A node says that all its lanes to a peer have closed.
    pub(super) fn say_link_down(&mut self, node: usize, peer: PeerId) {
        let connection = self.nodes[node].connection.unwrap();
        let at = self.wires[&connection].at;
        // Unnumbered, so that the session does not miss what it has not said itself.
        let frame = Frame {
            sequence: 0,
            acknowledged: 0,
            message: ToMaster::LinkState { peer, up: false },
        };
        self.tell_master(at, master::Input::Message { connection, frame });
    }

    /// What runs at a node cannot go on there.
    pub(super) fn fail_operation(&mut self, node: usize, reason: &str) {
        let running: Vec<OperationId> = self.nodes[node].running.keys().copied().collect();
        for op in running {
            let reason = reason.to_owned();
            self.tell_peer(node, peer::Input::OperationFailed { op, reason });
        }
    }

    /// The master falls silent for good, as a machine that lost its power.
    pub(super) fn silence_master(&mut self) {
        self.masters[0].is_silent = true;
        for wire in self.wires.values_mut() {
            wire.up.clear();
            wire.down.clear();
        }
    }

    pub(super) fn kill_master(&mut self) {
        self.kill_master_at(0);
    }

    /// The process is killed: connections break, and what it had sent and has not arrived is lost with
    /// what it had not read.
    pub(super) fn kill_master_at(&mut self, at: usize) {
        self.masters[at].is_dead = true;
        let is_of_it = |wire: &Wire| wire.at == at;
        let of_it: Vec<ConnectionId> = self
            .wires
            .iter()
            .filter(|(_, w)| is_of_it(w))
            .map(|(c, _)| *c)
            .collect();
        self.wires.retain(|_, wire| !is_of_it(wire));
        for node in 0..self.nodes.len() {
            let connection = self.nodes[node].connection;
            if connection.is_some_and(|connection| of_it.contains(&connection)) {
                self.nodes[node].connection = None;
                if self.nodes[node].alive {
                    let reason = "reset".to_owned();
                    self.tell_peer(node, peer::Input::Disconnected { reason });
                }
            }
        }
    }

    /// The term of the master that this node asks for, where none is there.
    pub(super) fn term_asked_for(&self, node: usize) -> Option<u32> {
        let mut dialling = self.dialling.iter();
        let (.., hello) = dialling.find(|(dialling, ..)| *dialling == node)?;
        match hello {
            Hello::Resume { reign, .. } => Some(reign.term),
            Hello::Join(_) => None,
        }
    }

    pub(super) fn is_master_dead(&self, at: usize) -> bool {
        self.masters[at].is_dead
    }

    pub(super) fn start_master(&mut self) {
        self.start_master_at(0);
    }

    /// Its disk, as it is now.
    pub(super) fn disk(&self, at: usize) -> Option<Memory> {
        self.masters[at].disk.clone()
    }

    /// It is started again, with what it, or another one, has written down, and goes on writing.
    pub(super) fn start_master_with(&mut self, at: usize, disk: Option<Memory>) {
        self.starts += 1;
        let (run, seed) = (RunId(7_000 + u64::from(self.starts)), [self.starts; 32]);
        let config = MasterConfig::default();
        let master = Master::with_memory(config, run, disk.clone(), seed, self.now);
        self.masters[at] = Seat::of(master);
        self.masters[at].disk = disk;
        self.dial_waiting();
    }

    /// It is started again, and remembers nothing.
    pub(super) fn start_master_at(&mut self, at: usize) {
        let master = self.new_master();
        self.masters[at] = Seat::of(master);
        self.dial_waiting();
    }

    /// It is started, and told to begin a run of its own.
    pub(super) fn begin_run_at(&mut self, at: usize) {
        self.starts += 1;
        let (run, seed) = (RunId(7_000 + u64::from(self.starts)), [self.starts; 32]);
        let config = MasterConfig::default().new_run();
        self.masters[at] = Seat::of(Master::new(config, run, 1, seed, self.now));
        self.dial_waiting();
    }

    /// The operator asks it to end; it does once all that it says has gone out.
    pub(super) fn hand_over(&mut self, at: usize) {
        self.tell_master(at, master::Input::HandOver);
    }

    fn dial_waiting(&mut self) {
        for (node, at, hello) in std::mem::take(&mut self.dialling) {
            let is_reached = !self.masters[at].is_dead && !self.cut_off.contains(&(node, at));
            if is_reached {
                self.dial_master(node, at, hello);
            } else if self.masters.len() > 1 && self.is_running(node) {
                let reason = "connection refused".to_owned();
                self.tell_peer(node, peer::Input::Disconnected { reason });
            } else {
                self.dialling.push((node, at, hello));
            }
        }
    }

    /// Killed and started again in a moment.
    pub(super) fn restart_master(&mut self) {
        self.kill_master();
        self.start_master();
    }

    fn dial_later(&mut self, index: usize, at: usize, hello: Hello) {
        self.dialling.retain(|(node, ..)| *node != index);
        self.dialling.push((index, at, hello));
    }

    fn dial_master(&mut self, index: usize, at: usize, hello: Hello) {
        if self.masters[at].is_dead || self.cut_off.contains(&(index, at)) {
            return self.dial_later(index, at, hello);
        }
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        if let Some(older) = self.nodes[index].connection.replace(connection) {
            self.close_up(older);
        }
        let wire = Wire {
            node: index,
            at,
            up: VecDeque::from([Up::Hello(hello)]),
            down: VecDeque::new(),
        };
        self.wires.insert(connection, wire);
    }

    /// Somebody registers by hand: says hello, and is bound by no state machine.
    pub(super) fn stranger(&mut self) -> ConnectionId {
        let connection = ConnectionId(1_000_000 + self.next_connection);
        self.next_connection += 1;
        let join = Join {
            group: GroupId(0),
            label: "mallory".to_owned(),
            advertised_host: String::new(),
            port: 9,
            lanes: Some(1),
            ..Join::default()
        };
        let greeted = master::Input::Greeted {
            connection,
            hello: Hello::Join(join),
            from: ([127, 0, 0, 1], 9).into(),
        };
        self.tell_master(0, greeted);
        connection
    }

    /// A stranger says this to the master, as it would arrive.
    pub(super) fn say_as(&mut self, connection: ConnectionId, message: ToMaster) {
        let frame = Frame {
            sequence: 0,
            acknowledged: 0,
            message,
        };
        self.say_numbered(connection, frame);
    }

    /// As `say_as`, with numbers of its own choice.
    pub(super) fn say_numbered(&mut self, connection: ConnectionId, frame: Frame<ToMaster>) {
        let frame = Frame::<ToMaster>::decode(&frame.encode()).unwrap();
        self.tell_master(0, master::Input::Message { connection, frame });
        self.run();
    }

    /// Lets time pass in steps, ticking whoever is due.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(100)).min(end);
            self.tick();
            self.run();
        }
    }

    pub(super) fn tick(&mut self) {
        self.dial_waiting();
        for at in 0..self.masters.len() {
            if self.masters[at].master.next_timeout() <= self.now {
                self.tell_master(at, master::Input::Tick);
            }
        }
        for node in 0..self.nodes.len() {
            let due = self.nodes[node]
                .peer
                .next_timeout()
                .is_some_and(|due| due <= self.now);
            if due && self.is_running(node) {
                self.tell_peer(node, peer::Input::Tick);
            }
        }
    }

    fn is_running(&self, node: usize) -> bool {
        self.nodes[node].alive && !self.nodes[node].frozen
    }

    /// Who listens there. Ids do not tell: each run, and each of two masters, counts its own.
    fn node_at(&self, address: &str) -> Option<usize> {
        let port: Option<usize> = address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        let index = port.and_then(|port| port.checked_sub(1000));
        index.filter(|index| *index < self.nodes.len())
    }

    fn lives_at(&self, address: &str) -> bool {
        let node = self.node_at(address).map(|index| &self.nodes[index]);
        node.is_some_and(|node| node.alive)
    }

    /// All that may happen next.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for (connection, wire) in &self.wires {
            if !wire.up.is_empty() {
                moves.push(Move::Up(*connection));
            }
            if !wire.down.is_empty() && self.is_running(wire.node) {
                moves.push(Move::Down(*connection));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if !self.is_running(index) {
                continue;
            }
            let Some(id) = node.id else { continue };
            for (other, listener) in &node.wanted {
                let pair = (id.min(*other), id.max(*other));
                let wants_us = |other: usize| {
                    let here = self.nodes[other].wanted.get(&id);
                    here.and_then(|address| self.node_at(address)) == Some(index)
                };
                let reachable = !self.cut.contains(&pair)
                    && self.lives_at(listener)
                    && self.node_at(listener).is_some_and(wants_us);
                match (reachable, node.up.contains(other)) {
                    (true, false) => moves.push(Move::LinkUp(index, *other)),
                    (false, true) => moves.push(Move::LinkDown(index, *other)),
                    _ => {}
                }
            }
            for (op, running) in &node.running {
                if !running.finished && self.has_all_begun(*op, running) {
                    moves.push(Move::Finish(index, *op));
                }
            }
            if let Some(plan) = &node.plan {
                moves.push(Move::Receive(index, plan.round));
            }
        }
        moves
    }

    fn has_all_begun(&self, op: OperationId, running: &Running) -> bool {
        // An empty buffer waits for nobody's bytes.
        running.descriptor.count == 0
            || running.nodes.iter().all(|node| {
                let node = &self.nodes[*node];
                let begun = node.running.get(&op);
                let same = begun.is_some_and(|other| other.descriptor == running.descriptor);
                // What was done here before it died has arrived.
                (node.alive || begun.is_some_and(|o| o.finished)) && same
            })
    }

    pub(super) fn perform(&mut self, next: Move) {
        match next {
            Move::Up(connection) => self.carry_up(connection),
            Move::Down(connection) => self.carry_down(connection),
            Move::LinkUp(node, peer) => {
                self.nodes[node].up.insert(peer);
                self.tell_peer(node, peer::Input::LinkUp { peer });
            }
            Move::LinkDown(node, peer) => {
                self.nodes[node].up.remove(&peer);
                let here = self.nodes[node].id.unwrap_or(peer);
                let is_cut = self.cut.contains(&(here.min(peer), here.max(peer)));
                let loss = if is_cut {
                    LinkLoss::GivenUp
                } else {
                    LinkLoss::ClosedThere
                };
                self.tell_peer(node, peer::Input::LinkDown { peer, loss });
            }
            Move::Finish(node, op) => {
                if let Some(running) = self.nodes[node].running.get_mut(&op) {
                    running.finished = true;
                }
                self.tell_peer(node, peer::Input::OperationFinished { op });
            }
            Move::Receive(node, round) => {
                let plan = self.nodes[node].plan.take();
                let Some(holder) = plan.and_then(|plan| plan.holder) else {
                    return;
                };
                let serves = self.lives_at(&holder.address);
                let input = if serves {
                    peer::Input::SyncReceived { round }
                } else {
                    let reason = "connection refused".to_owned();
                    peer::Input::SyncFailed {
                        round,
                        holder: holder.id,
                        reason,
                    }
                };
                self.tell_peer(node, input);
            }
        }
    }

    fn carry_up(&mut self, connection: ConnectionId) {
        let Some(wire) = self.wires.get_mut(&connection) else {
            return;
        };
        let from = ([127, 0, 0, 1], 5000 + wire.node as u16).into();
        let at = wire.at;
        let input = match wire.up.pop_front() {
            Some(Up::Hello(hello)) => {
                let hello = Hello::decode(&hello.encode()).unwrap();
                master::Input::Greeted {
                    connection,
                    hello,
                    from,
                }
            }
            Some(Up::Frame(frame)) => {
                let frame = Frame::<ToMaster>::decode(&frame.encode()).unwrap();
                master::Input::Message { connection, frame }
            }
            Some(Up::Close) => {
                self.wires.remove(&connection);
                let reason = "closed by the other side".to_owned();
                master::Input::Closed { connection, reason }
            }
            None => return,
        };
        self.tell_master(at, input);
    }

    fn carry_down(&mut self, connection: ConnectionId) {
        let Some(wire) = self.wires.get_mut(&connection) else {
            return;
        };
        let node = wire.node;
        let Some(message) = wire.down.pop_front() else {
            return;
        };
        let is_current = self.nodes[node].connection == Some(connection);
        if !is_current {
            return;
        }
        let input = match message {
            Down::Welcome(welcome) => {
                if let Welcome::Registered { peer, run, .. } = &welcome {
                    self.nodes[node].id = Some(*peer);
                    self.nodes[node].run = Some(*run);
                }
                peer::Input::Welcomed(Welcome::decode(&welcome.encode()).unwrap())
            }
            Down::Refuse(reason) => {
                self.wires.remove(&connection);
                self.nodes[node].connection = None;
                peer::Input::Refused { reason }
            }
            Down::Frame(frame) => {
                peer::Input::Message(Frame::<ToPeer>::decode(&frame.encode()).unwrap())
            }
            Down::Close => {
                self.wires.remove(&connection);
                self.nodes[node].connection = None;
                peer::Input::Disconnected {
                    reason: "closed by the master".to_owned(),
                }
            }
        };
        self.tell_peer(node, input);
    }

    fn tell_master(&mut self, at: usize, input: master::Input) {
        let seat = &mut self.masters[at];
        if seat.is_silent || seat.is_dead {
            return;
        }
        seat.master.handle(self.now, input);
        while let Some(output) = self.masters[at].master.poll_output() {
            self.obey_master(at, output);
        }
    }

    fn obey_master(&mut self, at: usize, output: master::Output) {
        let (connection, message) = match output {
            master::Output::Welcome {
                connection,
                welcome,
                ..
            } => (connection, Down::Welcome(welcome)),
            master::Output::Refuse { connection, reason } => (connection, Down::Refuse(reason)),
            master::Output::Send { connection, frame } => (connection, Down::Frame(frame)),
            master::Output::Close { connection } => (connection, Down::Close),
            master::Output::Record(record) => {
                let record = Record::decode(&record.encode()).unwrap();
                let disk = self.masters[at].disk.get_or_insert_default();
                disk.learn(record);
                return;
            }
            master::Output::Probe { peer, address } => {
                let node = self.node_at(&address).map(|index| &self.nodes[index]);
                if node.is_some_and(|node| !node.alive && !node.port_lingers) {
                    self.tell_master(at, master::Input::PortRefused { peer });
                }
                return;
            }
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
                            Solution::Drop(dropped.unwrap())
                        }
                    };
                    (*group, solution)
                });
                let solutions = solutions.collect();
                let solved = master::Input::Solved {
                    request: request.request,
                    solutions,
                };
                self.tell_master(at, solved);
                return;
            }
        };
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.down.push_back(message);
        }
    }

    pub(super) fn tell_peer(&mut self, node: usize, input: peer::Input) {
        self.nodes[node].peer.handle(self.now, input);
        while let Some(output) = self.nodes[node].peer.poll_output() {
            self.obey_peer(node, output);
        }
    }

    fn obey_peer(&mut self, index: usize, output: peer::Output) {
        let node = &mut self.nodes[index];
        match output {
            peer::Output::ReachMaster {
                master,
                hello,
                after,
                ..
            } => {
                let place = master.strip_prefix("master:").and_then(|n| n.parse().ok());
                let at = place.map_or(0, |place: usize| place - 1);
                match after.is_zero() {
                    true => self.dial_master(index, at, hello),
                    // Some time passes first.
                    false => self.dial_later(index, at, hello),
                }
            }
            peer::Output::LeaveMaster => {
                let connection = node.connection.take();
                self.dialling.retain(|(other, ..)| *other != index);
                if let Some(connection) = connection {
                    self.close_up(connection);
                }
            }
            peer::Output::Send(frame) => {
                if let Some(wire) = node.connection.and_then(|c| self.wires.get_mut(&c)) {
                    wire.up.push_back(Up::Frame(frame));
                }
            }
            peer::Output::Wire { links, .. } => {
                let names = links.into_iter().map(|link| link.peer);
                node.wanted = names.map(|name| (name.id, name.address)).collect();
                let wanted = node.wanted.clone();
                node.up.retain(|peer| wanted.contains_key(peer));
            }
            peer::Output::OpenEpoch { membership, .. } => node.membership = Some(membership),
            peer::Output::BeginOperation {
                op,
                descriptor,
                ring,
                ..
            } => {
                let membership = node.membership.as_ref().expect("an epoch is open");
                let names = membership.ring.iter();
                let names = names.filter(|name| ring.contains(&name.id));
                let names: Vec<_> = names.map(|name| name.address.clone()).collect();
                let nodes = names.iter().filter_map(|name| self.node_at(name)).collect();
                let running = Running {
                    nodes,
                    descriptor,
                    finished: false,
                };
                let before = self.nodes[index].running.insert(op, running);
                assert!(before.is_none(), "operation {op} began twice");
            }
            peer::Output::EndOperation { op, roll_back } => {
                let running = node.running.remove(&op).expect("what ends has begun");
                if !roll_back {
                    assert!(
                        running.finished,
                        "committed {op} before it was finished here"
                    );
                }
                node.ended.push((op, roll_back));
                self.tell_peer(index, peer::Input::OperationEnded { op });
            }
            peer::Output::NoteSettled { .. } => {}
            peer::Output::BeginSync { plan, .. } => {
                node.plan = Some(plan).filter(|plan| plan.holder.is_some());
            }
            peer::Output::Reply { request, reply } => {
                let before = node.replies.insert(request, reply);
                assert!(before.is_none(), "a command is answered once");
            }
            peer::Output::Gone(_) => {
                node.wanted.clear();
                node.up.clear();
            }
        }
    }
}

pub(super) fn reduce(tag: u64) -> Command {
    reduce_of(tag, 100)
}

pub(super) fn reduce_of(tag: u64, count: u64) -> Command {
    let descriptor = Descriptor {
        count,
        data_type: DataType::F32,
        op: ReduceOp::Sum,
        quantization: None,
    };
    Command::AllReduce {
        tag: Tag(tag),
        descriptor,
        deadline: None,
    }
}

pub(super) fn present(revision: u64, content: &str) -> Command {
    Command::SyncSharedState(Presentation {
        revision: Revision(revision),
        strategy: SyncStrategy::EnforcePopular,
        entries: vec![Entry {
            name: "weights".to_owned(),
            data_type: DataType::U8,
            count: 4,
            digest: Some(digest(content.as_bytes())),
            tainted: false,
        }],
    })
}
