//! Who receives from whom: spreads the receivers of a plan evenly over its holders, and finds
//! another holder when one is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::election::Plan;
use crate::types::PeerId;

/// A holder for each receiver of the plan.
///
/// The largest receivers choose first, each the holder with the fewest bytes to send, then the
/// fewest receivers, then the lowest id. `load` is what holders send beside this plan, in bytes;
/// a holder that is absent sends nothing. The answer is empty where the plan has no holder.
pub fn assign(plan: &Plan, load: &BTreeMap<PeerId, u64>) -> BTreeMap<PeerId, PeerId> {
    let mut receivers: Vec<(u64, PeerId)> = plan
        .receive
        .keys()
        .map(|&receiver| (plan.receive_bytes(receiver), receiver))
        .collect();
    receivers.sort_by_key(|&(bytes, receiver)| (std::cmp::Reverse(bytes), receiver));

    let mut duty: BTreeMap<PeerId, Duty> = plan
        .holders
        .iter()
        .map(|&holder| {
            let bytes = load.get(&holder).copied().unwrap_or(0);
            (
                holder,
                Duty {
                    bytes,
                    receivers: 0,
                },
            )
        })
        .collect();
    let mut assignment = BTreeMap::new();
    for (bytes, receiver) in receivers {
        if let Some((&holder, duty)) = duty
            .iter_mut()
            .min_by_key(|(holder, duty)| (**duty, **holder))
        {
            duty.add(bytes);
            assignment.insert(receiver, holder);
        }
    }
    assignment
}

/// Another holder for `receiver`, or `None` where all have been tried or are lost.
///
/// `assignment` is how the receivers are spread now, `failed` the pairs (receiver, holder) whose
/// transfer failed, `lost` the peers that have left since the plan was made. All holders of a plan
/// have equal digests. Content that may differ between peers differs between holders too: what
/// the receiver has of a tensor that is not complete is worth nothing any more.
pub fn reassign(
    plan: &Plan,
    assignment: &BTreeMap<PeerId, PeerId>,
    failed: &BTreeSet<(PeerId, PeerId)>,
    lost: &BTreeSet<PeerId>,
    receiver: PeerId,
) -> Option<PeerId> {
    plan.holders
        .iter()
        .copied()
        .filter(|holder| !lost.contains(holder) && !failed.contains(&(receiver, *holder)))
        .min_by_key(|&holder| {
            let mut duty = Duty::default();
            for (&other, _) in assignment
                .iter()
                .filter(|&(other, h)| *h == holder && *other != receiver && !lost.contains(other))
            {
                duty.add(plan.receive_bytes(other));
            }
            (duty, holder)
        })
}

/// What a holder has to send, compared in this order.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Duty {
    bytes: u64,
    receivers: usize,
}

impl Duty {
    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.receivers += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_state::{Entry, digest};
    use crate::types::{DataType, Revision};

    #[test]
    fn receivers_are_spread_evenly_over_holders() {
        let plan = plan(
            &[1, 2, 3],
            &[
                (4, &[0]),
                (5, &[0]),
                (6, &[0]),
                (7, &[0]),
                (8, &[0]),
                (9, &[0]),
            ],
        );
        let assignment = assign(&plan, &BTreeMap::new());
        for holder in [1, 2, 3] {
            let receivers = assignment.values().filter(|&&h| h == PeerId(holder));
            assert_eq!(receivers.count(), 2);
        }
    }

    #[test]
    fn bytes_count_not_receivers() {
        // Entry 1 has as many bytes as three of entry 0.
        let plan = plan(&[1, 2], &[(3, &[0]), (4, &[0]), (5, &[0]), (6, &[1])]);
        let assignment = assign(&plan, &BTreeMap::new());
        assert_eq!(assignment[&PeerId(6)], PeerId(1));
        for receiver in [3, 4, 5] {
            assert_eq!(assignment[&PeerId(receiver)], PeerId(2));
        }
    }

    #[test]
    fn a_holder_that_is_busy_elsewhere_gets_less() {
        let plan = plan(&[1, 2], &[(3, &[0]), (4, &[0])]);
        let load = BTreeMap::from([(PeerId(1), 1 << 30)]);
        let assignment = assign(&plan, &load);
        assert!(assignment.values().all(|&holder| holder == PeerId(2)));
    }

    #[test]
    fn nothing_is_assigned_without_holders() {
        assert!(assign(&plan(&[], &[(3, &[0])]), &BTreeMap::new()).is_empty());
        assert!(assign(&plan(&[1], &[]), &BTreeMap::new()).is_empty());
    }

    #[test]
    fn another_holder_serves_until_none_is_left() {
        let plan = plan(&[1, 2, 3], &[(4, &[0]), (5, &[0])]);
        let assignment = assign(&plan, &BTreeMap::new());
        let (receiver, first) = (PeerId(4), assignment[&PeerId(4)]);
        assert_eq!(first, PeerId(1));

        // Peer 2 serves peer 5 already, so the idle one takes over.
        let lost = BTreeSet::from([first]);
        let second = reassign(&plan, &assignment, &BTreeSet::new(), &lost, receiver);
        assert_eq!(second, Some(PeerId(3)));

        let mut failed = BTreeSet::from([(receiver, PeerId(3))]);
        let third = reassign(&plan, &assignment, &failed, &lost, receiver);
        assert_eq!(third, Some(PeerId(2)));

        failed.insert((receiver, PeerId(2)));
        assert_eq!(reassign(&plan, &assignment, &failed, &lost, receiver), None);
        // A failure belongs to the pair: others may still use that holder.
        assert!(reassign(&plan, &assignment, &failed, &lost, PeerId(5)).is_some());
    }

    fn plan(holders: &[u64], receive: &[(u64, &[usize])]) -> Plan {
        let entry = |name: &str, count| Entry {
            name: name.into(),
            data_type: DataType::F32,
            count,
            digest: Some(digest(name.as_bytes())),
            tainted: false,
        };
        Plan {
            revision: Revision(1),
            entries: vec![entry("small", 100), entry("large", 300)],
            holders: holders.iter().copied().map(PeerId).collect(),
            receive: receive
                .iter()
                .map(|(peer, indices)| (PeerId(*peer), indices.to_vec()))
                .collect(),
        }
    }
}
