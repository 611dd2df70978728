//! What operations look like, and what each process gives to them.
//!
//! A contribution has one bit in each element, another one for each process, so that a sum shows
//! who is in it; which one depends on the place, so that a segment in the wrong place shows too.
//! Some contributions are rough: floats whose sum depends on the order, so that two peers that did
//! not combine the same way hold different bits.

use super::Manner;
use crate::sim::history::ProcessId;
use crate::types::{DataType, Quantization, QuantizationPath, ReduceOp, Rounding, Tag};

/// An operation, as all programs of a world mean it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) count: u64,
    pub(super) data_type: DataType,
    pub(super) op: ReduceOp,
    /// Floats that no type holds exactly; of other types the same as ever.
    pub(super) is_rough: bool,
    /// How floats are quantized, if they are.
    pub(super) quantization: Option<Quantization>,
}

/// Elements that make an operation too large to be sent without a grant.
const LARGE: u64 = 270_000;

/// A number that is a function of others (splitmix64's mixing).
pub(super) fn mix(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x243f_6a88_85a3_08d3, |state, number| {
        let mut z = (state ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

impl Shape {
    /// What a tag means in a step.
    pub(super) fn of(manner: &Manner, tag: Tag, step: u64) -> Self {
        let step = if manner.fixed_shapes { 0 } else { step };
        let draw = |purpose| mix(&[manner.seed, tag.0, step, purpose]);
        let data_type = DataType::ALL[(draw(1) % DataType::ALL.len() as u64) as usize];
        let op = match draw(2) % 6 {
            // Sums show who is in them.
            0..=2 => ReduceOp::Sum,
            3 => ReduceOp::Avg,
            4 => ReduceOp::Prod,
            _ if draw(3) % 2 == 0 => ReduceOp::Max,
            _ => ReduceOp::Min,
        };
        let count = match draw(4) % 8 {
            _ if manner.large_one_in > 0 && draw(5) % manner.large_one_in == 0 => {
                LARGE.div_ceil(data_type.size_bytes() as u64)
            }
            0 => 0,
            1 => 1,
            2 => 2,
            3 => 7,
            4 => manner.elements_max,
            _ => draw(6) % (manner.elements_max + 1),
        };
        let path = match draw(9) % 2 {
            0 => QuantizationPath::Ring,
            _ => QuantizationPath::Direct,
        };
        let quantization = match draw(8) % 9 {
            0 => Quantization::min_max(DataType::U8),
            1 => Quantization::zero_point_scale(DataType::I16),
            2 => Quantization::int4().rounding(Rounding::Stochastic { key: draw(10) }),
            // As often as integers are drawn, floats go as they are.
            _ => return Self::plain(count, data_type, op, draw(7) % 3 == 0),
        };
        let quantization = quantization.path(path);
        Self {
            quantization: Some(quantization).filter(|one| one.check(data_type).is_ok()),
            ..Self::plain(count, data_type, op, draw(7) % 3 == 0)
        }
    }

    fn plain(count: u64, data_type: DataType, op: ReduceOp, is_rough: bool) -> Self {
        Self {
            count,
            data_type,
            op,
            is_rough,
            quantization: None,
        }
    }

    /// What a process gives to it; `nonce` tells one use from another.
    pub(super) fn fill(&self, process: ProcessId, nonce: u64) -> Vec<u8> {
        let size = self.data_type.size_bytes();
        let bits = match self.data_type {
            DataType::F16 | DataType::BF16 | DataType::F32 | DataType::F64 => 7,
            _ => size as u64 * 8,
        };
        let mut bytes = Vec::with_capacity(self.count as usize * size);
        for index in 0..self.count {
            // Blocks of equal elements are quantized exactly, where a scheme can.
            let index = if self.quantization.is_some() {
                0
            } else {
                index
            };
            let place = nonce.wrapping_add(u64::from(process.0) + index);
            let value = match self.op {
                // Products of single bits would soon be nothing.
                ReduceOp::Prod => 1 + place % 2,
                _ => 1 << (place % bits),
            };
            self.push(&mut bytes, value);
        }
        bytes
    }

    fn push(&self, bytes: &mut Vec<u8>, value: u64) {
        let float = match self.is_rough {
            true => value as f64 / 3.0,
            false => value as f64,
        };
        match self.data_type {
            DataType::F16 => bytes.extend(half::f16::from_f64(float).to_le_bytes()),
            DataType::BF16 => bytes.extend(half::bf16::from_f64(float).to_le_bytes()),
            DataType::F32 => bytes.extend((float as f32).to_le_bytes()),
            DataType::F64 => bytes.extend(float.to_le_bytes()),
            _ => bytes.extend(&value.to_le_bytes()[..self.data_type.size_bytes()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(data_type: DataType) -> Shape {
        Shape::plain(3, data_type, ReduceOp::Sum, false)
    }

    #[test]
    fn two_processes_have_different_bits_in_every_element() {
        for data_type in DataType::ALL {
            let [one, two] = [1, 2].map(|process| shape(data_type).fill(ProcessId(process), 9));
            let size = data_type.size_bytes();
            assert_eq!(one.len(), 3 * size);
            for (a, b) in one.chunks(size).zip(two.chunks(size)) {
                assert_ne!(a, b, "{data_type}");
            }
        }
    }

    #[test]
    fn a_tag_means_the_same_to_all_in_a_step() {
        let mut manner = Manner::draw(
            &mut crate::sim::Dice::new(1, 1),
            1 << 30,
            true,
            crate::sim::Mode::Honest,
        );
        let differs = |manner: &Manner| {
            (0..50).any(|step| Shape::of(manner, Tag(0), step) != Shape::of(manner, Tag(0), 0))
        };
        assert!(differs(&manner));
        manner.fixed_shapes = true;
        assert!(!differs(&manner));
    }
}
