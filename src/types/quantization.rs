//! How elements are sent with fewer bits: part of an operation's descriptor, so the same at all peers.

use std::fmt;
use std::str::FromStr;

use super::{DataType, ReduceOp};

/// The smallest and the largest block, in elements.
const BLOCK_ELEMENTS: std::ops::RangeInclusive<u32> = 32..=4096;

/// Elements that share a scale in the microscaling formats.
const MICROSCALING_BLOCK_ELEMENTS: u32 = 32;

/// How the elements of one all-reduce are quantized on their way between peers.
///
/// Only floats can be; any [`ReduceOp`] may combine them. Elements are cut into *blocks*, each with
/// parameters of its own. A block that holds a NaN or an infinity arrives as NaN, all of it: nothing
/// that overflowed is taken for a number. All peers end with the same bits, whatever is chosen here,
/// and all must choose the same.
///
/// With `m` the largest magnitude in a block, `lo` and `hi` its ends, an element is off by at most:
///
/// | scheme | bits an element | error of one quantization |
/// | --- | --- | --- |
/// | [`min_max`](Self::min_max), `b` bits | `b + 64 / block` | `(hi - lo) / (2^b - 1) / 2` |
/// | [`zero_point_scale`](Self::zero_point_scale), `b` bits | `b + 64 / block` | `(hi - lo) / (2^b - 2) / 2` |
/// | [`int8`](Self::int8) | `8 + 16 / block` | `1.008 m / 127 / 2` |
/// | [`int4`](Self::int4) | `4 + 16 / block` | `1.008 m / 7 / 2` |
/// | [`mx_fp8_e4m3`](Self::mx_fp8_e4m3) | 8.25 | 1/16 of the element, `m / 2^18` where that is more |
/// | [`mx_fp8_e5m2`](Self::mx_fp8_e5m2) | 8.25 | 1/8 of the element, `m / 2^31` where that is more |
/// | [`mx_fp4`](Self::mx_fp4) | 4.25 | 1/4 of the element, `m / 12` where that is more |
///
/// and by what rounding to its type costs, as everywhere. Twice that under stochastic rounding, and within a
/// step of the largest number that there is, beyond which there are no codes. How
/// often an element is quantized on its way is the [path's](Self::path) business.
///
/// ```
/// use pccl::{Quantization, ReduceOptions};
/// let options = ReduceOptions::avg().quantize(Quantization::int8());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "it does nothing before it is among the options of an operation"]
pub struct Quantization {
    pub(crate) scheme: QuantizationScheme,
    pub(crate) block_elements: u32,
    pub(crate) distribution: Distribution,
    pub(crate) rounding: Rounding,
    pub(crate) path: QuantizationPath,
}

/// What a block's parameters and its codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantizationScheme {
    /// Steps of equal size from the smallest element to the largest. A block of equal elements is
    /// exact. PCCL's `pcclQuantMinMax`.
    MinMax(DataType),
    /// Multiples of a scale, so that zero is exact where it is in range. A block of equal elements is
    /// exact. PCCL's `pcclQuantZeroPointScale`.
    ZeroPointScale(DataType),
    /// Multiples of a `bf16` scale from -127 to 127.
    Int8,
    /// Multiples of a `bf16` scale from -7 to 7, two in a byte.
    Int4,
    /// OCP MXFP8 with 4 bits of exponent and 3 of fraction; a power of two for each 32 elements.
    MxFp8E4M3,
    /// OCP MXFP8 with 5 bits of exponent and 2 of fraction; a power of two for each 32 elements.
    MxFp8E5M2,
    /// OCP MXFP4 (E2M1), two in a byte; a power of two for each 32 elements.
    MxFp4,
}

/// What the caller knows of how the elements are distributed. The numbers are those of
/// `pcclDistributionHint_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Distribution {
    /// Nothing: the range of a block is from its smallest to its largest element.
    #[default]
    Unknown = 0,
    /// Normal: outliers are clipped, which makes the steps smaller for all others. With `b` bits a
    /// range ends 2.7 (4), 3.9 (8) or 6 (16 and more) standard deviations from the block's mean, or
    /// at its last element if that is nearer: about where the mean square error of a uniform quantizer
    /// of a normal variable is least (J. Max, *Quantizing for minimum distortion*, 1960). Heeded
    /// by zero point and scale, `int8` and `int4`; the latter two count from zero.
    Normal = 1,
    /// Uniform: as unknown, since a range without tails is best covered whole.
    Uniform = 2,
}

