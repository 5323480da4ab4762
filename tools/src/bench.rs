//! What `bench` and `doctor` are made of: models with generated weights, the limits of the machine, the timed
//! runs and what they touched. It must not know options or how figures are printed.

pub mod generate;
pub mod limits;
pub mod measure;
pub mod peak;
pub mod shape;
pub mod traffic;
