//! A lane as the plane knows it: what it sent and has not heard of, what it took and has not told,
//! and since when it waits for a word from the other side.
//!
//! Each lane remembers, in order, what it sent and the other side has not yet acknowledged. When
//! it breaks, that goes back into the outbox: a broken lane costs its unfinished segments only.
//!
//! A lane that waits and hears nothing is stalled, whatever its stream still takes: bytes that lie
//! in this side's own buffers say nothing about the other side. So that this is fair to slow lanes,
//! whoever receives says so at every look, as long as bytes come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::outbox::Item;
use crate::mutation::{Mutation, mutated};
use crate::types::PeerId;
use crate::wire::lane::HEADER_BYTES;

/// An acknowledgement is sent by itself when this much came without one. Every frame that goes
/// the other way carries one for nothing.
const ACK_BYTES: u64 = 256 * 1024;
/// The same, in frames.
const ACK_FRAMES: u64 = 64;

/// Which lane, and which of those that had its index one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub(super) peer: PeerId,
    pub(super) index: u16,
    pub(super) generation: u64,
}

/// What a lane's tasks note as they go, without the plane's lock.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    rx_bytes: AtomicU64,
    gave_up: AtomicBool,
}

impl Pulse {
    /// Notes bytes that came.
    pub(super) fn came(&self, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn rx_bytes(&self) -> u64 {
        self.rx_bytes.load(Ordering::Relaxed)
    }

    /// Notes that this side's system has given the connection up.
    pub(super) fn give_up(&self) {
        self.gave_up.store(true, Ordering::Release);
    }

    /// Whether it has. The error shows in one half of a connection only; the other half then looks
    /// as if the other side had closed it.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Acquire)
    }
}

/// The frame without content that a lane sends next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Wants an answer.
    Ask,
    /// Tells what was taken.
    Tell,
}

pub(super) struct Lane {
    pub(super) generation: u64,
    pub(super) wake: Arc<Notify>,
    /// Its writer waits for `wake`.
    is_idle: bool,
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

    pub(super) pulse: Arc<Pulse>,
    /// Bytes that had come at the last look.
    seen_bytes: u64,
    /// Bytes of frames without content: nobody needs to be told that they came.
    bare_bytes: u64,
    /// Bytes of all others at the last look.
    seen_content_bytes: u64,
    has_told: bool,
    wants_ask: bool,
    wants_tell: bool,
    /// An answer is awaited.
    has_asked: bool,
    heard_at: Instant,
    waits_since: Instant,
}

impl Lane {
    pub(super) fn new(generation: u64) -> Lane {
        let now = Instant::now();
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
            pulse: Arc::default(),
            seen_bytes: 0,
            bare_bytes: 0,
            seen_content_bytes: 0,
            has_told: false,
            wants_ask: false,
            wants_tell: false,
            has_asked: false,
            heard_at: now,
            waits_since: now,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Its writer has nothing to do.
    pub(super) fn rest(&mut self) {
        self.is_idle = true;
    }

    /// Its writer has something to do.
    pub(super) fn work(&mut self) {
        if !self.waits() {
            self.waits_since = Instant::now();
        }
        self.is_idle = false;
    }

    pub(super) fn wake(&mut self) {
        self.work();
        self.wake.notify_one();
    }

    fn wake_if_idle(&mut self) {
        if self.is_idle {
            self.wake();
        }
    }

    pub(super) fn abort(&self) {
        if !mutated(Mutation::KeepLaneTasks) {
            self.tasks.iter().for_each(AbortHandle::abort);
        }
    }

    /// Notes an item as sent. It counts as delivered when it is acknowledged.
    pub(super) fn sent(&mut self, item: Item) {
        self.unacknowledged.push_back(item);
    }

    /// What was sent and not acknowledged.
    pub(super) fn unfinished(&self) -> usize {
        self.unacknowledged.len()
    }

    /// Gives up what was sent and not acknowledged, the last first.
    pub(super) fn take_unfinished(&mut self) -> impl Iterator<Item = Item> + '_ {
        self.unacknowledged.drain(..).rev()
    }

