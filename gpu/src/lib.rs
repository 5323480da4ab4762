//! Feed-forward blocks of experts on a GPU, with the bits of `moelten-quant`: adapters, memory in slabs,
//! slots of experts, pipelines, and one submission for the experts of a layer. Whether the bits are the
//! same is tested at every start on the pipelines that will run. On request there are faster pipelines whose
//! sums are only close.
//!
//! It never knows models, layers, files or which experts are worth keeping.

mod adapter;
mod block;
mod close;
mod device;
mod drivers;
mod error;
mod exact;
mod experts;
mod measure;
mod open;
mod product;
mod quiet;
mod readback;
mod reference;
mod samples;
mod shader;
mod slabs;
mod speed;
mod stage;
mod trial;

pub use adapter::{Adapter, AdapterKind, Choice, adapters, choose};
pub use block::{Activation, Block, ExpertBytes, FORMATS, Matrix};
pub use device::Gpu;
pub use error::GpuError;
pub use experts::{BankNeed, Experts, Needs, Part, slots_in};
pub use open::Exactness;
pub use product::Product;
pub use samples::{OwnedExpert, random_expert};
pub use shader::Arithmetic;
pub use speed::Speed;
pub use trial::{Trial, trial};
