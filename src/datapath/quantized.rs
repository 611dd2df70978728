//! What quantization makes of the segments of one operation: bytes that travel are encoded, and what
//! is passed on unchanged is what was received.

use std::collections::BTreeMap;
use std::ops::Range;

use parking_lot::Mutex;

use crate::engine::{Access, Due, Encoded, Segment, Segments, Taken, UserBuffers};
use crate::kernels::quantize::{Codec, Combine, Place, Residual, Share};
use crate::schedule::Apply;
use crate::types::{Descriptor, Quantization, Rank, ReduceOp};

/// Bytes of an element of the residual, an `f32`.
const RESIDUAL_BYTES: usize = 4;

pub(super) struct Quantized {
    codec: Codec,
    rank: Rank,
    op: ReduceOp,
    world_size: u32,
    element_bytes: usize,
    /// What quantization dropped the last time, and where to note what it drops now.
    residual: Option<UserBuffers>,
    /// What is kept of a segment, by where it starts, until all of it is here; each in its place.
    collected: Mutex<BTreeMap<usize, BTreeMap<usize, Segment>>>,
    segments: Segments,
}

impl Quantized {
    pub(super) fn new(
        quantization: Quantization,
        descriptor: &Descriptor,
        rank: Rank,
        world_size: u32,
        residual: Option<UserBuffers>,
        segments: Segments,
    ) -> Quantized {
        Quantized {
            codec: Codec::new(quantization, descriptor.data_type),
            rank,
            op: descriptor.op,
            world_size,
            element_bytes: descriptor.data_type.size_bytes(),
            residual,
            collected: Mutex::default(),
            segments,
        }
    }

    pub(super) fn residual(&self) -> Option<&UserBuffers> {
        self.residual.as_ref()
    }

    /// The bytes of a segment that is due; encodes the rank's own contribution the first time. `None`:
    /// the memory was taken back before.
    pub(super) fn encoded<'a>(
        &self,
        buffers: &UserBuffers,
        due: &Due,
        encoded: &'a Encoded,
    ) -> Option<&'a [u8]> {
        // Two lanes may have it, if one of them is about to break; nobody encodes it twice.
        let bytes = encoded.get_or_init(|| {
            let mut bytes = self.segments.take(due.len_bytes);
            let place = self.place(due.step, due.segment);
            let written = self.with_share(buffers, |access, residual| {
                let input = access.input(due.range.clone());
                let residual = residual.and_then(|access| self.residual_of(access, &due.range));
                self.codec
                    .encode(Share { input, residual }, place, &mut bytes);
            });
            match written {
                Some(()) => bytes,
                None => self.segments.wrap(Vec::new()),
            }
        });
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Does with a claimed segment what the schedule says, and gives the bytes to pass on. `None`: the
    /// memory was taken back.
    pub(super) fn apply(
        &self,
        buffers: &UserBuffers,
        taken: &Taken,
        payload: Segment,
    ) -> Option<Encoded> {
        match taken.apply {
            Apply::Combine => {
                let mut sum = self.segments.take(payload.len());
                self.with_share(buffers, |access, residual| {
                    let input = access.input(taken.range.clone());
                    let residual =
                        residual.and_then(|access| self.residual_of(access, &taken.range));
                    let share = Share { input, residual };
                    let combine = self.combine(None);
                    let place = self.place_of(taken);
                    self.codec
                        .combine(combine, &[&payload], share, place, &mut sum, None);
                })?;
                Some(Encoded::new(sum.into()))
            }
            Apply::Finish => self.finish(buffers, taken, &[&payload]),
            Apply::Store => {
                let mut access = buffers.access()?;
                access.prepare(&taken.range, taken.range.end);
                self.codec
                    .decode(&payload, access.output_mut(taken.range.clone()));
                Some(Encoded::new(payload.into()))
            }
            Apply::Collect => {
                let mut collected = self.collected.lock();
                let of_segment = collected.entry(taken.range.start).or_default();
                of_segment.insert(taken.position(), payload);
                Some(Encoded::default())
            }
            Apply::Relay | Apply::Input => Some(Encoded::new(payload.into())),
        }
    }

    /// Combines all that was collected of a segment, and gives the result to pass on. `None`: the memory
    /// was taken back.
    pub(super) fn finish_collected(&self, buffers: &UserBuffers, taken: &Taken) -> Option<Encoded> {
        let collected = self.collected.lock().remove(&taken.range.start)?;
        let received: Vec<&[u8]> = collected.values().map(|segment| &**segment).collect();
        self.finish(buffers, taken, &received)
    }

    fn finish(&self, buffers: &UserBuffers, taken: &Taken, received: &[&[u8]]) -> Option<Encoded> {
        let mut result = self
            .segments
            .take(self.codec.encoded_len_bytes(taken.range.len()));
        let is_written = self.with_share(buffers, |access, residual| {
            access.prepare(&taken.range, taken.range.end);
            let Some((output, input)) = access.output_and_input(taken.range.clone()) else {
                return false;
            };
            let residual = residual.and_then(|access| self.residual_of(access, &taken.range));
            let share = Share { input, residual };
            let combine = self.combine(Some(self.world_size));
            let place = self.place_of(taken);
            self.codec
                .combine(combine, received, share, place, &mut result, Some(output));
            true
        });
        is_written?.then(|| Encoded::new(result.into()))
    }

    /// Opens the memory, and that of the residual if there is one, for a short synchronous piece of work.
    fn with_share<R>(
        &self,
        buffers: &UserBuffers,
        work: impl FnOnce(&mut Access<'_>, Option<&mut Access<'_>>) -> R,
    ) -> Option<R> {
        let mut access = buffers.access()?;
        let Some(residual) = &self.residual else {
            return Some(work(&mut access, None));
        };
        Some(work(&mut access, Some(&mut residual.access()?)))
    }

    fn residual_of<'a>(
        &self,
        access: &'a mut Access<'_>,
        range: &Range<usize>,
    ) -> Option<Residual<'a>> {
        let at = |bytes| bytes / self.element_bytes * RESIDUAL_BYTES;
        let (dropped, carried) = access.output_and_input(at(range.start)..at(range.end))?;
        Some(Residual { carried, dropped })
    }

    fn combine(&self, finish: Option<u32>) -> Combine {
        let op = self.op;
        Combine { op, finish }
    }

    fn place_of(&self, taken: &Taken) -> Place {
        // What is not sent on is not quantized either.
        self.place(taken.next_step.unwrap_or_default(), taken.segment)
    }

    fn place(&self, step: u16, segment: u32) -> Place {
        Place {
            rank: self.rank.0,
            step: step.into(),
            segment,
        }
    }
}
