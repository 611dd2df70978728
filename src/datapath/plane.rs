//! [`DataPlane`]: what the driver calls, and what the lanes' tasks ask.
//!
//! All decisions are made under one lock that is held for a few map operations, never across I/O
//! or a reduction. Where both are needed, it is taken before an operation's own.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;

use super::early::{Early, EarlyFrame};
use super::link::{Lane, LaneKey, Link};
use super::operation::Operation;
use super::outbox::Item;
use super::reader::{Incoming, Receiving, read_lane};
use super::writer::{Next, Outgoing, write_lane};
use super::{BeginError, Disposition, EAGER_BYTES, LinkStatus, OperationSpec, PlaneEvent, Traffic};
use crate::engine::{Claim, Taken};
use crate::schedule::RING_WORLD_SIZE_MAX;
use crate::types::{Epoch, OperationId, PeerId, Tag};
use crate::wire::lane::{FrameHeader, FrameKind};

/// A roll-back of more than this is copied on a thread of its own, off the lanes' workers.
const INLINE_ROLL_BACK_BYTES: usize = 1 << 20;

/// All lanes of a communicator and the operations that use them.
///
/// Lives until [`DataPlane::shutdown`]: its tasks hold on to it.
pub struct DataPlane {
    runtime: Handle,
    events: UnboundedSender<PlaneEvent>,
    keep_alive: Duration,
    generations: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until the first is opened: everything is early.
    epoch: Option<Epoch>,
    /// Uses of each tag that were settled in this epoch.
    settled: BTreeMap<Tag, u32>,
    operations: BTreeMap<OperationId, Arc<Operation>>,
    links: BTreeMap<PeerId, Link>,
    early: Early,
    is_shut_down: bool,
}

impl DataPlane {
    /// A plane without lanes, whose tasks run on `runtime` (with timers). An idle lane sends a
    /// small frame every `keep_alive`; 30 s suits most middleboxes.
    pub fn new(
        runtime: Handle,
        events: UnboundedSender<PlaneEvent>,
        keep_alive: Duration,
    ) -> Arc<DataPlane> {
        let (generations, state) = (AtomicU64::new(0), Mutex::new(State::default()));
        Arc::new(DataPlane {
            runtime,
            events,
            keep_alive,
            generations,
            state,
        })
    }

    /// Makes an epoch the current one: what came early for lower ones is dropped, settled uses are
    /// counted from 0. An epoch that is not above the current one changes nothing.
    pub fn open_epoch(&self, epoch: Epoch) {
        let state = &mut *self.state.lock();
        if state.epoch < Some(epoch) {
            state.epoch = Some(epoch);
            state.settled.clear();
            state.drop_stale_early();
        }
    }

    /// Begins an operation: its data moves from now on. Frames that came early are applied before
    /// this returns.
    pub fn begin(self: &Arc<Self>, op: OperationId, spec: OperationSpec) -> Result<(), BeginError> {
        check(&spec)?;
        let operation = Arc::new(Operation::new(op, spec));
        let sources = operation.sources();
        let start = operation.start();
        let early = {
            let state = &mut *self.state.lock();
            if state.operations.contains_key(&op) {
                return Err(BeginError::AlreadyBegun);
            }
            state.operations.insert(op, operation.clone());
            let (early, granted) = state.early.take(op);
            let mut work: BTreeMap<PeerId, usize> = BTreeMap::new();
            for (peer, bytes) in sources {
                let link = state.links.entry(peer).or_default();
                if bytes > EAGER_BYTES as u64 {
                    link.outbox.push_grant(op);
                    *work.entry(peer).or_default() += 1;
                }
            }
            for peer in operation.destinations() {
                let is_granted = granted.contains(&peer);
                state
                    .links
                    .entry(peer)
                    .or_default()
                    .outbox
                    .open(op, is_granted);
            }
            for due in start {
                if let Some(peer) = operation.peer(due.to) {
                    *work.entry(peer).or_default() += 1;
                    state.links.entry(peer).or_default().outbox.push(op, due);
                }
            }
            for (peer, count) in work {
                state.links.entry(peer).or_default().wake(count);
            }
            early
        };
        if operation.is_complete() {
            self.tell(PlaneEvent::Finished { op });
        }
        for (peer, EarlyFrame { header, payload }) in early {
            if let Err(reason) = self.deliver(&operation, peer, &header, payload) {
                tracing::warn!(%peer, %op, reason, "dropped an early frame");
            }
        }
        Ok(())
    }

