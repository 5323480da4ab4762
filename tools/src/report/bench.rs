//! What `moelten bench` prints, as text and as JSON. The names in the JSON object are a promise: other
//! programs read them. It must not know how things are measured.

use moelten_engine::plan::Experts;
use moelten_engine::runtime::topology::Placement;
use moelten_engine::{DeviceStats, Model};
use serde_json::{Value, json};

use super::gpu_work::{self, Tiers};
use super::progress::bytes;
use crate::bench::beside::Rates;
use crate::bench::measure::{Measured, Prefill, Work};

/// Everything that is printed.
pub struct BenchReport<'a> {
    /// Model file or shape.
    pub name: &'a str,
    /// Weight format of a shape with generated weights.
    pub generated: Option<&'a str>,
    /// Features of the real model that the shape lacks.
    pub approximated: Option<&'a str>,
    /// What was timed.
    pub work: Work,
    /// The model that ran.
    pub model: &'a Model,
    /// Rates and traffic.
    pub measured: Measured,
    /// The most memory that the process owned.
    pub peak_owned_bytes: Option<u64>,
    /// Disk reads, 10^9 bytes per second, or why they were not measured.
    pub disk_gb_per_s: Result<f64, String>,
}

/// Derived figures of decode, for both outputs.
struct DecodeFigures {
    gb_per_s: f64,
    ram_gb_per_s: Rates,
    share_of_ram: Rates,
    gb_per_s_with_kv: f64,
    share_of_ram_with_kv: Rates,
    /// What each place does of a token, and with it the hardware limit: the bytes of a token that the CPU
    /// reads at the speed of RAM, those from the disk at its speed, or the time of a GPU's part,
    /// whichever is longest.
    tiers: Tiers,
}

