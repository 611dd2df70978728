//! A master that is killed and comes back, in memory of nothing.

use std::time::Duration;

use super::cluster::{Cluster, GRACE, Move, present, reduce};
use crate::error::{CollectiveError, Gone, SyncError};
use crate::protocol::master::MasterConfig;
use crate::protocol::peer::{Command, Input, Reply, RequestId};
use crate::types::{Epoch, GroupId, PeerId, Revision};
use crate::wire::control::{Frame, Reign, ToPeer, Welcome};

const UPDATED: Option<Reply> = Some(Reply::Membership(Ok(())));

fn epoch(cluster: &Cluster) -> Epoch {
    cluster.master().epoch()
}

fn everybody_calls(cluster: &mut Cluster, command: &Command) -> Vec<RequestId> {
    (0..cluster.nodes.len())
        .map(|node| cluster.command(node, command.clone()))
        .collect()
}

fn replies(cluster: &Cluster, requests: &[RequestId]) -> Vec<Option<Reply>> {
    let replies = (0..).zip(requests);
    replies
        .map(|(node, request)| cluster.reply(node, *request).cloned())
        .collect()
}

/// What the master has sent arrives at this node, and at no other.
fn arrive_at(cluster: &mut Cluster, node: usize) {
    let connection = cluster.nodes[node].connection.unwrap();
    while cluster.moves().contains(&Move::Down(connection)) {
        cluster.perform(Move::Down(connection));
    }
}

/// All that peers have said arrives, and nothing of what the master says to it.
fn arrive_at_master(cluster: &mut Cluster) {
    loop {
        let up = |m: &Move| matches!(m, Move::Up(_) | Move::Finish(..) | Move::Receive(..));
        let Some(next) = cluster.moves().into_iter().find(up) else {
            return;
        };
        cluster.perform(next);
    }
}

fn contributors(reply: Option<&Reply>) -> Option<&[PeerId]> {
    match reply {
        Some(Reply::AllReduce(Ok(contributors))) => Some(contributors),
        _ => None,
    }
}

fn error(reply: Option<&Reply>) -> Option<&CollectiveError> {
    match reply {
        Some(Reply::AllReduce(Err(error))) => Some(error),
        _ => None,
    }
}

fn assert_lost_peers(reply: Option<&Reply>) {
    let error = error(reply);
    assert!(
        matches!(error, Some(CollectiveError::PeersLost { .. })),
        "{reply:?}"
    );
}

fn assert_nobody_is_gone(cluster: &Cluster) {
    for node in cluster.nodes.iter().filter(|node| node.alive) {
        assert_eq!(node.peer.gone(), None);
    }
}

#[test]
fn what_runs_goes_on_in_the_same_epoch() {
    let mut cluster = Cluster::of(3);
    let before = epoch(&cluster);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.restart_master();
    cluster.run();
    assert!(cluster.master().rules());
    assert_eq!(epoch(&cluster), before);
    let last = cluster.command(2, reduce(1));
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, last)] {
        let reply = cluster.reply(node, call);
        assert_eq!(contributors(reply).map(<[_]>::len), Some(3), "{reply:?}");
    }
    assert_nobody_is_gone(&cluster);
}

#[test]
fn data_moves_while_there_is_no_master() {
    let mut cluster = Cluster::of(3);
    cluster.kill_master();
    let calls = everybody_calls(&mut cluster, &reduce(1));
    cluster.finish_data();
    cluster.start_master();
    cluster.run();
    for reply in replies(&cluster, &calls) {
        assert_eq!(contributors(reply.as_ref()).map(<[_]>::len), Some(3));
    }
}

#[test]
fn a_commit_that_one_was_told_is_a_commit_for_all() {
    let mut cluster = Cluster::of(3);
    let calls = everybody_calls(&mut cluster, &reduce(1));
    arrive_at_master(&mut cluster);
    arrive_at(&mut cluster, 1);
    let told = contributors(cluster.reply(1, calls[1])).unwrap().to_vec();
    // Its next use of the tag is another operation.
    let next = cluster.command(1, reduce(1));
    cluster.restart_master();
    cluster.run();
    for reply in replies(&cluster, &calls) {
        assert_eq!(contributors(reply.as_ref()), Some(&told[..]));
    }
    assert_eq!(cluster.reply(1, next), None);
    assert_nobody_is_gone(&cluster);
}

