"""What the naive oracles of papers share: bfloat16, safetensors, random matrices. It must not know models."""
import json, struct
import numpy as np

def bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

def widened(x):
    return (x.astype(np.uint32) << 16).view(np.float32)

def matrix(rng, *shape):
    return rng.uniform(-1, 1, shape) * (3.0 / shape[-1]) ** 0.5 * 1.3

def rounded(weights):
    """Weights as files hold them, and the numbers that these are."""
    raw = {name: bf16(w) for name, w in weights.items()}
    return raw, {name: widened(w).astype(np.float64) for name, w in raw.items()}

def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)

def sigmoid(x):
    return 1 / (1 + np.exp(-x))

def best(scores, k):
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]

def write(path, tensors):
    """Bits of bfloat16 are given as uint16."""
    kinds = {"uint16": "BF16", "float32": "F32", "int32": "I32"}
    header, data = {}, b""
    for name, array in tensors.items():
        body = np.ascontiguousarray(array).tobytes()
        span = [len(data), len(data) + len(body)]
        header[name] = {"dtype": kinds[array.dtype.name], "shape": list(array.shape), "data_offsets": span}
        data += body
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)

def save(folder, config, raw, golden):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write(folder / "model.safetensors", raw)
    kinds = {"f": np.float32, "i": np.int32}
    arrays = {name: np.asarray(values) for name, values in golden.items()}
    write(folder / "golden.safetensors", {name: a.astype(kinds[a.dtype.kind]) for name, a in arrays.items()})
