//! What a GPU did for a model, in words and as JSON: its times, the split of a layer, where experts were
//! found, and how fast each place alone would be. It must not know how any of it is measured.

use moelten_engine::{DeviceStats, LayerTimes, SharedTimes, Split};
use serde_json::{Value, json};

use super::gpu::micros;
use super::progress::bytes;

/// What each place does of a decoded token, of a run with a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tiers {
    /// Shares of the experts' bytes that were in VRAM, in RAM and on disk. They are of one whole.
    pub shares: [f64; 3],
    /// Seconds that the GPU, the CPU at the speed of RAM, and the disk take for their parts of a token; the
    /// disk's are `None` where they need its unknown speed.
    pub seconds: [Option<f64>; 3],
}

impl Tiers {
    /// Tokens in a second if all three worked all the time: the slowest decides. `None` while one is unknown.
    pub fn bound(&self) -> Option<f64> {
        let [gpu, ram, disk] = self.seconds;
        Some(1.0 / gpu?.max(ram?).max(disk?))
    }

    /// Tokens in a second of each place alone; `None` where it is unknown or has nothing to do.
    fn bounds(&self) -> [Option<f64>; 3] {
        self.seconds.map(|seconds| seconds.filter(|&seconds| seconds > 0.0).map(|seconds| 1.0 / seconds))
    }

    /// The shares, for programs.
    pub fn shares_json(&self) -> Value {
        let [vram, ram, disk] = self.shares;
        json!({ "vram": vram, "ram": ram, "disk": disk })
    }

    /// The bounds, for programs.
    pub fn bounds_json(&self) -> Value {
        let [vram, ram, disk] = self.bounds();
        json!({ "vram": vram, "ram": ram, "disk": disk })
    }
}

/// The part of a token that a GPU does: seconds, and bytes of weights that the CPU need not read.
pub fn of_token(stats: &DeviceStats, tokens: f64) -> (f64, f64) {
    let launch = stats.launch.as_secs_f64();
    let (routed, shared) = (stats.used as f64, stats.shared_used as f64);
    let launches = if routed + shared > 0.0 { stats.layers as f64 * launch } else { 0.0 };
    let experts = routed * stats.each.as_secs_f64() + shared * stats.shared_each.as_secs_f64();
    let mut seconds = (launches + experts) / tokens;
    let mut bytes = (stats.used_bytes + stats.shared_used_bytes) as f64 / tokens;
    if stats.heads > 0 && stats.head_held > 0 {
        let share = stats.head_rows as f64 / stats.head_held as f64;
        seconds += launch + (stats.head_time.as_secs_f64() - launch).max(0.0) * share;
        bytes += stats.head_bytes as f64 * share;
    }
    (seconds, bytes)
}

/// A count for each layer of a token.
fn of_layer(stats: &DeviceStats, count: u64) -> f64 {
    count as f64 / stats.layers.max(1) as f64
}

/// The measured times of a layer; `None` while the CPU's are not known.
fn times(stats: &DeviceStats) -> Option<LayerTimes> {
    if stats.host.is_zero() {
        return None;
    }
    let known = stats.shared > 0 && !stats.shared_host.is_zero();
    let (each, host) = (stats.shared_each.as_secs_f64(), stats.shared_host.as_secs_f64());
    let shared = known.then_some(SharedTimes { each, host });
    let times = LayerTimes::new(stats.launch, stats.each, stats.host.as_secs_f64());
    Some(LayerTimes { shared, ..times })
}

/// What of a layer a GPU with all of its experts should compute, and of how many.
fn best(stats: &DeviceStats, times: LayerTimes) -> (Split, usize) {
    let all = of_layer(stats, stats.asked).round() as usize;
    (times.best(all, all, false), all)
}

