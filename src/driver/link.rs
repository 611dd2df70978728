//! One link as this end sees it: which lanes are open, which are to be dialled, and what the master
//! is told of it. Decides only; the tasks are in `links`.
//!
//! ```text
//!   Missing ──dialled here, or from there──► Open ──the plane lost it──► Missing
//!      │  the end that was told to: dialled at once
//!      '─ the other end: dialled after a third of the timeout
//! ```
//!
//! Where both ends dial the same lane, the one of the end that was told to dial stays, at both:
//! that end never gives up its own dial for the other's. It may take the other's meanwhile, as
//! its own may never come through, and puts its own in the place of that.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::datapath::LaneEnd;
use crate::protocol::peer::LinkLoss;
use crate::wire::control::{LinkFault, LinkSpec};

/// Pauses between attempts to dial a lane: the first and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Lanes of a link whose ends have no wish. Over a far path each lane takes some round trips to come to
/// its rate, and as many again after a loss: more of them are there sooner.
const LANES_NEAR: u16 = 4;
const LANES_FAR: u16 = 8;

/// From this round trip on a path is far.
const FAR: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Link {
    pub(super) spec: LinkSpec,
    is_far: bool,
    timeout: Duration,
    lanes: Vec<Lane>,
    /// Without a lane since then.
    down_since: Option<Instant>,
    stalled: Option<Stalls>,
    last_error: String,
}

/// What is waited for of neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    pub(super) link_timeout: Duration,
    pub(super) lane_stall_timeout: Duration,
}

impl Patience {
    /// Nothing is expected of far neighbours before it can be here: on a lane the answer to a
    /// question that is asked at half its time; on a link the lane that the end dials which was not
    /// told to: after a third of its time, and for two round trips.
    pub(super) fn across(self, round_trip: Duration) -> Self {
        Self {
            link_timeout: self.link_timeout.max(round_trip * 7 / 2),
            lane_stall_timeout: self.lane_stall_timeout.max(round_trip * 5 / 2),
        }
    }
}

/// Lanes that stalled with frames unfinished, one after the other, and nothing was delivered.
#[derive(Clone, Copy, Debug)]
struct Stalls {
    first: Instant,
    last: Instant,
    /// Frames that the link had ever delivered.
    delivered: u64,
}

#[derive(Debug)]
struct Lane {
    state: State,
    dialling: Option<AbortHandle>,
    /// Dials of the other end that are being answered.
    arriving: u32,
    /// In vain, one after the other; lanes that were lost as soon as they were open count.
    attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open {
        since: Instant,
        dialled_here: bool,
    },
    /// `lost`: how, if it was ever open.
    Missing {
        since: Instant,
        lost: Option<LinkLoss>,
    },
}

/// What the state machine is told of a link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The first lane is open.
    Up,
    /// The last lane is lost.
    Down(LinkLoss),
    /// No lane, or none that carries anything, for too long.
    Failed(LinkFault, String),
}

impl Link {
    pub(super) fn new(spec: LinkSpec, timeout: Duration) -> Self {
        let mut link = Self {
            spec,
            is_far: false,
            timeout,
            lanes: Vec::new(),
            down_since: Some(Instant::now()),
            stalled: None,
            last_error: "the other end did not dial".to_owned(),
        };
        link.make_lanes();
        link
    }

    /// Has this specification from now on; lanes stay as they are.
    pub(super) fn respecify(&mut self, spec: LinkSpec) {
        self.spec = spec;
        self.make_lanes();
    }

