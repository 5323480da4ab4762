#!/usr/bin/env python3
"""Logits of llama.cpp beside `moelten logits`, on GGUF files that moelten makes of models with random weights.

    python3 -m venv peers && peers/bin/pip install xllamacpp numpy
    peers/bin/python docs/logits_beside_llama_cpp.py MOELTEN FOLDER ...

Of each FOLDER only `config.json` is used: `moelten make-example` makes a model of it, `moelten quantize --type
f32` its file. Both programs compute 96 random tokens from an empty context, with keys and values in f32. The
differences are the largest of a position, over the standard deviation of its logits.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from beside_llama_cpp import THREADS, library

COUNT = 96


def theirs(api, path):
    """The tokens, and llama.cpp's logits, `[tokens, vocab]`."""
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    if not model:
        return None, None
    wide = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    random.seed(1)
    ids = [random.randrange(wide) for _ in range(COUNT)]
    params = api.llama_context_default_params()
    # The types of keys and values follow one another; 1 is f16, 0 is f32.
    at = next(at for at in range(12, 40) if list(params.words[at : at + 2]) == [1, 1])
    params.words[at] = params.words[at + 1] = 0
    context = api.llama_init_from_model(model, params)
    api.llama_set_n_threads(context, THREADS, THREADS)
    batch = api.llama_batch_init(COUNT, 0, 1)
    batch.count = COUNT
    for index, token in enumerate(ids):
        batch.token[index], batch.position[index], batch.logits[index] = token, index, 1
        batch.sequences[index], batch.sequence[index][0] = 1, 0
    assert api.llama_decode(context, batch) == 0
    logits = np.ctypeslib.as_array(api.llama_get_logits(context), (COUNT, wide)).copy()
    api.llama_free(context)
    api.llama_model_free(model)
    return ids, logits


def ours(program, path, ids, shape):
    """The same of moelten."""
    out = path.with_suffix(".safetensors")
    tokens = ",".join(map(str, ids))
    subprocess.run([program, "logits", path, "--ids", tokens, "--out", out, "--kv", "f32", "-q"], check=True)
    raw = out.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    first, last = json.loads(raw[8:begin])["logits"]["data_offsets"]
    return np.frombuffer(raw[begin + first : begin + last], dtype=np.float32).reshape(shape)


def compare(api, program, folder):
    """A row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        example, path = Path(scratch) / "example", Path(scratch) / "model.gguf"
        for command in (["make-example", Path(folder) / "config.json", "--out", example, "-q"],
                        ["quantize", example, path, "--type", "f32", "-q"]):
            done = subprocess.run([program, *command], capture_output=True, text=True)
            if done.returncode:
                return f"no example: {done.stderr.strip()[:90]}"
        ids, logits = theirs(api, path)
        if ids is None:
            return "llama.cpp does not open it"
        mine = ours(program, path, ids, logits.shape)
        apart = np.abs(logits - mine).max(axis=1) / logits.std(axis=1)
        same = np.mean(logits.argmax(axis=1) == mine.argmax(axis=1))
        return f"{np.median(apart):.5f} | {apart.max():.5f} | {100 * same:.0f} %"


def main():
    if len(sys.argv) == 3:
        program, folder = sys.argv[1:]
        print(f"| {Path(folder).name} | {compare(library(), program, folder)} |")
        return
    program, *folders = sys.argv[1:]
    print("| configuration | median | largest | same most likely token |\n|---|---:|---:|---:|", flush=True)
    for folder in folders:
        # llama.cpp ends the process where an assertion fails.
        done = subprocess.run([sys.executable, __file__, program, folder], capture_output=True, text=True)
        rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
        print(rows[-1] if rows else f"| {Path(folder).name} | llama.cpp failed |", flush=True)


if __name__ == "__main__":
    main()
