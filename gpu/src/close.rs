//! The test of pipelines that need not be exact: their products must be near the CPU's, and what is made of
//! them must be the CPU's in every bit. It must not know how pipelines are made.

use moelten_quant::{ActivationKind, Activations, Kernels};

use crate::error::GpuError;
use crate::exact::check_hidden;
use crate::experts::Experts;
use crate::reference;
use crate::samples::{Random, Weights, differs, far, input, made, words};

/// Whether all products are near those of the CPU; otherwise what is not.
///
/// # Errors
/// Faults of the driver.
pub(crate) fn check(experts: &mut Experts, kernels: &Kernels) -> Result<Option<String>, GpuError> {
    for (index, block) in experts.blocks() {
        let Some(bank) = experts.bank_of(index) else { continue };
        let mut random = Random::new(5);
        let expert = made(&block, Weights::Usual, &mut random);
        let (expert, x) = (expert.bytes(), input(kernels, block.d_model(), Weights::Usual, &mut random));
        experts.upload(bank, 0, &expert)?;
        experts.begin(&[(bank, &[0])], &x)?;
        let mut out = vec![0.0; block.d_model()];
        experts.finish(&mut out)?;
        let (values, hidden) = experts.inside(index, 1)?;
        let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
        let wanted = reference::expert(kernels, &block, &expert, &x);
        let (gate, up) = values.split_at(block.d_ff());
        // From here on with what the device has found.
        let lines = reference::hidden(kernels, &block, &expert, gate, up);
        let codes = Activations::new(ActivationKind::Q8, 1, block.d_ff(), &lines);
        let outputs = reference::product(kernels, expert.down, codes);
        let found = far("products with the gate", gate, &wanted.gate)
            .or_else(|| far("products with the input", up, &wanted.up))
            .or_else(|| differs("the hidden layer", &hidden, &words(&lines)))
            .or_else(|| far("the outputs", &out, &outputs));
        if let Some(fault) = found {
            return Ok(Some(format!("{} {fault}", block.up.format)));
        }
        if let Some(fault) = check_hidden(experts, kernels, index, bank)? {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}
