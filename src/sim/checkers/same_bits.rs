//! I2: all peers for which operation (epoch, tag, n) committed hold identical result bytes.

use std::collections::BTreeMap;

use super::Checker;
use super::calls::{Calls, Step};
use crate::sim::history::{Event, ProcessId, Record, Returned};
use crate::types::OperationId;

/// See the module's text.
#[derive(Debug, Default)]
pub struct SameBits {
    calls: Calls,
    results: BTreeMap<OperationId, (ProcessId, blake3::Hash)>,
}

impl Checker for SameBits {
    fn invariant(&self) -> &'static str {
        "same_bits"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        if let Event::NewRun = record.event {
            self.results.clear();
        }
        let Some(Step::Ended {
            call,
            result:
                Returned::Reduce {
                    result: Ok(_),
                    output,
                    ..
                },
        }) = self.calls.see(record)
        else {
            return Ok(());
        };
        let Some(operation) = call.operation else {
            return Err(format!(
                "{} has a result of an operation that never began there",
                record.process
            ));
        };
        let hash = blake3::hash(output);
        let (first, theirs) = self
            .results
            .entry(operation.op)
            .or_insert((record.process, hash));
        if *theirs != hash {
            return Err(format!(
                "{first} and {} hold different results of {}",
                record.process, operation.op
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, aborted, op};
    use super::*;

    #[test]
    fn equal_results_are_right() {
        let mut story = Story::of_two(SameBits::default());
        let one = story.reduce(1, op(1, 7, 0), &[1]);
        let two = story.reduce(2, op(1, 7, 0), &[2]);
        story.reduced(1, one, Ok(&[1, 2]), &[3]).unwrap();
        story.reduced(2, two, Ok(&[1, 2]), &[3]).unwrap();
    }

    #[test]
    fn different_results_are_seen() {
        let mut story = Story::of_two(SameBits::default());
        let one = story.reduce(1, op(1, 7, 0), &[1]);
        let two = story.reduce(2, op(1, 7, 0), &[2]);
        story.reduced(1, one, Ok(&[1, 2]), &[3]).unwrap();
        assert!(story.reduced(2, two, Ok(&[1, 2]), &[4]).is_err());
    }

    #[test]
    fn another_use_of_the_tag_may_differ() {
        let mut story = Story::of_two(SameBits::default());
        let one = story.reduce(1, op(1, 7, 0), &[1]);
        story.reduced(1, one, Err(aborted()), &[1]).unwrap();
        let one = story.reduce(1, op(1, 7, 1), &[1]);
        story.reduced(1, one, Ok(&[1, 2]), &[9]).unwrap();
    }
}
