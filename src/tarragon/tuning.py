"""Settings by measurement: whether a first pass pays and how deep, and which legs with which weight.

Nothing is guessed. Ways to find the nearest vectors run side by side in the engine against exact search, on the user's
own queries, or on passages that are held back from their own answers. Legs and weights are judged by labelled queries;
without any, by passages that should find the rest of their documents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tarragon.asking import Asked, Asker
from tarragon.comparing import Query
from tarragon.contract import Prefix
from tarragon.encoders.matryoshka import trained_lengths
from tarragon.errors import InvalidInput
from tarragon.identity import digest
from tarragon.protocols import OpenVersion
from tarragon.recipe import SearchRecipe
from tarragon.session import Session
from tarragon.sides import PrefixMaker, complete, shorten
from tarragon.statistics import SpaceStatistics, fit
from tarragon.store.trials import QUANTIZATIONS, Trials, Way, bytes_of, exact
from tarragon.types import FloatArray, IntArray
from tarragon.weighing import LEAST, Judged, judge

FEWEST = 1_000
"""Chunks below which no first pass is made: too few to fit axes to, and at 2,067 it saves .02 ms
(docs/first-pass.md, as for all figures here)."""

MOST = 100_000
"""Chunks that are tried on, those with the least ids. With 31,622 of 384 dimensions a process grew by 1.1 GB, with the
files that the engine maps."""

ASKED = 200
"""Passages that are used as queries where there are none."""

LENGTHS = (64, 128, 256)
"""Of 384 dimensions, turned, 64 keep .983 to .997 of the ten nearest among 100 candidates, 128 keep .999."""

DEPTHS = (1.0, 2.0, 4.0)
"""Candidates for each that a search wants: with 64 dimensions .980 to .998 of the ten, .993 to 1, .998 to 1."""

K = 10
"""Nearest vectors that must be found, among as many candidates as a search wants: `SearchRecipe.depth`."""

WORTH = 0.9
"""A first pass is made if it takes at most this share of the time of a search without one: medians of two runs differ
by up to a tenth."""

ROUNDING = 1e-6
"""Scores that differ by no more, in proportion, are equal: they were added up in another order."""

NOTE = "prefix spaces"
"""Note of the ledger: what may be stored of prefixes, a line each: spaces after `SPACE`, and keys of attachments."""

SPACE = "space "

Said = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to find the nearest vectors, as measured.

    Attributes:
        way: In words.
        recall: Share of the true ten best among the candidates.
        milliseconds: Of the engine for one query, median.
        bytes: A chunk that a search reads.
        chosen: Whether searches use it from now on.
    """

    way: str
    recall: float
    milliseconds: float
    bytes: float
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `Index.tune` measured and chose.

    Attributes:
        chunks: How many there are; ways were tried on at most `MOST` of them.
        queries: How many were asked.
        held_back: Whether they were passages of the index, because no queries were given.
        target_recall: What was asked for.
        ways: To find the nearest vectors, first the one without any help.
        recipes: Legs and weights, first the default; empty if nothing could judge them.
        search: Settings of `SearchRecipe` that differ from the default, for searches that name none.
        sentence: What was chosen and why.
    """

    chunks: int
    queries: int
    held_back: bool
    target_recall: float
    ways: tuple[Measured, ...]
    recipes: tuple[Judged, ...]
    search: dict[str, Any]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the caller wants of the first pass.

    Attributes:
        first_pass: True: the fastest that reaches the target, also if it saves no time. False: none. None: if it pays.
        lengths: To be tried.
        rotate: Whether to turn vectors onto the principal axes of the corpus before they are cut. None: unless the
            model is known to have been trained to be cut.
    """

    first_pass: bool | None = None
    lengths: tuple[int, ...] = LENGTHS
    rotate: bool | None = None


def tune(
    session: Session,
    asker: Asker,
    queries: Sequence[Query],
    target_recall: float,
    *,
    choice: Choice,
    said: Said,
) -> Tuning:
    """See `Index.tune`. The caller is the only writer."""
    if not 0 < target_recall <= 1:
        raise InvalidInput(f"target_recall={target_recall} must be above 0 and at most 1", target_recall=target_recall)
    _check_queries(queries)
    with session.reading() as version:
        vectors = _Vectors.of(version)
        if len(vectors.rows) < 2 * K:
            raise InvalidInput(f"{len(vectors.rows)} chunks are too few to tune anything on; sync more documents first")
        texts = [query if isinstance(query, str) else query[0] for query in queries]
        asked = asker.ask(version, texts, replace(SearchRecipe(), mode="dense")) if texts else []
        held = [] if texts else vectors.sample(ASKED)
        rows = np.stack([_vector(one) for one in asked]) if texts else vectors.rows[held]
        ways, prefix, axes = _first_pass(version, vectors, rows, held, target_recall, choice, said)
        said("judging legs and weights")
        judged, chosen = judge(asker, version, queries)
        _write(session, version, prefix, axes, said)
        search = dict(version.record.tuning.get("search", {})) if chosen is None else chosen
        chunks = version.store.count()
    sentence = _sentence(ways, judged, target_recall, choice.first_pass)
    found = Tuning(chunks, len(rows), not texts, target_recall, tuple(ways), tuple(judged), search, sentence)
    session.catalog.update(replace(session.record(version.record.name), tuning=found.to_dict()))
    return found


