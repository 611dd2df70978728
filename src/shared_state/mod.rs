//! Shared state: what a sync compares, who is right, and how the difference moves.
//!
//! ```text
//!   every member:  tensors ──digest──► Presentation ─┐
//!                                                    ▼
//!   master:                      elect ──► Evict, and again │ Fail │ Plan
//!                                                    │
//!                                assign ◄────────────┘
//!                                  │  receiver -> holder      (reassign when a holder is lost)
//!                                  ▼
//!   members:       transfer::Receiver ◄──bytes── transfer::Holder
//!                        │
//!                 the digests ──► the master settles the sync; only then does the revision advance
//! ```
//!
//! Nothing here reads a clock, a socket or the caller's memory: tensors are named by their index in
//! the elected list, and whoever drives the machines moves the bytes.

use std::collections::BTreeSet;
use std::fmt;

use crate::types::{DataType, Revision};

pub mod assignment;
pub mod election;
#[cfg(test)]
mod tests;
pub mod transfer;

pub use crate::wire::state::MAX_TENSORS;

/// The longest name of a tensor, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

/// The most bytes all names of a state can have together: with them, what is presented fits into
/// one control message.
pub const MAX_NAMES_BYTES: usize = 8 << 20;

/// The most bytes one tensor can have: what a signed 64-bit length can say.
pub const MAX_TENSOR_BYTES: u64 = i64::MAX as u64;

/// BLAKE3 of the raw bytes of a tensor: no name, no shape, no type. All empty tensors have the
/// same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The first eight bytes in hex: enough to tell digests apart in a log.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The digest of a tensor with these bytes. Costs one pass over them.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// A digest that is made piece by piece; the same as [`digest`] of all pieces in a row.
#[derive(Clone, Debug, Default)]
pub struct DigestHasher(blake3::Hasher);

impl DigestHasher {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of what was taken.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// What a peer is ready to do in a sync. The numbers are those of
/// `pcclSharedStateSyncStrategy_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SyncStrategy {
    /// The content that most peers hold wins, and those that differ receive it. Where one peer of
    /// a group says this, all must: the others are evicted.
    #[default]
    EnforcePopular = 0,
    /// Takes what is elected, has no say in the election and never sends.
    ReceiveOnly = 1,
    /// Votes and sends. Evicted where it would have to receive, because its content lost or its
    /// revision is outdated.
    SendOnly = 2,
}

impl SyncStrategy {
    /// Every strategy, in the order of their numbers.
    pub const ALL: [SyncStrategy; 3] = [
        SyncStrategy::EnforcePopular,
        SyncStrategy::ReceiveOnly,
        SyncStrategy::SendOnly,
    ];

    /// The strategy with this number.
    pub fn from_number(number: u32) -> Option<SyncStrategy> {
        Self::ALL.get(number as usize).copied()
    }
}

/// One tensor as a peer presents it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Its name: 1 to [`MAX_NAME_BYTES`] bytes, once per state.
    pub name: String,
    /// Type of its elements.
    pub data_type: DataType,
    /// How many elements it has; may be 0.
    pub count: u64,
    /// Digest of its content; `None` where content may differ between peers
    /// (`allow_content_inequality`).
    pub digest: Option<Digest>,
    /// A sync that did not commit wrote into it: it may hold parts of two versions.
    pub tainted: bool,
}

impl Entry {
    /// Bytes of the tensor.
    pub fn len_bytes(&self) -> u64 {
        self.count
            .saturating_mul(self.data_type.size_bytes() as u64)
    }

    /// Whether peers at the same revision may hold different content.
    pub fn allows_content_inequality(&self) -> bool {
        self.digest.is_none()
    }
}

/// What one peer brings to a sync.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Presentation {
    /// The revision it says its content is.
    pub revision: Revision,
    /// What it is ready to do.
    pub strategy: SyncStrategy,
    /// Its tensors. Their order is part of the state.
    pub entries: Vec<Entry>,
}

impl Presentation {
    /// Whether it makes sense by itself; the error says in words what does not. A peer asks this
    /// before it calls, the master again, since it trusts nobody.
    pub fn check(&self) -> Result<(), String> {
        if self.entries.is_empty() {
            return Err("it has no tensors".into());
        }
        if self.entries.len() > MAX_TENSORS as usize {
            let count = self.entries.len();
            return Err(format!("{count} tensors, where the limit is {MAX_TENSORS}"));
        }
        let names_bytes: usize = self.entries.iter().map(|entry| entry.name.len()).sum();
        if names_bytes > MAX_NAMES_BYTES {
            return Err(format!(
                "the names of its tensors have {names_bytes} bytes, where the limit is {MAX_NAMES_BYTES}"
            ));
        }
        let mut names = BTreeSet::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let name = quoted(&entry.name);
            if entry.name.is_empty() {
                return Err(format!("tensor {index} has no name"));
            }
            if entry.name.len() > MAX_NAME_BYTES {
                let len = entry.name.len();
                return Err(format!(
                    "the name of tensor {index} has {len} bytes, where the limit is {MAX_NAME_BYTES}"
                ));
            }
            if entry.len_bytes() > MAX_TENSOR_BYTES {
                let (count, data_type) = (entry.count, entry.data_type);
                return Err(format!(
                    "tensor {name} has {count} elements of {data_type}, more than memory can hold"
                ));
            }
            if !names.insert(&entry.name) {
                return Err(format!("two tensors are named {name}"));
            }
        }
        Ok(())
    }

    /// The first tensor that an uncommitted sync left half written.
    pub fn first_tainted(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tainted)
    }
}

/// A name from another peer, fit for a log line: quoted, escaped and cut.
fn quoted(name: &str) -> String {
    const SHOWN_CHARS: usize = 64;
    match name.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}
