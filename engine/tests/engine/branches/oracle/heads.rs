//! A mixture of attention heads, written out: each expert of a token by itself, over all tokens before it.

use moelten_loader::spec::{HeadExpertsSpec, Part, Select};
use moelten_loader::tensors::roles::LayerTensor as T;

use super::{Layer, Rows, dot, linear, rotate, softmax};

impl Layer<'_> {
    pub(super) fn head_experts(self, spec: &HeadExpertsSpec, x: &Rows) -> Rows {
        let a = &spec.attention;
        let (width, dim, own) = (spec.own_width(), a.head_dim, spec.own_heads());
        let project =
            |weight: T| -> Rows { x.iter().map(|x| linear(self.weights(weight), None, x)).collect() };
        let (mut keys, values) = (project(T::K), project(T::V));
        for (position, row) in keys.iter_mut().enumerate() {
            row.chunks_exact_mut(dim).for_each(|head| rotate(a, position, head));
        }
        let matrix = |part, expert: usize| {
            let all = self.weights(T::HeadExperts(part));
            &all[expert * width * x[0].len()..][..width * x[0].len()]
        };
        let token = |t: usize| {
            let mut out = vec![0.0; x[t].len()];
            for (expert, weight) in self.chosen_heads(spec, &x[t]) {
                let mut queries = linear(matrix(Part::Up, expert), None, &x[t]);
                queries.chunks_exact_mut(dim).for_each(|head| rotate(a, t, head));
                let mut mixed = vec![0.0; width];
                for head in 0..own {
                    let shared = head / (own / a.kv_heads) * dim;
                    let query = &queries[head * dim..][..dim];
                    let score = |s: usize| dot(query, &keys[s][shared..][..dim]) * f64::from(a.scale);
                    let weights = softmax(&(0..=t).map(score).collect::<Vec<_>>());
                    for (s, weight) in weights.into_iter().enumerate() {
                        let value = &values[s][shared..][..dim];
                        let mixed = mixed[head * dim..][..dim].iter_mut();
                        mixed.zip(value).for_each(|(mixed, value)| *mixed += weight * value);
                    }
                }
                let given = linear(matrix(Part::Down, expert), None, &mixed);
                out.iter_mut().zip(given).for_each(|(out, y)| *out += weight * y);
            }
            if let Some(bias) = self.weights_if(a.out_bias, T::OBias) {
                out.iter_mut().zip(bias).for_each(|(out, &bias)| *out += f64::from(bias));
            }
            out
        };
        (0..x.len()).map(token).collect()
    }

    fn chosen_heads(self, spec: &HeadExpertsSpec, x: &[f64]) -> Vec<(usize, f64)> {
        let scores = softmax(&linear(self.weights(T::HeadRouter), None, x));
        let (k, renormalise) = match spec.router.select {
            Select::SoftmaxTopK { k, renormalise } => (k, renormalise),
            Select::Threshold { eps, most, renormalise } => {
                let over = |score: &&f64| **score * scores.len() as f64 > f64::from(eps);
                (scores.iter().filter(over).count().min(most), renormalise)
            }
            _ => unreachable!("made mixtures of heads route by a softmax"),
        };
        let mut order: Vec<usize> = (0..spec.experts).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let total = if renormalise { order[..k].iter().map(|&e| scores[e]).sum() } else { 1.0 };
        order[..k].iter().map(|&e| (e, scores[e] / total * f64::from(spec.router.scale))).collect()
    }
}