#[test]
fn an_abort_that_one_was_told_is_an_abort_for_all_and_owed_by_who_had_not_called() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.fail_operation(0, "out of memory");
    arrive_at_master(&mut cluster);
    arrive_at(&mut cluster, 0);
    assert!(cluster.reply(0, calls[0]).is_some());
    cluster.restart_master();
    cluster.run();
    let owed = cluster.command(2, reduce(1));
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, owed)] {
        let reply = cluster.reply(node, call);
        let error = error(reply);
        assert!(
            matches!(error, Some(CollectiveError::Aborted { .. })),
            "{reply:?}"
        );
    }
}

#[test]
fn calls_wait_for_the_master_and_end_when_all_have_called() {
    for call in [
        Command::UpdateTopology,
        Command::ArePeersPending,
        present(0, "state"),
    ] {
        let mut cluster = Cluster::of(3);
        let mut calls = vec![cluster.command(0, call.clone())];
        cluster.run();
        cluster.kill_master();
        calls.push(cluster.command(1, call.clone()));
        cluster.start_master();
        cluster.run();
        assert_eq!(replies(&cluster, &calls), [None, None]);
        calls.push(cluster.command(2, call.clone()));
        cluster.run();
        let replies = replies(&cluster, &calls);
        assert!(replies[0].is_some(), "{call:?}");
        assert!(replies.iter().all(|reply| *reply == replies[0]));
    }
}

#[test]
fn a_call_that_has_ended_for_one_ends_the_same_way_for_all() {
    for call in [
        Command::UpdateTopology,
        Command::ArePeersPending,
        present(0, "state"),
    ] {
        for node in 0..3 {
            let mut cluster = Cluster::of(3);
            let calls = everybody_calls(&mut cluster, &call);
            arrive_at_master(&mut cluster);
            arrive_at(&mut cluster, node);
            // Sync plans come first.
            arrive_at_master(&mut cluster);
            arrive_at(&mut cluster, node);
            let told = cluster.reply(node, calls[node]).cloned();
            assert!(told.is_some(), "{call:?}");
            cluster.restart_master();
            cluster.run();
            assert_eq!(replies(&cluster, &calls), vec![told; 3], "{call:?}");
        }
    }
}

#[test]
fn a_call_that_has_ended_for_one_cannot_be_cancelled_by_another() {
    let mut cluster = Cluster::of(2);
    let requests = everybody_calls(&mut cluster, &Command::ArePeersPending);
    arrive_at_master(&mut cluster);
    arrive_at(&mut cluster, 0);
    assert!(cluster.reply(0, requests[0]).is_some());
    cluster.kill_master();
    cluster.command(1, Command::Cancel);
    cluster.start_master();
    cluster.pass(Duration::from_secs(1));
    let told = replies(&cluster, &requests);
    assert_eq!(told[0], told[1]);
}

#[test]
fn the_next_call_of_who_was_told_is_not_the_call_of_the_others() {
    let mut cluster = Cluster::of(2);
    let calls = everybody_calls(&mut cluster, &Command::UpdateTopology);
    arrive_at_master(&mut cluster);
    arrive_at(&mut cluster, 0);
    let next = cluster.command(0, Command::UpdateTopology);
    cluster.restart_master();
    cluster.run();
    assert_eq!(cluster.reply(1, calls[1]).cloned(), UPDATED);
    assert_eq!(cluster.reply(0, next), None);
}

