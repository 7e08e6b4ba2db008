"""Who wants to know of the models' part in a search, while it happens: tracing tools, by way of an integration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from tarragon.protocols import RerankScores
from tarragon.queries import QueryVector
from tarragon.types import FloatArray, SparseVector

V = TypeVar("V", bound="FloatArray | SparseVector")


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """A passage that a reranker reads, with its score so far."""

    id: UUID
    text: str
    score: float


class Observer(Protocol):
    """Stands around each run of a model for a search, in the thread in which it happens.

    Each method returns what ``run()`` gives, which it calls once, and lets its errors pass.
    """

    def embedding(
        self, space: str, model: str, texts: Sequence[str], run: Callable[[], Sequence[QueryVector[V]]]
    ) -> Sequence[QueryVector[V]]:
        """Texts of a question are embedded, or their vectors taken from the cache.

        Args:
            space: ``dense``, ``sparse`` or ``late``.
            model: Its name.
            texts: What is embedded.
            run: Gives a vector for each.
        """
        ...

    def reranking(
        self, model: str, query: str, passages: Sequence[RankedPassage], run: Callable[[], RerankScores]
    ) -> RerankScores:
        """Passages are scored again.

        Args:
            model: Its name.
            query: The question.
            passages: Best first.
            run: Gives a score for each.
        """
        ...


_observer: ContextVar[Observer | None] = ContextVar("tarragon observer", default=None)


@contextmanager
def observed_by(observer: Observer) -> Iterator[None]:
    """Let this observer stand around what is searched in the block, in this thread or task."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def is_observed() -> bool:
    """Whether somebody stands around the searches of this thread or task."""
    return _observer.get() is not None


def embedding(
    space: str, model: str, texts: Sequence[str], run: Callable[[], Sequence[QueryVector[V]]]
) -> Sequence[QueryVector[V]]:
    """A run of an encoder, observed if somebody wants to: see `Observer`."""
    observer = _observer.get()
    return run() if observer is None else observer.embedding(space, model, texts, run)


def reranking(
    model: str, query: str, passages: Sequence[RankedPassage], run: Callable[[], RerankScores]
) -> RerankScores:
    """A run of a reranker, observed if somebody wants to: see `Observer`."""
    observer = _observer.get()
    return run() if observer is None else observer.reranking(model, query, passages, run)
