//! Fault-tolerant collective communication for machines scattered over the public internet.

pub mod error;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod shared_state;
#[doc(hidden)]
pub mod topology;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod transport;
pub mod types;
#[doc(hidden)]
pub mod wire;