#[test]
fn a_sync_that_the_master_leaves_in_the_middle_is_finished_by_the_next() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = ["same", "odd", "same"]
        .into_iter()
        .enumerate()
        .map(|(node, content)| cluster.command(node, present(0, content)))
        .collect();
    cluster.run_until(|cluster| cluster.nodes[1].plan.is_some());
    cluster.restart_master();
    cluster.run();
    assert_eq!(
        replies(&cluster, &calls),
        vec![Some(Reply::Sync(Ok(Revision(0)))); 3]
    );
    let again = everybody_calls(&mut cluster, &present(1, "same"));
    cluster.run();
    assert_eq!(
        replies(&cluster, &again),
        vec![Some(Reply::Sync(Ok(Revision(1)))); 3]
    );
}

#[test]
fn the_revision_is_the_one_that_peers_have() {
    let mut cluster = Cluster::of(2);
    let calls = everybody_calls(&mut cluster, &present(5, "state"));
    cluster.run();
    assert_eq!(
        replies(&cluster, &calls),
        vec![Some(Reply::Sync(Ok(Revision(5)))); 2]
    );
    cluster.restart_master();
    cluster.run();
    let stale = everybody_calls(&mut cluster, &present(5, "state"));
    cluster.run();
    let stale = replies(&cluster, &stale);
    assert!(matches!(&stale[0], Some(Reply::Sync(Err(_)))), "{stale:?}");
}

#[test]
fn who_died_with_the_master_is_lost_and_its_share_of_what_was_finished_is_not() {
    for had_finished in [true, false] {
        let mut cluster = Cluster::of(3);
        let calls: Vec<_> = (0..3 - usize::from(!had_finished))
            .map(|n| cluster.command(n, reduce(1)))
            .collect();
        cluster.finish_data();
        cluster.kill_master();
        cluster.kill(2);
        cluster.run();
        cluster.start_master();
        cluster.pass(Duration::from_secs(1));
        for (node, call) in calls.iter().take(2).enumerate() {
            let reply = cluster.reply(node, *call);
            if had_finished {
                assert_eq!(contributors(reply).map(<[_]>::len), Some(3), "{reply:?}");
            } else {
                let lost = matches!(
                    reply,
                    Some(Reply::AllReduce(Err(CollectiveError::PeersLost { lost }))) if lost.len() == 1
                );
                assert!(lost, "{reply:?}");
            }
        }
        let again: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
        cluster.run();
        let reply = cluster.reply(0, again[0]);
        assert_eq!(contributors(reply).map(<[_]>::len), Some(2));
    }
}

#[test]
fn who_is_silent_when_the_master_is_back_is_waited_for_and_then_lost() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.nodes[2].frozen = true;
    cluster.restart_master();
    cluster.pass(Duration::from_secs(2));
    assert_eq!(cluster.reply(0, calls[0]), None);
    cluster.pass(Duration::from_secs(3));
    for (node, call) in calls.into_iter().enumerate() {
        assert_lost_peers(cluster.reply(node, call));
    }
    // It comes back to a run that has gone on.
    cluster.nodes[2].frozen = false;
    cluster.pass(Duration::from_secs(5));
    assert!(matches!(
        cluster.nodes[2].peer.gone(),
        Some(Gone::Evicted { .. })
    ));
}

#[test]
fn half_of_the_peers_decide_nothing_and_end_by_their_grace() {
    let mut cluster = Cluster::of(4);
    let call = cluster.command(0, reduce(1));
    cluster.run();
    for node in 2..4 {
        cluster.nodes[node].frozen = true;
    }
    cluster.restart_master();
    cluster.pass(GRACE - Duration::from_secs(1));
    assert!(!cluster.master().rules());
    assert_eq!(cluster.reply(0, call), None);
    cluster.pass(Duration::from_secs(3));
    let reply = cluster.reply(0, call);
    let gone = matches!(
        reply,
        Some(Reply::AllReduce(Err(CollectiveError::Gone(
            Gone::NoMajority { .. }
        ))))
    );
    assert!(gone, "{reply:?}");
}

