//! Elections told as scenarios, as a matrix of rules and as properties; transfers byte by byte.

use std::collections::BTreeMap;

use super::election::{Failure, Plan, Verdict, elect};
use super::{Entry, Presentation, SyncStrategy, digest};
use crate::types::{DataType, PeerId, Revision};

mod properties;
mod rules;
mod scenarios;
mod transfers;

const ENFORCE: SyncStrategy = SyncStrategy::EnforcePopular;
const RECEIVE: SyncStrategy = SyncStrategy::ReceiveOnly;
const SEND: SyncStrategy = SyncStrategy::SendOnly;

/// Tensors named `a`, `b`, ..., one for each byte of `content`, filled with it.
fn entries(content: &[u8]) -> Vec<Entry> {
    let names = ["a", "b", "c", "d", "e"];
    names
        .iter()
        .zip(content)
        .map(|(name, byte)| Entry {
            name: (*name).into(),
            data_type: DataType::U8,
            count: 10,
            digest: Some(digest(&[*byte; 10])),
            tainted: false,
        })
        .collect()
}

fn present(revision: u64, strategy: SyncStrategy, content: &[u8]) -> Presentation {
    Presentation {
        revision: Revision(revision),
        strategy,
        entries: entries(content),
    }
}

/// Taints the tensor with this index.
fn tainted(mut presentation: Presentation, index: usize) -> Presentation {
    presentation.entries[index].tainted = true;
    presentation
}

/// Lets the content of the tensor with this index differ between peers.
fn unequal(mut presentation: Presentation, index: usize) -> Presentation {
    presentation.entries[index].digest = None;
    presentation
}

/// A group as the master sees it: elects, evicts, commits, and remembers the expected revision.
#[derive(Default)]
struct Group {
    expected: Option<Revision>,
}

/// How a sync of the group ended, evictions included.
#[derive(Debug)]
struct Outcome {
    evicted: BTreeMap<u64, String>,
    end: Result<Plan, Option<Failure>>,
}

impl Group {
    fn expecting(revision: u64) -> Self {
        Self {
            expected: Some(Revision(revision)),
        }
    }

    fn sync<const N: usize>(&mut self, calls: [(u64, Presentation); N]) -> Outcome {
        let mut calls: BTreeMap<PeerId, Presentation> = calls
            .into_iter()
            .map(|(peer, call)| (PeerId(peer), call))
            .collect();
        let mut evicted = BTreeMap::new();
        let end = loop {
            if calls.is_empty() {
                // Everybody has left: the revision counter is free again.
                self.expected = None;
                break Err(None);
            }
            match elect(self.expected, &calls) {
                Verdict::Evict(peers) => {
                    assert!(!peers.is_empty());
                    for (peer, reason) in peers {
                        calls.remove(&peer).expect("only callers are evicted");
                        evicted.insert(peer.0, reason);
                    }
                }
                Verdict::Fail(failure) => break Err(Some(failure)),
                Verdict::Plan(plan) => {
                    self.expected = Some(Revision(plan.revision.0 + 1));
                    break Ok(plan);
                }
            }
        };
        Outcome { evicted, end }
    }
}

impl Outcome {
    /// The plan of a sync that nobody was evicted from.
    #[track_caller]
    fn plan(self) -> Plan {
        assert!(self.evicted.is_empty(), "evicted: {:?}", self.evicted);
        self.end.unwrap()
    }

    #[track_caller]
    fn evicted(&self, peers: &[u64]) {
        let evicted: Vec<u64> = self.evicted.keys().copied().collect();
        assert_eq!(evicted, peers, "{self:?}");
    }

    #[track_caller]
    fn failure(self) -> Failure {
        assert!(self.evicted.is_empty(), "evicted: {:?}", self.evicted);
        self.end.unwrap_err().unwrap()
    }
}

/// Asserts who holds and who receives what.
#[track_caller]
fn assert_plan(plan: &Plan, revision: u64, holders: &[u64], receive: &[(u64, &[usize])]) {
    assert_eq!(plan.revision, Revision(revision));
    let actual: Vec<u64> = plan.holders.iter().map(|peer| peer.0).collect();
    assert_eq!(actual, holders, "holders of {plan:?}");
    let actual: Vec<(u64, &[usize])> = plan
        .receive
        .iter()
        .map(|(peer, indices)| (peer.0, indices.as_slice()))
        .collect();
    assert_eq!(actual, receive, "receivers of {plan:?}");
}
