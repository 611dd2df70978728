//! Joining, leaving, dying, coming back.

use std::time::Duration;

use super::cluster::{Cluster, GRACE, reduce};
use crate::error::{ConnectError, Gone, MembershipError};
use crate::protocol::peer::{Command, Reply};
use crate::types::GroupId;

const UPDATED: Option<Reply> = Some(Reply::Membership(Ok(())));

#[test]
fn the_first_peer_is_accepted_at_once_and_a_second_waits_for_update_topology() {
    let mut cluster = Cluster::new();
    cluster.spawn(GroupId(0));
    cluster.spawn(GroupId(0));
    let first = cluster.command(0, Command::Connect);
    cluster.run();
    assert_eq!(cluster.reply(0, first), Some(&Reply::Connect(Ok(()))));
    let second = cluster.command(1, Command::Connect);
    cluster.run();
    assert_eq!(cluster.reply(1, second), None);
    let pending = cluster.all(vec![(0, Command::ArePeersPending)]);
    assert_eq!(pending, [Some(Reply::Pending(Ok(true)))]);
    assert_eq!(
        cluster.nodes[0].membership.as_ref().unwrap().sizes.global,
        1
    );

    assert_eq!(cluster.all(vec![(0, Command::UpdateTopology)]), [UPDATED]);

    assert_eq!(cluster.reply(1, second), Some(&Reply::Connect(Ok(()))));
    for node in &cluster.nodes {
        assert_eq!(node.membership.as_ref().unwrap().sizes.global, 2);
    }
    let pending = [(0, Command::ArePeersPending), (1, Command::ArePeersPending)];
    let answers = cluster.all(pending.to_vec());
    assert_eq!(answers, vec![Some(Reply::Pending(Ok(false))); 2]);
}

#[test]
fn update_topology_waits_for_everybody_and_then_answers_everybody() {
    let mut cluster = Cluster::of(3);
    let first = cluster.command(0, Command::UpdateTopology);
    let second = cluster.command(1, Command::UpdateTopology);
    cluster.run();
    assert_eq!(cluster.reply(0, first), None);
    cluster.command(2, Command::UpdateTopology);
    cluster.run();
    assert_eq!(cluster.reply(0, first).cloned(), UPDATED);
    assert_eq!(cluster.reply(1, second).cloned(), UPDATED);
}

#[test]
fn a_newcomer_that_cannot_be_reached_is_refused_and_costs_nobody_its_place() {
    let mut cluster = Cluster::of(2);
    cluster.spawn(GroupId(0));
    let connect = cluster.command(2, Command::Connect);
    cluster.run();
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.unwrap()).collect();
    cluster.cut.extend([(ids[0], ids[2]), (ids[1], ids[2])]);
    let first = cluster.command(0, Command::UpdateTopology);
    let second = cluster.command(1, Command::UpdateTopology);
    cluster.run();
    assert_eq!(cluster.reply(0, first), None, "its links may still come up");

    cluster.pass(Duration::from_secs(11));

    assert_eq!(cluster.reply(0, first).cloned(), UPDATED);
    assert_eq!(cluster.reply(1, second).cloned(), UPDATED);
    let refused = cluster.reply(2, connect);
    assert!(matches!(
        refused,
        Some(Reply::Connect(Err(ConnectError::Refused { .. })))
    ));
    assert_eq!(
        cluster.nodes[0].membership.as_ref().unwrap().sizes.global,
        2
    );
}

#[test]
fn a_newcomer_that_dies_while_it_is_let_in_holds_nobody_up() {
    let mut cluster = Cluster::of(2);
    cluster.spawn(GroupId(0));
    cluster.command(2, Command::Connect);
    cluster.run();
    cluster.nodes[2].frozen = true;
    let calls: Vec<_> = (0..2)
        .map(|n| cluster.command(n, Command::UpdateTopology))
        .collect();
    cluster.run();
    cluster.kill(2);
    cluster.run();
    for (node, call) in calls.into_iter().enumerate() {
        assert_eq!(cluster.reply(node, call).cloned(), UPDATED);
    }
}

#[test]
fn a_killed_peer_is_removed_at_once_and_its_place_in_joint_calls_with_it() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2)
        .map(|n| cluster.command(n, Command::UpdateTopology))
        .collect();
    cluster.run();
    cluster.kill(2);
    cluster.run();
    for (node, call) in calls.into_iter().enumerate() {
        assert_eq!(cluster.reply(node, call).cloned(), UPDATED);
        assert_eq!(
            cluster.nodes[node]
                .membership
                .as_ref()
                .unwrap()
                .sizes
                .global,
            2
        );
    }
}

#[test]
fn a_port_that_closes_after_the_control_connection_still_tells_of_a_death() {
    let mut cluster = Cluster::of(2);
    // Nobody has a link to it, so nobody else sees it die.
    cluster.spawn(GroupId(0));
    cluster.command(2, Command::Connect);
    cluster.run();
    cluster.nodes[2].port_lingers = true;
    cluster.kill(2);
    cluster.run();
    assert_eq!(cluster.master().peers().count(), 3);
    cluster.nodes[2].port_lingers = false;
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.master().peers().count(), 2);
}

