//! The transfer of elected tensors as two machines that never touch a socket or a tensor.
//!
//! The receiver opens a byte stream to the holder; after the greeting both sides ask their machine
//! for the next step, do as much of it as the stream allows, and report how far they came:
//!
//! ```text
//!   Receiver                                  Holder
//!   WriteRequest(bytes) ── wrote(n)           Read { len } ── feed(bytes)
//!   ReadHeader { len } ── feed_header(bytes)  Request { round } ── answer(offer)
//!   ReadTensor { .. } ── received(n)          WriteHeader(bytes) ── wrote(n)
//!   Done                                      WriteTensor { .. } ── wrote(n)
//!                                             Done
//! ```
//!
//! Every step can be done in pieces of any size, down to a byte. No step asks for more bytes than
//! the other side may send, and a receiver takes exactly the lengths that were elected. After an
//! error the machine stays `Failed`: the connection is to be closed.
//!
//! A holder is `Done` when it has written the last byte, which says nothing about arrival; only the
//! receiver knows, and tells the master after it has compared the digests.

use thiserror::Error;

use crate::wire::state::{DecodeError, Status};

mod holder;
mod receiver;

pub use holder::{Holder, HolderStep, Offer};
pub use receiver::{Receiver, ReceiverStep};

/// Why a transfer cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// The other side sent bytes that are no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The holder does not serve this.
    #[error("the holder refused tensor {index} in round {round}: {status:?}")]
    Refused {
        /// Its reason.
        status: Status,
        /// The first tensor it does not serve.
        index: usize,
        /// The round it is in; 0 where it is in none.
        round: u64,
    },
    /// The holder sends another tensor than the one whose turn it is.
    #[error("tensor {found} of round {found_round} came where {wanted} of round {round} belongs")]
    OutOfTurn {
        /// Whose turn it is.
        wanted: usize,
        /// The round of this transfer.
        round: u64,
        /// What came.
        found: u32,
        /// And of which round.
        found_round: u64,
    },
    /// The holder's tensor has another length than the elected one.
    #[error("tensor {index} comes with {found} bytes, not {wanted}")]
    Length {
        /// Which.
        index: usize,
        /// As elected.
        wanted: u64,
        /// As announced.
        found: u64,
    },
    /// The driver answered where no request was waiting.
    #[error("no request is waiting for an answer")]
    NotRequested,
    /// The driver reported more than the step asked for, or bytes for a step that was not due.
    #[error("{given} bytes for a step that takes {asked}")]
    Overrun {
        /// What the step takes.
        asked: u64,
        /// What it was given.
        given: u64,
    },
}

/// A header of `N` bytes of which some have arrived.
#[derive(Clone, Debug)]
struct Partial<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for Partial<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            filled: 0,
        }
    }
}

impl<const N: usize> Partial<N> {
    fn missing(&self) -> usize {
        N - self.filled
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Option<[u8; N]>, TransferError> {
        let missing = self.missing();
        let Some(slot) = self.bytes[self.filled..].get_mut(..bytes.len()) else {
            return Err(overrun(missing, bytes.len()));
        };
        slot.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok((self.filled == N).then_some(self.bytes))
    }
}

fn overrun(asked: impl TryInto<u64>, given: impl TryInto<u64>) -> TransferError {
    TransferError::Overrun {
        asked: asked.try_into().unwrap_or(u64::MAX),
        given: given.try_into().unwrap_or(u64::MAX),
    }
}
