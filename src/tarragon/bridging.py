"""Bridges: an index searched with a model that did not build it, while the one that did cannot run.

``rescore``: passages that share words with the question, scored again by the new model.
``adapter``: the question's vector, mapped into the old space by a linear map that was fitted on a sample of passages.

Neither changes the index. Passages that the new model embeds on the way are kept, and an upgrade finds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

import numpy as np

from tarragon import canaries
from tarragon.adapter import FLOOR, Adapter, fit
from tarragon.errors import AdapterRefused, EncodingFailed, InvalidInput, RecipeMismatch
from tarragon.filters import Filter, parse
from tarragon.fusion import LEVEL_DEPTH, ranking
from tarragon.identity import chunk_hash, fingerprint
from tarragon.protocols import (
    DenseEncoder,
    EncoderInput,
    LegScores,
    LexicalLeg,
    OpenVersion,
    SearchRequest,
    Store,
)
from tarragon.recipe import SearchRecipe
from tarragon.searching import Found, build_request, embed_queries, search
from tarragon.session import Session, same_canaries
from tarragon.types import FloatArray, Hit

BridgeKind: TypeAlias = Literal["rescore", "adapter"]

PAIRS = 300
"""Passages that an adapter is fitted on: a near model passed the floor with them, and they take seconds to embed. A
farther one needs 1,000 (docs/bridges.md)."""

DEPTH = 30
"""Passages that are scored again for a question: 10 found a little less, and 100 hardly more (docs/bridges.md)."""

AMONG = 20_000
"""Passages among which an adapter is judged, at most: the whole of most indexes, and seconds to compare with."""


class Bridge:
    """Searches the serving version with another model than its own. Made by `tarragon.Index.bridge`.

    Can be used from several threads, as long as the index is open. Once a version of the new model serves, it searches
    that one as `tarragon.Index.search` does.

    Args:
        opened: Gives the session; raises if the index has been closed.
        vectors: Of the new encoder.
        judged: Turns what was found into hits that say whether they are fresh.
        depth: Passages that are scored again for a question.
        adapter: The map, and the fingerprint of the space that it leads into; None: score again.
    """

    def __init__(
        self,
        opened: Callable[[], Session],
        vectors: NewVectors,
        judged: Callable[[OpenVersion, Sequence[Found]], list[Hit]],
        *,
        depth: int,
        adapter: tuple[Adapter, str] | None,
    ) -> None:
        self._opened = opened
        self._vectors = vectors
        self._judged = judged
        self._depth = depth
        self._adapter = adapter

    @property
    def kind(self) -> BridgeKind:
        """How it crosses."""
        return "rescore" if self._adapter is None else "adapter"

    @property
    def overlap(self) -> float | None:
        """Of an adapter: see `tarragon.adapter.Adapter`. None if passages are scored again."""
        return None if self._adapter is None else self._adapter[0].overlap

    @property
    def embedded(self) -> int:
        """How many passages it has embedded so far. They are kept."""
        return self._vectors.embedded

    @property
    def label(self) -> str:
        """What its hits carry: see `tarragon.Hit`."""
        if self._adapter is None:
            return f"rescored by {self._vectors.encoder.name}"
        adapter = self._adapter[0]
        return f"{adapter.kind} adapter, overlap {adapter.overlap:.2f}".replace(" 0.", " .")

    def search(self, query: str, k: int = 5, *, filter: Mapping[str, Any] | None = None) -> list[Hit]:
        """The ``k`` best passages for a question, as `tarragon.Index.search` gives them, with `Hit.bridge` set.

        Args:
            query: The question. Scored again, only passages that share a word with it can be found.
            k: How many at most.
            filter: On the documents' metadata.

        Raises:
            InvalidFilter: The filter cannot be compiled.
            RecipeMismatch: A version of a third model serves now, into whose space this adapter does not lead.
        """
        condition = parse(filter) if filter is not None else None
        if k < 0:
            raise InvalidInput(f"k={k} must not be negative", k=k)
        session = self._opened()
        if not query.strip() or k == 0:
            return []
        recipe = SearchRecipe()
        vector: FloatArray = embed_queries(self._vectors.encoder, [query], recipe)[0]
        with session.reading() as version:
            label = self.label
            if version.record.contract.fingerprint == self._vectors.fingerprint:
                label = ""
                found = self._found(version, query, vector, k, condition)
            elif self._adapter is None:
                leg = LexicalLeg(query, max(k, self._depth), LEVEL_DEPTH)

                def scored(legs: LegScores, request: SearchRequest) -> LegScores:
                    return self._rescored(session, version.store, vector, legs, request)

                found = search(version, SearchRequest(None, leg, condition), k, recipe, scored=scored)
            else:
                mapped = self._mapped(version, vector)
                found = self._found(version, query, mapped, k, condition)
            return [replace(hit, bridge=label) for hit in self._judged(version, found)]

    def _rescored(
        self, session: Session, store: Store, vector: FloatArray, legs: LegScores, request: SearchRequest
    ) -> LegScores:
        """The best by words, with their scores by the new model.

        Of equal ones at the limit the first by id: following the tie would embed any number of passages. One that the
        model cannot embed has the lowest of the others' scores.
        """
        words = dict(ranking(legs.lexical or {})[: request.lexical.limit if request.lexical else 0])
        texts = _texts(store, list(words))
        known = self._vectors.of(session, list(texts.values()))
        near = {id_: float(vector @ known[text]) for id_, text in texts.items() if text in known}
        lowest = min(near.values(), default=0.0)
        return LegScores({id_: near.get(id_, lowest) for id_ in words}, legs.lexical, told=legs.told)

    def _found(
        self, version: OpenVersion, query: str, vector: FloatArray, k: int, condition: Filter | None
    ) -> list[Found]:
        """What a vector of the version's own space finds."""
        recipe = SearchRecipe()
        statistics = self._opened().measures.statistics(version)
        spread = None if statistics is None else statistics.spread(vector)
        return search(version, build_request(query, vector, k, condition, recipe), k, recipe, spread=spread)

    def _mapped(self, version: OpenVersion, vector: FloatArray) -> FloatArray:
        assert self._adapter is not None
        adapter, space = self._adapter
        contract = version.record.contract
        if contract.fingerprint != space:
            raise RecipeMismatch(
                f"this adapter leads into the space {space[:12]}, and {version.record.name} of {contract.model} "
                f"({contract.fingerprint[:12]}) serves now; make a new bridge",
                built=contract.fingerprint,
                given=space,
            )
        row: FloatArray = adapter.apply(vector[None])[0]
        return row


