//! Nobody is removed from the run that was well and did nothing wrong.
//!
//! Right is the removal of an accepted peer where, not long before,
//!
//! - it died; or it, or the master, stood still or was cut off for longer than the detection tells
//!   from death;
//! - a connection of it was made to swallow what it is given, or lived on at one end only;
//! - its connections to the master and to another peer were reset: two witnesses of a death;
//! - a link of it was reset again and again, and no ring was left without it;
//! - the master died, and of those who knew less than it somebody came back first: who had been
//!   silent when the run went on without it, and had a majority for itself;
//! - the master died, and it gave up waiting for it; or waiting for a majority, while another member
//!   was dead or out;
//! - nobody of its run came back to the master in time, and another began;
//! - it breaks rules; or others do, and its shared state lost the election against theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Checker;
use super::peers::Peers;
use crate::error::Gone;
use crate::sim::Strike;
use crate::sim::history::{Event, Life, ProcessId, Record, WorldTime};
use crate::types::PeerId;

/// What a detection may take for death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// The shortest outage that it may.
    pub outage: Duration,
    /// How long afterwards the consequences may come.
    pub memory: Duration,
    /// The longest that a silence may last, where nothing else goes wrong.
    pub silence: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub struct RightEvictions {
    tolerance: Tolerance,
    peers: Peers,
    accepted: BTreeSet<(ProcessId, Life)>,
    misbehaving: BTreeSet<ProcessId>,
    frozen: BTreeMap<ProcessId, Outages>,
    cut_off: BTreeMap<ProcessId, Outages>,
    resets: BTreeMap<ProcessId, BTreeMap<ProcessId, Vec<WorldTime>>>,
    /// The peers that the master wanted in the last epoch.
    members: Vec<PeerId>,
    master_died: Option<WorldTime>,
    /// Since when it goes on without some that were members: they may hear of it much later.
    left_out: BTreeMap<PeerId, WorldTime>,
    /// Those with a connection that says nothing and does not end.
    muted: BTreeMap<ProcessId, WorldTime>,
}

/// Resets of one link, not long ago, after which nobody is to blame for its being down.
const RESETS_OF_A_BAD_LINK: usize = 4;

/// Stretches of time, in order.
#[derive(Debug, Default)]
struct Outages(Vec<(WorldTime, Option<WorldTime>)>);

impl RightEvictions {
    /// For a world whose detection is this one.
    pub fn new(tolerance: Tolerance) -> Self {
        Self {
            tolerance,
            peers: Peers::default(),
            accepted: BTreeSet::new(),
            misbehaving: BTreeSet::new(),
            frozen: BTreeMap::new(),
            cut_off: BTreeMap::new(),
            resets: BTreeMap::new(),
            members: Vec::new(),
            master_died: None,
            left_out: BTreeMap::new(),
            muted: BTreeMap::new(),
        }
    }
}

