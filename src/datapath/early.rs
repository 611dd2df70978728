//! Frames that came before their operation was begun here: kept, within bounds, until it is.
//!
//! A peer may be ahead of us by a little: its caller called earlier, or it learned of an epoch
//! earlier. The bounds are what an honest peer never passes; a lane that does is closed.

use std::collections::{BTreeMap, BTreeSet};

use super::{ADVANCE_BYTES, EAGER_BYTES};
use crate::types::{OperationId, PeerId};
use crate::wire::lane::FrameHeader;

/// Operations of one peer that may have early frames at a time.
const EARLY_OPERATIONS_MAX: usize = 4096;

/// Bytes of one peer that may be early: 256 operations with all that each may send, and what they may
/// send together.
const EARLY_BYTES_MAX: usize = 256 * EAGER_BYTES + ADVANCE_BYTES;

/// Frames of one peer that may be early: each costs some hundred bytes beside its payload. Honest
/// peers send at most one for each operation and hop, and larger ones by the dozen.
const EARLY_FRAMES_MAX: usize = 1 << 18;

/// Grants of one peer that may be remembered: small, and owed by its every large operation.
const EARLY_GRANTS_MAX: usize = 4096;

/// A frame that was received whole.
pub(super) struct EarlyFrame {
    pub(super) header: FrameHeader,
    pub(super) payload: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Early {
    peers: BTreeMap<PeerId, OfPeer>,
}

#[derive(Default)]
struct OfPeer {
    /// Of all its operations.
    bytes: usize,
    /// Kept, of all its operations.
    frames: usize,
    operations: BTreeMap<OperationId, OfOperation>,
    grants: BTreeSet<OperationId>,
}

#[derive(Default)]
struct OfOperation {
    /// Of the frames kept and of those being received, each counted once.
    bytes: usize,
    frames: BTreeMap<Place, EarlyFrame>,
    /// Those being received. A frame comes over a second lane while the first, which its sender has
    /// given up, is not known dead here: that breaks no rule, and costs no more than the lanes do.
    on_the_way: BTreeMap<Place, OnTheWay>,
}

/// Step and segment.
type Place = (u16, u32);

struct OnTheWay {
    len: u32,
    lanes: usize,
}

impl OfPeer {
    /// What the operations of this one's epoch have sent beyond the eager amount of each.
    fn advance(&self, id: &OperationId) -> usize {
        let of_epoch = self
            .operations
            .iter()
            .filter(|(op, _)| op.epoch == id.epoch);
        let beyond = |known: &OfOperation| known.bytes.saturating_sub(EAGER_BYTES);
        of_epoch.map(|(_, known)| beyond(known)).sum()
    }
}

impl OfOperation {
    /// Notes that a frame comes over one lane less. False: over none it came.
    fn leave(&mut self, place: Place) -> bool {
        let Some(on_the_way) = self.on_the_way.get_mut(&place) else {
            return false;
        };
        on_the_way.lanes -= 1;
        if on_the_way.lanes == 0 {
            self.on_the_way.remove(&place);
        }
        true
    }
}

impl Early {
    /// Asks for room for a frame's payload. `Ok(false)`: the frame is here already.
    pub(super) fn reserve(&mut self, peer: PeerId, header: &FrameHeader) -> Result<bool, String> {
        let of_peer = self.peers.entry(peer).or_default();
        let (id, len) = (header.operation, header.len as usize);
        let place = place(header);
        if let Some(known) = of_peer.operations.get_mut(&id) {
            if known.frames.contains_key(&place) {
                return Ok(false);
            }
            if let Some(on_the_way) = known.on_the_way.get_mut(&place) {
                if on_the_way.len != header.len {
                    return Err(format!("a segment of {id} has two lengths"));
                }
                on_the_way.lanes += 1;
                return Ok(true);
            }
        }
        let known = of_peer.operations.get(&id);
        if known.is_none() && of_peer.operations.len() >= EARLY_OPERATIONS_MAX {
            return Err(format!(
                "early frames of more than {EARLY_OPERATIONS_MAX} operations"
            ));
        }
        let of_operation = known.map_or(0, |known| known.bytes) + len;
        if of_operation > EAGER_BYTES
            && of_peer.advance(&id) + (of_operation - EAGER_BYTES).min(len) > ADVANCE_BYTES
        {
            return Err(format!(
                "more than {EAGER_BYTES} early bytes of operation {id}, and {ADVANCE_BYTES} of all"
            ));
        }
        if of_peer.bytes + len > EARLY_BYTES_MAX {
            return Err(format!("more than {EARLY_BYTES_MAX} early bytes"));
        }
        if of_peer.frames >= EARLY_FRAMES_MAX {
            return Err(format!("more than {EARLY_FRAMES_MAX} early frames"));
        }
        let of_operation = of_peer.operations.entry(id).or_default();
        let on_the_way = OnTheWay {
            len: header.len,
            lanes: 1,
        };
        of_operation.on_the_way.insert(place, on_the_way);
        of_operation.bytes += len;
        of_peer.bytes += len;
        Ok(true)
    }