#[test]
fn a_proposal_that_was_acknowledged_and_may_be_active_is_what_the_next_one_follows() {
    let mut cluster = Cluster::of(4);
    let calls: Vec<_> = (0..3).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.nodes[3].frozen = true;
    // The master evicts it, and proposes an epoch without it that nobody is told to be active.
    let proposed = |cluster: &Cluster| {
        let node = &cluster.nodes[3];
        !cluster
            .master()
            .peers()
            .any(|name| Some(name.id) == node.id)
    };
    while !proposed(&cluster) {
        cluster.now = cluster.now + Duration::from_millis(100);
        cluster.tick();
        if !proposed(&cluster) {
            cluster.run();
        }
    }
    for node in 0..3 {
        arrive_at(&mut cluster, node);
    }
    cluster.restart_master();
    // All come back, the one that was left out too.
    cluster.nodes[3].frozen = false;
    cluster.pass(Duration::from_secs(5));
    assert!(matches!(
        cluster.nodes[3].peer.gone(),
        Some(Gone::Evicted { .. })
    ));
    for (node, call) in (0..).zip(calls) {
        assert_lost_peers(cluster.reply(node, call));
    }
}

#[test]
fn who_is_two_epochs_behind_hears_how_its_operation_ended() {
    let mut cluster = Cluster::of(4);
    let calls: Vec<_> = (0..4).map(|n| cluster.command(n, reduce(1))).collect();
    let deaf = Move::Down(cluster.nodes[1].connection.unwrap());
    let run = |cluster: &mut Cluster| {
        while let Some(next) = cluster.moves().into_iter().find(|next| *next != deaf) {
            cluster.perform(next);
        }
    };
    run(&mut cluster);
    for dead in [3, 2] {
        let before = epoch(&cluster);
        cluster.kill(dead);
        run(&mut cluster);
        assert!(epoch(&cluster).count > before.count);
    }
    assert_eq!(cluster.reply(1, calls[1]), None);
    cluster.restart_master();
    cluster.pass(Duration::from_secs(1));
    for (node, call) in calls.into_iter().take(2).enumerate() {
        let reply = cluster.reply(node, call);
        assert_eq!(contributors(reply).map(<[_]>::len), Some(4), "{reply:?}");
    }
    assert_nobody_is_gone(&cluster);
}

#[test]
fn who_was_only_proposed_when_the_state_went_with_its_last_holder_is_no_holder() {
    let mut cluster = Cluster::of(1);
    cluster.all(vec![(0, present(8, "eight"))]);
    for node in [1, 2] {
        cluster.spawn(GroupId(0));
        cluster.command(node, Command::Connect);
    }
    cluster.run();
    cluster.command(0, Command::UpdateTopology);
    cluster.run_until(|cluster| cluster.nodes[1].membership.is_some());
    assert!(cluster.nodes[2].membership.is_none());
    cluster.kill(0);
    let deaf = Move::Down(cluster.nodes[2].connection.unwrap());
    while let Some(next) = cluster.moves().into_iter().find(|next| *next != deaf) {
        cluster.perform(next);
    }
    let disk = cluster.disk(0);
    cluster.kill_master();
    cluster.start_master_with(0, disk);
    cluster.pass(Duration::from_secs(8));
    let calls = [1, 2].map(|node| (node, present(0, "blank")));
    for reply in cluster.all(calls.to_vec()) {
        let Some(Reply::Sync(Err(SyncError::NoCleanState { reason }))) = &reply else {
            panic!("{reply:?}");
        };
        assert!(reason.contains("revision 8"), "{reason}");
    }
}

