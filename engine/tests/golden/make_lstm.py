"""Makes the golden of the language models of Shazeer et al. 2017 (arXiv 1701.06538, appendix C.1), of which no weights
were released: a tiny checkpoint with random weights, and what the paper's equations give for it, written out with NumPy
in double precision. Five layers: embedding, LSTM, experts, LSTM, softmax. The input of each layer between the first and
the last is added to its output; what the experts give goes through a sigmoid before. The gate is equations 3 to 5 without
the noise, which is for training: the k best logits, and a softmax over them. The LSTM is the one with a forget gate.

    python make_lstm.py shazeer2017        # pip install numpy
"""
import sys
from pathlib import Path
import numpy as np
import oracle
from oracle import best, sigmoid, softmax

V, H, T, NEW = 40, 8, 24, 8
EXPERTS, TOP, WIDTH = 5, 2, 12
rng = np.random.default_rng(11)
matrix = lambda *shape: oracle.matrix(rng, *shape)

W = {"model.embed_tokens.weight": rng.uniform(-1.7, 1.7, (V, H)), "lm_head.weight": matrix(V, H)}
for l in (0, 2):
    p = f"model.layers.{l}.lstm."
    W |= {p + "weight_ih": matrix(4 * H, H), p + "weight_hh": matrix(4 * H, H), p + "bias": rng.uniform(-1, 1, 4 * H)}
W["model.layers.1.mlp.router.weight"] = matrix(EXPERTS, H)
W["model.layers.1.mlp.experts.up_proj.weight"] = matrix(EXPERTS, WIDTH, H)
W["model.layers.1.mlp.experts.down_proj.weight"] = matrix(EXPERTS, H, WIDTH)
raw, W = oracle.rounded(W)

def lstm(x, p):
    h, c, out = np.zeros(H), np.zeros(H), []
    for token in x:
        i, f, g, o = np.split(W[p + "weight_ih"] @ token + W[p + "weight_hh"] @ h + W[p + "bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)

def experts(x, p, chosen):
    out = []
    for token in x:
        logits = W[p + "router.weight"] @ token
        ids = best(logits, TOP)
        chosen.append(ids)
        up, down = W[p + "experts.up_proj.weight"], W[p + "experts.down_proj.weight"]
        out.append(sum(g * (down[e] @ np.maximum(up[e] @ token, 0)) for e, g in zip(ids, softmax(logits[ids]))))
    return sigmoid(np.array(out))

def forward(ids):
    chosen = []
    x = W["model.embed_tokens.weight"][ids]
    x = x + lstm(x, "model.layers.0.lstm.")
    x = x + experts(x, "model.layers.1.mlp.", chosen)
    x = x + lstm(x, "model.layers.2.lstm.")
    return x @ W["lm_head.weight"].T, chosen

ids = [int(i) for i in rng.integers(3, V, T)]
logits, chosen = forward(ids)
greedy = list(ids)
for _ in range(NEW):
    greedy.append(int(forward(greedy)[0][-1].argmax()))
config = dict(architectures=["MoeLstmForCausalLM"], model_type="moe_lstm", vocab_size=V, hidden_size=H,
              num_hidden_layers=3, layer_types=["lstm", "moe", "lstm"], intermediate_size=WIDTH,
              num_local_experts=EXPERTS, num_experts_per_tok=TOP, hidden_act="relu", max_position_embeddings=512,
              tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16")
oracle.save(Path(sys.argv[1]), config, raw,
            {"input_ids": ids, "logits": logits, "greedy_ids": greedy[T:], "router.1": chosen})
