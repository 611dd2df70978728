//! What is due to one peer: the queue that all lanes of a link pull from.
//!
//! Control goes first, then the operations in turns, so that a large one never holds up a small
//! one. Until the receiver's grant an operation may send its eager amount only, and what is left of
//! the link's advance; what lies beyond waits here and leaves the turn to others.

use std::collections::{BTreeMap, VecDeque};

use super::EAGER_BYTES;
use crate::engine::Due;
use crate::types::{Epoch, OperationId};

/// Something to send: a description, never bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Grant(OperationId),
    Data(OperationId, Due),
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    grants: VecDeque<OperationId>,
    queues: BTreeMap<OperationId, Queue>,
    /// Operations whose first item may be sent now, each once.
    turns: VecDeque<OperationId>,
    /// What all operations may send together, beyond the eager amount of each, without a grant.
    advance: usize,
    /// What they have sent of it. An operation that ended without a grant keeps its part: the
    /// receiver may hold it, until its grant comes after all, or the next epoch.
    advanced: BTreeMap<OperationId, usize>,
}

#[derive(Debug)]
struct Queue {
    due: VecDeque<Queued>,
    granted: bool,
    eager_left: usize,
    in_turns: bool,
}

#[derive(Debug)]
struct Queued {
    due: Due,
    /// Sent before, on a lane that broke: paid for out of the eager amount already.
    is_repeat: bool,
}

/// An item taken out, and whether it was sent before.
pub(super) struct Pulled {
    pub(super) item: Item,
    pub(super) is_repeat: bool,
}

impl Outbox {
    /// Makes room for an operation. Only what belongs to an open one is kept.
    pub(super) fn open(&mut self, operation: OperationId, granted: bool) {
        let (due, in_turns) = (VecDeque::new(), false);
        let queue = Queue {
            due,
            granted,
            eager_left: EAGER_BYTES,
            in_turns,
        };
        self.queues.insert(operation, queue);
    }

    /// How much all operations may send together before they are granted.
    pub(super) fn allow_advance(&mut self, bytes: usize) {
        self.advance = bytes;
    }

    /// From now on nothing of older epochs is with the receiver.
    pub(super) fn open_epoch(&mut self, epoch: Epoch) {
        self.advanced.retain(|op, _| op.epoch >= epoch);
    }

