//! What callers see when peers vanish, give up, disagree or call what can never meet.
//!
//! `are_peers_pending` serves as a meeting point: the master hears each peer's words in order, so
//! when it returns, everything that was begun before it is known to have begun.

use std::sync::Arc;
use std::time::Duration;

use pccl::{
    CollectiveError, Communicator, ConnectError, Gone, MembershipError, ReduceOp, ReduceOptions,
    ReduceReport, Reduction, SharedState, SyncError, SyncReport, SyncStrategy, Tag, WorldSizes,
};

use crate::common::{Run, Task, communicator, each, let_in, meet, start_connect, until};

type Outcome = Result<ReduceReport, CollectiveError>;

fn sum(peer: &Communicator, value: u64) -> Result<u64, CollectiveError> {
    let mut buffer = [value];
    peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum())?;
    Ok(buffer[0])
}

fn sync(peer: &Communicator, tensor: &mut [f32]) -> Result<SyncReport, SyncError> {
    let mut state = SharedState::new();
    state.tensor("w", tensor);
    peer.sync_shared_state(&mut state, SyncStrategy::EnforcePopular)
}

/// Begins a sum at each of these and returns when the master knows of all, with everybody there.
fn begin(
    beginners: &[Arc<Communicator>],
    everybody: &[Arc<Communicator>],
    options: ReduceOptions,
) -> Vec<Reduction<u32>> {
    let begun = beginners
        .iter()
        .map(|peer| peer.start_all_reduce(input(peer), &options))
        .collect();
    meet(everybody);
    begun
}

/// Large enough for several segments and every lane.
fn input(peer: &Communicator) -> Vec<u32> {
    let seed = peer.config().label.len() as u32 + u32::from(peer.config().label.as_bytes()[0]);
    (0..200_003).map(|index| index * 7 + seed).collect()
}

fn outcomes(begun: Vec<Reduction<u32>>) -> Vec<(Vec<u32>, Outcome)> {
    let tasks = begun
        .into_iter()
        .enumerate()
        .map(|(index, reduction)| Task::start(&format!("peer {index}"), || reduction.wait()))
        .collect();
    crate::common::end_all(tasks)
}

