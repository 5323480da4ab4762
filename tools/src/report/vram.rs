//! A GPU beside RAM and disk, as plans and forecasts count it: which experts it can hold, and what a layer
//! then takes. It must not know how a GPU is opened.

use moelten_engine::plan::{Experts, Plan};
use serde_json::{Value, json};

use super::progress::bytes;

/// A GPU that options have chosen, for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct VramPlan {
    /// What people know the device by.
    pub name: String,
    /// What it holds; otherwise why it is not used.
    pub slots: Result<VramSlots, String>,
}

/// What a GPU holds and takes.
#[derive(Debug, Clone, PartialEq)]
pub struct VramSlots {
    /// Whether it gives the bits of the CPU.
    pub exact: bool,
    /// How it computes.
    pub arithmetic: &'static str,
    /// Bytes of its memory for experts.
    pub bytes: u64,
    /// Whether these are bytes of the RAM.
    pub shares_ram: bool,
    /// Experts of each bank that it has room for.
    pub slots: Vec<usize>,
    /// Seconds for an expert of each bank: g.
    pub each: Vec<f64>,
    /// The shared expert beside each bank, where it has it: its bytes, and seconds for it.
    pub shared: Vec<Option<(f64, f64)>>,
    /// Seconds from a submission to its results, without computing: L.
    pub launch: f64,
    /// Copies to it, 10^9 bytes per second.
    pub upload_gb_per_s: f64,
}

/// What a GPU gives for experts and how fast it is, whatever the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VramFigures {
    /// Whether it gives the bits of the CPU.
    pub exact: bool,
    /// Bytes of its memory for experts.
    pub bytes: u64,
    /// Whether these are bytes of the RAM.
    pub shares_ram: bool,
    /// Bytes of weights that it multiplies in a second.
    pub rate: f64,
    /// Seconds from a submission to its results, without computing: L.
    pub launch: f64,
}

/// A layer of a token, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// Experts that the token visits.
    pub visits: f64,
    /// Of them those that the GPU has.
    pub held: f64,
    /// On the CPU: c.
    pub host: f64,
    /// On the GPU: g.
    pub each: f64,
    /// L.
    pub launch: f64,
    /// Whether what the GPU has is nowhere else in memory.
    pub only_there: bool,
    /// The shared expert, if the GPU has it.
    pub shared: Option<SharedLayer>,
}

/// The shared expert of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedLayer {
    /// What a token reads of it.
    pub bytes: f64,
    /// On the CPU, in seconds.
    pub host: f64,
    /// On the GPU.
    pub each: f64,
}

impl Layer {
    /// How long it takes when the GPU computes what is best, and how many experts that are.
    pub fn seconds(&self) -> (f64, f64) {
        let ways = [false, true].map(|shared| self.with_shared(shared && self.shared.is_some()));
        let [without, with] = ways;
        if with.0 < without.0 { with } else { without }
    }

    /// The same when the shared expert is the GPU's, or the CPU's.
    fn with_shared(&self, shared: bool) -> (f64, f64) {
        let of_shared = |part: fn(&SharedLayer) -> f64| self.shared.as_ref().map_or(0.0, part);
        let (on_gpu, on_cpu) =
            if shared { (of_shared(|s| s.each), 0.0) } else { (0.0, of_shared(|s| s.host)) };
        let alone = self.visits * self.host;
        let with = |n: f64| {
            let submitted = n > 0.0 || shared;
            let gpu = if submitted { self.launch + on_gpu + n * self.each } else { 0.0 };
            gpu.max((self.visits - n) * self.host) + on_cpu
        };
        if self.only_there && self.held > 0.0 {
            return (with(self.held), self.held);
        }
        // Where both take equally long, unless fewer are there.
        let even = (alone - self.launch - on_gpu) / (self.each + self.host);
        let n = if self.held > 0.0 { even.clamp(0.0, self.held) } else { 0.0 };
        if with(n) < with(0.0) { (with(n), n) } else { (with(0.0), 0.0) }
    }
}

impl VramPlan {
    /// What it holds, if it is used.
    pub fn used(&self) -> Option<&VramSlots> {
        self.slots.as_ref().ok()
    }

    /// Bytes of the RAM that it takes for experts.
    pub fn ram_bytes(&self) -> u64 {
        self.used().filter(|slots| slots.shares_ram).map_or(0, |slots| slots.bytes)
    }

    /// Bytes for experts, and what is said about them.
    pub fn row(&self, experts: &[usize]) -> (String, String) {
        match &self.slots {
            Ok(slots) => {
                let shared = match slots.shared.iter().flatten().count() {
                    0 => String::new(),
                    count => format!(" and {count} shared ones"),
                };
                let words = format!(
                    "{:.0} % of the experts{shared}; {}, {} ({})",
                    100.0 * slots.share(experts),
                    self.name,
                    slots.exactness(),
                    slots.arithmetic
                );
                (bytes(slots.bytes), words)
            }
            Err(why) => ("0 B".to_owned(), format!("{} is not used: {why}", self.name)),
        }
    }

