//! The loops that were picked on this machine, kept in the user's folder for caches for each model of
//! processor and version of the program. It must not know how they are timed.

use std::path::Path;
use std::sync::OnceLock;

use moelten_engine::EngineError;
use moelten_engine::runtime::system::System;
use moelten_quant::{Format, Isa, Picks};
use serde_json::{Value, json};

use super::kept;
use crate::bench::loops::{self, LoopSpeeds};

/// Counts up when loops change within a version of the program.
const GENERATION: u32 = 2;

/// The loops of this process.
#[derive(Debug, Clone)]
pub struct Loops {
    /// Speeds and picks; empty if there is nothing to choose.
    pub table: Vec<LoopSpeeds>,
    /// Where the table comes from, in words.
    pub origin: String,
    /// Why there is no table although there is a choice.
    pub problem: Option<String>,
    /// For the kernels of the tier.
    pub picks: Picks,
}

/// The loops for products of quantised weights: those of the tier if `MOELTEN_ISA` forces one, else the kept
/// picks, else measured now, which takes 0.2 seconds once. If they cannot be kept, they are not measured
/// either, and the tier's own loops are used.
///
/// # Errors
/// `MOELTEN_ISA` names a tier that is not here.
pub fn loops() -> anyhow::Result<&'static Loops> {
    static LOOPS: OnceLock<Loops> = OnceLock::new();
    let tier = Isa::from_env().map_err(EngineError::from)?;
    Ok(LOOPS.get_or_init(|| {
        let folder = kept::folder();
        match folder {
            _ if Isa::is_forced() => {
                Loops::own(tier, "MOELTEN_ISA sets the tier for all products".to_owned(), None)
            }
            Ok(folder) => kept_or_measured(
                tier,
                &folder.join("loops.json"),
                &processor(&System::here()),
                loops::measure,
            ),
            Err(error) => Loops::own(tier, "those of the tier".to_owned(), Some(error.to_string())),
        }
    }))
}

impl Loops {
    fn own(tier: Isa, origin: String, problem: Option<String>) -> Self {
        Self { table: Vec::new(), origin, problem, picks: Picks::of(tier) }
    }

    fn of(tier: Isa, table: Vec<LoopSpeeds>, origin: String) -> Self {
        Self { picks: loops::picks(tier, &table), table, origin, problem: None }
    }

    /// A line for the user if loops could not be measured.
    pub fn notice(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        Some(format!(
            "the fastest kernels for this machine could not be chosen, the usual ones of its tier are used: {problem}"
        ))
    }
}

/// The model of the processor and its tiers, as far as the system names them. Builds for debugging have loops
/// of other speeds.
pub fn processor(system: &System) -> String {
    let field = |name: &str| system.field("proc/cpuinfo", name).unwrap_or_default();
    let fields = ["model name", "cpu family", "model", "stepping"].map(field);
    let tiers: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let build = if cfg!(debug_assertions) { "; debug" } else { "" };
    format!("{}; {}; {}{build}", std::env::consts::ARCH, fields.join(" "), tiers.join(" "))
}

fn kept_or_measured(
    tier: Isa,
    path: &Path,
    processor: &str,
    measure: impl Fn(Isa) -> anyhow::Result<Vec<LoopSpeeds>>,
) -> Loops {
    let mut file = kept::read(path, &program());
    if let Some(table) = file.get(processor).and_then(|table| from_json(table, tier)) {
        return Loops::of(tier, table, format!("measured earlier, kept in {}", path.display()));
    }
    // Before they are measured: otherwise they would be measured in every run.
    if let Err(error) = kept::write(path, &program(), &file) {
        let problem = format!("{} cannot be written: {error}", path.display());
        return Loops::own(tier, "those of the tier".to_owned(), Some(problem));
    }
    let table = match measure(tier) {
        Ok(table) => table,
        Err(error) => return Loops::own(tier, "those of the tier".to_owned(), Some(format!("{error:#}"))),
    };
    file.insert(processor.to_owned(), to_json(&table));
    let kept = match kept::write(path, &program(), &file) {
        Ok(()) => format!("measured now, kept in {}", path.display()),
        Err(error) => format!("measured now, not kept: {}: {error}", path.display()),
    };
    Loops::of(tier, table, kept)
}

