//! Who is right: from what all members of a group present to one verdict, purely.
//!
//! The checks run in this order, each on those the earlier ones left over:
//!
//! 1. A state that makes no sense evicts its peer; where nobody's does, all fail, nobody leaves.
//! 2. A revision above the expected one evicts: a peer may raise it by one per committed sync.
//! 3. Nobody at the expected revision: all fail, nobody leaves, the expected revision stays.
//! 4. Where one peer says `EnforcePopular`, those that do not are evicted.
//! 5. Two or more peers that all only receive are evicted: nothing can ever come of it.
//! 6. The election: among peers that may send, are at the current revision and hold no tainted
//!    tensor, the content with most votes wins; a tie goes to the content of the lowest peer id,
//!    which is the member that has been there longest.
//! 7. Whose tensors are not the elected ones by name, order, type, count or flag is evicted, and so
//!    is a `SendOnly` peer that would have to receive.
//!
//! The master evicts whom a verdict names and asks again with the rest. Every eviction takes a peer
//! away, so this ends; eviction in 7 never takes a vote from the winner, so the second answer has
//! the same one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Presentation, SyncStrategy, quoted};
use crate::types::{PeerId, Revision};

/// What the master does about a sync that all members of the group have called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These break the rules: evict them with the reason, then elect again among the rest.
    Evict(BTreeMap<PeerId, String>),
    /// All callers get this error. Nobody is evicted, the expected revision stays.
    Fail(Failure),
    /// What everybody has in the end, and who needs what for it.
    Plan(Plan),
}

/// Why a sync fails for all without anybody breaking the rules alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody presented the expected revision.
    StaleRevision {
        /// The newest that anybody presented.
        presented: Revision,
        /// One above the last committed.
        expected: Revision,
    },
    /// Nobody may send a clean copy of the current revision.
    NoCleanState {
        /// What stands in the way.
        reason: String,
    },
    /// Nobody presented a state that makes sense.
    InvalidState {
        /// What is wrong with the first.
        reason: String,
    },
}

/// The elected state and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The revision everybody has once the sync is committed.
    pub revision: Revision,
    /// The elected tensors; other rooms name them by their index here.
    pub entries: Vec<Entry>,
    /// Who has all of it already and may send. Empty only where nobody receives.
    pub holders: BTreeSet<PeerId>,
    /// Who receives which entries, ascending. Peers that only learn the revision are absent.
    pub receive: BTreeMap<PeerId, Vec<usize>>,
}

impl Plan {
    /// Bytes that `peer` receives.
    pub fn receive_bytes(&self, peer: PeerId) -> u64 {
        let indices = self.receive.get(&peer).map_or(&[][..], Vec::as_slice);
        indices
            .iter()
            .filter_map(|&index| self.entries.get(index))
            .fold(0, |sum, entry| sum.saturating_add(entry.len_bytes()))
    }
}

/// The verdict on what all members of a group present.
///
/// `expected` is one above the last committed revision; `None` in a group that is fresh or that
/// everybody had left, where any revision is legal and the highest that can be elected counts as
/// current.
///
/// Tensors whose content may differ between peers move only to peers below the elected revision
/// (a newcomer, say), and to those that hold them tainted. A peer alone succeeds with what it has,
/// whatever its strategy, unless that is stale or tainted.
pub fn elect(
    expected: Option<Revision>,
    presentations: &BTreeMap<PeerId, Presentation>,
) -> Verdict {
    if let Some(verdict) = judge_validity(presentations) {
        return verdict;
    }
    if let Some(verdict) = expected.and_then(|expected| judge_revisions(expected, presentations)) {
        return verdict;
    }
    if let Some(verdict) = judge_strategies(presentations) {
        return verdict;
    }
    let alone = presentations.len() == 1;
    let senders: BTreeMap<PeerId, &Presentation> = presentations
        .iter()
        .filter(|(_, p)| alone || p.strategy != SyncStrategy::ReceiveOnly)
        .map(|(&peer, p)| (peer, p))
        .collect();
    let clean = |p: &&Presentation| p.first_tainted().is_none();
    let newest = || {
        senders
            .values()
            .copied()
            .filter(clean)
            .map(|p| p.revision)
            .max()
    };
    let Some((revision, entries)) = expected.or_else(newest).and_then(|current| {
        let electable = senders
            .iter()
            .filter(|(_, p)| p.revision == current && clean(p));
        Some((current, most_popular(electable)?.to_vec()))
    }) else {
        return Verdict::Fail(Failure::NoCleanState {
            reason: why_nobody_is_electable(expected, &senders),
        });
    };
    plan(revision, entries, presentations)
}

