//! A mixture of experts for one token of which a device computes some: begin them, compute the others on
//! the CPU meanwhile, add all of them in ascending id, then copy experts to the device that have earned a
//! slot. It must not know which experts these are, nor how a device computes.

use std::ops::Range;
use std::time::Instant;

use moelten_quant::{ActivationKind, Activations, Line};

use crate::experts::beside::Check;
use crate::experts::device::ExpertView;
use crate::experts::store::ExpertStore;
use crate::experts::tier::{DeviceWork, Upload};
use crate::layers::ffn::dense::MlpBiases;
use crate::layers::ffn::given::{Given, add_outputs_and};
use crate::layers::ffn::mlp::{Biases, MlpView, Visit, add_outputs, hidden_layers};
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::{Compute, Packed};
use crate::layers::scratch::DeviceScratch;

/// What a device does of a layer, while the CPU does the rest.
pub struct Beside<'a> {
    store: &'a ExpertStore,
    bank: usize,
    width: usize,
    /// All experts of the token, their weights.
    experts: Vec<(u32, f32)>,
    work: DeviceWork,
    /// Index of each of the CPU's experts among all.
    host_at: Vec<usize>,
    outputs: Vec<f32>,
    biases: &'a MlpBiases,
    d_ff: usize,
    /// Whether the outputs are there.
    there: bool,
    lost: bool,
    /// Whether all experts of the CPU were in memory from the start.
    pub all_here: bool,
}

/// A mixture as a device's work needs it.
#[derive(Clone, Copy)]
pub struct DeviceMoe<'a> {
    /// Has the device.
    pub store: &'a ExpertStore,
    /// The number of its bank.
    pub bank: usize,
    /// Width of what experts read and give.
    pub width: usize,
    /// Width of their hidden layers.
    pub d_ff: usize,
    /// Biases of all experts.
    pub biases: &'a MlpBiases,
}

/// The packed codes of one token.
fn input_lines(packed: &Packed) -> Vec<Line> {
    packed.view(ActivationKind::Q8).lines().to_vec()
}

impl<'a> Beside<'a> {
    /// Decides what the device does for one token, and begins it. `packed` is the packed input of the
    /// experts. The visits that stay with the CPU are left in `scratch.host`, the other buffers are taken
    /// out.
    pub fn begin(moe: DeviceMoe<'a>, visits: &Visits, packed: &Packed, scratch: &mut DeviceScratch) -> Self {
        let DeviceMoe { store, bank, width, d_ff, biases } = moe;
        let mut work = std::mem::take(&mut scratch.work);
        let experts = &visits.experts;
        let begun = store.begin_on_device(bank, experts, &mut work, || input_lines(packed));
        let on_device = |index: usize| begun && work.hits.iter().any(|hit| hit.index == index);
        visits.without(on_device, &mut scratch.host);
        let mut host_at = std::mem::take(&mut scratch.host_at);
        host_at.clear();
        host_at.extend((0..experts.len()).filter(|&index| !on_device(index)));
        Self {
            store,
            bank,
            width,
            experts: experts.iter().enumerate().map(|(i, &id)| (id, visits.of(i)[0].1)).collect(),
            there: !work.any(),
            work,
            host_at,
            outputs: std::mem::take(&mut scratch.outputs),
            biases,
            d_ff,
            lost: !begun,
            all_here: false,
        }
    }

    /// Gives the buffers back. Returns whether all outputs of the device have been added; otherwise it is
    /// gone.
    pub fn give_back(self, scratch: &mut DeviceScratch) -> bool {
        scratch.shared.clear();
        if self.work.shared && !self.lost {
            scratch.shared.extend_from_slice(&self.outputs[self.work.hits.len() * self.width..]);
        }
        (scratch.work, scratch.host_at, scratch.outputs) = (self.work, self.host_at, self.outputs);
        !self.lost
    }

    /// Whether the device is there.
    pub fn begun(&self) -> bool {
        !self.lost
    }