/// The program that tables are for.
fn program() -> String {
    format!("{} loops {GENERATION}", env!("CARGO_PKG_VERSION"))
}

fn to_json(table: &[LoopSpeeds]) -> Value {
    let rows = table.iter().map(|row| {
        let speeds = row.speeds.iter().map(|(isa, speed)| (isa.name().to_owned(), json!(speed)));
        let speeds: serde_json::Map<String, Value> = speeds.collect();
        json!({ "format": row.format.name(), "tokens": row.tokens, "speeds": speeds, "pick": row.pick.name() })
    });
    Value::Array(rows.collect())
}

/// A kept table; `None` if it is not one of this machine.
fn from_json(table: &Value, tier: Isa) -> Option<Vec<LoopSpeeds>> {
    let here = |name: &Value| Isa::from_name(name.as_str()?).filter(|isa| Isa::available().contains(isa));
    let row = |row: &Value| {
        let tokens = usize::try_from(row.get("tokens")?.as_u64()?).ok()?;
        let speeds = row.get("speeds")?.as_object()?.iter();
        let speeds = speeds.map(|(isa, speed)| Some((here(&Value::from(isa.as_str()))?, speed.as_f64()?)));
        let format = Format::from_name(row.get("format")?.as_str()?)?;
        Some(LoopSpeeds {
            format,
            tokens,
            speeds: speeds.collect::<Option<_>>()?,
            pick: here(row.get("pick")?)?,
        })
    };
    let table: Vec<LoopSpeeds> = table.as_array()?.iter().map(row).collect::<Option<_>>()?;
    let whole = table.len() == 2 * loops::formats().count();
    (whole || Picks::candidates(loops::SEVERAL) == [tier]).then_some(table)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    fn table() -> Vec<LoopSpeeds> {
        let row = |format| {
            [1, loops::SEVERAL].map(|tokens| LoopSpeeds {
                format,
                tokens,
                speeds: vec![(Isa::Scalar, 1.5)],
                pick: Isa::Scalar,
            })
        };
        loops::formats().flat_map(row).collect()
    }

    #[test]
    fn loops_are_measured_once_for_a_processor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache/loops.json");
        let runs = Cell::new(0);
        let measure = |_| {
            runs.set(runs.get() + 1);
            Ok(table())
        };
        let loops = |processor: &str| kept_or_measured(Isa::best(), &path, processor, measure);
        assert!(loops("one").origin.contains("now, kept"));
        let kept = loops("one");
        assert!(
            kept.origin.contains("earlier") && kept.table == table() && kept.notice().is_none(),
            "{kept:?}"
        );
        assert_eq!(kept.picks.get(Format::Q4_0, 1), Isa::Scalar);
        assert!(loops("two").origin.contains("now") && loops("one").origin.contains("earlier"));
        assert_eq!(runs.get(), 2);
        // Neither a damaged file nor one of another version is believed.
        for damaged in ["{", "[]", r#"{"program":"0 loops 0","processors":{"one":[]}}"#] {
            fs::write(&path, damaged).unwrap();
            assert!(loops("one").origin.contains("now"), "{damaged}");
        }
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn without_a_folder_the_tier_keeps_its_own_loops() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let path = file.join("loops.json");
        let loops = kept_or_measured(Isa::best(), &path, "one", |_| panic!("measured for nothing"));
        assert_eq!(loops.picks, Picks::of(Isa::best()));
        assert!(loops.notice().is_some_and(|notice| notice.contains("loops.json")), "{loops:?}");
        let failed = kept_or_measured(Isa::best(), &folder.path().join("l.json"), "one", |_| {
            anyhow::bail!("no memory")
        });
        assert!(failed.notice().is_some_and(|notice| notice.contains("no memory")), "{failed:?}");
    }
}