fn lost_labels(outcome: &Outcome) -> Vec<String> {
    match outcome {
        Err(CollectiveError::PeersLost { lost }) => {
            lost.iter().map(|lost| lost.peer.label.clone()).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Drops or closes while `begin` holds the others; they are told, restored and go on.
fn a_peer_vanishes(vanish: fn(Arc<Communicator>), has_begun: bool) {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd", "dan"]);
    let beginners = if has_begun { &peers[1..] } else { &peers[2..] };
    let begun = begin(beginners, &peers, ReduceOptions::sum());
    let vanishing = peers.remove(1);
    Task::start("ben", move || vanish(vanishing)).end();
    let ended = outcomes(begun);
    let survivors = if has_begun {
        let (buffer, outcome) = &ended[0];
        assert_eq!(
            outcome.as_ref().unwrap_err(),
            &CollectiveError::Gone(Gone::Closed)
        );
        assert!(
            buffer
                .iter()
                .zip(0..)
                .all(|(value, index)| *value == index * 7 + 3 + 98)
        );
        &ended[1..]
    } else {
        &ended[..]
    };
    for ((buffer, outcome), peer) in survivors.iter().zip(&peers[1..]) {
        assert_eq!(lost_labels(outcome), ["ben"]);
        assert_eq!(*buffer, input(peer), "the input is not as it was");
        // Membership is up to date as soon as the failure is told.
        assert_eq!(peer.world_sizes().group, 3);
        assert_eq!(peer.members().len(), 3);
    }
    // Ada had not called: her next use of the tag says so at once, then all go on.
    let sums = each(&peers, |index, peer| {
        if index == 0 {
            let debt = sum(peer, 1);
            assert!(
                matches!(debt, Err(CollectiveError::PeersLost { .. })),
                "{debt:?}"
            );
        }
        sum(peer, 1)
    });
    assert_eq!(sums, [Ok(3), Ok(3), Ok(3)]);
}

#[test]
fn peer_closed_before_it_called_aborts_the_others() {
    a_peer_vanishes(|ben| ben.close(), false);
}

#[test]
fn peer_dropped_before_it_called_aborts_the_others() {
    a_peer_vanishes(drop, false);
}

#[test]
fn peer_closed_in_the_middle_aborts_everywhere() {
    a_peer_vanishes(|ben| ben.close(), true);
}

#[test]
fn peer_dropped_in_the_middle_aborts_everywhere() {
    a_peer_vanishes(drop, true);
}

#[test]
fn borrowed_memory_is_put_back_and_send_is_never_written() {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd"]);
    let cyd = peers.pop().unwrap();
    let leaving = Task::start("cyd", move || {
        cyd.are_peers_pending().unwrap();
        drop(cyd);
    });
    let results = each(&peers, |rank, peer| {
        let send = input(peer);
        let mut buffer = send.clone();
        let mut recv = vec![0; send.len()];
        let options = ReduceOptions::sum();
        let outcome = peer.scope(|scope| {
            let reduction = if rank == 0 {
                scope.all_reduce_in_place(&mut buffer, &options)
            } else {
                scope.all_reduce(&send, &mut recv, &options)
            };
            peer.are_peers_pending().unwrap();
            reduction.wait()
        });
        assert_eq!(lost_labels(&outcome), ["cyd"]);
        assert_eq!(buffer, send);
        assert_eq!(send, input(peer));
        // The same arguments again, at once.
        if rank == 0 {
            peer.all_reduce_in_place(&mut buffer, &options).unwrap();
            return buffer;
        }
        peer.all_reduce(&send, &mut recv, &options).unwrap();
        assert_eq!(send, input(peer));
        recv
    });
    leaving.end();
    let expected: Vec<u32> = input(&peers[0])
        .iter()
        .zip(input(&peers[1]))
        .map(|(a, b)| a + b)
        .collect();
    assert!(results.iter().all(|result| *result == expected));
}

#[test]
fn the_last_one_left_has_too_few_peers() {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd"]);
    let begun = begin(&peers[..1], &peers, ReduceOptions::sum());
    for peer in peers.drain(1..) {
        Task::start("closing", move || peer.close()).end();
    }
    for (buffer, outcome) in outcomes(begun) {
        let labels = lost_labels(&outcome);
        assert!(labels.contains(&"ben".to_owned()), "{labels:?}");
        assert_eq!(buffer, input(&peers[0]));
    }
    each(&peers, |_, ada| {
        // The second may be lost an operation later.
        let outcome = loop {
            match sum(ada, 1) {
                Err(CollectiveError::PeersLost { .. }) => {}
                outcome => break outcome,
            }
        };
        assert_eq!(outcome, Err(CollectiveError::TooFewPeers { world_size: 1 }));
        assert_eq!(ada.world_sizes(), WorldSizes::ALONE);
        ada.update_topology().unwrap();
    });
}

#[test]
fn many_operations_survive_the_loss_of_a_peer() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    each(&peers, |rank, peer| {
        let mut buffers: Vec<Vec<u64>> = (0..30).map(|n| vec![1 << rank; n * 50 + 1]).collect();
        let mut operations: Vec<_> = buffers
            .iter_mut()
            .zip(0..)
            .map(|(buffer, tag)| pccl::Reduce::in_place(buffer, ReduceOptions::sum().tag(Tag(tag))))
            .collect();
        if rank == 2 {
            // Does its share of the first ten, then vanishes.
            peer.all_reduce_many(&mut operations[..10], 3).unwrap();
            peer.close();
            return;
        }
        let report = peer.all_reduce_many(&mut operations, 3).unwrap();
        assert_eq!(report.world_size, 2);
        let worlds: Vec<u32> = operations
            .iter()
            .map(|operation| operation.report().unwrap().world_size)
            .collect();
        drop(operations);
        assert!(worlds[..10].iter().all(|world| *world == 3), "{worlds:?}");
        assert!(worlds[10..].iter().all(|world| *world == 2), "{worlds:?}");
        for (buffer, world) in buffers.iter().zip(worlds) {
            let expected = if world == 3 { 7 } else { 3 };
            assert!(buffer.iter().all(|value| *value == expected));
        }
    });
}

#[test]
fn cancel_ends_an_operation_and_the_others_hear_who_did() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let begun = begin(&peers[..2], &peers, ReduceOptions::sum());
    let ada = peers[0].clone();
    Task::start("ada", move || ada.cancel()).end();
    let ended = outcomes(begun);
    assert_eq!(ended[0].1, Err(CollectiveError::Cancelled));
    let reported = |outcome: &Outcome| {
        let Err(CollectiveError::Aborted { reason }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(
            reason.contains("\"ada\"") && reason.contains("cancel"),
            "{reason}"
        );
    };
    reported(&ended[1].1);
    for ((buffer, _), peer) in ended.iter().zip(&peers) {
        assert_eq!(*buffer, input(peer));
    }
    let debt = peers[2].start_all_reduce(input(&peers[2]), &ReduceOptions::sum());
    let (buffer, debt) = outcomes(vec![debt]).remove(0);
    reported(&debt);
    assert_eq!(buffer, input(&peers[2]));
    assert_eq!(each(&peers, |_, peer| sum(peer, 1)), [Ok(3), Ok(3), Ok(3)]);
}

/// Calls `end` until `call` has returned, wherever it was by then.
fn ended<R: Send + 'static>(
    peer: &Arc<Communicator>,
    end: fn(&Communicator),
    call: impl FnOnce(&Communicator) -> R + Send + 'static,
) -> R {
    let caller = peer.clone();
    let mut task = Task::start(&peer.config().label, move || call(&caller));
    until("the call ends", || {
        end(peer);
        task.has_ended()
    });
    task.end()
}

#[test]
fn cancel_ends_each_kind_of_call_and_the_communicator_stays() {
    let (run, mut peers) = Run::with(&["ada", "ben"]);
    let (ada, cancel) = (peers[0].clone(), Communicator::cancel);
    for _ in 0..5 {
        let updated = ended(&ada, cancel, |ada| ada.update_topology());
        assert_eq!(updated, Err(MembershipError::Cancelled));
        let pending = ended(&ada, cancel, |ada| ada.are_peers_pending());
        assert_eq!(pending, Err(MembershipError::Cancelled));
        let synced = ended(&ada, cancel, |ada| sync(ada, &mut [0.0]));
        assert_eq!(synced, Err(SyncError::Cancelled));
    }
    let reduced = ended(&ada, cancel, |ada| sum(ada, 1));
    assert_eq!(reduced, Err(CollectiveError::Cancelled));
    each(&peers[1..], |_, ben| {
        let debt = sum(ben, 1);
        assert!(
            matches!(debt, Err(CollectiveError::Aborted { .. })),
            "{debt:?}"
        );
    });
    let cyd = communicator(run.config("cyd"));
    for _ in 0..5 {
        let connected = ended(&cyd, cancel, |cyd| cyd.connect());
        assert_eq!(connected, Err(ConnectError::Cancelled));
    }
    let connecting = start_connect(&cyd);
    let_in(&peers);
    connecting.end().unwrap();
    peers.push(cyd);
    assert_eq!(each(&peers, |_, peer| sum(peer, 1)), [Ok(3), Ok(3), Ok(3)]);
    let synced = each(&peers, |_, peer| sync(peer, &mut [1.0]).unwrap().rx_bytes);
    assert_eq!(synced, [0; 3]);
}

#[test]
fn close_ends_each_kind_of_call() {
    let gone = Gone::Closed;
    let labels = ["ada", "ben", "cyd", "dan", "eve"];
    let (run, mut peers) = Run::with(&labels);
    let close = Communicator::close;
    let updated = ended(&peers[1], close, |ben| ben.update_topology());
    assert_eq!(updated, Err(MembershipError::Gone(gone.clone())));
    let pending = ended(&peers[2], close, |cyd| cyd.are_peers_pending());
    assert_eq!(pending, Err(MembershipError::Gone(gone.clone())));
    let synced = ended(&peers[3], close, |dan| sync(dan, &mut [0.0]));
    assert_eq!(synced, Err(SyncError::Gone(gone.clone())));
    let reduced = ended(&peers[4], close, |eve| sum(eve, 1));
    assert_eq!(reduced, Err(CollectiveError::Gone(gone.clone())));
    let fox = communicator(run.config("fox"));
    let connected = ended(&fox, close, |fox| fox.connect());
    assert_eq!(connected, Err(ConnectError::Gone(gone)));
    peers.truncate(1);
    each(&peers, |_, ada| {
        ada.update_topology().unwrap();
        assert_eq!(ada.world_sizes().global, 1);
    });
}

#[test]
fn a_deadline_names_whom_it_waited_for() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let options = ReduceOptions::sum().tag(Tag(4));
    let soon = options.deadline(Duration::from_millis(50));
    let begun = vec![
        peers[0].start_all_reduce(input(&peers[0]), &soon),
        peers[1].start_all_reduce(input(&peers[1]), &options),
    ];
    meet(&peers);
    let mut ended = outcomes(begun);
    ended.extend(outcomes(vec![
        peers[2].start_all_reduce(input(&peers[2]), &options),
    ]));
    for ((buffer, outcome), peer) in ended.iter().zip(&peers) {
        let Err(CollectiveError::DeadlinePassed { reason }) = outcome else {
            panic!("{outcome:?}")
        };
        let named = reason.split("waiting for").nth(1).unwrap_or_default();
        assert!(
            named.contains("\"cyd\"") && named.contains("to call"),
            "{reason}"
        );
        assert!(
            !named.contains("\"ben\"") && !named.contains("\"ada\""),
            "{reason}"
        );
        assert_eq!(*buffer, input(peer));
    }
    assert_eq!(each(&peers, |_, peer| sum(peer, 1)), [Ok(3), Ok(3), Ok(3)]);
}

