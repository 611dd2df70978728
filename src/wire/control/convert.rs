//! Control messages to and from their field numbers; here is where nonsense is refused.

use std::time::Duration;

use prost::Message as _;

use super::proto as p;
use super::{
    AbortCause, CallCounts, CallResult, Completed, Frame, Heartbeat, Hello, Join, JointCall,
    LinkFault, LinkSpec, Message, Outcome, Proposal, Reign, Report, Settlement, SyncPlan, Timings,
    ToMaster, ToPeer, Welcome,
};
use crate::shared_state::{Digest, Entry, MAX_TENSORS, Presentation, SyncStrategy};
use crate::types::{
    DataType, Descriptor, Epoch, GroupId, OperationId, PeerId, PeerName, ReduceOp, Revision, RunId,
    Tag, WorldSizes,
};

/// Longest label or host name that a hello may carry, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// The longest reason that is taken from a peer, in bytes; the rest is cut. The master passes reasons
/// on to all: one that fills a frame would leave no room for what goes with it.
pub(super) const MAX_REASON_BYTES: usize = 4096;

/// Most lanes that a link may have.
pub const MAX_LANES: u16 = 256;

/// Why bytes are no control message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A length over the limit.
    #[error("a length of {len_bytes} bytes is over the limit of {limit_bytes}")]
    TooLong {
        /// The length.
        len_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The bytes are not those that were sent.
    #[error("checksum mismatch")]
    Checksum,
    /// The bytes do not follow the encoding.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// A field has a value that makes no sense.
    #[error("field `{field}` makes no sense: {value}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value, for people.
        value: String,
    },
}

pub(super) type Decoded<T> = Result<T, DecodeError>;

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> Self {
        DecodeError::Malformed(error.to_string())
    }
}

impl Message for Hello {
    fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Hello::Join(join) => p::HelloKind::Join(p::Join {
                group: join.group.0,
                label: join.label.clone(),
                advertised_host: join.advertised_host.clone(),
                port: u32::from(join.port),
                lanes: u32::from(join.lanes.unwrap_or(0)),
                masters: join.masters,
                nobody_came: join.nobody_came,
            }),
            Hello::Resume {
                run,
                peer,
                token,
                last_seen,
                reign,
                accepted,
                masters,
                one_of_voters,
            } => p::HelloKind::Resume(p::Resume {
                run: run.0,
                peer: peer.0,
                token: *token,
                last_seen: *last_seen,
                reign: (*reign).into(),
                accepted: *accepted,
                masters: *masters,
                one_of_voters: *one_of_voters,
            }),
        };
        p::Hello { kind: Some(kind) }.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Decoded<Self> {
        Ok(match present("hello", p::Hello::decode(bytes)?.kind)? {
            p::HelloKind::Join(join) => Hello::Join(Join {
                group: GroupId(join.group),
                label: short("label", join.label)?,
                advertised_host: short("advertised_host", join.advertised_host)?,
                port: match u16::try_from(join.port) {
                    Ok(port) if port > 0 => port,
                    _ => return Err(nonsense("port", join.port)),
                },
                lanes: lanes(join.lanes)?,
                masters: join.masters,
                nobody_came: join.nobody_came,
            }),
            p::HelloKind::Resume(resume) => Hello::Resume {
                run: RunId(resume.run),
                peer: PeerId(resume.peer),
                token: resume.token,
                last_seen: resume.last_seen,
                reign: resume.reign.into(),
                accepted: resume.accepted,
                masters: resume.masters,
                one_of_voters: resume.one_of_voters,
            },
        })
    }
}

