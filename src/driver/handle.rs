//! What callers hold of a running loop: they command it, and read what it last published.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::mpsc;
use tracing::warn;

use super::host::Host;
use super::peer::Loop;
use super::sync::{SyncTraffic, Tensors};
use crate::communicator::Config;
use crate::datapath::Traffic;
use crate::engine::UserMemory;
use crate::error::{ConnectError, Gone};
use crate::kernels::calculate_exactly;
use crate::protocol::peer::{Command, Membership, Reply};
use crate::transport::{Acceptor, AcceptorOptions, Listener, listen_in_range};
use crate::types::{Epoch, WorldSizes};

/// Memory that goes with a command.
pub(crate) enum Payload {
    None,
    Reduce(ReduceMemory),
    Tensors(Tensors),
}

/// Memory of an all-reduce.
#[derive(Clone)]
pub(crate) struct ReduceMemory {
    /// What is combined, and where to.
    pub(crate) buffers: Arc<UserMemory>,
    /// What quantization dropped the last time, and what it drops now: `f32` for each element.
    pub(crate) residual: Option<Arc<UserMemory>>,
}

impl ReduceMemory {
    pub(crate) fn of(buffers: &Arc<UserMemory>) -> Self {
        Self {
            buffers: buffers.clone(),
            residual: None,
        }
    }
}

/// The answer to a command, with what the data path counted.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) reply: Reply,
    pub(crate) traffic: Traffic,
    pub(crate) sync: SyncTraffic,
}

/// What a caller may read at any time without asking the loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) membership: Option<Membership>,
    pub(crate) gone: Option<Gone>,
}

impl Snapshot {
    pub(crate) fn sizes(&self) -> WorldSizes {
        match (&self.gone, &self.membership) {
            (None, Some(membership)) => membership.sizes,
            _ => WorldSizes::ALONE,
        }
    }
}

/// Takes the answer to a command; dropped uncalled if the loop ends without one.
pub(crate) type Respond = Box<dyn FnOnce(Response) + Send>;

/// A command on its way to the loop.
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) payload: Payload,
    pub(super) respond: Respond,
}

/// The handle on a running loop. Dropping it closes the peer and waits until nothing of it is
/// left.
pub(crate) struct Driver {
    requests: mpsc::UnboundedSender<Request>,
    snapshot: Arc<RwLock<Snapshot>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Listens and starts the loop in a thread of its own; nothing is dialled before
    /// `Command::Connect`.
    pub(crate) fn start(config: &Config) -> Result<Self, ConnectError> {
        let host = Host::default();
        let listener = listen(&host, config)?;
        let system = |error: std::io::Error| ConnectError::Listen {
            range: "threads".to_owned(),
            reason: error.to_string(),
        };
        let runtime = match config.data_threads {
            1 => {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                builder.thread_name("pccl-data");
                builder
            }
            threads => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(threads).thread_name("pccl-data");
                builder.on_thread_start(calculate_exactly);
                builder
            }
        }
        .enable_all()
        .build()
        .map_err(system)?;
        let (mut driver, running) = Self::prepare(host, config, listener);
        let thread = std::thread::Builder::new()
            .name("pccl".to_owned())
            .spawn(move || {
                calculate_exactly();
                runtime.block_on(running);
                runtime_ends(runtime);
            })
            .map_err(system)?;
        driver.thread = Some(thread);
        Ok(driver)
    }

    /// As [`start`](Self::start), but on the runtime that this is called in, without a thread.
    #[cfg(feature = "sim")]
    pub(crate) fn start_here(host: Host, config: &Config) -> Result<Self, ConnectError> {
        let listener = listen(&host, config)?;
        let (driver, running) = Self::prepare(host, config, listener);
        tokio::spawn(running);
        Ok(driver)
    }

    fn prepare(
        host: Host,
        config: &Config,
        listener: Listener,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let snapshot = Arc::new(RwLock::new(Snapshot::default()));
        let (requests, queue) = mpsc::unbounded_channel();
        let port = listener.local_addr().port();
        let (config, shared) = (config.clone(), snapshot.clone());
        let running = async move {
            let options = AcceptorOptions::with_socket(config.socket.clone());
            match Acceptor::spawn(listener, options) {
                Ok((acceptor, incoming)) => {
                    Loop::new(host, config, port, shared)
                        .run(queue, incoming)
                        .await;
                    acceptor.stop().await;
                }
                Err(error) => warn!(%error, "cannot accept connections"),
            }
        };
        let driver = Self {
            requests,
            snapshot,
            thread: None,
        };
        (driver, running)
    }

    /// Commands the peer; the answer goes to `respond`, always.
    pub(crate) fn command(&self, command: Command, payload: Payload, respond: Respond) {
        if let Err(mpsc::error::SendError(request)) = self.requests.send(Request {
            command,
            payload,
            respond,
        }) {
            (request.respond)(Response::of(request.command.closed()));
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.read().clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.command(Command::Close, Payload::None, Box::new(|_| {}));
        // The loop ends when the last sender is gone.
        let (closed, _) = mpsc::unbounded_channel();
        self.requests = closed;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn listen(host: &Host, config: &Config) -> Result<Listener, ConnectError> {
    listen_in_range(&host.network, config.bind, config.listen_ports.clone()).map_err(|error| {
        ConnectError::Listen {
            range: error.range,
            reason: error.source.to_string(),
        }
    })
}

/// Waits for tasks on other threads to be gone, so that nothing outlives the communicator.
fn runtime_ends(runtime: tokio::runtime::Runtime) {
    runtime.shutdown_timeout(Duration::from_secs(1));
}

impl Response {
    pub(crate) fn of(reply: Reply) -> Self {
        Self {
            reply,
            traffic: Traffic::default(),
            sync: SyncTraffic::default(),
        }
    }
}
