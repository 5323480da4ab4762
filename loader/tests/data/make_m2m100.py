"""Makes `m2m100`: the files of a tokenizer as M2M100 is released, without a `tokenizer.json`, and the ids that Hugging
Face's `M2M100Tokenizer` gives for some texts.

    pip install transformers sentencepiece; python make_m2m100.py m2m100 [nmt_nfkc]

The second argument is a normalisation of SentencePiece, `identity` by default, since the map of the others has 240 kB.
"""
import json, random, sys
from pathlib import Path
import sentencepiece as spm
from transformers import M2M100Tokenizer

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
words = """the a dog cat house park walks sleeps runs big small red green and or not in on under over with without river water
der die das hund katze haus gross klein und oder nicht im auf mit ohne fluss wasser läuft schläft über für grün
le la chien chat maison dans sur avec sans rivière été où garçon сабака кот дом вода""".split()
draw = random.Random(3)
corpus = out / "corpus.txt"
corpus.write_text("\n".join(" ".join(draw.choices(words, k=8)) + draw.choice(".?!") for _ in range(3000)))
spm.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(out / "sentencepiece.bpe"), model_type="bpe", vocab_size=320,
                               character_coverage=1.0, normalization_rule_name=(sys.argv[2:] or ["identity"])[0])
corpus.unlink()
(out / "sentencepiece.bpe.vocab").unlink()
model = spm.SentencePieceProcessor(str(out / "sentencepiece.bpe.model"))
pieces = [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
draw.shuffle(pieces)        # ids of M2M100 are not those of SentencePiece
vocab = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>"] + pieces)}
(out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
tokenizer = M2M100Tokenizer(str(out / "vocab.json"), str(out / "sentencepiece.bpe.model"))
special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
           "additional_special_tokens": [f"__{code}__" for code in tokenizer.lang_code_to_token]}
(out / "special_tokens_map.json").write_text(json.dumps(special))
texts = ["the dog sleeps.", "  two   spaces  and a tab\there ", "", "Katze über 42 Flüsse?", "где кот", "ohne", "▁ schläft",
         "the\nnew line", "été, où le garçon dort", "<s> </s> __en__ dog", "water" * 12, "x", "ﬁne ② Ａ"]
ids = [tokenizer.convert_tokens_to_ids(tokenizer.sp_model.encode(text, out_type=str)) for text in texts]
(out / "expected.json").write_text(json.dumps(
    {"texts": texts, "ids": ids, "decoded": [tokenizer.decode(i, skip_special_tokens=True) for i in ids],
     "languages": {f"__{c}__": tokenizer.get_lang_id(c) for c in ("af", "de", "en", "zu")}}, ensure_ascii=False))
