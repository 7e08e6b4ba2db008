"""Fixtures shared by all tests. The model is loaded once a session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from handbook import HANDBOOK, write

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from tarragon import Index
from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.tokens import FastTokenizer
from tarragon.protocols import DenseEncoder
from tarragon.testing import WordEncoder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where the tests are a shell's background job, which ignores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="session")
def tokenizer() -> FastTokenizer:
    """The bundled model's tokenizer, without the model."""
    from tokenizers import Tokenizer

    return FastTokenizer(Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json")))


@pytest.fixture(scope="session")
def encoder() -> DenseEncoder:
    """The bundled model on the CPU."""
    from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder

    return SentenceTransformerEncoder(device="cpu")


@pytest.fixture
def words() -> WordEncoder:
    """An encoder without a model."""
    return WordEncoder()


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    """A small documentation folder, old enough for its time stamps to be trusted."""
    folder = tmp_path / "handbook"
    for name, text in HANDBOOK.items():
        write(folder / name, text)
    return folder


@pytest.fixture
def index(tmp_path: Path, words: WordEncoder) -> Iterator[Index]:
    """An empty index with an encoder without a model."""
    with Index.open(tmp_path / "test.tarragon", encoder=words) as opened:
        yield opened
