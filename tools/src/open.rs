//! From options to a model that is ready: what `chat`, `run` and the tools around them share. It must not
//! know what the model is used for.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use moelten_engine::error::EngineError;
use moelten_engine::experts::Prefetch;
use moelten_engine::kv_cache::KvFormat;
use moelten_engine::memory;
use moelten_engine::model::{Model, ModelOptions};
use moelten_engine::plan::{Io, Plan, PlanOptions, Ram};
use moelten_engine::session::{ContextChoice, ContextLimit, DEFAULT_CONTEXT, Session, SessionOptions};
use moelten_engine::topology::Pin;
use moelten_loader::load::{self, LoadedModel};
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;

use moelten_tui::terminal::{Notes, Tone};

use crate::builtin;

/// Options of every command that computes with a model.
#[derive(Debug, Clone, clap::Args)]
pub struct ComputeArgs {
    /// Worker threads [default: one for each performance core]
    #[arg(long, value_name = "N", env = "MOELTEN_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Whether each worker thread stays on its CPU [auto: if the machine is ours and not busy]
    #[arg(long, value_name = "WHEN", env = "MOELTEN_PIN", default_value = "auto")]
    pub pin: PinArg,
    /// Precision of the KV cache [default: f16; f32 for `logits`]
    #[arg(long, value_name = "TYPE")]
    pub kv: Option<KvArg>,
    /// Memory that the process may own: a size like 6G or 800M, `min`, or `auto` for what is free
    #[arg(long, value_name = "SIZE", env = "MOELTEN_RAM", default_value = "auto", value_parser = ram)]
    pub ram: Ram,
    /// Where expert weights come from [auto: in place if all fits, and direct reads otherwise]
    #[arg(long, value_name = "HOW", env = "MOELTEN_IO", default_value = "auto")]
    pub io: IoArg,
    /// Read the experts that the next layer will probably choose before it does [auto: while it pays]
    #[arg(long, value_name = "WHEN", env = "MOELTEN_PREFETCH", default_value = "auto")]
    pub prefetch: PrefetchArg,
}

/// `--io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IoArg {
    /// In place if everything fits, direct reads otherwise
    Auto,
    /// Through the mapped file
    Mmap,
    /// Direct reads past the system's cache
    Direct,
}

impl From<IoArg> for Io {
    fn from(arg: IoArg) -> Self {
        match arg {
            IoArg::Auto => Self::Auto,
            IoArg::Mmap => Self::Mmap,
            IoArg::Direct => Self::Direct,
        }
    }
}

/// `--prefetch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrefetchArg {
    /// While it pays
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl From<PrefetchArg> for Prefetch {
    fn from(arg: PrefetchArg) -> Self {
        match arg {
            PrefetchArg::Auto => Self::Auto,
            PrefetchArg::On => Self::On,
            PrefetchArg::Off => Self::Off,
        }
    }
}

/// Options of every command that answers.
#[derive(Debug, Clone, clap::Args)]
pub struct SessionArgs {
    /// Size of the context in tokens, e.g. 4096 or 16k [default: what model and memory allow, at most 8k]
    #[arg(long, value_name = "N", env = "MOELTEN_CTX", value_parser = tokens)]
    ctx: Option<usize>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// `--pin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PinArg {
    /// With one thread for each performance core, while nobody else needs them
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

impl From<PinArg> for Pin {
    fn from(arg: PinArg) -> Self {
        match arg {
            PinArg::Auto => Self::Auto,
            PinArg::On => Self::On,
            PinArg::Off => Self::Off,
        }
    }
}

/// `--kv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KvArg {
    /// Half precision
    F16,
    /// Single precision
    F32,
}

impl From<KvArg> for KvFormat {
    fn from(arg: KvArg) -> Self {
        match arg {
            KvArg::F16 => Self::F16,
            KvArg::F32 => Self::F32,
        }
    }
}

impl ComputeArgs {
    /// How to run a model: with room for `session`, and for `extra` bytes that the caller takes.
    pub fn options(&self, session: SessionOptions, extra: u64) -> ModelOptions {
        ModelOptions {
            threads: self.threads.map(usize::from),
            pin: self.pin.into(),
            isa: None,
            ram: self.ram,
            io: self.io.into(),
            prefetch: self.prefetch.into(),
            session,
            extra,
            stop: None,
        }
    }

