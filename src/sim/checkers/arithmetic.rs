//! What a reduction of all inputs is, by the plainest reading of its definition.
//!
//! Integers are exact in any order. Floats are compared where every order of combining them gives
//! the same bits: sums of whole numbers that fit into the mantissa, products of powers of two,
//! largest and smallest. Where that does not hold, nothing is said.

use crate::types::{DataType, Descriptor, QuantizationScheme, ReduceOp};

/// Compares a result with the one that these inputs have; in words, where they differ.
pub(super) fn combine_all(
    descriptor: &Descriptor,
    inputs: &[&[u8]],
    output: &[u8],
) -> Result<(), String> {
    let (op, data_type) = (descriptor.op, descriptor.data_type);
    let len_bytes = descriptor.len_bytes() as usize;
    for bytes in inputs.iter().chain([&output]) {
        if bytes.len() != len_bytes {
            return Err(format!("{} bytes where {len_bytes} belong", bytes.len()));
        }
    }
    if !is_exact(descriptor, inputs) {
        return Ok(());
    }
    let size = data_type.size_bytes();
    for (index, result) in output.chunks_exact(size).enumerate() {
        let elements = inputs
            .iter()
            .map(|input| &input[index * size..(index + 1) * size]);
        if let Some(expected) = combine(op, data_type, elements)
            && expected != result
        {
            return Err(format!(
                "element {index} of {} is {result:02x?}, not {expected:02x?} ({op} of {} {data_type})",
                descriptor.count,
                inputs.len()
            ));
        }
    }
    Ok(())
}

/// Whether quantization, if there is any, takes nothing away: blocks of equal elements are exact in the two
/// schemes of PCCL.
fn is_exact(descriptor: &Descriptor, inputs: &[&[u8]]) -> bool {
    let size = descriptor.data_type.size_bytes();
    let is_constant = |input: &&[u8]| {
        input
            .chunks_exact(size)
            .all(|element| element == &input[..size])
    };
    match descriptor
        .quantization
        .map(|quantization| quantization.scheme)
    {
        None => true,
        Some(QuantizationScheme::MinMax(_) | QuantizationScheme::ZeroPointScale(_)) => {
            inputs.iter().all(is_constant)
        }
        Some(_) => false,
    }
}

/// One element; none where the order of combining could show.
fn combine<'a>(
    op: ReduceOp,
    data_type: DataType,
    elements: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    macro_rules! integer {
        ($type:ty) => {{
            let numbers: Vec<$type> = elements
                .map(|bytes| bytes.try_into().map(<$type>::from_le_bytes).ok())
                .collect::<Option<_>>()?;
            let sum = || numbers.iter().fold(0 as $type, |a, b| a.wrapping_add(*b));
            let result = match op {
                ReduceOp::Sum => sum(),
                // In 128 bits, so that a world size that the type cannot hold divides as well.
                ReduceOp::Avg => (i128::from(sum()) / numbers.len() as i128) as $type,
                ReduceOp::Prod => numbers.iter().fold(1 as $type, |a, b| a.wrapping_mul(*b)),
                ReduceOp::Max => numbers.iter().copied().max()?,
                ReduceOp::Min => numbers.iter().copied().min()?,
            };
            Some(result.to_le_bytes().to_vec())
        }};
    }
    macro_rules! float {
        ($type:ty, $bits:expr, $widen:expr, $narrow:expr) => {{
            let numbers: Vec<f64> = elements
                .map(|bytes| {
                    bytes
                        .try_into()
                        .map(<$type>::from_le_bytes)
                        .ok()
                        .map($widen)
                })
                .collect::<Option<_>>()?;
            let result = combine_floats(op, $bits, &numbers)?;
            Some($narrow(result, numbers.len()).to_le_bytes().to_vec())
        }};
    }
    // An average divides in the precision that the kernel's last step has.
    let divide = |sum: f64, count: usize| match op {
        ReduceOp::Avg => sum as f32 / count as f32,
        _ => sum as f32,
    };
    match data_type {
        DataType::U8 => integer!(u8),
        DataType::I8 => integer!(i8),
        DataType::I16 => integer!(i16),
        DataType::U16 => integer!(u16),
        DataType::U32 => integer!(u32),
        DataType::I32 => integer!(i32),
        DataType::U64 => integer!(u64),
        DataType::I64 => integer!(i64),
        DataType::F16 => float!(half::f16, 11, half::f16::to_f64, |sum, count| {
            half::f16::from_f32(divide(sum, count))
        }),
        DataType::BF16 => float!(half::bf16, 8, half::bf16::to_f64, |sum, count| {
            half::bf16::from_f32(divide(sum, count))
        }),
        DataType::F32 => float!(f32, 24, f64::from, divide),
        DataType::F64 => float!(f64, 53, |x: f64| x, |sum: f64, count: usize| match op {
            ReduceOp::Avg => sum / count as f64,
            _ => sum,
        }),
    }
}

