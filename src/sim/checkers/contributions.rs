//! I4: the reported set is exactly what was summed: no contribution is lost and none is doubled.
//!
//! The result is computed anew from what the reported contributors gave to their calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Checker;
use super::arithmetic::combine_all;
use super::calls::{Calls, Operation, Step};
use super::peers::Peers;
use crate::sim::history::{Call, Event, Record, Returned};
use crate::types::{OperationId, PeerId};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Contributions {
    calls: Calls,
    peers: Peers,
    operations: BTreeMap<OperationId, Inputs>,
}

/// What was given to an operation that somebody may still be told the result of.
#[derive(Debug, Default)]
struct Inputs {
    given: BTreeMap<PeerId, Arc<[u8]>>,
    inside: BTreeSet<PeerId>,
    /// A result that was found right.
    right: Option<(Vec<PeerId>, blake3::Hash)>,
}

impl Checker for Contributions {
    fn invariant(&self) -> &'static str {
        "contributions"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        self.peers.see(record);
        let own = self.peers.id(record.process);
        // Who has left the run may still be told what was settled before.
        if let (Event::Died | Event::LifeEnded { .. }, Some(own)) = (&record.event, own) {
            self.operations.retain(|_, inputs| inputs.is_left_by(own));
        }
        if let Event::NewRun = record.event {
            self.operations.clear();
        }
        match self.calls.see(record) {
            Some(Step::Began { call }) => {
                let Some(own) = own else {
                    return Err(format!(
                        "{} began an operation without being a peer",
                        record.process
                    ));
                };
                let (Some(operation), Call::Reduce { input, .. }) = (&call.operation, &call.what)
                else {
                    return Ok(());
                };
                let op = operation.op;
                // Whoever begins the next one has none to do with those before.
                self.operations.retain(|other, inputs| {
                    other.tag != op.tag || *other >= op || inputs.is_left_by(own)
                });
                let inputs = self.operations.entry(op).or_insert_with(|| Inputs {
                    inside: operation.ring.iter().copied().collect(),
                    ..Inputs::default()
                });
                inputs.given.insert(own, input.clone());
                Ok(())
            }
            Some(Step::Ended { call, result }) => {
                let (Some(operation), Some(own)) = (&call.operation, own) else {
                    return Ok(());
                };
                let verdict = match result {
                    Returned::Reduce {
                        result: Ok(contributors),
                        output,
                        ..
                    } => {
                        let inputs = self.operations.entry(operation.op).or_default();
                        inputs.judge(&self.peers, operation, contributors, output)
                    }
                    _ => Ok(()),
                };
                leave(&mut self.operations, operation.op, own);
                verdict
            }
            None => Ok(()),
        }
    }
}

impl Inputs {
    fn judge(
        &mut self,
        peers: &Peers,
        operation: &Operation,
        contributors: &[PeerId],
        output: &[u8],
    ) -> Result<(), String> {
        let op = operation.op;
        let of = |peers: &[PeerId]| peers.iter().copied().collect::<BTreeSet<_>>();
        let set = of(contributors);
        if set.len() != contributors.len() || set != of(&operation.ring) {
            return Err(format!(
                "{op} ran on the ring {:?} and reports the contributors {contributors:?}",
                operation.ring
            ));
        }
        let hash = blake3::hash(output);
        if self.right.as_ref() == Some(&(contributors.to_vec(), hash)) {
            return Ok(());
        }
        let mut given = Vec::new();
        for peer in contributors {
            let Some(input) = self.given.get(peer) else {
                let name = peers.name(*peer);
                return Err(format!(
                    "{name} is said to have contributed to {op}, and did not"
                ));
            };
            given.push(&input[..]);
        }
        combine_all(&operation.descriptor, &given, output)
            .map_err(|words| format!("the result of {op} is wrong: {words}"))?;
        self.right = Some((contributors.to_vec(), hash));
        Ok(())
    }

    /// Takes a peer out; whether anybody is left.
    fn is_left_by(&mut self, peer: PeerId) -> bool {
        self.inside.remove(&peer);
        !self.inside.is_empty()
    }
}

/// Inputs are large: they are forgotten once nobody can be told of the result any more.
fn leave(operations: &mut BTreeMap<OperationId, Inputs>, op: OperationId, peer: PeerId) {
    if operations
        .get_mut(&op)
        .is_some_and(|inputs| !inputs.is_left_by(peer))
    {
        operations.remove(&op);
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, aborted, op};
    use super::*;

    fn story() -> (Story<Contributions>, u64) {
        let mut story = Story::of_two(Contributions::default());
        let one = story.reduce(1, op(1, 7, 0), &[1, 1]);
        story.reduce(2, op(1, 7, 0), &[2, 4]);
        (story, one)
    }

    #[test]
    fn each_contribution_once_is_right() {
        let (mut story, one) = story();
        story.reduced(1, one, Ok(&[1, 2]), &[3, 5]).unwrap();
    }

    #[test]
    fn a_doubled_a_lost_and_a_misplaced_contribution_are_seen() {
        for wrong in [[4, 6], [1, 1], [5, 3]] {
            let (mut story, one) = story();
            assert!(story.reduced(1, one, Ok(&[1, 2]), &wrong).is_err());
        }
    }

    #[test]
    fn a_set_that_is_not_the_ring_is_seen() {
        let (mut story, one) = story();
        assert!(story.reduced(1, one, Ok(&[1]), &[1, 1]).is_err());
    }

    #[test]
    fn a_contributor_that_had_not_called_is_seen() {
        let mut story = Story::of_two(Contributions::default());
        let one = story.reduce(1, op(1, 7, 0), &[1]);
        assert!(story.reduced(1, one, Ok(&[1, 2]), &[1]).is_err());
    }

    #[test]
    fn an_operation_that_begins_again_counts_in_the_new_epoch() {
        let (mut story, one) = story();
        let call = Event::OperationBegan {
            op: op(2, 7, 0),
            descriptor: crate::types::Descriptor {
                count: 2,
                data_type: crate::types::DataType::U8,
                op: crate::types::ReduceOp::Sum,
                quantization: None,
            },
            ring: vec![PeerId(10), PeerId(20)],
        };
        story.tell(1, call.clone());
        story.tell(2, call);
        story.reduced(1, one, Ok(&[1, 2]), &[3, 5]).unwrap();
    }

    #[test]
    fn inputs_are_forgotten_when_everybody_has_returned() {
        let (mut story, one) = story();
        story.reduced(1, one, Err(aborted()), &[1, 1]).unwrap();
        assert_eq!(story.checker.operations.len(), 1);
        story.tell(2, Event::Died);
        assert!(story.checker.operations.is_empty());
    }

    #[test]
    fn who_dies_after_giving_its_share_has_contributed() {
        let mut story = Story::of_two(Contributions::default());
        story.reduce(2, op(1, 7, 0), &[2]);
        story.tell(2, Event::Died);
        let one = story.reduce(1, op(1, 7, 0), &[1]);
        story.reduced(1, one, Ok(&[1, 2]), &[3]).unwrap();
    }
}
