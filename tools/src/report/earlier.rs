//! What earlier runs measured on this machine: how long a token of a model is computed, how many of its
//! experts were found in memory, and how fast the others came. Kept in the user's folder for caches, one
//! record for each model, number of threads and size of the cache. It must not know how forecasts are made of
//! it.

use std::io;
use std::path::Path;

use moelten_engine::api::GenerateStats;
use moelten_engine::plan::{Experts, Plan};
use moelten_engine::runtime::Runtime;
use moelten_engine::runtime::system::System;
use moelten_engine::runtime::topology::ThreadPlan;
use moelten_engine::{PARTS, Reuse};
use moelten_loader::load::LoadedModel;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::Isa;
use serde_json::{Value, json};

use super::forecast::Earlier;
use super::routing::{Routing, locality};
use crate::open::{ComputeArgs, kept, loops};

/// Counts up when the fields change.
const VERSION: &str = "speeds 3";
/// Records of a processor; the oldest are dropped.
const MOST: usize = 200;
/// Of other models only those count of which a token reads more bytes: smaller ones stay in the processor's
/// caches and are computed in other proportions.
const LEAST_BYTES: f64 = 64e6;
/// Fewer tokens say little.
const LEAST_TOKENS: u64 = 32;
/// A model that is read in place is as fast as its fastest run, unless later ones are slower again and again:
/// the first run after a start of the computer reads the file.
const AGING: f64 = 1.05;

/// A model in its files: their names and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelKey(String);

impl ModelKey {
    /// Of a model whose headers are read.
    pub fn of(tensors: &TensorStore) -> Self {
        let files = tensors.catalog().files();
        let name = files.first().and_then(|file| file.path().file_name());
        let name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let bytes: u64 = files.iter().map(|file| file.size()).sum();
        Self(format!("{name}, {} files, {bytes} bytes", files.len()))
    }
}

/// The processor, its loops and the number of threads, which speeds depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    processor: String,
    threads: usize,
    isa: &'static str,
}

impl Machine {
    /// This one with these options; `None` if they cannot be had here.
    fn with(compute: &ComputeArgs) -> Option<Self> {
        let threads = ThreadPlan::here(compute.threads.map(usize::from), compute.pin.into()).ok()?.threads;
        let isa = Isa::from_env().ok()?.name();
        Some(Self { processor: loops::processor(&System::here()), threads, isa })
    }

    /// That of a process.
    pub fn of(runtime: &Runtime) -> Self {
        let threads = runtime.pool().threads();
        Self { processor: loops::processor(&System::here()), threads, isa: runtime.isa().name() }
    }
}

/// Decode of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Decoded tokens.
    pub tokens: u64,
    /// Time of all of them.
    pub seconds: f64,
    /// Time of all of them in which nothing could be computed.
    pub stall: f64,
    /// Time of all of them in which experts were read.
    pub reading: f64,
    /// Bytes of weights that one token read.
    pub bytes: f64,
    /// Bytes of routed experts that all tokens used, and bytes of those that were not in memory.
    pub used_bytes: u64,
    /// See `used_bytes`.
    pub missed_bytes: u64,
    /// What caches of other sizes would have found.
    pub reuse: Reuse,
}

impl Pace {
    /// Of an answer of a model of which a token reads `bytes`. `None` if it is too short to say anything, if
    /// its cache shrank, or if a GPU computed a part.
    pub fn of(stats: &GenerateStats, bytes: f64) -> Option<Self> {
        if stats.gpu.is_some_and(|gpu| gpu.computed > 0) {
            return None;
        }
        let answer = stats.cache.map(|cache| cache.answer).unwrap_or_default();
        let released = stats.memory.released_bytes > 0;
        Self {
            // The time begins with the first of them.
            tokens: stats.generated_tokens.saturating_sub(1) as u64,
            seconds: stats.generate_time.as_secs_f64(),
            stall: answer.stall.as_secs_f64(),
            reading: answer.reading.as_secs_f64(),
            bytes,
            used_bytes: answer.used_bytes,
            missed_bytes: answer.missed_bytes,
            reuse: answer.reuse,
        }
        .filter(released)
    }

    /// `None` if the run says too little.
    pub fn filter(self, released: bool) -> Option<Self> {
        (self.tokens >= LEAST_TOKENS && self.seconds > 0.0 && !released).then_some(self)
    }

