"""BM25: how long a query takes, the index, and the first right answer after documents came and went.

    python -m benchmarks.bm25 SOURCE... --queries FILE... [--chunks 100000] [--peers bm25s numba rank_bm25 tantivy]

Ours is the lexical leg as a search asks it, ties followed and in total order; and the whole of ``Index.search`` with
``mode="lexical"``, which looks its hits up, reads their texts and asks whether they are still true. Queries come one at
a time, their words are cut within the time on all sides, and each gives its 100 best. A peer that cannot be updated is
built again, which is what its users do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.large import add_corpus_options, large_index, spread_queries
from benchmarks.lexical_checks import bm25s_deviation, engine_deviation, overlap
from benchmarks.lexical_peers import Bm25s, Lexical, Ours, sides
from benchmarks.report import conclude, markdown_table, spread_dict
from benchmarks.shares import engine_share, receipt_shares
from benchmarks.timing import Spread, Timings, interleave
from tarragon import Index, SearchRecipe

K = 100
FEW = 10
"""Queries for a peer that takes a tenth of a second for each."""

UPDATED = 0.01
"""Share of the texts that comes, and that goes."""

QUERY_BAR, UPDATE_BAR = 1.5, 50.0
"""How many times as fast as bm25s."""

MOST_DEVIATION = {"bm25s": 1e-4, "engine": 0.02}
"""From the scores that the definition gives, relative. The engine's lengths are known to a word only."""

LEAST_OVERLAP = 0.5
"""Mean share of the first ten of ours that a peer, which cuts and weighs words in another way, has too."""

