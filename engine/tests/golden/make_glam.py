"""Makes the golden of GLaM (arXiv 2112.06905), of which no weights were released: a tiny checkpoint with random
weights, and what the paper's equations give for it, written out with NumPy in double precision. Every other layer has
experts of two matrices, two for each token, weighted by a softmax over their logits (section 4); dense blocks have a
gate with a GELU; each layer adds numbers of its own for distances to scores, in the buckets of T5.

    python make_glam.py glam        # pip install numpy
"""
import json, struct, sys
from pathlib import Path
import numpy as np

V, H, LAYERS, T, NEW = 64, 16, 4, 40, 12
HEADS, DIM, EXPERTS, TOP, WIDTH = 4, 4, 6, 2, 16
BUCKETS, REACH, EPS = 8, 20, 1e-6
rng = np.random.default_rng(6)

def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

def widened(x):
    return (x.astype(np.uint32) << 16).view(np.float32)

def matrix(*shape):
    return rng.uniform(-1, 1, shape) * (3.0 / shape[-1]) ** 0.5 * 1.3

W = {"model.embed_tokens.weight": rng.uniform(-1.7, 1.7, (V, H)), "model.norm.weight": 1 + rng.uniform(-.5, .5, H)}
for l in range(LAYERS):
    p = f"model.layers.{l}."
    for name in ["input_layernorm", "post_attention_layernorm"]:
        W[p + name + ".weight"] = 1 + rng.uniform(-.5, .5, H)
    for name in "qkvo":
        W[p + f"self_attn.{name}_proj.weight"] = matrix(H, H)
    W[p + "self_attn.relative_attention_bias.weight"] = rng.uniform(-2, 2, (BUCKETS, HEADS))
    if l % 2:
        W[p + "mlp.router.weight"] = matrix(EXPERTS, H)
        W[p + "mlp.experts.up_proj.weight"] = matrix(EXPERTS, WIDTH, H)
        W[p + "mlp.experts.down_proj.weight"] = matrix(EXPERTS, H, WIDTH)
    else:
        for name, shape in [("gate", (WIDTH, H)), ("up", (WIDTH, H)), ("down", (H, WIDTH))]:
            W[p + f"mlp.{name}_proj.weight"] = matrix(*shape)
raw = {name: bf16(w) for name, w in W.items()}
W = {name: widened(w).astype(np.float64) for name, w in raw.items()}

def rms(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w

def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()

def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3)))

def bucket(distance):
    """Of a token that stands so far before (arXiv 1910.10683): half of the buckets are single distances."""
    exact = BUCKETS // 2
    if distance < exact:
        return distance
    part = np.log(distance / exact) / np.log(REACH / exact) * (BUCKETS - exact)
    return min(exact + int(part), BUCKETS - 1)

def forward(ids):
    x = W["model.embed_tokens.weight"][ids]
    routes = {}
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        h = rms(x, W[p + "input_layernorm.weight"])
        q, k, v = ((h @ W[p + f"self_attn.{n}_proj.weight"].T).reshape(-1, HEADS, DIM) for n in "qkv")
        bias = W[p + "self_attn.relative_attention_bias.weight"]
        for t in range(len(ids)):
            mixed = []
            for head in range(HEADS):
                scores = k[:t + 1, head] @ q[t, head] / DIM ** 0.5
                scores += [bias[bucket(t - s), head] for s in range(t + 1)]
                mixed.append(softmax(scores) @ v[:t + 1, head])
            x[t] = x[t] + W[p + "self_attn.o_proj.weight"] @ np.concatenate(mixed)
        h = rms(x, W[p + "post_attention_layernorm.weight"])
        if l % 2 == 0:
            x = x + (gelu(h @ W[p + "mlp.gate_proj.weight"].T) * (h @ W[p + "mlp.up_proj.weight"].T)) @ W[p + "mlp.down_proj.weight"].T
            continue
        chosen = routes.setdefault(f"router.{l}", [])
        for t in range(len(ids)):
            logits = W[p + "mlp.router.weight"] @ h[t]
            best = sorted(range(EXPERTS), key=lambda e: (-logits[e], e))[:TOP]
            chosen.append(best)
            for e, weight in zip(best, softmax(logits[best])):
                hidden = gelu(W[p + "mlp.experts.up_proj.weight"][e] @ h[t])
                x[t] = x[t] + weight * (W[p + "mlp.experts.down_proj.weight"][e] @ hidden)
    return rms(x, W["model.norm.weight"]) @ W["model.embed_tokens.weight"].T, routes

def write(path, tensors):
    header, data = {}, b""
    for name, (dtype, array) in tensors.items():
        body = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
ids = [int(i) for i in rng.integers(3, V, T)]
logits, routes = forward(ids)
greedy = list(ids)
for _ in range(NEW):
    greedy.append(int(forward(greedy)[0][-1].argmax()))
config = dict(architectures=["GlamForCausalLM"], model_type="glam", vocab_size=V, hidden_size=H, num_hidden_layers=LAYERS,
              num_attention_heads=HEADS, head_dim=DIM, intermediate_size=WIDTH, num_local_experts=EXPERTS,
              num_experts_per_tok=TOP, decoder_sparse_step=2, hidden_act="gelu_new", rms_norm_eps=EPS,
              relative_attention_num_buckets=BUCKETS, relative_attention_max_distance=REACH,
              max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
              torch_dtype="bfloat16")
(out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
write(out / "model.safetensors", {name: ("BF16", w) for name, w in raw.items()})
golden = {"input_ids": np.array(ids, np.int32), "logits": logits.astype(np.float32),
          "greedy_ids": np.array(greedy[T:], np.int32), **{name: np.array(r, np.int32) for name, r in routes.items()}}
write(out / "golden.safetensors", {n: ("F32" if a.dtype == np.float32 else "I32", a) for n, a in golden.items()})
