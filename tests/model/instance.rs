//! One size of the model, as `stateright` takes it: how it starts, which of the possible steps
//! are looked at, and what must hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

#[cfg(feature = "sim")]
use pccl::mutation::Mutation;
use pccl::protocol::master::Master;
use pccl::protocol::peer::{Command, Peer, PeerConfig};
use pccl::wire::control::{Join, ToMaster};
use pccl::{Epoch, GroupId, PeerId, RunId, Timestamp};
use stateright::{Model, Property};

use super::driving::{CONNECT, UPDATE, master_config, one_that_comes};
use super::moves::{Action, DEATHS, Fault, Kind, SILENCES};
use super::properties::{
    COMPLETE, IN_STEP, LINEAR, MAJORITY, MEMORY, NO_HANG, NOT_WRONGLY, ONE_OUTCOME, ONE_REPLY,
};
use super::shared::Shared;
use super::state::{Line, Node, Once, Ruling, State, Use, World};

/// A size of the model.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// Peers that are in the run from the start.
    pub(crate) peers: usize,
    /// Peers that may join; the others then call `update_topology` once before they reduce.
    pub(crate) newcomers: usize,
    /// Masters beside the first, which nobody follows at the start.
    pub(crate) standbys: usize,
    /// Operations, each under a tag of its own, called again until it commits.
    pub(crate) tags: usize,
    /// How often each tag is reduced under, one time after the other.
    pub(crate) rounds: u8,
    pub(crate) faults: u8,
    /// Of these, restarts of a master at most.
    pub(crate) restarts: u8,
    /// Peers that may be lost, whatever the reason; more are not looked at.
    pub(crate) losses: usize,
    pub(crate) kinds: &'static [Kind],
    /// Looks at every order, without the reductions of the module's text.
    pub(crate) in_full: bool,
    /// A rule that the machines break.
    #[cfg(feature = "sim")]
    pub(crate) mutation: Option<Mutation>,
}

impl Instance {
    /// So many peers, one operation, no faults.
    pub(crate) fn of(peers: usize) -> Self {
        Self {
            peers,
            newcomers: 0,
            standbys: 0,
            tags: 1,
            rounds: 1,
            faults: 0,
            restarts: u8::MAX,
            losses: usize::MAX,
            kinds: &[],
            in_full: false,
            #[cfg(feature = "sim")]
            mutation: None,
        }
    }

    /// Three peers, of whom two die, and their master twice.
    pub(crate) fn two_restarts_and_two_deaths() -> Self {
        Self {
            faults: 4,
            restarts: 2,
            losses: 2,
            kinds: DEATHS,
            ..Self::of(3)
        }
    }

    /// Peers whose connections to their master all break, and who go back to it or to a standby, and
    /// one of whom may be lost on the way.
    pub(crate) fn a_standby_and_a_loss(peers: usize) -> Self {
        Self {
            standbys: 1,
            faults: 1,
            losses: 1,
            kinds: &[Kind::BreakAll],
            ..Self::of(peers)
        }
    }

    /// Two peers and a newcomer, one of whom is not heard, and their master dies.
    pub(crate) fn a_newcomer_a_silence_and_a_restart() -> Self {
        Self {
            newcomers: 1,
            faults: 2,
            restarts: 1,
            losses: 1,
            kinds: SILENCES,
            ..Self::of(2)
        }
    }

    fn start(&self) -> State {
        let now = Timestamp::default();
        let first = Master::new(master_config(), RunId(7), 1, [7; 32], now);
        let standbys = (0..self.standbys).map(|n| one_that_comes(50 + n as u8));
        let masters = [first].into_iter().chain(standbys);
        let world = World {
            faults_left: 0,
            starts: 0,
            cut: BTreeSet::new(),
            complained: BTreeMap::new(),
            uneven: false,
            skips: false,
            rings: BTreeMap::new(),
            ends: BTreeMap::new(),
            decided: BTreeMap::new(),
            detached: BTreeSet::new(),
            broken: BTreeMap::new(),
        };
        let mut state = State {
            rulings: vec![Shared::new(Ruling::at(now)); 1 + self.standbys],
            masters: masters.map(Shared::new).collect(),
            nodes: Vec::new(),
            world: Shared::new(world),
            delivers_later: false,
        };
        for index in 0..self.peers {
            state.nodes.push(Shared::new(self.node(index)));
            state.command(index, CONNECT, Command::Connect);
            state.perform(&Action::Resume(index, 0));
            for other in 0..index {
                state.command(other, UPDATE, Command::UpdateTopology);
            }
            run_to_rest(&mut state);
        }
        for index in 0..self.peers {
            let node = state.nodes[index].change();
            assert_eq!(node.ring.len(), self.peers, "all are in one ring");
            node.connect = Once::Never;
            node.update = if self.newcomers > 0 {
                Once::Wanted
            } else {
                Once::Never
            };
        }
        for index in self.peers..self.peers + self.newcomers {
            let mut node = self.node(index);
            node.connect = Once::Wanted;
            state.nodes.push(Shared::new(node));
        }
        assert!(state.world.broken.is_empty(), "{:?}", state.world.broken);
        state.world.change().faults_left = self.faults;
        state.delivers_later = self.in_full;
        state.seal();
        state
    }

