//! The plan of `moelten quantize --dry-run`, as text and JSON: sizes by class, memory, disk space, time, and
//! what `fit` reports for the result. It must not write the output.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use moelten_engine::plan::Experts;
use moelten_loader::container::gguf::write::GgufPlan;
use moelten_loader::convert::types::Class;
use moelten_loader::convert::{Conversion, Estimate, PlannedTensor};
use moelten_loader::load::{self, LoadedModel};
use serde_json::{Value, json};

use crate::open::SessionArgs;
use crate::report::earlier;
use crate::report::forecast::{Forecast, Likely, Speeds};
use crate::report::memory_words;
use crate::report::progress::bytes;

/// Matrices of one class with one target type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Number of tensors.
    pub tensors: u64,
    /// Number of weights.
    pub weights: u64,
    /// Bytes in the source file.
    pub before: u64,
    /// Bytes in the output file.
    pub after: u64,
    /// Source types, each once.
    pub from: Vec<&'static str>,
}

/// The plan of a conversion.
#[derive(Debug)]
pub struct QuantizePlan {
    target: PathBuf,
    rows: BTreeMap<(Class, &'static str), Row>,
    estimate: Estimate,
    threads: usize,
    /// Most bytes that the process will own.
    memory: u64,
    /// Free bytes on the target's disk, if known.
    pub free: Option<u64>,
    /// Speed of the source's disk, 10^9 bytes per second, or why it was not measured.
    disk: Result<f64, String>,
    fit: ResultFit,
}

/// What `fit` reports for the result.
#[derive(Debug)]
pub struct ResultFit {
    /// RAM, STREAM or NO.
    pub verdict: &'static str,
    /// Tokens per second with a full cache, if they are known.
    pub warm: Option<Likely>,
    words: String,
}

/// Time to measure the disk.
const PROBE: std::time::Duration = std::time::Duration::from_millis(500);
/// Largest buffer to measure RAM, in bytes.
const PROBE_BYTES: u64 = 256 << 20;

impl QuantizePlan {
    /// Estimates the conversion.
    ///
    /// # Errors
    /// An invalid source; temporary files that cannot be written.
    pub fn new(
        source: &LoadedModel,
        conversion: &Conversion<'_>,
        target: &Path,
        threads: usize,
        memory: u64,
    ) -> anyhow::Result<Self> {
        let session = SessionArgs::usual()?;
        let layout = conversion.layout(target)?;
        let speeds = probe(&session, source, memory)?;
        let rows = rows(conversion);
        Ok(Self {
            target: target.to_owned(),
            rows,
            estimate: conversion.estimate()?,
            threads,
            memory,
            free: free_bytes(target),
            disk: speeds.disk_gb_per_s.clone(),
            fit: ResultFit::new(&layout, &session, &speeds)?,
        })
    }

    /// Bytes of the target file.
    pub fn size(&self) -> u64 {
        self.estimate.written
    }

    /// Estimated seconds: those of the slower of threads and disk, which work in parallel.
    fn seconds(&self) -> f64 {
        let made = self.estimate.one_thread.as_secs_f64() / self.threads as f64;
        let moved = self.estimate.read + self.estimate.written;
        made.max(self.disk.as_ref().map_or(0.0, |disk| moved as f64 / (disk * 1e9)))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!("{}: {}\n\n", self.target.display(), bytes(self.size()));
        // 78 columns.
        out.push_str("  class           type    tensors       weights     from      size bits/weight\n");
        for (&(class, kind), row) in &self.rows {
            out.push_str(&format!(
                "  {:<14}  {kind:<7} {:>7} {:>13} {:>8} {:>9} {:>11.2}\n",
                class.name(),
                row.tensors,
                row.weights,
                row.from.join(","),
                bytes(row.after),
                8.0 * row.after as f64 / row.weights.max(1) as f64,
            ));
        }
        let mut line = |name: &str, value: String| out.push_str(&format!("  {name:<14}  {value}\n"));
        line("", String::new());
        line("memory", format!("at most {}", bytes(self.memory)));
        let free = match self.free {
            Some(free) if free < self.size() => format!("{} free: NOT ENOUGH", bytes(free)),
            Some(free) => format!("{} free", bytes(free)),
            None => "free space unknown".to_owned(),
        };
        line("disk", format!("at most {}; {free}", bytes(self.size())));
        let disk = match &self.disk {
            Ok(disk) => format!("disk {disk:.1} GB/s"),
            Err(why) => format!("without the disk ({why})"),
        };
        line("time", format!("about {} on {} threads, {disk}", duration(self.seconds()), self.threads));
        line("fit", format!("{}, {}", self.fit.verdict, self.fit.words));
        out
    }

