//! All that was written down, sorted by process and by membership.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::event::{Event, Line};
use crate::log;
use crate::profile::Profile;

/// Holds that are no further apart than this count as one: a peer that is held again before it
/// was heard has been silent for all that time.
const BREATH_US: u64 = 1_000_000;

/// What may be expected of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Whoever is held for less than this must not lose its place.
    pub(crate) harmless_us: u64,
    /// No call may take longer than this, and no longer may pass without a commit.
    pub(crate) patience_us: u64,
}

impl Bounds {
    /// What faults can hold up by default: several silent peers after each other, each until it is
    /// evicted; and a wiring that fails.
    pub(crate) fn of(profile: Profile) -> Self {
        Self {
            harmless_us: us(profile.harmless()),
            patience_us: 20_000_000,
        }
    }
}

/// How the time is called for which there is no master.
pub(crate) const DEAD: &str = "dead";

#[derive(Debug)]
pub(crate) struct History {
    pub(crate) bounds: Bounds,
    pub(crate) lines: Vec<Line>,
    /// By label.
    pub(crate) processes: BTreeMap<String, Process>,
    /// By the id that the master gave, and when: each run counts its own.
    pub(crate) memberships: BTreeMap<(u64, u64), Membership>,
    /// When the last blow was over.
    pub(crate) finishing_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) killed_us: Option<u64>,
    pub(crate) asked_to_leave_us: Option<u64>,
    /// Stops and cuts, in order of their beginning.
    pub(crate) holds: Vec<Hold>,
    pub(crate) ended: Option<Line>,
}

/// A time for which a process could not take part.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
    /// How its network was cut; None where it was stopped.
    pub(crate) cut: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) label: String,
    /// When this peer learned, or was made to feel, that it is over.
    pub(crate) to_us: Option<u64>,
}

impl Process {
    fn hold(&mut self, from_us: u64, for_ms: u64, cut: Option<&String>) {
        self.holds.push(Hold {
            from_us,
            to_us: from_us + for_ms * 1000,
            cut: cut.cloned(),
        });
    }

    fn let_go(&mut self, at_us: u64, cut: Option<&String>) {
        let mut held = self.holds.iter_mut().rev();
        if let Some(hold) = held.find(|hold| hold.cut.as_ref() == cut) {
            hold.to_us = at_us;
        }
    }

    /// The longest time until `at_us` for which it was held almost without a break.
    fn longest_hold_us(&self, at_us: u64) -> u64 {
        let (mut longest, mut from_us, mut to_us) = (0, 0, 0);
        for hold in self.holds.iter().filter(|hold| hold.from_us <= at_us) {
            if hold.from_us > to_us + BREATH_US {
                from_us = hold.from_us;
            }
            to_us = hold.to_us.max(to_us);
            longest = longest.max(to_us - from_us);
        }
        longest
    }
}

impl History {
    pub(crate) fn read(folder: &Path, bounds: Bounds) -> Result<Self, String> {
        Ok(Self::of(log::read_all(folder)?, bounds))
    }