def _check_queries(queries: Sequence[Query]) -> None:
    """A string is a sequence of strings too: one where several are meant would be taken letter by letter."""
    if isinstance(queries, str):
        raise InvalidInput(f"queries={queries!r} is one string; give a list of them: [{queries!r}]")
    for query in queries:
        if not isinstance(query, str) and isinstance(query[1], str):
            raise InvalidInput(f"{query[0]!r} has {query[1]!r} for its documents; give a list of ids: [{query[1]!r}]")


# --- first pass -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class _Vectors:
    """The dense vectors that are tried on, in order of their ids."""

    rows: FloatArray
    unit: bool

    @classmethod
    def of(cls, version: OpenVersion) -> _Vectors:
        ids = sorted(version.store.ids())[:MOST]
        stored = version.store.vectors(ids)
        rows = np.stack([stored[id_] for id_ in ids if id_ in stored]) if ids else np.empty((0, 1), np.float32)
        lengths = np.linalg.norm(rows, axis=1)
        return cls(rows, bool(np.abs(lengths - 1).max(initial=0) < 1e-3))

    def sample(self, count: int) -> list[int]:
        """Rows spread evenly over the ids, which are digests."""
        return list(range(0, len(self.rows), max(1, len(self.rows) // count)))[:count]


def _vector(asked: Asked) -> FloatArray:
    assert asked.vector is not None  # it was asked in dense mode
    return asked.vector


def _first_pass(
    version: OpenVersion,
    vectors: _Vectors,
    queries: FloatArray,
    held: Sequence[int],
    target: float,
    choice: Choice,
    said: Said,
) -> tuple[list[Measured], Prefix | None, SpaceStatistics | None]:
    """Every way as measured, the prefix that was chosen if any, and the axes that it is turned onto."""
    dimensions = vectors.rows.shape[1]
    enough = len(vectors.rows) >= FEWEST
    usable = [length for length in sorted(set(choice.lengths)) if 0 < length < dimensions] if enough else []
    trained = trained_lengths(version.record.contract.model)
    rotate = not trained if choice.rotate is None else choice.rotate
    if not rotate and trained:
        usable = [length for length in usable if length in trained]
    axes = fit(vectors.rows, max(usable)) if rotate and usable else None
    prefixes = {length: _prefix(length, axes, vectors.unit) for length in usable}
    turned = None if axes is None else axes.axes
    shorts = {length: shorten(vectors.rows, prefix, turned) for length, prefix in prefixes.items()}
    truth = exact(vectors.rows, queries, K, held)
    limit = SearchRecipe().depth + (1 if held else 0)
    results: list[tuple[Way, Measured]] = []
    with Trials(vectors.rows, shorts) as trials:
        for way in _ways(prefixes, enough):
            said(f"trying {_words(way)}")
            short = shorten(queries, prefixes[way.short], turned) if way.short else None
            found, seconds = trials.run(way, queries, short, limit)
            recall = _recall(vectors.rows, queries, truth, found, held)
            results.append((way, Measured(_words(way), recall, 1000 * seconds, bytes_of(way, dimensions))))
    best = _cheapest(results, target, choice.first_pass)
    measured = [replace(one, chosen=way == best) for way, one in results]
    if best is None or not best.short:
        return measured, None, None
    recall = next(one.recall for way, one in results if way == best)
    prefix = replace(prefixes[best.short], depth=best.depth, recall=recall, chunks=version.store.count())
    return measured, prefix, axes


def _prefix(length: int, axes: SpaceStatistics | None, unit: bool) -> Prefix:
    key = "" if axes is None else f"axes {digest(axes.pack()).hex()}"
    return Prefix(f"p_{length}_{digest(key).hex()[:12]}", length, key, unit, depth=1.0, recall=0.0, chunks=0)


def _ways(shorts: Collection[int], enough: bool) -> Iterator[Way]:
    """First without any help; then the rivals, alone and under each prefix."""
    yield Way()
    for length in shorts:
        yield from (Way(short=length, depth=depth) for depth in DEPTHS)
    for name in QUANTIZATIONS if enough else ():
        if name:
            yield from (Way(name, oversampling) for oversampling in (1.0, 2.0))
            yield from (Way(name, 1.0, length, 1.0) for length in shorts)


def _words(way: Way) -> str:
    parts = [f"{way.short} of the numbers first, depth × {way.depth:g}"] if way.short else []
    if way.quantization:
        parts.append(f"{way.quantization}, oversampling {way.oversampling:g}")
    return "; ".join(parts) or "full vectors"


def _recall(
    vectors: FloatArray, queries: FloatArray, truth: IntArray, found: IntArray, held: Sequence[int] = ()
) -> float:
    """Mean share of the best that are among what was found. A vector that scores like the last of them is as good."""
    shares = []
    for number, (query, best, rows) in enumerate(zip(queries, truth, found, strict=True)):
        scores = vectors[rows[(rows >= 0) & (rows != (held[number] if held else -1))]] @ query
        least = float((vectors[best[best >= 0]] @ query).min())
        wanted = int((best >= 0).sum())
        shares.append(min(wanted, int((scores >= least - ROUNDING * abs(least)).sum())) / wanted)
    return float(np.mean(shares))


def _cheapest(results: Sequence[tuple[Way, Measured]], target: float, wanted: bool | None) -> Way | None:
    """The fastest prefix that reaches the target, if it saves time or is wanted; else no help."""
    full, full_measured = results[0]
    good = [
        (one.milliseconds, way) for way, one in results if way.short and not way.quantization and one.recall >= target
    ]
    if wanted is False or not good:
        return full
    milliseconds, way = min(good, key=lambda entry: entry[0])
    return way if wanted or milliseconds <= WORTH * full_measured.milliseconds else full


def _write(
    session: Session, version: OpenVersion, prefix: Prefix | None, axes: SpaceStatistics | None, said: Said
) -> None:
    """Fill the new prefix space, then let it serve in one step; drop all others.

    Each space is noted before it is made, so that one that a killed process has left behind is known, and dropped here.
    """
    former, store, ledger = version.record.prefix, version.store, version.ledger
    made = {*ledger.notes().get(NOTE, "").splitlines(), *_parts(former)}
    ledger.note(NOTE, "\n".join(sorted(made | _parts(prefix))))
    if prefix is not None:
        _fill(version, prefix, axes, said)
    session.catalog.update(replace(session.record(version.record.name), prefix=prefix))
    for part in sorted(made - _parts(prefix)):
        if part.startswith(SPACE):
            store.drop_space(part.removeprefix(SPACE))
        else:
            ledger.attach(part, None)
    ledger.note(NOTE, "\n".join(sorted(_parts(prefix))) or None)


def _parts(prefix: Prefix | None) -> set[str]:
    """What is stored of a prefix: its space, and the attachment with its axes if it has any."""
    return set() if prefix is None else {SPACE + prefix.space, prefix.rotation} - {""}


def _fill(version: OpenVersion, prefix: Prefix, axes: SpaceStatistics | None, said: Said) -> None:
    """Give every chunk that has none its short vector."""
    if axes is not None:
        version.ledger.attach(prefix.rotation, axes.pack())
    maker = PrefixMaker(prefix, None if axes is None else axes.axes)
    complete(version.store, [maker], lambda left: said(f"writing {left:,} short vectors"))


# --- telling ----------------------------------------------------------------------------------------------------------
def _sentence(ways: Sequence[Measured], judged: Sequence[Judged], target: float, wanted: bool | None) -> str:
    full, way = ways[0], next(one for one in ways if one.chosen)
    if way is full:
        parts = [f"no first pass: {_why_none(ways, target, wanted)}"]
    else:
        parts = [
            f"{way.way}: {way.recall:.3f} of the ten best (target {target}), {way.milliseconds:.2f} ms instead of "
            f"{full.milliseconds:.2f}"
        ]
    if judged:
        recipe = next(one for one in judged if one.chosen)
        mean, low, high = recipe.difference
        gain = (
            f", nDCG@10 {recipe.ndcg:.3f}, {mean:+.3f} ({low:+.3f} to {high:+.3f})" if recipe is not judged[0] else ""
        )
        parts.append(f"legs and weights: {recipe.recipe}{gain}")
    else:
        parts.append(f"legs and weights stay: fewer than {LEAST} questions to judge them by")
    return "; ".join(parts)


def _why_none(ways: Sequence[Measured], target: float, wanted: bool | None) -> str:
    if wanted is False:
        return "none is wanted"
    if len(ways) == 1:
        return f"there are fewer than {FEWEST:,} chunks"
    return f"none reaches {target}" if wanted else f"none reaches {target} and saves time"
