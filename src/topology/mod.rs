//! From links to an order of peers: a ring that avoids broken links, and who has to go where
//! there is none.
//!
//! Everything is seeded by its arguments alone and budgeted in steps, never in time: the same
//! question has the same answer on every machine.

use std::collections::BTreeSet;

use crate::types::PeerId;

mod drop;
mod ring;

pub use drop::whom_to_drop;
pub use ring::{Solution, ring};

/// A link that cannot be used, in either direction: the lower id first.
pub type Link = (PeerId, PeerId);

/// The link between two peers, as it is named in sets.
pub fn link(one: PeerId, other: PeerId) -> Link {
    (one.min(other), one.max(other))
}

fn is_broken(broken: &BTreeSet<Link>, one: PeerId, other: PeerId) -> bool {
    broken.contains(&link(one, other))
}
