//! Several masters of one run: another takes over, and no two of them decide.

use std::time::Duration;

use super::cluster::{Cluster, GRACE, present, reduce};
use crate::error::Gone;
use crate::protocol::peer::{Command, Reply};
use crate::types::GroupId;
use crate::wire::control::{Frame, Proposal, ToMaster};
use crate::wire::record::Record;

const UPDATED: Option<Reply> = Some(Reply::Membership(Ok(())));

fn world(cluster: &Cluster, node: usize) -> Option<u32> {
    let membership = cluster.nodes[node].membership.as_ref();
    membership.map(|membership| membership.sizes.group)
}

fn call_everywhere(cluster: &mut Cluster, nodes: &[usize]) -> Vec<Option<Reply>> {
    let calls = nodes.iter().map(|node| (*node, reduce(1))).collect();
    cluster.all(calls)
}

fn assert_succeeded(replies: &[Option<Reply>]) {
    for reply in replies {
        assert!(matches!(reply, Some(Reply::AllReduce(Ok(_)))), "{reply:?}");
    }
}

#[test]
fn a_standby_goes_on_in_the_same_epoch() {
    let mut cluster = Cluster::with_standbys(3, 1);
    let epoch = cluster.master().epoch();
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.kill_master();
    cluster.pass(Duration::from_secs(2));
    assert!(cluster.master_at(1).rules());
    assert_eq!(cluster.master_at(1).epoch(), epoch);
    let last = cluster.command(2, reduce(1));
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, last)] {
        assert_succeeded(&[cluster.reply(node, call).cloned()]);
    }
}

#[test]
fn the_second_standby_takes_over_where_the_first_is_dead_as_well() {
    let mut cluster = Cluster::with_standbys(3, 2);
    cluster.kill_master_at(1);
    cluster.kill_master_at(0);
    cluster.pass(Duration::from_secs(4));
    assert!(cluster.master_at(2).rules());
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
    // And back again.
    cluster.start_master_at(0);
    cluster.kill_master_at(2);
    cluster.pass(Duration::from_secs(4));
    assert!(cluster.master().rules());
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
}

#[test]
fn who_alone_has_lost_the_master_does_not_cost_it_its_rule() {
    let mut cluster = Cluster::with_standbys(3, 1);
    let before = cluster.master().run();
    cluster.cut_off(0, 0);
    for _ in 0..5 {
        cluster.now = cluster.now + Duration::from_millis(100);
        cluster.tick();
        cluster.run();
    }
    cluster.mend();
    cluster.pass(Duration::from_secs(5));
    assert_eq!(cluster.master().run(), before);
    assert!(cluster.master().rules());
    assert!(!cluster.master_at(1).rules());
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
}

#[test]
fn who_may_be_at_another_master_is_not_dead_because_all_its_connections_close() {
    let mut cluster = Cluster::with_standbys(3, 1);
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.unwrap()).collect();
    cluster.say_link_down(0, ids[2]);
    cluster.cut_off(2, 0);
    cluster.say_link_down(1, ids[2]);
    cluster.run();
    assert!(cluster.master().peers().any(|name| name.id == ids[2]));
    cluster.mend();
    cluster.pass(Duration::from_secs(1));
    assert_eq!(world(&cluster, 0), Some(3));
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
}

#[test]
fn who_says_that_it_dials_others_has_time_to_do_so() {
    for says_so in [true, false] {
        let mut cluster = Cluster::with_standbys(3, 1);
        let connection = cluster.nodes[1].connection.unwrap();
        if says_so {
            let frame = Frame {
                sequence: 0,
                acknowledged: 0,
                message: ToMaster::Redialling,
            };
            cluster.say_numbered(connection, frame);
            cluster.run();
        }
        cluster.cut_off(1, 0);
        cluster.pass(Duration::from_millis(1500));
        assert_eq!(world(&cluster, 0) == Some(3), says_so);
    }
}

#[test]
fn of_who_dies_after_it_may_have_been_at_another_master_the_vote_is_not_known() {
    for (away_ms, goes_on) in [(50, true), (500, false)] {
        let mut cluster = Cluster::with_standbys(2, 1);
        cluster.cut_off(0, 0);
        cluster.run();
        cluster.pass(Duration::from_millis(away_ms));
        cluster.kill(0);
        cluster.pass(Duration::from_millis(700));
        assert_eq!(world(&cluster, 1) == Some(1), goes_on, "{away_ms}");
    }
}