    /// What it may take from now on.
    pub(super) fn allow(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn make_lanes(&mut self) {
        let since = Instant::now();
        let missing = || Lane {
            state: State::Missing { since, lost: None },
            dialling: None,
            arriving: 0,
            attempts: 0,
        };
        let unasked = if self.is_far { LANES_FAR } else { LANES_NEAR };
        let count = self.spec.lanes.unwrap_or(unasked);
        self.lanes.resize_with(usize::from(count), missing);
    }

    /// A lane's handshake took so long. True: there are more lanes to dial because of it.
    pub(super) fn on_round_trip(&mut self, round_trip: Duration) -> bool {
        let has_grown = round_trip >= FAR && !self.is_far && self.spec.lanes.is_none();
        if has_grown {
            self.is_far = true;
            self.make_lanes();
        }
        has_grown
    }

    /// Lanes to dial now, and after which pause each.
    pub(super) fn due(&self) -> Vec<(u16, Duration)> {
        let now = Instant::now();
        let is_due = |lane: &Lane| self.due_at(lane).is_some_and(|due| due <= now);
        (0..)
            .zip(&self.lanes)
            .filter(|(_, lane)| is_due(lane))
            .map(|(index, lane)| (index, self.pause(lane)))
            .collect()
    }

    fn due_at(&self, lane: &Lane) -> Option<Instant> {
        match lane.state {
            State::Missing { since, .. } if lane.dialling.is_none() => {
                let patience = if self.spec.dials {
                    Duration::ZERO
                } else {
                    self.timeout / 3
                };
                Some(since + patience)
            }
            _ => None,
        }
    }

    fn pause(&self, lane: &Lane) -> Duration {
        match lane.attempts {
            0 => Duration::ZERO,
            n => RETRY_FIRST
                .saturating_mul(1 << (n - 1).min(8))
                .min(RETRY_LONGEST)
                .min(self.timeout / 4),
        }
    }

    pub(super) fn dialling(&mut self, lane: u16, task: AbortHandle) {
        if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
            lane.dialling = Some(task);
        }
    }

    /// Whether a lane that the other end dials is to be answered with a welcome; else why not.
    pub(super) fn welcomes(&mut self, index: u16) -> Result<(), String> {
        if (self.lanes.len()..usize::from(LANES_FAR)).contains(&usize::from(index)) {
            // The other end has found the path far, and this one has not yet.
            self.on_round_trip(FAR);
        }
        let count = self.lanes.len();
        let Some(lane) = self.lanes.get_mut(usize::from(index)) else {
            return Err(format!("lane {index} of {count}"));
        };
        if self.spec.dials && lane.is_own_for_less_than(self.timeout / 3) {
            // The other end waits for so long before it dials a lane that it lost: this one it
            // dialled before it had ours.
            return Err(format!("lane {index} was dialled from here"));
        }
        // Also in place of a lane that is open here: the other end has lost it.
        lane.arriving += 1;
        Ok(())
    }

