//! What the lanes' tasks ask of the plane: which frame goes out next, what becomes of one that
//! comes in, where a segment goes when it has arrived.

use std::sync::Arc;

use super::early::EarlyFrame;
use super::lane::{LaneKey, Word};
use super::operation::{Applied, Operation};
use super::outbox::Item;
use super::reader::{Incoming, Receiving};
use super::state::State;
use super::writer::{Next, Outgoing};
use super::{DataPlane, PlaneEvent};
use crate::engine::{Claim, Segment, Taken};
use crate::mutation::{Mutation, mutated};
use crate::types::PeerId;
use crate::wire::lane::{FrameHeader, FrameKind};

impl DataPlane {
    /// What a lane's writer sends next. `may_idle`: it waits for its wake-up if there is nothing.
    pub(super) fn next(&self, key: LaneKey, may_idle: bool) -> Next {
        let state = &mut *self.state.lock();
        let State {
            links, operations, ..
        } = state;
        let Some(link) = links.get_mut(&key.peer) else {
            return Next::Gone;
        };
        let Some(lane) = link.lane(key) else {
            return Next::Gone;
        };
        lane.work();
        if let Some(word) = lane.word(false) {
            return Next::Send(bare(word, lane.tell()));
        }
        // What the receiver must have by now is not sent again.
        let pulled = std::iter::from_fn(|| link.outbox.pull()).find_map(|pulled| {
            let operation = match &pulled.item {
                Item::Grant(_) => None,
                Item::Data(op, due) => {
                    let operation = operations.get(op)?;
                    if pulled.is_repeat && operation.is_superseded(due) {
                        return None;
                    }
                    Some(operation.clone())
                }
            };
            Some((pulled.item, operation))
        });
        let Some(lane) = link.lane(key) else {
            return Next::Gone;
        };
        let Some((item, operation)) = pulled else {
            if let Some(word) = lane.word(true) {
                return Next::Send(bare(word, lane.tell()));
            }
            if may_idle {
                lane.rest();
            }
            return Next::Nothing;
        };
        let outgoing = Outgoing::new(&item, operation, lane.tell());
        lane.sent(item);
        Next::Send(outgoing)
    }

    /// What to do with a frame whose header came. An error closes the lane.
    pub(super) fn incoming(
        self: &Arc<Self>,
        key: LaneKey,
        header: &FrameHeader,
    ) -> Result<Incoming, String> {
        let mut op = header.operation;
        let operation = {
            let state = &mut *self.state.lock();
            if mutated(Mutation::TakeStaleFrames) {
                let mut running = state.operations.keys().rev();
                op = running.find(|id| id.tag == op.tag).copied().unwrap_or(op);
            }
            let Some(link) = state.links.get_mut(&key.peer) else {
                return Ok(Incoming::Nothing);
            };
            let Some(lane) = link.lane(key) else {
                return Ok(Incoming::Nothing);
            };
            let newly = lane.acknowledge(header.acked)?;
            match header.kind {
                FrameKind::Ack | FrameKind::KeepAlive => {
                    lane.took_bare(header.kind == FrameKind::KeepAlive);
                    link.delivered += newly;
                    return Ok(Incoming::Nothing);
                }
                FrameKind::Grant => {
                    lane.took(0);
                    link.delivered += newly;
                    state.granted(key.peer, op)?;
                    return Ok(Incoming::Nothing);
                }
                FrameKind::Data => link.delivered += newly,
            }
            match state.operations.get(&op) {
                Some(operation) => operation.clone(),
                None if state.is_stale(&op) => return Ok(Incoming::Skip),
                None => {
                    return Ok(match state.early.reserve(key.peer, header)? {
                        true => Incoming::Keep,
                        false => Incoming::Skip,
                    });
                }
            }
        };
        if header.digest != operation.digest && !mutated(Mutation::DropDescriptorCheck) {
            return Ok(Incoming::Skip);
        }
        match operation.claim(key.peer, header) {
            Claim::Take(taken) => Ok(Incoming::Receive(Receiving::new(
                self.clone(),
                operation,
                taken,
            ))),
            Claim::Busy => Ok(Incoming::Park(operation)),
            Claim::Duplicate => Ok(Incoming::Skip),
            Claim::Reject(reason) => Err(format!("{op}: {reason}")),
        }
    }

