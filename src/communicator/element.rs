//! Element types of buffers.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::types::DataType;

mod sealed {
    pub trait Sealed {}
}

/// A type that buffers can hold: the integers of 8 to 64 bits, `half::f16`, `half::bf16`, `f32`
/// and `f64`.
pub trait Element:
    sealed::Sealed + Copy + Send + Sync + IntoBytes + FromBytes + Immutable + 'static
{
    /// Its name on the wire.
    const DATA_TYPE: DataType;
}

macro_rules! element {
    ($($type:ty => $data_type:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const DATA_TYPE: DataType = DataType::$data_type;
            }
        )*
    };
}

element! {
    u8 => U8, i8 => I8, i16 => I16, u16 => U16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    half::f16 => F16, half::bf16 => BF16, f32 => F32, f64 => F64,
}
