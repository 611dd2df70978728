//! Feeds a peer's machine and obeys it: its connection, its links, its data, its caller.

use std::collections::{BTreeSet, VecDeque};

use pccl::protocol::master;
use pccl::protocol::peer::{self, Command, Reply, RequestId};
use pccl::wire::control::ToMaster;
use pccl::{
    CollectiveError, DataType, Descriptor, Gone, MembershipError, PeerId, ReduceOp, Tag, Timestamp,
};

use super::driving::{DEADLINE, UPDATE};
use super::properties::{MEMORY, NOT_WRONGLY, ONE_REPLY};
use super::state::{Line, Once, Running, State, Use};

impl State {
    pub(crate) fn call(&mut self, node: usize, tag: u64) {
        let descriptor = Descriptor {
            count: 100,
            data_type: DataType::F32,
            op: ReduceOp::Sum,
            quantization: None,
        };
        self.nodes[node].change().uses[tag as usize] = Use::Calling;
        let command = Command::AllReduce {
            tag: Tag(tag),
            descriptor,
            deadline: (tag == 0).then_some(DEADLINE),
        };
        self.command(node, RequestId(tag), command);
    }

    pub(crate) fn command(&mut self, node: usize, request: RequestId, command: Command) {
        self.nodes[node].change().waits.insert(request);
        self.tell_peer(node, peer::Input::Command { request, command });
    }

    pub(crate) fn tell_peer(&mut self, node: usize, input: peer::Input) {
        self.tell_peer_at(node, Timestamp::default(), input);
    }

    /// As `tell_peer`, on that peer's own clock.
    pub(crate) fn tell_peer_at(&mut self, node: usize, now: Timestamp, input: peer::Input) {
        if let Some(peer) = &mut self.nodes[node].change().peer {
            peer.handle(now, input);
        }
        while let Some(output) = self.next_output(node) {
            self.obey_peer(node, output);
        }
    }

    fn next_output(&mut self, node: usize) -> Option<peer::Output> {
        self.nodes[node].change().peer.as_mut()?.poll_output()
    }

    fn obey_peer(&mut self, index: usize, output: peer::Output) {
        match output {
            peer::Output::ReachMaster { hello, .. } => {
                let node = self.nodes[index].change();
                node.up.clear();
                node.down.clear();
                node.tail = None;
                // Where the master has not noticed, its end stays.
                if let Line::Deaf(connection) = node.line {
                    node.left.insert(node.at, connection);
                }
                node.line = Line::Broken(hello);
            }
            peer::Output::LeaveMaster => self.close_up(index),
            peer::Output::Send(frame) => {
                let node = self.nodes[index].change();
                if frame.sequence > 0 {
                    node.tail = tag_of(&frame.message);
                    if matches!(node.line, Line::Up(_)) {
                        node.up.push_back(frame);
                    }
                }
            }
            peer::Output::Wire { epoch, links } => {
                let wanted: BTreeSet<PeerId> = links.iter().map(|link| link.peer.id).collect();
                let node = self.nodes[index].change();
                node.links_up.retain(|peer| wanted.contains(peer));
                node.wanted = wanted;
                node.wired = epoch;
            }
            peer::Output::OpenEpoch { epoch, membership } => {
                let ring: Vec<PeerId> = membership.ring.iter().map(|name| name.id).collect();
                self.note_epoch(index, epoch, &ring);
                let node = self.nodes[index].change();
                node.epoch = Some(epoch);
                node.ring = ring;
                node.heard.clear();
            }
            peer::Output::BeginOperation { op, ring, .. } => {
                let running = Running {
                    ring,
                    finished: false,
                };
                let node = self.nodes[index].change();
                if node.running.insert(op, running).is_some() {
                    self.violate(MEMORY, format!("node {index} begins {op} twice"));
                }
            }
            peer::Output::EndOperation { op, roll_back } => {
                self.note_end(index, op, roll_back);
                self.note_heard(index, op);
                let node = self.nodes[index].change();
                node.running.remove(&op);
                node.ended.insert(RequestId(op.tag.0), op);
                self.tell_peer(index, peer::Input::OperationEnded { op });
            }
            peer::Output::NoteSettled { op } => self.note_heard(index, op),
            peer::Output::BeginSync { .. } => {}
            peer::Output::Reply { request, reply } => self.on_reply(index, request, reply),
            peer::Output::Gone(gone) => self.on_gone(index, &gone),
        }
    }