impl Checker for RightEvictions {
    fn invariant(&self) -> &'static str {
        "right_evictions"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        self.peers.see(record);
        let (at, process) = (record.at, record.process);
        match &record.event {
            Event::Frozen => self.frozen.entry(process).or_default().begin(at),
            Event::Thawed => self.frozen.entry(process).or_default().end(at),
            Event::CutOff => self.cut_off.entry(process).or_default().begin(at),
            Event::Healed => self.cut_off.entry(process).or_default().end(at),
            Event::Struck { with, strike } => {
                for (one, other) in [(process, *with), (*with, process)] {
                    match strike {
                        Strike::Reset => {
                            let with = self.resets.entry(one).or_default();
                            with.entry(other).or_default().push(at);
                        }
                        Strike::HalfOpen | Strike::Swallow => {
                            self.muted.insert(one, at);
                        }
                    }
                }
            }
            Event::Misbehaves => {
                self.misbehaving.insert(process);
            }
            Event::EpochOpened { .. } => {
                self.accepted.insert((process, self.peers.life(process)));
            }
            Event::Died if process.is_master() => self.master_died = Some(at),
            Event::NewRun => {
                self.accepted.clear();
                self.left_out.clear();
                self.members.clear();
            }
            Event::NextMembers(members) => {
                for peer in self.members.iter().filter(|peer| !members.contains(peer)) {
                    self.left_out.entry(*peer).or_insert(at);
                }
                // Newcomers that a master before wanted may be wanted again.
                self.left_out.retain(|peer, _| !members.contains(peer));
                self.members.clone_from(members);
            }
            Event::MachineGone(Gone::Closed) => {}
            Event::MachineGone(Gone::MasterLost { .. })
                if self
                    .master_died
                    .is_some_and(|died| self.is_recent(at, died)) => {}
            Event::MachineGone(Gone::NoMajority { .. }) if self.is_somebody_missing(at) => {}
            Event::MachineGone(gone) => {
                let life = self.peers.life(process);
                return self.judge(at, (process, life), &gone.to_string());
            }
            Event::Evicted { peer, reason } => {
                if let Some(who) = self.peers.process(*peer) {
                    return self.judge(at, who, reason);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl RightEvictions {
    fn judge(&self, at: WorldTime, who: (ProcessId, Life), reason: &str) -> Result<(), String> {
        let process = who.0;
        let id = self
            .peers
            .id(process)
            .filter(|_| self.peers.life(process) == who.1);
        let at = id
            .and_then(|id| self.left_out.get(&id))
            .map_or(at, |left| *left);
        let lost_to_liars = !self.misbehaving.is_empty() && reason.contains("shared state");
        let right = !self.accepted.contains(&who)
            || self.peers.is_dead(process)
            || self.misbehaving.contains(&process)
            || lost_to_liars
            || self.was_out(at, process)
            || self.was_out(at, ProcessId::MASTER)
            || self.was_out(at, ProcessId::STANDBY)
            || self.was_reset_twice(at, process)
            || (reason.contains("no link can be made") && self.has_bad_link(at, process))
            || (reason.contains("is not known") && self.is_overtaken(at));
        if right {
            return Ok(());
        }
        Err(format!("{process} was well, and is removed: {reason}"))
    }

    /// Of the members of the last epoch that the master wanted.
    fn is_somebody_missing(&self, at: WorldTime) -> bool {
        self.members.iter().any(|peer| {
            let who = self.peers.process(*peer);
            who.is_none_or(|who| !self.peers.is_in_run(who) || self.was_out(at, who.0))
        })
    }

    fn was_out(&self, at: WorldTime, process: ProcessId) -> bool {
        [&self.frozen, &self.cut_off]
            .iter()
            .filter_map(|outages| outages.get(&process))
            .any(|outages| outages.was_out(at, self.tolerance))
            || self
                .muted
                .get(&process)
                .is_some_and(|time| self.is_recent(at, *time))
    }

    /// By the master and by somebody else.
    fn was_reset_twice(&self, at: WorldTime, process: ProcessId) -> bool {
        let Some(resets) = self.resets.get(&process) else {
            return false;
        };
        let recent = |time: &WorldTime| self.is_recent(at, *time);
        let masters = [ProcessId::MASTER, ProcessId::STANDBY];
        let mut by_master = masters.iter().filter_map(|master| resets.get(master));
        by_master.any(|times| times.iter().any(recent))
            && resets
                .values()
                .filter(|times| times.iter().any(recent))
                .count()
                >= 2
    }

    /// Whether one of its links was reset so often that it may not have come up in between.
    fn has_bad_link(&self, at: WorldTime, process: ProcessId) -> bool {
        let links = self.resets.get(&process).into_iter().flatten();
        links.into_iter().any(|(_, times)| {
            let recent = times.iter().filter(|time| self.is_recent(at, **time));
            recent.count() >= RESETS_OF_A_BAD_LINK
        })
    }

    /// Whether the master is another one, and somebody whom the run had gone on without is alive and
    /// has not heard of it.
    fn is_overtaken(&self, at: WorldTime) -> bool {
        let is_unaware = |peer: &PeerId| {
            let who = self.peers.process(*peer);
            who.is_some_and(|who| self.peers.is_in_run(who))
        };
        self.master_died
            .is_some_and(|died| self.is_recent(at, died))
            && self.left_out.keys().any(is_unaware)
    }

    fn is_recent(&self, at: WorldTime, time: WorldTime) -> bool {
        time + self.tolerance.memory >= at
    }
}

impl Outages {
    fn begin(&mut self, at: WorldTime) {
        if !matches!(self.0.last(), Some((_, None))) {
            self.0.push((at, None));
        }
    }

    fn end(&mut self, at: WorldTime) {
        if let Some((_, end @ None)) = self.0.last_mut() {
            *end = Some(at);
        }
    }

    /// Outages between which there is less than one's length are one: nobody had the time to find
    /// out that it is over.
    fn was_out(&self, at: WorldTime, tolerance: Tolerance) -> bool {
        let Some((mut start, _)) = self.0.first().copied() else {
            return false;
        };
        let mut before: Option<WorldTime> = None;
        for (from, to) in &self.0 {
            if before.is_some_and(|before| before + tolerance.outage < *from) {
                start = *from;
            }
            let end = to.unwrap_or(at).min(at);
            if start + tolerance.outage <= end && end + tolerance.memory >= at {
                return true;
            }
            before = Some(end);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, epoch, membership, peer};
    use super::*;

    fn story() -> Story<RightEvictions> {
        let mut story = Story::of_two(RightEvictions::new(Tolerance {
            outage: Duration::from_secs(2),
            memory: Duration::from_secs(10),
            silence: Duration::from_secs(4),
        }));
        for process in [1, 2] {
            let event = Event::EpochOpened {
                epoch: epoch(1),
                membership: membership(process, &[1, 2]),
            };
            story.tell(process, event);
        }
        story
    }

    fn gone() -> Event {
        Event::MachineGone(Gone::Evicted {
            reason: "it was silent".to_owned(),
        })
    }

    #[test]
    fn who_stood_still_for_long_is_removed_rightly() {
        let mut story = story();
        story.tell(2, Event::Frozen);
        story.ms += 3000;
        let evicted = Event::Evicted {
            peer: peer(2),
            reason: "it was silent".to_owned(),
        };
        story.tell(0, evicted);
        story.tell(2, Event::Thawed);
        story.tell(2, gone());
    }

    #[test]
    fn who_was_well_is_not() {
        let words = story().try_tell(2, gone()).unwrap_err();
        assert!(words.contains("p2 was well"), "{words}");
        let mut story = story();
        story.tell(1, Event::Frozen);
        story.ms += 3000;
        assert!(story.try_tell(2, gone()).is_err());
    }

    #[test]
    fn a_short_outage_and_one_long_ago_are_no_reason() {
        for (length_ms, pause_ms) in [(1000, 0), (3000, 20_000)] {
            let mut story = story();
            story.tell(2, Event::CutOff);
            story.ms += length_ms;
            story.tell(2, Event::Healed);
            story.ms += pause_ms;
            assert!(story.try_tell(2, gone()).is_err());
        }
    }

    #[test]
    fn short_outages_in_a_row_are_a_long_one() {
        let mut story = story();
        for _ in 0..3 {
            story.tell(2, Event::Frozen);
            story.ms += 900;
            story.tell(2, Event::Thawed);
            story.ms += 100;
        }
        story.tell(2, gone());
    }

    #[test]
    fn a_master_that_was_away_is_a_reason_for_all() {
        let mut story = story();
        story.tell(0, Event::CutOff);
        story.ms += 3000;
        story.tell(2, gone());
    }

    fn strike(story: &mut Story<RightEvictions>, with: u32, strike: Strike) {
        let with = ProcessId(with);
        story.tell(2, Event::Struck { with, strike });
    }

    #[test]
    fn two_witnesses_of_a_death_are_a_reason_and_one_is_not() {
        let mut story = story();
        strike(&mut story, 0, Strike::Reset);
        assert!(story.try_tell(2, gone()).is_err());
        strike(&mut story, 1, Strike::Reset);
        story.tell(2, gone());
    }

    #[test]
    fn a_link_that_is_reset_again_and_again_is_a_reason_where_it_is_missed() {
        for (times, reason, is_right) in [
            (4, "no link can be made with peer 1", true),
            (4, "it was silent", false),
            (2, "no link can be made with peer 1", false),
        ] {
            let mut story = story();
            (0..times).for_each(|_| strike(&mut story, 1, Strike::Reset));
            let reason = reason.to_owned();
            let gone = Event::MachineGone(Gone::Evicted { reason });
            assert_eq!(story.try_tell(2, gone).is_ok(), is_right);
        }
    }

    #[test]
    fn who_is_unknown_to_a_master_that_follows_somebody_left_out_is_gone_rightly() {
        for has_died in [true, false] {
            let mut story = story();
            story.tell(0, Event::NextMembers(vec![peer(1), peer(2)]));
            story.tell(0, Event::NextMembers(vec![peer(2)]));
            if has_died {
                story.tell(0, Event::Died);
            }
            let reason = "peer 20 is not known".to_owned();
            let gone = Event::MachineGone(Gone::Evicted { reason });
            assert_eq!(story.try_tell(2, gone).is_ok(), has_died);
        }
    }

    #[test]
    fn a_connection_that_swallows_everything_is_a_reason() {
        let mut story = story();
        strike(&mut story, 0, Strike::Swallow);
        story.tell(2, gone());
    }

    #[test]
    fn who_leaves_or_misbehaves_is_no_victim() {
        let mut story = story();
        story.tell(1, Event::MachineGone(Gone::Closed));
        story.tell(2, Event::Misbehaves);
        story.tell(2, gone());
    }
}
