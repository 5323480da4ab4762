//! Example checkpoints: small models with random weights, one for each system of `docs/survey.md`, and models
//! with random weights of any configuration. They are Hugging Face folders, the same bytes for the same seed.
//! No file here knows options.

mod vocabulary;
mod weights;

use std::path::{Path, PathBuf};

use anyhow::Context;
use moelten_loader::container::hf_folder::CONFIG;
use moelten_loader::io::output::{PartialFile, free_bytes};
use moelten_loader::load::spec_of_config;
use moelten_loader::spec::Purpose;
use serde_json::Value;

use crate::exit::CommandError;
use crate::report::progress::bytes;

/// The files of a folder. The configuration is the last: without it the folder is no model.
const FILES: [&str; 5] =
    ["model.safetensors", "tokenizer.json", "tokenizer_config.json", PREPARATION, CONFIG];
/// What is done to images, in the folder of a model of images.
const PREPARATION: &str = "preprocessor_config.json";

/// An example by name.
pub struct Example {
    /// What the command line calls it.
    pub name: &'static str,
    /// The system, and its paper.
    pub system: &'static str,
    /// What to run it with, after `moelten run FOLDER`.
    pub run: &'static str,
    /// Its `config.json`.
    config: &'static str,
}

const GAPS: &str = r#"-p "The <extra_id_0> walks in <extra_id_1> park""#;

/// All examples, by the year of their systems.
pub const EXAMPLES: &[Example] = &[
    Example {
        name: "jacobs1991",
        system: "adaptive mixtures of local experts: a softmax gate over all (Jacobs et al. 1991)",
        run: r#"--no-template -p "The dog""#,
        config: include_str!("../examples/jacobs1991.json"),
    },
    Example {
        name: "shazeer2017",
        system: "the sparsely-gated layer between two LSTMs, the best 4 of 16 (Shazeer et al. 2017)",
        run: r#"--no-template -p "The dog""#,
        config: include_str!("../examples/shazeer2017.json"),
    },
    Example {
        name: "shazeer2017-rule",
        system: "its rule alone, in a transformer (Shazeer et al. 2017)",
        run: r#"--no-template -p "The dog""#,
        config: include_str!("../examples/shazeer2017-rule.json"),
    },
    Example {
        name: "t5",
        system: "T5 1.0, the host of Switch (Raffel et al. 2019)",
        run: GAPS,
        config: include_str!("../examples/t5.json"),
    },
    Example {
        name: "m2m100",
        system: "M2M100, the host of NLLB-MoE (Fan et al. 2020)",
        run: r#"--from eng_Latn --to deu_Latn -p "The dog sleeps.""#,
        config: include_str!("../examples/m2m100.json"),
    },
    Example {
        name: "gshard",
        system: "GShard: the second expert by chance, seed 7 (Lepikhin et al. 2020)",
        run: r#"--experts two:chance:7 --capacity paper --from eng_Latn --to deu_Latn -p "The dog sleeps.""#,
        config: include_str!("../examples/nllb-moe.json"),
    },
    Example {
        name: "switch",
        system: "Switch-Transformer: one expert, with a capacity (Fedus et al. 2021)",
        run: GAPS,
        config: include_str!("../examples/switch.json"),
    },
    Example {
        name: "glam",
        system: "GLaM: two experts in every other layer, distances in place of positions (Du et al. 2021)",
        run: r#"--no-template -p "The dog""#,
        config: include_str!("../examples/glam.json"),
    },
    Example {
        name: "vmoe",
        system: "V-MoE: a vision transformer, patches ranked over the batch (Riquelme et al. 2021)",
        run: "--image cat.png",
        config: include_str!("../examples/vmoe.json"),
    },
    Example {
        name: "st-moe",
        system: "ST-MoE: the second expert where it has a part, capacity 2.0 (Zoph et al. 2022)",
        run: r#"--experts two:0.2 --capacity paper -p "The <extra_id_0> walks in <extra_id_1> park""#,
        config: include_str!("../examples/switch.json"),
    },
    Example {
        name: "nllb-moe",
        system: "NLLB-MoE: two experts, 200 languages (NLLB team 2022)",
        run: r#"--from eng_Latn --to deu_Latn -p "The dog sleeps.""#,
        config: include_str!("../examples/nllb-moe.json"),
    },
    Example {
        name: "umt5",
        system: "umT5: every layer has its own distances (Chung et al. 2023)",
        run: GAPS,
        config: include_str!("../examples/umt5.json"),
    },
    Example {
        name: "adamvmoe",
        system: "AdaMV-MoE: routers, numbers of experts and heads by task (Chen et al. 2023)",
        run: "--task animals --image cat.png",
        config: include_str!("../examples/adamvmoe.json"),
    },
    Example {
        name: "mixtral",
        system: "Mixtral: the best 2 of 8 (Jiang et al. 2024)",
        run: r#"--no-template -p "The dog""#,
        config: include_str!("../examples/mixtral.json"),
    },
    Example {
        name: "jetmoe",
        system: "JetMoE: query heads are experts (Shen et al. 2024)",
        run: r#"--no-template -p "The dog""#,
        config: include_str!("../examples/jetmoe.json"),
    },
    Example {
        name: "dsmoe",
        system: "DS-MoE: as many experts as are over a threshold (Pan et al. 2024)",
        run: r#"--no-template --experts over:0.48,attn=over:0.48 -p "The dog""#,
        config: include_str!("../examples/dsmoe.json"),
    },
];

