#!/usr/bin/env python3
"""Speed of llama.cpp beside `moelten bench`, in turn on the same files.

    python3 -m venv peers && peers/bin/pip install xllamacpp numpy
    peers/bin/python docs/speed_beside_llama_cpp.py ROUNDS MOELTEN FILE.gguf ...

llama.cpp is the library inside the wheel of xllamacpp, or the one that LLAMA_CPP_LIB_PATH names, with its own
repacking of weights, which it does by default. It stays loaded; each round reads 512 tokens in one batch and
decodes 32 with it, then does both with
`moelten bench`. Only ratios within a round can be compared: speeds of shared machines change.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from beside_llama_cpp import THREADS, library

PREFILL, DECODE = 512, 32


class Peer:
    """A model loaded by llama.cpp."""

    def __init__(self, api, path):
        self.api = api
        self.model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        assert self.model, f"llama.cpp does not load {path}"
        params = api.llama_context_default_params()
        # The first words are the context, the logical and the physical batch.
        assert list(params.words[:3]) == [512, 2048, 512], list(params.words[:8])
        params.words[0] = PREFILL + DECODE
        self.context = api.llama_init_from_model(self.model, params)
        api.llama_set_n_threads(self.context, THREADS, THREADS)
        self.wide = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.batch = api.llama_batch_init(PREFILL, 0, 1)

    def rate(self, steps):
        """Tokens per second of batches of these sizes, from an empty context."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        position, begun = 0, time.perf_counter()
        for count in steps:
            self.batch.count = count
            for index in range(count):
                self.batch.token[index] = random.randrange(self.wide)
                self.batch.position[index] = position + index
                self.batch.logits[index] = index == count - 1
                self.batch.sequences[index], self.batch.sequence[index][0] = 1, 0
            assert self.api.llama_decode(self.context, self.batch) == 0
            # Waits for the logits.
            self.api.llama_get_logits(self.context)
            position += count
        return position / (time.perf_counter() - begun)

    def free(self):
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)


def ours(program, path):
    """Tokens per second of the prompt and of decoding, and the share of RAM of decoding in percent."""
    command = [program, "bench", path, "--prefill", str(PREFILL), "--decode", str(DECODE), "--repeat", "1",
               "--threads", str(THREADS), "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    decode = report["decode"]
    return report["prefill"]["tokens_per_s"], decode["tokens_per_s"], 100 * decode["share_of_ram"]


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    rounds, program, *files = sys.argv[1:]
    api = library()
    print("| file | prompt, llama.cpp | moelten | ratio | decoding, llama.cpp | moelten | share of RAM | ratio |\n"
          "|---|---:|---:|---:|---:|---:|---:|---:|")
    for path in files:
        random.seed(1)
        peer = Peer(api, path)
        peer.rate([PREFILL])
        rows = [(peer.rate([PREFILL]), peer.rate([1] * DECODE), *ours(program, path)) for _ in range(int(rounds))]
        peer.free()
        read, write, our_read, our_write, share = zip(*rows)
        ratios = [[mine / theirs for mine, theirs in zip(*pair)] for pair in ((our_read, read), (our_write, write))]
        print(f"| {Path(path).stem} | {spread(read, 0)} | {spread(our_read, 0)} | {spread(ratios[0], 2)} "
              f"| {spread(write, 1)} | {spread(our_write, 1)} | {spread(share, 0)} % | {spread(ratios[1], 2)} |",
              flush=True)


if __name__ == "__main__":
    main()
