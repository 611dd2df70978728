//! NEON: every aarch64 has it, and the compiler uses it by itself. Only its conversions of `f16`
//! have to be asked for.
#![allow(
    unsafe_code,
    reason = "instructions without a stable intrinsic are written in assembly"
)]

use std::arch::aarch64::{float32x4_t, uint16x4_t};
use std::arch::asm;
use std::mem::transmute;

use half::f16;

use super::half::combine_pairs;
use super::reduce::Operands;
use super::route::{Instructions, Pass};

/// Proof of NEON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        cfg!(target_feature = "neon").then_some(Self(()))
    }
}

impl Instructions for Neon {
    fn run<P: Pass>(self, pass: P) -> P::Output {
        pass.run(self)
    }

    #[inline(always)]
    fn combine_f16(self, operands: impl Operands, step: impl Fn(f32, f32) -> f32) {
        let (vectors, rest) = operands.split(8);
        vectors.combine::<8>(|a, b| {
            let (a, b) = (widen(a), widen(b));
            narrow(std::array::from_fn(|i| step(a[i], b[i])))
        });
        combine_pairs::<f16>(rest, step);
    }
}

/// The intrinsic of this instruction is not stable.
#[inline(always)]
fn widen(halves: [u8; 8]) -> [f32; 4] {
    let wide: float32x4_t;
    // SAFETY: NEON is part of this target; the instruction touches nothing but the two registers.
    // Arrays and vectors are as large, and any bits are a value of either.
    unsafe {
        let halves: uint16x4_t = transmute(halves);
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
        transmute(wide)
    }
}

#[inline(always)]
fn narrow(singles: [f32; 4]) -> [u8; 8] {
    let halves: uint16x4_t;
    // SAFETY: as above.
    unsafe {
        let singles: float32x4_t = transmute(singles);
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) halves, in(vreg) singles, options(pure, nomem, nostack, preserves_flags));
        transmute(halves)
    }
}
