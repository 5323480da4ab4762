"""Makes the golden of GShard's layer (Lepikhin et al., arXiv 2006.16668, algorithm 1) with the draw of the second expert,
written out with NumPy in double precision: a tiny checkpoint whose one layer is that mixture. Both weights are divided by
their sum; the second expert is used with a probability of twice its weight; an expert takes 2 N / E of the N tokens, first
choices of all tokens before second ones. The draw is SplitMix64 over a seed and the bits of the router's logits in single
precision (`draw` in engine/src/layers/ffn/router.rs). Embedding and router are whole eighths, so that no order of
summation rounds these logits.

    python make_gshard.py gshard        # pip install numpy
"""
import sys
from pathlib import Path
import numpy as np
import oracle
from oracle import best, softmax

V, H, T, SEED = 40, 8, 24, 7
EXPERTS, WIDTH = 4, 12
rng = np.random.default_rng(13)
eighths = lambda *shape: rng.integers(-12, 13, shape) / 8

W = {"model.embed_tokens.weight": eighths(V, H), "lm_head.weight": oracle.matrix(rng, V, H),
     "model.layers.0.mlp.router.weight": eighths(EXPERTS, H) / 4,
     "model.layers.0.mlp.experts.up_proj.weight": oracle.matrix(rng, EXPERTS, WIDTH, H),
     "model.layers.0.mlp.experts.down_proj.weight": oracle.matrix(rng, EXPERTS, H, WIDTH)}
# The first expert is wanted more often than it takes.
W["model.embed_tokens.weight"][:, 0], W["model.layers.0.mlp.router.weight"][0, 0] = 1, 1
raw, W = oracle.rounded(W)

def draw(logits):
    state, mask = SEED, (1 << 64) - 1
    for bits in logits.astype(np.float32).view(np.uint32):
        state = ((state ^ int(bits)) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return (state >> 40) / (1 << 24)

def forward(ids):
    x = W["model.embed_tokens.weight"][ids]
    p = "model.layers.0.mlp."
    logits = x @ W[p + "router.weight"].T
    assert (logits == logits.astype(np.float32)).all()
    limit, taken, kept = 2 * -(-len(ids) // EXPERTS), [0] * EXPERTS, [[] for _ in ids]
    wanted, drawn = [best(l, 2) for l in logits], 0
    parts = [softmax(l[pair]) for l, pair in zip(logits, wanted)]
    for choice in range(2):
        for t, pair in enumerate(wanted):
            if choice == 1 and draw(logits[t]) >= 2 * parts[t][1]:
                continue
            drawn += choice
            if taken[pair[choice]] < limit:
                kept[t].append((pair[choice], parts[t][choice]))
            taken[pair[choice]] += 1
    assert 0 < drawn < len(ids) and max(taken) > limit, "chance and capacity decide"
    up, down = W[p + "experts.up_proj.weight"], W[p + "experts.down_proj.weight"]
    out = [sum((g * (down[e] @ np.maximum(up[e] @ y, 0)) for e, g in chosen), np.zeros(H)) for y, chosen in zip(x, kept)]
    routes = [[e for e, _ in chosen] + [-1] * (2 - len(chosen)) for chosen in kept]
    return (x + out) @ W["lm_head.weight"].T, routes

ids = [int(i) for i in rng.integers(3, V, T)]
logits, routes = forward(ids)
config = dict(model_type="moe_lstm", vocab_size=V, hidden_size=H, num_hidden_layers=1, layer_types=["moe"],
              intermediate_size=WIDTH, num_local_experts=EXPERTS, num_experts_per_tok=2, hidden_act="relu",
              max_position_embeddings=512, tie_word_embeddings=False, torch_dtype="bfloat16")
oracle.save(Path(sys.argv[1]), config, raw, {"input_ids": ids, "logits": logits, "greedy_ids": ids[:1], "router.0": routes})
