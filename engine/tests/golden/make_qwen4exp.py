"""Makes the golden of Qwen3.8-Flash-Next with Hugging Face transformers 5.24 (pip install torch transformers).

    python make_qwen4exp.py OUT_DIR

A small model with random weights and what it computes from them in single precision. Blocks of tokens with the
same score would be chosen by the order in which torch sorts them: such a model is refused.
"""
import json, os, sys
import torch
from safetensors.torch import save_file
from transformers import Qwen4ExpForCausalLM, Qwen4ExpTextConfig

SEED, PROMPT, STEPS = 0, 40, 24
ENDS = (9, 20, 21)                             # positions of end tokens: runs of tokens do not reach over them
CONFIG = dict(
    vocab_size=320, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    attn_implementation="eager", head_dim=16, hc_count=3, hc_lowrank=8, ple_layer_ids=[2], ple_embed_dim=32,
    ple_conv_kernel_size=4, ngram_size=3, heads_per_ngram=2, ngram_vocab_size_base=61,
    make_ngram_vocab_size_divisible_by=8, split_ngram_parts=2, indexer_n_heads=8, indexer_kv_heads=1,
    indexer_head_dim=16, indexer_budget=8, indexer_compress_ratio=4, num_experts=6, num_experts_per_tok=2,
    moe_intermediate_size=16, shared_expert_intermediate_size=24, linear_key_head_dim=8, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_value_head_dim=8, linear_conv_kernel_dim=4, output_gate_type="sigmoid",
    norm_topk_prob=True, tie_word_embeddings=False,
    layer_types=["linear_attention", "linear_attention", "full_attention"],
    rope_parameters=dict(rope_type="default", rope_theta=1e6, partial_rotary_factor=0.5, mrope_section=[2, 1, 1],
                         mrope_interleaved=True))


def draw(model):
    """Wide weights, norms away from 1: a wrong formula shows in the logits."""
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if name.endswith("A_log"):
                r = 0.4 + 0.7 * r
            elif name.endswith("dt_bias"):
                r = -1.5 + 0.7 * r
            elif name.endswith("linear_attn.norm.weight"):
                r = 1 + 0.3 * r
            elif "norm" in name and p.dim() == 1:
                r = 0.3 * r                    # these norms multiply by 1 + weight
            elif name.endswith("conv1d.weight"):
                r = 0.6 * r
            elif "embed" not in name:
                r = r * (2.0 if name.endswith("gate.weight") else 1.3) / p.shape[-1] ** 0.5
            p.copy_(r.to(torch.bfloat16).to(torch.float32))


def watch_ties():
    """Margins between the last block that is chosen and the first that is not."""
    margins, topk = [], torch.Tensor.topk

    def watched(scores, k, *args, **named):
        if scores.dim() == 1 and CONFIG["indexer_budget"] // CONFIG["indexer_compress_ratio"] == k < scores.numel() < 100:
            best = scores.sort(descending=True).values
            margins.append(float(best[k - 1] - best[k]))
        return topk(scores, k, *args, **named)

    torch.Tensor.topk = watched
    return margins


def main(out):
    torch.manual_seed(SEED)
    model = Qwen4ExpForCausalLM(Qwen4ExpTextConfig(**CONFIG)).to(torch.float32).eval()
    draw(model)
    ids = torch.randint(3, CONFIG["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(SEED + 1))
    ids[0, list(ENDS)] = CONFIG["eos_token_id"]
    golden, margins = {}, watch_ties()

    def record(layer):
        def hook(_, __, output):
            golden.setdefault(f"router.{layer}", output[2].to(torch.int32).contiguous())
        return hook

    for layer, module in enumerate(model.model.layers):
        module.mlp.gate.register_forward_hook(record(layer))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
        text = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False,
                              eos_token_id=None)[0, PROMPT:]
    assert min(margins) > 1e-3, f"a tie decides: {min(margins)}"
    golden.update(input_ids=ids[0].to(torch.int32).contiguous(), logits=logits.contiguous(),
                  greedy_ids=text.to(torch.int32).contiguous())
    model.to(torch.bfloat16).save_pretrained(out)
    os.remove(os.path.join(out, "generation_config.json"))
    save_file(golden, os.path.join(out, "golden.safetensors"))
    card = os.path.join(out, "config.json")
    config = json.load(open(card))             # released files say full_attention
    config["layer_types"] = CONFIG["layer_types"]
    json.dump(config, open(card, "w"), indent=2)
    print(f"spread of logits {logits.std():.2f}, least margin {min(margins):.1e}, text {text[:6].tolist()}")


if __name__ == "__main__":
    main(sys.argv[1])
