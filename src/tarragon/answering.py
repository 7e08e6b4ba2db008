"""From a question to hits that say whether they are still true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from tarragon import updating
from tarragon.errors import IndexLocked, InvalidInput
from tarragon.filters import Filter
from tarragon.freshness import FreshnessCheck
from tarragon.protocols import OpenVersion
from tarragon.recipe import SearchRecipe
from tarragon.searching import Found, build_request, embed_queries, search
from tarragon.session import Session
from tarragon.survey import state_of
from tarragon.types import FloatArray, Hit, OnStale


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how.

    Attributes:
        text: The question.
        k: Hits wanted at most.
        vector: Its embedding, where the caller has it.
        filter: On the documents' metadata.
        settings: How to search.
        on_stale: What to do with hits whose source has changed.
    """

    text: str
    k: int
    vector: FloatArray | None
    filter: Filter | None
    settings: SearchRecipe
    on_stale: OnStale


class Answers:
    """Answers questions from an open index.

    Args:
        session: The index.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._checks: dict[str, FreshnessCheck] = {}

    def answer(self, question: Question) -> list[Hit]:
        """See `tarragon.Index.search`."""
        self._session.is_asked = True
        with self._session.catalog.reading() as version:
            if version is None:
                return []
            _ = self._session.agreed(version.record)
            vector = self._vector(version, question)
            found = _find(version, question, vector, question.k)
            hits = self.judged(version, found)
            if question.on_stale == "refresh" and (stale := _stale_documents(found, hits)):
                with suppress(IndexLocked):  # another sync is running: what is stale is dropped below
                    self._refresh(version.record.name, stale)
                hits = self.judged(version, _find(version, question, vector, question.k))
            return hits if question.on_stale == "flag" else self._without_outdated(version, question, vector, hits)

    def _without_outdated(
        self, version: OpenVersion, question: Question, vector: FloatArray | None, hits: list[Hit]
    ) -> list[Hit]:
        """The best hits that are not outdated, from as deep as it takes."""
        wanted = question.k
        while True:
            kept = [hit for hit in hits if hit.freshness not in ("stale", "missing")]
            if len(kept) >= question.k or len(hits) < wanted:
                return kept[: question.k]
            wanted *= 2
            hits = self.judged(version, _find(version, question, vector, wanted))

    def _vector(self, version: OpenVersion, question: Question) -> FloatArray | None:
        if question.settings.mode == "lexical":
            return None
        if question.vector is not None:
            return _checked_vector(question.vector, version.record.contract.dimensions)
        row: FloatArray = embed_queries(self._session.trusted_encoder(version), [question.text], question.settings)[0]
        return row

    def judged(self, version: OpenVersion, found: Sequence[Found]) -> list[Hit]:
        """The hits, each with what its source says now; every document is looked at once."""
        check = self._check(version)
        records = {one.record.document_id: one.record for one in found}
        sources = {
            namespace: self._session.origins.source(version.ledger, namespace)
            for namespace in {record.namespace for record in records.values()}
        }
        fresh = {id_: check.judge(record, *sources[record.namespace]) for id_, record in records.items()}
        return [replace(one.hit, freshness=fresh[one.record.document_id]) for one in found]

    def _check(self, version: OpenVersion) -> FreshnessCheck:
        name = version.record.name
        if name not in self._checks:
            options = self._session.options(version.record.contract, "")
            self._checks[name] = FreshnessCheck(lambda document: state_of(document, options), options.contract)
        return self._checks[name]

    def _refresh(self, name: str, documents: Mapping[str, Iterable[str]]) -> None:
        with self._session.catalog.writing(self._session.patience()):
            updating.refresh(self._session, name, documents, lambda _: None)


def _find(version: OpenVersion, question: Question, vector: FloatArray | None, k: int) -> list[Found]:
    request = build_request(question.text, vector, k, question.filter, question.settings)
    return search(version, request, k, question.settings)


def _stale_documents(found: Sequence[Found], hits: Sequence[Hit]) -> dict[str, set[str]]:
    """By namespace, the documents whose source has changed."""
    stale: dict[str, set[str]] = {}
    for one, hit in zip(found, hits, strict=True):
        if hit.freshness == "stale":
            stale.setdefault(one.record.namespace, set()).add(hit.document_id)
    return stale


def _checked_vector(vector: FloatArray, dimensions: int) -> FloatArray:
    row = np.asarray(vector, dtype=np.float32)
    if row.shape != (dimensions,) or not np.isfinite(row).all():
        raise InvalidInput(f"a query vector has {dimensions} finite numbers here, not shape {row.shape}: {row!r:.80}")
    return row
