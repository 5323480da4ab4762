//! Metadata of a GGUF file while it is put together: keys by the rows of the table. It must not know what a
//! model is.

use crate::config::field::FieldRow;
use crate::container::gguf::{Array, Value};
use crate::error::LoadError;
use crate::families::Family;

/// Keys and values of a model of a family.
pub(super) struct Keys {
    pub family: &'static Family,
    pub arch: &'static str,
    pub out: Vec<(String, Value)>,
}

impl Keys {
    pub fn add(&mut self, row: &FieldRow, value: Value) {
        let key = row.gguf_key(self.arch).expect("only rows with a metadata key are written");
        self.out.push((key, value));
    }

    pub fn u32(&mut self, row: &FieldRow, value: usize) {
        self.add(row, Value::U32(small(value)));
    }

    pub fn f32(&mut self, row: &FieldRow, value: f32) {
        self.add(row, Value::F32(value));
    }

    pub fn f32_unless(&mut self, row: &FieldRow, value: f32, default: f32) {
        if value.to_bits() != default.to_bits() {
            self.f32(row, value);
        }
    }

    pub fn f32_if(&mut self, row: &FieldRow, value: Option<f32>) {
        if let Some(value) = value {
            self.f32(row, value);
        }
    }

    /// One number if all layers agree, else one per layer.
    pub fn per_layer(&mut self, row: &FieldRow, values: &[usize]) {
        match values {
            [first, rest @ ..] if rest.iter().all(|value| value == first) => self.u32(row, *first),
            _ => self.list(row, values),
        }
    }

    /// One number per layer.
    pub fn list(&mut self, row: &FieldRow, values: &[usize]) {
        let values = values.iter().map(|&value| small(value)).collect();
        self.add(row, Value::Array(Array::U32(values)));
    }
}

/// The error for a property that GGUF has no key for.
pub(super) fn unsupported(feature: &str) -> LoadError {
    LoadError::Unsupported {
        path: "GGUF metadata".into(),
        feature: feature.into(),
        hint: "no GGUF key describes it".into(),
    }
}

/// A size of a model, as metadata has it.
pub(super) fn small(value: usize) -> u32 {
    u32::try_from(value).expect("the lowering bounds every size far below 2^32")
}
