//! When silence on a control connection is taken for its end. Both machines judge by a [`Watch`].
//!
//! ```text
//!   heard ---- half the limit: asks, a heartbeat that wants an answer ---- the limit: dead
//!
//!   limit = clamp(expected gap + 4 x deviation, floor, ceiling)
//! ```
//!
//! The gap is what the connection has shown between heartbeats; it is long on a connection that
//! stutters, and between processes that wait for a core. Time in which the watcher itself was away
//! is nobody's silence.
//!
//! A heartbeat names the newest one that its sender has heard. Who speaks, and has heard nothing of
//! what was said to it for the limit, is taken for silent as well: the network may be cut in one
//! direction.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::types::Timestamp;
use crate::wire::control::{Heartbeat, Timings};

/// How far beyond what is expected silence may go, in deviations.
const DEVIATIONS: u32 = 4;

/// Heartbeats that are remembered until the other side has heard them: more than any limit needs,
/// and a bound on what one that never confirms costs.
const UNHEARD_MAX: usize = 64;

/// Who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Watcher {
    /// The master watches a peer: beyond the limit it evicts.
    Master,
    /// A peer watches the master: beyond the limit it makes a new connection. Its floor is two thirds
    /// of the master's: where only the connection was bad, it is back before the master gives up.
    Peer,
}

impl Watcher {
    fn share(self, limit: Duration) -> Duration {
        match self {
            Watcher::Master => limit,
            Watcher::Peer => limit / 3 * 2,
        }
    }
}

/// What a watch has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It says nothing.
    Mute {
        /// For how long.
        limit: Duration,
    },
    /// It speaks, and does not hear.
    Deaf {
        /// For how long.
        limit: Duration,
    },
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::Mute { limit } => write!(f, "it was silent for {} ms", limit.as_millis()),
            Silence::Deaf { limit } => write!(
                f,
                "it does not hear us: nothing we said for {} ms has arrived",
                limit.as_millis()
            ),
        }
    }
}

/// One side's heartbeats on a control connection, and its judgement of the other's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    watcher: Watcher,
    timings: Timings,
    gap: Estimate,
    round_trip: Option<Estimate>,

    last_heard: Timestamp,
    /// The other side's newest heartbeat on this connection, and when it came.
    heard: u64,
    heard_at: Timestamp,

    /// The newest heartbeat of this side on this connection.
    said: u64,
    said_at: Timestamp,
    /// What the other side is not known to have heard, oldest first.
    unheard: VecDeque<(u64, Timestamp)>,
    next_beat: Timestamp,
    answer_at: Option<Timestamp>,
    /// The present silence was asked about.
    has_asked: bool,
}

impl Watch {
    /// Over a new connection. Of it nothing is known: its limit begins midway, and comes down as
    /// heartbeats come in time.
    pub fn new(watcher: Watcher, timings: Timings, now: Timestamp, first_beat: Timestamp) -> Self {
        let interval = timings.heartbeat_interval;
        let midway = (timings.silence_floor / 2).saturating_add(timings.silence_ceiling / 2);
        Self {
            watcher,
            timings,
            gap: Estimate {
                mean: interval,
                deviation: watcher.share(midway).saturating_sub(interval) / DEVIATIONS,
            },
            round_trip: None,
            last_heard: now,
            heard: 0,
            heard_at: now,
            said: 0,
            said_at: now,
            unheard: VecDeque::new(),
            next_beat: first_beat,
            answer_at: None,
            has_asked: false,
        }
    }

    /// The session goes on over another connection, most likely on the same path: heartbeats are
    /// counted from the start, and what was learned stays.
    pub fn reconnected(&mut self, now: Timestamp, first_beat: Timestamp) {
        self.last_heard = now;
        self.heard = 0;
        self.heard_at = now;
        self.said = 0;
        self.unheard.clear();
        self.next_beat = first_beat;
        self.answer_at = None;
        self.has_asked = false;
    }

