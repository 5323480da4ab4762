//! The test that decides whether a device is used, and with which arithmetic: the pipelines that will run,
//! over random experts, built ones and a chain of gates, compared with the CPU in every bit. Code does not
//! depend on data, so a pipeline that is exact here stays what it is. It must not know how pipelines are
//! made.

use moelten_quant::{Kernels, Line};

use crate::block::ExpertBytes;
use crate::error::GpuError;
use crate::experts::Experts;
use crate::reference;
use crate::samples::{Random, Weights, differs, input, made, words};

/// Whether every bit is that of the CPU; otherwise what differs first.
///
/// # Errors
/// Faults of the driver.
pub(crate) fn check(experts: &mut Experts, kernels: &Kernels) -> Result<Option<String>, GpuError> {
    for (index, block) in experts.blocks() {
        let Some(bank) = experts.bank_of(index) else { continue };
        for weights in [Weights::Usual, Weights::Tiny, Weights::Any] {
            let mut random = Random::new(7 + weights as u64);
            let expert = made(&block, weights, &mut random);
            let input = input(kernels, block.d_model(), weights, &mut random);
            let found = compare(experts, kernels, (index, bank), &expert.bytes(), &input)?;
            if let Some(fault) = found {
                return Ok(Some(format!("{weights:?} weights: {fault}")));
            }
        }
        if let Some(fault) = check_hidden(experts, kernels, index, bank)? {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

fn compare(
    experts: &mut Experts,
    kernels: &Kernels,
    (index, bank): (usize, usize),
    expert: &ExpertBytes<'_>,
    input: &[Line],
) -> Result<Option<String>, GpuError> {
    let (_, block) = experts.blocks().nth(index).expect("the index of a shape");
    experts.upload(bank, 0, expert)?;
    experts.begin(&[(bank, &[0])], input)?;
    let mut out = vec![0.0; block.d_model()];
    experts.finish(&mut out)?;
    let (values, hidden) = experts.inside(index, 1)?;
    let wanted = reference::expert(kernels, &block, expert, input);
    let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
    let values_wanted = [bits(&wanted.gate), bits(&wanted.up)].concat();
    let found = differs("products with the input", &values, &values_wanted)
        .or_else(|| differs("the hidden layer", &hidden, &words(&wanted.hidden)))
        .or_else(|| differs("the outputs", &bits(&out), &bits(&wanted.out)));
    Ok(found.map(|fault| format!("{} {fault}", block.up.format)))
}

/// The hidden layer over gates from -130 to 130 and others that are not met in models.
pub(crate) fn check_hidden(
    experts: &mut Experts,
    kernels: &Kernels,
    index: usize,
    bank: usize,
) -> Result<Option<String>, GpuError> {
    let (_, block) = experts.blocks().nth(index).expect("the index of a shape");
    let odd = [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
    let mut random = Random::new(11);
    let expert = made(&block, Weights::Usual, &mut random);
    experts.upload(bank, 0, &expert.bytes())?;
    let rounds = 4096_usize.div_ceil(block.d_ff()).max(2);
    for round in 0..rounds {
        let step = 260.0 / (rounds * block.d_ff()) as f32;
        let at = |i: usize| -130.0 + step * (round * block.d_ff() + i) as f32;
        let mut gate: Vec<f32> = (0..block.d_ff()).map(at).collect();
        let up: Vec<f32> = (0..block.d_ff()).map(|_| random.unit() * 8.0).collect();
        // Numbers together; then infinities and NaN one to a block, as the scale of such a block hides the
        // rest.
        if round == 0 {
            gate.iter_mut().zip(odd).take(4).for_each(|(gate, odd)| *gate = odd);
        } else if round == 1 {
            gate.iter_mut().step_by(32).zip(odd).for_each(|(gate, odd)| *gate = odd);
        }
        let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
        let got = experts.hidden_of(index, &bits(&gate), &bits(&up))?;
        let wanted = reference::hidden(kernels, &block, &expert.bytes(), &gate, &up);
        if let Some(fault) = differs("the hidden layer of a chain", &got, &words(&wanted)) {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}
