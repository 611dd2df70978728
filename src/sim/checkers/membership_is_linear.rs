//! I1: there is one total order of active epochs; two peers in epoch *e* have the same members and
//! ring.
//!
//! Where another master has come to rule, an epoch of which only those knew who are dead, or gave up
//! waiting, is known to nobody: its number can come again.

use std::collections::BTreeMap;

use super::Checker;
use super::peers::Peers;
use crate::protocol::peer::Membership;
use crate::sim::history::{Event, Life, ProcessId, Record};
use crate::types::{Epoch, PeerId};

/// See the module's text.
#[derive(Debug, Default)]
pub struct MembershipIsLinear {
    peers: Peers,
    /// Of the newest epoch that the master made active.
    newest: Option<Epoch>,
    /// The last epoch of each life.
    last: BTreeMap<(ProcessId, Life), Epoch>,
    /// The rings of each epoch, and the members of all groups; from whom they are known.
    rings: BTreeMap<Epoch, Vec<Known>>,
    is_another_master: bool,
}

/// What one life of a process was told of an epoch.
#[derive(Debug)]
struct Known {
    who: (ProcessId, Life),
    ring: Vec<PeerId>,
    /// The members of all groups.
    global: u32,
}

impl Checker for MembershipIsLinear {
    fn invariant(&self) -> &'static str {
        "membership_is_linear"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        self.peers.see(record);
        match &record.event {
            Event::NewRun => {
                self.newest = None;
                self.last.clear();
                self.rings.clear();
                Ok(())
            }
            Event::MasterRules => {
                self.is_another_master = true;
                Ok(())
            }
            Event::MasterEpoch(epoch) => {
                if self.newest >= Some(*epoch) {
                    return Err(format!(
                        "the master made epoch {epoch} active after {}",
                        self.newest.unwrap_or_default()
                    ));
                }
                self.newest = Some(*epoch);
                Ok(())
            }
            Event::EpochOpened { epoch, membership } => {
                self.opened(record.process, *epoch, membership)
            }
            _ => Ok(()),
        }
    }
}

impl MembershipIsLinear {
    fn opened(
        &mut self,
        process: ProcessId,
        epoch: Epoch,
        membership: &Membership,
    ) -> Result<(), String> {
        if self.newest < Some(epoch) {
            return Err(format!(
                "{process} is in epoch {epoch}, which is not active at the master"
            ));
        }
        let life = self.peers.life(process);
        if let Some(last) = self.last.insert((process, life), epoch)
            && last >= epoch
        {
            return Err(format!("{process} went from epoch {last} to {epoch}"));
        }
        let ring: Vec<PeerId> = membership.ring.iter().map(|name| name.id).collect();
        let own = ring.get(membership.rank.0 as usize);
        if own != Some(&membership.peer) || Some(membership.peer) != self.peers.id(process) {
            return Err(format!(
                "{process} is peer {} at rank {} of {ring:?} in epoch {epoch}",
                membership.peer, membership.rank
            ));
        }
        if membership.sizes.group as usize != ring.len() {
            return Err(format!(
                "{process} has a group of {} and a ring of {} in epoch {epoch}",
                membership.sizes.group,
                ring.len()
            ));
        }
        let global = membership.sizes.global;
        let rings = self.rings.entry(epoch).or_default();
        if self.is_another_master {
            rings.retain(|known| !self.peers.is_lost(known.who));
        }
        for known in rings.iter() {
            let meet = known.ring.iter().any(|peer| ring.contains(peer));
            if (meet && known.ring != ring) || known.global != global {
                return Err(format!(
                    "in epoch {epoch} {} has the ring {:?} of {} peers in all, {process} {ring:?} of \
                     {global}",
                    known.who.0, known.ring, known.global
                ));
            }
        }
        let who = (process, life);
        rings.push(Known { who, ring, global });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, epoch, membership};
    use super::*;

    fn opened(count: u32, process: u32, ring: &[u32]) -> Event {
        Event::EpochOpened {
            epoch: epoch(count),
            membership: membership(process, ring),
        }
    }

    fn story() -> Story<MembershipIsLinear> {
        let mut story = Story::of_two(MembershipIsLinear::default());
        story.tell(0, Event::MasterEpoch(epoch(3)));
        story.tell(1, opened(3, 1, &[1, 2]));
        story
    }

    #[test]
    fn one_ring_in_each_epoch_is_right() {
        let mut story = story();
        story.tell(2, opened(3, 2, &[1, 2]));
        story.tell(0, Event::MasterEpoch(epoch(4)));
        story.tell(2, opened(4, 2, &[2]));
    }

    #[test]
    fn another_order_of_the_ring_is_seen() {
        let mut story = story();
        assert!(story.try_tell(2, opened(3, 2, &[2, 1])).is_err());
    }

    #[test]
    fn another_number_of_peers_is_seen() {
        let mut story = story();
        assert!(story.try_tell(2, opened(3, 2, &[2])).is_err());
    }

    #[test]
    fn an_epoch_of_the_dead_comes_again_from_another_master_only() {
        let again = |who_died: u32, is_another_master: bool| {
            let mut story = story();
            story.tell(who_died, Event::Died);
            if is_another_master {
                story.tell(0, Event::MasterRules);
            }
            story.try_tell(2, opened(3, 2, &[2])).is_ok()
        };
        assert!(again(1, true));
        assert!(!again(1, false));
        assert!(!again(3, true));
    }

    #[test]
    fn an_epoch_used_twice_is_seen() {
        assert!(story().try_tell(0, Event::MasterEpoch(epoch(3))).is_err());
        assert!(story().try_tell(1, opened(3, 1, &[1, 2])).is_err());
    }

    #[test]
    fn an_epoch_that_is_not_active_is_seen() {
        assert!(story().try_tell(2, opened(4, 2, &[1, 2])).is_err());
    }

    #[test]
    fn a_rank_that_is_somebody_elses_is_seen() {
        assert!(story().try_tell(2, opened(3, 1, &[1, 2])).is_err());
    }
}
