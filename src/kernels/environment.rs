//! The processor's mode of calculating.
#![allow(
    unsafe_code,
    reason = "the registers that hold the mode are reached in assembly only"
)]

/// Makes this thread calculate as IEEE 754 has it: to nearest, with subnormal numbers.
///
/// Threads start with the mode of the one that starts them, and a program, or a library that was built
/// with fast arithmetic, may have set that to take subnormal numbers for zero: other bits than at peers
/// that have not.
pub fn calculate_exactly() {
    #[cfg(target_arch = "x86_64")]
    {
        // All exceptions masked, as after the start of a program.
        let usual: u32 = 0x1f80;
        // SAFETY: reads four bytes of ours. The mode is what compiled code takes for granted.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const usual, options(readonly, nostack));
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: touches one register. The mode is what compiled code takes for granted.
    unsafe {
        std::arch::asm!("msr fpcr, xzr", options(nomem, nostack));
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn subnormal_numbers_are_numbers_again() {
        // Halving is done in the mode that is set, not by the compiler.
        let half_of_smallest =
            || std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
        let flushing: u32 = 0x9fc0;
        // SAFETY: as above; until the next lines the thread calculates nothing that counts.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const flushing, options(readonly, nostack));
        }
        let flushed = half_of_smallest();
        calculate_exactly();
        assert!(flushed == 0.0 && half_of_smallest() > 0.0);
    }
}