#[test]
fn a_silent_peer_is_evicted_and_told_so_when_it_wakes() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[2].frozen = true;
    let calls = [cluster.command(0, reduce(1)), cluster.command(1, reduce(1))];
    cluster.pass(Duration::from_secs(4));
    for (node, call) in calls.into_iter().enumerate() {
        let Some(Reply::AllReduce(Err(error))) = cluster.reply(node, call) else {
            panic!("no error at {node}");
        };
        assert!(
            error.is_retryable() && error.to_string().contains("node-2"),
            "{error}"
        );
    }
    cluster.nodes[2].frozen = false;
    cluster.run();
    let replies = cluster.all(vec![(2, reduce(1))]);
    let Some(Reply::AllReduce(Err(error))) = &replies[0] else {
        panic!("no error")
    };
    assert!(error.to_string().contains("evicted"), "{error}");
    assert!(error.to_string().contains("silent"), "{error}");
}

#[test]
fn one_of_two_that_falls_silent_does_not_stop_the_other() {
    let mut cluster = Cluster::of(2);
    cluster.nodes[0].frozen = true;
    cluster.pass(Duration::from_secs(5));
    assert_eq!(
        cluster.nodes[1].membership.as_ref().unwrap().sizes.global,
        1
    );
}

#[test]
fn a_peer_that_computes_for_a_minute_is_not_evicted() {
    let mut cluster = Cluster::of(3);
    cluster.pass(Duration::from_secs(60));
    let replies = cluster.all((0..3).map(|n| (n, reduce(1))).collect());
    assert!(
        replies
            .iter()
            .all(|r| matches!(r, Some(Reply::AllReduce(Ok(_))))),
        "{replies:?}"
    );
}

#[test]
fn a_broken_control_connection_is_resumed_and_nothing_is_lost() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.break_connection(0);
    let third = cluster.command(2, reduce(1));
    cluster.break_connection(2);
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, third)] {
        let reply = cluster.reply(node, call);
        assert!(
            matches!(reply, Some(Reply::AllReduce(Ok(_)))),
            "{node}: {reply:?}"
        );
    }
}

#[test]
fn a_leaver_is_missed_by_nobody_and_hears_goodbye() {
    let mut cluster = Cluster::of(3);
    let left = cluster.all(vec![(2, Command::Leave)]);
    assert_eq!(left, [UPDATED]);
    assert_eq!(cluster.nodes[2].peer.gone(), Some(&Gone::Closed));
    assert_eq!(
        cluster.nodes[0].membership.as_ref().unwrap().sizes.global,
        2
    );
    let replies = cluster.all(vec![(0, reduce(1)), (1, reduce(1))]);
    assert!(
        replies
            .iter()
            .all(|r| matches!(r, Some(Reply::AllReduce(Ok(_))))),
        "{replies:?}"
    );
}

#[test]
fn when_all_accepted_peers_die_the_waiting_ones_become_the_run() {
    let mut cluster = Cluster::of(2);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let node = cluster.spawn(GroupId(0));
            (node, cluster.command(node, Command::Connect))
        })
        .collect();
    cluster.run();
    cluster.kill(0);
    cluster.kill(1);
    cluster.run();
    for (node, connect) in waiting {
        assert_eq!(cluster.reply(node, connect), Some(&Reply::Connect(Ok(()))));
        assert_eq!(
            cluster.nodes[node]
                .membership
                .as_ref()
                .unwrap()
                .sizes
                .global,
            2
        );
    }
}

#[test]
fn a_link_that_breaks_for_good_is_wired_around_where_that_is_possible() {
    let mut cluster = Cluster::of(4);
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.unwrap()).collect();
    let calls: Vec<_> = (0..3).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.cut.insert((ids[0], ids[1]));
    cluster.run();
    cluster.fail_link(0, ids[1]);
    let last = cluster.command(3, reduce(1));
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, calls[2]), (3, last)] {
        let reply = cluster.reply(node, call);
        let Some(Reply::AllReduce(Ok(contributors))) = reply else {
            panic!("{node}: {reply:?}")
        };
        assert_eq!(contributors.len(), 4, "the operation started again, unseen");
    }
}

#[test]
fn calls_that_can_never_meet_fail_at_both_sides_and_say_who_called_what() {
    let mut cluster = Cluster::of(2);
    let replies = cluster.all(vec![
        (0, Command::UpdateTopology),
        (1, Command::ArePeersPending),
    ]);
    let Some(Reply::Membership(Err(MembershipError::CannotMeet { detail }))) = &replies[0] else {
        panic!("{replies:?}");
    };
    assert!(detail.contains("update_topology") && detail.contains("are_peers_pending"));
    assert!(detail.contains("node-0") && detail.contains("node-1"));
    let other = &replies[1];
    assert!(matches!(
        other,
        Some(Reply::Pending(Err(MembershipError::CannotMeet { .. })))
    ));
}

