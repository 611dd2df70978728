//! Fault-tolerant collective communication for machines scattered over the public internet.
//!
//! Peers hold a [`Communicator`] each and run the same loop: reduce a buffer over all of them, share a
//! state, let newcomers in. A [`Master`] keeps the list of who is there and decides how each operation
//! ends; it never sees a tensor. A peer that dies costs the others one error that names it. Their input
//! is as it was, and the next call runs with those who are left.
//!
//! ```text
//!                  Master            who is in the run, what an operation's outcome is
//!                 /  |  \            control: small messages
//!                /   |   \
//!      Communicator  |  Communicator  one for each peer, with a thread of its own
//!               \    |    /
//!              Communicator          data: a ring of links, each of several TCP lanes
//! ```
//!
//! # An example
//!
//! Two peers of one process add up a buffer. On real machines the master is `pccl master`, and each
//! peer is a process of its own.
//!
//! ```
//! # #[cfg(feature = "net")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use pccl::{Communicator, Config, Master, ReduceOptions};
//!
//! let master = Master::bind("127.0.0.1:0".parse()?)?;
//! let address = master.local_addr().to_string();
//!
//! // The first peer is accepted at once, and is alone.
//! let one = Communicator::new(Config::new(&address).label("one"))?;
//! one.connect()?;
//!
//! std::thread::scope(|threads| {
//!     // The second one waits until those inside let it in.
//!     let two = threads.spawn(|| -> Result<f32, Box<dyn std::error::Error + Send + Sync>> {
//!         let two = Communicator::new(Config::new(&address).label("two"))?;
//!         two.connect()?;
//!         let mut values = vec![2.0_f32; 1000];
//!         two.all_reduce_in_place(&mut values, &ReduceOptions::sum())?;
//!         two.leave()?;
//!         Ok(values[0])
//!     });
//!
//!     while !one.are_peers_pending()? {
//!         std::thread::yield_now();
//!     }
//!     one.update_topology()?;
//!     assert_eq!(one.world_sizes().group, 2);
//!
//!     let mut sum = vec![0.0_f32; 1000];
//!     let report = one.all_reduce(&vec![1.0; 1000], &mut sum, &ReduceOptions::sum())?;
//!     assert_eq!((sum[0], report.world_size), (3.0, 2));
//!     assert_eq!(two.join().unwrap().unwrap(), 3.0);
//!     Ok(())
//! })
//! # }
//! # #[cfg(not(feature = "net"))]
//! # fn main() {}
//! ```
//!
//! # Where to go on
//!
//! * [`Communicator`]: every call there is. [`Config`] and [`MasterConfig`]: settings, what each costs.
//! * [`CollectiveError`], [`SyncError`], [`MembershipError`], [`ConnectError`], [`Gone`]: each variant
//!   says what to do next.
//! * [`diloco`]: the outer optimiser of DiLoCo.
//! * `docs/` in the repository: ARCHITECTURE (the rooms below and what may call what), PROTOCOL (the
//!   state machines), WIRE (the bytes), TESTING.
//!
//! # Features
//!
//! `net` (default) is everything above the pure rooms; `cli` (default, needs `net`) is the `pccl`
//! program. Without `net` only the pure rooms are built. `sim` is a simulated world for this
//! repository's own tests.

// Elements travel as they lie in memory.
#[cfg(target_endian = "big")]
compile_error!("pccl reduces little-endian elements; big-endian machines are not supported");

// The handle that users hold, and what they say to it.
#[cfg(feature = "net")]
mod communicator;
#[cfg(feature = "net")]
pub use communicator::{
    Communicator, Config, DEFAULT_MASTER_PORT, DEFAULT_PEER_PORT, Element, ErrorFeedback,
    RawReduction, Reduce, ReduceOptions, ReduceReport, Reduction, Scope, ScopedReduction,
    SharedState, SyncReport,
};

// The tokio loops that feed the state machines and obey them; the master as users embed it.
#[cfg(feature = "net")]
mod driver;
#[cfg(feature = "net")]
pub use driver::{Master, MasterError};

// The outer optimiser of DiLoCo.
pub mod diloco;

// Errors, one enum for each kind of call, filed by what the caller does next.
mod error;
pub use error::{CollectiveError, ConnectError, Gone, LostPeer, MembershipError, SyncError};

// The nouns that every room shares.
mod types;
pub use types::{
    DataType, Distribution, Epoch, GroupId, PeerId, PeerName, Quantization, QuantizationPath,
    QuantizationScheme, Rank, ReduceOp, Revision, Rounding, RunId, Tag, WorldSizes,
};
#[doc(hidden)]
pub use types::{Descriptor, OperationId, Timestamp};

// Lanes' bytes into kernels and user memory, and back.
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod datapath;
// Rules that tests break on purpose.
#[doc(hidden)]
pub mod mutation;
// One operation at one rank: user memory, what is due, in flight and arrived.
#[doc(hidden)]
pub mod engine;
// The inner loops of reductions.
#[doc(hidden)]
pub mod kernels;
// The two state machines: the master's and a peer's.
#[doc(hidden)]
pub mod protocol;
pub use protocol::master::MasterConfig;
// A collective as data: who sends which chunk to whom, in what order.
#[doc(hidden)]
pub mod schedule;
// Digests, election and transfer of what all peers of a group share.
#[doc(hidden)]
pub mod shared_state;
pub use shared_state::SyncStrategy;
// A world of simulated processes and networks, for tests of faults.
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod sim;
// A ring that avoids broken links, and who goes where there is none.
#[doc(hidden)]
pub mod topology;
// Sockets: listening, dialling, greeting.
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod transport;
#[cfg(feature = "net")]
pub use transport::SocketOptions;
// Bytes to messages and back.
#[doc(hidden)]
pub mod wire;

/// The README's code is compiled as the tests run.
#[cfg(all(doctest, feature = "net"))]
#[doc = include_str!("../README.md")]
struct Readme;
