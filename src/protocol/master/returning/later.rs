//! What a peer says before the master rules, kept until it does.

use crate::types::{Epoch, PeerId};
use crate::wire::control::{Frame, LinkFault, MAX_FRAME_BYTES, Message, ToMaster};

/// Messages of one peer: more than an honest one can have under way.
const MESSAGES_MAX: usize = 4096;

/// Their bytes as they came: of a call, the only long one there is, there is one at a time.
const BYTES_MAX: usize = MAX_FRAME_BYTES + (1 << 20);

/// See the module's text.
#[derive(Clone, Debug, Default, Hash)]
pub(in crate::protocol::master) struct Later {
    messages: Vec<(usize, ToMaster)>,
}

impl Later {
    /// Keeps a message, or says that these are too many or too long for an honest peer.
    #[must_use]
    pub(super) fn push(&mut self, message: ToMaster) -> bool {
        // It is said again and again until the link is up.
        if let Some(complaint) = complaint(&message) {
            (self.messages).retain(|(_, other)| self::complaint(other) != Some(complaint));
        }
        let frame = Frame {
            sequence: 0,
            acknowledged: 0,
            message,
        };
        let len_bytes = frame.encode().len();
        let kept_bytes: usize = self.messages.iter().map(|(len_bytes, _)| len_bytes).sum();
        let has_room = self.messages.len() < MESSAGES_MAX && kept_bytes + len_bytes <= BYTES_MAX;
        if has_room {
            self.messages.push((len_bytes, frame.message));
        }
        has_room
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ToMaster> {
        self.messages.iter().map(|(_, message)| message)
    }

    pub(super) fn into_messages(self) -> impl Iterator<Item = ToMaster> {
        self.messages.into_iter().map(|(_, message)| message)
    }
}

/// What it complains of, in any words.
fn complaint(message: &ToMaster) -> Option<(Epoch, PeerId, LinkFault)> {
    match message {
        ToMaster::LinkFailed {
            epoch, peer, fault, ..
        } => Some((*epoch, *peer, *fault)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(peer: u64, reason: &str) -> ToMaster {
        ToMaster::LinkFailed {
            epoch: Epoch { term: 1, count: 1 },
            peer: PeerId(peer),
            fault: LinkFault::NoLane,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn of_a_link_only_the_newest_complaint_is_kept() {
        let mut later = Later::default();
        for n in 0..2 * MESSAGES_MAX {
            assert!(later.push(failed(1, &n.to_string())));
        }
        assert!(later.push(failed(2, "")));
        let last = failed(1, &(2 * MESSAGES_MAX - 1).to_string());
        assert_eq!(
            later.into_messages().collect::<Vec<_>>(),
            [last, failed(2, "")]
        );
    }

    #[test]
    fn more_than_the_longest_message_beside_all_short_ones_is_not_kept() {
        let mut later = Later::default();
        assert!(later.push(failed(1, &"r".repeat(15 << 20))));
        assert!(later.push(failed(2, &"r".repeat(1 << 20))));
        assert!(!later.push(failed(3, &"r".repeat(2 << 20))));
    }

    #[test]
    fn too_many_messages_are_not_kept() {
        let mut later = Later::default();
        let round = |round| ToMaster::SyncReceived { round };
        assert!((0..MESSAGES_MAX as u64).all(|n| later.push(round(n))));
        assert!(!later.push(round(0)));
    }
}