#[test]
fn a_master_that_stays_away_ends_every_call_within_the_grace() {
    let mut cluster = Cluster::of(2);
    let call = cluster.command(0, reduce(1));
    cluster.run();
    cluster.silence_master();
    cluster.pass(GRACE + Duration::from_secs(5));
    let reply = cluster.reply(0, call);
    let Some(Reply::AllReduce(Err(error))) = reply else {
        panic!("{reply:?}")
    };
    let text = error.to_string();
    assert!(
        text.contains("master") && text.contains("silent for 1500 ms"),
        "{text}"
    );
    assert_eq!(
        cluster.nodes[0]
            .ended
            .last()
            .map(|(_, roll_back)| *roll_back),
        Some(true)
    );
}

#[test]
fn cancel_ends_each_kind_of_call_and_the_peer_stays() {
    let mut cluster = Cluster::of(2);
    let update = cluster.command(0, Command::UpdateTopology);
    cluster.run();
    cluster.all(vec![(0, Command::Cancel)]);
    let cancelled = Reply::Membership(Err(MembershipError::Cancelled));
    assert_eq!(cluster.reply(0, update), Some(&cancelled));

    let operation = cluster.command(0, reduce(1));
    cluster.run();
    cluster.all(vec![(0, Command::Cancel)]);
    let error = crate::error::CollectiveError::Cancelled;
    assert_eq!(
        cluster.reply(0, operation),
        Some(&Reply::AllReduce(Err(error)))
    );
    let owed = cluster.all(vec![(1, reduce(1))]);
    let Some(Reply::AllReduce(Err(error))) = &owed[0] else {
        panic!("{owed:?}")
    };
    assert!(error.to_string().contains("cancelled"), "{error}");

    let replies = cluster.all(vec![(0, reduce(1)), (1, reduce(1))]);
    assert!(
        replies
            .iter()
            .all(|r| matches!(r, Some(Reply::AllReduce(Ok(_))))),
        "{replies:?}"
    );
}

#[test]
fn a_link_that_closes_with_the_epoch_it_belonged_to_is_no_witness() {
    let mut cluster = Cluster::of(3);
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.unwrap()).collect();
    let newcomer = cluster.spawn(GroupId(0));
    cluster.command(newcomer, Command::Connect);
    cluster.run();
    cluster.all((0..3).map(|n| (n, Command::UpdateTopology)).collect());
    // The newcomer came between the last and the first; one of them is late to report.
    cluster.say_link_down(0, ids[2]);
    cluster.run();
    cluster.pass(Duration::from_secs(60));
    cluster.break_connection(2);
    cluster.run();
    assert_eq!(cluster.nodes[2].peer.gone(), None);
    assert_eq!(
        cluster.nodes[0].membership.as_ref().unwrap().sizes.global,
        4
    );
}

#[test]
fn a_cancelled_update_ends_although_the_epoch_changes_for_another_reason() {
    let mut cluster = Cluster::of(4);
    let update = cluster.command(0, Command::UpdateTopology);
    cluster.run();
    for node in [1, 2] {
        cluster.nodes[node].frozen = true;
    }
    cluster.kill(3);
    cluster.run();
    cluster.all(vec![(0, Command::Cancel)]);
    let cancelled = Reply::Membership(Err(MembershipError::Cancelled));
    assert_eq!(cluster.reply(0, update), Some(&cancelled));
}

#[test]
fn links_that_heal_are_used_again_and_old_outages_evict_nobody() {
    let mut cluster = Cluster::of(5);
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.unwrap()).collect();
    for (low, high) in [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (0, 2)] {
        cluster.fail_link(low, ids[high]);
        cluster.run();
        cluster.pass(Duration::from_secs(3600));
    }
    for node in &cluster.nodes {
        assert_eq!(node.peer.gone(), None);
    }
}

#[test]
fn a_bad_newcomer_does_not_take_a_good_one_with_it() {
    let mut cluster = Cluster::of(1);
    let waiting: Vec<_> = (1..3)
        .map(|_| {
            let node = cluster.spawn(GroupId(0));
            (node, cluster.command(node, Command::Connect))
        })
        .collect();
    cluster.run();
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.unwrap()).collect();
    // Nobody reaches node 1, the elder of the two; node 2 says so first.
    cluster.cut.extend([(ids[0], ids[1]), (ids[1], ids[2])]);
    let update = cluster.command(0, Command::UpdateTopology);
    cluster.run();
    cluster.fail_link(2, ids[1]);
    cluster.run();
    cluster.fail_link(0, ids[1]);
    cluster.run();
    cluster.pass(Duration::from_secs(1));
    let accepted = Some(&Reply::Connect(Ok(())));
    assert_eq!(cluster.reply(waiting[1].0, waiting[1].1), accepted);
    assert_eq!(cluster.reply(0, update).cloned(), UPDATED);
    let refused = cluster.reply(waiting[0].0, waiting[0].1);
    assert!(matches!(
        refused,
        Some(Reply::Connect(Err(ConnectError::Refused { .. })))
    ));
}
