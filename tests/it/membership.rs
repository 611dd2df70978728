//! Who is in the run: joining, being let in, groups, leaving, and what refuses.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use pccl::{
    CollectiveError, Communicator, ConnectError, Gone, GroupId, Master, MasterConfig,
    MembershipError, ReduceOptions, Revision, SharedState, SyncError, SyncStrategy, Tag,
    WorldSizes,
};

use crate::common::{
    Run, Task, admit, communicator, config, each, ids, let_in, meet, start_connect, until,
};

fn sum(peer: &Communicator, value: u64) -> Result<u64, CollectiveError> {
    let mut buffer = [value];
    peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum())?;
    Ok(buffer[0])
}

#[test]
fn the_first_peer_is_accepted_at_once_and_is_alone() {
    let (_run, peers) = Run::with(&["ada"]);
    let ada = &peers[0];
    assert_eq!(ada.world_sizes(), WorldSizes::ALONE);
    assert_eq!(ada.rank(), Some(pccl::Rank(0)));
    assert_eq!(ada.members()[0].label, "ada");
    each(&peers, |_, ada| {
        assert_eq!(
            sum(ada, 1),
            Err(CollectiveError::TooFewPeers { world_size: 1 })
        );
        assert_eq!(ada.are_peers_pending(), Ok(false));
        ada.update_topology().unwrap();
        assert_eq!(ada.connect(), Err(ConnectError::AlreadyConnected));
    });
}

#[test]
fn a_communicator_that_is_not_connected_says_so() {
    let run = Run::new();
    let ada = communicator(run.config("ada"));
    assert_eq!(ada.update_topology(), Err(MembershipError::NotConnected));
    assert_eq!(ada.are_peers_pending(), Err(MembershipError::NotConnected));
    assert_eq!(ada.leave(), Err(MembershipError::NotConnected));
    assert_eq!(sum(&ada, 1), Err(CollectiveError::NotConnected));
    let mut tensor = [0f32];
    let mut state = SharedState::new();
    state.tensor("w", &mut tensor);
    let synced = ada.sync_shared_state(&mut state, SyncStrategy::EnforcePopular);
    assert_eq!(synced, Err(SyncError::NotConnected));
    assert_eq!(ada.world_sizes(), WorldSizes::ALONE);
    assert_eq!(
        (ada.peer_id(), ada.epoch(), ada.members().len()),
        (None, None, 0)
    );
}

#[test]
fn a_newcomer_waits_for_update_topology_and_counts_only_then() {
    let (run, mut peers) = Run::with(&["ada", "ben"]);
    let cyd = communicator(run.config("cyd"));
    let mut connecting = start_connect(&cyd);
    until("cyd is pending", || {
        let answers = each(&peers, |_, peer| peer.are_peers_pending().unwrap());
        assert_eq!(answers[0], answers[1]);
        answers[0]
    });
    // The run goes on without it.
    let sums = each(&peers, |_, peer| sum(peer, 1).unwrap());
    assert_eq!(sums, [2, 2]);
    for peer in &peers {
        assert_eq!(peer.world_sizes().global, 2);
        assert_eq!(peer.members().len(), 2);
    }
    assert!(!connecting.has_ended());
    assert_eq!(cyd.world_sizes(), WorldSizes::ALONE);
    assert_eq!(cyd.peer_id(), None);

    let_in(&peers);
    connecting.end().unwrap();
    peers.push(cyd);
    let sums = each(&peers, |_, peer| sum(peer, 1).unwrap());
    assert_eq!(sums, [3, 3, 3]);
    for peer in &peers {
        assert_eq!(peer.world_sizes().group, 3);
        assert_eq!(peer.epoch(), peers[0].epoch());
        assert_eq!(peer.members(), peers[0].members());
        let place = peer.rank().unwrap().0 as usize;
        assert_eq!(Some(peer.members()[place].id), peer.peer_id());
    }
}

#[test]
fn peers_that_start_at_once_end_up_in_one_run() {
    let run = Run::new();
    let labels = ["ada", "ben", "cyd", "dan", "eve"];
    let peers = labels.map(|label| communicator(run.config(label)));
    each(&peers, |_, peer| {
        peer.connect().unwrap();
        // After each call all that are in see the same size, so all stop together.
        while peer.world_sizes().global < 5 {
            peer.update_topology().unwrap();
        }
        assert_eq!(sum(peer, 1), Ok(5));
    });
}

