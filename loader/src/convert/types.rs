//! The type of each matrix of an output: named mixtures of types, and patterns that set the types of some
//! tensors. It must not know how values are encoded.

use std::collections::BTreeMap;
use std::fmt;

use moelten_quant::Format;
use regex_automata::meta::Regex;

use super::source::{first_expert, is_router};
use crate::load::LoadedModel;
use crate::spec::ModelSpec;
use crate::spec::Part;
use crate::tensors::bank::MatrixRef;
use crate::tensors::roles::{LayerTensor, Role, gguf_name};

/// Classes of matrices for reports and type rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The token embedding.
    Embedding,
    /// The output projection.
    Head,
    /// Projections of attention and of recurrences.
    Attention,
    /// Routers and gates of shared experts.
    Router,
    /// Routed experts.
    Experts,
    /// Shared experts and dense feed-forward blocks.
    FeedForward,
    /// Norms, biases and other vectors.
    Vectors,
}

impl Class {
    /// Of a role whose matrix has `rows` rows.
    pub fn of(role: Role, rows: usize) -> Self {
        match role {
            _ if is_router(role) => Self::Router,
            _ if rows == 1 => Self::Vectors,
            Role::Embed | Role::LayerInputTable | Role::Patches => Self::Embedding,
            Role::Head => Self::Head,
            Role::Layer(_, tensor) if tensor.expert_part().is_some() => Self::Experts,
            Role::LayerInputProjection => Self::Attention,
            Role::Layer(_, LayerTensor::Dense(_) | LayerTensor::Shared(_)) => Self::FeedForward,
            Role::Layer(_, tensor) if tensor.is_matrix() => Self::Attention,
            _ => Self::Vectors,
        }
    }

    /// Name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Attention => "attention",
            Self::Router => "routers",
            Self::Experts => "experts",
            Self::FeedForward => "feed-forward",
            Self::Vectors => "norms, biases",
        }
    }
}

/// A mixture of types under one name. Experts are most of a model and get the type of that name; matrices
/// that every token reads, and those that are sensitive to errors, get as many bits or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    /// As on the command line.
    pub name: &'static str,
    /// Its use, one line.
    pub about: &'static str,
    /// Routed experts.
    experts: Format,
    /// Down projections of some layers, which lose more than others by rounding.
    some_down: Format,
    /// Queries, attention output, shared experts, dense blocks.
    base: Format,
    /// Keys and values: small, and every head of the group depends on them.
    keys_values: Format,
    embedding: Format,
    /// The head, or an embedding that is one as well.
    head: Format,
    /// The conventional number (`general.file_type`).
    pub file_type: u32,
}

const fn plain(name: &'static str, format: Format, file_type: u32, about: &'static str) -> Mixture {
    Mixture {
        name,
        about,
        experts: format,
        some_down: format,
        base: format,
        keys_values: format,
        embedding: format,
        head: format,
        file_type,
    }
}

