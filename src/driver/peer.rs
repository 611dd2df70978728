//! A peer's loop: callers' commands, sockets and the data plane to
//! [`protocol::peer::Peer`](crate::protocol::peer::Peer) and back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use super::clock::Clock;
use super::control::{ControlWriter, FromControl};
use super::handle::{Payload, ReduceMemory, Request, Respond, Response, Snapshot};
use super::host::Host;
#[cfg(feature = "sim")]
use super::host::observer::Observed;
use super::link::{Change, Patience};
use super::links::{Caller, LinkEvent, Links};
use super::reach::{Unreached, reach};
use super::sync::{Session, SyncEvent, SyncTraffic, turn_away};
use crate::communicator::Config;
use crate::datapath::{DataPlane, Disposition, OperationSpec, PlaneEvent, STALL_TIMEOUT, Traffic};
use crate::engine::UserMemory;
use crate::mutation::{Mutation, mutated};
use crate::protocol::peer::{Input, Output, Peer, PeerConfig, Reply, RequestId};
use crate::transport::{Incoming, Stream, refuse};
use crate::types::{Epoch, OperationId, PeerId};
use crate::wire::control::{Hello, Join, LinkSpec, ToPeer, Welcome};
use crate::wire::greeting::Kind;
use crate::wire::hello::{LaneHello, TransferHello};

/// Most events that are read before a tick: a flood must not keep the clock from being heard.
const EVENTS_BEFORE_TICK: usize = 10_000;

/// How long the last words to the master may take to go out.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(250);

/// What the tasks around the loop tell it.
enum Event {
    /// With the number of the attempt it belongs to.
    Reached(u64, Result<(Stream, Welcome, SocketAddr), Unreached>),
    FromMaster(u64, FromControl<ToPeer>),
    OperationEnded(OperationId, Traffic),
}

pub(super) struct Loop {
    host: Host,
    config: Config,
    machine: Peer,
    clock: Clock,
    snapshot: Arc<RwLock<Snapshot>>,
    events: mpsc::UnboundedSender<Event>,
    event_queue: mpsc::UnboundedReceiver<Event>,

    /// Numbers the connections to the master, so that what a dropped one says is not heard.
    attempt: u64,
    dialling: Option<AbortHandle>,
    control: Option<ControlWriter>,
    /// The writer of a connection that was closed: its last words may still be on their way out.
    closing: Option<tokio::task::JoinHandle<()>>,
    caller: Option<Caller>,

    links: Links,
    /// What is waited for of neighbours, as far as settings say.
    patience: Patience,
    link_queue: mpsc::UnboundedReceiver<LinkEvent>,
    plane: Arc<DataPlane>,
    plane_queue: mpsc::UnboundedReceiver<PlaneEvent>,
    session: Option<(RequestId, Session)>,
    sync_events: mpsc::UnboundedSender<SyncEvent>,
    sync_queue: mpsc::UnboundedReceiver<SyncEvent>,

    next_request: u64,
    pending: BTreeMap<RequestId, Pending>,
    /// Which command each running operation belongs to.
    running: BTreeMap<OperationId, RequestId>,
}

struct Pending {
    respond: Respond,
    memory: Option<ReduceMemory>,
    traffic: Traffic,
}

impl Loop {
    pub(super) fn new(
        host: Host,
        config: Config,
        port: u16,
        snapshot: Arc<RwLock<Snapshot>>,
    ) -> Self {
        let clock = Clock::start();
        let join = Join {
            group: config.group,
            label: config.label.clone(),
            advertised_host: config.advertised_host.clone().unwrap_or_default(),
            port: config.advertised_port.unwrap_or(port),
            lanes: config.lanes_per_link,
            ..Join::default()
        };
        let peer_config = PeerConfig {
            masters: config.masters(),
            join,
            connect_timeout: config.connect_timeout,
            master_grace: config.master_grace,
        };
        let (events, event_queue) = mpsc::unbounded_channel();
        let (link_events, link_queue) = mpsc::unbounded_channel();
        let (plane_events, plane_queue) = mpsc::unbounded_channel();
        let (sync_events, sync_queue) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Handle::current();
        Self {
            machine: Peer::new(peer_config, clock.now()),
            clock,
            snapshot,
            events,
            event_queue,
            attempt: 0,
            dialling: None,
            control: None,
            closing: None,
            caller: None,
            links: Links::new(link_events),
            patience: Patience::default(),
            link_queue,
            plane: DataPlane::new(runtime, plane_events, config.keepalive_interval),
            plane_queue,
            session: None,
            sync_events,
            sync_queue,
            next_request: 1,
            pending: BTreeMap::new(),
            running: BTreeMap::new(),
            config,
            host,
        }
    }

