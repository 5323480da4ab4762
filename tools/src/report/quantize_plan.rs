//! What `moelten quantize` would do, in words and as JSON, before anything is written: sizes by class,
//! memory, disk, time, and what `fit` says of the result. It must not write the output.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use moelten_engine::plan::Experts;
use moelten_loader::container::gguf::write::GgufPlan;
use moelten_loader::convert::types::Class;
use moelten_loader::convert::{Conversion, Estimate};
use moelten_loader::load::{self, LoadedModel};
use serde_json::{Value, json};

use crate::open::SessionArgs;
use crate::report::forecast::{Forecast, Speeds};
use crate::report::memory_words;
use crate::report::progress::bytes;

/// Matrices of one class that get one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// How many tensors.
    pub tensors: u64,
    /// Their weights.
    pub weights: u64,
    /// Bytes in the source.
    pub before: u64,
    /// Bytes in the output.
    pub after: u64,
    /// Types in the source.
    pub from: Vec<&'static str>,
}

/// The plan of a conversion.
#[derive(Debug)]
pub struct QuantizePlan {
    target: PathBuf,
    rows: BTreeMap<(Class, &'static str), Row>,
    estimate: Estimate,
    threads: usize,
    /// Bytes that the process will own at most.
    memory: u64,
    /// Bytes that are free where the file will be, if that is known.
    pub free: Option<u64>,
    /// The disk of the source, in 10^9 bytes per second.
    disk: Result<f64, String>,
    fit: Fit,
}

/// What `fit` says of the result.
#[derive(Debug)]
struct Fit {
    verdict: &'static str,
    words: String,
}

/// How long the disk is measured.
const PROBE: std::time::Duration = std::time::Duration::from_millis(500);
/// Bytes that are read to measure the RAM, at most.
const PROBE_BYTES: u64 = 256 << 20;

impl QuantizePlan {
    /// Looks ahead.
    ///
    /// # Errors
    /// What is wrong with the source where it is looked at, and with the files that the estimate needs.
    pub fn new(
        source: &LoadedModel,
        conversion: &Conversion<'_>,
        target: &Path,
        threads: usize,
        memory: u64,
    ) -> anyhow::Result<Self> {
        let session = SessionArgs::usual()?;
        let layout = conversion.layout(target)?;
        let speeds = Speeds::probe(session.compute(), &source.tensors, PROBE, PROBE_BYTES)?;
        let rows = rows(conversion);
        Ok(Self {
            target: target.to_owned(),
            rows,
            estimate: conversion.estimate()?,
            threads,
            memory,
            free: free_bytes(target),
            disk: speeds.disk_gb_per_s.clone(),
            fit: fit(&layout, &session, &speeds)?,
        })
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.estimate.written
    }

    /// Seconds it will take: as long as the slower of threads and disk, which work at the same time.
    fn seconds(&self) -> f64 {
        let made = self.estimate.one_thread.as_secs_f64() / self.threads as f64;
        let moved = self.estimate.read + self.estimate.written;
        made.max(self.disk.as_ref().map_or(0.0, |disk| moved as f64 / (disk * 1e9)))
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!("{}: {}\n\n", self.target.display(), bytes(self.size()));
        out.push_str(
            "  class           type     tensors      weights         from         size  bits/weight\n",
        );
        for (&(class, kind), row) in &self.rows {
            out.push_str(&format!(
                "  {:<14}  {kind:<7} {:>8} {:>12} {:>12} {:>12} {:>12.2}\n",
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
        line("memory", format!("{} at most", bytes(self.memory)));
        let free = match self.free {
            Some(free) if free < self.size() => format!("{} are free: NOT ENOUGH", bytes(free)),
            Some(free) => format!("{} are free", bytes(free)),
            None => "what is free there is unknown".to_owned(),
        };
        line("disk", format!("{} at most; {free}", bytes(self.size())));
        let disk = match &self.disk {
            Ok(disk) => format!("reading and writing {disk:.1} GB/s"),
            Err(why) => format!("the disk not counted: {why}"),
        };
        line("time", format!("about {} on {} threads, {disk}", duration(self.seconds()), self.threads));
        line("fit", format!("{}, {}", self.fit.verdict, self.fit.words));
        out
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

/// A time as people say it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{:.0} s", s.max(1.0)),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Sizes before and after.
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

/// Bytes that are free on the disk that `target` will be on.
pub fn free_bytes(target: &Path) -> Option<u64> {
    let folder = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    moelten_loader::io::output::free_bytes(folder)
}

/// What `fit` would say of a file that begins like this: it is planned for as if it were there.
fn fit(layout: &GgufPlan, session: &SessionArgs, speeds: &Speeds) -> anyhow::Result<Fit> {
    let stand_in = StandIn::new(layout)?;
    let model = load::load(&stand_in.0)?;
    let plan = match session.plan(&model) {
        Ok(plan) => plan,
        Err(error) => return Ok(Fit { verdict: "NO", words: error.to_string() }),
    };
    let forecast = Forecast::new(&model, &plan, session.compute().kv(), speeds, None);
    let speed = match forecast.warm {
        Some(span) => format!("about {} tok/s when warm", memory_words::speed(span)),
        None => "at a speed that is hard to foresee".to_owned(),
    };
    let (verdict, what) = match &plan.experts {
        Experts::Cached(cached) if cached.share() < 1.0 => {
            ("STREAM", format!("{:.0} % of its experts stay in memory, ", 100.0 * cached.share()))
        }
        _ => ("RAM", String::new()),
    };
    Ok(Fit { verdict, words: format!("{what}{speed} with the {} that are free now", bytes(plan.budget)) })
}

/// A file with the header of a plan and nothing behind it, as long as the real one and taking no room.
/// Removed when dropped.
struct StandIn(PathBuf);

impl StandIn {
    fn new(layout: &GgufPlan) -> io::Result<Self> {
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
        // It is in the folder for temporary files: someone will clean up.
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
