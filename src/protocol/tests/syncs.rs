//! Syncs settle for everybody at once.

use super::cluster::{Cluster, present};
use crate::error::SyncError;
use crate::protocol::peer::{Command, Reply};
use crate::types::{GroupId, Revision};

const fn synced(revision: u64) -> Option<Reply> {
    Some(Reply::Sync(Ok(Revision(revision))))
}

#[test]
fn equal_states_commit_without_a_transfer_and_the_revision_advances_by_one() {
    let mut cluster = Cluster::of(3);
    for revision in 0..3 {
        let calls = (0..3).map(|n| (n, present(revision, "same"))).collect();
        assert_eq!(cluster.all(calls), vec![synced(revision); 3]);
    }
    let stale = cluster.all((0..3).map(|n| (n, present(2, "same"))).collect());
    let expected = SyncError::StaleRevision {
        presented: Revision(2),
        expected: Revision(3),
    };
    assert_eq!(stale, vec![Some(Reply::Sync(Err(expected))); 3]);
    let calls = (0..3).map(|n| (n, present(3, "same"))).collect();
    assert_eq!(cluster.all(calls), vec![synced(3); 3]);
}

#[test]
fn a_minority_receives_what_is_popular() {
    let mut cluster = Cluster::of(3);
    let calls = vec![
        (0, present(0, "odd")),
        (1, present(0, "same")),
        (2, present(0, "same")),
    ];
    assert_eq!(cluster.all(calls), vec![synced(0); 3]);
}

#[test]
fn another_holder_serves_when_one_dies() {
    let mut cluster = Cluster::of(4);
    let calls: Vec<_> = [(0, "odd"), (1, "same"), (2, "same"), (3, "same")]
        .into_iter()
        .map(|(node, content)| (node, cluster.command(node, present(0, content))))
        .collect();
    cluster.run_until(|cluster| cluster.nodes[0].plan.is_some());
    let holder = cluster.nodes[0]
        .plan
        .as_ref()
        .unwrap()
        .holder
        .as_ref()
        .unwrap()
        .id;
    let holder = cluster
        .nodes
        .iter()
        .position(|node| node.id == Some(holder))
        .unwrap();
    cluster.kill(holder);
    cluster.run();
    for (node, call) in calls {
        if node != holder {
            assert_eq!(cluster.reply(node, call).cloned(), synced(0), "node {node}");
        }
    }
}

#[test]
fn a_sync_without_another_holder_aborts_for_all_and_commits_nothing() {
    let mut cluster = Cluster::of(3);
    cluster.all((0..3).map(|n| (n, present(4, "base"))).collect());
    // Only node 0 has advanced.
    let calls: Vec<_> = [(0, 5, "new"), (1, 4, "base"), (2, 4, "base")]
        .into_iter()
        .map(|(node, revision, content)| (node, cluster.command(node, present(revision, content))))
        .collect();
    cluster.run_until(|cluster| cluster.nodes[1].plan.is_some());
    cluster.kill(0);
    cluster.run();
    for (node, call) in &calls[1..] {
        let reply = cluster.reply(*node, *call);
        let aborted = matches!(reply, Some(Reply::Sync(Err(SyncError::Aborted { .. }))));
        assert!(aborted, "{reply:?}");
    }
}

#[test]
fn a_revision_that_skips_one_is_evicted_and_the_others_go_on() {
    let mut cluster = Cluster::of(3);
    cluster.all((0..3).map(|n| (n, present(0, "same"))).collect());
    let calls = vec![
        (0, present(1, "same")),
        (1, present(1, "same")),
        (2, present(2, "same")),
    ];
    let replies = cluster.all(calls);
    assert_eq!(replies[..2], vec![synced(1); 2]);
    assert!(format!("{:?}", replies[2]).contains("Evicted"));
}

#[test]
fn a_newcomer_after_a_committed_sync_is_outdated_and_receives() {
    let mut cluster = Cluster::of(2);
    cluster.all((0..2).map(|n| (n, present(8, "eight"))).collect());
    let newcomer = cluster.spawn(GroupId(0));
    cluster.command(newcomer, Command::Connect);
    cluster.run();
    cluster.all((0..2).map(|n| (n, Command::UpdateTopology)).collect());
    let calls = vec![
        (0, present(9, "nine")),
        (1, present(9, "nine")),
        (2, present(0, "new")),
    ];
    assert_eq!(cluster.all(calls), vec![synced(9); 3]);
}

#[test]
fn when_everybody_has_left_a_group_its_revision_is_free_again() {
    let mut cluster = Cluster::of(2);
    cluster.all((0..2).map(|n| (n, present(8, "eight"))).collect());
    cluster.kill(0);
    cluster.kill(1);
    cluster.run();
    let node = cluster.spawn(GroupId(0));
    cluster.command(node, Command::Connect);
    cluster.run();
    assert_eq!(cluster.all(vec![(node, present(0, "fresh"))]), [synced(0)]);
}

#[test]
fn who_was_let_in_but_never_synced_is_told_that_the_state_went_with_its_last_holder() {
    let mut cluster = Cluster::of(1);
    cluster.all(vec![(0, present(8, "eight"))]);
    let newcomer = cluster.spawn(GroupId(0));
    cluster.command(newcomer, Command::Connect);
    cluster.run();
    cluster.all(vec![(0, Command::UpdateTopology)]);
    cluster.kill(0);
    cluster.run();
    let replies = cluster.all(vec![(newcomer, present(0, "blank"))]);
    let Some(Reply::Sync(Err(SyncError::NoCleanState { reason }))) = &replies[0] else {
        panic!("{replies:?}");
    };
    assert!(reason.contains("revision 8"), "{reason}");
}
