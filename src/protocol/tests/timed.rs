//! A master and peers on paths that take time: every message arrives after its path's delay, in
//! order, and clocks are read at the very moment that a machine asked for. Links are up at once,
//! and data never finishes: what is watched here is who is noticed to be gone, and when.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::random::Dice;
use crate::protocol::master::{self, ConnectionId, Master, MasterConfig, Solution};
use crate::protocol::peer::{self, Command, LinkLoss, Peer, PeerConfig, Reply, RequestId};
use crate::types::{GroupId, PeerId, RunId, Timestamp};
use crate::wire::control::{Join, Message, Welcome};

/// The way between a peer and the master.
pub(super) struct Path {
    /// Each way, at least.
    pub(super) delay: Duration,
    /// Each way, drawn anew for each message, at most.
    pub(super) jitter: Duration,
    /// What the peer says is lost.
    pub(super) cut_up: bool,
    /// What the master says is lost.
    pub(super) cut_down: bool,
    /// The latest arrival each way: nothing overtakes.
    latest: [Timestamp; 2],
}

pub(super) struct Node {
    pub(super) peer: Peer,
    pub(super) path: Path,
    pub(super) frozen: bool,
    connection: Option<ConnectionId>,
    /// Connections that take nothing any more, though nobody was told.
    half_open: Option<ConnectionId>,
    pub(super) connections: u32,
    pub(super) world_size: u32,
    /// The longest that it was told to expect of a neighbour.
    pub(super) round_trip: Duration,
    pub(super) replies: BTreeMap<RequestId, (Timestamp, Reply)>,
    /// Why connections were given up.
    pub(super) disconnects: Vec<String>,
    next_request: u64,
    /// What came while it was frozen.
    inbox: VecDeque<(ConnectionId, peer::Input)>,
}

enum Event {
    ToMaster(master::Input),
    ToPeer(usize, ConnectionId, peer::Input),
}

pub(super) struct Timed {
    pub(super) now: Timestamp,
    pub(super) master: Master,
    pub(super) master_frozen: bool,
    pub(super) nodes: Vec<Node>,
    /// Heartbeats that the master said, to anybody.
    pub(super) beats: u32,
    queue: BTreeMap<(Timestamp, u64), Event>,
    inbox: VecDeque<master::Input>,
    next_event: u64,
    next_connection: u64,
    owners: BTreeMap<ConnectionId, usize>,
    pub(super) dice: Dice,
}

impl Timed {
    /// Peers of one group, all accepted, each so far from the master.
    pub(super) fn of(size: usize, config: MasterConfig, delay: Duration) -> Self {
        let now = Timestamp::from_start(Duration::from_secs(1));
        let mut timed = Self {
            now,
            master: Master::new(config.new_run(), RunId(7), 1, [7; 32], now),
            master_frozen: false,
            nodes: Vec::new(),
            beats: 0,
            queue: BTreeMap::new(),
            inbox: VecDeque::new(),
            next_event: 0,
            next_connection: 1,
            owners: BTreeMap::new(),
            dice: Dice(1),
        };
        for _ in 0..size {
            let node = timed.join(delay);
            timed.run_for(Duration::from_secs(1));
            for other in 0..node {
                timed.command(other, Command::UpdateTopology);
            }
            let is_in = |n: &Node| n.world_size as usize == node + 1;
            timed.run_until(|timed| timed.nodes.iter().all(is_in));
        }
        timed
    }

    /// A peer that wants to be let in.
    pub(super) fn join(&mut self, delay: Duration) -> usize {
        let index = self.nodes.len();
        let config = PeerConfig {
            masters: vec!["master:1".to_owned()],
            join: Join {
                group: GroupId(0),
                label: format!("node-{index}"),
                advertised_host: String::new(),
                port: 1000 + index as u16,
                lanes: None,
                ..Join::default()
            },
            connect_timeout: Duration::from_secs(10),
            master_grace: Duration::from_secs(30),
        };
        self.nodes.push(Node {
            peer: Peer::new(config, self.now),
            path: Path {
                delay,
                jitter: Duration::ZERO,
                cut_up: false,
                cut_down: false,
                latest: [self.now; 2],
            },
            frozen: false,
            connection: None,
            half_open: None,
            connections: 0,
            world_size: 0,
            round_trip: Duration::ZERO,
            replies: BTreeMap::new(),
            disconnects: Vec::new(),
            next_request: 1,
            inbox: VecDeque::new(),
        });
        self.command(index, Command::Connect);
        index
    }

