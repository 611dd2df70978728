//! One outcome for every operation.

use std::time::Duration;

use super::cluster::{Cluster, reduce, reduce_of};
use crate::error::CollectiveError;
use crate::protocol::peer::{Command, Reply};
use crate::types::{DataType, Descriptor, ReduceOp, Tag};

fn contributors(reply: Option<&Reply>) -> Option<usize> {
    match reply {
        Some(Reply::AllReduce(Ok(contributors))) => Some(contributors.len()),
        _ => None,
    }
}

fn error(reply: Option<&Reply>) -> CollectiveError {
    match reply {
        Some(Reply::AllReduce(Err(error))) => error.clone(),
        other => panic!("not an error: {other:?}"),
    }
}

#[test]
fn an_operation_commits_when_the_last_member_is_done() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    assert_eq!(cluster.reply(0, calls[0]), None);
    let last = cluster.command(2, reduce(1));
    cluster.run();
    for (node, call) in [(0, calls[0]), (1, calls[1]), (2, last)] {
        assert_eq!(contributors(cluster.reply(node, call)), Some(3));
    }
}

#[test]
fn many_tags_run_beside_each_other_and_a_tag_may_be_used_again_at_once() {
    let mut cluster = Cluster::of(3);
    for _ in 0..3 {
        let calls = (0..3)
            .flat_map(|n| (0..5).map(move |tag| (n, reduce(tag))))
            .collect();
        let replies = cluster.all(calls);
        assert!(
            replies
                .iter()
                .all(|reply| contributors(reply.as_ref()) == Some(3))
        );
    }
    let twice = cluster.all(vec![(0, reduce(1)), (0, reduce(1))]);
    assert_eq!(
        error(twice[1].as_ref()),
        CollectiveError::TagInUse { tag: Tag(1) }
    );
}

