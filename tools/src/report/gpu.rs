//! The GPUs of the machine, in words and as JSON. It must not know what one does for a model.

use std::time::Duration;

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
    /// Bytes that it gives for experts; `None` where its memory is the RAM.
    pub room: Option<u64>,
    /// From a submission to its results.
    pub launch: Duration,
    /// Weights that it multiplies, 10^9 bytes per second.
    pub weights_gb_per_s: f64,
    /// The same where results need only be close; `None` where they are not.
    pub close_gb_per_s: Option<f64>,
    /// Copies to it, 10^9 bytes per second.
    pub upload_gb_per_s: f64,
}

/// The GPUs of this machine, each after a trial.
#[cfg(feature = "gpu")]
pub fn found(kernels: &Kernels) -> Vec<FoundGpu> {
    let of = |adapter: &moelten_gpu::Adapter| {
        let own = adapter.kind == moelten_gpu::AdapterKind::Discrete;
        let most = if own { u64::MAX } else { 0 };
        let trial = moelten_gpu::trial(adapter, moelten_gpu::Exactness::Exact, most, kernels);
        let trial = trial.map(|(trial, _)| GpuFigures {
            arithmetic: trial.arithmetic.name(),
            room: own.then_some(trial.room),
            close_gb_per_s: trial.close_weights.map(|rate| rate / 1e9),
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
            Ok(figures) => {
                let GpuFigures { arithmetic, launch, weights_gb_per_s, upload_gb_per_s, .. } = figures;
                let room = match figures.room {
                    Some(room) => format!("{} for experts", bytes(room)),
                    None => "its memory is the RAM".to_owned(),
                };
                let close = match figures.close_gb_per_s {
                    Some(speed) => format!(" (close: {speed:.2})"),
                    None => String::new(),
                };
                format!(
                    "{about}: exact ({arithmetic}), {room}; {:.0} us a submission, weights at {weights_gb_per_s:.2} \
                     GB/s{close}, copies at {upload_gb_per_s:.2} GB/s",
                    micros(*launch)
                )
            }
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
            "vram_bytes": figures.and_then(|figures| figures.room),
            "weights_gb_per_s": figures.map(|figures| figures.weights_gb_per_s),
            "close_weights_gb_per_s": figures.and_then(|figures| figures.close_gb_per_s),
            "upload_gb_per_s": figures.map(|figures| figures.upload_gb_per_s),
            "problem": self.trial.as_ref().err(),
        })
    }
}

/// Microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
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
            room: None,
            weights_gb_per_s: 0.3,
            close_gb_per_s: Some(0.4),
            upload_gb_per_s: 4.0,
        };
        let exact = FoundGpu { about: about.clone(), trial: Ok(figures.clone()) };
        let words = "llvmpipe, software, vulkan, Mesa 22: exact (whole numbers), its memory is the RAM; 250 us a \
                     submission, weights at 0.30 GB/s (close: 0.40), copies at 4.00 GB/s";
        assert_eq!(exact.words(), words);
        let card = FoundGpu {
            about: about.clone(),
            trial: Ok(GpuFigures { room: Some(6 << 30), close_gb_per_s: None, ..figures }),
        };
        assert!(
            card.words().contains("exact (whole numbers), 6 GiB for experts; 250 us"),
            "{}",
            card.words()
        );
        assert_eq!(card.json()["vram_bytes"], 6_u64 << 30);
        assert_eq!(exact.json()["exact"], "whole numbers");
        let broken = FoundGpu { about, trial: Err("it does not compute exactly".to_owned()) };
        assert!(broken.words().ends_with("not used: it does not compute exactly"));
        assert_eq!(broken.json()["exact"], Value::Null);
    }
}