use Format::{BF16, F16, F32, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// All mixtures, from large to small.
pub const MIXTURES: [Mixture; 19] = [
    plain("f32", F32, 0, "32-bit floats"),
    plain("bf16", BF16, 32, "what most models are published in"),
    plain("f16", F16, 1, "16-bit floats; some models have numbers too large for it"),
    plain("q8_0", Q8_0, 7, "hardly any loss"),
    plain("q6_k", Q6K, 18, "very little loss"),
    Mixture { head: Q6K, some_down: Q6K, keys_values: Q6K, ..plain("q5_k_m", Q5K, 17, "little loss") },
    Mixture { head: Q6K, keys_values: Q6K, ..plain("q5_k_s", Q5K, 16, "as q5_k_m, a little smaller") },
    Mixture { head: Q6K, ..plain("q5_1", Q5_1, 9, "5 bits in blocks of 32, with a minimum") },
    Mixture { head: Q6K, ..plain("q5_0", Q5_0, 8, "5 bits in blocks of 32") },
    Mixture { head: Q6K, some_down: Q6K, keys_values: Q6K, ..plain("q4_k_m", Q4K, 15, "a good choice") },
    Mixture { head: Q6K, keys_values: Q5K, ..plain("q4_k_s", Q4K, 14, "as q4_k_m, a little smaller") },
    Mixture { head: Q6K, ..plain("q4_1", Q4_1, 3, "4 bits in blocks of 32, with a minimum") },
    Mixture { head: Q6K, ..plain("iq4_nl", Iq4Nl, 25, "4 bits, unevenly spaced; for rows of any width") },
    Mixture { head: Q6K, ..plain("q4_0", Q4_0, 2, "4 bits in blocks of 32: the fastest here") },
    Mixture {
        head: Q6K,
        keys_values: Q5K,
        ..plain("iq4_xs", Iq4Xs, 30, "4 bits, unevenly spaced; the smallest of 4 bits")
    },
    Mixture { head: Q6K, some_down: Q4K, keys_values: Q5K, ..plain("q3_k_m", Q3K, 12, "visible loss") },
    Mixture { head: Q6K, keys_values: Q4K, ..plain("q3_k_s", Q3K, 11, "as q3_k_m, a little smaller") },
    Mixture {
        head: Q6K,
        some_down: Q3K,
        keys_values: Q4K,
        ..plain("q2_k", Q2K, 10, "for models that fit no other way; best with --imatrix")
    },
    Mixture {
        experts: Mxfp4,
        some_down: Mxfp4,
        ..plain("mxfp4", Q8_0, 38, "experts in 4-bit floats, the rest Q8_0")
    },
];

impl Mixture {
    /// The mixture of that name, in any case.
    pub fn named(name: &str) -> Option<&'static Self> {
        MIXTURES.iter().find(|mixture| mixture.name.eq_ignore_ascii_case(name))
    }

    /// The type of a matrix with rows of `cols`. The head of types for rows of any width is a type for rows
    /// of any width.
    fn format(&self, spec: &ModelSpec, role: Role, cols: usize) -> Format {
        let down = |layer, usual| if loses_more(layer, spec.layers.len()) { self.some_down } else { usual };
        match role {
            Role::Head => self.head_for(cols),
            // Places and patches of images are few, and errors in them are in every image.
            Role::Embed | Role::Patches if spec.image.is_some() => self.base_or(F16),
            Role::Embed if spec.head.tied => self.head_for(cols),
            Role::Embed | Role::LayerInputTable => self.embedding,
            // They are small, and errors in them would add up from layer to layer.
            Role::HeadStreamMix | Role::Layer(_, LayerTensor::StreamMix(_)) => F32,
            Role::Layer(_, LayerTensor::CompressPlace | LayerTensor::IndexCompressPlace) => F32,
            Role::Layer(_, LayerTensor::K | LayerTensor::V) => self.keys_values,
            // Their rows are as narrow as a head.
            Role::Layer(_, LayerTensor::KUp | LayerTensor::VUp | LayerTensor::KvUp)
                if !self.base.is_float() =>
            {
                Q8_0
            }
            Role::Layer(layer, tensor) if tensor.expert_part() == Some(Part::Down) => {
                down(layer, self.experts)
            }
            Role::Layer(_, tensor) if tensor.expert_part().is_some() => self.experts,
            Role::Layer(layer, LayerTensor::Dense(Part::Down) | LayerTensor::Shared(Part::Down))
                if self.some_down != self.experts =>
            {
                down(layer, self.base)
            }
            _ => self.base,
        }
    }

    /// The type of most matrices if it is a float, or this one.
    fn base_or(&self, float: Format) -> Format {
        if self.base.is_float() { self.base } else { float }
    }

    fn head_for(&self, cols: usize) -> Format {
        let any_width = self.base.block_len() < self.head.block_len();
        if any_width && self.head.row_bytes(cols).is_none() { Q8_0 } else { self.head }
    }
}

