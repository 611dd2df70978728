//! Fault-tolerant collective communication for machines scattered over the public internet.

#[cfg(feature = "net")]
mod communicator;
#[cfg(feature = "net")]
pub use communicator::{
    Communicator, Config, DEFAULT_MASTER_PORT, DEFAULT_PEER_PORT, Element, RawReduction, Reduce,
    ReduceOptions, ReduceReport, Reduction, Scope, ScopedReduction, SharedState, SyncReport,
};

#[cfg(feature = "net")]
mod driver;
#[cfg(feature = "net")]
pub use driver::{Master, MasterError};

pub mod diloco;

mod error;
pub use error::{CollectiveError, ConnectError, Gone, LostPeer, MembershipError, SyncError};

mod types;
pub use types::{
    DataType, Epoch, GroupId, PeerId, PeerName, Rank, ReduceOp, Revision, RunId, Tag, WorldSizes,
};

#[cfg(feature = "net")]
#[doc(hidden)]
pub mod datapath;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod protocol;
pub use protocol::master::MasterConfig;
#[doc(hidden)]
pub mod schedule;
#[doc(hidden)]
pub mod shared_state;
pub use shared_state::SyncStrategy;
#[doc(hidden)]
pub mod topology;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod transport;
#[cfg(feature = "net")]
pub use transport::SocketOptions;
#[doc(hidden)]
pub mod wire;

/// The README's code is compiled as the tests run.
#[cfg(all(doctest, feature = "net"))]
#[doc = include_str!("../README.md")]
struct Readme;
