//! The type of a model and whether it fits, from its headers. It must not know how models are found or
//! shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moelten_engine::EngineError;
use moelten_engine::plan::Plan;
use moelten_loader::load::LoadedModel;
use moelten_tui::screen::{ModelEntry, Verdict};

use super::places::Candidate;
use crate::chat::headers::Headers;
use crate::exit;
use crate::open::{SessionArgs, TriedGpu};
use crate::report::earlier;
use crate::report::forecast::{Forecast, Speeds};
use crate::report::memory_words;
use crate::report::progress::bytes;
use crate::report::vram::{VramPlan, VramSlots};

/// Time to measure RAM and disk, once for all models.
const PROBE: Duration = Duration::from_millis(300);
const PROBE_BYTES: u64 = 256 << 20;

/// Inspects models one after the other. The machine is measured once for all.
pub struct ModelInspector<'a> {
    session: &'a SessionArgs,
    /// Bytes that this process will have freed before another model is opened.
    released: u64,
    speeds: Option<Speeds>,
    gpu: Option<Arc<TriedGpu>>,
}

impl<'a> ModelInspector<'a> {
    /// For these options; `released` bytes of this process will be free when the model is opened.
    pub fn new(session: &'a SessionArgs, released: u64) -> Self {
        Self { session, released, speeds: None, gpu: None }
    }

    /// Counts the GPU that the options name. Its device stays open as long as this lives.
    ///
    /// # Errors
    /// A name that no GPU has.
    pub fn with_gpu(mut self) -> anyhow::Result<Self> {
        self.gpu = self.session.compute().tried_gpu(0)?.map(Arc::new);
        Ok(self)
    }

    /// Counts a GPU that was tried before.
    pub fn with_tried(mut self, gpu: Option<Arc<TriedGpu>>) -> Self {
        self.gpu = gpu;
        self
    }

    /// Inspects a model. Never fails: an unreadable model is a verdict too.
    pub fn look(&mut self, candidate: &Candidate) -> ModelEntry {
        let Candidate { path, name, place } = candidate.clone();
        let entry =
            |bytes, kind, verdict| ModelEntry { name, place, path: path.clone(), bytes, kind, verdict };
        let Headers { loaded, language: _language, .. } = match Headers::read(path.as_deref(), true) {
            Ok(headers) => headers,
            Err(error) => {
                return entry(None, String::new(), Verdict::Unreadable(exit::report(&error).text));
            }
        };
        let files = loaded.tensors.catalog().files();
        let bytes = files.iter().map(|file| file.size()).sum();
        let kind = format!("{} {}", loaded.spec.family, weight_type(&loaded));
        let verdict = self.verdict(&loaded);
        entry(Some(bytes), kind, verdict)
    }

    fn verdict(&mut self, loaded: &LoadedModel) -> Verdict {
        let vram = self.gpu.as_ref().map(|gpu| gpu.plan(&loaded.spec, &loaded.tensors));
        let extra = vram.as_ref().map_or(0, VramPlan::ram_bytes);
        let vram = vram.as_ref().and_then(VramPlan::used);
        let plan = match self.session.plan_after(loaded, self.released, extra) {
            Ok(plan) => plan,
            Err(EngineError::Memory { need_bytes, .. } | EngineError::Budget { need_bytes, .. }) => {
                return Verdict::No(format!("needs {}; see `moelten fit`", bytes(need_bytes)));
            }
            Err(error) => return Verdict::No(error.to_string()),
        };
        let mut words = self.speed(loaded, &plan, vram).unwrap_or_else(|| "speed unknown".to_owned());
        if let Some(vram) = vram {
            let experts: Vec<usize> = loaded.tensors.banks().iter().map(|bank| bank.experts()).collect();
            let share = 100.0 * vram.share(&experts);
            words = format!("{words}, {share:.0} % of experts in VRAM, {}", vram.exactness());
        }
        if memory_words::streams(&plan) { Verdict::Stream(words) } else { Verdict::Ram(words) }
    }

    /// The disk of the first model in a file stands for all: this is an estimate.
    fn speed(&mut self, loaded: &LoadedModel, plan: &Plan, gpu: Option<&VramSlots>) -> Option<String> {
        let compute = self.session.compute();
        if self
            .speeds
            .as_ref()
            .is_none_or(|speeds| speeds.disk_gb_per_s.is_err() && loaded.tensors.in_files())
        {
            self.speeds =
                Speeds::probe(compute, &loaded.tensors, PROBE, PROBE_BYTES.min(plan.budget / 2)).ok();
        }
        let earlier = earlier::about(compute, loaded, plan);
        let speeds = self.speeds.as_ref()?;
        let forecast = Forecast::new(loaded, plan, compute.kv(), speeds, &earlier, gpu, None);
        Some(memory_words::likely(forecast.warm?))
    }
}

/// The format that most weights have, by bytes.
pub fn weight_type(loaded: &LoadedModel) -> String {
    let expert = loaded.tensors.banks().first().and_then(|bank| bank.iter().next()?.first());
    // In a packed file the tensors are records of raw bytes, so ask the experts.
    if let Some(expert) = expert {
        return expert.format.name().to_owned();
    }
    let mut all = BTreeMap::new();
    for tensor in loaded.tensors.catalog().tensors() {
        *all.entry(tensor.storage.name()).or_insert(0) += tensor.bytes;
    }
    all.into_iter().max_by_key(|&(_, bytes)| bytes).map_or_else(String::new, |(name, _)| name.to_owned())
}
