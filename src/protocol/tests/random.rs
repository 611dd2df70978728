//! Random runs from seeds: messages are delivered in any order that connections allow, peers die,
//! freeze, lose their connections, and join, and masters are killed and started again, one or several,
//! which some peers cannot reach. In the end faults stop, every call must return, and every operation must have one outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{Cluster, GRACE, Move, Node, present, reduce};
use crate::error::Gone;
use crate::protocol::master::Memory;
use crate::protocol::peer::{Command, Reply};
use crate::types::{GroupId, OperationId, RunId};

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

    /// Nothing is drawn where there is no choice.
    fn below_where(&mut self, is_choice: bool, limit: usize) -> usize {
        if is_choice { self.below(limit) } else { 0 }
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[test]
fn every_call_returns_and_every_operation_has_one_outcome() {
    for seed in 0..400 {
        play(seed, Masters::OneThatLives);
    }
}

#[test]
fn so_it_is_where_the_master_is_killed_again_and_again() {
    for seed in 0..400 {
        play(seed, Masters::OneThatDies);
    }
}

#[test]
fn so_it_is_where_there_are_several_masters_that_not_all_can_reach() {
    for seed in 0..400 {
        play(seed, Masters::Several);
    }
}

/// What masters there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masters {
    OneThatLives,
    /// It is killed and started again.
    OneThatDies,
    /// Two or three that are, and whose connections to some peers are cut.
    Several,
}

/// The other rules of a master that comes back are broken in `returning.rs`.
#[cfg(feature = "sim")]
#[test]
fn a_returning_master_that_breaks_a_rule_is_seen() {
    use crate::mutation::{Mutation, with};
    let is_seen = |rule: Mutation, masters: Masters| {
        let fails = |seed: &u64| {
            let run = || with(Some(rule), || play(*seed, masters));
            std::panic::catch_unwind(run).is_err()
        };
        (0..6000).any(|seed| fails(&seed))
    };
    for rule in [
        Mutation::TakeBackWhoWasLeftOut,
        Mutation::InheritNothing,
        Mutation::GoOnWithoutTheAbsent,
    ] {
        assert!(is_seen(rule, Masters::OneThatDies), "{rule:?}");
    }
    assert!(is_seen(Mutation::RuleWithoutMajority, Masters::Several));
}