    pub(super) fn command(&mut self, node: usize, command: Command) -> RequestId {
        let request = RequestId(self.nodes[node].next_request);
        self.nodes[node].next_request += 1;
        self.tell_peer(node, peer::Input::Command { request, command });
        request
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`, and says how long that took.
    pub(super) fn run_until(&mut self, done: impl Fn(&Timed) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            let is_moving = self.step(start + Duration::from_secs(3600));
            assert!(is_moving, "an hour has passed in vain");
        }
        self.now.since(start)
    }

    /// Whether something happened no later than `end`.
    fn step(&mut self, end: Timestamp) -> bool {
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let master = (!self.master_frozen).then(|| self.master.next_timeout());
        let running = self.nodes.iter().filter(|node| !node.frozen);
        let peers = running.filter_map(|node| node.peer.next_timeout()).min();
        let next = [arrival, master, peers].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            if let Some((_, event)) = self.queue.pop_first() {
                self.arrive(event);
            }
        } else if master == Some(next) {
            self.tell_master(master::Input::Tick);
        } else {
            self.tick_peers();
        }
        true
    }

    fn tick_peers(&mut self) {
        for node in 0..self.nodes.len() {
            let Node { peer, frozen, .. } = &self.nodes[node];
            if !frozen && peer.next_timeout().is_some_and(|due| due <= self.now) {
                self.tell_peer(node, peer::Input::Tick);
            }
        }
    }

    fn arrive(&mut self, event: Event) {
        match event {
            Event::ToMaster(input) if self.master_frozen => self.inbox.push_back(input),
            Event::ToMaster(input) => self.tell_master(input),
            Event::ToPeer(node, connection, input) => {
                if self.nodes[node].frozen {
                    self.nodes[node].inbox.push_back((connection, input));
                } else {
                    self.deliver(node, connection, input);
                }
            }
        }
    }

    fn deliver(&mut self, node: usize, connection: ConnectionId, input: peer::Input) {
        if self.nodes[node].connection == Some(connection) {
            if let peer::Input::Disconnected { reason } = &input {
                self.nodes[node].disconnects.push(reason.clone());
            }
            self.tell_peer(node, input);
        }
    }

    /// A process goes on: first it reads what has come.
    pub(super) fn thaw(&mut self, node: usize) {
        self.nodes[node].frozen = false;
        while let Some((connection, input)) = self.nodes[node].inbox.pop_front() {
            self.deliver(node, connection, input);
        }
    }

    pub(super) fn thaw_master(&mut self) {
        self.master_frozen = false;
        while let Some(input) = self.inbox.pop_front() {
            self.tell_master(input);
        }
    }

    /// A middlebox forgets the connection: it carries nothing more, and new ones work.
    pub(super) fn half_open(&mut self, node: usize) {
        self.nodes[node].half_open = self.nodes[node].connection;
    }

    /// A middlebox resets the connection, in the middle of the way: both ends hear of it.
    pub(super) fn reset(&mut self, node: usize) {
        let Some(connection) = self.nodes[node].connection else {
            return;
        };
        let reason = "reset".to_owned();
        let closed = master::Input::Closed {
            connection,
            reason: reason.clone(),
        };
        let delay = self.nodes[node].path.delay;
        // Whichever end is nearer hears first; the worst is that the master does.
        self.schedule(self.now, Event::ToMaster(closed));
        let heard = peer::Input::Disconnected { reason };
        self.schedule(self.now + delay, Event::ToPeer(node, connection, heard));
    }

    /// A node sees all its lanes to a peer closed by the other side.
    pub(super) fn see_lanes_close(&mut self, node: usize, peer: PeerId) {
        let loss = LinkLoss::ClosedThere;
        self.tell_peer(node, peer::Input::LinkDown { peer, loss });
    }

    fn schedule(&mut self, at: Timestamp, event: Event) {
        self.queue.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    /// When something said now arrives; never, where the way is cut.
    fn arrival(&mut self, node: usize, is_up: bool, connection: ConnectionId) -> Option<Timestamp> {
        let Node {
            path, half_open, ..
        } = &mut self.nodes[node];
        let is_cut = if is_up { path.cut_up } else { path.cut_down };
        if is_cut || *half_open == Some(connection) {
            return None;
        }
        let jitter_us = path.jitter.as_micros() as usize;
        let jitter = Duration::from_micros(self.dice.below(jitter_us + 1) as u64);
        let latest = &mut path.latest[usize::from(is_up)];
        *latest = (*latest).max(self.now + path.delay + jitter);
        Some(*latest)
    }

    fn send_up(&mut self, node: usize, connection: ConnectionId, input: master::Input) {
        if let Some(at) = self.arrival(node, true, connection) {
            self.schedule(at, Event::ToMaster(input));
        }
    }

    fn send_down(&mut self, connection: ConnectionId, input: peer::Input) {
        let Some(&node) = self.owners.get(&connection) else {
            return;
        };
        if let Some(at) = self.arrival(node, false, connection) {
            self.schedule(at, Event::ToPeer(node, connection, input));
        }
    }

    fn tell_master(&mut self, input: master::Input) {
        self.master.handle(self.now, input);
        while let Some(output) = self.master.poll_output() {
            match output {
                master::Output::Welcome {
                    connection,
                    welcome,
                    ..
                } => {
                    let welcome = Welcome::decode(&welcome.encode()).unwrap();
                    self.send_down(connection, peer::Input::Welcomed(welcome));
                }
                master::Output::Refuse { connection, reason } => {
                    self.send_down(connection, peer::Input::Refused { reason });
                }
                master::Output::Send { connection, frame } => {
                    self.beats += u32::from(frame.sequence == 0);
                    self.send_down(connection, peer::Input::Message(frame));
                }
                master::Output::Close { connection } => {
                    let reason = "closed by the other side".to_owned();
                    self.send_down(connection, peer::Input::Disconnected { reason });
                }
                // Nobody answers: as of a host that is cut off.
                master::Output::Probe { .. } | master::Output::Record(_) => {}
                master::Output::Solve(request) => {
                    let groups = request.groups.into_iter();
                    let solutions = groups.map(|(g, members)| (g, Solution::Ring(members)));
                    let solved = master::Input::Solved {
                        request: request.request,
                        solutions: solutions.collect(),
                    };
                    self.tell_master(solved);
                }
            }
        }
    }

    fn tell_peer(&mut self, node: usize, input: peer::Input) {
        self.nodes[node].peer.handle(self.now, input);
        while let Some(output) = self.nodes[node].peer.poll_output() {
            self.obey(node, output);
        }
    }

    fn obey(&mut self, node: usize, output: peer::Output) {
        match output {
            peer::Output::ReachMaster {
                master: _,
                hello,
                after,
                within,
            } => {
                let connection = ConnectionId(self.next_connection);
                self.next_connection += 1;
                self.owners.insert(connection, node);
                self.nodes[node].connection = Some(connection);
                self.nodes[node].connections += 1;
                let path = &self.nodes[node].path;
                let start = self.now + after;
                let greeted = start + 3 * path.delay;
                if path.cut_up || path.cut_down {
                    let reason = "no answer in time".to_owned();
                    let failed = peer::Input::Disconnected { reason };
                    self.schedule(start + within, Event::ToPeer(node, connection, failed));
                } else {
                    self.nodes[node].path.latest = [greeted; 2];
                    let hello = master::Input::Greeted {
                        connection,
                        hello,
                        from: ([127, 0, 0, 1], 5000 + node as u16).into(),
                    };
                    self.schedule(greeted, Event::ToMaster(hello));
                }
            }
            peer::Output::LeaveMaster => {
                if let Some(connection) = self.nodes[node].connection.take() {
                    let reason = "closed by the other side".to_owned();
                    let closed = master::Input::Closed { connection, reason };
                    self.send_up(node, connection, closed);
                }
            }
            peer::Output::Send(frame) => {
                if let Some(connection) = self.nodes[node].connection {
                    let message = master::Input::Message { connection, frame };
                    self.send_up(node, connection, message);
                }
            }
            peer::Output::Wire { links, .. } => {
                for link in links {
                    let longest = &mut self.nodes[node].round_trip;
                    *longest = link.round_trip.max(*longest);
                    let peer = link.peer.id;
                    self.tell_peer(node, peer::Input::LinkUp { peer });
                }
            }
            peer::Output::OpenEpoch { membership, .. } => {
                self.nodes[node].world_size = membership.sizes.global;
            }
            peer::Output::EndOperation { op, .. } => {
                self.tell_peer(node, peer::Input::OperationEnded { op });
            }
            peer::Output::Reply { request, reply } => {
                let at = self.now;
                self.nodes[node].replies.insert(request, (at, reply));
            }
            peer::Output::BeginOperation { .. }
            | peer::Output::NoteSettled { .. }
            | peer::Output::BeginSync { .. }
            | peer::Output::Gone(_) => {}
        }
    }
}