#[test]
fn of_two_sides_the_one_with_most_voters_goes_on() {
    let mut cluster = Cluster::with_standbys(3, 1);
    for node in [1, 2] {
        cluster.cut_off(node, 0);
    }
    cluster.cut_off(0, 1);
    cluster.pass(Duration::from_secs(8));
    assert!(!cluster.master().rules());
    assert!(cluster.master_at(1).rules());
    assert_eq!(world(&cluster, 1), Some(2));
    assert_succeeded(&call_everywhere(&mut cluster, &[1, 2]));
    let left_behind = cluster.command(0, reduce(1));
    cluster.run();
    assert_eq!(cluster.reply(0, left_behind), None);
    // Nobody tells it anything until it finds the others, or gives up.
    assert_eq!(cluster.nodes[0].peer.gone(), None);
    cluster.pass(GRACE + Duration::from_secs(1));
    let gone = cluster.nodes[0].peer.gone();
    assert!(matches!(gone, Some(Gone::NoMajority { .. })), "{gone:?}");
}

#[cfg(feature = "sim")]
#[test]
fn a_master_that_rules_beside_others_without_a_majority_is_seen() {
    use crate::mutation::{Mutation, with};
    let without_the_rule = || {
        with(
            Some(Mutation::RuleBesideStandbys),
            of_two_sides_the_one_with_most_voters_goes_on,
        )
    };
    assert!(std::panic::catch_unwind(without_the_rule).is_err());
}

#[test]
fn a_master_whose_peers_are_gone_elsewhere_decides_nothing_for_who_is_left() {
    let mut cluster = Cluster::with_standbys(4, 1);
    let call = cluster.command(0, reduce(1));
    cluster.run();
    for node in [2, 3] {
        cluster.cut_off(node, 0);
        cluster.cut_off(node, 1);
    }
    cluster.pass(Duration::from_secs(8));
    assert!(!cluster.master().rules());
    assert_eq!(world(&cluster, 0), Some(4));
    assert_eq!(cluster.reply(0, call), None);
    // They come back in time.
    cluster.mend();
    cluster.pass(Duration::from_secs(8));
    assert_eq!(world(&cluster, 0), Some(4));
    let others = call_everywhere(&mut cluster, &[1, 2, 3]);
    assert_succeeded(&others);
    assert_succeeded(&[cluster.reply(0, call).cloned()]);
}

#[test]
fn a_standby_that_rules_another_run_costs_nobody_its_place() {
    let mut cluster = Cluster::with_standbys(3, 1);
    cluster.begin_run_at(1);
    cluster.break_connection(0);
    cluster.pass(Duration::from_secs(1));
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
    // Nor does it while there is no other.
    cluster.kill_master();
    cluster.pass(Duration::from_secs(4));
    cluster.start_master();
    cluster.pass(Duration::from_secs(4));
    assert!(cluster.master().rules());
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
}

#[test]
fn a_newcomer_finds_the_master_that_rules() {
    let mut cluster = Cluster::with_standbys(2, 1);
    cluster.kill_master();
    cluster.pass(Duration::from_secs(2));
    cluster.start_master();
    cluster.pass(Duration::from_secs(10));
    let newcomer = cluster.spawn(GroupId(0));
    let joins = cluster.command(newcomer, Command::Connect);
    cluster.pass(Duration::from_secs(1));
    let updates = vec![(0, Command::UpdateTopology), (1, Command::UpdateTopology)];
    assert_eq!(cluster.all(updates), [UPDATED, UPDATED]);
    assert_eq!(
        cluster.reply(newcomer, joins),
        Some(&Reply::Connect(Ok(())))
    );
    assert_eq!(world(&cluster, newcomer), Some(3));
    assert!(!cluster.master().rules());
}

#[test]
fn a_newcomer_begins_no_other_run_while_a_master_is_not_heard() {
    let mut cluster = Cluster::with_standbys(2, 1);
    cluster.kill_master();
    cluster.pass(Duration::from_secs(2));
    cluster.start_master();
    let newcomer = cluster.spawn(GroupId(0));
    cluster.cut_off(newcomer, 1);
    let joins = cluster.command(newcomer, Command::Connect);
    cluster.pass(Duration::from_secs(20));
    assert!(!cluster.master().rules());
    let reply = cluster.reply(newcomer, joins);
    assert!(matches!(reply, Some(Reply::Connect(Err(_)))), "{reply:?}");
}

