//! One segment, tile by tile: some blocks that stay in the first-level cache from stage to stage.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::elements::{load, store};
use super::format::{Blocks, Format, decode_blocks, encode_blocks};
use super::real::Real;
use super::{Codec, Combine, Residual, Work};
use crate::kernels::copy_past_cache;
use crate::kernels::reduce::{InPlace, reduce_on};
use crate::kernels::route::{Instructions, Pass};
use crate::types::{DataType, ReduceOp};

/// Elements of a tile: as many as the largest block has.
const TILE_ELEMENTS: usize = 4096;

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
        let size = TILE_ELEMENTS;
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
            sums: [F::Real::ZERO; TILE_ELEMENTS],
            inputs: [F::Real::ZERO; TILE_ELEMENTS],
            others: [F::Real::ZERO; TILE_ELEMENTS],
        };
        for tile in tiles {
            self.run_tile(&tile, &mut scratch);
        }
    }
}

/// Room for the numbers of a tile.
struct Scratch<R> {
    sums: [R; TILE_ELEMENTS],
    inputs: [R; TILE_ELEMENTS],
    /// What is needed for a moment.
    others: [R; TILE_ELEMENTS],
}

impl<F: Format> Segment<'_, F> {
    #[inline(always)]
    fn run_tile(&mut self, tile: &Tile, scratch: &mut Scratch<F::Real>) {
        let (format, data_type) = (self.format, self.codec.data_type);
        let Combine { op, finish } = self.work.combine;
        let len = tile.elements.len();
        let element_bytes = data_type.size_bytes();
        let past_cache = self.elements * element_bytes > OUTPUT_IN_CACHE_BYTES;
        let bytes = tile.elements.start * element_bytes..tile.elements.end * element_bytes;
        let (sums, inputs) = (&mut scratch.sums[..len], &mut scratch.inputs[..len]);
        let others = &mut scratch.others[..len];
        let Some(share) = &mut self.work.share else {
            // Nothing is added: what was received is written.
            let output = self
                .work
                .output
                .as_deref_mut()
                .map(|output| &mut output[bytes]);
            if let (Some(received), Some(output)) = (self.work.received.first(), output) {
                decode_to(
                    format, tile, received, data_type, output, past_cache, others,
                );
            }
            return;
        };
        let carried = share.residual.as_ref().map(|residual| residual.carried);
        let input = numbers(
            data_type,
            &share.input[bytes.clone()],
            carried,
            tile,
            inputs,
        );
        // The input of the next tile is asked for by whatever reads this one's first.
        let mut upcoming = &share.input[bytes.end..share.input.len().min(bytes.end + bytes.len())];
        let values = match self.work.received {
            [] => input,
            received => {
                let input = Input {
                    op,
                    finish,
                    beside: Beside {
                        values: input,
                        upcoming: std::mem::take(&mut upcoming),
                    },
                };
                self.codec
                    .combine_tile(format, tile, received, input, sums, others);
                &*sums
            }
        };
        let Some(encoded) = &mut self.work.encoded else {
            return;
        };
        let (parameters, codes) = encoded.split_at_mut(tile.codes.start);
        let parameters = &mut parameters[tile.parameters.clone()];
        let codes = &mut codes[..tile.codes.len()];
        let noise = self.work.noise.map(|noise| {
            noise.fill(tile.elements.start, others);
            &*others
        });
        let blocks = Blocks {
            elements: tile.block_elements,
            parameters,
            codes,
            upcoming,
        };
        encode_blocks(format, values, noise, blocks);
        if let Some(Residual { dropped, .. }) = &mut share.residual {
            // In an average a contribution counts for so much less.
            let factor = match (op, finish) {
                (ReduceOp::Avg, Some(world_size)) => world_size as f32,
                _ => 1.0,
            };
            let dropped = &mut dropped[4 * tile.elements.start..4 * tile.elements.end];
            decode_from(
                format,
                tile,
                encoded,
                others,
                Beside::NOTHING,
                |_, _, value| value,
            );
            note_dropped(values, others, factor, dropped);
        }
        if let Some(output) = &mut self.work.output {
            decode_to(
                format,
                tile,
                encoded,
                data_type,
                &mut output[bytes],
                past_cache,
                sums,
            );
        }
    }
}

