//! Reads `config.json` into a [`RawConfig`]: the form of transformers 5 (`rope_parameters`), the older one
//! (`rope_theta`, `rope_scaling`), and `text_config`. Keys that are not understood are listed. It must not
//! know what the values mean.

mod sparse;
mod values;

use std::path::Path;

use serde_json::{Map, Value};

use crate::config::field::{Field, FieldRow, FieldSource, PerLayer, Period, Uniform};
use crate::config::fields::{FIELDS, ROWS, RawConfig};
use crate::config::ignored::HF_IGNORED;
use crate::config::positions::PROPORTIONAL;
use crate::config::predicting;
use crate::error::{Fault, LoadError, Result};
use sparse::MAX_LAYERS;
use values::{flag, kind, number, whole};

/// The object in which models for several kinds of input keep the settings of the language model.
const NESTED: &str = "text_config";
/// How the weights were quantised, and the ways whose tensors say by themselves how they are read.
const QUANTISED: (&str, &str) = ("quantization_config", "quant_method");
const QUANT_METHODS: [&str; 5] = ["fp8", "fbgemm_fp8", "compressed-tensors", "mxfp4", MODELOPT];
/// The method that has several ways, which another key names, and those that are read. Folders that mix them
/// say by each tensor which it is.
const MODELOPT: &str = "modelopt";
const MODELOPT_WAY: &str = "quant_algo";
const MODELOPT_WAYS: [&str; 3] = ["NVFP4", "FP8", "MIXED_PRECISION"];
/// The object with the settings of the rope, and its older name.
const ROPE_OBJECTS: [&str; 2] = ["rope_parameters", "rope_scaling"];
/// What a key of the table begins with that stands in the rope's object; where layers of different types
/// have ropes of their own, in that of [`FULL`] attention.
const ROPE: &str = "rope.";
/// The same for layers with a window: keys of the object of [`LOCAL`] attention.
const LOCAL_ROPE: &str = "local_rope.";
/// Types of layers with ropes of their own.
const FULL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";
/// Other names of them: the rope of layers with compressed tokens, and that of layers without.
const FULL_ALSO: &str = "compress";
const LOCAL_ALSO: &str = "main";
/// Says whether queries grow with their position.
const TUNING: &str = "attn_temperature_tuning";
/// The tokens that end a text.
const ENDS: &str = "eos_token_id";
/// The object with settings of single layers.
const BY_LAYER: &str = "per_layer_config";

/// Reads a parsed `config.json`.
///
/// # Errors
/// [`LoadError::Malformed`] when a field has another type than it must have, [`LoadError::Unsupported`] for
/// ropes of other types of layers than those with and without a window.
pub(crate) fn read(path: &Path, config: &Value) -> Result<RawConfig> {
    let Value::Object(map) = config else {
        let fault = Fault::WrongType { found: kind(config).into(), expected: "a JSON object" };
        return Err(LoadError::malformed(path, "the file", fault));
    };
    quantised_as(path, map)?;
    let mut file = ConfigFile::new(path, map)?;
    let mut raw = RawConfig::read(path, &mut file)?;
    raw.unknown = file.unknown();
    // A model for several kinds of input names its language model inside.
    let inner = map.get(NESTED).and_then(|nested| nested.get("model_type")).and_then(Value::as_str);
    if let Some(inner) = inner {
        raw.architecture = Field::new(format!("{NESTED}.model_type"), Some(inner.to_owned()));
    }
    raw.model_name.value = raw.model_name.value.filter(|name| !name.is_empty());
    raw.model_name.value.get_or_insert_with(|| folder_name(path));
    // A proportional rope has as many dimensions as a head. Some of them do not turn.
    if raw.rope_dim.value.is_none() && raw.rope_kind.value.as_deref() != Some(PROPORTIONAL) {
        let dim = rotated_part(&raw, &raw.rope_part)?;
        raw.rope_dim = Field { name: raw.rope_part.name.clone(), ..Field::new("", dim) };
    }
    if raw.local_rope_part.value.is_some() {
        let dim = rotated_part(&raw, &raw.local_rope_part)?;
        raw.local_rope_dim = Field { name: raw.local_rope_part.name.clone(), ..Field::new("", dim) };
    }
    predicting::leave_out(&mut raw);
    layer_config(&mut raw, &file)?;
    raw.temperature_on = tuning(path, &file)?;
    raw.ngram_end = first_end(&file);
    raw.window_layers = window_layers(&raw)?;
    raw.moe_layers = sparse::moe_layers(&raw)?;
    // Configurations of the Qwen kind have the window off unless they say that it is on.
    let qwen_kind = raw.window_from.value.is_some();
    if !raw.window_on.value.unwrap_or(!qwen_kind) {
        raw.window.value = None;
    }
    Ok(raw)
}