#[test]
fn an_epoch_that_only_the_disk_knows_of_has_the_revision_of_the_one_before() {
    let mut cluster = Cluster::of(2);
    cluster.all((0..2).map(|n| (n, present(8, "eight"))).collect());
    cluster.nodes[0].frozen = true;
    let before = epoch(&cluster);
    // One of two is silent: the other goes on alone, and the master dies before it says so.
    while epoch(&cluster) == before {
        cluster.run();
        cluster.now = cluster.now + Duration::from_millis(100);
        cluster.tick();
    }
    let disk = cluster.disk(0);
    cluster.kill_master();
    cluster.nodes[0].frozen = false;
    cluster.start_master_with(0, disk);
    cluster.pass(Duration::from_secs(5));
    let gone = cluster.nodes[0].peer.gone();
    assert!(matches!(gone, Some(Gone::Evicted { .. })), "{gone:?}");
    let replies = cluster.all(vec![(1, present(0, "blank"))]);
    let expected = Revision(9);
    let is_stale = |reply: &Option<Reply>| matches!(reply, Some(Reply::Sync(Err(SyncError::StaleRevision { expected: e, .. }))) if *e == expected);
    assert!(is_stale(&replies[0]), "{replies:?}");
}

#[test]
fn a_sync_that_only_who_is_left_out_has_heard_of_is_made_again() {
    let mut cluster = Cluster::of(3);
    let calls = everybody_calls(&mut cluster, &present(8, "eight"));
    arrive_at_master(&mut cluster);
    arrive_at(&mut cluster, 2);
    let synced = Some(Reply::Sync(Ok(Revision(8))));
    assert_eq!(cluster.reply(2, calls[2]).cloned(), synced);
    cluster.kill_master();
    cluster.cut_off(2, 0);
    cluster.start_master();
    while !cluster.master().rules() {
        cluster.run();
        cluster.now = cluster.now + Duration::from_millis(100);
        cluster.tick();
    }
    // An epoch without it is proposed, and nobody is told that it is active.
    arrive_at(&mut cluster, 0);
    cluster.kill_master();
    cluster.kill(1);
    cluster.mend();
    cluster.start_master();
    cluster.pass(Duration::from_secs(10));
    let gone = cluster.nodes[2].peer.gone();
    assert!(matches!(gone, Some(Gone::Evicted { .. })), "{gone:?}");
    assert_eq!(cluster.reply(0, calls[0]).cloned(), synced);
}

#[test]
fn newcomers_join_again_and_are_let_in() {
    let mut cluster = Cluster::of(2);
    cluster.spawn(GroupId(0));
    let connect = cluster.command(2, Command::Connect);
    cluster.run();
    let calls = [cluster.command(0, Command::UpdateTopology)];
    cluster.run();
    cluster.restart_master();
    cluster.run();
    let last = cluster.command(1, Command::UpdateTopology);
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.reply(0, calls[0]).cloned(), UPDATED);
    assert_eq!(cluster.reply(1, last).cloned(), UPDATED);
    assert_eq!(cluster.reply(2, connect), Some(&Reply::Connect(Ok(()))));
    assert_eq!(
        cluster.nodes[0].membership.as_ref().unwrap().sizes.global,
        3
    );
}

#[test]
fn a_master_that_dies_again_and_again_loses_nothing() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    let (run, first) = cluster.master().run();
    for start in 0..5 {
        cluster.restart_master();
        for _ in 0..start {
            // In the middle of coming back.
            let next = cluster.moves()[0];
            cluster.perform(next);
        }
    }
    cluster.run();
    assert!(cluster.master().rules());
    assert_eq!(cluster.master().run().0, run);
    assert!(cluster.master().run().1 > first);
    let last = cluster.command(2, reduce(1));
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, last)] {
        assert_eq!(
            contributors(cluster.reply(node, call)).map(<[_]>::len),
            Some(3)
        );
    }
    assert_nobody_is_gone(&cluster);
}

#[test]
fn who_has_followed_a_term_follows_no_lower_one() {
    let mut cluster = Cluster::of(2);
    cluster.restart_master();
    cluster.run();
    let followed = cluster.master().run().1;
    cluster.kill_master();
    let answer = |term| {
        let reign = Reign { term, start: 4711 };
        let timings = MasterConfig::default().timings();
        Input::Welcomed(Welcome::Returned { reign, timings })
    };
    for (node, term) in [followed - 1, followed + 1].into_iter().enumerate() {
        cluster.tell_peer(node, answer(term));
        let reason = "reset".to_owned();
        cluster.tell_peer(node, Input::Disconnected { reason });
    }
    assert_eq!(cluster.term_asked_for(0), Some(followed));
    assert_eq!(cluster.term_asked_for(1), Some(followed + 1));
}

