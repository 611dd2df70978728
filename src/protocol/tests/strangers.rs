//! Who is registered but not accepted has no say in anything that members do.

use super::cluster::{Cluster, reduce};
use crate::protocol::master::ConnectionId;
use crate::protocol::peer::Reply;
use crate::types::{DataType, Descriptor, Epoch, OperationId, PeerId, ReduceOp, Tag};
use crate::wire::control::{Frame, LinkFault, ToMaster};

const HUGE: Descriptor = Descriptor {
    count: u64::MAX,
    data_type: DataType::F64,
    op: ReduceOp::Max,
    quantization: None,
};

/// The operation that the members' next use of tag 1 will be.
fn next_operation(cluster: &Cluster) -> OperationId {
    OperationId {
        epoch: cluster.master().epoch(),
        tag: Tag(1),
        n: 0,
    }
}

/// All of three members reduce, while strangers say these messages once two of them have begun.
fn reduce_beside(messages: impl Fn(OperationId) -> Vec<ToMaster>, strangers: usize) {
    let mut cluster = Cluster::of(3);
    let op = next_operation(&cluster);
    let connections: Vec<ConnectionId> = (0..strangers).map(|_| cluster.stranger()).collect();
    let say_all = |cluster: &mut Cluster| {
        for connection in &connections {
            for message in messages(op) {
                cluster.say_as(*connection, message);
            }
        }
    };
    say_all(&mut cluster);
    let mut calls: Vec<_> = (0..2).map(|n| (n, cluster.command(n, reduce(1)))).collect();
    cluster.run();
    say_all(&mut cluster);
    for (node, call) in &calls {
        assert_eq!(
            cluster.reply(*node, *call),
            None,
            "the third has not called"
        );
    }
    calls.push((2, cluster.command(2, reduce(1))));
    cluster.run();
    for (node, call) in calls {
        match cluster.reply(node, call) {
            Some(Reply::AllReduce(Ok(contributors))) => assert_eq!(contributors.len(), 3),
            other => panic!("{other:?}"),
        }
    }
}

fn accepted(cluster: &Cluster) -> usize {
    cluster.master().rings().values().map(Vec::len).sum()
}

#[test]
fn a_stranger_that_begins_something_else_under_a_tag_makes_no_mismatch() {
    let begun = |op| {
        vec![ToMaster::OperationBegun {
            op,
            descriptor: HUGE,
        }]
    };
    reduce_beside(begun, 1);
}

#[test]
fn strangers_that_are_done_commit_nothing() {
    reduce_beside(|op| vec![ToMaster::OperationDone { op }], 3);
}

#[test]
fn a_stranger_that_reports_a_failure_or_a_deadline_aborts_nothing() {
    let reports = |op| {
        let reason = "because I say so".to_owned();
        vec![
            ToMaster::OperationFailed { op, reason },
            ToMaster::DeadlinePassed { op },
        ]
    };
    reduce_beside(reports, 1);
}

#[test]
fn a_stranger_is_no_second_witness_of_a_death() {
    let mut cluster = Cluster::of(3);
    let stranger = cluster.stranger();
    for node in 0..3 {
        let peer = cluster.nodes[node].id.unwrap();
        cluster.say_as(stranger, ToMaster::LinkState { peer, up: false });
    }
    cluster.break_connection(1);
    cluster.run();
    assert_eq!(accepted(&cluster), 3);
    assert_eq!(cluster.nodes[1].peer.gone(), None);
}

#[test]
fn no_number_is_too_large_to_be_said() {
    let epochs = [
        Epoch::default(),
        Epoch { term: 1, count: 3 },
        Epoch {
            term: u32::MAX,
            count: u32::MAX,
        },
    ];
    let mut cluster = Cluster::of(3);
    let honest = PeerId(1);
    for epoch in epochs {
        for n in [0, u32::MAX] {
            let op = OperationId {
                epoch,
                tag: Tag(u64::MAX),
                n,
            };
            let reason = String::new;
            let messages = [
                ToMaster::EpochAcknowledged { epoch },
                ToMaster::Wired { epoch },
                ToMaster::LinkFailed {
                    epoch,
                    peer: honest,
                    fault: LinkFault::NoLane,
                    reason: reason(),
                },
                ToMaster::LinkFailed {
                    epoch,
                    peer: PeerId(u64::MAX),
                    fault: LinkFault::NoLane,
                    reason: reason(),
                },
                ToMaster::OperationBegun {
                    op,
                    descriptor: HUGE,
                },
                ToMaster::OperationDone { op },
                ToMaster::OperationFailed {
                    op,
                    reason: reason(),
                },
                ToMaster::DeadlinePassed { op },
                ToMaster::SyncReceived { round: u64::MAX },
                ToMaster::SyncFailed {
                    round: u64::MAX,
                    holder: honest,
                    reason: reason(),
                },
                ToMaster::CancelCall,
                ToMaster::Redialling,
                ToMaster::Leave,
                ToMaster::Leave,
            ];
            for message in messages {
                // Each alone, and after all of the others.
                let alone = cluster.stranger();
                cluster.say_as(alone, message.clone());
                for sequence in [1, 2, u64::MAX] {
                    let frame = Frame {
                        sequence,
                        acknowledged: u64::MAX,
                        message: message.clone(),
                    };
                    cluster.say_numbered(alone, frame);
                }
            }
        }
    }
    assert_eq!(accepted(&cluster), 3);
}
