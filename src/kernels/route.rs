//! The one dispatch: the same loops compiled for several instruction sets, chosen once.

use std::sync::LazyLock;

use half::f16;

#[cfg(target_arch = "aarch64")]
use super::aarch64::Neon;
use super::half::combine_pairs;
use super::reduce::Operands;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{Avx2, Avx512};

/// Instructions that kernels may use, and that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Route(Choice);

#[derive(Clone, Copy, Debug)]
enum Choice {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// Loops over buffers, inlined wherever they are called: that compiles them for each route.
pub(super) trait Pass {
    type Output;

    /// Goes over the buffers. Implementations are `#[inline(always)]`.
    fn run(self, instructions: impl Instructions) -> Self::Output;
}

/// A set of instructions. A value is the proof that this processor has them.
pub(super) trait Instructions: Copy {
    /// Calls [`Pass::run`], compiled for these instructions.
    fn run<P: Pass>(self, pass: P) -> P::Output;

    /// Combines `f16`, which no compiler turns into the processor's own conversions.
    #[inline(always)]
    fn combine_f16(self, operands: impl Operands, step: impl Fn(f32, f32) -> f32) {
        combine_pairs::<f16>(operands, step);
    }
}

/// What every processor of the target has.
#[derive(Clone, Copy, Debug)]
struct Portable;

impl Instructions for Portable {
    fn run<P: Pass>(self, pass: P) -> P::Output {
        pass.run(self)
    }
}

impl Route {
    /// The fastest. Found out on first use.
    pub fn best() -> Self {
        static BEST: LazyLock<Route> = LazyLock::new(|| {
            Route::available()
                .last()
                .unwrap_or(Route(Choice::Portable(Portable)))
        });
        *BEST
    }

    /// All routes, the fastest last.
    pub fn available() -> impl Iterator<Item = Self> {
        let portable = Some(Choice::Portable(Portable));
        #[cfg(target_arch = "x86_64")]
        let faster = [
            Avx2::detect().map(Choice::Avx2),
            Avx512::detect().map(Choice::Avx512),
        ];
        #[cfg(target_arch = "aarch64")]
        let faster = [Neon::detect().map(Choice::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let faster: [Option<Choice>; 0] = [];
        portable
            .into_iter()
            .chain(faster.into_iter().flatten())
            .map(Self)
    }

    /// Its name in tables: `portable`, `avx2`, `avx512`, `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Choice::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(_) => "neon",
        }
    }

    /// Runs a pass on it.
    pub(super) fn run<P: Pass>(self, pass: P) -> P::Output {
        match self.0 {
            Choice::Portable(portable) => portable.run(pass),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(avx2) => avx2.run(pass),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(avx512) => avx512.run(pass),
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(neon) => neon.run(pass),
        }
    }
}
