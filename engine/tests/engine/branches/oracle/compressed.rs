//! Attention to compressed tokens, written out: every row of every run is made anew for each token.

use moelten_loader::spec::{AttentionSpec, CompressedSpec, CompressorSpec, NormSpec};
use moelten_loader::tensors::roles::LayerTensor as T;

use super::{Layer, Rows, dot, linear, norm, softmax};

impl Layer<'_> {
    pub(super) fn compressed(self, spec: &CompressedSpec, x: &Rows) -> Rows {
        let (a, rms) = (&spec.attention, NormSpec::Rms { eps: spec.norm_eps });
        let (dim, ones) = (a.head_dim, vec![1.0_f32; a.head_dim]);
        let rows: Rows = x
            .iter()
            .enumerate()
            .map(|(t, x)| {
                let row = linear(self.weights(T::KvDown), None, x);
                let mut row = norm(rms, self.weights(T::KvDownNorm), None, &row);
                turn(a, t as f64, &mut row);
                row
            })
            .collect();
        let token = |t: usize| {
            let down = linear(self.weights(T::QDown), None, &x[t]);
            let narrow = norm(rms, self.weights(T::QDownNorm), None, &down);
            let queries = linear(self.weights(T::QUp), None, &narrow);
            let window = a.window.unwrap_or(t + 1).min(t + 1);
            let mut seen: Vec<&[f64]> = rows[t + 1 - window..=t].iter().map(Vec::as_slice).collect();
            let compressed = self.rows_of(spec, x, t);
            let chosen = self.chosen_rows(spec, x, t, &narrow, compressed.len());
            seen.extend(chosen.into_iter().map(|row| compressed[row].as_slice()));
            let mut mixed = Vec::new();
            for (head, query) in queries.chunks_exact(dim).enumerate() {
                let mut query = norm(rms, &ones, None, query);
                turn(a, t as f64, &mut query);
                let scores = seen.iter().map(|row| dot(&query, row) * f64::from(a.scale));
                let sink = f64::from(self.weights(T::Sinks)[head]);
                let weights = softmax(&scores.chain([sink]).collect::<Vec<_>>());
                let mut out = vec![0.0; dim];
                for (row, weight) in seen.iter().zip(weights) {
                    out.iter_mut().zip(*row).for_each(|(out, value)| *out += weight * value);
                }
                turn(a, -(t as f64), &mut out);
                mixed.extend(out);
            }
            let of_group = mixed.len() / spec.groups;
            let matrix = self.weights(T::OutDown).chunks_exact(spec.group_rank * of_group);
            let groups = matrix.zip(mixed.chunks_exact(of_group));
            let given: Vec<f64> = groups.flat_map(|(matrix, mixed)| linear(matrix, None, mixed)).collect();
            linear(self.weights(T::O), None, &given)
        };
        (0..x.len()).map(token).collect()
    }

    /// The rows that token `t` could see.
    fn rows_of(self, spec: &CompressedSpec, x: &Rows, t: usize) -> Rows {
        let tensors = [T::CompressValue, T::CompressGate, T::CompressPlace, T::CompressNorm];
        let compressor = spec.compressor.as_ref();
        compressor.map_or(Vec::new(), |c| self.compress(spec, c, (spec.attention.head_dim, tensors), x, t))
    }

    /// Rows of `width` of the runs that are complete at token `t`.
    fn compress(
        self,
        spec: &CompressedSpec,
        compressor: &CompressorSpec,
        (width, [values, gates, places, weight]): (usize, [T; 4]),
        x: &Rows,
        t: usize,
    ) -> Rows {
        let (rate, wide) = (compressor.rate, compressor.series() * width);
        let value = |t: usize| linear(self.weights(values), None, &x[t]);
        let gate = |t: usize| {
            let gate = linear(self.weights(gates), None, &x[t]);
            let place = &self.weights(places)[t % rate * wide..][..wide];
            gate.iter().zip(place).map(|(gate, &place)| gate + f64::from(place)).collect::<Vec<f64>>()
        };
        let row = |run: usize| {
            let own = (run * rate..(run + 1) * rate).map(|t| (t, wide - width));
            let earlier =
                if compressor.series() == 2 && run > 0 { (run - 1) * rate..run * rate } else { 0..0 };
            let items: Vec<_> = earlier.map(|t| (t, 0)).chain(own).collect();
            let items: Vec<_> = items.into_iter().map(|(t, skip)| (gate(t), value(t), skip)).collect();
            let feature = |i: usize| {
                let weights =
                    softmax(&items.iter().map(|(gate, _, skip)| gate[skip + i]).collect::<Vec<_>>());
                items.iter().zip(weights).map(|((_, value, skip), weight)| weight * value[skip + i]).sum()
            };
            let average: Vec<f64> = (0..width).map(feature).collect();
            let rms = NormSpec::Rms { eps: spec.norm_eps };
            let mut row = norm(rms, self.weights(weight), None, &average);
            turn(&spec.attention, (run * rate) as f64, &mut row);
            row
        };
        (0..(t + 1) / rate).map(row).collect()
    }

    /// Which of `count` rows token `t` attends to.
    fn chosen_rows(
        self,
        spec: &CompressedSpec,
        x: &Rows,
        t: usize,
        narrow: &[f64],
        count: usize,
    ) -> Vec<usize> {
        let compressor = spec.compressor.as_ref();
        let Some((compressor, choice)) = compressor.and_then(|c| Some((c, c.choice.as_ref()?))) else {
            return (0..count).collect();
        };
        let tensors =
            [T::IndexCompressValue, T::IndexCompressGate, T::IndexCompressPlace, T::IndexCompressNorm];
        let small = self.compress(spec, compressor, (choice.head_dim, tensors), x, t);
        let mut queries = linear(self.weights(T::IndexQ), None, narrow);
        queries.chunks_exact_mut(choice.head_dim).for_each(|head| turn(&spec.attention, t as f64, head));
        let weights = linear(self.weights(T::IndexWeights), None, &x[t]);
        let score = |row: &Vec<f64>| {
            let heads = queries.chunks_exact(choice.head_dim).zip(&weights);
            heads.map(|(query, weight)| weight * dot(query, row).max(0.0)).sum::<f64>()
        };
        let scores: Vec<f64> = small.iter().map(score).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        order.truncate(choice.top);
        order
    }
}

/// Rotates the trailing dimensions, neighbours paired.
fn turn(spec: &AttentionSpec, position: f64, head: &mut [f64]) {
    let Some(rope) = &spec.rope else { return };
    let still = head.len() - rope.dim;
    for (i, pair) in head[still..].chunks_exact_mut(2).enumerate() {
        let angle = position * f64::from(rope.theta).powf(-2.0 * i as f64 / rope.dim as f64);
        (pair[0], pair[1]) =
            (pair[0] * angle.cos() - pair[1] * angle.sin(), pair[1] * angle.cos() + pair[0] * angle.sin());
    }
}
