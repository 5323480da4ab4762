//! What a made model computes, written out in plain loops in double precision, token by token and weight by
//! weight. It follows the definitions in `moelten_loader::spec` and shares no code with the engine.

use moelten_loader::spec::{
    Activation, AttentionSpec, BranchSpec, Join, LatentSpec, MlpSpec, MoeSpec, NormSpec, Op, Part, Select,
    SharedExpert,
};
use moelten_loader::tensors::roles::{LayerTensor as T, Role};

use super::made::Made;

/// Vectors of all tokens.
type Rows = Vec<Vec<f64>>;

/// Logits of every token of a text, `[ids, vocab]`.
pub fn logits(made: &Made, ids: &[u32]) -> Vec<f32> {
    let spec = &made.spec;
    let scale = f64::from(spec.embed_scale);
    let embed = made.weights(Role::Embed);
    let row = |&id: &u32| &embed[id as usize * spec.d_model..][..spec.d_model];
    let mut x: Rows = ids.iter().map(|id| row(id).iter().map(|&w| f64::from(w) * scale).collect()).collect();
    for (layer, of) in spec.layers.iter().enumerate() {
        let mut input = x.clone();
        for branch in &of.branches {
            if branch.join == Join::InOrder {
                input.clone_from(&x);
            }
            let out = Layer { made, layer }.branch(branch, &input);
            for (x, out) in x.iter_mut().flatten().zip(out.iter().flatten()) {
                *x += f64::from(branch.scale) * out;
            }
        }
    }
    let bias = spec.head.bias.then(|| made.weights(Role::HeadBias));
    let norm_bias = made.weights_if(matches!(spec.final_norm, NormSpec::Layer { .. }), Role::FinalNormBias);
    let head = made.weights(Role::Head);
    let token = |x: &Vec<f64>| {
        let normed = norm(spec.final_norm, made.weights(Role::FinalNorm), norm_bias, x);
        linear(head, bias, &normed)
    };
    x.iter().flat_map(token).map(|logit| (logit * f64::from(spec.head.scale)) as f32).collect()
}

/// One layer of a model.
#[derive(Clone, Copy)]
struct Layer<'a> {
    made: &'a Made,
    layer: usize,
}

