//! Pure arithmetic on quantised matrices: block formats, encode and decode, dot products, matrix products and
//! the float vector kernels, one implementation per instruction set, chosen at run time.
//!
//! It never knows files, threads' owners or models.
//!
//! ```
//! use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, QMatrix, activations, encode};
//!
//! let weights: Vec<f32> = (0..3 * 64).map(|i| (i % 7) as f32 - 3.0).collect();
//! let mut bytes = vec![0; 3 * Format::Q8_0.row_bytes(64).unwrap()];
//! encode(Format::Q8_0, &weights, &mut bytes)?;
//!
//! let kernels = Kernels::for_isa(Isa::from_env()?).expect("the tier was checked to be available");
//! let matrix = QMatrix::new(Format::Q8_0, 3, 64, &bytes)?;
//! // Products take activations as blocks of a kind that suits the format: here int8 codes of one token.
//! let kind = ActivationKind::of(Format::Q8_0);
//! let x = activations(kernels, kind, &[1.0; 64], 64);
//! let mut out = [0.0; 3];
//! kernels.matmul(matrix, Activations::new(kind, 1, 64, &x), &mut out);
//! for (row, got) in weights.chunks(64).zip(out) {
//!     assert!((got - row.iter().sum::<f32>()).abs() < 0.1);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activations;
mod codes;
mod decode;
mod encode;
mod format;
mod isa;
mod kernel;
mod lattice;
mod matrix;

pub use activations::{ActivationKind, Activations, BLOCK, Columns, Record};
pub use decode::decode;
pub use encode::{EncodeError, encode, encode_weighted};
pub use format::Format;
pub use isa::{Isa, IsaError};
pub use kernel::lines::Line;
pub use kernel::{
    Attend, DeltaStep, DistanceBias, GROUP_ROWS, HeadMatrix, KEY_GROUP, Kernels, KvHead, MAX_HEAD_DIM, Picks,
    Reading, Running, SPAN, SpaceStep, activations,
};
pub use matrix::{QMatrix, ShapeError};