    /// Ends an operation, whatever the lanes are doing with it, and gives its memory back: when
    /// this returns, nobody touches it. Frames of its number are dropped from now on. Of an
    /// operation that was never begun, only the number is noted.
    pub async fn end(&self, op: OperationId, disposition: Disposition) -> Traffic {
        let operation = {
            let state = &mut *self.state.lock();
            state.note_settled(op);
            state
                .links
                .values_mut()
                .for_each(|link| link.outbox.close(op));
            state
                .links
                .retain(|_, link| !link.lanes.is_empty() || !link.outbox.is_empty());
            state.operations.remove(&op)
        };
        let Some(operation) = operation else {
            return Traffic::default();
        };
        operation.buffers.revoke();
        poll_fn(|context| operation.buffers.poll_idle(context)).await;
        if disposition == Disposition::RollBack {
            if operation.buffers.saved_bytes() <= INLINE_ROLL_BACK_BYTES {
                operation.buffers.roll_back();
            } else {
                let task = operation.clone();
                let copied = self
                    .runtime
                    .spawn_blocking(move || task.buffers.roll_back())
                    .await;
                if copied.is_err() {
                    // The runtime is ending and has not started it; a second one does no harm.
                    operation.buffers.roll_back();
                }
            }
        }
        operation.buffers.release();
        operation.traffic()
    }

    /// Notes that the `n`th use of a tag was settled in the current epoch, though it was never
    /// begun here: its frames are dropped from now on, and what came of it already.
    pub fn note_settled(&self, tag: Tag, n: u32) {
        let state = &mut *self.state.lock();
        if let Some(epoch) = state.epoch {
            state.note_settled(OperationId { epoch, tag, n });
        }
    }

