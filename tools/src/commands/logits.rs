//! `moelten logits`: what the model computes for a given text, as a safetensors file, for comparison with other engines.
//! The file's layout is a promise: `input_ids` i32 `[T]`, `logits` f32 `[T, vocab]`, `router.L` i32 `[T, k]` per MoE layer.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use moelten_engine::decoder::Observer;
use moelten_engine::router::Routing;
use moelten_engine::session::{Session, SessionOptions};
use moelten_loader::load::load;
use moelten_loader::safetensors::{SafeTensor, SafeValues, write_safetensors};

use crate::open::{self, Kv, Runtime};

/// Write the logits and routes of a text to a safetensors file
#[derive(clap::Args)]
pub struct Args {
    /// GGUF file or model folder
    model: PathBuf,
    /// Token ids, as 5,7,9
    #[arg(long, value_delimiter = ',', required_unless_present = "text", conflicts_with = "text")]
    ids: Vec<u32>,
    /// Text; BOS is added if the model's tokenizer adds one
    #[arg(long)]
    text: Option<String>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Precision of the KV cache
    #[arg(long, default_value = "f32")]
    kv: Kv,
    #[command(flatten)]
    runtime: Runtime,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let loaded = load(&args.model)?;
    let ids = match &args.text {
        None => args.ids,
        Some(text) => {
            let tokenizer = loaded.text()?.tokenizer;
            let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
            bos.into_iter().chain(tokenizer.encode_text(text)?).collect()
        }
    };
    if ids.is_empty() {
        bail!("there are no tokens to compute; the text is empty");
    }
    let model = open::start(loaded, &args.runtime)?;
    let vocab = model.spec().vocab;
    let mut session = Session::new(model, SessionOptions { context: Some(ids.len()), kv: args.kv.into() })?;
    let (mut logits, mut routes) = (Vec::with_capacity(ids.len() * vocab), Routes::default());
    session.append_all(&ids, &AtomicBool::new(false), &mut routes, &mut |chunk| {
        logits.extend_from_slice(chunk);
        Ok(())
    })?;
    let ids: Vec<i32> = ids.iter().map(|&id| i32::try_from(id)).collect::<Result<_, _>>()?;
    let tokens = ids.len() as u64;
    let tensor = |values, shape: &[u64]| SafeTensor { values, shape: shape.to_vec() };
    let names: Vec<String> = routes.0.iter().map(|(layer, _)| format!("router.{layer}")).collect();
    let mut tensors = vec![
        ("input_ids", tensor(SafeValues::I32(&ids), &[tokens])),
        ("logits", tensor(SafeValues::F32(&logits), &[tokens, vocab as u64])),
    ];
    for (name, (_, experts)) in names.iter().zip(&routes.0) {
        let per_token = experts.len() as u64 / tokens;
        tensors.push((name, tensor(SafeValues::I32(experts), &[tokens, per_token])));
    }
    write_safetensors(&args.out, &tensors).context("the logits were computed, but could not be written")?;
    Ok(())
}

/// Experts of each MoE layer, `[tokens, k]`, best first.
#[derive(Default)]
struct Routes(Vec<(usize, Vec<i32>)>);

impl Observer for Routes {
    fn routed(&mut self, layer: usize, routing: &Routing) {
        let index = self.0.iter().position(|(known, _)| *known == layer).unwrap_or_else(|| {
            self.0.push((layer, Vec::new()));
            self.0.len() - 1
        });
        for token in 0..routing.tokens() {
            self.0[index].1.extend(routing.token(token).0.iter().map(|&id| id as i32));
        }
    }
}
