//! I3: if one peer returns success with contributor set S, every other live peer of the operation
//! returns success with S, or is evicted.

use std::collections::BTreeMap;

use super::calls::{Calls, Step};
use super::peers::Peers;
use super::{Checker, End};
use crate::error::CollectiveError;
use crate::sim::history::{Life, ProcessId, Record, Returned};
use crate::types::{OperationId, PeerId};

/// See the module's text.
#[derive(Debug, Default)]
pub struct OneOutcome {
    calls: Calls,
    peers: Peers,
    outcomes: BTreeMap<OperationId, Outcome>,
}

/// What callers were told of one operation.
#[derive(Debug, Default)]
struct Outcome {
    success: BTreeMap<(ProcessId, Life), Vec<PeerId>>,
    failure: BTreeMap<(ProcessId, Life), CollectiveError>,
}

impl Checker for OneOutcome {
    fn invariant(&self) -> &'static str {
        "one_outcome"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        self.peers.see(record);
        let Some(Step::Ended { call, result }) = self.calls.see(record) else {
            return Ok(());
        };
        let (Returned::Reduce { result, .. }, Some(operation)) = (result, call.operation) else {
            return Ok(());
        };
        let outcome = self.outcomes.entry(operation.op).or_default();
        let who = (record.process, call.life);
        match result {
            Ok(contributors) => {
                outcome.success.insert(who, contributors.clone());
            }
            // It has left the run, and nobody knows how the operation ended.
            Err(CollectiveError::Gone(_)) => {}
            Err(error) => {
                outcome.failure.insert(who, error.clone());
            }
        }
        outcome.judge(operation.op)
    }

    fn end(&mut self, _: &End) -> Result<(), String> {
        for (op, outcome) in &self.outcomes {
            let Some(((winner, _), contributors)) = outcome.success.first_key_value() else {
                continue;
            };
            for peer in contributors {
                let Some(who) = self.peers.process(*peer) else {
                    return Err(format!("nobody is peer {peer}, which contributed to {op}"));
                };
                if self.peers.is_in_run(who) && !outcome.success.contains_key(&who) {
                    return Err(format!(
                        "{winner} has a result of {op}, {} is alive and has none",
                        self.peers.name(*peer)
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Outcome {
    fn judge(&self, op: OperationId) -> Result<(), String> {
        let Some(((first, _), set)) = self.success.first_key_value() else {
            return Ok(());
        };
        if let Some(((other, _), error)) = self.failure.first_key_value() {
            return Err(format!(
                "{first} has a result of {op}, {other} was told: {error}"
            ));
        }
        match self.success.iter().find(|(_, other)| *other != set) {
            Some(((other, _), theirs)) => Err(format!(
                "{op} has the contributors {set:?} at {first}, {theirs:?} at {other}"
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, aborted, op};
    use super::*;
    use crate::error::Gone;
    use crate::sim::history::Event;

    fn story() -> (Story<OneOutcome>, u64) {
        let mut story = Story::of_two(OneOutcome::default());
        let one = story.reduce(1, op(1, 7, 0), &[1]);
        let two = story.reduce(2, op(1, 7, 0), &[2]);
        story.reduced(1, one, Ok(&[1, 2]), &[3]).unwrap();
        (story, two)
    }

    #[test]
    fn one_outcome_for_all_is_right() {
        let (mut story, two) = story();
        story.reduced(2, two, Ok(&[1, 2]), &[3]).unwrap();
        story.end(&[]).unwrap();
    }

    #[test]
    fn an_abort_beside_a_result_is_seen() {
        let (mut story, two) = story();
        assert!(story.reduced(2, two, Err(aborted()), &[2]).is_err());
    }

    #[test]
    fn two_sets_of_contributors_are_seen() {
        let (mut story, two) = story();
        assert!(story.reduced(2, two, Ok(&[2]), &[3]).is_err());
    }

    #[test]
    fn who_is_evicted_or_dead_counts_for_nobody() {
        let (mut evicted, two) = story();
        let gone = Gone::Evicted {
            reason: "it was silent".to_owned(),
        };
        evicted.tell(2, Event::MachineGone(gone.clone()));
        evicted.reduced(2, two, Err(gone.into()), &[2]).unwrap();
        evicted.end(&[]).unwrap();
        let (mut dead, _) = story();
        dead.tell(2, Event::Died);
        dead.end(&[]).unwrap();
    }

    #[test]
    fn a_contributor_that_never_hears_of_it_is_seen_in_the_end() {
        let (mut story, _) = story();
        assert!(story.end(&[]).is_err());
    }
}