    /// Something came.
    pub fn hear(&mut self, now: Timestamp) {
        self.last_heard = now;
        self.has_asked = false;
    }

    /// A heartbeat came, of which `hear` was told.
    pub fn hear_beat(&mut self, now: Timestamp, beat: &Heartbeat) {
        // From more nothing would be learned, and it would be forgotten more slowly.
        let most = self.timings.silence_ceiling;
        if self.heard > 0 {
            let gap = now.since(self.heard_at);
            self.gap.take(gap.min(most));
        }
        self.heard = self.heard.max(beat.number);
        self.heard_at = now;
        while let Some((number, said_at)) = self.unheard.front().copied() {
            if number > beat.heard {
                break;
            }
            self.unheard.pop_front();
            if number == beat.heard {
                let sample = now
                    .since(said_at)
                    .saturating_sub(beat.held)
                    .min(most.saturating_mul(4));
                match &mut self.round_trip {
                    Some(round_trip) => round_trip.take(sample),
                    None => self.round_trip = Some(Estimate::of(sample)),
                }
            }
        }
        if beat.answer {
            // Answers keep a distance, so that nobody can make this side say more than a little.
            let soonest = self.said_at + self.timings.heartbeat_interval / 4;
            self.answer_at = Some(now.max(soonest));
        }
    }

    /// The heartbeat that is due now, if one is.
    pub fn beat(&mut self, now: Timestamp) -> Option<Heartbeat> {
        let is_suspicious = self.is_suspicious(now);
        let must_ask = is_suspicious && !self.has_asked;
        let must_answer = self.answer_at.is_some_and(|at| at <= now);
        if !must_ask && !must_answer && self.next_beat > now {
            return None;
        }
        if self.next_beat <= now {
            self.next_beat = next_beat(self.next_beat, now, self.timings.heartbeat_interval);
        }
        self.has_asked = is_suspicious;
        self.answer_at = None;
        self.said += 1;
        self.said_at = now;
        if self.unheard.len() < UNHEARD_MAX {
            self.unheard.push_back((self.said, now));
        }
        Some(Heartbeat {
            number: self.said,
            heard: self.heard,
            held: now.since(self.heard_at),
            answer: is_suspicious,
        })
    }

    /// The watcher was away for so long: that time does not count.
    pub fn excuse(&mut self, away: Duration, now: Timestamp) {
        self.last_heard = (self.last_heard + away).min(now);
        self.heard_at = (self.heard_at + away).min(now);
        for (_, said_at) in &mut self.unheard {
            *said_at = (*said_at + away).min(now);
        }
    }

    /// Whether the other side must be taken for gone.
    pub fn verdict(&self, now: Timestamp) -> Option<Silence> {
        let limit = self.limit();
        if now.since(self.last_heard) >= limit {
            return Some(Silence::Mute { limit });
        }
        let (deaf_at, limit) = self.deaf_at()?;
        (deaf_at <= now).then_some(Silence::Deaf { limit })
    }

    /// When the other side counts as deaf if it goes on as it does, and after how long.
    fn deaf_at(&self) -> Option<(Timestamp, Duration)> {
        // A sign that we are heard takes a round trip, and waits for the next heartbeat.
        let round_trip = self.round_trip?.bound();
        let sign = round_trip.saturating_add(self.timings.heartbeat_interval);
        let limit = self.limit().max(sign);
        let (_, said_at) = self.unheard.front()?;
        // Of one that does not even speak the other rule judges.
        let has_spoken = self.heard_at.since(*said_at) >= limit / 2;
        has_spoken.then(|| (*said_at + limit, limit))
    }

    /// When `beat` or `verdict` has something to say at the latest.
    pub fn next_timeout(&self) -> Timestamp {
        let limit = self.limit();
        let patience = if self.has_asked { limit } else { limit / 2 };
        let deaf_at = self.deaf_at().map(|(at, _)| at);
        [deaf_at, self.answer_at].into_iter().flatten().fold(
            self.next_beat.min(self.last_heard + patience),
            Timestamp::min,
        )
    }

