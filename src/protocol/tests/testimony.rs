//! What peers say of their links, and whom it may cost its place.

use std::time::Duration;

use super::cluster::{Cluster, Move, reduce};
use crate::protocol::peer::{Command, Reply};
use crate::types::{Epoch, GroupId, PeerId};
use crate::wire::control::{LinkFault, ToMaster};

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
fn a_link_between_newcomers_that_came_up_late_costs_nobody_the_place_later() {
    let mut cluster = Cluster::of(1);
    for node in [1, 2] {
        cluster.spawn(GroupId(0));
        cluster.command(node, Command::Connect);
        cluster.run();
    }
    let ids = ids(&cluster);
    cluster.cut.insert((ids[1], ids[2]));
    cluster.command(0, Command::UpdateTopology);
    cluster.run();
    cluster.fail_link(1, ids[2]);
    cluster.run();
    cluster.cut.clear();
    cluster.run();
    pass_ms(&mut cluster, 20_000);
    keeps_all(&mut cluster, 3, "all have reported their links");
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

fn keeps_all(cluster: &mut Cluster, size: u32, case: &str) {
    let living: Vec<usize> = (0..cluster.nodes.len())
        .filter(|node| cluster.nodes[*node].alive)
        .collect();
    let replies = cluster.all(living.iter().map(|node| (*node, reduce(1))).collect());
    for (node, reply) in living.iter().zip(&replies) {
        assert_eq!(world(cluster, *node), size, "{case}");
        assert!(
            matches!(reply, Some(Reply::AllReduce(Ok(_)))),
            "{case}: {reply:?}"
        );
    }
}

#[test]
fn a_link_that_is_up_again_costs_nobody_the_place_unless_it_delivered_nothing() {
    for (fault, stay) in [(LinkFault::NoLane, 3), (LinkFault::NothingDelivered, 2)] {
        let mut cluster = Cluster::of(3);
        let ids = ids(&cluster);
        cluster.cut.insert((ids[1], ids[2]));
        cluster.run();
        cluster.fail_link_so(1, ids[2], fault);
        cluster.run();
        pass_ms(&mut cluster, 300);
        cluster.cut.clear();
        cluster.run();
        pass_ms(&mut cluster, 5000);
        assert_eq!(world(&cluster, 0), stay, "{fault:?}");
        if stay == 3 {
            keeps_all(&mut cluster, 3, "it is up");
        }
    }
}

/// Node 2 stands still while node 1 misses the link between them; it is back.
fn back_without_a_link() -> (Cluster, Vec<PeerId>) {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    cluster.nodes[2].frozen = true;
    cluster.cut.insert((ids[1], ids[2]));
    pass_ms(&mut cluster, 400);
    cluster.fail_link(1, ids[2]);
    cluster.run();
    pass_ms(&mut cluster, 1300);
    cluster.nodes[2].frozen = false;
    cluster.run();
    (cluster, ids)
}

#[test]
fn who_was_away_has_its_time_to_make_the_link_before_anybody_goes() {
    for after_ms in [0, 500, 1000, 1800] {
        let (mut cluster, _) = back_without_a_link();
        pass_ms(&mut cluster, after_ms);
        cluster.cut.clear();
        cluster.run();
        pass_ms(&mut cluster, 5000);
        keeps_all(&mut cluster, 3, &format!("{after_ms} ms after"));
    }
}

#[test]
fn who_does_not_hear_the_master_complains_of_no_link() {
    let mut cluster = Cluster::of(3);
    let epoch = cluster.master().epoch();
    let other = cluster.nodes[2].id.unwrap();
    cluster.cut_off(1, 0);
    cluster.fail_link_so(1, other, LinkFault::NothingDelivered);
    cluster.run();
    cluster.mend();
    cluster.pass(Duration::from_secs(1));
    assert_eq!(cluster.nodes[1].peer.gone(), None);
    assert_eq!(cluster.master().epoch(), epoch);
    cluster.fail_link_so(1, other, LinkFault::NothingDelivered);
    cluster.pass(Duration::from_secs(1));
    assert_ne!(cluster.master().epoch(), epoch);
}

#[test]
fn a_link_of_an_epoch_that_the_other_end_is_yet_to_hear_of_is_nobodys_fault() {
    let mut cluster = Cluster::of(4);
    let deaf = Move::Down(cluster.nodes[1].connection.unwrap());
    let behind = cluster.nodes[1].id.unwrap();
    cluster.kill(3);
    while let Some(next) = cluster.moves().into_iter().find(|next| *next != deaf) {
        cluster.perform(next);
    }
    assert_eq!(world(&cluster, 0), 3);
    assert_eq!(world(&cluster, 1), 4);
    cluster.restart_master();
    cluster.run();
    assert!(!cluster.master().rules());
    cluster.fail_link(0, behind);
    cluster.pass(Duration::from_secs(10));
    assert_eq!(cluster.nodes[1].peer.gone(), None);
    assert_eq!([0, 1, 2].map(|node| world(&cluster, node)), [3; 3]);
}

#[test]
fn where_the_link_cannot_be_made_after_all_one_goes() {
    let (mut cluster, ids) = back_without_a_link();
    for _ in 0..4 {
        pass_ms(&mut cluster, 1500);
        if cluster.nodes[2].peer.gone().is_none() {
            cluster.fail_link(1, ids[2]);
            cluster.run();
        }
    }
    assert_eq!((world(&cluster, 0), world(&cluster, 1)), (2, 2));
    assert!(reason(&cluster, 2).contains("no link can be made with"));
}

#[test]
fn a_link_that_nobody_tries_any_more_is_tried_again_before_anybody_goes() {
    let cases = [true, false].map(|is_mended| [500, 10_000].map(|after_ms| (is_mended, after_ms)));
    for (is_mended, after_ms) in cases.into_iter().flatten() {
        let mut cluster = Cluster::of(4);
        let ids = ids(&cluster);
        let ring: Vec<PeerId> = cluster.master().rings()[&GroupId(0)].clone();
        let at = |place: usize| ids.iter().position(|id| *id == ring[place]).unwrap();
        let (one, other, third, fourth) = (at(0), at(1), at(2), at(3));
        cluster
            .cut
            .insert((ring[0].min(ring[1]), ring[0].max(ring[1])));
        cluster.run();
        cluster.fail_link(one, ring[1]);
        cluster.run();
        assert_eq!(world(&cluster, one), 4, "there is a ring without it");
        pass_ms(&mut cluster, after_ms);
        if is_mended {
            cluster.cut.clear();
        }
        cluster.kill(third);
        cluster.run();
        for _ in 0..6 {
            pass_ms(&mut cluster, 1500);
            if !is_mended && cluster.nodes[other].peer.gone().is_none() {
                cluster.fail_link(one, ring[1]);
                cluster.run();
            }
        }
        let left = if is_mended { 3 } else { 2 };
        assert_eq!(world(&cluster, fourth), left, "mended: {is_mended}");
        if is_mended {
            keeps_all(&mut cluster, 3, "it is mended");
        }
    }
}

#[test]
fn who_says_up_of_a_link_that_it_does_not_make_holds_nobody_up_for_long() {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    cluster.cut.insert((ids[1], ids[2]));
    cluster.run();
    let liar = cluster.nodes[2].connection.unwrap();
    let mut told = 0;
    while world(&cluster, 0) == 3 {
        cluster.fail_link(1, ids[2]);
        cluster.run();
        pass_ms(&mut cluster, 100);
        if cluster.nodes[2].peer.gone().is_none() {
            let up = ToMaster::LinkState {
                peer: ids[1],
                up: true,
            };
            cluster.say_as(liar, up);
            cluster.run();
        }
        pass_ms(&mut cluster, 900);
        told += 1;
        assert!(told < 10, "it is believed for ever");
    }
}

#[test]
fn a_link_that_is_back_before_anybody_was_told_costs_no_epoch() {
    let mut cluster = Cluster::of(3);
    let ids = ids(&cluster);
    let before = cluster.master().epoch();
    cluster.fail_link(1, ids[2]);
    cluster.run();
    let up = ToMaster::LinkState {
        peer: ids[2],
        up: true,
    };
    let witness = cluster.nodes[1].connection.unwrap();
    cluster.say_as(witness, up);
    cluster.run();
    pass_ms(&mut cluster, 5000);
    assert_eq!(cluster.master().epoch(), before);
    keeps_all(&mut cluster, 3, "it is back");
}

#[test]
fn what_is_said_of_a_link_that_another_master_wanted_counts_for_nothing() {
    for is_foreign in [true, false] {
        let mut cluster = Cluster::of(3);
        let before = cluster.master().epoch();
        cluster.restart_master();
        pass_ms(&mut cluster, 1000);
        let term = cluster.master().run().1;
        assert!(term > before.term);
        let connection = cluster.nodes[0].connection.unwrap();
        let wanted = Epoch {
            term: if is_foreign { before.term } else { term },
            count: before.count + 1,
        };
        let peer = ids(&cluster)[1];
        let failed = ToMaster::LinkFailed {
            epoch: wanted,
            peer,
            fault: LinkFault::NoLane,
            reason: "no answer".to_owned(),
        };
        cluster.say_as(connection, failed);
        pass_ms(&mut cluster, 3000);
        let is_as_before = cluster.master().epoch() == before;
        assert_eq!(is_as_before, is_foreign);
    }
}
