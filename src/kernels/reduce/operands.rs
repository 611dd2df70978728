//! Where a pass reads and writes: in place, or into memory of its own.

/// The buffers of one pass.
///
/// Loops over slices that cannot overlap become vector code; the same loop over pointers, of which
/// two may be equal, would not. Hence two kinds, and each loop compiled for both.
pub trait Operands: Sized {
    /// Combines elements of `N` bytes; what is left of either buffer stays as it is.
    #[doc(hidden)]
    fn combine<const N: usize>(self, step: impl Fn([u8; N], [u8; N]) -> [u8; N]);

    /// The longest beginning of whole blocks of `bytes` that all buffers have, and the rest.
    #[doc(hidden)]
    fn split(self, bytes: usize) -> (Self, Self);
}

/// `accumulator = accumulator (+) incoming`.
pub struct InPlace<'a> {
    /// The left operand, then the result.
    pub accumulator: &'a mut [u8],
    /// The right operand.
    pub incoming: &'a [u8],
}

/// `out = accumulator (+) incoming`.
pub struct OutOfPlace<'a> {
    /// The result. What was there does not matter.
    pub out: &'a mut [u8],
    /// The left operand.
    pub accumulator: &'a [u8],
    /// The right operand.
    pub incoming: &'a [u8],
}

impl Operands for InPlace<'_> {
    #[inline(always)]
    fn combine<const N: usize>(self, step: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
        let (accumulator, _) = self.accumulator.as_chunks_mut::<N>();
        let (incoming, _) = self.incoming.as_chunks::<N>();
        for (a, b) in accumulator.iter_mut().zip(incoming) {
            *a = step(*a, *b);
        }
    }

    #[inline(always)]
    fn split(self, bytes: usize) -> (Self, Self) {
        let len = self.accumulator.len().min(self.incoming.len()) / bytes * bytes;
        let (accumulator, accumulator_rest) = self.accumulator.split_at_mut(len);
        let (incoming, incoming_rest) = self.incoming.split_at(len);
        let rest = Self {
            accumulator: accumulator_rest,
            incoming: incoming_rest,
        };
        (
            Self {
                accumulator,
                incoming,
            },
            rest,
        )
    }
}

impl Operands for OutOfPlace<'_> {
    #[inline(always)]
    fn combine<const N: usize>(self, step: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
        let (out, _) = self.out.as_chunks_mut::<N>();
        let (accumulator, _) = self.accumulator.as_chunks::<N>();
        let (incoming, _) = self.incoming.as_chunks::<N>();
        for ((out, a), b) in out.iter_mut().zip(accumulator).zip(incoming) {
            *out = step(*a, *b);
        }
    }

    #[inline(always)]
    fn split(self, bytes: usize) -> (Self, Self) {
        let inputs = self.accumulator.len().min(self.incoming.len());
        let len = self.out.len().min(inputs) / bytes * bytes;
        let (out, out_rest) = self.out.split_at_mut(len);
        let (accumulator, accumulator_rest) = self.accumulator.split_at(len);
        let (incoming, incoming_rest) = self.incoming.split_at(len);
        let rest = Self {
            out: out_rest,
            accumulator: accumulator_rest,
            incoming: incoming_rest,
        };
        (
            Self {
                out,
                accumulator,
                incoming,
            },
            rest,
        )
    }
}