    /// For programs. `experts` are those of each bank.
    pub fn json(&self, experts: &[usize]) -> Value {
        let slots = self.used();
        json!({
            "name": self.name,
            "problem": self.slots.as_ref().err(),
            "exactness": slots.map(VramSlots::exactness),
            "arithmetic": slots.map(|slots| slots.arithmetic),
            "bytes": slots.map_or(0, |slots| slots.bytes),
            "slots": slots.map(|slots| &slots.slots),
            "shared_experts": slots.map(|slots| slots.shared.iter().flatten().count()),
            "share": slots.map_or(0.0, |slots| slots.share(experts)),
            "launch_s": slots.map(|slots| slots.launch),
            "expert_s": slots.map(|slots| &slots.each),
            "upload_gb_per_s": slots.map(|slots| slots.upload_gb_per_s),
        })
    }
}

impl VramSlots {
    /// `exact` or `close`.
    pub fn exactness(&self) -> &'static str {
        if self.exact { "exact" } else { "close" }
    }

    /// Share of all experts that it has room for.
    pub fn share(&self, experts: &[usize]) -> f64 {
        self.slots.iter().sum::<usize>() as f64 / experts.iter().sum::<usize>().max(1) as f64
    }
}

/// Share of the experts of a bank in RAM and in VRAM. Together they hold each expert once, unless all are in
/// RAM.
pub fn shares(plan: &Plan, vram: Option<&VramSlots>, bank: usize, experts: usize) -> (f64, f64) {
    let of = |count: usize| count as f64 / experts.max(1) as f64;
    let held = vram.and_then(|vram| vram.slots.get(bank)).map_or(0.0, |&slots| of(slots));
    match &plan.experts {
        Experts::InPlace => (1.0, held),
        Experts::Cached(cached) => {
            (cached.shape.quotas.get(bank).map_or(0.0, |&quota| of(quota)).min(1.0), held)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Qwen3-30B on DDR5 and an RTX 4050, by the figures of docs/gpu.md.
    const LAYER: Layer = Layer {
        visits: 8.0,
        held: 8.0,
        host: 44e-6,
        each: 18e-6,
        launch: 100e-6,
        only_there: false,
        shared: None,
    };

    #[test]
    fn a_layer_takes_as_long_as_the_slower_of_both() {
        let (seconds, n) = LAYER.seconds();
        assert!((n - 4.06).abs() < 0.01 && (seconds - 173e-6).abs() < 1e-6, "{seconds} {n}");
        let (seconds, n) = Layer { held: 2.0, ..LAYER }.seconds();
        assert!((n, seconds) == (2.0, 6.0 * 44e-6));
        assert_eq!(Layer { launch: 1e-3, ..LAYER }.seconds(), (8.0 * 44e-6, 0.0), "too late for any");
        assert_eq!(Layer { held: 0.0, ..LAYER }.seconds(), (8.0 * 44e-6, 0.0));
        let (seconds, n) = Layer { only_there: true, ..LAYER }.seconds();
        assert!(n == 8.0 && (seconds - 244e-6).abs() < 1e-9, "otherwise they would be read: {seconds}");
    }

    #[test]
    fn a_shared_expert_is_the_gpus_where_that_is_faster() {
        let shared = |each: f64| Some(SharedLayer { bytes: 0.0, host: 44e-6, each });
        let (alone, n) = Layer { shared: shared(1.0), ..LAYER }.seconds();
        assert!((alone - 217e-6).abs() < 1e-6 && (n - 4.06).abs() < 0.01, "it is the CPU's: {alone} {n}");
        let (seconds, n) = Layer { shared: shared(18e-6), ..LAYER }.seconds();
        assert!((seconds - 186e-6).abs() < 1e-6 && (n - 3.77).abs() < 0.01, "{seconds} {n}");
        let (seconds, n) = Layer { shared: shared(18e-6), held: 0.0, ..LAYER }.seconds();
        assert_eq!((seconds, n), (8.0 * 44e-6, 0.0), "it is hidden behind the CPU's");
        let (seconds, n) = Layer { shared: shared(18e-6), only_there: true, ..LAYER }.seconds();
        assert!(n == 8.0 && (seconds - 262e-6).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn a_gpu_is_one_row() {
        let slots = VramSlots {
            exact: true,
            arithmetic: "fma",
            bytes: 4 << 30,
            shares_ram: false,
            slots: vec![32, 32],
            each: vec![1e-5; 2],
            shared: vec![None, Some((1e6, 1e-5))],
            launch: 1e-4,
            upload_gb_per_s: 12.0,
        };
        let plan = VramPlan { name: "card".to_owned(), slots: Ok(slots) };
        let experts = [128, 128];
        let words = "25 % of the experts and 1 shared ones; card, exact (fma)".to_owned();
        assert_eq!(plan.row(&experts), ("4 GiB".to_owned(), words));
        assert_eq!(plan.json(&experts)["share"], 0.25);
        let none =
            VramPlan { name: "card".to_owned(), slots: Err("Q2_K has no kernel for a GPU".to_owned()) };
        assert_eq!(none.row(&experts).1, "card is not used: Q2_K has no kernel for a GPU");
        assert_eq!((none.json(&experts)["bytes"].as_u64(), none.ram_bytes()), (Some(0), 0));
    }
}