    pub(super) async fn run(
        mut self,
        mut requests: mpsc::UnboundedReceiver<Request>,
        mut incoming: mpsc::Receiver<Incoming>,
    ) {
        loop {
            self.obey().await;
            let timeout = self.next_timeout();
            let sleep = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep_until(timeout).await,
                    None => std::future::pending().await,
                }
            };
            // In this order nobody starves: only a peer's own master, lanes and callers fill the
            // queues above the last one, and each waits for answers.
            tokio::select! {
                biased;
                () = sleep => self.tick(timeout.unwrap_or_else(tokio::time::Instant::now)),
                Some(event) = self.event_queue.recv() => self.on_event(event),
                Some(event) = self.plane_queue.recv() => self.on_plane_event(event),
                Some(event) = self.link_queue.recv() => self.on_link_event(event),
                Some(event) = self.sync_queue.recv() => self.on_sync_event(event),
                request = requests.recv() => match request {
                    Some(request) => self.on_request(request),
                    None => break,
                },
                Some(arrival) = incoming.recv() => self.on_incoming(arrival),
            }
        }
        self.finish().await;
    }

    /// The communicator is gone: gives everything back.
    async fn finish(mut self) {
        // The last answer may come from obeying: asking for another event then would never end.
        self.obey().await;
        while !self.pending.is_empty() {
            match self.event_queue.recv().await {
                Some(event) => self.on_event(event),
                None => break,
            }
            self.obey().await;
        }
        self.plane.shutdown();
        if let Some(task) = self.dialling.take() {
            task.abort();
        }
        if let Some(writer) = self.closing.take() {
            // The goodbye is worth a moment, not more: a dead master would never take it.
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, writer).await;
        }
    }

    fn next_timeout(&self) -> Option<tokio::time::Instant> {
        let machine = self
            .machine
            .next_timeout()
            .map(|timeout| self.clock.instant(timeout));
        [machine, self.links.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    fn tick(&mut self, due: tokio::time::Instant) {
        // What has arrived is read before any watch is asked.
        for _ in 0..EVENTS_BEFORE_TICK {
            match self.event_queue.try_recv() {
                Ok(event) => self.on_event(event),
                Err(_) => break,
            }
        }
        for _ in 0..EVENTS_BEFORE_TICK {
            match self.plane_queue.try_recv() {
                Ok(event) => self.on_plane_event(event),
                Err(_) => break,
            }
        }
        for _ in 0..EVENTS_BEFORE_TICK {
            match self.link_queue.try_recv() {
                Ok(event) => self.on_link_event(event),
                Err(_) => break,
            }
        }
        for (peer, change) in self.links.tick(due) {
            self.on_link_change(peer, change);
        }
        self.tell(Input::Tick);
    }

    fn tell(&mut self, input: Input) {
        #[cfg(feature = "sim")]
        self.host.observe(Observed::PeerInput(&input));
        self.machine.handle(self.clock.now(), input);
    }

    fn on_request(
        &mut self,
        Request {
            command,
            payload,
            respond,
        }: Request,
    ) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let memory = match payload {
            Payload::Reduce(memory) => Some(memory),
            Payload::Tensors(tensors) => {
                // A second sync is refused by the machine; the first keeps its session.
                if self.session.is_none() {
                    let stall_timeout = self
                        .caller
                        .as_ref()
                        .map_or(STALL_TIMEOUT, |caller| caller.lane_stall_timeout);
                    let session = Session::new(&tensors, stall_timeout, self.sync_events.clone());
                    self.session = Some((request, session));
                }
                None
            }
            Payload::None => None,
        };
        self.pending.insert(
            request,
            Pending {
                respond,
                memory,
                traffic: Traffic::default(),
            },
        );
        self.tell(Input::Command { request, command });
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Reached(attempt, _) | Event::FromMaster(attempt, _)
                if attempt != self.attempt => {}
            Event::Reached(attempt, Ok((stream, welcome, address))) => {
                let events = self.events.clone();
                let control = ControlWriter::spawn(stream, move |message| {
                    std::future::ready(events.send(Event::FromMaster(attempt, message)).is_ok())
                });
                // The master was chosen by this peer's owner.
                control.trust();
                self.control = Some(control);
                self.introduce(&welcome, address);
                self.tell(Input::Welcomed(welcome));
            }
            Event::Reached(_, Err(Unreached::Refused(reason))) => {
                self.tell(Input::Refused { reason });
            }
            Event::Reached(_, Err(Unreached::Failed(reason))) => {
                self.tell(Input::Disconnected { reason });
            }
            Event::FromMaster(_, FromControl::Frame(frame)) => self.tell(Input::Message(frame)),
            Event::FromMaster(_, FromControl::Closed(reason)) => {
                self.control = None;
                self.tell(Input::Disconnected { reason });
            }
            Event::OperationEnded(op, traffic) => {
                let running = self.running.remove(&op);
                if let Some(pending) = running.and_then(|request| self.pending.get_mut(&request)) {
                    pending.traffic = traffic;
                }
                self.tell(Input::OperationEnded { op });
            }
        }
    }

    fn introduce(&mut self, welcome: &Welcome, master: SocketAddr) {
        if let Welcome::Registered {
            run, peer, timings, ..
        } = welcome
        {
            let base = Patience {
                link_timeout: self.config.link_timeout.unwrap_or(timings.link_timeout),
                lane_stall_timeout: timings.lane_stall_timeout,
            };
            self.patience = base;
            let caller = Caller {
                network: self.host.network.clone(),
                run: *run,
                peer: *peer,
                master,
                bind: self.config.bind,
                socket: self.config.socket.clone(),
                link_timeout: base.link_timeout,
                lane_stall_timeout: base.lane_stall_timeout,
            };
            self.plane.set_stall_timeout(timings.lane_stall_timeout);
            self.caller = Some(caller.clone());
            self.links.introduce(caller);
        }
        if let Welcome::Returned { timings, .. } = welcome {
            // Takes effect with the next epoch's links, whose round trips are known then.
            self.patience = Patience {
                link_timeout: self.config.link_timeout.unwrap_or(timings.link_timeout),
                lane_stall_timeout: timings.lane_stall_timeout,
            };
        }
    }

    /// Nothing is expected of far neighbours before their answers can be here.
    fn allow_for(&mut self, links: &[LinkSpec]) {
        let longest = links.iter().map(|link| link.round_trip).max();
        let patience = self.patience.across(longest.unwrap_or_default());
        let Some(caller) = &mut self.caller else {
            return;
        };
        caller.link_timeout = patience.link_timeout;
        caller.lane_stall_timeout = patience.lane_stall_timeout;
        self.plane.set_stall_timeout(caller.lane_stall_timeout);
        self.links.allow(caller.link_timeout);
    }

    fn on_plane_event(&mut self, event: PlaneEvent) {
        match event {
            PlaneEvent::Finished { op } => self.tell(Input::OperationFinished { op }),
            PlaneEvent::LaneClosed { peer, lane, .. } if self.plane.has_lane(peer, lane) => {}
            PlaneEvent::LaneClosed {
                peer, lane, end, ..
            } => {
                for (peer, change) in self.links.on_lane_closed(peer, lane, &end) {
                    self.on_link_change(peer, change);
                }
            }
        }
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Open {
                peer,
                lane,
                dialled_here,
                stream,
            } => {
                let (is_wanted, change) = self.links.on_open(peer, lane, dialled_here);
                if is_wanted {
                    if let Some(round_trip) = stream.round_trip() {
                        self.links.on_round_trip(peer, round_trip);
                        self.plane.note_round_trip(round_trip);
                    }
                    let (reader, writer) = stream.into_split();
                    self.plane.add_lane(peer, lane, reader, writer);
                }
                if let Some(change) = change {
                    self.on_link_change(peer, change);
                }
            }
            LinkEvent::NotArrived { peer, lane } => self.links.on_not_arrived(peer, lane),
            LinkEvent::NotDialled { peer, lane, reason } => {
                self.links.on_not_dialled(peer, lane, reason);
            }
        }
    }

    fn on_link_change(&mut self, peer: PeerId, change: Change) {
        self.tell(match change {
            Change::Up => Input::LinkUp { peer },
            Change::Down(loss) => Input::LinkDown { peer, loss },
            Change::Failed(fault, reason) => Input::LinkFailed {
                peer,
                fault,
                reason,
            },
        });
    }

    fn on_sync_event(&mut self, event: SyncEvent) {
        self.tell(match event {
            SyncEvent::Received { round } => Input::SyncReceived { round },
            SyncEvent::Failed {
                round,
                holder,
                reason,
            } => Input::SyncFailed {
                round,
                holder,
                reason,
            },
        });
    }

    fn on_incoming(
        &mut self,
        Incoming {
            greeting,
            stream,
            from,
        }: Incoming,
    ) {
        let refused = match greeting.kind {
            Kind::Lane => match LaneHello::decode(&greeting.body) {
                Ok(hello) => return self.links.on_incoming(hello, stream),
                Err(error) => error.to_string(),
            },
            Kind::StateTransfer => match TransferHello::decode(&greeting.body) {
                Ok(hello) => {
                    let ours = self
                        .caller
                        .as_ref()
                        .is_some_and(|caller| caller.run == hello.run && caller.peer == hello.to);
                    match &mut self.session {
                        Some((_, session)) if ours => session.serve(hello, stream),
                        _ => turn_away(stream, "no sync is running here"),
                    }
                    return;
                }
                Err(error) => error.to_string(),
            },
            _ => "this is a peer's port".to_owned(),
        };
        warn!(%from, reason = %refused, "closed a connection");
        tokio::spawn(async move { refuse(stream, &refused).await });
    }

    async fn obey(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            #[cfg(feature = "sim")]
            self.host.observe(Observed::PeerOutput(&output));
            match output {
                Output::ReachMaster {
                    master,
                    hello,
                    after,
                    within,
                } => self.reach_master(master, hello, after, within),
                Output::LeaveMaster => {
                    self.attempt += 1;
                    self.closing = self.control.take().and_then(ControlWriter::close);
                    if let Some(task) = self.dialling.take() {
                        task.abort();
                    }
                }
                Output::Send(frame) => {
                    if let Some(control) = &self.control {
                        control.send(&frame);
                    }
                }
                Output::Wire { epoch, links } => {
                    self.allow_for(&links);
                    for peer in self.links.set(epoch, links) {
                        self.plane.remove_link(peer);
                    }
                }
                Output::OpenEpoch { epoch, membership } => {
                    self.plane.open_epoch(epoch);
                    let mut snapshot = self.snapshot.write();
                    snapshot.epoch = Some(epoch);
                    snapshot.membership = Some(membership);
                }
                Output::BeginOperation {
                    request,
                    op,
                    descriptor,
                    rank,
                    ring,
                } => {
                    let memory = self.pending.get(&request).and_then(|p| p.memory.as_ref());
                    if let Some(memory) = memory {
                        self.running.insert(op, request);
                        let spec = OperationSpec {
                            descriptor,
                            rank,
                            ring,
                            buffers: memory.buffers.open(),
                            residual: memory.residual.as_ref().map(UserMemory::open),
                        };
                        if let Err(error) = self.plane.begin(op, spec) {
                            let reason = error.to_string();
                            self.tell(Input::OperationFailed { op, reason });
                        }
                    }
                }
                Output::EndOperation { op, roll_back } => self.end_operation(op, roll_back),
                Output::NoteSettled { op } => self.plane.note_settled(op.tag, op.n),
                Output::BeginSync { request, plan } => {
                    if let (Some((running, session)), Some(caller)) =
                        (&mut self.session, &self.caller)
                        && *running == request
                    {
                        session.follow(caller, plan);
                    }
                }
                Output::Reply { request, reply } => self.reply(request, reply).await,
                Output::Gone(gone) => {
                    for peer in self.links.set(Epoch::default(), Vec::new()) {
                        self.plane.remove_link(peer);
                    }
                    self.snapshot.write().gone = Some(gone);
                }
            }
        }
    }

    fn end_operation(&self, op: OperationId, roll_back: bool) {
        let (plane, events) = (self.plane.clone(), self.events.clone());
        let disposition = if roll_back {
            Disposition::RollBack
        } else {
            Disposition::Keep
        };
        tokio::spawn(async move {
            let traffic = plane.end(op, disposition).await;
            let _ = events.send(Event::OperationEnded(op, traffic));
        });
    }

    async fn reply(&mut self, request: RequestId, reply: Reply) {
        let Some(Pending {
            respond,
            memory,
            traffic,
        }) = self.pending.remove(&request)
        else {
            return;
        };
        // The caller's memory is let go of before the caller is told; it may be lent again.
        if mutated(Mutation::KeepMemory) {
            std::mem::forget(memory.clone());
        }
        drop(memory);
        let mut sync = SyncTraffic::default();
        if let Some((_, session)) = self.session.take_if(|(running, _)| *running == request) {
            sync = session.end().await;
        }
        debug!(request = request.0, ?reply, "replied");
        let response = Response {
            reply,
            traffic,
            sync,
        };
        // It may wake a future of the caller's; a panic there is not this loop's end.
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| respond(response)));
        if told.is_err() {
            warn!(request = request.0, "who waited for this answer panicked");
        }
    }

    fn reach_master(&mut self, master: String, hello: Hello, after: Duration, within: Duration) {
        self.attempt += 1;
        self.control = None;
        let (attempt, events) = (self.attempt, self.events.clone());
        let bind = self.config.bind;
        let network = self.host.network.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let reached = reach(&network, &master, bind, &hello, within).await;
            let _ = events.send(Event::Reached(attempt, reached));
        });
        if let Some(older) = self.dialling.replace(task.abort_handle()) {
            older.abort();
        }
    }
}
