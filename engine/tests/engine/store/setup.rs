//! Models with a cache for a share of their experts, from any source.

use crate::common::{How, whole};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_engine::KvFormat;
use moelten_engine::Prefetch;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::plan::{Experts, Io, Plan, PlanOptions, Ram};
use moelten_engine::{Model, ModelOptions};
use moelten_loader::io::read_at::ReadAt;
use moelten_loader::load::load;

use super::disk::{Behaviour, Disk};

/// Length of the context of sequences in these tests.
pub const CONTEXT: usize = 128;
/// More bytes than any model in these tests needs.
const PLENTY: u64 = 1 << 40;

/// Where expert bytes are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Direct reads of the file, as far as the file system allows.
    Direct,
    /// The mapped file.
    Mapped,
    /// A simulated disk.
    Disk(Behaviour),
}

/// Options for running a model with a cache.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub from: From,
    /// Percentage of the experts that have slots; 0 is the smallest cache that works.
    pub percent: usize,
    pub prefetch: Prefetch,
    pub threads: usize,
    /// Sequences that are open at the same time.
    pub sessions: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { from: From::Direct, percent: 0, prefetch: Prefetch::Off, threads: 1, sessions: 1 }
    }
}

impl Setup {
    /// A model with a cache. The plan does not depend on the memory of this process.
    pub fn model(self, path: &Path) -> Arc<Model> {
        let loaded = load(path).unwrap_or_else(|error| panic!("{error}"));
        let sequence = SequenceOptions { context: Some(CONTEXT), kv: KvFormat::F16 };
        let io = if self.from == From::Mapped { Io::Mmap } else { Io::Direct };
        let options = PlanOptions { ram: Ram::Min, io, sequence, ..Default::default() };
        let mut plan = Plan::with_memory(&loaded.spec, &loaded.tensors, options, 0, PLENTY).unwrap();
        plan.extra = (plan.kv + plan.scratch) * (self.sessions - 1);
        let Experts::Cached(cached) = &mut plan.experts else { panic!("{:?}", plan.experts) };
        let all: u64 = (cached.shape.experts.iter().zip(&cached.shape.classes))
            .map(|(&experts, &class)| experts as u64 * cached.slot_bytes[class as usize] as u64)
            .sum();
        cached.shape.quotas = cached.quotas_for(cached.bytes() + all * self.percent as u64 / 100);
        assert!((cached.share() - self.percent as f64 / 100.0).abs() < 0.05, "{}", cached.share());
        plan.budget = plan.needs();
        let options = ModelOptions { prefetch: self.prefetch, io, sequence, ..Default::default() };
        let runtime = How { threads: Some(self.threads), ..Default::default() }.runtime();
        let files = match self.from {
            From::Direct | From::Mapped => None,
            From::Disk(behaviour) => Some(disks(&loaded.tensors.paths().collect::<Vec<_>>(), behaviour)),
        };
        let model = Model::with_plan(&runtime, loaded.spec, loaded.tensors, &options, plan, files);
        Arc::new(model.unwrap())
    }

    /// An empty sequence on such a model.
    pub fn session(self, path: &Path) -> Sequence {
        session(&self.model(path))
    }
}

/// An empty sequence.
pub fn session(model: &Arc<Model>) -> Sequence {
    Sequence::new(Arc::clone(model), SequenceOptions { context: Some(CONTEXT), kv: KvFormat::F16 }).unwrap()
}

fn disks(paths: &[&Path], behaviour: Behaviour) -> Vec<Box<dyn ReadAt>> {
    let disk = |path: &&Path| Disk::new(std::fs::read(path).unwrap(), behaviour);
    paths.iter().map(|path| Box::new(disk(path)) as Box<dyn ReadAt>).collect()
}

/// A model, a text, and its logits with all experts in place.
pub struct Case {
    pub name: String,
    pub path: PathBuf,
    pub ids: Vec<u32>,
    /// Logits of every token, `[ids, vocab]`, as bits.
    pub expected: Vec<u32>,
}

impl Case {
    pub fn new(name: &str, path: PathBuf, ids: Vec<u32>) -> Self {
        let options = How { threads: Some(1), ..Default::default() };
        let model = crate::common::model(&path, options);
        assert!(!model.experts().streams(), "{name} is all in memory");
        let expected = whole(&mut session(&model), &ids);
        Self { name: name.to_owned(), path, ids, expected }
    }
}
