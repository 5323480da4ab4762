//! Some products and nothing else, for `instructions.py` to count their instructions.
//!
//! `instructions TIER FORMAT TOKENS TIMES`

use std::hint::black_box;

use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, QMatrix, activations};

const ROWS: usize = 64;
const COLS: usize = 1024;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse::<usize>().expect("TOKENS and TIMES are numbers");
    let isa = Isa::from_name(&args[0]).expect("TIER is the name of a tier");
    let kernels = Kernels::for_isa(isa).expect("this machine has the tier");
    let format = Format::from_name(&args[1]).expect("FORMAT is the name of a format");
    let (tokens, times) = (number(2), number(3));

    let bytes = vec![0x33; ROWS * format.row_bytes(COLS).expect("whole blocks")];
    let matrix = QMatrix::new(format, ROWS, COLS, &bytes).expect("the length was computed from the shape");
    let kind = ActivationKind::of(format);
    let lines = activations(kernels, kind, &vec![1.0; tokens * COLS], COLS);
    let mut out = vec![0.0; tokens * ROWS];
    for _ in 0..times {
        let x = Activations::new(kind, tokens, COLS, &lines);
        kernels.matmul(black_box(matrix), x, black_box(&mut out));
    }
}
