//! One segment, tile by tile: some blocks that stay in the first-level cache from stage to stage.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::elements::{load, store};
use super::format::{Blocks, Format, decode_blocks, encode_blocks};
use super::real::Real;
use super::{Codec, Combine, Residual, Work};
use crate::kernels::copy::{copy_part_past_cache, wait_for_stores};
use crate::kernels::reduce::{InPlace, reduce_on};
use crate::kernels::route::{Instructions, Pass};
use crate::types::{DataType, ReduceOp};

/// Elements of a tile of smaller blocks.
const TILE_ELEMENTS: usize = 1024;

/// Elements of the largest block, a tile by itself.
const TILE_ELEMENTS_MAX: usize = 4096;

/// The output of larger segments goes past the cache: the whole is too large to be read from there, and
/// memory that is about to be overwritten need not be read.
const OUTPUT_IN_CACHE_BYTES: usize = 128 * 1024;

pub(super) struct Segment<'a, F> {
    pub(super) format: F,
    pub(super) codec: Codec,
    pub(super) elements: usize,
    pub(super) work: Work<'a>,
}

/// Where the parts of a tile are.
struct Tile {
    elements: Range<usize>,
    parameters: Range<usize>,
    codes: Range<usize>,
    block_elements: usize,
}

impl<F> Segment<'_, F> {
    fn tiles(&self) -> impl Iterator<Item = Tile> + use<F> {
        let quantization = self.codec.quantization;
        let elements = self.elements;
        let block_elements = quantization.block_elements as usize;
        let size = block_elements.max(TILE_ELEMENTS);
        let parameters_bytes = quantization.parameters_bytes(self.codec.data_type);
        let bits = quantization.code_bits() as usize;
        let parameters = move |at: usize| at.div_ceil(block_elements) * parameters_bytes;
        let codes = move |at: usize| parameters(elements) + (at * bits).div_ceil(8);
        (0..elements.div_ceil(size)).map(move |index| {
            let (start, end) = (index * size, elements.min((index + 1) * size));
            Tile {
                elements: start..end,
                parameters: parameters(start)..parameters(end),
                codes: codes(start)..codes(end),
                block_elements,
            }
        })
    }
}

impl<F: Format> Pass for Segment<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(mut self, _: impl Instructions) {
        let tiles = self.tiles();
        let mut scratch = Scratch {
            sums: [F::Real::ZERO; TILE_ELEMENTS_MAX],
            inputs: [F::Real::ZERO; TILE_ELEMENTS_MAX],
            others: [F::Real::ZERO; TILE_ELEMENTS_MAX],
        };
        for tile in tiles {
            self.run_tile(&tile, &mut scratch);
        }
        wait_for_stores();
    }
}

/// Room for the numbers of a tile.
struct Scratch<R> {
    sums: [R; TILE_ELEMENTS_MAX],
    inputs: [R; TILE_ELEMENTS_MAX],
    /// What is needed for a moment.
    others: [R; TILE_ELEMENTS_MAX],
}

impl<F: Format> Segment<'_, F> {
    /// Each loop over codes is written down once: all of this is compiled for every format and route.
    #[inline(always)]
    fn run_tile(&mut self, tile: &Tile, scratch: &mut Scratch<F::Real>) {
        let (format, data_type) = (self.format, self.codec.data_type);
        let Combine { op, finish } = self.work.combine;
        let len = tile.elements.len();
        let element_bytes = data_type.size_bytes();
        let bytes = tile.elements.start * element_bytes..tile.elements.end * element_bytes;
        let (sums, inputs) = (&mut scratch.sums[..len], &mut scratch.inputs[..len]);
        let others = &mut scratch.others[..len];
        if let (Some(share), Some(encoded)) = (&self.work.share, &mut self.work.encoded) {
            let carried = share.residual.as_ref().map(|residual| residual.carried);
            let input = &share.input[bytes.clone()];
            // The input of the next tile is asked for by whatever reads this one's first.
            let ahead = share.input.len().min(bytes.end + bytes.len());
            let mut beside = Beside {
                values: numbers(data_type, input, carried, tile, inputs),
                upcoming: &share.input[bytes.end..ahead],
            };
            let values = match self.work.received {
                [] => beside.values,
                received => {
                    let combine = self.work.combine;
                    let codec = &self.codec;
                    codec.combine_tile(format, tile, combine, received, beside, sums, others);
                    beside.upcoming = &[];
                    &*sums
                }
            };
            let noise = self.work.noise.map(|noise| {
                noise.fill(tile.elements.start, others);
                &*others
            });
            let (parameters, codes) = encoded.split_at_mut(tile.codes.start);
            let blocks = Blocks {
                elements: tile.block_elements,
                parameters: &mut parameters[tile.parameters.clone()],
                codes: &mut codes[..tile.codes.len()],
                upcoming: beside.upcoming,
            };
            encode_blocks(format, values, noise, blocks);
        }
        let residual = self.work.share.as_mut();
        let residual = residual.and_then(|share| share.residual.as_mut());
        let output = self.work.output.as_deref_mut();
        let output = output.map(|output| &mut output[bytes]);
        if residual.is_some() || output.is_some() {
            let source = match (&self.work.encoded, self.work.received) {
                (Some(encoded), _) => &**encoded,
                (None, [received, ..]) => received,
                (None, []) => return,
            };
            let past_cache = self.elements * element_bytes > OUTPUT_IN_CACHE_BYTES;
            let is_plain = data_type == F::Real::DATA_TYPE;
            // Straight to where it belongs, if it can be.
            let is_direct = is_plain && !past_cache && residual.is_none();
            let (decoded, output) = match output {
                Some(output) if is_direct => match <[F::Real]>::mut_from_bytes(output) {
                    Ok(values) => (values, None),
                    Err(error) => (others, Some(error.into_src())),
                },
                output => (others, output),
            };
            decode_from(
                format,
                tile,
                source,
                decoded,
                Beside::NOTHING,
                |_, _, value| value,
            );
            if let Some(Residual { dropped, .. }) = residual {
                // In an average a contribution counts for so much less.
                let factor = match (op, finish) {
                    (ReduceOp::Avg, Some(world_size)) => world_size as f32,
                    _ => 1.0,
                };
                // With a residual the input was made ready in its room.
                let meant = match self.work.received {
                    [] => &*inputs,
                    _ => &*sums,
                };
                let dropped = &mut dropped[4 * tile.elements.start..4 * tile.elements.end];
                note_dropped(meant, decoded, factor, dropped);
            }
            if let Some(output) = output {
                match past_cache && is_plain {
                    true => copy_part_past_cache(output, decoded.as_bytes()),
                    false => store(data_type, decoded, output),
                }
            }
        }
    }
}