    pub(super) fn close(&mut self, operation: OperationId) {
        self.grants.retain(|id| *id != operation);
        if self
            .queues
            .remove(&operation)
            .is_some_and(|queue| queue.in_turns)
        {
            self.turns.retain(|id| *id != operation);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.queues.is_empty() && self.advanced.is_empty()
    }

    /// Whether something could be sent now.
    #[cfg(test)]
    pub(super) fn has_sendable(&self) -> bool {
        !self.grants.is_empty() || !self.turns.is_empty()
    }

    pub(super) fn push_grant(&mut self, operation: OperationId) {
        self.grants.push_back(operation);
    }

    pub(super) fn push(&mut self, operation: OperationId, due: Due) {
        if let Some(queue) = self.queues.get_mut(&operation) {
            queue.due.push_back(Queued {
                due,
                is_repeat: false,
            });
            self.take_turn(operation);
        }
    }

    /// Puts an item back in front: the lane that had it broke.
    pub(super) fn push_back_in_front(&mut self, item: Item) {
        match item {
            Item::Grant(operation) => self.grants.push_front(operation),
            Item::Data(operation, due) => {
                if let Some(queue) = self.queues.get_mut(&operation) {
                    queue.due.push_front(Queued {
                        due,
                        is_repeat: true,
                    });
                    self.take_turn(operation);
                }
            }
        }
    }

    /// Notes the receiver's grant, also of an operation that has ended.
    pub(super) fn grant(&mut self, operation: OperationId) {
        let had_advanced = self.advanced.remove(&operation).is_some();
        if let Some(queue) = self.queues.get_mut(&operation) {
            queue.granted = true;
            self.take_turn(operation);
        }
        if had_advanced {
            let waiting: Vec<OperationId> = self.queues.keys().copied().collect();
            waiting.into_iter().for_each(|id| self.take_turn(id));
        }
    }

    /// The next item, whatever operation's turn it is.
    pub(super) fn pull(&mut self) -> Option<Pulled> {
        if let Some(operation) = self.grants.pop_front() {
            return Some(Pulled {
                item: Item::Grant(operation),
                is_repeat: false,
            });
        }
        while let Some(operation) = self.turns.pop_front() {
            let Some(queue) = self.queues.get_mut(&operation) else {
                continue;
            };
            queue.in_turns = false;
            if !queue.may_send(left(self.advance, &self.advanced)) {
                continue;
            }
            let Some(Queued { due, is_repeat }) = queue.due.pop_front() else {
                continue;
            };
            if !is_repeat && !queue.granted {
                let beyond = due.len_bytes.saturating_sub(queue.eager_left);
                queue.eager_left = queue.eager_left.saturating_sub(due.len_bytes);
                if beyond > 0 {
                    *self.advanced.entry(operation).or_default() += beyond;
                }
            }
            self.take_turn(operation);
            return Some(Pulled {
                item: Item::Data(operation, due),
                is_repeat,
            });
        }
        None
    }

    fn take_turn(&mut self, operation: OperationId) {
        if let Some(queue) = self.queues.get_mut(&operation)
            && !queue.in_turns
            && queue.may_send(left(self.advance, &self.advanced))
        {
            queue.in_turns = true;
            self.turns.push_back(operation);
        }
    }
}

impl Queue {
    fn may_send(&self, advance_left: usize) -> bool {
        self.due.front().is_some_and(|first| {
            let free = self.eager_left + advance_left;
            self.granted || first.is_repeat || first.due.len_bytes <= free
        })
    }
}

/// What is left of the advance.
fn left(advance: usize, advanced: &BTreeMap<OperationId, usize>) -> usize {
    advance.saturating_sub(advanced.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Source;
    use crate::types::{Epoch, Rank, Tag};

    fn operation(tag: u64) -> OperationId {
        OperationId {
            epoch: Epoch::default(),
            tag: Tag(tag),
            n: 0,
        }
    }

    fn due(segment: u32, len: usize) -> Due {
        Due {
            to: Rank(1),
            step: 0,
            segment,
            range: 0..len,
            len_bytes: len,
            source: Source::Input,
        }
    }

    fn pulled(outbox: &mut Outbox) -> Option<Item> {
        outbox.pull().map(|pulled| pulled.item)
    }

    #[test]
    fn operations_take_turns_and_control_goes_first() {
        let mut outbox = Outbox::default();
        for tag in [1, 2] {
            outbox.open(operation(tag), true);
            outbox.push(operation(tag), due(0, 10));
            outbox.push(operation(tag), due(1, 10));
        }
        outbox.push_grant(operation(3));
        let order: Vec<Item> = std::iter::from_fn(|| pulled(&mut outbox)).collect();
        let expected = [
            Item::Grant(operation(3)),
            Item::Data(operation(1), due(0, 10)),
            Item::Data(operation(2), due(0, 10)),
            Item::Data(operation(1), due(1, 10)),
            Item::Data(operation(2), due(1, 10)),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn data_beyond_the_eager_amount_waits_for_the_grant() {
        let mut outbox = Outbox::default();
        outbox.open(operation(1), false);
        outbox.push(operation(1), due(0, EAGER_BYTES));
        outbox.push(operation(1), due(1, 1));
        let first = pulled(&mut outbox).unwrap();
        assert!(outbox.pull().is_none() && !outbox.has_sendable());
        // A repeat is paid for, and holds back nobody but what comes after it.
        outbox.push_back_in_front(first.clone());
        assert_eq!(pulled(&mut outbox), Some(first));
        assert!(outbox.pull().is_none());
        outbox.grant(operation(1));
        assert_eq!(
            pulled(&mut outbox),
            Some(Item::Data(operation(1), due(1, 1)))
        );
    }

    #[test]
    fn operations_share_what_may_be_sent_in_advance_of_grants() {
        let mut outbox = Outbox::default();
        outbox.allow_advance(1000);
        for tag in [1, 2] {
            outbox.open(operation(tag), false);
            outbox.push(operation(tag), due(0, EAGER_BYTES));
            outbox.push(operation(tag), due(1, 600));
            outbox.push(operation(tag), due(2, 500));
        }
        let sent = |outbox: &mut Outbox| -> Vec<(u64, u32)> {
            std::iter::from_fn(|| match pulled(outbox)? {
                Item::Data(op, due) => Some((op.tag.0, due.segment)),
                Item::Grant(_) => None,
            })
            .collect()
        };
        assert_eq!(sent(&mut outbox), [(1, 0), (2, 0), (1, 1)][..]);
        // The one that is granted gives its part to the other.
        outbox.grant(operation(1));
        assert_eq!(sent(&mut outbox), [(1, 2), (2, 1)][..]);
        // One that ends without a grant may lie with the receiver until the grant comes late.
        outbox.close(operation(2));
        assert!(!outbox.is_empty());
        outbox.open(operation(3), false);
        outbox.push(operation(3), due(0, EAGER_BYTES));
        outbox.push(operation(3), due(1, 500));
        assert_eq!(sent(&mut outbox), [(3, 0)][..]);
        outbox.grant(operation(2));
        assert_eq!(sent(&mut outbox), [(3, 1)][..]);
        outbox.close(operation(1));
        outbox.close(operation(3));
        outbox.open_epoch(Epoch { term: 1, count: 0 });
        assert!(outbox.is_empty());
    }

    #[test]
    fn nothing_of_a_closed_operation_is_left() {
        let mut outbox = Outbox::default();
        outbox.open(operation(1), true);
        outbox.push(operation(1), due(0, 1));
        outbox.push_grant(operation(1));
        outbox.close(operation(1));
        outbox.push(operation(1), due(1, 1));
        outbox.push_back_in_front(Item::Data(operation(1), due(2, 1)));
        assert!(outbox.is_empty() && !outbox.has_sendable());
        assert!(outbox.pull().is_none());
    }
}
