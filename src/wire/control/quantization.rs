//! How an operation is quantized, to and from its field numbers.

use super::convert::{DecodeError, Decoded, nonsense};
use super::proto as p;
use crate::types::{Distribution, Quantization, QuantizationPath, QuantizationScheme, Rounding};

impl From<Quantization> for p::Quantization {
    fn from(quantization: Quantization) -> Self {
        let (scheme, codes) = quantization.scheme.numbers();
        Self {
            scheme: scheme.into(),
            codes: codes.into(),
            block_elements: quantization.block_elements,
            distribution: quantization.distribution as u32,
            rounding_key: match quantization.rounding {
                Rounding::Nearest => None,
                Rounding::Stochastic { key } => Some(key),
            },
            path: quantization.path as u32,
        }
    }
}

impl TryFrom<p::Quantization> for Quantization {
    type Error = DecodeError;

    fn try_from(m: p::Quantization) -> Decoded<Self> {
        let scheme = QuantizationScheme::from_numbers(m.scheme, m.codes);
        let distribution = Distribution::from_number(m.distribution);
        let path = QuantizationPath::from_number(m.path);
        Ok(Self {
            scheme: scheme.ok_or_else(|| nonsense("quantization.scheme", m.scheme))?,
            block_elements: m.block_elements,
            distribution: distribution
                .ok_or_else(|| nonsense("quantization.distribution", m.distribution))?,
            rounding: match m.rounding_key {
                None => Rounding::Nearest,
                Some(key) => Rounding::Stochastic { key },
            },
            path: path.ok_or_else(|| nonsense("quantization.path", m.path))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DataType;

    #[test]
    fn every_quantization_comes_back() {
        let all = [
            Quantization::min_max(DataType::U16).block_elements(64),
            Quantization::zero_point_scale(DataType::I8).distribution(Distribution::Normal),
            Quantization::int8().rounding(Rounding::Stochastic { key: u64::MAX }),
            Quantization::int4().path(QuantizationPath::Direct),
            Quantization::mx_fp8_e4m3().path(QuantizationPath::Ring),
            Quantization::mx_fp8_e5m2().rounding(Rounding::Stochastic { key: 0 }),
            Quantization::mx_fp4().distribution(Distribution::Uniform),
        ];
        for quantization in all {
            let message = p::Quantization::from(quantization);
            assert_eq!(Quantization::try_from(message), Ok(quantization));
        }
    }

    #[test]
    fn numbers_that_nobody_knows_are_refused() {
        let message = p::Quantization::from(Quantization::int8());
        for change in [
            |m: &mut p::Quantization| m.scheme = 0,
            |m: &mut p::Quantization| m.codes = 99,
            |m: &mut p::Quantization| m.distribution = 3,
            |m: &mut p::Quantization| m.path = 3,
        ] {
            let mut changed = message.clone();
            change(&mut changed);
            assert!(Quantization::try_from(changed).is_err());
        }
    }
}
