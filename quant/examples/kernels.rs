//! Speed of the matrix kernels on one core, each tier and format, next to `gemm`'s f32 on the same shape.
//!
//! `cargo run --release -p moelten-quant --example kernels [ROWS COLS [FORMAT]]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, QMatrix, activations, encode};

/// Tokens of the products that are timed.
const TOKENS: [usize; 4] = [1, 4, 16, 128];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let size =
        |i: usize, default: usize| args.get(i).map_or(default, |a| a.parse().expect("ROWS COLS are numbers"));
    let (rows, cols) = (size(0, 1536), size(1, 2048));
    let only = args.get(2).map(|name| Format::from_name(name).expect("FORMAT is the name of a format"));

    println!(
        "{rows} x {cols}, one core; Gw/s: billions of weights, GB/s: bytes of weights, GF/s: 2 x products"
    );
    println!("tier        format     1: Gw/s   GB/s |    4: GF/s |   16: GF/s |   128: GF/s");
    for isa in Isa::available() {
        let kernels = Kernels::for_isa(isa).expect("the tier is available");
        for format in Format::ALL.into_iter().filter(|&f| only.is_none_or(|only| only == f)) {
            if !cols.is_multiple_of(format.block_len()) {
                continue;
            }
            let bytes = weights(format, rows * cols);
            let matrix =
                QMatrix::new(format, rows, cols, &bytes).expect("the length was computed from the shape");
            let rates = TOKENS.map(|tokens| {
                let kind = ActivationKind::of(format);
                let floats: Vec<f32> = (0..tokens * cols).map(|i| (i % 13) as f32 - 6.0).collect();
                let (lines, mut out) = (activations(kernels, kind, &floats, cols), vec![0.0; tokens * rows]);
                let x = Activations::new(kind, tokens, cols, &lines);
                let seconds = time(|| kernels.matmul(black_box(matrix), x, black_box(&mut out)));
                (rows * cols * tokens) as f64 / seconds / 1e9
            });
            let gigabytes = rates[0] * bytes.len() as f64 / (rows * cols) as f64;
            print!("{:11} {:8} {:9.1} {gigabytes:6.1}", isa.name(), format.name(), rates[0]);
            println!(" | {:10.1} | {:10.1} | {:10.1}", 2.0 * rates[1], 2.0 * rates[2], 2.0 * rates[3]);
        }
    }
    let rates = TOKENS.map(|tokens| {
        let (mut w, mut x, mut out) = (Vec::new(), Vec::new(), vec![0.0; tokens * rows]);
        let (w, x) = (aligned(&mut w, rows * cols), aligned(&mut x, tokens * cols));
        (rows * cols * tokens) as f64 / time(|| gemm_f32(w, x, [rows, cols, tokens], &mut out)) / 1e9
    });
    print!("gemm        F32      {:9.1} {:6.1}", rates[0], 4.0 * rates[0]);
    println!(" | {:10.1} | {:10.1} | {:10.1}", 2.0 * rates[1], 2.0 * rates[2], 2.0 * rates[3]);
}

/// Bytes of ordinary weights: subnormal or infinite ones would be timed at another speed.
fn weights(format: Format, n: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let mut bytes = vec![0; format.row_bytes(n).expect("rows are whole blocks")];
    let values: Vec<f32> = (0..n).map(|_| next() as f32 / 32768.0 - 1.0).collect();
    if encode(format, &values, &mut bytes).is_err() {
        // No encoder: random codes, and no byte that could give a half-precision scale or an E8M0 all its
        // bits.
        bytes.fill_with(|| next() as u8 & 0x77);
        if format == Format::Mxfp4 {
            bytes.iter_mut().step_by(format.block_bytes()).for_each(|scale| *scale = 120);
        }
    }
    bytes
}

/// `len` floats at the start of a cache line.
fn aligned(buffer: &mut Vec<f32>, len: usize) -> &[f32] {
    buffer.resize(len + 16, 0.5);
    let skip = buffer.as_ptr().align_offset(64);
    &buffer[skip..skip + len]
}

/// Seconds of the fastest of many runs.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(150) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}

/// `out[r, t] = sum over k of w[r, k] * x[t, k]` by the crate `gemm`, on one thread.
#[allow(unsafe_code, reason = "gemm takes pointers")]
fn gemm_f32(w: &[f32], x: &[f32], [rows, cols, tokens]: [usize; 3], out: &mut [f32]) {
    assert!(w.len() == rows * cols && x.len() == tokens * cols && out.len() == rows * tokens);
    // SAFETY: the strides and sizes lie within the slices, as just asserted.
    unsafe {
        gemm::gemm(
            rows,
            tokens,
            cols,
            out.as_mut_ptr(),
            1,
            tokens as isize,
            false,
            w.as_ptr(),
            1,
            cols as isize,
            x.as_ptr(),
            cols as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