impl Message for Welcome {
    fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Welcome::Registered {
                run,
                peer,
                token,
                timings,
                reign,
            } => p::WelcomeKind::Registered(p::Registered {
                run: run.0,
                peer: peer.0,
                token: *token,
                ..registered(*reign, timings)
            }),
            Welcome::Resumed { last_seen } => {
                p::WelcomeKind::Resumed(p::Number { value: *last_seen })
            }
            Welcome::Returned { reign, timings } => {
                p::WelcomeKind::Returned(registered(*reign, timings))
            }
            Welcome::Waiting { nobody_came } => p::WelcomeKind::Waiting(p::Waiting {
                nobody_came: *nobody_came,
            }),
        };
        p::Welcome { kind: Some(kind) }.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Decoded<Self> {
        Ok(match present("welcome", p::Welcome::decode(bytes)?.kind)? {
            p::WelcomeKind::Registered(r) => Welcome::Registered {
                run: RunId(r.run),
                peer: PeerId(r.peer),
                token: r.token,
                timings: timings(&r)?,
                reign: r.reign.into(),
            },
            p::WelcomeKind::Resumed(number) => Welcome::Resumed {
                last_seen: number.value,
            },
            p::WelcomeKind::Waiting(w) => Welcome::Waiting {
                nobody_came: w.nobody_came,
            },
            p::WelcomeKind::Returned(r) => Welcome::Returned {
                reign: r.reign.into(),
                timings: timings(&r)?,
            },
        })
    }
}

