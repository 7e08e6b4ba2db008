"""`Retriever`: questions to an index with settings that stay, in a scope, from threads and from an event loop."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from tarragon.around import Passage
from tarragon.desk import Desk, Waiting, Way
from tarragon.errors import InvalidInput
from tarragon.explaining import WhyNot
from tarragon.index import Index
from tarragon.observing import is_observed
from tarragon.receipts import Hits
from tarragon.recipe import SearchRecipe
from tarragon.types import DenseQuery, FloatArray, Hit, OnStale

T = TypeVar("T")


class Scope:
    """What questions are confined to: a filter that applies to every leg, and to explanations.

    Args:
        filters: Conditions on the documents' metadata, all of which hold.
        keys: Of the metadata that the conditions fix to one value.
    """

    def __init__(self, filters: Sequence[Mapping[str, Any]] = (), keys: frozenset[str] = frozenset()) -> None:
        self.filters = tuple(filters)
        self.keys = keys

    def within(self, other: Scope) -> Scope:
        """Both at once."""
        return Scope((*self.filters, *other.filters), self.keys | other.keys)

    def filter(self, own: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The filter of a question, confined."""
        parts = [*self.filters, *([own] if own is not None else [])]
        return {"$and": [dict(part) for part in parts]} if parts else None


class Retriever:
    """Answers questions from an index. Safe to use from several threads and event loops; close it after use.

    Args:
        index: Open, and open as long as this is used.
        k: Hits wanted, where a question does not say.
        recipe: How to search. None: as the index was tuned.
        filter: On the documents' metadata, for every question.
        on_stale: As for `Index.search`.
        tenant_key: Of the metadata, that ``scope(tenant=...)`` fixes.
        required: Keys of the metadata that a scope must fix to one value: without it, a question is an error.
    """

    def __init__(
        self,
        index: Index,
        *,
        k: int = 5,
        recipe: SearchRecipe | None = None,
        filter: Mapping[str, Any] | None = None,
        on_stale: OnStale = "flag",
        tenant_key: str = "tenant",
        required: Sequence[str] = (),
    ) -> None:
        self.index = index
        self.k = k
        self.recipe = recipe
        self.on_stale: OnStale = on_stale
        self._tenant_key = tenant_key
        self._required = tuple(required)
        self._own = Scope([filter] if filter is not None else [])
        self._entered: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("tarragon scope", default=None)
        self._threads = ThreadPoolExecutor(thread_name_prefix="tarragon retriever")
        self._desk = Desk()

    # --- asking -------------------------------------------------------------------------------------------------------
    def retrieve(
        self,
        query: str,
        k: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        recipe: SearchRecipe | None = None,
        vector: FloatArray | DenseQuery | None = None,
    ) -> Hits:
        """The best passages for a question: see `Index.search`.

        Raises:
            InvalidInput: A scope is required, and the question is in none.
        """
        vectors = None if vector is None else [vector]
        return self.retrieve_batch([query], k, filter=filter, recipe=recipe, vectors=vectors)[0]

    def retrieve_batch(
        self,
        queries: Sequence[str],
        k: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        recipe: SearchRecipe | None = None,
        vectors: Sequence[FloatArray | DenseQuery | None] | None = None,
    ) -> list[Hits]:
        """The same for many questions, in their order; models run once for all of them."""
        return self.index.search_batch(
            queries,
            self.k if k is None else k,
            filter=self._confined(filter),
            recipe=recipe or self.recipe,
            vectors=vectors,
            on_stale=self.on_stale,
        )

    async def aretrieve(
        self,
        query: str,
        k: int | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        recipe: SearchRecipe | None = None,
        vector: FloatArray | DenseQuery | None = None,
    ) -> Hits:
        """As `retrieve`, while the event loop goes on. Questions that wait at the same time are answered together.

        A question whose task is cancelled is answered to its end in its thread, and the answer dropped.
        """
        recipe, k = recipe or self.recipe, self.k if k is None else k
        has_rerankers = recipe is not None and recipe.rerankers  # which mostly wait for another machine, or take long
        if has_rerankers or is_observed():  # who looks on, looks at one question in its own thread
            return await self._off_the_loop(
                partial(self.retrieve, query, k, filter=filter, recipe=recipe, vector=vector)
            )
        way = Way(k, self._confined(filter), recipe)
        return await self._desk.ask(query, vector, way, self._together)

    def _together(self, asked: Sequence[Waiting], way: Way) -> list[Hits]:
        return self.index.search_batch(
            [one.query for one in asked],
            way.k,
            filter=way.filter,
            recipe=way.recipe,
            vectors=[one.vector for one in asked],
            on_stale=self.on_stale,
        )

    async def aretrieve_batch(self, queries: Sequence[str], k: int | None = None, **options: Any) -> list[Hits]:
        """As `retrieve_batch`, in a thread of its own."""
        return await self._off_the_loop(partial(self.retrieve_batch, queries, k, **options))

    async def _off_the_loop(self, work: Callable[[], T]) -> T:
        import asyncio  # takes 13 ms, which only those pay who have a loop already

        context = contextvars.copy_context()  # so that the thread is in the caller's scope
        return await asyncio.get_running_loop().run_in_executor(self._threads, context.run, work)

    def why_not(
        self, query: str, document_id: str, k: int | None = None, *, recipe: SearchRecipe | None = None
    ) -> WhyNot:
        """At which stage a question loses a document: see `Index.why_not`. A document out of scope is unknown."""
        return self.index.why_not(
            query,
            document_id,
            self.k if k is None else k,
            recipe=recipe or self.recipe,
            filter=self._confined(None),
            within=self._confined(None),
        )

    # --- around a hit -------------------------------------------------------------------------------------------------
    def neighbours(self, hit: Hit, before: int = 1, after: int = 1) -> Passage | None:
        """A hit with the chunks before and after it: see `Index.neighbours`. None for a hit out of scope."""
        return self.index.neighbours(hit, before, after, within=self._confined(None))

    def section(self, hit: Hit, level: int | None = None, **options: Any) -> Passage | None:
        """The section that a hit stands in: see `Index.section`. None for a hit out of scope."""
        return self.index.section(hit, level, within=self._confined(None), **options)

    def warm_up(self, *, freeze: bool = True) -> None:
        """Load the models and open the files that a first question would have to wait for.

        Args:
            freeze: Take what is loaded by then out of the garbage collector's sight (``gc.freeze``), for the whole
                process. Models bring a million objects that stay, and a full run of the collector goes through all of
                them while everything else stands still: 160 ms with torch, an event loop too.
        """
        self.index.warm_up(self.recipe)
        if freeze:
            gc.collect()
            gc.freeze()

    # --- scope --------------------------------------------------------------------------------------------------------
    @contextmanager
    def scope(
        self, *, filters: Mapping[str, Any] | None = None, tenant: str | int | None = None
    ) -> Iterator[Retriever]:
        """Confine every question of this block, in every leg and in explanations.

        The block applies to this thread or task and to tasks that it starts, not to other threads; the retriever that
        it gives is confined wherever it is used, also later. Blocks can be nested: all of their conditions hold.

        Args:
            filters: Conditions on the documents' metadata.
            tenant: Value of the metadata's ``tenant_key``.
        """
        scope = (self._entered.get() or Scope()).within(self._scope_of(filters, tenant))
        token = self._entered.set(scope)
        try:
            yield self._confined_to(scope)
        finally:
            self._entered.reset(token)

    def _scope_of(self, filters: Mapping[str, Any] | None, tenant: str | int | None) -> Scope:
        parts: list[Mapping[str, Any]] = []
        if tenant is not None:
            if isinstance(tenant, str) and not tenant.strip():
                raise InvalidInput("an empty tenant is no scope; name the tenant")
            parts.append({self._tenant_key: {"$eq": tenant}})
        if filters is not None:
            parts.append(filters)
        if not parts:
            raise InvalidInput("a scope needs filters or a tenant, neither of which is given")
        return Scope(parts, frozenset(key for part in parts for key in _fixed(part)))

    def _confined_to(self, scope: Scope) -> Retriever:
        other = Retriever.__new__(Retriever)
        other.__dict__.update(self.__dict__)
        other._own = self._own.within(scope)
        other._entered = contextvars.ContextVar("tarragon scope", default=None)
        return other

    def _confined(self, filter: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        scope = self._own.within(self._entered.get() or Scope())
        missing = [key for key in self._required if key not in scope.keys]
        if missing:
            raise InvalidInput(
                f"this retriever needs a scope that fixes {', '.join(missing)}, and there is none here: ask inside "
                "`with retriever.scope(...) as scoped`, and where another thread asks, use `scoped`",
                missing=missing,
            )
        return scope.filter(filter)

    # --- closing ------------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Release the threads. The index stays open."""
        self._threads.shutdown()
        self._desk.close()

    def __enter__(self) -> Retriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fixed(filter: Mapping[str, Any]) -> set[str]:
    """Keys that a filter fixes to one value: ``{"tenant": "a"}`` and ``{"tenant": {"$eq": "a"}}`` do."""
    fixed = set()
    for key, value in filter.items():
        if key == "$and":
            fixed |= {one for part in value for one in _fixed(part)}
        elif not key.startswith("$"):
            is_one = not isinstance(value, Mapping | list | tuple | set) or (
                isinstance(value, Mapping) and "$eq" in value
            )
            fixed |= {key} if is_one and value is not None else set()
    return fixed
