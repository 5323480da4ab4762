//! Which tier's loop multiplies the weights of each format. The bits of a product of quantised weights are
//! the same on every tier, so its loop may be picked by speed alone; all that depends on the tier stays with
//! it. It must not know how speed is measured.

use super::table::{Kernels, Product, Products};
use crate::format::Format;
use crate::isa::Isa;

/// Formats, quantised or not.
const FORMATS: usize = Format::ALL.len();

/// A tier for each format, one for products with a single token and one for products with several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picks {
    one: [Isa; FORMATS],
    several: [Isa; FORMATS],
}

impl Picks {
    /// The loops of a tier.
    pub const fn of(isa: Isa) -> Self {
        Self { one: [isa; FORMATS], several: [isa; FORMATS] }
    }

    /// The tier for products with weights of `format` and `tokens` tokens.
    pub fn get(&self, format: Format, tokens: usize) -> Isa {
        let tiers = if tokens == 1 { &self.one } else { &self.several };
        tiers[format as usize]
    }

    /// Picks a tier for products with weights of `format`, with one token if `tokens` is 1, else with any
    /// larger number.
    pub fn set(&mut self, format: Format, tokens: usize, isa: Isa) {
        let tiers = if tokens == 1 { &mut self.one } else { &mut self.several };
        tiers[format as usize] = isa;
    }

    /// The tiers of this machine, slowest first by name, that have a loop of their own for products with
    /// `tokens` tokens. Plain Rust is among them only where there is nothing else.
    pub fn candidates(tokens: usize) -> Vec<Isa> {
        let mut tiers = Isa::available();
        // AMX has nothing of its own for a single token.
        tiers.retain(|&isa| isa != Isa::Amx || tokens > 1);
        if tiers.len() > 1 {
            tiers.retain(|&isa| isa != Isa::Scalar);
        }
        tiers
    }
}

impl Kernels {
    /// These kernels with other loops for products of quantised weights. No bit of a result changes. `None`
    /// if this machine lacks a tier that was picked.
    ///
    /// The table is never freed: it is meant to be made once for a process.
    pub fn with_picks(&self, picks: &Picks) -> Option<&'static Self> {
        let own = self.codes.product;
        let mut products = Products { one: [own; FORMATS], several: [own; FORMATS] };
        for format in Format::ALL {
            products.one[format as usize] = Self::for_isa(picks.get(format, 1))?.codes.product;
            products.several[format as usize] = Self::for_isa(picks.get(format, 2))?.codes.product;
        }
        let Self { isa, floats, codes, peaks, .. } = *self;
        Some(Box::leak(Box::new(Self { isa, floats, codes, picked: Some(products), peaks })))
    }

    /// The loop for products with weights of `format` and `tokens` tokens.
    pub(super) fn product(&self, format: Format, tokens: usize) -> Product {
        match &self.picked {
            Some(picked) if tokens == 1 => picked.one[format as usize],
            Some(picked) => picked.several[format as usize],
            None => self.codes.product,
        }
    }
}
