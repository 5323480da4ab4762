#!/usr/bin/env python3
"""Logits of llama.cpp beside `moelten logits`, on GGUF files that moelten makes of models with random weights.

    python3 -m venv peers && peers/bin/pip install xllamacpp numpy
    peers/bin/python docs/logits_beside_llama_cpp.py MOELTEN FOLDER ...

Of each FOLDER only `config.json` is used: `moelten make-example` makes a model of it, `moelten quantize --type
f32` its file. Both programs compute 96 random tokens in an empty context of 512, with keys and values in f32. The
differences are the largest of a position, over the standard deviation of its logits.

llama.cpp rounds keys and values to f16 in its flash attention, whatever type the cache has. It is off here;
`--flash` leaves it on. `--assume FIELD=VALUE` tests a cause: moelten computes the folder instead of the file,
with another field in its configuration, and llama.cpp the file as it was.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from beside_llama_cpp import THREADS, library

COUNT, CONTEXT = 96, 512


def theirs(api, path, flash):
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
    # Kinds of rope, pooling, attention, flash attention: -1 leaves the choice to llama.cpp, 0 is off.
    assert params.words[0] == CONTEXT and list(params.words[10:14]) == [-1] * 4, list(params.words[:20])
    params.words[13] = -1 if flash else 0
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
    command = [program, "logits", path, "--ids", ",".join(map(str, ids)), "--out", out, "--kv", "f32",
               "--ctx", str(CONTEXT), "-q"]
    subprocess.run(command, check=True)
    raw = out.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    first, last = json.loads(raw[8:begin])["logits"]["data_offsets"]
    return np.frombuffer(raw[begin + first : begin + last], dtype=np.float32).reshape(shape)


def made(program, folder, scratch):
    """A model with random weights and its file; or what is wrong."""
    example, path = Path(scratch) / "example", Path(scratch) / "model.gguf"
    for command in (["make-example", Path(folder) / "config.json", "--out", example, "-q"],
                    ["quantize", example, path, "--type", "f32", "-q"]):
        done = subprocess.run([program, *command], capture_output=True, text=True)
        if done.returncode:
            return None, f"no example: {done.stderr.strip()[:90]}"
    return example, path


def assume(example, changes):
    """Sets fields of a configuration, as `rope_parameters.truncate=true`."""
    path = example / "config.json"
    config = json.loads(path.read_text())
    for change in changes:
        field, value = change.split("=", 1)
        *outer, last = field.split(".")
        inner = config
        for name in outer:
            inner = inner[name]
        inner[last] = json.loads(value)
    path.write_text(json.dumps(config))


def apart(some, others):
    """The largest difference of each position."""
    return np.abs(some - others).max(axis=1) / some.std(axis=1)


def compare(api, program, folder, flash, changes):
    """A row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        example, path = made(program, folder, scratch)
        if example is None:
            return path
        ids, logits = theirs(api, path, flash)
        if ids is None:
            return "llama.cpp does not open it"
        assume(example, changes)
        mine = ours(program, example if changes else path, ids, logits.shape)
        found = apart(logits, mine)
        same = np.mean(logits.argmax(axis=1) == mine.argmax(axis=1))
        return f"{np.median(found):.5f} | {found.max():.5f} | {100 * same:.0f} %"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--flash", action="store_true")
    parser.add_argument("--assume", action="append", default=[])
    given = parser.parse_args()
    if len(given.folders) == 1:
        row = compare(library(), given.program, given.folders[0], given.flash, given.assume)
        print(f"| {Path(given.folders[0]).name} | {row} |")
        return
    print("| configuration | median | largest | same most likely token |\n|---|---:|---:|---:|", flush=True)
    options = ["--flash"] * given.flash + [f"--assume={change}" for change in given.assume]
    for folder in given.folders:
        # llama.cpp ends the process where an assertion fails.
        command = [sys.executable, __file__, given.program, folder, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
        print(rows[-1] if rows else f"| {Path(folder).name} | llama.cpp failed |", flush=True)


if __name__ == "__main__":
    main()
