"""Expected sums of squares of the inputs of every matrix of a golden checkpoint, in numpy and float64.

    python make_squares.py GOLDEN_DIR NAME ...      # pip install numpy

For each NAME it reads GOLDEN_DIR/NAME/{config.json, model.safetensors, golden.safetensors}, runs the prompt, refuses to go on
if its logits are not those of golden.safetensors, and writes GOLDEN_DIR/NAME/squares.safetensors: for each matrix, by its
GGUF name, `NAME.in_sum2` f32 [rows, cols] and `NAME.counts` f32 [rows], one row or one for each expert.
"""
import json, struct, sys
import numpy as np


def read(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        raw = data[t["data_offsets"][0]:t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        else:
            x = np.frombuffer(raw, {"F32": "<f4", "I32": "<i4"}[t["dtype"]])
        out[name] = x.reshape(t["shape"])
    return out


def write(path, tensors):
    header, data = {}, b""
    for name, x in tensors.items():
        raw = np.ascontiguousarray(x, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header + data)


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Model:
    def __init__(self, folder):
        self.c, self.w = json.load(open(f"{folder}/config.json")), read(f"{folder}/model.safetensors")
        self.sums = {}

    def seen(self, name, x, row=0, rows=1):
        """Adds up the squares of `x` [tokens, cols]."""
        sums, counts = self.sums.setdefault(name, (np.zeros((rows, x.shape[-1])), np.zeros(rows)))
        sums[row] += (x * x).sum(0)
        counts[row] += len(x)

    def linear(self, name, x, hf, row=0, rows=1):
        self.seen(name, x, row, rows)
        y = x @ self.w[hf + ".weight"].T
        bias = self.w.get(hf + ".bias")
        return y if bias is None else y + bias

    def mlp(self, block, x, hf, suffix="", row=0, rows=1, of=("gate_proj", "up_proj", "down_proj")):
        part = lambda which, x, hf_part: self.linear(f"{block}.ffn_{which}{suffix}.weight", x, f"{hf}.{hf_part}", row, rows)
        hidden = silu(part("gate", x, of[0])) * part("up", x, of[1])
        return part("down", hidden, of[2])

    def attention(self, layer, x):
        c, block, hf = self.c, f"blk.{layer}", f"model.layers.{layer}.self_attn"
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        dim, t = c.get("head_dim") or c["hidden_size"] // heads, len(x)
        q, k, v = (self.linear(f"{block}.attn_{n}.weight", x, f"{hf}.{n}_proj").reshape(t, -1, dim) for n in "qkv")
        theta = (c.get("rope_parameters") or {}).get("rope_theta") or c["rope_theta"]
        angles = np.arange(t)[:, None] * theta ** (-np.arange(0, dim, 2) / dim)
        cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        turn = lambda x: x * cos + np.concatenate([-x[..., dim // 2:], x[..., :dim // 2]], -1) * sin
        q, k = turn(q), turn(k).repeat(heads // kv, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim)
        scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
        mixed = np.einsum("hqk,khd->qhd", softmax(scores), v.repeat(heads // kv, 1)).reshape(t, -1)
        return self.linear(f"{block}.attn_output.weight", mixed, f"{hf}.o_proj")

    def moe(self, layer, x):
        c, block = self.c, f"blk.{layer}"
        mixtral = f"model.layers.{layer}.block_sparse_moe.gate.weight" in self.w
        hf = f"model.layers.{layer}." + ("block_sparse_moe" if mixtral else "mlp")
        experts = c.get("num_experts") or c["num_local_experts"]
        scores = softmax(self.linear(f"{block}.ffn_gate_inp.weight", x, f"{hf}.gate"))
        chosen = np.argsort(-scores, -1, kind="stable")[:, :c["num_experts_per_tok"]]
        weights = np.take_along_axis(scores, chosen, -1)
        if c.get("norm_topk_prob", mixtral):
            weights /= weights.sum(-1, keepdims=True)
        out = np.zeros_like(x)
        of = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        for e in range(experts):
            tokens, place = np.nonzero(chosen == e)
            y = self.mlp(block, x[tokens], f"{hf}.experts.{e}", "_exps", e, experts, of)
            out[tokens] += weights[tokens, place, None] * y
        if f"{hf}.shared_expert_gate.weight" in self.w:
            gate = self.linear(f"{block}.ffn_gate_inp_shexp.weight", x, f"{hf}.shared_expert_gate")
            out += self.mlp(block, x, f"{hf}.shared_expert", "_shexp") / (1 + np.exp(-gate))
        return out

    def logits(self, ids):
        c, w = self.c, self.w
        x, eps = w["model.embed_tokens.weight"][ids], c["rms_norm_eps"]
        for layer in range(c["num_hidden_layers"]):
            hf = f"model.layers.{layer}"
            x = x + self.attention(layer, rms(x, w[f"{hf}.input_layernorm.weight"], eps))
            normed = rms(x, w[f"{hf}.post_attention_layernorm.weight"], eps)
            dense = f"{hf}.mlp.gate_proj.weight" in w
            x = x + (self.mlp(f"blk.{layer}", normed, f"{hf}.mlp") if dense else self.moe(layer, normed))
        return self.linear("output.weight", rms(x, w["model.norm.weight"], eps), "lm_head")


for name in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{name}"
    model, golden = Model(folder), read(f"{folder}/golden.safetensors")
    error = np.abs(model.logits(golden["input_ids"]) - golden["logits"]).max()
    assert error < 1e-3 * golden["logits"].std(), f"{name}: logits differ by {error}"
    tensors = {}
    for matrix, (sums, counts) in sorted(model.sums.items()):
        tensors |= {f"{matrix}.in_sum2": sums, f"{matrix}.counts": counts}
    write(f"{folder}/squares.safetensors", tensors)
    print(name, "logits differ by", error)
