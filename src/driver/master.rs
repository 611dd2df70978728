//! The master as a thread of its own: sockets to [`protocol::master::Master`] and back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::clock::Clock;
use super::control::{ControlWriter, FromControl};
use super::host::Host;
#[cfg(feature = "sim")]
use super::host::observer::Observed;
#[cfg(feature = "sim")]
use super::state_dir::Disk;
use super::state_dir::StateDir;
use crate::protocol::master::{
    self as machine, ConnectionId, Input, MasterConfig, Output, Solution, SolveRequest,
};
use crate::topology;
use crate::transport::{
    Acceptor, AcceptorOptions, Incoming, Listener, Network, Probe, SocketOptions, Stream,
    listen_in_range, probe, refuse, resolve, welcome,
};
use crate::types::{GroupId, PeerId, RunId, Timestamp};
use crate::wire::control::{Frame, Hello, Message, ToMaster, ToPeer, Welcome};
use crate::wire::greeting::Kind;

/// How long a second witness is waited for.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Messages of all peers that may lie in the queue. Who says more than the master takes in waits in
/// its own socket buffer, not in the master's memory.
const QUEUE: usize = 256;

/// Far below what sums and multiples of durations may come to.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Pauses between two log lines that say the same.
const WAITING_SAID: Duration = Duration::from_secs(10);

/// Steps that the search for a ring may take: milliseconds.
const SOLVE_STEPS: u64 = 200_000;

/// Why a master could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MasterError {
    /// A setting makes no sense. **Next:** correct it.
    #[error("setting `{field}`: {reason}")]
    InvalidConfig {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The address cannot be listened on. **Next:** choose another, or end what holds it.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The state directory cannot be used: it is damaged, not one, or in use. **Next:** what the
    /// reason says: end the other master, or move the directory away and start again, as the peers of
    /// the run know all that the next master must.
    #[error("state directory {}: {reason}", path.display())]
    StateDirectory {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system gave no thread or no random numbers. **Next:** raise the limits of the process.
    #[error("cannot start: {0}")]
    System(std::io::Error),
}

/// The process that orders membership and settles outcomes. It never touches tensor bytes.
///
/// Runs in a thread of its own until it is stopped or dropped. Its peers then go on with another master of
/// their list, or with the next one at its address, and leave if there is none within their
/// `master_grace`.
///
/// ```
/// let master = pccl::Master::bind("127.0.0.1:0".parse()?)?;
/// println!("peers connect to {}", master.local_addr());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it stops the master"]
pub struct Master {
    address: SocketAddr,
    stop: Option<oneshot::Sender<Stop>>,
    thread: Option<JoinHandle<()>>,
}

impl Master {
    /// Listens on exactly this address (port 0: any free one) and starts.
    pub fn bind(address: SocketAddr) -> Result<Self, MasterError> {
        Self::bind_with(address, MasterConfig::default())
    }

    /// As [`bind`](Self::bind), with settings.
    ///
    /// Nobody can come back to a port that the system picks: there a new run begins.
    pub fn bind_with(address: SocketAddr, config: MasterConfig) -> Result<Self, MasterError> {
        check(&config)?;
        let config = match address.port() {
            0 => config.new_run(),
            _ => config,
        };
        let host = Host::default();
        let listener = listen(&host, address)?;
        let state = match &config.state_dir {
            Some(path) => {
                Some(
                    StateDir::open(path).map_err(|reason| MasterError::StateDirectory {
                        path: path.clone(),
                        reason,
                    })?,
                )
            }
            None => None,
        };
        let address = listener.local_addr();
        let mut secret = Secret([0; 40]);
        getrandom::fill(&mut secret.0)
            .map_err(|error| MasterError::System(std::io::Error::other(error.to_string())))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(MasterError::System)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("pccl-master".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    serve(host, listener, config, state, secret, stopped).await;
                    info!(%address, "master stopped");
                });
            })
            .map_err(MasterError::System)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops it; the port is free on return. To its peers that is a crash: they look for it, and for
    /// others that they may follow.
    pub fn stop(mut self) {
        self.end(Stop::Now);
    }

    /// Stops it for another one: its peers are told to go on with one of their other masters at
    /// once, or with the next one at this address, which may be another version. What is under way
    /// goes on; the port is free on return.
    pub fn hand_over(mut self) {
        self.end(Stop::HandOver);
    }

    fn end(&mut self, how: Stop) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(how);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.end(Stop::Now);
    }
}