/// Refuses weights that were quantised in a way that is not read.
fn quantised_as(path: &Path, map: &Map<String, Value>) -> Result<()> {
    let inside =
        |map: &'_ Map<String, Value>, key: &str| Some(map.get(QUANTISED.0)?.get(key)?.as_str()?.to_owned());
    let stated = |key: &str| {
        let nested = || map.get(NESTED).and_then(Value::as_object).and_then(|map| inside(map, key));
        inside(map, key).or_else(nested)
    };
    let unless = |key: &str, known: &[&str]| match stated(key) {
        Some(found) if !known.contains(&found.as_str()) => Err(LoadError::Unsupported {
            path: path.to_owned(),
            feature: format!("{}.{key} {}", QUANTISED.0, found.escape_default()),
            hint: format!("supported are {}; use a GGUF file of this model", known.join(", ")),
        }),
        _ => Ok(()),
    };
    unless(QUANTISED.1, &QUANT_METHODS)?;
    match stated(QUANTISED.1).as_deref() {
        Some(MODELOPT) => unless(MODELOPT_WAY, &MODELOPT_WAYS),
        _ => Ok(()),
    }
}

/// The first token that ends a text.
fn first_end(file: &ConfigFile<'_>) -> Field<u64> {
    let (name, value) = file.get(ENDS);
    Field::new(name, value.and_then(|value| whole(value).or_else(|| whole(value.as_array()?.first()?))))
}

/// Whether queries grow: true or false, or a number that is not 0.
fn tuning(path: &Path, file: &ConfigFile<'_>) -> Result<Field<bool>> {
    let (name, value) = file.get(TUNING);
    let on = match value {
        None => None,
        Some(value) => {
            let on = value.as_bool().or_else(|| Some(value.as_f64()? != 0.0));
            let wrong =
                || Fault::WrongType { found: kind(value).into(), expected: "true, false or a number" };
            Some(on.ok_or_else(|| LoadError::malformed(path, name.clone(), wrong()))?)
        }
    };
    Ok(Field::new(name, on))
}

/// Settings of single layers, by the number of the layer: widths of heads.
fn layer_config(raw: &mut RawConfig, file: &ConfigFile<'_>) -> Result<()> {
    const WIDTH: &str = "head_dim";
    let (name, Some(value)) = file.get(BY_LAYER) else { return Ok(()) };
    let wrong = |field: String, found: &Value, expected: &'static str| {
        LoadError::malformed(&raw.path, field, Fault::WrongType { found: kind(found).into(), expected })
    };
    let Value::Object(layers) = value else { return Err(wrong(name, value, "a JSON object")) };
    let (count, width) = (file.layers.unwrap_or(0), raw.head_dim.value);
    let mut widths = vec![width.unwrap_or(0); count.min(MAX_LAYERS as usize)];
    let mut unknown = Vec::new();
    for (layer, settings) in layers {
        let field = format!("{name}.{layer}");
        let Value::Object(settings) = settings else { return Err(wrong(field, settings, "a JSON object")) };
        let Some(place) = layer.parse().ok().and_then(|layer: usize| widths.get_mut(layer)) else {
            let (found, other) = (format!("layer {layer}"), format!("{count} layers"));
            return Err(raw.fault(&name, Fault::Contradiction { found, other }));
        };
        for (key, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
            match (key.as_str(), whole(value)) {
                (WIDTH, Some(width)) => *place = width,
                (WIDTH, None) => return Err(wrong(format!("{field}.{key}"), value, "a whole number")),
                _ => unknown.push(format!("{field}.{key}")),
            }
        }
    }
    raw.layer_head_dims = Field::new(format!("{name}.{WIDTH}"), Some(PerLayer(widths)));
    raw.unknown.extend(unknown);
    Ok(())
}

