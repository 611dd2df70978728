//! Transfers of a sync over wires of any pace, cut at every byte. Time is virtual.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex as Lock;
use tokio::time::{sleep, timeout};

use super::*;
use crate::datapath::tests::pipe::*;
use crate::engine::testing::Memory;
use crate::transport::{Connecting, InMemory, InMemoryListener, Network, SocketOptions};
use crate::types::{PeerName, RunId};
use crate::wire::greeting::{HEADER_BYTES, Header};

/// Of a lane.
const STALL: Duration = Duration::from_secs(5);
const ADDRESS: &str = "127.0.0.1:4000";
const RUN: RunId = RunId(9);
const TOKEN: [u8; 16] = [7; 16];
const ROUND: u64 = 5;

/// A network in which every dial comes to the test, over the wires it has laid out.
#[derive(Debug)]
struct Dials {
    ways: Lock<VecDeque<[Way; 2]>>,
    greeted: mpsc::UnboundedSender<(TransferHello, Stream)>,
}

impl InMemory for Dials {
    fn connect(&self, _: SocketAddr, _: Option<std::net::IpAddr>) -> Connecting {
        let ways = self.ways.lock().pop_front().unwrap_or([SOUND; 2]);
        let (_, [here, mut there]) = streams(ways);
        let greeted = self.greeted.clone();
        tokio::spawn(async move {
            if let Some(hello) = greeting(&mut there).await {
                greeted.send((hello, there)).ok();
            }
        });
        Box::pin(async move { Ok(here) })
    }

    fn listen(&self, _: Option<std::net::IpAddr>, _: u16) -> io::Result<Box<dyn InMemoryListener>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// Peer 1 lacks two of three tensors that peer 2 has.
struct Scene {
    caller: Caller,
    greeted: mpsc::UnboundedReceiver<(TransferHello, Stream)>,
    events: mpsc::UnboundedReceiver<SyncEvent>,
    held: Vec<Memory>,
    lacking: Vec<Memory>,
    holder: Session,
    receiver: Session,
}

impl Scene {
    fn new(lens: [usize; 3], ways: impl IntoIterator<Item = [Way; 2]>) -> Scene {
        let (dialled, greeted) = mpsc::unbounded_channel();
        let network = Dials {
            ways: Lock::new(ways.into_iter().collect()),
            greeted: dialled,
        };
        let caller = Caller {
            network: Network::InMemory(Arc::new(network)),
            run: RUN,
            peer: PeerId(1),
            master: "127.0.0.1:1".parse().unwrap(),
            bind: None,
            socket: SocketOptions::default(),
            link_timeout: Duration::from_secs(5),
            lane_stall_timeout: STALL,
        };
        let content = |len: usize, index: usize| (0..len).map(move |at| (at * 7 + index + 1) as u8);
        let held = (0..3).map(|index| Memory::new(content(lens[index], index).collect()));
        let held: Vec<_> = held.collect();
        let mut lacking = vec![held[0].clone()];
        lacking.extend(lens[1..].iter().map(|len| Memory::new(vec![0; *len])));
        let session = |tensors: &[Memory]| {
            let (sender, events) = mpsc::unbounded_channel();
            let tensors = tensors.iter().map(Memory::memory).collect();
            (Session::new(&tensors, STALL, sender), events)
        };
        let ((mut holder, _), (receiver, events)) = (session(&held), session(&lacking));
        holder.follow(&caller, plan(&held, false));
        Scene {
            caller,
            greeted,
            events,
            held,
            lacking,
            holder,
            receiver,
        }
    }

    /// The plan of the receiver, or the same with another holder.
    fn follow(&mut self) {
        let plan = plan(&self.held, true);
        self.receiver.follow(&self.caller, plan);
    }

    /// Serves whoever dials until the receiver tells something; `None` if it does not.
    async fn event(&mut self) -> Option<SyncEvent> {
        let told = async {
            loop {
                tokio::select! {
                    biased;
                    event = self.events.recv() => return event,
                    Some((hello, stream)) = self.greeted.recv() => {
                        self.holder.serve(hello, stream);
                    }
                }
            }
        };
        timeout(Duration::from_secs(600), told).await.ok().flatten()
    }

    fn is_equal(&self) -> bool {
        let (held, lacking) = (self.held.iter(), self.lacking.iter());
        held.map(Memory::bytes).eq(lacking.map(Memory::bytes))
    }
}

fn plan(held: &[Memory], is_receiver: bool) -> SyncPlan {
    let digest = |memory: &Memory| Some(crate::shared_state::digest(&memory.bytes()));
    let holder = PeerName {
        id: PeerId(2),
        label: String::new(),
        address: ADDRESS.to_owned(),
    };
    SyncPlan {
        round: ROUND,
        token: TOKEN,
        digests: held.iter().map(digest).collect(),
        receive: if is_receiver { vec![1, 2] } else { Vec::new() },
        holder: is_receiver.then_some(holder),
    }
}

async fn greeting(stream: &mut Stream) -> Option<TransferHello> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let header = Header::decode(&header).unwrap();
    let mut body = vec![0; header.body_len()];
    stream.read_exact(&mut body).await.ok()?;
    TransferHello::decode(&header.finish(body).unwrap().body).ok()
}

