from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tarragon.chunking import Chunker
from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.tokens import FastTokenizer
from tarragon.types import Document

CORPUS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Rotate the signing key before it expires; then revoke the old one.",
    "Größe, naïve café, 漢字とかな, emoji 🙂.",
] * 30
TEXTS = [
    "",
    " ",
    "The fox, again.",
    "  two  spaces\tand\na line\r\n",
    "Größe e\u0301 漢字とかな 🙂 한국어 العربية",
    "[SEP] [MASK]<s>",
    "x" * 300,
    "word " * 1000,
]


def bert() -> Tokenizer:
    """The bundled model's, which truncates at 128 tokens and pads."""
    return Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json"))


@cache  # training breaks ties at random: one tokenizer a process
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s> </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@cache
def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


@cache
def without_special_tokens() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "fox": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


KINDS = [bert, byte_level, unigram, without_special_tokens]
Make = Callable[[], Tokenizer]


@pytest.mark.parametrize(
    ("make", "prefix", "suffix"),
    [
        (bert, ["[CLS]"], ["[SEP]"]),
        (byte_level, ["<s>"], ["</s>", "</s>"]),
        (unigram, [], ["</s>"]),
        (without_special_tokens, [], []),
    ],
)
def test_special_tokens(make: Make, prefix: list[str], suffix: list[str]) -> None:
    original = make()
    tokenizer = FastTokenizer(original)
    assert tokenizer.prefix == [original.token_to_id(token) for token in prefix]
    assert tokenizer.suffix == [original.token_to_id(token) for token in suffix]


@pytest.mark.parametrize("make", KINDS)
def test_ids_are_the_originals(make: Make) -> None:
    original = make()
    found = FastTokenizer(original).tokenize(TEXTS)
    original.no_truncation()
    original.no_padding()
    for text, ids in zip(TEXTS, found, strict=True):
        assert ids.dtype == np.int32
        assert ids.ndim == 1
        assert ids.tolist() == original.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("make", KINDS)
def test_with_special_tokens_around_them_they_are_what_the_model_gets(make: Make) -> None:
    original = make()
    tokenizer = FastTokenizer(original)
    (ids,) = tokenizer.tokenize(["The fox, again."])
    original.no_padding()
    assert [*tokenizer.prefix, *ids.tolist(), *tokenizer.suffix] == original.encode("The fox, again.").ids


def test_no_texts() -> None:
    assert FastTokenizer(bert()).tokenize([]) == []


def test_the_original_keeps_its_settings() -> None:
    original = bert()
    original.enable_truncation(8)
    original.enable_padding(length=8)
    before = original.to_str()
    tokenizer = FastTokenizer(original)
    assert len(tokenizer.tokenize(["word " * 100])[0]) == 100
    assert original.to_str() == before
    assert len(original.encode("word " * 100).ids) == 8


def test_later_changes_of_the_original_do_not_matter() -> None:
    original = bert()
    tokenizer = FastTokenizer(original)
    original.enable_truncation(8)
    assert len(tokenizer.tokenize(["word " * 100])[0]) == 100


def test_definition_does_not_depend_on_truncation_and_padding() -> None:
    other = bert()
    other.enable_truncation(8)
    other.no_padding()
    assert FastTokenizer(other).definition == FastTokenizer(bert()).definition
    assert FastTokenizer(byte_level()).definition != FastTokenizer(unigram()).definition


@pytest.mark.parametrize(
    ("make", "expected"), [(bert, True), (byte_level, False), (unigram, False), (without_special_tokens, False)]
)
def test_sliceable(make: Make, expected: bool) -> None:
    assert FastTokenizer(make()).sliceable is expected


@pytest.mark.parametrize("make", [byte_level, unigram])
def test_what_is_not_sliceable_is_not(make: Make) -> None:
    """The reason for the flag: ids of joined words are other ids than the words' own."""
    tokenizer = FastTokenizer(make())
    joined, first, second = tokenizer.tokenize(["quick\nfox", "quick", "fox"])
    assert joined.tolist() != [*first.tolist(), *second.tolist()]


def test_a_changed_part_is_not_taken_for_berts() -> None:
    for part, other in (
        ("pre_tokenizer", pre_tokenizers.Whitespace()),
        ("normalizer", normalizers.NFC()),
        ("model", models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")),
    ):
        tokenizer = bert()
        setattr(tokenizer, part, other)
        assert not FastTokenizer(tokenizer).sliceable


@pytest.mark.parametrize("make", [byte_level, unigram])
def test_chunks_without_ids_where_they_cannot_be_cut(make: Make) -> None:
    text = "# Fox\n\n" + " ".join(CORPUS[:12]) + "\n\n" + "🙂" * 100 + "\n\n" + "漢字" * 50
    (chunks,) = Chunker(FastTokenizer(make()), 32).chunk([(Document("d", text), "markdown")])
    assert len(chunks) > 5
    assert all(chunk.token_ids is None for chunk in chunks)
    assert all(0 < chunk.tokens <= 32 for chunk in chunks)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
