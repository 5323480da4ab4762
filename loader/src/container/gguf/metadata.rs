//! GGUF metadata: typed values under string keys, in file order, with getters that turn a missing key or a
//! wrong type into an error with the key's name. It must not know what a key means.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Fault, LoadError, Result};
use crate::io::reader::{narrow, printable};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the GGUF value types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array; GGUF's nested arrays are not supported, no model uses them.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the GGUF value types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The type's number in the file.
    pub(crate) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Str(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The name of the type for messages: `u32`, `array of str`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::Str(_) => "str",
            Self::Array(array) => array.type_name(),
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// A whole number, whichever number type holds it.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::F32(x) => whole(x.into())?,
            Self::F64(x) => whole(x)?,
            Self::Bool(b) => b.into(),
            Self::U8(n) => n.into(),
            Self::I8(n) => n.into(),
            Self::U16(n) => n.into(),
            Self::I16(n) => n.into(),
            Self::U32(n) => n.into(),
            Self::I32(n) => n.into(),
            Self::U64(n) => n.into(),
            Self::I64(n) => n.into(),
            _ => return None,
        })
    }

    /// Whole numbers, whichever number type holds them.
    fn integers(&self) -> Option<Vec<i128>> {
        fn widen<T: Copy + Into<i128>>(values: &[T]) -> Vec<i128> {
            values.iter().map(|&v| v.into()).collect()
        }
        Some(match self {
            Self::Array(Array::F32(v)) => v.iter().map(|&x| whole(x.into())).collect::<Option<_>>()?,
            Self::Array(Array::F64(v)) => v.iter().map(|&x| whole(x)).collect::<Option<_>>()?,
            Self::Array(Array::Bool(v)) => widen(v),
            Self::Array(Array::U8(v)) => widen(v),
            Self::Array(Array::I8(v)) => widen(v),
            Self::Array(Array::U16(v)) => widen(v),
            Self::Array(Array::I16(v)) => widen(v),
            Self::Array(Array::U32(v)) => widen(v),
            Self::Array(Array::I32(v)) => widen(v),
            Self::Array(Array::U64(v)) => widen(v),
            Self::Array(Array::I64(v)) => widen(v),
            _ => return None,
        })
    }
}

/// The number if it is whole and exact in 64 bits.
fn whole(x: f64) -> Option<i128> {
    // 2^53: beyond it a float does not say which integer was meant.
    let exact = x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_992.0;
    // Printing is exact, and the module does without `as`.
    if exact { format!("{x:.0}").parse().ok() } else { None }
}

/// The nearest f32 of an integer.
fn nearest(n: i128) -> f32 {
    // Parsing rounds to nearest, and the module does without `as`.
    n.to_string().parse().unwrap_or(f32::NAN)
}