#[test]
fn a_newcomer_that_only_a_standby_answers_is_told_so_in_time() {
    let mut cluster = Cluster::with_standbys(0, 1);
    cluster.kill_master();
    let newcomer = cluster.spawn(GroupId(0));
    let joins = cluster.command(newcomer, Command::Connect);
    // As long as the standby itself waits for a run, and `connect_timeout` after it.
    cluster.pass(Duration::from_secs(15));
    match cluster.reply(newcomer, joins) {
        Some(Reply::Connect(Err(error))) => {
            let words = error.to_string();
            assert!(words.contains("master:1, master:2"), "{words}");
            assert!(words.contains("all masters of the list"), "{words}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_begins_where_all_masters_have_waited_in_vain() {
    let mut cluster = Cluster::with_standbys(0, 1);
    cluster.restart_master();
    let first = cluster.spawn(GroupId(0));
    let joins = cluster.command(first, Command::Connect);
    cluster.pass(Duration::from_millis(1500));
    assert_eq!(cluster.reply(first, joins), None);
    cluster.pass(Duration::from_millis(1500));
    assert_eq!(cluster.reply(first, joins), Some(&Reply::Connect(Ok(()))));
    assert!(cluster.master().rules());
    assert!(!cluster.master_at(1).rules());
}

#[test]
fn a_master_hands_over_and_nobody_notices() {
    let mut cluster = Cluster::with_standbys(3, 1);
    let epoch = cluster.master().epoch();
    let calls: Vec<_> = (0..3).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.hand_over(0);
    cluster.run();
    cluster.kill_master();
    cluster.pass(Duration::from_millis(500));
    assert!(cluster.master_at(1).rules());
    assert_eq!(cluster.master_at(1).epoch(), epoch);
    cluster.run();
    for (node, call) in calls.into_iter().enumerate() {
        assert_succeeded(&[cluster.reply(node, call).cloned()]);
    }
}

#[test]
fn a_master_hands_over_to_the_one_after_it_as_well() {
    let mut cluster = Cluster::of(3);
    let epoch = cluster.master().epoch();
    let calls: Vec<_> = (0..3).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.hand_over(0);
    cluster.run();
    cluster.restart_master();
    cluster.pass(Duration::from_millis(500));
    assert_eq!(cluster.master().epoch(), epoch);
    for (node, call) in calls.into_iter().enumerate() {
        assert_succeeded(&[cluster.reply(node, call).cloned()]);
    }
}

#[test]
fn no_secret_of_a_link_is_written_down() {
    let mut cluster = Cluster::of(3);
    cluster.kill_master();
    cluster.start_master_with(0, cluster.disk(0));
    cluster.pass(Duration::from_secs(1));
    assert!(cluster.master().rules());
    let records = cluster.disk(0).unwrap().records();
    let links = |proposal: &Option<Proposal>| proposal.as_ref().map_or(0, |p| p.links.len());
    let mut groups = 0;
    for record in records {
        if let Record::Known(report) = record {
            groups += 1;
            assert_eq!((links(&report.active), links(&report.proposed)), (0, 0));
        }
    }
    assert_eq!(groups, 1);
}

#[test]
fn who_waits_at_one_master_finds_the_others_at_another_one_in_time() {
    let mut cluster = Cluster::with_standbys(3, 1);
    cluster.kill_master();
    // Two of three are at the standby, and are to stay as long as it waits for the third.
    cluster.cut_off(1, 1);
    cluster.pass(Duration::from_secs(1));
    assert!(!cluster.master_at(1).rules());
    cluster.cut_off(0, 1);
    cluster.start_master();
    cluster.pass(Duration::from_secs(12));
    assert!(cluster.master().rules());
    for node in 0..3 {
        assert_eq!(cluster.nodes[node].peer.gone(), None, "{node}");
        assert_eq!(world(&cluster, node), Some(3));
    }
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
}

#[test]
fn an_old_copy_does_not_raise_the_revision_of_a_group_that_has_begun_afresh() {
    for knows_of_the_beginning in [false, true] {
        let mut cluster = Cluster::of(1);
        cluster.kill_master();
        cluster.start_master_with(0, None);
        cluster.pass(Duration::from_secs(1));
        for revision in 0..3 {
            cluster.all(vec![(0, present(revision, "a"))]);
        }
        let mut old = cluster.disk(0);
        cluster.all(vec![(0, Command::Leave)]);
        let other = cluster.spawn(GroupId(0));
        cluster.command(other, Command::Connect);
        cluster.run();
        if knows_of_the_beginning {
            old = cluster.disk(0);
        }
        let begun = cluster.all(vec![(other, present(0, "b"))]);
        assert!(matches!(begun[..], [Some(Reply::Sync(Ok(_)))]), "{begun:?}");
        cluster.kill_master();
        cluster.start_master_with(0, old);
        cluster.pass(Duration::from_secs(1));
        let next = cluster.all(vec![(other, present(1, "c"))]);
        assert!(matches!(next[..], [Some(Reply::Sync(Ok(_)))]), "{next:?}");
    }
}

#[test]
fn who_has_left_a_master_that_does_not_rule_yet_is_not_counted_on() {
    let mut cluster = Cluster::with_standbys(3, 1);
    cluster.kill_master();
    cluster.cut_off(2, 1);
    cluster.pass(Duration::from_secs(1));
    // One of the two that are there is gone, and the third comes.
    cluster.mend();
    cluster.cut_off(0, 1);
    cluster.pass(Duration::from_secs(2));
    assert!(!cluster.master_at(1).rules());
    cluster.mend();
    cluster.pass(Duration::from_secs(3));
    assert!(cluster.master_at(1).rules());
    assert_eq!(world(&cluster, 0), Some(3));
    assert_succeeded(&call_everywhere(&mut cluster, &[0, 1, 2]));
}
