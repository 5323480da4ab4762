//! What a made model computes, written out in plain loops in double precision, token by token and weight by
//! weight. It follows the definitions in `moelten_loader::spec` and shares no code with the engine.

mod block;
mod compressed;
mod groups;
mod heads;
mod recurrences;
mod streams;

use moelten_loader::spec::{
    AttentionSpec, BlockChoice, BranchSpec, ExpertGroups, IndexerSpec, Join, KvSource, LatentSpec,
    LayerInputSpec, LayerInputs, LayerSpec, MlpSpec, MoeSpec, NormSpec, Op, OutputGate, QkNorm, Renormalise,
    RouterInput, RouterSpec, Scoring, Second, Select, SharedExpert, Temperature,
};
use moelten_loader::tensors::roles::{LayerTensor as T, Role};

use super::made::Made;
use block::{Block, activate};

/// Vectors of all tokens.
type Rows = Vec<Vec<f64>>;

/// Logits of every token of a text, `[ids, vocab]`.
pub fn logits(made: &Made, ids: &[u32]) -> Vec<f32> {
    let spec = &made.spec;
    let scale = f64::from(spec.embed_scale);
    let embed = made.weights(Role::Embed);
    let row = |&id: &u32| &embed[id as usize * spec.d_model..][..spec.d_model];
    let mut x: Rows = ids.iter().map(|id| row(id).iter().map(|&w| f64::from(w) * scale).collect()).collect();
    let numbers: Vec<Rows> = ids.iter().zip(&x).map(|(&id, x)| layer_inputs(made, id, x)).collect();
    // Keys and values of the layers so far.
    let mut caches = Vec::new();
    streams::spread(spec, &mut x);
    for (layer, of) in spec.layers.iter().enumerate() {
        let own: Rows = numbers.iter().filter_map(|numbers| numbers.get(layer).cloned()).collect();
        Layer { made, layer, own: &own, ids }.run(of, &mut x, &mut caches);
    }
    streams::gather(made, &mut x);
    let bias = spec.head.bias.then(|| made.weights(Role::HeadBias));
    let norm_bias =
        made.weights_if(matches!(spec.final_norm, Some(NormSpec::Layer { .. })), Role::FinalNormBias);
    let head = made.weights(Role::Head);
    let token = |x: &Vec<f64>| {
        let normed = match spec.final_norm {
            Some(last) => norm(last, made.weights(Role::FinalNorm), norm_bias, x),
            None => x.clone(),
        };
        linear(head, bias, &normed)
    };
    let cap = |logit: f64| match spec.head.softcap.map(f64::from) {
        Some(cap) => cap * (logit / cap).tanh(),
        None => logit,
    };
    x.iter().flat_map(token).map(|logit| cap(logit * f64::from(spec.head.scale)) as f32).collect()
}

/// The numbers of every layer for a token with embedding `x`.
fn layer_inputs(made: &Made, id: u32, x: &[f64]) -> Rows {
    let Some(LayerInputs { width, eps }) = made.spec.layer_inputs else { return Vec::new() };
    let all = made.spec.layers.len() * width;
    let table = &made.weights(Role::LayerInputTable)[id as usize * all..][..all];
    let projected = linear(made.weights(Role::LayerInputProjection), None, x);
    let root = (x.len() as f64).sqrt();
    let of_layer = |(numbers, table): (&[f64], &[f32])| {
        let scaled: Vec<f64> = numbers.iter().map(|number| number / root).collect();
        let normed = norm(NormSpec::Rms { eps }, made.weights(Role::LayerInputNorm), None, &scaled);
        let sum = |(x, &row): (&f64, &f32)| (x + f64::from(row) * (width as f64).sqrt()) / 2.0_f64.sqrt();
        normed.iter().zip(table).map(sum).collect()
    };
    projected.chunks(width).zip(table.chunks(width)).map(of_layer).collect()
}

/// One layer of a model.
#[derive(Clone, Copy)]
struct Layer<'a> {
    made: &'a Made,
    layer: usize,
    /// Its own numbers of each token.
    own: &'a Rows,
    /// The tokens.
    ids: &'a [u32],
}

/// Keys and values of attention by layer.
type Caches = Vec<(usize, (Rows, Rows))>;