    /// Adds a lane to a peer, in place of an older one of the same index, if any. Spawns one task
    /// that reads and one that writes.
    pub fn add_lane<R, W>(self: &Arc<Self>, peer: PeerId, lane: u16, reader: R, writer: W)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let key = LaneKey {
            peer,
            index: lane,
            generation,
        };
        let new = Lane::new(generation);
        let wake = new.wake.clone();
        let tx_bytes = {
            let state = &mut *self.state.lock();
            if state.is_shut_down {
                return;
            }
            let link = state.links.entry(peer).or_default();
            link.remove_lane(lane);
            link.lanes.insert(lane, new);
            if link.lanes.len() == 1 {
                self.tell(PlaneEvent::LinkUp { peer });
            }
            link.tx_bytes.clone()
        };
        // Outside the lock: a runtime that is ending drops a new task at once, and its guard locks.
        let read = {
            let guard = LaneGuard {
                plane: self.clone(),
                key,
            };
            async move {
                let ended = read_lane(&guard.plane, key, reader).await;
                guard.close(ended);
            }
        };
        let write = {
            let guard = LaneGuard {
                plane: self.clone(),
                key,
            };
            async move {
                let ended = write_lane(&guard.plane, key, writer, &wake, &tx_bytes).await;
                guard.close(ended);
            }
        };
        let tasks = [self.runtime.spawn(read), self.runtime.spawn(write)];
        let tasks = tasks
            .iter()
            .map(tokio::task::JoinHandle::abort_handle)
            .collect();
        match self.state.lock().lane(key) {
            Some(lane) => lane.tasks = tasks,
            None => tasks.iter().for_each(tokio::task::AbortHandle::abort),
        }
    }

    /// Closes all lanes to a peer and drops what was to be sent to it, or came early from it.
    pub fn remove_link(&self, peer: PeerId) {
        let state = &mut *self.state.lock();
        state.early.drop_peer(peer);
        if let Some(link) = state.links.remove(&peer) {
            link.lanes.values().for_each(Lane::abort);
        }
    }

    /// Open lanes to a peer.
    pub fn lanes(&self, peer: PeerId) -> usize {
        self.link_status(peer).lanes
    }

    /// The link to a peer as it stands; all zero where there is none.
    pub fn link_status(&self, peer: PeerId) -> LinkStatus {
        let state = self.state.lock();
        state
            .links
            .get(&peer)
            .map_or_else(LinkStatus::default, |link| LinkStatus {
                lanes: link.lanes.len(),
                busy_lanes: link.lanes.values().filter(|lane| !lane.is_idle).count(),
                has_sendable: link.outbox.has_sendable(),
                tx_bytes: link.tx_bytes.load(Ordering::Relaxed),
            })
    }

    /// Closes all lanes; their tasks end soon after. Operations under way still want their `end`.
    pub fn shutdown(&self) {
        let state = &mut *self.state.lock();
        state.is_shut_down = true;
        state.early.drop_stale(|_| true);
        for link in std::mem::take(&mut state.links).values() {
            link.lanes.values().for_each(Lane::abort);
        }
    }

    pub(super) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// What a lane's writer sends next. `may_idle`: it waits for its wake-up if there is nothing.
    pub(super) fn next(&self, key: LaneKey, may_idle: bool) -> Next {
        let state = &mut *self.state.lock();
        let State {
            links, operations, ..
        } = state;
        let Some(link) = links.get_mut(&key.peer) else {
            return Next::Gone;
        };
        if link.lane(key).is_none() {
            return Next::Gone;
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
            if lane.owes_ack() {
                return Next::Send(Outgoing::bare(FrameHeader::bare(
                    FrameKind::Ack,
                    lane.tell(),
                )));
            }
            lane.is_idle = may_idle;
            return Next::Nothing;
        };
        let outgoing = Outgoing::new(&item, operation, lane.tell());
        lane.sent(item);
        Next::Send(outgoing)
    }

    /// The frame of a lane that was silent for long.
    pub(super) fn keep_alive_frame(&self, key: LaneKey) -> Option<Outgoing> {
        let state = &mut *self.state.lock();
        let acked = state.lane(key)?.tell();
        Some(Outgoing::bare(FrameHeader::bare(
            FrameKind::KeepAlive,
            acked,
        )))
    }

    /// What to do with a frame whose header came. An error closes the lane.
    pub(super) fn incoming(
        self: &Arc<Self>,
        key: LaneKey,
        header: &FrameHeader,
    ) -> Result<Incoming, String> {
        let op = header.operation;
        let operation = {
            let state = &mut *self.state.lock();
            let Some(lane) = state.lane(key) else {
                return Ok(Incoming::Nothing);
            };
            lane.acknowledge(header.acked)?;
            match header.kind {
                FrameKind::Ack | FrameKind::KeepAlive => return Ok(Incoming::Nothing),
                FrameKind::Grant => {
                    lane.took(0);
                    state.granted(key.peer, op)?;
                    return Ok(Incoming::Nothing);
                }
                FrameKind::Data => {}
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
        if header.digest != operation.digest {
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
        if header.digest != operation.digest {
            return Ok(());
        }
        let claimed = operation.claim_or_park(peer, header, payload);
        if let Some((taken, payload)) =
            claimed.map_err(|reason| format!("{}: {reason}", operation.id))?
            && operation.apply_bytes(&taken, &payload)
        {
            self.arrived(operation, &taken);
        }
        Ok(())
    }

    /// Notes a segment as applied, and passes it on.
    pub(super) fn arrived(&self, operation: &Operation, taken: &Taken) {
        let arrival = operation.arrived(taken);
        if let Some(due) = arrival.due
            && let Some(peer) = operation.peer(due.to)
            && let Some(link) = self.state.lock().links.get_mut(&peer)
        {
            link.outbox.push(operation.id, due);
            link.wake(1);
        }
        if arrival.is_last {
            self.tell(PlaneEvent::Finished { op: operation.id });
        }
    }

    /// Gives a claim back: the lane broke midway, or the frame was spoiled.
    pub(super) fn abandoned(&self, operation: &Operation, taken: &Taken) {
        if let Some(payload) = operation.unclaim(taken)
            && operation.apply_bytes(taken, &payload)
        {
            self.arrived(operation, taken);
        }
    }

    fn close_lane(&self, key: LaneKey, reason: String) {
        let state = &mut *self.state.lock();
        let Some(link) = state.links.get_mut(&key.peer).filter(|link| link.has(key)) else {
            return;
        };
        link.remove_lane(key.index);
        let LaneKey {
            peer, index: lane, ..
        } = key;
        let lanes_left = link.lanes.len();
        tracing::debug!(%peer, lane, lanes_left, reason, "lane closed");
        self.tell(PlaneEvent::LaneClosed {
            peer,
            lane,
            lanes_left,
            reason,
        });
    }

    fn tell(&self, event: PlaneEvent) {
        // A driver that is gone wants to hear nothing.
        self.events.send(event).ok();
    }

    #[cfg(test)]
    pub(super) fn early_bytes(&self) -> usize {
        self.state.lock().early.bytes()
    }
}

impl State {
    fn lane(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.links.get_mut(&key.peer)?.lane(key)
    }

    /// Whether frames of this number come too late.
    fn is_stale(&self, op: &OperationId) -> bool {
        is_stale(self.epoch, &self.settled, op)
    }

    fn drop_stale_early(&mut self) {
        let State {
            epoch,
            settled,
            early,
            ..
        } = self;
        early.drop_stale(|op| is_stale(*epoch, settled, op));
    }

    fn note_settled(&mut self, op: OperationId) {
        if self.epoch == Some(op.epoch) {
            let settled = self.settled.entry(op.tag).or_default();
            *settled = (*settled).max(op.n.saturating_add(1));
            self.drop_stale_early();
        }
    }

    fn granted(&mut self, peer: PeerId, op: OperationId) -> Result<(), String> {
        if self.operations.contains_key(&op) {
            if let Some(link) = self.links.get_mut(&peer) {
                link.outbox.grant(op);
                link.wake(usize::MAX);
            }
        } else if !self.is_stale(&op) {
            self.early.keep_grant(peer, op)?;
        }
        Ok(())
    }
}

fn is_stale(epoch: Option<Epoch>, settled: &BTreeMap<Tag, u32>, op: &OperationId) -> bool {
    let settled_uses = settled.get(&op.tag).copied().unwrap_or(0);
    Some(op.epoch) < epoch || (Some(op.epoch) == epoch && op.n < settled_uses)
}

fn check(spec: &OperationSpec) -> Result<(), BeginError> {
    let (found, expected) = (spec.buffers.len_bytes(), spec.descriptor.len_bytes());
    if found as u64 != expected {
        return Err(BeginError::BufferLength { found, expected });
    }
    let (rank, world_size) = (spec.rank, spec.ring.len());
    let in_range = (2..=RING_WORLD_SIZE_MAX as usize).contains(&world_size);
    if !in_range || rank.0 as usize >= world_size {
        return Err(BeginError::Ring { rank, world_size });
    }
    Ok(())
}

/// Closes its lane when a task of it ends, however it ends.
struct LaneGuard {
    plane: Arc<DataPlane>,
    key: LaneKey,
}

impl LaneGuard {
    fn close(self, ended: Result<(), String>) {
        if let Err(reason) = ended {
            self.plane.close_lane(self.key, reason);
        }
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        // Of a lane that was closed or removed this takes no notice.
        self.plane.close_lane(self.key, "its task ended".to_owned());
    }
}
