"""Makes `switch` and `nllbmoe`: tiny encoder-decoders with experts and a tokenizer, and what Hugging Face
transformers computes from them in float32. Experts take fewer tokens of the text than choose them, so that capacity
counts. The decoder runs token by token, as it does when it writes.

    pip install torch transformers tokenizers safetensors; python make_pairs.py FOLDER
"""
import json, os, sys
import torch
import transformers as tf
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

LETTERS = list("abcdefghijklmnopqrstuvwxyzABDEGHILMNOPST.,?!'")
WORDS = ["▁the", "▁a", "▁in", "▁is", "▁dog", "▁cat", "er", "ing", "▁s", "▁w", "▁p", "▁Th", "e▁", "an", "on", "▁und"]
LANGUAGES = ["deu_Latn", "eng_Latn", "fra_Latn", "spa_Latn", "zho_Hans", "zho_Hant"]
VOCAB = 96
SPECS = {
    "switch": (tf.SwitchTransformersForConditionalGeneration, tf.SwitchTransformersConfig, dict(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=4, expert_capacity=9,
        relative_attention_num_buckets=16, relative_attention_max_distance=24, decoder_start_token_id=0)),
    "nllbmoe": (tf.NllbMoeForConditionalGeneration, tf.NllbMoeConfig, dict(
        vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_sparse_step=2,
        decoder_sparse_step=1, num_experts=3, moe_eval_capacity_token_fraction=0.4, max_position_embeddings=128,
        moe_token_dropout=0.2, decoder_start_token_id=2, scale_embedding=True, forced_bos_token_id=None)),
}


def all_experts(self, hidden_states, router_mask, router_probs):
    """transformers 5 takes the one-hot mask of first choices for numbers of experts; 4.57 was right."""
    out = torch.zeros_like(hidden_states)
    for e in range(self.num_experts):
        at = router_probs[:, e] > 0
        if at.any():
            own = self[f"expert_{e}"](hidden_states[at]) * router_probs[at, e, None]
            out[at] += own * (1 - self.moe_token_dropout)
    return out


def fill(model):
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if "norm" in name and p.dim() == 1 and "bias" not in name:
                p.copy_(1 + 0.3 * r)
            elif p.dim() == 1:
                p.copy_(0.2 * r)
            elif "shared" in name or "embed" in name:
                p.copy_((0.02 if "Nllb" in type(model).__name__ else 0.15) * r)
            elif "relative_attention_bias" in name:
                p.copy_(0.5 * r)
            elif "router" in name:
                p.copy_(2.0 * r / p.shape[-1] ** 0.5)
            else:
                p.copy_(1.3 * r / p.shape[-1] ** 0.5)
            p.copy_(p.to(torch.bfloat16).to(torch.float32))


def chosen(module, out):
    """Experts of each token, best first, and -1 where a token goes past."""
    if "Nllb" in type(module).__name__:
        weights, ids = out[1].topk(2, -1)
        return torch.where(weights > 0, ids, -1)
    mask = out[0].reshape(-1, out[0].shape[-1])
    return torch.where(mask.sum(-1) > 0, mask.argmax(-1), -1)[:, None]


def tokenizer(name):
    if name == "switch":
        pieces = ["<pad>", "</s>", "<unk>"]
        special = [f"<extra_id_{i}>" for i in range(8)][::-1]
    else:
        pieces = ["<s>", "<pad>", "</s>", "<unk>"]
        special = LANGUAGES + ["<mask>"]
    pieces += ["▁"] + LETTERS + WORDS
    pieces += [f"<unused{i}>" for i in range(VOCAB - len(pieces) - len(special))] + special
    assert len(pieces) == VOCAB
    scores = [0.0 if p.startswith("<") else -2.0 - 0.01 * i - (4.0 if len(p) == 1 else 0) for i, p in enumerate(pieces)]
    unknown = pieces.index("<unk>")
    t = Tokenizer(models.Unigram(list(zip(pieces, scores)), unk_id=unknown, byte_fallback=False))
    t.normalizer = normalizers.Sequence([normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    t.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in pieces if p in special or p in ("<pad>", "</s>", "<s>", "<unk>")])
    end = ("</s>", pieces.index("</s>"))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[end])
    return t


def make(out, name):
    cls, config, options = SPECS[name]
    torch.manual_seed(0)
    model = cls(config(**options)).to(torch.float32).eval()
    fill(model)
    if name == "nllbmoe":
        tf.models.nllb_moe.modeling_nllb_moe.NllbMoeExperts.forward = all_experts
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCAB, (1, 40), generator=g)
    given = torch.randint(3, VOCAB, (1, 12), generator=g)
    given[0, 0] = options["decoder_start_token_id"]
    routes = {}

    def hook(key):
        def note(module, _, output):
            routes.setdefault(key, []).append(chosen(module, output).to(torch.int32))
        return note

    hooks = []
    for n, m in model.named_modules():
        if n.endswith(".router"):
            words = n.split(".")
            side = "enc" if "encoder" in words else "dec"
            layer = next(w for w in words if w.isdecimal())
            hooks.append(m.register_forward_hook(hook(f"router.{side}.{layer}")))
    with torch.no_grad():
        encoded = model.get_encoder()(input_ids=ids)
        cache, logits = None, []
        for at in range(given.shape[1]):
            step = model(encoder_outputs=encoded, decoder_input_ids=given[:, at:at + 1], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            logits.append(step.logits[0, 0])
        for h in hooks:
            h.remove()
        greedy, cache, token = [options["decoder_start_token_id"]], None, given[:, :1]
        for _ in range(24):
            step = model(encoder_outputs=encoded, decoder_input_ids=token, past_key_values=cache, use_cache=True)
            cache, token = step.past_key_values, step.logits[:, -1].argmax(-1, keepdim=True)
            greedy.append(token.item())
        # A text that is read in more than one piece.
        long = torch.randint(3, VOCAB, (1, 700), generator=g)
        encoded, cache, last = model.get_encoder()(input_ids=long), None, []
        for at in range(3):
            step = model(encoder_outputs=encoded, decoder_input_ids=given[:, at:at + 1], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            last.append(step.logits[0, 0])
    path = os.path.join(out, name)
    gold = {key: torch.cat(lists).contiguous() for key, lists in routes.items()}
    past = {key: int((lists < 0).sum()) for key, lists in gold.items()}
    gold.update(input_ids=ids[0].to(torch.int32), decoder_input_ids=given[0].to(torch.int32), logits=torch.stack(logits),
                greedy_ids=torch.tensor(greedy, dtype=torch.int32), long_ids=long[0].to(torch.int32),
                long_logits=torch.stack(last))
    model.to(torch.bfloat16).save_pretrained(path, safe_serialization=True)
    save_file({k: v.contiguous() for k, v in gold.items()}, os.path.join(path, "golden.safetensors"))
    tokenizer(name).save(os.path.join(path, "tokenizer.json"), pretty=False)
    generation = os.path.join(path, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    json.dump({"eos_token": "</s>"}, open(os.path.join(path, "tokenizer_config.json"), "w"))
    size = sum(os.path.getsize(os.path.join(path, f)) for f in os.listdir(path))
    print(name, size, "bytes; logits", gold["logits"].std().item(), "; past their expert", past, "; greedy", greedy)


if __name__ == "__main__":
    for name in SPECS:
        make(sys.argv[1], name)
