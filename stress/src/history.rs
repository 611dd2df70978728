//! All that was written down, sorted by process and by membership.

use std::collections::BTreeMap;
use std::path::Path;

use crate::event::{Event, Line};
use crate::log;

/// A peer that is stopped for less than this must not lose its place: silence of less than 2 s is
/// excused on any network, and a stop may begin a moment before a heartbeat was due.
const HARMLESS_STOP_US: u64 = 1_400_000;

#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) lines: Vec<Line>,
    /// By label.
    pub(crate) processes: BTreeMap<String, Process>,
    /// By the id that the master gave.
    pub(crate) memberships: BTreeMap<u64, Membership>,
    /// When the last blow was over.
    pub(crate) finishing_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) killed_us: Option<u64>,
    pub(crate) asked_to_leave_us: Option<u64>,
    pub(crate) stops: Vec<Stop>,
    pub(crate) ended: Option<Line>,
}

#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
}

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) label: String,
    /// When this peer learned, or was made to feel, that it is over.
    pub(crate) to_us: Option<u64>,
}

impl History {
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        Ok(Self::of(log::read_all(folder)?))
    }

    pub(crate) fn of(lines: Vec<Line>) -> Self {
        let mut history = Self::default();
        let mut current: BTreeMap<String, u64> = BTreeMap::new();
        for line in &lines {
            let process = history.processes.entry(line.who.clone()).or_default();
            let mut is_over = false;
            match &line.event {
                Event::Connected { id, .. } => {
                    current.insert(line.who.clone(), *id);
                    let membership = Membership {
                        label: line.who.clone(),
                        to_us: None,
                    };
                    history.memberships.insert(*id, membership);
                }
                Event::Killed => {
                    process.killed_us = Some(line.at_us);
                    is_over = true;
                }
                Event::AskedToLeave => process.asked_to_leave_us = Some(line.at_us),
                Event::Stopped { for_ms } => process.stops.push(Stop {
                    from_us: line.at_us,
                    to_us: line.at_us + for_ms * 1000,
                }),
                Event::Continued => {
                    if let Some(stop) = process.stops.last_mut() {
                        stop.to_us = line.at_us;
                    }
                }
                Event::Ended { .. } => {
                    process.ended = Some(line.clone());
                    is_over = true;
                }
                Event::Gone { .. } | Event::Left { .. } => is_over = true,
                Event::Finishing => history.finishing_us = line.at_us,
                _ => {}
            }
            if is_over
                && let Some(id) = current.remove(&line.who)
                && let Some(membership) = history.memberships.get_mut(&id)
            {
                membership.to_us = Some(line.at_us);
            }
        }
        if history.finishing_us == 0 {
            history.finishing_us = lines.last().map_or(0, |line| line.at_us);
        }
        history.lines = lines;
        history
    }

    /// Whether something was done to a process before `at_us` that may cost its place.
    pub(crate) fn was_hurt(&self, label: &str, at_us: u64) -> bool {
        let before = |moment: Option<u64>| moment.is_some_and(|moment| moment <= at_us);
        let master = self.processes.get("master");
        if before(master.and_then(|master| master.killed_us)) {
            return true;
        }
        let Some(process) = self.processes.get(label) else {
            return false;
        };
        before(process.killed_us)
            || before(process.asked_to_leave_us)
            || process
                .stops
                .iter()
                .any(|stop| stop.from_us <= at_us && stop.to_us - stop.from_us >= HARMLESS_STOP_US)
    }

    /// How long a process was stopped between two moments.
    pub(crate) fn stopped_us(&self, label: &str, from_us: u64, to_us: u64) -> u64 {
        let stops = self.processes.get(label).map(|process| &process.stops[..]);
        stops
            .unwrap_or_default()
            .iter()
            .map(|stop| {
                stop.to_us
                    .min(to_us)
                    .saturating_sub(stop.from_us.max(from_us))
            })
            .sum()
    }
}