fn folder_name(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name);
    folder.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Qwen2-style lists: `layer_types`, or "from `max_window_layers` on".
fn window_layers(raw: &RawConfig) -> Result<Field<Vec<bool>>> {
    if let Some(types) = &raw.layer_types.value {
        let windowed = types.iter().map(|kind| kind == "sliding_attention").collect();
        return Ok(Field::new(raw.layer_types.name.clone(), Some(windowed)));
    }
    if let Some(flags) = &raw.window_flags.value {
        let windowed = sparse::yes_or_no(raw, &raw.window_flags.name, flags)?;
        return Ok(Field::new(raw.window_flags.name.clone(), Some(windowed)));
    }
    let bounded = raw.layers.value.filter(|&n| n <= MAX_LAYERS);
    let value = match (raw.window_from.value, bounded) {
        (Some(from), Some(n)) => Some((0..n).map(|layer| layer >= from).collect()),
        _ => None,
    };
    Ok(Field::new(raw.window_from.name.clone(), value))
}

/// How many dimensions of a head rotate under a partial factor.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the factor is checked to be within 0..=1 and head widths are small"
)]
fn rotated_part(raw: &RawConfig, part: &Field<f64>) -> Result<Option<u64>> {
    let heads = raw.heads.value.as_ref().and_then(|PerLayer(heads)| heads.first().copied());
    let width = raw.head_dim.value.or_else(|| raw.d_model.value?.checked_div(heads?));
    match (part.value, width) {
        (Some(factor), Some(width)) if factor > 0.0 && factor <= 1.0 => {
            Ok(Some((width as f64 * factor) as u64))
        }
        (Some(factor), Some(_)) => {
            let fault = Fault::BadNumber { found: factor.to_string(), must: "above 0 and at most 1" };
            Err(raw.fault(&part.name, fault))
        }
        _ => Ok(None),
    }
}

/// An object of the configuration, and what its keys begin with in messages.
type Object<'a> = (String, &'a Map<String, Value>);

/// The objects with the rope's settings: of all layers or of those without a window, and of layers with one.
fn rope_objects<'a>(
    path: &Path,
    map: &'a Map<String, Value>,
    nested: Option<&'a Map<String, Value>>,
) -> Result<[Option<Object<'a>>; 2]> {
    let places = [(String::new(), Some(map)), (format!("{NESTED}."), nested)];
    let mut other = None;
    for (prefix, map) in places {
        for object in ROPE_OBJECTS {
            match map.and_then(|map| map.get(object)) {
                None | Some(Value::Null) => {}
                Some(Value::Object(found)) => {
                    return by_layer_type(path, format!("{prefix}{object}."), found);
                }
                Some(found) => {
                    other.get_or_insert((format!("{prefix}{}", ROPE_OBJECTS[0]), kind(found)));
                }
            }
        }
    }
    match other {
        None => Ok([None, None]),
        Some((name, found)) => {
            let fault = Fault::WrongType { found: found.into(), expected: "a JSON object" };
            Err(LoadError::malformed(path, name, fault))
        }
    }
}

/// The settings for layers without and with a window, if the object has them apart.
fn by_layer_type<'a>(
    path: &Path,
    prefix: String,
    rope: &'a Map<String, Value>,
) -> Result<[Option<Object<'a>>; 2]> {
    let known = |key: &str| [FULL, LOCAL, FULL_ALSO, LOCAL_ALSO].contains(&key);
    if let Some((key, _)) = rope.iter().find(|(key, value)| value.is_object() && !known(key)) {
        return Err(LoadError::Unsupported {
            path: path.to_owned(),
            feature: format!("{prefix}{} (a rope for this type of layers)", key.escape_default()),
            hint: format!("ropes for {FULL} and {LOCAL} are"),
        });
    }
    let part = |key: &str| Some((format!("{prefix}{key}."), rope.get(key)?.as_object()?));
    match (part(FULL).or_else(|| part(FULL_ALSO)), part(LOCAL).or_else(|| part(LOCAL_ALSO))) {
        (None, local) => Ok([Some((prefix, rope)), local]),
        parts => Ok(parts.into()),
    }
}