    /// Gives room back: the frame did not arrive, or belongs somewhere else by now.
    pub(super) fn unreserve(&mut self, peer: PeerId, header: &FrameHeader) {
        let place = place(header);
        if let Some(of_peer) = self.peers.get_mut(&peer)
            && let Some(of_operation) = of_peer.operations.get_mut(&header.operation)
            && of_operation.leave(place)
            && !of_operation.on_the_way.contains_key(&place)
            && !of_operation.frames.contains_key(&place)
        {
            of_operation.bytes -= header.len as usize;
            of_peer.bytes -= header.len as usize;
            if of_operation.bytes == 0 {
                of_peer.operations.remove(&header.operation);
            }
        }
    }

    /// Keeps a frame for which room was reserved, once.
    pub(super) fn keep(&mut self, peer: PeerId, frame: EarlyFrame) {
        let (header, place) = (frame.header, place(&frame.header));
        // Where there is none, the operation was dropped while the frame was on its way.
        if let Some(of_peer) = self.peers.get_mut(&peer)
            && let Some(of_operation) = of_peer.operations.get_mut(&header.operation)
            && of_operation.leave(place)
            && of_operation.frames.insert(place, frame).is_none()
        {
            of_peer.frames += 1;
        }
    }

    /// Remembers a grant for an operation that will be begun here later.
    pub(super) fn keep_grant(&mut self, peer: PeerId, id: OperationId) -> Result<(), String> {
        let grants = &mut self.peers.entry(peer).or_default().grants;
        grants.insert(id);
        if grants.len() > EARLY_GRANTS_MAX {
            return Err(format!("more than {EARLY_GRANTS_MAX} early grants"));
        }
        Ok(())
    }

    /// Takes what is there of an operation that begins: its frames, with the peers they are from,
    /// and the peers that granted it.
    pub(super) fn take(&mut self, id: OperationId) -> (Vec<(PeerId, EarlyFrame)>, Vec<PeerId>) {
        let (mut frames, mut granted) = (Vec::new(), Vec::new());
        for (peer, of_peer) in &mut self.peers {
            if let Some(of_operation) = of_peer.operations.remove(&id) {
                of_peer.bytes -= of_operation.bytes;
                of_peer.frames -= of_operation.frames.len();
                frames.extend(
                    of_operation
                        .frames
                        .into_values()
                        .map(|frame| (*peer, frame)),
                );
            }
            if of_peer.grants.remove(&id) {
                granted.push(*peer);
            }
        }
        (frames, granted)
    }

    /// Drops everything of the operations for which `is_stale` holds.
    pub(super) fn drop_stale(&mut self, is_stale: impl Fn(&OperationId) -> bool) {
        for of_peer in self.peers.values_mut() {
            of_peer.operations.retain(|id, _| !is_stale(id));
            of_peer.bytes = of_peer
                .operations
                .values()
                .map(|of_operation| of_operation.bytes)
                .sum();
            of_peer.frames = of_peer
                .operations
                .values()
                .map(|of_operation| of_operation.frames.len())
                .sum();
            of_peer.grants.retain(|id| !is_stale(id));
        }
        self.peers
            .retain(|_, of_peer| !of_peer.operations.is_empty() || !of_peer.grants.is_empty());
    }

    /// Bytes that are kept or on their way, of all peers.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.peers.values().map(|of_peer| of_peer.bytes).sum()
    }
}

