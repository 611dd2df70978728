//! What a scheme is: how a block's parameters are found, and what one element becomes. And the two
//! loops over a block, which are the same for all.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::real::Real;
use crate::kernels::prefetch::prefetch;

/// Everything here is free of branches where it concerns one element, and inlined.
pub(super) trait Format: Copy {
    type Real: Real;
    type Layout: Layout;
    /// A block's parameters, as they go over the wire.
    type Parameters: Copy + IntoBytes + FromBytes + Immutable;
    type Encoder: Copy;
    type Decoder: Copy;

    /// The parameters of a block, and what it is encoded with: nothing if it holds a NaN or an infinity.
    fn fit(self, values: &[Self::Real]) -> (Self::Parameters, Option<Self::Encoder>);

    /// What a block is decoded with: nothing if it is all NaN. The parameters may be anybody's.
    fn decoder(self, parameters: Self::Parameters) -> Option<Self::Decoder>;

    /// Whether all elements of the block are in the encoder's range.
    fn fits(encoder: Self::Encoder) -> bool;

    /// The code nearest to an element in the encoder's range.
    fn encode(encoder: Self::Encoder, value: Self::Real) -> Code<Self>;

    /// The code nearest to an element, `dither` steps moved, or the first or last one.
    fn encode_clamped(encoder: Self::Encoder, value: Self::Real, dither: Self::Real) -> Code<Self>;

    /// The element of a code.
    fn decode(decoder: Self::Decoder, code: Code<Self>) -> Self::Real;
}

pub(super) type Code<F> = <<F as Format>::Layout as Layout>::Code;

/// How codes lie in memory.
pub(super) trait Layout {
    type Code: Copy + Default;

    /// Bytes of the codes of so many elements.
    fn len_bytes(elements: usize) -> usize;
    fn encode<R: Real>(values: &[R], codes: &mut [u8], encode: impl Fn(usize, R) -> Self::Code);
    /// `step` is given the element's place, what is there, and its code.
    fn decode<R: Real>(codes: &[u8], values: &mut [R], step: impl Fn(usize, R, Self::Code) -> R);
}

/// A layout of codes of a byte or less, as bits in the low end of a word.
pub(super) trait Narrow: Layout {
    const BITS: u32;

    /// What is above the low bits is not looked at.
    fn code(bits: u32) -> Self::Code;
    fn bits(code: Self::Code) -> u32;
}

impl Narrow for Whole<1> {
    const BITS: u32 = 8;

    #[inline(always)]
    fn code(bits: u32) -> [u8; 1] {
        [bits as u8]
    }

    #[inline(always)]
    fn bits([code]: [u8; 1]) -> u32 {
        code.into()
    }
}

impl Narrow for Nibbles {
    const BITS: u32 = 4;

    #[inline(always)]
    fn code(bits: u32) -> u8 {
        bits as u8
    }

    #[inline(always)]
    fn bits(code: u8) -> u32 {
        code.into()
    }
}

/// `N` bytes for each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whole<const N: usize>;

impl<const N: usize> Layout for Whole<N>
where
    [u8; N]: Default,
{
    type Code = [u8; N];

    #[inline(always)]
    fn len_bytes(elements: usize) -> usize {
        elements * N
    }

    #[inline(always)]
    fn encode<R: Real>(values: &[R], codes: &mut [u8], encode: impl Fn(usize, R) -> [u8; N]) {
        let (codes, _) = codes.as_chunks_mut::<N>();
        for (index, (code, value)) in codes.iter_mut().zip(values).enumerate() {
            *code = encode(index, *value);
        }
    }

    #[inline(always)]
    fn decode<R: Real>(codes: &[u8], values: &mut [R], step: impl Fn(usize, R, [u8; N]) -> R) {
        let (codes, _) = codes.as_chunks::<N>();
        for (index, (code, value)) in codes.iter().zip(values).enumerate() {
            *value = step(index, *value, *code);
        }
    }
}

/// Two to a byte: one of the first half of the block, and one of the second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nibbles;

impl Layout for Nibbles {
    /// In the low four bits; what is above is not looked at.
    type Code = u8;

    #[inline(always)]
    fn len_bytes(elements: usize) -> usize {
        elements.div_ceil(2)
    }

    #[inline(always)]
    fn encode<R: Real>(values: &[R], codes: &mut [u8], encode: impl Fn(usize, R) -> u8) {
        let half = values.len().div_ceil(2);
        let (low, high) = values.split_at(half);
        for (index, (code, (low, high))) in codes.iter_mut().zip(low.iter().zip(high)).enumerate() {
            *code = encode(index, *low) & 0xf | encode(index + half, *high) << 4;
        }
        if let (Some(code), true) = (codes.last_mut(), low.len() > high.len()) {
            *code = encode(half - 1, low[half - 1]) & 0xf;
        }
    }

    #[inline(always)]
    fn decode<R: Real>(codes: &[u8], values: &mut [R], step: impl Fn(usize, R, u8) -> R) {
        let half = values.len().div_ceil(2);
        let (low, high) = values.split_at_mut(half);
        for (index, (code, value)) in codes.iter().zip(low).enumerate() {
            *value = step(index, *value, *code & 0xf);
        }
        for (index, (code, value)) in codes.iter().zip(high).enumerate() {
            *value = step(index + half, *value, *code >> 4);
        }
    }
}

