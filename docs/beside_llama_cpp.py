#!/usr/bin/env python3
"""Perplexity of a text in llama.cpp beside `moelten ppl`, on the same files and in the same windows.

    python3 -m venv peers && peers/bin/pip install xllamacpp numpy
    peers/bin/python docs/beside_llama_cpp.py TEXT TOKENS MOELTEN FILE.gguf ...

llama.cpp is the library inside the wheel of xllamacpp, or the one that LLAMA_CPP_LIB_PATH names, called
directly. It tokenises the text by itself. Each window of 512 tokens begins with an empty context, and with BOS
where the tokenizer adds one; every token but the first of a window is predicted. Both programs keep keys and
values in f16 and use two threads.
"""

import ctypes
import json
import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

WINDOW = 512
THREADS = 2


class Params(ctypes.Structure):
    """Parameters of a model or of a context; larger than any version of them, so that no version matters."""

    _fields_ = [("words", ctypes.c_int32 * 96)]


class Batch(ctypes.Structure):
    """llama_batch: tokens with positions, sequences, and which of them need logits."""

    _fields_ = [
        ("count", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("position", ctypes.POINTER(ctypes.c_int32)),
        ("sequences", ctypes.POINTER(ctypes.c_int32)),
        ("sequence", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


def library():
    """llama.cpp with the types of the functions used here."""
    path = Path(sysconfig.get_path("purelib")) / "xllamacpp" / "xllamacpp.abi3.so"
    api = ctypes.PyDLL(os.environ.get("LLAMA_CPP_LIB_PATH", str(path)))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    for name, result, arguments in [
        ("llama_model_default_params", Params, []),
        ("llama_context_default_params", Params, []),
        ("llama_model_load_from_file", pointer, [text, Params]),
        ("llama_init_from_model", pointer, [pointer, Params]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", number, [pointer]),
        ("llama_vocab_bos", number, [pointer]),
        ("llama_vocab_get_add_bos", ctypes.c_bool, [pointer]),
        ("llama_tokenize", number,
         [pointer, text, number, ctypes.POINTER(number), number, ctypes.c_bool, ctypes.c_bool]),
        ("llama_batch_init", Batch, [number, number, number]),
        ("llama_get_memory", pointer, [pointer]),
        ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
        ("llama_decode", number, [pointer, Batch]),
        ("llama_get_logits", ctypes.POINTER(ctypes.c_float), [pointer]),
        ("llama_free", None, [pointer]),
        ("llama_model_free", None, [pointer]),
        ("llama_set_n_threads", None, [pointer, number, number]),
    ]:
        function = getattr(api, name)
        function.restype, function.argtypes = result, arguments
    log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    api.quiet = log(lambda level, message, data: None)
    api.llama_log_set(api.quiet, None)
    return api


def tokens(api, vocab, text, most):
    """The first `most` tokens of a text, which are in its first 16 bytes for each of them."""
    text = text[: 16 * most].encode()
    ids = (ctypes.c_int32 * len(text))()
    count = api.llama_tokenize(vocab, text, len(text), ids, len(ids), False, False)
    assert count > most, f"the text has {count} tokens"
    return list(ids[:most])


def perplexity(api, path, text, most):
    """llama.cpp's perplexity of the first `most` tokens."""
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    assert model, f"llama.cpp does not load {path}"
    vocab = api.llama_model_get_vocab(model)
    params = api.llama_context_default_params()
    # The first words are the context, the logical and the physical batch.
    assert list(params.words[:3]) == [512, 2048, 512], list(params.words[:8])
    context = api.llama_init_from_model(model, params)
    api.llama_set_n_threads(context, THREADS, THREADS)
    bos = [api.llama_vocab_bos(vocab)] if api.llama_vocab_get_add_bos(vocab) else []
    ids, step, wide = tokens(api, vocab, text, most), WINDOW - len(bos), api.llama_vocab_n_tokens(vocab)
    batch, losses = api.llama_batch_init(WINDOW, 0, 1), []
    for begin in range(0, len(ids), step):
        window = bos + ids[begin : begin + step]
        batch.count = len(window)
        for index, token in enumerate(window):
            batch.token[index], batch.position[index], batch.logits[index] = token, index, 1
            batch.sequences[index], batch.sequence[index][0] = 1, 0
        api.llama_memory_clear(api.llama_get_memory(context), True)
        assert api.llama_decode(context, batch) == 0
        logits = np.ctypeslib.as_array(api.llama_get_logits(context), (len(window), wide))[:-1]
        top = logits.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1, dtype=np.float64))
        losses.extend(total - logits[np.arange(len(window) - 1), window[1:]])
    api.llama_free(context)
    api.llama_model_free(model)
    return math.exp(float(np.mean(losses))), len(losses)


def ours(program, path, text, most):
    """The perplexity of `moelten ppl`."""
    command = [program, "ppl", path, "--text", text, "--tokens", str(most), "--window", str(WINDOW), "--json",
               "--quiet", "--threads", str(THREADS)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def main():
    text_path, most, program, *files = sys.argv[1:]
    api, text, most = library(), Path(text_path).read_bytes().decode(), int(most)
    print("| file | llama.cpp | moelten | moelten over llama.cpp |\n|---|---:|---:|---:|")
    for path in files:
        theirs, predicted = perplexity(api, path, text, most)
        report = ours(program, path, text_path, most)
        mine = report["perplexity"]
        assert report["predicted_tokens"] == predicted, (report, predicted)
        difference = 100 * (mine / theirs - 1)
        print(f"| {Path(path).stem} | {theirs:.4f} | {mine:.4f} | {difference:+.2f} % |", flush=True)


if __name__ == "__main__":
    main()
