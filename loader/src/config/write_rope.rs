//! Ropes as GGUF metadata. It must not know which layers have them.

use crate::config::fields::FIELDS;
use crate::config::write_keys::{Keys, unsupported};
use crate::container::gguf::Value;
use crate::error::Result;
use crate::io::reader::narrow;
use crate::spec::{RopeScaling, RopeSpec};

/// Base, rotated dimensions and scaling.
pub(super) fn rope_keys(rope: &RopeSpec, keys: &mut Keys) -> Result<()> {
    keys.f32(&FIELDS.rope_theta, rope.theta);
    keys.u32(&FIELDS.rope_dim, rope.dim);
    let mut kind = |name: &str| keys.add(&FIELDS.rope_kind, Value::Str(name.into()));
    match &rope.scaling {
        // Divisors are a tensor; see `convert`.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors { .. } => {}
        RopeScaling::Linear { factor } => {
            kind("linear");
            keys.f32(&FIELDS.rope_factor, *factor);
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
            kind("yarn");
            // Other readers know no such key; they do what the family's models need.
            if *truncate != keys.family.yarn_truncate {
                keys.add(&FIELDS.rope_truncate, Value::Bool(*truncate));
            }
            keys.f32(&FIELDS.rope_factor, *factor);
            keys.u32(&FIELDS.rope_original_context, *original_context);
            keys.f32(&FIELDS.rope_beta_fast, *beta_fast);
            keys.f32(&FIELDS.rope_beta_slow, *beta_slow);
            if attention_factor.to_bits() == 1.0f32.to_bits() && *factor > 1.0 {
                // Both factors of DeepSeek's form, which cancel each other.
                keys.f32(&FIELDS.yarn_log_multiplier, 1.0);
            } else {
                let own = yarn_magnitude(*factor);
                keys.f32_unless(&FIELDS.rope_attention_factor, attention_factor / own, 1.0);
            }
        }
        RopeScaling::LongRope { short_factor, long_factor, .. }
            if short_factor.to_bits() != long_factor.to_bits() =>
        {
            return Err(unsupported("LongRoPE with different attention factors for short and long contexts"));
        }
        RopeScaling::LongRope { original_context, long_factor, .. } => {
            kind("longrope");
            keys.u32(&FIELDS.rope_original_context, *original_context);
            keys.f32(&FIELDS.rope_attention_factor, *long_factor);
        }
    }
    Ok(())
}

/// What readers of GGUF multiply a YaRN attention factor with (arXiv 2309.00071, equation 22).
pub(crate) fn yarn_magnitude(factor: f32) -> f32 {
    narrow(0.1 * f64::from(factor).ln().max(0.0) + 1.0)
}
