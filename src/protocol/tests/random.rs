//! Random runs from seeds: messages are delivered in any order that connections allow, peers die,
//! freeze, lose their connections, and join, and the master is killed and started again. In the end
//! faults stop, every call must return, and every operation must have one outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{Cluster, Move, Node, present, reduce};
use crate::error::Gone;
use crate::protocol::peer::{Command, Reply};
use crate::types::{GroupId, OperationId};

/// A small generator (splitmix64): the order of a test is all it decides.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[test]
fn every_call_returns_and_every_operation_has_one_outcome() {
    for seed in 0..400 {
        play(seed, false);
    }
}

#[test]
fn so_it_is_where_the_master_is_killed_again_and_again() {
    for seed in 0..400 {
        play(seed, true);
    }
}

/// The other rules of a master that comes back are broken in `returning.rs`.
#[cfg(feature = "sim")]
#[test]
fn a_returning_master_that_breaks_a_rule_is_seen() {
    use crate::mutation::{Mutation, with};
    let is_seen = |rule: Mutation| {
        let fails = |seed: &u64| {
            let run = || with(Some(rule), || play(*seed, true));
            std::panic::catch_unwind(run).is_err()
        };
        (0..6000).any(|seed| fails(&seed))
    };
    for rule in [
        Mutation::TakeBackWhoWasLeftOut,
        Mutation::InheritNothing,
        Mutation::GoOnWithoutTheAbsent,
    ] {
        assert!(is_seen(rule), "{rule:?}");
    }
}

/// A seed names a run: to look at one, call this with it.
fn play(seed: u64, kills_master: bool) {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::of(2 + dice.below(4));
    let mut faults = 1 + dice.below(5);
    for _ in 0..600 {
        if faults > 0 && dice.one_in(60) {
            faults -= 1;
            fault(&mut cluster, &mut dice);
        }
        if kills_master && dice.one_in(if cluster.is_master_dead() { 20 } else { 80 }) {
            match cluster.is_master_dead() {
                true => cluster.start_master(),
                false => cluster.kill_master(),
            }
        }
        call_something(&mut cluster, &mut dice);
        let moves: Vec<Move> = cluster.moves();
        if moves.is_empty() || dice.one_in(40) {
            cluster.now = cluster.now + Duration::from_millis(100);
            cluster.tick();
        } else {
            cluster.perform(moves[dice.below(moves.len())]);
        }
    }
    if cluster.is_master_dead() {
        cluster.start_master();
    }
    // Faults stop. Everybody who waits for somebody is joined by that somebody.
    for node in &mut cluster.nodes {
        node.frozen = false;
    }
    cluster.pass(Duration::from_secs(15));
    for _ in 0..20 {
        meet(&mut cluster);
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        if !node.alive || node.peer.gone().is_some() {
            continue;
        }
        for (request, command) in &node.commands {
            assert!(
                node.replies.contains_key(request),
                "seed {seed}: node {index} still waits in {command:?}"
            );
        }
    }
    check_outcomes(&cluster, seed);
    let lost_majority = |node: &Node| matches!(node.peer.gone(), Some(Gone::NoMajority { .. }));
    if cluster.nodes.iter().any(lost_majority) {
        // A master that comes back has nobody's word for those who are dead or silent.
        let is_away = |node: &&Node| !node.alive || node.was_frozen;
        let away = cluster.nodes.iter().filter(is_away).count();
        assert!(
            kills_master && away > 0,
            "seed {seed}: everybody is here, and no majority"
        );
        return;
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        // Where nobody of a run is heard of within the window, newcomers begin another.
        let is_of_run = node.run == Some(cluster.master.run().0);
        // It was killed again before it ruled, for longer than they wait for it.
        let was_waited_for =
            kills_master && matches!(node.peer.gone(), Some(Gone::MasterLost { .. }));
        let is_honest = node.alive
            && !node.was_frozen
            && node.membership.is_some()
            && is_of_run
            && !was_waited_for;
        assert!(
            !is_honest || node.peer.gone().is_none(),
            "seed {seed}, {kills_master}: node {index} did nothing wrong and is gone: {:?}",
            node.peer.gone()
        );
    }
}

