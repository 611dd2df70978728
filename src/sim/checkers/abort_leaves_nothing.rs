//! I7: a failed all-reduce leaves the caller's input as it was, in place or not; one out of place
//! leaves it so in any case.

use super::Checker;
use super::calls::{Calls, Step};
use crate::sim::history::{Call, Record, Returned};

/// See the module's text.
#[derive(Debug, Default)]
pub struct AbortLeavesNothing {
    calls: Calls,
}

impl Checker for AbortLeavesNothing {
    fn invariant(&self) -> &'static str {
        "abort_leaves_nothing"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        let Some(Step::Ended { call, result }) = self.calls.see(record) else {
            return Ok(());
        };
        let (
            Call::Reduce {
                input: before,
                in_place,
                ..
            },
            Returned::Reduce { result, input, .. },
        ) = (&call.what, result)
        else {
            return Ok(());
        };
        let is_result = *in_place && result.is_ok();
        if is_result || before == input {
            return Ok(());
        }
        let place = before.iter().zip(input.iter()).position(|(a, b)| a != b);
        Err(format!(
            "the input of {}'s {} is changed from byte {} of {} on, after: {result:?}",
            record.process,
            call.what.words(),
            place.unwrap_or(before.len().min(input.len())),
            before.len(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, aborted, op};
    use super::*;
    use crate::sim::history::Event;
    use crate::types::{DataType, ReduceOp};

    #[test]
    fn an_input_that_is_as_before_is_right() {
        let mut story = Story::of_two(AbortLeavesNothing::default());
        let call = story.reduce(1, op(1, 7, 0), &[1, 2]);
        story.reduced(1, call, Err(aborted()), &[1, 2]).unwrap();
        let call = story.reduce(1, op(1, 7, 1), &[1, 2]);
        story.reduced(1, call, Ok(&[1, 2]), &[5, 6]).unwrap();
    }

    #[test]
    fn an_input_half_overwritten_is_seen() {
        let mut story = Story::of_two(AbortLeavesNothing::default());
        let call = story.reduce(1, op(1, 7, 0), &[1, 2]);
        let error = story.reduced(1, call, Err(aborted()), &[1, 9]).unwrap_err();
        assert!(error.contains("from byte 1 of 2"), "{error}");
    }

    #[test]
    fn a_send_buffer_that_was_written_is_seen_after_success() {
        let mut story = Story::of_two(AbortLeavesNothing::default());
        let kind = (ReduceOp::Sum, DataType::U8);
        let call = story.reduce_with(1, op(1, 7, 0), kind, &[1, 2], false);
        let result = Returned::Reduce {
            result: Ok(Vec::new()),
            input: [1, 3].into(),
            output: [4, 4].into(),
        };
        assert!(story.try_tell(1, Event::Returned { call, result }).is_err());
    }
}