impl<'a> Layer<'a> {
    fn weights(self, tensor: T) -> &'a [f32] {
        self.made.weights(Role::Layer(self.layer, tensor))
    }

    fn weights_if(self, there: bool, tensor: T) -> Option<&'a [f32]> {
        self.made.weights_if(there, Role::Layer(self.layer, tensor))
    }

    fn branch(self, branch: &BranchSpec, x: &Rows) -> Rows {
        let normed = self.norm(branch.pre_norm, T::PreNorm(branch.place), T::PreNormBias(branch.place), x);
        let out = match &branch.op {
            Op::Attention(spec) => self.attention(spec, &normed),
            Op::Latent(spec) => self.latent(spec, &normed),
            Op::Mlp(spec) => {
                let block = Block::new(self, spec, T::Dense, T::DenseBias);
                normed.iter().map(|x| block.apply(x)).collect()
            }
            Op::Moe(spec) => normed.iter().map(|x| self.moe(spec, x)).collect(),
        };
        self.norm(branch.post_norm, T::PostNorm(branch.place), T::PostNormBias(branch.place), &out)
    }

    fn norm(self, spec: Option<NormSpec>, weight: T, bias: T, x: &Rows) -> Rows {
        let Some(spec) = spec else { return x.clone() };
        let bias = self.weights_if(matches!(spec, NormSpec::Layer { .. }), bias);
        x.iter().map(|x| norm(spec, self.weights(weight), bias, x)).collect()
    }

    fn attention(self, spec: &AttentionSpec, x: &Rows) -> Rows {
        let project = |weight, bias| -> Rows {
            let bias = self.weights_if(spec.qkv_bias, bias);
            x.iter().map(|x| linear(self.weights(weight), bias, x)).collect()
        };
        let (mut q, mut k, v) = (project(T::Q, T::QBias), project(T::K, T::KBias), project(T::V, T::VBias));
        for rows in [&mut q, &mut k] {
            for (position, row) in rows.iter_mut().enumerate() {
                row.chunks_exact_mut(spec.head_dim).for_each(|head| rotate(spec, position, head));
            }
        }
        let group = spec.heads / spec.kv_heads;
        let head = |rows: &Rows, token: usize, head: usize| -> Vec<f64> {
            rows[token][head * spec.head_dim..][..spec.head_dim].to_vec()
        };
        let bias = self.weights_if(spec.out_bias, T::OBias);
        let token = |t: usize| {
            let mixed: Vec<f64> = (0..spec.heads)
                .flat_map(|h| {
                    let query = head(&q, t, h);
                    let score = |s| dot(&query, &head(&k, s, h / group)) * f64::from(spec.scale);
                    let sink = self.weights_if(spec.sinks, T::Sinks).map(|sinks| f64::from(sinks[h]));
                    let weights = softmax(&(0..=t).map(score).chain(sink).collect::<Vec<_>>());
                    let mut out = vec![0.0; spec.head_dim];
                    for (s, weight) in weights.into_iter().take(t + 1).enumerate() {
                        let value = head(&v, s, h / group);
                        out.iter_mut().zip(value).for_each(|(out, v)| *out += weight * v);
                    }
                    out
                })
                .collect();
            linear(self.weights(T::O), bias, &mixed)
        };
        (0..x.len()).map(token).collect()
    }

    /// As the paper defines it: keys and values of all heads are expanded from the latent vectors.
    fn latent(self, spec: &LatentSpec, x: &Rows) -> Rows {
        let (core, rank, nope, value) = (&spec.attention, spec.rank, spec.nope, spec.value_dim);
        let rms = NormSpec::Rms { eps: spec.norm_eps };
        let project = |weight: T, x: &[f64]| linear(self.weights(weight), None, x);
        let tokens = x.iter().enumerate().map(|(position, x)| {
            let mut q = match spec.query_rank {
                None => project(T::Q, x),
                Some(_) => {
                    project(T::QUp, &norm(rms, self.weights(T::QDownNorm), None, &project(T::QDown, x)))
                }
            };
            q.chunks_exact_mut(spec.query_dim()).for_each(|head| rotate(core, position, &mut head[nope..]));
            let mut down = project(T::KvDown, x);
            rotate(core, position, &mut down[rank..]);
            let latent = norm(rms, self.weights(T::KvDownNorm), None, &down[..rank]);
            let heads: Vec<(Vec<f64>, Vec<f64>)> = (0..core.heads)
                .map(|head| {
                    let (mut key, values) = if spec.split {
                        // `[rank, nope]` of the head, transposed.
                        let up = &self.weights(T::KUp)[head * rank * nope..][..rank * nope];
                        let column =
                            |n: usize| (0..rank).map(|r| f64::from(up[r * nope + n]) * latent[r]).sum();
                        let values = &self.weights(T::VUp)[head * value * rank..][..value * rank];
                        ((0..nope).map(column).collect::<Vec<f64>>(), linear(values, None, &latent))
                    } else {
                        let rows = (nope + value) * rank;
                        let both = linear(&self.weights(T::KvUp)[head * rows..][..rows], None, &latent);
                        (both[..nope].to_vec(), both[nope..].to_vec())
                    };
                    key.extend_from_slice(&down[rank..]);
                    (key, values)
                })
                .collect();
            (q, heads)
        });
        let tokens: Vec<_> = tokens.collect();
        let mix = |t: usize| {
            let mixed: Vec<f64> = (0..core.heads)
                .flat_map(|head| {
                    let query = &tokens[t].0[head * spec.query_dim()..][..spec.query_dim()];
                    let score = |s: usize| dot(query, &tokens[s].1[head].0) * f64::from(core.scale);
                    let weights = softmax(&(0..=t).map(score).collect::<Vec<_>>());
                    let mut out = vec![0.0; value];
                    for (s, weight) in weights.into_iter().enumerate() {
                        out.iter_mut().zip(&tokens[s].1[head].1).for_each(|(out, v)| *out += weight * v);
                    }
                    out
                })
                .collect();
            project(T::O, &mixed)
        };
        (0..x.len()).map(mix).collect()
    }

    fn moe(self, spec: &MoeSpec, x: &[f64]) -> Vec<f64> {
        let scores =
            softmax(&linear(self.weights(T::Router), self.weights_if(spec.router.bias, T::RouterBias), x));
        let Select::SoftmaxTopK { k, renormalise } = spec.router.select else {
            unreachable!("made models route by softmax")
        };
        let mut order: Vec<usize> = (0..spec.experts).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let chosen = &order[..k];
        let total: f64 = if renormalise { chosen.iter().map(|&e| scores[e]).sum() } else { 1.0 };
        let mut out = vec![0.0; x.len()];
        let mut add = |weight: f64, y: Vec<f64>| {
            out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
        };
        for &expert in chosen {
            let all = Block::new(self, &spec.expert, T::Experts, T::ExpertsBias);
            let weight = scores[expert] / total * f64::from(spec.router.scale);
            add(weight, all.of_expert(expert, x.len()).apply(x));
        }
        match &spec.shared {
            SharedExpert::None => {}
            SharedExpert::Plain(mlp) => add(1.0, Block::new(self, mlp, T::Shared, T::SharedBias).apply(x)),
            SharedExpert::Gated(mlp) => {
                let logit = linear(self.weights(T::SharedInput), None, x)[0];
                let weight = 1.0 / (1.0 + (-logit).exp());
                add(weight, Block::new(self, mlp, T::Shared, T::SharedBias).apply(x));
            }
        }
        out
    }
}