#[test]
fn a_deadline_that_is_met_changes_nothing() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    each(&peers, |_, peer| {
        let options = ReduceOptions::sum().deadline(Duration::from_secs(3600));
        let mut buffer = [1u8];
        peer.all_reduce_in_place(&mut buffer, &options).unwrap();
        assert_eq!(buffer, [2]);
    });
}

fn assert_mismatch(outcome: Outcome, field: &str) {
    let Err(CollectiveError::Mismatch {
        tag,
        field: named,
        detail,
    }) = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(tag, Tag(9));
    assert!(named.contains(field), "{named}, not {field}");
    assert!(
        detail.contains("\"ada\"") || detail.contains("\"cyd\""),
        "{detail}"
    );
}

#[test]
fn peers_that_mean_something_else_by_a_tag_are_told_which_field_differs() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let tagged = |op| ReduceOptions::new(op).tag(Tag(9));
    let count = each(&peers, move |rank, peer| {
        let mut buffer = vec![1u32; [70_000, 70_000, 69_999][rank]];
        let outcome = peer.all_reduce_in_place(&mut buffer, &tagged(ReduceOp::Sum));
        assert!(buffer.iter().all(|value| *value == 1));
        outcome
    });
    let data_type = each(&peers, move |rank, peer| {
        let options = tagged(ReduceOp::Sum);
        if rank == 0 {
            peer.all_reduce_in_place(&mut [1i32; 5], &options)
        } else {
            peer.all_reduce_in_place(&mut [1u32; 5], &options)
        }
    });
    let op = each(&peers, move |rank, peer| {
        let options = tagged([ReduceOp::Max, ReduceOp::Min, ReduceOp::Min][rank]);
        peer.all_reduce_in_place(&mut [1.0f32; 5], &options)
    });
    for (outcomes, field) in [
        (count, "count"),
        (data_type, "data type"),
        (op, "operation"),
    ] {
        for outcome in outcomes {
            assert_mismatch(outcome, field);
        }
    }
    each(&peers, move |_, peer| {
        let mut buffer = [1u8];
        peer.all_reduce_in_place(&mut buffer, &tagged(ReduceOp::Sum))
            .unwrap();
        assert_eq!(buffer, [3]);
    });
}

