//! What peers say of their links, and whom it may cost its place.

use std::time::Duration;

use super::cluster::{Cluster, reduce};
use crate::protocol::peer::{Command, Reply};
use crate::types::{GroupId, PeerId};

fn ids(cluster: &Cluster) -> Vec<PeerId> {
    cluster.nodes.iter().map(|node| node.id.unwrap()).collect()
}

fn world(cluster: &Cluster, node: usize) -> u32 {
    cluster.nodes[node]
        .membership
        .as_ref()
        .unwrap()
        .sizes
        .global
}

/// The text that a peer was told as it went.
fn reason(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node]
        .peer
        .gone()
        .expect("it is gone")
        .to_string()
}

/// All that `Cluster::pass` lets happen in so many milliseconds.
fn pass_ms(cluster: &mut Cluster, ms: u64) {
    cluster.pass(Duration::from_millis(ms));
}

#[test]
fn of_three_peers_the_one_that_is_stopped_goes_whatever_is_said_of_it() {
    for stopped in 0..3 {
        for said_after_ms in [0, 100, 400, 600, 1500, 2500] {
            for order in [[1, 2], [2, 1]] {
                let mut cluster = Cluster::of(3);
                let ids = ids(&cluster);
                let survivors = order.map(|step| (stopped + step) % 3);
                let calls: Vec<_> = survivors
                    .map(|node| (node, cluster.command(node, reduce(1))))
                    .into();
                cluster.run();
                cluster.nodes[stopped].frozen = true;
                pass_ms(&mut cluster, said_after_ms);
                for node in survivors {
                    cluster.fail_link(node, ids[stopped]);
                    cluster.run();
                    pass_ms(&mut cluster, 200);
                }
                for _ in 0..5 {
                    pass_ms(&mut cluster, 1000);
                    for node in survivors {
                        cluster.fail_link(node, ids[stopped]);
                    }
                    cluster.run();
                }
                let case = format!("{stopped} stopped, said after {said_after_ms} ms");
                for (node, call) in calls {
                    assert_eq!(world(&cluster, node), 2, "{case}");
                    let Some(Reply::AllReduce(Err(error))) = cluster.reply(node, call) else {
                        panic!("{case}: {node} still waits");
                    };
                    let text = error.to_string();
                    let names_it = text.contains(&format!("node-{stopped}"));
                    assert!(names_it && text.contains("silent"), "{case}: {text}");
                }
            }
        }
    }
}

#[test]
fn a_peer_that_was_stopped_for_less_than_silence_allows_keeps_its_place_whatever_was_said() {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    cluster.nodes[2].frozen = true;
    pass_ms(&mut cluster, 1200);
    for node in [0, 1] {
        cluster.fail_link(node, ids[2]);
    }
    cluster.run();
    cluster.nodes[2].frozen = false;
    pass_ms(&mut cluster, 5000);
    assert!((0..3).all(|node| world(&cluster, node) == 3));
    let replies = cluster.all((0..3).map(|node| (node, reduce(1))).collect());
    assert!(
        replies
            .iter()
            .all(|reply| matches!(reply, Some(Reply::AllReduce(Ok(_))))),
        "{replies:?}"
    );
}

#[test]
fn where_a_link_fails_between_two_that_are_well_the_last_to_join_goes() {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    cluster.fail_link(0, ids[1]);
    cluster.run();
    assert!(
        (0..3).all(|node| cluster.nodes[node].peer.gone().is_none()),
        "a second complaint may say more"
    );
    pass_ms(&mut cluster, 1500);
    assert_eq!(world(&cluster, 0), 2);
    assert!(reason(&cluster, 1).contains("no link can be made with"));
}

#[test]
fn who_has_complaints_with_two_partners_goes_although_the_first_told_of_one() {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    // By the first complaint alone node 2, which joined last, would go.
    cluster.fail_link(2, ids[0]);
    cluster.run();
    pass_ms(&mut cluster, 300);
    cluster.fail_link(1, ids[0]);
    cluster.run();
    pass_ms(&mut cluster, 1500);
    assert!(reason(&cluster, 0).contains("no link can be made with"));
    assert_eq!((world(&cluster, 1), world(&cluster, 2)), (2, 2));
}

#[test]
fn a_newcomer_is_not_refused_for_a_link_to_a_peer_that_is_stopped() {
    let mut cluster = Cluster::of(2);
    cluster.spawn(GroupId(0));
    let connect = cluster.command(2, Command::Connect);
    cluster.run();
    let ids = ids(&cluster);
    cluster.cut.insert((ids[1], ids[2]));
    let update = cluster.command(0, Command::UpdateTopology);
    cluster.command(1, Command::UpdateTopology);
    cluster.run();
    cluster.nodes[1].frozen = true;
    pass_ms(&mut cluster, 100);
    cluster.fail_link(2, ids[1]);
    cluster.run();
    pass_ms(&mut cluster, 6000);
    assert_eq!(cluster.reply(2, connect), Some(&Reply::Connect(Ok(()))));
    assert_eq!(cluster.reply(0, update), Some(&Reply::Membership(Ok(()))));
    assert_eq!(world(&cluster, 2), 2);
}

#[test]
fn lanes_that_one_end_gave_up_are_no_witness_of_a_death() {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    // The data network is cut between two, and later the control connection of one breaks.
    cluster.cut.insert((ids[0], ids[1]));
    cluster.run();
    cluster.break_connection(1);
    cluster.run();
    assert_eq!(cluster.nodes[1].peer.gone(), None);
    assert_eq!(world(&cluster, 0), 3);
}