/// The example of a name.
pub fn find(name: &str) -> Option<&'static Example> {
    EXAMPLES.iter().find(|example| example.name == name)
}

impl Example {
    /// Its configuration.
    pub fn config(&self) -> Value {
        serde_json::from_str(self.config).expect("the examples are JSON, as a test shows")
    }
}

/// Writes the folder of a model of this configuration; the bytes follow from it and from `seed` alone.
/// `name` is for messages.
///
/// # Errors
/// [`CommandError`] for a folder that is not empty; configurations that do not load; failed writes.
pub fn write(name: &str, config: &Value, seed: u64, folder: &Path) -> anyhow::Result<()> {
    let spec = spec_of_config(Path::new(name), config)?;
    let tensors = weights::tensors(&spec, config)?;
    let purpose = spec.encoder.map(|encoder| encoder.purpose);
    let tokenizer = match spec.image {
        None => Some(vocabulary::tokenizer(spec.vocab, purpose)?),
        Some(_) => None,
    };
    prepare(folder)?;
    check_room(folder, weights::bytes(&tensors))?;
    weights::write(&folder.join(FILES[0]), &tensors, seed)?;
    let end = vocabulary::END;
    let json = |value: &Value| format!("{value:#}\n").into_bytes();
    if let Some(tokenizer) = tokenizer {
        put(&folder.join(FILES[1]), tokenizer.to_string().as_bytes())?;
        put(&folder.join(FILES[2]), &json(&serde_json::json!({ "eos_token": end })))?;
    }
    if let Some(image) = &spec.image {
        let settings = serde_json::json!({
            "size": { "height": image.size, "width": image.size }, "resample": 2,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        });
        put(&folder.join(PREPARATION), &json(&settings))?;
    }
    put(&folder.join(CONFIG), &json(config))
}

/// Makes the folder, or takes one that has nothing but what an interrupted run left.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot create {}", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    let left = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (own, unfinished) = match name.strip_suffix(".partial") {
            Some(own) => (own, true),
            None => (name, false),
        };
        FILES.contains(&own) && (unfinished || own != CONFIG)
    };
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if !left(&path) {
            let problem = format!(
                "{} is not empty: it has {}; give a new folder with --out",
                folder.display(),
                path.display()
            );
            return Err(CommandError::Usage(problem).into());
        }
    }
    Ok(())
}

/// Refuses weights larger than the free disk space.
fn check_room(folder: &Path, size: u64) -> Result<(), CommandError> {
    match free_bytes(folder) {
        Some(free) if free < size => Err(CommandError::Room {
            target: folder.display().to_string(),
            size: bytes(size),
            missing: bytes(size - free),
            free: bytes(free),
        }),
        _ => Ok(()),
    }
}

fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut file = PartialFile::create(path, &[])?;
    file.write(bytes)?;
    Ok(file.commit()?)
}

/// What a model of this purpose is run with.
pub fn run_words(purpose: Option<Purpose>) -> &'static str {
    match purpose {
        None => r#"--no-template -p "The dog""#,
        Some(Purpose::Translation) => r#"--from eng_Latn --to deu_Latn -p "The dog sleeps.""#,
        Some(Purpose::Gaps | Purpose::TextToText) => GAPS,
        Some(Purpose::Images) => "--image cat.png",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_model_and_has_a_name_of_its_own() {
        for (index, example) in EXAMPLES.iter().enumerate() {
            let spec = spec_of_config(Path::new(example.name), &example.config()).unwrap();
            assert!(spec.image.is_some() || spec.vocab >= vocabulary::LEAST, "{}", example.name);
            assert!(EXAMPLES[index + 1..].iter().all(|other| other.name != example.name), "{}", example.name);
        }
    }
}
