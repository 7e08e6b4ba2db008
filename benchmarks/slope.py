"""Does writing stay as fast as an index grows? Sparse vectors and words into the engine, at several sizes.

    python -m benchmarks.slope [--sizes 50000 100000 200000]

Twice the chunks must take about twice as long. An engine that moves its lists of chunks at each insert takes four times
as long (Qdrant did, until its pull request 10682). Texts and weights are made up, with words as frequent as in
languages. Nothing is embedded; flushing is part of the time, optimizing is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from benchmarks.report import markdown_table, publish
from benchmarks.timing import Spread
from tarragon.protocols import LexicalLeg, SearchRequest, SideSpace, SparseLeg, StoredChunk
from tarragon.store.edge import EdgeStore
from tarragon.types import SparseVector

SIZES = (50_000, 100_000, 200_000)
MOST = 1.1
"""Bar: the time for each chunk in the largest index over that in the smallest, so 4.4 for four times the chunks."""

VOCABULARY, WORDS, TERMS = 30_000, 60, 40
PART = 1_000
SPACE = SideSpace("s_slope", "sparse")
_VECTOR = np.array([1.0, 0.0], dtype=np.float32)

Kind = Callable[[int, np.random.Generator], StoredChunk]


def _ranks(random: np.random.Generator, count: int) -> Any:
    """Words by their rank, the frequency falling as its inverse."""
    return np.minimum(np.exp(random.random(count) * np.log(VOCABULARY)).astype(np.int64), VOCABULARY - 1)


def _sparse(number: int, random: np.random.Generator) -> StoredChunk:
    terms = np.unique(_ranks(random, TERMS)).astype(np.int32)
    weights = random.random(len(terms), dtype=np.float32) + 0.1
    return StoredChunk(UUID(int=number), _VECTOR, {}, {SPACE.name: SparseVector(terms, weights)})


def _words(number: int, random: np.random.Generator) -> StoredChunk:
    words = " ".join(f"w{rank}" for rank in _ranks(random, WORDS))
    return StoredChunk(UUID(int=number), _VECTOR, {"content": words})


KINDS: Mapping[str, Kind] = {"sparse vectors": _sparse, "words": _words}


def measure(sizes: Sequence[int], repeats: int, folder: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    seconds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in KINDS}
    for round_ in range(repeats):
        for name, kind in KINDS.items():
            for size in sizes if round_ % 2 == 0 else sizes[::-1]:
                path = folder / f"{name} {size} {round_}"
                seconds[name][size].append(_seconds(path, kind, size))
    slopes = {
        name: Spread.of([large / small for small, large in zip(times[sizes[0]], times[sizes[-1]], strict=True)])
        for name, times in seconds.items()
    }
    return {
        "benchmark": "slope",
        "sizes": list(sizes),
        "seconds": {name: {str(size): values for size, values in times.items()} for name, times in seconds.items()},
        "slope": {name: {"median": s.median, "min": s.low, "max": s.high} for name, s in slopes.items()},
        "allowed": MOST * sizes[-1] / sizes[0],
    }


def _seconds(path: Path, kind: Kind, size: int) -> float:
    """To write so many; making them is not counted. All of them are found afterwards."""
    random = np.random.default_rng(0)
    store = EdgeStore(path, space="none", dimensions=2, language="neutral")
    store.add_space(SPACE)
    taken = 0.0
    for start in range(0, size, PART):
        chunks = [kind(number, random) for number in range(start, min(start + PART, size))]
        begun = time.perf_counter()
        store.upsert(chunks)
        taken += time.perf_counter() - begun
    begun = time.perf_counter()
    store.flush()
    taken += time.perf_counter() - begun
    last = chunks[-1]
    request = SearchRequest(lexical=LexicalLeg(str(last.payload.get("content")), 10))
    if last.sides:
        terms = last.sides[SPACE.name]
        assert isinstance(terms, SparseVector)
        request = SearchRequest(sparse=SparseLeg(SPACE.name, terms, 10))
    found = store.search(request)
    if store.count() != size or last.id not in ((found.sparse or found.lexical) or {}):
        raise SystemExit(f"of {size} chunks the last one is not found")
    store.close()
    return taken


def render(result: Mapping[str, Any]) -> str:
    """Seconds by size, and the slope."""
    rows = [
        [
            name,
            *(f"{Spread.of(values).median:.1f}" for values in times.values()),
            Spread(*result["slope"][name].values()),
            f"{result['allowed']:.1f}",
        ]
        for name, times in result["seconds"].items()
    ]
    headers = ["seconds to write", *(f"{size:,}" for size in result["sizes"]), "last / first", "allowed"]
    return markdown_table(headers, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if writing slows down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slope", description=str(__doc__).split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-slope-") as folder:
        result = measure(options.sizes, options.repeats, Path(folder))
    publish(result, render(result), options.json)
    slow = [name for name, slope in result["slope"].items() if slope["median"] > result["allowed"]]
    for name in slow:
        print(f"CHECK FAILED: {name}: writing slows down", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