fn place(header: &FrameHeader) -> Place {
    (header.step, header.segment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, Tag};
    use crate::wire::lane::FrameKind;

    const PEER: PeerId = PeerId(1);

    fn header(tag: u64, segment: u32, len: usize) -> FrameHeader {
        let operation = OperationId {
            epoch: Epoch::default(),
            tag: Tag(tag),
            n: 0,
        };
        let len = len as u32;
        FrameHeader {
            operation,
            segment,
            len,
            ..FrameHeader::bare(FrameKind::Data, 0)
        }
    }

    fn frame(header: FrameHeader) -> EarlyFrame {
        EarlyFrame {
            header,
            payload: vec![0; header.len as usize],
        }
    }

    #[test]
    fn an_operation_may_be_early_by_the_eager_amount() {
        let mut early = Early::default();
        assert_eq!(early.reserve(PEER, &header(1, 0, EAGER_BYTES)), Ok(true));
        assert_eq!(early.reserve(PEER, &header(2, 0, 1)), Ok(true));
        early.keep(PEER, frame(header(1, 0, EAGER_BYTES)));
        assert_eq!(
            early.reserve(PEER, &header(1, 0, EAGER_BYTES)),
            Ok(false),
            "a repeat"
        );
        early.unreserve(PEER, &header(2, 0, 1));
        assert_eq!(early.bytes(), EAGER_BYTES);
        assert_eq!(early.take(header(1, 0, 1).operation).0.len(), 1);
        assert_eq!(early.bytes(), 0);
    }

    #[test]
    fn the_operations_of_an_epoch_share_what_is_early_beyond_that() {
        let mut early = Early::default();
        let half = EAGER_BYTES + ADVANCE_BYTES / 2;
        for tag in [1, 2] {
            assert_eq!(early.reserve(PEER, &header(tag, 0, half)), Ok(true));
        }
        assert!(early.reserve(PEER, &header(1, 1, 1)).is_err());
        assert!(early.reserve(PEER, &header(3, 0, EAGER_BYTES + 1)).is_err());
        assert_eq!(early.reserve(PEER, &header(3, 0, EAGER_BYTES)), Ok(true));
        let mut next_epoch = header(1, 0, half);
        next_epoch.operation.epoch.count += 1;
        assert_eq!(early.reserve(PEER, &next_epoch), Ok(true));
        early.take(header(2, 0, 1).operation);
        assert_eq!(
            early.reserve(PEER, &header(1, 1, ADVANCE_BYTES / 2)),
            Ok(true)
        );
    }

    #[test]
    fn the_same_frame_over_two_lanes_is_kept_once() {
        let mut early = Early::default();
        for _ in 0..2 {
            assert_eq!(early.reserve(PEER, &header(1, 0, 100)), Ok(true));
        }
        early.keep(PEER, frame(header(1, 0, 100)));
        early.keep(PEER, frame(header(1, 0, 100)));
        assert_eq!(early.bytes(), 100);
    }

    #[test]
    fn a_frame_that_comes_over_two_lanes_counts_once_until_both_are_done() {
        let mut early = Early::default();
        let len = EAGER_BYTES + ADVANCE_BYTES;
        let whole = header(1, 0, len);
        for is_kept in [false, true] {
            for _ in 0..2 {
                assert_eq!(early.reserve(PEER, &whole), Ok(true));
            }
            assert_eq!(early.bytes(), len);
            assert!(early.reserve(PEER, &header(1, 0, 1)).is_err());
            assert!(early.reserve(PEER, &header(1, 1, 1)).is_err());
            if is_kept {
                early.keep(PEER, frame(whole));
            } else {
                early.unreserve(PEER, &whole);
            }
            assert_eq!(early.bytes(), len);
            early.unreserve(PEER, &whole);
            assert_eq!(early.bytes(), if is_kept { len } else { 0 });
        }
        assert_eq!(early.reserve(PEER, &whole), Ok(false));
    }

    #[test]
    fn a_peer_may_be_early_with_so_many_operations() {
        let mut early = Early::default();
        for tag in 0..EARLY_OPERATIONS_MAX as u64 {
            assert_eq!(early.reserve(PEER, &header(tag, 0, 1)), Ok(true));
        }
        assert!(early.reserve(PEER, &header(9999, 0, 1)).is_err());
        early.drop_stale(|id| id.tag == Tag(0));
        assert_eq!(early.reserve(PEER, &header(9999, 0, 1)), Ok(true));
    }

    #[test]
    fn a_frame_of_an_operation_dropped_meanwhile_is_not_kept() {
        let mut early = Early::default();
        assert_eq!(early.reserve(PEER, &header(1, 0, 100)), Ok(true));
        early.drop_stale(|_| true);
        early.keep(PEER, frame(header(1, 0, 100)));
        assert_eq!(early.bytes(), 0);
    }

    #[test]
    fn many_small_frames_are_bounded_by_their_number() {
        let mut early = Early::default();
        let per_operation = 1 << 12;
        let mut keep = |tag: u64, segment: u32| {
            let header = header(tag, segment, 1);
            let reserved = early.reserve(PEER, &header);
            early.keep(PEER, frame(header));
            reserved
        };
        for tag in 0..EARLY_FRAMES_MAX as u64 / per_operation {
            for segment in 0..per_operation as u32 {
                assert_eq!(keep(tag, segment), Ok(true));
            }
        }
        assert!(keep(9999, 0).is_err());
        early.take(header(0, 0, 1).operation);
        early.drop_stale(|id| id.tag == Tag(1));
        let room = 2 * per_operation as u32;
        for segment in 0..room {
            let header = header(9999, segment, 1);
            assert_eq!(early.reserve(PEER, &header), Ok(true));
            early.keep(PEER, frame(header));
        }
        assert!(early.reserve(PEER, &header(9999, room, 1)).is_err());
    }

    #[test]
    fn grants_wait_for_their_operation() {
        let mut early = Early::default();
        let id = header(1, 0, 1).operation;
        assert_eq!(early.keep_grant(PEER, id), Ok(()));
        assert_eq!(early.take(id).1, [PEER]);
        assert!(early.take(id).1.is_empty());
    }
}