#[test]
fn groups_reduce_and_share_state_apart_but_join_together() {
    let run = Run::new();
    let of_group = |label: &str, group| run.config(label).group(GroupId(group));
    let peers = run.populate(vec![
        of_group("ada", 0),
        of_group("ben", 7),
        of_group("cyd", 0),
        of_group("dan", 7),
        of_group("eve", 7),
    ]);
    let sizes = |group| WorldSizes {
        global: 5,
        group,
        groups: 2,
        largest_group: 3,
    };
    for (peer, expected) in peers.iter().zip([2, 3, 2, 3, 3]) {
        assert_eq!(peer.world_sizes(), sizes(expected));
        assert_eq!(peer.members().len(), expected as usize);
    }
    let results = each(&peers, |index, peer| {
        // The same tag, counts of their own.
        let mut buffer = vec![10u64.pow(index as u32); 2 + peer.config().group.0 as usize];
        peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum().tag(Tag(3)))
            .unwrap();
        buffer
    });
    for index in [0, 2] {
        assert_eq!(results[index], [101; 2]);
    }
    for index in [1, 3, 4] {
        assert_eq!(results[index], [11_010; 9]);
    }
    let states = each(&peers, |_, peer| {
        let mut tensor = [u64::from(peer.config().group.0); 4];
        let mut state = SharedState::new();
        state.revision = Revision(u64::from(peer.config().group.0));
        state.tensor("w", &mut tensor);
        let report = peer.sync_shared_state(&mut state, SyncStrategy::EnforcePopular);
        (report.unwrap(), tensor)
    });
    for (peer, (report, tensor)) in peers.iter().zip(states) {
        let group = u64::from(peer.config().group.0);
        assert_eq!((report.revision, report.rx_bytes), (Revision(group), 0));
        assert_eq!(tensor, [group; 4]);
    }
}

#[test]
fn a_newcomer_of_another_group_is_pending_for_all_groups() {
    let run = Run::new();
    let mut peers = run.populate(vec![run.config("ada"), run.config("ben")]);
    admit(&mut peers, run.config("cyd").group(GroupId(1)));
    for peer in &peers {
        assert_eq!(peer.world_sizes().global, 3);
        assert_eq!(peer.world_sizes().groups, 2);
    }
    let alone = each(&peers[2..], |_, cyd| sum(cyd, 1));
    assert_eq!(alone, [Err(CollectiveError::TooFewPeers { world_size: 1 })]);
    assert_eq!(each(&peers[..2], |_, peer| sum(peer, 1).unwrap()), [2, 2]);
}

#[test]
fn joint_calls_are_refused_while_own_operations_are_in_flight() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    each(&peers, |rank, peer| {
        if rank == 1 {
            // Ben begins only when Ada has been refused.
            peer.are_peers_pending().unwrap();
        }
        let reductions = [1, 2].map(|tag| {
            let options = ReduceOptions::sum().tag(Tag(tag));
            peer.start_all_reduce(vec![1u8; 10], &options)
        });
        if rank == 0 {
            let in_flight = MembershipError::OperationsInFlight { count: 2 };
            assert_eq!(peer.update_topology(), Err(in_flight.clone()));
            assert_eq!(peer.leave(), Err(in_flight));
            let mut tensor = [0f32];
            let mut state = SharedState::new();
            state.tensor("w", &mut tensor);
            let synced = peer.sync_shared_state(&mut state, SyncStrategy::EnforcePopular);
            assert_eq!(synced, Err(SyncError::OperationsInFlight { count: 2 }));
            peer.are_peers_pending().unwrap();
        }
        for reduction in reductions {
            let (buffer, report) = reduction.wait();
            report.unwrap();
            assert_eq!(buffer, [2; 10]);
        }
        peer.update_topology().unwrap();
    });
}