fn assert_cannot_meet(detail: &str, said: [&str; 2]) {
    assert!(said.iter().all(|part| detail.contains(part)), "{detail}");
}

#[test]
fn update_topology_and_an_all_reduce_can_never_meet() {
    let (_run, peers) = Run::with(&["ada", "ben", "cyd"]);
    let begun = begin(&peers[..2], &peers, ReduceOptions::sum().tag(Tag(6)));
    let said = ["all_reduce with tag 6", "\"cyd\""];
    let details = each(&peers[2..], |_, cyd| match cyd.update_topology() {
        Err(MembershipError::CannotMeet { detail }) => detail,
        other => panic!("{other:?}"),
    });
    assert_cannot_meet(&details[0], said);
    assert!(details[0].contains("update_topology"));
    for (buffer, outcome) in outcomes(begun) {
        let Err(CollectiveError::CannotMeet { detail }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(detail, details[0]);
        assert!(buffer == input(&peers[0]) || buffer == input(&peers[1]));
    }
    // Calling the same thing mends it, and takes the debt away.
    each(&peers, |_, peer| {
        peer.update_topology().unwrap();
        let mut buffer = [1u8];
        let options = ReduceOptions::sum().tag(Tag(6));
        peer.all_reduce_in_place(&mut buffer, &options).unwrap();
        assert_eq!(buffer, [3]);
    });
}

#[test]
fn a_sync_and_update_topology_can_never_meet() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let details = each(&peers, |rank, peer| {
        if rank == 0 {
            match sync(peer, &mut [1.0]) {
                Err(SyncError::CannotMeet { detail }) => detail,
                other => panic!("{other:?}"),
            }
        } else {
            match peer.update_topology() {
                Err(MembershipError::CannotMeet { detail }) => detail,
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(details[0], details[1]);
    assert_cannot_meet(&details[0], ["\"ada\"", "\"ben\""]);
    assert_cannot_meet(&details[0], ["sync_shared_state", "update_topology"]);
    each(&peers, |_, peer| {
        peer.update_topology().unwrap();
        sync(peer, &mut [1.0]).unwrap();
    });
}

#[test]
fn a_sync_and_an_all_reduce_can_never_meet() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let begun = begin(&peers[..1], &peers, ReduceOptions::sum());
    let details = each(&peers[1..], |_, ben| match sync(ben, &mut [1.0]) {
        Err(SyncError::CannotMeet { detail }) => detail,
        other => panic!("{other:?}"),
    });
    assert_cannot_meet(&details[0], ["all_reduce", "sync_shared_state"]);
    let ended = outcomes(begun);
    assert!(matches!(
        ended[0].1,
        Err(CollectiveError::CannotMeet { .. })
    ));
    // Both turn to the sync; its success takes the debt of the tag away.
    each(&peers, |_, peer| {
        sync(peer, &mut [1.0]).unwrap();
        assert_eq!(sum(peer, 1), Ok(2));
    });
}

#[test]
fn a_debt_is_owed_once_per_aborted_operation_and_per_tag() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    for tag in [1, 1, 2] {
        let options = ReduceOptions::sum().tag(Tag(tag));
        let begun = begin(&peers[..1], &peers, options);
        let ada = peers[0].clone();
        Task::start("ada", move || ada.cancel()).end();
        assert_eq!(outcomes(begun)[0].1, Err(CollectiveError::Cancelled));
    }
    each(&peers, |rank, peer| {
        let reduce = |tag| {
            let mut buffer = [1u8];
            let options = ReduceOptions::sum().tag(Tag(tag));
            peer.all_reduce_in_place(&mut buffer, &options)
                .map(|_| buffer[0])
        };
        if rank == 1 {
            for tag in [1, 2, 1] {
                let debt = reduce(tag);
                assert!(
                    matches!(debt, Err(CollectiveError::Aborted { .. })),
                    "{debt:?}"
                );
            }
        }
        for tag in [3, 2, 1] {
            assert_eq!(reduce(tag), Ok(2));
        }
    });
}

#[test]
fn a_joint_call_goes_on_without_those_that_vanish() {
    let (_run, mut peers) = Run::with(&["ada", "ben", "cyd"]);
    let waiting: Vec<_> = peers[..2]
        .iter()
        .map(|peer| {
            let peer = peer.clone();
            Task::start("waiting", move || peer.update_topology())
        })
        .collect();
    drop(peers.pop());
    for outcome in crate::common::end_all(waiting) {
        outcome.unwrap();
    }
    let pending = peers[0].clone();
    let waiting = Task::start("ada", move || pending.are_peers_pending());
    drop(peers.pop());
    assert_eq!(waiting.end(), Ok(false));
}

#[test]
fn of_two_joint_calls_of_one_communicator_the_second_is_refused() {
    let (_run, peers) = Run::with(&["ada", "ben"]);
    let ada = peers[0].clone();
    let mut calls: Vec<_> = (0..2)
        .map(|_| {
            let ada = ada.clone();
            Task::start("ada", move || ada.update_topology())
        })
        .collect();
    let mut refused = None;
    until("one of ada's calls is refused", || {
        refused = calls.iter_mut().position(Task::has_ended);
        refused.is_some()
    });
    let running = "update_topology";
    let second = calls.remove(refused.unwrap()).end();
    assert_eq!(second, Err(MembershipError::CallInProgress { running }));
    each(&peers[1..], |_, ben| ben.update_topology().unwrap());
    calls.remove(0).end().unwrap();
}

#[test]
fn losing_the_master_ends_calls_after_its_grace() {
    let run = Run::new();
    let grace = Duration::from_millis(200);
    let configs = ["ada", "ben"].map(|label| run.config(label).master_grace(grace));
    let peers = run.populate(configs.to_vec());
    let begun = begin(&peers[..1], &peers, ReduceOptions::sum());
    drop(run);
    let ended = outcomes(begun);
    let lost = |gone: &Gone| matches!(gone, Gone::MasterLost { grace_ms: 200, .. });
    assert!(matches!(&ended[0].1, Err(CollectiveError::Gone(gone)) if lost(gone)));
    assert_eq!(ended[0].0, input(&peers[0]));
    each(&peers, move |_, peer| {
        let updated = peer.update_topology();
        let Err(MembershipError::Gone(gone)) = updated else {
            panic!("{updated:?}")
        };
        assert!(lost(&gone), "{gone}");
        assert_eq!(peer.world_sizes(), WorldSizes::ALONE);
        assert!(matches!(sum(peer, 1), Err(CollectiveError::Gone(_))));
    });
}
