//! Control messages: what a peer and the master say to each other.
//!
//! ```text
//! greeting body   Hello    peer -> master   join, or resume a session that broke
//! answer body     Welcome  master -> peer   the answer to it
//! then frames     Frame<ToMaster> and Frame<ToPeer>, numbered, each acknowledging the other side
//! ```
//!
//! The messages are plain Rust types here; `proto` gives each its field numbers and `convert`
//! goes between the two and refuses what makes no sense. A new message is a variant here, a
//! struct in `proto`, and a line each way in `convert`.

mod convert;
mod frame;
mod proto;
mod quantization;

pub use convert::{DecodeError, MAX_LANES, MAX_NAME_BYTES};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, MAX_FRAME_BYTES};

use std::time::Duration;

use crate::shared_state::{Digest, Presentation};
use crate::types::{
    Descriptor, Epoch, GroupId, OperationId, PeerId, PeerName, Revision, RunId, Tag, WorldSizes,
};

/// One numbered message on a control connection. `sequence` 0 is not numbered (heartbeats) and is
/// not repeated after a reconnect.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Frame<M> {
    /// Number of this message in its direction, from 1; 0 for a message without one.
    pub sequence: u64,
    /// The highest number seen of the other direction.
    pub acknowledged: u64,
    /// The message.
    pub message: M,
}

/// What a peer says first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hello {
    /// A new peer wants to be registered.
    Join(Join),
    /// A peer whose connection broke goes on with its session.
    Resume {
        /// The run it belongs to.
        run: RunId,
        /// Who it is.
        peer: PeerId,
        /// The proof that it is.
        token: u64,
        /// The last message of the master that it has seen.
        last_seen: u64,
        /// Whom it follows: a session is with one start of one master.
        reign: Reign,
        /// Whether an epoch that it is in was active, as far as it knows.
        accepted: bool,
        /// How many masters it may follow.
        masters: u32,
        /// Of so many voters of the active epoch it is one, those left out that it saw die; 0 if it is
        /// none.
        one_of_voters: u32,
    },
}

/// One start of one master, with the term it rules in. A peer follows one, and none of a lower
/// term after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reign {
    /// Above all that this master had heard of when it took it.
    pub term: u32,
    /// Random: two starts that happen to take the same term are told apart.
    pub start: u64,
}

/// What a new peer says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Join {
    /// The group it wants to be in.
    pub group: GroupId,
    /// Its owner's name for it, for logs and errors.
    pub label: String,
    /// The host others shall dial; empty for the address that the master sees.
    pub advertised_host: String,
    /// The port others shall dial.
    pub port: u16,
    /// Lanes it wants per link, where it has a wish.
    pub lanes: Option<u16>,
    /// How many masters it may follow.
    pub masters: u32,
    /// It asks the first of them, and all others have said of late that nobody of a run has come to
    /// them: a new one may begin.
    pub nobody_came: bool,
}

/// The master's answer to a hello that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Welcome {
    /// The peer is registered.
    Registered {
        /// The run.
        run: RunId,
        /// The new peer's id.
        peer: PeerId,
        /// What it shows when it resumes.
        token: u64,
        /// What all peers of the run go by.
        timings: Timings,
        /// Whom the peer follows from now on.
        reign: Reign,
    },
    /// The session goes on.
    Resumed {
        /// The last message of the peer that the master has seen.
        last_seen: u64,
    },
    /// This master does not know the session: it has started after it, or took over. Whoever takes
    /// the answer follows it, and says what it knows, in a session that begins anew.
    Returned {
        /// Whom the peer follows from now on.
        reign: Reign,
        /// What all peers of the run go by.
        timings: Timings,
    },
    /// This master rules over nobody, and decides nothing yet: ask again, or another one. The
    /// connection ends with it.
    Waiting {
        /// It has waited for as long as it waits for peers of a run that goes on.
        nobody_came: bool,
    },
}

/// How soon failures are noticed: the master's settings, for all peers of its run alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timings {
    /// How often both sides of a control connection speak at least.
    pub heartbeat_interval: Duration,
    /// The least silence after which a control connection may be taken for dead.
    pub silence_floor: Duration,
    /// The silence after which it is, whatever the connection has shown before.
    pub silence_ceiling: Duration,
    /// How long a lane may be silent while something is owed on it.
    pub lane_stall_timeout: Duration,
    /// How long a link may be without a lane.
    pub link_timeout: Duration,
}

/// A call in which all accepted peers in scope take part.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum JointCall {
    /// Let newcomers in. All groups.
    UpdateTopology,
    /// Is anybody waiting to be let in? All groups.
    ArePeersPending,
    /// Make the shared state equal. One group.
    SyncSharedState(Presentation),
}

impl JointCall {
    /// The name of the call in the public API.
    pub fn name(&self) -> &'static str {
        match self {
            JointCall::UpdateTopology => "update_topology",
            JointCall::ArePeersPending => "are_peers_pending",
            JointCall::SyncSharedState(_) => "sync_shared_state",
        }
    }
}

