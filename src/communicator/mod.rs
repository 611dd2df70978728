//! The public handle: what a training loop holds.
//!
//! Every call is a command to the loop in `driver`, which answers it exactly once. The blocking
//! face waits for the answer on the calling thread and needs no runtime; the async face awaits it.
//! Memory is lent through `engine::user_buffer`, which takes it back before its owner sees it
//! again, whatever happened.

mod completion;
mod config;
mod element;
mod feedback;
mod many;
mod options;
#[cfg(feature = "sim")]
mod owned;
mod raw;
mod reduction;
mod scope;
mod state;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use zerocopy::IntoBytes;

pub use config::{Config, DEFAULT_MASTER_PORT, DEFAULT_PEER_PORT};
pub use element::Element;
pub use feedback::ErrorFeedback;
pub use many::Reduce;
pub use options::{ReduceOptions, ReduceReport};
#[cfg(feature = "sim")]
pub(crate) use owned::{OwnedBuffers, OwnedTensor};
pub use raw::RawReduction;
pub use reduction::Reduction;
pub use scope::{Scope, ScopedReduction};
pub use state::{SharedState, SyncReport};

use crate::driver::{Driver, Payload, ReduceMemory, Respond, Response};
use crate::engine::{Lendable, UserMemory, lend, lend_all};
use crate::error::{CollectiveError, ConnectError, Gone, MembershipError, SyncError};
use crate::protocol::peer::{Command, Reply};
use crate::shared_state::{Presentation, SyncStrategy};
use crate::types::{DataType, Descriptor, Epoch, PeerId, PeerName, Rank, WorldSizes};
use completion::Completion;

/// One peer's membership of a run.
///
/// Safe to use from any thread; methods take `&self`. Joint calls (`update_topology`,
/// `are_peers_pending`, `sync_shared_state`) run one at a time; all-reduces with different tags
/// run beside each other and beside `are_peers_pending`.
///
/// Dropping it leaves the run at once, as [`close`](Self::close) does, and waits until no thread,
/// task, socket or timer of it is left.
pub struct Communicator {
    config: Config,
    #[cfg(feature = "sim")]
    host: Option<crate::driver::Host>,
    driver: Mutex<Option<Arc<Driver>>>,
    /// Names of tensors that an uncommitted sync wrote to: not offered to others until one commits.
    tainted: Mutex<BTreeSet<String>>,
}

impl Communicator {
    /// A communicator that is not connected yet: no network traffic.
    pub fn new(config: Config) -> Result<Self, ConnectError> {
        config.check()?;
        Ok(Self {
            config,
            #[cfg(feature = "sim")]
            host: None,
            driver: Mutex::new(None),
            tainted: Mutex::default(),
        })
    }

    /// A communicator whose loop runs on the runtime that `connect_async` is awaited in.
    #[cfg(feature = "sim")]
    pub(crate) fn on(host: crate::driver::Host, config: Config) -> Result<Self, ConnectError> {
        let mut communicator = Self::new(config)?;
        communicator.host = Some(host);
        Ok(communicator)
    }

    /// The settings it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Joins the run and blocks until accepted: at once where nobody is there yet, otherwise when
    /// the accepted peers call [`update_topology`](Self::update_topology). After an error it may
    /// be called again.
    pub fn connect(&self) -> Result<(), ConnectError> {
        pollster::block_on(self.connect_async())
    }

    /// As [`connect`](Self::connect).
    pub async fn connect_async(&self) -> Result<(), ConnectError> {
        let driver = {
            let mut driver = self.driver.lock();
            match &*driver {
                Some(driver) => driver.clone(),
                None => driver.insert(Arc::new(self.start_driver()?)).clone(),
            }
        };
        match self
            .answer(&driver, Command::Connect, Payload::None)
            .await
            .reply
        {
            Reply::Connect(result) => result,
            _ => Err(Gone::Closed.into()),
        }
    }

