"""A hybrid query without a reranker, its vector known: what it costs beyond its two legs, here and in frameworks.

    python -m benchmarks.hybrid SOURCE... --queries FILE... [--chunks 100000] [--peer-chunks 10000]

Ours is the whole of ``Index.search``: both legs 100 deep, calibrated fusion, texts, receipt, and whether each hit is
still true. Its bare searches are those of its store, one leg at a time. A peer is its framework's hybrid retriever
as documented; each leg of a peer is as deep as it wants hits. The peers search fewer chunks: what they add does not
grow with them, and their legs drown it less.

Two differences are taken, query by query: the whole less its legs as a user calls them alone, which give hits with
texts; and the whole less the bare searches below them, of a store, or of a library for words. The second has all that a
framework costs, and is where the bars are.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.hybrid_peers import PEERS, Corpus, HybridSide
from benchmarks.large import LargeIndex, add_corpus_options, large_index, spread_queries
from benchmarks.report import conclude, markdown_table, spread_dict
from benchmarks.shares import receipt_shares
from benchmarks.timing import Spread, latencies, percentile
from tarragon import SearchRecipe
from tarragon.requests import build_request
from tarragon.types import FloatArray

K = 10
OURS = "Tarragon Index.search"
MOST_BEYOND = 0.3e-3
"""Seconds that ours may take beyond its legs."""

LESS = 10.0
"""And how many times less than a framework that is to be."""

LEAST_SHARED = 0.3
"""Mean share of the ten exact nearest that must be among a peer's hits: half of its places are for words."""


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    queries = spread_queries(options.queries, options.count)
    with large_index(options, folder) as large:
        known = dict(zip(queries, large.encoder.encode_queries(queries).vectors, strict=True))
        texts = large.texts[:: max(1, len(large.texts) // options.peer_chunks)][: options.peer_chunks]
        corpus = Corpus(texts, _vectors(large, texts), known, K)
        ours = _ours(large, known)
        result = {OURS: _timed(ours, queries, options.repeats)}
        shares = receipt_shares([large.index.search(query, K, vector=known[query]) for query in queries])
        checks = {"the same hits twice": float(all(ours.whole(query) == ours.whole(query) for query in queries[:20]))}
        for name in options.peers:
            peer = PEERS[name](corpus)
            checks[peer.name] = _agreement(peer, corpus, queries[:50])
            both = _timed_together(ours, peer, queries, options.repeats)
            result[peer.name] = both
        return {
            "benchmark": "hybrid",
            **large.describe(),
            "peer_chunks": len(texts),
            "queries": len(queries),
            "k": K,
            "sides": result,
            "shares": shares,
            "checks": checks,
        }


def _vectors(large: LargeIndex, texts: Sequence[str]) -> FloatArray:
    return np.concatenate(
        [large.encoder.encode_queries(texts[start : start + 1_000]).vectors for start in range(0, len(texts), 1_000)]
    )


def _ours(large: LargeIndex, known: Mapping[str, FloatArray]) -> HybridSide:
    recipe = SearchRecipe()
    with large.index._opened.reading() as version:
        store = version.store

    def requested(query: str) -> Any:
        return build_request(query, known[query], K, None, recipe)

    return HybridSide(
        OURS,
        lambda query: [hit.text for hit in large.index.search(query, K, vector=known[query])],
        {
            "dense": lambda query: large.index.search(query, K, vector=known[query], mode="dense"),
            "words": lambda query: large.index.search(query, K, mode="lexical"),
        },
        {
            "dense": lambda query: store.search(replace(requested(query), lexical=None)),
            "words": lambda query: store.search(replace(requested(query), dense=None)),
        },
    )


def _calls(side: HybridSide) -> dict[str, Callable[[str], object]]:
    parts = {f"{side.name}: {leg}": ask for leg, ask in side.legs.items()}
    bare = {f"{side.name}, bare: {leg}": ask for leg, ask in side.searches.items()}
    return {side.name: side.whole} | parts | bare


def _timed(side: HybridSide, queries: Sequence[str], rounds: int) -> dict[str, Any]:
    gc.collect()
    gc.freeze()
    return _figures(side, latencies(_calls(side), queries, rounds=rounds), len(queries), None)


def _timed_together(ours: HybridSide, peer: HybridSide, queries: Sequence[str], rounds: int) -> dict[str, Any]:
    """Ours and the peer in turn, on the same queries."""
    gc.collect()
    gc.freeze()
    times = latencies(_calls(ours) | _calls(peer), queries, rounds=rounds)
    return _figures(peer, times, len(queries), _beyond(ours, times))


def _beyond(side: HybridSide, times: Mapping[str, Sequence[float]], kind: str = ", bare") -> list[float]:
    """Seconds beyond the bare searches, or the legs, query by query."""
    legs = [times[f"{side.name}{kind}: {leg}"] for leg in side.legs]
    return [whole - sum(parts) for whole, *parts in zip(times[side.name], *legs, strict=True)]


def _figures(
    side: HybridSide, times: Mapping[str, Sequence[float]], queries: int, ours: Sequence[float] | None
) -> dict[str, Any]:
    rounds = [slice(start, start + queries) for start in range(0, len(times[side.name]), queries)]
    bare, legs = ([median(_beyond(side, times, kind)[part]) for part in rounds] for kind in (", bare", ""))
    figures: dict[str, Any] = {
        "whole_p50": percentile(times[side.name], 0.5),
        "bare_p50": {leg: percentile(times[f"{side.name}, bare: {leg}"], 0.5) for leg in side.searches},
        "beyond_bare": spread_dict(Spread.of(bare)),
        "beyond_legs": spread_dict(Spread.of(legs)),
    }
    if ours is not None:
        own = [max(median(ours[part]), 1e-9) for part in rounds]
        figures["beyond_over_ours"] = spread_dict(Spread.of([a / b for a, b in zip(bare, own, strict=True)]))
    return figures


def _agreement(peer: HybridSide, corpus: Corpus, queries: Sequence[str]) -> float:
    """Mean share of the exact nearest among the peer's hits; the words have the other half of its places."""
    shares = []
    for query in queries:
        scores = corpus.vectors @ corpus.queries[query]
        nearest = {corpus.texts[row] for row in np.argpartition(-scores, K)[:K]}
        found = peer.whole(query)
        shares.append(len(nearest.intersection(found)) / K)
    return float(np.mean(shares))


def failures(result: Mapping[str, Any]) -> list[str]:
    """What was checked and is not so; empty if the times count."""
    return [
        f"{name}: {share:.0%} is less than {LEAST_SHARED:.0%}"
        for name, share in result["checks"].items()
        if share < LEAST_SHARED
    ]


def render(result: Mapping[str, Any]) -> str:
    """Whole, legs and what is beyond them, in milliseconds."""
    rows = []
    for name, side in result["sides"].items():
        bare = " + ".join(f"{1e3 * seconds:.2f}" for seconds in side["bare_p50"].values())
        legs, searches = (
            Spread(*(1e3 * value for value in side[kind].values())) for kind in ("beyond_legs", "beyond_bare")
        )
        ratio = side.get("beyond_over_ours")
        shown = Spread(*ratio.values()) if ratio else ""
        rows.append([name, f"{1e3 * side['whole_p50']:.2f}", bare, searches, shown, legs])
    headers = ["milliseconds", "whole", "bare searches: dense + words", "beyond these", "/ ours", "beyond its own legs"]
    return "\n".join(
        [
            f"{result['description']}; peers on {result['peer_chunks']:,} of them; {result['queries']} queries, "
            f"k={result['k']}",
            "",
            markdown_table(headers, rows),
            "",
            f"Time of ours: {', '.join(f'{part} {share:.0%}' for part, share in result['shares'].items())}.",
            f"Bars: ours beyond bare searches at most {1e3 * MOST_BEYOND:.1f} ms; each framework {LESS:g} x as much.",
            f"Share of the exact nearest among the hits: "
            f"{', '.join(f'{name} {share:.0%}' for name, share in result['checks'].items())}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hybrid", description=str(__doc__).split("\n")[0])
    add_corpus_options(parser, chunks=100_000)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--peer-chunks", type=int, default=10_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-hybrid-") as folder:
        result = measure(options, Path(folder))
    return conclude(result, render(result), options.json, failures(result))


if __name__ == "__main__":
    sys.exit(main())
