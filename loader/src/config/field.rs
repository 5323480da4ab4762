//! One field of a configuration: what a row of the table says about it, and what a file said. It must not
//! know which fields there are.

use crate::error::Result;

/// A row of the table: everything that readers, writers and messages know about a field.
#[derive(Debug)]
pub(crate) struct FieldRow {
    /// The member of [`crate::config::fields::RawConfig`] that holds it.
    pub name: &'static str,
    /// The type of its value.
    #[cfg(test)]
    pub kind: &'static str,
    /// Keys of `config.json`, the first that has a value counts. `rope.` stands for the object with the
    /// rope's settings, `rope_parameters` or the older `rope_scaling`. A key that is missing at the top is
    /// looked up in `text_config`, where models for several kinds of input keep the settings of the language
    /// model.
    pub hf: &'static [&'static str],
    /// Places in GGUF files, the first that has a value counts.
    pub gguf: &'static [GgufPlace],
}

impl FieldRow {
    /// The metadata key of an architecture that a GGUF file is written with; `None` for what stands in
    /// tensors alone.
    pub fn gguf_key(&self, arch: &str) -> Option<String> {
        self.gguf.iter().find_map(|place| place.key(arch))
    }
}

/// Where GGUF files have the value of a field. Tensor names may have `*` for the number of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GgufPlace {
    /// A metadata key; `{arch}` stands for the name of the architecture.
    Key(&'static str),
    /// The number of rows of a tensor.
    Rows(&'static str),
    /// The number of columns of a tensor, of the first layer that has it.
    Columns(&'static str),
    /// True if the file has the tensor.
    Present(&'static str),
    /// True if the file does not have the tensor.
    Absent(&'static str),
    /// True if any layer has the tensor.
    PresentInSome(&'static str),
    /// For each layer, whether it has one of the tensors; no value if none has.
    PresentByLayer(&'static [&'static str]),
    /// The values of a small tensor.
    Values(&'static str),
}

impl GgufPlace {
    /// The metadata key of an architecture.
    pub fn key(self, arch: &str) -> Option<String> {
        match self {
            Self::Key(key) => Some(key.replace("{arch}", arch)),
            _ => None,
        }
    }

    /// The key or the tensor, for messages.
    pub fn shown(self, arch: &str) -> String {
        match self {
            Self::Key(key) => key.replace("{arch}", arch),
            Self::Rows(tensor)
            | Self::Columns(tensor)
            | Self::Present(tensor)
            | Self::Absent(tensor)
            | Self::PresentInSome(tensor)
            | Self::Values(tensor) => tensor.to_owned(),
            Self::PresentByLayer(tensors) => tensors.first().copied().unwrap_or_default().to_owned(),
        }
    }
}

/// A value as a file states it, with the name of its key for messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field<T> {
    /// Key of the file.
    pub name: String,
    /// The value, if the file has one.
    pub value: Option<T>,
    /// The value to use otherwise, if every model agrees on it.
    pub default: Option<T>,
}

impl<T> Field<T> {
    /// A field as read.
    pub fn new(name: impl Into<String>, value: Option<T>) -> Self {
        Self { name: name.into(), value, default: None }
    }

    /// The value of the file, or the table's default.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref().or(self.default.as_ref())
    }
}

/// One number for all layers, or one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PerLayer(pub Vec<u64>);

/// A whole number of at least zero, which some files give once for each layer, always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uniform(pub u64);

impl Uniform {
    /// The one value of a list; `None` if it is empty or has several.
    pub fn of(values: &[u64]) -> Option<Self> {
        let first = *values.first()?;
        values.iter().all(|&value| value == first).then_some(Self(first))
    }
}

impl From<Uniform> for u64 {
    fn from(Uniform(value): Uniform) -> Self {
        value
    }
}

/// The length of the runs of layers of which one has no window: a number, or a string of one letter for
/// each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period(pub u64);

impl From<Period> for u64 {
    fn from(Period(value): Period) -> Self {
        value
    }
}

/// A file that fields can be read from, one method for each type.
pub(crate) trait FieldSource {
    /// A whole number of at least zero.
    fn count(&mut self, row: &FieldRow) -> Result<Field<u64>>;
    /// A whole number of at least zero, or one for each layer.
    fn per_layer(&mut self, row: &FieldRow) -> Result<Field<PerLayer>>;
    /// A whole number of at least zero, or a list that repeats it.
    fn uniform(&mut self, row: &FieldRow) -> Result<Field<Uniform>>;
    /// A period of layers; no value where the file has a list of layers in its place.
    fn period(&mut self, row: &FieldRow) -> Result<Field<Period>>;
    /// A list of whole numbers of at least zero.
    fn counts(&mut self, row: &FieldRow) -> Result<Field<Vec<u64>>>;
    /// Any number; it may be infinite or not a number.
    fn number(&mut self, row: &FieldRow) -> Result<Field<f64>>;
    /// A list of any numbers.
    fn numbers(&mut self, row: &FieldRow) -> Result<Field<Vec<f64>>>;
    /// True or false.
    fn flag(&mut self, row: &FieldRow) -> Result<Field<bool>>;
    /// A list of true and false.
    fn flags(&mut self, row: &FieldRow) -> Result<Field<Vec<bool>>>;
    /// One string.
    fn text(&mut self, row: &FieldRow) -> Result<Field<String>>;
    /// A list of strings.
    fn texts(&mut self, row: &FieldRow) -> Result<Field<Vec<String>>>;
}

/// A type that a field can have.
pub(crate) trait FieldType: Sized {
    /// Reads the field with the method of this type.
    fn read(source: &mut dyn FieldSource, row: &FieldRow) -> Result<Field<Self>>;
}

macro_rules! field_types {
    ($($kind:ty: $method:ident),* $(,)?) => {$(
        impl FieldType for $kind {
            fn read(source: &mut dyn FieldSource, row: &FieldRow) -> Result<Field<Self>> {
                source.$method(row)
            }
        }
    )*};
}
field_types! {
    u64: count, PerLayer: per_layer, Uniform: uniform, Period: period, Vec<u64>: counts, f64: number, Vec<f64>: numbers, bool: flag, Vec<bool>: flags,
    String: text, Vec<String>: texts,
}
