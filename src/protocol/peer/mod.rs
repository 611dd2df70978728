//! A peer's state machine: its side of membership, operations, joint calls and syncs.
//!
//! # Contract
//!
//! * [`Peer::handle`] takes one [`Input`] and the time it happened at.
//! * [`Peer::poll_output`] is then drained until it returns `None`; each [`Output`] is obeyed in
//!   order.
//! * [`Peer::next_timeout`] says when [`Input::Tick`] is due at the latest.
//!
//! Every command gets exactly one [`Output::Reply`]. Tensor bytes never come here: the machine
//! says [`Output::BeginOperation`] and later hears [`Input::OperationFinished`].
//!
//! ```text
//!   Idle --connect--> Joining --welcome--> Registered --first active epoch--> Member
//!    ^                   |                     |                                 |
//!    '---- refused ------'---------------------'--- evicted, left, master lost --'--> Gone
//!
//!   an operation   Waiting --epoch active--> Running --settled--> Ending --buffers free--> reply
//!                     ^                                              |
//!                     '---------- not listed in the next epoch ------'
//! ```

mod calls;
mod connection;
mod epochs;
mod masters;
mod operations;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::error::{CollectiveError, ConnectError, Gone, MembershipError, SyncError};
use crate::protocol::session::{Arrival, Session};
use crate::protocol::silence::Watch;
use crate::shared_state::Presentation;
use crate::types::{
    Descriptor, Epoch, OperationId, PeerId, PeerName, Rank, Revision, Tag, Timestamp, WorldSizes,
};
use crate::wire::control::{
    AbortCause, Completed, Frame, Hello, Join, LinkFault, LinkSpec, Proposal, Reign, Settlement,
    SyncPlan, ToMaster, ToPeer, Welcome,
};

use calls::RunningCall;
use connection::Connection;
use masters::Masters;
use operations::Operation;

/// Most operations that one peer may have in flight.
pub const OPERATIONS_MAX: usize = 256;

/// What a peer machine needs to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerConfig {
    /// The masters' addresses, `host:port`, in the order in which they are asked; at least one.
    pub masters: Vec<String>,
    /// What the peer says about itself.
    pub join: Join,
    /// How long the first connection to the master may take in all.
    pub connect_timeout: Duration,
    /// How long the master may be away before this peer leaves for good.
    pub master_grace: Duration,
}

/// The caller's command, as the driver numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Command {
    /// Join the run and wait until accepted.
    Connect,
    /// The joint call of that name.
    UpdateTopology,
    /// The joint call of that name.
    ArePeersPending,
    /// The joint call of that name.
    SyncSharedState(Presentation),
    /// Reduce a buffer that the driver keeps under the request's number.
    AllReduce {
        /// The caller's name for it.
        tag: Tag,
        /// What it is.
        descriptor: Descriptor,
        /// When the caller wants it aborted.
        deadline: Option<Duration>,
    },
    /// Leave the run gracefully.
    Leave,
    /// End everything that is running now.
    Cancel,
    /// Be gone at once.
    Close,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Reply {
    /// To `Connect`.
    Connect(Result<(), ConnectError>),
    /// To `UpdateTopology`, `Leave`, `Cancel` and `Close`.
    Membership(Result<(), MembershipError>),
    /// To `ArePeersPending`.
    Pending(Result<bool, MembershipError>),
    /// To `AllReduce`: the contributors.
    AllReduce(Result<Vec<PeerId>, CollectiveError>),
    /// To `SyncSharedState`.
    Sync(Result<Revision, SyncError>),
}

/// How all lanes of a link were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkLoss {
    /// The other end closed them, or its system did: a witness of its death.
    ClosedThere,
    /// This end gave one of them up: it stalled, broke the rules, or the system said that nobody
    /// answers. That may be the network's doing, or this end's.
    GivenUp,
}

