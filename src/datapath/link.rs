//! A link: the lanes to one peer and the outbox they pull from.
//!
//! Each lane remembers, in order, what it sent and the other side has not yet acknowledged. When
//! it breaks, that goes back into the outbox: a broken lane costs its unfinished segments only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::outbox::{Item, Outbox};
use crate::types::PeerId;

/// An acknowledgement is sent by itself when this much came without one. Every frame that goes
/// the other way carries one for nothing.
const ACK_BYTES: u64 = 256 * 1024;
/// The same, in frames.
const ACK_FRAMES: u64 = 64;

/// Keep-alive intervals without a frame after which a lane is taken for dead: a middlebox may have
/// forgotten it, and a side that only receives would never notice.
const SILENT_INTERVALS_MAX: u32 = 3;

/// What another peer's interval may be, at least: it is a setting of each.
const OTHERS_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Which lane, and which of those that had its index one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub(super) peer: PeerId,
    pub(super) index: u16,
    pub(super) generation: u64,
}

#[derive(Default)]
pub(super) struct Link {
    pub(super) outbox: Outbox,
    pub(super) lanes: BTreeMap<u16, Lane>,
    /// Bytes that its lanes' streams took.
    pub(super) tx_bytes: Arc<AtomicU64>,
}

pub(super) struct Lane {
    pub(super) generation: u64,
    pub(super) wake: Arc<Notify>,
    /// Its writer waits for `wake`.
    pub(super) is_idle: bool,
    pub(super) tasks: Vec<AbortHandle>,
    unacknowledged: VecDeque<Item>,
    /// Items that the other side acknowledged.
    acknowledged: u64,
    /// Data and grant frames taken from the other side.
    taken: u64,
    /// What the other side was last told of `taken`.
    told: u64,
    /// Bytes of the frames taken since.
    untold_bytes: u64,
    heard_at: Instant,
}

impl Link {
    pub(super) fn lane(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.lanes
            .get_mut(&key.index)
            .filter(|lane| lane.generation == key.generation)
    }

    pub(super) fn has(&self, key: LaneKey) -> bool {
        self.lanes
            .get(&key.index)
            .is_some_and(|lane| lane.generation == key.generation)
    }

    /// Wakes idle lanes for `count` new items, the lowest index first: a small operation keeps to
    /// one lane.
    pub(super) fn wake(&mut self, count: usize) {
        self.lanes
            .values_mut()
            .filter(|lane| lane.is_idle)
            .take(count)
            .for_each(Lane::wake);
    }

    /// Takes a lane out, ends its tasks, and puts what it had not delivered back into the outbox.
    pub(super) fn remove_lane(&mut self, index: u16) -> Option<Lane> {
        let mut lane = self.lanes.remove(&index)?;
        lane.abort();
        let items = lane.unacknowledged.len();
        for item in lane.unacknowledged.drain(..).rev() {
            self.outbox.push_back_in_front(item);
        }
        self.wake(items);
        Some(lane)
    }
}

impl Lane {
    pub(super) fn new(generation: u64) -> Lane {
        Lane {
            generation,
            wake: Arc::new(Notify::new()),
            is_idle: false,
            tasks: Vec::new(),
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            taken: 0,
            told: 0,
            untold_bytes: 0,
            heard_at: Instant::now(),
        }
    }

    pub(super) fn wake(&mut self) {
        self.is_idle = false;
        self.wake.notify_one();
    }

    pub(super) fn abort(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// Notes an item as sent. It counts as delivered when it is acknowledged.
    pub(super) fn sent(&mut self, item: Item) {
        self.unacknowledged.push_back(item);
    }

    /// Forgets what the other side has taken, given its count of all it ever took.
    pub(super) fn acknowledge(&mut self, count: u64) -> Result<(), String> {
        let newly = count.saturating_sub(self.acknowledged);
        if newly > self.unacknowledged.len() as u64 {
            return Err(format!(
                "acknowledges {count} frames of {}",
                self.acknowledged + self.unacknowledged.len() as u64
            ));
        }
        self.unacknowledged.drain(..newly as usize);
        self.acknowledged += newly;
        Ok(())
    }

    /// Notes that the other side is there.
    pub(super) fn heard(&mut self) {
        self.heard_at = Instant::now();
    }

    /// An error once the other side has been silent for too long.
    pub(super) fn check_heard(&self, keep_alive: Duration) -> Result<(), String> {
        let silence = self.heard_at.elapsed();
        if silence
            >= keep_alive
                .max(OTHERS_KEEP_ALIVE)
                .saturating_mul(SILENT_INTERVALS_MAX)
        {
            return Err(format!("silent for {} s", silence.as_secs()));
        }
        Ok(())
    }

    /// Notes a frame as taken, and wakes the writer if the other side ought to hear of it.
    pub(super) fn took(&mut self, bytes: u32) {
        self.taken += 1;
        self.untold_bytes += u64::from(bytes);
        if self.is_idle && self.owes_ack() {
            self.wake();
        }
    }

    pub(super) fn owes_ack(&self) -> bool {
        self.untold_bytes >= ACK_BYTES || self.taken - self.told >= ACK_FRAMES
    }

    /// The count for a header that is sent now.
    pub(super) fn tell(&mut self) -> u64 {
        (self.told, self.untold_bytes) = (self.taken, 0);
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, OperationId, Tag};

    fn grant(tag: u64) -> Item {
        Item::Grant(OperationId {
            epoch: Epoch::default(),
            tag: Tag(tag),
            n: 0,
        })
    }

    #[test]
    fn a_broken_lane_gives_back_what_was_not_acknowledged_in_order() {
        let mut link = Link::default();
        let mut lane = Lane::new(1);
        (0..4).for_each(|tag| lane.sent(grant(tag)));
        assert_eq!(lane.acknowledge(2), Ok(()));
        assert_eq!(
            lane.acknowledge(1),
            Ok(()),
            "an older count says nothing new"
        );
        assert!(lane.acknowledge(5).is_err());
        link.lanes.insert(0, lane);
        link.remove_lane(0);
        assert_eq!(link.outbox.pull().map(|p| p.item), Some(grant(2)));
        assert_eq!(link.outbox.pull().map(|p| p.item), Some(grant(3)));
        assert!(link.outbox.pull().is_none());
    }

    #[test]
    fn small_frames_are_acknowledged_in_bulk() {
        let mut lane = Lane::new(1);
        (1..ACK_FRAMES).for_each(|_| lane.took(10));
        assert!(!lane.owes_ack());
        lane.took(10);
        assert!(lane.owes_ack());
        assert_eq!(lane.tell(), ACK_FRAMES);
        assert!(!lane.owes_ack());
        lane.took(ACK_BYTES as u32);
        assert!(lane.owes_ack());
    }
}
