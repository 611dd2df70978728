//! PCCL's two schemes: steps of equal size over the range of a block.

use std::marker::PhantomData;

use super::format::{Format, Parameters, Whole};
use super::real::{Real, mean, range};

/// Standard deviations to either side that are kept of a normal block, by bits of a code.
pub(super) fn normal_range(bits: u32) -> f64 {
    match bits {
        ..8 => 2.7,
        8 => 3.9,
        _ => 6.0,
    }
}

/// Whole numbers from 0 to [`Level::MAX`], as they lie in memory.
pub(super) trait Level<R: Real>: Copy {
    const BITS: u32;
    const MAX: f64;
    type Layout: super::format::Layout<Code = Self::Bytes>;
    type Bytes: Copy + Default;

    /// The whole number nearest to `number`, plus `offset`, a whole number itself.
    fn nearest(number: R, offset: R) -> Self::Bytes;
    fn number(bytes: Self::Bytes) -> R;
}

macro_rules! level {
    ($real:ty, $t:ty, $bytes:literal, $max:expr) => {
        impl Level<$real> for $t {
            const BITS: u32 = <$t>::BITS;
            const MAX: f64 = $max;
            type Layout = Whole<$bytes>;
            type Bytes = [u8; $bytes];

            #[inline(always)]
            fn nearest(number: $real, offset: $real) -> [u8; $bytes] {
                let whole = (number + <$real>::ROUNDING).to_bits();
                let offset = (offset + <$real>::ROUNDING).to_bits();
                (whole.wrapping_add(offset) as $t).to_le_bytes()
            }

            #[inline(always)]
            fn number(bytes: [u8; $bytes]) -> $real {
                <$t>::from_le_bytes(bytes) as $real
            }
        }
    };
}

level!(f32, u8, 1, 255.0);
level!(f32, u16, 2, 65_535.0);
level!(f64, u8, 1, 255.0);
level!(f64, u16, 2, 65_535.0);
level!(f64, u32, 4, 4_294_967_295.0);

/// As many values as `f64` counts exactly with room for a zero point.
impl Level<f64> for u64 {
    const BITS: u32 = 64;
    const MAX: f64 = 1_125_899_906_842_623.0; // 2^50 - 1
    type Layout = Whole<8>;
    type Bytes = [u8; 8];

    #[inline(always)]
    fn nearest(number: f64, offset: f64) -> [u8; 8] {
        let whole = (number + f64::ROUNDING).to_bits();
        let offset = (offset + f64::ROUNDING).to_bits();
        (whole.wrapping_add(offset) & ((1 << 51) - 1)).to_le_bytes()
    }

    #[inline(always)]
    fn number(bytes: [u8; 8]) -> f64 {
        u64::from_le_bytes(bytes) as f64
    }
}

/// Two numbers side by side.
fn pair<R: Real>(first: R, second: R) -> Parameters {
    let mut parameters = Parameters::default();
    let size = size_of::<R>();
    parameters[..size].copy_from_slice(first.as_bytes());
    parameters[size..2 * size].copy_from_slice(second.as_bytes());
    parameters
}

/// The two numbers, if they are.
fn read_pair<R: Real>(parameters: &[u8]) -> Option<(R, R)> {
    let (first, rest) = R::read_from_prefix(parameters).ok()?;
    let (second, _) = R::read_from_prefix(rest).ok()?;
    (first.is_number() && second.is_number()).then_some((first, second))
}

/// From the smallest element to the largest, counted from the middle between them, so that the
/// widest range does not overflow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MinMax<R, L>(PhantomData<(R, L)>);

#[derive(Clone, Copy)]
pub(super) struct MinMaxEncoder<R> {
    middle: R,
    steps_per_unit: R,
    half: R,
    last: R,
}

#[derive(Clone, Copy)]
pub(super) struct MinMaxDecoder<R> {
    middle: R,
    step: R,
    half: R,
}

impl<R: Real, L: Level<R>> Format for MinMax<R, L> {
    type Real = R;
    type Layout = L::Layout;
    type Encoder = MinMaxEncoder<R>;
    type Decoder = MinMaxDecoder<R>;

    #[inline(always)]
    fn fit(self, values: &[R]) -> (Parameters, Option<Self::Encoder>) {
        let (low, high, magnitude) = range(values);
        if magnitude >= R::INFINITY_BITS {
            return (pair(R::NAN, R::ZERO), None);
        }
        let (half, last) = (R::of(L::MAX / 2.0), R::of(L::MAX));
        let one_half = R::of(0.5);
        let (middle, mut step) = if low < high {
            let step = high / last - low / last;
            (
                low * one_half + high * one_half,
                step.most(R::SMALLEST_STEP),
            )
        } else {
            (low, R::ZERO)
        };
        // The last element of the widest ranges would be rounded to infinity.
        let less = R::of(1.0) - R::of(f64::from(f32::EPSILON));
        while !(middle + half * step).is_number() || !(middle - half * step).is_number() {
            step = step * less;
        }
        let steps_per_unit = if step > R::ZERO {
            R::of(1.0) / step
        } else {
            R::ZERO
        };
        let encoder = MinMaxEncoder {
            middle,
            steps_per_unit,
            half,
            last,
        };
        (pair(middle, step), Some(encoder))
    }