/// How a master is to end.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// At once.
    Now,
    /// Once its peers have been told.
    HandOver,
}

/// How long the last words to peers may take to go out.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

/// Unpredictable bytes: the run's id, its tokens and secrets come from them.
pub(crate) struct Secret(pub(crate) [u8; 40]);

pub(crate) fn listen(host: &Host, address: SocketAddr) -> Result<Listener, MasterError> {
    let ports = address.port()..=address.port();
    listen_in_range(&host.network, Some(address.ip()), ports).map_err(|error| MasterError::Listen {
        address,
        reason: error.source.to_string(),
    })
}

/// A master on the runtime that this is polled in; it ends when it is stopped or dropped.
async fn serve(
    host: Host,
    listener: Listener,
    config: MasterConfig,
    state: Option<(StateDir, Option<machine::Memory>)>,
    secret: Secret,
    stop: oneshot::Receiver<Stop>,
) {
    let address = listener.local_addr();
    let (run, seed) = secret.0.split_at(8);
    let run = RunId(run.try_into().map(u64::from_le_bytes).unwrap_or_default());
    let seed: [u8; 32] = seed.try_into().unwrap_or_default();
    // Dropped with this, and then stops as well.
    let accepting = AcceptorOptions::with_socket(SocketOptions::control());
    let (_acceptor, incoming) = match Acceptor::spawn(listener, accepting) {
        Ok(started) => started,
        Err(error) => return warn!(%error, "the master cannot accept"),
    };
    let recovery_window_ms = config.recovery_window.as_millis();
    match config.waits_for_a_run() {
        false => info!(%address, %run, "master started; a new run begins"),
        true => info!(
            %address,
            recovery_window_ms,
            "master started; waiting for peers of a run that had a master before"
        ),
    }
    let clock = Clock::start();
    let (machine, state) = match state {
        Some((state, recalled)) => {
            let machine = machine::Master::with_memory(config, run, recalled, seed, clock.now());
            (machine, Some(state))
        }
        None => (
            machine::Master::new(config, run, 1, seed, clock.now()),
            None,
        ),
    };
    let (events, queue) = mpsc::channel(QUEUE);
    let running = Loop {
        host,
        machine,
        state,
        clock,
        events,
        greeted: BTreeMap::new(),
        connections: BTreeMap::new(),
        next_connection: 1,
        said_waiting: None,
    };
    running.run(incoming, queue, stop).await;
}

/// A master that is never stopped but by dropping this. An error says what is wrong with its disk.
#[cfg(feature = "sim")]
pub(crate) async fn serve_for_ever(
    host: Host,
    listener: Listener,
    config: MasterConfig,
    disk: Option<Box<dyn Disk>>,
    secret: Secret,
) -> Result<(), String> {
    let (_stop, stopped) = oneshot::channel();
    let state = disk.map(StateDir::on).transpose()?;
    serve(host, listener, config, state, secret, stopped).await;
    Ok(())
}

fn check(config: &MasterConfig) -> Result<(), MasterError> {
    let invalid = |field, reason| Err(MasterError::InvalidConfig { field, reason });
    for (field, duration) in [
        ("heartbeat_interval", config.heartbeat_interval),
        ("silence_floor", config.silence_floor),
        ("silence_ceiling", config.silence_ceiling),
        ("lane_stall_timeout", config.lane_stall_timeout),
        ("link_timeout", config.link_timeout),
        ("resume_grace", config.resume_grace),
        ("wiring_timeout", config.wiring_timeout),
        ("recovery_window", config.recovery_window),
    ] {
        if duration > DURATION_MAX {
            return invalid(field, "it is over a year");
        }
    }
    if config.heartbeat_interval < Duration::from_millis(1) {
        return invalid("heartbeat_interval", "it is under a millisecond");
    }
    if config.silence_floor < config.heartbeat_interval.saturating_mul(3) {
        return invalid("silence_floor", "it is under three heartbeat intervals");
    }
    if config.silence_ceiling < config.silence_floor {
        return invalid("silence_ceiling", "it is below `silence_floor`");
    }
    for (field, duration) in [
        ("lane_stall_timeout", config.lane_stall_timeout),
        ("link_timeout", config.link_timeout),
    ] {
        if duration < Duration::from_millis(1) {
            return invalid(field, "it is under a millisecond");
        }
    }
    if config.wiring_timeout < config.link_timeout {
        return invalid("wiring_timeout", "it is below `link_timeout`");
    }
    Ok(())
}

