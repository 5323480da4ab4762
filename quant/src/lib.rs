//! Pure arithmetic on quantised matrices: block formats, encode and decode, dot products, matrix products and
//! the float vector kernels, one implementation per instruction set, chosen at run time.
//!
//! It never knows files, threads' owners or models.
//!
//! ```
//! use moelten_quant::{Format, Isa, Kernels, QMatrix, encode};
//!
//! let weights: Vec<f32> = (0..3 * 64).map(|i| (i % 7) as f32 - 3.0).collect();
//! let mut bytes = vec![0; 3 * Format::Q8_0.row_bytes(64).unwrap()];
//! encode(Format::Q8_0, &weights, &mut bytes)?;
//!
//! let kernels = Kernels::for_isa(Isa::from_env()?).expect("the tier was checked to be available");
//! let matrix = QMatrix::new(Format::Q8_0, 3, 64, &bytes)?;
//! let (x, mut out) = ([1.0; 64], [0.0; 3]);
//! kernels.matmul(matrix, &x, 1, &mut out);
//! for (row, got) in weights.chunks(64).zip(out) {
//!     assert!((got - row.iter().sum::<f32>()).abs() < 0.1);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decode;
mod encode;
mod format;
mod isa;
mod kernel;
mod matrix;

pub use decode::decode;
pub use encode::{EncodeError, encode};
pub use format::Format;
pub use isa::{Isa, IsaError};
pub use kernel::{Attend, KEY_GROUP, Kernels, KvHead, MAX_HEAD_DIM, Running, SPAN};
pub use matrix::{QMatrix, ShapeError};