/// For people, a line for each thing. `tiers` are those of timed runs, if there were any.
pub fn lines(stats: &DeviceStats, tiers: Option<&Tiers>) -> Vec<String> {
    let DeviceStats { name, arithmetic, held, slots, .. } = stats;
    if let Some(reason) = &stats.dropped {
        return vec![format!("GPU      {name}: not used any more: {reason}")];
    }
    let (exactness, size) = (stats.exactness(), bytes(stats.bytes));
    let mut lines = vec![
        format!(
            "GPU      {name}: {exactness} ({arithmetic}); {held} of {slots} slots in {size} hold experts"
        ),
        times_line(stats),
        split_line(stats),
    ];
    lines.extend(shared_line(stats));
    lines.extend(best_line(stats));
    if let Some(tiers) = tiers {
        let [vram, ram, disk] = tiers.shares.map(|share| format!("{:.1} %", 100.0 * share));
        lines.push(format!(
            "         hits: in VRAM {vram}, in RAM {ram}, in the file {disk} of the experts' bytes"
        ));
        let [vram, ram, disk] = tiers.bounds().map(|bound| match bound {
            Some(rate) => format!("{rate:.1} tok/s"),
            None => "-".to_owned(),
        });
        lines.push(format!(
            "         limits: the GPU's part of a token {vram}, RAM's {ram}, the disk's {disk}"
        ));
    }
    lines
}

fn times_line(stats: &DeviceStats) -> String {
    let host = match stats.host.is_zero() {
        true => "not measured: it computed no layer alone".to_owned(),
        false => format!("{:.0} us", micros(stats.host)),
    };
    format!(
        "         L (a submission) {:.0} us, g (an expert on it) {:.0} us, c (one on the CPU) {host}; copies at {:.2} GB/s",
        micros(stats.launch),
        micros(stats.each),
        stats.upload / 1e9,
    )
}

fn split_line(stats: &DeviceStats) -> String {
    let share = 100.0 * stats.used as f64 / stats.asked.max(1) as f64;
    let head = match stats.head_held {
        0 => String::new(),
        held => format!("; {} of its {held} rows of the head", stats.head_rows),
    };
    format!(
        "         split: it computed {:.1} of {:.1} experts in a layer, {share:.1} %{head}; {} were copied to it",
        of_layer(stats, stats.used),
        of_layer(stats, stats.asked),
        stats.uploads,
    )
}

/// The shared experts, if it has any.
fn shared_line(stats: &DeviceStats) -> Option<String> {
    let host = match stats.shared_host.is_zero() {
        true => String::new(),
        false => format!(", {:.0} on the CPU", micros(stats.shared_host)),
    };
    (stats.shared > 0).then(|| {
        format!(
            "         it has {} shared experts and computed one in {:.1} % of the layers; each takes {:.0} us{host}",
            stats.shared,
            100.0 * of_layer(stats, stats.shared_used),
            micros(stats.shared_each),
        )
    })
}

/// What the times say about the split, where experts need not be read.
fn best_line(stats: &DeviceStats) -> Option<String> {
    let times = times(stats)?;
    let (split, all) = best(stats, times);
    let layer = |split: Split| 1e6 * times.seconds(all, split);
    Some(format!(
        "         by these times a layer takes least with {} of {all}{} on it: {:.0} us, {:.0} on the CPU alone",
        split.experts,
        if split.shared { " and the shared one" } else { "" },
        layer(split),
        layer(Split { experts: 0, shared: false })
    ))
}

