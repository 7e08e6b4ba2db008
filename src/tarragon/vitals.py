"""What is measured of a version's vectors and of its engine, for `doctor`.

Vectors are looked at in a sample, those with the least ids, which are as good as drawn at random.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from tarragon import bm25, symptoms
from tarragon.contract import Prefix
from tarragon.findings import Finding, Severity, Unknown
from tarragon.protocols import (
    DenseEncoder,
    DenseLeg,
    DocumentRecord,
    FirstPass,
    OpenVersion,
    SearchRequest,
    SideSpace,
    Store,
)
from tarragon.recipe import SearchRecipe
from tarragon.session import Session
from tarragon.sides import FEWEST, prefix_space, shorten, side_space
from tarragon.types import FloatArray

PASSAGES = 200
"""Chunks whose words are read to measure BM25; most indexes have words enough in 50."""

DOCUMENTS = 2_000
"""Documents whose chunks are looked up in the ledger, which on a server is a request each."""

QUERIES = 50
"""Chunks that are used as queries to measure the first pass: those with the greatest ids, whereas statistics, and so
the axes, are made from the least."""

BEST = 10
"""Neighbours that a first pass must not lose."""

SCAN = 100_000
"""Chunks up to which all vectors are read to find the true neighbours; beyond it takes minutes, and ``deep``."""

EXAMPLES = 3
"""Pairs of texts with one vector that are named."""

PAGE = 500
"""Chunks read at once."""

DECIMALS = 3
"""Of vectors that count as the same: the last digits hang on the batch."""

ROUNDING = 1e-5
"""By which an engine's score and ours may differ."""

Result: TypeAlias = "Finding | Unknown"


