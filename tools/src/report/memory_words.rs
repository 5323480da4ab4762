//! Messages about memory: before a slow start, for an unusual budget, for a file system without direct reads.
//! It must not make decisions.

use std::time::Duration;

use moelten_engine::Model;
use moelten_engine::plan::context::ContextLimit;
use moelten_engine::plan::{Experts, Plan, Ram};
use moelten_engine::runtime::memory;
use moelten_loader::io::read_at::Access;
use moelten_loader::load::LoadedModel;
use moelten_tui::chat::Limits;
use moelten_tui::terminal::Tone;

use crate::health::volume::Volume;
use crate::open::{self, SessionArgs};
use crate::report::earlier;
use crate::report::forecast::{Forecast, Likely, Span, Speeds, tight_layers};
use crate::report::progress::bytes;

/// Time to measure the disk before a start: short compared with reading the dense weights.
const PROBE: Duration = Duration::from_millis(300);
/// The buffer for measuring RAM takes at most the budget divided by this, and at most this many bytes.
const PROBE_PART: u64 = 2;
const PROBE_BYTES: u64 = 256 << 20;

/// A range of tokens per second: `3.0 to 9.0`.
pub fn speed(span: Span) -> String {
    let round = |rate: f64| if rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") };
    let (low, high) = (round(span.low), round(span.high));
    if low == high { low } else { format!("{low} to {high}") }
}

/// A speed and its range: `6.0 tok/s (4.5 to 8.1)`.
pub fn likely(warm: Likely) -> String {
    let Likely { value, range } = warm;
    format!("{} tok/s ({})", speed(Span { low: value, high: value }), speed(range))
}

/// Whether experts are streamed from disk: not all of them fit into the cache.
pub fn streams(plan: &Plan) -> bool {
    matches!(&plan.experts, Experts::Cached(cached) if cached.share() < 1.0)
}

/// Share of the experts that RAM holds; `None` if the whole model is in RAM.
pub fn cached_share(plan: &Plan) -> Option<f64> {
    match &plan.experts {
        Experts::Cached(cached) if cached.share() < 1.0 => Some(cached.share()),
        _ => None,
    }
}

/// Messages and measurements before a model is made ready.
#[derive(Debug, Default)]
pub struct BeforeStart {
    /// Messages; none if everything fits.
    pub lines: Vec<(Tone, String)>,
    /// Measured limits; empty if nothing was measured.
    pub limits: Limits,
    /// Expected tokens per second, if they were measured for.
    pub speed: Option<String>,
}

/// Composes the messages before a model is made ready, and measures the machine for them if it will stream.
///
/// # Errors
/// As [`Speeds::probe`].
pub fn before_start(options: &SessionArgs, loaded: &LoadedModel, plan: &Plan) -> anyhow::Result<BeforeStart> {
    let mut before = BeforeStart::default();
    let lines = &mut before.lines;
    let (context, most) = (plan.context.tokens, loaded.spec.max_context);
    if plan.context.limit == ContextLimit::Requested && context > most {
        let text = format!(
            "warning: --ctx {} is more than this model was trained for ({}): beyond that its answers get worse",
            open::count(context),
            open::count(most)
        );
        lines.push((Tone::Warning, text));
    }
    lines.extend(open::long_rope_words(&loaded.spec, plan.context).map(|line| (Tone::Plain, line)));
    if let Some(line) = beyond_free(options.compute().ram, plan, memory::available_bytes()) {
        lines.push((Tone::Warning, line));
    }
    let Experts::Cached(cached) = &plan.experts else { return Ok(before) };
    if cached.share() >= 1.0 {
        return Ok(before);
    }
    let kv = options.compute().kv();
    let speeds =
        Speeds::probe(options.compute(), &loaded.tensors, PROBE, PROBE_BYTES.min(plan.budget / PROBE_PART))?;
    let forecast = Forecast::new(
        loaded,
        plan,
        kv,
        &speeds,
        &earlier::about(options.compute(), loaded, plan),
        None,
        None,
    );
    before.limits = Limits {
        ram_gb_per_s: Some(speeds.ram_gb_per_s),
        disk_gb_per_s: speeds.disk_gb_per_s.as_ref().ok().copied(),
        dense_bytes: Some(forecast.dense_bytes),
    };
    before.speed = forecast.warm.map(likely);
    let speed =
        forecast.warm.map_or_else(|| "speed unknown".to_owned(), |warm| format!("about {}", likely(warm)));
    lines.push((
        Tone::Plain,
        format!(
            "larger than the memory budget of {}: {:.0} % of experts cached, the rest streamed from disk, {speed}; see \
             `moelten fit MODEL`",
            bytes(plan.budget),
            100.0 * cached.share()
        ),
    ));
    lines.extend(tight(loaded, plan).map(|line| (Tone::Warning, line)));
    lines.extend(slow_place(loaded).map(|line| (Tone::Warning, line)));
    Ok(before)
}

