//! GPUs in words and as JSON: those of the machine, and what one did for a model. It must not know how one
//! is opened.

use std::time::Duration;

use moelten_engine::DeviceStats;
use moelten_quant::Kernels;
use serde_json::{Value, json};

use super::progress::bytes;

/// An adapter of this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundGpu {
    /// Name, kind, interface and driver.
    pub about: [String; 4],
    /// Whether it computes exactly, and how fast; otherwise why it is not used.
    pub trial: Result<GpuFigures, String>,
}

/// What a trial measured.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuFigures {
    /// How it computes the CPU's bits.
    pub arithmetic: &'static str,
    /// From a submission to its results.
    pub launch: Duration,
    /// Weights that it multiplies, 10^9 bytes per second.
    pub weights_gb_per_s: f64,
    /// Copies to it, 10^9 bytes per second.
    pub upload_gb_per_s: f64,
}

/// The GPUs of this machine, each after a trial.
#[cfg(feature = "gpu")]
pub fn found(kernels: &Kernels) -> Vec<FoundGpu> {
    let of = |adapter: &moelten_gpu::Adapter| {
        let trial = moelten_gpu::trial(adapter, kernels).map(|trial| GpuFigures {
            arithmetic: trial.arithmetic.name(),
            launch: trial.launch,
            weights_gb_per_s: trial.weights / 1e9,
            upload_gb_per_s: trial.upload / 1e9,
        });
        let moelten_gpu::Adapter { name, kind, backend, driver, .. } = adapter;
        let about = [name.clone(), kind.to_string(), backend.clone(), driver.clone()];
        FoundGpu { about, trial: trial.map_err(|error| error.to_string()) }
    };
    moelten_gpu::adapters().iter().map(of).collect()
}

/// None: this build has no support for GPUs.
#[cfg(not(feature = "gpu"))]
pub fn found(_: &Kernels) -> Vec<FoundGpu> {
    Vec::new()
}

impl FoundGpu {
    /// For people, on a line.
    pub fn words(&self) -> String {
        let about = self.about.join(", ");
        match &self.trial {
            Ok(GpuFigures { arithmetic, launch, weights_gb_per_s, upload_gb_per_s }) => format!(
                "{about}: exact ({arithmetic}); {:.0} us a submission, weights at {weights_gb_per_s:.2} GB/s, copies at \
                 {upload_gb_per_s:.2} GB/s",
                micros(*launch)
            ),
            Err(why) => format!("{about}: not used: {why}"),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let [name, kind, backend, driver] = &self.about;
        let figures = self.trial.as_ref().ok();
        json!({
            "name": name,
            "kind": kind,
            "backend": backend,
            "driver": driver,
            "exact": figures.map(|figures| figures.arithmetic),
            "launch_s": figures.map(|figures| figures.launch.as_secs_f64()),
            "weights_gb_per_s": figures.map(|figures| figures.weights_gb_per_s),
            "upload_gb_per_s": figures.map(|figures| figures.upload_gb_per_s),
            "problem": self.trial.as_ref().err(),
        })
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What a GPU did for a model, for people.
pub fn words(stats: &DeviceStats) -> String {
    if let Some(reason) = &stats.dropped {
        return format!("GPU {}: not used any more: {reason}", stats.name);
    }
    let share = 100.0 * stats.used as f64 / stats.asked.max(1) as f64;
    let host = match stats.host.is_zero() {
        true => String::new(),
        false => format!(", on the CPU {:.0} us", micros(stats.host)),
    };
    format!(
        "GPU {} ({}): {} of {} slots in {} hold experts; computed {share:.1} % of the experts of decoded tokens; {} \
         copied to it, at {:.2} GB/s; {:.0} us a submission and {:.0} us an expert{host}",
        stats.name,
        stats.arithmetic,
        stats.held,
        stats.slots,
        bytes(stats.bytes),
        stats.uploads,
        stats.upload / 1e9,
        micros(stats.launch),
        micros(stats.each),
    )
}

/// What a GPU did for a model, for programs.
pub fn json(stats: &DeviceStats) -> Value {
    json!({
        "name": stats.name,
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
        "dropped": stats.dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_described_on_one_line() {
        let about = ["llvmpipe", "software", "vulkan", "Mesa 22"].map(str::to_owned);
        let figures = GpuFigures {
            arithmetic: "whole numbers",
            launch: Duration::from_micros(250),
            weights_gb_per_s: 0.3,
            upload_gb_per_s: 4.0,
        };
        let exact = FoundGpu { about: about.clone(), trial: Ok(figures) };
        let words = "llvmpipe, software, vulkan, Mesa 22: exact (whole numbers); 250 us a submission, weights at 0.30 \
                     GB/s, copies at 4.00 GB/s";
        assert_eq!(exact.words(), words);
        assert_eq!(exact.json()["exact"], "whole numbers");
        let broken = FoundGpu { about, trial: Err("it does not compute exactly".to_owned()) };
        assert!(broken.words().ends_with("not used: it does not compute exactly"));
        assert_eq!(broken.json()["exact"], Value::Null);
    }

    #[test]
    fn a_lost_gpu_says_why() {
        let mut stats =
            DeviceStats { name: "card".to_owned(), used: 1, asked: 4, slots: 2, ..DeviceStats::default() };
        assert!(words(&stats).contains("computed 25.0 % of the experts"));
        stats.dropped = Some("no answer for 10 seconds".to_owned());
        assert_eq!(words(&stats), "GPU card: not used any more: no answer for 10 seconds");
    }
}