/// Which of the two nearest values an element becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// The nearer; of two as near the even one.
    #[default]
    Nearest,
    /// Either, so that its expectation is the element. The generator is Philox4x32-10 under this key,
    /// counted by where in the operation an element is: the same key, peers and inputs give the same
    /// bits, so a program wants another key for every operation. Encoding takes some ten times as long.
    Stochastic {
        /// The key.
        key: u64,
    },
}

/// How often an element is quantized on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum QuantizationPath {
    /// What suits the world size: [`Direct`](Self::Direct) for three peers, which costs no bytes
    /// there, and [`Ring`](Self::Ring) elsewhere. For two they are one.
    #[default]
    Auto = 0,
    /// Each rank adds its share to what it received and quantizes the sum: `W` quantizations of ever
    /// larger sums. Sends `2 (W - 1) / W` of the quantized buffer.
    Ring = 1,
    /// Two quantizations, whatever the world size: contributions travel unchanged to the rank that
    /// adds them up, and so does the result. Sends about `(W - 1) / W + W / 4` of the quantized buffer
    /// from each peer, as contributions go the shorter way round the ring.
    Direct = 2,
}

impl Quantization {
    fn new(scheme: QuantizationScheme, block_elements: u32) -> Self {
        Self {
            scheme,
            block_elements,
            distribution: Distribution::default(),
            rounding: Rounding::default(),
            path: QuantizationPath::default(),
        }
    }

    /// [`QuantizationScheme::MinMax`] to codes as wide as `codes`, an integer type; 8 or 16 bits are
    /// what saves bytes. Blocks of 1024.
    pub fn min_max(codes: DataType) -> Self {
        Self::new(QuantizationScheme::MinMax(codes), 1024)
    }

    /// [`QuantizationScheme::ZeroPointScale`] to codes as wide as `codes`, an integer type; 8 or 16
    /// bits are what saves bytes. Blocks of 1024.
    pub fn zero_point_scale(codes: DataType) -> Self {
        Self::new(QuantizationScheme::ZeroPointScale(codes), 1024)
    }

    /// [`QuantizationScheme::Int8`] in blocks of 256.
    pub fn int8() -> Self {
        Self::new(QuantizationScheme::Int8, 256)
    }

    /// [`QuantizationScheme::Int4`] in blocks of 128.
    pub fn int4() -> Self {
        Self::new(QuantizationScheme::Int4, 128)
    }

    /// [`QuantizationScheme::MxFp8E4M3`].
    pub fn mx_fp8_e4m3() -> Self {
        Self::new(QuantizationScheme::MxFp8E4M3, MICROSCALING_BLOCK_ELEMENTS)
    }

    /// [`QuantizationScheme::MxFp8E5M2`].
    pub fn mx_fp8_e5m2() -> Self {
        Self::new(QuantizationScheme::MxFp8E5M2, MICROSCALING_BLOCK_ELEMENTS)
    }

    /// [`QuantizationScheme::MxFp4`].
    pub fn mx_fp4() -> Self {
        Self::new(QuantizationScheme::MxFp4, MICROSCALING_BLOCK_ELEMENTS)
    }

    /// Elements that share parameters: a power of two from 32 to 4096; 32 in the microscaling formats.
    /// Smaller blocks are more exact and cost the bits of the table above.
    pub fn block_elements(mut self, elements: u32) -> Self {
        self.block_elements = elements;
        self
    }

    /// What is known of the elements. Default unknown.
    pub fn distribution(mut self, distribution: Distribution) -> Self {
        self.distribution = distribution;
        self
    }

