//! Who is silent for good is out of the run within the limit of silence, counted from the last thing
//! that went wrong anywhere: so long and no longer may the dead hold the others up.
//!
//! Connections that time out would end it as well, later. Where there is a second master the first one
//! may end its rule instead, and wait for a majority: such worlds are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Checker;
use super::peers::Peers;
use super::right_evictions::Tolerance;
use crate::sim::history::{Event, ProcessId, Record, WorldTime};
use crate::types::PeerId;

/// See the module's text.
#[derive(Debug)]
pub struct SilencesEnd {
    limit: Duration,
    is_without_master: bool,
    has_standby: bool,
    peers: Peers,
    /// As the master would have them.
    members: BTreeSet<PeerId>,
    /// Dead members that the master still has.
    silent: BTreeMap<PeerId, ProcessId>,
    /// When something went wrong last, or came right again.
    troubled_at: WorldTime,
}

impl SilencesEnd {
    /// For a world whose detection is this one.
    pub fn new(tolerance: Tolerance) -> Self {
        Self {
            limit: tolerance.silence,
            is_without_master: false,
            has_standby: false,
            peers: Peers::default(),
            members: BTreeSet::new(),
            silent: BTreeMap::new(),
            troubled_at: WorldTime::default(),
        }
    }
}

impl Checker for SilencesEnd {
    fn invariant(&self) -> &'static str {
        "silences_end"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        self.peers.see(record);
        match &record.event {
            Event::NewRun => {
                self.members.clear();
                self.silent.clear();
            }
            Event::Fault(_)
            | Event::Frozen
            | Event::Thawed
            | Event::CutOff
            | Event::Healed
            | Event::Struck { .. } => self.troubled_at = record.at,
            // Nobody looks while it is away, or as long as too few have come back to it.
            Event::Died if record.process.is_master() => self.is_without_master = true,
            Event::Started if record.process == ProcessId::STANDBY => self.has_standby = true,
            Event::MasterRules => {
                self.is_without_master = false;
                self.troubled_at = record.at;
            }
            Event::Died => {
                self.troubled_at = record.at;
                if let Some(peer) = self.peers.id(record.process)
                    && self.members.contains(&peer)
                {
                    self.silent.insert(peer, record.process);
                }
            }
            Event::NextMembers(members) => {
                self.is_without_master = false;
                self.members = members.iter().copied().collect();
                self.silent.retain(|peer, _| members.contains(peer));
            }
            _ => {}
        }
        // Where nobody is left there is nobody to hold up, and no next epoch to be left out of.
        let is_alone = self.silent.len() == self.members.len();
        let holds_up = !is_alone && !self.is_without_master && !self.has_standby;
        match self.silent.first_key_value() {
            Some((peer, process)) if holds_up && self.troubled_at + self.limit < record.at => {
                Err(format!(
                    "{process}, peer {peer}, is dead, nothing went wrong since {}, and the master \
                     still has it in the run",
                    self.troubled_at
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, peer};
    use super::*;

    /// Two members, of whom the second has died.
    fn story() -> Story<SilencesEnd> {
        let mut story = Story::of_two(SilencesEnd::new(Tolerance {
            outage: Duration::from_millis(600),
            memory: Duration::from_secs(65),
            silence: Duration::from_secs(4),
        }));
        story.tell(0, Event::NextMembers(vec![peer(1), peer(2)]));
        story.tell(2, Event::Died);
        story
    }

    #[test]
    fn who_is_left_out_in_time_is_forgotten() {
        let mut story = story();
        story.ms += 3000;
        story.tell(0, Event::NextMembers(vec![peer(1)]));
        story.ms += 3000;
        story.tell(1, Event::CameRight);
    }

    #[test]
    fn the_dead_who_stay_are_seen() {
        let mut story = story();
        story.ms += 4100;
        let error = story.try_tell(1, Event::CameRight).unwrap_err();
        assert!(error.contains("p2, peer 20, is dead"), "{error}");
    }

    #[test]
    fn after_another_fault_it_may_take_as_long_again() {
        let mut story = story();
        story.ms += 3000;
        story.tell(1, Event::CutOff);
        story.ms += 100;
        story.tell(1, Event::Healed);
        story.ms += 3000;
        story.tell(1, Event::CameRight);
    }

    #[test]
    fn where_all_are_dead_nobody_is_held_up() {
        let mut story = story();
        story.tell(1, Event::Died);
        story.ms += 9000;
        story.tell(0, Event::Calm);
    }
}
