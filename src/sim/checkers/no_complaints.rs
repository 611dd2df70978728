//! Programs are told nothing that nothing can explain: an error of the wrong kind, a world size that
//! contradicts it.

use super::Checker;
use crate::sim::history::{Event, Record};

/// See the module's text.
#[derive(Debug)]
pub struct NoComplaints;

impl Checker for NoComplaints {
    fn invariant(&self) -> &'static str {
        "no_complaints"
    }

    fn see(&mut self, record: &Record) -> Result<(), String> {
        match &record.event {
            Event::Complaint(words) => Err(format!("{}: {words}", record.process)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    #[test]
    fn a_complaint_is_passed_on() {
        let mut story = Story::of_two(NoComplaints);
        let complaint = Event::Complaint("not connected after connect".to_owned());
        assert!(story.try_tell(1, complaint).is_err());
    }
}