/// A parsed file with its nested objects.
struct ConfigFile<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
    nested: Option<&'a Map<String, Value>>,
    /// The objects of [`ROPE`] and [`LOCAL_ROPE`].
    ropes: [Option<Object<'a>>; 2],
    /// The number of layers, as far as a list can have as many values.
    layers: Option<usize>,
}

impl<'a> ConfigFile<'a> {
    fn new(path: &'a Path, map: &'a Map<String, Value>) -> Result<Self> {
        let nested = map.get(NESTED).and_then(Value::as_object);
        let mut file = Self { path, map, nested, ropes: rope_objects(path, map, nested)?, layers: None };
        let layers = FIELDS.layers.hf.iter().find_map(|key| whole(file.get(key).1?));
        file.layers = layers.and_then(|layers| usize::try_from(layers).ok());
        Ok(file)
    }

    /// Whether a list has a value for each layer, and for each of those that predict several tokens at once.
    fn is_longer(&self, list: &[Value]) -> bool {
        let predicting = FIELDS.predicting_layers.hf.iter().find_map(|key| whole(self.get(key).1?));
        let all = |predicting| self.layers?.checked_add(usize::try_from(predicting).ok()?);
        predicting.and_then(all) == Some(list.len())
    }

    /// The values of a list that has one for each layer.
    fn layer_list<T>(&self, value: &Value, convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        let list = value.as_array().filter(|list| Some(list.len()) == self.layers || self.is_longer(list))?;
        list.iter().take(self.layers?).map(convert).collect()
    }

    /// One value for all layers, or a list that has the same one for each.
    fn one<T: PartialEq + Copy>(&self, value: &Value, convert: impl Fn(&Value) -> Option<T>) -> Option<T> {
        convert(value).or_else(|| {
            let list = self.layer_list(value, convert)?;
            let (first, rest) = list.split_first()?;
            rest.iter().all(|value| value == first).then_some(*first)
        })
    }

    /// The value of a key of the table, and its name in this file.
    fn get(&self, key: &str) -> (String, Option<&'a Value>) {
        let value = |map: &'a Map<String, Value>, key| map.get(key).filter(|value| !value.is_null());
        for (object, prefix) in self.ropes.iter().zip([ROPE, LOCAL_ROPE]) {
            let Some(key) = key.strip_prefix(prefix) else { continue };
            return match object {
                Some((prefix, rope)) => (format!("{prefix}{key}"), value(rope, key)),
                None if prefix == ROPE => (format!("{}.{key}", ROPE_OBJECTS[0]), None),
                None => (format!("{}.{LOCAL}.{key}", ROPE_OBJECTS[0]), None),
            };
        }
        if let Some((group, inner)) = key.split_once('.') {
            let of = |map: &'a Map<String, Value>| map.get(group)?.as_object();
            let found = [(String::new(), Some(self.map)), (format!("{NESTED}."), self.nested)];
            let object = found.into_iter().find_map(|(prefix, map)| Some((prefix, of(map?)?)));
            return match object {
                Some((prefix, object)) => (format!("{prefix}{key}"), value(object, inner)),
                None => (key.to_owned(), None),
            };
        }
        match (value(self.map, key), self.nested) {
            (None, Some(nested)) => (format!("{NESTED}.{key}"), value(nested, key)),
            (found, _) => (key.to_owned(), found),
        }
    }

    /// The first key of a row that has a value; all of them must have the right type.
    fn first<T>(
        &self,
        row: &FieldRow,
        expected: &'static str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Field<T>> {
        let mut found: Option<Field<T>> = None;
        for key in row.hf {
            let (name, value) = self.get(key);
            let value = match value.map(|value| (value, convert(value))) {
                None => None,
                Some((_, Some(converted))) => Some(converted),
                Some((value, None)) => {
                    let found = if value.is_number() { value.to_string() } else { kind(value).into() };
                    return Err(LoadError::malformed(self.path, name, Fault::WrongType { found, expected }));
                }
            };
            match &found {
                Some(first) if first.value.is_some() || value.is_none() => {}
                _ => found = Some(Field::new(name, value)),
            }
        }
        Ok(found.unwrap_or_else(|| Field::new(row.name, None)))
    }

