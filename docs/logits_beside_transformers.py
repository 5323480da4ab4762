#!/usr/bin/env python3
"""Logits of moelten and of llama.cpp beside Hugging Face transformers in f32, and beside transformers with what
llama.cpp does differently put in: whether that is all that sets llama.cpp apart.

    python3 -m venv peers && peers/bin/pip install xllamacpp numpy torch transformers
    peers/bin/python docs/logits_beside_transformers.py MOELTEN [--flash] FOLDER ...

The models and tokens are those of `logits_beside_llama_cpp.py`. Put in are: GELU from a table of f16 that is indexed
by f16; in Phi-MoE the norm without mean and the softmax of the two best experts; with `--flash`, for llama.cpp too,
keys and values in f16. The last column is transformers with these changes in f64 beside the same in f32: numbers
that fall to another entry of a table, and nothing else.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from beside_llama_cpp import library
from logits_beside_llama_cpp import apart, made, ours, theirs
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, logging


def opened(example):
    """The language model of a folder."""
    config = AutoConfig.from_pretrained(example).get_text_config()
    config._experts_implementation = "eager"
    return AutoModelForCausalLM.from_pretrained(
        example, config=config, dtype=torch.float32, attn_implementation="eager").eval()


def computed(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


class Gelu(torch.nn.Module):
    """ggml's: the numbers between -10 and 10 are rounded before and after."""

    def forward(self, x):
        rounded = functional.gelu(x.half().float(), approximate="tanh").half().to(x.dtype)
        return torch.where(x <= -10, 0, torch.where(x >= 10, x, rounded))


class WithoutMean(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.norm.eps)
        return x * scale * self.norm.weight + self.norm.bias


def two_best(scores, jitter_eps, training, top_k):
    weights, chosen = scores.softmax(-1).topk(top_k, -1)
    return weights / weights.sum(-1, keepdim=True), chosen


def change(model, flash, stack):
    """Makes transformers compute as llama.cpp does, until the stack is left."""
    source = sys.modules[type(model).__module__]
    if hasattr(source, "sparsemixer"):
        stack.enter_context(patch.object(source, "sparsemixer", two_best))
    for module in list(model.modules()):
        if getattr(model.config, "hidden_activation", None) == "gelu_pytorch_tanh" and hasattr(module, "act_fn"):
            module.act_fn = Gelu()
        for name, inner in list(module.named_children()):
            if isinstance(inner, torch.nn.LayerNorm):
                setattr(module, name, WithoutMean(inner))
    attend = source.eager_attention_forward

    def rounded(module, query, key, value, *more, **named):
        return attend(module, query, key.half().to(key.dtype), value.half().to(value.dtype), *more, **named)

    if flash:
        stack.enter_context(patch.object(source, "eager_attention_forward", rounded))


def row(api, program, folder, flash):
    with tempfile.TemporaryDirectory() as scratch:
        example, path = made(program, folder, scratch)
        if example is None:
            return path
        ids, llama = theirs(api, path, flash)
        mine, model = ours(program, path, ids, llama.shape), opened(example)
    exact = computed(model, ids)
    with ExitStack() as stack:
        change(model, flash, stack)
        changed, finer = computed(model, ids), computed(model.double(), ids)
    pairs = (exact, mine), (exact, llama), (changed, llama), (finer, changed)
    return " | ".join(f"{np.median(found):.5f} ({found.max():.5f})" for found in (apart(*pair) for pair in pairs))


def main():
    words = [word for word in sys.argv[1:] if word != "--flash"]
    flash, (program, *folders) = "--flash" in sys.argv, words
    logging.set_verbosity_error()
    print("| median (largest) | moelten | llama.cpp | llama.cpp, changed transformers | f64 beside f32 |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for folder in folders:
        print(f"| {Path(folder).name} | {row(library(), program, folder, flash)} |", flush=True)


main()
