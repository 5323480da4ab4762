//! Reads the metadata of a GGUF file into a [`RawConfig`]. What a file leaves to its tensors (biases, a tied
//! head, layers without experts, rope divisors) is read off the tensor list, as the table says. It must not
//! know what the values mean for a model.

use crate::config::field::{Field, FieldRow, FieldSource, GgufPlace, PerLayer, Period, Uniform};
use crate::config::fields::{FIELDS, ROWS, RawConfig};
use crate::config::ignored::GGUF_IGNORED;
use crate::config::predicting;
use crate::config::write_rope::yarn_magnitude;
use crate::container::catalog::{Catalog, TensorInfo};
use crate::container::gguf::{Metadata, Value};
use crate::container::packed::PackedIndex;
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::narrow;
use crate::spec::{BankKind, Part};

/// Layers that are looked through; the lowering refuses more.
const MAX_LAYERS: u64 = 4096;

/// Reads the metadata and tensor list of a GGUF file, and what it says of its records if it is packed.
///
/// # Errors
/// [`LoadError::Malformed`] when a key has another type than it must have.
pub(crate) fn read(meta: &Metadata, catalog: &Catalog, packed: Option<&PackedIndex>) -> Result<RawConfig> {
    let mut file = GgufFile::new(meta, catalog)?;
    let mut raw = RawConfig::read(meta.path(), &mut file)?;
    raw.unknown = file.unknown();
    raw.model_name.value.get_or_insert_with(|| "unnamed model".to_owned());
    // Widths that other files leave to their banks.
    for layer in packed.into_iter().flat_map(PackedIndex::layers) {
        let width = layer.shape.part(Part::Down).and_then(|down| u64::try_from(down.cols).ok());
        match layer.kind {
            BankKind::FeedForward => {
                raw.expert_d_ff.value = raw.expert_d_ff.value.or(width.map(Uniform));
            }
            BankKind::Adjugate => raw.adjugate_d_ff.value = raw.adjugate_d_ff.value.or(width),
            BankKind::Heads => {}
        }
    }
    if raw.experts.value == Some(0) && raw.experts_used.value.is_none_or(|Uniform(used)| used == 0) {
        raw.experts.value = None; // how some dense files say "no experts"
    }
    raw.layers.value = file.own_layers(&raw)?;
    predicting::leave_out(&mut raw);
    attention_factor(&mut raw);
    rope_scaling(&mut raw);
    Ok(raw)
}

/// Converters write LongRoPE's two lists of divisors (Phi-3.5-MoE) without naming the scheme; the
/// specification's older key is a linear factor, and so is a factor without a name. A factor of 0 is none.
fn rope_scaling(raw: &mut RawConfig) {
    let (kind, factor) = (&mut raw.rope_kind.value, &mut raw.rope_factor.value);
    *factor = factor.filter(|&factor| factor != 0.0);
    if raw.rope_long_divisors.value.is_some() && matches!(kind.as_deref(), None | Some("none")) {
        *kind = Some("longrope".to_owned());
    } else if kind.is_none() && factor.is_some_and(|factor| factor != 1.0) {
        *kind = Some("linear".to_owned());
    }
}

/// Readers of GGUF multiply the factor of YaRN files with the scheme's own; for other schemes it stands for
/// itself.
fn attention_factor(raw: &mut RawConfig) {
    if raw.rope_kind.value.as_deref() == Some("yarn") {
        let own = f64::from(yarn_magnitude(narrow(raw.rope_factor.value.unwrap_or(1.0))));
        let whole = raw.rope_whole_factor.value;
        let factor = &mut raw.rope_attention_factor.value;
        *factor = match raw.yarn_log_multiplier.value {
            // The factor of the keys cancels that of the scheme.
            Some(mscale) if mscale != 0.0 => Some(factor.unwrap_or(1.0)),
            _ => whole.or(Some(factor.unwrap_or(1.0) * own)),
        };
    }
}

/// The metadata and tensors of a file.
struct GgufFile<'a> {
    meta: &'a Metadata,
    catalog: &'a Catalog,
    arch: String,
    /// Layers that are looked through.
    layers: u64,
}

impl<'a> GgufFile<'a> {
    fn new(meta: &'a Metadata, catalog: &'a Catalog) -> Result<Self> {
        let mut file = Self { meta, catalog, arch: String::new(), layers: 0 };
        file.arch = file.text(&FIELDS.architecture)?.value.unwrap_or_default();
        let predicting = file.count(&FIELDS.predicting_layers)?.value.unwrap_or(0);
        let layers = file.count(&FIELDS.layers)?.value.unwrap_or(0);
        file.layers = layers.saturating_sub(predicting).min(MAX_LAYERS);
        Ok(file)
    }

