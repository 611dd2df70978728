//! Looks after all lanes of a plane, several times within the stall timeout.
//!
//! ```text
//!   bytes came since the last look, nothing was said ──► an ack: "they arrive"
//!   waits for the other side, half the timeout silent ─► a keep-alive, which wants an ack
//!   idle and silent for the keep-alive interval ───────► the same
//!   waits for the other side, silent for the timeout ──► closed as stalled
//! ```
//!
//! A lane waits while a frame is being written, while what it sent is not acknowledged, and while
//! a keep-alive is not answered. Data that the receiver has not granted is on no lane: a receiver
//! whose user has not called is not stalled.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::lane::{LaneKey, Pulse};
use super::plane::DataPlane;
use super::{LaneEnd, PlaneEvent};
use crate::types::PeerId;

/// Looks within one stall timeout.
const LOOKS: u32 = 8;

/// Backups of operations in place that were not used for this long, or twice as long at most, are
/// freed.
const SPARES_AGE: Duration = Duration::from_secs(5);

/// Looks until there are no lanes any more. Does not keep the plane.
pub(super) async fn watch_lanes(plane: Weak<DataPlane>) {
    let (mut last, mut was_away) = (Instant::now(), false);
    let mut aged = last;
    loop {
        let Some((interval, patience)) = plane.upgrade().map(|plane| plane.look_interval()) else {
            return;
        };
        sleep_until(last + interval).await;
        let now = Instant::now();
        let late = now.saturating_duration_since(last + interval);
        let away = if interval + late > patience {
            late
        } else {
            Duration::ZERO
        };
        // What the others said meanwhile may be waiting to be read: the next look judges, also where
        // it is late as well, as it is on a machine that is always busy.
        let judges = away.is_zero() || was_away;
        was_away = !away.is_zero();
        last = now;
        let Some(plane) = plane.upgrade() else {
            return;
        };
        if !plane.look(now, away, judges) {
            plane.spares.clear();
            return;
        }
        if now >= aged + SPARES_AGE {
            aged = now;
            plane.spares.age();
        }
    }
}

impl DataPlane {
    /// Between two looks, and what is too long between them.
    fn look_interval(&self) -> (Duration, Duration) {
        let usual = (self.stall_timeout() / LOOKS).max(Duration::from_millis(1));
        (usual.min(self.keep_alive()), 2 * usual)
    }

    /// One look at every lane. False: there is none, and nobody looks any more.
    fn look(self: &Arc<Self>, now: Instant, away: Duration, judges: bool) -> bool {
        let stall_timeout = self.stall_timeout();
        let state = &mut *self.state.lock();
        // An operation goes round all links one after the other: if all of them were cut while
        // nobody used them, they are to be found dead at once, not in turns.
        let keep_alive = if state.operations.is_empty() {
            self.keep_alive()
        } else {
            self.keep_alive().min(stall_timeout)
        };
        let mut lanes = 0;
        for (peer, link) in &mut state.links {
            let mut stalled = Vec::new();
            for (index, lane) in &mut link.lanes {
                lane.excuse(away, now);
                if let Some(silent) = lane.look(now, stall_timeout, keep_alive)
                    && judges
                {
                    stalled.push((*index, silent, lane.unfinished()));
                }
            }
            lanes += link.lanes.len();
            for (index, ..) in &stalled {
                link.remove_lane(*index);
            }
            if !stalled.is_empty() {
                // Removing one may have woken another that was removed next.
                link.wake(usize::MAX);
            }
            for (index, silent, unfinished) in stalled {
                self.tell_closed(
                    *peer,
                    index,
                    link.lanes.len(),
                    LaneEnd::Stalled {
                        silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
                        unfinished,
                        delivered: link.delivered,
                    },
                );
            }
        }
        state.is_watched = lanes > 0;
        state.is_watched
    }

    pub(super) fn close_lane(&self, key: LaneKey, end: LaneEnd) {
        let state = &mut *self.state.lock();
        let Some(link) = state.links.get_mut(&key.peer).filter(|link| link.has(key)) else {
            return;
        };
        link.remove_lane(key.index);
        self.tell_closed(key.peer, key.index, link.lanes.len(), end);
    }

    fn tell_closed(&self, peer: PeerId, lane: u16, lanes_left: usize, end: LaneEnd) {
        tracing::debug!(%peer, lane, lanes_left, %end, "lane closed");
        self.tell(PlaneEvent::LaneClosed {
            peer,
            lane,
            lanes_left,
            end,
        });
    }
}

/// Closes its lane when a task of it ends, however it ends.
pub(super) struct LaneGuard {
    pub(super) plane: Arc<DataPlane>,
    pub(super) key: LaneKey,
}

impl LaneGuard {
    pub(super) async fn close(self, ended: Result<(), LaneEnd>, pulse: &Pulse) {
        let Err(mut end) = ended else {
            return;
        };
        if end == LaneEnd::ClosedThere {
            // The other half may be about to say that it was this side's system.
            tokio::task::yield_now().await;
            if pulse.gave_up() {
                end = LaneEnd::Broken("given up by the system".to_owned());
            }
        }
        self.plane.close_lane(self.key, end);
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        // Of a lane that was closed or removed this takes no notice.
        let end = LaneEnd::Broken("its task ended".to_owned());
        self.plane.close_lane(self.key, end);
    }
}
