#!/usr/bin/env python3
"""Decodes, or reads a prompt, in turn with moelten and ik_llama.cpp on the same file, and compares neighbours.

    python3 -m venv peers && peers/bin/pip install ik-llama-cpp-python numpy
    peers/bin/python docs/side_by_side.py MODEL.gguf plain|rtr[:prefill] ROUNDS MOELTEN[:TIER] ...

IK_LLAMA_CPP_LIB_PATH names another build of its libllama.so, such as one for this processor.

ik_llama.cpp stays loaded in this process, with its own repacking (`-rtr`) or without; each round decodes 32
tokens with it, or reads 512 in one batch, then runs `moelten bench`, which measures the limits of the machine beside its own run. On a
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

DECODE, PREFILL = 32, 512
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
    """Tokens per second: a prompt in one batch, or token by token."""
    context.kv_cache_clear()
    prompt = len(tokens) == PREFILL
    batches = [internals.make_batch(tokens)] if prompt else [
        internals.make_batch_single(token, position) for position, token in enumerate(tokens)]
    begun = time.perf_counter()
    for batch in batches:
        context.decode(batch)
    # Waits for the last logits.
    context.get_logits()
    rate = len(tokens) / (time.perf_counter() - begun)
    for batch in batches:
        api.llama_batch_free(batch)
    return rate


def ours(program, path, prompt):
    """Tokens per second, and the share of RAM in percent: decoding is limited by it, prompts are not."""
    binary, _, tier = program.partition(":")
    env = dict(os.environ, MOELTEN_ISA=tier)
    work = ["--prefill", str(PREFILL), "--decode", "0"] if prompt else ["--prefill", "0", "--decode", str(DECODE)]
    command = [binary, "bench", path, *work, "--repeat", "1", "--threads", str(THREADS), "--json"]
    report = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    if prompt:
        return report["prefill"]["tokens_per_s"], 0
    return report["decode"]["tokens_per_s"], 100 * report["decode"]["share_of_ram"]


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    path, mode, rounds, *programs = sys.argv[1:]
    mode, _, what = mode.partition(":")
    prompt = what == "prefill"
    model, context = load(path, mode == "rtr")
    random.seed(1)
    tokens = [random.randrange(300, 30000) for _ in range(PREFILL if prompt else DECODE)]
    peer(context, tokens)
    rows = [(peer(context, tokens), [ours(program, path, prompt) for program in programs])
            for _ in range(int(rounds))]
    print(f"{path}, {mode}, {what or 'decode'}: ik {spread([rate for rate, _ in rows])} tokens/s")
    for i, program in enumerate(programs):
        rates, shares = zip(*(row[i] for _, row in rows))
        ratios = [rate / row[0] for rate, row in zip(rates, rows)]
        of_ram = "" if prompt else f"{spread(shares)} % of RAM, "
        print(f"  {program}: {spread(rates)} tokens/s, {of_ram}{spread(ratios)} of ik")
    del model


if __name__ == "__main__":
    main()
