//! Whatever comes in from strangers, the answer is a closed connection: no operation fails, no
//! memory is taken for what is only announced, and nobody is waited for.
//!
//! Three peers reduce back to back all the time. Strangers come to the master's port and to a
//! peer's, and each must be shown the door.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pccl::wire::control::{Frame, FrameHeader, Hello, Join, LinkFault, Message, ToMaster, Welcome};
use pccl::wire::greeting::{Greeting, Kind, encode};
use pccl::wire::hello::TransferHello;
use pccl::{Communicator, Epoch, GroupId, PeerId, ReduceOptions, SharedState, SyncStrategy};

use crate::common::{
    PATIENCE, Random, Run, Task, alone, assert_nothing_left, each, end_all, resident_bytes, until,
};

/// What the library and the system may need for all strangers together.
const GROWTH_MAX: u64 = 32 << 20;

/// Where strangers come in.
#[derive(Clone, Copy)]
struct Ports {
    master: SocketAddr,
    peer: SocketAddr,
}

/// Runs `attack` on both ports while three peers reduce, in a process of its own.
fn under_attack(test: &str, attack: fn(Ports)) {
    alone(&format!("hostile::{test}"), || {
        let (run, peers) = Run::with(&["ada", "ben", "cyd"]);
        let ports = Ports {
            master: run.master.local_addr(),
            peer: peers[1].members()[1].address.parse().unwrap(),
        };
        let is_over = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let reducing: Vec<Task<()>> = peers
            .iter()
            .map(|peer| {
                let (peer, is_over, rounds) = (peer.clone(), is_over.clone(), rounds.clone());
                Task::start(&peer.config().label.clone(), move || {
                    while reduce_round(&peer, is_over.load(Ordering::SeqCst)) {
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let some_rounds_pass = || {
            let goal = rounds.load(Ordering::SeqCst) + 60;
            until("operations go on", || rounds.load(Ordering::SeqCst) >= goal);
        };
        some_rounds_pass();
        let before = resident_bytes();
        attack(ports);
        let after = resident_bytes();
        some_rounds_pass();
        is_over.store(true, Ordering::SeqCst);
        end_all(reducing);
        if let (Some(before), Some(after)) = (before, after) {
            let growth = after.saturating_sub(before);
            assert!(growth < GROWTH_MAX, "memory grew by {growth} bytes");
        }
        // Nobody was let in, and nobody was lost.
        each(&peers, |_, peer| peer.update_topology().unwrap());
        assert!(peers.iter().all(|peer| peer.world_sizes().global == 3));
        Task::start("peers", move || drop(peers)).end();
        drop(run);
        assert_nothing_left();
    });
}

/// One operation that succeeds; says whether nobody has had enough.
fn reduce_round(peer: &Communicator, is_over: bool) -> bool {
    let mut buffer = vec![1u32; 2000];
    buffer[0] = is_over.into();
    let report = peer
        .all_reduce_in_place(&mut buffer, &ReduceOptions::sum())
        .unwrap();
    assert_eq!(report.world_size, 3);
    assert!(buffer[1..].iter().all(|value| *value == 3));
    buffer[0] == 0
}

fn stranger(port: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(port).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads to the end, which must come; an answer before it is allowed.
fn assert_closed(stream: &mut TcpStream) {
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_reset(error.kind()) => return,
            Err(error) => panic!("still open: {error}"),
        }
    }
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

/// Says `bytes` on both ports and expects the door.
fn say(ports: Ports, bytes: &[u8]) {
    for port in [ports.master, ports.peer] {
        let mut stream = stranger(port);
        // The other side may have had enough before everything is written.
        let _ = stream.write_all(bytes);
        assert_closed(&mut stream);
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// A greeting that promises `length` bytes of body.
fn announcing(kind: Kind, length: u32) -> Vec<u8> {
    let mut bytes = encode(kind, &[]).unwrap();
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn a_hello_of_a_peer() -> Vec<u8> {
    let join = Hello::Join(Join {
        group: GroupId(0),
        label: "mallory".to_owned(),
        advertised_host: String::new(),
        port: 9,
        lanes: Some(1),
        ..Join::default()
    });
    encode(Kind::Control, &join.encode()).unwrap()
}

#[test]
fn noise_is_shown_the_door() {
    under_attack("noise_is_shown_the_door", |ports| {
        for seed in 0..20 {
            say(ports, &noise(seed, 10 << 10));
        }
        // The right beginning, then noise.
        for (seed, kind) in [
            (1, Kind::Control),
            (2, Kind::Lane),
            (3, Kind::StateTransfer),
        ] {
            let mut bytes = announcing(kind, 100);
            bytes.extend(noise(seed, 10 << 10));
            say(ports, &bytes);
            say(ports, &encode(kind, &noise(seed, 100)).unwrap());
            say(ports, &encode(kind, &[]).unwrap());
        }
        say(ports, &encode(Kind::Welcome, b"").unwrap());
        say(ports, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    });
}

#[test]
fn announced_lengths_take_no_memory() {
    under_attack("announced_lengths_take_no_memory", |ports| {
        for kind in [Kind::Control, Kind::Lane, Kind::StateTransfer] {
            for length in [4097, i32::MAX as u32, u32::MAX] {
                say(ports, &announcing(kind, length));
            }
        }
        // Length first, as other protocols have it.
        for length in [1u64 << 63, u64::MAX, u64::from(u32::MAX)] {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(length.to_le_bytes());
            say(ports, &bytes);
        }
        // Frames behind a hello that the master takes.
        for length in [u32::MAX, i32::MAX as u32, 64 << 20] {
            for place in 0..4 {
                let mut frame = [0u8; 32];
                frame[place * 4..][..4].copy_from_slice(&length.to_le_bytes());
                let mut stream = stranger(ports.master);
                stream.write_all(&a_hello_of_a_peer()).unwrap();
                let _ = stream.write_all(&frame);
                assert_closed(&mut stream);
            }
        }
    });
}

#[test]
fn an_endless_hello_is_cut_short() {
    under_attack("an_endless_hello_is_cut_short", |ports| {
        let endless = [ports.master, ports.peer].map(|port| {
            Task::start("stranger", move || {
                let mut stream = stranger(port);
                stream
                    .set_read_timeout(Some(Duration::from_millis(100)))
                    .unwrap();
                // A byte every 100 ms, for as long as somebody listens.
                let hello = encode(Kind::Control, &[7; 4000]).unwrap();
                for byte in hello {
                    if stream.write_all(&[byte]).is_err() {
                        return;
                    }
                    match stream.read(&mut [0; 64]) {
                        Ok(0) => return,
                        Err(error) if is_reset(error.kind()) => return,
                        _ => {}
                    }
                }
                panic!("the whole hello was heard out");
            })
        });
        end_all(endless.into());
    });
}

#[test]
fn hundreds_of_idle_connections_are_closed() {
    under_attack("hundreds_of_idle_connections_are_closed", |ports| {
        let mut idle: Vec<TcpStream> = (0..250)
            .flat_map(|_| [stranger(ports.master), stranger(ports.peer)])
            .collect();
        idle.iter_mut().for_each(assert_closed);
    });
}

#[test]
fn half_closed_connections_are_closed() {
    under_attack("half_closed_connections_are_closed", |ports| {
        for said in [
            &b""[..],
            b"PC",
            &encode(Kind::Control, b"x").unwrap(),
            &noise(1, 99),
        ] {
            for port in [ports.master, ports.peer] {
                let mut stream = stranger(port);
                stream.write_all(said).unwrap();
                let _ = stream.shutdown(Shutdown::Write);
                assert_closed(&mut stream);
                // One that does not read the answer either.
                let mut stream = stranger(port);
                stream.write_all(said).unwrap();
                let _ = stream.shutdown(Shutdown::Read);
                let _ = stream.write_all(said);
                assert_closed(&mut stream);
            }
        }
    });
}

#[test]
fn a_hello_that_is_followed_by_garbage_costs_only_its_sender() {
    under_attack(
        "a_hello_that_is_followed_by_garbage_costs_only_its_sender",
        |ports| {
            for seed in 0..10 {
                let mut bytes = a_hello_of_a_peer();
                bytes.extend(noise(seed, 10 << 10));
                say(ports, &bytes);
            }
            // One that is taken and then says nothing is closed by the watch on silence.
            let mut silent = stranger(ports.master);
            silent.write_all(&a_hello_of_a_peer()).unwrap();
            assert_closed(&mut silent);
            // One that is taken and half-closes.
            let mut half = stranger(ports.master);
            half.write_all(&a_hello_of_a_peer()).unwrap();
            half.shutdown(Shutdown::Write).unwrap();
            assert_closed(&mut half);
        },
    );
}

#[test]
fn strangers_that_never_stop_talking_are_heard_at_the_masters_own_pace() {
    under_attack(
        "strangers_that_never_stop_talking_are_heard_at_the_masters_own_pace",
        |ports| {
            let frame = Frame {
                sequence: 0,
                acknowledged: 0,
                message: ToMaster::LinkFailed {
                    epoch: Epoch::default(),
                    peer: PeerId(0),
                    fault: LinkFault::NoLane,
                    reason: "blah".repeat(1000),
                },
            };
            let frames = FrameHeader::frame(&frame.encode()).repeat(100);
            let talking = (0..16).map(|_| {
                let frames = frames.clone();
                Task::start("stranger", move || {
                    let mut stream = stranger(ports.master);
                    stream.write_all(&a_hello_of_a_peer()).unwrap();
                    for _ in 0..40 {
                        stream.write_all(&frames).unwrap();
                    }
                })
            });
            end_all(talking.collect());
        },
    );
}

/// A stranger's way to the run's number: the master tells it to whoever registers.
fn welcome_of_a_stranger(master: SocketAddr) -> Welcome {
    let mut stream = stranger(master);
    stream.write_all(&a_hello_of_a_peer()).unwrap();
    let mut answer = vec![0; 16];
    stream.read_exact(&mut answer).unwrap();
    let length = u32::from_le_bytes(answer[8..12].try_into().unwrap());
    answer.resize(16 + length as usize, 0);
    stream.read_exact(&mut answer[16..]).unwrap();
    Welcome::decode(&Greeting::decode(&answer).unwrap().body).unwrap()
}

#[test]
fn receivers_that_nobody_named_do_not_pile_up_while_a_sync_waits_for_its_last_member() {
    let (run, peers) = Run::with(&["ada", "ben"]);
    let Welcome::Registered { run: number, .. } = welcome_of_a_stranger(run.master.local_addr())
    else {
        panic!("not registered");
    };
    let port: SocketAddr = peers[0].members()[0].address.parse().unwrap();
    let hello = TransferHello {
        run: number,
        from: PeerId(u64::MAX),
        to: peers[0].members()[0].id,
        round: u64::MAX,
        token: [7; 16],
    };
    let hello = encode(Kind::StateTransfer, &hello.encode()).unwrap();
    let sync = |peer: &Arc<Communicator>| {
        let peer = peer.clone();
        Task::start("sync", move || {
            let mut weights = [1f32; 100];
            let mut state = SharedState::new();
            state.tensor("weights", &mut weights);
            peer.sync_shared_state(&mut state, SyncStrategy::EnforcePopular)
                .unwrap();
        })
    };
    let first = sync(&peers[0]);
    let ask = || {
        let mut stream = stranger(port);
        stream.write_all(&hello).unwrap();
        stream
    };
    // Until one is kept waiting, the sync has not begun.
    let mut oldest = ask();
    let is_kept = |stream: &mut TcpStream| {
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let kept = stream.read(&mut [0; 1]).is_err();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        kept
    };
    until("the sync begins", || {
        is_kept(&mut oldest) || {
            oldest = ask();
            false
        }
    });
    let others: Vec<TcpStream> = (0..100).map(|_| ask()).collect();
    // Pushed out at once, without an answer: not refused after a while.
    match oldest.read(&mut [0; 64]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert!(is_reset(error.kind()), "{error}"),
    }
    end_all(vec![first, sync(&peers[1])]);
    drop(others);
}