/// A sign of life, either way. Its sequence is 0: who comes too late is not repeated. Heartbeats
/// are numbered among themselves, anew on each connection, and say what was heard of the other
/// side's: so each side learns the round trip, and whether it is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Its number, from 1.
    pub number: u64,
    /// The newest one heard from the other side on this connection; 0 for none.
    pub heard: u64,
    /// How long ago that was.
    pub held: Duration,
    /// Whether the other side is to answer with one of its own at once.
    pub answer: bool,
}

/// Peer to master.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum ToMaster {
    /// I am alive. Not numbered.
    Heartbeat(Heartbeat),
    /// I know of this epoch and will take nothing older.
    EpochAcknowledged {
        /// Which.
        epoch: Epoch,
    },
    /// All my links of this epoch are up.
    Wired {
        /// Which.
        epoch: Epoch,
    },
    /// I cannot make, or mend, the link to this peer.
    LinkFailed {
        /// The epoch in which I need it.
        epoch: Epoch,
        /// The other end.
        peer: PeerId,
        /// In which way.
        fault: LinkFault,
        /// What stood in the way.
        reason: String,
    },
    /// All lanes to this peer have closed (`up` false), or some are back (`up` true).
    LinkState {
        /// The other end.
        peer: PeerId,
        /// Whether any lane is open.
        up: bool,
    },
    /// My caller has entered a joint call.
    Call(JointCall),
    /// My caller no longer wants the joint call it is in.
    CancelCall,
    /// My caller has begun an operation.
    OperationBegun {
        /// Its number.
        op: OperationId,
        /// What it is.
        descriptor: Descriptor,
    },
    /// I have the whole result.
    OperationDone {
        /// Its number.
        op: OperationId,
    },
    /// I cannot, or will not, go on with it.
    OperationFailed {
        /// Its number.
        op: OperationId,
        /// Why.
        reason: String,
    },
    /// My caller's deadline for it has passed.
    DeadlinePassed {
        /// Its number.
        op: OperationId,
    },
    /// I have received and verified all I was to receive in this sync.
    SyncReceived {
        /// The round.
        round: u64,
    },
    /// I could not receive it from this holder.
    SyncFailed {
        /// The round.
        round: u64,
        /// Who was to serve me.
        holder: PeerId,
        /// What went wrong.
        reason: String,
    },
    /// I am leaving for good.
    Leave,
    /// All that a master that has just come must know of me; what is under way was said before.
    Report(Box<Report>),
    /// I follow you in this term, too.
    Promised {
        /// The term.
        term: u32,
    },
    /// I give this connection up, as I hear nothing or too little on it, and dial again: that it
    /// closes is no sign of death. Not numbered.
    Redialling,
}

/// What a peer holds of the run, for a master that does not remember it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// The term it is made in: nothing of a lower one is acknowledged after it.
    pub term: u32,
    /// The group of the peer.
    pub group: GroupId,
    /// Its name and address, as the run knows them.
    pub name: PeerName,
    /// Lanes it wants per link, where it has a wish.
    pub lanes: Option<u16>,
    /// How many masters it may follow.
    pub masters: u32,
    /// The newest epoch that it knows to be active, as it was proposed.
    pub active: Option<Proposal>,
    /// The newest proposal it has acknowledged beyond that.
    pub proposed: Option<Proposal>,
    /// One above the revision of the last sync that it saw commit, if it saw one.
    pub expected: Option<Revision>,
    /// How many uses of each tag were settled in the active epoch.
    pub settled: Vec<(Tag, u32)>,
    /// Outcomes that not all members are known to have.
    pub outcomes: Vec<Settlement>,
    /// The last joint call of each kind that ended for all.
    pub completed: Completed,
}

/// One outcome, as peers keep it until all have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settlement {
    /// The operation.
    pub op: OperationId,
    /// How it ended.
    pub outcome: Outcome,
    /// Its number among those of the group, from 1; grows within a run.
    pub number: u64,
    /// All members have every outcome up to this number.
    pub everybody_has: u64,
}

/// How many joint calls of each kind have ended for all in their scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallCounts {
    /// `update_topology`, of all groups.
    pub updates: u64,
    /// `are_peers_pending`, of all groups.
    pub pendings: u64,
    /// `sync_shared_state`, of one group.
    pub syncs: u64,
}

/// The joint calls that have ended for all, and the last answer of each kind where it was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Completed {
    /// How many.
    pub counts: CallCounts,
    /// The answer to the last `are_peers_pending`.
    pub pending: Option<CallResult>,
    /// The answer to the last `sync_shared_state`.
    pub sync: Option<CallResult>,
}