impl<'a> Layer<'a> {
    fn weights(self, tensor: T) -> &'a [f32] {
        self.made.weights(Role::Layer(self.layer, tensor))
    }

    fn weights_if(self, there: bool, tensor: T) -> Option<&'a [f32]> {
        self.made.weights_if(there, Role::Layer(self.layer, tensor))
    }

    /// Runs the layer on the residual stream.
    fn run(self, spec: &LayerSpec, x: &mut Rows, caches: &mut Caches) {
        if let Some(streams) = self.made.spec.streams {
            return self.run_streams(streams, spec, x, caches);
        }
        let (outset, mut input) = (x.clone(), x.clone());
        let mut sum: Rows = x.iter().map(|x| vec![0.0; x.len()]).collect();
        // What the branch before it read, and what it gave.
        let mut before: (Rows, Rows) = (Rows::new(), Rows::new());
        for (number, branch) in spec.branches.iter().enumerate() {
            match branch.join {
                Join::InOrder => input.clone_from(x),
                Join::Parallel | Join::Beside => {}
                Join::Outset => input.clone_from(&outset),
                Join::Output => input.clone_from(&before.1),
            }
            let parent = number.checked_sub(1).and_then(|number| spec.branches.get(number));
            let out = match (&branch.op, parent) {
                (
                    Op::Moe(MoeSpec { router_input: RouterInput::Groups { size, weights }, .. }),
                    Some(parent),
                ) => self.groups(branch, (*size, *weights), parent, &before),
                _ => self.branch(branch, &input, &outset, caches),
            };
            before = (input.clone(), out.clone());
            let next = spec.branches.get(number + 1).map(|next| next.join);
            let parallel = branch.join == Join::Parallel || next == Some(Join::Parallel);
            let summed = spec.sum_norm.filter(|_| parallel);
            let into = if summed.is_some() { &mut sum } else { &mut *x };
            for (x, out) in into.iter_mut().flatten().zip(out.iter().flatten()) {
                *x += f64::from(branch.scale) * out;
            }
            if summed.is_some() && next != Some(Join::Parallel) {
                let normed = self.norm(summed, T::SumNorm, T::SumNorm, &sum);
                x.iter_mut().flatten().zip(normed.iter().flatten()).for_each(|(x, sum)| *x += sum);
                sum.iter_mut().flatten().for_each(|sum| *sum = 0.0);
            }
        }
        if spec.scaled {
            let scale = f64::from(self.weights(T::LayerScale)[0]);
            x.iter_mut().flatten().for_each(|x| *x *= scale);
        }
    }

    fn branch(self, branch: &BranchSpec, x: &Rows, outset: &Rows, caches: &mut Caches) -> Rows {
        let normed = self.norm(branch.pre_norm, T::PreNorm(branch.place), T::PreNormBias(branch.place), x);
        let out = match &branch.op {
            Op::Attention(spec) => self.attention(spec, &normed, caches),
            Op::Cross(_) => unreachable!("models with an encoder have goldens"),
            Op::HeadExperts(spec) => self.head_experts(spec, &normed),
            Op::Compressed(spec) => self.compressed(spec, &normed),
            Op::Lstm(_) => unreachable!("models with LSTMs have a golden"),
            Op::Ngram(_) => unreachable!("made models have no such tables"),
            Op::LayerInput(spec) => self.layer_input(spec, &normed),
            Op::Conv(spec) => self.conv(spec, &normed),
            Op::Delta(spec) => self.delta(spec, &normed),
            Op::Ssm(spec) => self.ssm(spec, &normed),
            Op::Kda(spec) => self.kda(spec, &normed),
            Op::Selective(spec) => self.selective(spec, &normed),
            Op::Latent(spec) => self.latent(spec, &normed),
            Op::Mlp(spec) => {
                let block = Block::new(self, spec, T::Dense, T::DenseBias);
                normed.iter().map(|x| block.apply(x)).collect()
            }
            Op::Moe(spec) => {
                let of_router = match spec.router_input {
                    RouterInput::Branch => normed.clone(),
                    RouterInput::Outset => outset.clone(),
                    RouterInput::Groups { .. } => unreachable!("it is computed with the branch before it"),
                    RouterInput::Residual { eps } => {
                        let mut rows =
                            self.norm(Some(NormSpec::Rms { eps }), T::RouterNorm, T::RouterNorm, x);
                        let root = (self.made.spec.d_model as f64).sqrt();
                        rows.iter_mut().flatten().for_each(|x| *x /= root);
                        rows
                    }
                };
                let rows = normed.iter().zip(&of_router).zip(self.ids);
                rows.map(|((x, of_router), &id)| self.moe(spec, x, of_router, id)).collect()
            }
        };
        self.norm(branch.post_norm, T::PostNorm(branch.place), T::PostNormBias(branch.place), &out)
    }

    fn norm(self, spec: Option<NormSpec>, weight: T, bias: T, x: &Rows) -> Rows {
        let Some(spec) = spec else { return x.clone() };
        let bias = self.weights_if(matches!(spec, NormSpec::Layer { .. }), bias);
        x.iter().map(|x| norm(spec, self.weights(weight), bias, x)).collect()
    }

    fn layer_input(self, spec: &LayerInputSpec, x: &Rows) -> Rows {
        let block = MlpSpec { d_ff: spec.width, gated: false, activation: spec.activation, bias: false };
        let token = |(x, own): (&Vec<f64>, &Vec<f64>)| {
            let gates = linear(self.weights(T::LayerInputGate), None, x);
            let hidden: Vec<f64> = gates.iter().zip(own).map(|(&g, n)| activate(&block, g) * n).collect();
            linear(self.weights(T::LayerInputUp), None, &hidden)
        };
        x.iter().zip(self.own).map(token).collect()
    }

    fn attention(self, spec: &AttentionSpec, x: &Rows, caches: &mut Caches) -> Rows {
        let project = |weight, bias| -> Rows {
            let bias = self.weights_if(spec.qkv_bias, bias);
            x.iter().map(|x| linear(self.weights(weight), bias, x)).collect()
        };
        let mut q = project(T::Q, T::QBias);
        let (mut k, mut v) = match spec.source {
            KvSource::Layer(_) | KvSource::Encoded => (Vec::new(), Vec::new()),
            KvSource::Shared => (project(T::K, T::KBias), project(T::K, T::KBias)),
            KvSource::Projected => (project(T::K, T::KBias), project(T::V, T::VBias)),
        };
        if let Some(eps) = spec.value_norm {
            let ones = vec![1.0; spec.value_dim];
            for head in v.iter_mut().flat_map(|row| row.chunks_exact_mut(spec.value_dim)) {
                head.copy_from_slice(&norm(NormSpec::Rms { eps }, &ones, None, head));
            }
        }
        v.iter_mut().flatten().for_each(|v| *v *= f64::from(spec.value_scale));
        let gates = take_gates(spec, &mut q);
        for (rows, weight) in [(&mut q, T::QNorm), (&mut k, T::KNorm)] {
            let after = match spec.qk_norm {
                QkNorm::PerHeadAfterRope { eps } | QkNorm::PlainAfterRope { eps } => {
                    Some(NormSpec::Rms { eps })
                }
                _ => None,
            };
            for (position, row) in rows.iter_mut().enumerate() {
                for head in row.chunks_exact_mut(spec.head_dim) {
                    rotate(spec, position, head);
                    if let Some(rms) = after {
                        let plain = matches!(spec.qk_norm, QkNorm::PlainAfterRope { .. });
                        let ones = vec![1.0; head.len()];
                        let weights = if plain { &ones } else { self.weights(weight) };
                        head.copy_from_slice(&norm(rms, weights, None, head));
                    }
                }
            }
        }
        if let Some(Temperature { beta, period, offset }) = spec.temperature {
            for (position, row) in q.iter_mut().enumerate() {
                let factor = 1.0 + f64::from(beta) * (1.0 + ((position + offset) / period) as f64).ln();
                row.iter_mut().for_each(|q| *q *= factor);
            }
        }
        match spec.source {
            KvSource::Layer(from) => {
                let known = caches.iter().find(|(layer, _)| *layer == from);
                (k, v) = known.expect("an earlier layer has keys").1.clone();
            }
            KvSource::Encoded => unreachable!("models with an encoder have goldens"),
            KvSource::Shared | KvSource::Projected => caches.push((self.layer, (k.clone(), v.clone()))),
        }
        self.attend(spec, x, (&q, &k, &v), &gates)
    }

    /// Attention to keys and values, gates, and the output projection.
    fn attend(self, spec: &AttentionSpec, x: &Rows, (q, k, v): (&Rows, &Rows, &Rows), gates: &Rows) -> Rows {
        let group = spec.heads / spec.kv_heads;
        let head = |rows: &Rows, token: usize, head: usize| -> Vec<f64> {
            rows[token][head * spec.head_dim..][..spec.head_dim].to_vec()
        };
        let bias = self.weights_if(spec.out_bias, T::OBias);
        let token = |t: usize| {
            let mut mixed: Vec<f64> = (0..spec.heads)
                .flat_map(|h| {
                    let query = head(q, t, h);
                    let cap = |score: f64| match spec.softcap.map(f64::from) {
                        Some(cap) => cap * (score / cap).tanh(),
                        None => score,
                    };
                    let score = |s| cap(dot(&query, &head(k, s, h / group)) * f64::from(spec.scale));
                    let sink = self.weights_if(spec.sinks, T::Sinks).map(|sinks| f64::from(sinks[h]));
                    let first = spec.chunk.map_or(0, |chunk| t / chunk * chunk);
                    let seen = spec
                        .blocks
                        .map_or((first..=t).collect(), |blocks| self.in_blocks(spec, blocks, x, t));
                    let weights = softmax(&seen.iter().copied().map(score).chain(sink).collect::<Vec<_>>());
                    let mut out = vec![0.0; spec.value_dim];
                    for (s, weight) in seen.into_iter().zip(weights) {
                        let value = v[s][h / group * spec.value_dim..][..spec.value_dim].to_vec();
                        out.iter_mut().zip(value).for_each(|(out, v)| *out += weight * v);
                    }
                    out
                })
                .collect();
            if let Some(kind) = spec.gate {
                let gates = match gates.get(t) {
                    Some(gates) => gates.clone(),
                    None => linear(self.weights(T::AttentionGate), None, &x[t]),
                };
                for (i, mixed) in mixed.iter_mut().enumerate() {
                    *mixed *= match kind {
                        OutputGate::SigmoidPerValue | OutputGate::SigmoidWithQuery => {
                            1.0 / (1.0 + (-gates[i]).exp())
                        }
                        OutputGate::SigmoidPerHead => 1.0 / (1.0 + (-gates[i / spec.value_dim]).exp()),
                        OutputGate::SoftplusPerHead => gates[i / spec.value_dim].exp().ln_1p(),
                    };
                }
            }
            linear(self.weights(T::O), bias, &mixed)
        };
        (0..x.len()).map(token).collect()
    }

    /// The tokens of the blocks that token `t` chooses, and those behind the last complete one.
    fn in_blocks(self, spec: &AttentionSpec, blocks: BlockChoice, x: &Rows, t: usize) -> Vec<usize> {
        let BlockChoice { head_dim, size, top, norm_eps, .. } = blocks;
        let rms = NormSpec::Rms { eps: norm_eps };
        let mut queries = linear(self.weights(T::BlockQ), None, &x[t]);
        for head in queries.chunks_exact_mut(head_dim) {
            head.copy_from_slice(&norm(rms, self.weights(T::BlockQNorm), None, head));
            rotate(spec, t, head);
        }
        let score = |block: usize| {
            let mut mean = vec![0.0; head_dim];
            for x in &x[block * size..(block + 1) * size] {
                let key = linear(self.weights(T::BlockK), None, x);
                mean.iter_mut().zip(key).for_each(|(mean, key)| *mean += key / size as f64);
            }
            let mut key = norm(rms, self.weights(T::BlockKNorm), None, &mean);
            rotate(spec, block * size, &mut key);
            queries.chunks_exact(head_dim).map(|query| dot(query, &key).max(0.0)).sum::<f64>()
        };
        let complete = (t + 1) / size;
        let scores: Vec<f64> = (0..complete).map(score).collect();
        let mut order: Vec<usize> = (0..complete).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(top);
        order.sort_unstable();
        let chosen = order.into_iter().flat_map(|block| block * size..(block + 1) * size);
        chosen.chain(complete * size..t + 1).collect()
    }

    /// The tokens that token `t` attends to.
    fn chosen(self, spec: &LatentSpec, indexer: &IndexerSpec, x: &Rows, t: usize) -> Vec<usize> {
        let project = |weight: T, x: &[f64]| linear(self.weights(weight), None, x);
        let roped = AttentionSpec { rope: Some(indexer.rope.clone()), ..spec.attention.clone() };
        let rms = NormSpec::Rms { eps: spec.norm_eps };
        let latent = norm(rms, self.weights(T::QDownNorm), None, &project(T::QDown, &x[t]));
        let mut queries = project(T::IndexQ, &latent);
        queries.chunks_exact_mut(indexer.head_dim).for_each(|head| rotate(&roped, t, head));
        let weights = project(T::IndexWeights, &x[t]);
        let layer_norm = NormSpec::Layer { eps: indexer.norm_eps };
        let bias = Some(self.weights(T::IndexKNormBias));
        let score = |s: usize| {
            let mut key = norm(layer_norm, self.weights(T::IndexKNorm), bias, &project(T::IndexK, &x[s]));
            rotate(&roped, s, &mut key);
            let heads = queries.chunks_exact(indexer.head_dim).zip(&weights);
            heads.map(|(query, w)| w * dot(query, &key).max(0.0)).sum::<f64>()
        };
        let scores: Vec<f64> = (0..=t).map(score).collect();
        let mut order: Vec<usize> = (0..=t).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(indexer.top);
        order
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
        let seen = |t: usize| match &spec.indexer {
            None => (0..=t).collect(),
            Some(indexer) => self.chosen(spec, indexer, x, t),
        };
        let mix = |t: usize| {
            let seen: Vec<usize> = seen(t);
            let mixed: Vec<f64> = (0..core.heads)
                .flat_map(|head| {
                    let query = &tokens[t].0[head * spec.query_dim()..][..spec.query_dim()];
                    let score = |s: usize| dot(query, &tokens[s].1[head].0) * f64::from(core.scale);
                    let weights = softmax(&seen.iter().map(|&s| score(s)).collect::<Vec<_>>());
                    let mut out = vec![0.0; value];
                    for (&s, weight) in seen.iter().zip(weights) {
                        out.iter_mut().zip(&tokens[s].1[head].1).for_each(|(out, v)| *out += weight * v);
                    }
                    out
                })
                .collect();
            let mut mixed = mixed;
            if core.gate.is_some() {
                let gates = project(T::AttentionGate, &x[t]);
                for (head, gate) in mixed.chunks_exact_mut(value).zip(gates) {
                    head.iter_mut().for_each(|x| *x /= 1.0 + (-gate).exp());
                }
            }
            project(T::O, &mixed)
        };
        (0..x.len()).map(mix).collect()
    }

    /// How many experts are chosen, whether their weights are divided by their sum, the scores, and what the
    /// choice goes by.
    fn scores(self, router: &RouterSpec, logits: &[f64]) -> (usize, bool, Vec<f64>, Vec<f64>) {
        match &router.select {
            Select::SoftmaxTopK { k, renormalise } => (*k, *renormalise, softmax(logits), softmax(logits)),
            Select::Scored { k, scoring, groups, renormalise, .. } => {
                let score = |x: &f64| match scoring {
                    Scoring::SqrtSoftplus => x.exp().ln_1p().sqrt(),
                    _ => 1.0 / (1.0 + (-x).exp()),
                };
                let scores: Vec<f64> = logits.iter().map(score).collect();
                let bias = self.weights_if(router.select.has_bias(), T::SelectBias);
                let bias = |expert: usize| bias.map_or(0.0, |bias| f64::from(bias[expert]));
                let biased: Vec<f64> = scores.iter().enumerate().map(|(e, s)| s + bias(e)).collect();
                let choice = groups.map_or(biased.clone(), |groups| best_groups(&biased, groups));
                (*k, *renormalise != Renormalise::No, scores, choice)
            }
            &Select::Threshold { eps, most, renormalise } => {
                let scores = softmax(logits);
                let over = |score: &&f64| **score * scores.len() as f64 > f64::from(eps);
                let k = scores.iter().filter(over).count().min(most);
                (k, renormalise, scores.clone(), scores)
            }
            Select::TopTwo { second: Second::Over(least) } => {
                let scores = softmax(logits);
                let mut sorted = scores.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let both = sorted[0] + sorted[1];
                let k = 1 + usize::from(sorted[1] / both > f64::from(*least));
                (k, false, scores.iter().map(|score| score / both).collect(), scores)
            }
            Select::TopTwo { .. } | Select::SparseMixer { .. } => {
                unreachable!("made models draw no lots and do not route by SparseMixer")
            }
        }
    }

    fn moe(self, spec: &MoeSpec, x: &[f64], of_router: &[f64], id: u32) -> Vec<f64> {
        let logits =
            linear(self.weights(T::Router), self.weights_if(spec.router.bias, T::RouterBias), of_router);
        let (k, renormalise, scores, choice) = self.scores(&spec.router, &logits);
        let mut order: Vec<usize> = (0..spec.experts).collect();
        order.sort_by(|&a, &b| choice[b].total_cmp(&choice[a]));
        if spec.router.listed {
            let role = Role::Layer(self.layer, T::TokenExperts);
            order = self.made.listed(role, id, k).iter().map(|&expert| expert.into()).collect();
        }
        let chosen = &order[..k];
        let total: f64 = if renormalise { chosen.iter().map(|&e| scores[e]).sum() } else { 1.0 };
        let mut out = vec![0.0; x.len()];
        let mut add = |weight: f64, y: Vec<f64>| {
            out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
        };
        let narrow = spec.latent.map(|_| linear(self.weights(T::LatentDown), None, x));
        let of_experts = narrow.as_deref().unwrap_or(x);
        for &expert in chosen {
            let all = Block::new(self, &spec.expert, T::Experts, T::ExpertsBias);
            let own = self.weights_if(spec.router.expert_scales, T::ExpertScales);
            let own = own.map_or(1.0, |scales| f64::from(scales[expert]));
            let weight = scores[expert] / total * f64::from(spec.router.scale) * own;
            if spec.weighs_inputs {
                let weighed: Vec<f64> = x.iter().map(|x| x * weight).collect();
                add(1.0, all.of_expert(expert, x.len()).apply(&weighed));
                continue;
            }
            let mut y = all.of_expert(expert, of_experts.len()).apply(of_experts);
            if spec.latent.is_some() {
                // The projection of the sum is the sum of projections.
                y = linear(self.weights(T::LatentUp), None, &y);
            }
            add(weight, y);
        }
        match &spec.shared {
            SharedExpert::None => {}
            SharedExpert::Plain(mlp) => {
                let y = Block::new(self, mlp, T::Shared, T::SharedBias).apply(x);
                add(f64::from(spec.shared_scale), y);
            }
            SharedExpert::Gated(mlp) => {
                let logit = linear(self.weights(T::SharedInput), None, x)[0];
                let weight = 1.0 / (1.0 + (-logit).exp());
                add(weight, Block::new(self, mlp, T::Shared, T::SharedBias).apply(x));
            }
        }
        if let Some(bias) = self.weights_if(spec.out_bias, T::ExpertsOutBias) {
            out.iter_mut().zip(bias).for_each(|(out, &bias)| *out += f64::from(bias));
        }
        out
    }
}