/// Layers whose down projections get more bits: the first and last eighths, and every third between.
/// Source: llama.cpp, `use_more_bits`; the choice is empirical.
fn loses_more(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// Another type for the tensors whose names a pattern matches.
#[derive(Debug, Clone)]
pub struct Override {
    text: String,
    pattern: Regex,
    format: Format,
}

/// Why the requested types are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// Not `REGEX=TYPE`.
    #[error("`{text}` is not a pattern and a type, like 'ffn_down_exps=q6_k': {problem}")]
    Pattern {
        /// As it was given.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// A pattern that matches nothing.
    #[error(
        "the pattern `{pattern}` matches none of the {tensors} matrices, which are called like {example}"
    )]
    Unmatched {
        /// As it was given.
        pattern: String,
        /// Matrices there are.
        tensors: usize,
        /// Name of one of them.
        example: String,
    },
    /// A block format for a matrix that has to stay exact.
    #[error("{role} has to stay F32, F16 or BF16, and `{pattern}` would make it {format}")]
    Exact {
        /// The tensor.
        role: String,
        /// As it was given.
        pattern: String,
        /// The type asked for.
        format: Format,
    },
    /// Rows that are not a whole number of blocks.
    #[error(
        "rows of {role} have {cols} columns, which do not divide into blocks of {block} as {format} needs; choose a type with \
         blocks of 32 (q8_0, q5_1, q4_0, iq4_nl), or allow {instead} for these tensors with --allow-fallback"
    )]
    Columns {
        /// The tensor.
        role: String,
        /// Columns of its rows.
        cols: usize,
        /// The type asked for.
        format: Format,
        /// Weights per block of that type.
        block: usize,
        /// The type that a fallback would use.
        instead: Format,
    },
    /// A type that can be read and not written.
    #[error("{0} can be read, not written; choose another type")]
    Unwritable(Format),
}

impl Override {
    /// Parses `REGEX=TYPE`.
    ///
    /// # Errors
    /// [`TypeError::Pattern`], [`TypeError::Unwritable`].
    pub fn parse(text: &str) -> Result<Self, TypeError> {
        let fail = |problem: String| TypeError::Pattern { text: text.to_owned(), problem };
        let (pattern, name) = text.rsplit_once('=').ok_or_else(|| fail("there is no `=`".to_owned()))?;
        let format = Format::from_name(name).ok_or_else(|| fail(format!("there is no type {name}")))?;
        if !format.is_written() {
            return Err(TypeError::Unwritable(format));
        }
        let compiled = Regex::new(pattern).map_err(|error| {
            // The last line of the cause describes the fault in the pattern.
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            fail(cause.lines().last().unwrap_or_default().to_owned())
        })?;
        Ok(Self { text: pattern.to_owned(), pattern: compiled, format })
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}={}'", self.text, self.format)
    }
}

/// A matrix that did not get the requested type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The matrix.
    pub role: Role,
    /// The requested type.
    pub wanted: Format,
    /// The type that it gets.
    pub got: Format,
}

/// The type of every matrix.
#[derive(Debug, Clone)]
pub struct TypePlan {
    formats: BTreeMap<Role, Format>,
    /// Matrices whose rows do not divide into blocks of the requested type.
    pub fallbacks: Vec<Fallback>,
}