    /// The silence after which the other side is taken for gone.
    pub fn limit(&self) -> Duration {
        let by_gaps = self.gap.bound();
        // Whoever is asked at half the limit has the other half to answer.
        let by_answers = self
            .round_trip
            .map_or(Duration::ZERO, |r| r.bound().saturating_mul(2));
        by_gaps
            .max(by_answers)
            .max(self.watcher.share(self.timings.silence_floor))
            .min(self.timings.silence_ceiling)
            .saturating_add(self.first_word())
    }

    /// The master has answered a hello: the peer's first word takes a round trip more.
    fn first_word(&self) -> Duration {
        let ceiling = self.timings.silence_ceiling;
        match (self.watcher, &self.round_trip) {
            _ if self.has_spoken() => Duration::ZERO,
            (Watcher::Peer, _) => Duration::ZERO,
            (Watcher::Master, Some(round_trip)) => round_trip.bound().min(ceiling),
            (Watcher::Master, None) => ceiling,
        }
    }

    /// A heartbeat has come over this connection.
    pub fn has_spoken(&self) -> bool {
        self.heard > 0
    }

    /// What a connection and a greeting take after the news that the one before broke, two round
    /// trips, and one more. Zero where none was measured, twice the ceiling at most.
    pub fn redial_time(&self) -> Duration {
        let mean = self.round_trip.map_or(Duration::ZERO, |r| r.mean);
        let most = self.timings.silence_ceiling.saturating_mul(2);
        mean.saturating_mul(3).min(most)
    }

    /// The longest round trip to expect, in whole milliseconds. Zero where none was measured, the
    /// ceiling at most.
    pub fn round_trip(&self) -> Duration {
        let bound = self.round_trip.map_or(Duration::ZERO, |r| r.bound());
        let ms = bound.min(self.timings.silence_ceiling).as_millis();
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// How often this side speaks at least.
    pub fn interval(&self) -> Duration {
        self.timings.heartbeat_interval
    }

    /// The least silence for which the master may give a peer up.
    pub fn floor(&self) -> Duration {
        self.timings.silence_floor
    }

    /// Half the limit has passed without a word.
    pub fn is_suspicious(&self, now: Timestamp) -> bool {
        now.since(self.last_heard) >= self.limit() / 2
    }
}

/// The next of a row of heartbeats; those that were missed are not made up for.
pub fn next_beat(due: Timestamp, now: Timestamp, interval: Duration) -> Timestamp {
    let next = due + interval;
    if next > now { next } else { now + interval }
}

/// Time between two ticks of a watcher, beyond what it asked for: it was away. At most one interval
/// between two ticks counts as silence, and at least that one does: who is always late judges
/// slowly, and still judges.
pub fn away(last_tick: Timestamp, now: Timestamp, interval: Duration) -> Option<Duration> {
    let between = now.since(last_tick);
    (between / 5 > interval / 4).then(|| between - interval)
}

/// A mean and how far beyond it samples go (RFC 6298, with another rhythm for the deviation: it
/// rises at once and is forgotten over some hundred samples, as what happened once on a network
/// happens again).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Estimate {
    mean: Duration,
    deviation: Duration,
}

impl Estimate {
    fn of(sample: Duration) -> Self {
        Self {
            mean: sample,
            deviation: sample / 4,
        }
    }

    fn take(&mut self, sample: Duration) {
        let beyond = sample.saturating_sub(self.mean);
        if beyond > self.deviation {
            self.deviation += (beyond - self.deviation) / 2;
        } else {
            self.deviation -= (self.deviation - beyond) / 64;
        }
        if sample > self.mean {
            self.mean += beyond / 8;
        } else {
            self.mean -= (self.mean - sample) / 8;
        }
    }

    fn bound(&self) -> Duration {
        self.mean
            .saturating_add(self.deviation.saturating_mul(DEVIATIONS))
    }
}