    /// Layers without those that predict several tokens at once.
    fn own_layers(&self, raw: &RawConfig) -> Result<Option<u64>> {
        let (Some(layers), Some(predicting)) = (raw.layers.value, raw.predicting_layers.value) else {
            return Ok(raw.layers.value);
        };
        if predicting > 0 && predicting >= layers {
            let (found, other) = (predicting.to_string(), format!("{layers} layers in all"));
            return Err(raw.fault(&raw.predicting_layers.name, Fault::Contradiction { found, other }));
        }
        Ok(Some(layers - predicting))
    }

    /// The first place of a row that has a value.
    fn first<T>(
        &self,
        row: &FieldRow,
        read: impl Fn(&Self, GgufPlace) -> Result<Option<T>>,
    ) -> Result<Field<T>> {
        let name = |place: &GgufPlace| place.shown(&self.arch);
        for place in row.gguf {
            if let Some(value) = read(self, *place)? {
                return Ok(Field::new(name(place), Some(value)));
            }
        }
        Ok(Field::new(row.gguf.first().map_or_else(|| row.name.to_owned(), name), None))
    }

    /// As [`Self::first`] for a row that stands in metadata alone.
    fn first_key<T>(
        &self,
        row: &FieldRow,
        read: impl Fn(&Metadata, &str) -> Result<Option<T>>,
    ) -> Result<Field<T>> {
        self.first(row, |file, place| match place.key(&file.arch) {
            Some(key) => read(file.meta, &key),
            None => Ok(None),
        })
    }

    fn is_array(&self, key: &str) -> bool {
        matches!(self.meta.get(key), Some(Value::Array(_)))
    }

    /// The tensor of each layer.
    fn by_layer(&self, name: &str) -> impl Iterator<Item = Option<&TensorInfo>> {
        (0..self.layers).map(move |layer| self.catalog.get(&name.replacen('*', &layer.to_string(), 1)))
    }

    /// The values of a small tensor that is configuration rather than weight.
    fn values(&self, name: &str) -> Result<Option<Vec<f64>>> {
        const LIMIT: u64 = 4096;
        let Some(tensor) = self.catalog.get(name) else { return Ok(None) };
        let count = tensor.shape.iter().product::<u64>();
        let path = self.catalog.path(tensor);
        if count > LIMIT {
            let fault = Fault::OutOfRange { found: count.to_string(), low: 1, high: LIMIT };
            return Err(LoadError::malformed(path, format!("number of values in {name}"), fault));
        }
        let format = tensor.known_format(path)?;
        let mut values = vec![0.0; usize::try_from(count).unwrap_or(0)];
        moelten_quant::decode(format, self.catalog.bytes(tensor), &mut values);
        Ok(Some(values.into_iter().map(f64::from).collect()))
    }

    /// Keys of the architecture that no row of the table has.
    fn unknown(&self) -> Vec<String> {
        let places = ROWS.iter().flat_map(|row| row.gguf).filter_map(|place| place.key(&self.arch));
        let ignored = GGUF_IGNORED.iter().map(|key| key.replace("{arch}", &self.arch));
        let known: Vec<String> = places.chain(ignored).collect();
        let of_arch = |key: &str| key.strip_prefix(&self.arch).is_some_and(|rest| rest.starts_with('.'));
        let keys = self.meta.iter().map(|(key, _)| key);
        keys.filter(|key| of_arch(key) && !known.iter().any(|known| known == key))
            .map(str::to_owned)
            .collect()
    }
}

