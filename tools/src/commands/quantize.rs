//! `moelten quantize`: a model folder or GGUF file in, one GGUF file out, in the chosen layout, every matrix in the chosen
//! type or as it is.

use std::path::PathBuf;

use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::{LoadedModel, Source};
use moelten_loader::roles::{LayerTensor, Part, Role};
use moelten_quant::Format;
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;
use crate::open;
use crate::progress::{Progress, Unit, bytes};
use crate::signals::Polling;

/// Convert a model folder or GGUF file to a GGUF file of another type or layout
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model folder or GGUF file
    source: PathBuf,
    /// GGUF file to write; it appears under this name only when it is complete
    target: PathBuf,
    /// Type of the matrices; norms, biases and routers are then F32 [default for a GGUF file: what it has, unchanged]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// How the experts lie
    #[arg(long, value_name = "LAYOUT", default_value = "standard")]
    layout: LayoutArg,
    /// Allow a source that is quantised already: its loss adds to the new one
    #[arg(long)]
    allow_requantize: bool,
}

/// `--type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// 32-bit floats
    F32,
    /// 8-bit blocks of 32 with a half-precision scale, 8.5 bits per weight
    #[value(name = "q8_0")]
    Q8_0,
}

impl Kind {
    fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::Q8_0 => Format::Q8_0,
        }
    }
}

/// `--layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LayoutArg {
    /// As every program that reads GGUF knows them
    Standard,
    /// Each in one piece and in the order of the kernels, for models larger than memory; only moelten runs such a file,
    /// and `--layout standard` turns it back
    Packed,
}

impl From<LayoutArg> for FileLayout {
    fn from(arg: LayoutArg) -> Self {
        match arg {
            LayoutArg::Standard => Self::Standard,
            LayoutArg::Packed => Self::Packed,
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let notes = Notes::detect();
    let model = open::load(Some(&args.source))?;
    open::mention(&model.notices);
    let format = args.kind.map(Kind::format);
    check_types(&model, format, args.allow_requantize)?;
    let choose = format.map(|format| move |_: Role| format);
    let types = choose.as_ref().map_or(Types::Kept, |choose| Types::Chosen(choose));
    let conversion = Conversion::plan_as(&model, args.layout.into(), types)?;
    open::mention(&conversion.notices);
    let polling = Polling::begin();
    let mut progress = Progress::new("writing", Unit::Bytes, conversion.bytes());
    let complete = conversion.write(&args.target, &mut |state| {
        progress.set(state.written);
        !polling.stop().load(std::sync::atomic::Ordering::Relaxed)
    })?;
    drop(progress);
    if !complete {
        return Err(CommandError::Stopped.into());
    }
    let size = std::fs::metadata(&args.target)?.len();
    let mut about = format.map_or_else(|| "types as they were".to_owned(), |format| format.to_string());
    if args.layout == LayoutArg::Packed {
        about = format!("packed, {about}");
    }
    notes.line(
        Tone::Plain,
        &format!("{}: {}, {} ({about})", args.target.display(), model.spec.name, bytes(size)),
    );
    Ok(())
}

/// Whether the source can be written in this format, or as it is.
fn check_types(model: &LoadedModel, format: Option<Format>, allow_requantize: bool) -> anyhow::Result<()> {
    let Some(format) = format else {
        if matches!(model.source, Source::Hf { .. }) {
            let problem = "a model folder has no types that could be kept; name one, for example --type q8_0";
            return Err(CommandError::Usage(problem.to_owned()).into());
        }
        return Ok(());
    };
    let Some((role, found)) = quantised(model).filter(|_| format.block_len() > 1 && !allow_requantize) else {
        return Ok(());
    };
    let problem = format!(
        "the source is quantised already ({role} is {found}); --allow-requantize does it all the same, start from the \
         original weights for the best result"
    );
    Err(CommandError::Usage(problem).into())
}

/// A matrix of blocks, if the model has one.
fn quantised(model: &LoadedModel) -> Option<(Role, Format)> {
    let dense = model.tensors.dense().map(|(role, matrix)| (role, matrix.format));
    let experts = (0..model.spec.layers.len()).flat_map(|layer| {
        let role = move |part| Role::Layer(layer, LayerTensor::Experts(part));
        let all = model.tensors.experts(layer).iter();
        all.flat_map(move |expert| Part::ALL.map(|part| (role(part), expert.part(part).format)))
    });
    dense.chain(experts).find(|(_, format)| format.block_len() > 1)
}