/// What happens to a peer.
#[derive(Clone, Debug, Hash)]
pub enum Input {
    /// A caller commands.
    Command {
        /// The number of the command.
        request: RequestId,
        /// The command.
        command: Command,
    },
    /// The master answered [`Output::ReachMaster`].
    Welcomed(Welcome),
    /// The master refused [`Output::ReachMaster`].
    Refused {
        /// Its reason.
        reason: String,
    },
    /// The control connection broke, or could not be made.
    Disconnected {
        /// What was seen.
        reason: String,
    },
    /// The master says something.
    Message(Frame<ToPeer>),
    /// The first lane of a link is open.
    LinkUp {
        /// The other end.
        peer: PeerId,
    },
    /// All lanes of a link have closed; it is being dialled again.
    LinkDown {
        /// The other end.
        peer: PeerId,
        /// How they went.
        loss: LinkLoss,
    },
    /// A link could not be made, or mended, in time.
    LinkFailed {
        /// The other end.
        peer: PeerId,
        /// In which way.
        fault: LinkFault,
        /// What stood in the way.
        reason: String,
    },
    /// All of an operation's result is here.
    OperationFinished {
        /// Its number.
        op: OperationId,
    },
    /// An operation could not be begun, or go on, here.
    OperationFailed {
        /// Its number.
        op: OperationId,
        /// Why.
        reason: String,
    },
    /// Nobody touches the buffers of an operation any more: the answer to
    /// [`Output::EndOperation`].
    OperationEnded {
        /// Its number.
        op: OperationId,
    },
    /// All of this peer's share of a sync is here and verified.
    SyncReceived {
        /// The round.
        round: u64,
    },
    /// This peer's share of a sync could not be received.
    SyncFailed {
        /// The round.
        round: u64,
        /// Who was to send it.
        holder: PeerId,
        /// What went wrong.
        reason: String,
    },
    /// Time has passed.
    Tick,
}

/// What a peer wants done.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Output {
    /// Dial this master and say this; answer with `Welcomed`, `Refused` or `Disconnected`.
    ReachMaster {
        /// Where it is: `host:port`.
        master: String,
        /// What to say.
        hello: Hello,
        /// Wait so long first.
        after: Duration,
        /// How long the name, the connection and the answer may take, each.
        within: Duration,
    },
    /// Close the control connection, or stop dialling, once what was sent has gone out.
    LeaveMaster,
    /// Send a message to the master.
    Send(Frame<ToMaster>),
    /// Have exactly these links: make those that are missing, close the others.
    Wire {
        /// The newest epoch that wants them.
        epoch: Epoch,
        /// The links.
        links: Vec<LinkSpec>,
    },
    /// An epoch has begun: nothing older is taken on any lane.
    OpenEpoch {
        /// Which.
        epoch: Epoch,
        /// What the caller sees of it.
        membership: Membership,
    },
    /// Start to move the data of an operation.
    BeginOperation {
        /// The command that wants it.
        request: RequestId,
        /// Its number.
        op: OperationId,
        /// What it is.
        descriptor: Descriptor,
        /// This peer's place in the ring.
        rank: Rank,
        /// The ring.
        ring: Vec<PeerId>,
    },
    /// Stop touching the operation's buffers and answer with `OperationEnded`.
    EndOperation {
        /// Its number.
        op: OperationId,
        /// Whether the caller's input is put back.
        roll_back: bool,
    },
    /// An operation that never began here was settled: its data is dropped.
    NoteSettled {
        /// Its number.
        op: OperationId,
    },
    /// Serve, and receive if the plan says so, until the sync's reply.
    BeginSync {
        /// The command that wants it.
        request: RequestId,
        /// The plan.
        plan: SyncPlan,
    },
    /// Answer a command.
    Reply {
        /// The command.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// This peer is no longer part of a run; all links are to be closed.
    Gone(Gone),
}

/// What a caller may know of its place in the run without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// This peer.
    pub peer: PeerId,
    /// Its place in the ring.
    pub rank: Rank,
    /// World sizes.
    pub sizes: WorldSizes,
    /// The peers of the own group in ring order.
    pub ring: Vec<PeerName>,
}

/// See the module's text.
#[derive(Clone, Debug, Hash)]
pub struct Peer {
    config: PeerConfig,
    now: Timestamp,
    phase: Phase,
    masters: Masters,
    connection: Connection,
    session: Session<ToMaster>,
    /// Over the master, from registration on.
    watch: Option<Watch>,
    last_tick: Timestamp,

