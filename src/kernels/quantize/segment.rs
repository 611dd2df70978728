//! One segment, block by block.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::elements::{load, store};
use super::format::{Format, decode_block, encode_block};
use super::real::Real;
use super::{Codec, Combine, Residual, Share, Work};
use crate::kernels::reduce::{InPlace, reduce_on};
use crate::kernels::route::{Instructions, Pass};
use crate::types::{DataType, ReduceOp};

/// Elements of the largest block.
const BLOCK_ELEMENTS_MAX: usize = 4096;

pub(super) struct Segment<'a, F> {
    pub(super) format: F,
    pub(super) codec: Codec,
    pub(super) elements: usize,
    pub(super) work: Work<'a>,
}

/// Where the parts of a block are.
struct Block {
    elements: Range<usize>,
    parameters: Range<usize>,
    codes: Range<usize>,
}

impl<F> Segment<'_, F> {
    fn blocks(&self) -> impl Iterator<Item = Block> + use<F> {
        let quantization = self.codec.quantization;
        let elements = self.elements;
        let size = quantization.block_elements as usize;
        let parameters_bytes = quantization.parameters_bytes(self.codec.data_type);
        let bits = quantization.code_bits() as usize;
        let codes = elements.div_ceil(size) * parameters_bytes;
        (0..elements.div_ceil(size)).map(move |index| {
            let (start, end) = (index * size, elements.min((index + 1) * size));
            Block {
                elements: start..end,
                parameters: index * parameters_bytes..(index + 1) * parameters_bytes,
                codes: codes + start * bits / 8..codes + (end * bits).div_ceil(8),
            }
        })
    }
}

impl<F: Format> Pass for Segment<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(mut self, _: impl Instructions) {
        let Codec {
            data_type, route, ..
        } = self.codec;
        let blocks = self.blocks();
        let Combine { op, finish } = self.work.combine;
        let element_bytes = data_type.size_bytes();
        let (mut sums, mut others) = (
            [F::Real::ZERO; BLOCK_ELEMENTS_MAX],
            [F::Real::ZERO; BLOCK_ELEMENTS_MAX],
        );
        for block in blocks {
            let len = block.elements.len();
            let bytes = block.elements.start * element_bytes..block.elements.end * element_bytes;
            let (sums, others) = (&mut sums[..len], &mut others[..len]);
            let combine = |finish, sums: &mut [F::Real], incoming: &[u8]| {
                let operands = InPlace {
                    accumulator: sums.as_mut_bytes(),
                    incoming,
                };
                reduce_on(route, op, F::Real::DATA_TYPE, finish, operands);
            };
            for (index, received) in self.work.received.iter().enumerate() {
                let into = if index == 0 { &mut *sums } else { &mut *others };
                let parameters = &received[block.parameters.clone()];
                decode_block(
                    self.format,
                    parameters,
                    &received[block.codes.clone()],
                    into,
                );
                if index > 0 {
                    combine(None, sums, others.as_bytes());
                }
            }
            if let Some(Share { input, residual }) = &self.work.share {
                let input = &input[bytes.clone()];
                let carried = residual.as_ref().map(|residual| residual.carried);
                if self.work.received.is_empty() {
                    load_share(data_type, input, carried, &block.elements, sums);
                } else if data_type == F::Real::DATA_TYPE && carried.is_none() {
                    combine(finish, sums, input);
                } else {
                    load_share(data_type, input, carried, &block.elements, others);
                    combine(finish, sums, others.as_bytes());
                }
            }
            let mut result = &*sums;
            if let Some(encoded) = &mut self.work.encoded {
                let (parameters, codes) = encoded.split_at_mut(block.codes.start);
                let parameters = &mut parameters[block.parameters.clone()];
                let codes = &mut codes[..block.codes.len()];
                let noise = self.work.noise.map(|noise| {
                    noise.fill(block.elements.start, &mut *others);
                    &*others
                });
                encode_block(self.format, sums, noise, parameters, codes);
                let residual = self
                    .work
                    .share
                    .as_mut()
                    .and_then(|share| share.residual.as_mut());
                if residual.is_some() || self.work.output.is_some() {
                    decode_block(self.format, parameters, codes, others);
                }
                if let Some(Residual { dropped, .. }) = residual {
                    // In an average a contribution counts for so much less.
                    let factor = match (op, finish) {
                        (ReduceOp::Avg, Some(world_size)) => world_size as f32,
                        _ => 1.0,
                    };
                    let range = 4 * block.elements.start..4 * block.elements.end;
                    note_dropped(sums, others, factor, &mut dropped[range]);
                }
                result = &*others;
            }
            if let Some(output) = &mut self.work.output {
                store(data_type, result, &mut output[bytes]);
            }
        }
    }
}

/// The input of a rank, and what its quantizations dropped the last time.
#[inline(always)]
fn load_share<R: Real>(
    data_type: DataType,
    input: &[u8],
    carried: Option<&[u8]>,
    elements: &Range<usize>,
    values: &mut [R],
) {
    load(data_type, input, values);
    if let Some(carried) = carried {
        let (carried, _) = carried[4 * elements.start..4 * elements.end].as_chunks::<4>();
        for (value, carried) in values.iter_mut().zip(carried) {
            *value = *value + R::of_f32(f32::from_ne_bytes(*carried));
        }
    }
}

/// What was to be sent, less what everybody decodes. What is lost to a NaN or an infinity does not come
/// back: it would spoil every operation to come.
#[inline(always)]
fn note_dropped<R: Real>(meant: &[R], sent: &[R], factor: f32, dropped: &mut [u8]) {
    let (dropped, _) = dropped.as_chunks_mut::<4>();
    for ((dropped, meant), sent) in dropped.iter_mut().zip(meant).zip(sent) {
        let lacking = (*meant - *sent).to_f32() * factor;
        let lacking = if lacking.is_number() { lacking } else { 0.0 };
        *dropped = lacking.to_ne_bytes();
    }
}
