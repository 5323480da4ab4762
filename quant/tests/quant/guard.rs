//! No kernel reads or writes past its slices: every slice ends where memory that may not be touched begins;
//! of matrices and activations another copy begins where it ends.

#![allow(unsafe_code, reason = "a guard page is made with mmap and mprotect")]

use crate::common::{Packed, Rng, Weights, tiers};
use half::f16;
use moelten_quant::{
    ActivationKind, Activations, Attend, BLOCK, Columns, DeltaStep, Format, HeadMatrix, Isa, KEY_GROUP,
    Kernels, KvHead, Line, QMatrix, Record, Running, SpaceStep,
};

fn scalar() -> &'static Kernels {
    Kernels::for_isa(Isa::Scalar).unwrap()
}

/// Memory between two pages without access, of which it touches one.
struct Guarded<T> {
    map: *mut libc::c_void,
    map_len: usize,
    start: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    /// Values that end where a page without access begins.
    fn new(values: &[T]) -> Self {
        Self::at(values, true)
    }

    /// Values that begin where a page without access ends.
    fn after(values: &[T]) -> Self {
        Self::at(values, false)
    }

    fn at(values: &[T], end: bool) -> Self {
        let bytes = size_of_val(values);
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let map_len = bytes.next_multiple_of(page) + 2 * page;
        // SAFETY: a new private mapping; its first and last page lose their access, and the values are
        // copied to what is between, which is long enough.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
            let map =
                libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map, page, libc::PROT_NONE), 0);
            assert_eq!(libc::mprotect(map.byte_add(map_len - page), page, libc::PROT_NONE), 0);
            let start = map.byte_add(if end { map_len - page - bytes } else { page }).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            Self { map, map_len, start, len: values.len() }
        }
    }

    fn get(&mut self) -> &mut [T] {
        // SAFETY: `at` wrote `len` values there; a multiple of their size from a page they are aligned.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `at` made.
        unsafe { libc::munmap(self.map, self.map_len) };
    }
}