    /// Notes a data frame as taken, however it was dealt with.
    pub(super) fn took(&self, key: LaneKey, bytes: u32) {
        if let Some(lane) = self.state.lock().lane(key) {
            lane.took(bytes);
        }
    }

    /// Keeps a frame for which room was reserved, or deals with it if its operation was begun or
    /// settled while it was on its way. `None`: it did not arrive, the room is free again.
    pub(super) fn early(
        self: &Arc<Self>,
        peer: PeerId,
        header: &FrameHeader,
        payload: Option<Vec<u8>>,
    ) -> Result<(), String> {
        let (operation, payload) = {
            let state = &mut *self.state.lock();
            let operation = state.operations.get(&header.operation).cloned();
            match (operation, payload) {
                (Some(operation), Some(payload)) => (operation, payload),
                (None, Some(payload)) if !state.is_stale(&header.operation) => {
                    state.early.keep(
                        peer,
                        EarlyFrame {
                            header: *header,
                            payload,
                        },
                    );
                    return Ok(());
                }
                _ => {
                    state.early.unreserve(peer, header);
                    return Ok(());
                }
            }
        };
        self.deliver(&operation, peer, header, payload)
    }

    /// Deals with a data frame that was received whole outside the operation's memory.
    pub(super) fn deliver(
        self: &Arc<Self>,
        operation: &Arc<Operation>,
        peer: PeerId,
        header: &FrameHeader,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        if header.digest != operation.digest && !mutated(Mutation::DropDescriptorCheck) {
            return Ok(());
        }
        let claimed = operation.claim_or_park(peer, header, payload);
        if let Some((taken, payload)) =
            claimed.map_err(|reason| format!("{}: {reason}", operation.id))?
        {
            self.apply(operation, &taken, self.segments.wrap(payload));
        }
        Ok(())
    }

    /// Applies a claimed segment that was received whole, and passes on what comes of it.
    pub(super) fn apply(&self, operation: &Operation, taken: &Taken, payload: Segment) {
        let len = payload.len() as u32;
        // Otherwise the memory was taken back: the operation is over, and its claims mean nothing.
        if let Some(applied) = operation.apply_bytes(taken, payload) {
            self.arrived(operation, taken, len, applied);
        }
    }

    /// Notes a segment, of so many bytes on the wire, as applied, and passes it on.
    pub(super) fn arrived(&self, operation: &Operation, taken: &Taken, len: u32, applied: Applied) {
        operation.count_taken(len);
        self.pass_on(operation, taken, applied);
    }

    fn pass_on(&self, operation: &Operation, taken: &Taken, applied: Applied) {
        let arrival = operation.arrived(taken, applied);
        for due in arrival.due {
            if let Some(peer) = operation.peer(due.to)
                && let Some(link) = self.state.lock().links.get_mut(&peer)
            {
                link.outbox.push(operation.id, due);
                link.wake(1);
            }
        }
        if let Some(taken) = arrival.collected
            && let Some(applied) = operation.finish_collected(&taken)
        {
            self.pass_on(operation, &taken, applied);
        }
        if arrival.is_last {
            self.tell(PlaneEvent::Finished { op: operation.id });
        }
    }

    /// Gives a claim back: the lane broke midway, or the frame was spoiled.
    pub(super) fn abandoned(&self, operation: &Operation, taken: &Taken) {
        if let Some(payload) = operation.unclaim(taken) {
            self.apply(operation, taken, self.segments.wrap(payload));
        }
    }
}

fn bare(word: Word, acked: u64) -> Outgoing {
    let kind = match word {
        Word::Ask => FrameKind::KeepAlive,
        Word::Tell => FrameKind::Ack,
    };
    Outgoing::bare(FrameHeader::bare(kind, acked))
}
