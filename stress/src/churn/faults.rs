//! What to do to the run next, drawn from the seed.

use std::time::Duration;

use crate::random::Random;
use crate::stage::Way;

/// One blow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    /// As many at once.
    KillSeveral(u64),
    Stop(Duration),
    Cut(Way, Duration),
    Leave,
    Join,
    JoinSeveral(u64),
    /// Start one and kill it before it can be accepted.
    JoinAndKill(Duration),
    /// Start one and stop it before it can be accepted.
    JoinAndStop(Duration),
    /// Start one and cut it off before it can be accepted.
    JoinAndCut(Way, Duration),
    /// Stop the master.
    StopMaster(Duration),
    /// Stop every peer at once, as a suspended machine does.
    StopAll(Duration),
}

/// What may be done, and how often.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) stops: bool,
    pub(super) cuts: bool,
    pub(super) master: bool,
    pub(super) pause_max: Duration,
}

/// The shortest pause between two blows, as a part of the longest.
const PAUSE_SPREAD: u64 = 7;

/// Draws faults and the pauses between them.
pub(super) struct Script {
    random: Random,
    limits: Limits,
}

impl Script {
    pub(super) fn new(seed: u64, limits: Limits) -> Self {
        Self {
            random: Random::new(seed),
            limits,
        }
    }

    pub(super) fn pause(&mut self) -> Duration {
        let longest = u64::try_from(self.limits.pause_max.as_micros()).unwrap_or(u64::MAX);
        let longest = longest.max(PAUSE_SPREAD);
        Duration::from_micros(self.random.within(longest / PAUSE_SPREAD, longest))
    }

    pub(super) fn fault(&mut self) -> Fault {
        let millis = |random: &mut Random, from, to| Duration::from_millis(random.within(from, to));
        loop {
            return match self.random.within(0, 28) {
                0..5 => Fault::Kill,
                5 => Fault::KillSeveral(self.random.within(2, 4)),
                6..9 if self.limits.stops => Fault::Stop(millis(&mut self.random, 100, 2200)),
                9..11 if self.limits.stops => Fault::Stop(millis(&mut self.random, 4500, 7000)),
                11 => Fault::Leave,
                12..16 => Fault::Join,
                16 => Fault::JoinSeveral(self.random.within(2, 4)),
                17..19 => Fault::JoinAndKill(millis(&mut self.random, 5, 250)),
                19 if self.limits.stops => Fault::JoinAndStop(millis(&mut self.random, 100, 6000)),
                20 if self.limits.master => Fault::StopMaster(millis(&mut self.random, 100, 6000)),
                21 if self.limits.stops && self.random.within(0, 2) == 0 => {
                    Fault::StopAll(millis(&mut self.random, 100, 2200))
                }
                22..27 if self.limits.cuts => {
                    Fault::Cut(self.way(), millis(&mut self.random, 500, 6000))
                }
                27 if self.limits.cuts => {
                    Fault::JoinAndCut(self.way(), millis(&mut self.random, 500, 6000))
                }
                _ => continue,
            };
        }
    }

    fn way(&mut self) -> Way {
        match self.random.within(0, 4) {
            0 => Way::Link,
            1 => Way::In,
            2 => Way::Out,
            _ => Way::Pair,
        }
    }

    /// How many blows fall at once.
    pub(super) fn at_once(&mut self) -> u64 {
        match self.random.within(0, 8) {
            0 => self.random.within(2, 4),
            _ => 1,
        }
    }

    /// The time before a joiner is stopped.
    pub(super) fn moment(&mut self) -> Duration {
        Duration::from_millis(self.random.within(5, 150))
    }

    /// For how long there is no master.
    pub(super) fn away(&mut self) -> Duration {
        Duration::from_millis(self.random.within(200, 5001))
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        self.random.pick(from)
    }
}
