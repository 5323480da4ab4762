"""Makes the golden of DS-MoE (arXiv 2404.05567), of which no weights were released: a tiny checkpoint with
random weights, and what the paper's equations give for it, written out with NumPy in double precision.

    python make_dsmoe.py dsmoe        # pip install numpy
"""
import json, struct, sys
from pathlib import Path
import numpy as np

V, H, LAYERS, T, NEW = 64, 32, 2, 24, 12
HEADS, DIM, KV = 2, 8, 2            # of an attention expert; its keys and values are shared by all of them
ATT, FFN, WIDTH = 4, 6, 16          # attention experts, experts, width of an expert
EPS, THETA, THRESHOLD = 1e-5, 10000.0, 0.9
rng = np.random.default_rng(5)

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
    W[p + "self_attn.k_proj.weight"] = matrix(KV * DIM, H)
    W[p + "self_attn.v_proj.weight"] = matrix(KV * DIM, H)
    W[p + "self_attn.router.weight"] = matrix(ATT, H) * .5
    W[p + "self_attn.experts.q_proj.weight"] = matrix(ATT, HEADS * DIM, H)
    W[p + "self_attn.experts.o_proj.weight"] = matrix(ATT, H, HEADS * DIM)
    W[p + "mlp.router.weight"] = matrix(FFN, H) * .5
    W[p + "mlp.experts.up_proj.weight"] = matrix(FFN, WIDTH, H)
    W[p + "mlp.experts.down_proj.weight"] = matrix(FFN, H, WIDTH)
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

def chosen(logits, threshold=THRESHOLD, most=None):
    """Experts with N * p > threshold, at most so many, best first, ties to the lower number; their weights stay p."""
    p = softmax(logits)
    order = sorted(range(len(p)), key=lambda e: (-logits[e], e))
    return [(e, p[e]) for e in order if len(p) * p[e] > threshold][:most]

def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3)))

def forward(ids, of_heads={}, of_ffn={}):
    x = W["model.embed_tokens.weight"][ids]
    routes = {}
    for l in range(LAYERS):
        p = f"model.layers.{l}."
        h = rms(x, W[p + "input_layernorm.weight"])
        k = (h @ W[p + "self_attn.k_proj.weight"].T).reshape(-1, KV, DIM)
        v = (h @ W[p + "self_attn.v_proj.weight"].T).reshape(-1, KV, DIM)
        k = np.stack([rope(row, t) for t, row in enumerate(k)])
        attn = routes.setdefault(f"router.attn.{l}", [])
        for t in range(len(ids)):
            experts = chosen(W[p + "self_attn.router.weight"] @ h[t], **of_heads)
            attn += [e for e, _ in experts]
            for e, weight in experts:
                q = rope((W[p + "self_attn.experts.q_proj.weight"][e] @ h[t]).reshape(HEADS, DIM), t)
                mixed = []
                for head in range(HEADS):
                    shared = head // (HEADS // KV)
                    a = softmax(k[:t + 1, shared] @ q[head] / DIM ** 0.5)
                    mixed.append(a @ v[:t + 1, shared])
                x[t] = x[t] + weight * (W[p + "self_attn.experts.o_proj.weight"][e] @ np.concatenate(mixed))
        h = rms(x, W[p + "post_attention_layernorm.weight"])
        ffn = routes.setdefault(f"router.{l}", [])
        for t in range(len(ids)):
            experts = chosen(W[p + "mlp.router.weight"] @ h[t], **of_ffn)
            ffn += [e for e, _ in experts]
            for e, weight in experts:
                hidden = gelu(W[p + "mlp.experts.up_proj.weight"][e] @ h[t])
                x[t] = x[t] + weight * (W[p + "mlp.experts.down_proj.weight"][e] @ hidden)
    return rms(x, W["model.norm.weight"]) @ W["lm_head.weight"].T, routes

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
config = dict(architectures=["DsMoeForCausalLM"], model_type="dsmoe", vocab_size=V, hidden_size=H, num_hidden_layers=LAYERS,
              num_attention_heads=ATT * HEADS, num_key_value_heads=KV, head_dim=DIM, num_attention_experts=ATT,
              num_local_experts=FFN, intermediate_size=WIDTH, router_threshold=THRESHOLD, hidden_act="gelu_new",
              rms_norm_eps=EPS, rope_theta=THETA, max_position_embeddings=512, tie_word_embeddings=False,
              bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16")
(out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
write(out / "model.safetensors", {name: ("BF16", w) for name, w in raw.items()})
# The other rules of section 3.3: so many experts with all attention experts, and a threshold with an upper bound.
best = forward(ids, dict(threshold=-1), dict(threshold=-1, most=2))[0]
bounded = forward(ids, dict(threshold=.5, most=2), dict(threshold=.5, most=3))[0]
golden = {"input_ids": np.array(ids, np.int32), "logits": logits.astype(np.float32),
          "greedy_ids": np.array(greedy[T:], np.int32), "logits.best": best.astype(np.float32),
          "logits.bounded": bounded.astype(np.float32), **{name: np.array(r, np.int32) for name, r in routes.items()}}
write(out / "golden.safetensors", {n: ("F32" if a.dtype == np.float32 else "I32", a) for n, a in golden.items()})
print({name: len(r) / T for name, r in routes.items()}, "experts of a token")
