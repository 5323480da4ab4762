//! Estimates a conversion: bytes to read, bytes of memory, and time, measured on one piece of each kind. It
//! must not write anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::pieces::Kind;
use super::plan::Conversion;
use super::write::{IN_MEMORY, OF_A_THREAD, Work, batch_bytes};
use crate::error::Result;

/// The cost of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of the source that are read.
    pub read: u64,
    /// Bytes that are written, header included.
    pub written: u64,
    /// Time that one thread would take.
    pub one_thread: Duration,
}

impl Conversion<'_> {
    /// Makes one piece of each kind, measures it and extrapolates.
    ///
    /// # Errors
    /// As [`Self::write_with`] for those pieces; as [`Self::layout`].
    pub fn estimate(&self) -> Result<Estimate> {
        let maker = self.maker();
        let mut rates: BTreeMap<Kind, f64> = BTreeMap::new();
        let (mut read, mut seconds) = (0, 0.0);
        for (index, output) in self.outputs.iter().enumerate() {
            for piece in maker.pieces(index, output)? {
                let bytes = maker.window(&piece).map_or(0, |window| window.bytes);
                let Some(kind) = maker.kind(&piece) else { continue };
                read += bytes;
                let rate = match rates.get(&kind) {
                    Some(&rate) => rate,
                    None => {
                        // The first run brings the source into memory, the second is measured.
                        maker.make(&piece, &output.plan.name)?;
                        let begun = Instant::now();
                        maker.make(&piece, &output.plan.name)?;
                        let rate = begun.elapsed().as_secs_f64() / bytes.max(1) as f64;
                        rates.insert(kind, rate);
                        rate
                    }
                };
                seconds += rate * bytes as f64;
            }
        }
        let written = self.layout("plan".as_ref())?.file_len();
        Ok(Estimate { read, written, one_thread: Duration::from_secs_f64(seconds) })
    }

    /// Bytes that [`Self::write_with`] keeps in memory at once, beside the program itself.
    pub fn memory(work: Work) -> u64 {
        let threads = u64::try_from(work.threads).unwrap_or(u64::MAX).saturating_mul(OF_A_THREAD);
        (IN_MEMORY * batch_bytes(work)).saturating_add(threads)
    }
}