    /// Makes a model ready to run, with room for `session`, and for `extra` bytes that the caller takes.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn model(
        &self,
        spec: ModelSpec,
        tensors: TensorStore,
        session: SessionOptions,
        extra: u64,
    ) -> anyhow::Result<Arc<Model>> {
        Ok(Arc::new(Model::new(spec, tensors, self.options(session, extra))?))
    }

    /// Precision of the KV cache where nothing speaks for another.
    pub fn kv(&self) -> KvFormat {
        self.kv.map_or_else(KvFormat::default, KvFormat::from)
    }
}

impl SessionArgs {
    /// As [`ComputeArgs::model`], with the context and KV precision of the options; `stop` gives the opening
    /// up.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn model(
        &self,
        spec: ModelSpec,
        tensors: TensorStore,
        stop: Option<&'static AtomicBool>,
    ) -> anyhow::Result<Arc<Model>> {
        let options = ModelOptions { stop, ..self.compute.options(self.options(), 0) };
        Ok(Arc::new(Model::new(spec, tensors, options)?))
    }

    fn options(&self) -> SessionOptions {
        SessionOptions { context: self.ctx, kv: self.compute.kv() }
    }

    /// What would be kept in memory now.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, loaded: &LoadedModel) -> Result<Plan, EngineError> {
        self.plan_after(loaded, 0)
    }

    /// As [`Self::plan`], once this process has given back `released` bytes.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan_after(&self, loaded: &LoadedModel, released: u64) -> Result<Plan, EngineError> {
        let options = self.compute.options(self.options(), 0).plan();
        Plan::after(&loaded.spec, &loaded.tensors, options, released)
    }

    /// The least that the model runs with, whatever the machine has: a context of one token, and no expert
    /// kept.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn smallest_plan(&self, loaded: &LoadedModel) -> Result<Plan, EngineError> {
        let session = SessionOptions { context: Some(1), kv: self.compute.kv() };
        let options = PlanOptions { ram: Ram::Min, ..self.compute.options(session, 0).plan() };
        let owned = memory::owned_bytes().unwrap_or(0);
        Plan::with_memory(&loaded.spec, &loaded.tensors, options, owned, u64::MAX)
    }

    /// What a person gets who says nothing, the environment aside.
    ///
    /// # Errors
    /// A variable of the environment that is not understood.
    pub fn usual() -> Result<Self, clap::Error> {
        #[derive(clap::Parser)]
        struct Nothing {
            #[command(flatten)]
            session: SessionArgs,
        }
        <Nothing as clap::Parser>::try_parse_from(["moelten"]).map(|nothing| nothing.session)
    }

    /// How to compute.
    pub fn compute(&self) -> &ComputeArgs {
        &self.compute
    }

    /// An empty session with the context that was planned for, and why it is that.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn session(&self, model: &Arc<Model>) -> anyhow::Result<(Session, String)> {
        let choice = model.plan().context;
        let why = context_words(model.spec(), choice);
        let options = SessionOptions { context: Some(choice.tokens), kv: self.compute.kv() };
        Ok((Session::new(Arc::clone(model), options)?, why))
    }
}

/// Why a context has its size.
pub fn context_words(spec: &ModelSpec, choice: ContextChoice) -> String {
    let made_for = count(spec.max_context);
    match choice.limit {
        ContextLimit::Asked if choice.tokens > spec.max_context => {
            format!("as asked; the model was made for {made_for}")
        }
        ContextLimit::Asked => match spec.short_rope_context().filter(|&short| choice.tokens > short) {
            Some(short) => {
                format!("as asked; beyond {} this model reads short texts less well", count(short))
            }
            None => "as asked".to_owned(),
        },
        ContextLimit::Model => "all the model was made for".to_owned(),
        ContextLimit::Default => {
            format!("the default; the model was made for {made_for}, --ctx changes it")
        }
        ContextLimit::ShortRope => {
            format!("where this model is best; it was made for {made_for}, --ctx changes it")
        }
        ContextLimit::Memory => {
            let default = count(DEFAULT_CONTEXT);
            format!("its share of the memory; {default} would be the default, --ctx changes it")
        }
    }
}

/// Opens a model; `None` is the one that the program carries.
///
/// # Errors
/// As [`load::load`].
pub fn load(model: Option<&Path>) -> anyhow::Result<LoadedModel> {
    Ok(match model {
        Some(path) => load::load(path)?,
        None => builtin::load()?,
    })
}

/// Says what is odd about a model's files without doing harm, a line each.
pub fn mention(notices: &[String]) {
    let notes = Notes::detect();
    notices.iter().for_each(|notice| notes.line(Tone::Dim, &format!("note: {notice}")));
}

