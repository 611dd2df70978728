//! Inner loops over plain bytes. Each kernel has a scalar definition that says what the bits are;
//! faster routes must give the same ones.
//!
//! `route`, `x86_64` and `aarch64` are the instructions that the loops are compiled for.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod copy;
mod environment;
mod half;
mod prefetch;
pub mod quantize;
pub mod reduce;
mod route;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use copy::copy_past_cache;
pub use environment::calculate_exactly;
pub use route::Route;
