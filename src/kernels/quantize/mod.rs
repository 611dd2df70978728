//! Elements to fewer bits and back, and what a rank does in between: add its own share.
//!
//! A segment is encoded by itself: the parameters of its blocks, then their codes.
//!
//! ```text
//! +--------------+-----+--------------+---------+-----+---------+
//! | parameters 0 | ... | parameters n | codes 0 | ... | codes n |      n = ceil(elements / block)
//! +--------------+-----+--------------+---------+-----+---------+
//! ```
//!
//! | scheme | parameters, little-endian | element |
//! | --- | --- | --- |
//! | min-max, `b` bits | origin, step: `f32`, or `f64` | `origin + code * step` |
//! | zero point and scale | scale, centre: `f32`, or `f64` | `(code + centre) * scale` |
//! | int8, int4 | scale: `bf16` | `code * scale` |
//! | MXFP8, MXFP4 | exponent `e`: E8M0 | `code * 2^(e - 127)`, the code a float of 8 or 4 bits |
//!
//! Codes of whole numbers are in two's complement, whether their type is signed or not: that is a matter
//! of where zero is. `f64` for elements of `f64` and for codes of 32 and 64 bits; a code of 64 bits takes
//! 2^50 values. A nibble's byte holds element `i` of its block in the low half and `i + ceil(n / 2)` in the high one,
//! so that vectors need not be shuffled. Parameters that are no numbers stand for a block of NaN.
//!
//! A block goes through the stages decode and combine, `fit`, `encode` one after the other, in the
//! first-level cache. As elsewhere the bits are a function of the operands alone: all arithmetic is
//! IEEE's, in one order, without fused multiply-add, and compiled for every route.

mod affine;
mod elements;
mod format;
mod microscaling;
mod noise;
mod real;
mod segment;
mod symmetric;
#[cfg(test)]
mod tests;

use super::Route;
use crate::types::{DataType, Quantization, QuantizationScheme, ReduceOp};
use affine::{MinMax, ZeroPointScale};
use format::{Format, Nibbles, Whole};
use microscaling::Microscaling;
use noise::Noise;
pub use noise::Place;
use segment::Segment;
use symmetric::Symmetric;

/// Encodes and decodes the segments of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    quantization: Quantization,
    data_type: DataType,
    route: Route,
}

/// What a rank adds.
pub struct Share<'a> {
    /// Its elements.
    pub input: &'a [u8],
    /// What its quantizations have dropped, if that is looked after.
    pub residual: Option<Residual<'a>>,
}

/// What quantization drops, an `f32` for each element.
pub struct Residual<'a> {
    /// What was dropped the last time: added to the input.
    pub carried: &'a [u8],
    /// What is dropped this time: written.
    pub dropped: &'a mut [u8],
}

/// How contributions become one.
#[derive(Clone, Copy, Debug)]
pub struct Combine {
    /// By this operation.
    pub op: ReduceOp,
    /// The world size, where the result is final: an average divides.
    pub finish: Option<u32>,
}

impl Codec {
    /// Of elements of `data_type`, which the quantization was checked for.
    pub fn new(quantization: Quantization, data_type: DataType) -> Codec {
        Codec::on(Route::best(), quantization, data_type)
    }

    /// As [`Codec::new`] on a route of the caller's choice, for tests and benches.
    pub fn on(route: Route, quantization: Quantization, data_type: DataType) -> Codec {
        Codec {
            quantization,
            data_type,
            route,
        }
    }

    /// Bytes of a segment whose elements are `len_bytes` long.
    pub fn encoded_len_bytes(&self, len_bytes: usize) -> usize {
        let elements = (len_bytes / self.data_type.size_bytes()) as u64;
        self.quantization
            .encoded_len_bytes(self.data_type, elements) as usize
    }

    /// Encodes a share by itself. `encoded` is as long as [`Codec::encoded_len_bytes`] says.
    pub fn encode(&self, share: Share<'_>, place: Place, encoded: &mut [u8]) {
        let combine = Combine {
            op: ReduceOp::Sum,
            finish: None,
        };
        self.combine(combine, &[], share, place, encoded, None);
    }

