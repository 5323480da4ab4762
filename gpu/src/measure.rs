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
    let mut speed = Speed { launch: Duration::MAX, ..Speed::default() };
    for (index, block) in experts.blocks() {
        let Some(bank) = experts.bank_of(index) else {
            speed.expert.push(Duration::ZERO);
            continue;
        };
        let expert = made(&block, Weights::Usual, &mut Random::new(3));
        let input = vec![Line::ZERO; block.d_model() / moelten_quant::BLOCK];
        let mut out = vec![0.0; block.d_model() * MANY];
        let since = Instant::now();
        for slot in 0..experts.slots(bank).min(MANY) {
            experts.upload(bank, slot, &expert.bytes())?;
        }
        let n = experts.slots(bank).min(MANY).min(experts.most_at_once());
        let mut time = |experts: &mut Experts, n: usize| -> Result<Duration, GpuError> {
            let slots: Vec<usize> = (0..n).collect();
            let since = Instant::now();
            experts.begin(bank, &slots, &input)?;
            experts.finish(&mut out[..n * block.d_model()])?;
            Ok(since.elapsed())
        };
        time(experts, 1)?;
        let copied = experts.slots(bank).min(MANY) * block.slot_bytes();
        speed.upload = speed.upload.max(copied as f64 / since.elapsed().as_secs_f64().max(1e-9));
        let (mut one, mut all) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            one = one.min(time(experts, 1)?);
            all = all.min(time(experts, n)?);
        }
        let each = if n > 1 { all.saturating_sub(one) / (n as u32 - 1) } else { one / 2 };
        speed.expert.push(each);
        speed.launch = speed.launch.min(one.saturating_sub(each));
    }
    Ok(speed)
}

/// Experts of the larger submission.
const MANY: usize = 4;