    /// What is kept of it.
    fn record(&self, key: &ModelKey, machine: &Machine, share: f64) -> Record {
        let each = |of_all: f64| of_all / self.tokens as f64;
        let (seconds, stall) = (each(self.seconds), each(self.stall.min(self.seconds)));
        let computing = seconds - stall;
        let reading = each(self.reading);
        // The inverse of the formula of the forecast: the longer of both counts, and a part of the shorter.
        let longer = computing.max(reading);
        let apart = ((seconds - longer) / computing.min(reading)).clamp(0.0, 1.0);
        let missed = each(self.missed_bytes as f64);
        let streamed = share < 1.0 && self.used_bytes > 0;
        let used = |bytes: u64| bytes as f64 / self.used_bytes.max(1) as f64;
        // Six digits are enough, and short in the file.
        let reuse = self.reuse.bytes.iter().map(|&bytes| (1e6 * used(bytes)).round() / 1e6).collect();
        Record {
            model: key.0.clone(),
            threads: machine.threads,
            isa: machine.isa.to_owned(),
            share,
            computing,
            bytes: self.bytes,
            hits: streamed.then(|| 1.0 - used(self.missed_bytes)),
            reuse: if streamed { reuse } else { Vec::new() },
            read: (streamed && missed > 0.0 && reading > 0.0 && computing > 0.0)
                .then_some(Reads { disk_gb_per_s: missed / reading / 1e9, apart }),
        }
    }
}

/// How missing experts were read.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reads {
    /// Their bytes by the time in which anything was read, wrong guesses included, in 10^9 per second.
    disk_gb_per_s: f64,
    /// Part of the shorter one of reading and computing that did not overlap with the longer one.
    apart: f64,
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    model: String,
    threads: usize,
    isa: String,
    /// Share of the experts that the cache holds, 0 to 1.
    share: f64,
    /// Seconds in which a token was computed.
    computing: f64,
    /// Bytes of weights that a token read.
    bytes: f64,
    /// Share of the expert bytes that were in memory, if some were not.
    hits: Option<f64>,
    /// Shares of the expert bytes by the size of the cache that would have had them, as in
    /// [`Routing::Counted`]. Empty if nothing was read.
    reuse: Vec<f64>,
    /// How the others were read, if there were any.
    read: Option<Reads>,
}

impl Record {
    fn json(&self) -> Value {
        json!({
            "model": self.model, "threads": self.threads, "isa": self.isa, "share": self.share,
            "computing_seconds": self.computing, "bytes": self.bytes, "hits": self.hits, "reuse": self.reuse,
            "disk_gb_per_s": self.read.map(|read| read.disk_gb_per_s), "apart": self.read.map(|read| read.apart),
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |name: &str| value.get(name)?.as_f64().filter(|number| number.is_finite());
        let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
        let positive = |name: &str| number(name).filter(|&number| number > 0.0);
        Some(Self {
            model: text("model")?,
            threads: usize::try_from(value.get("threads")?.as_u64()?).ok()?,
            isa: text("isa")?,
            share: number("share").filter(|share| (0.0..=1.0).contains(share))?,
            computing: positive("computing_seconds")?,
            bytes: positive("bytes")?,
            hits: number("hits").filter(|hits| (0.0..=1.0).contains(hits)),
            reuse: value.get("reuse").and_then(shares).unwrap_or_default(),
            read: positive("disk_gb_per_s")
                .zip(number("apart").filter(|apart| (0.0..=1.0).contains(apart)))
                .map(|(disk_gb_per_s, apart)| Reads { disk_gb_per_s, apart }),
        })
    }

    /// What it says about the routing of its model.
    fn routing(&self) -> Routing {
        match self.hits.and_then(|hits| locality(self.share, hits)) {
            _ if !self.reuse.is_empty() => Routing::Counted(self.reuse.clone()),
            Some(locality) => Routing::Locality(locality),
            None => Routing::Unknown,
        }
    }

    fn same_run(&self, other: &Self) -> bool {
        let percent = |share: f64| (100.0 * share).round() as i64;
        (&self.model, self.threads, &self.isa) == (&other.model, other.threads, &other.isa)
            && percent(self.share) == percent(other.share)
    }
}

/// The shares of a record, if they are sound.
fn shares(list: &Value) -> Option<Vec<f64>> {
    let share = |share: &Value| share.as_f64().filter(|share| (0.0..=1.0).contains(share));
    let shares: Vec<f64> = list.as_array()?.iter().map(share).collect::<Option<_>>()?;
    (shares.len() == PARTS && shares.iter().sum::<f64>() <= 1.001).then_some(shares)
}

/// What is known for a plan of a model with these options; nothing if the machine cannot be named.
pub fn about(compute: &ComputeArgs, loaded: &LoadedModel, plan: &Plan) -> Earlier {
    let machine = Machine::with(compute);
    machine.map(|machine| look(&ModelKey::of(&loaded.tensors), &machine, share(plan))).unwrap_or_default()
}

/// What is known of this machine for a model that is not here.
pub fn any_model(compute: &ComputeArgs) -> Earlier {
    let none = ModelKey(String::new());
    Machine::with(compute).map(|machine| look(&none, &machine, 1.0)).unwrap_or_default()
}

/// What is known for a plan of a model: by the run with the most similar cache.
fn look(key: &ModelKey, machine: &Machine, share: f64) -> Earlier {
    let records = kept::folder().map(|folder| records(&folder.join(FILE), machine)).unwrap_or_default();
    known(&records, key, machine, share)
}

fn known(records: &[Record], key: &ModelKey, machine: &Machine, share: f64) -> Earlier {
    let here =
        records.iter().filter(|record| (record.threads, &*record.isa) == (machine.threads, machine.isa));
    let (same, others): (Vec<&Record>, Vec<&Record>) = here.partition(|record| record.model == key.0);
    let others: Vec<&Record> = others.into_iter().filter(|record| record.bytes >= LEAST_BYTES).collect();
    let nearest = |records: &[&Record]| {
        let distance = |record: &&Record| (record.share - share).abs();
        records.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b))).cloned()
    };
    let streamed: Vec<&Record> = same.iter().copied().filter(|record| record.hits.is_some()).collect();
    let streamed = nearest(&streamed);
    let disk = |read: Reads| read.disk_gb_per_s;
    let usual = median(others.iter().filter_map(|record| record.read.map(disk)).collect());
    let read = streamed.as_ref().and_then(|record| record.read);
    Earlier {
        computing: nearest(&same).map(|record| record.computing),
        routing: streamed.as_ref().map_or(Routing::Unknown, Record::routing),
        apart: read.map(|read| read.apart),
        disk_gb_per_s: read.map(disk).or(usual),
        rate: median(others.iter().map(|record| record.bytes / record.computing).collect()),
    }
}