WHOLE = "Tarragon, whole Index.search"
LEXICAL = SearchRecipe(mode="lexical", depth=K)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything; see the module."""
    with large_index(options, folder) as large:
        texts = large.texts
        queries = spread_queries(options.queries, options.count)
        with_index = {WHOLE: lambda query: large.index.search(query, K, recipe=LEXICAL)}
        ours, *peers = sides(folder, options.peers)
        built = _builds([ours, *peers], texts)
        rates = _query_times([ours, *peers], with_index, queries, options.repeats)
        checks = _checks(ours, peers, texts, queries)
        shares = _shares(ours, large.index, queries)
        updates = _updates([ours, *peers], texts, options.repeats)
        return {
            "benchmark": "bm25",
            **large.describe(),
            "queries": len(queries),
            "k": K,
            "build_texts_per_second": {name: len(texts) / seconds for name, seconds in built.items()},
            "queries_per_second": {name: 1 / rates.median(name) for name in rates.seconds},
            "query_ratio": _ratios(rates, [ours.name, WHOLE], [peer.name for peer in peers]),
            "update_seconds": {name: updates.median(name) for name in updates.seconds},
            "update_ratio": _ratios(updates, [ours.name], [peer.name for peer in peers]),
            "shares": shares,
            "checks": checks,
        }


def _builds(systems: Sequence[Lexical], texts: Sequence[str]) -> dict[str, float]:
    """Seconds of each; the first one, so that nothing is compiled beforehand."""
    seconds = {}
    for system in systems:
        begun = time.perf_counter()
        system.build(texts)
        seconds[system.name] = time.perf_counter() - begun
    return seconds


def _query_times(
    systems: Sequence[Lexical],
    more: Mapping[str, Callable[[str], object]],
    queries: Sequence[str],
    rounds: int,
) -> Timings:
    """Seconds of a query."""
    calls: dict[str, Callable[[str], object]] = {
        system.name: (lambda query, system=system: system.search(query, K)) for system in systems
    } | dict(more)
    counts = {name: FEW if name == "rank_bm25" else len(queries) for name in calls}

    def run(name: str) -> Callable[[], object]:
        return lambda: [calls[name](query) for query in queries[: counts[name]]]

    times = interleave({name: run(name) for name in calls}, rounds=rounds)
    return Timings({name: [value / counts[name] for value in values] for name, values in times.seconds.items()})


def _ratios(times: Timings, ours: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {peer: spread_dict(times.speedup(name, peer)) for peer in peers} for name in ours}


# --- what came and went -----------------------------------------------------------------------------------------------
@dataclass
class _Kept:
    """A system with the texts behind its rows."""

    system: Lexical
    rows: list[str]
    gone: set[int] = field(default_factory=set)
    failures: int = 0

    def update(self, round_: int) -> Callable[[], None]:
        """Ready to be timed: a hundredth comes and goes, and the first answer is looked at."""
        count = max(1, int(UPDATED * (len(self.rows) - len(self.gone))))
        marks = [f"quaggazebra{round_}x{number}" for number in range(count)]
        left = [row for row in range(len(self.rows)) if row not in self.gone]
        removed = left[round_ :: max(1, len(left) // count)][:count]
        added = [f"{mark} {self.rows[row]}" for mark, row in zip(marks, removed, strict=True)]
        going = set(removed)
        texts = [self.rows[row] for row in left if row not in going] + added

        def call() -> None:
            self.system.replace(texts, added, removed)
            ((row, _), *_) = self.system.search(marks[-1], 1)
            if self.system.is_incremental:
                self.rows += added
                self.gone |= going
            else:
                self.rows = texts
            self.failures += self.rows[row] != added[-1]
            self.failures += row in self.gone

        return call


def _updates(systems: Sequence[Lexical], texts: Sequence[str], rounds: int) -> Timings:
    """Seconds until the first right answer; the preparation of a round is not timed."""
    kept = {system.name: _Kept(system, list(texts)) for system in systems}
    seconds: dict[str, list[float]] = {name: [] for name in kept}
    for round_ in range(rounds):
        for name in list(kept) if round_ % 2 == 0 else list(kept)[::-1]:
            call = kept[name].update(round_)
            begun = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begun)
    if wrong := [name for name, one in kept.items() if one.failures]:
        raise SystemExit(f"after an update {', '.join(wrong)} did not answer rightly")
    return Timings(seconds)


# --- checks -----------------------------------------------------------------------------------------------------------
def _checks(ours: Lexical, peers: Sequence[Lexical], texts: Sequence[str], queries: Sequence[str]) -> dict[str, Any]:
    few = queries[:FEW]
    assert isinstance(ours, Ours)
    checks: dict[str, Any] = {"engine": engine_deviation(ours, texts)}
    if found := [peer for peer in peers if isinstance(peer, Bm25s)]:
        checks["bm25s"] = max(bm25s_deviation(peer, few) for peer in found)
    checks["overlap"] = {
        peer.name: overlap(ours, peer, queries[: 10 * FEW]) for peer in peers if peer.name != "rank_bm25"
    }
    return checks


def _shares(ours: Lexical, index: Index, queries: Sequence[str]) -> dict[str, dict[str, float]]:
    assert isinstance(ours, Ours)
    return {
        ours.name: engine_share(ours.store, lambda: [ours.search(query, K) for query in queries]),
        WHOLE: receipt_shares([index.search(query, K, recipe=LEXICAL) for query in queries]),
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """What was checked and is not so; empty if the times count."""
    checks = result["checks"]
    wrong = [
        f"scores of {name} are off by {checks[name]:.2%}"
        for name, most in MOST_DEVIATION.items()
        if checks.get(name, 0.0) > most
    ]
    return wrong + [
        f"{name} has {share:.0%} of our first ten" for name, share in checks["overlap"].items() if share < LEAST_OVERLAP
    ]


def render(result: Mapping[str, Any]) -> str:
    """Rates, ratios, shares and checks."""
    ours, whole = list(result["query_ratio"])
    rows = [
        [
            name,
            f"{rate:,.0f}",
            _shown(result["query_ratio"][ours].get(name)),
            _shown(result["query_ratio"][whole].get(name)),
            f"{result['build_texts_per_second'][name]:,.0f}" if name in result["build_texts_per_second"] else "",
            f"{1e3 * result['update_seconds'][name]:,.0f}" if name in result["update_seconds"] else "",
            _shown(result["update_ratio"][ours].get(name)),
        ]
        for name, rate in result["queries_per_second"].items()
    ]
    headers = ["", "queries/s", "leg / this", "whole / this", "build, texts/s", "update, ms", "ours / this"]
    checks = result["checks"]
    exact = ", ".join(f"{name} {checks[name]:.1e}" for name in checks if name != "overlap")
    shared = ", ".join(f"{name} has {share:.0%}" for name, share in checks["overlap"].items())
    shares = [
        f"Time of {name}: {', '.join(f'{part} {share:.0%}' for part, share in parts.items())}."
        for name, parts in result["shares"].items()
    ]
    return "\n".join(
        [
            f"{result['description']}; {result['queries']} queries, the {result['k']} best of each",
            "",
            markdown_table(headers, rows),
            "",
            *shares,
            f"Bars: query {QUERY_BAR} x bm25s, update {UPDATE_BAR:g} x.",
            f"Scores against the definition: {exact}; of our first ten {shared or 'nobody was asked'}.",
        ]
    )


def _shown(ratio: Mapping[str, float] | None) -> str:
    return "" if ratio is None else str(Spread(*ratio.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bm25", description=str(__doc__).split("\n")[0])
    add_corpus_options(parser, chunks=100_000)
    parser.add_argument("--peers", nargs="*", default=["bm25s", "numba", "rank_bm25", "tantivy"])
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-bm25-") as folder:
        result = measure(options, Path(folder))
    return conclude(result, render(result), options.json, failures(result))


if __name__ == "__main__":
    sys.exit(main())
