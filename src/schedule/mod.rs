//! Collectives as data: which chunk a rank sends to whom, in what order, and what it does with
//! what it receives. One executor (`engine`) runs every schedule; [`checker`] proves one.

pub mod checker;
mod ring;

pub use ring::{RING_WORLD_SIZE_MAX, ring_all_reduce};

use std::ops::Range;

use crate::types::Rank;

/// What one rank does in one collective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Ranks that take part.
    pub world_size: u32,
    /// The chunks of the buffer, in elements; the same at every rank. An empty chunk has no moves.
    pub chunks: Vec<Range<u64>>,
    /// What this rank does. Moves over one chunk come in the order in which they happen.
    pub moves: Vec<Move>,
}

/// One thing that a rank does with one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index into [`Schedule::chunks`].
    pub chunk: usize,
    /// What sets it off.
    pub trigger: Trigger,
    /// What happens to the bytes.
    pub apply: Apply,
    /// Where the chunk goes afterwards, if anywhere.
    pub send: Option<Send>,
}

/// What sets a move off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The operation begins.
    Start,
    /// The chunk arrives.
    Receive {
        /// The only rank it is taken from.
        from: Rank,
        /// The hop number its frames carry; with `from` it names the move.
        step: u16,
    },
}

/// What a move does with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apply {
    /// Nothing was received: the rank's own input is sent.
    Input,
    /// `output = received (+) input`.
    Combine,
    /// As `Combine`, and the result is final: an average divides here.
    Finish,
    /// What was received is final: `output = received`.
    Store,
}

/// Where a chunk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// The receiver.
    pub to: Rank,
    /// The hop number its frames carry.
    pub step: u16,
}
