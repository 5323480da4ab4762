//! The weights of an example, as `model.safetensors` in bfloat16: every tensor that its spec needs, under the
//! name that folders of its family have, with random numbers that follow from the seed and the name alone. It
//! must not know vocabularies.

use std::path::Path;

use moelten_loader::container::safetensors::{SafeHeader, SafeWriter};
use moelten_loader::load::folder_names;
use moelten_loader::spec::{ModelSpec, Op};
use moelten_loader::tensors::needed::{needed, whole_numbers};
use moelten_loader::tensors::roles::{LayerTensor as T, Lie, NameRule, Names, Role, Rows};
use moelten_quant::{Format, encode};
use serde_json::Value;

use crate::bench::generate::Random;
use crate::exit::CommandError;
use crate::report::progress::{Progress, Unit};

/// Tensors between two roles of the same one, at most.
const MOST_APART: usize = 16;
/// Numbers of a tensor that differ; larger ones repeat them. A prime, so that rows differ.
const DISTINCT: usize = (1 << 17) - 1;

/// Names that released folders of a `model_type` have where the family knows several.
const SPELLINGS: &[(&str, &[&str])] = &[
    ("switch_transformers", &["mlp.wi.weight", "mlp.wo.weight", "expert_{E}.wi.weight"]),
    ("t5", &["DenseReluDense.wi.weight"]),
    ("mixtral", &["block_sparse_moe.gate.", "block_sparse_moe.experts."]),
    ("phimoe", &["block_sparse_moe.gate.", "block_sparse_moe.experts."]),
    ("exaone_moe", &["mlp.shared_experts."]),
    ("gpt_oss", &["mlp.router.weight"]),
];

/// A tensor to write.
pub struct Planned {
    name: String,
    /// Outermost dimension first.
    shape: Vec<u64>,
    /// Numbers lie around it.
    middle: f32,
    /// Their standard deviation.
    deviation: f32,
}

impl Planned {
    fn values(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Bytes of all tensors.
pub fn bytes(tensors: &[Planned]) -> u64 {
    tensors.iter().map(|tensor| 2 * tensor.values()).sum()
}

/// All tensors of a model.
///
/// # Errors
/// [`CommandError::Unsupported`] for models whose folders hold numbers that random ones cannot stand for.
pub fn tensors(spec: &ModelSpec, config: &Value) -> Result<Vec<Planned>, CommandError> {
    if !whole_numbers(spec).is_empty() {
        let problem = "experts that are listed by token cannot be made at random";
        return Err(CommandError::Unsupported(problem.to_owned()));
    }
    if spec.layers.iter().flat_map(|layer| &layer.branches).any(|branch| matches!(branch.op, Op::Ngram(_))) {
        let problem = "hashes of words cannot be made at random";
        return Err(CommandError::Unsupported(problem.to_owned()));
    }
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let spelling = SPELLINGS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, words)| words);
    let mut plan =
        Plan { names: folder_names(spec), spelling, embed_scale: spec.embed_scale, tensors: Vec::new() };
    for (role, rows, cols) in needed(spec) {
        match role {
            Role::Layer(_, T::ExpertsBias(_)) => plan.add(role, Some(rows), vec![cols])?,
            Role::Layer(_, T::SharedInput) => plan.add(role, None, vec![rows, cols])?,
            _ if rows == 1 => plan.add(role, None, vec![cols])?,
            _ => plan.add(role, None, vec![rows, cols])?,
        }
    }
    for (key, bank) in spec.banks() {
        for matrix in &bank.matrices {
            let role = Role::Layer(key.layer, T::of_bank(bank.kind, matrix.part));
            plan.add(role, Some(bank.experts), vec![matrix.rows, matrix.cols])?;
        }
    }
    Ok(plan.tensors)
}

/// The tensors so far.
struct Plan<'a> {
    names: Names,
    spelling: &'a [&'a str],
    embed_scale: f32,
    tensors: Vec<Planned>,
}