    /// A lane that was to be welcomed broke.
    pub(super) fn on_not_arrived(&mut self, lane: u16) {
        if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
            lane.arriving = lane.arriving.saturating_sub(1);
        }
    }

    /// A lane is open. Whether it is taken, and what follows.
    pub(super) fn on_open(&mut self, lane: u16, dialled_here: bool) -> (bool, Option<Change>) {
        let Some(lane) = self.lanes.get_mut(usize::from(lane)) else {
            return (false, None);
        };
        if dialled_here {
            lane.dialling = None;
        } else {
            lane.arriving = lane.arriving.saturating_sub(1);
        }
        let stays = match (self.spec.dials, dialled_here) {
            (true, true) | (false, false) => false,
            (true, false) => lane.is_own_for_less_than(self.timeout / 3),
            (false, true) => lane.is_open(),
        };
        if stays {
            return (false, None);
        }
        let since = Instant::now();
        lane.state = State::Open {
            since,
            dialled_here,
        };
        if !self.spec.dials
            && let Some(own) = lane.dialling.take()
        {
            own.abort();
        }
        let change = self.down_since.take().map(|_| Change::Up);
        (true, change)
    }

    pub(super) fn on_not_dialled(&mut self, lane: u16, reason: String) {
        if let Some(lane) = self.lanes.get_mut(usize::from(lane)) {
            lane.dialling = None;
            lane.attempts += 1;
            self.last_error = reason;
        }
    }

    /// The data plane lost a lane.
    pub(super) fn on_closed(&mut self, index: u16, end: &LaneEnd) -> Vec<Change> {
        let now = Instant::now();
        let Some(lane) = self.lanes.get_mut(usize::from(index)) else {
            return Vec::new();
        };
        let State::Open { since, .. } = lane.state else {
            return Vec::new();
        };
        let was_sound = now.saturating_duration_since(since) >= RETRY_LONGEST;
        lane.attempts = if was_sound { 0 } else { lane.attempts + 1 };
        // Where another is on its way, the other end may have closed this one in favour of that.
        let is_alone = lane.dialling.is_none() && lane.arriving == 0;
        let lost = if *end == LaneEnd::ClosedThere && is_alone {
            LinkLoss::ClosedThere
        } else {
            LinkLoss::GivenUp
        };
        lane.state = State::Missing {
            since: now,
            lost: Some(lost),
        };
        let mut changes = Vec::new();
        if self.down_since.is_none() && self.lanes.iter().all(|lane| !lane.is_open()) {
            self.down_since = Some(now);
            self.last_error = end.to_string();
            let is_given_up = self.lanes.iter().any(|lane| {
                matches!(
                    lane.state,
                    State::Missing {
                        lost: Some(LinkLoss::GivenUp),
                        ..
                    }
                )
            });
            changes.push(Change::Down(if is_given_up {
                LinkLoss::GivenUp
            } else {
                LinkLoss::ClosedThere
            }));
        }
        if let LaneEnd::Stalled {
            unfinished: 1..,
            delivered,
            silent_ms,
        } = end
        {
            let silent = Duration::from_millis(*silent_ms);
            changes.extend(self.on_stalled(now, silent, *delivered));
        }
        changes
    }

    /// Lanes that can be made but carry nothing are no link either. A stall long after the one before
    /// is the first again: meanwhile there was nothing to deliver.
    fn on_stalled(&mut self, now: Instant, silent: Duration, delivered: u64) -> Option<Change> {
        let again = silent + self.timeout;
        let in_a_row = |stalls: &Stalls| {
            stalls.delivered == delivered && now.saturating_duration_since(stalls.last) <= again
        };
        let mut stalls = self.stalled.filter(in_a_row).unwrap_or(Stalls {
            first: now,
            last: now,
            delivered,
        });
        stalls.last = now;
        let since = now.saturating_duration_since(stalls.first);
        let is_too_long = since >= self.timeout;
        if is_too_long {
            stalls.first = now;
        }
        self.stalled = Some(stalls);
        let ms = since.as_millis();
        is_too_long.then(|| {
            let reason = format!("lanes open, but nothing was delivered for {ms} ms");
            Change::Failed(LinkFault::NothingDelivered, reason)
        })
    }

    /// This end was away itself for so long: that is nobody's silence. With `reads`, what came
    /// meanwhile is yet to be read, and gets a moment.
    pub(super) fn excuse(&mut self, away: Duration, reads: bool) {
        let now = Instant::now();
        let moment = now.checked_sub(self.timeout / 4 * 3).filter(|_| reads);
        if let Some(since) = &mut self.down_since {
            *since = now.min(*since + away);
            *since = moment.map_or(*since, |moment| moment.max(*since));
        }
    }

    /// When [`tick`](Self::tick), or a dial, is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let dials = self.lanes.iter().filter_map(|lane| self.due_at(lane));
        let down = self.down_since.map(|since| since + self.timeout);
        dials.chain(down).min()
    }

    /// Reports the link where it has no lane for too long.
    pub(super) fn tick(&mut self) -> Option<Change> {
        let since = self.down_since.as_mut()?;
        if since.elapsed() < self.timeout {
            return None;
        }
        // Still wanted, so still tried; and reported again if that does not help.
        *since = Instant::now();
        let ms = self.timeout.as_millis();
        let reason = format!("no lane within {ms} ms: {}", self.last_error);
        Some(Change::Failed(LinkFault::NoLane, reason))
    }
}

impl Lane {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Open, dialled here, and not for longer than that.
    fn is_own_for_less_than(&self, limit: Duration) -> bool {
        matches!(self.state, State::Open { since, dialled_here: true } if since.elapsed() < limit)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(task) = &self.dialling {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests;