    active: Option<ActiveEpoch>,
    proposed: Option<Proposed>,
    links: BTreeMap<PeerId, LinkSpec>,
    links_up: BTreeSet<PeerId>,
    /// Neighbours that closed all lanes, and are not back.
    closed_there: BTreeSet<PeerId>,

    operations: BTreeMap<Tag, Operation>,
    /// Uses of each tag that were settled in the active epoch.
    settled: BTreeMap<Tag, u32>,
    /// Failures that the caller of a tag has not been told yet.
    debts: BTreeMap<Tag, VecDeque<AbortCause>>,
    /// Outcomes that not all members are known to have: a master that comes back must hear them.
    outcomes: VecDeque<Settlement>,
    call: Option<RunningCall>,
    completed: Completed,
    /// One above the revision of the last sync that committed here.
    expected: Option<Revision>,

    outputs: VecDeque<Output>,
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    Idle,
    /// The master has not answered yet.
    Joining {
        request: RequestId,
        deadline: Timestamp,
        last_error: String,
    },
    /// Waiting to be accepted.
    Registered {
        identity: Identity,
        request: RequestId,
    },
    Member {
        identity: Identity,
    },
    /// Said goodbye, waiting for the answer.
    Leaving {
        request: RequestId,
        deadline: Timestamp,
    },
    Gone(Gone),
}

/// What the master gave this peer at registration, and whom it follows since.
#[derive(Clone, Debug, Hash)]
struct Identity {
    run: crate::types::RunId,
    peer: PeerId,
    token: u64,
    reign: Reign,
}

#[derive(Clone, Debug, Hash)]
struct ActiveEpoch {
    epoch: Epoch,
    rank: Rank,
    ring: Vec<PeerId>,
    /// What it was before, for a master that must learn of it.
    proposal: Proposal,
}

#[derive(Clone, Debug, Hash)]
struct Proposed {
    proposal: Proposal,
    wired: bool,
}

