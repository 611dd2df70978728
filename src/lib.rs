//! Fault-tolerant collective communication for machines scattered over the public internet.
//!
//! A run has one [`Master`] and any number of peers, each with a [`Communicator`]. Peers find each
//! other through the master, and move tensors between themselves:
//!
//! ```text
//!                     Master        who is in the run, how each operation ended
//!                   /    |    \
//!             Communicator ... Communicator          tensors, around a ring
//!
//!   connect ─► are_peers_pending ─► update_topology ─► sync_shared_state     when somebody joins
//!                      └─ nobody ─► all_reduce, again after PeersLost        in every step
//! ```
//!
//! | to | call |
//! | --- | --- |
//! | combine a buffer over all peers | [`Communicator::all_reduce`], [`Communicator::all_reduce_in_place`] |
//! | combine several at once | [`Communicator::scope`], [`Communicator::all_reduce_many`] |
//! | combine while the caller goes on | [`Communicator::start_all_reduce`] |
//! | let newcomers in | [`Communicator::are_peers_pending`], [`Communicator::update_topology`] |
//! | give everybody the same tensors | [`Communicator::sync_shared_state`] |
//!
//! Errors are filed by what to do next: each variant of [`CollectiveError`], [`SyncError`],
//! [`MembershipError`] and [`ConnectError`] says it. A peer that is [`Gone`] starts again with a new
//! communicator. The README has the whole loop; `examples/train_loop_with_churn.rs` answers every
//! error.

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