    /// Forgets what the other side has taken, given its count of all it ever took. Returns how many
    /// frames it is that were not known as taken before.
    pub(super) fn acknowledge(&mut self, count: u64) -> Result<u64, String> {
        let newly = count.saturating_sub(self.acknowledged);
        if newly > self.unacknowledged.len() as u64 {
            return Err(format!(
                "acknowledges {count} frames of {}",
                self.acknowledged + self.unacknowledged.len() as u64
            ));
        }
        self.unacknowledged.drain(..newly as usize);
        self.acknowledged += newly;
        Ok(newly)
    }

    /// Notes a frame without content as taken; `is_ask`: it wants an answer.
    pub(super) fn took_bare(&mut self, is_ask: bool) {
        self.bare_bytes += HEADER_BYTES as u64;
        if is_ask {
            self.wants_tell = true;
            self.wake_if_idle();
        }
    }

    /// Notes a frame as taken, and wakes the writer if the other side ought to hear of it.
    pub(super) fn took(&mut self, bytes: u32) {
        self.taken += 1;
        self.untold_bytes += u64::from(bytes);
        if self.is_idle && self.owes_ack() {
            self.wake();
        }
    }

    fn owes_ack(&self) -> bool {
        self.untold_bytes >= ACK_BYTES || self.taken - self.told >= ACK_FRAMES
    }

    /// What goes out before anything else, and what goes out where there is nothing else.
    pub(super) fn word(&mut self, has_nothing_else: bool) -> Option<Word> {
        if std::mem::take(&mut self.wants_ask) {
            self.has_asked = true;
            return Some(Word::Ask);
        }
        (has_nothing_else && (self.wants_tell || self.owes_ack())).then_some(Word::Tell)
    }

    /// The count for a header that is sent now.
    pub(super) fn tell(&mut self) -> u64 {
        (self.told, self.untold_bytes) = (self.taken, 0);
        (self.has_told, self.wants_tell) = (true, false);
        self.taken
    }

    /// Whether the other side owes it something: to take what is being written, to acknowledge, to
    /// answer.
    fn waits(&self) -> bool {
        !self.is_idle || !self.unacknowledged.is_empty() || self.has_asked
    }

    /// This side was away itself for so long: that is nobody's silence.
    pub(super) fn excuse(&mut self, away: Duration, now: Instant) {
        self.heard_at = now.min(self.heard_at + away);
        self.waits_since = now.min(self.waits_since + away);
    }

    /// Looks whether anything came since the last look, says so to the other side, asks it where it
    /// is silent. Returns how long it has been waiting in vain if that is too long.
    pub(super) fn look(
        &mut self,
        now: Instant,
        stall_timeout: Duration,
        keep_alive: Duration,
    ) -> Option<Duration> {
        let came = self.pulse.rx_bytes();
        if came != self.seen_bytes {
            self.seen_bytes = came;
            self.heard_at = now;
            self.has_asked = false;
        }
        let content = came.saturating_sub(self.bare_bytes);
        if content != self.seen_content_bytes {
            self.seen_content_bytes = content;
            if !self.has_told {
                self.wants_tell = true;
                self.wake_if_idle();
            }
        }
        self.has_told = false;
        let silent = now.saturating_duration_since(self.heard_at);
        let ask_after = if self.waits() {
            let waiting = silent.min(now.saturating_duration_since(self.waits_since));
            if waiting >= stall_timeout {
                return Some(waiting);
            }
            (waiting, stall_timeout / 2)
        } else {
            (silent, keep_alive)
        };
        if ask_after.0 >= ask_after.1 && !self.has_asked {
            self.wants_ask = true;
            self.wake_if_idle();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_are_acknowledged_in_bulk() {
        let mut lane = Lane::new(1);
        (1..ACK_FRAMES).for_each(|_| lane.took(10));
        assert_eq!(lane.word(true), None);
        lane.took(10);
        assert_eq!(lane.word(true), Some(Word::Tell));
        assert_eq!(
            lane.word(false),
            None,
            "a frame that goes out tells as well"
        );
        assert_eq!(lane.tell(), ACK_FRAMES);
        assert_eq!(lane.word(true), None);
        lane.took(ACK_BYTES as u32);
        assert_eq!(lane.word(true), Some(Word::Tell));
    }
}
