//! `moelten doctor`: processor, threads, memory, what slows the machine down, and its instruction set tiers
//! with their measured speed and which is used; on request the speed of a file's disk.

use std::fmt::Write as _;
use std::path::PathBuf;

use moelten_engine::runtime::memory;
use moelten_engine::runtime::pool::Pool;
use moelten_engine::runtime::system::System;
use moelten_engine::runtime::topology::{Pin, Placement, ThreadPlan, Topology};
use moelten_quant::{Isa, Kernels};
use moelten_tui::terminal::{Notes, Tone};
use serde_json::{Value, json};

use crate::bench::limits::{self, TIER_FORMAT, TIER_TOKENS, TierSpeed};
use crate::bench::loops::SEVERAL;
use crate::health::Health;
use crate::models::Places;
use crate::open::loops::{self, Loops};
use crate::output;
use crate::report::gpu::{self, FoundGpu};
use crate::report::page;
use crate::report::progress::bytes;

/// Show cores, memory, what slows this machine down, and instruction sets with their measured speed
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Measure the disk that this large file is on, e.g. a model
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Everything that is printed.
struct Findings {
    cpu: Option<String>,
    topology: Option<Topology>,
    plan: ThreadPlan,
    memory: MemoryFindings,
    tiers: Vec<(Isa, Option<TierSpeed>)>,
    pick: Isa,
    forced: bool,
    loops: &'static Loops,
    ram_gb_per_s: f64,
    int8_tops: f64,
    disk: Option<Result<f64, String>>,
    gpus: Vec<FoundGpu>,
    health: Health,
}

struct MemoryFindings {
    total: Option<u64>,
    available: Option<u64>,
    cgroup_limit: Option<u64>,
    huge_pages: Option<String>,
}

impl MemoryFindings {
    fn huge_words(&self) -> &'static str {
        match self.huge_pages.as_deref() {
            Some("always") => "always",
            Some("madvise") => "madvise (used)",
            Some("never") => {
                "never (`echo madvise >/sys/kernel/mm/transparent_hugepage/enabled` may be faster)"
            }
            _ => "unknown",
        }
    }
}

/// Runs the command.
pub fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let system = System::here();
    let pick = Isa::from_env().map_err(moelten_engine::EngineError::from)?;
    Notes::detect().line(Tone::Dim, "measuring, a few seconds");
    let places = || Places::here().folders().into_iter().map(PathBuf::from).collect();
    let health = Health::look(&system, &args.disk.as_ref().map_or_else(places, |file| vec![file.clone()]));
    let plan = ThreadPlan::here(None, Pin::Auto)?;
    let pool = Pool::new(plan.clone())?;
    let kernels = Kernels::for_isa(pick).expect("the tier was checked to be available");
    let mut findings = Findings {
        cpu: system.field("proc/cpuinfo", "model name"),
        topology: Topology::detect(),
        plan,
        memory: MemoryFindings {
            total: system.total_memory(),
            available: memory::available_bytes(),
            cgroup_limit: memory::cgroup_limit(&system),
            huge_pages: system.text("sys/kernel/mm/transparent_hugepage/enabled").and_then(|t| chosen(&t)),
        },
        tiers: Isa::ALL.into_iter().map(|isa| (isa, limits::tier(isa))).collect(),
        pick,
        forced: Isa::is_forced(),
        loops: loops::loops()?,
        ram_gb_per_s: limits::ram(&pool, kernels)?,
        int8_tops: limits::int8(&pool, kernels),
        disk: args.disk.as_deref().map(|path| limits::disk(Some(path))),
        gpus: gpu::found(kernels),
        health,
    };
    findings.health.after_measuring(&system);
    if args.json {
        output::answer(&findings.json())?;
    } else {
        page::print(&findings.text()?)?;
    }
    Ok(())
}

/// The selected value, in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

