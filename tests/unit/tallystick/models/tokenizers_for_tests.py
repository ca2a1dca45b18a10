"""Small real tokenizers of the two kinds that models ship: byte-level BPE, and pieces with byte fallback."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "the tally stick was split in two",
    "one half for each party",
    "größer 世界 🙂 naïve",
    "aaa bbb ccc the the",
]


def byte_level_blob() -> bytes:
    """Return a tokenizer.json like GPT-2's, Llama 3's or SmolLM2's, with a special and an added token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<思>", special=False)])
    return tokenizer.to_str().encode()


def byte_fallback_blob() -> bytes:
    """Return a tokenizer.json like Llama 2's or Mistral's."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", "t", "h", "e", "a", "b", "s", "▁t", "th", "▁th", "the", "▁the", "▁a", "界", "�", "▁▁"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "t"), ("t", "h"), ("▁t", "h"), ("th", "e"), ("▁th", "e"), ("▁", "a"), ("▁", "▁")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer.to_str().encode()
