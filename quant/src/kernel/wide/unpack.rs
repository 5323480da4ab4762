//! Float formats to vectors of floats, once for all tiers, with the bits of `decode`. It must not know what
//! the floats are used for: they go into a [`Sink`].

use super::lanes::Lanes;
use crate::format::Format;

/// Takes the weights of a unit, each vector once, in ascending order.
pub(in crate::kernel) trait Sink<L: Lanes> {
    /// Weights `at .. at + L::N` of the unit.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn put(&mut self, at: usize, weights: L::V);
}

/// A float format, unpacked by units of 32.
pub(in crate::kernel) trait Unpack {
    /// The format that this type stands for.
    const FORMAT: Format;
    /// Weights of a unit.
    const LEN: usize = 32;
    /// Bytes of a unit.
    const BYTES: usize = Self::LEN / Self::FORMAT.block_len() * Self::FORMAT.block_bytes();

    /// Unpacks a unit.
    ///
    /// # Safety
    /// As [`Lanes`], with `unit` good for reading [`Unpack::BYTES`].
    unsafe fn unit<L: Lanes>(unit: *const u8, sink: &mut impl Sink<L>);
}

/// Declares the formats by how a vector is loaded from element `$at` of `$unit`.
macro_rules! formats {
    ($($format:ident: |$unit:ident, $at:ident| $load:expr;)*) => {$(
        pub(in crate::kernel) struct $format;

        impl Unpack for $format {
            const FORMAT: Format = Format::$format;

            #[inline(always)]
            unsafe fn unit<L: Lanes>($unit: *const u8, sink: &mut impl Sink<L>) {
                for $at in (0..Self::LEN).step_by(L::N) {
                    // SAFETY: the caller guarantees the instructions and `BYTES` bytes.
                    unsafe { sink.put($at, $load) };
                }
            }
        }
    )*};
}

formats! {
    F32: |unit, at| L::load(unit.cast::<f32>().add(at));
    F16: |unit, at| L::load_f16(unit.cast::<u16>().add(at));
    BF16: |unit, at| L::load_bf16(unit.cast::<u16>().add(at));
}

/// Blocks of 32 with a scale.
pub(super) struct F8;

impl Unpack for F8 {
    const FORMAT: Format = Format::F8;

    #[inline(always)]
    unsafe fn unit<L: Lanes>(unit: *const u8, sink: &mut impl Sink<L>) {
        // SAFETY: the caller guarantees the instructions and `BYTES` bytes.
        unsafe {
            let scale = L::splat(unit.cast::<f32>().read_unaligned());
            for at in (0..Self::LEN).step_by(L::N) {
                sink.put(at, L::mul(L::load_f8(unit.add(4 + at)), scale));
            }
        }
    }
}
