"""Dense search: a first pass over short vectors as `Index.tune` chooses it, beside graphs over full vectors.

    python -m benchmarks.first_pass [--chunks 100000] [--dimensions 768] [--peers faiss hnswlib usearch]

The vectors are made up (`benchmarks.synthetic` says how). An index of them is tuned at a target recall of .99, and its
dense leg is timed as a search asks it. Beside it, on the same vectors: the engine with nothing but its defaults,
optimized, which is a graph over the full vectors; and other libraries at their defaults and, where a graph finds fewer
than our first pass, at the least search width of a few that finds as many. A query wants ten; recall is counted against
an exact scan; one query at a time, one thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import qdrant_edge as q

from benchmarks.dense_peers import Asked, Search, at_target, peer_searches
from benchmarks.report import conclude, markdown_table, spread_dict
from benchmarks.shares import engine_share
from benchmarks.synthetic import Cloud
from benchmarks.timing import Spread, Timings, interleave
from tarragon import Index, SearchRecipe
from tarragon.asking import Asker
from tarragon.fusion import ranking
from tarragon.protocols import Embeddings, EncoderInput, OpenVersion
from tarragon.requests import candidates
from tarragon.store.edge import EdgeStore
from tarragon.store.trials import exact
from tarragon.testing import WordTokenizer
from tarragon.types import Document, FloatArray

K = 10
TARGET = 0.99
BAR = 3.0
"""Times as fast as the engine's defaults."""

OURS, WITHOUT, DEFAULT = "Tarragon, first pass", "Tarragon, no first pass", "engine, its defaults"
LEAST_RECALL = {OURS: TARGET - 0.005}
"""Of ten, on queries that tuning has not seen; it measured on others."""

DENSE = SearchRecipe(mode="dense")