/// Master to peer.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum ToPeer {
    /// I am alive. Not numbered.
    Heartbeat(Heartbeat),
    /// The next epoch, if a majority agrees.
    EpochProposed(Proposal),
    /// The proposed epoch is active; its outcomes hold.
    EpochActive {
        /// Which.
        epoch: Epoch,
    },
    /// An operation of the active epoch has ended.
    OperationSettled(Settlement),
    /// The joint call you are in has ended.
    CallDone {
        /// Which one of its kind, counting those that ended for all; 0 for one that ended for its
        /// caller alone.
        number: u64,
        /// How.
        result: CallResult,
    },
    /// What to receive in this sync, and from whom.
    SyncPlan(SyncPlan),
    /// You are no longer part of the run.
    Evicted {
        /// Why.
        reason: String,
    },
    /// Goodbye.
    LeaveAcknowledged,
    /// I rule in this term now, as I have heard of one above the last: do you follow?
    TermRaised {
        /// The term.
        term: u32,
    },
    /// I do not rule yet: wait here, and then look for another master.
    Stay {
        /// For so long.
        at_most_ms: u64,
    },
    /// Enough of the run has come back: it goes on.
    RunGoesOn,
    /// I end now, on purpose: another master, or one after me, is to rule.
    HandOver,
}

/// The next epoch, as one peer needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Its number.
    pub epoch: Epoch,
    /// World sizes in it.
    pub sizes: WorldSizes,
    /// The peers of the own group in ring order.
    pub ring: Vec<PeerName>,
    /// The links this peer needs.
    pub links: Vec<LinkSpec>,
    /// How operations of the epochs before it end. What is not listed is started again.
    pub outcomes: Vec<Settlement>,
    /// The rings of the other groups.
    pub others: Vec<(GroupId, Vec<PeerName>)>,
    /// Whose acknowledgement the epoch after this one needs a majority of.
    pub voters: Vec<PeerId>,
    /// How many joint calls have ended once it is active.
    pub calls: CallCounts,
}

/// In which way a link fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkFault {
    /// No lane could be made: it is over when one is.
    NoLane,
    /// Lanes open, and deliver nothing: that one opens proves nothing.
    NothingDelivered,
}

/// One link as one of its two ends needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinkSpec {
    /// The other end.
    pub peer: PeerName,
    /// What both ends show each other to prove who they are.
    pub secret: [u8; 16],
    /// Lanes of the link, where one of its ends has a wish.
    pub lanes: Option<u16>,
    /// Whether this end dials first. The other does so only if nothing arrives.
    pub dials: bool,
    /// The longest round trip to expect: both ends' to the master, one after the other. Whole
    /// milliseconds.
    pub round_trip: Duration,
}

/// The end of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All have the result.
    Committed {
        /// The peers whose input is in it.
        contributors: Vec<PeerId>,
    },
    /// Nobody has it; all inputs are as before.
    Aborted(AbortCause),
}

/// Why an operation was aborted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AbortCause {
    /// Peers left the run: who, and why.
    PeersLost(Vec<(PeerName, String)>),
    /// A caller's deadline passed.
    DeadlinePassed {
        /// Whose, and whom it waited for.
        reason: String,
    },
    /// A peer reported a failure, or was told to cancel.
    Reported {
        /// What, and by whom.
        reason: String,
    },
    /// Peers meant different things.
    Mismatch {
        /// The field, with both values.
        field: String,
        /// Who said what.
        detail: String,
    },
    /// The operation and a joint call each need a peer that the other holds.
    CannotMeet {
        /// Who called what.
        detail: String,
    },
}

/// The end of a joint call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallResult {
    /// `update_topology` succeeded.
    Updated,
    /// `are_peers_pending` has its answer.
    Pending(bool),
    /// The sync committed this revision.
    Synced {
        /// The revision all members now have.
        revision: Revision,
    },
    /// The sync failed for all.
    SyncAborted {
        /// What happened, and to whom.
        reason: String,
    },
    /// No peer may serve the state.
    NoCleanState {
        /// Why not.
        reason: String,
    },
    /// Everybody presented a revision that is committed already.
    StaleRevision {
        /// The newest presented.
        presented: Revision,
        /// The expected one.
        expected: Revision,
    },
    /// What was presented makes no sense.
    InvalidState {
        /// What is wrong with it.
        reason: String,
    },
    /// Calls that can never meet.
    CannotMeet {
        /// Who called what.
        detail: String,
    },
    /// The call was cancelled by its own caller.
    Cancelled,
}

/// One peer's part in a sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SyncPlan {
    /// The round; grows within a run.
    pub round: u64,
    /// What receivers show to holders.
    pub token: [u8; 16],
    /// The digests all members are to have, by entry; none where content may differ.
    pub digests: Vec<Option<Digest>>,
    /// The entries this peer must receive.
    pub receive: Vec<u32>,
    /// Who serves them, if there are any.
    pub holder: Option<PeerName>,
}

/// A control message, or greeting body, as bytes and back.
pub trait Message: Sized {
    /// The bytes of the message.
    fn encode(&self) -> Vec<u8>;
    /// The message in these bytes; what makes no sense is an error, never a panic.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}
