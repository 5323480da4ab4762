//! A device with memory of its own that computes experts with the bits of the CPU: what the store asks of
//! it, and the shapes that it is told. It must not know how a device computes, nor which experts are worth
//! a slot there.

use std::time::Duration;

use moelten_loader::spec::{Activation, ModelSpec, Op};
use moelten_loader::tensors::bank::{ExpertBank, MatrixRef};
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{Format, Line, QMatrix};

/// A matrix of an expert, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixShape {
    /// Block format.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// What all experts of a bank are: `down(act(gate(x)) * up(x))`, or `down(act(up(x)))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertShape {
    /// `None` in experts of two matrices.
    pub gate: Option<MatrixShape>,
    /// `[d_ff, d_model]`.
    pub up: MatrixShape,
    /// `[d_model, d_ff]`.
    pub down: MatrixShape,
    /// Whether gate and `up` have biases. That of `down` is added by the CPU.
    pub bias: bool,
    /// Between the products.
    pub activation: Activation,
}

/// The bytes of an expert, for a slot of a device.
#[derive(Debug, Clone, Copy)]
pub struct ExpertView<'a> {
    /// As [`ExpertShape::gate`].
    pub gate: Option<QMatrix<'a>>,
    /// As [`ExpertShape::up`].
    pub up: QMatrix<'a>,
    /// As [`ExpertShape::down`].
    pub down: QMatrix<'a>,
    /// `[d_ff]`.
    pub gate_bias: Option<&'a [f32]>,
    /// `[d_ff]`.
    pub up_bias: Option<&'a [f32]>,
}

/// A device with slots for experts of each bank. After an error it is not used any more.
pub trait ExpertDevice: Send {
    /// Copies an expert into a slot of its bank, for everything that begins later.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertView<'_>) -> Result<(), String>;

    /// Begins to compute the experts in some slots over the packed input of one token.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn begin(&mut self, bank: usize, slots: &[usize], input: &[Line]) -> Result<(), String>;

    /// Waits for the outputs of what was begun, `[slots, d_model]`: those of the CPU as
    /// [`DeviceOffer::exact`] says.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn finish(&mut self, out: &mut [f32]) -> Result<(), String>;

    /// Begins to multiply the first rows of the head with the packed input of one token: at most those of
    /// [`DeviceOffer::head`].
    ///
    /// # Errors
    /// What went wrong, in words.
    fn begin_head(&mut self, _rows: usize, _input: &[Line]) -> Result<(), String> {
        Err("it has no head".to_owned())
    }

    /// Waits for the products of [`Self::begin_head`], as [`Self::finish`] does.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn finish_head(&mut self, _out: &mut [f32]) -> Result<(), String> {
        Err("it has no head".to_owned())
    }
}

/// The first rows of a model's head on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadOffer {
    /// How many.
    pub rows: usize,
    /// Their bytes.
    pub bytes: u64,
    /// From a submission of all of them to their results.
    pub time: Duration,
}

/// A device that was tested and measured, with what it offers.
pub struct DeviceOffer {
    /// Ready to take experts.
    pub device: Box<dyn ExpertDevice>,
    /// Its name, for people.
    pub name: String,
    /// How it computes, for people.
    pub arithmetic: String,
    /// Whether it gives the bits of the CPU. Otherwise they are close, and answers depend on what it has.
    pub exact: bool,
    /// Slots for each bank of the model.
    pub slots: Vec<usize>,
    /// Bytes of all slots.
    pub bytes: u64,
    /// Rows of the model's head beside them, if there are any.
    pub head: Option<HeadOffer>,
    /// From a submission to its results, without computing.
    pub launch: Duration,
    /// More for each expert, by bank.
    pub each: Vec<Duration>,
    /// Bytes that are copied to it in a second.
    pub upload: f64,
    /// Whether it computes every expert that it has, also where the CPU would be faster. So software devices
    /// are tested.
    pub always: bool,
}

/// The shape of each bank's experts, by its number in the store; `None` where experts of a bank differ, or
/// are no feed-forward blocks.
pub fn expert_shapes(spec: &ModelSpec, tensors: &TensorStore) -> Vec<Option<ExpertShape>> {
    tensors.banks().iter().map(|bank| shape(spec, bank)).collect()
}

/// Most experts that a token visits in one bank.
pub fn most_experts(spec: &ModelSpec) -> usize {
    let ops = spec.layers.iter().flat_map(|layer| &layer.branches).map(|branch| &branch.op);
    let banks = ops.filter_map(|op| op.bank(spec.d_model));
    banks.map(|bank| bank.most_per_token).max().unwrap_or(0)
}

fn shape(spec: &ModelSpec, bank: &ExpertBank) -> Option<ExpertShape> {
    let layer = spec.layers.get(bank.key.layer)?;
    let with_banks = layer.branches.iter().filter(|branch| branch.op.bank(spec.d_model).is_some());
    let Op::Moe(moe) = &with_banks.map(|branch| &branch.op).nth(bank.key.bank)? else { return None };
    let of = |matrix: &MatrixRef| MatrixShape { format: matrix.format, rows: matrix.rows, cols: matrix.cols };
    let first: Vec<MatrixShape> = bank.iter().next()?.iter().map(of).collect();
    let alike = bank.iter().all(|expert| expert.iter().map(of).eq(first.iter().copied()));
    let (gate, up, down) = match (first.as_slice(), moe.expert.gated) {
        (&[gate, up, down], true) => (Some(gate), up, down),
        (&[up, down], false) => (None, up, down),
        _ => return None,
    };
    let (bias, activation) = (moe.expert.bias, moe.expert.activation);
    alike.then_some(ExpertShape { gate, up, down, bias, activation })
}
