//! A link: the lanes to one peer and the outbox they pull from.

use std::collections::BTreeMap;

use super::lane::{Lane, LaneKey};
use super::outbox::Outbox;
use crate::mutation::{Mutation, mutated};

#[derive(Default)]
pub(super) struct Link {
    pub(super) outbox: Outbox,
    pub(super) lanes: BTreeMap<u16, Lane>,
    /// Frames that the other side ever acknowledged, over any lane.
    pub(super) delivered: u64,
}

impl Link {
    pub(super) fn lane(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.lanes
            .get_mut(&key.index)
            .filter(|lane| lane.generation == key.generation)
    }

    pub(super) fn has(&self, key: LaneKey) -> bool {
        self.lanes
            .get(&key.index)
            .is_some_and(|lane| lane.generation == key.generation)
    }

    /// Wakes idle lanes for `count` new items, the lowest index first: a small operation keeps to
    /// one lane.
    pub(super) fn wake(&mut self, count: usize) {
        self.lanes
            .values_mut()
            .filter(|lane| lane.is_idle())
            .take(count)
            .for_each(Lane::wake);
    }

    /// Takes a lane out, ends its tasks, and puts what it had not delivered back into the outbox.
    pub(super) fn remove_lane(&mut self, index: u16) -> Option<Lane> {
        let mut lane = self.lanes.remove(&index)?;
        lane.abort();
        let items = lane.unfinished();
        for item in lane.take_unfinished() {
            if !mutated(Mutation::NoResendAfterBrokenLane) {
                self.outbox.push_back_in_front(item);
            }
        }
        self.wake(items);
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::Item;
    use super::*;
    use crate::types::{Epoch, OperationId, Tag};

    fn grant(tag: u64) -> Item {
        Item::Grant(OperationId {
            epoch: Epoch::default(),
            tag: Tag(tag),
            n: 0,
        })
    }

    #[test]
    fn a_broken_lane_gives_back_what_was_not_acknowledged_in_order() {
        let mut link = Link::default();
        let mut lane = Lane::new(1);
        (0..4).for_each(|tag| lane.sent(grant(tag)));
        assert_eq!(lane.acknowledge(2), Ok(2));
        assert_eq!(
            lane.acknowledge(1),
            Ok(0),
            "an older count says nothing new"
        );
        assert!(lane.acknowledge(5).is_err());
        link.lanes.insert(0, lane);
        link.remove_lane(0);
        assert_eq!(link.outbox.pull().map(|p| p.item), Some(grant(2)));
        assert_eq!(link.outbox.pull().map(|p| p.item), Some(grant(3)));
        assert!(link.outbox.pull().is_none());
    }
}