/// Weights, activations and outputs at a guard page, for rows that do and do not fill a vector, and tokens
/// that do and do not fill a tile; all of them, and some at the end of the records.
#[test]
fn products_stay_within_their_slices() {
    let mut rng = Rng(1);
    for format in Format::ALL {
        let columns: &[usize] = match format.block_len() {
            1 => &[1, 5, 8, 15, 17, 31, 33, 40, 521],
            32 => &[32, 96],
            _ => &[256, 512],
        };
        for &cols in columns {
            for rows in [1, 5, 8, 15, 16, 17, 33, 48] {
                let bytes = Weights::Random.bytes(format, rows * cols, &mut rng);
                let [mut last, mut first] = [Guarded::new(&bytes), Guarded::after(&bytes)];
                for tokens in [1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 25, 33, 129] {
                    let packed = Packed::new(scalar(), format, &rng.floats(tokens * cols), cols);
                    let [mut last_x, mut first_x] =
                        [Guarded::new(&packed.lines), Guarded::after(&packed.lines)];
                    let mut out = Guarded::new(&vec![0.0; rows * tokens]);
                    for kernels in tiers() {
                        if kernels.isa() == Isa::Scalar && tokens > 9 {
                            continue; // plain Rust, and slow
                        }
                        for (bytes, lines) in [(last.get(), last_x.get()), (first.get(), first_x.get())] {
                            let matrix = QMatrix::new(format, rows, cols, bytes).unwrap();
                            let x = Activations::new(packed.kind, tokens, cols, lines);
                            kernels.matmul(matrix, x, out.get());
                            let some = tokens.min(10);
                            let x = x.slice_tokens(tokens - some..tokens);
                            let at = (tokens - some) * rows;
                            kernels.matmul(matrix, x, &mut out.get()[at..]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn packing_stays_within_its_slices() {
    let mut rng = Rng(4);
    for kernels in tiers() {
        for kind in [ActivationKind::F32, ActivationKind::Q8] {
            for width in 1..=BLOCK {
                for tokens in [1, 2, 8, 9, 17] {
                    let values = rng.floats(tokens * width);
                    for mut x in [Guarded::new(&values), Guarded::after(&values)] {
                        let mut lines = Guarded::new(&vec![Line::ZERO; kind.record_lines(tokens)]);
                        let from = Columns { x: x.get(), stride: width, width, tokens };
                        kernels.fill(from, 0, Record { kind, tokens, lines: lines.get() });
                        let mut to = Guarded::new(&vec![Line::ZERO; kind.record_lines(1)]);
                        let all = Activations::new(kind, tokens, width, lines.get());
                        all.gather(0, [tokens - 1].into_iter(), to.get());
                    }
                }
            }
        }
    }
}

#[test]
fn vector_kernels_stay_within_their_slices() {
    let mut rng = Rng(2);
    for kernels in tiers() {
        for n in (1..70).chain([1000, 1023]) {
            let (mut a, mut b, mut c) =
                (Guarded::new(&rng.floats(n)), Guarded::new(&rng.floats(n)), Guarded::new(&rng.floats(n)));
            let (mut out, mut halves) = (Guarded::new(&vec![0.0; n]), Guarded::new(&vec![f16::ONE; n]));
            kernels.dot(a.get(), b.get());
            kernels.axpy(0.5, a.get(), b.get());
            kernels.to_f16(a.get(), halves.get());
            kernels.scale(0.5, a.get());
            kernels.rms_norm(a.get(), b.get(), 1e-5, out.get());
            kernels.layer_norm(a.get(), b.get(), c.get(), 1e-5, out.get());
            kernels.silu_mul(a.get(), b.get());
            kernels.gelu_tanh_mul(a.get(), b.get());
        }
    }
}

#[test]
fn steps_of_recurrences_stay_within_their_slices() {
    let mut rng = Rng(4);
    for kernels in tiers() {
        for width in (1..70).chain([128, 150]) {
            let mut guarded = |n: usize| Guarded::new(&rng.floats(n));
            let [mut from, mut to] = [guarded(3 * width), guarded(3 * width)];
            let [mut keep, mut q, mut k, mut read] = std::array::from_fn(|_| guarded(3));
            let [mut v, mut c, mut out] = std::array::from_fn(|_| guarded(width));
            let matrix = HeadMatrix { before: Some(from.get()), now: to.get() };
            let (keep, q, k, v) = (&*keep.get(), &*q.get(), &*k.get(), &*v.get());
            kernels.delta_step(DeltaStep { matrix, keep, q, k, v, strength: 0.5 }, out.get());
            let matrix = HeadMatrix { before: Some(from.get()), now: to.get() };
            let space = SpaceStep { matrix, keep: 0.5, x: q, step: 0.5, b: v, c: c.get() };
            kernels.space_step(space, read.get());
        }
    }
}

#[test]
fn attention_stays_within_its_slices() {
    let mut rng = Rng(3);
    for kernels in tiers() {
        for head_dim in [2, 8, 18, 32, 100] {
            for (first, tokens, group) in [(0, 1, 1), (63, 2, 3), (130, 9, 1), (300, 1, 8)] {
                let positions: usize = first + tokens;
                let grouped = positions.next_multiple_of(KEY_GROUP);
                let mut keys = Guarded::new(&rng.floats(grouped * head_dim));
                let mut values = Guarded::new(&rng.floats(positions * head_dim));
                let mut half_keys = Guarded::new(&vec![f16::ONE; grouped * head_dim]);
                let mut half_values = Guarded::new(&vec![f16::ONE; positions * head_dim]);
                let mut queries = Guarded::new(&rng.floats(tokens * group * head_dim));
                let mut out = Guarded::new(&vec![0.0; tokens * group * head_dim]);
                let mut state = Guarded::new(&vec![Running::default(); tokens * group]);
                let floats = KvHead::F32 { keys: keys.get(), values: values.get() };
                let halves = KvHead::F16 { keys: half_keys.get(), values: half_values.get() };
                // Prefetches reach beyond the guard page, too.
                for (kv, huge_pages) in [(floats, false), (halves, false), (floats, true), (halves, true)] {
                    let (queries, stride) = (&*queries.get(), group * head_dim);
                    let (scale, window, spans) = (0.1, None, 0..1);
                    let task = Attend {
                        kv,
                        huge_pages,
                        head_dim,
                        scale,
                        softcap: huge_pages.then_some(0.5),
                        window,
                        whole: None,
                        bias: None,
                        queries,
                        stride,
                        group,
                        tokens,
                        first,
                        spans,
                    };
                    kernels.attend(&task, out.get(), state.get());
                }
                let mut later = Guarded::new(&vec![1.0; out.get().len()]);
                kernels.attend_merge(later.get(), Running::default(), out.get(), &mut Running::default());
            }
        }
    }
}