/// What the tasks around the loop tell it.
enum Event {
    FromPeer(ConnectionId, FromControl<ToMaster>),
    PortRefused(PeerId),
}

struct Loop {
    host: Host,
    machine: machine::Master,
    state: Option<StateDir>,
    clock: Clock,
    events: mpsc::Sender<Event>,
    /// Connections whose hello the machine has not answered.
    greeted: BTreeMap<ConnectionId, Stream>,
    connections: BTreeMap<ConnectionId, ControlWriter>,
    next_connection: u64,
    /// When it was said last that peers are told to wait.
    said_waiting: Option<Timestamp>,
}

impl Loop {
    async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Incoming>,
        mut queue: mpsc::Receiver<Event>,
        mut stop: oneshot::Receiver<Stop>,
    ) {
        loop {
            self.obey().await;
            let timeout = self.clock.instant(self.machine.next_timeout());
            tokio::select! {
                biased;
                how = &mut stop => {
                    return match how {
                        Ok(Stop::HandOver) => self.hand_over().await,
                        Ok(Stop::Now) | Err(_) => {}
                    };
                }
                () = tokio::time::sleep_until(timeout) => {
                    // What has arrived is read before any watch is asked.
                    for _ in 0..QUEUE {
                        match queue.try_recv() {
                            Ok(event) => self.on_event(event),
                            Err(_) => break,
                        }
                    }
                    self.tell(Input::Tick);
                }
                Some(event) = queue.recv() => {
                    self.on_event(event);
                    // Peers that never stop talking keep nobody out.
                    if let Ok(arrival) = incoming.try_recv() {
                        self.on_incoming(arrival);
                    }
                }
                arrival = incoming.recv() => match arrival {
                    Some(arrival) => self.on_incoming(arrival),
                    None => return,
                },
            }
        }
    }

    /// Tells all peers, and waits until they have been told.
    async fn hand_over(mut self) {
        self.tell(Input::HandOver);
        let mut last_words = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { connection, frame } => self.send(connection, &frame),
                Output::Close { connection } => {
                    let writer = self.connections.remove(&connection);
                    last_words.extend(writer.and_then(ControlWriter::close));
                }
                _ => {}
            }
        }
        let all_told = async {
            for told in last_words {
                let _ = told.await;
            }
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, all_told)
            .await
            .is_err()
        {
            warn!("not all peers take the news that this master hands over");
        }
    }

    fn tell(&mut self, input: Input) {
        #[cfg(feature = "sim")]
        self.host.observe(Observed::MasterInput(&input));
        self.machine.handle(self.clock.now(), input);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::FromPeer(connection, FromControl::Frame(frame)) => {
                self.tell(Input::Message { connection, frame });
            }
            Event::FromPeer(connection, FromControl::Closed(reason)) => {
                self.connections.remove(&connection);
                self.tell(Input::Closed { connection, reason });
            }
            Event::PortRefused(peer) => self.tell(Input::PortRefused { peer }),
        }
    }

    fn on_incoming(
        &mut self,
        Incoming {
            greeting,
            stream,
            from,
        }: Incoming,
    ) {
        let hello = match greeting.kind {
            Kind::Control => Hello::decode(&greeting.body).map_err(|error| error.to_string()),
            _ => Err("this is a master's port".to_owned()),
        };
        match hello {
            Ok(hello) => {
                let connection = ConnectionId(self.next_connection);
                self.next_connection += 1;
                self.greeted.insert(connection, stream);
                self.tell(Input::Greeted {
                    connection,
                    hello,
                    from,
                });
            }
            Err(reason) => {
                warn!(%from, %reason, "closed a connection");
                tokio::spawn(async move { refuse(stream, &reason).await });
            }
        }
    }

    /// They ask several times a second.
    fn say_waiting(&mut self) {
        let now = self.clock.now();
        if self
            .said_waiting
            .is_none_or(|last| now.since(last) >= WAITING_SAID)
        {
            self.said_waiting = Some(now);
            info!(
                "peers ask, and are told to wait: this master rules no run yet; one goes on where most of its peers \
                 are, and one begins at the first of their masters, once they have reached all"
            );
        }
    }

    async fn obey(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            #[cfg(feature = "sim")]
            self.host.observe(Observed::MasterOutput(&output));
            if let Some(state) = &mut self.state
                && matches!(output, Output::Send { .. } | Output::Welcome { .. })
            {
                state.sync();
            }
            match output {
                Output::Welcome {
                    connection,
                    welcome: answer,
                    accepted,
                } => {
                    if matches!(answer, Welcome::Waiting { .. }) {
                        self.say_waiting();
                    }
                    if let Some(mut stream) = self.greeted.remove(&connection) {
                        // Small enough for an empty socket buffer: it does not block.
                        if let Err(error) = welcome(&mut stream, &answer.encode()).await {
                            let reason = error.to_string();
                            self.tell(Input::Closed { connection, reason });
                            continue;
                        }
                        let events = self.events.clone();
                        let writer = ControlWriter::spawn(stream, move |message| {
                            let events = events.clone();
                            let event = Event::FromPeer(connection, message);
                            async move { events.send(event).await.is_ok() }
                        });
                        if accepted {
                            writer.trust();
                        }
                        self.connections.insert(connection, writer);
                    }
                }
                Output::Refuse { connection, reason } => {
                    if let Some(stream) = self.greeted.remove(&connection) {
                        tokio::spawn(async move { refuse(stream, &reason).await });
                    }
                }
                Output::Send { connection, frame } => self.send(connection, &frame),
                Output::Close { connection } => {
                    self.greeted.remove(&connection);
                    self.connections.remove(&connection);
                }
                Output::Probe { peer, address } => {
                    let (events, network) = (self.events.clone(), self.host.network.clone());
                    tokio::spawn(async move {
                        if refuses(&network, &address).await {
                            let _ = events.send(Event::PortRefused(peer)).await;
                        }
                    });
                }
                Output::Record(record) => {
                    if let Some(state) = &mut self.state {
                        state.write(record);
                    }
                }
                Output::Solve(request) => {
                    let input = Input::Solved {
                        request: request.request,
                        solutions: solve(&request),
                    };
                    self.tell(input);
                }
            }
        }
    }

    fn send(&self, connection: ConnectionId, frame: &Frame<ToPeer>) {
        if let Some(writer) = self.connections.get(&connection) {
            if matches!(frame.message, ToPeer::EpochActive { .. }) {
                writer.trust();
            }
            writer.send(frame);
        }
    }
}

/// Whether nobody listens on any address of this peer any more.
async fn refuses(network: &Network, address: &str) -> bool {
    let Ok(addresses) = resolve(address).await else {
        return false;
    };
    for address in &addresses {
        if probe(network, *address, PROBE_TIMEOUT).await != Probe::Refused {
            return false;
        }
    }
    !addresses.is_empty()
}

fn solve(request: &SolveRequest) -> BTreeMap<GroupId, Solution> {
    request
        .groups
        .iter()
        .map(|(group, members)| {
            let mut joined = members.clone();
            joined.sort();
            let solution = match topology::ring(members, &request.broken, SOLVE_STEPS) {
                topology::Solution::Ring(ring) => Solution::Ring(ring),
                topology::Solution::None | topology::Solution::BudgetSpent => {
                    let dropped = topology::whom_to_drop(
                        members,
                        &request.newcomers,
                        &request.broken,
                        &request.complaints,
                        &joined,
                    );
                    dropped.map_or_else(|| Solution::Ring(members.clone()), Solution::Drop)
                }
            };
            (*group, solution)
        })
        .collect()
}
