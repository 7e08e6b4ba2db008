"""Tiny real models of several architectures, made in seconds and saved as sentence-transformers folders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Rotate the signing key before it expires; then revoke the old one.",
    "Größe, naïve café, 漢字とかな, مرحبا بالعالم, emoji 🙂.",
    "def f(x): return x[0] + some_name  # a comment",
    "query: passage: search_query: document prompt instruct",
] * 20
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@cache  # training breaks ties at random: one tokenizer a process
def _word_piece() -> tuple[Tokenizer, dict[str, str]]:
    names = {
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    )
    marks = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return tokenizer, names


@cache
def _byte_level(end_only: bool) -> tuple[Tokenizer, dict[str, str]]:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    template = "$A </s>" if end_only else "<s> $A </s>"
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    return tokenizer, names


def _save(folder: Path, model: Any, tokenizer: Tokenizer, names: dict[str, str], **settings: Any) -> None:
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names, **settings)
    fast.save_pretrained(folder)


def make_model(folder: Path, kind: str, *, pooling: str = "mean", normalize: bool = True, **settings: Any) -> Path:
    """Save a model with random weights; the same kind and settings give the same weights.

    Args:
        folder: Where the parts and the finished model go.
        kind: ``bert``, ``roberta``, ``modernbert``, ``qwen3`` or ``static``.
        pooling: ``mean``, ``cls`` or ``lasttoken``.
        normalize: Whether the model ends in a Normalize module.
        settings: Passed to SentenceTransformer, such as prompts.
    """
    torch.manual_seed(0)
    final = folder / "model"
    if kind == "static":
        static = StaticEmbedding(_word_piece()[0], embedding_dim=32)
        SentenceTransformer(modules=[static], device="cpu", **settings).save(str(final), create_model_card=False)
        return final
    raw = folder / "raw"
    if kind == "bert":
        tokenizer, names = _word_piece()
        size = {**SIZE, "max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size()}
        _save(raw, BertModel(BertConfig(**size)), tokenizer, names)
    elif kind == "roberta":
        tokenizer, names = _byte_level(end_only=False)
        size = {**SIZE, "max_position_embeddings": 66, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1}
        _save(raw, RobertaModel(RobertaConfig(**size)), tokenizer, names)
    elif kind == "modernbert":
        tokenizer, names = _byte_level(end_only=False)
        size = {**SIZE, "max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 1}
        marks = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
        _save(raw, ModernBertModel(ModernBertConfig(**size, **marks, local_attention=8)), tokenizer, names)
    else:
        tokenizer, names = _byte_level(end_only=True)
        size = {**SIZE, "max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size()}
        heads = {"num_key_value_heads": 2, "head_dim": 8}
        _save(raw, Qwen3Model(Qwen3Config(**size, **heads)), tokenizer, names, padding_side="left")
    transformer = Transformer(str(raw), max_seq_length=64)
    modules = [transformer, Pooling(32, pooling), *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, device="cpu", **settings).save(str(final), create_model_card=False)
    return final
