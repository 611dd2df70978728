//! I6: every call returns within a computable bound after the last fault, and what is called then
//! goes well: an update, a sync and an all-reduce with everybody who is alive.

use std::collections::BTreeSet;

use super::calls::Calls;
use super::{Checker, End};
use crate::sim::history::{Event, ProcessId, Record};

/// See the module's text.
#[derive(Debug, Default)]
pub struct BoundedBlocking {
    calls: Calls,
    came_right: BTreeSet<ProcessId>,
}

impl Checker for BoundedBlocking {
    fn invariant(&self) -> &'static str {
        "bounded_blocking"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        self.calls.see(record);
        if matches!(record.event, Event::CameRight) {
            self.came_right.insert(record.process);
        }
        Ok(())
    }

    fn end(&mut self, end: &End) -> Result<(), String> {
        let waits: Vec<String> = self
            .calls
            .open()
            .map(|(process, _, call)| {
                format!("{process} is in {} since {}", call.what.words(), call.at)
            })
            .collect();
        let behind: Vec<String> = end
            .owed
            .iter()
            .filter(|process| !self.came_right.contains(process))
            .map(ProcessId::to_string)
            .collect();
        if behind.is_empty() && waits.is_empty() {
            return Ok(());
        }
        let bound_s = end.bound.as_secs_f64();
        let mut words = format!(
            "faults ended at {}, {bound_s:.1} s were to be enough",
            end.calm
        );
        if !behind.is_empty() {
            words += &format!("; did not come right: {}", behind.join(", "));
        }
        if !waits.is_empty() {
            words += &format!("; {}", waits.join(", "));
        }
        Err(words)
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, aborted, op};
    use super::*;
    use crate::sim::history::Call;

    #[test]
    fn calls_that_return_and_programs_that_come_right_are_right() {
        let mut story = Story::of_two(BoundedBlocking::default());
        let call = story.reduce(1, op(1, 7, 0), &[1]);
        story.reduced(1, call, Err(aborted()), &[1]).unwrap();
        story.call(2, Call::ArePeersPending);
        story.tell(2, Event::Died);
        story.tell(1, Event::CameRight);
        story.end(&[1]).unwrap();
    }

    #[test]
    fn a_call_that_never_returns_is_named() {
        let mut story = Story::of_two(BoundedBlocking::default());
        story.tell(1, Event::CameRight);
        story.reduce(1, op(1, 7, 0), &[1]);
        let words = story.end(&[1]).unwrap_err();
        assert!(words.contains("p1 is in all_reduce with tag 7"), "{words}");
    }

    #[test]
    fn a_program_that_does_not_come_right_is_named() {
        let mut story = Story::of_two(BoundedBlocking::default());
        story.tell(1, Event::CameRight);
        let words = story.end(&[1, 2]).unwrap_err();
        assert!(words.contains("did not come right: p2"), "{words}");
    }
}
