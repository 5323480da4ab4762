//! A model of images as GGUF metadata: keys of our own beside those that encoders have (`docs/images.md`). It
//! must not know how keys are spelled.

use crate::config::field::FieldRow;
use crate::config::fields::FIELDS;
use crate::config::write_encdec::feed_forward;
use crate::config::write_keys::small;
use crate::container::gguf::{Array, Value};
use crate::spec::{
    CapacitySpec, ExpertLimit, ImagePool, ImageSpec, ImageTask, LayerSpec, ModelSpec, MoeSpec, RouterSpec,
};

/// The rows of the table that describe a model of images, with their values.
pub(super) fn rows(spec: &ModelSpec, image: &ImageSpec) -> Vec<(&'static FieldRow, Value)> {
    let pool = match image.head.pool {
        _ if image.first_row => "token",
        ImagePool::Each if spec.tasks.is_empty() => "patches",
        _ => "gap",
    };
    let mut out = vec![
        (&FIELDS.layers, count(spec.layers.len())),
        (&FIELDS.image_size, count(image.size)),
        (&FIELDS.patch_size, count(image.patch)),
        (&FIELDS.image_pool, Value::Str(pool.to_owned())),
    ];
    if let Some(attention) = spec.attention_layers().next() {
        out.push((&FIELDS.heads, count(attention.heads)));
        out.push((&FIELDS.head_dim, count(attention.head_dim)));
    }
    let block = |layer: &LayerSpec| layer.mlp().copied().or_else(|| Some(layer.moe()?.expert));
    if let Some(block) = spec.layers.iter().find_map(block) {
        out.push((&FIELDS.d_ff, count(block.d_ff)));
        out.push((&FIELDS.feed_forward, Value::Str(feed_forward(block))));
    }
    if let Some(moe) = spec.layers.iter().find_map(LayerSpec::moe) {
        experts(spec, moe, &mut out);
    }
    match &spec.tasks[..] {
        [] => out.push((&FIELDS.classes, count(image.head.classes))),
        tasks => of_tasks(tasks, &mut out),
    }
    out
}

fn experts(spec: &ModelSpec, moe: &MoeSpec, out: &mut Vec<(&'static FieldRow, Value)>) {
    let sparse = spec.layers.iter().map(|layer| layer.moe().is_some()).collect();
    out.push((&FIELDS.pair_sparse, Value::Array(Array::Bool(sparse))));
    out.push((&FIELDS.experts, count(moe.experts)));
    out.push((&FIELDS.experts_used, count(used(&moe.router))));
    if let Some(CapacitySpec { limit: ExpertLimit::Share { factor, .. }, prioritised, .. }) =
        moe.router.capacity
    {
        out.push((&FIELDS.capacity_factor, Value::F32(factor)));
        out.push((&FIELDS.prioritised, Value::Bool(prioritised)));
    }
}

fn of_tasks(tasks: &[ImageTask], out: &mut Vec<(&'static FieldRow, Value)>) {
    let texts =
        |text: &dyn Fn(&ImageTask) -> String| Value::Array(Array::Str(tasks.iter().map(text).collect()));
    let counts = |of: &dyn Fn(&ImageTask) -> usize| {
        Value::Array(Array::U32(tasks.iter().map(|task| small(of(task))).collect()))
    };
    let head = |task: &ImageTask| if task.head.pool == ImagePool::Each { "patches" } else { "image" };
    out.push((&FIELDS.tasks, texts(&|task| task.name.clone())));
    out.push((&FIELDS.task_heads, texts(&|task| head(task).to_owned())));
    out.push((&FIELDS.task_classes, counts(&|task| task.head.classes)));
    if tasks.iter().all(|task| task.router.is_some()) {
        out.push((&FIELDS.task_experts_used, counts(&|task| task.router.as_ref().map_or(0, used))));
    }
}

fn used(router: &RouterSpec) -> usize {
    router.select.max_experts()
}

fn count(value: usize) -> Value {
    Value::U32(small(value))
}
