//! What the plane knows, under its one lock: the epoch, what was settled in it, the operations under
//! way, the links, and what came early.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::early::Early;
use super::lane::{Lane, LaneKey};
use super::link::Link;
use super::operation::Operation;
use crate::types::{Epoch, OperationId, PeerId, Tag};

#[derive(Default)]
pub(super) struct State {
    /// `None` until the first is opened: everything is early.
    pub(super) epoch: Option<Epoch>,
    /// Uses of each tag that were settled in this epoch.
    pub(super) settled: BTreeMap<Tag, u32>,
    pub(super) operations: BTreeMap<OperationId, Arc<Operation>>,
    pub(super) links: BTreeMap<PeerId, Link>,
    pub(super) early: Early,
    pub(super) is_shut_down: bool,
    /// A task looks after the lanes.
    pub(super) is_watched: bool,
}

impl State {
    pub(super) fn lane(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.links.get_mut(&key.peer)?.lane(key)
    }

    /// Whether frames of this number come too late.
    pub(super) fn is_stale(&self, op: &OperationId) -> bool {
        is_stale(self.epoch, &self.settled, op)
    }

    pub(super) fn drop_stale_early(&mut self) {
        let State {
            epoch,
            settled,
            early,
            ..
        } = self;
        early.drop_stale(|op| is_stale(*epoch, settled, op));
    }

    pub(super) fn note_settled(&mut self, op: OperationId) {
        if self.epoch == Some(op.epoch) {
            let settled = self.settled.entry(op.tag).or_default();
            *settled = (*settled).max(op.n.saturating_add(1));
            self.drop_stale_early();
        }
    }

    pub(super) fn granted(&mut self, peer: PeerId, op: OperationId) -> Result<(), String> {
        if !self.operations.contains_key(&op) && !self.is_stale(&op) {
            return self.early.keep_grant(peer, op);
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.outbox.grant(op);
            link.wake(usize::MAX);
        }
        Ok(())
    }
}

fn is_stale(epoch: Option<Epoch>, settled: &BTreeMap<Tag, u32>, op: &OperationId) -> bool {
    let settled_uses = settled.get(&op.tag).copied().unwrap_or(0);
    Some(op.epoch) < epoch || (Some(op.epoch) == epoch && op.n < settled_uses)
}
