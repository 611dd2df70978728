//! One operation at one rank: the caller's memory, and the bookkeeping of what is due, in flight
//! and arrived. Pure: bytes are moved by `datapath`.

mod run;
mod segments;
mod user_buffer;

pub use run::{Arrived, Claim, Due, Encoded, Run, SEGMENT_BYTES_MAX, Source, Taken};
pub use segments::{Segment, Segments};
#[cfg(test)]
pub(crate) use user_buffer::testing;
pub use user_buffer::{
    Access, Backup, Lendable, Loans, OwnedPair, OwnedVec, Spares, UserBuffers, UserMemory, lend,
    lend_all, with_loans,
};
