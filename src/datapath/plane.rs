//! [`DataPlane`]: what the driver calls. What the lanes' tasks ask is in `intake`.
//!
//! All decisions are made under one lock that is held for a few map operations, never across I/O
//! or a reduction. Where both are needed, it is taken before an operation's own.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;

use super::early::EarlyFrame;
use super::lane::{Lane, LaneKey};
use super::operation::Operation;
use super::reader::read_lane;
use super::state::State;
use super::watch::{LaneGuard, watch_lanes};
use super::writer::write_lane;
use super::{
    ADVANCE_BYTES, BeginError, Disposition, EAGER_BYTES, LONG_PATH, OperationSpec, PlaneEvent,
    STALL_TIMEOUT, Traffic,
};
use crate::engine::{Segments, Spares};
use crate::mutation::{Mutation, mutated};
use crate::schedule::RING_WORLD_SIZE_MAX;
use crate::types::{Epoch, OperationId, PeerId, Tag};

/// A roll-back of more than this is copied on a thread of its own, off the lanes' workers.
const INLINE_ROLL_BACK_BYTES: usize = 1 << 20;

/// All lanes of a communicator and the operations that use them.
///
/// Lives until [`DataPlane::shutdown`]: its tasks hold on to it.
pub struct DataPlane {
    runtime: Handle,
    events: UnboundedSender<PlaneEvent>,
    keep_alive: Duration,
    /// In milliseconds.
    stall_timeout: AtomicU64,
    /// What the operations of a link may send together before they are granted.
    advance: AtomicUsize,
    generations: AtomicU64,
    /// Of operations in place that have ended, for the next ones.
    pub(super) spares: Spares,
    pub(super) segments: Segments,
    pub(super) state: Mutex<State>,
}