    /// Keys that no row of the table has.
    fn unknown(&self) -> Vec<String> {
        let outside = |key: &str| {
            HF_IGNORED.contains(&key)
                || ROPE_OBJECTS.contains(&key)
                || key == BY_LAYER
                || key == TUNING
                || ROWS
                    .iter()
                    .flat_map(|row| row.hf)
                    .any(|hf| hf.split_once('.').is_some_and(|(g, _)| g == key))
                || ROWS.iter().any(|row| row.hf.contains(&key))
        };
        let object = self.nested.map(|_| NESTED);
        let top = self.map.keys().filter(|key| !outside(key) && object != Some(key.as_str()));
        let nested = self.nested.into_iter().flat_map(Map::keys).filter(|key| !outside(key));
        let known = |prefix: &str, key: &str| {
            ROWS.iter().flat_map(|row| row.hf).any(|hf| hf.strip_prefix(prefix) == Some(key))
        };
        let parts = |key: &str| [FULL, LOCAL, FULL_ALSO, LOCAL_ALSO].contains(&key);
        let objects = self.ropes.iter().zip([ROPE, LOCAL_ROPE]);
        let rope = objects.filter_map(|(object, prefix)| Some((object.as_ref()?, prefix))).flat_map(
            |((shown, rope), prefix)| {
                let keys = rope.keys().filter(move |key| !known(prefix, key) && !parts(key));
                keys.map(move |key| format!("{shown}{key}"))
            },
        );
        top.cloned().chain(nested.map(|key| format!("{NESTED}.{key}"))).chain(rope).collect()
    }
}

