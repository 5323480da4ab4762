"""Makes the golden of AdaMV-MoE (Chen et al., ICCV 2023), whose released weights are JAX arrays and come with heads of a
detection framework: a tiny checkpoint with random weights, and what the paper's equations give for it, written out with
NumPy in double precision. A V-MoE (arXiv 2106.05974) for several tasks, as the released code has it: attention, norms,
dense blocks and experts are shared; each task has its own projection of patches, places and row before the patches, in
every sparse layer its own router R_t(x) = TopK(softmax(W_t x), k_t) with its own number of experts k_t, and its own head.
An image is computed for one task. Weights of experts are not divided by their sum.

    python make_adamvmoe.py adamvmoe        # pip install numpy
"""
import sys
from pathlib import Path
import numpy as np
import oracle
from oracle import best, softmax

SIZE, PATCH, H, HEADS, WIDTH, LAYERS, EXPERTS, FACTOR, IMAGES, EPS = 12, 4, 8, 2, 10, 2, 5, 0.8, 3, 1e-6
TASKS = {"scenes": dict(k=3, classes=5, head="image"), "parts": dict(k=1, classes=3, head="patches"),
         "animals": dict(k=2, classes=4, head="image")}
P, NUMBERS = (SIZE // PATCH) ** 2, 3 * PATCH * PATCH
rng = np.random.default_rng(23)
matrix = lambda *shape: oracle.matrix(rng, *shape)
bias = lambda *shape: rng.uniform(-.3, .3, shape)
layer = lambda l: f"vit.encoder.layer.{l}."

def norm(p):
    return {p + ".weight": 1 + bias(H), p + ".bias": bias(H)}

def linear(p, rows, cols):
    return {p + ".weight": matrix(rows, cols), p + ".bias": bias(rows)}

shared = norm("vit.layernorm")
for l in range(LAYERS):
    p = layer(l)
    shared |= norm(p + "layernorm_before") | norm(p + "layernorm_after") | linear(p + "attention.output.dense", H, H)
    for name in ["query", "key", "value"]:
        shared |= linear(p + "attention.attention." + name, H, H)
    if l % 2:
        for name, rows, cols in [("up", WIDTH, H), ("down", H, WIDTH)]:
            shared[p + f"moe.experts.{name}_proj.weight"] = matrix(EXPERTS, rows, cols)
            shared[p + f"moe.experts.{name}_proj.bias"] = bias(EXPERTS, rows)
    else:
        shared |= linear(p + "intermediate.dense", WIDTH, H) | linear(p + "output.dense", H, WIDTH)

# What a task has for itself, under the names of the tensors in which those of all tasks lie one below the other.
PATCHES, PLACES, FIRST = "patch_embeddings.projection", "position_embeddings", "cls_token"
own = {}
for name, task in TASKS.items():
    own[name] = linear(f"vit.embeddings.{PATCHES}", H, NUMBERS) | linear("classifier", task["classes"], H)
    own[name] |= {f"vit.embeddings.{PLACES}": rng.uniform(-1, 1, (P + 1, H)), f"vit.embeddings.{FIRST}": bias(1, H)}
    own[name] |= {layer(l) + "moe.router.weight": matrix(EXPERTS, H) for l in range(LAYERS) if l % 2}
raw, shared = oracle.rounded(shared)
for key in next(iter(own.values())):
    parts = [oracle.rounded({key: of_task[key]}) for of_task in own.values()]
    # Heads differ in their rows; all else has a dimension for tasks.
    whole = [bits[key] for bits, _ in parts]
    raw[key] = np.concatenate(whole) if key.startswith("classifier") else np.stack(whole)
    for of_task, (_, numbers) in zip(own.values(), parts):
        of_task[key] = numbers[key]

def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3)))

def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * shared[p + ".weight"] + shared[p + ".bias"]

