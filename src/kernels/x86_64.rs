//! AVX2 with F16C, and AVX-512: loops compiled for them, and their conversions of `f16`.
//!
//! AVX512-BF16 stays unused: it takes subnormal numbers for zero.
#![allow(
    unsafe_code,
    reason = "that the processor has the instructions is known at run time only"
)]

use std::arch::is_x86_feature_detected as has;
use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph,
    _mm512_cvtph_ps, _mm512_cvtps_ph,
};
use std::mem::transmute;

use half::f16;

use super::half::combine_pairs;
use super::reduce::Operands;
use super::route::{Instructions, Pass};

/// Proof of AVX2 and F16C.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        (has!("avx2") && has!("f16c")).then_some(Self(()))
    }

    #[target_feature(enable = "avx2,f16c")]
    fn compiled<P: Pass>(self, pass: P) -> P::Output {
        pass.run(self)
    }
}

impl Instructions for Avx2 {
    fn run<P: Pass>(self, pass: P) -> P::Output {
        // SAFETY: `self` exists, so the features do.
        unsafe { self.compiled(pass) }
    }

    #[inline(always)]
    fn combine_f16(self, operands: impl Operands, step: impl Fn(f32, f32) -> f32) {
        let (vectors, rest) = operands.split(16);
        vectors.combine::<16>(|a, b| {
            // SAFETY: `self` exists, so the features do.
            unsafe {
                let (a, b) = (widen_8(a), widen_8(b));
                narrow_8(std::array::from_fn(|i| step(a[i], b[i])))
            }
        });
        combine_pairs::<f16>(rest, step);
    }
}

/// Proof of the parts of AVX-512 that all servers with any of it have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let all = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        (all && has!("avx2") && has!("f16c")).then_some(Self(()))
    }

    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    fn compiled<P: Pass>(self, pass: P) -> P::Output {
        pass.run(self)
    }
}

impl Instructions for Avx512 {
    fn run<P: Pass>(self, pass: P) -> P::Output {
        // SAFETY: `self` exists, so the features do.
        unsafe { self.compiled(pass) }
    }

    #[inline(always)]
    fn combine_f16(self, operands: impl Operands, step: impl Fn(f32, f32) -> f32) {
        let (vectors, rest) = operands.split(32);
        vectors.combine::<32>(|a, b| {
            // SAFETY: `self` exists, so the features do.
            unsafe {
                let (a, b) = (widen_16(a), widen_16(b));
                narrow_16(std::array::from_fn(|i| step(a[i], b[i])))
            }
        });
        combine_pairs::<f16>(rest, step);
    }
}

/// # Safety
///
/// The processor has F16C.
#[inline(always)]
unsafe fn widen_8(halves: [u8; 16]) -> [f32; 8] {
    // SAFETY: the caller's word for the instruction. Arrays and vectors are as large, and any bits
    // are a value of either.
    unsafe {
        let halves: __m128i = transmute(halves);
        transmute(_mm256_cvtph_ps(halves))
    }
}

/// # Safety
///
/// The processor has F16C.
#[inline(always)]
unsafe fn narrow_8(singles: [f32; 8]) -> [u8; 16] {
    // SAFETY: as above.
    unsafe {
        let singles: __m256 = transmute(singles);
        transmute(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(singles))
    }
}

/// # Safety
///
/// The processor has AVX-512F.
#[inline(always)]
unsafe fn widen_16(halves: [u8; 32]) -> [f32; 16] {
    // SAFETY: the caller's word for the instruction. Arrays and vectors are as large, and any bits
    // are a value of either.
    unsafe {
        let halves: __m256i = transmute(halves);
        transmute(_mm512_cvtph_ps(halves))
    }
}

/// # Safety
///
/// The processor has AVX-512F.
#[inline(always)]
unsafe fn narrow_16(singles: [f32; 16]) -> [u8; 32] {
    // SAFETY: as above.
    unsafe {
        let singles: __m512 = transmute(singles);
        transmute(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(singles))
    }
}
