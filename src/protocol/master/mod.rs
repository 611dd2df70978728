//! The master's state machine: it orders membership and settles what was begun.
//!
//! # Contract
//!
//! * [`Master::handle`] takes one [`Input`] and the time it happened at.
//! * [`Master::poll_output`] is then drained until it returns `None`; each [`Output`] is obeyed in
//!   order.
//! * [`Master::next_timeout`] says when [`Input::Tick`] is due at the latest.
//!
//! After every input `advance` runs to a fixed point; it is the one place where
//! decisions are made, from what the handlers have written down.
//!
//! ```text
//!   a peer     Registered --- in an epoch that became active ---> Accepted ---> gone (told why)
//!
//!   an epoch   active --- member lost, link broken, or all called update_topology and
//!                |        somebody waits ---> Solving --- rings ---> Proposed
//!                |                               ^                      | a member is lost or a
//!                |                               '------- replaced -----' link cannot be made
//!                '<----------- majority of voters acknowledged (and newcomers wired) ---'
//! ```

mod absence;
mod calls;
mod config;
mod epochs;
mod members;
mod memory;
mod operations;
mod returning;
mod syncs;
mod tally;
mod testimony;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::mutation::{Mutation, mutated};
use crate::types::{Epoch, GroupId, OperationId, PeerId, PeerName, RunId, Timestamp};
use crate::wire::control::{CallResult, Frame, Hello, Outcome, Reign, ToMaster, ToPeer, Welcome};
use crate::wire::record::Record;

pub use config::MasterConfig;
pub use epochs::{Solution, SolveRequest};
pub use memory::Memory;

use epochs::{ActiveEpoch, Change};
use members::Member;
use operations::Operations;
use returning::Listening;
use syncs::SharedStateOfGroup;
use tally::Tally;
use testimony::Testimony;

/// A connection, as the driver numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What happens to a master.
#[derive(Clone, Debug, Hash)]
pub enum Input {
    /// A connection said hello.
    Greeted {
        /// The connection.
        connection: ConnectionId,
        /// What it said.
        hello: Hello,
        /// Where it comes from.
        from: SocketAddr,
    },
    /// A message arrived.
    Message {
        /// The connection.
        connection: ConnectionId,
        /// What it said.
        frame: Frame<ToMaster>,
    },
    /// A connection is no more.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// What was seen of its end.
        reason: String,
    },
    /// An answer to [`Output::Probe`]: nobody listens on the peer's port any more.
    PortRefused {
        /// The peer.
        peer: PeerId,
    },
    /// The answer to [`Output::Solve`].
    Solved {
        /// The number of the request.
        request: u64,
        /// What was found for each group.
        solutions: BTreeMap<GroupId, Solution>,
    },
    /// It is to end, and to leave its peers to another master, or to one after it.
    HandOver,
    /// Time has passed.
    Tick,
}

/// What a master wants done.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Output {
    /// Answer a hello; the connection is the peer's from now on.
    Welcome {
        /// The connection.
        connection: ConnectionId,
        /// The answer.
        welcome: Welcome,
        /// Whether the peer is accepted, and may send large messages.
        accepted: bool,
    },
    /// Answer a hello with a reason and close the connection.
    Refuse {
        /// The connection.
        connection: ConnectionId,
        /// The reason.
        reason: String,
    },
    /// Send a message.
    Send {
        /// The connection.
        connection: ConnectionId,
        /// The message.
        frame: Frame<ToPeer>,
    },
    /// Close a connection once what was sent on it has gone out.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// Find out whether anybody listens on the peer's port.
    Probe {
        /// The peer.
        peer: PeerId,
        /// Where it listens, `host:port`.
        address: String,
    },
    /// Find rings for the next epoch; answer with [`Input::Solved`].
    Solve(SolveRequest),
    /// Write this down for good before any output after it is obeyed.
    Record(Record),
}

/// See the module's text.
#[derive(Clone, Debug, Hash)]
pub struct Master {
    config: MasterConfig,
    run: RunId,
    reign: Reign,
    /// Nothing is decided yet: peers of a run that had a master before may come back.
    listening: Option<Listening>,
    /// Tokens and link secrets are derived from it.
    seed: [u8; 32],
    now: Timestamp,
    last_tick: Timestamp,
    next_heartbeat: Timestamp,

    next_peer: u64,
    members: BTreeMap<PeerId, Member>,
    connections: BTreeMap<ConnectionId, PeerId>,
    /// Why peers are gone, for those that come back to ask; the newest thousand.
    gone: BTreeMap<PeerId, String>,

    active: ActiveEpoch,
    change: Option<Change>,
    last_count: u32,
    next_request: u64,
    testimony: Testimony,

    operations: BTreeMap<GroupId, Operations>,
    /// How operations of epochs that are over, or end, have ended under another master.
    inherited: BTreeMap<GroupId, BTreeMap<OperationId, Outcome>>,
    shared_state: BTreeMap<GroupId, SharedStateOfGroup>,
    next_round: u64,
    tally: Tally,
    /// How joint calls have ended under another master that these are still in.
    answers_owed: BTreeMap<PeerId, (u64, CallResult)>,
    /// Secrets of links that another master gave.
    link_secrets: BTreeMap<(PeerId, PeerId), [u8; 16]>,

