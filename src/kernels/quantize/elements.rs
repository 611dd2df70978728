//! Elements as they lie in the caller's memory, to the numbers of a calculation and back.

use half::{bf16, f16};

use super::real::Real;
use crate::kernels::half::Half;
use crate::types::DataType;

/// Reads elements.
#[inline(always)]
pub(super) fn load<R: Real>(data_type: DataType, bytes: &[u8], values: &mut [R]) {
    match data_type {
        DataType::F16 => load_as(bytes, values, |element| {
            R::of_f32(f16::widen(u16::from_ne_bytes(element).into()))
        }),
        DataType::BF16 => load_as(bytes, values, |element| {
            R::of_f32(bf16::widen(u16::from_ne_bytes(element).into()))
        }),
        DataType::F64 => load_as(bytes, values, |element| R::of(f64::from_ne_bytes(element))),
        _ => load_as(bytes, values, |element| {
            R::of_f32(f32::from_ne_bytes(element))
        }),
    }
}

/// Writes elements, rounded to their type.
#[inline(always)]
pub(super) fn store<R: Real>(data_type: DataType, values: &[R], bytes: &mut [u8]) {
    match data_type {
        DataType::F16 => store_as(values, bytes, |value| {
            (f16::narrow(value.to_f32()) as u16).to_ne_bytes()
        }),
        DataType::BF16 => store_as(values, bytes, |value| {
            (bf16::narrow(value.to_f32()) as u16).to_ne_bytes()
        }),
        DataType::F64 => store_as(values, bytes, |value| value.to_f64().to_ne_bytes()),
        _ => store_as(values, bytes, |value| value.to_f32().to_ne_bytes()),
    }
}

#[inline(always)]
fn load_as<R: Real, const N: usize>(bytes: &[u8], values: &mut [R], load: impl Fn([u8; N]) -> R) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (value, element) in values.iter_mut().zip(elements) {
        *value = load(*element);
    }
}

#[inline(always)]
fn store_as<R: Real, const N: usize>(values: &[R], bytes: &mut [u8], store: impl Fn(R) -> [u8; N]) {
    let (elements, _) = bytes.as_chunks_mut::<N>();
    for (element, value) in elements.iter_mut().zip(values) {
        *element = store(*value);
    }
}
