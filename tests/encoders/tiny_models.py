"""Tiny real models of several architectures, made in seconds and saved as sentence-transformers folders.

Beside dense ones (`make_model`): `tiny_splade`, `tiny_inference_free`, `tiny_colbert` and `tiny_joint` with random
weights, the same in every process, and `trained_splade`, which has learned which words mean the same.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Router
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
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


SYNONYMS = [
    ("car", "automobile"),
    ("physician", "doctor"),
    ("film", "movie"),
    ("lawyer", "attorney"),
    ("picture", "photo"),
    ("infant", "baby"),
]
FRAMES = ["the {} is old", "a new {} for sale", "they saw the {} here", "my {} was expensive", "{}", "every {} we know"]


@cache
def _fixed_word_piece(texts: tuple[str, ...]) -> tuple[Tokenizer, dict[str, str]]:
    """Every word and every letter of the texts; the same in every process, which a trained one is not."""
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = {word for text in texts for word, _ in split(text.lower())}
    letters = {letter for word in words for letter in word} | set(string.ascii_lowercase + string.punctuation)
    entries = [*names.values(), "[Q]", "[D]", *sorted(words | letters), *(f"##{letter}" for letter in sorted(letters))]
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[Q]", "[D]"])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return tokenizer, names


def _bert(folder: Path, kind: Any, texts: tuple[str, ...], spread: float, seed: int) -> Path:
    """Save a BERT of random weights with a tokenizer for these texts."""
    torch.manual_seed(seed)
    tokenizer, names = _fixed_word_piece(texts)
    size = {**SIZE, "max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size()}
    drop = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    _save(folder, kind(BertConfig(**size, **drop, initializer_range=spread)), tokenizer, names)
    return folder


def _masked_bert(folder: Path, texts: Any = tuple(CORPUS), *, spread: float = 0.3, seed: int = 0) -> Transformer:
    path = _bert(folder, BertForMaskedLM, texts, spread, seed)
    return Transformer(str(path), transformer_task="fill-mask", max_seq_length=64)


def tiny_splade(folder: Path, **settings: Any) -> Path:
    """SPLADE with random weights. Settings: passed to SparseEncoder, such as prompts."""
    modules = [_masked_bert(folder / "raw"), SpladePooling("max")]
    SparseEncoder(modules=modules, device="cpu", **settings).save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def tiny_inference_free(folder: Path) -> Path:
    """SPLADE whose queries are their words' weights, 1 to 2, with random weights for documents."""
    document = _masked_bert(folder / "raw")
    weight = 1 + torch.arange(len(document.tokenizer)) / len(document.tokenizer)
    query = SparseStaticEmbedding(document.tokenizer, weight=weight, frozen=True)
    router = Router.for_query_document([query], [document, SpladePooling("max", "log1p_relu")])
    SparseEncoder(modules=[router], device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steps this small are no faster with two threads, and twenty times slower where other work has the other core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trained_splade(folder: Path) -> Path:
    """SPLADE that has learned, in about two seconds, that `SYNONYMS` mean the same.

    Only its own word is a target of each text. That the other gets weight is learned from pairs of texts, one with each
    word, that must find each other, while all weights cost something. A run that ends elsewhere is begun again.
    """
    words = [word for side in (0, 1) for word in (pair[side] for pair in SYNONYMS)]
    texts = tuple(frame.format(word) for frame in FRAMES for word in words)
    for seed in range(5):
        transformer = _masked_bert(folder / "raw", texts, spread=0.02, seed=seed)
        model = SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu")
        with _one_thread():
            worst = _learn_synonyms(model, words, seed)
        if worst > 1:
            break
    model.eval().save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _learn_synonyms(model: SparseEncoder, words: list[str], seed: int) -> float:
    """The least weight that any text of the last step gives to the word that is not in it."""
    optimizer, choose = torch.optim.AdamW(model.parameters(), lr=5e-3), random.Random(seed)
    own = torch.tensor(model.tokenizer.convert_tokens_to_ids(words))[:, None]
    other = own.roll(len(SYNONYMS), dims=0)
    model.train()
    for _ in range(300):
        texts = [choose.choice(FRAMES).format(word) for word in words]
        weights = model(model.preprocess(texts))["sentence_embedding"]
        left, right = weights.chunk(2)
        found = torch.nn.functional.cross_entropy(0.5 * left @ right.T, torch.arange(len(SYNONYMS)))
        loss = found + ((2 - weights.gather(1, own)) ** 2).mean()
        (loss + 0.15 * weights.sum(dim=1).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(weights.gather(1, other).min().detach())


def tiny_colbert(folder: Path, *, expansion: bool = True) -> Path:
    """ColBERT with random weights: 16 dimensions, prefix tokens, punctuation skipped, queries expanded to 16 tokens."""
    raw = _bert(folder / "raw", BertModel, tuple(CORPUS), 0.3, 0)
    settings: dict[str, Any] = {"query_expansion": {"strategy": "fixed", "length": 16}} if expansion else {}
    transformer = Transformer(str(raw), max_seq_length=64, document_length=48, **settings)
    to_tokens = {"module_input_name": "token_embeddings"}
    dense = Dense(SIZE["hidden_size"], 16, bias=False, activation_function=torch.nn.Identity(), **to_tokens)
    modules = [transformer, dense, MultiVectorMask(list(string.punctuation)), Normalize(**to_tokens)]
    prompts = {"query": "[Q] ", "document": "[D] "}
    model = MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def tiny_joint(folder: Path, *, late_dimensions: int = 8) -> Path:
    """A model of BGE-M3's shape with random weights: one folder of a transformer and two linear layers."""
    path = _bert(folder / "model", BertModel, tuple(CORPUS), 0.3, 0)
    for name, rows in (("sparse_linear", 1), ("colbert_linear", late_dimensions)):
        layer = torch.nn.Linear(SIZE["hidden_size"], rows)
        save_file({"weight": layer.weight.detach(), "bias": layer.bias.detach()}, path / f"{name}.safetensors")
    return path