/// Some blocks of so many elements each, but for the last; encoded, or to be.
pub(super) struct Blocks<'a, B> {
    pub(super) elements: usize,
    pub(super) parameters: B,
    pub(super) codes: B,
    /// What is read after these, a part while each is worked on.
    pub(super) upcoming: &'a [u8],
}

/// A part of what is read later for each of the blocks of so many values.
#[inline(always)]
fn parts(upcoming: &[u8], values: usize, block_elements: usize) -> std::slice::Chunks<'_, u8> {
    let blocks = values.div_ceil(block_elements).max(1);
    upcoming.chunks(upcoming.len().div_ceil(blocks).max(1))
}

/// Blocks of a constant size are worked on without a look at what is left of them.
const SMALL_BLOCK: usize = 32;

/// Encodes blocks and writes their parameters.
#[inline(always)]
pub(super) fn encode_blocks<F: Format>(
    format: F,
    values: &[F::Real],
    noise: Option<&[F::Real]>,
    blocks: Blocks<'_, &mut [u8]>,
) {
    let mut upcoming = parts(blocks.upcoming, values.len(), blocks.elements);
    let each = blocks
        .codes
        .chunks_mut(F::Layout::len_bytes(blocks.elements));
    let each = blocks
        .parameters
        .chunks_exact_mut(size_of::<F::Parameters>())
        .zip(each)
        .zip(values.chunks(blocks.elements));
    for (index, ((parameters, codes), values)) in each.enumerate() {
        prefetch(upcoming.next().unwrap_or_default());
        let noise = noise.map(|noise| &noise[index * blocks.elements..]);
        match <&[F::Real; SMALL_BLOCK]>::try_from(values) {
            Ok(values) => encode_block(format, values, noise, parameters, codes),
            Err(_) => encode_block(format, values, noise, parameters, codes),
        }
    }
}

/// Decodes blocks. `step` is given what is in the place of an element, what is beside it, and the
/// element; `beside` is as long as `values`, or empty if nobody looks.
#[inline(always)]
pub(super) fn decode_blocks<F: Format>(
    format: F,
    blocks: Blocks<'_, &[u8]>,
    values: &mut [F::Real],
    beside: &[F::Real],
    step: impl Fn(F::Real, F::Real, F::Real) -> F::Real,
) {
    let mut upcoming = parts(blocks.upcoming, values.len(), blocks.elements);
    let each = blocks.codes.chunks(F::Layout::len_bytes(blocks.elements));
    let each = blocks
        .parameters
        .chunks_exact(size_of::<F::Parameters>())
        .zip(each)
        .zip(values.chunks_mut(blocks.elements));
    for (index, ((parameters, codes), values)) in each.enumerate() {
        prefetch(upcoming.next().unwrap_or_default());
        let beside = beside.get(index * blocks.elements..).unwrap_or_default();
        match <&mut [F::Real; SMALL_BLOCK]>::try_from(&mut *values) {
            Ok(values) => decode_block(format, parameters, codes, values, beside, &step),
            Err(_) => decode_block(format, parameters, codes, values, beside, &step),
        }
    }
}

#[inline(always)]
fn encode_block<F: Format>(
    format: F,
    values: &[F::Real],
    noise: Option<&[F::Real]>,
    parameters: &mut [u8],
    codes: &mut [u8],
) {
    let codes = &mut codes[..F::Layout::len_bytes(values.len())];
    let (found, encoder) = format.fit(values);
    parameters.copy_from_slice(found.as_bytes());
    match (encoder, noise) {
        (None, _) => codes.fill(0),
        (Some(encoder), None) if F::fits(encoder) => {
            F::Layout::encode(values, codes, |_, value| F::encode(encoder, value));
        }
        (Some(encoder), noise) => {
            let noise = noise.and_then(|noise| noise.get(..values.len()));
            F::Layout::encode(values, codes, |index, value| {
                let dither = noise.map_or(F::Real::ZERO, |noise| noise[index]);
                F::encode_clamped(encoder, value, dither)
            });
        }
    }
}

#[inline(always)]
fn decode_block<F: Format>(
    format: F,
    parameters: &[u8],
    codes: &[u8],
    values: &mut [F::Real],
    beside: &[F::Real],
    step: impl Fn(F::Real, F::Real, F::Real) -> F::Real,
) {
    let codes = &codes[..F::Layout::len_bytes(values.len())];
    let parameters = F::Parameters::read_from_bytes(parameters).ok();
    let Some(decoder) = parameters.and_then(|parameters| format.decoder(parameters)) else {
        return values.fill(F::Real::NAN);
    };
    // As long as the values: that spares a look at each index.
    match beside.get(..values.len()) {
        Some(beside) => F::Layout::decode(codes, values, |index, value, code| {
            step(value, beside[index], F::decode(decoder, code))
        }),
        None => F::Layout::decode(codes, values, |_, value, code| {
            step(value, F::Real::ZERO, F::decode(decoder, code))
        }),
    }
}