fn judge_validity(presentations: &BTreeMap<PeerId, Presentation>) -> Option<Verdict> {
    let invalid: BTreeMap<PeerId, String> = presentations
        .iter()
        .filter_map(|(&peer, p)| Some((peer, p.check().err()?)))
        .collect();
    if invalid.len() == presentations.len() {
        let reason = match invalid.first_key_value() {
            Some((_, reason)) => reason.clone(),
            None => "nobody presented one".into(),
        };
        return Some(Verdict::Fail(Failure::InvalidState { reason }));
    }
    evict(
        invalid
            .into_iter()
            .map(|(peer, reason)| (peer, format!("its shared state is invalid: {reason}"))),
    )
}

fn judge_revisions(
    expected: Revision,
    presentations: &BTreeMap<PeerId, Presentation>,
) -> Option<Verdict> {
    let ahead = presentations
        .iter()
        .filter(|(_, p)| p.revision > expected)
        .map(|(&peer, p)| {
            let presented = p.revision;
            let reason = format!(
                "it presented revision {presented} where {expected} is expected: \
                 the revision rises by one with each committed sync"
            );
            (peer, reason)
        });
    evict(ahead).or_else(|| {
        let presented = presentations.values().map(|p| p.revision).max()?;
        (presented < expected).then_some(Verdict::Fail(Failure::StaleRevision {
            presented,
            expected,
        }))
    })
}

fn judge_strategies(presentations: &BTreeMap<PeerId, Presentation>) -> Option<Verdict> {
    let with = |strategy| {
        presentations
            .values()
            .filter(move |p| p.strategy == strategy)
            .count()
    };
    if with(SyncStrategy::EnforcePopular) > 0 {
        return evict(
            presentations
                .iter()
                .filter(|(_, p)| p.strategy != SyncStrategy::EnforcePopular)
                .map(|(&peer, p)| {
                    let strategy = p.strategy;
                    let reason = format!(
                        "it synchronised with {strategy:?} while others of its group use EnforcePopular"
                    );
                    (peer, reason)
                }),
        );
    }
    let all_receive = with(SyncStrategy::ReceiveOnly) == presentations.len();
    if all_receive && presentations.len() > 1 {
        let reason = "every peer of its group synchronised with ReceiveOnly: nobody would send";
        return evict(presentations.keys().map(|&peer| (peer, reason.into())));
    }
    None
}

/// The content with most votes; among equals that of the lowest peer id.
fn most_popular<'a>(
    electable: impl Iterator<Item = (&'a PeerId, &'a &'a Presentation)>,
) -> Option<&'a [Entry]> {
    let mut votes: BTreeMap<&[Entry], (usize, Reverse<PeerId>)> = BTreeMap::new();
    for (&peer, p) in electable {
        // Peers come in the order of their ids: the first is the lowest.
        let (count, _) = votes.entry(&p.entries).or_insert((0, Reverse(peer)));
        *count += 1;
    }
    let (entries, _) = votes.into_iter().max_by_key(|&(_, rank)| rank)?;
    Some(entries)
}