/// A seed names a run: to look at one, call this with it.
fn play(seed: u64, masters: Masters) {
    let mut dice = Dice(seed);
    let size = 2 + dice.below(4);
    let (mut cluster, count) = match masters {
        Masters::Several => {
            let standbys = 1 + dice.below(2);
            (Cluster::with_standbys(size, standbys), 1 + standbys)
        }
        _ => (Cluster::of(size), 1),
    };
    let kills_master = masters != Masters::OneThatLives;
    let mut was_cut_off = false;
    // Masters that die before they rule: peers give up at some time.
    let (mut ruled_at, mut longest_wait) = (cluster.now, Duration::ZERO);
    // Of the disks of masters.
    let mut copies = Vec::new();
    let mut faults = 1 + dice.below(5);
    for _ in 0..600 {
        if faults > 0 && dice.one_in(60) {
            faults -= 1;
            fault(&mut cluster, &mut dice);
        }
        let at = dice.below_where(kills_master && count > 1, count);
        if kills_master && dice.one_in(if cluster.is_master_dead(at) { 20 } else { 80 }) {
            match cluster.is_master_dead(at) {
                true => start_again(&mut cluster, &mut dice, at, &copies),
                false => cluster.kill_master_at(at),
            }
        }
        if kills_master && dice.one_in(60) {
            copies.push(cluster.disk(at));
        }
        if count > 1 && dice.one_in(50) {
            let node = dice.below(cluster.nodes.len());
            match dice.one_in(3) {
                true => cluster.mend(),
                false => cluster.cut_off(node, at),
            }
            was_cut_off = true;
        }
        if (0..count).any(|at| !cluster.is_master_dead(at) && cluster.master_at(at).rules()) {
            ruled_at = cluster.now;
        }
        longest_wait = longest_wait.max(cluster.now.since(ruled_at));
        call_something(&mut cluster, &mut dice);
        let moves: Vec<Move> = cluster.moves();
        if moves.is_empty() || dice.one_in(40) {
            cluster.now = cluster.now + Duration::from_millis(100);
            cluster.tick();
        } else {
            cluster.perform(moves[dice.below(moves.len())]);
        }
    }
    for at in 0..count {
        if cluster.is_master_dead(at) {
            cluster.start_master_at(at);
        }
    }
    cluster.mend();
    // Faults stop. Everybody who waits for somebody is joined by that somebody.
    for node in &mut cluster.nodes {
        node.frozen = false;
    }
    let patience = match masters {
        // Who was cut off from most of the others gives up.
        Masters::Several => GRACE + Duration::from_secs(15),
        _ => Duration::from_secs(15),
    };
    cluster.pass(patience);
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
    check_outcomes(&cluster, seed, was_cut_off);
    let lost_majority = |node: &Node| matches!(node.peer.gone(), Some(Gone::NoMajority { .. }));
    if cluster.nodes.iter().any(lost_majority) {
        // A master that comes back has nobody's word for those who are dead or silent.
        let is_away = |node: &&Node| !node.alive || node.was_frozen;
        let away = cluster.nodes.iter().filter(is_away).count();
        let waited_long = longest_wait + Duration::from_secs(10) > GRACE;
        assert!(
            kills_master && (away > 0 || was_cut_off || waited_long),
            "seed {seed}: everybody is here, and no majority"
        );
        return;
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        // Where nobody of a run is heard of within the window, newcomers begin another.
        let ruling = (0..count).map(|at| cluster.master_at(at));
        let mut runs = ruling.filter(|master| master.rules()).map(|m| m.run().0);
        let is_of_run = runs.any(|run| node.run == Some(run));
        // It was killed again before it ruled, for longer than they wait for it.
        let was_waited_for =
            kills_master && matches!(node.peer.gone(), Some(Gone::MasterLost { .. }));
        let is_honest = node.alive
            && !node.was_frozen
            && node.membership.is_some()
            && is_of_run
            && !was_waited_for
            && !was_cut_off;
        assert!(
            !is_honest || node.peer.gone().is_none(),
            "seed {seed}, {masters:?}: node {index} did nothing wrong and is gone: {:?}",
            node.peer.gone()
        );
    }
}

/// In memory of nothing, of what it has written down, or of what it or another one once had.
fn start_again(cluster: &mut Cluster, dice: &mut Dice, at: usize, copies: &[Option<Memory>]) {
    match dice.below(3) {
        0 => cluster.start_master_at(at),
        1 => cluster.start_master_with(at, cluster.disk(at)),
        _ => {
            let copy = copies.get(dice.below(copies.len())).cloned();
            cluster.start_master_with(at, copy.flatten());
        }
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
fn check_outcomes(cluster: &Cluster, seed: u64, was_cut_off: bool) {
    type ByOperation = BTreeMap<(Option<RunId>, OperationId), usize>;
    let (mut kept, mut put_back) = (ByOperation::new(), ByOperation::new());
    for (index, node) in cluster.nodes.iter().enumerate() {
        // "Evicted" includes those that died: their view counts for nobody.
        if !node.alive || node.peer.gone().is_some() {
            continue;
        }
        for (op, roll_back) in &node.ended {
            let side = if *roll_back { &mut put_back } else { &mut kept };
            side.insert((node.run, *op), index);
        }
    }
    for ((run, op), node) in &kept {
        if let Some(other) = put_back.get(&(*run, *op)) {
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
        replies > 0 || cluster.nodes.len() < 2 || seed > 0 || was_cut_off,
        "nothing ever succeeds"
    );
}
