//! Fault-tolerant collective communication for machines scattered over the public internet.

pub mod error;
pub mod types;
