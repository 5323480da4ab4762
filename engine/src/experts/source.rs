//! Where expert bytes come from. `Mapped` uses them where the tensor store has them, in mapped files or in memory of our
//! own: no copy; what is in files the system pages in.

use std::io;
use std::sync::Arc;

use moelten_loader::spec::{Activation, Ffn, ModelSpec};
use moelten_loader::store::{MlpRef, TensorStore};

use crate::layers::mlp::MlpView;

/// A place that expert weights can be had from.
pub trait ExpertSource: Send + Sync {
    /// Size of an expert.
    ///
    /// # Errors
    /// When the layer has no such expert.
    fn bytes(&self, layer: usize, expert: usize) -> io::Result<u64>;

    /// The weights, as soon as they are there.
    ///
    /// # Errors
    /// What the system says.
    fn weights(&self, layer: usize, expert: usize) -> io::Result<MlpView<'_>>;
}

/// The tensor store's weights, in place.
pub struct Mapped {
    tensors: Arc<TensorStore>,
    /// Activation of the experts of each layer; `None` for dense layers.
    activations: Vec<Option<Activation>>,
}

impl Mapped {
    /// The experts of `spec` in `tensors`.
    pub fn new(spec: &ModelSpec, tensors: Arc<TensorStore>) -> Self {
        let activation = |ffn: &Ffn| match ffn {
            Ffn::Moe(moe) => Some(moe.expert.activation),
            Ffn::Dense(_) => None,
        };
        let activations = spec.layers.iter().map(|layer| activation(&layer.ffn)).collect();
        Self { tensors, activations }
    }

    fn find(&self, layer: usize, expert: usize) -> io::Result<(&MlpRef, Activation)> {
        let matrices = self.tensors.experts(layer).get(expert);
        let activation = self.activations.get(layer).copied().flatten();
        let missing = || io::Error::new(io::ErrorKind::NotFound, "the layer has no such expert");
        matrices.zip(activation).ok_or_else(missing)
    }
}

impl ExpertSource for Mapped {
    fn bytes(&self, layer: usize, expert: usize) -> io::Result<u64> {
        self.find(layer, expert).map(|(matrices, _)| matrices.bytes())
    }

    fn weights(&self, layer: usize, expert: usize) -> io::Result<MlpView<'_>> {
        let (m, activation) = self.find(layer, expert)?;
        let view = |matrix| self.tensors.view(matrix);
        Ok(MlpView { gate: view(&m.gate), up: view(&m.up), down: view(&m.down), activation })
    }
}