    /// Waits for the device. Returns whether its outputs are there.
    fn wait(&mut self) -> bool {
        if !self.there && !self.lost {
            let outputs = self.work.hits.len() + usize::from(self.work.shared);
            self.outputs.resize(outputs * self.width, 0.0);
            let ids: Vec<u32> = self.experts.iter().map(|&(id, _)| id).collect();
            self.there = self.store.finish_on_device(self.bank, &ids, &self.work, &mut self.outputs);
            self.lost = !self.there;
        }
        !self.lost
    }

    /// The outputs of the device that are added with some of the CPU's experts: those of lower id than the
    /// first one of the CPU's that follows. `None` when the device is gone.
    pub fn outputs_of(&mut self, host: Range<usize>) -> Option<Vec<Given<'_>>> {
        // What it gives for the shared expert is added last. A copy that is verified asks for an answer
        // of its own, so this one must have come before.
        if self.work.hits.is_empty() && self.work.uploads.is_empty() && !self.lost {
            return Some(Vec::new());
        }
        if !self.wait() {
            return None;
        }
        let from = if host.start == 0 { 0 } else { self.host_at[host.start] };
        let to = self.host_at.get(host.end).copied().unwrap_or(usize::MAX);
        Some(self.given(from..to, host))
    }

    fn given(&self, all: Range<usize>, host: Range<usize>) -> Vec<Given<'_>> {
        let d_model = self.width;
        let hits = self.work.hits.iter().zip(self.outputs.chunks(d_model));
        let given = hits.filter(|(hit, _)| all.contains(&hit.index)).map(|(hit, output)| {
            let (id, weight) = self.experts[hit.index];
            let after = self.host_at[host.clone()].partition_point(|&at| at < hit.index);
            Given { after, weight, output, bias: self.biases.of(id as usize, self.d_ff, d_model).down }
        });
        given.collect()
    }

    /// Copies those of some of the CPU's experts to the device that have earned a slot. `expert` gives an
    /// expert by its index among the CPU's.
    pub fn promote<'v>(
        &self,
        compute: Compute<'_>,
        host: Range<usize>,
        input: &Packed,
        expert: impl Fn(usize) -> MlpView<'v>,
    ) {
        for index in host {
            let (id, _) = self.experts[self.host_at[index]];
            let Some(upload) = self.work.uploads.iter().find(|upload| upload.expert == id) else { continue };
            self.upload(compute, upload, input, &expert(index));
        }
    }

    fn upload(&self, compute: Compute<'_>, upload: &Upload, input: &Packed, mlp: &MlpView<'_>) {
        let Biases { gate: gate_bias, up: up_bias, .. } = mlp.biases;
        let view = ExpertView { gate: mlp.gate, up: mlp.up, down: mlp.down, gate_bias, up_bias };
        if !upload.verify {
            return self.store.promote(self.bank, upload, &view, None);
        }
        let lines = input_lines(input);
        let x = Activations::new(ActivationKind::Q8, 1, self.width, &lines);
        let mut wanted = vec![0.0; self.width];
        let mlp = MlpView { biases: Biases { down: None, ..mlp.biases }, ..*mlp };
        let visit = [Visit { mlp, to_gate: x, to_up: x, visitors: &[(0, 1.0)], squares: None }];
        let mut hidden = vec![Line::ZERO; mlp.hidden_lines(1)];
        hidden_layers(compute, &visit, &mut hidden);
        add_outputs(compute, &visit, &hidden, &mut wanted, self.width);
        self.store.promote(self.bank, upload, &view, Some(Check { input: &lines, wanted: &wanted }));
    }

    /// After the CPU's part: adds what is left when the CPU had nothing to do, and notes how long it took for
    /// experts that it computed alone.
    pub fn end(&mut self, compute: Compute<'_>, since: Instant, out: &mut [f32]) {
        let took = since.elapsed();
        // Also after an error: what was begun must end before anything else begins.
        if self.wait() && self.host_at.is_empty() {
            let given = self.given(0..usize::MAX, 0..0);
            add_outputs_and(compute, &[], &given, &[], out);
        }
        if self.work.hits.is_empty() && self.work.uploads.is_empty() && self.all_here {
            self.store.host_took(took, self.host_at.len());
        }
    }
}
