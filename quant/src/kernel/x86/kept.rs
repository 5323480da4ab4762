//! Bytes that several pieces share, in registers. It must not know formats.

/// `Kept` of a tier that reads the bytes at once: there are registers for them, or loads that spare
/// transpositions.
macro_rules! kept_in_registers {
    () => {
        type Kept = [Self::I; 8];

        #[inline(always)]
        unsafe fn keep(at: *const u8, offset: usize, stride: usize) -> Self::Kept {
            // SAFETY: the caller guarantees the instructions and the bytes.
            unsafe {
                let ([a, b, c, d], [e, f, g, h]) =
                    (Self::columns(at.add(offset), stride), Self::columns(at.add(offset + 16), stride));
                [a, b, c, d, e, f, g, h]
            }
        }

        #[inline(always)]
        unsafe fn kept(bytes: &Self::Kept) -> [Self::I; 8] {
            *bytes
        }
    };
}

pub(super) use kept_in_registers;
