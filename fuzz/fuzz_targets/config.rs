//! Configurations: any `config.json` is lowered to a spec or refused, and a spec keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moelten_loader::io::json;
use moelten_loader::load::spec_of_config;

fuzz_target!(|text: &[u8]| {
    let path = "config.json".as_ref();
    let Ok(config) = json::parse::<serde_json::Value>(path, text, 4 << 20) else { return };
    let Ok(spec) = spec_of_config(path, &config) else { return };
    assert!(spec.vocab > 0 && spec.d_model > 0 && !spec.layers.is_empty());
    for layer in &spec.layers {
        let Some(a) = layer.attention() else { panic!("every layer of these families has attention") };
        assert!(a.heads.is_multiple_of(a.kv_heads) && a.head_dim > 0 && a.scale.is_finite());
        if let Some(rope) = &a.rope {
            assert!(rope.dim <= a.head_dim && rope.dim.is_multiple_of(2));
            assert!(rope.frequencies(8192).iter().all(|f| f.is_finite()));
        }
        if let Some(moe) = layer.moe() {
            assert!(moe.router.select.max_experts() <= moe.experts);
        }
    }
});