/// The matrices and biases of a feed-forward block, or of all experts of a bank.
struct Block<'a> {
    spec: MlpSpec,
    gate: Option<&'a [f32]>,
    up: &'a [f32],
    down: &'a [f32],
    gate_bias: Option<&'a [f32]>,
    up_bias: Option<&'a [f32]>,
    down_bias: Option<&'a [f32]>,
}

impl<'a> Block<'a> {
    fn new(of: Layer<'a>, spec: &MlpSpec, weight: fn(Part) -> T, bias: fn(Part) -> T) -> Self {
        Self {
            spec: *spec,
            gate: of.weights_if(spec.gated, weight(Part::Gate)),
            up: of.weights(weight(Part::Up)),
            down: of.weights(weight(Part::Down)),
            gate_bias: of.weights_if(spec.gated && spec.bias, bias(Part::Gate)),
            up_bias: of.weights_if(spec.bias, bias(Part::Up)),
            down_bias: of.weights_if(spec.bias, bias(Part::Down)),
        }
    }

    /// One expert out of those of a bank.
    fn of_expert(&self, expert: usize, d_model: usize) -> Self {
        let part = |all: &'a [f32], len: usize| &all[expert * len..][..len];
        let (matrix, d_ff) = (self.spec.d_ff * d_model, self.spec.d_ff);
        Self {
            spec: self.spec,
            gate: self.gate.map(|all| part(all, matrix)),
            up: part(self.up, matrix),
            down: part(self.down, matrix),
            gate_bias: self.gate_bias.map(|all| part(all, d_ff)),
            up_bias: self.up_bias.map(|all| part(all, d_ff)),
            down_bias: self.down_bias.map(|all| part(all, d_model)),
        }
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let up = linear(self.up, self.up_bias, x);
        let hidden: Vec<f64> = match self.gate {
            None => up.into_iter().map(|up| self.activate(up)).collect(),
            Some(gate) => {
                let gate = linear(gate, self.gate_bias, x);
                gate.into_iter().zip(up).map(|(gate, up)| self.gated(gate, up)).collect()
            }
        };
        linear(self.down, self.down_bias, &hidden)
    }

    fn gated(&self, gate: f64, up: f64) -> f64 {
        match self.spec.activation {
            Activation::ClampedSwiglu { alpha, limit } => {
                let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                let gate = gate.min(limit);
                gate / (1.0 + (-alpha * gate).exp()) * (up.clamp(-limit, limit) + 1.0)
            }
            _ => self.activate(gate) * up,
        }
    }

    fn activate(&self, x: f64) -> f64 {
        match self.spec.activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::ClampedSwiglu { .. } => unreachable!("it needs a gate"),
        }
    }
}

/// `w x + bias`, `w` is `[rows, x.len()]`.
fn linear(w: &[f32], bias: Option<&[f32]>, x: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>();
    let mut out: Vec<f64> = w.chunks_exact(x.len()).map(row).collect();
    if let Some(bias) = bias {
        assert_eq!(bias.len(), out.len());
        out.iter_mut().zip(bias).for_each(|(out, &bias)| *out += f64::from(bias));
    }
    out
}

fn norm(spec: NormSpec, weight: &[f32], bias: Option<&[f32]>, x: &[f64]) -> Vec<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (centre, eps) = match spec {
        NormSpec::Rms { eps } => (0.0, eps),
        NormSpec::Layer { eps } => (mean(x), eps),
    };
    let squares: Vec<f64> = x.iter().map(|x| (x - centre).powi(2)).collect();
    let size = (mean(&squares) + f64::from(eps)).sqrt();
    let value = |i: usize| {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        (x[i] - centre) / size * f64::from(weight[i]) + bias
    };
    (0..x.len()).map(value).collect()
}

/// Rotates the leading dimensions of a head, halves paired.
fn rotate(spec: &AttentionSpec, position: usize, head: &mut [f64]) {
    let Some(rope) = &spec.rope else { return };
    let half = rope.dim / 2;
    for i in 0..half {
        let angle = position as f64 * f64::from(rope.theta).powf(-2.0 * i as f64 / rope.dim as f64);
        let (a, b) = (head[i], head[half + i]);
        head[i] = a * angle.cos() - b * angle.sin();
        head[half + i] = b * angle.cos() + a * angle.sin();
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / total).collect()
}
