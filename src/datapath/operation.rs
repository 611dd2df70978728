//! One operation under way: its run, its memory, and the frames that two lanes brought at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::quantized::Quantized;
use super::{OperationSpec, Traffic};
use crate::engine::{Claim, Due, Encoded, Run, Segment, Segments, Source, Taken, UserBuffers};
use crate::kernels::reduce::{reduce, reduce_finish_into, reduce_into};
use crate::mutation::{Mutation, mutated};
use crate::schedule::{Apply, all_reduce};
use crate::types::{Descriptor, OperationId, PeerId, Rank};
use crate::wire::lane::{FrameHeader, HEADER_BYTES, TRAILER_BYTES};

pub(super) struct Operation {
    pub(super) id: OperationId,
    pub(super) digest: u64,
    ring: Vec<PeerId>,
    pub(super) buffers: UserBuffers,
    descriptor: Descriptor,
    /// What becomes of its bytes on their way, where they are not sent as they are.
    quantized: Option<Quantized>,
    world_size: u32,
    ranks: BTreeMap<PeerId, Rank>,
    progress: Mutex<Progress>,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
}

struct Progress {
    run: Run,
    /// Whole segments that arrived while another lane was receiving the same. Should that lane
    /// break, they are at hand: their sender takes them for delivered. By sender, step and segment.
    parked: BTreeMap<(Rank, u16, u32), Vec<u8>>,
}

/// What the arrival of a segment brings about.
#[derive(Default)]
pub(super) struct Arrival {
    pub(super) due: Vec<Due>,
    /// All that a segment collects is here: the right to finish it.
    pub(super) collected: Option<Taken>,
    pub(super) is_last: bool,
}

/// A segment that was applied: the bytes to pass on, if they are memory of their own.
pub(super) struct Applied(Option<Encoded>);

impl Applied {
    /// It is in the caller's memory.
    pub(super) const IN_PLACE: Applied = Applied(None);
}

impl Operation {
    pub(super) fn new(id: OperationId, spec: OperationSpec, segments: &Segments) -> Operation {
        let OperationSpec {
            descriptor,
            rank,
            ring,
            buffers,
            residual,
        } = spec;
        let world_size = ring.len() as u32;
        let schedule = all_reduce(rank, world_size, &descriptor);
        let quantized = descriptor.quantization.map(|quantization| {
            Quantized::new(
                quantization,
                &descriptor,
                rank,
                world_size,
                residual,
                segments.clone(),
            )
        });
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
            quantized,
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

    /// Whether segments are taken and sent whole, in memory of their own.
    pub(super) fn is_quantized(&self) -> bool {
        self.quantized.is_some()
    }

    /// All memory that the caller lent.
    pub(super) fn memory(&self) -> impl Iterator<Item = &UserBuffers> {
        let residual = self.quantized.as_ref().and_then(Quantized::residual);
        std::iter::once(&self.buffers).chain(residual)
    }

    pub(super) fn start(&self) -> Vec<Due> {
        let mut start = self.progress.lock().run.start();
        if self.is_quantized() {
            for due in &mut start {
                due.source = Source::Encoded(Encoded::default());
            }
        }
        start
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
                let place = (*rank, header.step, header.segment);
                progress.parked.insert(place, payload);
                Ok(None)
            }
            Claim::Duplicate => Ok(None),
            Claim::Reject(reason) => Err(reason),
        }
    }

    /// Notes that a claimed segment was received and applied.
    pub(super) fn arrived(&self, taken: &Taken, Applied(encoded): Applied) -> Arrival {
        let progress = &mut *self.progress.lock();
        progress.parked.remove(&parked_at(taken));
        let mut arrived = progress.run.arrived(taken);
        if let Some(encoded) = encoded {
            for due in &mut arrived.due {
                due.source = Source::Encoded(encoded.clone());
            }
        }
        Arrival {
            due: arrived.due,
            collected: arrived.collected,
            is_last: progress.run.is_complete(),
        }
    }

    /// Gives a claim back. If the segment is parked, the claim stays and its bytes come back.
    pub(super) fn unclaim(&self, taken: &Taken) -> Option<Vec<u8>> {
        let progress = &mut *self.progress.lock();
        let parked = progress.parked.remove(&parked_at(taken));
        if parked.is_none() {
            progress.run.unclaim(taken);
        }
        parked
    }

    /// Whether a segment is combined with the input on its way into the output. Otherwise it is
    /// received there.
    pub(super) fn combines(&self, taken: &Taken) -> bool {
        match taken.apply {
            Apply::Input | Apply::Store | Apply::Collect | Apply::Relay => false,
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

    /// Applies a claimed segment at once. `None`: the memory was taken back.
    pub(super) fn apply_bytes(&self, taken: &Taken, payload: Segment) -> Option<Applied> {
        if let Some(quantized) = &self.quantized {
            let encoded = quantized.apply(&self.buffers, taken, payload)?;
            return Some(Applied(Some(encoded)));
        }
        if self.combines(taken) {
            let is_open = self.combine(taken, taken.range.start, &payload);
            return is_open.then_some(Applied::IN_PLACE);
        }
        let mut access = self.buffers.access()?;
        access.prepare(&taken.range, taken.range.end);
        let output = access.output_mut(taken.range.clone());
        output.copy_from_slice(&payload);
        Some(Applied::IN_PLACE)
    }

    /// Finishes a segment of which all that is collected has arrived. `None`: the memory was taken back.
    pub(super) fn finish_collected(&self, taken: &Taken) -> Option<Applied> {
        let quantized = self.quantized.as_ref()?;
        let encoded = quantized.finish_collected(&self.buffers, taken)?;
        Some(Applied(Some(encoded)))
    }

    /// The bytes of a segment that is sent from memory of its own. `None`: the memory that they come from
    /// was taken back.
    pub(super) fn encoded<'a>(&self, due: &Due, encoded: &'a Encoded) -> Option<&'a [u8]> {
        let quantized = self.quantized.as_ref()?;
        quantized.encoded(&self.buffers, due, encoded)
    }

    /// Notes a data frame with a payload of so many bytes as sent.
    pub(super) fn count_sent(&self, len: usize) {
        let bytes = (HEADER_BYTES + len + TRAILER_BYTES) as u64;
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes a data frame with a payload of so many bytes as taken.
    pub(super) fn count_taken(&self, len: u32) {
        let bytes = (HEADER_BYTES + TRAILER_BYTES) as u64 + u64::from(len);
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
        }
    }
}

fn parked_at(taken: &Taken) -> (Rank, u16, u32) {
    let (from, step) = taken.frame;
    (from, step, taken.segment)
}
