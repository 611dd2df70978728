//! Numbered messages that survive reconnects.
//!
//! Each side numbers what it says, keeps it until the other side acknowledges it, and says it
//! again after a resume. A number that was seen is not taken twice; a gap cannot happen on an
//! ordered connection that starts with a resume, so it is a violation.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::mutation::{Mutation, mutated};
use crate::wire::control::Frame;

/// One side of a session: `Out` is what it says, and it hears frames of any type.
#[derive(Clone, Debug)]
pub struct Session<Out> {
    next_sequence: u64,
    unacknowledged: VecDeque<(u64, Out)>,
    last_seen: u64,
}

/// What to do with a frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Act on it.
    New,
    /// It was acted on before.
    Duplicate,
    /// Messages before it are missing: the other side breaks the rules.
    Gap,
}

impl<Out: Clone> Session<Out> {
    /// A session in which nothing has been said.
    pub fn new() -> Self {
        Self {
            next_sequence: 1,
            unacknowledged: VecDeque::new(),
            last_seen: 0,
        }
    }

    /// Numbers a message and keeps it until it is acknowledged.
    pub fn say(&mut self, message: Out) -> Frame<Out> {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.unacknowledged.push_back((sequence, message.clone()));
        Frame {
            sequence,
            acknowledged: self.last_seen,
            message,
        }
    }

    /// Wraps a message that needs no number because a later one replaces it.
    pub fn whisper(&self, message: Out) -> Frame<Out> {
        Frame {
            sequence: 0,
            acknowledged: self.last_seen,
            message,
        }
    }

    /// Takes note of a frame's numbers.
    pub fn hear<In>(&mut self, frame: &Frame<In>) -> Arrival {
        self.acknowledged(frame.acknowledged);
        match frame.sequence {
            0 => Arrival::New,
            sequence if sequence <= self.last_seen => Arrival::Duplicate,
            sequence if sequence == self.last_seen + 1 => {
                self.last_seen = sequence;
                Arrival::New
            }
            _ => Arrival::Gap,
        }
    }

    /// The last number heard: what a resume names.
    pub fn last_seen(&self) -> u64 {
        self.last_seen
    }

    /// What must be said again to an other side that has seen up to `last_seen`.
    pub fn resume(&mut self, last_seen: u64) -> Vec<Frame<Out>> {
        self.acknowledged(last_seen);
        if mutated(Mutation::ResumeSaysNothing) {
            return Vec::new();
        }
        self.unacknowledged
            .iter()
            .map(|(sequence, message)| Frame {
                sequence: *sequence,
                acknowledged: self.last_seen,
                message: message.clone(),
            })
            .collect()
    }

    fn acknowledged(&mut self, sequence: u64) {
        while self
            .unacknowledged
            .front()
            .is_some_and(|(first, _)| *first <= sequence)
        {
            self.unacknowledged.pop_front();
        }
    }
}

/// What a session will do hangs on what it still has to say, not on how much was said before: two
/// sides that have heard all of each other but the same messages are the same session at any
/// number. So numbers are left out.
impl<Out: Hash> Hash for Session<Out> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.unacknowledged.len().hash(state);
        for (_, message) in &self.unacknowledged {
            message.hash(state);
        }
    }
}

impl<Out: Clone> Default for Session<Out> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_acknowledged_is_said_again_once() {
        let mut here = Session::new();
        let mut there: Session<()> = Session::new();
        let frames: Vec<_> = (0..4).map(|n| here.say(n)).collect();
        for frame in &frames[..2] {
            assert_eq!(there.hear(frame), Arrival::New);
        }

        let again = here.resume(there.last_seen());

        assert_eq!(
            again.iter().map(|frame| frame.message).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(there.hear(&frames[1]), Arrival::Duplicate);
        for frame in &again {
            assert_eq!(there.hear(frame), Arrival::New);
        }
        here.hear(&there.whisper(()));
        assert!(here.resume(0).is_empty(), "everything was acknowledged");
    }

    #[test]
    fn a_gap_is_noticed() {
        let mut here = Session::new();
        let mut there: Session<()> = Session::new();
        here.say(1);
        let second = here.say(2);
        assert_eq!(there.hear(&second), Arrival::Gap);
    }
}