    fn start_driver(&self) -> Result<Driver, ConnectError> {
        #[cfg(feature = "sim")]
        if let Some(host) = &self.host {
            return Driver::start_here(host.clone(), &self.config);
        }
        Driver::start(&self.config)
    }

    /// Lets registered newcomers in. A joint call: blocks until all accepted peers of all groups
    /// have called it.
    pub fn update_topology(&self) -> Result<(), MembershipError> {
        pollster::block_on(self.update_topology_async())
    }

    /// As [`update_topology`](Self::update_topology).
    pub async fn update_topology_async(&self) -> Result<(), MembershipError> {
        self.membership(Command::UpdateTopology).await
    }

    /// Whether any peer of any group waits to be let in. A joint call: blocks until all accepted
    /// peers of all groups have called it, and tells all the same. May run beside operations.
    pub fn are_peers_pending(&self) -> Result<bool, MembershipError> {
        pollster::block_on(self.are_peers_pending_async())
    }

    /// As [`are_peers_pending`](Self::are_peers_pending).
    pub async fn are_peers_pending_async(&self) -> Result<bool, MembershipError> {
        let driver = self.driver().ok_or(MembershipError::NotConnected)?;
        match self
            .answer(&driver, Command::ArePeersPending, Payload::None)
            .await
            .reply
        {
            Reply::Pending(result) => result,
            _ => Err(Gone::Closed.into()),
        }
    }

    /// World sizes as of the active epoch; 1 before `connect` and after this peer is gone. After a
    /// failed operation they count the survivors.
    pub fn world_sizes(&self) -> WorldSizes {
        self.driver()
            .map_or(WorldSizes::ALONE, |driver| driver.snapshot().sizes())
    }

    /// This peer's place in the ring of its group, once accepted. Keeps its last value after this
    /// peer is gone, as do [`peer_id`](Self::peer_id), [`members`](Self::members) and
    /// [`epoch`](Self::epoch).
    pub fn rank(&self) -> Option<Rank> {
        self.driver()?
            .snapshot()
            .membership
            .map(|membership| membership.rank)
    }

    /// This peer's id in the run, once accepted.
    pub fn peer_id(&self) -> Option<PeerId> {
        self.driver()?
            .snapshot()
            .membership
            .map(|membership| membership.peer)
    }

    /// The accepted peers of the own group in ring order; empty before `connect`.
    pub fn members(&self) -> Vec<PeerName> {
        let membership = self
            .driver()
            .and_then(|driver| driver.snapshot().membership);
        membership
            .map(|membership| membership.ring)
            .unwrap_or_default()
    }

    /// The active epoch, once accepted.
    pub fn epoch(&self) -> Option<Epoch> {
        self.driver()?.snapshot().epoch
    }

    /// Combines `send` of all peers of the group into `recv` of each. `send` is never written;
    /// after an error `recv` holds nothing of meaning.
    ///
    /// Blocks until the operation is settled for everybody. Needs no memory of the buffer's size.
    pub fn all_reduce<T: Element>(
        &self,
        send: &[T],
        recv: &mut [T],
        options: &ReduceOptions,
    ) -> Result<ReduceReport, CollectiveError> {
        same_length(send.len(), recv.len())?;
        let memory = Lendable::Apart {
            send: send.as_bytes(),
            recv: recv.as_mut_bytes(),
        };
        lend(memory, |buffers| self.start::<T>(buffers, options).wait())
    }

    /// Combines `buffer` of all peers of the group in place. After an error it is as before the
    /// call; for that, up to a copy of it is kept while the operation runs.
    pub fn all_reduce_in_place<T: Element>(
        &self,
        buffer: &mut [T],
        options: &ReduceOptions,
    ) -> Result<ReduceReport, CollectiveError> {
        let memory = Lendable::InPlace(buffer.as_mut_bytes());
        lend(memory, |buffers| self.start::<T>(buffers, options).wait())
    }