@dataclass(frozen=True, slots=True, eq=False)
class Vitals:
    """All that is read of a version before it is judged.

    Attributes:
        session: The index.
        version: The version.
        settings: How it is searched.
        k: Hits wanted.
        deep: Whether models may be loaded and everything read.
        encoder: The model, where it is loaded; None if not.
        records: Of all documents.
        tokens: Of each chunk, by document, of a sample of documents.
        missing: By kind of space, how many chunks have no vector there.
        ids: Of a sample of chunks, ascending.
        vectors: Of the same, shape ``(sample, dimensions)``.
    """

    session: Session
    version: OpenVersion
    settings: SearchRecipe
    k: int
    deep: bool
    encoder: DenseEncoder | None
    records: Mapping[str, DocumentRecord]
    tokens: Mapping[str, Sequence[int]]
    missing: Mapping[str, int]
    ids: Sequence[UUID]
    vectors: FloatArray

    @property
    def store(self) -> Store:
        """Its chunks."""
        return self.version.store

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which vectors of the sample hold neither NaN nor infinity."""
        return np.asarray(np.isfinite(self.vectors).all(axis=1))

    @property
    def sound(self) -> NDArray[np.bool_]:
        """Which of them are not zero either."""
        return np.asarray(self.finite & self.vectors.any(axis=1))


def read(
    session: Session,
    version: OpenVersion,
    settings: SearchRecipe,
    k: int,
    *,
    deep: bool,
    sample: int,
    encoder: DenseEncoder | None,
) -> Vitals:
    """Read all that is judged. See `tarragon.doctor.examine` for the arguments."""
    contract, prefix, store = version.record.contract, version.record.prefix, version.store
    records = version.ledger.documents()
    names = sorted(records)[:: 1 if deep else max(1, math.ceil(len(records) / DOCUMENTS))]
    spaces = {"dense": SideSpace(contract.space, "prefix", contract.dimensions)}
    spaces |= {"prefix": prefix_space(prefix)} if prefix is not None else {}
    spaces |= {side.kind: side_space(side) for side in contract.sides}
    without = {kind: set(store.without(space)) for kind, space in spaces.items()}
    blind = without["dense"]
    ids = list(islice((id_ for id_ in store.ids() if id_ not in blind), sample))
    found = _vectors_of(store, ids)
    ids = sorted(found)
    rows = np.stack([found[id_] for id_ in ids]) if ids else np.zeros((0, contract.dimensions), dtype=np.float32)
    return Vitals(
        session,
        version,
        settings,
        k,
        deep,
        encoder,
        records,
        {name: [chunk.tokens for chunk in version.ledger.chunks(name)] for name in names},
        {kind: len(chunks) for kind, chunks in without.items()},
        ids,
        rows,
    )


def _vectors_of(store: Store, ids: Sequence[UUID]) -> dict[UUID, FloatArray]:
    """Page by page; without chunks that are gone meanwhile."""
    pages = (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))
    return {id_: row for page in pages for id_, row in store.vectors(page).items()}


# --- the vectors ------------------------------------------------------------------------------------------------------
def vectors(vitals: Vitals) -> Iterator[Result]:
    """Whether they are numbers, of the declared length, of one text each, and spread."""
    rows = vitals.vectors[vitals.sound].astype(np.float64)
    if not len(rows) and not len(vitals.ids):
        yield Unknown("broken vectors", "the index holds none")
        return
    broken = int((~vitals.finite).sum())
    yield symptoms.judge_broken(len(vitals.ids) - len(rows) - broken, broken, len(vitals.ids))
    lengths = np.linalg.norm(rows, axis=1)
    if len(rows):
        yield symptoms.judge_lengths(lengths, vitals.version.record.contract.identity.get("normalisation"))
    yield _repeated(vitals)
    if len(rows) < FEWEST:
        yield Unknown("anisotropy", f"{len(rows)} vectors are too few; it takes {FEWEST}")
        return
    total = (rows / lengths[:, None]).sum(axis=0)
    cosine = float((total @ total - len(rows)) / (len(rows) * (len(rows) - 1)))  # of all pairs but each with itself
    yield symptoms.judge_anisotropy(cosine, len(rows), vitals.settings.fusion)


def _repeated(vitals: Vitals) -> Finding:
    """Chunks whose vector another chunk has, though its words are others."""
    holders: dict[bytes, list[UUID]] = defaultdict(list)
    rounded = np.round(vitals.vectors, DECIMALS) + 0.0  # no negative zeros
    for place in np.flatnonzero(vitals.sound).tolist():
        holders[rounded[place].tobytes()].append(vitals.ids[place])
    repeated, examples = 0, []
    for ids in holders.values():
        if len(ids) > 1:
            payloads = vitals.store.payloads(ids)
            texts = {_folded(text): text for text in (str(payload.get("content")) for payload in payloads.values())}
            repeated += len(ids) if len(texts) > 1 else 0
            examples += [" / ".join(text[:60] for text in list(texts.values())[:2])] if len(texts) > 1 else []
    return symptoms.judge_repeated(repeated, int(vitals.sound.sum()), examples[:EXAMPLES])


def _folded(text: str) -> str:
    """What many tokenizers see of a text: no case, no white space."""
    return "".join(text.casefold().split())


def missing(vitals: Vitals) -> Iterator[Result]:
    """Chunks that lack a vector in a space of the contract."""
    yield symptoms.judge_missing(vitals.missing, frozenset({"dense", "prefix"}), vitals.store.count())


def statistics(vitals: Vitals) -> Iterator[Result]:
    """Whether the statistics of the vectors are there, which calibrated fusion needs."""
    chunks = vitals.store.count()
    if chunks < FEWEST:
        yield Unknown("statistics", f"{chunks} chunks are too few; it takes {FEWEST}")
    elif vitals.session.measures.statistics(vitals.version) is None:
        severity: Severity = "warning" if vitals.settings.fusion == "calibrated" else "note"
        sentence = f"{chunks:,} chunks and no statistics of their vectors: calibrated fusion falls back"
        yield Finding("statistics", severity, sentence, "they are made by the next sync that changes something")
    else:
        yield Finding("statistics", "ok", "the statistics of the vectors are there")


# --- the engine -------------------------------------------------------------------------------------------------------
def words(vitals: Vitals) -> Iterator[Result]:
    """How the engine weighs words and lengths, measured: see `tarragon.bm25`."""
    ledger, ids = vitals.version.ledger, vitals.ids[:PASSAGES]
    payloads = vitals.store.payloads(ids)
    owners = sorted({str(payload.get("document_id")) for payload in payloads.values()})
    tokens = {chunk.id: chunk.tokens for owner in owners for chunk in ledger.chunks(owner)}
    texts = {id_: str(payloads[id_].get("content", "")) for id_ in ids if id_ in payloads and id_ in tokens}
    counts = ledger.counts()
    measured = bm25.measure(vitals.store, texts, tokens, counts.tokens / max(counts.chunks, 1))
    if isinstance(measured, str):
        yield Unknown("word weights", measured)
        yield Unknown("average length", measured)
        return
    yield symptoms.judge_frequencies(measured.counted, measured.implied, measured.words)
    yield symptoms.judge_average_length(measured.average, measured.implied_average)


def unindexed(vitals: Vitals) -> Iterator[Result]:
    """Chunks in no vector graph, where the store can say.

    The engine counts one vector for each space of a chunk, sparse ones too, and deleted ones until it is optimised: so
    after many deletions these are too few.
    """
    indexed: Callable[[], int] | None = getattr(vitals.store, "indexed_vectors", None)
    if indexed is None:
        yield Unknown("unindexed vectors", "this store does not say how many vectors are in a graph")
        return
    chunks = vitals.store.count()
    beyond = max(0, chunks - indexed() // len(vitals.missing))
    yield symptoms.judge_unindexed(chunks, beyond, vitals.version.record.contract.dimensions)


def recall(vitals: Vitals) -> Iterator[Result]:
    """How many true neighbours the first pass keeps, where there is one; measured through the engine."""
    prefix, chunks = vitals.version.record.prefix, vitals.store.count()
    if prefix is None:
        return
    axes = vitals.session.measures.axes(vitals.version, prefix)
    if prefix.rotation and axes is None:
        sentence = "the axes of the first pass are gone, so that searches go without it"
        yield Finding("prefix recall", "warning", sentence, "tune again: Index.tune")
    elif chunks < FEWEST or vitals.missing["prefix"] == chunks:
        yield Unknown("prefix recall", f"{chunks - vitals.missing['prefix']} chunks have short vectors: too few")
    elif chunks > SCAN and not vitals.deep:
        yield Unknown("prefix recall", f"{chunks:,} chunks are too many to compare with in passing; look deep")
    else:
        found = _recalls(vitals, prefix, axes)
        yield symptoms.judge_recall(prefix, found, chunks)


def _recalls(vitals: Vitals, prefix: Prefix, axes: FloatArray | None) -> NDArray[np.float64]:
    """Of each query: the share of its true ten best among the candidates of the first pass, equal scores alike."""
    store = vitals.store
    ids = sorted(store.ids())
    queries = {id_: row for id_, row in _vectors_of(store, ids[-QUERIES:]).items() if np.isfinite(row).all()}
    limit = math.ceil(prefix.depth * (max(vitals.k, vitals.settings.depth) + 1))  # one more: a query finds itself
    found = []
    for (id_, row), least in zip(queries.items(), _tenth_best(store, ids, queries), strict=True):
        first = FirstPass(prefix.space, shorten(row[None, :], prefix, axes)[0], limit)
        scores = store.search(SearchRequest(dense=DenseLeg(row, limit, first))).dense or {}
        good = sum(score >= least - ROUNDING for other, score in scores.items() if other != id_)
        found.append(min(good, BEST) / BEST)
    return np.array(found)


def _tenth_best(store: Store, ids: Sequence[UUID], queries: Mapping[UUID, FloatArray]) -> FloatArray:
    """The score of each query's true tenth neighbour, itself left out, from all vectors; shape ``(queries,)``."""
    wanted = np.stack(list(queries.values()))
    places = {id_: place for place, id_ in enumerate(queries)}
    best = np.full((len(wanted), BEST), -np.inf, dtype=np.float32)
    for start in range(0, len(ids), PAGE):
        rows = _vectors_of(store, ids[start : start + PAGE])
        if not rows:
            continue
        scores = np.nan_to_num(wanted @ np.stack(list(rows.values())).T, nan=-np.inf)
        for column, id_ in enumerate(rows):
            if id_ in places:
                scores[places[id_], column] = -np.inf
        best = np.partition(np.hstack([best, scores]), -BEST, axis=1)[:, -BEST:]
    tenth: FloatArray = best.min(axis=1)
    return tenth