impl TypePlan {
    /// Types of all matrices of `model`: those of `mixture`, overridden by the last pattern that matches the
    /// name.
    ///
    /// # Errors
    /// See [`TypeError`].
    pub fn new(
        model: &LoadedModel,
        mixture: &Mixture,
        overrides: &[Override],
        allow_fallback: bool,
    ) -> Result<Self, TypeError> {
        let matrices = matrices(model);
        let mut plan = Self { formats: BTreeMap::new(), fallbacks: Vec::new() };
        let mut matched = vec![false; overrides.len()];
        for &(role, matrix) in &matrices {
            let class = Class::of(role, matrix.rows);
            let name = gguf_name(role);
            let exact = matches!(class, Class::Router | Class::Vectors);
            let mut wanted = if exact { F32 } else { mixture.format(&model.spec, role, matrix.cols) };
            let mut last = None;
            for (rule, matched) in overrides.iter().zip(&mut matched) {
                if class != Class::Vectors && rule.pattern.is_match(&name) {
                    (*matched, wanted, last) = (true, rule.format, Some(rule));
                }
            }
            if let Some(rule) = last.filter(|_| exact && !wanted.is_float()) {
                return Err(TypeError::Exact { role: name, pattern: rule.text.clone(), format: wanted });
            }
            let got = match wanted.row_bytes(matrix.cols) {
                Some(_) => wanted,
                None => {
                    let instead = narrower(wanted, matrix.cols);
                    if !allow_fallback {
                        let (block, cols) = (wanted.block_len(), matrix.cols);
                        return Err(TypeError::Columns { role: name, cols, format: wanted, block, instead });
                    }
                    plan.fallbacks.push(Fallback { role, wanted, got: instead });
                    instead
                }
            };
            plan.formats.insert(role, got);
        }
        if let Some((rule, _)) = overrides.iter().zip(matched).find(|(_, matched)| !matched) {
            let all = || matrices.iter().filter(|(role, m)| Class::of(*role, m.rows) != Class::Vectors);
            let example = all().next_back().map_or_else(String::new, |(role, _)| gguf_name(*role));
            return Err(TypeError::Unmatched { pattern: rule.text.clone(), tensors: all().count(), example });
        }
        Ok(plan)
    }

    /// The type of a matrix.
    ///
    /// # Panics
    /// If the model has no such matrix.
    pub fn format(&self, role: Role) -> Format {
        *self.formats.get(&role).unwrap_or_else(|| panic!("the model has no {role}"))
    }
}

/// A type of about as many bits, with blocks that divide rows of `cols`.
fn narrower(wanted: Format, cols: usize) -> Format {
    let instead = match wanted {
        Q4K => Q5_0,
        Q5K => Q5_1,
        Q6K => Q8_0,
        Iq4Xs | Q2K | Q3K => Iq4Nl,
        _ => F16,
    };
    if instead.row_bytes(cols).is_some() { instead } else { F16 }
}

/// All matrices by role. The first expert of a bank represents all of them.
pub fn matrices(model: &LoadedModel) -> Vec<(Role, MatrixRef)> {
    let experts = model.tensors.banks().iter().flat_map(|bank| {
        let first = |&part: &Part| (bank.role(part), *first_expert(bank, part));
        bank.parts().iter().map(first).collect::<Vec<_>>()
    });
    model.tensors.dense().chain(experts).collect()
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}, because its rows do not divide into blocks of {}",
            self.role, self.got, self.wanted
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_checked_when_they_are_given() {
        assert!(Override::parse("ffn_down_exps=q6_k").is_ok());
        assert!(Override::parse(r"blk\.(0|1)\..*=Q8_0").is_ok());
        for (wrong, part) in [("ffn", "no `=`"), ("ffn=q9", "no type q9"), ("ffn(=q4_0", "unclosed group")] {
            let Err(TypeError::Pattern { problem, .. }) = Override::parse(wrong) else { panic!("{wrong}") };
            assert!(problem.contains(part), "{wrong}: {problem}");
        }
        assert_eq!(Override::parse("x=iq2_xs").err(), Some(TypeError::Unwritable(Format::Iq2Xs)));
    }

    #[test]
    fn more_bits_for_the_outer_layers_and_every_third() {
        let chosen: Vec<usize> = (0..24).filter(|&layer| loses_more(layer, 24)).collect();
        assert_eq!(chosen, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        assert_eq!((0..3).filter(|&layer| loses_more(layer, 3)).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn heads_of_narrow_rows() {
        let of = |name| Mixture::named(name).unwrap();
        assert_eq!((of("q4_0").head_for(2048), of("Q4_0").head_for(576)), (Q6K, Q8_0));
        // A type with large blocks does not change silently.
        assert_eq!(of("q4_k_m").head_for(576), Q6K);
        assert_eq!(of("mxfp4").head_for(576), Q8_0);
        assert_eq!(Mixture::named("iq2_xs"), None);
    }
}
