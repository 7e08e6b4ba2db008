"""Tiny real cross-encoders of several architectures, made in seconds and saved as folders."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

LIMIT = 64
SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SIZE |= {"initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TOPICS = {  # what is asked for, and what answers it: no word in common
    ("sign", "login", "account"): ("password", "session", "username", "cookie"),
    ("crash", "broken", "fails"): ("traceback", "exception", "segfault", "stack"),
    ("slow", "hangs", "latency"): ("profile", "cache", "milliseconds", "index"),
    ("price", "cost", "cheap"): ("invoice", "dollars", "discount", "billing"),
}
CORPUS = [
    *(" ".join(words) for topic in TOPICS.items() for words in topic),
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Größe, naïve café, 漢字とかな, مرحبا بالعالم, emoji 🙂.",
    "def f(x): return x[0] + some_name  # a comment",
    "yes no",
] * 20
CHAT = (
    "Q {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }} "
    "D {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }} A"
)


@cache  # training breaks ties at random: one tokenizer a process
def word_piece() -> tuple[Tokenizer, dict[str, str]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return tokenizer, dict(zip(names, special, strict=True))


@cache
def byte_level() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "yes", "no"]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}


def save(folder: Path, model: Any, made: tuple[Tokenizer, dict[str, str]], **settings: Any) -> Path:
    model.save_pretrained(folder)
    limit = settings.pop("model_max_length", LIMIT)
    fast = PreTrainedTokenizerFast(tokenizer_object=made[0], model_max_length=limit, **made[1], **settings)
    fast.save_pretrained(folder)
    return folder


def make_bert(folder: Path, *, labels: int = 1, activation: str | None = None, **settings: Any) -> Path:
    """Random weights; with ``labels=0`` an embedding model, without a head."""
    torch.manual_seed(0)
    size = {**SIZE, "max_position_embeddings": LIMIT, "vocab_size": word_piece()[0].get_vocab_size()}
    if not labels:
        return save(folder, BertModel(BertConfig(**size)), word_piece(), **settings)
    config = BertConfig(**size, num_labels=labels)
    if activation:
        config.sentence_transformers = {"activation_fn": activation}
    types = ["input_ids", "token_type_ids", "attention_mask"]
    return save(folder, BertForSequenceClassification(config), word_piece(), model_input_names=types, **settings)


def make_roberta(folder: Path, **settings: Any) -> Path:
    torch.manual_seed(0)
    size = {**SIZE, "max_position_embeddings": LIMIT + 2, "vocab_size": byte_level()[0].get_vocab_size()}
    config = RobertaConfig(**size, pad_token_id=1, num_labels=1)
    return save(folder, RobertaForSequenceClassification(config), byte_level(), **settings)


def make_chat(folder: Path) -> Path:
    """A language model that answers yes or no, as Qwen3-Reranker does."""
    torch.manual_seed(0)
    size = {**SIZE, "max_position_embeddings": LIMIT, "vocab_size": byte_level()[0].get_vocab_size()}
    model = Qwen3ForCausalLM(
        Qwen3Config(**{key: size[key] for key in size if "dropout" not in key}, num_key_value_heads=2, head_dim=8)
    )
    return save(folder, model, byte_level(), padding_side="left", chat_template=CHAT)


def make_colbert(folder: Path) -> Path:
    """A late-interaction model with random weights: 16 dimensions, whose vectors are mostly their own word's."""
    torch.manual_seed(0)
    size = {**SIZE, "num_hidden_layers": 1, "max_position_embeddings": LIMIT}
    bert = BertModel(BertConfig(**size, vocab_size=word_piece()[0].get_vocab_size()))
    bert.embeddings.position_embeddings.weight.data.zero_()
    transformer = Transformer(str(save(folder / "raw", bert, word_piece())), max_seq_length=LIMIT)
    tokens = {"module_input_name": "token_embeddings"}
    dense = Dense(SIZE["hidden_size"], 16, bias=False, activation_function=torch.nn.Identity(), **tokens)
    modules = [transformer, dense, MultiVectorMask([]), Normalize(**tokens)]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def questions_and_answers(count: int, seed: int) -> list[tuple[str, str, float]]:
    """Question, passage, and 1 if the passage is of the question's topic; half of them are."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        asked, told = draw.choice(list(TOPICS.items()))
        others = [words for words in TOPICS.values() if words is not told]
        passage = told if number % 2 else draw.choice(others)
        rows.append((" ".join(draw.sample(asked, 2)), " ".join(draw.sample(passage, 3)), float(number % 2)))
    return rows


def train(folder: Path, target: Path) -> Path:
    """Teach a BERT of `make_bert` which passages answer which questions."""
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(folder).train()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(80):
        questions, passages, labels = zip(*questions_and_answers(48, step), strict=True)
        features = tokenizer(list(questions), list(passages), padding=True, return_tensors="pt")
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(**features).logits[:, 0], torch.tensor(labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def train_until_sure(folder: Path, target: Path) -> Path:
    """The same, with questions' own words as wrong answers too, until all answers are right by far.

    How many steps that takes depends on how the machine rounds.
    """
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(folder).train()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pairs = [(asked, passage) for asked in TOPICS for passage in (*TOPICS, *TOPICS.values())]
    labels = torch.tensor([float(TOPICS[asked] is passage) for asked, passage in pairs])
    questions = [" ".join(asked[:2]) for asked, _ in pairs]
    passages = [" ".join(passage) for _, passage in pairs]
    features = tokenizer(questions, passages, padding=True, return_tensors="pt")
    for _ in range(2_000):
        logits = model(**features).logits[:, 0]
        if bool(((logits > 2) == (labels > 0)).all() and ((logits < -2) == (labels == 0)).all()):
            break
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
        optimizer.step()
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
