"""Lets ``mteb`` run its retrieval and reranking tasks through the whole of Tarragon.

    import mteb
    from tarragon.evaluation.mteb_adapter import TarragonSearch

    with TarragonSearch() as model:
        mteb.evaluate(model, mteb.get_task("SciFact"))

It is a ``SearchProtocol`` of mteb 2.26: mteb gives it corpus and queries, and scores what it finds. mteb sorts by score
once more, in single precision and ties in its own way; so the scores that it is given are places from the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tarragon
from tarragon.errors import InvalidInput, MissingDependency
from tarragon.evaluation.running import collapse, ranked, recipe_dict
from tarragon.identity import canonical_json, digest
from tarragon.index import Index
from tarragon.protocols import DenseEncoder
from tarragon.recipe import IndexRecipe, SearchRecipe
from tarragon.types import Document, Hit

KEY = "mteb_id"
"""Of the metadata, by which the candidates of a reranking task are told."""

PART = 256
"""Queries that are asked together; their hits carry texts."""


class TarragonSearch:
    """An index and a way to search it, as mteb wants it; close it after use.

    Args:
        recipe: Of the indexes. By default each document is one text, title first, as published scores are measured.
        search: How to search. None: the default. Its depth is raised to what mteb asks for, 1,000 documents.
        encoder: Instead of the recipe's model.
        device: Where the model runs.
        folder: Where the indexes are kept, one a task; what is there already is not embedded again. None: in a
            temporary folder, until `close`.
        name: Under which mteb keeps the results. None: of the recipe's model.
    """

    def __init__(
        self,
        recipe: IndexRecipe | None = None,
        search: SearchRecipe | None = None,
        *,
        encoder: DenseEncoder | None = None,
        device: str | None = None,
        folder: str | Path | None = None,
        name: str | None = None,
    ) -> None:
        self.recipe = recipe or IndexRecipe(chunking="whole")
        self.search_recipe = search or SearchRecipe()
        self._encoder = encoder
        self._device = device
        self._temporary = tempfile.TemporaryDirectory(prefix="tarragon-mteb-") if folder is None else None
        self._folder = Path(self._temporary.name if self._temporary else str(folder))
        model = encoder.name if encoder is not None else self.recipe.model or "all-MiniLM-L6-v2"
        self.name = name or f"tarragon/{model.replace('/', '--')}"
        self._index: Index | None = None

    # --- mteb's SearchProtocol ----------------------------------------------------------------------------------------
    def index(
        self, corpus: Iterable[Mapping[str, Any]], *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> None:
        """Make the index of a task hold its corpus: rows of ``id``, ``text`` and perhaps ``title``.

        Raises:
            InvalidInput: A row has no text.
        """
        if self._index is not None:
            self._index.close()
        names = [str(task_metadata.name), hf_subset, hf_split, self.revision[:12]]
        path = self._folder / f"{'-'.join(part.replace('/', '_') for part in names)}.tarragon"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._index = Index.open(path, recipe=self.recipe, encoder=self._encoder, device=self._device)
        self._index.sync(map(_document, corpus))

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Query id → document id → how many places from the end it stands.

        Args:
            queries: Rows of ``id``, ``text`` and perhaps ``instruction``, which is put behind the text as mteb does.
            top_k: Most documents of each.
            top_ranked: Query id → the documents that are to be ranked. None: all.

        Raises:
            InvalidInput: Nothing has been indexed, or a row has no text.
        """
        if self._index is None:
            raise InvalidInput("search() needs an index: call index() before it, as mteb does")
        asked = [(str(row["id"]), _query(row)) for row in queries]
        if top_ranked is not None:
            return {id_: self._ranked_among(text, list(top_ranked.get(id_, ())), top_k) for id_, text in asked}
        recipe = replace(self.search_recipe, depth=max(self.search_recipe.depth, top_k))
        found: dict[str, dict[str, float]] = {}
        for start in range(0, len(asked), PART):
            part = asked[start : start + PART]
            answers = self._index.search_batch([text for _, text in part], top_k, recipe=recipe)
            found |= {id_: _places(_ids(hits)) for (id_, _), hits in zip(part, answers, strict=True)}
        return found

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb files the results under: the name, and a revision that stands for every setting.

        Raises:
            MissingDependency: mteb is not installed.
        """
        try:
            from mteb.models import ModelMeta
        except ImportError as error:
            raise MissingDependency("benchmarks need mteb: pip install 'tarragon[mteb]'") from error
        return ModelMeta.create_empty({"name": self.name, "revision": self.revision})

    # --- the rest -----------------------------------------------------------------------------------------------------
    @property
    def revision(self) -> str:
        """Of version, recipes and encoder: other settings are never taken for these."""
        identity = dict(self._encoder.identity) if self._encoder is not None else {}
        settings = [tarragon.__version__, self.recipe.to_dict(), recipe_dict(self.search_recipe), identity]
        return digest("mteb", canonical_json(settings)).hex()

    def _ranked_among(self, text: str, candidates: Sequence[str], top_k: int) -> dict[str, float]:
        """Candidates in order; those that no leg finds behind them, in theirs."""
        assert self._index is not None
        if not candidates:
            return {}
        depth = max(self.search_recipe.depth, len(candidates))
        condition = {KEY: {"$in": list(candidates)}}
        hits = self._index.search(
            text, len(candidates), recipe=replace(self.search_recipe, depth=depth), filter=condition
        )
        return _places(list(dict.fromkeys([*_ids(hits), *candidates]))[:top_k])

    def close(self) -> None:
        """Close the index, and delete it if it is in a temporary folder."""
        if self._index is not None:
            self._index.close()
            self._index = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> TarragonSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _document(row: Mapping[str, Any]) -> Document:
    title = row.get("title") or ""
    return Document(str(row["id"]), f"{title} {_text(row)}".strip(), {KEY: str(row["id"])}, format="text")


def _query(row: Mapping[str, Any]) -> str:
    instruction = row.get("instruction")
    return f"{_text(row)} {instruction}" if instruction else _text(row)


def _text(row: Mapping[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise InvalidInput(
            f"row {row.get('id')!r} has no text but {type(text).__name__}; only tasks of texts can be run"
        )
    return text


def _ids(hits: Iterable[Hit]) -> Iterator[str]:
    return (place.document_id for place in collapse(map(ranked, hits)))


def _places(ids: Iterable[str]) -> dict[str, float]:
    order = list(ids)
    return {id_: float(len(order) - place) for place, id_ in enumerate(order)}
