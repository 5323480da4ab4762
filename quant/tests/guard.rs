//! No kernel reads or writes past its slices: every slice ends where memory that may not be touched begins.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails with the test")]
#![allow(unsafe_code, reason = "a guard page is made with mmap and mprotect")]

mod common;

use common::{Rng, Weights, tiers};
use half::f16;
use moelten_quant::{Attend, Format, KEY_GROUP, KvHead, QMatrix, Running};

/// Memory whose last element is followed by a page without access.
struct Guarded<T> {
    map: *mut libc::c_void,
    map_len: usize,
    start: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T]) -> Self {
        let bytes = size_of_val(values);
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let map_len = bytes.next_multiple_of(page) + page;
        // SAFETY: a new private mapping; its last page loses its access, and the values are copied to end before it.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
            let map =
                libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map.byte_add(map_len - page), page, libc::PROT_NONE), 0);
            let start = map.byte_add(map_len - page - bytes).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            Self { map, map_len, start, len: values.len() }
        }
    }

    fn get(&mut self) -> &mut [T] {
        // SAFETY: `new` wrote `len` values there; a multiple of their size before a page they are aligned.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.map, self.map_len) };
    }
}

#[test]
fn products_and_unpacking_stay_within_their_slices() {
    let mut rng = Rng(1);
    for kernels in tiers() {
        for format in Format::ALL {
            let columns: &[usize] = match format.block_len() {
                1 => &[1, 5, 8, 15, 17, 31, 33, 40, 521],
                32 => &[32, 64, 544],
                _ => &[256, 768],
            };
            for &cols in columns {
                for (rows, tokens) in [(1, 1), (5, 1), (1, 2), (6, 3), (3, 7), (4, 70)] {
                    let mut bytes = Guarded::new(&Weights::Random.bytes(format, rows * cols, &mut rng));
                    let mut x = Guarded::new(&rng.floats(tokens * cols));
                    let mut out = Guarded::new(&vec![0.0; rows * tokens]);
                    let matrix = QMatrix::new(format, rows, cols, bytes.get()).unwrap();
                    kernels.matmul(matrix, x.get(), tokens, out.get());
                    let mut weights = Guarded::new(&vec![0.0; rows * cols]);
                    kernels.decode(format, matrix.data(), weights.get());
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
            kernels.dot_f16(a.get(), halves.get());
            kernels.axpy(0.5, a.get(), b.get());
            kernels.axpy_f16(0.5, halves.get(), b.get());
            kernels.to_f16(a.get(), halves.get());
            kernels.scale(0.5, a.get());
            kernels.rms_norm(a.get(), b.get(), 1e-5, out.get());
            kernels.layer_norm(a.get(), b.get(), c.get(), 1e-5, out.get());
            kernels.softmax(a.get());
            kernels.silu_mul(a.get(), b.get());
            kernels.gelu_tanh_mul(a.get(), b.get());
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
                for kv in [floats, halves] {
                    let (queries, stride) = (&*queries.get(), group * head_dim);
                    let (scale, window, spans) = (0.1, None, 0..1);
                    let task =
                        Attend { kv, head_dim, scale, window, queries, stride, group, tokens, first, spans };
                    kernels.attend(&task, out.get(), state.get());
                }
                let mut later = Guarded::new(&vec![1.0; out.get().len()]);
                kernels.attend_merge(later.get(), Running::default(), out.get(), &mut Running::default());
            }
        }
    }
}
