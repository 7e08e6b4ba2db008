"""Documents, and a retriever over them with an encoder without a model."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from llama_documents import BACKUP, EXAMPLES, KEYS, WALLS
from llama_index.core import Document, Settings
from llama_index.retrievers.tarragon import TarragonRetriever
from reading_llm import ReadingLLM

from tarragon.testing import WordEncoder

sys.path.insert(0, str(EXAMPLES))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
_CORE = find_spec("llama_index.core")
assert _CORE is not None
assert _CORE.origin is not None
# core 0.13 ships the data of its sentence splitter and downloads them all the same
os.environ.setdefault("NLTK_DATA", str(Path(_CORE.origin).parent / "_static" / "nltk_cache"))


OF_LLAMA_INDEX = (
    "ignore:<aiosqlite:ResourceWarning",
    "ignore:Exception ignored in. <function Connection:pytest.PytestUnraisableExceptionWarning",
    "ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning",
)
"""Its chat memories are databases that nobody closes, and whose threads outlive their event loop: whenever they are
collected, in whatever test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let LlamaIndex's own warnings pass in the tests beside this file."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for warning in OF_LLAMA_INDEX:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture
def documents() -> list[Document]:
    return [
        Document(
            text=KEYS,
            id_="keys.md",
            metadata={"team": "security", "year": 2024, "tags": ["a", "b"]},
            excluded_embed_metadata_keys=["year", "tags"],
            excluded_llm_metadata_keys=["tags"],
            metadata_template="{key} = {value}",
            text_template="[{metadata_str}]\n{content}",
        ),
        Document(text=BACKUP, id_="backup", metadata={"team": "storage", "year": 2025}),
        Document(text=WALLS, id_="walls", metadata={}),
    ]


@pytest.fixture
def retriever(tmp_path: Path, documents: list[Document]) -> Iterator[TarragonRetriever]:
    path = tmp_path / "handbook.tarragon"
    with TarragonRetriever.from_documents(documents, path, encoder=WordEncoder(), similarity_top_k=3) as opened:
        yield opened


@pytest.fixture
def llm() -> Iterator[ReadingLLM]:
    """As LlamaIndex's own default too, so that nothing reaches for a model elsewhere."""
    reading = ReadingLLM()
    before = Settings._llm
    Settings.llm = reading
    yield reading
    Settings._llm = before


@pytest.fixture(scope="module")
def _nothing_left() -> Iterator[None]:
    """Chat memories of LlamaIndex end with the module, in which warnings about them are expected."""
    yield
    gc.collect()