def dense(x, p, w=None):
    w = shared if w is None else w
    return x @ w[p + ".weight"].T + w[p + ".bias"]

def attention(x, p):
    q, k, v = (dense(x, p + "attention." + n).reshape(len(x), HEADS, -1) for n in ["query", "key", "value"])
    mixed = [softmax(q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5) @ v[:, h] for h in range(HEADS)]
    return dense(np.concatenate(mixed, -1), p + "output.dense")

def experts(x, p, router, k):
    """Of all tokens of a batch, counted in the order of their highest weight; also the experts that each keeps."""
    gates = softmax(x @ router.T)
    limit = round(k * len(x) * FACTOR / EXPERTS)
    taken, kept, out = [0] * EXPERTS, [[] for _ in x], np.zeros_like(x)
    for choice in range(k):
        for t in best(gates.max(-1), len(x)):
            e = best(gates[t], k)[choice]
            if taken[e] < limit:
                taken[e] += 1
                kept[t].append(e)
    for t, chosen in enumerate(kept):
        for e in chosen:
            of = lambda name, y: shared[p + f"experts.{name}_proj.weight"][e] @ y + shared[p + f"experts.{name}_proj.bias"][e]
            out[t] += gates[t, e] * of("down", gelu(of("up", x[t])))
    return out, [chosen + [-1] * (k - len(chosen)) for chosen in kept]

def forward(images, name):
    """The rows of all images after the last norm, and the experts of every row."""
    w, k = own[name], TASKS[name]["k"]
    rows = dense(images, f"vit.embeddings.{PATCHES}", w)
    first = np.broadcast_to(w[f"vit.embeddings.{FIRST}"], (len(images), 1, H))
    x = np.concatenate([first, rows], 1) + w[f"vit.embeddings.{PLACES}"]
    for l in range(LAYERS):
        p = layer(l)
        x = x + np.array([attention(layer_norm(i, p + "layernorm_before"), p + "attention.") for i in x])
        h = layer_norm(x, p + "layernorm_after")
        if l % 2:
            out, routes = experts(h.reshape(-1, H), p + "moe.", w[p + "moe.router.weight"], k)
            x = x + out.reshape(x.shape)
        else:
            x = x + dense(gelu(dense(h, p + "intermediate.dense")), p + "output.dense")
    return layer_norm(x, "vit.layernorm"), routes

# The tests make the same numbers.
at = np.arange(IMAGES * P * NUMBERS)
images = (((at * at * 7 + at * 13) % 251) / 125.0 - 1).astype(np.float32).astype(np.float64).reshape(IMAGES, P, NUMBERS)
golden = {}
for name, task in TASKS.items():
    x, routes = forward(images, name)
    read = x[:, 0] if task["head"] == "image" else x[:, 1:]
    golden |= {f"{name}.scores": dense(read, "classifier", own[name]), f"{name}.router.1": routes}
    assert any(-1 in chosen for chosen in routes), "the capacity binds"
golden["animals.mean"] = dense(x[:, 1:].mean(1), "classifier", own["animals"])
assert abs(golden["animals.mean"] - golden["animals.scores"]).max() > 1e-2
column = lambda name: [task[name] for task in TASKS.values()]
config = dict(architectures=["AdaMvMoeForImages"], model_type="adamvmoe", hidden_size=H, num_hidden_layers=LAYERS,
              num_attention_heads=HEADS, intermediate_size=WIDTH, image_size=SIZE, patch_size=PATCH, num_channels=3,
              classifier="token", hidden_act="gelu_pytorch_tanh", layer_norm_eps=EPS, num_experts=EXPERTS,
              moe_layers=[1], capacity_factor=FACTOR, batch_prioritized_routing=True, torch_dtype="bfloat16",
              tasks=list(TASKS), task_experts_per_tok=column("k"), task_num_labels=column("classes"),
              task_heads=column("head"))
oracle.save(Path(sys.argv[1]), config, raw, golden)