    /// How elements are rounded. Default to nearest.
    pub fn rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = rounding;
        self
    }

    /// How often elements are quantized. Default what suits the world size.
    pub fn path(mut self, path: QuantizationPath) -> Self {
        self.path = path;
        self
    }

    /// Every scheme with every type of codes.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let is_integer = |codes: &DataType| !DataType::FLOATS.contains(codes);
        let codes = DataType::ALL.into_iter().filter(is_integer);
        let affine = codes.flat_map(|codes| [Self::min_max(codes), Self::zero_point_scale(codes)]);
        affine.chain([
            Self::int8(),
            Self::int4(),
            Self::mx_fp8_e4m3(),
            Self::mx_fp8_e5m2(),
            Self::mx_fp4(),
        ])
    }

    /// Why elements of `data_type` cannot be quantized so.
    pub(crate) fn check(&self, data_type: DataType) -> Result<(), String> {
        if !DataType::FLOATS.contains(&data_type) {
            return Err(format!(
                "{data_type} elements are no floats, and only those are quantized"
            ));
        }
        let block = self.block_elements;
        if !BLOCK_ELEMENTS.contains(&block) || !block.is_power_of_two() {
            let (least, most) = (BLOCK_ELEMENTS.start(), BLOCK_ELEMENTS.end());
            return Err(format!(
                "blocks of {block} elements are no power of two from {least} to {most}"
            ));
        }
        match self.scheme {
            QuantizationScheme::MinMax(codes) | QuantizationScheme::ZeroPointScale(codes)
                if DataType::FLOATS.contains(&codes) =>
            {
                Err(format!("{codes} is no integer type for codes"))
            }
            _ if self.is_microscaling() && block != MICROSCALING_BLOCK_ELEMENTS => Err(format!(
                "blocks of {block} elements, where the microscaling formats have {MICROSCALING_BLOCK_ELEMENTS}"
            )),
            _ => Ok(()),
        }
    }

    /// Why what it drops cannot be carried over to the next operation.
    pub(crate) fn check_feedback(data_type: DataType, op: ReduceOp) -> Result<(), String> {
        if !matches!(op, ReduceOp::Sum | ReduceOp::Avg) {
            return Err(format!(
                "what a {op} lacks is nothing that could be added next time"
            ));
        }
        if data_type == DataType::F64 {
            return Err("the residual is f32, too coarse for f64 elements".to_owned());
        }
        Ok(())
    }

    fn is_microscaling(&self) -> bool {
        use QuantizationScheme::{MxFp4, MxFp8E4M3, MxFp8E5M2};
        matches!(self.scheme, MxFp8E4M3 | MxFp8E5M2 | MxFp4)
    }

    /// Bits of a code.
    pub(crate) fn code_bits(&self) -> u32 {
        match self.scheme {
            QuantizationScheme::MinMax(codes) | QuantizationScheme::ZeroPointScale(codes) => {
                8 * codes.size_bytes() as u32
            }
            QuantizationScheme::Int8
            | QuantizationScheme::MxFp8E4M3
            | QuantizationScheme::MxFp8E5M2 => 8,
            QuantizationScheme::Int4 | QuantizationScheme::MxFp4 => 4,
        }
    }

    /// Whether it is calculated in `f64`, or else in `f32`.
    pub(crate) fn is_double(&self, data_type: DataType) -> bool {
        match self.scheme {
            QuantizationScheme::MinMax(_) | QuantizationScheme::ZeroPointScale(_) => {
                data_type == DataType::F64 || self.code_bits() > 16
            }
            _ => false,
        }
    }

    /// Bytes of a block's parameters.
    pub(crate) fn parameters_bytes(&self, data_type: DataType) -> usize {
        match self.scheme {
            QuantizationScheme::MinMax(_) | QuantizationScheme::ZeroPointScale(_) => {
                if self.is_double(data_type) { 16 } else { 8 }
            }
            QuantizationScheme::Int8 | QuantizationScheme::Int4 => 2,
            _ => 1,
        }
    }

    /// Bytes of a segment of so many elements on the wire: the parameters of its blocks, then codes.
    pub(crate) fn encoded_len_bytes(&self, data_type: DataType, elements: u64) -> u64 {
        let blocks = elements.div_ceil(u64::from(self.block_elements));
        let parameters = blocks.saturating_mul(self.parameters_bytes(data_type) as u64);
        let codes = elements
            .saturating_mul(u64::from(self.code_bits()))
            .div_ceil(8);
        parameters.saturating_add(codes)
    }

    /// Whatever of it peers must agree on, in so many bytes.
    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (scheme, codes) = self.scheme.numbers();
        bytes[..4].copy_from_slice(&[scheme, codes, self.distribution as u8, self.path as u8]);
        bytes[4..8].copy_from_slice(&self.block_elements.to_le_bytes());
        if let Rounding::Stochastic { key } = self.rounding {
            bytes[8] = 1;
            bytes[16..].copy_from_slice(&key.to_le_bytes());
        }
        bytes
    }
}

impl QuantizationScheme {
    /// The number of the scheme and that of the type of its codes (0 where it has but one).
    pub(crate) fn numbers(self) -> (u8, u8) {
        match self {
            QuantizationScheme::MinMax(codes) => (1, codes as u8),
            QuantizationScheme::ZeroPointScale(codes) => (2, codes as u8),
            QuantizationScheme::Int8 => (3, 0),
            QuantizationScheme::Int4 => (4, 0),
            QuantizationScheme::MxFp8E4M3 => (5, 0),
            QuantizationScheme::MxFp8E5M2 => (6, 0),
            QuantizationScheme::MxFp4 => (7, 0),
        }
    }