#[cfg(feature = "sim")]
#[test]
fn these_sentences_are_not_true_where_their_rule_is_broken() {
    use crate::mutation::{Mutation, with};
    let sentences: [(Mutation, fn()); 3] = [
        (
            Mutation::RuleWithoutMajority,
            half_of_the_peers_decide_nothing_and_end_by_their_grace,
        ),
        (
            Mutation::AnswerNobodyBehind,
            a_call_that_has_ended_for_one_ends_the_same_way_for_all,
        ),
        (
            Mutation::FollowLowerTerms,
            who_has_followed_a_term_follows_no_lower_one,
        ),
    ];
    for (rule, sentence) in sentences {
        let is_true = std::panic::catch_unwind(|| with(Some(rule), sentence)).is_ok();
        assert!(!is_true, "{rule:?}");
    }
}

#[test]
fn one_of_another_run_who_was_asleep_does_not_keep_this_one_out() {
    let mut cluster = Cluster::of(2);
    cluster.nodes[0].frozen = true;
    cluster.kill(1);
    cluster.restart_master();
    for node in 2..4 {
        cluster.spawn(GroupId(0));
        cluster.command(node, Command::Connect);
    }
    cluster.pass(Duration::from_secs(6));
    cluster.all(vec![
        (2, Command::UpdateTopology),
        (3, Command::UpdateTopology),
    ]);
    let run = cluster.master().run().0;
    assert_eq!(cluster.master().rings()[&GroupId(0)].len(), 2);
    // It wakes as the master of the other run dies, and is the first to be heard.
    cluster.nodes[0].frozen = false;
    cluster.restart_master();
    arrive_at(&mut cluster, 0);
    cluster.pass(Duration::from_secs(6));
    assert_eq!(cluster.master().run().0, run);
    for node in 2..4 {
        assert_eq!(cluster.nodes[node].peer.gone(), None);
    }
    let gone = cluster.nodes[0].peer.gone();
    assert!(matches!(gone, Some(Gone::Evicted { .. })), "{gone:?}");
}

#[test]
fn messages_that_are_missing_cost_a_pause_before_the_next_connection() {
    let mut cluster = Cluster::of(2);
    let frame = Frame {
        sequence: 1000,
        acknowledged: 0,
        message: ToPeer::RunGoesOn,
    };
    cluster.tell_peer(0, Input::Message(frame));
    let is_pausing = cluster.term_asked_for(0).is_some();
    assert!(is_pausing);
    cluster.pass(Duration::from_secs(1));
    let requests = everybody_calls(&mut cluster, &reduce(1));
    cluster.run();
    for reply in replies(&cluster, &requests) {
        assert!(contributors(reply.as_ref()).is_some(), "{reply:?}");
    }
}

#[test]
fn a_new_run_begins_where_nobody_comes_back() {
    let mut cluster = Cluster::new();
    cluster.kill_master();
    cluster.start_master();
    cluster.spawn(GroupId(0));
    let connect = cluster.command(0, Command::Connect);
    cluster.pass(Duration::from_millis(1500));
    assert_eq!(cluster.reply(0, connect), None);
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.reply(0, connect), Some(&Reply::Connect(Ok(()))));
}

#[test]
fn a_peer_of_another_run_is_evicted_by_a_master_that_has_begun_one() {
    let mut cluster = Cluster::of(2);
    cluster.kill_master();
    cluster.nodes[0].frozen = true;
    cluster.nodes[1].frozen = true;
    cluster.start_master();
    cluster.spawn(GroupId(0));
    cluster.command(2, Command::Connect);
    cluster.pass(Duration::from_secs(4));
    cluster.nodes[0].frozen = false;
    cluster.pass(Duration::from_secs(2));
    assert!(matches!(
        cluster.nodes[0].peer.gone(),
        Some(Gone::Evicted { .. })
    ));
}