    /// Starts to combine `buffer` in place and returns at once; the [`Reduction`] is awaited, or
    /// waited for, and gives the buffer back. Dropped, the operation goes on: the others need it.
    pub fn start_all_reduce<T: Element>(
        &self,
        buffer: Vec<T>,
        options: &ReduceOptions,
    ) -> Reduction<T> {
        Reduction::start(self, buffer, options)
    }

    /// Runs `work` with a [`Scope`] in which operations on borrowed buffers run beside each other;
    /// all have ended when `scope` returns.
    pub fn scope<'env, R>(
        &'env self,
        work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    ) -> R {
        scope::run(self, work)
    }

    /// Runs many operations, at most `max_in_flight` at once, and retries those that abort: on
    /// success every one was reduced. The one with the lowest index that is not yet committed is
    /// always launched first. Tags must differ.
    ///
    /// An operation whose own [`deadline`](ReduceOptions::deadline) passes is not retried: it ends
    /// the call.
    ///
    /// On an error that a retry cannot mend, the operations that were committed keep their
    /// results ([`Reduce::report`] tells which); the others' inputs are as before.
    ///
    /// Returns the sum of the traffic, and the smallest contributor set.
    pub fn all_reduce_many(
        &self,
        operations: &mut [Reduce<'_>],
        max_in_flight: usize,
    ) -> Result<ReduceReport, CollectiveError> {
        many::run(self, operations, max_in_flight)
    }

    /// Makes the shared state of the group bit-identical. A joint call: blocks until all accepted
    /// peers of the group have called it and have what they lacked.
    ///
    /// On success `state.revision` is the elected one. After an error tensors may hold parts of
    /// two versions; this peer offers those to nobody until a later sync commits.
    ///
    /// There is no async twin: it hashes all tensors on the calling thread first. An async caller
    /// gives it a thread of its own (tokio's `spawn_blocking`, say).
    pub fn sync_shared_state(
        &self,
        state: &mut SharedState<'_>,
        strategy: SyncStrategy,
    ) -> Result<SyncReport, SyncError> {
        if self.driver().is_none() {
            // Before anything is hashed.
            return Err(SyncError::NotConnected);
        }
        let presentation = self.present(state, strategy);
        let names: Vec<String> = state.names().map(str::to_owned).collect();
        let report = lend_all(state.memory().map(Lendable::InPlace), |memory| {
            pollster::block_on(self.sync_memory(presentation, &names, memory))
        })?;
        state.revision = report.revision;
        Ok(report)
    }

    fn present(&self, state: &SharedState<'_>, strategy: SyncStrategy) -> Presentation {
        let tainted = self.tainted.lock().clone();
        state.present(strategy, |name| tainted.contains(name))
    }

    /// A sync of memory that the caller lends until this has returned.
    async fn sync_memory(
        &self,
        presentation: Presentation,
        names: &[String],
        memory: &[Arc<UserMemory>],
    ) -> Result<SyncReport, SyncError> {
        let driver = self.driver().ok_or(SyncError::NotConnected)?;
        let command = Command::SyncSharedState(presentation);
        let payload = Payload::Tensors(memory.to_vec());
        let response = self.answer(&driver, command, payload).await;
        let mut tainted = self.tainted.lock();
        match response.reply {
            Reply::Sync(Ok(revision)) => {
                names.iter().for_each(|name| {
                    tainted.remove(name);
                });
                Ok(SyncReport {
                    revision,
                    tx_bytes: response.sync.tx_bytes,
                    rx_bytes: response.sync.rx_bytes,
                })
            }
            Reply::Sync(Err(error)) => {
                for index in response.sync.begun {
                    tainted.extend(names.get(index).cloned());
                }
                Err(error)
            }
            _ => Err(Gone::Closed.into()),
        }
    }

    /// Names of tensors that a sync wrote to which did not commit, and that no later one has made
    /// whole: they may hold parts of two versions. A new communicator does not know of them, so a
    /// caller that makes one, after [`Gone`], first restores or reloads these.
    pub fn tainted(&self) -> Vec<String> {
        self.tainted.lock().iter().cloned().collect()
    }

    /// Leaves the run: the others go on without an error of their own making. Fails while
    /// operations or joint calls of this communicator run; blocks for at most a second.
    pub fn leave(&self) -> Result<(), MembershipError> {
        pollster::block_on(self.leave_async())
    }

    /// As [`leave`](Self::leave).
    pub async fn leave_async(&self) -> Result<(), MembershipError> {
        self.membership(Command::Leave).await
    }

    /// Ends the calls of this communicator that block now, in whatever thread, with `Cancelled`; an
    /// operation is aborted for everybody, and a sync that is moving tensors ends with `Aborted` for
    /// everybody. What is settled meanwhile keeps its outcome, and so does an `update_topology` that
    /// is letting newcomers in. The communicator stays in the run.
    ///
    /// Returns at once. The master ends the calls, so they go on for as long as it is away, up to
    /// `master_grace`.
    pub fn cancel(&self) {
        let _ = pollster::block_on(self.membership(Command::Cancel));
    }

    /// Ends every call of this communicator at once with [`Gone::Closed`], and its membership.
    pub fn close(&self) {
        let _ = pollster::block_on(self.membership(Command::Close));
    }

    async fn membership(&self, command: Command) -> Result<(), MembershipError> {
        let driver = self.driver().ok_or(MembershipError::NotConnected)?;
        match self.answer(&driver, command, Payload::None).await.reply {
            Reply::Membership(result) => result,
            _ => Err(Gone::Closed.into()),
        }
    }

    fn driver(&self) -> Option<Arc<Driver>> {
        self.driver.lock().clone()
    }

    async fn answer(&self, driver: &Driver, command: Command, payload: Payload) -> Response {
        let closed = command.closed();
        let (respond, response) = tokio::sync::oneshot::channel();
        driver.command(
            command,
            payload,
            Box::new(move |response| {
                let _ = respond.send(response);
            }),
        );
        // A loop that ended without an answer has let go of everything.
        response.await.unwrap_or_else(|_| Response::of(closed))
    }

    /// Starts an operation on memory that the caller lends for as long as it runs.
    fn start<T: Element>(
        &self,
        buffers: &Arc<UserMemory>,
        options: &ReduceOptions,
    ) -> Arc<Completion> {
        let count = buffers.len_bytes() / T::DATA_TYPE.size_bytes();
        self.start_elements(buffers, count, T::DATA_TYPE, options)
    }

    fn start_elements(
        &self,
        buffers: &Arc<UserMemory>,
        count: usize,
        data_type: DataType,
        options: &ReduceOptions,
    ) -> Arc<Completion> {
        let completion = Completion::new();
        match options.descriptor(count as u64, data_type) {
            Ok(descriptor) => {
                let memory = ReduceMemory::of(buffers);
                self.command_all_reduce(memory, descriptor, options, completion.responder());
            }
            Err(error) => completion.finish(Err(error)),
        }
        completion
    }

    fn command_all_reduce(
        &self,
        memory: ReduceMemory,
        descriptor: Descriptor,
        options: &ReduceOptions,
        respond: Respond,
    ) {
        let Some(driver) = self.driver() else {
            let reply = Reply::AllReduce(Err(CollectiveError::NotConnected));
            return respond(Response::of(reply));
        };
        let (tag, deadline) = (options.tag, options.deadline);
        let command = Command::AllReduce {
            tag,
            descriptor,
            deadline,
        };
        driver.command(command, Payload::Reduce(memory), respond);
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator")
            .field("master", &self.config.master)
            .field("group", &self.config.group)
            .field("label", &self.config.label)
            .field("peer", &self.peer_id())
            .finish_non_exhaustive()
    }
}

fn same_length(send: usize, recv: usize) -> Result<(), CollectiveError> {
    if send == recv {
        return Ok(());
    }
    Err(CollectiveError::InvalidArgument {
        field: "recv",
        reason: format!("it has {recv} elements where send has {send}"),
    })
}
