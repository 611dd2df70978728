//! Fault-tolerant collective communication for machines scattered over the public internet.

pub mod error;
#[doc(hidden)]
pub mod protocol;
#[doc(hidden)]
pub mod shared_state;
#[doc(hidden)]
pub mod topology;
pub mod types;
#[doc(hidden)]
pub mod wire;