fn why_nobody_is_electable(
    expected: Option<Revision>,
    senders: &BTreeMap<PeerId, &Presentation>,
) -> String {
    let tainted = senders
        .iter()
        .filter(|(_, p)| expected.is_none_or(|expected| p.revision == expected))
        .find_map(|(&peer, p)| Some((peer, p.first_tainted()?)));
    match (tainted, expected) {
        (Some((peer, entry)), _) => {
            let name = quoted(&entry.name);
            format!(
                "all who may send hold tensors that a failed sync left half written, \
                 the first of them {name} of peer {peer}"
            )
        }
        (None, Some(expected)) => {
            format!("nobody who may send presents revision {expected}")
        }
        (None, None) => "nobody may send".into(),
    }
}

fn plan(
    revision: Revision,
    entries: Vec<Entry>,
    presentations: &BTreeMap<PeerId, Presentation>,
) -> Verdict {
    let mut evicted = BTreeMap::new();
    let mut holders = BTreeSet::new();
    let mut receive = BTreeMap::new();
    for (&peer, p) in presentations {
        if let Some(difference) = layout_difference(&entries, &p.entries) {
            let reason = format!("its shared state is not the elected one: {difference}");
            evicted.insert(peer, reason);
            continue;
        }
        let outdated = p.revision < revision;
        let missing: Vec<usize> = (0..entries.len())
            .filter(|&index| {
                let (elected, own) = (&entries[index], &p.entries[index]);
                let renewed = elected.allows_content_inequality() && outdated;
                own.tainted || own.digest != elected.digest || renewed
            })
            .collect();
        if p.strategy == SyncStrategy::SendOnly && (outdated || !missing.is_empty()) {
            let cause = match missing.first() {
                _ if outdated => format!("revision {} is outdated by {revision}", p.revision),
                Some(&index) => {
                    format!("tensor {} lost the election", quoted(&entries[index].name))
                }
                None => continue,
            };
            let reason = format!("it synchronised with SendOnly, but must receive: {cause}");
            evicted.insert(peer, reason);
        } else if !missing.is_empty() {
            receive.insert(peer, missing);
        } else if p.strategy != SyncStrategy::ReceiveOnly {
            holders.insert(peer);
        }
    }
    evict(evicted).unwrap_or(Verdict::Plan(Plan {
        revision,
        entries,
        holders,
        receive,
    }))
}

/// The first way in which two states differ apart from content, for people.
fn layout_difference(elected: &[Entry], own: &[Entry]) -> Option<String> {
    for (index, (e, o)) in elected.iter().zip(own).enumerate() {
        let name = quoted(&e.name);
        let flag = |entry: &Entry| entry.allows_content_inequality();
        if e.name != o.name {
            let own_name = quoted(&o.name);
            return Some(format!("tensor {index} is {own_name}, not {name}"));
        } else if e.data_type != o.data_type {
            let (own_type, wanted) = (o.data_type, e.data_type);
            return Some(format!("tensor {name} holds {own_type}, not {wanted}"));
        } else if e.count != o.count {
            let (own_count, wanted) = (o.count, e.count);
            return Some(format!(
                "tensor {name} has {own_count} elements, not {wanted}"
            ));
        } else if flag(e) != flag(o) {
            let (own_flag, wanted) = (flag(o), flag(e));
            return Some(format!(
                "tensor {name} has allow_content_inequality {own_flag}, not {wanted}"
            ));
        }
    }
    let first_beyond = |longer: &[Entry], shorter: &[Entry]| {
        let entry = longer.get(shorter.len())?;
        Some(quoted(&entry.name))
    };
    if let Some(name) = first_beyond(elected, own) {
        return Some(format!("tensor {name} is missing"));
    }
    first_beyond(own, elected).map(|name| format!("tensor {name} is one too many"))
}

fn evict(peers: impl IntoIterator<Item = (PeerId, String)>) -> Option<Verdict> {
    let peers: BTreeMap<PeerId, String> = peers.into_iter().collect();
    (!peers.is_empty()).then_some(Verdict::Evict(peers))
}
