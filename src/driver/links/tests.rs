//! Two ends of a link with their data planes, over a network in memory.

use std::sync::Arc;

use super::*;
use crate::datapath::{DataPlane, Disposition, OperationSpec, PlaneEvent};
use crate::driver::testing::Net;
use crate::engine::testing::Memory;
use crate::transport::{Acceptor, AcceptorOptions, Incoming, listen_in_range};
use crate::types::{DataType, Descriptor, OperationId, PeerName, Rank, ReduceOp, Tag};

const LANES: u16 = 4;
const LINK_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const EPOCH: Epoch = Epoch { term: 1, count: 1 };

struct Node {
    index: u16,
    links: Links,
    link_queue: mpsc::UnboundedReceiver<LinkEvent>,
    plane: Arc<DataPlane>,
    plane_queue: mpsc::UnboundedReceiver<PlaneEvent>,
    incoming: mpsc::Receiver<Incoming>,
    _acceptor: Acceptor,
    told: Vec<Change>,
    finished: usize,
}

enum Event {
    Link(LinkEvent),
    Plane(PlaneEvent),
    Incoming(Incoming),
    Tick(Instant),
}

impl Node {
    /// Node 0 is told to dial.
    fn new(net: &Net, index: u16) -> Node {
        let network = net.network();
        let listener = listen_in_range(&network, None, index + 1..=index + 1).unwrap();
        let (_acceptor, incoming) = Acceptor::spawn(listener, AcceptorOptions::default()).unwrap();
        let (link_events, link_queue) = mpsc::unbounded_channel();
        let (plane_events, plane_queue) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Handle::current();
        let plane = DataPlane::new(runtime, plane_events, KEEP_ALIVE);
        plane.open_epoch(EPOCH);
        let mut links = Links::new(link_events);
        links.introduce(Caller {
            network,
            run: RunId(1),
            peer: PeerId(index.into()),
            master: Net::address(99),
            bind: None,
            socket: SocketOptions::default(),
            link_timeout: LINK_TIMEOUT,
            lane_stall_timeout: Duration::from_millis(1500),
        });
        let other = 1 - index;
        let peer = PeerName {
            id: PeerId(other.into()),
            label: String::new(),
            address: Net::address(other + 1).to_string(),
        };
        let spec = LinkSpec {
            peer,
            secret: [7; 16],
            lanes: Some(LANES),
            dials: index == 0,
            round_trip: Duration::ZERO,
        };
        links.set(EPOCH, vec![spec]);
        Node {
            index,
            links,
            link_queue,
            plane,
            plane_queue,
            incoming,
            _acceptor,
            told: Vec::new(),
            finished: 0,
        }
    }

    fn lanes(&self) -> usize {
        self.plane.lanes(PeerId(1 - u64::from(self.index)))
    }

    async fn next(&mut self) -> Event {
        let timeout = self.links.next_timeout();
        let timeout = timeout.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            biased;
            Some(event) = self.plane_queue.recv() => Event::Plane(event),
            Some(event) = self.link_queue.recv() => Event::Link(event),
            Some(incoming) = self.incoming.recv() => Event::Incoming(incoming),
            () = tokio::time::sleep_until(timeout) => Event::Tick(timeout),
        }
    }

    fn handle(&mut self, event: Event) {
        let mut changes = Vec::new();
        match event {
            Event::Plane(PlaneEvent::Finished { .. }) => self.finished += 1,
            Event::Plane(PlaneEvent::LaneClosed {
                peer, lane, end, ..
            }) => {
                if !self.plane.has_lane(peer, lane) {
                    changes = self.links.on_lane_closed(peer, lane, &end);
                }
            }
            Event::Link(LinkEvent::Open {
                peer,
                lane,
                dialled_here,
                stream,
            }) => {
                let (is_wanted, change) = self.links.on_open(peer, lane, dialled_here);
                if is_wanted {
                    let (reader, writer) = stream.into_split();
                    self.plane.add_lane(peer, lane, reader, writer);
                }
                changes.extend(change.map(|change| (peer, change)));
            }
            Event::Link(LinkEvent::NotArrived { peer, lane }) => {
                self.links.on_not_arrived(peer, lane);
            }
            Event::Link(LinkEvent::NotDialled { peer, lane, reason }) => {
                self.links.on_not_dialled(peer, lane, reason);
            }
            Event::Incoming(incoming) => {
                let hello = LaneHello::decode(&incoming.greeting.body).unwrap();
                self.links.on_incoming(hello, incoming.stream);
            }
            Event::Tick(due) => changes = self.links.tick(due),
        }
        self.told
            .extend(changes.into_iter().map(|(_, change)| change));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.plane.shutdown();
    }
}