    fn node(&self, index: usize) -> Node {
        let join = Join {
            group: GroupId(0),
            label: String::new(),
            advertised_host: String::new(),
            port: 1000 + index as u16,
            lanes: Some(1),
            ..Join::default()
        };
        let config = PeerConfig {
            masters: (0..=self.standbys).map(|n| n.to_string()).collect(),
            join,
            connect_timeout: Duration::from_secs(10),
            master_grace: Duration::from_secs(30),
        };
        Node {
            peer: Some(Peer::new(config, Timestamp::default())),
            id: None,
            alive: true,
            hours: 0,
            touched: false,
            line: Line::None,
            at: 0,
            left: BTreeMap::new(),
            up: VecDeque::new(),
            tail: None,
            down: VecDeque::new(),
            wired: Epoch::default(),
            wanted: BTreeSet::new(),
            links_up: BTreeSet::new(),
            running: BTreeMap::new(),
            epoch: None,
            ring: Vec::new(),
            connect: Once::Never,
            update: Once::Never,
            uses: vec![Use::Idle; self.tags],
            rounds: vec![self.rounds; self.tags],
            failures: vec![0; self.tags],
            heard: BTreeSet::new(),
            waits: BTreeSet::new(),
            ended: BTreeMap::new(),
        }
    }

    /// The steps that stand for all that are possible.
    fn chosen(&self, state: &State) -> Vec<Action> {
        let mut actions = state.enabled(self.kinds);
        let may_restart = state.world.starts < self.restarts;
        let may_lose = state.losses() < self.losses;
        actions.retain(|action| match action {
            Action::Fault(Fault::RestartMaster(_)) => may_restart,
            Action::Fault(Fault::Kill(_) | Fault::Close(_)) => may_lose,
            // Of several masters one may not have the majority; see `within_boundary`.
            Action::GiveUpOn(_, index) => may_lose || state.has_standbys() || state.is_lost(*index),
            Action::GiveUpMaster(index) => may_lose || state.is_lost(*index),
            _ => true,
        });
        if self.in_full {
            return actions;
        }
        if let Some(alone) = actions.iter().find(|action| concerns_nobody(state, action)) {
            return vec![alone.clone()];
        }
        actions.retain(|action| !says_it_the_other_way_round(state, action));
        if is_calm(state) {
            actions.truncate(1);
        } else if has_nothing_happened(state) {
            // Nodes, and tags, are alike until one of them does something.
            let is_later = |a: &Action| matches!(a, Action::Call(1.., _) | Action::Update(1..));
            actions.retain(|action| !is_later(action));
        }
        actions
    }
}

/// A node that the master has thrown out learns it, and nobody reduces with it any more.
fn concerns_nobody(state: &State, action: &Action) -> bool {
    let (Action::Resume(index, 0) | Action::NoticeSilence(index)) = action else {
        return false;
    };
    let node = &state.nodes[*index];
    let id = node.id.unwrap_or(PeerId(0));
    let others = || {
        state
            .nodes
            .iter()
            .filter(|other| other.lives() && other.id != node.id)
    };
    let reduces = |other: &Shared<Node>| {
        let mut running = other.running.values();
        running.any(|running| running.ring.contains(&id) && !running.finished)
    };
    let has_one_master = state.world.starts == 0 && !state.has_standbys();
    let is_out = has_one_master && !state.is_in_run(*index);
    node.epoch.is_some() && is_out && !others().any(reduces)
}