impl Codec {
    /// What was received, one after the other, and then the input.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "a part of `run_tile`")]
    fn combine_tile<F: Format>(
        &self,
        format: F,
        tile: &Tile,
        Combine { op, finish }: Combine,
        received: &[&[u8]],
        beside: Beside<'_, F::Real>,
        sums: &mut [F::Real],
        others: &mut [F::Real],
    ) {
        // One share to add, as on a ring, is added as it is decoded: the bits of `kernels::reduce`, but for
        // those of a NaN, which make a block of the one NaN.
        if let ([only], ReduceOp::Sum | ReduceOp::Avg) = (received, op) {
            decode_from(format, tile, only, sums, beside, |_, own, value| {
                value + own
            });
            if let (ReduceOp::Avg, Some(world_size)) = (op, finish) {
                let divisor = F::Real::of(world_size.max(1).into());
                sums.iter_mut().for_each(|sum| *sum = *sum / divisor);
            }
            return;
        }
        let combine = |finish, sums: &mut [F::Real], incoming: &[F::Real]| {
            let operands = InPlace {
                accumulator: sums.as_mut_bytes(),
                incoming: incoming.as_bytes(),
            };
            reduce_on(self.route, op, F::Real::DATA_TYPE, finish, operands);
        };
        for (index, received) in received.iter().enumerate() {
            let into = if index == 0 { &mut *sums } else { &mut *others };
            let upcoming = if index == 0 { beside.upcoming } else { &[] };
            let beside = Beside {
                values: &[],
                upcoming,
            };
            decode_from(format, tile, received, into, beside, |_, _, value| value);
            if index > 0 {
                combine(None, sums, others);
            }
        }
        combine(finish, sums, beside.values);
    }
}

/// What is read beside codes.
#[derive(Clone, Copy)]
struct Beside<'a, R> {
    values: &'a [R],
    upcoming: &'a [u8],
}

impl<R> Beside<'_, R> {
    const NOTHING: Self = Beside {
        values: &[],
        upcoming: &[],
    };
}

/// Decodes a tile.
#[inline(always)]
fn decode_from<F: Format>(
    format: F,
    tile: &Tile,
    encoded: &[u8],
    values: &mut [F::Real],
    beside: Beside<'_, F::Real>,
    step: impl Fn(F::Real, F::Real, F::Real) -> F::Real,
) {
    let blocks = Blocks {
        elements: tile.block_elements,
        parameters: &encoded[tile.parameters.clone()],
        codes: &encoded[tile.codes.clone()],
        upcoming: beside.upcoming,
    };
    decode_blocks(format, blocks, values, beside.values, step);
}

/// The input of a rank, and what its quantizations dropped the last time: where it is, or else in `room`.
#[inline(always)]
fn numbers<'a, R: Real>(
    data_type: DataType,
    input: &'a [u8],
    carried: Option<&[u8]>,
    tile: &Tile,
    room: &'a mut [R],
) -> &'a [R] {
    if data_type == R::DATA_TYPE
        && carried.is_none()
        && let Ok(values) = <[R]>::ref_from_bytes(input)
    {
        return values;
    }
    load(data_type, input, room);
    if let Some(carried) = carried {
        let elements = &tile.elements;
        let (carried, _) = carried[4 * elements.start..4 * elements.end].as_chunks::<4>();
        for (value, carried) in room.iter_mut().zip(carried) {
            *value = *value + R::of_f32(f32::from_ne_bytes(*carried));
        }
    }
    room
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
