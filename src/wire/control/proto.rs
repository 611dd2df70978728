//! Field numbers of the control messages. A number once used keeps its meaning for ever; new
//! fields take new numbers, so that two versions can one day share a run.

#![allow(
    missing_docs,
    reason = "each struct mirrors a documented type of the parent module"
)]

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Hello {
    #[prost(oneof = "HelloKind", tags = "1, 2")]
    pub(super) kind: Option<HelloKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum HelloKind {
    #[prost(message, tag = "1")]
    Join(Join),
    #[prost(message, tag = "2")]
    Resume(Resume),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Join {
    #[prost(uint32, tag = "1")]
    pub(super) group: u32,
    #[prost(string, tag = "2")]
    pub(super) label: String,
    #[prost(string, tag = "3")]
    pub(super) advertised_host: String,
    #[prost(uint32, tag = "4")]
    pub(super) port: u32,
    #[prost(uint32, tag = "5")]
    pub(super) lanes: u32,
    #[prost(uint32, tag = "6")]
    pub(super) masters: u32,
    #[prost(bool, tag = "7")]
    pub(super) nobody_came: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resume {
    #[prost(fixed64, tag = "1")]
    pub(super) run: u64,
    #[prost(uint64, tag = "2")]
    pub(super) peer: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) token: u64,
    #[prost(uint64, tag = "4")]
    pub(super) last_seen: u64,
    #[prost(message, required, tag = "5")]
    pub(super) reign: Reign,
    #[prost(bool, tag = "6")]
    pub(super) accepted: bool,
    #[prost(uint32, tag = "7")]
    pub(super) masters: u32,
    #[prost(uint32, tag = "8")]
    pub(super) one_of_voters: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Reign {
    #[prost(uint32, tag = "1")]
    pub(super) term: u32,
    #[prost(fixed64, tag = "2")]
    pub(super) start: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Welcome {
    #[prost(oneof = "WelcomeKind", tags = "1, 2, 3, 4")]
    pub(super) kind: Option<WelcomeKind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum WelcomeKind {
    #[prost(message, tag = "1")]
    Registered(Registered),
    #[prost(message, tag = "2")]
    Resumed(Number),
    /// Without a run, a peer and a token: it has them.
    #[prost(message, tag = "3")]
    Returned(Registered),
    #[prost(message, tag = "4")]
    Waiting(Waiting),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Waiting {
    #[prost(bool, tag = "1")]
    pub(super) nobody_came: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Registered {
    #[prost(fixed64, tag = "1")]
    pub(super) run: u64,
    #[prost(uint64, tag = "2")]
    pub(super) peer: u64,
    #[prost(fixed64, tag = "3")]
    pub(super) token: u64,
    #[prost(uint32, tag = "4")]
    pub(super) heartbeat_interval_ms: u32,
    #[prost(uint32, tag = "5")]
    pub(super) silence_ceiling_ms: u32,
    #[prost(uint32, tag = "6")]
    pub(super) silence_floor_ms: u32,
    #[prost(uint32, tag = "7")]
    pub(super) lane_stall_timeout_ms: u32,
    #[prost(uint32, tag = "8")]
    pub(super) link_timeout_ms: u32,
    #[prost(message, required, tag = "9")]
    pub(super) reign: Reign,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FrameToMaster {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(uint64, tag = "2")]
    pub(super) acknowledged: u64,
    #[prost(
        oneof = "ToMaster",
        tags = "3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21"
    )]
    pub(super) message: Option<ToMaster>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum ToMaster {
    #[prost(message, tag = "3")]
    Heartbeat(Heartbeat),
    #[prost(message, tag = "4")]
    EpochAcknowledged(Epoch),
    #[prost(message, tag = "5")]
    Wired(Epoch),
    #[prost(message, tag = "6")]
    LinkFailed(LinkFailed),
    #[prost(message, tag = "7")]
    LinkState(LinkState),
    #[prost(message, tag = "8")]
    UpdateTopology(Empty),
    #[prost(message, tag = "9")]
    ArePeersPending(Empty),
    #[prost(message, tag = "10")]
    SyncSharedState(Presentation),
    #[prost(message, tag = "11")]
    CancelCall(Empty),
    #[prost(message, tag = "12")]
    OperationBegun(OperationBegun),
    #[prost(message, tag = "13")]
    OperationDone(Operation),
    #[prost(message, tag = "14")]
    OperationFailed(OperationFailed),
    #[prost(message, tag = "15")]
    DeadlinePassed(Operation),
    #[prost(message, tag = "16")]
    SyncReceived(Number),
    #[prost(message, tag = "17")]
    SyncFailed(SyncFailed),
    #[prost(message, tag = "18")]
    Leave(Empty),
    #[prost(message, boxed, tag = "19")]
    Report(Box<Report>),
    #[prost(message, tag = "20")]
    Promised(Number),
    #[prost(message, tag = "21")]
    Redialling(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Report {
    #[prost(uint32, tag = "1")]
    pub(super) term: u32,
    #[prost(uint32, tag = "2")]
    pub(super) group: u32,
    #[prost(message, required, tag = "3")]
    pub(super) name: PeerName,
    #[prost(uint32, tag = "4")]
    pub(super) lanes: u32,
    #[prost(message, optional, tag = "5")]
    pub(super) active: Option<Proposal>,
    #[prost(message, optional, tag = "6")]
    pub(super) proposed: Option<Proposal>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) expected: Option<u64>,
    #[prost(message, repeated, tag = "8")]
    pub(super) settled: Vec<Uses>,
    #[prost(message, repeated, tag = "9")]
    pub(super) outcomes: Vec<Settled>,
    #[prost(message, required, tag = "10")]
    pub(super) completed: CallCounts,
    #[prost(message, optional, tag = "11")]
    pub(super) pending: Option<CallResult>,
    #[prost(message, optional, tag = "12")]
    pub(super) sync: Option<CallResult>,
    #[prost(uint32, tag = "13")]
    pub(super) masters: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Uses {
    #[prost(uint64, tag = "1")]
    pub(super) tag: u64,
    #[prost(uint32, tag = "2")]
    pub(super) count: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct CallCounts {
    #[prost(uint64, tag = "1")]
    pub(super) updates: u64,
    #[prost(uint64, tag = "2")]
    pub(super) pendings: u64,
    #[prost(uint64, tag = "3")]
    pub(super) syncs: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FrameToPeer {
    #[prost(uint64, tag = "1")]
    pub(super) sequence: u64,
    #[prost(uint64, tag = "2")]
    pub(super) acknowledged: u64,
    #[prost(oneof = "ToPeer", tags = "3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub(super) message: Option<ToPeer>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum ToPeer {
    #[prost(message, tag = "3")]
    Heartbeat(Heartbeat),
    #[prost(message, tag = "4")]
    EpochProposed(Proposal),
    #[prost(message, tag = "5")]
    EpochActive(Epoch),
    #[prost(message, tag = "6")]
    OperationSettled(Settled),
    #[prost(message, tag = "7")]
    CallDone(CallResult),
    #[prost(message, tag = "8")]
    SyncPlan(SyncPlan),
    #[prost(message, tag = "9")]
    Evicted(Text),
    #[prost(message, tag = "10")]
    LeaveAcknowledged(Empty),
    #[prost(message, tag = "11")]
    TermRaised(Number),
    #[prost(message, tag = "12")]
    RunGoesOn(Empty),
    #[prost(message, tag = "13")]
    HandOver(Empty),
    #[prost(message, tag = "14")]
    Stay(Number),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Heartbeat {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    #[prost(uint64, tag = "2")]
    pub(super) heard: u64,
    #[prost(uint64, tag = "3")]
    pub(super) held_us: u64,
    #[prost(bool, tag = "4")]
    pub(super) answer: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(uint64, tag = "1")]
    pub(super) value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Epoch {
    #[prost(uint32, tag = "1")]
    pub(super) term: u32,
    #[prost(uint32, tag = "2")]
    pub(super) count: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Operation {
    #[prost(message, required, tag = "1")]
    pub(super) epoch: Epoch,
    #[prost(uint64, tag = "2")]
    pub(super) tag: u64,
    #[prost(uint32, tag = "3")]
    pub(super) n: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperationBegun {
    #[prost(message, required, tag = "1")]
    pub(super) op: Operation,
    #[prost(uint64, tag = "2")]
    pub(super) count: u64,
    #[prost(uint32, tag = "3")]
    pub(super) data_type: u32,
    #[prost(uint32, tag = "4")]
    pub(super) reduce_op: u32,
    #[prost(message, tag = "5")]
    pub(super) quantization: Option<Quantization>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Quantization {
    #[prost(uint32, tag = "1")]
    pub(super) scheme: u32,
    #[prost(uint32, tag = "2")]
    pub(super) codes: u32,
    #[prost(uint32, tag = "3")]
    pub(super) block_elements: u32,
    #[prost(uint32, tag = "4")]
    pub(super) distribution: u32,
    #[prost(fixed64, optional, tag = "5")]
    pub(super) rounding_key: Option<u64>,
    #[prost(uint32, tag = "6")]
    pub(super) path: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperationFailed {
    #[prost(message, required, tag = "1")]
    pub(super) op: Operation,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinkFailed {
    #[prost(message, required, tag = "1")]
    pub(super) epoch: Epoch,
    #[prost(uint64, tag = "2")]
    pub(super) peer: u64,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
    #[prost(bool, tag = "4")]
    pub(super) opens: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinkState {
    #[prost(uint64, tag = "1")]
    pub(super) peer: u64,
    #[prost(bool, tag = "2")]
    pub(super) up: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SyncFailed {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(uint64, tag = "2")]
    pub(super) holder: u64,
    #[prost(string, tag = "3")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Presentation {
    #[prost(uint64, tag = "1")]
    pub(super) revision: u64,
    #[prost(uint32, tag = "2")]
    pub(super) strategy: u32,
    #[prost(message, repeated, tag = "3")]
    pub(super) entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) data_type: u32,
    #[prost(uint64, tag = "3")]
    pub(super) count: u64,
    /// 32 bytes, or none where content may differ between peers.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) digest: Vec<u8>,
    #[prost(bool, tag = "5")]
    pub(super) tainted: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PeerName {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(string, tag = "2")]
    pub(super) label: String,
    #[prost(string, tag = "3")]
    pub(super) address: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Proposal {
    #[prost(message, required, tag = "1")]
    pub(super) epoch: Epoch,
    #[prost(uint32, tag = "2")]
    pub(super) global: u32,
    #[prost(uint32, tag = "3")]
    pub(super) group: u32,
    #[prost(uint32, tag = "4")]
    pub(super) groups: u32,
    #[prost(uint32, tag = "5")]
    pub(super) largest_group: u32,
    #[prost(message, repeated, tag = "6")]
    pub(super) ring: Vec<PeerName>,
    #[prost(message, repeated, tag = "7")]
    pub(super) links: Vec<Link>,
    #[prost(message, repeated, tag = "8")]
    pub(super) outcomes: Vec<Settled>,
    #[prost(message, repeated, tag = "9")]
    pub(super) others: Vec<OtherGroup>,
    #[prost(uint64, repeated, tag = "10")]
    pub(super) voters: Vec<u64>,
    #[prost(message, required, tag = "11")]
    pub(super) calls: CallCounts,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OtherGroup {
    #[prost(uint32, tag = "1")]
    pub(super) group: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) ring: Vec<PeerName>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Link {
    #[prost(message, required, tag = "1")]
    pub(super) peer: PeerName,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) secret: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(super) lanes: u32,
    #[prost(bool, tag = "4")]
    pub(super) dials: bool,
    #[prost(uint32, tag = "5")]
    pub(super) round_trip_ms: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Settled {
    #[prost(message, required, tag = "1")]
    pub(super) op: Operation,
    #[prost(oneof = "Outcome", tags = "2, 3, 4, 5, 6, 7")]
    pub(super) outcome: Option<Outcome>,
    #[prost(uint64, tag = "8")]
    pub(super) number: u64,
    #[prost(uint64, tag = "9")]
    pub(super) everybody_has: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Outcome {
    #[prost(message, tag = "2")]
    Committed(Peers),
    #[prost(message, tag = "3")]
    PeersLost(LostPeers),
    #[prost(message, tag = "4")]
    Reported(Text),
    #[prost(message, tag = "5")]
    Mismatch(Mismatch),
    #[prost(message, tag = "6")]
    CannotMeet(Text),
    #[prost(message, tag = "7")]
    DeadlinePassed(Text),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Peers {
    #[prost(uint64, repeated, tag = "1")]
    pub(super) ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LostPeers {
    #[prost(message, repeated, tag = "1")]
    pub(super) lost: Vec<LostPeer>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LostPeer {
    #[prost(message, required, tag = "1")]
    pub(super) peer: PeerName,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Mismatch {
    #[prost(string, tag = "1")]
    pub(super) field: String,
    #[prost(string, tag = "2")]
    pub(super) detail: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CallResult {
    #[prost(oneof = "CallResultKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub(super) kind: Option<CallResultKind>,
    #[prost(uint64, tag = "10")]
    pub(super) number: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum CallResultKind {
    #[prost(message, tag = "1")]
    Updated(Empty),
    #[prost(bool, tag = "2")]
    Pending(bool),
    #[prost(uint64, tag = "3")]
    Synced(u64),
    #[prost(string, tag = "4")]
    SyncAborted(String),
    #[prost(string, tag = "5")]
    NoCleanState(String),
    #[prost(message, tag = "6")]
    StaleRevision(StaleRevision),
    #[prost(string, tag = "7")]
    InvalidState(String),
    #[prost(string, tag = "8")]
    CannotMeet(String),
    #[prost(message, tag = "9")]
    Cancelled(Empty),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StaleRevision {
    #[prost(uint64, tag = "1")]
    pub(super) presented: u64,
    #[prost(uint64, tag = "2")]
    pub(super) expected: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SyncPlan {
    #[prost(uint64, tag = "1")]
    pub(super) round: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) token: Vec<u8>,
    /// 32 bytes each, or none where content may differ between peers.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) digests: Vec<Vec<u8>>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) receive: Vec<u32>,
    #[prost(message, optional, tag = "5")]
    pub(super) holder: Option<PeerName>,
}
