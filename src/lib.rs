//! Fault-tolerant collective communication for machines scattered over the public internet.

pub mod error;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod transport;
pub mod types;
#[doc(hidden)]
pub mod wire;
