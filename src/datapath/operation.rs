//! One operation under way: its run, its memory, and the frames that two lanes brought at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{OperationSpec, Traffic};
use crate::engine::{Claim, Due, Run, Taken, UserBuffers};
use crate::kernels::reduce::{reduce, reduce_finish_into, reduce_into};
use crate::mutation::{Mutation, mutated};
use crate::schedule::{Apply, ring_all_reduce};
use crate::types::{Descriptor, OperationId, PeerId, Rank};
use crate::wire::lane::FrameHeader;

pub(super) struct Operation {
    pub(super) id: OperationId,
    pub(super) digest: u64,
    ring: Vec<PeerId>,
    pub(super) buffers: UserBuffers,
    descriptor: Descriptor,
    world_size: u32,
    ranks: BTreeMap<PeerId, Rank>,
    progress: Mutex<Progress>,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
}

struct Progress {
    run: Run,
    /// Whole segments that arrived while another lane was receiving the same. Should that lane
    /// break, they are at hand: their sender takes them for delivered.
    parked: BTreeMap<(u16, u32), Vec<u8>>,
}

/// What the arrival of a segment brings about.
#[derive(Default)]
pub(super) struct Arrival {
    pub(super) due: Option<Due>,
    pub(super) is_last: bool,
}

impl Operation {
    pub(super) fn new(id: OperationId, spec: OperationSpec) -> Operation {
        let OperationSpec {
            descriptor,
            rank,
            ring,
            buffers,
        } = spec;
        let world_size = ring.len() as u32;
        let schedule = ring_all_reduce(rank, world_size, descriptor.count);
        let run = Run::new(&schedule, &descriptor);
        Operation {
            id,
            digest: descriptor.digest(),
            ranks: ring
                .iter()
                .zip(0..)
                .map(|(peer, rank)| (*peer, Rank(rank)))
                .collect(),
            ring,
            buffers,
            descriptor,
            world_size,
            progress: Mutex::new(Progress {
                run,
                parked: BTreeMap::new(),
            }),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of an element.
    pub(super) fn element_bytes(&self) -> usize {
        self.descriptor.data_type.size_bytes()
    }

    pub(super) fn start(&self) -> Vec<Due> {
        self.progress.lock().run.start()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.progress.lock().run.is_complete()
    }

    pub(super) fn peer(&self, rank: Rank) -> Option<PeerId> {
        self.ring.get(rank.0 as usize).copied()
    }

    /// The peers that send to this one, and how many bytes each.
    pub(super) fn sources(&self) -> Vec<(PeerId, u64)> {
        let sources = self.progress.lock().run.sources();
        sources
            .into_iter()
            .filter_map(|(rank, bytes)| Some((self.peer(rank)?, bytes)))
            .collect()
    }

    /// The peers that this one sends to.
    pub(super) fn destinations(&self) -> Vec<PeerId> {
        let destinations = self.progress.lock().run.destinations();
        destinations
            .into_iter()
            .filter_map(|rank| self.peer(rank))
            .collect()
    }

    pub(super) fn is_superseded(&self, due: &Due) -> bool {
        self.progress.lock().run.is_superseded(due)
    }

    pub(super) fn claim(&self, peer: PeerId, header: &FrameHeader) -> Claim {
        let Some(rank) = self.ranks.get(&peer) else {
            return Claim::Reject(format!("peer {peer} is not in the ring"));
        };
        let run = &mut self.progress.lock().run;
        run.claim(*rank, header.step, header.segment, header.len as usize)
    }

    /// As `claim`, for a payload that is here: where another lane is receiving the same segment,
    /// the payload is parked.
    pub(super) fn claim_or_park(
        &self,
        peer: PeerId,
        header: &FrameHeader,
        payload: Vec<u8>,
    ) -> Result<Option<(Taken, Vec<u8>)>, String> {
        let Some(rank) = self.ranks.get(&peer) else {
            return Err(format!("peer {peer} is not in the ring"));
        };
        let progress = &mut *self.progress.lock();
        match progress
            .run
            .claim(*rank, header.step, header.segment, payload.len())
        {
            Claim::Take(taken) => Ok(Some((taken, payload))),
            Claim::Busy => {
                progress
                    .parked
                    .insert((header.step, header.segment), payload);
                Ok(None)
            }
            Claim::Duplicate => Ok(None),
            Claim::Reject(reason) => Err(reason),
        }
    }

    /// Notes that a claimed segment was received and applied.
    pub(super) fn arrived(&self, taken: &Taken) -> Arrival {
        self.rx_bytes
            .fetch_add(taken.range.len() as u64, Ordering::Relaxed);
        let progress = &mut *self.progress.lock();
        progress.parked.remove(&(taken.step, taken.segment));
        let due = progress.run.arrived(taken);
        Arrival {
            due,
            is_last: progress.run.is_complete(),
        }
    }

    /// Gives a claim back. If the segment is parked, the claim stays and its bytes come back.
    pub(super) fn unclaim(&self, taken: &Taken) -> Option<Vec<u8>> {
        let progress = &mut *self.progress.lock();
        let parked = progress.parked.remove(&(taken.step, taken.segment));
        if parked.is_none() {
            progress.run.unclaim(taken);
        }
        parked
    }

    /// Whether a segment is combined with the input on its way into the output. Otherwise it is
    /// received there.
    pub(super) fn combines(&self, taken: &Taken) -> bool {
        match taken.apply {
            Apply::Input | Apply::Store => false,
            Apply::Combine | Apply::Finish => !mutated(Mutation::StoreInsteadOfCombine),
        }
    }

    /// Combines the bytes of a claimed segment from `at` on, whole elements, into the output. As
    /// often as they come: what is combined with is the input. False: the memory was taken back.
    pub(super) fn combine(&self, taken: &Taken, at: usize, received: &[u8]) -> bool {
        let Some(mut access) = self.buffers.access() else {
            return false;
        };
        let range = at..at + received.len();
        access.prepare(&taken.range, range.end);
        let Some((output, input)) = access.output_and_input(range) else {
            return false;
        };
        let Descriptor { op, data_type, .. } = self.descriptor;
        if taken.apply == Apply::Finish {
            reduce_finish_into(op, data_type, self.world_size, output, received, input);
        } else {
            reduce_into(op, data_type, output, received, input);
        }
        // A second time, where breaking a rule is to be seen.
        if mutated(Mutation::TakeRepeats) && self.progress.lock().run.was_applied(taken) {
            reduce(op, data_type, output, input);
        }
        true
    }

    /// Writes a claimed segment at once. False: the memory was taken back.
    pub(super) fn apply_bytes(&self, taken: &Taken, payload: &[u8]) -> bool {
        if self.combines(taken) {
            return self.combine(taken, taken.range.start, payload);
        }
        let written = self.buffers.access().map(|mut access| {
            access.prepare(&taken.range, taken.range.end);
            let output = access.output_mut(taken.range.clone());
            output.copy_from_slice(payload);
        });
        written.is_some()
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
        }
    }
}