impl FieldSource for GgufFile<'_> {
    fn count(&mut self, row: &FieldRow) -> Result<Field<u64>> {
        self.first(row, |file, place| match place {
            GgufPlace::Rows(name) => Ok(file.catalog.get(name).and_then(|t| t.shape.first().copied())),
            GgufPlace::Columns(name) => {
                Ok(file.by_layer(name).flatten().find_map(|t| t.shape.last().copied()))
            }
            _ => place.key(&file.arch).map_or(Ok(None), |key| file.meta.u64(&key)),
        })
    }

    fn per_layer(&mut self, row: &FieldRow) -> Result<Field<PerLayer>> {
        self.first_key(row, |meta, key| match self.is_array(key) {
            true => Ok(meta.u64s(key)?.map(PerLayer)),
            false => Ok(meta.u64(key)?.map(|value| PerLayer(vec![value]))),
        })
    }

    fn uniform(&mut self, row: &FieldRow) -> Result<Field<Uniform>> {
        let found = self.first(row, |file, place| match place {
            GgufPlace::Columns(name) => Ok(file
                .by_layer(name)
                .flatten()
                .find_map(|t| t.shape.last().copied())
                .map(|columns| vec![columns])),
            _ => match place.key(&file.arch) {
                Some(key) if file.is_array(&key) => file.meta.u64s(&key),
                Some(key) => Ok(file.meta.u64(&key)?.map(|value| vec![value])),
                None => Ok(None),
            },
        })?;
        let value = found.value.as_deref().map(|values| {
            Uniform::of(values).ok_or_else(|| {
                let found_values = format!("a list of {} different numbers", values.len());
                let fault =
                    Fault::WrongType { found: found_values, expected: "the same number for each layer" };
                LoadError::malformed(self.meta.path(), found.name.clone(), fault)
            })
        });
        Ok(Field::new(found.name.clone(), value.transpose()?))
    }

    fn period(&mut self, row: &FieldRow) -> Result<Field<Period>> {
        self.first(row, |file, place| match place.key(&file.arch).filter(|key| !file.is_array(key)) {
            Some(key) => Ok(file.meta.u64(&key)?.map(Period)),
            None => Ok(None),
        })
    }

    fn counts(&mut self, row: &FieldRow) -> Result<Field<Vec<u64>>> {
        self.first_key(row, Metadata::u64s)
    }

    fn number(&mut self, row: &FieldRow) -> Result<Field<f64>> {
        self.first_key(row, |meta, key| Ok(meta.f32(key)?.map(f64::from)))
    }

    fn numbers(&mut self, row: &FieldRow) -> Result<Field<Vec<f64>>> {
        self.first(row, |file, place| match place {
            GgufPlace::Values(name) => file.values(name),
            _ => match place.key(&file.arch) {
                Some(key) => Ok(file.meta.f32s(&key)?.map(|v| v.into_iter().map(f64::from).collect())),
                None => Ok(None),
            },
        })
    }

    fn flag(&mut self, row: &FieldRow) -> Result<Field<bool>> {
        self.first(row, |file, place| match place {
            GgufPlace::Present(name) => Ok(Some(file.catalog.get(name).is_some())),
            GgufPlace::Absent(name) => Ok(Some(file.catalog.get(name).is_none())),
            GgufPlace::PresentInSome(name) => Ok(Some(file.by_layer(name).any(|tensor| tensor.is_some()))),
            _ => place.key(&file.arch).map_or(Ok(None), |key| file.meta.bool(&key)),
        })
    }

    /// A single number (a period) is another family's form of a list and is not read.
    fn flags(&mut self, row: &FieldRow) -> Result<Field<Vec<bool>>> {
        self.first(row, |file, place| match place {
            // A file with no such tensor is either dense or broken; the lowering tells by the expert count.
            GgufPlace::PresentByLayer(names) => {
                let mut list = vec![false; usize::try_from(file.layers).unwrap_or(0)];
                for name in names {
                    let there = file.by_layer(name).map(|tensor| tensor.is_some());
                    list.iter_mut().zip(there).for_each(|(has, there)| *has |= there);
                }
                Ok(Some(list).filter(|list| list.contains(&true)))
            }
            _ => match place.key(&file.arch) {
                Some(key) if file.is_array(&key) => file.meta.bools(&key),
                Some(key) => Ok(match file.meta.get(&key) {
                    Some(Value::Bool(all)) => Some((0..file.layers).map(|_| *all).collect()),
                    _ => None,
                }),
                None => Ok(None),
            },
        })
    }

    fn text(&mut self, row: &FieldRow) -> Result<Field<String>> {
        self.first_key(row, |meta, key| Ok(meta.str(key)?.map(str::to_owned)))
    }

    fn texts(&mut self, row: &FieldRow) -> Result<Field<Vec<String>>> {
        self.first_key(row, |meta, key| Ok(meta.strings(key)?.map(<[String]>::to_vec)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::catalog::Storage;
    use crate::container::gguf::Array;
    use crate::io::FileBytes;
    use moelten_quant::Format;
    use std::path::Path;

    /// A value of a row's type in metadata, and as a row shows it.
    fn sample(kind: &str) -> (Value, String) {
        match kind {
            "u64" => (Value::U32(7), "7".into()),
            "Uniform" => (Value::Array(Array::U32(vec![7, 7])), "Uniform(7)".into()),
            "Period" => (Value::U32(4), "Period(4)".into()),
            "PerLayer" => (Value::Array(Array::U32(vec![4, 8])), "PerLayer([4, 8])".into()),
            "f64" => (Value::F32(0.5), "0.5".into()),
            "bool" => (Value::Bool(true), "true".into()),
            "String" => (Value::Str("text".into()), "\"text\"".into()),
            "Vec<String>" => (Value::Array(Array::Str(vec!["text".into()])), "[\"text\"]".into()),
            "Vec<bool>" => (Value::Array(Array::Bool(vec![true])), "[true]".into()),
            "Vec<u64>" => (Value::Array(Array::U32(vec![1, 2])), "[1, 2]".into()),
            "Vec<f64>" => (Value::Array(Array::F32(vec![0.5])), "[0.5]".into()),
            other => panic!("a sample of {other} is missing"),
        }
    }

    /// A file of two layers with one key or one tensor more, read.
    fn fields_of(key: Option<(String, Value)>, tensor: Option<&str>) -> Result<(RawConfig, Vec<String>)> {
        let path = Path::new("f.gguf");
        let base = [("general.architecture", Value::Str("arch".into())), ("arch.block_count", Value::U32(2))];
        let mut entries: Vec<_> = base.map(|(key, value)| (key.to_owned(), value)).into();
        if let Some((key, value)) = key {
            entries.retain(|(other, _)| *other != key);
            entries.push((key, value));
        }
        let tensor = tensor.map(|name| TensorInfo {
            name: name.replace('*', "1"),
            storage: Storage::Known(Format::F32),
            shape: vec![3, 1],
            file: 0,
            offset: 0,
            bytes: 12,
        });
        let meta = Metadata::new(path, entries)?;
        let catalog = Catalog::new(vec![FileBytes::carried(path, &[0; 12])], tensor.into_iter().collect())?;
        let mut file = GgufFile::new(&meta, &catalog)?;
        Ok((RawConfig::read(path, &mut file)?, file.unknown()))
    }

    /// Each key and each tensor alone fills the rows that have it, and a value of another type is refused
    /// with its name.
    #[test]
    fn every_place_of_the_table_is_read() {
        for (row, &place) in ROWS.iter().flat_map(|row| row.gguf.iter().map(move |place| (row, place))) {
            let (raw, unknown, expected) = match place {
                GgufPlace::Key(_) => {
                    let key = place.key(if row.name == "architecture" { "" } else { "arch" }).unwrap();
                    let (value, shown) = sample(row.kind);
                    let (raw, unknown) = fields_of(Some((key.clone(), value)), None).unwrap();
                    if row.name != "window_layers" && row.kind != "Vec<String>" {
                        let error = fields_of(Some((key.clone(), Value::Array(Array::Str(vec![])))), None);
                        let message = error.unwrap_err().to_string();
                        assert!(message.contains(&format!("{key}: is array of str")), "{message}");
                    }
                    (raw, unknown, shown)
                }
                GgufPlace::Rows(name) => tensor(name, "3"),
                GgufPlace::Columns(name) if row.kind == "Uniform" => tensor(name, "Uniform(1)"),
                GgufPlace::Columns(name) => tensor(name, "1"),
                GgufPlace::Present(name) | GgufPlace::PresentInSome(name) => tensor(name, "true"),
                GgufPlace::Absent(name) => tensor(name, "false"),
                GgufPlace::PresentByLayer(names) => tensor(names[0], "[false, true]"),
                GgufPlace::Values(name) => tensor(name, "[0.0, 0.0, 0.0]"),
            };
            assert_eq!(raw.stated().get(row.name), Some(&expected), "{place:?}");
            assert_eq!(unknown, [""; 0], "{place:?}");
        }
    }

    fn tensor(name: &str, shown: &str) -> (RawConfig, Vec<String>, String) {
        let (raw, unknown) = fields_of(None, Some(name)).unwrap();
        (raw, unknown, shown.to_owned())
    }

    #[test]
    fn keys_that_no_row_has_are_listed() {
        let found = |key: &str| fields_of(Some((key.to_owned(), Value::U32(1))), None).unwrap().1;
        assert_eq!(found("arch.expert_of_the_day"), ["arch.expert_of_the_day"]);
        assert_eq!(found("arch.vocab_size"), [""; 0]);
        assert_eq!(found("general.file_type"), [""; 0], "of no architecture");
        assert_eq!(found("archaic.key"), [""; 0]);
    }
}
