"""From a question to hits that say whether they are still true."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Semaphore

from tarragon import updating
from tarragon.asking import Asked, Asker
from tarragon.contract import VersionRecord
from tarragon.errors import IndexLocked, StorageProblem
from tarragon.filters import Filter
from tarragon.freshness import FreshnessCheck
from tarragon.protocols import DocumentRecord, OpenVersion
from tarragon.receipts import Hits, Stage
from tarragon.recipe import Mode, SearchRecipe
from tarragon.reranking import Step
from tarragon.searching import Found, search
from tarragon.session import Session
from tarragon.sides import FEWEST
from tarragon.survey import state_of
from tarragon.tracing import Trace
from tarragon.types import DenseQuery, FloatArray, Freshness, Hit, OnStale


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how.

    Attributes:
        text: The question.
        k: Hits wanted at most.
        vector: Its embedding, where the caller has it, or what the dense leg is asked instead of the text.
        filter: On the documents' metadata.
        settings: How to search; None: as the version was tuned.
        mode: Takes precedence over the settings'; None: theirs.
        on_stale: What to do with hits whose source has changed.
    """

    text: str
    k: int
    vector: FloatArray | DenseQuery | None
    filter: Filter | None
    settings: SearchRecipe | None
    mode: Mode | None
    on_stale: OnStale


def settings_of(question: Question, record: VersionRecord) -> SearchRecipe:
    """How to search: as the question says, else as the version was tuned, else by default."""
    settings = question.settings or record.search_recipe()
    return settings if question.mode is None else replace(settings, mode=question.mode)


class Answers:
    """Answers questions from an open index.

    Args:
        session: The index.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._checks: dict[str, FreshnessCheck] = {}
        self.asker = Asker(session)
        self._turns: dict[int, Semaphore] = {}

    def answer(self, questions: Sequence[Question]) -> list[Hits]:
        """See `tarragon.Index.search`. The questions are put in the same way, their text, vector and k aside; models
        run once for all of them.
        """  # noqa: D205
        self._session.is_asked = True
        with self._session.catalog.reading() as version:
            if version is None or not questions:
                return [Hits() for _ in questions]
            _ = self._session.agreed(version.record)
            settings = settings_of(questions[0], version.record)
            steps = self._session.rerankers.steps(settings.rerankers)
            clock = Trace()
            with clock.stage("embed") as said:
                texts, vectors = [one.text for one in questions], [one.vector for one in questions]
                asked = self.asker.ask(version, texts, settings, vectors)
                said.append(len(asked))
            turn = self._turns.setdefault(version.store.parallel, Semaphore(version.store.parallel))
            runs = (_Run(version, one, put, settings, steps, turn) for one, put in zip(questions, asked, strict=True))
            return [self._answer(run, clock.stages[0]) for run in runs]

    def _answer(self, run: _Run, embedding: Stage) -> Hits:
        question = run.question
        begun = time.perf_counter() - embedding.seconds
        found, hits, trace = self._once(run, question.k, embedding, begun)
        if question.on_stale == "refresh" and (stale := _stale_documents(found, hits)):
            with suppress(IndexLocked):  # another sync is running: what is stale is dropped below
                self._refresh(run.version.record.name, stale)
            found, hits, trace = self._once(run, question.k, embedding, begun)
        if question.on_stale != "flag":
            wanted = question.k
            while len(kept := _still_true(hits)) < question.k and len(hits) >= wanted:
                wanted *= 2  # from as deep as it takes
                found, hits, trace = self._once(run, wanted, embedding, begun)
            hits = kept[: question.k]
        return Hits(hits, trace.receipt(), trace.explain, trace.rankings)

    def _once(self, run: _Run, k: int, embedding: Stage, begun: float) -> tuple[list[Found], list[Hit], Trace]:
        """Search and judge; the trace is of this search alone."""
        trace = run.trace(embedding, begun)
        found = run.find(k, trace)
        with trace.stage("freshness") as said:
            hits = self.judged(run.version, found)
            said.append(len(hits))
        return found, hits, trace

    def judged(self, version: OpenVersion, found: Sequence[Found]) -> list[Hit]:
        """The hits, each with what its source says now; every document is looked at once."""
        check = self._check(version)
        of_namespace: dict[str, dict[str, DocumentRecord]] = {}
        for one in found:
            of_namespace.setdefault(one.record.namespace, {})[one.record.document_id] = one.record
        fresh: dict[str, Freshness] = {}
        for namespace, records in of_namespace.items():
            source, whole = self._session.origins.source(version.ledger, namespace)
            fresh |= zip(records, check.judge_all(list(records.values()), source, whole), strict=True)
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


@dataclass(frozen=True, slots=True)
class _Run:
    """A question that is being answered."""

    version: OpenVersion
    question: Question
    asked: Asked
    settings: SearchRecipe
    steps: Sequence[Step]
    turn: Semaphore

    def trace(self, embedding: Stage, begun: float) -> Trace:
        trace = Trace(begun)
        trace.stages.append(embedding)
        trace.version = self.version.record.name
        trace.spaces = dict(self.asked.spaces)
        trace.truncated = self.asked.truncated
        return trace

    def find(self, k: int, trace: Trace) -> list[Found]:
        question, asked, settings = self.question, self.asked, self.settings
        request = asked.request(k, question.filter, settings)
        if settings.min_score is not None and request.dense is not None and asked.spread is None:
            trace.degraded.append(
                f"min_score: the index has no statistics, which {FEWEST} chunks make, and scores only compare the "
                "candidates with one another: it can pass what is not relevant, and drop what says it in other words"
            )
        find = partial(
            search,
            self.version,
            k=k,
            recipe=settings,
            query=question.text,
            spread=asked.spread,
            steps=self.steps,
            trace=trace,
            turn=self.turn,
        )
        try:
            return find(request)
        except StorageProblem:
            if request.dense is None or request.dense.first is None:
                raise
            trace.degraded.append("first pass: its space is gone, since the index was tuned meanwhile")
            return find(replace(request, dense=replace(request.dense, first=None)))


def _still_true(hits: Sequence[Hit]) -> list[Hit]:
    return [hit for hit in hits if hit.freshness not in ("stale", "missing")]


def _stale_documents(found: Sequence[Found], hits: Sequence[Hit]) -> dict[str, set[str]]:
    """By namespace, the documents whose source has changed."""
    stale: dict[str, set[str]] = {}
    for one, hit in zip(found, hits, strict=True):
        if hit.freshness == "stale":
            stale.setdefault(one.record.namespace, set()).add(hit.document_id)
    return stale
