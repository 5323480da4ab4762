//! The plan of an expert cache: slots of each size, and how many experts each bank keeps. Plain numbers; it
//! must not know what is in a slot.

/// The slots of a cache and the banks that share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheShape {
    /// Number of experts, `[bank]`.
    pub experts: Vec<usize>,
    /// Experts that each bank keeps resident between requests, `[bank]`.
    pub quotas: Vec<usize>,
    /// Size class of the slots that each bank uses, `[bank]`; an index into `spare`.
    pub classes: Vec<u32>,
    /// Slots beyond the quotas, `[class]`. They hold experts while they are read or used once.
    pub spare: Vec<usize>,
}

/// The plan of a cache that holds some of the experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePlan {
    /// Whether experts are read directly into slots; otherwise they are used in the mapped file.
    pub direct: bool,
    /// Whether the embedding stays in its file, of which a token reads one row.
    pub embedding_in_file: bool,
    /// Slots and banks.
    pub shape: CacheShape,
    /// Bytes of a slot, `[class]`.
    pub slot_bytes: Vec<usize>,
}

impl CachePlan {
    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.bytes_with(&self.shape.quotas)
    }

    /// Bytes of all slots with other quotas, `[bank]`.
    pub fn bytes_with(&self, quotas: &[usize]) -> u64 {
        let spare = self.shape.spare.iter().zip(&self.slot_bytes);
        let spare: u64 = spare.map(|(&slots, &bytes)| slots as u64 * bytes as u64).sum();
        let banks = quotas.iter().zip(&self.shape.classes);
        let banks: u64 =
            banks.map(|(&slots, &class)| slots as u64 * self.slot_bytes[class as usize] as u64).sum();
        spare + banks
    }

    /// Number of slots, `[class]`.
    pub fn slots(&self) -> Vec<usize> {
        let mut slots = self.shape.spare.clone();
        for (&quota, &class) in self.shape.quotas.iter().zip(&self.shape.classes) {
            slots[class as usize] += quota;
        }
        slots
    }

    /// Quotas, `[bank]`, for slots that may take `bytes` together. Every bank gets the same number; slots
    /// that are left over go to the first banks, one each.
    pub fn quotas_for(&self, bytes: u64) -> Vec<usize> {
        let CacheShape { experts, classes, .. } = &self.shape;
        let none = vec![0; experts.len()];
        let mut left = bytes.saturating_sub(self.bytes_with(&none));
        let mut quotas = none;
        loop {
            let before = left;
            for ((quota, &experts), &class) in quotas.iter_mut().zip(experts).zip(classes) {
                let size = self.slot_bytes[class as usize] as u64;
                if *quota < experts && size <= left {
                    *quota += 1;
                    left -= size;
                }
            }
            if left == before {
                return quotas;
            }
        }
    }

    /// Share of the experts that stay resident between requests, 0 to 1.
    pub fn share(&self) -> f64 {
        let (quotas, experts): (usize, usize) =
            (self.shape.quotas.iter().sum(), self.shape.experts.iter().sum());
        quotas as f64 / experts.max(1) as f64
    }
}