/// Scores, -infinity outside the groups with the highest sums of two.
fn best_groups(scores: &[f64], groups: ExpertGroups) -> Vec<f64> {
    let size = scores.len() / groups.count;
    let sum = |group: usize| {
        let mut sorted = scores[group * size..][..size].to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted[..groups.summed].iter().sum::<f64>()
    };
    let mut order: Vec<usize> = (0..groups.count).collect();
    order.sort_by(|&a, &b| sum(b).total_cmp(&sum(a)));
    let kept = &order[..groups.kept];
    let score = |(expert, &score)| if kept.contains(&(expert / size)) { score } else { f64::NEG_INFINITY };
    scores.iter().enumerate().map(score).collect()
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
        NormSpec::Layer { eps } | NormSpec::LayerUnbiased { eps } => (mean(x), eps),
    };
    let squares: Vec<f64> = x.iter().map(|x| (x - centre).powi(2)).collect();
    let size = (mean(&squares) + f64::from(eps)).sqrt();
    let value = |i: usize| {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        (x[i] - centre) / size * f64::from(weight[i]) + bias
    };
    (0..x.len()).map(value).collect()
}

/// Takes the gates that follow the query of each head out of `q`; none where there are none.
fn take_gates(spec: &AttentionSpec, q: &mut Rows) -> Rows {
    if spec.gate != Some(OutputGate::SigmoidWithQuery) {
        return Vec::new();
    }
    let (d, both) = (spec.head_dim, 2 * spec.head_dim);
    let of = |row: &Vec<f64>, from: usize| {
        row.chunks(both).flat_map(|head| head[from..from + d].to_vec()).collect::<Vec<f64>>()
    };
    let gates = q.iter().map(|row| of(row, d)).collect();
    *q = q.iter().map(|row| of(row, 0)).collect();
    gates
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
