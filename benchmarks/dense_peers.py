"""Libraries for nearest vectors behind one small interface. All of them on one thread, by dot product."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tarragon.types import FloatArray, IntArray

Search = Callable[[FloatArray], "list[int]"]
"""From a query's vector to the rows of the nearest, best first."""

WIDTHS = (32, 64, 128, 256, 512)
"""Search widths of a graph that are tried."""

LINKS, BUILD_WIDTH = 16, 100
"""Of every graph: as the engine's defaults."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries, shape ``(n, dimensions)``, the rows of the true nearest of each, and the share that is to be found."""

    queries: FloatArray
    truth: IntArray
    target: float

    def recall(self, search: Search) -> float:
        """Share of the true nearest that a search finds."""
        pairs = zip(self.queries, self.truth, strict=True)
        return float(np.mean([len(set(search(query)) & set(best.tolist())) / len(best) for query, best in pairs]))


def at_target(name: str, of_width: Callable[[int], Search], asked: Asked) -> dict[str, Search]:
    """The search of the least width that reaches the target, or the widest, under its name and width."""
    width = next((width for width in WIDTHS if asked.recall(of_width(width)) >= asked.target), WIDTHS[-1])
    return {f"{name}, width {width}": of_width(width)}


def peer_searches(names: Sequence[str], rows: FloatArray, asked: Asked) -> dict[str, Search]:
    """Each library's graph at the target; of faiss the exact scan too."""
    k = asked.truth.shape[1]
    found: dict[str, Search] = {}
    for name in names:
        begun = time.perf_counter()
        graph = _GRAPHS[name](rows, k)
        print(f"{name}: built in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        found |= at_target(name, graph, asked)
        if name == "faiss":
            found["faiss, exact"] = _faiss_flat(rows, k)
    return found


def _faiss_flat(rows: FloatArray, k: int) -> Search:
    import faiss

    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    return lambda query: [int(row) for row in flat.search(query[None, :], k)[1][0]]


def _faiss(rows: FloatArray, k: int) -> Callable[[int], Search]:
    import faiss

    graph = faiss.IndexHNSWFlat(rows.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILD_WIDTH
    graph.add(rows)
    faiss.omp_set_num_threads(1)

    def of_width(width: int) -> Search:
        settings = faiss.SearchParametersHNSW(efSearch=width)
        return lambda query: [int(row) for row in graph.search(query[None, :], k, params=settings)[1][0]]

    return of_width


def _hnswlib(rows: FloatArray, k: int) -> Callable[[int], Search]:
    import hnswlib

    graph = hnswlib.Index(space="ip", dim=rows.shape[1])
    graph.init_index(max_elements=len(rows), M=LINKS, ef_construction=BUILD_WIDTH)
    graph.add_items(rows)
    graph.set_num_threads(1)

    def of_width(width: int) -> Search:
        def search(query: FloatArray) -> list[int]:
            graph.set_ef(width)
            found: Any = graph.knn_query(query, k)[0][0]
            return [int(row) for row in found]

        return search

    return of_width


def _usearch(rows: FloatArray, k: int) -> Callable[[int], Search]:
    from usearch.index import Index

    graph = Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD_WIDTH)
    graph.add(np.arange(len(rows)), rows)

    def of_width(width: int) -> Search:
        def search(query: FloatArray) -> list[int]:
            graph.expansion_search = width
            return [int(row) for row in graph.search(query, k, threads=1).keys]

        return search

    return of_width


_GRAPHS: Mapping[str, Callable[[FloatArray, int], Callable[[int], Search]]] = {
    "faiss": _faiss,
    "hnswlib": _hnswlib,
    "usearch": _usearch,
}
