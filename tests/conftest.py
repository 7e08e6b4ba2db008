"""Fixtures shared by all tests. The model is loaded once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from tarragon import Index
from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.tokens import FastTokenizer
from tarragon.protocols import DenseEncoder
from tarragon.testing import WordEncoder

HANDBOOK = {
    "keys.md": """# Signing keys

Every release is signed.

## Rotate the signing key

Run `keyctl rotate --stage` first. The old key stays valid for one hour, then the new key signs alone.

## Revoke a key

Revoke a leaked key at once with `keyctl revoke`. Clients refuse it within five minutes.
""",
    "backup.md": """# Backups

The database is copied every night to cold storage.

## Restore

Stop the writers, then run `restore --from cold`. It takes about an hour for each terabyte.
""",
    "guide/oncall.txt": "The engineer on call answers pages within ten minutes.\n\nHand over at noon.\n",
}


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


def write(path: Path, text: str | bytes) -> Path:
    """Write a file and set its modification time an hour back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    earlier = path.stat().st_mtime - 3600
    os.utime(path, (earlier, earlier))
    return path
