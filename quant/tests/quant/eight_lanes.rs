//! Tiers of eight floats have the same bits on x86-64 and on ARM, in attention, norms, gates and products of
//! floats too: a number stands for all of them, and every processor must find it.

use half::f16;
use moelten_quant::{Attend, Format, Isa, Kernels, KvHead, QMatrix, Running};

use crate::common::{Packed, Rng, Weights, product, tiers};

/// What the tiers give; it changes with the order of any sum.
const EXPECTED: u64 = 0x7da8_54de_f973_104f;

/// FNV-1a over the bits of all results.
struct Digest(u64);

impl Digest {
    fn add(&mut self, values: &[f32]) {
        for byte in values.iter().flat_map(|value| value.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn vectors(kernels: &Kernels, rng: &mut Rng, digest: &mut Digest) {
    for n in [1, 3, 8, 13, 64, 100, 1000] {
        let [a, b, c] = [rng.floats(n), rng.floats(n), rng.floats(n)];
        digest.add(&[kernels.dot(&a, &b)]);
        let (mut y, mut halves) = (b.clone(), vec![f16::ZERO; n]);
        kernels.axpy(0.3, &a, &mut y);
        kernels.scale(1.7, &mut y);
        kernels.to_f16(&y, &mut halves);
        digest.add(&halves.iter().map(|half| half.to_f32()).collect::<Vec<_>>());
        kernels.rms_norm(&a, &b, 1e-5, &mut y);
        digest.add(&y);
        kernels.layer_norm(&a, &b, &c, 1e-5, &mut y);
        digest.add(&y);
        let gate: Vec<f32> = a.iter().map(|a| a * 30.0).collect();
        y.copy_from_slice(&b);
        kernels.silu_mul(&gate, &mut y);
        digest.add(&y);
        y.copy_from_slice(&b);
        kernels.gelu_tanh_mul(&gate, &mut y);
        digest.add(&y);
    }
}

fn products(kernels: &Kernels, rng: &mut Rng, digest: &mut Digest) {
    for format in [Format::F32, Format::F16, Format::BF16] {
        for (rows, cols, tokens) in [(5, 70, 1), (9, 600, 7), (33, 1100, 70)] {
            let bytes = Weights::Random.bytes(format, rows * cols, rng);
            let x = Packed::new(kernels, format, &rng.floats(tokens * cols), cols);
            let matrix = QMatrix::new(format, rows, cols, &bytes).unwrap();
            digest.add(&product(kernels, matrix, x.view()));
        }
    }
}

fn attention(kernels: &Kernels, rng: &mut Rng, digest: &mut Digest) {
    const POSITIONS: usize = 1184;
    for (head_dim, group, tokens, softcap, window) in
        [(64, 4, 1, None, None), (36, 3, 5, Some(1.5), None), (128, 1, 9, None, Some(100))]
    {
        let [keys, values] = [rng.floats(POSITIONS * head_dim), rng.floats(POSITIONS * head_dim)];
        let half = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let halves = [half(&keys), half(&values)];
        let queries = rng.floats(tokens * group * head_dim);
        for kv in [
            KvHead::F32 { keys: &keys, values: &values },
            KvHead::F16 { keys: &halves[0], values: &halves[1] },
        ] {
            let task = Attend {
                kv,
                huge_pages: false,
                head_dim,
                scale: 0.2,
                softcap,
                window,
                whole: None,
                bias: None,
                queries: &queries,
                stride: group * head_dim,
                group,
                tokens,
                first: POSITIONS - tokens,
                spans: 0..2,
            };
            let mut out = vec![0.0; queries.len()];
            let mut state = vec![Running::default(); tokens * group];
            kernels.attend(&task, &mut out, &mut state);
            digest.add(&out);
            state.iter().for_each(|state| digest.add(&[state.max, state.sum]));
        }
    }
}

#[test]
fn tiers_of_eight_floats_have_the_same_bits_on_every_processor() {
    let eight = |isa| matches!(isa, Isa::Avx2 | Isa::AvxVnni | Isa::Neon | Isa::DotProd | Isa::I8mm);
    for kernels in tiers().into_iter().filter(|kernels| eight(kernels.isa())) {
        let (mut rng, mut digest) = (Rng(7), Digest(0xcbf2_9ce4_8422_2325));
        vectors(kernels, &mut rng, &mut digest);
        let after_vectors = digest.0;
        products(kernels, &mut rng, &mut digest);
        let after_products = digest.0;
        attention(kernels, &mut rng, &mut digest);
        let found = digest.0;
        assert_eq!(
            found,
            EXPECTED,
            "{}: {found:#x}; after vectors {after_vectors:#x}, after products {after_products:#x}",
            kernels.isa()
        );
    }
}