impl BenchReport<'_> {
    fn decode_figures(&self) -> Option<DecodeFigures> {
        let decode = self.measured.decode.as_ref()?;
        let ram = decode.ram.limit();
        let rate = decode.rates.median / 1e9;
        let with_kv = decode.bytes_per_token + decode.kv_bytes_per_token;
        let from_disk = match self.work.streams {
            true => decode.store.decode.missed_bytes as f64 / (self.work.decode * self.work.repeat) as f64,
            false => decode.disk_bytes_per_token.unwrap_or(0.0),
        };
        let disk_seconds = match &self.disk_gb_per_s {
            _ if from_disk == 0.0 => Some(0.0),
            Ok(disk) => Some(from_disk / disk / 1e9),
            Err(_) => None,
        };
        let tokens = (self.work.decode * self.work.repeat) as f64;
        let (gpu_seconds, gpu_bytes) =
            decode.gpu.as_ref().map_or((0.0, 0.0), |stats| gpu_work::of_token(stats, tokens));
        let by_cpu = (with_kv - gpu_bytes).max(0.0) / ram.median / 1e9;
        let phase = &decode.store.decode;
        let all = (phase.used_bytes as f64).max(1.0);
        let in_vram = decode.gpu.as_ref().map_or(0, |stats| stats.used_bytes) as f64 / all;
        let on_disk = phase.missed_bytes as f64 / all;
        Some(DecodeFigures {
            tiers: Tiers {
                shares: [in_vram, 1.0 - in_vram - on_disk, on_disk],
                seconds: [Some(gpu_seconds), Some(by_cpu), disk_seconds],
            },
            gb_per_s: decode.bytes_per_token * rate,
            ram_gb_per_s: ram,
            share_of_ram: decode.ram.shares(decode.bytes_per_token / 1e9),
            gb_per_s_with_kv: with_kv * rate,
            share_of_ram_with_kv: decode.ram.shares(with_kv / 1e9),
        })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Measured { prefill, decode, disk_bytes } = &self.measured;
        let (plan, work) = (self.model.runtime().pool().plan(), self.work);
        let decode_json = decode.as_ref().zip(self.decode_figures()).map(|(decode, figures)| {
            json!({
                "tokens": work.decode,
                "depth": work.depth,
                "tokens_per_s": decode.rates.median,
                "tokens_per_s_min": decode.rates.min,
                "tokens_per_s_max": decode.rates.max,
                "token_ms_p50": decode.token_ms[0],
                "token_ms_p95": decode.token_ms[1],
                "bytes_per_token": decode.bytes_per_token,
                "kv_bytes_per_token": decode.kv_bytes_per_token,
                "gb_per_s": figures.gb_per_s,
                "share_of_ram": figures.share_of_ram.median,
                "share_of_ram_min": figures.share_of_ram.min,
                "share_of_ram_max": figures.share_of_ram.max,
                "share_of_weights": decode.weights.as_ref().map(|weights| weights.shares(decode.bytes_per_token / 1e9).median),
                "gb_per_s_with_kv": figures.gb_per_s_with_kv,
                "share_of_ram_with_kv": figures.share_of_ram_with_kv.median,
                "bound_tokens_per_s": figures.tiers.bound(),
                "tiers": decode.gpu.as_ref().map(|_| figures.tiers.shares_json()),
                "tier_bounds_tokens_per_s": decode.gpu.as_ref().map(|_| figures.tiers.bounds_json()),
                "experts_used": decode.experts_used,
                "experts": decode.experts,
            })
        });
        let ram = decode.as_ref().map(|decode| decode.ram.limit());
        json!({
            "model": self.name,
            "generated": self.generated,
            "approximated": self.approximated,
            "isa": self.model.runtime().isa().name(),
            "threads": plan.threads,
            "pinned": matches!(plan.placement, Placement::Pinned(_)),
            "kv": work.kv.name(),
            "repeat": work.repeat,
            "prefill": prefill.as_ref().map(|prefill| prefill_json(prefill, work)),
            "decode": decode_json,
            "limits": {
                "ram_gb_per_s": ram.map(|ram| ram.median),
                "ram_gb_per_s_min": ram.map(|ram| ram.min),
                "ram_gb_per_s_max": ram.map(|ram| ram.max),
                "weights_gb_per_s": decode.as_ref().and_then(|decode| Some(decode.weights.as_ref()?.limit().median)),
                "int8_tops": prefill.as_ref().map(|prefill| prefill.int8.limit().median),
                "disk_gb_per_s": self.disk_gb_per_s.as_ref().ok(),
                "disk_problem": self.disk_gb_per_s.as_ref().err(),
            },
            "cache": self.cache_json(*disk_bytes),
            "gpu": self.gpu().as_ref().map(gpu_work::json),
            "memory": {
                "peak_owned_bytes": self.peak_owned_bytes,
                "budget_bytes": self.model.plan().budget,
                "mapped_bytes": self.model.plan().mapped(),
            },
        })
    }

    /// What a GPU did in the timed runs of decode, or at all if there were none.
    fn gpu(&self) -> Option<DeviceStats> {
        let timed = self.measured.decode.as_ref().and_then(|decode| decode.gpu.clone());
        timed.or_else(|| self.model.experts().device_stats())
    }

    /// Figures of the expert store; `null` for phases that were not run. Mapped experts count as resident.
    fn cache_json(&self, disk_bytes: Option<u64>) -> Value {
        let (prefill, decode) = (self.measured.prefill.as_ref(), self.measured.decode.as_ref());
        let stores = prefill.map(|p| &p.store).into_iter().chain(decode.map(|d| &d.store));
        let bytes_read =
            if self.work.streams { Some(stores.map(|s| s.bytes_read).sum()) } else { disk_bytes };
        let tokens = (self.work.decode * self.work.repeat) as f64;
        json!({
            "streams": self.work.streams,
            "share_resident": match &self.model.plan().experts {
                Experts::Cached(cached) => cached.share(),
                Experts::InPlace => 1.0,
            },
            "hit_rate_decode": decode.map(|d| d.store.decode.hit_rate()),
            "hit_rate_prefill": prefill.map(|p| p.store.prefill.hit_rate()),
            "bytes_read": bytes_read,
            "decode_missed_bytes_per_token": decode.map(|d| d.store.decode.missed_bytes as f64 / tokens),
            "decode_bytes_read_per_token": decode.map(|d| d.store.bytes_read as f64 / tokens),
            "decode_stall_s": decode.map(|d| d.store.decode.stall.as_secs_f64()),
            "decode_read_gb_per_s": decode.map(|d| d.store.read_gb_per_s()),
            "prefill_stall_s": prefill.map(|p| p.store.prefill.stall.as_secs_f64()),
            "prefill_read_gb_per_s": prefill.map(|p| p.store.read_gb_per_s()),
            "retries": decode.map(|d| d.store.retries),
            "prefetch": decode.map(|d| d.store.prefetch.iter().map(|layer| json!({
                "chosen": layer.chosen, "predicted": layer.predicted, "read": layer.read, "used": layer.used,
            })).collect::<Vec<_>>()),
        })
    }

    /// Lines about a GPU and about the expert cache, if there are any.
    fn cache_lines(&self, lines: &mut Vec<String>) {
        let timed = self.measured.decode.as_ref().is_some_and(|decode| decode.gpu.is_some());
        let tiers = self.decode_figures().filter(|_| timed).map(|figures| figures.tiers);
        lines.extend(self.gpu().iter().flat_map(|stats| gpu_work::lines(stats, tiers.as_ref())));
        let Experts::Cached(cached) = &self.model.plan().experts else { return };
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        lines.push(format!(
            "experts  {} cached, {}; {}",
            percent(cached.share()),
            bytes(cached.bytes()),
            if cached.direct { "direct reads" } else { "mapped" }
        ));
        if let Some(prefill) = &self.measured.prefill {
            let (store, tokens) = (&prefill.store, (self.work.prefill * self.work.repeat) as u64);
            lines.push(format!(
                "         prefill: {:.2} tok/s with an empty cache; then {} hits, {} read per token at {:.2} GB/s, stalled on \
                 disk {:.0} % of the time",
                prefill.first_rate,
                percent(store.prefill.hit_rate()),
                bytes(store.bytes_read / tokens),
                store.read_gb_per_s(),
                100.0 * store.prefill.stall.as_secs_f64() * prefill.rates.median / tokens as f64,
            ));
        }
        if let Some(decode) = &self.measured.decode {
            let (store, tokens) = (&decode.store, (self.work.decode * self.work.repeat) as u64);
            lines.push(format!(
                "         decode: {} hits, {} read per token at {:.2} GB/s, stalled on disk {:.0} % of the time",
                percent(store.decode.hit_rate()),
                bytes(store.bytes_read / tokens),
                store.read_gb_per_s(),
                100.0 * store.decode.stall.as_secs_f64() * decode.rates.median / tokens as f64,
            ));
            let prefetch = store.prefetch_total();
            if prefetch.chosen > 0 {
                lines.push(format!(
                    "         prefetch: {} of the chosen experts predicted; {} read ahead, {} of them used",
                    percent(prefetch.predicted as f64 / prefetch.chosen as f64),
                    prefetch.read,
                    percent(prefetch.used as f64 / prefetch.read.max(1) as f64),
                ));
            }
        }
    }

    /// For people, below [`heading`].
    pub fn figures(&self) -> String {
        let work = self.work;
        let mut lines = Vec::new();
        if let Some(prefill) = &self.measured.prefill {
            let operations = prefill.operations_per_token / 1e12;
            lines.push(format!(
                "prefill  {:>5} tokens {}   {:.2} of {:.2} int8 TOP/s ({:.0} %)",
                work.prefill,
                spread(prefill.rates),
                operations * prefill.rates.median,
                prefill.int8.limit().median,
                100.0 * prefill.int8.shares(operations).median
            ));
        }
        if let Some((decode, figures)) = self.measured.decode.as_ref().zip(self.decode_figures()) {
            lines.push(format!(
                "decode   {:>5} tokens {}   {:.1} of {:.1} GB/s RAM ({})",
                work.decode,
                spread(decode.rates),
                figures.gb_per_s,
                figures.ram_gb_per_s.median,
                percents(figures.share_of_ram)
            ));
            lines.push(format!(
                "         after {} tokens; {} of weights and {} of KV per token ({:.1} GB/s, {:.0} %, in total)",
                work.depth,
                bytes(decode.bytes_per_token as u64),
                bytes(decode.kv_bytes_per_token as u64),
                figures.gb_per_s_with_kv,
                100.0 * figures.share_of_ram_with_kv.median
            ));
            if let Some(weights) = &decode.weights {
                let (speed, share) = (weights.limit().median, weights.shares(decode.bytes_per_token / 1e9));
                let share = percents(share);
                lines.push(format!("         plain reads of the weights: {speed:.1} GB/s ({share})"));
            }
            let [median, most] = decode.token_ms;
            lines.push(format!("         a token takes {median:.1} ms (median), 95 % at most {most:.1} ms"));
            let bound = figures.tiers.bound().map_or_else(
                || "limit unknown: the disk was not measured".to_owned(),
                |bound| {
                    let share = 100.0 * decode.rates.median / bound;
                    format!("hardware limit {bound:.1} tok/s ({share:.0} % reached)")
                },
            );
            let used = format!("{} of {} experts used", decode.experts_used, decode.experts);
            lines.push(format!("         {bound}; {used}"));
        }
        self.cache_lines(&mut lines);
        let disk = match &self.disk_gb_per_s {
            Ok(speed) => format!("{speed:.2} GB/s"),
            Err(why) => format!("not measured: {why}"),
        };
        lines.push(format!("disk     {disk}"));
        let owned = self.peak_owned_bytes.map_or_else(|| "unknown".to_owned(), bytes);
        let read = self.measured.disk_bytes.map_or_else(|| "unknown".to_owned(), bytes);
        let budget = bytes(self.model.plan().budget);
        lines.push(format!("memory   peak {owned} of {budget}; {read} read from disk in timed runs"));
        lines.push(String::new());
        lines.join("\n")
    }
}

