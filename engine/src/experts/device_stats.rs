//! What a device has done for a model, and what is known of it. It must not know how any of it is measured.

use std::time::Duration;

/// Counters of a device, and what is known of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceStats {
    /// What people know the device by.
    pub name: String,
    /// How it computes.
    pub arithmetic: String,
    /// Whether it gives the bits of the CPU.
    pub exact: bool,
    /// Bytes of all slots, and of the shared experts.
    pub bytes: u64,
    /// Shared experts that it has.
    pub shared: usize,
    /// Shared experts that it has computed.
    pub shared_used: u64,
    /// Their bytes.
    pub shared_used_bytes: u64,
    /// What one takes of a submission: the slowest.
    pub shared_each: Duration,
    /// The slowest on the CPU; zero before it was measured.
    pub shared_host: Duration,
    /// Bytes of the rows of the head that it has.
    pub head_bytes: u64,
    /// How many these are.
    pub head_held: usize,
    /// From a submission of all of them to their results.
    pub head_time: Duration,
    /// Rows of the head that it computed of the last token.
    pub head_rows: usize,
    /// Tokens of which it computed rows of the head.
    pub heads: u64,
    /// Slots of all banks.
    pub slots: usize,
    /// Experts in them.
    pub held: usize,
    /// Experts that it has computed.
    pub used: u64,
    /// Their bytes.
    pub used_bytes: u64,
    /// Experts that tokens visited in layers where it might have computed them.
    pub asked: u64,
    /// Layers of decoded tokens in which it might have computed some.
    pub layers: u64,
    /// Experts that were copied to it.
    pub uploads: u64,
    /// Comparisons with the CPU while the model runs.
    pub verified: u64,
    /// From a submission to its results, without computing.
    pub launch: Duration,
    /// More for each expert: the slowest bank.
    pub each: Duration,
    /// An expert on the CPU; zero before it was measured.
    pub host: Duration,
    /// Bytes that are copied to it in a second.
    pub upload: f64,
    /// Why it is not used any more.
    pub dropped: Option<String>,
}

impl DeviceStats {
    /// The same with the counts since `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let counts = [
            (&mut self.used, before.used),
            (&mut self.used_bytes, before.used_bytes),
            (&mut self.asked, before.asked),
            (&mut self.layers, before.layers),
            (&mut self.heads, before.heads),
            (&mut self.shared_used, before.shared_used),
            (&mut self.shared_used_bytes, before.shared_used_bytes),
            (&mut self.uploads, before.uploads),
            (&mut self.verified, before.verified),
        ];
        counts.into_iter().for_each(|(count, before)| *count -= before);
        self
    }

    /// Bytes of everything that the device has.
    pub fn all_bytes(&self) -> u64 {
        self.bytes + self.head_bytes
    }

    /// `exact` or `close`.
    pub fn exactness(&self) -> &'static str {
        if self.exact { "exact" } else { "close" }
    }
}