/// What to call the model: the file or folder, without the folders above it. Not filtered.
pub fn name(model: Option<&Path>) -> String {
    let Some(path) = model else { return builtin::NAME.to_owned() };
    let full = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    full.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// If memory runs out, this process should go before the desktop does. Refusals do not matter.
pub fn volunteer_for_the_oom_killer() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    if cfg!(target_os = "linux") {
        let now = std::fs::read_to_string(SCORE).ok().and_then(|text| text.trim().parse::<i32>().ok());
        if now.is_some_and(|score| score < 500) {
            let _ = std::fs::write(SCORE, "500");
        }
    }
}

/// More tokens than any machine holds; keeps sizes far from overflow.
const TOKENS_MAX: usize = 1 << 40;

/// `--ram`: a size with a suffix, `min` or `auto`.
///
/// # Errors
/// What is none of these.
pub fn ram(text: &str) -> Result<Ram, String> {
    match text {
        "auto" => return Ok(Ram::Auto),
        "min" => return Ok(Ram::Min),
        _ => {}
    }
    // Below any process there are only slips of the finger.
    let bytes = size(text).ok().filter(|&bytes| bytes >= 1 << 20);
    bytes.map(Ram::Bytes).ok_or_else(|| "not a size like 6G, 1.5G or 800M, nor `min` or `auto`".to_owned())
}

/// A number of tokens, with a suffix `k` for 1024 of them.
///
/// # Errors
/// What is not a positive number.
pub fn tokens(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let number = usize::from_str(digits).ok().and_then(|number| number.checked_mul(unit));
    number
        .filter(|number| (1..=TOKENS_MAX).contains(number))
        .ok_or_else(|| "not a number of tokens like 4096 or 16k".to_owned())
}

/// A number of bytes, with a suffix `K`, `M`, `G` or `T` for powers of 1024; a `B` or `iB` after it changes
/// nothing.
///
/// # Errors
/// What is not a positive size.
pub fn size(text: &str) -> Result<u64, String> {
    let plain = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
    let unit = |power: u32| (&plain[..plain.len() - 1], 1_u64 << (10 * power));
    let (digits, unit) = match plain.as_bytes().last() {
        Some(b'k' | b'K') => unit(1),
        Some(b'm' | b'M') => unit(2),
        Some(b'g' | b'G') => unit(3),
        Some(b't' | b'T') => unit(4),
        _ => (plain, 1),
    };
    let number = f64::from_str(digits.trim_end()).ok().map(|number| number * unit as f64);
    // Exact below 2^53; larger sizes have no need to be.
    let number = number.filter(|number| (1.0..9e18).contains(number));
    number.map(|number| number as u64).ok_or_else(|| "not a size like 512M or 4G".to_owned())
}

/// A number with its thousands apart: 14,429.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_can_be_given_up_while_weights_are_copied() {
        static STOP: AtomicBool = AtomicBool::new(true);
        let mut session = SessionArgs::usual().unwrap();
        session.compute.ram = Ram::Min;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-tales.gguf");
        let loaded = load(Some(file.as_ref())).unwrap();
        let given_up = session.model(loaded.spec, loaded.tensors, Some(&STOP)).err().unwrap();
        assert!(matches!(given_up.downcast_ref(), Some(EngineError::Cancelled)), "{given_up:?}");
    }

    #[test]
    fn token_counts_have_a_suffix() {
        assert_eq!(tokens("4096"), Ok(4096));
        assert_eq!(tokens("16k"), Ok(16384));
        for wrong in [
            "",
            "k",
            "0",
            "-1",
            "1.5k",
            "99999999999999999999k",
            "9999999999k",
            "18446744073709551615",
            "4 k",
        ] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn budgets_are_sizes_or_words() {
        assert_eq!(ram("auto"), Ok(Ram::Auto));
        assert_eq!(ram("min"), Ok(Ram::Min));
        assert_eq!(ram("6G"), Ok(Ram::Bytes(6 << 30)));
        assert_eq!(ram("1.5g"), Ok(Ram::Bytes(3 << 29)));
        assert_eq!(ram("800MiB"), Ok(Ram::Bytes(800 << 20)));
        assert_eq!(ram("4700000000"), Ok(Ram::Bytes(4_700_000_000)));
        for wrong in ["", "5", "1000", "nan", "Auto", "99999999T"] {
            assert!(ram(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        let sizes: Vec<_> = ["1", "512M", "4G", "1.5g", "2 GiB", "3KB", "1T"].map(size).into();
        let expected = [1, 512 << 20, 4 << 30, 3 << 29, 2 << 30, 3 << 10, 1 << 40];
        assert_eq!(sizes, expected.map(Ok));
        for wrong in ["", "G", "0", "-1G", "NaN", "infG", "1e30", "4 P", "4\u{e9}"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