impl DataPlane {
    /// A plane without lanes, whose tasks run on `runtime` (with timers). A lane that has heard
    /// nothing for `keep_alive` asks the other side for a word; 30 s suits most middleboxes.
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
            stall_timeout: AtomicU64::new(STALL_TIMEOUT.as_millis() as u64),
            advance: AtomicUsize::new(0),
            generations,
            spares: Spares::default(),
            segments: Segments::default(),
            state,
        })
    }

    /// How long a lane may wait for the other side in vain before it is closed; counted in
    /// milliseconds, [`STALL_TIMEOUT`] until it is set. The same at all peers: whoever receives
    /// gives a sign of life several times as often.
    pub fn set_stall_timeout(&self, timeout: Duration) {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.stall_timeout.store(timeout.max(1), Ordering::Relaxed);
    }

    /// Notes a round trip to a neighbour. From a long one on, operations do not wait for grants before
    /// they fill the path.
    pub fn note_round_trip(&self, round_trip: Duration) {
        if round_trip >= LONG_PATH {
            self.advance.store(ADVANCE_BYTES, Ordering::Relaxed);
        }
    }

    /// Makes an epoch the current one: what came early for lower ones is dropped, settled uses are
    /// counted from 0. An epoch that is not above the current one changes nothing.
    pub fn open_epoch(&self, epoch: Epoch) {
        let state = &mut *self.state.lock();
        if state.epoch < Some(epoch) {
            state.epoch = Some(epoch);
            state.settled.clear();
            state.drop_stale_early();
            for link in state.links.values_mut() {
                link.outbox.open_epoch(epoch);
            }
        }
    }

    /// Begins an operation: its data moves from now on. Frames that came early are applied before
    /// this returns.
    pub fn begin(self: &Arc<Self>, op: OperationId, spec: OperationSpec) -> Result<(), BeginError> {
        check(&spec)?;
        if spec.buffers.is_in_place()
            && let Some(backup) = self.spares.take(spec.buffers.len_bytes())
        {
            spec.buffers.supply(backup);
        }
        let operation = Arc::new(Operation::new(op, spec, &self.segments));
        let sources = operation.sources();
        let start = operation.start();
        // Asked before the lanes know of it: the last arrival tells by itself.
        let is_empty = operation.is_complete();
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
                if bytes > EAGER_BYTES as u64 && !mutated(Mutation::NoGrant) {
                    link.outbox.push_grant(op);
                    *work.entry(peer).or_default() += 1;
                }
            }
            for peer in operation.destinations() {
                let outbox = &mut state.links.entry(peer).or_default().outbox;
                outbox.allow_advance(self.advance.load(Ordering::Relaxed));
                outbox.open(op, granted.contains(&peer));
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
        if is_empty {
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
        for memory in operation.memory() {
            memory.revoke();
            poll_fn(|context| memory.poll_idle(context)).await;
        }
        if disposition == Disposition::RollBack && !mutated(Mutation::SkipRollBack) {
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
        if let Some(backup) = operation.buffers.release() {
            self.spares.put(backup);
        }
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
        let pulse = new.pulse.clone();
        let is_unwatched = {
            let state = &mut *self.state.lock();
            if state.is_shut_down {
                return;
            }
            let link = state.links.entry(peer).or_default();
            link.remove_lane(lane);
            link.lanes.insert(lane, new);
            !std::mem::replace(&mut state.is_watched, true)
        };
        // Outside the lock: a runtime that is ending drops a new task at once, and its guard locks.
        if is_unwatched {
            self.runtime.spawn(watch_lanes(Arc::downgrade(self)));
        }
        let read = {
            let pulse = pulse.clone();
            let guard = LaneGuard {
                plane: self.clone(),
                key,
            };
            async move {
                let ended = read_lane(&guard.plane, key, reader, &pulse).await;
                guard.close(ended, &pulse).await;
            }
        };
        let write = {
            let guard = LaneGuard {
                plane: self.clone(),
                key,
            };
            async move {
                let ended = write_lane(&guard.plane, key, writer, &wake, &pulse).await;
                guard.close(ended, &pulse).await;
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

    /// Closes all lanes to a peer and drops what was to be sent to it. What came early from it stays:
    /// it was acknowledged, and may belong to an epoch that needs the link again.
    pub fn remove_link(&self, peer: PeerId) {
        let state = &mut *self.state.lock();
        if let Some(link) = state.links.remove(&peer) {
            link.lanes.values().for_each(Lane::abort);
        }
    }

    /// Whether this lane to a peer is open now. A [`PlaneEvent::LaneClosed`] may tell of one that
    /// was replaced since.
    pub fn has_lane(&self, peer: PeerId, lane: u16) -> bool {
        let state = self.state.lock();
        state
            .links
            .get(&peer)
            .is_some_and(|link| link.lanes.contains_key(&lane))
    }

    /// Open lanes to a peer.
    pub fn lanes(&self, peer: PeerId) -> usize {
        let state = self.state.lock();
        state.links.get(&peer).map_or(0, |link| link.lanes.len())
    }

    /// Closes all lanes; their tasks end soon after. Operations under way still want their `end`.
    pub fn shutdown(&self) {
        let state = &mut *self.state.lock();
        state.is_shut_down = true;
        state.early.drop_stale(|_| true);
        self.spares.clear();
        self.segments.clear();
        for link in std::mem::take(&mut state.links).values() {
            link.lanes.values().for_each(Lane::abort);
        }
    }

    pub(super) fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    pub(super) fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout.load(Ordering::Relaxed))
    }

    pub(super) fn tell(&self, event: PlaneEvent) {
        // A driver that is gone wants to hear nothing.
        self.events.send(event).ok();
    }

    #[cfg(test)]
    pub(super) fn early_bytes(&self) -> usize {
        self.state.lock().early.bytes()
    }

    #[cfg(test)]
    pub(super) fn rx_bytes(&self) -> u64 {
        let state = self.state.lock();
        let lanes = state.links.values().flat_map(|link| link.lanes.values());
        lanes.map(|lane| lane.pulse.rx_bytes()).sum()
    }

    #[cfg(test)]
    pub(super) fn has_sendable(&self, peer: PeerId) -> bool {
        let state = self.state.lock();
        let link = state.links.get(&peer);
        link.is_some_and(|link| link.outbox.has_sendable())
    }
}

fn check(spec: &OperationSpec) -> Result<(), BeginError> {
    let (found, expected) = (spec.buffers.len_bytes(), spec.descriptor.len_bytes());
    if found as u64 != expected {
        return Err(BeginError::BufferLength { found, expected });
    }
    if let Some(residual) = &spec.residual {
        let (found, expected) = (
            residual.len_bytes(),
            spec.descriptor.count.saturating_mul(4),
        );
        if found as u64 != expected {
            return Err(BeginError::ResidualLength { found, expected });
        }
    }
    let (rank, world_size) = (spec.rank, spec.ring.len());
    let in_range = (2..=RING_WORLD_SIZE_MAX as usize).contains(&world_size);
    if !in_range || rank.0 as usize >= world_size {
        return Err(BeginError::Ring { rank, world_size });
    }
    Ok(())
}