    /// The scheme with these numbers.
    pub(crate) fn from_numbers(scheme: u32, codes: u32) -> Option<Self> {
        let codes = DataType::from_number(codes)?;
        Some(match scheme {
            1 => QuantizationScheme::MinMax(codes),
            2 => QuantizationScheme::ZeroPointScale(codes),
            3 => QuantizationScheme::Int8,
            4 => QuantizationScheme::Int4,
            5 => QuantizationScheme::MxFp8E4M3,
            6 => QuantizationScheme::MxFp8E5M2,
            7 => QuantizationScheme::MxFp4,
            _ => return None,
        })
    }
}

impl fmt::Display for QuantizationScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantizationScheme::MinMax(codes) => write!(f, "min-max-{codes}"),
            QuantizationScheme::ZeroPointScale(codes) => write!(f, "zero-point-scale-{codes}"),
            QuantizationScheme::Int8 => f.write_str("int8"),
            QuantizationScheme::Int4 => f.write_str("int4"),
            QuantizationScheme::MxFp8E4M3 => f.write_str("mx-fp8-e4m3"),
            QuantizationScheme::MxFp8E5M2 => f.write_str("mx-fp8-e5m2"),
            QuantizationScheme::MxFp4 => f.write_str("mx-fp4"),
        }
    }
}

/// The name of a scheme, as it is displayed: `int8`, `int4`, `mx-fp8-e4m3`, `mx-fp8-e5m2`, `mx-fp4`, or
/// `min-max-` or `zero-point-scale-` and the type of the codes, such as `min-max-u8`. All else is as the
/// constructors have it.
impl FromStr for Quantization {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all().find(|one| one.scheme.to_string() == name);
        found.ok_or_else(|| {
            "not one of int8, int4, mx-fp8-e4m3, mx-fp8-e5m2, mx-fp4, min-max-u8, zero-point-scale-u8 \
             (and other types of codes)"
                .to_owned()
        })
    }
}

/// The scheme and its block, and whatever is not the default, for people.
impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in blocks of {}", self.scheme, self.block_elements)?;
        if self.distribution != Distribution::Unknown {
            write!(f, ", {:?} distribution", self.distribution)?;
        }
        if let Rounding::Stochastic { key } = self.rounding {
            write!(f, ", stochastic under key {key:#x}")?;
        }
        if self.path != QuantizationPath::Auto {
            write!(f, ", {:?} path", self.path)?;
        }
        Ok(())
    }
}

impl Distribution {
    /// The distribution with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Unknown, Self::Normal, Self::Uniform]
            .get(number as usize)
            .copied()
    }
}

impl QuantizationPath {
    /// The path with this number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Auto, Self::Ring, Self::Direct]
            .get(number as usize)
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_said() {
        let why =
            |quantization: Quantization, data_type| quantization.check(data_type).unwrap_err();
        assert!(why(Quantization::int8(), DataType::I32).contains("i32"));
        assert!(
            why(Quantization::min_max(DataType::F32), DataType::F32).contains("f32 is no integer")
        );
        for block in [0, 16, 48, 8192] {
            assert!(
                why(Quantization::int4().block_elements(block), DataType::F32)
                    .contains("power of two")
            );
        }
        assert!(
            why(Quantization::mx_fp4().block_elements(64), DataType::F32).contains("microscaling")
        );
        for data_type in [DataType::F16, DataType::BF16, DataType::F32, DataType::F64] {
            assert_eq!(
                Quantization::zero_point_scale(DataType::I64).check(data_type),
                Ok(())
            );
        }
    }

    #[test]
    fn a_scheme_is_found_by_its_name() {
        for quantization in [
            Quantization::int4(),
            Quantization::mx_fp8_e5m2(),
            Quantization::zero_point_scale(DataType::I16),
        ] {
            assert_eq!(quantization.scheme.to_string().parse(), Ok(quantization));
        }
        assert!("min-max-f32".parse::<Quantization>().is_err());
    }

    #[test]
    fn a_segment_is_as_long_as_its_parameters_and_codes() {
        let len = |quantization: Quantization, data_type, count| {
            quantization.encoded_len_bytes(data_type, count)
        };
        assert_eq!(
            len(Quantization::min_max(DataType::U8), DataType::F32, 1025),
            1025 + 16
        );
        assert_eq!(
            len(Quantization::min_max(DataType::U16), DataType::F64, 5),
            10 + 16
        );
        assert_eq!(len(Quantization::int4(), DataType::BF16, 129), 65 + 4);
        assert_eq!(len(Quantization::mx_fp8_e4m3(), DataType::F32, 64), 64 + 2);
        assert_eq!(len(Quantization::mx_fp4(), DataType::F32, 0), 0);
    }
}
