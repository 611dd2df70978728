//! Inner loops over plain bytes. Each kernel has a scalar definition that says what the bits are;
//! faster routes must give the same ones.

mod copy;
pub mod reduce;

pub use copy::copy_past_cache;