#[test]
fn who_leaves_is_named_by_label_to_those_that_waited_for_it() {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd"]);
    let cyd = peers.pop().unwrap();
    let waiting: Vec<_> = peers
        .iter()
        .map(|peer| peer.start_all_reduce(vec![1u8], &ReduceOptions::sum()))
        .collect();
    peers.push(cyd.clone());
    meet(&peers);
    peers.pop();
    let id = cyd.peer_id();
    Task::start("cyd", move || {
        cyd.leave().unwrap();
        assert_eq!(cyd.world_sizes(), WorldSizes::ALONE);
        assert_eq!(
            cyd.update_topology(),
            Err(MembershipError::Gone(Gone::Closed))
        );
        assert_eq!(sum(&cyd, 1), Err(CollectiveError::Gone(Gone::Closed)));
        assert_eq!(cyd.connect(), Err(ConnectError::Gone(Gone::Closed)));
        cyd.leave().unwrap();
    })
    .end();
    let outcomes = Task::start("ada and ben", move || {
        waiting.into_iter().map(|w| w.wait()).collect::<Vec<_>>()
    });
    for (buffer, outcome) in outcomes.end() {
        let Err(CollectiveError::PeersLost { lost }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(lost.len(), 1);
        assert_eq!(Some(lost[0].peer.id), id);
        assert_eq!(lost[0].peer.label, "cyd");
        assert_eq!(buffer, [1]);
    }
    for peer in &peers {
        assert_eq!(peer.world_sizes().global, 2);
    }
    assert_eq!(each(&peers, |_, peer| sum(peer, 1).unwrap()), [2, 2]);
}

#[test]
fn who_leaves_between_operations_costs_nobody_an_error() {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd", "dan"]);
    each(&peers[3..], |_, dan| dan.leave().unwrap());
    peers.truncate(3);
    assert_eq!(each(&peers, |_, peer| sum(peer, 1).unwrap()), [3; 3]);
    each(&peers[2..], |_, cyd| cyd.leave().unwrap());
    peers.truncate(2);
    each(&peers, |_, peer| peer.update_topology().unwrap());
    assert!(peers.iter().all(|peer| peer.world_sizes().global == 2));
}

#[test]
fn a_run_that_everybody_left_begins_afresh() {
    let (run, peers) = Run::with(&["ada", "ben"]);
    let before = ids(&peers);
    each(&peers, |_, peer| peer.leave().unwrap());
    drop(peers);
    let peers = run.populate(vec![run.config("cyd"), run.config("dan")]);
    assert!(
        ids(&peers).iter().all(|id| !before.contains(id)),
        "an id is used again"
    );
    assert_eq!(each(&peers, |_, peer| sum(peer, 1).unwrap()), [2, 2]);
}

#[test]
fn connect_may_be_tried_again_after_a_refusal() {
    let limits = MasterConfig {
        peers_max: 1,
        ..MasterConfig::default()
    };
    let master = Master::bind_with("127.0.0.1:0".parse().unwrap(), limits).unwrap();
    let address = master.local_addr().to_string();
    let ada = communicator(config(&address, "ada"));
    let ben = communicator(config(&address, "ben"));
    start_connect(&ada).end().unwrap();
    let refused = start_connect(&ben).end();
    let Err(ConnectError::Refused { reason, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("full"), "{reason}");
    Task::start("ada", move || ada.leave()).end().unwrap();
    start_connect(&ben).end().unwrap();
    assert_eq!(ben.members()[0].label, "ben");
}

#[test]
fn a_master_that_is_absent_or_silent_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let absent = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for master in [silent, absent] {
        let timeout = Duration::from_millis(300);
        let ada = communicator(config(&master.to_string(), "ada").connect_timeout(timeout));
        // Twice: it may be tried again on the same communicator.
        for _ in 0..2 {
            let outcome = start_connect(&ada).end();
            let Err(ConnectError::MasterUnreachable { master: named, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(named, master.to_string());
        }
    }
}

#[test]
fn a_master_may_come_up_after_its_peers_have_begun_to_dial() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let ada = communicator(config(&address.to_string(), "ada"));
    let connecting = start_connect(&ada);
    thread::yield_now();
    let _master = Master::bind(address).unwrap();
    connecting.end().unwrap();
    assert_eq!(ada.world_sizes().global, 1);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let refused = |config: pccl::Config| match Communicator::new(config) {
        Err(ConnectError::InvalidConfig { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(config("nowhere", "ada")), "master");
    assert_eq!(refused(config("host:0", "ada")), "master");
    let good = || config("127.0.0.1:48148", "ada");
    assert_eq!(refused(good().label("x".repeat(256))), "label");
    assert_eq!(refused(good().lanes_per_link(0)), "lanes_per_link");
    assert_eq!(refused(good().data_threads(0)), "data_threads");
    assert_eq!(refused(good().advertised_host("")), "advertised_host");
    assert_eq!(
        refused(good().connect_timeout(Duration::ZERO)),
        "connect_timeout"
    );
}

#[test]
fn async_calls_meet_blocking_ones() {
    let run = Run::new();
    let ada = communicator(run.config("ada"));
    let ben = communicator(run.config("ben"));
    start_connect(&ada).end().unwrap();
    let connecting = {
        let ben = ben.clone();
        Task::start("ben", move || pollster::block_on(ben.connect_async()))
    };
    let_in(std::slice::from_ref(&ada));
    connecting.end().unwrap();
    each(&[ada, ben], |rank, peer| {
        if rank == 0 {
            pollster::block_on(peer.update_topology_async()).unwrap();
            assert_eq!(
                pollster::block_on(peer.are_peers_pending_async()),
                Ok(false)
            );
        } else {
            peer.update_topology().unwrap();
            assert_eq!(peer.are_peers_pending(), Ok(false));
        }
    });
}