/// Keeps what a run of a model measured.
///
/// # Errors
/// The folder cannot be written.
pub fn keep(key: &ModelKey, machine: &Machine, plan: &Plan, pace: &Pace) -> io::Result<()> {
    let folder = kept::folder().map_err(io::Error::other)?;
    keep_in(&folder.join(FILE), machine, pace.record(key, machine, share(plan)))
}

const FILE: &str = "speeds.json";

fn keep_in(path: &Path, machine: &Machine, mut new: Record) -> io::Result<()> {
    let mut entries = kept::read(path, VERSION);
    let mut all: Vec<Record> = records(path, machine);
    if let Some(at) = all.iter().position(|record| record.same_run(&new)) {
        let old = all.remove(at);
        if new.hits.is_none() {
            new.computing = new.computing.min(AGING * old.computing);
        }
    }
    all.push(new);
    let from = all.len().saturating_sub(MOST);
    let values = all[from..].iter().map(Record::json).collect();
    entries.insert(machine.processor.clone(), Value::Array(values));
    kept::write(path, VERSION, &entries)
}

fn records(path: &Path, machine: &Machine) -> Vec<Record> {
    let entries = kept::read(path, VERSION);
    let records = entries.get(&machine.processor).and_then(Value::as_array);
    records.into_iter().flatten().filter_map(Record::from_json).collect()
}

