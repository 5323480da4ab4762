"""Makes `beams.safetensors` of an encoder-decoder made by `make_pairs.py`: what `generate` of Hugging Face transformers
writes with a beam search in float32, for several settings. The tokens of an answer come without the start token.

    pip install torch transformers safetensors; python make_beams.py nllbmoe
"""
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM
from transformers.models.nllb_moe import modeling_nllb_moe
from make_pairs import all_experts

modeling_nllb_moe.NllbMoeExperts.forward = all_experts
folder = sys.argv[1]
model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
# Beams are neighbours in a batch, whose capacity they would share in the decoder; here no answer depends on neighbours.
for module in model.get_decoder().modules():
    if hasattr(module, "moe_eval_capacity_token_fraction"):
        module.moe_eval_capacity_token_fraction = 1.0
text = load_file(f"{folder}/golden.safetensors")["input_ids"][None].long()
LANGUAGE, NEW = 91, 20
out = {"text": text[0].to(torch.int32)}
# Beams, exponent of the length, whether the first answers end the search, a token that ends answers beside </s>, and
# how many tokens of the text are read.
CASES = [(2, 1.0, False, 40, 40), (3, 1.0, True, 33, 17), (3, 1.0, False, 12, 17), (4, 0.0, False, 30, 9),
         (5, 2.0, False, 30, 9), (5, 1.0, True, 12, 9), (5, -1.0, False, 30, 40), (3, 1.0, False, 92, 40),
         (8, 1.0, False, 33, 5), (6, 0.5, True, 28, 5), (4, 1.5, True, 35, 17), (7, 2.0, False, 92, 40)]
for beams, penalty, early, end, length in CASES:
    with torch.no_grad():
        found = model.generate(input_ids=text[:, :length], num_beams=beams, length_penalty=penalty, early_stopping=early,
                               eos_token_id=sorted({2, end}), forced_bos_token_id=LANGUAGE, max_new_tokens=NEW + 1,
                               do_sample=False, forced_eos_token_id=None)[0]
    assert found[0] == model.config.decoder_start_token_id and found[1] == LANGUAGE
    out[f"{beams} {penalty} {int(early)} {end} {length}"] = found[2:].to(torch.int32).contiguous()
    print(beams, penalty, early, end, length, found.tolist())
save_file(out, f"{folder}/beams.safetensors")
