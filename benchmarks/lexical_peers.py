"""Search by words, ours and the peers', behind one small interface. Rows are places in the list of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np

from tarragon.fusion import ranking
from tarragon.protocols import LexicalLeg, SearchRequest, StoredChunk
from tarragon.requests import candidates
from tarragon.store.edge import EdgeStore

Ranked = list[tuple[int, float]]

BATCH = 500
_NO_VECTOR = np.array([1.0, 0.0], dtype=np.float32)


class Lexical(Protocol):
    """An index of texts by their words."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def is_incremental(self) -> bool:
        """Whether rows stay what they are in `replace`, and new ones follow them; else they are counted anew."""
        ...

    def build(self, texts: Sequence[str]) -> None:
        """Index these texts, and nothing else."""
        ...

    def search(self, query: str, k: int) -> Ranked:
        """The ``k`` best rows with their scores, best first; what scores 0 may be left out."""
        ...

    def replace(self, texts: Sequence[str], added: Sequence[str], removed: Sequence[int]) -> None:
        """Add texts, as the next rows, and remove rows.

        Args:
            texts: All that are left and new, in order, for those that must begin anew.
            added: The new ones.
            removed: Rows so far that go.
        """
        ...


class Ours:
    """The lexical leg of the embedded store, as a search uses it; each vector has two numbers.

    Args:
        folder: Where its shards go.
    """

    name = "Tarragon, lexical leg"
    is_incremental = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built = 0
        self._rows = 0
        self.store: EdgeStore | None = None

    def build(self, texts: Sequence[str]) -> None:
        """See `Lexical`. Flushed and optimized."""
        self.close()
        path = self._folder / f"{self._built}.shard"
        self._built, self._rows = self._built + 1, 0
        self.store = EdgeStore(path, space="none", dimensions=len(_NO_VECTOR), language="english")
        self._add(texts)
        self.store.flush()
        self.store.optimize()

    def search(self, query: str, k: int) -> Ranked:
        """See `Lexical`."""
        assert self.store is not None
        legs = candidates(self.store, SearchRequest(lexical=LexicalLeg(query, k)))
        return [(id_.int, score) for id_, score in ranking(legs.lexical or {})[:k]]

    def replace(self, texts: Sequence[str], added: Sequence[str], removed: Sequence[int]) -> None:
        """See `Lexical`."""
        assert self.store is not None
        self._add(added)
        self.store.delete([UUID(int=row) for row in removed])

    def _add(self, texts: Sequence[str]) -> None:
        assert self.store is not None
        for start in range(0, len(texts), BATCH):
            self.store.upsert(
                [
                    StoredChunk(UUID(int=self._rows + number), _NO_VECTOR, {"content": text})
                    for number, text in enumerate(texts[start : start + BATCH])
                ]
            )
            self._rows += len(texts[start : start + BATCH])

    def close(self) -> None:
        """Release the files."""
        if self.store is not None:
            self.store.close()


class Bm25s:
    """bm25s with its own tokenizer and a stemmer, at its default settings.

    Args:
        backend: ``numpy`` or ``numba``.
    """

    is_incremental = False

    def __init__(self, backend: str) -> None:
        self.name = f"bm25s, {backend}"
        self._backend = backend
        self.retriever: Any = None
        self.tokenizer: Any = None
        self.tokens: Any = None

    def build(self, texts: Sequence[str]) -> None:
        """See `Lexical`."""
        import bm25s
        import Stemmer
        from bm25s.tokenization import Tokenizer

        self.tokenizer = Tokenizer(stemmer=Stemmer.Stemmer("english"), stopwords="en")
        tokens = self.tokenizer.tokenize(list(texts), update_vocab=True, show_progress=False, return_as="tuple")
        self.tokens = tokens.ids
        self.retriever = bm25s.BM25(backend=self._backend)
        self.retriever.index(tokens, show_progress=False)

    def search(self, query: str, k: int) -> Ranked:
        """See `Lexical`."""
        tokens = self.tokenizer.tokenize([query], update_vocab=False, show_progress=False)
        found = self.retriever.retrieve(tokens, k=k, show_progress=False)
        return list(zip(found.documents[0].tolist(), found.scores[0].tolist(), strict=True))

    def replace(self, texts: Sequence[str], added: Sequence[str], removed: Sequence[int]) -> None:
        """See `Lexical`. It cannot add or remove, so everything is built again."""
        self.build(texts)


class RankBm25:
    """rank_bm25's ``BM25Okapi`` on words in lower case."""

    name = "rank_bm25"
    is_incremental = False

    def __init__(self) -> None:
        self._bm25: Any = None

    def build(self, texts: Sequence[str]) -> None:
        """See `Lexical`."""
        from rank_bm25 import BM25Okapi

        self._bm25 = BM25Okapi([text.lower().split() for text in texts])

    def search(self, query: str, k: int) -> Ranked:
        """See `Lexical`."""
        scores = self._bm25.get_scores(query.lower().split())
        best = np.argpartition(-scores, min(k, len(scores)) - 1)[:k]
        return sorted(zip(best.tolist(), scores[best].tolist(), strict=True), key=lambda one: (-one[1], one[0]))

    def replace(self, texts: Sequence[str], added: Sequence[str], removed: Sequence[int]) -> None:
        """See `Lexical`. It cannot add or remove, so everything is built again."""
        self.build(texts)


class Tantivy:
    """tantivy-py with its English stemmer, on disk; words are joined by or, as its query parser does.

    Args:
        folder: Where its indexes go.
    """

    name = "tantivy"
    is_incremental = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built = 0
        self._rows = 0
        self._index: Any = None
        self._searcher: Any = None

    def build(self, texts: Sequence[str]) -> None:
        """See `Lexical`."""
        import tantivy

        path = self._folder / f"{self._built}.tantivy"
        path.mkdir()
        self._built, self._rows = self._built + 1, 0
        schema = tantivy.SchemaBuilder()
        schema.add_unsigned_field("row", fast=True, indexed=True)
        schema.add_text_field("text", tokenizer_name="en_stem")
        self._index = tantivy.Index(schema.build(), path=str(path))
        self._write(texts, ())

    def search(self, query: str, k: int) -> Ranked:
        """See `Lexical`."""
        parsed, _ = self._index.parse_query_lenient(query, ["text"])
        hits = self._searcher.search(parsed, k, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return [(row, score) for row, (score, _) in zip(rows, hits, strict=True)]

    def replace(self, texts: Sequence[str], added: Sequence[str], removed: Sequence[int]) -> None:
        """See `Lexical`."""
        self._write(added, removed)

    def _write(self, added: Sequence[str], removed: Sequence[int]) -> None:
        from tantivy import Document

        writer = self._index.writer(heap_size=256 << 20)
        for row in removed:
            writer.delete_documents("row", row)
        for number, text in enumerate(added):
            document = Document()
            document.add_unsigned("row", self._rows + number)
            document.add_text("text", text)
            writer.add_document(document)
        self._rows += len(added)
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()


def sides(folder: Path, names: Sequence[str]) -> list[Lexical]:
    """Ours, and the peers of these names: ``bm25s``, ``numba`` (bm25s with it), ``rank_bm25``, ``tantivy``."""
    makers: dict[str, Callable[[], Lexical]] = {
        "bm25s": lambda: Bm25s("numpy"),
        "numba": lambda: Bm25s("numba"),
        "rank_bm25": RankBm25,
        "tantivy": lambda: Tantivy(folder),
    }
    return [Ours(folder), *(makers[name]() for name in names)]