    /// Every tensor with its type, for `--verbose`.
    pub fn tensors(conversion: &Conversion<'_>) -> String {
        let rows: Vec<_> = conversion.tensors().collect();
        let name = rows.iter().map(|tensor| tensor.name.len()).max().unwrap_or(0);
        let row = |tensor: &PlannedTensor<'_>| {
            let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ");
            let (kind, size) = (tensor.kind, bytes(tensor.bytes));
            format!("  {:<name$}  {kind:<7} {size:>10}  {shape}\n", tensor.name)
        };
        rows.iter().map(row).collect()
    }

    /// The same for programs.
    pub fn tensors_json(conversion: &Conversion<'_>) -> Value {
        let row = |tensor: PlannedTensor<'_>| json!({ "name": tensor.name, "type": tensor.kind, "shape": tensor.shape, "bytes": tensor.bytes });
        conversion.tensors().map(row).collect()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let classes: Vec<Value> = self
            .rows
            .iter()
            .map(|(&(class, kind), row)| {
                json!({
                    "class": class.name(),
                    "type": kind,
                    "tensors": row.tensors,
                    "weights": row.weights,
                    "source_types": row.from,
                    "source_bytes": row.before,
                    "bytes": row.after,
                })
            })
            .collect();
        json!({
            "event": "plan",
            "target": self.target.display().to_string(),
            "bytes": self.size(),
            "peak_memory_bytes": self.memory,
            "peak_disk_bytes": self.size(),
            "free_disk_bytes": self.free,
            "seconds": self.seconds(),
            "threads": self.threads,
            "fit": { "verdict": self.fit.verdict.to_lowercase(), "text": self.fit.words },
            "classes": classes,
        })
    }
}

/// A duration for people: `40 s`, `12 min`, `1.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{:.0} s", s.max(1.0)),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Sizes by class and type.
fn rows(conversion: &Conversion<'_>) -> BTreeMap<(Class, &'static str), Row> {
    let mut rows: BTreeMap<_, Row> = BTreeMap::new();
    for matrix in conversion.matrices() {
        let row = rows.entry((matrix.class, matrix.after.name())).or_default();
        row.tensors += 1;
        row.weights += matrix.weights;
        row.before += matrix.bytes_before;
        row.after += matrix.bytes_after;
        if !row.from.contains(&matrix.before.name()) {
            row.from.push(matrix.before.name());
        }
    }
    rows
}

/// Free bytes on the disk of `target`.
pub fn free_bytes(target: &Path) -> Option<u64> {
    let folder = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    moelten_loader::io::output::free_bytes(folder)
}

/// Measures RAM and the disk of `source`, with at most half of `memory` bytes.
///
/// # Errors
/// The kernels or threads cannot be set up.
pub fn probe(session: &SessionArgs, source: &LoadedModel, memory: u64) -> anyhow::Result<Speeds> {
    Speeds::probe(session.compute(), &source.tensors, PROBE, PROBE_BYTES.min(memory / 2))
}

impl ResultFit {
    /// For a file with this header: a sparse stand-in file is planned for.
    ///
    /// # Errors
    /// The stand-in cannot be written or opened.
    pub fn new(layout: &GgufPlan, session: &SessionArgs, speeds: &Speeds) -> anyhow::Result<Self> {
        let stand_in = StandIn::new(layout)?;
        let model = load::load(&stand_in.0)?;
        let plan = match session.plan(&model) {
            Ok(plan) => plan,
            Err(error) => return Ok(Self { verdict: "NO", warm: None, words: error.to_string() }),
        };
        let earlier = earlier::about(session.compute(), &model, &plan);
        let forecast = Forecast::new(&model, &plan, session.compute().kv(), speeds, &earlier, None, None);
        let warm = forecast.warm;
        let speed = match warm {
            Some(warm) => format!("about {} when warm", memory_words::likely(warm)),
            None => "speed unknown".to_owned(),
        };
        let (verdict, what) = match &plan.experts {
            Experts::Cached(cached) if cached.share() < 1.0 => {
                ("STREAM", format!("{:.0} % of experts cached, ", 100.0 * cached.share()))
            }
            _ => ("RAM", String::new()),
        };
        let words = format!("{what}{speed}, with the {} that are free now", bytes(plan.budget));
        Ok(Self { verdict, warm, words })
    }
}

/// A sparse file with the header of a plan and the length of the real file. Removed when dropped.
pub struct StandIn(PathBuf);

impl StandIn {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the header of a plan.
    ///
    /// # Errors
    /// The folder for temporary files cannot be written.
    pub fn new(layout: &GgufPlan) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("moelten-plan-{}.gguf", std::process::id()));
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let stand_in = Self(path);
        io::Write::write_all(&mut &file, layout.header())?;
        file.set_len(layout.file_len())?;
        Ok(stand_in)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It is in the folder for temporary files, which the system cleans.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!([0.2, 59.6, 600.0, 7200.0].map(duration), ["1 s", "60 s", "10 min", "2.0 h"]);
    }
}