struct Pair {
    net: Net,
    nodes: [Node; 2],
    operations: u32,
}

impl Pair {
    async fn new() -> Pair {
        let net = Net::default();
        let nodes = [Node::new(&net, 0), Node::new(&net, 1)];
        let mut pair = Pair {
            net,
            nodes,
            operations: 0,
        };
        pair.pass(Duration::from_secs(1)).await;
        pair.expect_whole();
        pair.nodes.iter_mut().for_each(|node| node.told.clear());
        pair
    }

    fn expect_whole(&self) {
        let lanes = self.nodes.each_ref().map(Node::lanes);
        assert_eq!(lanes, [usize::from(LANES); 2]);
    }

    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some((node, event)) = self.event(end).await {
            self.nodes[node].handle(event);
        }
    }

    async fn event(&mut self, end: Instant) -> Option<(usize, Event)> {
        let [first, second] = &mut self.nodes;
        tokio::select! {
            biased;
            event = first.next() => Some((0, event)),
            event = second.next() => Some((1, event)),
            () = tokio::time::sleep_until(end) => None,
        }
    }

    /// Runs an all-reduce of so many bytes at both, to its end.
    async fn reduce(&mut self, bytes: usize) {
        let op = OperationId {
            epoch: EPOCH,
            tag: Tag(1),
            n: self.operations,
        };
        self.operations += 1;
        let memory = [1u8, 2].map(|value| Memory::new(vec![value; bytes]));
        for (node, memory) in self.nodes.iter_mut().zip(&memory) {
            node.finished = 0;
            let spec = OperationSpec {
                descriptor: Descriptor::plain(bytes as u64, DataType::U8, ReduceOp::Sum),
                rank: Rank(node.index.into()),
                ring: vec![PeerId(0), PeerId(1)],
                buffers: memory.lend_in_place(),
                residual: None,
            };
            node.plane.begin(op, spec).unwrap();
        }
        let end = Instant::now() + Duration::from_secs(60);
        while self.nodes.iter().any(|node| node.finished == 0) {
            let (node, event) = self.event(end).await.expect("it ends");
            self.nodes[node].handle(event);
        }
        for (node, memory) in self.nodes.iter().zip(&memory) {
            node.plane.end(op, Disposition::Keep).await;
            assert!(memory.bytes().iter().all(|byte| *byte == 3));
        }
    }

    /// Nothing was said that would cost anybody a link, or a life.
    fn expect_nothing_said(&self) {
        for node in &self.nodes {
            let harmless = |change: &Change| {
                matches!(
                    change,
                    Change::Up | Change::Down(crate::protocol::peer::LinkLoss::GivenUp)
                )
            };
            assert!(node.told.iter().all(harmless), "{:?}", node.told);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_that_were_cut_silently_while_idle_are_back_before_they_are_needed() {
    let mut pair = Pair::new().await;
    pair.pass(10 * KEEP_ALIVE).await;
    let made = pair.net.made();
    assert_eq!(made, usize::from(LANES), "idle lanes are left alone");
    pair.net.cut_all();
    pair.pass(KEEP_ALIVE + Duration::from_secs(3)).await;
    pair.expect_whole();
    let before = Instant::now();
    pair.reduce(5_000_000).await;
    assert!(before.elapsed() < Duration::from_millis(1500), "no stall");
    pair.expect_nothing_said();
}

#[tokio::test(start_paused = true)]
async fn an_operation_on_lanes_that_were_cut_silently_succeeds() {
    for bytes in [10, 100_000, 5_000_000] {
        let mut pair = Pair::new().await;
        pair.net.cut_all();
        pair.reduce(bytes).await;
        pair.pass(KEEP_ALIVE + Duration::from_secs(3)).await;
        pair.expect_whole();
        pair.expect_nothing_said();
        pair.reduce(bytes).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_lane_of_several_comes_back_also_where_only_the_other_end_can_dial() {
    for shut in [None, Some(2)] {
        let mut pair = Pair::new().await;
        shut.into_iter().for_each(|port| pair.net.shut(port));
        pair.net.cut(1);
        pair.reduce(5_000_000).await;
        pair.pass(KEEP_ALIVE + Duration::from_secs(5)).await;
        pair.expect_whole();
        assert_eq!(pair.nodes.each_ref().map(|node| node.told.len()), [0, 0]);
        // It stays, although the end that was told to dial still tries.
        let made = pair.net.made();
        pair.pass(KEEP_ALIVE).await;
        assert_eq!(pair.net.made(), made);
        pair.reduce(5_000_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dials_of_both_ends_that_cross_settle_on_one_lane_each() {
    for opened_first in [1, 2] {
        let mut pair = Pair::new().await;
        (1..3).for_each(|port| pair.net.shut(port));
        pair.net.cut_all();
        // Both have noticed, and dial in vain.
        pair.pass(KEEP_ALIVE + Duration::from_secs(3)).await;
        assert_eq!(pair.nodes.each_ref().map(Node::lanes), [0, 0]);
        pair.net.open(opened_first);
        pair.net.open(3 - opened_first);
        pair.pass(Duration::from_secs(3)).await;
        pair.expect_whole();
        let made = pair.net.made();
        pair.pass(4 * KEEP_ALIVE).await;
        assert_eq!(pair.net.made(), made, "nobody dials any more");
        pair.reduce(5_000_000).await;
        pair.expect_whole();
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_that_cannot_be_mended_is_reported_by_both() {
    let mut pair = Pair::new().await;
    (1..3).for_each(|port| pair.net.shut(port));
    pair.net.cut_all();
    pair.pass(KEEP_ALIVE + Duration::from_secs(5)).await;
    for node in &pair.nodes {
        let failed = |change: &Change| matches!(change, Change::Failed(_, reason) if reason.contains("no lane within 2000 ms"));
        assert!(node.told.iter().any(failed), "{:?}", node.told);
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_process_dies_is_witnessed() {
    let mut pair = Pair::new().await;
    pair.net.shut(2);
    pair.nodes[1].plane.shutdown();
    pair.pass(Duration::from_millis(10)).await;
    let witnessed = Change::Down(crate::protocol::peer::LinkLoss::ClosedThere);
    assert_eq!(pair.nodes[0].told, [witnessed]);
}

/// A peer whose neighbour is not there, and how long it takes to say so where each time it wants
/// to look it is away for so long.
async fn time_to_fail(away: &[Duration]) -> (Duration, usize) {
    let net = Net::default();
    let mut node = Node::new(&net, 1);
    let (start, mut looks) = (Instant::now(), 0);
    while !node.told.iter().any(|c| matches!(c, Change::Failed(..))) {
        let due = node.links.next_timeout().unwrap();
        let away = away.get(looks).or(away.last()).copied();
        tokio::time::sleep_until(due + away.unwrap_or_default()).await;
        while let Ok(event) = node.link_queue.try_recv() {
            node.handle(Event::Link(event));
        }
        node.handle(Event::Tick(due));
        looks += 1;
    }
    (start.elapsed(), looks)
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_peer_was_away_itself_is_not_held_against_a_link() {
    let (took, _) = time_to_fail(&[Duration::ZERO]).await;
    assert_eq!(took.as_secs(), LINK_TIMEOUT.as_secs());
    for away in [LINK_TIMEOUT, 10 * LINK_TIMEOUT] {
        let (took, _) = time_to_fail(&[away, Duration::ZERO]).await;
        assert!(took >= away + LINK_TIMEOUT / 2, "{took:?}");
        assert!(took <= away + LINK_TIMEOUT * 5 / 4, "{took:?}");
        // Where it would have said so, what came meanwhile is yet to be read.
        let (took, _) = time_to_fail(&[Duration::ZERO, away, Duration::ZERO]).await;
        assert!(
            took >= away + LINK_TIMEOUT * 5 / 4 - LINK_TIMEOUT / 100,
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_always_late_still_says_that_a_link_failed() {
    let (_, looks) = time_to_fail(&[LINK_TIMEOUT / 2]).await;
    assert!(looks < 30, "{looks}");
}
