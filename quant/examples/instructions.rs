//! One product between two calls to the system that ask for the parent process, for `instructions.py` to
//! count its instructions.
//!
//! `instructions TIER FORMAT TOKENS`

use std::hint::black_box;

use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, QMatrix, activations};

const ROWS: usize = 32;
const COLS: usize = 512;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let isa = Isa::from_name(&args[0]).expect("TIER is the name of a tier");
    let kernels = Kernels::for_isa(isa).expect("this machine has the tier");
    let format = Format::from_name(&args[1]).expect("FORMAT is the name of a format");
    let tokens: usize = args[2].parse().expect("TOKENS is a number");

    let bytes = vec![0x33; ROWS * format.row_bytes(COLS).expect("whole blocks")];
    let matrix = QMatrix::new(format, ROWS, COLS, &bytes).expect("the length was computed from the shape");
    let kind = ActivationKind::of(format);
    let lines = activations(kernels, kind, &vec![1.0; tokens * COLS], COLS);
    let mut out = vec![0.0; tokens * ROWS];
    mark();
    kernels.matmul(black_box(matrix), Activations::new(kind, tokens, COLS, &lines), black_box(&mut out));
    mark();
    black_box(out);
}

fn mark() {
    #[cfg(unix)]
    black_box(std::os::unix::process::parent_id());
}