#[tokio::test(start_paused = true)]
async fn a_share_comes_over_wires_of_any_pace() {
    for seed in 0..30 {
        let random = &mut Random::new(seed);
        let mut way = || Way::random(random.below(1 << 30) as u64, 30_000, 3);
        let mut scene = Scene::new([5, 700_000, 9], [[way(), way()]]);
        scene.follow();
        let event = scene.event().await;
        assert!(matches!(event, Some(SyncEvent::Received { round: ROUND })));
        assert!(scene.is_equal());
        let (got, given) = (scene.receiver.end().await, scene.holder.end().await);
        assert_eq!((got.rx_bytes, got.tx_bytes), (700_009, 0));
        assert_eq!((given.rx_bytes, given.tx_bytes), (0, 700_009));
        assert_eq!(got.begun, BTreeSet::from([1, 2]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_whose_wire_dies_at_any_byte_fails_once_and_comes_over_another() {
    for direction in [0, 1] {
        for after in 0..400 {
            let mut is_over = false;
            for how in EVERY_DEATH {
                let mut ways = [SOUND; 2];
                ways[direction].cut = Some(Cut {
                    after,
                    how,
                    loses: after % 2 == 0,
                });
                let mut scene = Scene::new([5, 40, 9], [ways]);
                scene.follow();
                let first = scene.event().await.expect("an end, however it comes");
                match first {
                    SyncEvent::Received { .. } => is_over = true,
                    SyncEvent::Failed { round, holder, .. } => {
                        assert_eq!((round, holder), (ROUND, PeerId(2)));
                        scene.follow();
                        let second = scene.event().await;
                        assert!(
                            matches!(second, Some(SyncEvent::Received { .. })),
                            "{how:?} after {after}: {second:?}"
                        );
                    }
                }
                assert!(scene.is_equal(), "{how:?} after {after}");
                assert!(scene.events.try_recv().is_err(), "one word for each");
            }
            if is_over && after > 300 {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_ends_at_any_moment_leaves_the_memory_alone() {
    for millis in 0..80 {
        let way = || Way::random(millis, 20_000, 3);
        let mut scene = Scene::new([5, 300_000, 9], [[way(), way()]]);
        scene.follow();
        timeout(Duration::from_millis(millis), scene.event())
            .await
            .ok();
        let receiver_first = millis % 2 == 0;
        let Scene {
            holder,
            receiver,
            lacking,
            held,
            ..
        } = scene;
        let (first, second, memory) = if receiver_first {
            (receiver, holder, &lacking)
        } else {
            (holder, receiver, &held)
        };
        first.end().await;
        memory.iter().for_each(|memory| memory.fill(0xEE));
        sleep(Duration::from_secs(60)).await;
        let is_intact = |memory: &Memory| memory.bytes().iter().all(|byte| *byte == 0xEE);
        assert!(memory[1..].iter().all(is_intact), "after {millis} ms");
        second.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_what_the_plan_says_are_not_taken_for_received() {
    let mut scene = Scene::new([5, 40, 9], []);
    let wrong = {
        let mut plan = plan(&scene.held, true);
        plan.digests[2] = Some(crate::shared_state::digest(b"something else"));
        plan
    };
    scene.receiver.follow(&scene.caller, wrong);
    let Some(SyncEvent::Failed { reason, .. }) = scene.event().await else {
        panic!("it was received");
    };
    assert!(reason.contains("tensor 2 came with digest"), "{reason}");
    scene.follow();
    let second = scene.event().await;
    assert!(matches!(second, Some(SyncEvent::Received { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_comes_before_the_plan_waits_for_it_and_a_stranger_is_turned_away() {
    for is_ahead in [false, true] {
        for (token, round) in [(TOKEN, ROUND), ([0; 16], ROUND), (TOKEN, ROUND + 1)] {
            let (sender, _events) = mpsc::unbounded_channel();
            let held = [Memory::new(vec![3; 10])];
            let tensors = held.iter().map(Memory::memory).collect();
            let mut holder = Session::new(&tensors, STALL, sender);
            let scene = Scene::new([1, 1, 1], []);
            if !is_ahead {
                holder.follow(&scene.caller, plan(&held, false));
            }
            let (_wire, [mut here, there]) = streams([SOUND; 2]);
            let hello = TransferHello {
                run: RUN,
                from: PeerId(1),
                to: PeerId(2),
                round,
                token,
            };
            holder.serve(hello.clone(), there);
            if is_ahead {
                sleep(Duration::from_secs(1)).await;
                holder.follow(&scene.caller, plan(&held, false));
            }
            let body = hello.encode();
            let greeted = greet(&mut here, Kind::StateTransfer, &body, STALL).await;
            let is_known = token == TOKEN && round == ROUND;
            assert_eq!(greeted.is_ok(), is_known);
        }
    }
}