    #[inline(always)]
    fn decoder(self, parameters: &[u8]) -> Option<Self::Decoder> {
        let (middle, step) = read_pair(parameters)?;
        let half = R::of(L::MAX / 2.0);
        Some(MinMaxDecoder { middle, step, half })
    }

    #[inline(always)]
    fn encode(encoder: Self::Encoder, value: R, dither: R) -> L::Bytes {
        let steps = (value - encoder.middle) * encoder.steps_per_unit + encoder.half;
        L::nearest((steps + dither).most(R::ZERO).least(encoder.last), R::ZERO)
    }

    #[inline(always)]
    fn decode(decoder: Self::Decoder, code: L::Bytes) -> R {
        decoder.middle + (L::number(code) - decoder.half) * decoder.step
    }
}

/// Multiples of a scale, of which the first is a whole number: zero is among them if it is in range.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroPointScale<R, L> {
    clips: bool,
    types: PhantomData<(R, L)>,
}

impl<R, L> ZeroPointScale<R, L> {
    /// `clips`: a normal block's outliers.
    pub(super) fn new(clips: bool) -> Self {
        let types = PhantomData;
        Self { clips, types }
    }
}

#[derive(Clone, Copy)]
pub(super) struct ZeroPointScaleEncoder<R> {
    steps_per_unit: R,
    first: R,
    last: R,
    zero: R,
}

#[derive(Clone, Copy)]
pub(super) struct ZeroPointScaleDecoder<R> {
    scale: R,
    zero: R,
}

impl<R: Real, L: Level<R>> Format for ZeroPointScale<R, L> {
    type Real = R;
    type Layout = L::Layout;
    type Encoder = ZeroPointScaleEncoder<R>;
    type Decoder = ZeroPointScaleDecoder<R>;

    #[inline(always)]
    fn fit(self, values: &[R]) -> (Parameters, Option<Self::Encoder>) {
        let (mut low, mut high, magnitude) = range(values);
        if magnitude >= R::INFINITY_BITS {
            return (pair(R::NAN, R::ZERO), None);
        }
        if low >= high {
            // One step from zero. The reciprocal of a tiny scale would be infinite, so codes are
            // chosen by the limits alone.
            let encoder = ZeroPointScaleEncoder {
                steps_per_unit: R::ZERO,
                first: R::of(1.0),
                last: R::of(1.0),
                zero: R::ZERO,
            };
            return (pair(low, R::ZERO), Some(encoder));
        }
        if self.clips {
            (low, high) = clipped(values, low, high, L::BITS);
        }
        // One less than there are: rounding both ends may take one more.
        let steps = R::of(L::MAX - 1.0);
        let largest = high.most(-low);
        let scale = (high / steps - low / steps)
            .most(largest * R::FINEST_STEP)
            .most(R::SMALLEST_STEP);
        let steps_per_unit = R::of(1.0) / scale;
        let (mut first, mut last) = (
            (low * steps_per_unit).rounded(),
            (high * steps_per_unit).rounded(),
        );
        let zero = -first;
        // The ends of the widest ranges would be rounded to infinity.
        if !(first * scale).is_number() {
            first = first + R::of(1.0);
        }
        if !(last * scale).is_number() {
            last = last - R::of(1.0);
        }
        let encoder = ZeroPointScaleEncoder {
            steps_per_unit,
            first,
            last,
            zero,
        };
        (pair(scale, zero), Some(encoder))
    }

    #[inline(always)]
    fn decoder(self, parameters: &[u8]) -> Option<Self::Decoder> {
        let (scale, zero) = read_pair(parameters)?;
        Some(ZeroPointScaleDecoder { scale, zero })
    }

    #[inline(always)]
    fn encode(encoder: Self::Encoder, value: R, dither: R) -> L::Bytes {
        let steps = value * encoder.steps_per_unit + dither;
        L::nearest(steps.most(encoder.first).least(encoder.last), encoder.zero)
    }

    #[inline(always)]
    fn decode(decoder: Self::Decoder, code: L::Bytes) -> R {
        (L::number(code) - decoder.zero) * decoder.scale
    }
}

/// The range of a normal block without its outliers; the range itself where its moments overflow.
#[inline(always)]
fn clipped<R: Real>(values: &[R], low: R, high: R, bits: u32) -> (R, R) {
    let center = mean(values, |value| value);
    let variance = mean(values, |value| (value - center) * (value - center));
    let reach = variance.square_root() * R::of(normal_range(bits));
    if !reach.is_number() || !center.is_number() || reach <= R::ZERO {
        return (low, high);
    }
    (low.most(center - reach), high.least(center + reach))
}