impl FieldSource for ConfigFile<'_> {
    fn count(&mut self, row: &FieldRow) -> Result<Field<u64>> {
        self.first(row, "a whole number of at least zero", |value| self.one(value, whole))
    }

    fn per_layer(&mut self, row: &FieldRow) -> Result<Field<PerLayer>> {
        self.first(row, "a whole number of at least zero", |value| {
            let one = whole(value).map(|value| vec![value]);
            Some(PerLayer(one.or_else(|| self.layer_list(value, whole))?))
        })
    }

    fn uniform(&mut self, row: &FieldRow) -> Result<Field<Uniform>> {
        self.first(row, "a whole number of at least zero, or a list that repeats one", |value| match value {
            Value::Array(values) => Uniform::of(&values.iter().map(whole).collect::<Option<Vec<_>>>()?),
            _ => whole(value).map(Uniform),
        })
    }

    fn period(&mut self, row: &FieldRow) -> Result<Field<Period>> {
        // "LLLG": three layers with a window and one without.
        let letters = |text: &str| text.len().checked_sub(1).filter(|&last| text.find('G') == Some(last));
        self.first(row, "a number of layers, or letters like LLLG", |value| match value.as_str() {
            Some(text) => Some(Period(u64::try_from(letters(text)? + 1).ok()?)),
            None => value.as_u64().map(Period),
        })
    }

    fn counts(&mut self, row: &FieldRow) -> Result<Field<Vec<u64>>> {
        self.first(row, "a list of whole numbers", |value| value.as_array()?.iter().map(whole).collect())
    }

    fn number(&mut self, row: &FieldRow) -> Result<Field<f64>> {
        self.first(row, "a number", |value| self.one(value, number))
    }

    fn numbers(&mut self, row: &FieldRow) -> Result<Field<Vec<f64>>> {
        self.first(row, "a list of numbers", |value| value.as_array()?.iter().map(number).collect())
    }

    fn flag(&mut self, row: &FieldRow) -> Result<Field<bool>> {
        self.first(row, "true or false", |value| self.one(value, flag))
    }

    fn flags(&mut self, row: &FieldRow) -> Result<Field<Vec<bool>>> {
        self.first(row, "a list of true and false", |value| {
            let all = || Some(vec![value.as_bool()?; self.layers?]);
            value.as_array().map_or_else(all, |list| list.iter().map(flag).collect())
        })
    }

    fn text(&mut self, row: &FieldRow) -> Result<Field<String>> {
        self.first(row, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn texts(&mut self, row: &FieldRow) -> Result<Field<Vec<String>>> {
        let text = |value: &Value| Some(value.as_str()?.to_owned());
        self.first(row, "a list of strings", |value| value.as_array()?.iter().map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(kind: &str) -> (Value, String) {
        match kind {
            "u64" => (json!(7), "7".into()),
            "Uniform" => (json!([7, 7]), "Uniform(7)".into()),
            "Period" => (json!("LLG"), "Period(3)".into()),
            "PerLayer" => (json!(7), "PerLayer([7])".into()),
            "f64" => (json!(0.5), "0.5".into()),
            "bool" => (json!(true), "true".into()),
            "String" => (json!("text"), "\"text\"".into()),
            "Vec<u64>" => (json!([1, 2]), "[1, 2]".into()),
            "Vec<f64>" => (json!([0.5]), "[0.5]".into()),
            "Vec<bool>" => (json!([true]), "[true]".into()),
            "Vec<String>" => (json!(["text"]), "[\"text\"]".into()),
            other => panic!("a sample of {other} is missing"),
        }
    }

    fn fields_of(config: &Value) -> Result<(RawConfig, Vec<String>)> {
        let path = Path::new("config.json");
        let mut file = ConfigFile::new(path, config.as_object().unwrap())?;
        Ok((RawConfig::read(path, &mut file)?, file.unknown()))
    }

    /// Each key alone fills exactly the rows that have it, wherever the file may have it, and a value of
    /// another type is refused with the key's name.
    #[test]
    fn every_key_of_the_table_is_read() {
        for (row, key) in ROWS.iter().flat_map(|row| row.hf.iter().map(move |key| (row, *key))) {
            let rows: Vec<_> = ROWS.iter().filter(|row| row.hf.contains(&key)).collect();
            let value = sample(row.kind).0;
            let mut places = match (key.strip_prefix(ROPE), key.strip_prefix(LOCAL_ROPE)) {
                (Some(key), _) => ROPE_OBJECTS.map(|object| format!("{object}.{key}")).to_vec(),
                (_, Some(key)) => ROPE_OBJECTS.map(|object| format!("{object}.{LOCAL}.{key}")).to_vec(),
                _ => vec![key.to_owned()],
            };
            places.extend(places.clone().iter().map(|place| format!("{NESTED}.{place}")));
            for name in places {
                let config =
                    |value: &Value| name.rsplit('.').fold(value.clone(), |inner, key| json!({ key: inner }));
                let (raw, unknown) = fields_of(&config(&value)).unwrap();
                let stated = raw.stated();
                let filled = rows.iter().all(|row| stated.get(row.name) == Some(&sample(row.kind).1));
                assert!(filled && stated.len() == rows.len(), "{name}: {stated:?}");
                assert_eq!(unknown, [""; 0], "{name}");
                let wrong = if row.kind == "bool" { json!([[]]) } else { json!(true) };
                let message = fields_of(&config(&wrong)).unwrap_err().to_string();
                assert!(message.contains(&format!("{name}: is ")), "{message}");
            }
        }
    }

    #[test]
    fn keys_that_no_row_has_are_listed() {
        let config = json!({
            "model_type": "llama", "new_at_the_top": 1, "use_cache": true,
            "rope_scaling": { "type": "linear", "new_in_the_rope": 2 },
            "text_config": { "hidden_size": 64, "new_inside": 3 },
        });
        let (raw, unknown) = fields_of(&config).unwrap();
        assert_eq!(unknown, ["new_at_the_top", "text_config.new_inside", "rope_scaling.new_in_the_rope"]);
        assert_eq!(raw.d_model, Field::new("text_config.hidden_size", Some(64)));
        assert_eq!(
            raw.heads.name, "text_config.num_attention_heads",
            "what is missing is named where it should be"
        );
    }
}