#[test]
fn who_leaves_without_calling_has_not_contributed_to_an_empty_operation() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2)
        .map(|n| cluster.command(n, reduce_of(1, 0)))
        .collect();
    cluster.run();
    cluster.all(vec![(2, Command::Leave)]);
    cluster.run();
    for (node, call) in (0..).zip(calls) {
        let error = error(cluster.reply(node, call));
        assert!(
            matches!(error, CollectiveError::PeersLost { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_death_aborts_at_all_survivors_names_the_dead_and_a_retry_works_at_once() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.kill(2);
    cluster.run();
    for (node, call) in calls.into_iter().enumerate() {
        let error = error(cluster.reply(node, call));
        assert!(matches!(&error, CollectiveError::PeersLost { lost } if lost.len() == 1));
        assert!(error.to_string().contains("node-2"), "{error}");
        assert!(cluster.nodes[node].ended.last().unwrap().1, "put back");
    }
    let replies = cluster.all(vec![(0, reduce(1)), (1, reduce(1))]);
    assert!(
        replies
            .iter()
            .all(|reply| contributors(reply.as_ref()) == Some(2))
    );
}

#[test]
fn what_everybody_left_had_finished_is_committed_with_the_dead_peers_contribution() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..3).map(|n| cluster.command(n, reduce(1))).collect();
    // All data has moved, but no report has reached the master.
    cluster.finish_data();
    cluster.kill(2);
    cluster.run();
    for (node, call) in calls.into_iter().take(2).enumerate() {
        assert_eq!(contributors(cluster.reply(node, call)), Some(3));
    }
}

#[test]
fn a_member_that_had_not_called_owes_the_failure() {
    let mut cluster = Cluster::of(3);
    let first = cluster.command(0, reduce(1));
    cluster.run();
    cluster.kill(2);
    cluster.run();
    assert!(error(cluster.reply(0, first)).is_retryable());
    let owed = cluster.all(vec![(1, reduce(1))]);
    assert!(matches!(
        error(owed[0].as_ref()),
        CollectiveError::PeersLost { .. }
    ));
    let replies = cluster.all(vec![(0, reduce(1)), (1, reduce(1))]);
    assert!(
        replies
            .iter()
            .all(|reply| contributors(reply.as_ref()) == Some(2))
    );
}

#[test]
fn a_debt_is_dropped_by_a_successful_update_topology() {
    let mut cluster = Cluster::of(3);
    cluster.command(0, reduce(1));
    cluster.run();
    cluster.kill(2);
    cluster.run();
    cluster.all((0..2).map(|n| (n, Command::UpdateTopology)).collect());
    let replies = cluster.all(vec![(1, reduce(1)), (0, reduce(1))]);
    assert!(
        replies
            .iter()
            .all(|reply| contributors(reply.as_ref()) == Some(2))
    );
}

#[test]
fn a_newcomer_owes_nothing() {
    let mut cluster = Cluster::of(2);
    let newcomer = cluster.spawn(crate::types::GroupId(0));
    cluster.command(newcomer, Command::Connect);
    cluster.run();
    cluster.command(0, reduce(1));
    cluster.run();
    cluster.kill(1);
    cluster.run();
    cluster.all(vec![(0, Command::UpdateTopology)]);
    let replies = cluster.all(vec![(0, reduce(1)), (newcomer, reduce(1))]);
    assert!(
        replies
            .iter()
            .all(|reply| contributors(reply.as_ref()) == Some(2)),
        "{replies:?}"
    );
}

#[test]
fn a_loss_in_another_group_restarts_operations_unseen() {
    let mut cluster = Cluster::new();
    for (index, group) in [0, 0, 1, 1].into_iter().enumerate() {
        let node = cluster.spawn(crate::types::GroupId(group));
        cluster.command(node, Command::Connect);
        cluster.run();
        cluster.all((0..index).map(|n| (n, Command::UpdateTopology)).collect());
    }
    let call = cluster.command(0, reduce(1));
    cluster.run();
    cluster.kill(3);
    cluster.run();
    assert_eq!(
        cluster.reply(0, call),
        None,
        "another group's loss is not its failure"
    );
    let other = cluster.command(1, reduce(1));
    cluster.run();
    assert_eq!(contributors(cluster.reply(0, call)), Some(2));
    assert_eq!(contributors(cluster.reply(1, other)), Some(2));
}

#[test]
fn the_last_of_a_group_is_told_that_it_is_alone() {
    let mut cluster = Cluster::of(2);
    let call = cluster.command(0, reduce(1));
    cluster.run();
    cluster.kill(1);
    cluster.run();
    assert!(matches!(
        error(cluster.reply(0, call)),
        CollectiveError::PeersLost { .. }
    ));
    let alone = cluster.all(vec![(0, reduce(1))]);
    assert_eq!(
        error(alone[0].as_ref()),
        CollectiveError::TooFewPeers { world_size: 1 }
    );
}

#[test]
fn peers_that_mean_different_things_are_told_the_field() {
    let mut cluster = Cluster::of(3);
    let replies = cluster.all(vec![(0, reduce_of(1, 10)), (1, reduce_of(1, 11))]);
    for reply in &replies {
        let error = error(reply.as_ref());
        assert!(matches!(error, CollectiveError::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("count (10 and 11)"), "{error}");
    }
}

#[test]
fn a_deadline_aborts_everywhere_and_names_whom_it_waited_for() {
    let mut cluster = Cluster::of(3);
    let descriptor = Descriptor {
        count: 1,
        data_type: DataType::F32,
        op: ReduceOp::Sum,
        quantization: None,
    };
    let deadline = Some(Duration::from_secs(1));
    let first = cluster.command(
        0,
        Command::AllReduce {
            tag: Tag(9),
            descriptor,
            deadline,
        },
    );
    let second = cluster.command(
        1,
        Command::AllReduce {
            tag: Tag(9),
            descriptor,
            deadline: None,
        },
    );
    cluster.pass(Duration::from_secs(2));
    for (node, call) in [(0, first), (1, second)] {
        let error = error(cluster.reply(node, call));
        assert!(error.to_string().contains("node-2"), "{error}");
        assert!(error.to_string().contains("deadline"), "{error}");
    }
}

#[test]
fn an_operation_and_a_joint_call_that_need_each_others_peer_both_fail() {
    let mut cluster = Cluster::of(2);
    let replies = cluster.all(vec![(0, reduce(1)), (1, Command::UpdateTopology)]);
    assert!(matches!(
        error(replies[0].as_ref()),
        CollectiveError::CannotMeet { .. }
    ));
    assert!(format!("{:?}", replies[1]).contains("CannotMeet"));
}

#[test]
fn are_peers_pending_runs_beside_operations() {
    let mut cluster = Cluster::of(2);
    let operation = cluster.command(0, reduce(1));
    let pending = cluster.all((0..2).map(|n| (n, Command::ArePeersPending)).collect());
    assert_eq!(pending, vec![Some(Reply::Pending(Ok(false))); 2]);
    let other = cluster.command(1, reduce(1));
    cluster.run();
    assert_eq!(contributors(cluster.reply(0, operation)), Some(2));
    assert_eq!(contributors(cluster.reply(1, other)), Some(2));
}

#[test]
fn a_failure_at_one_peer_aborts_everywhere_and_names_it() {
    let mut cluster = Cluster::of(3);
    let calls: Vec<_> = (0..2).map(|n| cluster.command(n, reduce(1))).collect();
    cluster.run();
    cluster.fail_operation(1, "buffers of 3 bytes");
    cluster.run();
    for (node, call) in calls.into_iter().enumerate() {
        let error = error(cluster.reply(node, call));
        assert!(error.to_string().contains("node-1"), "{error}");
        assert!(error.to_string().contains("buffers of 3 bytes"), "{error}");
    }
}

#[test]
fn a_deadline_that_passes_while_the_epoch_changes_is_not_forgotten() {
    let mut cluster = Cluster::new();
    for (index, group) in [0, 0, 1, 1].into_iter().enumerate() {
        let node = cluster.spawn(crate::types::GroupId(group));
        cluster.command(node, Command::Connect);
        cluster.run();
        cluster.all((0..index).map(|n| (n, Command::UpdateTopology)).collect());
    }
    let descriptor = Descriptor {
        count: 1,
        data_type: DataType::F32,
        op: ReduceOp::Sum,
        quantization: None,
    };
    let deadline = Some(Duration::from_secs(1));
    let call = cluster.command(
        0,
        Command::AllReduce {
            tag: Tag(9),
            descriptor,
            deadline,
        },
    );
    cluster.run();
    // A loss in the other group; the deadline passes before its epoch is agreed on.
    for node in 1..3 {
        cluster.nodes[node].frozen = true;
    }
    cluster.kill(3);
    cluster.pass(Duration::from_secs(2));
    assert_eq!(cluster.reply(0, call), None);
    for node in 1..3 {
        cluster.nodes[node].frozen = false;
    }
    cluster.run();
    cluster.pass(Duration::from_secs(1));
    let error = error(cluster.reply(0, call));
    assert!(error.to_string().contains("node-1"), "{error}");
}

#[test]
fn a_joint_call_that_excludes_operations_does_so_at_its_own_peer() {
    let mut cluster = Cluster::of(2);
    cluster.command(0, Command::UpdateTopology);
    let refused = cluster.all(vec![(0, reduce(1))]);
    let running = "update_topology";
    assert_eq!(
        error(refused[0].as_ref()),
        CollectiveError::CallInProgress { running }
    );
}