    /// What was written down before this start.
    recalled: Option<Memory>,
    /// What is, if anything.
    memory: Option<Memory>,

    outputs: VecDeque<Output>,
}

impl Master {
    /// A master without peers, which takes no lower term than this one. `run` begins where no peer
    /// of another comes back within `recovery_window`. `seed` must be unpredictable: session tokens
    /// and link secrets come from it.
    pub fn new(
        config: MasterConfig,
        run: RunId,
        term: u32,
        seed: [u8; 32],
        now: Timestamp,
    ) -> Self {
        let testimony = Testimony::new(&config);
        let listening = config.waits_for_a_run().then(|| Listening::new(now));
        let start = number(&seed, "start", &[]);
        Self {
            next_heartbeat: now + config.heartbeat_interval,
            config,
            run,
            reign: Reign { term, start },
            listening,
            seed,
            now,
            last_tick: now,
            next_peer: 1,
            members: BTreeMap::new(),
            connections: BTreeMap::new(),
            gone: BTreeMap::new(),
            active: ActiveEpoch::none(term),
            change: None,
            last_count: 0,
            next_request: 1,
            testimony,
            operations: BTreeMap::new(),
            inherited: BTreeMap::new(),
            shared_state: BTreeMap::new(),
            next_round: first_round(term),
            tally: Tally::default(),
            answers_owed: BTreeMap::new(),
            link_secrets: BTreeMap::new(),
            recalled: None,
            memory: None,
            outputs: VecDeque::new(),
        }
    }

    /// As [`new`](Self::new), with what a master before it has written down, if there is anything;
    /// and writes down what it tells, by [`Output::Record`].
    pub fn with_memory(
        config: MasterConfig,
        run: RunId,
        recalled: Option<Memory>,
        seed: [u8; 32],
        now: Timestamp,
    ) -> Self {
        let term = recalled.as_ref().map_or(0, Memory::term);
        let mut master = Self::new(config, run, term.saturating_add(1), seed, now);
        master.memory = Some(recalled.clone().unwrap_or_default());
        master.recalled = recalled;
        if master.rules() {
            master.remember_ruling();
        }
        master
    }

    /// Takes in one thing that happened at `now`.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.now = self.now.max(now);
        self.excuse_absence();
        match input {
            Input::Greeted {
                connection,
                hello,
                from,
            } => self.on_hello(connection, hello, from),
            Input::Message { connection, frame } => {
                let is_routine = self.is_routine(connection, &frame);
                self.on_frame(connection, frame);
                if is_routine {
                    return;
                }
            }
            Input::Closed { connection, reason } => self.on_closed(connection, reason),
            Input::PortRefused { peer } => self.on_port_refused(peer),
            Input::Solved { request, solutions } => self.on_solved(request, solutions),
            Input::HandOver => self.hand_over(),
            Input::Tick => self.on_tick(),
        }
        self.advance();
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_timeout(&self) -> Timestamp {
        let mut earliest = self.next_heartbeat;
        for member in self.members.values() {
            earliest = earliest.min(member.next_timeout(&self.config));
        }
        if let Some(deadline) = self.change.as_ref().and_then(Change::deadline) {
            earliest = earliest.min(deadline);
        }
        if let Some(deadline) = self.testimony.deadline() {
            earliest = earliest.min(deadline);
        }
        if let Some(deadline) = self.listening_deadline() {
            earliest = earliest.min(deadline);
        }
        earliest
    }

    /// Whether it decides: not while it waits for those who had another master before.
    pub fn rules(&self) -> bool {
        self.listening.is_none()
    }

    /// The run, and the term that it rules in.
    pub fn run(&self) -> (RunId, u32) {
        (self.run, self.reign.term)
    }

    /// The active epoch.
    pub fn epoch(&self) -> Epoch {
        self.active.epoch
    }

    /// The accepted peers, by group, in ring order.
    pub fn rings(&self) -> &BTreeMap<GroupId, Vec<PeerId>> {
        &self.active.rings
    }

    /// Everybody who is registered or accepted.
    pub fn peers(&self) -> impl Iterator<Item = &PeerName> {
        self.members.values().map(|member| &member.name)
    }

    /// Makes every decision that what is known allows, until nothing changes any more.
    fn advance(&mut self) {
        loop {
            if self.listening.is_some() && !self.rule_where_possible() {
                return;
            }
            if self.has_lost_majority(None) {
                return self.lose_majority();
            }
            self.replace_epoch_where_needed();
            if self.activate_where_agreed() {
                continue;
            }
            // Once an epoch is proposed nothing more is settled in the old one.
            if !self.may_settle() {
                return;
            }
            let settled = self.fail_what_cannot_meet()
                | self.settle_operations()
                | self.finish_joint_calls()
                | self.step_syncs();
            if !settled {
                return;
            }
        }
    }

