//! Speed of the encoders on one core, without and with importance, and the error they leave on normal values.
//!
//! `cargo run --release -p moelten-quant --example encode [FORMAT]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use moelten_quant::{Format, decode, encode_weighted};

const ROWS: usize = 128;
const COLS: usize = 2048;

fn main() {
    let only =
        std::env::args().nth(1).map(|name| Format::from_name(&name).expect("FORMAT is the name of a format"));
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    // The sum of twelve uniform numbers is nearly normal.
    let values: Vec<f32> = (0..ROWS * COLS).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    let importance: Vec<f32> = (0..COLS).map(|_| uniform().powi(4) + 0.001).collect();

    println!("{ROWS} x {COLS} values, one core; MB/s of 32-bit floats read; error relative to the values");
    println!("format     MB/s     error | importance: MB/s   weighted error");
    for format in Format::ALL.into_iter().filter(|&f| only.is_none_or(|only| only == f)) {
        let mut bytes = vec![0; ROWS * format.row_bytes(COLS).expect("rows are whole blocks")];
        if encode_weighted(format, &values, None, &mut bytes).is_err() {
            continue;
        }
        print!("{:8}", format.name());
        for weights in [None, Some(&importance[..])] {
            let seconds = fastest(|| {
                encode_weighted(format, black_box(&values), weights, &mut bytes)
                    .expect("it went well before");
            });
            let mut back = vec![0.0; values.len()];
            decode(format, &bytes, &mut back);
            let rate = (values.len() * size_of::<f32>()) as f64 / seconds / 1e6;
            let separator = if weights.is_some() { " |" } else { "" };
            print!("{separator} {rate:7.0} {:9.6}", error(&values, &back, weights.unwrap_or(&[1.0])));
        }
        println!();
    }
}

/// `sqrt(sum w * (x - y)^2 / sum w * x^2)`, `w` by column.
fn error(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
    let sums = x.iter().zip(y).zip(w.iter().cycle()).fold((0.0, 0.0), |(error, size), ((&x, &y), &w)| {
        let (w, x, y) = (f64::from(w), f64::from(x), f64::from(y));
        (error + w * (x - y) * (x - y), size + w * x * x)
    });
    (sums.0 / sums.1).sqrt()
}

/// Seconds of the fastest of several runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(100) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}
