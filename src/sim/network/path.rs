//! What lies between two machines, one direction of it.

use std::time::Duration;

use super::connection::WINDOW_BYTES;

/// The most that is sent as one piece, and the least that a slow path cuts it to: a packet's.
const PIECE_BYTES_MAX: usize = 48 * 1024;
const PACKET_BYTES: usize = 1460;

/// How long a piece may keep the line busy: it arrives at once, where the packets of a real one come
/// one by one.
const PIECE_TIME: Duration = Duration::from_millis(20);

/// How a direction behaves. A change holds for what is sent from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// From sending to arriving, of a byte that meets no other.
    pub delay: Duration,
    /// Up to so much later, drawn for each piece. Pieces of one connection keep their order.
    pub jitter: Duration,
    /// Bytes in a second.
    pub rate_bytes_per_s: u64,
    /// Nothing arrives. What is under way, or sent meanwhile, comes once it is mended, as with TCP.
    pub is_cut: bool,
}

impl Path {
    /// A process's way to itself and to others on its machine.
    pub const LOOPBACK: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        rate_bytes_per_s: 4_000_000_000,
        is_cut: false,
    };

    /// The most that one connection keeps under way: an eighth of a second of a slow path, as queues
    /// are short and senders find that out.
    pub(super) fn window_bytes(&self) -> usize {
        let queue = usize::try_from(self.rate_bytes_per_s / 8).unwrap_or(usize::MAX);
        queue.clamp(4 * PACKET_BYTES, WINDOW_BYTES)
    }

    /// The most that may be sent as one piece.
    pub(super) fn piece_bytes_max(&self) -> usize {
        let bytes = u128::from(self.rate_bytes_per_s) * PIECE_TIME.as_nanos() / 1_000_000_000;
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .clamp(PACKET_BYTES, PIECE_BYTES_MAX)
    }

    /// How long `len_bytes` keep the line busy.
    pub(super) fn busy(&self, len_bytes: usize) -> Duration {
        Duration::from_nanos(len_bytes as u64 * 1_000_000_000 / self.rate_bytes_per_s.max(1))
    }
}