class NumberedEncoder:
    """Text ``n`` has the vector of row n.

    Args:
        rows: Of all texts.
    """

    name = "numbered"
    device = "cpu"
    max_tokens = 16

    def __init__(self, rows: FloatArray) -> None:
        self._rows = rows
        self.dimensions = rows.shape[1]
        self.tokenizer = WordTokenizer()

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return {"kind": "numbered", "dimensions": str(self.dimensions)}

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self.encode_queries([item.text for item in inputs])

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. Texts that are no number have the first row's vector."""
        places = [int(text) if text.isdecimal() else 0 for text in texts]
        return Embeddings(self._rows[places], len(texts), 0)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    cloud = Cloud(options.dimensions)
    rows = cloud.members(options.chunks)
    queries = cloud.near(rows[:: max(1, options.chunks // options.queries)][: options.queries])
    truth = exact(rows, queries, K)
    engine = _engine(folder / "default", rows)
    with Index.open(folder / "ours.tarragon", encoder=NumberedEncoder(rows)) as index:
        index.sync([Document(str(row), str(row)) for row in range(len(rows))], progress=False)
        tuning = index.tune(target_recall=TARGET, first_pass=options.first_pass)
        index.optimize(in_place=True)
        with index._opened.reading() as version:
            searches = _ours(version, index._answers.asker) | {DEFAULT: engine(None)}
            asked = Asked(queries, truth, TARGET)
            searches |= at_target("engine", engine, asked) | peer_searches(options.peers, rows, asked)
            recalls = {name: asked.recall(search) for name, search in searches.items()}
            times = _times(searches, queries, options.repeats)
            share = engine_share(cast("EdgeStore", version.store), lambda: [searches[OURS](one) for one in queries])
    return {
        "benchmark": "first_pass",
        "chunks": len(rows),
        "dimensions": options.dimensions,
        "queries": len(queries),
        "k": K,
        "tuned": tuning.sentence,
        "recall": recalls,
        "queries_per_second": {name: 1 / times.median(name) for name in times.seconds},
        "ratio": {name: spread_dict(times.speedup(OURS, name)) for name in times.seconds if name != OURS},
        "shares": share,
    }


def _ours(version: OpenVersion, asker: Asker) -> dict[str, Search]:
    """The dense leg with what tuning chose, and without a first pass."""

    def search(recipe: SearchRecipe) -> Search:
        def find(query: FloatArray) -> list[int]:
            (asked,) = asker.ask(version, [""], recipe, [query])
            legs = candidates(version.store, asked.request(K, None, recipe))
            return [places[id_] for id_, _ in ranking(legs.dense or {})[:K]]

        return find

    ids = list(version.store.ids())
    payloads = version.store.payloads(ids)
    places = {id_: int(payloads[id_]["document_id"]) for id_ in ids}
    return {
        OURS: search(SearchRecipe(mode="dense", depth=K)),
        WITHOUT: search(SearchRecipe(mode="dense", depth=K, first_pass=False)),
    }


def _engine(path: Path, rows: FloatArray) -> Callable[[int | None], Search]:
    """Optimized; from a search width, None for the default one, to a search."""
    path.mkdir()
    params = q.EdgeVectorParams(size=rows.shape[1], distance=q.Distance.Dot)
    shard = q.EdgeShard.create(str(path), q.EdgeConfig(vectors={"full": params}))
    for start in range(0, len(rows), 500):
        points = [q.Point(start + number, {"full": row}) for number, row in enumerate(rows[start : start + 500])]
        shard.update(q.UpdateOperation.upsert_points(points))
    begun = time.perf_counter()
    shard.optimize()
    print(f"the engine's graph: {time.perf_counter() - begun:.0f} s", file=sys.stderr)

    def of_width(width: int | None) -> Search:
        params = None if width is None else q.SearchParams(hnsw_ef=width)

        def find(query: FloatArray) -> list[int]:
            nearest = q.Query.Nearest(query, using="full")
            return [point.id for point in shard.query(q.QueryRequest(limit=K, query=nearest, params=params))]

        return find

    return of_width


def _times(searches: Mapping[str, Search], queries: FloatArray, rounds: int) -> Timings:
    """Seconds of a query."""

    def run(search: Search) -> Callable[[], object]:
        return lambda: [search(query) for query in queries]

    times = interleave({name: run(search) for name, search in searches.items()}, rounds=rounds)
    return Timings({name: [value / len(queries) for value in values] for name, values in times.seconds.items()})


def failures(result: Mapping[str, Any]) -> list[str]:
    """What was checked and is not so; empty if the times count."""
    recalls = result["recall"]
    return [f"recall of {name} is {recalls[name]:.3f}" for name, least in LEAST_RECALL.items() if recalls[name] < least]


def render(result: Mapping[str, Any]) -> str:
    """Rates at the recall of each."""
    rows = [
        [name, f"{rate:,.0f}", f"{result['recall'][name]:.3f}", _shown(result["ratio"].get(name))]
        for name, rate in result["queries_per_second"].items()
    ]
    shares = ", ".join(f"{part} {share:.0%}" for part, share in result["shares"].items())
    return "\n".join(
        [
            f"{result['chunks']:,} made-up vectors of {result['dimensions']} dimensions, {result['queries']} queries, "
            f"k={result['k']}. Index.tune: {result['tuned']}",
            "",
            markdown_table(["", "queries/s", "recall@10", "first pass / this"], rows),
            "",
            f"Time of {OURS}: {shares}. Bar: {BAR:g} x the engine's defaults.",
        ]
    )


def _shown(ratio: Mapping[str, float] | None) -> str:
    return "" if ratio is None else str(Spread(*ratio.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_pass", description=str(__doc__).split("\n")[0])
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--peers", nargs="*", default=["faiss", "hnswlib", "usearch"])
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are counted (5)")
    parser.add_argument("--first-pass", action="store_true", default=None, help="also if it saves no time")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-first-pass-") as folder:
        result = measure(options, Path(folder))
    return conclude(result, render(result), options.json, failures(result))


if __name__ == "__main__":
    sys.exit(main())