impl Peer {
    /// A peer that has done nothing yet.
    pub fn new(config: PeerConfig, now: Timestamp) -> Self {
        let masters = Masters::new(config.masters.clone());
        Self {
            config,
            now,
            phase: Phase::Idle,
            masters,
            connection: Connection::None,
            session: Session::new(),
            watch: None,
            last_tick: now,
            active: None,
            proposed: None,
            links: BTreeMap::new(),
            links_up: BTreeSet::new(),
            closed_there: BTreeSet::new(),
            operations: BTreeMap::new(),
            settled: BTreeMap::new(),
            debts: BTreeMap::new(),
            outcomes: VecDeque::new(),
            call: None,
            completed: Completed::default(),
            expected: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one thing that happened at `now`.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.now = self.now.max(now);
        self.excuse_absence();
        match input {
            Input::Command { request, command } => self.on_command(request, command),
            Input::Welcomed(welcome) => self.on_welcome(welcome),
            Input::Refused { reason } => self.on_refused(reason),
            Input::Disconnected { reason } => self.on_disconnected(reason),
            Input::Message(frame) => self.on_frame(frame),
            Input::LinkUp { peer } => self.on_link_up(peer),
            Input::LinkDown { peer, loss } => self.on_link_down(peer, loss),
            Input::LinkFailed {
                peer,
                fault,
                reason,
            } => self.on_link_failed(peer, fault, reason),
            Input::OperationFinished { op } => self.on_operation_finished(op),
            Input::OperationFailed { op, reason } => self.on_operation_failed(op, reason),
            Input::OperationEnded { op } => self.on_operation_ended(op),
            Input::SyncReceived { round } => self.say(ToMaster::SyncReceived { round }),
            Input::SyncFailed {
                round,
                holder,
                reason,
            } => {
                self.say(ToMaster::SyncFailed {
                    round,
                    holder,
                    reason,
                });
            }
            Input::Tick => self.on_tick(),
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest, if ever.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let phase = match &self.phase {
            Phase::Joining { deadline, .. } | Phase::Leaving { deadline, .. } => Some(*deadline),
            _ => None,
        };
        let operations = self
            .operations
            .values()
            .filter_map(Operation::deadline)
            .min();
        [phase, self.connection_deadline(), operations]
            .into_iter()
            .flatten()
            .min()
    }

    /// Why this peer is no longer part of a run, if so.
    pub fn gone(&self) -> Option<&Gone> {
        match &self.phase {
            Phase::Gone(gone) => Some(gone),
            _ => None,
        }
    }

    fn on_command(&mut self, request: RequestId, command: Command) {
        match command {
            Command::Connect => self.connect(request),
            Command::UpdateTopology => self.update_topology(request),
            Command::ArePeersPending => self.are_peers_pending(request),
            Command::SyncSharedState(presentation) => self.sync(request, presentation),
            Command::AllReduce {
                tag,
                descriptor,
                deadline,
            } => {
                self.all_reduce(request, tag, descriptor, deadline);
            }
            Command::Leave => self.leave(request),
            Command::Cancel => self.cancel(request),
            Command::Close => {
                if matches!(self.phase, Phase::Registered { .. } | Phase::Member { .. }) {
                    self.say(ToMaster::Leave);
                }
                self.go(Gone::Closed);
                self.reply(request, Reply::Membership(Ok(())));
            }
        }
    }

    fn on_frame(&mut self, frame: Frame<ToPeer>) {
        if self.gone().is_some() {
            return;
        }
        self.heard();
        match self.session.hear(&frame) {
            Arrival::New => {}
            Arrival::Duplicate => return,
            Arrival::Gap => {
                // What is missing comes again after a resume, if it comes at all: not at once again
                // and again.
                return self.come_back_later("control messages are missing".to_owned());
            }
        }
        match frame.message {
            ToPeer::Heartbeat(beat) => self.on_heartbeat(&beat),
            ToPeer::EpochProposed(proposal) => self.on_proposed(proposal),
            ToPeer::EpochActive { epoch } => self.on_active(epoch),
            ToPeer::OperationSettled(settlement) => self.on_settlement(settlement),
            ToPeer::CallDone { number, result } => self.on_call_done(number, result),
            ToPeer::SyncPlan(plan) => self.on_sync_plan(plan),
            ToPeer::Evicted { reason } => self.on_evicted(reason),
            ToPeer::LeaveAcknowledged => self.on_leave_acknowledged(),
            ToPeer::TermRaised { term } => self.on_term_raised(term),
            ToPeer::Stay { at_most_ms } => self.on_stay(at_most_ms),
            ToPeer::RunGoesOn => self.on_run_goes_on(),
            ToPeer::HandOver => self.on_hand_over(),
        }
    }

    /// Says something numbered to the master; it is repeated after a reconnect.
    fn say(&mut self, message: ToMaster) {
        let frame = self.session.say(message);
        if self.is_connected() {
            self.outputs.push_back(Output::Send(frame));
        }
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        self.outputs.push_back(Output::Reply { request, reply });
    }

    /// Ends this peer's part in the run: buffers go back, callers are told, nothing is resumed.
    fn go(&mut self, gone: Gone) {
        if self.gone().is_some() {
            return;
        }
        tracing::info!(reason = %gone, "no longer part of a run");
        let phase = std::mem::replace(&mut self.phase, Phase::Gone(gone.clone()));
        self.active = None;
        self.proposed = None;
        self.links.clear();
        self.links_up.clear();
        self.closed_there.clear();
        self.debts.clear();
        self.outcomes.clear();
        // Before any caller is told: who hears of it reads a world size of 1.
        self.outputs.push_back(Output::Gone(gone.clone()));
        match phase {
            Phase::Joining { request, .. } | Phase::Registered { request, .. } => {
                self.reply(
                    request,
                    Reply::Connect(Err(ConnectError::Gone(gone.clone()))),
                );
            }
            Phase::Leaving { request, .. } => {
                self.reply(request, Reply::Membership(Ok(())));
            }
            Phase::Idle | Phase::Member { .. } | Phase::Gone(_) => {}
        }
        self.end_call(Err(gone.clone()));
        self.end_operations(&gone);
        self.connection = Connection::None;
        self.outputs.push_back(Output::LeaveMaster);
    }
}
