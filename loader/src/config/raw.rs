//! Values of a raw configuration within bounds: what a hostile file can say ends here as an error that names
//! its key. It must not know families.

use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::narrow;

impl RawConfig {
    /// A required whole number from `low` to `high`.
    pub fn count<N: Copy + Into<u64>>(&self, field: &Field<N>, low: u64, high: u64) -> Result<usize> {
        match field.get() {
            Some(&value) => self.bounded(&field.name, value.into(), low, high),
            None => Err(self.missing(&field.name)),
        }
    }

    /// A whole number from `low` to `high`; `default` if the file has none.
    pub fn count_or(&self, field: &Field<u64>, default: usize, low: u64, high: u64) -> Result<usize> {
        field.value.map_or(Ok(default), |value| self.bounded(&field.name, value, low, high))
    }

    /// A number for each of `layers` layers, each from `low` to `high`.
    pub fn per_layer(
        &self,
        field: &Field<PerLayer>,
        layers: usize,
        low: u64,
        high: u64,
    ) -> Result<Vec<usize>> {
        let Some(PerLayer(values)) = &field.value else { return Err(self.missing(&field.name)) };
        let one = values.len() == 1;
        if !one && values.len() != layers {
            return Err(self.fault(
                &field.name,
                Fault::Contradiction {
                    found: format!("a list of {} values", values.len()),
                    other: format!("{layers} layers"),
                },
            ));
        }
        (0..layers)
            .map(|layer| {
                let value = values.get(if one { 0 } else { layer }).copied().unwrap_or(0);
                self.bounded(&field.name, value, low, high)
            })
            .collect()
    }

    /// A finite number above zero; the table's default if the file has none.
    pub fn positive(&self, field: &Field<f64>) -> Result<f32> {
        self.positive_number(field, field.get().copied())
    }

    /// As [`Self::positive`], with the default of a family or a formula.
    pub fn positive_or(&self, field: &Field<f64>, default: f64) -> Result<f32> {
        self.positive_number(field, Some(field.value.unwrap_or(default)))
    }

    /// A finite number of at least zero; the table's default if the file has none.
    pub fn non_negative(&self, field: &Field<f64>) -> Result<f32> {
        let value = *self.required(field)?;
        self.finite(field, value, value >= 0.0, "a finite number of at least zero")
    }

    /// One string; the table's default if the file has none.
    pub fn text(&self, field: &Field<String>) -> Result<String> {
        self.required(field).cloned()
    }

    /// The value of the file or the table's default, one of which must be there.
    fn required<'a, T>(&self, field: &'a Field<T>) -> Result<&'a T> {
        field.get().ok_or_else(|| self.missing(&field.name))
    }

    fn positive_number(&self, field: &Field<f64>, value: Option<f64>) -> Result<f32> {
        let value = value.ok_or_else(|| self.missing(&field.name))?;
        self.finite(field, value, value > 0.0, "a finite number above zero")
    }

    fn finite(&self, field: &Field<f64>, value: f64, ok: bool, must: &'static str) -> Result<f32> {
        let single = narrow(value);
        if ok && single.is_finite() && (value == 0.0 || single != 0.0) {
            return Ok(single);
        }
        Err(self.fault(&field.name, Fault::BadNumber { found: value.to_string(), must }))
    }

    /// A whole number from `low` to `high`, of the field of this name.
    pub fn bounded(&self, name: &str, value: u64, low: u64, high: u64) -> Result<usize> {
        match usize::try_from(value) {
            Ok(count) if (low..=high).contains(&value) => Ok(count),
            _ => Err(self.fault(name, Fault::OutOfRange { found: value.to_string(), low, high })),
        }
    }

    /// An error at a field of this configuration.
    pub fn fault(&self, name: &str, fault: Fault) -> LoadError {
        LoadError::malformed(&self.path, name, fault)
    }

    /// The error for a field that must be there and is not.
    pub fn missing(&self, name: &str) -> LoadError {
        self.fault(name, Fault::Missing { hint: "" })
    }
}