    pub(crate) fn of(lines: Vec<Line>, bounds: Bounds) -> Self {
        let mut history = Self {
            bounds,
            lines: Vec::new(),
            processes: BTreeMap::new(),
            memberships: BTreeMap::new(),
            finishing_us: 0,
        };
        let mut current: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for line in &lines {
            let process = history.processes.entry(line.who.clone()).or_default();
            let mut is_over = false;
            match &line.event {
                Event::Connected { id, .. } => {
                    let membership_id = (*id, line.at_us);
                    current.insert(line.who.clone(), membership_id);
                    let membership = Membership {
                        label: line.who.clone(),
                        to_us: None,
                    };
                    history.memberships.insert(membership_id, membership);
                }
                Event::Killed => {
                    process.killed_us = Some(line.at_us);
                    is_over = true;
                }
                // Another in the place of the master, which was away for so long.
                Event::Started { .. } if line.who == "master" => {
                    if let Some(from_us) = process.killed_us.take() {
                        let for_ms = line.at_us.saturating_sub(from_us) / 1000;
                        process.hold(from_us, for_ms, Some(&DEAD.to_owned()));
                    }
                }
                Event::AskedToLeave => process.asked_to_leave_us = Some(line.at_us),
                Event::Stopped { for_ms } => process.hold(line.at_us, *for_ms, None),
                Event::Cut { way, for_ms, .. } => process.hold(line.at_us, *for_ms, Some(way)),
                Event::Continued => process.let_go(line.at_us, None),
                Event::Mended { way } => process.let_go(line.at_us, Some(way)),
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

    /// Who had this id then.
    pub(crate) fn membership(&self, id: u64, at_us: u64) -> Option<&Membership> {
        let of_id = self.memberships.range((id, 0)..=(id, at_us));
        of_id.map(|(_, membership)| membership).next_back()
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
            || process.longest_hold_us(at_us) >= self.bounds.harmless_us
    }

    /// How long a process was stopped between two moments.
    pub(crate) fn stopped_us(&self, label: &str, from_us: u64, to_us: u64) -> u64 {
        self.held(label)
            .filter(|hold| hold.cut.is_none())
            .map(|hold| hold.within_us(from_us, to_us))
            .sum()
    }

    /// The same of whoever was stopped longest.
    pub(crate) fn longest_stopped_us(&self, from_us: u64, to_us: u64) -> u64 {
        let labels = self.processes.keys();
        let stopped_us = labels.map(|label| self.stopped_us(label, from_us, to_us));
        stopped_us.max().unwrap_or(0)
    }

    /// For how long there was no master, the last time that it was killed and came back.
    pub(crate) fn master_away_us(&self) -> Option<u64> {
        let mut holds = self.held("master");
        let away = holds.rfind(|hold| hold.cut.as_deref() == Some(DEAD))?;
        Some(away.to_us - away.from_us)
    }

    /// Whether a process was stopped or cut off at some time between two moments.
    pub(crate) fn was_held(&self, label: &str, from_us: u64, to_us: u64) -> bool {
        let mut holds = self.held(label);
        holds.any(|hold| hold.within_us(from_us, to_us) > 0)
    }

    /// For how much of the time between two moments somebody was stopped or cut off.
    pub(crate) fn anybody_held_us(&self, from_us: u64, to_us: u64) -> u64 {
        let holds = self.processes.values().flat_map(|process| &process.holds);
        let mut times: Vec<_> = holds
            .map(|hold| (hold.from_us.max(from_us), hold.to_us.min(to_us)))
            .filter(|(from, to)| from < to)
            .collect();
        times.sort_unstable();
        let (mut sum, mut end) = (0, from_us);
        for (from, to) in times {
            sum += to.saturating_sub(from.max(end));
            end = end.max(to);
        }
        sum
    }

    fn held(&self, label: &str) -> impl DoubleEndedIterator<Item = &Hold> {
        let process = self.processes.get(label);
        process.into_iter().flat_map(|process| &process.holds)
    }
}

impl Hold {
    fn within_us(&self, from_us: u64, to_us: u64) -> u64 {
        self.to_us
            .min(to_us)
            .saturating_sub(self.from_us.max(from_us))
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn was_hurt(holds: &[(u64, u64)]) -> bool {
        let mut lines = Vec::new();
        for &(at_ms, for_ms) in holds {
            lines.push(Line {
                at_us: at_ms * 1000,
                who: "p1".to_owned(),
                event: Event::Stopped { for_ms },
            });
        }
        History::of(lines, Bounds::of(Profile::Default)).was_hurt("p1", u64::MAX)
    }

    #[test]
    fn holds_that_overlap_count_once() {
        let lines =
            [("p1", 1_000_000), ("p2", 1_500_000), ("p3", 9_000_000)].map(|(who, at_us)| {
                let event = Event::Stopped { for_ms: 1000 };
                let who = who.to_owned();
                Line { at_us, who, event }
            });
        let history = History::of(lines.into(), Bounds::of(Profile::Default));
        assert_eq!(history.anybody_held_us(0, 20_000_000), 2_500_000);
        assert_eq!(history.anybody_held_us(1_200_000, 2_200_000), 1_000_000);
    }

    #[test]
    fn only_a_long_hold_or_several_that_follow_each_other_excuse_an_eviction() {
        assert!(!was_hurt(&[(5000, 1300)]));
        assert!(was_hurt(&[(5000, 1500)]));
        assert!(was_hurt(&[(5000, 1000), (6500, 1000)]));
        assert!(!was_hurt(&[(5000, 1000), (8000, 1000)]));
    }
}
