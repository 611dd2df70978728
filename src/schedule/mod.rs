//! Collectives as data: which chunk a rank sends to whom, in what order, and what it does with
//! what it receives. One executor (`engine`) runs every schedule; [`checker`] proves one.

pub mod checker;
mod direct;
mod ring;

pub use direct::{DIRECT_WORLD_SIZE_MAX, direct_all_reduce};
pub use ring::{RING_WORLD_SIZE_MAX, ring_all_reduce};

use std::ops::Range;

use crate::types::{Descriptor, QuantizationPath, Rank};

/// The schedule of an operation, as rank `rank` of `world_size` sees it: a ring, unless fewer
/// quantizations cost nothing or are asked for.
pub fn all_reduce(rank: Rank, world_size: u32, descriptor: &Descriptor) -> Schedule {
    let path = descriptor
        .quantization
        .map(|quantization| quantization.path);
    let is_direct = match path {
        None | Some(QuantizationPath::Ring) => false,
        Some(QuantizationPath::Auto) => world_size == 3,
        // Two ranks exchange halves either way.
        Some(QuantizationPath::Direct) => (3..=DIRECT_WORLD_SIZE_MAX).contains(&world_size),
    };
    match is_direct {
        true => direct_all_reduce(rank, world_size, descriptor.count),
        false => ring_all_reduce(rank, world_size, descriptor.count),
    }
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Index into [`Schedule::chunks`].
    pub chunk: usize,
    /// What sets it off.
    pub trigger: Trigger,
    /// What happens to the bytes.
    pub apply: Apply,
    /// Where the chunk goes afterwards, if anywhere.
    pub sends: Vec<Send>,
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
    /// All that is collected of the chunk has arrived.
    Collected,
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
    /// What was received is kept until all is there; then `output` is all of it, and the input, combined
    /// in the order of the moves (`Finish`).
    Collect,
    /// What was received is another's, for another.
    Relay,
}

/// Where a chunk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// The receiver.
    pub to: Rank,
    /// The hop number its frames carry.
    pub step: u16,
}

/// `count` elements cut into one chunk for each rank; the first ones have one element more.
fn chunks(world_size: u32, count: u64) -> Vec<Range<u64>> {
    let parts = u64::from(world_size.max(1));
    let (base, longer) = (count / parts, count % parts);
    let mut start = 0;
    (0..parts)
        .map(|index| {
            let end = start + base + u64::from(index < longer);
            let chunk = start..end;
            start = end;
            chunk
        })
        .collect()
}