    /// Whether anything may end in the active epoch: not once another is to follow.
    fn may_settle(&self) -> bool {
        (self.change.is_none() && !self.active.must_end) || mutated(Mutation::SettleWhileChanging)
    }

    /// A heartbeat on which no decision hangs, the most frequent message by far. The first one of a
    /// connection may be what a newcomer is waited for with.
    fn is_routine(&self, connection: ConnectionId, frame: &Frame<ToMaster>) -> bool {
        let is_heartbeat = matches!(frame.message, ToMaster::Heartbeat(_)) && frame.sequence == 0;
        let peer = self.connections.get(&connection);
        let member = peer.and_then(|peer| self.members.get(peer));
        is_heartbeat && member.is_none_or(|member| member.watch.has_spoken())
    }

    fn on_frame(&mut self, connection: ConnectionId, frame: Frame<ToMaster>) {
        use crate::protocol::session::Arrival;

        let Some(&peer) = self.connections.get(&connection) else {
            return;
        };
        let now = self.now;
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let is_heartbeat = matches!(frame.message, ToMaster::Heartbeat(_));
        if !(is_heartbeat && mutated(Mutation::IgnoreHeartbeats)) {
            member.watch.hear(now);
        }
        member.speaks(&self.config, now);
        match member.session.hear(&frame) {
            Arrival::New => {}
            Arrival::Duplicate => return,
            Arrival::Gap => {
                self.evict(peer, "control messages are missing".to_owned());
                return;
            }
        }
        member.note_acknowledged(frame.acknowledged);
        match frame.message {
            ToMaster::Heartbeat(beat) => self.on_heartbeat(peer, &beat),
            message if self.listening.is_some() => self.on_message_while_listening(peer, message),
            message => self.on_message(peer, message),
        }
    }

    fn on_message(&mut self, peer: PeerId, message: ToMaster) {
        match message {
            ToMaster::Heartbeat(beat) => self.on_heartbeat(peer, &beat),
            ToMaster::EpochAcknowledged { epoch } => self.on_acknowledged(peer, epoch),
            ToMaster::Wired { epoch } => self.on_wired(peer, epoch),
            ToMaster::LinkFailed {
                epoch,
                peer: other,
                fault,
                reason,
            } => {
                self.on_link_failed(peer, epoch, other, fault, reason);
            }
            ToMaster::LinkState { peer: other, up } => self.on_link_state(peer, other, up),
            ToMaster::Call(call) => self.on_call(peer, call),
            ToMaster::CancelCall => self.on_cancel_call(peer),
            ToMaster::OperationBegun { op, descriptor } => self.on_begun(peer, op, descriptor),
            ToMaster::OperationDone { op } => self.on_done(peer, op),
            ToMaster::OperationFailed { op, reason } => self.on_failed(peer, op, reason),
            ToMaster::DeadlinePassed { op } => self.on_deadline(peer, op),
            ToMaster::SyncReceived { round } => self.on_sync_received(peer, round),
            ToMaster::SyncFailed {
                round,
                holder,
                reason,
            } => {
                self.on_sync_failed(peer, round, holder, reason);
            }
            ToMaster::Leave => self.on_leave(peer),
            ToMaster::Redialling => self.on_redialling(peer),
            // It answers a question that is over.
            ToMaster::Report(_) | ToMaster::Promised { .. } => {}
        }
    }

    /// Says something numbered to a peer; it is repeated if the peer resumes.
    fn say(&mut self, peer: PeerId, message: ToPeer) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let settlement = match &message {
            ToPeer::OperationSettled(settlement) => Some(settlement.number),
            // The outcomes of the proposal hold.
            ToPeer::EpochActive { .. } => Some(self.tally.settlements(member.group)),
            _ => None,
        };
        let group = member.group;
        self.remember_told(group, &message);
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let frame = member.session.say(message);
        if let Some(number) = settlement {
            member.told.push_back((frame.sequence, number));
        }
        if let Some(connection) = member.connection {
            self.outputs.push_back(Output::Send { connection, frame });
        }
    }

    /// Accepted peers of one group, or of all.
    fn accepted(&self, group: Option<GroupId>) -> impl Iterator<Item = (&PeerId, &Member)> {
        self.members.iter().filter(move |(_, member)| {
            member.accepted && group.is_none_or(|group| member.group == group)
        })
    }

    fn name(&self, peer: PeerId) -> String {
        match self.members.get(&peer) {
            Some(member) => member.name.to_string(),
            None => format!("peer {peer}"),
        }
    }

    fn secret(&self, purpose: &str, numbers: &[u64]) -> [u8; 16] {
        secret(&self.seed, purpose, numbers)
    }
}

/// Rounds of different masters have different numbers.
fn first_round(term: u32) -> u64 {
    (u64::from(term) << 32) + 1
}

/// A number that nobody can guess.
fn number(seed: &[u8; 32], purpose: &str, numbers: &[u64]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = secret(seed, purpose, numbers);
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn secret(seed: &[u8; 32], purpose: &str, numbers: &[u64]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(purpose.as_bytes());
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    let mut secret = [0; 16];
    secret.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    secret
}
