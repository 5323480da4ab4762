#!/usr/bin/env python3
"""Decodes in turn with moelten and ik_llama.cpp on the same file, and compares neighbours.

    python3 -m venv peers && peers/bin/pip install ik-llama-cpp-python numpy
    peers/bin/python docs/side_by_side.py MODEL.gguf plain|rtr ROUNDS MOELTEN[:TIER] ...

ik_llama.cpp stays loaded in this process, with its own repacking (`-rtr`) or without; each round decodes 32
tokens with it, then runs `moelten bench`, which measures the limits of the machine beside its own run. On a
shared machine speeds change from minute to minute: medians of the ratio within a round are comparable, and
the shares of RAM, but not tokens per second of different rounds.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time

import ik_llama_cpp._ctypes_api as api
from ik_llama_cpp import _internals as internals

TOKENS = 32
THREADS = 2


def load(path, repack):
    """Model and context of ik_llama.cpp."""
    defaults = api.llama_model_default_params

    def params():
        chosen = defaults()
        chosen.repack_tensors = repack
        return chosen

    api.llama_model_default_params = params
    model = internals.IkModel(path, use_mmap=not repack, use_mlock=False, n_gpu_layers=0)
    context = internals.IkContext(
        model, n_ctx=1024, n_threads=THREADS, flash_attn=True, embeddings=False, n_seq_max=1,
        pooling_type=api.LLAMA_POOLING_TYPE_UNSPECIFIED, attention_type=api.LLAMA_ATTENTION_TYPE_UNSPECIFIED)
    return model, context


def peer(context, tokens):
    """Tokens per second."""
    context.kv_cache_clear()
    begun = time.perf_counter()
    for position, token in enumerate(tokens):
        batch = internals.make_batch_single(token, position)
        context.decode(batch)
        api.llama_batch_free(batch)
    return len(tokens) / (time.perf_counter() - begun)


def ours(program, path):
    """Tokens per second, and the share of RAM in percent."""
    binary, _, tier = program.partition(":")
    env = dict(os.environ, MOELTEN_ISA=tier)
    command = [binary, "bench", path, "--prefill", "0", "--decode", str(TOKENS), "--repeat", "1",
               "--threads", str(THREADS), "--json"]
    decode = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)["decode"]
    return decode["tokens_per_s"], 100 * decode["share_of_ram"]


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    path, mode, rounds, *programs = sys.argv[1:]
    model, context = load(path, mode == "rtr")
    random.seed(1)
    tokens = [random.randrange(300, 30000) for _ in range(TOKENS)]
    peer(context, tokens)
    rows = [(peer(context, tokens), [ours(program, path) for program in programs]) for _ in range(int(rounds))]
    print(f"{path}, {mode}: ik {spread([rate for rate, _ in rows])} tokens/s")
    for i, program in enumerate(programs):
        rates, shares = zip(*(row[i] for _, row in rows))
        ratios = [rate / row[0] for rate, row in zip(rates, rows)]
        print(f"  {program}: {spread(rates)} tokens/s, {spread(shares)} % of RAM, {spread(ratios)} of ik")
    del model


if __name__ == "__main__":
    main()
