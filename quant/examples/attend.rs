//! Speed of attention for each tier: while decoding, bytes of cached keys and values read per second; in
//! prefill, GFLOP/s.
//!
//! `cargo run --release -p moelten-quant --example attend [THREADS [TIER]]`
//!
//! Decoding walks through 1 GiB of caches for each thread, because in a model the weights of many layers
//! are read in between and evict the processor's caches. A plain sum over the same memory is printed for
//! comparison.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use half::f16;
use moelten_quant::{Attend, Isa, KEY_GROUP, Kernels, KvHead, Running, SPAN};

/// Name, query heads, key heads, width of a head.
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("Qwen3-30B-A3B", 32, 4, 128),
    ("Mixtral-8x7B", 32, 8, 128),
    ("OLMoE", 16, 16, 128),
    ("SmolLM2-135M", 9, 3, 64),
];
/// Bytes of caches that a thread walks through.
const BYTES: usize = 1 << 30;
/// Tokens of a tile in prefill.
const TOKENS: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads: usize = args.first().map_or(1, |n| n.parse().expect("THREADS is a number"));
    let only = args.get(1).map(|name| Isa::from_name(name).expect("TIER is the name of a tier"));
    let caches: Vec<Vec<f16>> = (0..threads).map(|_| numbers(BYTES / size_of::<f16>())).collect();
    let floats: Vec<Vec<f32>> = (0..threads).map(|_| vec![0.5; BYTES / size_of::<f32>()]).collect();

    let best = Kernels::for_isa(Isa::best()).expect("the tier is available");
    let read = decode(threads, |thread| {
        for part in floats[thread].chunks(1 << 18) {
            black_box(best.dot(part, part));
        }
        BYTES
    });
    println!("{threads} threads; a plain sum reads {read:.1} GB/s per thread");
    println!(
        "f16 cache; decode in GB/s per thread, prefill at 512 and 16384 positions in GFLOP/s of one thread"
    );
    println!("tier    shape            decode 512   4096  16384 | prefill 512  16384");
    for isa in Isa::available().into_iter().filter(|&isa| only.is_none_or(|only| only == isa)) {
        let kernels = Kernels::for_isa(isa).expect("the tier is available");
        for (name, heads, kv_heads, head_dim) in SHAPES {
            let shape = Shape { group: heads / kv_heads, head_dim };
            let decoded = [512, 4096, 16384]
                .map(|context| decode(threads, |thread| shape.decode(kernels, &caches[thread], context)));
            let filled = [512, 16384].map(|context| shape.prefill(kernels, &caches[0], context));
            print!("{:7} {name:16} {:10.1} {:6.1} {:6.1}", isa.name(), decoded[0], decoded[1], decoded[2]);
            println!(" | {:11.1} {:6.1}", filled[0], filled[1]);
        }
    }
}

/// GB/s of each of some threads that run together; `run` returns the bytes that one pass reads.
fn decode(threads: usize, run: impl Fn(usize) -> usize + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let (run, barrier) = (&run, &barrier);
    let one = move |thread| {
        barrier.wait();
        let (start, mut bytes) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(300) {
            bytes += run(thread);
        }
        bytes as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        workers.into_iter().map(|worker| worker.join().expect("nothing panics")).collect()
    });
    rates.iter().sum::<f64>() / threads as f64
}

/// One key head and its queries.
#[derive(Clone, Copy)]
struct Shape {
    group: usize,
    head_dim: usize,
}

impl Shape {
    fn task<'a>(self, cache: &'a [f16], context: usize, queries: &'a [f32], tokens: usize) -> Attend<'a> {
        let capacity = context.next_multiple_of(KEY_GROUP);
        let (keys, values) = cache[..2 * capacity * self.head_dim].split_at(capacity * self.head_dim);
        Attend {
            kv: KvHead::F16 { keys, values },
            huge_pages: false,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            softcap: None,
            window: None,
            whole: None,
            bias: None,
            queries,
            stride: self.group * self.head_dim,
            group: self.group,
            tokens,
            first: context - tokens,
            spans: 0..context.div_ceil(SPAN),
        }
    }

    /// One token against every cache; returns their bytes.
    fn decode(self, kernels: &Kernels, caches: &[f16], context: usize) -> usize {
        let queries = vec![0.1; self.group * self.head_dim];
        let (mut out, mut state) = (queries.clone(), vec![Running::default(); self.group]);
        // Heads of a layer lie one after the other: with gaps, as their context is not full.
        let mut bytes = 0;
        for cache in caches.chunks_exact(2 * context * self.head_dim) {
            let task = self.task(cache, context, &queries, 1);
            for span in task.spans.clone() {
                kernels.attend(&Attend { spans: span..span + 1, ..task.clone() }, &mut out, &mut state);
            }
            bytes += size_of_val(cache);
        }
        black_box(&out);
        bytes
    }

    /// GFLOP/s of tiles at the end of a context.
    fn prefill(self, kernels: &Kernels, cache: &[f16], context: usize) -> f64 {
        let tokens = TOKENS.max(64 / self.group);
        let queries = vec![0.1; tokens * self.group * self.head_dim];
        let (mut out, mut state) = (queries.clone(), vec![Running::default(); tokens * self.group]);
        let task = self.task(cache, context, &queries, tokens);
        let (start, mut best) = (Instant::now(), Duration::MAX);
        while start.elapsed() < Duration::from_millis(200) {
            let start = Instant::now();
            kernels.attend(&task, black_box(&mut out), &mut state);
            best = best.min(start.elapsed());
        }
        (4 * tokens * self.group * self.head_dim * (context - tokens / 2)) as f64 / best.as_secs_f64() / 1e9
    }
}

/// Ordinary numbers, not all the same.
fn numbers(n: usize) -> Vec<f16> {
    let few: Vec<f16> =
        (0..4096).map(|i: u32| f16::from_f32(((i * 2_654_435) >> 16) as f32 / 32768.0 - 0.5)).collect();
    few.iter().copied().cycle().take(n).collect()
}
