//! What lies between two machines, one direction of it.

use std::time::Duration;

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

    /// How long `len_bytes` keep the line busy.
    pub(super) fn busy(&self, len_bytes: usize) -> Duration {
        Duration::from_nanos(len_bytes as u64 * 1_000_000_000 / self.rate_bytes_per_s.max(1))
    }
}
