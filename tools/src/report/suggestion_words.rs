//! Models of the catalogue in words and as JSON. It must not judge them.

use moelten_tui::figures;
use serde_json::{Value, json};

use crate::models::{Fit, Suggestion};

/// `RAM`, `STREAM` or `NO`, as `moelten fit` says it.
pub fn verdict(suggestion: &Suggestion) -> &'static str {
    match suggestion.fit {
        Fit::Ram => "RAM",
        Fit::Stream(_) => "STREAM",
        Fit::No(_) => "NO",
    }
}

/// The likely speed, or why there is none.
pub fn speed(suggestion: &Suggestion) -> String {
    match (&suggestion.fit, suggestion.likely()) {
        (Fit::No(why), _) => why.clone(),
        (_, Some(speed)) if speed < 9.95 => format!("about {speed:.1} tok/s"),
        (_, Some(speed)) => format!("about {speed:.0} tok/s"),
        (_, None) => "speed unknown".to_owned(),
    }
}

/// Two lines: the figures with the name, and what it is good for.
pub fn lines(suggestion: &Suggestion) -> [String; 2] {
    let model = &suggestion.model;
    let here = if suggestion.here { "  (downloaded)" } else { "" };
    let in_vram = suggestion.in_vram.filter(|_| suggestion.runs());
    let vram =
        in_vram.map_or_else(String::new, |share| format!("  ({:.0} % of experts in VRAM)", 100.0 * share));
    let (verdict, size, speed) = (verdict(suggestion), figures::bytes(model.bytes), speed(suggestion));
    [
        format!("{verdict:<6}  {size:>8}  {speed:<15}  {}{here}{vram}", model.model),
        format!("{:35}{}: {}", "", model.name, model.good_for),
    ]
}

/// An object of `moelten models --suggest --json`; the names are stable.
pub fn object(suggestion: &Suggestion) -> Value {
    let model = &suggestion.model;
    let (share, why) = match &suggestion.fit {
        Fit::Ram => (Some(1.0), None),
        Fit::Stream(share) => (Some(*share), None),
        Fit::No(why) => (None, Some(why)),
    };
    json!({
        "name": model.name,
        "model": model.model,
        "verdict": verdict(suggestion).to_lowercase(),
        "why": why,
        "runs_well": suggestion.runs_well(),
        "expert_share": share,
        "vram_share": suggestion.in_vram,
        "likely_tokens_per_s": suggestion.likely(),
        "tokens_per_s": suggestion.speed.map(|speed| json!({ "low": speed.range.low, "high": speed.range.high })),
        "bytes": model.bytes,
        "token_bytes": model.token_bytes,
        "params": model.params.0,
        "active_params": model.params.1,
        "downloaded": suggestion.here,
        "good_for": model.good_for,
    })
}
