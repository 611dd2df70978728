//! The bulk path: lanes' bytes to kernels to user memory, and on to the next lane.
//!
//! ```text
//!              +--------------------- DataPlane ---------------------+
//!  lane -----> | reader: claim, read, combine into output, arrived   |
//!              |              |                                      |
//!              |              v due                                  |
//!              |           Outbox (one for each link)                |
//!              |              | pull, whichever lane is free         |
//!  lane <----- | writer: header, bytes straight from user memory     |
//!              +-----------------------------------------------------+
//! ```
//!
//! A reader always drains its lane: whatever comes is taken, kept within bounds, dropped by number,
//! or answered with a closed lane. So no operation ever blocks another.
//!
//! Data beyond [`EAGER_BYTES`] of an operation waits at the sender for the receiver's grant, which
//! says that its caller has called. Over a long path, where that word takes its time, the operations
//! of a link may send [`ADVANCE_BYTES`] more between them.
//!
//! A lane on which the other side owes something and says nothing for the stall timeout is closed
//! (`watch`); what it had not delivered goes to the others, or to the next one.
//!
//! Lanes are any byte streams. A lane belongs to a peer that has proved who it is; that is
//! `transport`'s work.

mod early;
mod intake;
mod lane;
mod link;
mod operation;
mod outbox;
mod plane;
mod quantized;
mod reader;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
mod writer;

pub use plane::DataPlane;

use std::time::Duration;

use thiserror::Error;

use crate::engine::UserBuffers;
use crate::types::{Descriptor, OperationId, PeerId, Rank};

/// Bytes of one operation that a peer may send before the receiver has begun it. A small operation
/// never waits for a grant; the receiver's memory is bounded by this for each operation and peer.
pub const EAGER_BYTES: usize = 256 * 1024;

/// Bytes beyond that of all operations of one epoch together that a peer may send before the
/// receiver has begun them: 4 Gbit/s for 30 ms. Granted over paths of a round trip of 2 ms or more.
pub const ADVANCE_BYTES: usize = 16 << 20;

/// The round trip from which on it is worth the receiver's memory that a grant is not waited for.
const LONG_PATH: Duration = Duration::from_millis(2);

/// How long a lane may wait in vain for a word from the other side, unless the plane is told
/// otherwise.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// What the data plane tells its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaneEvent {
    /// This rank has received and applied all of an operation. Others may still need what it
    /// sends: the operation goes on until `end`.
    Finished {
        /// The operation.
        op: OperationId,
    },
    /// A lane broke, or was closed for what it brought. Lanes that the driver itself removes or
    /// replaces are not reported.
    LaneClosed {
        /// The peer at its other end.
        peer: PeerId,
        /// Its index.
        lane: u16,
        /// Lanes that this link still has.
        lanes_left: usize,
        /// What ended it.
        end: LaneEnd,
    },
}

/// What ended a lane.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LaneEnd {
    /// The other side closed it, or its system did: its process may be dead.
    #[error("closed by the other side")]
    ClosedThere,
    /// The other side owed something and nothing came: this side closed it.
    #[error("nothing heard for {silent_ms} ms, {unfinished} frames unfinished")]
    Stalled {
        /// How long, in milliseconds.
        silent_ms: u64,
        /// Frames sent that were not acknowledged. None: an idle lane did not answer.
        unfinished: usize,
        /// Frames that the link has ever delivered, over any lane: two stalls with the same number
        /// have nothing between them.
        delivered: u64,
    },
    /// It brought what breaks the rules: this side closed it.
    #[error("{0}")]
    Rejected(String),
    /// This side's system gave it up: nobody answered, or the network said so.
    #[error("{0}")]
    Broken(String),
}

impl LaneEnd {
    /// Of an error that the stream gave.
    fn of_io(error: &std::io::Error, pulse: &lane::Pulse) -> LaneEnd {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};

        if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe) {
            return LaneEnd::ClosedThere;
        }
        pulse.give_up();
        LaneEnd::Broken(error.to_string())
    }
}

/// One operation, as this rank takes part in it.
pub struct OperationSpec {
    /// What all ranks do.
    pub descriptor: Descriptor,
    /// This rank's place in `ring`.
    pub rank: Rank,
    /// The members by rank.
    pub ring: Vec<PeerId>,
    /// The caller's memory; as long as the descriptor says.
    pub buffers: UserBuffers,
    /// An `f32` for each element, input and output apart: what quantization dropped the last time, and
    /// what it drops now.
    pub residual: Option<UserBuffers>,
}

/// Why an operation was not begun. All are errors of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BeginError {
    /// It has been begun before.
    #[error("the operation was begun before")]
    AlreadyBegun,
    /// The memory does not fit the descriptor.
    #[error("buffers of {found} bytes, the descriptor says {expected}")]
    BufferLength {
        /// Bytes of the buffers.
        found: usize,
        /// Bytes of the descriptor.
        expected: u64,
    },
    /// The residual does not fit the descriptor.
    #[error("a residual of {found} bytes, the descriptor asks for {expected}")]
    ResidualLength {
        /// Bytes of the residual.
        found: usize,
        /// Four for each element.
        expected: u64,
    },
    /// The rank is not in the ring, or the ring has fewer than two ranks or too many.
    #[error("rank {rank} in a ring of {world_size}")]
    Ring {
        /// The rank given.
        rank: Rank,
        /// Length of the ring given.
        world_size: usize,
    },
}

/// What happens to the output when an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It stays as it is.
    Keep,
    /// In place, the caller's input is put back. Costs a copy of what was overwritten.
    RollBack,
}

/// Bytes of an operation's data frames that this rank has sent (repeats included) and taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent.
    pub tx_bytes: u64,
    /// Taken.
    pub rx_bytes: u64,
}
