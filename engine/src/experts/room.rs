//! How many experts there is room for: slots of each size, and how many each bank keeps. Plain numbers; it
//! must not know what is in a slot.

/// The shape of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Experts of each bank.
    pub experts: Vec<usize>,
    /// Experts each bank keeps.
    pub quotas: Vec<usize>,
    /// Size of the slots that each bank uses, an index into `spare`.
    pub classes: Vec<u32>,
    /// Slots of each size beyond the quotas.
    pub spare: Vec<usize>,
}

/// Room for some of the experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Read directly, or mapped.
    pub direct: bool,
    /// Whether the embedding stays in its file: a token reads one row of it.
    pub embedding_in_file: bool,
    /// How many of each bank.
    pub shape: Shape,
    /// Bytes of a slot of each size.
    pub slot_bytes: Vec<usize>,
}

impl Cached {
    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.bytes_with(&self.shape.quotas)
    }

    /// Bytes of all slots if banks kept as many as `quotas` says.
    pub fn bytes_with(&self, quotas: &[usize]) -> u64 {
        let spare = self.shape.spare.iter().zip(&self.slot_bytes);
        let spare: u64 = spare.map(|(&slots, &bytes)| slots as u64 * bytes as u64).sum();
        let banks = quotas.iter().zip(&self.shape.classes);
        let banks: u64 =
            banks.map(|(&slots, &class)| slots as u64 * self.slot_bytes[class as usize] as u64).sum();
        spare + banks
    }

    /// Slots of each size.
    pub fn slots(&self) -> Vec<usize> {
        let mut slots = self.shape.spare.clone();
        for (&quota, &class) in self.shape.quotas.iter().zip(&self.shape.classes) {
            slots[class as usize] += quota;
        }
        slots
    }

    /// Slots of each bank if all of them together may take `bytes`: as many for each, and one more for the
    /// first.
    pub fn quotas_for(&self, bytes: u64) -> Vec<usize> {
        let Shape { experts, classes, .. } = &self.shape;
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

    /// Share of the experts that can stay.
    pub fn share(&self) -> f64 {
        let (quotas, experts): (usize, usize) =
            (self.shape.quotas.iter().sum(), self.shape.experts.iter().sum());
        quotas as f64 / experts.max(1) as f64
    }
}
