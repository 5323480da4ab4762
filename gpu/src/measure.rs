//! What a device takes: for a submission, for each expert of it, for an upload. It must not know what is
//! decided with it.

use std::time::{Duration, Instant};

use moelten_quant::Line;

use crate::error::GpuError;
use crate::experts::Experts;
use crate::samples::{Random, Weights, made};
use crate::speed::Speed;

/// Rounds of which the fastest counts.
const ROUNDS: usize = 7;

/// Measures with the experts that tests have left in slots.
pub(crate) fn measure(experts: &mut Experts) -> Result<Speed, GpuError> {
    let mut speed = Speed::default();
    // The time of one expert of each shape, and what another one of it adds, where several fit.
    let mut times = Vec::new();
    for (index, block) in experts.blocks() {
        let Some(bank) = experts.bank_of(index) else {
            times.push(None);
            continue;
        };
        let n = experts.slots(bank).min(MANY).min(experts.most_at_once(index));
        let expert = made(&block, Weights::Usual, &mut Random::new(3));
        let input = vec![Line::ZERO; block.d_model() / moelten_quant::BLOCK];
        let mut out = vec![0.0; block.d_model() * n];
        let since = Instant::now();
        for slot in 0..n {
            experts.upload(bank, slot, &expert.bytes())?;
        }
        let mut time = |experts: &mut Experts, n: usize| -> Result<Duration, GpuError> {
            let slots: Vec<usize> = (0..n).collect();
            let since = Instant::now();
            experts.begin(&[(bank, &slots)], &input)?;
            experts.finish(&mut out[..n * block.d_model()])?;
            Ok(since.elapsed())
        };
        time(experts, 1)?;
        let copied = n * block.slot_bytes();
        speed.upload = speed.upload.max(copied as f64 / since.elapsed().as_secs_f64().max(1e-9));
        let (mut one, mut all) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            one = one.min(time(experts, 1)?);
            all = all.min(time(experts, n)?);
        }
        let each = (n > 1).then(|| all.saturating_sub(one) / (n as u32 - 1));
        times.push(Some((one, each)));
    }
    let known = times.iter().flatten().filter_map(|&(one, each)| Some(one.saturating_sub(each?))).min();
    let guess = || times.iter().flatten().map(|&(one, _)| one / 2).min();
    speed.launch = known.or_else(guess).unwrap_or_default();
    // Of a shape with one slot nothing but the sum is known.
    let each = |&(one, each): &(Duration, Option<Duration>)| each.unwrap_or(one.saturating_sub(speed.launch));
    speed.expert = times.iter().map(|times| times.as_ref().map_or(Duration::ZERO, each)).collect();
    Ok(speed)
}

/// Experts of the larger submission.
const MANY: usize = 4;
