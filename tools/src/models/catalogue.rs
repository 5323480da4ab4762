//! The catalogue: models worth a first download, with figures to judge them by. It is data in the repository;
//! a file named by `MOELTEN_CATALOGUE` replaces it. It must not know this machine.

use std::path::PathBuf;

use anyhow::Context as _;
use moelten_hub::ModelName;
use serde::Deserialize;

use crate::exit::CommandError;

/// The catalogue of the repository.
static OWN: &str = include_str!("../../data/catalogue.toml");
/// The variable that names another one.
const VARIABLE: &str = "MOELTEN_CATALOGUE";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    model: Vec<KnownModel>,
}

/// A model of the catalogue. Its figures are approximate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownModel {
    /// For people.
    pub name: String,
    /// On the hub, with the quantisation.
    pub model: String,
    /// `general.architecture` of its files.
    pub arch: String,
    /// Size of its files.
    pub bytes: u64,
    /// Weights outside the routed experts.
    pub shared_bytes: u64,
    /// What one token reads.
    pub token_bytes: u64,
    /// Weights, and how many of them a token uses.
    pub params: (u64, u64),
    /// Routed experts of a layer, and how many of them a token chooses.
    pub experts: (u64, u64),
    /// Layers with routed experts; most models have about 48.
    #[serde(default = "usual_layers")]
    pub layers: u64,
    /// One sentence.
    pub good_for: String,
}

fn usual_layers() -> u64 {
    48
}

impl KnownModel {
    /// All models, from the weakest to the strongest.
    ///
    /// # Errors
    /// A catalogue of the user that cannot be read or is none.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) else {
            return parse(OWN).context("the catalogue in the program");
        };
        let path = PathBuf::from(path);
        let place = || format!("{VARIABLE} names {}", path.display());
        let text = std::fs::read_to_string(&path).with_context(place)?;
        parse(&text).map_err(|why| CommandError::Usage(format!("{}: {why}", place())).into())
    }

    /// Its name on the hub in parts.
    ///
    /// # Errors
    /// A name that is none.
    pub fn hub_name(&self) -> anyhow::Result<ModelName> {
        let none = || CommandError::Usage(format!("{:?} in the catalogue is no name on the hub", self.model));
        Ok(ModelName::parse(&self.model)?.ok_or_else(none)?)
    }

    /// Bytes of all routed experts.
    pub fn expert_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.shared_bytes)
    }

    /// Bytes of routed experts that one token reads.
    pub fn routed_bytes(&self) -> u64 {
        let (experts, chosen) = self.experts;
        (self.expert_bytes() as f64 * chosen as f64 / experts.max(1) as f64) as u64
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<KnownModel>> {
    Ok(toml::from_str::<Catalogue>(text)?.model)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use moelten_loader::load::reads_gguf;

    use super::*;

    #[test]
    fn every_model_is_named_readable_and_has_figures_that_agree() {
        let all = parse(OWN).expect("a catalogue");
        assert!((12..=16).contains(&all.len()), "about a dozen, not {}", all.len());
        for model in &all {
            let name = model.hub_name().expect("a name on the hub");
            assert!(name.quant.is_some() && name.revision.is_none(), "{}", model.model);
            assert!(reads_gguf(&model.arch), "{}: {} is not supported", model.name, model.arch);
            let (experts, chosen) = model.experts;
            assert!(0 < chosen && chosen < experts, "{}", model.name);
            assert!((16..=94).contains(&model.layers), "{}: {} layers", model.name, model.layers);
            let (params, active) = model.params;
            assert!(0 < active && active < params, "{}", model.name);
            // Between two and six bits in the mean: the sizes of four-bit files.
            let bits = 8.0 * model.bytes as f64 / params as f64;
            assert!((3.8..6.5).contains(&bits), "{}: {bits:.1} bits for a weight", model.name);
            let (routed, whole) = (model.routed_bytes(), model.routed_bytes() + model.shared_bytes);
            assert!(
                routed < model.token_bytes && model.token_bytes <= whole + whole / 20,
                "{}: {} bytes for a token, of which {routed} are routed and {whole} all",
                model.name,
                model.token_bytes
            );
            assert!(model.good_for.ends_with('.') && model.good_for.len() < 100, "{}", model.name);
        }
        let names: BTreeSet<_> = all.iter().map(|model| &model.model).collect();
        assert_eq!(names.len(), all.len(), "no model is there twice");
        let sizes: Vec<_> = all.iter().map(|model| model.bytes >> 30).collect();
        assert!(sizes.iter().any(|&gib| gib < 5) && sizes.iter().any(|&gib| gib > 60), "{sizes:?}");
    }

    #[test]
    fn mistakes_are_told() {
        assert!(parse("[[model]]\nname = 1").is_err());
        let first = OWN.split("[[model]]").nth(1).expect("a model").replace("layers = 16\n", "");
        let short = parse(&format!("[[model]]{first}")).expect("layers may be left out");
        assert_eq!(short[0].layers, usual_layers());
        let unknown = format!("{}\ncolour = \"red\"\n", OWN.trim_end());
        assert!(parse(&unknown).expect_err("an unknown field").to_string().contains("colour"));
    }
}