/// What a rank adds to a tile, and how.
struct Input<'a, R> {
    op: ReduceOp,
    finish: Option<u32>,
    beside: Beside<'a, R>,
}

impl Codec {
    /// What was received, one after the other, and then the input.
    #[inline(always)]
    fn combine_tile<F: Format>(
        &self,
        format: F,
        tile: &Tile,
        received: &[&[u8]],
        Input { op, finish, beside }: Input<'_, F::Real>,
        sums: &mut [F::Real],
        others: &mut [F::Real],
    ) {
        let Some((last, ahead)) = received.split_last() else {
            return;
        };
        if !matches!(op, ReduceOp::Sum | ReduceOp::Avg) {
            let combine = |finish, sums: &mut [F::Real], incoming: &[F::Real]| {
                let operands = InPlace {
                    accumulator: sums.as_mut_bytes(),
                    incoming: incoming.as_bytes(),
                };
                reduce_on(self.route, op, F::Real::DATA_TYPE, finish, operands);
            };
            for (index, received) in received.iter().enumerate() {
                let into = if index == 0 { &mut *sums } else { &mut *others };
                decode_from(
                    format,
                    tile,
                    received,
                    into,
                    Beside::NOTHING,
                    |_, _, value| value,
                );
                if index > 0 {
                    combine(None, sums, others);
                }
            }
            return combine(finish, sums, beside.values);
        }
        // The bits of `kernels::reduce`, but for those of a NaN, which make a block of the one NaN; in one
        // pass.
        for (index, received) in ahead.iter().enumerate() {
            match index {
                0 => decode_from(
                    format,
                    tile,
                    received,
                    sums,
                    Beside::NOTHING,
                    |_, _, value| value,
                ),
                _ => decode_from(
                    format,
                    tile,
                    received,
                    sums,
                    Beside::NOTHING,
                    |sum, _, value| sum + value,
                ),
            }
        }
        let divisor = finish
            .filter(|_| op == ReduceOp::Avg)
            .map(|size| F::Real::of(size.max(1).into()));
        match (ahead.is_empty(), divisor) {
            (true, None) => decode_from(format, tile, last, sums, beside, |_, own, value| {
                value + own
            }),
            (true, Some(divisor)) => {
                decode_from(format, tile, last, sums, beside, |_, own, value| {
                    (value + own) / divisor
                })
            }
            (false, None) => decode_from(format, tile, last, sums, beside, |sum, own, value| {
                (sum + value) + own
            }),
            (false, Some(divisor)) => {
                decode_from(format, tile, last, sums, beside, |sum, own, value| {
                    ((sum + value) + own) / divisor
                })
            }
        }
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
    Beside {
        values: beside,
        upcoming,
    }: Beside<'_, F::Real>,
    step: impl Fn(F::Real, F::Real, F::Real) -> F::Real,
) {
    let blocks = Blocks {
        elements: tile.block_elements,
        parameters: &encoded[tile.parameters.clone()],
        codes: &encoded[tile.codes.clone()],
        upcoming,
    };
    decode_blocks(format, blocks, values, beside, step);
}

/// Decodes a tile into elements, through `room` where they are not the numbers themselves.
#[inline(always)]
fn decode_to<F: Format>(
    format: F,
    tile: &Tile,
    encoded: &[u8],
    data_type: DataType,
    output: &mut [u8],
    past_cache: bool,
    room: &mut [F::Real],
) {
    if data_type == F::Real::DATA_TYPE
        && !past_cache
        && let Ok(values) = <[F::Real]>::mut_from_bytes(output)
    {
        return decode_from(
            format,
            tile,
            encoded,
            values,
            Beside::NOTHING,
            |_, _, value| value,
        );
    }
    decode_from(
        format,
        tile,
        encoded,
        room,
        Beside::NOTHING,
        |_, _, value| value,
    );
    match past_cache && data_type == F::Real::DATA_TYPE {
        true => copy_past_cache(output, room.as_bytes()),
        false => store(data_type, room, output),
    }
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