class NewVectors:
    """The vectors of passages by the new encoder: found where they are stored or kept, else made and kept.

    Args:
        encoder: The new encoder.
        session: The index, for what is kept of earlier bridges.
    """

    def __init__(self, encoder: DenseEncoder, session: Session) -> None:
        self.encoder = encoder
        self.fingerprint = fingerprint(encoder.identity)
        self.embedded = 0
        self._counting = threading.Lock()
        now = canaries.pack(canaries.run(encoder))
        kept = session.cache.label(self.fingerprint)
        self._canaries = kept if kept is not None and same_canaries(kept, now) else now

    def of(self, session: Session, texts: Sequence[str]) -> dict[str, FloatArray]:
        """By text; without those that the model cannot embed."""
        hashes = {text: chunk_hash(text) for text in texts}
        known: dict[bytes, FloatArray] = {}
        with session.same_space(self.fingerprint, like=self._canaries) as places:
            for place in places:
                known |= place.vectors_of([hash_ for hash_ in set(hashes.values()) if hash_ not in known])
        missing = [text for text, hash_ in hashes.items() if hash_ not in known]
        if missing:
            made = {hashes[text]: vector for text, vector in self._made(missing).items()}
            session.cache.keep(self.fingerprint, made, label=self._canaries)
            known |= made
        return {text: known[hash_] for text, hash_ in hashes.items() if hash_ in known}

    def _made(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """A batch that the encoder refuses is halved until the passage that it cannot take is alone, and left out."""
        try:
            vectors = self.encoder.encode_documents([EncoderInput(text) for text in texts]).vectors
        except EncodingFailed:
            if len(texts) == 1:
                return {}
            middle = len(texts) // 2
            return self._made(texts[:middle]) | self._made(texts[middle:])
        with self._counting:
            self.embedded += len(texts)
        return {text: vector for text, vector in zip(texts, vectors, strict=True) if np.isfinite(vector).all()}


def build(
    opened: Callable[[], Session],
    encoder: DenseEncoder,
    judged: Callable[[OpenVersion, Sequence[Found]], list[Hit]],
    *,
    kind: BridgeKind = "rescore",
    pairs: int = PAIRS,
    depth: int = DEPTH,
    floor: float = FLOOR,
) -> Bridge:
    """See `tarragon.Index.bridge`."""
    if kind not in get_args(BridgeKind):
        raise InvalidInput(f"kind={kind!r} is not one of {', '.join(get_args(BridgeKind))}", kind=kind)
    for name, value in (("pairs", pairs), ("depth", depth)):
        if value < 1:
            raise InvalidInput(f"{name}={value} must be positive", **{name: value})
    session = opened()
    with session.reading() as version:
        space = version.record.contract.fingerprint
        if space == fingerprint(encoder.identity):
            raise InvalidInput(
                f"{version.record.name} was built with {encoder.name} and needs no bridge; open the index with it: "
                "Index.open(..., encoder=...)",
                fingerprint=space,
            )
        vectors = NewVectors(encoder, session)
        adapter = None if kind == "rescore" else (_fitted(session, version, vectors, pairs, floor), space)
    return Bridge(opened, vectors, judged, depth=depth, adapter=adapter)


def _fitted(session: Session, version: OpenVersion, vectors: NewVectors, pairs: int, floor: float) -> Adapter:
    """An adapter between the vectors of a sample of passages, judged among the index's own."""
    ids = sorted(version.store.ids(), key=lambda id_: id_.int)
    texts = _texts(version.store, _evenly(ids, pairs))
    old = version.store.vectors(list(texts))
    new = vectors.of(session, list(texts.values()))
    both = [id_ for id_, text in texts.items() if id_ in old and text in new]
    among = version.store.vectors(_evenly(ids, AMONG))
    try:
        return fit(
            _rows([new[texts[id_]] for id_ in both], vectors.encoder.dimensions),
            _rows([old[id_] for id_ in both], version.record.contract.dimensions),
            among=_rows(list(among.values()), version.record.contract.dimensions),
            floor=floor,
        )
    except AdapterRefused as error:
        raise AdapterRefused(
            f"{error} (Index.upgrade, tarragon upgrade). Until then kind='rescore' (--bridge rescore) needs no "
            f"adapter; more pairs than {pairs}, or a lower floor, may let this one pass",
            **error.data,
        ) from error


def _texts(store: Store, ids: Sequence[UUID]) -> dict[UUID, str]:
    """What was embedded of these chunks, in their order, of those that are still there."""
    payloads = store.payloads(ids)
    return {id_: str(payloads[id_]["content"]) for id_ in ids if id_ in payloads}


def _evenly(ids: Sequence[UUID], count: int) -> list[UUID]:
    """So many, evenly spread. Ids are digests, so this is a sample, and always the same one."""
    return list(ids) if len(ids) <= count else [ids[place * len(ids) // count] for place in range(count)]


def _rows(vectors: Sequence[FloatArray], dimensions: int) -> FloatArray:
    return np.array(vectors, dtype=np.float32).reshape(-1, dimensions)
