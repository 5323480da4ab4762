//! `moelten quantize`: a model folder or GGUF file in, one GGUF file out, every matrix in the chosen type.

use std::path::PathBuf;

use moelten_loader::convert::Conversion;
use moelten_quant::Format;
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;
use crate::open;
use crate::progress::{Progress, Unit, bytes};
use crate::signals::Polling;

/// Convert a model folder or GGUF file to a GGUF file of another type
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model folder or GGUF file
    source: PathBuf,
    /// GGUF file to write; it appears under this name only when it is complete
    target: PathBuf,
    /// Type of the matrices; norms, biases and routers are always F32
    #[arg(long = "type", value_name = "TYPE")]
    kind: Kind,
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

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let notes = Notes::detect();
    let model = open::load(Some(&args.source))?;
    open::mention(&model.notices);
    let format = args.kind.format();
    let quantised = model
        .tensors
        .catalog()
        .tensors()
        .iter()
        .find(|t| t.storage.format().is_some_and(|f| f.block_len() > 1));
    if let Some(tensor) = quantised.filter(|_| format.block_len() > 1 && !args.allow_requantize) {
        let problem = format!(
            "the source is quantised already ({} is {}); --allow-requantize does it all the same, start from the \
             original weights for the best result",
            tensor.name, tensor.storage
        );
        return Err(CommandError::Usage(problem).into());
    }
    let conversion = Conversion::plan(&model, &|_| format)?;
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
    notes.line(
        Tone::Plain,
        &format!("{}: {}, {} ({format})", args.target.display(), model.spec.name, bytes(size)),
    );
    Ok(())
}
