//! Layers that predict several tokens at once, behind the model's own. They are not run, but lists of some
//! configurations have values for them too. It must not know what the lists mean.

use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;

/// Takes the values of such layers from the lists that have them. `raw.layers` are the model's own.
pub(super) fn leave_out(raw: &mut RawConfig) {
    let count = |field: &Field<u64>| field.value.and_then(|count| usize::try_from(count).ok());
    let (Some(own), Some(predicting)) = (count(&raw.layers), count(&raw.predicting_layers)) else { return };
    if predicting == 0 {
        return;
    }
    let lists = Lists { own, all: own.saturating_add(predicting) };
    for field in [&mut raw.heads, &mut raw.kv_heads, &mut raw.d_ff, &mut raw.moe_flags] {
        if let Some(PerLayer(values)) = &mut field.value {
            lists.cut(values);
        }
    }
    lists.of(&mut raw.layer_heads);
    lists.of(&mut raw.compress_ratios);
    lists.of(&mut raw.window_flags);
    lists.of(&mut raw.rope_layers);
    lists.of(&mut raw.layer_types);
    lists.of(&mut raw.mlp_types);
    lists.of(&mut raw.index_types);
    lists.of(&mut raw.index_own);
    lists.of(&mut raw.recurrent_layers);
    lists.of(&mut raw.window_layers);
    lists.of(&mut raw.expert_bounds);
    lists.of(&mut raw.shared_bounds);
}

/// How long lists are.
struct Lists {
    own: usize,
    all: usize,
}

impl Lists {
    fn of<T>(&self, field: &mut Field<Vec<T>>) {
        if let Some(values) = &mut field.value {
            self.cut(values);
        }
    }

    fn cut<T>(&self, values: &mut Vec<T>) {
        if values.len() == self.all {
            values.truncate(self.own);
        }
    }
}