    /// The peer closes its connection: what it said before is read, then the end.
    fn close_up(&mut self, node: usize) {
        let line = std::mem::replace(&mut self.nodes[node].change().line, Line::None);
        let up = std::mem::take(&mut self.nodes[node].change().up);
        self.nodes[node].change().down = VecDeque::new();
        let master = self.nodes[node].at;
        match line {
            Line::Up(connection) => {
                for frame in up {
                    self.tell_master(master, master::Input::Message { connection, frame });
                }
                let reason = "closed by the other side".to_owned();
                self.tell_master(master, master::Input::Closed { connection, reason });
            }
            Line::Deaf(connection) => {
                self.nodes[node].change().left.insert(master, connection);
            }
            Line::None | Line::Broken(_) => {}
        }
    }

    fn on_gone(&mut self, index: usize, gone: &Gone) {
        let node = self.nodes[index].change();
        node.wanted.clear();
        node.links_up.clear();
        let touched = node.touched || !self.world.cut.is_empty();
        if !touched && matches!(gone, Gone::Evicted { .. }) {
            self.violate(NOT_WRONGLY, format!("node {index}: {gone}"));
        }
    }

    fn on_reply(&mut self, index: usize, request: RequestId, reply: Reply) {
        if !self.nodes[index].change().waits.remove(&request) {
            self.violate(ONE_REPLY, format!("node {index}: {reply:?} to nothing"));
        }
        let is_gone = self.nodes[index].is_gone();
        let result = match reply {
            Reply::AllReduce(result) => result,
            Reply::Connect(result) => {
                // A newcomer that others cannot reach is refused.
                let may_be_refused = self.nodes[index].touched || !self.world.cut.is_empty();
                let is_expected = result.is_ok() || is_gone || may_be_refused;
                self.nodes[index].change().connect = Once::Done;
                return self.expect(is_expected, index, &format!("{result:?}"));
            }
            Reply::Membership(result) => {
                if request == UPDATE {
                    let node = self.nodes[index].change();
                    if self.world.uneven && result == Err(MembershipError::Cancelled) {
                        node.update = Once::Wanted;
                        return;
                    }
                    node.update = Once::Done;
                }
                return self.expect(result.is_ok() || is_gone, index, &format!("{result:?}"));
            }
            Reply::Pending(_) | Reply::Sync(_) => {
                return self.expect(false, index, "an answer to no question");
            }
        };
        let tag = request.0 as usize;
        let next = match &result {
            Ok(contributors) => {
                let op = self.nodes[index].ended.get(&request).copied();
                match op {
                    Some(op) => self.note_contributors(op, contributors.clone()),
                    None => self.violate(MEMORY, format!("node {index} ended nothing")),
                }
                let rounds = &mut self.nodes[index].change().rounds[tag];
                *rounds = rounds.saturating_sub(1);
                match *rounds {
                    0 => Use::Done,
                    _ => Use::Idle,
                }
            }
            Err(CollectiveError::TooFewPeers { .. } | CollectiveError::Gone(_)) => Use::Done,
            Err(
                CollectiveError::PeersLost { .. }
                | CollectiveError::Aborted { .. }
                | CollectiveError::DeadlinePassed { .. },
            ) => {
                self.nodes[index].change().failures[tag] += 1;
                Use::Idle
            }
            Err(CollectiveError::Cancelled) if self.world.uneven => Use::Idle,
            Err(error) => {
                let seen = format!("node {index}, tag {tag}: {error}");
                self.violate(ONE_REPLY, seen);
                Use::Done
            }
        };
        let node = self.nodes[index].change();
        node.ended.remove(&request);
        node.uses[tag] = next;
    }

    fn expect(&mut self, is_expected: bool, index: usize, seen: &str) {
        if !is_expected {
            self.violate(ONE_REPLY, format!("node {index}: {seen}"));
        }
    }
}

/// The tag of the operation that a message is about, where it says how far that came.
fn tag_of(message: &ToMaster) -> Option<u64> {
    match message {
        ToMaster::OperationBegun { op, .. } | ToMaster::OperationDone { op } => Some(op.tag.0),
        _ => None,
    }
}