/// A warning if --ram exceeds the free memory.
fn beyond_free(ram: Ram, plan: &Plan, available: Option<u64>) -> Option<String> {
    let (Ram::Bytes(budget), Some(available)) = (ram, available) else { return None };
    // The program's own memory, part of the plan, is already taken.
    let free = available.saturating_add(plan.base);
    (budget > free && plan.needs() > free).then(|| {
        format!(
            "warning: --ram is {}, but only {} are free now; the system may swap or end a program. `--ram auto` uses what is \
             free",
            bytes(budget),
            bytes(free)
        )
    })
}

/// A warning if layers cache fewer experts than one token chooses: every token then reads most of its
/// experts.
pub fn tight(loaded: &LoadedModel, plan: &Plan) -> Option<String> {
    let (tight, layers) = tight_layers(&loaded.spec, plan);
    (tight > 0).then(|| {
        format!(
            "warning: {tight} of {layers} layers cache fewer experts than one token chooses, which is slow; use a larger --ram \
             or a smaller --ctx"
        )
    })
}

/// A warning if the experts would be read from a place that is slow.
pub fn slow_place(loaded: &LoadedModel) -> Option<String> {
    let file = loaded.tensors.catalog().files().first()?;
    Volume::here(file.path())?.trap().map(|trap| format!("warning: the model is in a slow place: {trap}"))
}

/// A warning if the file system refuses direct reads.
pub fn after_start(model: &Model) -> Option<String> {
    (model.experts().access() == Some(Access::Buffered)).then(|| {
        "warning: the file system refuses direct reads; experts are read through the page cache, which is slower"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use moelten_engine::plan::context::ContextChoice;

    use super::*;

    #[test]
    fn speeds_are_short() {
        let words = |low, high| speed(Span { low, high });
        assert_eq!(words(3.26, 9.0), "3.3 to 9.0");
        assert_eq!(words(9.96, 120.4), "10 to 120");
        assert_eq!(words(0.5, 0.51), "0.5");
        let warm = Likely { value: 6.0, range: Span { low: 4.52, high: 18.1 } };
        assert_eq!(likely(warm), "6.0 tok/s (4.5 to 18)");
    }

    #[test]
    fn only_missing_memory_is_warned_of() {
        let context = ContextChoice { tokens: 1, limit: ContextLimit::Requested };
        let plan = |expert_bytes| Plan {
            budget: 900,
            base: 100,
            dense: 100,
            expert_bytes,
            context,
            kv: 0,
            scratch: 0,
            extra: 0,
            reserve: 0,
            arranged: 0,
            arranging: 0,
            experts: Experts::InPlace,
        };
        assert!(beyond_free(Ram::Bytes(900), &plan(600), Some(500)).unwrap().contains("600 B are free"));
        // A small model in a large budget, a budget that is there, and no number at all.
        assert_eq!(beyond_free(Ram::Bytes(900), &plan(100), Some(500)), None);
        assert_eq!(beyond_free(Ram::Bytes(900), &plan(600), Some(800)), None);
        assert_eq!(beyond_free(Ram::Auto, &plan(600), Some(500)), None);
        assert_eq!(beyond_free(Ram::Bytes(900), &plan(600), None), None);
    }
}