/// Figures of prefill, for programs.
fn prefill_json(prefill: &Prefill, work: Work) -> Value {
    let tops = prefill.operations_per_token * prefill.rates.median / 1e12;
    json!({
        "tokens": work.prefill,
        "tokens_per_s": prefill.rates.median,
        "tokens_per_s_min": prefill.rates.min,
        "tokens_per_s_max": prefill.rates.max,
        "first_tokens_per_s": prefill.first_rate,
        "operations_per_token": prefill.operations_per_token,
        "int8_tops": tops,
        "share_of_int8": prefill.int8.shares(prefill.operations_per_token / 1e12).median,
    })
}

/// The first lines for people, which are known before anything is measured.
pub fn heading(name: &str, generated: Option<&str>, model: &Model, work: Work) -> String {
    let weights = generated.map_or_else(String::new, |format| format!(", generated weights, {format}"));
    let runtime = model.runtime();
    format!("{name}{weights}\n{}; {}; KV {}\n", runtime.pool().plan(), runtime.isa(), work.kv.name())
}

/// Median, slowest and fastest, aligned.
fn spread(rates: Rates) -> String {
    format!("{:>8.2} tok/s ({:.2} to {:.2})", rates.median, rates.min, rates.max)
}

/// Median of shares, and their range if it is visible: `86 %, 84 to 88`.
fn percents(shares: Rates) -> String {
    let [median, min, max] =
        [shares.median, shares.min, shares.max].map(|share| format!("{:.0}", 100.0 * share));
    if min == max { format!("{median} %") } else { format!("{median} %, {min} to {max}") }
}
