//! What a state of the model is: the production machines, what is on its way between them, and
//! what the checks must remember.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use pccl::protocol::master::{ConnectionId, Master};
use pccl::protocol::peer::{Peer, RequestId};
use pccl::wire::control::{Frame, Hello, ToMaster, ToPeer};
use pccl::{Epoch, OperationId, PeerId, Timestamp};

use super::shared::Shared;

/// One state. Two are the same if their fingerprints are.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// In the order in which peers list them: a master, and its standbys.
    pub(crate) masters: Vec<Shared<Master>>,
    /// What each of them has told.
    pub(crate) rulings: Vec<Shared<Ruling>>,
    pub(crate) nodes: Vec<Shared<Node>>,
    pub(crate) world: Shared<World>,
    /// Whether what the master says arrives in a step of its own; the same in all states of an
    /// instance.
    pub(crate) delivers_later: bool,
}

impl State {
    pub(crate) fn seal(&mut self) {
        self.masters.iter_mut().for_each(Shared::seal);
        self.rulings.iter_mut().for_each(Shared::seal);
        self.nodes.iter_mut().for_each(Shared::seal);
        self.world.seal();
    }

    fn parts(&self) -> impl Iterator<Item = Option<u64>> {
        let nodes = self.nodes.iter().map(|node| node.fingerprint);
        let masters = self.masters.iter().map(|master| master.fingerprint);
        let rulings = self.rulings.iter().map(|ruling| ruling.fingerprint);
        let world = [self.world.fingerprint];
        nodes.chain(masters).chain(rulings).chain(world)
    }

    pub(crate) fn node_of(&self, peer: PeerId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == Some(peer))
    }

    /// Whether a node's peer is no longer in the run, or will find that it is not.
    pub(crate) fn is_lost(&self, node: usize) -> bool {
        let is_out = |ruler| !self.is_in_run_of(ruler, node);
        !self.nodes[node].lives() || self.ruler().is_some_and(is_out)
    }

    /// Peers that are lost.
    pub(crate) fn losses(&self) -> usize {
        let nodes = 0..self.nodes.len();
        nodes.filter(|node| self.is_lost(*node)).count()
    }

    /// Which master rules: of two, the one in the higher term has the majority.
    pub(crate) fn ruler(&self) -> Option<usize> {
        let ruling = (0..self.masters.len()).filter(|master| self.masters[*master].rules());
        ruling.max_by_key(|master| self.masters[*master].run().1)
    }

    /// Whether there are masters beside the first.
    pub(crate) fn has_standbys(&self) -> bool {
        self.masters.len() > 1
    }

    /// Whether this master counts this node's peer among the registered or accepted.
    pub(crate) fn is_in_run_of(&self, master: usize, node: usize) -> bool {
        let mut peers = self.masters[master].peers();
        peers.any(|name| Some(name.id) == self.nodes[node].id)
    }

    /// Whether any master does.
    pub(crate) fn is_in_run(&self, node: usize) -> bool {
        (0..self.masters.len()).any(|master| self.is_in_run_of(master, node))
    }

    /// Whether the master that a node speaks with rules.
    pub(crate) fn is_ruled(&self, node: usize) -> bool {
        self.masters[self.nodes[node].at].rules()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().for_each(|part| part.hash(state));
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.parts().eq(other.parts())
    }
}

/// The control connection of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Line {
    /// There is none, and none is wanted.
    None,
    /// Frames pass both ways.
    Up(ConnectionId),
    /// Both ends know that it broke; this is what the peer will say on the next one.
    Broken(Hello),
    /// Nothing passes, and nobody has noticed.
    Deaf(ConnectionId),
}

/// What the caller at a node does about one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// May call, for the first time or again.
    Idle,
    /// Waits for the reply.
    Calling,
    /// Has succeeded, or is alone: does not call again.
    Done,
}

/// A joint call, or a connect, that the caller at a node makes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Once {
    Never,
    Wanted,
    Calling,
    Done,
}

/// The data of one operation at one node.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Running {
    pub(crate) ring: Vec<PeerId>,
    pub(crate) finished: bool,
}

/// A process: a peer machine, its caller, its ends of links and connections.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// None once it is dead or gone: what it was does not matter to anybody any more.
    pub(crate) peer: Option<Peer>,
    pub(crate) id: Option<PeerId>,
    pub(crate) alive: bool,
    /// Hours that have passed on its own clock: each is a deadline.
    pub(crate) hours: u32,
    /// A fault here may lead to its eviction.
    pub(crate) touched: bool,
    pub(crate) line: Line,
    /// The master that it speaks with, or spoke with last.
    pub(crate) at: usize,
    /// Other masters that have not noticed yet that it does not speak with them any more.
    pub(crate) left: BTreeMap<usize, ConnectionId>,
    /// Said and not heard by the master yet.
    pub(crate) up: VecDeque<Frame<ToMaster>>,
    /// The tag of which it spoke last, if the master has not heard that and it said nothing else
    /// since.
    pub(crate) tail: Option<u64>,
    /// Said by the master and not heard here yet; always empty where messages from the master
    /// arrive at once.
    pub(crate) down: VecDeque<Frame<ToPeer>>,
    /// The newest epoch that wants links, and whose.
    pub(crate) wired: Epoch,
    pub(crate) wanted: BTreeSet<PeerId>,
    pub(crate) links_up: BTreeSet<PeerId>,
    pub(crate) running: BTreeMap<OperationId, Running>,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) ring: Vec<PeerId>,
    pub(crate) connect: Once,
    pub(crate) update: Once,
    pub(crate) uses: Vec<Use>,
    /// How often each tag is still to be reduced under.
    pub(crate) rounds: Vec<u8>,
    /// Failures that its caller was told, by tag.
    pub(crate) failures: Vec<u8>,
    /// Operations of the present epoch whose end it has heard.
    pub(crate) heard: BTreeSet<OperationId>,
    pub(crate) waits: BTreeSet<RequestId>,
    /// The operation whose memory was given back last, by tag: what the reply is about.
    pub(crate) ended: BTreeMap<RequestId, OperationId>,
}

