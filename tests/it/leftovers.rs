//! After destroy no thread, task, socket or timer remains, whatever was going on.
//!
//! Each scenario has a process of its own, in which every thread named after the library and every
//! socket is the scenario's.

use std::sync::Arc;
use std::time::Duration;

use pccl::{Communicator, ReduceOptions, SharedState, SyncStrategy, Tag};

use crate::common::{
    Run, Task, alone, assert_nothing_left, communicator, config, each, end_all, meet, start_connect,
};

/// Drops in a thread of its own, so that a drop that hangs fails the test.
fn dropped<T: Send + 'static>(name: &str, value: T) {
    Task::start(name, move || drop(value)).end();
}

fn use_everything(peers: &[Arc<Communicator>]) {
    each(peers, |_, peer| {
        let mut buffer = vec![1u32; 100_000];
        peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum())
            .unwrap();
        let mut tensor = vec![peer.rank().unwrap().0; 50_000];
        let mut state = SharedState::new();
        state.tensor("w", &mut tensor);
        peer.sync_shared_state(&mut state, SyncStrategy::EnforcePopular)
            .unwrap();
    });
}

#[test]
fn nothing_is_left_of_peers_that_left_and_of_their_master() {
    alone(
        "leftovers::nothing_is_left_of_peers_that_left_and_of_their_master",
        || {
            let (run, peers) = Run::with(&["ada", "ben", "cyd"]);
            use_everything(&peers);
            each(&peers, |_, peer| peer.leave().unwrap());
            dropped("peers", peers);
            dropped("master", run);
            assert_nothing_left();
        },
    );
}

#[test]
fn nothing_is_left_of_peers_that_are_just_dropped() {
    alone(
        "leftovers::nothing_is_left_of_peers_that_are_just_dropped",
        || {
            let (run, peers) = Run::with(&["ada", "ben", "cyd"]);
            use_everything(&peers);
            dropped("master", run);
            dropped("peers", peers);
            assert_nothing_left();
        },
    );
}

#[test]
fn nothing_is_left_of_several_data_threads() {
    alone("leftovers::nothing_is_left_of_several_data_threads", || {
        let run = Run::new();
        let configs = ["ada", "ben"].map(|label| run.config(label).data_threads(3));
        let peers = run.populate(configs.to_vec());
        use_everything(&peers);
        dropped("peers", peers);
        dropped("master", run);
        assert_nothing_left();
    });
}

#[test]
fn nothing_is_left_of_peers_dropped_with_operations_in_flight() {
    alone(
        "leftovers::nothing_is_left_of_peers_dropped_with_operations_in_flight",
        || {
            for _ in 0..10 {
                let (run, peers) = Run::with(&["ada", "ben"]);
                let in_flight: Vec<_> = peers
                    .iter()
                    .flat_map(|peer| {
                        // The last one has no partner.
                        let tags = 1..if peer.config().label == "ada" { 5 } else { 4 };
                        tags.map(move |tag| {
                            let options = ReduceOptions::sum().tag(Tag(tag));
                            peer.start_all_reduce(vec![1u32; 300_000], &options)
                        })
                    })
                    .collect();
                let drops = peers
                    .into_iter()
                    .map(|peer| Task::start("peer", move || drop(peer)))
                    .collect();
                end_all(drops);
                // Their outcomes are still told, and their buffers given back.
                let waits = in_flight
                    .into_iter()
                    .map(|reduction| Task::start("operation", || reduction.wait()))
                    .collect();
                for (buffer, outcome) in end_all(waits) {
                    let expected = if outcome.is_ok() { 2 } else { 1 };
                    assert!(buffer.iter().all(|value| *value == expected), "{outcome:?}");
                }
                dropped("master", run);
                assert_nothing_left();
            }
        },
    );
}

#[test]
fn nothing_is_left_of_peers_that_never_got_in() {
    alone(
        "leftovers::nothing_is_left_of_peers_that_never_got_in",
        || {
            let (run, peers) = Run::with(&["ada"]);
            // Pending, then closed.
            let ben = communicator(run.config("ben"));
            let connecting = start_connect(&ben);
            each(&peers, |_, ada| while !ada.are_peers_pending().unwrap() {});
            let closing = ben.clone();
            Task::start("ben", move || closing.close()).end();
            connecting.end().unwrap_err();
            dropped("ben", ben);
            // Never reached a master.
            let settings = config("127.0.0.1:9", "cyd").connect_timeout(Duration::from_millis(50));
            let cyd = communicator(settings);
            start_connect(&cyd).end().unwrap_err();
            dropped("cyd", cyd);
            // Never connected.
            dropped("dan", communicator(run.config("dan")));
            meet(&peers);
            dropped("ada", peers);
            dropped("master", run);
            assert_nothing_left();
        },
    );
}

#[test]
fn nothing_is_left_of_a_peer_that_was_evicted() {
    alone(
        "leftovers::nothing_is_left_of_a_peer_that_was_evicted",
        || {
            let (run, peers) = Run::with(&["ada", "ben"]);
            each(&peers, |rank, peer| {
                let mut tensor = [0f32; 10];
                let mut state = SharedState::new();
                state.tensor("w", &mut tensor);
                let strategy = [SyncStrategy::EnforcePopular, SyncStrategy::SendOnly][rank];
                let outcome = peer.sync_shared_state(&mut state, strategy);
                assert_eq!(outcome.is_err(), rank == 1);
            });
            dropped("peers", peers);
            dropped("master", run);
            assert_nothing_left();
        },
    );
}