    /// Combines what was received with a share, in this order, and encodes the result. With an
    /// `output`, writes there what everybody decodes from it.
    ///
    /// Costs one pass over all of it.
    pub fn combine(
        &self,
        combine: Combine,
        received: &[&[u8]],
        share: Share<'_>,
        place: Place,
        encoded: &mut [u8],
        output: Option<&mut [u8]>,
    ) {
        let len_bytes = share.input.len();
        self.run(
            len_bytes,
            Work {
                combine,
                received,
                share: Some(share),
                noise: Noise::new(self.quantization.rounding, place),
                encoded: Some(encoded),
                output,
            },
        );
    }

    /// Decodes a segment.
    pub fn decode(&self, encoded: &[u8], output: &mut [u8]) {
        let combine = Combine {
            op: ReduceOp::Sum,
            finish: None,
        };
        self.run(
            output.len(),
            Work {
                combine,
                received: &[encoded],
                share: None,
                noise: None,
                encoded: None,
                output: Some(output),
            },
        );
    }

    fn run(&self, len_bytes: usize, work: Work<'_>) {
        use QuantizationScheme as S;
        let normal = self.quantization.distribution == crate::types::Distribution::Normal;
        let is_double = self.quantization.is_double(self.data_type);
        match self.quantization.scheme {
            S::MinMax(codes) => match (codes.size_bytes(), is_double) {
                (1, false) => self.run_as(MinMax::<f32, i8>::default(), len_bytes, work),
                (2, false) => self.run_as(MinMax::<f32, i16>::default(), len_bytes, work),
                (1, true) => self.run_as(MinMax::<f64, i8>::default(), len_bytes, work),
                (2, true) => self.run_as(MinMax::<f64, i16>::default(), len_bytes, work),
                (4, _) => self.run_as(MinMax::<f64, i32>::default(), len_bytes, work),
                _ => self.run_as(MinMax::<f64, i64>::default(), len_bytes, work),
            },
            S::ZeroPointScale(codes) => match (codes.size_bytes(), is_double) {
                (1, false) => self.run_as(ZeroPointScale::<f32, i8>::new(normal), len_bytes, work),
                (2, false) => self.run_as(ZeroPointScale::<f32, i16>::new(normal), len_bytes, work),
                (1, true) => self.run_as(ZeroPointScale::<f64, i8>::new(normal), len_bytes, work),
                (2, true) => self.run_as(ZeroPointScale::<f64, i16>::new(normal), len_bytes, work),
                (4, _) => self.run_as(ZeroPointScale::<f64, i32>::new(normal), len_bytes, work),
                _ => self.run_as(ZeroPointScale::<f64, i64>::new(normal), len_bytes, work),
            },
            S::Int8 => self.run_as(Symmetric::<Whole<1>>::new(normal), len_bytes, work),
            S::Int4 => self.run_as(Symmetric::<Nibbles>::new(normal), len_bytes, work),
            S::MxFp8E4M3 => self.run_as(Microscaling::<Whole<1>, 4, 3>::default(), len_bytes, work),
            S::MxFp8E5M2 => self.run_as(Microscaling::<Whole<1>, 5, 2>::default(), len_bytes, work),
            S::MxFp4 => self.run_as(Microscaling::<Nibbles, 2, 1>::default(), len_bytes, work),
        }
    }

    fn run_as<F: Format>(&self, format: F, len_bytes: usize, work: Work<'_>) {
        self.route.run(Segment {
            format,
            codec: *self,
            elements: len_bytes / self.data_type.size_bytes(),
            work,
        });
    }
}

/// What is done with one segment.
struct Work<'a> {
    combine: Combine,
    received: &'a [&'a [u8]],
    share: Option<Share<'a>>,
    noise: Option<Noise>,
    encoded: Option<&'a mut [u8]>,
    output: Option<&'a mut [u8]>,
}
