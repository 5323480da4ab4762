//! The table of `moelten quantize --types`: what each weight type makes of a model: bits of a weight, size of
//! the file, and whether and how fast it runs here. It must not write the output.

use std::path::Path;

use moelten_engine::runtime::memory;
use moelten_loader::convert::types::{MIXTURES, Mixture, TypePlan};
use moelten_loader::convert::{Change, Conversion, Types};
use moelten_loader::load::LoadedModel;
use moelten_loader::tensors::roles::Role;
use serde_json::{Value, json};

use crate::open::SessionArgs;
use crate::report::memory_words;
use crate::report::progress::bytes;
use crate::report::quantize_plan::{ResultFit, probe};
use crate::report::type_choice::Rules;

/// The types in the order of `--type`: from the most bits to the fewest.
pub struct TypeTable(Vec<Row>);

struct Row {
    mixture: &'static Mixture,
    /// What the type makes, or why it cannot be used.
    outcome: Result<Outcome, String>,
}

struct Outcome {
    bits_per_weight: f64,
    bytes: u64,
    fit: ResultFit,
}

impl TypeTable {
    /// Plans every type.
    ///
    /// # Errors
    /// An invalid source; temporary files that cannot be written.
    pub fn new(model: &LoadedModel, rules: Rules<'_>) -> anyhow::Result<Self> {
        let session = SessionArgs::usual()?;
        let speeds = probe(&session, model, memory::owned_bytes().unwrap_or(0))?;
        let outcome = |types: &TypePlan| -> anyhow::Result<Outcome> {
            let format = |role: Role| types.format(role);
            let conversion = Conversion::plan_as(model, rules.layout, Types::Chosen(&format))?;
            let layout = conversion.layout(Path::new("model.gguf"))?;
            let matrices = conversion.matrices();
            let sum = |of: fn(&Change) -> u64| matrices.iter().map(of).sum::<u64>();
            let (weights, after) = (sum(|matrix| matrix.weights), sum(|matrix| matrix.bytes_after));
            Ok(Outcome {
                bits_per_weight: 8.0 * after as f64 / weights.max(1) as f64,
                bytes: layout.file_len(),
                fit: ResultFit::new(&layout, &session, &speeds)?,
            })
        };
        let row = |mixture: &'static Mixture| {
            let types = TypePlan::new(model, mixture, rules.overrides, rules.allow_fallback);
            let outcome = match types {
                Ok(types) => Ok(outcome(&types)?),
                Err(problem) => Err(problem.to_string()),
            };
            Ok(Row { mixture, outcome })
        };
        MIXTURES.iter().map(row).collect::<anyhow::Result<_>>().map(Self)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "  {:<8} {:>11}  {:>10}  {:<6}  {:<26}  use\n",
            "type", "bits/weight", "size", "here", "speed"
        );
        for Row { mixture: Mixture { name, about, .. }, outcome } in &self.0 {
            let line = match outcome {
                Ok(Outcome { bits_per_weight, bytes: size, fit }) => {
                    let speed = fit.warm.map_or_else(|| "unknown".to_owned(), memory_words::likely);
                    let (size, verdict) = (bytes(*size), fit.verdict);
                    format!("{bits_per_weight:>11.2}  {size:>10}  {verdict:<6}  {speed:<26}  {about}")
                }
                Err(problem) => format!("{:>11}  {problem}", "-"),
            };
            out.push_str(&format!("  {name:<8} {line}\n"));
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let row = |Row { mixture, outcome }: &Row| match outcome {
            Ok(Outcome { bits_per_weight, bytes, fit }) => json!({
                "type": mixture.name,
                "bits_per_weight": bits_per_weight,
                "bytes": bytes,
                "verdict": fit.verdict.to_lowercase(),
                "tokens_per_s": fit.warm.map(|warm| warm.value),
                "about": mixture.about,
            }),
            Err(problem) => json!({ "type": mixture.name, "problem": problem }),
        };
        json!({ "event": "types", "types": self.0.iter().map(row).collect::<Vec<_>>() })
    }
}
