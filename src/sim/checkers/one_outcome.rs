//! I3: if one peer returns success with contributor set S, every other live peer of the operation
//! returns success with S, or is evicted. And no outcome is kept from anybody: who goes from one use
//! of a tag to a later one was told how each in between ended, unless an update or a sync came
//! between.
//!
//! Where another master has come to rule, what the one before told only those who are dead, or gave up
//! waiting, is told to nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{Calls, Step};
use super::peers::Peers;
use super::{Checker, End};
use crate::error::CollectiveError;
use crate::sim::history::{Call, Event, Life, ProcessId, Record, Returned};
use crate::types::{OperationId, PeerId, Tag};

/// See the module's text.
#[derive(Debug, Default)]
pub struct OneOutcome {
    calls: Calls,
    peers: Peers,
    outcomes: BTreeMap<OperationId, Outcome>,
    told: Told,
    is_another_master: bool,
}

/// Who was told of how many uses of a tag.
#[derive(Debug, Default)]
struct Told {
    /// Where it is known how many they have to be.
    uses: BTreeMap<(ProcessId, Tag), Uses>,
    /// Those who are owed nothing of their epoch yet: each tag is at its first use.
    fresh: BTreeSet<ProcessId>,
}

/// What one caller was told of a tag since some use of it in its epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    since: u32,
    told: u32,
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
        match &record.event {
            Event::EpochOpened { .. } => {
                self.told.forgive(record.process);
                self.told.fresh.insert(record.process);
            }
            // Another life counts from the start, and so does who owes nothing any more.
            Event::LifeBegan(_)
            | Event::Died
            | Event::Returned {
                result: Returned::Membership(Ok(())) | Returned::Sync { result: Ok(_), .. },
                ..
            } => self.told.forgive(record.process),
            Event::NewRun => self.outcomes.clear(),
            Event::MasterRules => self.is_another_master = true,
            Event::OperationBegan { op, .. } => self.told.began(record.process, *op)?,
            _ => {}
        }
        let Some(Step::Ended { call, result }) = self.calls.see(record) else {
            return Ok(());
        };
        if let Call::Reduce { tag, .. } = &call.what
            && let Some(uses) = self.told.uses_of(record.process, *tag)
        {
            uses.told += 1;
        }
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
        if self.is_another_master {
            let peers = &self.peers;
            outcome.success.retain(|who, _| !peers.is_lost(*who));
            outcome.failure.retain(|who, _| !peers.is_lost(*who));
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

impl Told {
    /// What this process is owed is not counted on.
    fn forgive(&mut self, process: ProcessId) {
        self.uses.retain(|(of, _), _| *of != process);
        self.fresh.remove(&process);
    }

    fn uses_of(&mut self, process: ProcessId, tag: Tag) -> Option<&mut Uses> {
        if self.fresh.contains(&process) {
            return Some(self.uses.entry((process, tag)).or_default());
        }
        self.uses.get_mut(&(process, tag))
    }

    fn began(&mut self, process: ProcessId, op: OperationId) -> Result<(), String> {
        let before = self.uses_of(process, op.tag).copied();
        let uses = Uses {
            since: op.n,
            told: 0,
        };
        self.uses.insert((process, op.tag), uses);
        match before {
            Some(Uses { since, told }) if since + told < op.n => Err(format!(
                "{process} goes from use {since} of tag {} to use {} in epoch {}, and was told \
                 of {told} ends",
                op.tag, op.n, op.epoch
            )),
            _ => Ok(()),
        }
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
    use super::super::story::{Story, aborted, epoch, membership, op, peer};
    use super::*;
    use crate::error::Gone;
    use crate::types::{DataType, Descriptor, ReduceOp};

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
    fn what_only_the_dead_were_told_by_a_master_before_is_told_to_nobody() {
        let gave_up = Gone::NoMajority {
            master: "a:1".to_owned(),
            grace_ms: 1000,
        };
        for end in [Event::Died, Event::MachineGone(gave_up)] {
            for is_another_master in [true, false] {
                let (mut story, two) = story();
                story.tell(1, end.clone());
                if is_another_master {
                    story.tell(0, Event::MasterRules);
                }
                let aborts = story.reduced(2, two, Err(aborted()), &[2]);
                assert_eq!(aborts.is_ok(), is_another_master);
            }
        }
    }

    #[test]
    fn a_contributor_that_never_hears_of_it_is_seen_in_the_end() {
        let (mut story, _) = story();
        assert!(story.end(&[]).is_err());
    }

    #[test]
    fn who_had_not_called_must_hear_of_the_failure() {
        for hears in [true, false] {
            let mut story = Story::of_two(OneOutcome::default());
            story.tell(
                2,
                Event::EpochOpened {
                    epoch: epoch(1),
                    membership: membership(2, &[1, 2]),
                },
            );
            let first = story.reduce(2, op(1, 7, 0), &[2]);
            story.reduced(2, first, Ok(&[1, 2]), &[3]).unwrap();
            if hears {
                let what = Call::Reduce {
                    tag: Tag(7),
                    data_type: DataType::U8,
                    op: ReduceOp::Sum,
                    input: [1].into(),
                    in_place: true,
                    deadline: None,
                };
                let owed = story.call(2, what);
                story.reduced(2, owed, Err(aborted()), &[1]).unwrap();
            }
            let next = Event::OperationBegan {
                op: op(1, 7, 2),
                descriptor: Descriptor {
                    count: 1,
                    data_type: DataType::U8,
                    op: ReduceOp::Sum,
                    quantization: None,
                },
                ring: vec![peer(1), peer(2)],
            };
            assert_eq!(story.try_tell(2, next).is_ok(), hears);
        }
    }
}
