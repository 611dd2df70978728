//! What a scheme is: how a block's parameters are found, and what one element becomes. And the two
//! loops over a block, which are the same for all.

use super::real::Real;

/// Bytes of the longest parameters.
const PARAMETERS_BYTES_MAX: usize = 16;

/// A block's parameters as they go over the wire; the first bytes count.
pub(super) type Parameters = [u8; PARAMETERS_BYTES_MAX];

/// Everything here is free of branches where it concerns one element, and inlined.
pub(super) trait Format: Copy {
    type Real: Real;
    type Layout: Layout;
    type Encoder: Copy;
    type Decoder: Copy;

    /// The parameters of a block, and what it is encoded with: nothing if it holds a NaN or an infinity.
    fn fit(self, values: &[Self::Real]) -> (Parameters, Option<Self::Encoder>);

    /// What a block is decoded with: nothing if it is all NaN. The bytes may be anybody's.
    fn decoder(self, parameters: &[u8]) -> Option<Self::Decoder>;

    /// The code of an element, `dither` steps moved.
    fn encode(encoder: Self::Encoder, value: Self::Real, dither: Self::Real) -> Code<Self>;

    /// The element of a code.
    fn decode(decoder: Self::Decoder, code: Code<Self>) -> Self::Real;
}

pub(super) type Code<F> = <<F as Format>::Layout as Layout>::Code;

/// How codes lie in memory.
pub(super) trait Layout {
    type Code: Copy + Default;

    fn encode<R: Real>(values: &[R], codes: &mut [u8], encode: impl Fn(usize, R) -> Self::Code);
    fn decode<R: Real>(codes: &[u8], values: &mut [R], decode: impl Fn(Self::Code) -> R);
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
    fn encode<R: Real>(values: &[R], codes: &mut [u8], encode: impl Fn(usize, R) -> [u8; N]) {
        let (codes, _) = codes.as_chunks_mut::<N>();
        for (index, (code, value)) in codes.iter_mut().zip(values).enumerate() {
            *code = encode(index, *value);
        }
    }

    #[inline(always)]
    fn decode<R: Real>(codes: &[u8], values: &mut [R], decode: impl Fn([u8; N]) -> R) {
        let (codes, _) = codes.as_chunks::<N>();
        for (code, value) in codes.iter().zip(values) {
            *value = decode(*code);
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
    fn encode<R: Real>(values: &[R], codes: &mut [u8], encode: impl Fn(usize, R) -> u8) {
        let (low, high) = values.split_at(values.len().div_ceil(2));
        for (index, (code, (low, high))) in codes.iter_mut().zip(low.iter().zip(high)).enumerate() {
            let offset = values.len().div_ceil(2);
            *code = encode(index, *low) & 0xf | encode(index + offset, *high) << 4;
        }
        if let (Some(code), true) = (codes.last_mut(), low.len() > high.len()) {
            *code = encode(high.len(), low[high.len()]) & 0xf;
        }
    }

    #[inline(always)]
    fn decode<R: Real>(codes: &[u8], values: &mut [R], decode: impl Fn(u8) -> R) {
        let (low, high) = values.split_at_mut(values.len().div_ceil(2));
        for (code, value) in codes.iter().zip(low) {
            *value = decode(*code & 0xf);
        }
        for (code, value) in codes.iter().zip(high) {
            *value = decode(*code >> 4);
        }
    }
}

/// Encodes a block and writes its parameters.
#[inline(always)]
pub(super) fn encode_block<F: Format>(
    format: F,
    values: &[F::Real],
    noise: Option<&[F::Real]>,
    parameters: &mut [u8],
    codes: &mut [u8],
) {
    let (found, encoder) = format.fit(values);
    parameters.copy_from_slice(&found[..parameters.len()]);
    let Some(encoder) = encoder else {
        codes.fill(0);
        return;
    };
    match noise {
        None => F::Layout::encode(values, codes, |_, value| {
            F::encode(encoder, value, F::Real::ZERO)
        }),
        Some(noise) => F::Layout::encode(values, codes, |index, value| {
            F::encode(encoder, value, noise[index])
        }),
    }
}

/// Decodes a block.
#[inline(always)]
pub(super) fn decode_block<F: Format>(
    format: F,
    parameters: &[u8],
    codes: &[u8],
    values: &mut [F::Real],
) {
    match format.decoder(parameters) {
        Some(decoder) => F::Layout::decode(codes, values, |code| F::decode(decoder, code)),
        None => values.fill(F::Real::NAN),
    }
}