/// A node speaks of a lower tag right after a higher one. The messages commute, as operations with
/// different tags do not know of one another: that the lower one comes first stands for both.
fn says_it_the_other_way_round(state: &State, action: &Action) -> bool {
    let (index, tag) = match action {
        Action::Call(index, tag) => (index, *tag),
        Action::Finish(index, op) => (index, op.tag.0),
        _ => return false,
    };
    state.nodes[*index].tail.is_some_and(|tail| tag < tail)
}

/// No fault is to come, and the dust of all that have been has settled: what is left are calls
/// and reports that only add to one another, in any order to the same end.
fn is_calm(state: &State) -> bool {
    let adds = |index: usize, message: &ToMaster| match message {
        ToMaster::EpochAcknowledged { .. }
        | ToMaster::OperationBegun { .. }
        | ToMaster::OperationDone { .. } => true,
        ToMaster::LinkState { peer, .. } => !state.is_cut(index, *peer),
        _ => false,
    };
    let Some(ruler) = state.ruler() else {
        return false;
    };
    let is_settled = |(index, node): (usize, &Shared<Node>)| {
        matches!(node.line, Line::Up(_))
            && node.at == ruler
            && state.is_in_run_of(ruler, index)
            && node.epoch == state.rulings[ruler].active
            && node.epoch.is_some()
            && node.hours == 0
            && node.up.iter().all(|frame| adds(index, &frame.message))
    };
    let mut living = state.nodes.iter().enumerate();
    let changes = |node: &Shared<Node>| {
        matches!(node.connect, Once::Wanted | Once::Calling)
            || matches!(node.update, Once::Wanted | Once::Calling)
    };
    state.world.faults_left == 0
        && state.rulings[ruler].complaint.is_none()
        && !state.nodes.iter().any(|node| node.lives() && changes(node))
        && living.all(|(index, node)| match node.lives() {
            true => is_settled((index, node)),
            false => !state.is_in_run_of(ruler, index),
        })
}

fn has_nothing_happened(state: &State) -> bool {
    state.nodes.iter().all(|node| {
        node.lives()
            && !node.touched
            && node.waits.is_empty()
            && node.up.is_empty()
            && node.uses.iter().all(|state| *state == Use::Idle)
            && node.failures.iter().all(|count| *count == 0)
            && !matches!(node.update, Once::Calling | Once::Done)
            && matches!(node.connect, Once::Never | Once::Wanted)
    }) && state.world.cut.is_empty()
}

fn run_to_rest(state: &mut State) {
    let delivery = |action: &Action| matches!(action, Action::Deliver(_));
    while let Some(next) = state.enabled(&[]).into_iter().find(delivery) {
        state.perform(&next);
    }
}

impl Model for Instance {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // What follows a broken rule says nothing new.
        if state.world.broken.is_empty() {
            actions.extend(self.chosen(state));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        #[cfg(feature = "sim")]
        pccl::mutation::with(self.mutation, || next.perform(&action));
        #[cfg(not(feature = "sim"))]
        next.perform(&action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! unbroken {
            ($name:ident) => {
                Property::always($name, |_, state: &State| {
                    !state.world.broken.contains_key($name)
                })
            };
        }
        vec![
            unbroken!(LINEAR),
            unbroken!(MAJORITY),
            unbroken!(ONE_OUTCOME),
            unbroken!(COMPLETE),
            unbroken!(MEMORY),
            unbroken!(ONE_REPLY),
            unbroken!(NOT_WRONGLY),
            Property::always(NO_HANG, |model: &Self, state: &State| {
                !model.is_end(state) || state.all_have_returned()
            }),
            Property::always(IN_STEP, |model: &Self, state: &State| {
                !model.is_end(state) || state.all_are_in_step()
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        self.standbys == 0 || state.losses() <= self.losses
    }
}

impl Instance {
    /// Nothing can happen any more but new faults. With several masters all must have met at one:
    /// that they do is a matter of time.
    fn is_end(&self, state: &State) -> bool {
        let is_fault = |action: &Action| matches!(action, Action::Fault(_));
        let is_together = self.standbys == 0 || state.are_together();
        is_together && state.world.broken.is_empty() && state.enabled(&[]).iter().all(is_fault)
    }
}