/// For programs.
pub fn json(stats: &DeviceStats) -> Value {
    let best = times(stats).map(|times| best(stats, times).0);
    json!({
        "name": stats.name,
        "exactness": stats.exactness(),
        "split": of_layer(stats, stats.used),
        "best_split": best.map(|split| split.experts),
        "best_split_shared": best.map(|split| split.shared),
        "visits": of_layer(stats, stats.asked),
        "head_rows": stats.head_rows,
        "head_held": stats.head_held,
        "head_bytes": stats.head_bytes,
        "arithmetic": stats.arithmetic,
        "bytes": stats.bytes,
        "slots": stats.slots,
        "held": stats.held,
        "experts_computed": stats.used,
        "experts_visited": stats.asked,
        "bytes_computed": stats.used_bytes,
        "uploads": stats.uploads,
        "verified": stats.verified,
        "launch_s": stats.launch.as_secs_f64(),
        "expert_s": stats.each.as_secs_f64(),
        "cpu_expert_s": (!stats.host.is_zero()).then_some(stats.host.as_secs_f64()),
        "upload_gb_per_s": stats.upload / 1e9,
        "shared_experts": stats.shared,
        "shared_computed": stats.shared_used,
        "shared_expert_s": (stats.shared > 0).then_some(stats.shared_each.as_secs_f64()),
        "cpu_shared_expert_s": (!stats.shared_host.is_zero()).then_some(stats.shared_host.as_secs_f64()),
        "dropped": stats.dropped,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Two layers of a token, of whose eight experts a card computed two.
    fn stats() -> DeviceStats {
        DeviceStats {
            name: "card".to_owned(),
            arithmetic: "fma".to_owned(),
            exact: true,
            used: 2,
            used_bytes: 600,
            asked: 8,
            layers: 2,
            launch: Duration::from_micros(100),
            each: Duration::from_micros(20),
            host: Duration::from_micros(80),
            upload: 12e9,
            ..DeviceStats::default()
        }
    }

    #[test]
    fn times_split_hits_and_limits_are_told() {
        let tiers = Tiers { shares: [0.25, 0.5, 0.25], seconds: [Some(0.002), Some(0.01), Some(0.0)] };
        let text = lines(&stats(), Some(&tiers)).join("\n");
        for words in [
            "card: exact (fma)",
            "L (a submission) 100 us, g (an expert on it) 20 us, c (one on the CPU) 80 us; copies at 12.00 GB/s",
            "computed 1.0 of 4.0 experts in a layer, 25.0 %",
            "by these times a layer takes least with 2 of 4 on it: 160 us, 320 on the CPU alone",
            "in VRAM 25.0 %, in RAM 50.0 %, in the file 25.0 %",
            "part of a token 500.0 tok/s, RAM's 100.0 tok/s, the disk's -",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(tiers.bound(), Some(100.0), "the slowest decides");
        assert_eq!(tiers.bounds_json()["disk"], Value::Null);
        let unknown = Tiers { seconds: [Some(0.002), Some(0.01), None], ..tiers };
        assert_eq!(unknown.bound(), None);
        let json = json(&stats());
        assert_eq!((&json["best_split"], &json["split"]), (&json!(2), &json!(1.0)));
        let young = DeviceStats { host: Duration::ZERO, ..stats() };
        assert!(lines(&young, None).join(" ").contains("it computed no layer alone"));
        assert_eq!(super::json(&young)["best_split"], Value::Null);
    }

    #[test]
    fn a_token_has_launches_experts_and_rows_of_the_head() {
        let (seconds, bytes) = of_token(&stats(), 2.0);
        assert!((seconds - 120e-6).abs() < 1e-12, "a layer and an expert for each of two tokens: {seconds}");
        assert!((bytes - 300.0).abs() < 1e-9);
        let head = DeviceStats {
            head_rows: 50,
            head_held: 100,
            head_bytes: 1000,
            head_time: Duration::from_micros(300),
            heads: 2,
            ..stats()
        };
        let (seconds, bytes) = of_token(&head, 2.0);
        assert!((seconds - 320e-6).abs() < 1e-12, "a launch, and half of 200 us: {seconds}");
        assert!((bytes - 800.0).abs() < 1e-9);
    }

    #[test]
    fn shared_experts_are_told() {
        let shared = DeviceStats {
            shared: 2,
            shared_used: 1,
            shared_used_bytes: 100,
            shared_each: Duration::from_micros(20),
            shared_host: Duration::from_micros(80),
            ..stats()
        };
        let text = lines(&shared, None).join("\n");
        assert!(text.contains("has 2 shared experts and computed one in 50.0 % of the layers"), "{text}");
        assert!(text.contains("each takes 20 us, 80 on the CPU"), "{text}");
        assert!(
            text.contains("with 2 of 4 and the shared one on it: 160 us, 400 on the CPU alone"),
            "{text}"
        );
        let (seconds, bytes) = of_token(&shared, 2.0);
        assert!((seconds - 130e-6).abs() < 1e-12 && (bytes - 350.0).abs() < 1e-9, "{seconds} {bytes}");
        let json = json(&shared);
        assert_eq!((&json["best_split_shared"], &json["shared_computed"]), (&json!(true), &json!(1)));
    }

    #[test]
    fn a_lost_gpu_says_why() {
        let lost = DeviceStats { dropped: Some("no answer for 10 seconds".to_owned()), ..stats() };
        assert_eq!(lines(&lost, None), ["GPU      card: not used any more: no answer for 10 seconds"]);
    }
}
