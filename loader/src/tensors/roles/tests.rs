//! Tests of names: every role has one, and names lead back to roles. It must not know files.

use super::*;

#[test]
fn every_hugging_face_role_has_a_gguf_name() {
    for rule in HF_NAMES {
        assert!(GGUF_NAMES.iter().any(|g| g.spells(rule.role)), "{:?}", rule.role);
    }
}

#[test]
fn names_lead_back_to_roles() {
    for rule in GGUF_NAMES {
        let role = match rule.role {
            Role::Layer(_, tensor) => Role::Layer(12, tensor),
            top => top,
        };
        let found = gguf_roles(&rule.name(role, 34));
        assert!(found.contains(&(role, rule.per_expert().then_some(34))), "{}: {found:?}", rule.pattern);
        // Rows of a fused tensor belong to several roles, and a name may have one in each of two
        // families.
        let sharing = GGUF_NAMES.iter().filter(|other| other.pattern == rule.pattern).count();
        assert_eq!(found.len(), sharing, "{}", rule.pattern);
    }
    for other in [
        "",
        "blk",
        "blk.1.attn_q",
        "blk.01.attn_q.weight",
        "blk..attn_q.weight",
        "blk.-1.attn_q.weight",
        "blk.99999999999999999999.attn_q.weight",
        "blk.1.attn_q.weight.x",
        "output.weight ",
    ] {
        assert_eq!(gguf_roles(other), [], "{other}");
    }
}

#[test]
fn patterns_fill_in_layer_and_expert() {
    let role = Role::Layer(7, T::Experts(Up));
    assert_eq!(gguf_name(role), "blk.7.ffn_up_exps.weight");
    let old = GGUF_NAMES.iter().find(|r| r.spells(role) && r.per_expert()).unwrap();
    assert_eq!(old.name(role, 3), "blk.7.ffn_up.3.weight");
}
