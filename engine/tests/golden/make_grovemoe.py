"""Makes the golden of GroveMoE (arXiv 2508.07785): a tiny checkpoint with random weights, and what the authors'
code (github.com/inclusionAI/GroveMoE) computes of it, written out with NumPy in double precision.

    python make_grovemoe.py grovemoe        # pip install numpy
"""
import json, struct, sys
from pathlib import Path
import numpy as np

V, H, LAYERS, T, NEW = 18, 32, 1, 18, 6
HEADS, DIM, KV = 1, 8, 1
EXPERTS, USED, WIDTH = 4, 2, 8      # experts of a layer, of a token, their width
GROUP, SMALL, SCALE = 2, 8, 0.05    # experts that an adjugate one stands for, its width, its factor
EPS, THETA = 1e-6, 10000.0
rng = np.random.default_rng(7)

def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

def widened(x):
    return (x.astype(np.uint32) << 16).view(np.float32)

def matrix(*shape):
    return rng.uniform(-1, 1, shape) * (3.0 / shape[-1]) ** 0.5 * 1.3

W = {"model.embed_tokens.weight": rng.uniform(-1.7, 1.7, (V, H)), "lm_head.weight": matrix(V, H),
     "model.norm.weight": 1 + rng.uniform(-.5, .5, H)}
for l in range(LAYERS):
    p = f"model.layers.{l}."
    for name in ["input_layernorm", "post_attention_layernorm"]:
        W[p + name + ".weight"] = 1 + rng.uniform(-.5, .5, H)
    for name, rows in [("q", HEADS * DIM), ("k", KV * DIM), ("v", KV * DIM)]:
        W[p + f"self_attn.{name}_proj.weight"] = matrix(rows, H)
    W[p + "self_attn.o_proj.weight"] = matrix(H, HEADS * DIM)
    for name in "qk":
        W[p + f"self_attn.{name}_norm.weight"] = 1 + rng.uniform(-.5, .5, DIM)
    W[p + "mlp.gate.weight"] = matrix(EXPERTS, H) * .7
    # A buffer of the authors' block, which nothing reads.
    W[p + "mlp.expert_bias"] = np.zeros(EXPERTS)
    for kind, count, width in [("experts", EXPERTS, WIDTH), ("chunk_experts", EXPERTS // GROUP, SMALL)]:
        for e in range(count):
            for name, shape in [("gate", (width, H)), ("up", (width, H)), ("down", (H, width))]:
                # Adjugate experts have a small factor: without larger weights a mistake would hardly show.
                W[p + f"mlp.{kind}.{e}.{name}_proj.weight"] = matrix(*shape) * (3 if kind != "experts" else 1)
raw = {name: bf16(w) for name, w in W.items()}
W = {name: widened(w).astype(np.float64) for name, w in raw.items()}

def rms(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w

def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()

def rope(x, position):
    half = DIM // 2
    angle = position * THETA ** (-2.0 * np.arange(half) / DIM)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

def block(p, x):
    gate = W[p + "gate_proj.weight"] @ x
    return W[p + "down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * (W[p + "up_proj.weight"] @ x))

def forward(ids):
    x = W["model.embed_tokens.weight"][ids]
    routes = {}
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        h = rms(x, W[p + "input_layernorm.weight"])
        q = (h @ W[p + "self_attn.q_proj.weight"].T).reshape(-1, HEADS, DIM)
        k = (h @ W[p + "self_attn.k_proj.weight"].T).reshape(-1, KV, DIM)
        v = (h @ W[p + "self_attn.v_proj.weight"].T).reshape(-1, KV, DIM)
        q = np.stack([rope(rms(row, W[p + "self_attn.q_norm.weight"]), t) for t, row in enumerate(q)])
        k = np.stack([rope(rms(row, W[p + "self_attn.k_norm.weight"]), t) for t, row in enumerate(k)])
        for t in range(len(ids)):
            heads = range(HEADS)
            a = [softmax(k[:t + 1, n // (HEADS // KV)] @ q[t, n] / DIM ** 0.5) @ v[:t + 1, n // (HEADS // KV)] for n in heads]
            x[t] = x[t] + W[p + "self_attn.o_proj.weight"] @ np.concatenate(a)
        h = rms(x, W[p + "post_attention_layernorm.weight"])
        chosen, groups = (routes.setdefault(f"router.{kind}{l}", []) for kind in ["", "groups."])
        for t in range(len(ids)):
            scores = softmax(W[p + "mlp.gate.weight"] @ h[t])
            best = sorted(range(EXPERTS), key=lambda e: (-scores[e], e))[:USED]
            chosen += best
            groups += dict.fromkeys(e // GROUP for e in best)
            total = sum(scores[e] for e in best)
            # Two experts of a group visit its adjugate expert twice, each with its own weight.
            for e in best:
                x[t] = x[t] + scores[e] / total * block(p + f"mlp.experts.{e}.", h[t])
                x[t] = x[t] + SCALE * scores[e] / total * block(p + f"mlp.chunk_experts.{e // GROUP}.", h[t])
    return rms(x, W["model.norm.weight"]) @ W["lm_head.weight"].T, routes

def write(path, tensors):
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        body = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
ids = [int(i) for i in rng.integers(3, V, T)]
logits, routes = forward(ids)
greedy = list(ids)
for _ in range(NEW):
    greedy.append(int(forward(greedy)[0][-1].argmax()))
config = dict(architectures=["GroveMoeForCausalLM"], model_type="grove_moe", vocab_size=V, hidden_size=H,
              num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=DIM,
              num_experts=EXPERTS, num_experts_per_tok=USED, moe_intermediate_size=WIDTH, intermediate_size=2 * WIDTH,
              num_experts_per_group=GROUP, parallel_expert_intermediate_size=SMALL, norm_topk_prob=True,
              decoder_sparse_step=1, mlp_only_layers=[], hidden_act="silu", rms_norm_eps=EPS, rope_theta=THETA,
              max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
              torch_dtype="bfloat16")
(out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
write(out / "model.safetensors", {name: ("BF16", w) for name, w in raw.items()})
golden = {"input_ids": np.array(ids, np.int32), "logits": logits.astype(np.float32),
          "greedy_ids": np.array(greedy[T:], np.int32), **{name: np.array(r, np.int32) for name, r in routes.items()}}
write(out / "golden.safetensors", {n: ("F32" if a.dtype == np.float32 else "I32", a) for n, a in golden.items()})
print(2 * T - len(routes["router.groups.0"]), "of", T, "tokens have two experts of a group")