impl Node {
    /// Alive, and part of a run as far as it knows.
    pub(crate) fn lives(&self) -> bool {
        self.alive && !self.is_gone()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.gone().is_some())
    }

    /// Forgets all but what others may still see of one that is dead or gone.
    pub(crate) fn bury(&mut self, keeps: impl Fn(&OperationId) -> bool) {
        self.peer = None;
        self.touched = false;
        self.hours = 0;
        self.tail = None;
        self.epoch = None;
        self.connect = Once::Never;
        self.update = Once::Never;
        self.ring.clear();
        self.uses.clear();
        self.rounds.clear();
        self.failures.clear();
        self.wired = Epoch::default();
        self.wanted.clear();
        self.links_up.clear();
        self.heard.clear();
        self.waits.clear();
        self.ended.clear();
        self.running
            .retain(|op, running| running.finished && keeps(op));
    }
}

/// Frames are hashed without their numbers. On a connection they follow one another without a gap
/// from the last one heard, so their order says it all.
impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.peer.hash(state);
        (self.id, self.alive, self.hours, self.touched).hash(state);
        (&self.line, self.at, &self.left).hash(state);
        self.up.len().hash(state);
        self.up.iter().for_each(|frame| frame.message.hash(state));
        self.down.len().hash(state);
        self.down.iter().for_each(|frame| frame.message.hash(state));
        (self.wired, &self.wanted, &self.links_up, &self.running).hash(state);
        (self.epoch, &self.ring, self.connect, self.update).hash(state);
        (
            &self.uses,
            &self.rounds,
            &self.failures,
            &self.waits,
            &self.ended,
        )
            .hash(state);
    }
}

/// The end of an operation at those who hold to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ended {
    pub(crate) rolled_back: bool,
    pub(crate) contributors: Option<Vec<PeerId>>,
}

/// What a master has told, as one counts it who hears all of it.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Ruling {
    /// The master's clock. Peers have theirs.
    pub(crate) now: Timestamp,
    /// When it heard last of a link that cannot be made, while it waits for more.
    pub(crate) complaint: Option<Timestamp>,
    /// Uses of each tag that it settled in its active epoch.
    pub(crate) settled: BTreeMap<u64, u32>,
    pub(crate) active: Option<Epoch>,
    pub(crate) voters: BTreeSet<PeerId>,
    /// Known dead, or gone by their own will.
    pub(crate) agreed: BTreeSet<PeerId>,
    pub(crate) proposed: Option<Epoch>,
    /// Whether operations are committed once the proposed epoch is active.
    pub(crate) to_decide: BTreeMap<OperationId, bool>,
    pub(crate) acknowledged: BTreeSet<PeerId>,
}

impl Ruling {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }
}

/// How an operation ends, by the word of a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Decision {
    pub(crate) by: usize,
    pub(crate) is_committed: bool,
}

/// What is no machine's.
#[derive(Clone, Debug, Hash)]
pub(crate) struct World {
    pub(crate) faults_left: u8,
    /// How often a master was started again.
    pub(crate) starts: u8,
    /// Pairs of nodes between which no link can be made, the lower first.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// The newest wiring in which each of them was reported.
    pub(crate) complained: BTreeMap<(usize, usize), Epoch>,
    /// Callers cancelled: what they were told is not what others were told.
    pub(crate) uneven: bool,
    /// A master died while somebody waited in a joint call: it may enter the run in a later epoch than
    /// others, and is not told of what failed before that.
    pub(crate) skips: bool,

    /// The ring of each epoch that somebody may still enter.
    pub(crate) rings: BTreeMap<Epoch, Vec<PeerId>>,
    /// Of each operation that somebody may still end.
    pub(crate) ends: BTreeMap<OperationId, Ended>,
    /// Whether a master has committed or aborted what somebody may still end.
    pub(crate) decided: BTreeMap<OperationId, Decision>,
    /// Decided with an epoch for which no majority could be had. Where the master dies, those who were
    /// silent may be its majority, and go on without whoever was told.
    pub(crate) detached: BTreeSet<OperationId>,

    /// Properties that do not hold, with what was seen.
    pub(crate) broken: BTreeMap<&'static str, String>,
}