/// Share of the experts that a plan keeps in memory.
fn share(plan: &Plan) -> f64 {
    match &plan.experts {
        Experts::Cached(cached) => cached.share().clamp(0.0, 1.0),
        Experts::InPlace => 1.0,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { processor: "p".into(), threads: 2, isa: "scalar" }
    }

    fn key(name: &str) -> ModelKey {
        ModelKey(name.into())
    }

    /// 100 tokens: 60 ms of computing and 40 ms of waiting each, while reads took 80 ms.
    fn pace() -> Pace {
        Pace {
            tokens: 100,
            seconds: 10.0,
            stall: 4.0,
            reading: 8.0,
            bytes: 5e8,
            used_bytes: 40_000_000_000,
            missed_bytes: 8_000_000_000,
            reuse: Reuse::default(),
        }
    }

    #[test]
    fn a_run_is_taken_apart_as_the_forecast_puts_it_together() {
        let record = pace().record(&key("m"), &machine(), 0.5);
        assert!((record.computing - 0.06).abs() < 1e-12);
        assert_eq!((record.hits, record.bytes), (Some(0.8), 5e8));
        // The longer one, and a third of the shorter one, are 100 ms again.
        let read = record.read.unwrap();
        assert!(
            (read.disk_gb_per_s - 1.0).abs() < 1e-12 && (read.apart - 1.0 / 3.0).abs() < 1e-12,
            "{read:?}"
        );
        let again = Record::from_json(&record.json()).unwrap();
        assert_eq!(again, record);
        // Computing takes longer: reading delays it by half of its time.
        let read =
            Pace { stall: 1.0, reading: 2.0, ..pace() }.record(&key("m"), &machine(), 0.5).read.unwrap();
        assert!((read.disk_gb_per_s - 4.0).abs() < 1e-12 && (read.apart - 0.5).abs() < 1e-12, "{read:?}");
        // In memory nothing is known about the disk.
        let none = Pace { stall: 0.0, reading: 0.0, missed_bytes: 0, ..pace() };
        let record = none.record(&key("m"), &machine(), 1.0);
        assert_eq!((record.hits, record.read), (None, None));
    }

    #[test]
    fn short_answers_and_shrunken_caches_say_nothing() {
        assert!(pace().filter(false).is_some());
        assert!(pace().filter(true).is_none());
        assert!(Pace { tokens: LEAST_TOKENS - 1, ..pace() }.filter(false).is_none());
    }

    #[test]
    fn records_are_kept_found_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/speeds.json");
        let keep = |name: &str, share, pace: Pace| {
            keep_in(&path, &machine(), pace.record(&key(name), &machine(), share)).unwrap();
        };
        let look = |name: &str, share| known(&records(&path, &machine()), &key(name), &machine(), share);
        assert_eq!(look("m", 0.5), Earlier::default());
        let counted = |part: usize| {
            let mut shares = vec![0.0; PARTS];
            shares[part] = 0.25;
            Routing::Counted(shares)
        };
        let with = |part: usize| {
            let mut reuse = Reuse::default();
            reuse.bytes[part] = 10_000_000_000;
            Pace { reuse, ..pace() }
        };
        keep("m", 0.5, with(0));
        keep("m", 0.25, Pace { missed_bytes: 20_000_000_000, ..with(5) });
        let near = look("m", 0.45);
        assert_eq!(near.routing, counted(0));
        assert_eq!(look("m", 0.3).routing, counted(5));
        assert!(near.rate.is_none(), "there is no other model");
        // Another model knows the machine only.
        let other = look("other", 0.5);
        assert_eq!((other.computing, other.routing.clone()), (None, Routing::Unknown));
        assert!(other.rate.is_some() && other.disk_gb_per_s.is_some());
        // A small one says nothing about it.
        keep("small", 0.5, Pace { bytes: 4e6, seconds: 0.1, stall: 0.0, ..pace() });
        assert_eq!(look("other", 0.5), other);
        // The same run again replaces the record; other threads are another machine.
        keep("m", 0.5, Pace { seconds: 20.0, ..pace() });
        assert_eq!(records(&path, &machine()).len(), 3);
        assert!((look("m", 0.5).computing.unwrap() - 0.16).abs() < 1e-12);
        let four = Machine { threads: 4, ..machine() };
        assert_eq!(known(&records(&path, &four), &key("m"), &four, 0.5), Earlier::default());
        // Damage costs the records and nothing else.
        std::fs::write(&path, "{").unwrap();
        assert_eq!(look("m", 0.5), Earlier::default());
        keep("m", 0.5, pace());
        assert_eq!(records(&path, &machine()).len(), 1);
    }

    #[test]
    fn a_model_in_memory_is_as_fast_as_its_fastest_run_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("speeds.json");
        let run = |seconds| {
            let pace = Pace { seconds, stall: 0.0, missed_bytes: 0, ..pace() };
            keep_in(&path, &machine(), pace.record(&key("m"), &machine(), 1.0)).unwrap();
            known(&records(&path, &machine()), &key("m"), &machine(), 1.0).computing.unwrap()
        };
        assert!((run(50.0) - 0.5).abs() < 1e-12);
        assert!((run(10.0) - 0.1).abs() < 1e-12);
        assert!((run(50.0) - 0.105).abs() < 1e-12);
        for _ in 0..40 {
            run(20.0);
        }
        assert!((run(20.0) - 0.2).abs() < 1e-12);
    }

    #[test]
    fn many_models_do_not_grow_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("speeds.json");
        for n in 0..MOST + 5 {
            let record = pace().record(&key(&n.to_string()), &machine(), 0.5);
            keep_in(&path, &machine(), record).unwrap();
        }
        let kept = records(&path, &machine());
        assert_eq!((kept.len(), &*kept[0].model), (MOST, "5"));
    }
}
