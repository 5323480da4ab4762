//! Values of JSON as numbers and flags, in the forms that programs write. It must not know any field.

use serde_json::Value;

use crate::io::json;

/// A whole number of at least zero; some programs write it as `32.0`.
pub(super) fn whole(value: &Value) -> Option<u64> {
    // 2^53: beyond it a float does not say which integer was meant.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..=EXACT).contains(x));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and within 0..=2^53")]
    value.as_u64().or_else(|| float().map(|x| x as u64))
}

/// Any number, also those that JSON has no form for; see [`crate::io::json::NOT_FINITE`].
pub(super) fn number(value: &Value) -> Option<f64> {
    let name = || json::NOT_FINITE.iter().find(|(name, _)| value.as_str() == Some(name));
    value.as_f64().or_else(|| name().map(|(_, number)| *number))
}

/// True or false, also as 1 or 0.
pub(super) fn flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| match value.as_u64()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    })
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