impl Plan<'_> {
    /// Adds what a role needs: a tensor, rows of one that several roles share, or a tensor for each expert.
    fn add(&mut self, role: Role, experts: Option<usize>, shape: Vec<usize>) -> Result<(), CommandError> {
        let Some(rule) = self.rule(role) else {
            let problem = format!("folders of this family have no name for {role:?}");
            return Err(CommandError::Unsupported(problem));
        };
        if rule.lie == Lie::AsColumns {
            let problem = format!("{} is transposed, which examples are not", rule.pattern);
            return Err(CommandError::Unsupported(problem));
        }
        let mut shape: Vec<u64> = shape.into_iter().map(|size| size as u64).collect();
        let single = experts.filter(|_| rule.per_expert());
        if let (Some(experts), None) = (experts, single) {
            shape.insert(0, experts as u64);
        }
        for expert in 0..single.unwrap_or(1) {
            self.put(self.names.by(rule, role, expert), &shape, rule.rows == Rows::All, role);
        }
        Ok(())
    }

    /// The name that folders of the kind have.
    fn rule(&self, role: Role) -> Option<&'static NameRule> {
        let usual = |rule: &&NameRule| self.spelling.iter().any(|word| rule.pattern.contains(word));
        self.names.of(role).find(usual).or_else(|| self.names.of(role).next())
    }

    /// Adds a tensor, or rows to one that is there. Roles that have `all` of its rows are one tensor, as the
    /// norm of branches that read the same input.
    fn put(&mut self, name: String, shape: &[u64], all: bool, role: Role) {
        // Numbers that are added to rows are a vector for each expert.
        let added = matches!(role, Role::Layer(_, T::ExpertsBias(_)));
        let rows = shape.len().saturating_sub(if added { 1 } else { 2 });
        if let Some(known) = self.tensors.iter_mut().rev().take(MOST_APART).find(|known| known.name == name) {
            known.shape[rows] += if all { 0 } else { shape[rows] };
            return;
        }
        let cols = shape.last().map_or(1.0, |&cols| cols as f32);
        let (middle, deviation) = match role {
            _ if role.is_norm() => (1.0, 0.2),
            Role::Embed => (0.0, 1.0 / self.embed_scale),
            Role::Layer(_, T::RelativeBias) => (0.0, 0.5),
            Role::Layer(_, T::Router | T::HeadRouter) => (0.0, 2.0 / cols.sqrt()),
            Role::Head => (0.0, 1.0 / cols.sqrt()),
            _ if shape.len() == 1 => (0.0, 0.1),
            Role::Layer(_, T::ExpertsBias(_)) => (0.0, 0.1),
            _ => (0.0, 1.3 / cols.sqrt()),
        };
        self.tensors.push(Planned { name, shape: shape.to_vec(), middle, deviation });
    }
}

/// Writes the file.
///
/// # Errors
/// Failed writes.
pub fn write(path: &Path, tensors: &[Planned], seed: u64) -> anyhow::Result<()> {
    let header: Vec<SafeHeader<'_>> = tensors
        .iter()
        .map(|tensor| SafeHeader {
            name: &tensor.name,
            dtype: "BF16",
            shape: &tensor.shape,
            bytes: 2 * tensor.values(),
        })
        .collect();
    let mut file = SafeWriter::create(path, &header, &[])?;
    let mut progress = Progress::new("generating weights", Unit::Bytes, bytes(tensors));
    let mut done = 0;
    for tensor in tensors {
        let drawn = numbers(tensor, seed);
        let mut left = 2 * tensor.values();
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(drawn.len());
            file.write(&drawn[..now])?;
            left -= now as u64;
        }
        done += 2 * tensor.values();
        progress.set(done);
    }
    Ok(file.finish()?)
}

/// The first numbers of a tensor, in bfloat16.
fn numbers(tensor: &Planned, seed: u64) -> Vec<u8> {
    // FNV-1a (Fowler, Noll, Vo) of the name.
    let name = tensor.name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mut random = Random(seed ^ name);
    let count = usize::try_from(tensor.values()).unwrap_or(usize::MAX).min(DISTINCT);
    // The standard deviation of a uniform distribution on [-r, r] is r / sqrt(3).
    let reach = 3.0_f32.sqrt() * tensor.deviation;
    let range = tensor.middle - reach..=tensor.middle + reach;
    let values: Vec<f32> = (0..count).map(|_| random.within(&range)).collect();
    let mut out = vec![0; 2 * count];
    encode(Format::BF16, &values, &mut out).expect("finite numbers have a bfloat16");
    out
}
