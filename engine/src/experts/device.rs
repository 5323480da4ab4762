//! A device with memory of its own that computes experts with the bits of the CPU: what the store asks of
//! it, and the shapes that it is told. It must not know how a device computes, nor which experts are worth
//! a slot there.

use std::time::Duration;

use moelten_loader::spec::{Activation, ModelSpec, Op, Part, SharedExpert};
use moelten_loader::tensors::bank::{ExpertBank, MatrixRef};
use moelten_loader::tensors::roles::{LayerTensor, Role};
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

    /// Begins to compute the experts in some slots over the packed input of one token, and with `shared` the
    /// shared expert beside the bank, which is one of [`DeviceOffer::shared`].
    ///
    /// # Errors
    /// What went wrong, in words.
    fn begin(&mut self, bank: usize, slots: &[usize], shared: bool, input: &[Line]) -> Result<(), String>;

    /// Waits for the outputs of what was begun, `[slots, d_model]` and then those of the shared expert: those
    /// of the CPU as [`DeviceOffer::exact`] says.
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

/// A shared expert on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedOffer {
    /// Bytes of its weights.
    pub bytes: u64,
    /// What it takes of a submission.
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
    /// The shared expert beside each bank of the model, where the device has it.
    pub shared: Vec<Option<SharedOffer>>,
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

/// The shared expert beside each bank, by the number of the bank: its weights and the activation. `None`
/// where there is none, or where it reads something else than the experts of the bank, or has biases.
pub fn shared_experts(spec: &ModelSpec, tensors: &TensorStore) -> Vec<Option<SharedWeights>> {
    tensors.banks().iter().map(|bank| shared(spec, tensors, bank)).collect()
}

/// The weights of a shared expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedWeights {
    /// `None` in one of two matrices.
    pub gate: Option<MatrixRef>,
    /// `[d_ff, d_model]`.
    pub up: MatrixRef,
    /// `[d_model, d_ff]`.
    pub down: MatrixRef,
    /// Between the products.
    pub activation: Activation,
}

impl SharedWeights {
    /// As the experts of a bank have one.
    pub fn shape(&self) -> ExpertShape {
        let &Self { gate, up, down, activation } = self;
        ExpertShape {
            gate: gate.as_ref().map(MatrixShape::of),
            up: MatrixShape::of(&up),
            down: MatrixShape::of(&down),
            bias: false,
            activation,
        }
    }

    /// Its bytes.
    pub fn view<'a>(&self, tensors: &'a TensorStore) -> ExpertView<'a> {
        let view = |matrix: &MatrixRef| tensors.view(matrix);
        ExpertView {
            gate: self.gate.as_ref().map(view),
            up: view(&self.up),
            down: view(&self.down),
            gate_bias: None,
            up_bias: None,
        }
    }
}

impl MatrixShape {
    fn of(matrix: &MatrixRef) -> Self {
        Self { format: matrix.format, rows: matrix.rows, cols: matrix.cols }
    }
}

fn shared(spec: &ModelSpec, tensors: &TensorStore, bank: &ExpertBank) -> Option<SharedWeights> {
    let Op::Moe(moe) = op_of(spec, bank)? else { return None };
    let (SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp)) = &moe.shared else { return None };
    if mlp.bias || moe.latent.is_some() || moe.weighs_inputs {
        return None;
    }
    let matrix = |part: Part| {
        let role = Role::Layer(bank.key.layer, LayerTensor::Shared(part));
        let found = tensors.dense().find(|(found, _)| *found == role)?.1;
        (!tensors.is_arranged(&found)).then_some(found)
    };
    let gate = if mlp.gated { Some(matrix(Part::Gate)?) } else { None };
    let (up, down) = (matrix(Part::Up)?, matrix(Part::Down)?);
    Some(SharedWeights { gate, up, down, activation: mlp.activation })
}

/// What a bank belongs to.
fn op_of<'a>(spec: &'a ModelSpec, bank: &ExpertBank) -> Option<&'a Op> {
    let layer = spec.layers.get(bank.key.layer)?;
    let with_banks = layer.branches.iter().filter(|branch| branch.op.bank(spec.d_model).is_some());
    with_banks.map(|branch| &branch.op).nth(bank.key.bank)
}

/// Most experts that a token visits in one bank.
pub fn most_experts(spec: &ModelSpec) -> usize {
    let ops = spec.layers.iter().flat_map(|layer| &layer.branches).map(|branch| &branch.op);
    let banks = ops.filter_map(|op| op.bank(spec.d_model));
    banks.map(|bank| bank.most_per_token).max().unwrap_or(0)
}

fn shape(spec: &ModelSpec, bank: &ExpertBank) -> Option<ExpertShape> {
    let Op::Moe(moe) = op_of(spec, bank)? else { return None };
    let of = MatrixShape::of;
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
