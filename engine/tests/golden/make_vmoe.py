"""Makes the golden of V-MoE (Riquelme et al., arXiv 2106.05974), whose released weights are JAX arrays: a tiny
checkpoint with random weights, and what the paper's equations give for it, written out with NumPy in double precision.
A ViT (arXiv 2010.11929) with experts in every other layer: weights are shares of a softmax over all experts, not divided
by their sum (section 2.1). An expert takes round(k * N * P * C / E) of the tokens of a batch of N images with P
tokens each. Batch prioritised routing, algorithm 2: all first choices before all second ones, and among these the tokens
in the order of their highest weight; what an expert does not take goes past it.

    python make_vmoe.py vmoe        # pip install numpy
"""
import sys
from pathlib import Path
import numpy as np
import oracle
from oracle import best, softmax

SIZE, PATCH, H, HEADS, WIDTH, LAYERS, CLASSES = 12, 4, 8, 2, 12, 2, 6
EXPERTS, TOP, FACTOR, IMAGES, EPS = 4, 2, 0.65, 3, 1e-6
P, NUMBERS = (SIZE // PATCH) ** 2, 3 * PATCH * PATCH
rng = np.random.default_rng(12)
matrix = lambda *shape: oracle.matrix(rng, *shape)
bias = lambda *shape: rng.uniform(-.3, .3, shape)

def norm(p):
    return {p + ".weight": 1 + bias(H), p + ".bias": bias(H)}

def linear(p, rows, cols):
    return {p + ".weight": matrix(rows, cols), p + ".bias": bias(rows)}

W = {"vit.embeddings.position_embeddings": rng.uniform(-1, 1, (1, P + 1, H)), "vit.embeddings.cls_token": bias(1, 1, H)}
W |= linear("vit.embeddings.patch_embeddings.projection", H, NUMBERS) | linear("classifier", CLASSES, H) | norm("vit.layernorm")
W["vit.embeddings.patch_embeddings.projection.weight"].shape = H, 3, PATCH, PATCH
for l in range(LAYERS):
    p = f"vit.encoder.layer.{l}."
    W |= norm(p + "layernorm_before") | norm(p + "layernorm_after") | linear(p + "attention.output.dense", H, H)
    for name in ["query", "key", "value"]:
        W |= linear(p + "attention.attention." + name, H, H)
    if l % 2:
        W[p + "moe.router.weight"] = matrix(EXPERTS, H)
        for name, rows, cols in [("up", WIDTH, H), ("down", H, WIDTH)]:
            W[p + f"moe.experts.{name}_proj.weight"] = matrix(EXPERTS, rows, cols)
            W[p + f"moe.experts.{name}_proj.bias"] = bias(EXPERTS, rows)
    else:
        W |= linear(p + "intermediate.dense", WIDTH, H) | linear(p + "output.dense", H, WIDTH)
raw, W = oracle.rounded(W)

def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3)))

def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * W[p + ".weight"] + W[p + ".bias"]

def dense(x, p):
    return x @ W[p + ".weight"].T + W[p + ".bias"]

def attention(x, p):
    q, k, v = (dense(x, p + "attention." + n).reshape(len(x), HEADS, -1) for n in ["query", "key", "value"])
    mixed = [softmax(q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5) @ v[:, h] for h in range(HEADS)]
    return dense(np.concatenate(mixed, -1), p + "output.dense")

def experts(x, p, factor, ranked):
    """Of all tokens of a batch; also the experts that each keeps."""
    gates = softmax(x @ W[p + "router.weight"].T)
    wanted = [best(g, TOP) for g in gates]
    limit = len(x) if factor is None else round(TOP * len(x) * factor / EXPERTS)
    order = best(gates.max(-1), len(x)) if ranked else range(len(x))
    taken, kept, out = [0] * EXPERTS, [[] for _ in x], np.zeros_like(x)
    for choice in range(TOP):
        for t in order:
            e = wanted[t][choice]
            if taken[e] < limit:
                taken[e] += 1
                kept[t].append(e)
    for t, chosen in enumerate(kept):
        for e in chosen:
            of = lambda name, y: W[p + f"experts.{name}_proj.weight"][e] @ y + W[p + f"experts.{name}_proj.bias"][e]
            out[t] += gates[t, e] * of("down", gelu(of("up", x[t])))
    return out, [chosen + [-1] * (TOP - len(chosen)) for chosen in kept]

def forward(images, factor=FACTOR, ranked=True):
    w = W["vit.embeddings.patch_embeddings.projection.weight"].reshape(H, -1)
    rows = images @ w.T + W["vit.embeddings.patch_embeddings.projection.bias"]
    first = np.broadcast_to(W["vit.embeddings.cls_token"], (len(images), 1, H))
    x, routes = np.concatenate([first, rows], 1) + W["vit.embeddings.position_embeddings"], {}
    for l in range(LAYERS):
        p = f"vit.encoder.layer.{l}."
        x = x + np.array([attention(layer_norm(i, p + "layernorm_before"), p + "attention.") for i in x])
        h = layer_norm(x, p + "layernorm_after")
        if l % 2:
            out, routes[f"router.{l}"] = experts(h.reshape(-1, H), p + "moe.", factor, ranked)
            x = x + out.reshape(x.shape)
        else:
            x = x + dense(gelu(dense(h, p + "intermediate.dense")), p + "output.dense")
    return dense(layer_norm(x, "vit.layernorm")[:, 0], "classifier"), routes

# The tests make the same numbers.
at = np.arange(IMAGES * P * NUMBERS)
images = (((at * at * 7 + at * 13) % 251) / 125.0 - 1).astype(np.float32).astype(np.float64).reshape(IMAGES, P, NUMBERS)
scores, routes = forward(images)
assert any(-1 in chosen for chosen in routes["router.1"]), "the capacity binds"
golden = {"scores": scores, **routes, "alone": np.concatenate([forward(images[i:i + 1])[0] for i in range(IMAGES)]),
          "in_order": forward(images, ranked=False)[0], "unlimited": forward(images, factor=None)[0]}
for a, b in [("scores", "alone"), ("scores", "in_order"), ("scores", "unlimited")]:
    assert abs(golden[a] - golden[b]).max() > 1e-2, (a, b)
config = dict(architectures=["VMoeForImageClassification"], model_type="vmoe", hidden_size=H, num_hidden_layers=LAYERS,
              num_attention_heads=HEADS, intermediate_size=WIDTH, image_size=SIZE, patch_size=PATCH, num_channels=3,
              num_labels=CLASSES, classifier="token", hidden_act="gelu_pytorch_tanh", layer_norm_eps=EPS,
              num_experts=EXPERTS, num_experts_per_tok=TOP, moe_layers=[1], capacity_factor=FACTOR,
              batch_prioritized_routing=True, torch_dtype="bfloat16")
oracle.save(Path(sys.argv[1]), config, raw, golden)