impl Array {
    /// The element type's number in the file.
    pub(crate) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Str(_) => 8,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "array of u8",
            Self::I8(_) => "array of i8",
            Self::U16(_) => "array of u16",
            Self::I16(_) => "array of i16",
            Self::U32(_) => "array of u32",
            Self::I32(_) => "array of i32",
            Self::F32(_) => "array of f32",
            Self::Bool(_) => "array of bool",
            Self::Str(_) => "array of str",
            Self::U64(_) => "array of u64",
            Self::I64(_) => "array of i64",
            Self::F64(_) => "array of f64",
        }
    }

    /// The elements, each as a value of its own.
    pub fn values(&self) -> Box<dyn Iterator<Item = Value> + '_> {
        fn each<'a, T: Clone>(
            values: &'a [T],
            value: impl Fn(T) -> Value + 'a,
        ) -> Box<dyn Iterator<Item = Value> + 'a> {
            Box::new(values.iter().cloned().map(value))
        }
        match self {
            Self::U8(v) => each(v, Value::U8),
            Self::I8(v) => each(v, Value::I8),
            Self::U16(v) => each(v, Value::U16),
            Self::I16(v) => each(v, Value::I16),
            Self::U32(v) => each(v, Value::U32),
            Self::I32(v) => each(v, Value::I32),
            Self::F32(v) => each(v, Value::F32),
            Self::Bool(v) => each(v, Value::Bool),
            Self::Str(v) => each(v, Value::Str),
            Self::U64(v) => each(v, Value::U64),
            Self::I64(v) => each(v, Value::I64),
            Self::F64(v) => each(v, Value::F64),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Str(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of any type, each as the nearest f32.
    fn floats(&self) -> Option<Vec<f32>> {
        fn near<T: Copy + Into<i128>>(values: &[T]) -> Option<Vec<f32>> {
            Some(values.iter().map(|&v| nearest(v.into())).collect())
        }
        match self {
            Self::F32(v) => Some(v.clone()),
            Self::F64(v) => Some(v.iter().copied().map(narrow).collect()),
            Self::U8(v) => near(v),
            Self::I8(v) => near(v),
            Self::U16(v) => near(v),
            Self::I16(v) => near(v),
            Self::U32(v) => near(v),
            Self::I32(v) => near(v),
            Self::U64(v) => near(v),
            Self::I64(v) => near(v),
            Self::Bool(_) | Self::Str(_) => None,
        }
    }
}

/// The value of a list whose values are all equal.
fn same<T: Copy + PartialEq>(values: &[T]) -> Option<T> {
    let (first, rest) = values.split_first()?;
    rest.iter().all(|value| value == first).then_some(*first)
}

/// The metadata of a file. Getters give `None` for a missing key and an error for a value of another type.
#[derive(Debug, Clone)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Metadata of the file at `path`, in file order.
    ///
    /// # Errors
    /// [`Fault::Duplicate`].
    pub fn new(path: &Path, entries: Vec<(String, Value)>) -> Result<Self> {
        let mut index = HashMap::with_capacity(entries.len());
        for (i, (key, _)) in entries.iter().enumerate() {
            if index.insert(key.clone(), i).is_some() {
                return Err(LoadError::malformed(path, printable(key), Fault::Duplicate));
            }
        }
        Ok(Self { path: path.to_owned(), entries, index })
    }

    /// The path that messages show.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).and_then(|&i| self.entries.get(i)).map(|(_, value)| value)
    }

    /// A text.
    ///
    /// # Errors
    /// [`Fault::WrongType`].
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "str", |value| match value {
            Value::Str(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A value that is true or false; numbers that say so are 0 and 1.
    ///
    /// # Errors
    /// [`Fault::WrongType`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "bool", |value| match value.integer() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        })
    }

    /// A number of any type, as f32; it may be infinite or not a number. A list of equal numbers, one for
    /// each layer, is that number.
    ///
    /// # Errors
    /// [`Fault::WrongType`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "f32 or f64", |value| match value {
            Value::F32(x) => Some(*x),
            Value::F64(x) => Some(narrow(*x)),
            Value::Array(array) => same(&array.floats()?),
            Value::Bool(_) => None,
            other => other.integer().map(nearest),
        })
    }

    /// A count of any number type, not negative. A list of equal counts, one for each layer, is that count.
    ///
    /// # Errors
    /// [`Fault::WrongType`], also for a list of different counts; [`Fault::OutOfRange`].
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        let number = |value: &Value| match value {
            Value::Bool(_) | Value::Array(Array::Bool(_)) => None,
            _ => value.integer().or_else(|| same(&value.integers()?)),
        };
        let Some(n) = self.typed(key, "an integer", number)? else { return Ok(None) };
        self.fit(key, n, u64::MAX).map(Some)
    }

    /// Texts.
    ///
    /// # Errors
    /// [`Fault::WrongType`].
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "array of str", |value| match value {
            Value::Array(Array::Str(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// Numbers of any type, as f32.
    ///
    /// # Errors
    /// [`Fault::WrongType`].
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "array of f32 or f64", |value| match value {
            Value::Array(array) => array.floats(),
            _ => None,
        })
    }

    /// A list of values that are true or false; numbers that say so are 0 and 1.
    ///
    /// # Errors
    /// [`Fault::WrongType`].
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let flag = |n: i128| match n {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        };
        self.typed(key, "array of bool", |value| value.integers()?.into_iter().map(flag).collect())
    }

    /// Bytes, e.g. a precompiled character map.
    ///
    /// # Errors
    /// [`Fault::WrongType`], [`Fault::OutOfRange`].
    pub fn u8s(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.integers(key, u8::MAX.into())
    }

    /// Integers of any type that fit 32 bits.
    ///
    /// # Errors
    /// [`Fault::WrongType`], [`Fault::OutOfRange`].
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.integers(key, i32::MAX.unsigned_abs().into())
    }

    /// Counts: integers of any type, none negative.
    ///
    /// # Errors
    /// [`Fault::WrongType`], [`Fault::OutOfRange`].
    pub fn u64s(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.integers(key, u64::MAX)
    }

    /// [`Self::str`] of a key that must be there.
    ///
    /// # Errors
    /// Also [`Fault::Missing`].
    pub fn require_str(&self, key: &str) -> Result<&str> {
        self.str(key)?.ok_or_else(|| self.missing(key))
    }

    /// [`Self::u64`] of a key that must be there.
    ///
    /// # Errors
    /// Also [`Fault::Missing`].
    pub fn require_u64(&self, key: &str) -> Result<u64> {
        self.u64(key)?.ok_or_else(|| self.missing(key))
    }

    /// [`Self::strings`] of a key that must be there.
    ///
    /// # Errors
    /// Also [`Fault::Missing`].
    pub fn require_strings(&self, key: &str) -> Result<&[String]> {
        self.strings(key)?.ok_or_else(|| self.missing(key))
    }

    /// The error `fault` of the value under `key`.
    pub fn fault(&self, key: &str, fault: Fault) -> LoadError {
        LoadError::malformed(&self.path, printable(key), fault)
    }

    fn missing(&self, key: &str) -> LoadError {
        self.fault(key, Fault::Missing { hint: "" })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.fault(key, Fault::WrongType { found: value.type_name().to_owned(), expected })),
        }
    }

    fn integers<T: TryFrom<i128>>(&self, key: &str, high: u64) -> Result<Option<Vec<T>>> {
        let Some(values) = self.typed(key, "array of integers", Value::integers)? else { return Ok(None) };
        values.into_iter().map(|n| self.fit(key, n, high)).collect::<Result<_>>().map(Some)
    }

    /// `n` as `T`, whose highest value is `high`.
    fn fit<T: TryFrom<i128>>(&self, key: &str, n: i128, high: u64) -> Result<T> {
        T::try_from(n).map_err(|_| self.fault(key, Fault::OutOfRange { found: n.to_string(), low: 0, high }))
    }
}