impl Message for Frame<ToMaster> {
    fn encode(&self) -> Vec<u8> {
        use p::ToMaster as P;
        let message = match &self.message {
            ToMaster::Heartbeat(beat) => P::Heartbeat((*beat).into()),
            ToMaster::EpochAcknowledged { epoch } => P::EpochAcknowledged((*epoch).into()),
            ToMaster::Wired { epoch } => P::Wired((*epoch).into()),
            ToMaster::LinkFailed {
                epoch,
                peer,
                fault,
                reason,
            } => P::LinkFailed(p::LinkFailed {
                epoch: (*epoch).into(),
                peer: peer.0,
                reason: reason.clone(),
                opens: *fault == LinkFault::NothingDelivered,
            }),
            ToMaster::LinkState { peer, up } => P::LinkState(p::LinkState {
                peer: peer.0,
                up: *up,
            }),
            ToMaster::Call(JointCall::UpdateTopology) => P::UpdateTopology(p::Empty {}),
            ToMaster::Call(JointCall::ArePeersPending) => P::ArePeersPending(p::Empty {}),
            ToMaster::Call(JointCall::SyncSharedState(presentation)) => {
                P::SyncSharedState(presentation.into())
            }
            ToMaster::CancelCall => P::CancelCall(p::Empty {}),
            ToMaster::OperationBegun { op, descriptor } => P::OperationBegun(p::OperationBegun {
                op: (*op).into(),
                count: descriptor.count,
                data_type: descriptor.data_type as u32,
                reduce_op: descriptor.op as u32,
                quantization: descriptor.quantization.map(Into::into),
            }),
            ToMaster::OperationDone { op } => P::OperationDone((*op).into()),
            ToMaster::OperationFailed { op, reason } => P::OperationFailed(p::OperationFailed {
                op: (*op).into(),
                reason: reason.clone(),
            }),
            ToMaster::DeadlinePassed { op } => P::DeadlinePassed((*op).into()),
            ToMaster::SyncReceived { round } => P::SyncReceived(p::Number { value: *round }),
            ToMaster::SyncFailed {
                round,
                holder,
                reason,
            } => P::SyncFailed(p::SyncFailed {
                round: *round,
                holder: holder.0,
                reason: reason.clone(),
            }),
            ToMaster::Leave => P::Leave(p::Empty {}),
            ToMaster::Report(report) => P::Report(Box::new(report.as_ref().into())),
            ToMaster::Promised { term } => P::Promised(p::Number {
                value: u64::from(*term),
            }),
            ToMaster::Redialling => P::Redialling(p::Empty {}),
        };
        p::FrameToMaster {
            sequence: self.sequence,
            acknowledged: self.acknowledged,
            message: Some(message),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Decoded<Self> {
        use p::ToMaster as P;
        let frame = p::FrameToMaster::decode(bytes)?;
        let message = match present("message", frame.message)? {
            P::Heartbeat(beat) => ToMaster::Heartbeat(beat.into()),
            P::EpochAcknowledged(epoch) => ToMaster::EpochAcknowledged {
                epoch: epoch.into(),
            },
            P::Wired(epoch) => ToMaster::Wired {
                epoch: epoch.into(),
            },
            P::LinkFailed(m) => ToMaster::LinkFailed {
                epoch: m.epoch.into(),
                peer: PeerId(m.peer),
                fault: match m.opens {
                    true => LinkFault::NothingDelivered,
                    false => LinkFault::NoLane,
                },
                reason: readable(&m.reason),
            },
            P::LinkState(m) => ToMaster::LinkState {
                peer: PeerId(m.peer),
                up: m.up,
            },
            P::UpdateTopology(_) => ToMaster::Call(JointCall::UpdateTopology),
            P::ArePeersPending(_) => ToMaster::Call(JointCall::ArePeersPending),
            P::SyncSharedState(m) => ToMaster::Call(JointCall::SyncSharedState(m.try_into()?)),
            P::CancelCall(_) => ToMaster::CancelCall,
            P::OperationBegun(m) => ToMaster::OperationBegun {
                op: m.op.into(),
                descriptor: Descriptor {
                    count: m.count,
                    data_type: data_type(m.data_type)?,
                    op: ReduceOp::from_number(m.reduce_op)
                        .ok_or_else(|| nonsense("reduce_op", m.reduce_op))?,
                    quantization: m.quantization.map(TryInto::try_into).transpose()?,
                },
            },
            P::OperationDone(op) => ToMaster::OperationDone { op: op.into() },
            P::OperationFailed(m) => ToMaster::OperationFailed {
                op: m.op.into(),
                reason: readable(&m.reason),
            },
            P::DeadlinePassed(op) => ToMaster::DeadlinePassed { op: op.into() },
            P::SyncReceived(round) => ToMaster::SyncReceived { round: round.value },
            P::SyncFailed(m) => ToMaster::SyncFailed {
                round: m.round,
                holder: PeerId(m.holder),
                reason: readable(&m.reason),
            },
            P::Leave(_) => ToMaster::Leave,
            P::Report(report) => ToMaster::Report(Box::new((*report).try_into()?)),
            P::Promised(term) => ToMaster::Promised {
                term: term_of(term)?,
            },
            P::Redialling(_) => ToMaster::Redialling,
        };
        Ok(Frame {
            sequence: frame.sequence,
            acknowledged: frame.acknowledged,
            message,
        })
    }
}

impl Message for Frame<ToPeer> {
    fn encode(&self) -> Vec<u8> {
        use p::ToPeer as P;
        let message = match &self.message {
            ToPeer::Heartbeat(beat) => P::Heartbeat((*beat).into()),
            ToPeer::EpochProposed(proposal) => P::EpochProposed(proposal.into()),
            ToPeer::EpochActive { epoch } => P::EpochActive((*epoch).into()),
            ToPeer::OperationSettled(settlement) => P::OperationSettled(settlement.into()),
            ToPeer::CallDone { number, result } => P::CallDone(p::CallResult {
                number: *number,
                ..result.into()
            }),
            ToPeer::SyncPlan(plan) => P::SyncPlan(p::SyncPlan {
                round: plan.round,
                token: plan.token.to_vec(),
                digests: plan.digests.iter().map(digest_bytes).collect(),
                receive: plan.receive.clone(),
                holder: plan.holder.as_ref().map(Into::into),
            }),
            ToPeer::Evicted { reason } => P::Evicted(p::Text {
                text: reason.clone(),
            }),
            ToPeer::LeaveAcknowledged => P::LeaveAcknowledged(p::Empty {}),
            ToPeer::TermRaised { term } => P::TermRaised(p::Number {
                value: u64::from(*term),
            }),
            ToPeer::Stay { at_most_ms } => P::Stay(p::Number { value: *at_most_ms }),
            ToPeer::RunGoesOn => P::RunGoesOn(p::Empty {}),
            ToPeer::HandOver => P::HandOver(p::Empty {}),
        };
        p::FrameToPeer {
            sequence: self.sequence,
            acknowledged: self.acknowledged,
            message: Some(message),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Decoded<Self> {
        use p::ToPeer as P;
        let frame = p::FrameToPeer::decode(bytes)?;
        let message = match present("message", frame.message)? {
            P::Heartbeat(beat) => ToPeer::Heartbeat(beat.into()),
            P::EpochProposed(proposal) => ToPeer::EpochProposed(proposal.try_into()?),
            P::EpochActive(epoch) => ToPeer::EpochActive {
                epoch: epoch.into(),
            },
            P::OperationSettled(settled) => ToPeer::OperationSettled(settled.try_into()?),
            P::CallDone(result) => ToPeer::CallDone {
                number: result.number,
                result: result.try_into()?,
            },
            P::SyncPlan(plan) => ToPeer::SyncPlan(SyncPlan {
                round: plan.round,
                token: secret("token", &plan.token)?,
                digests: plan
                    .digests
                    .iter()
                    .map(|d| digest(d))
                    .collect::<Decoded<_>>()?,
                receive: plan.receive,
                holder: plan.holder.map(Into::into),
            }),
            P::Evicted(text) => ToPeer::Evicted { reason: text.text },
            P::LeaveAcknowledged(_) => ToPeer::LeaveAcknowledged,
            P::TermRaised(term) => ToPeer::TermRaised {
                term: term_of(term)?,
            },
            P::Stay(at_most_ms) => ToPeer::Stay {
                at_most_ms: at_most_ms.value,
            },
            P::RunGoesOn(_) => ToPeer::RunGoesOn,
            P::HandOver(_) => ToPeer::HandOver,
        };
        Ok(Frame {
            sequence: frame.sequence,
            acknowledged: frame.acknowledged,
            message,
        })
    }
}

impl From<Reign> for p::Reign {
    fn from(reign: Reign) -> Self {
        p::Reign {
            term: reign.term,
            start: reign.start,
        }
    }
}

impl From<p::Reign> for Reign {
    fn from(reign: p::Reign) -> Self {
        Reign {
            term: reign.term,
            start: reign.start,
        }
    }
}

fn registered(reign: Reign, timings: &Timings) -> p::Registered {
    p::Registered {
        heartbeat_interval_ms: milliseconds(timings.heartbeat_interval),
        silence_ceiling_ms: milliseconds(timings.silence_ceiling),
        silence_floor_ms: milliseconds(timings.silence_floor),
        lane_stall_timeout_ms: milliseconds(timings.lane_stall_timeout),
        link_timeout_ms: milliseconds(timings.link_timeout),
        reign: reign.into(),
        ..p::Registered::default()
    }
}

fn timings(r: &p::Registered) -> Decoded<Timings> {
    if r.silence_floor_ms > r.silence_ceiling_ms {
        return Err(nonsense("silence_floor_ms", r.silence_floor_ms));
    }
    Ok(Timings {
        heartbeat_interval: time("heartbeat_interval_ms", r.heartbeat_interval_ms)?,
        silence_floor: time("silence_floor_ms", r.silence_floor_ms)?,
        silence_ceiling: time("silence_ceiling_ms", r.silence_ceiling_ms)?,
        lane_stall_timeout: time("lane_stall_timeout_ms", r.lane_stall_timeout_ms)?,
        link_timeout: time("link_timeout_ms", r.link_timeout_ms)?,
    })
}

impl From<CallCounts> for p::CallCounts {
    fn from(counts: CallCounts) -> Self {
        p::CallCounts {
            updates: counts.updates,
            pendings: counts.pendings,
            syncs: counts.syncs,
        }
    }
}

impl From<p::CallCounts> for CallCounts {
    fn from(counts: p::CallCounts) -> Self {
        CallCounts {
            updates: counts.updates,
            pendings: counts.pendings,
            syncs: counts.syncs,
        }
    }
}

impl From<&Report> for p::Report {
    fn from(report: &Report) -> Self {
        p::Report {
            term: report.term,
            group: report.group.0,
            name: (&report.name).into(),
            lanes: u32::from(report.lanes.unwrap_or(0)),
            active: report.active.as_ref().map(Into::into),
            proposed: report.proposed.as_ref().map(Into::into),
            expected: report.expected.map(|revision| revision.0),
            settled: report
                .settled
                .iter()
                .map(|(tag, count)| p::Uses {
                    tag: tag.0,
                    count: *count,
                })
                .collect(),
            outcomes: report.outcomes.iter().map(Into::into).collect(),
            completed: report.completed.counts.into(),
            pending: report.completed.pending.as_ref().map(Into::into),
            sync: report.completed.sync.as_ref().map(Into::into),
            masters: report.masters,
        }
    }
}

impl TryFrom<p::Report> for Report {
    type Error = DecodeError;

    fn try_from(report: p::Report) -> Decoded<Self> {
        Ok(Report {
            term: report.term,
            group: GroupId(report.group),
            name: report.name.into(),
            lanes: lanes(report.lanes)?,
            masters: report.masters,
            active: report.active.map(TryInto::try_into).transpose()?,
            proposed: report.proposed.map(TryInto::try_into).transpose()?,
            expected: report.expected.map(Revision),
            settled: report
                .settled
                .into_iter()
                .map(|uses| (Tag(uses.tag), uses.count))
                .collect(),
            outcomes: report
                .outcomes
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Decoded<_>>()?,
            completed: Completed {
                counts: report.completed.into(),
                pending: report.pending.map(TryInto::try_into).transpose()?,
                sync: report.sync.map(TryInto::try_into).transpose()?,
            },
        })
    }
}

impl From<Epoch> for p::Epoch {
    fn from(epoch: Epoch) -> Self {
        p::Epoch {
            term: epoch.term,
            count: epoch.count,
        }
    }
}

impl From<p::Epoch> for Epoch {
    fn from(epoch: p::Epoch) -> Self {
        Epoch {
            term: epoch.term,
            count: epoch.count,
        }
    }
}

impl From<OperationId> for p::Operation {
    fn from(op: OperationId) -> Self {
        p::Operation {
            epoch: op.epoch.into(),
            tag: op.tag.0,
            n: op.n,
        }
    }
}

impl From<p::Operation> for OperationId {
    fn from(op: p::Operation) -> Self {
        OperationId {
            epoch: op.epoch.into(),
            tag: Tag(op.tag),
            n: op.n,
        }
    }
}

impl From<&PeerName> for p::PeerName {
    fn from(name: &PeerName) -> Self {
        p::PeerName {
            id: name.id.0,
            label: name.label.clone(),
            address: name.address.clone(),
        }
    }
}

impl From<p::PeerName> for PeerName {
    fn from(name: p::PeerName) -> Self {
        PeerName {
            id: PeerId(name.id),
            label: readable(&name.label),
            address: readable(&name.address),
        }
    }
}

impl From<&Presentation> for p::Presentation {
    fn from(presentation: &Presentation) -> Self {
        p::Presentation {
            revision: presentation.revision.0,
            strategy: presentation.strategy as u32,
            entries: presentation
                .entries
                .iter()
                .map(|entry| p::Entry {
                    name: entry.name.clone(),
                    data_type: entry.data_type as u32,
                    count: entry.count,
                    digest: digest_bytes(&entry.digest),
                    tainted: entry.tainted,
                })
                .collect(),
        }
    }
}

impl TryFrom<p::Presentation> for Presentation {
    type Error = DecodeError;

    fn try_from(presentation: p::Presentation) -> Decoded<Self> {
        let strategy = SyncStrategy::from_number(presentation.strategy)
            .ok_or_else(|| nonsense("strategy", presentation.strategy))?;
        // Kept until all members have called, so what can never be elected is not even taken.
        if presentation.entries.len() > MAX_TENSORS as usize {
            return Err(nonsense("entries", presentation.entries.len()));
        }
        let mut entries = Vec::with_capacity(presentation.entries.len());
        for entry in presentation.entries {
            entries.push(Entry {
                name: entry.name,
                data_type: data_type(entry.data_type)?,
                count: entry.count,
                digest: digest(&entry.digest)?,
                tainted: entry.tainted,
            });
        }
        Ok(Presentation {
            revision: Revision(presentation.revision),
            strategy,
            entries,
        })
    }
}

impl From<Heartbeat> for p::Heartbeat {
    fn from(beat: Heartbeat) -> Self {
        p::Heartbeat {
            number: beat.number,
            heard: beat.heard,
            held_us: u64::try_from(beat.held.as_micros()).unwrap_or(u64::MAX),
            answer: beat.answer,
        }
    }
}

impl From<p::Heartbeat> for Heartbeat {
    fn from(beat: p::Heartbeat) -> Self {
        Heartbeat {
            number: beat.number,
            heard: beat.heard,
            held: Duration::from_micros(beat.held_us),
            answer: beat.answer,
        }
    }
}

impl From<&Proposal> for p::Proposal {
    fn from(proposal: &Proposal) -> Self {
        p::Proposal {
            epoch: proposal.epoch.into(),
            global: proposal.sizes.global,
            group: proposal.sizes.group,
            groups: proposal.sizes.groups,
            largest_group: proposal.sizes.largest_group,
            ring: proposal.ring.iter().map(Into::into).collect(),
            links: proposal
                .links
                .iter()
                .map(|link| p::Link {
                    peer: (&link.peer).into(),
                    secret: link.secret.to_vec(),
                    lanes: u32::from(link.lanes.unwrap_or(0)),
                    dials: link.dials,
                    round_trip_ms: u32::try_from(link.round_trip.as_millis()).unwrap_or(u32::MAX),
                })
                .collect(),
            outcomes: proposal.outcomes.iter().map(Into::into).collect(),
            others: proposal
                .others
                .iter()
                .map(|(group, ring)| p::OtherGroup {
                    group: group.0,
                    ring: ring.iter().map(Into::into).collect(),
                })
                .collect(),
            voters: proposal.voters.iter().map(|peer| peer.0).collect(),
            calls: proposal.calls.into(),
        }
    }
}

impl TryFrom<p::Proposal> for Proposal {
    type Error = DecodeError;

    fn try_from(proposal: p::Proposal) -> Decoded<Self> {
        let mut links = Vec::with_capacity(proposal.links.len());
        for link in proposal.links {
            links.push(LinkSpec {
                peer: link.peer.into(),
                secret: secret("secret", &link.secret)?,
                lanes: lanes(link.lanes)?,
                dials: link.dials,
                round_trip: Duration::from_millis(link.round_trip_ms.into()),
            });
        }
        Ok(Proposal {
            epoch: proposal.epoch.into(),
            sizes: WorldSizes {
                global: proposal.global,
                group: proposal.group,
                groups: proposal.groups,
                largest_group: proposal.largest_group,
            },
            ring: proposal.ring.into_iter().map(Into::into).collect(),
            links,
            outcomes: proposal
                .outcomes
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Decoded<_>>()?,
            others: proposal
                .others
                .into_iter()
                .map(|other| {
                    let ring = other.ring.into_iter().map(Into::into).collect();
                    (GroupId(other.group), ring)
                })
                .collect(),
            voters: proposal.voters.into_iter().map(PeerId).collect(),
            calls: proposal.calls.into(),
        })
    }
}

impl From<&CallResult> for p::CallResult {
    fn from(result: &CallResult) -> Self {
        use p::CallResultKind as P;
        let kind = match result {
            CallResult::Updated => P::Updated(p::Empty {}),
            CallResult::Pending(answer) => P::Pending(*answer),
            CallResult::Synced { revision } => P::Synced(revision.0),
            CallResult::SyncAborted { reason } => P::SyncAborted(reason.clone()),
            CallResult::NoCleanState { reason } => P::NoCleanState(reason.clone()),
            CallResult::StaleRevision {
                presented,
                expected,
            } => P::StaleRevision(p::StaleRevision {
                presented: presented.0,
                expected: expected.0,
            }),
            CallResult::InvalidState { reason } => P::InvalidState(reason.clone()),
            CallResult::CannotMeet { detail } => P::CannotMeet(detail.clone()),
            CallResult::Cancelled => P::Cancelled(p::Empty {}),
        };
        p::CallResult {
            kind: Some(kind),
            number: 0,
        }
    }
}

impl TryFrom<p::CallResult> for CallResult {
    type Error = DecodeError;

    fn try_from(result: p::CallResult) -> Decoded<Self> {
        use p::CallResultKind as P;
        Ok(match present("call result", result.kind)? {
            P::Updated(_) => CallResult::Updated,
            P::Pending(answer) => CallResult::Pending(answer),
            P::Synced(revision) => CallResult::Synced {
                revision: Revision(revision),
            },
            P::SyncAborted(reason) => CallResult::SyncAborted { reason },
            P::NoCleanState(reason) => CallResult::NoCleanState { reason },
            P::StaleRevision(m) => CallResult::StaleRevision {
                presented: Revision(m.presented),
                expected: Revision(m.expected),
            },
            P::InvalidState(reason) => CallResult::InvalidState { reason },
            P::CannotMeet(detail) => CallResult::CannotMeet { detail },
            P::Cancelled(_) => CallResult::Cancelled,
        })
    }
}

impl From<&Settlement> for p::Settled {
    fn from(settlement: &Settlement) -> Self {
        use p::Outcome as P;
        let outcome = match &settlement.outcome {
            Outcome::Committed { contributors } => P::Committed(p::Peers {
                ids: contributors.iter().map(|peer| peer.0).collect(),
            }),
            Outcome::Aborted(AbortCause::PeersLost(lost)) => P::PeersLost(p::LostPeers {
                lost: lost
                    .iter()
                    .map(|(peer, reason)| p::LostPeer {
                        peer: peer.into(),
                        reason: reason.clone(),
                    })
                    .collect(),
            }),
            Outcome::Aborted(AbortCause::Reported { reason }) => P::Reported(p::Text {
                text: reason.clone(),
            }),
            Outcome::Aborted(AbortCause::Mismatch { field, detail }) => P::Mismatch(p::Mismatch {
                field: field.clone(),
                detail: detail.clone(),
            }),
            Outcome::Aborted(AbortCause::DeadlinePassed { reason }) => P::DeadlinePassed(p::Text {
                text: reason.clone(),
            }),
            Outcome::Aborted(AbortCause::CannotMeet { detail }) => P::CannotMeet(p::Text {
                text: detail.clone(),
            }),
        };
        p::Settled {
            op: settlement.op.into(),
            outcome: Some(outcome),
            number: settlement.number,
            everybody_has: settlement.everybody_has,
        }
    }
}

impl TryFrom<p::Settled> for Settlement {
    type Error = DecodeError;

    fn try_from(settled: p::Settled) -> Decoded<Self> {
        use p::Outcome as P;
        let outcome = match present("outcome", settled.outcome)? {
            P::Committed(peers) => Outcome::Committed {
                contributors: peers.ids.into_iter().map(PeerId).collect(),
            },
            P::PeersLost(m) => Outcome::Aborted(AbortCause::PeersLost(
                m.lost
                    .into_iter()
                    .map(|lost| (lost.peer.into(), lost.reason))
                    .collect(),
            )),
            P::Reported(m) => Outcome::Aborted(AbortCause::Reported { reason: m.text }),
            P::Mismatch(m) => Outcome::Aborted(AbortCause::Mismatch {
                field: m.field,
                detail: m.detail,
            }),
            P::DeadlinePassed(m) => Outcome::Aborted(AbortCause::DeadlinePassed { reason: m.text }),
            P::CannotMeet(m) => Outcome::Aborted(AbortCause::CannotMeet { detail: m.text }),
        };
        Ok(Settlement {
            op: settled.op.into(),
            outcome,
            number: settled.number,
            everybody_has: settled.everybody_has,
        })
    }
}

fn present<T>(field: &'static str, value: Option<T>) -> Decoded<T> {
    value.ok_or_else(|| nonsense(field, "missing"))
}

pub(super) fn nonsense(field: &'static str, value: impl ToString) -> DecodeError {
    DecodeError::Field {
        field,
        value: value.to_string(),
    }
}

fn short(field: &'static str, text: String) -> Decoded<String> {
    if text.len() <= MAX_NAME_BYTES {
        Ok(without_controls(&text))
    } else {
        Err(nonsense(
            field,
            format!("{} bytes, at most {MAX_NAME_BYTES}", text.len()),
        ))
    }
}

/// A reason from a peer, fit to be logged and passed on.
fn readable(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    without_controls(&reason[..end])
}

/// Names and reasons of peers end up in the logs of others, where a line break or an escape sequence
/// could pass for a line of the log's own.
fn without_controls(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(visible).collect()
}

fn term_of(number: p::Number) -> Decoded<u32> {
    u32::try_from(number.value).map_err(|_| nonsense("term", number.value))
}

/// 0 is no wish.
fn lanes(number: u32) -> Decoded<Option<u16>> {
    match u16::try_from(number) {
        Ok(lanes) if lanes <= MAX_LANES => Ok(Some(lanes).filter(|lanes| *lanes > 0)),
        _ => Err(nonsense("lanes", number)),
    }
}

fn data_type(number: u32) -> Decoded<DataType> {
    DataType::from_number(number).ok_or_else(|| nonsense("data_type", number))
}

fn secret(field: &'static str, bytes: &[u8]) -> Decoded<[u8; 16]> {
    bytes
        .try_into()
        .map_err(|_| nonsense(field, format!("{} bytes", bytes.len())))
}

fn digest(bytes: &[u8]) -> Decoded<Option<Digest>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match bytes.try_into() {
        Ok(digest) => Ok(Some(Digest(digest))),
        Err(_) => Err(nonsense("digest", format!("{} bytes", bytes.len()))),
    }
}

fn digest_bytes(digest: &Option<Digest>) -> Vec<u8> {
    digest
        .as_ref()
        .map(|digest| digest.0.to_vec())
        .unwrap_or_default()
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn time(field: &'static str, milliseconds: u32) -> Decoded<Duration> {
    match milliseconds {
        0 => Err(nonsense(field, 0)),
        _ => Ok(Duration::from_millis(milliseconds.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::MAX_FRAME_BYTES;

    fn through_the_wire(message: ToMaster) -> Decoded<ToMaster> {
        let frame = Frame {
            sequence: 1,
            acknowledged: 0,
            message,
        };
        Frame::<ToMaster>::decode(&frame.encode()).map(|frame| frame.message)
    }

    #[test]
    fn a_reason_that_fills_a_frame_is_cut() {
        let long = "ü".repeat(MAX_FRAME_BYTES / 2 - 50);
        let op = OperationId::default();
        let (epoch, peer, round) = (Epoch::default(), PeerId(1), 1);
        let messages = [
            ToMaster::OperationFailed {
                op,
                reason: long.clone(),
            },
            ToMaster::LinkFailed {
                epoch,
                peer,
                fault: LinkFault::NoLane,
                reason: long.clone(),
            },
            ToMaster::SyncFailed {
                round,
                holder: peer,
                reason: long,
            },
        ];
        for message in messages {
            match through_the_wire(message).unwrap() {
                ToMaster::OperationFailed { reason, .. }
                | ToMaster::LinkFailed { reason, .. }
                | ToMaster::SyncFailed { reason, .. } => {
                    assert_eq!(reason.len(), MAX_REASON_BYTES);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn names_and_reasons_cannot_pass_for_lines_of_a_log() {
        let text = "a\nERROR b\x1b[2J\u{9b}c";
        let join = Join {
            group: GroupId(0),
            label: text.to_owned(),
            advertised_host: text.to_owned(),
            port: 1,
            lanes: None,
            ..Join::default()
        };
        let Hello::Join(join) = Hello::decode(&Hello::Join(join).encode()).unwrap() else {
            panic!("another hello");
        };
        let failed = ToMaster::OperationFailed {
            op: OperationId::default(),
            reason: text.to_owned(),
        };
        let ToMaster::OperationFailed { reason, .. } = through_the_wire(failed).unwrap() else {
            panic!("another message");
        };
        for heard in [join.label, join.advertised_host, reason] {
            assert_eq!(heard, "a?ERROR b?[2J?c");
        }
    }

    #[test]
    fn a_presentation_of_more_tensors_than_there_may_be_is_refused() {
        let entry = Entry {
            name: String::new(),
            data_type: DataType::U8,
            count: 0,
            digest: None,
            tainted: false,
        };
        for (count, is_taken) in [
            (MAX_TENSORS as usize, true),
            (MAX_TENSORS as usize + 1, false),
        ] {
            let presentation = Presentation {
                revision: Revision(u64::MAX),
                strategy: SyncStrategy::EnforcePopular,
                entries: vec![entry.clone(); count],
            };
            let call = ToMaster::Call(JointCall::SyncSharedState(presentation));
            assert_eq!(through_the_wire(call).is_ok(), is_taken);
        }
    }
}