fn fault(cluster: &mut Cluster, dice: &mut Dice) {
    let node = dice.below(cluster.nodes.len());
    if !cluster.nodes[node].alive {
        return;
    }
    match dice.below(5) {
        0 | 1 => cluster.kill(node),
        2 => {
            cluster.nodes[node].frozen ^= true;
            cluster.nodes[node].was_frozen = true;
        }
        3 => cluster.break_connection(node),
        _ => {
            let node = cluster.spawn(GroupId(0));
            cluster.command(node, Command::Connect);
        }
    }
}

/// Programs that mean the same: operations under two tags, and now and then a joint call.
fn call_something(cluster: &mut Cluster, dice: &mut Dice) {
    let node = dice.below(cluster.nodes.len());
    let is_member = cluster.nodes[node].membership.is_some();
    let waits = |kind: fn(&Command) -> bool| {
        let node = &cluster.nodes[node];
        node.commands
            .iter()
            .any(|(r, c)| kind(c) && !node.replies.contains_key(r))
    };
    let in_joint = waits(|c| !matches!(c, Command::AllReduce { .. }));
    let in_operation = waits(|c| matches!(c, Command::AllReduce { .. }));
    if !cluster.nodes[node].alive || cluster.nodes[node].frozen || !is_member || in_joint {
        return;
    }
    let command = match dice.below(8) {
        0 if !in_operation => Command::UpdateTopology,
        1 => Command::ArePeersPending,
        2 if !in_operation => present(0, "state"),
        n => reduce(n as u64 % 2),
    };
    cluster.command(node, command);
}

/// Everybody joins what somebody waits for, so that what can end does.
fn meet(cluster: &mut Cluster) {
    let mut wanted: Vec<Command> = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.alive) {
        for (request, command) in &node.commands {
            if !node.replies.contains_key(request) && !wanted.contains(command) {
                wanted.push(command.clone());
            }
        }
    }
    wanted.retain(|command| *command != Command::Connect);
    if wanted.is_empty() {
        wanted.push(Command::UpdateTopology);
    }
    for command in wanted {
        for node in 0..cluster.nodes.len() {
            let n = &cluster.nodes[node];
            let waits_already = n
                .commands
                .iter()
                .any(|(r, c)| *c == command && !n.replies.contains_key(r));
            if n.alive && n.membership.is_some() && !waits_already {
                cluster.command(node, command.clone());
            }
        }
        cluster.run();
        cluster.pass(Duration::from_secs(1));
    }
}

/// I3 and I4 as far as the machines decide them: who commits an operation commits it with the
/// contributors of everybody else, and nobody puts back what another has kept.
fn check_outcomes(cluster: &Cluster, seed: u64) {
    let mut kept: BTreeMap<OperationId, usize> = BTreeMap::new();
    let mut put_back: BTreeMap<OperationId, usize> = BTreeMap::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        // "Evicted" includes those that died: their view counts for nobody.
        if !node.alive || node.peer.gone().is_some() {
            continue;
        }
        for (op, roll_back) in &node.ended {
            let side = if *roll_back { &mut put_back } else { &mut kept };
            side.insert(*op, index);
        }
    }
    for (op, node) in &kept {
        if let Some(other) = put_back.get(op) {
            panic!("seed {seed}: node {node} kept {op}, node {other} put it back");
        }
    }
    let mut replies = 0;
    for node in &cluster.nodes {
        replies += node
            .replies
            .values()
            .filter(|r| matches!(r, Reply::AllReduce(Ok(_))))
            .count();
    }
    assert!(
        replies > 0 || cluster.nodes.len() < 2 || seed > 0,
        "nothing ever succeeds"
    );
}