impl Findings {
    fn why(&self) -> &'static str {
        if self.forced { "set by MOELTEN_ISA" } else { "the best available" }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let unknown = || "unknown".to_owned();
        writeln!(out, "version     {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "processor   {}", self.cpu.as_deref().unwrap_or("unknown"))?;
        if let Some(topology) = &self.topology {
            writeln!(out, "cores       {}", cores(topology))?;
        }
        writeln!(out, "threads     {}", self.plan)?;
        let m = &self.memory;
        let limit = m
            .cgroup_limit
            .map_or_else(String::new, |limit| format!(", control group limit {}", bytes(limit)));
        let (total, available) =
            (m.total.map_or_else(unknown, bytes), m.available.map_or_else(unknown, bytes));
        writeln!(out, "memory      {total}, {available} available{limit}")?;
        writeln!(out, "huge pages  {}", m.huge_words())?;
        for (name, words) in self.health.lines() {
            writeln!(out, "{name:12}{words}")?;
        }
        writeln!(
            out,
            "limits      {:.1} GB/s RAM, {:.2} int8 TOP/s with all threads",
            self.ram_gb_per_s, self.int8_tops
        )?;
        match &self.disk {
            Some(Ok(speed)) => writeln!(out, "disk        {speed:.2} GB/s")?,
            Some(Err(why)) => writeln!(out, "disk        not measured: {why}")?,
            None => {}
        }
        for gpu in &self.gpus {
            writeln!(out, "GPU         {}", gpu.words())?;
        }
        writeln!(out, "\n  tier          int8 GOP/s   1 token GB/s   {TIER_TOKENS} tokens GOP/s")?;
        for (isa, speed) in &self.tiers {
            let mark = if *isa == self.pick { '*' } else { ' ' };
            match speed {
                Some(s) => writeln!(
                    out,
                    "{mark} {:12} {:11.0} {:14.1} {:17.0}",
                    isa.name(),
                    s.int8_gops,
                    s.matvec_gb_per_s,
                    s.matmul_gops
                )?,
                None => {
                    writeln!(out, "{mark} {:12} unavailable (no {})", isa.name(), isa.missing().join(", "))?
                }
            }
        }
        writeln!(
            out,
            "  one thread, {TIER_FORMAT} weights: peak in registers, one token, {TIER_TOKENS} tokens"
        )?;
        writeln!(out, "* used: {} ({})", self.pick, self.why())?;
        self.loops_text(&mut out)?;
        if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64"))) {
            writeln!(
                out,
                "  there are no kernels for this processor yet; the portable ones have not been tested on it"
            )?;
        }
        Ok(out)
    }

    /// The loops for products of quantised weights.
    fn loops_text(&self, out: &mut String) -> std::fmt::Result {
        let Loops { table, origin, problem, .. } = self.loops;
        writeln!(out, "\nloops       {origin}")?;
        if let Some(problem) = problem {
            writeln!(out, "            not measured: {problem}")?;
        }
        for (tokens, unit) in [(1, "GB/s"), (SEVERAL, "GOP/s")] {
            let mut rows = table.iter().filter(|row| row.tokens == tokens).peekable();
            let Some(first) = rows.peek() else { continue };
            let names: String = first.speeds.iter().map(|(isa, _)| format!("{:>13}", isa.name())).collect();
            let title = format!("{tokens} token{}", if tokens == 1 { "" } else { "s" });
            writeln!(out, "  {title:9} {names}   {unit}")?;
            for row in rows {
                let mark = |isa| if isa == row.pick { '*' } else { ' ' };
                let speeds = row.speeds.iter().map(|&(isa, speed)| format!("{:>12.1}{}", speed, mark(isa)));
                writeln!(out, "  {:9} {}", row.format, speeds.collect::<String>())?;
            }
        }
        if !table.is_empty() {
            writeln!(out, "  one thread, weights from RAM with one token; * used: the bits are the same")?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let tiers: Vec<Value> = self
            .tiers
            .iter()
            .map(|(isa, speed)| {
                json!({
                    "isa": isa.name(),
                    "available": speed.is_some(),
                    "missing": isa.missing(),
                    "int8_gops": speed.map(|s| s.int8_gops),
                    "matvec_gb_per_s": speed.map(|s| s.matvec_gb_per_s),
                    "matmul_gops": speed.map(|s| s.matmul_gops),
                })
            })
            .collect();
        let cores = self.topology.as_ref().map(|topology| {
            json!({
                "physical": topology.cores.len(),
                "performance": topology.cores.iter().filter(|core| core.performance).count(),
                "cpus": topology.online,
                "allowed_cpus": topology.allowed,
                "quota": topology.quota,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": self.cpu,
            "cores": cores,
            "threads": self.plan.threads,
            "pinned": matches!(self.plan.placement, Placement::Pinned(_)),
            "memory": {
                "total_bytes": self.memory.total,
                "available_bytes": self.memory.available,
                "cgroup_limit_bytes": self.memory.cgroup_limit,
                "huge_pages": self.memory.huge_pages,
            },
            "isa": self.pick.name(),
            "isa_forced": self.forced,
            "tiers": tiers,
            "loops": {
                "origin": self.loops.origin,
                "problem": self.loops.problem,
                "table": self.loops.table.iter().map(|row| json!({
                    "format": row.format.name(),
                    "tokens": row.tokens,
                    "speeds": row.speeds.iter().map(|(isa, speed)| json!({ "isa": isa.name(), "speed": speed })).collect::<Vec<_>>(),
                    "pick": row.pick.name(),
                })).collect::<Vec<_>>(),
            },
            "health": self.health.json(),
            "gpus": self.gpus.iter().map(FoundGpu::json).collect::<Vec<_>>(),
            "limits": {
                "ram_gb_per_s": self.ram_gb_per_s,
                "int8_tops": self.int8_tops,
                "disk_gb_per_s": self.disk.as_ref().and_then(|disk| disk.as_ref().ok()),
                "disk_problem": self.disk.as_ref().and_then(|disk| disk.as_ref().err()),
            },
        })
    }
}

/// Cores and hardware threads, in a line.
fn cores(topology: &Topology) -> String {
    let count = topology.cores.len();
    let fast = topology.cores.iter().filter(|core| core.performance).count();
    let mut text = format!("{count} ");
    if fast < count {
        let _ = write!(text, "({fast} performance, {} efficiency) ", count - fast);
    }
    let _ = write!(text, "cores, {} threads", topology.online);
    if topology.allowed.len() < topology.online {
        let _ = write!(text, ", {} of them allowed for this process", topology.allowed.len());
    }
    if let Some(quota) = topology.quota {
        let _ = write!(text, ", CPU quota {quota:.1}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selected_value_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always"), None);
    }
}
