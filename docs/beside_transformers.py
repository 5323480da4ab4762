#!/usr/bin/env python3
"""Reads a text and writes an answer in turn with Hugging Face transformers and moelten, on the same folder of an
encoder-decoder, and compares neighbours.

    python3 -m venv peers && peers/bin/pip install torch transformers
    moelten make-example switch-base-8 && peers/bin/python docs/beside_transformers.py switch-base-8 bfloat16 5 moelten

Both use two threads, read 64 random tokens and write 32 greedily, token by token, with a cache of keys and values.
The model stays loaded in transformers; each round runs `moelten bench` behind it. On a shared machine speeds
change from minute to minute: the medians of the ratios within a round are comparable.
"""

import json
import statistics
import subprocess
import sys
import time

import torch
from transformers import AutoModelForSeq2SeqLM

TEXT, TOKENS, THREADS = 64, 32, 2


def theirs(model, ids):
    """Tokens per second of reading and of writing."""
    with torch.inference_mode():
        begun = time.perf_counter()
        encoded = model.get_encoder()(input_ids=ids)
        read = time.perf_counter()
        token = torch.full((1, 1), model.config.decoder_start_token_id)
        cache = None
        for _ in range(TOKENS):
            step = model(encoder_outputs=encoded, decoder_input_ids=token, past_key_values=cache, use_cache=True)
            cache, token = step.past_key_values, step.logits[:, -1].argmax(-1, keepdim=True)
        written = time.perf_counter()
    return TEXT / (read - begun), TOKENS / (written - read)


def ours(program, folder):
    command = [program, "bench", folder, "--prefill", str(TEXT), "--decode", str(TOKENS), "--repeat", "1",
               "--threads", str(THREADS), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found["prefill"]["tokens_per_s"], found["decode"]["tokens_per_s"]


def main():
    folder, precision, rounds, program = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    ids = torch.randint(200, model.config.vocab_size - 200, (1, TEXT))
    theirs(model, ids)
    ratios = []
    for _ in range(rounds):
        a, b = theirs(model, ids), ours(program, folder)
        ratios.append([y / x for x, y in zip(a, b)])
        print(f"transformers: reads {a[0]:.1f}, writes {a[1]:.2f} tok/s; moelten: {b[0]:.1f}, {b[1]:.2f}")
    reads, writes = (statistics.median(column) for column in zip(*ratios))
    print(f"moelten reads {reads:.1f} and writes {writes:.1f} times as fast")


main()