/// Before an average is divided.
fn combine_floats(op: ReduceOp, mantissa_bits: u32, numbers: &[f64]) -> Option<f64> {
    let exact_up_to = (1u64 << mantissa_bits) as f64;
    let is_count = |x: &f64| x.is_sign_positive() && x.fract() == 0.0 && *x <= exact_up_to;
    if !numbers.iter().all(is_count) {
        return None;
    }
    let result = match op {
        ReduceOp::Sum | ReduceOp::Avg => numbers.iter().sum(),
        ReduceOp::Prod => numbers.iter().product(),
        ReduceOp::Max => numbers.iter().copied().reduce(f64::max)?,
        ReduceOp::Min => numbers.iter().copied().reduce(f64::min)?,
    };
    (result <= exact_up_to).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reduce::{reduce, reduce_finish};

    /// Small whole numbers of any type.
    fn numbers(data_type: DataType, values: &[u8]) -> Vec<u8> {
        let bytes = |value: &u8| match data_type {
            DataType::F16 => half::f16::from_f32(f32::from(*value))
                .to_le_bytes()
                .to_vec(),
            DataType::BF16 => half::bf16::from_f32(f32::from(*value))
                .to_le_bytes()
                .to_vec(),
            DataType::F32 => f32::from(*value).to_le_bytes().to_vec(),
            DataType::F64 => f64::from(*value).to_le_bytes().to_vec(),
            _ => {
                let mut bytes = vec![0; data_type.size_bytes()];
                bytes[0] = *value;
                bytes
            }
        };
        values.iter().flat_map(bytes).collect()
    }

    #[test]
    fn it_agrees_with_the_kernels_on_every_type_and_reduction() {
        for data_type in DataType::ALL {
            for op in ReduceOp::ALL {
                let inputs: Vec<Vec<u8>> = [[1, 2, 4], [2, 4, 8], [16, 1, 2]]
                    .iter()
                    .map(|values| numbers(data_type, values))
                    .collect();
                let mut result = inputs[0].clone();
                reduce(op, data_type, &mut result, &inputs[1]);
                reduce_finish(op, data_type, 3, &mut result, &inputs[2]);
                let descriptor = Descriptor {
                    count: 3,
                    data_type,
                    op,
                    quantization: None,
                };
                let inputs: Vec<&[u8]> = inputs.iter().map(|input| &input[..]).collect();
                combine_all(&descriptor, &inputs, &result).unwrap();
                let last = result.len() - 1;
                result[last] ^= 1;
                combine_all(&descriptor, &inputs, &result).unwrap_err();
            }
        }
    }

    #[test]
    fn what_depends_on_the_order_is_not_judged() {
        let third = (1.0f32 / 3.0).to_le_bytes();
        assert_eq!(
            combine(ReduceOp::Sum, DataType::F32, [&third[..]; 3].into_iter()),
            None
        );
    }
}
