"""What a first pass over short vectors keeps, and what its rivals do; docs/first-pass.md and `tarragon.tuning` cite it.

    python -m evals.prefix DATASET_DIR [DATASET_DIR ...] [--chunked NAME] [--indexes DIR] [--json OUT]

Four questions are asked of every BEIR folder:

- forms: share of the true ten nearest among the first 100 of a scan of short vectors alone, by brute force. ``plain``
  are the first numbers of a vector, ``turned`` those after a turn onto the principal axes of the corpus; ``unit``: then
  brought to unit length.
- rivals: the table of `Index.tune` on the set's own queries.
- first pass: of 64 numbers, as `Index.tune` makes it, with 100 candidates. Share of the ten hits of a dense search that
  are the same with and without it; nDCG@10 with and without, dense and hybrid, as searches do it by default.
- milliseconds: of the engine for one dense query of 100 candidates, median: as the vectors were written, and after
  `Index.optimize`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics as st
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import ir_measures
import numpy as np
from ir_measures import nDCG

from evals.beir import Questions, corpus_path, read_corpus, read_questions
from evals.fusions import names
from tarragon import Index, IndexRecipe, SearchRecipe
from tarragon.contract import Prefix
from tarragon.protocols import DenseEncoder, DenseLeg, FirstPass, SearchRequest
from tarragon.recipe import Mode
from tarragon.sides import shorten
from tarragon.statistics import fit
from tarragon.types import FloatArray

LENGTHS = (32, 64, 96, 128)
FORMS = {"plain": (False, False), "plain, unit": (False, True), "turned": (True, False), "turned, unit": (True, True)}
"""Whether vectors are turned, and whether they are then brought to unit length."""

CHOSEN = 64
CANDIDATES = 100
ASKED = 200
"""Queries of the table of rivals."""

EASY = 0.5
"""A target that the first pass of 64 numbers reaches at any depth: the depth is set here, and the recall measured."""


def recalls(vectors: FloatArray, queries: FloatArray) -> dict[str, dict[int, float]]:
    """Form → length → mean share of the true ten nearest among the first `CANDIDATES` of the short vectors."""
    axes = fit(vectors, max(LENGTHS)).axes
    truth = nearest(queries, vectors, 10)
    found: dict[str, dict[int, float]] = {}
    for form, (turned, unit) in FORMS.items():
        found[form] = {}
        for length in LENGTHS:
            prefix = Prefix("", length, "", unit, 1.0, 0.0, 0)
            short, asked = (shorten(rows, prefix, axes if turned else None) for rows in (vectors, queries))
            found[form][length] = round(shared(truth, nearest(asked, short, CANDIDATES)), 4)
    return found


def nearest(queries: FloatArray, vectors: FloatArray, limit: int) -> np.ndarray[Any, Any]:
    """Rows of the best ``limit`` by dot product, in no order, shape ``(queries, limit)``."""
    limit = min(limit, len(vectors))
    blocks = [queries[start : start + 256] @ vectors.T for start in range(0, len(queries), 256)]
    return np.concatenate([np.argpartition(-scores, limit - 1, axis=1)[:, :limit] for scores in blocks])


def shared(truth: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    """Mean share of each row of the first that is in the same row of the second."""
    return st.fmean(len(np.intersect1d(one, other)) / len(one) for one, other in zip(truth, found, strict=True))


class Corpus:
    """An open index and the questions that it is asked.

    Args:
        index: Already synced.
        questions: Judged queries.
        chunked: Whether documents have several chunks, so that more hits must be looked at for ten documents.
    """

    def __init__(self, index: Index, questions: Questions, *, chunked: bool) -> None:
        self._index = index
        self._questions = questions
        self._k = 50 if chunked else 10
        self.texts = list(questions.texts.values())
        self.queries = index.encoder.encode_queries(self.texts).vectors

    def vectors(self) -> FloatArray:
        """Of every chunk, in order of their ids."""
        with self._index._opened.reading() as version:
            ids = sorted(version.store.ids())
            stored = version.store.vectors(ids)
        return np.stack([stored[id_] for id_ in ids])

    def first_pass(self) -> dict[str, Any]:
        """Make one of `CHOSEN` numbers, and compare searches with and without it."""
        tuned = self._index.tune(self.texts[:ASKED], target_recall=EASY, first_pass=True, lengths=(CHOSEN,))
        with self._index._opened.reading() as version:
            prefix = version.record.prefix
        assert prefix is not None, tuned.sentence
        with_it = SearchRecipe(mode="dense", depth=CANDIDATES)
        found, truth = (self._ask(replace(with_it, first_pass=on), 10) for on in (True, False))
        same = [
            len({hit.chunk_id for hit in hits}.intersection(hit.chunk_id for hit in all_)) / len(all_)
            for hits, all_ in zip(found, truth, strict=True)
        ]
        result: dict[str, Any] = {"depth": prefix.depth, "recall@10": round(st.fmean(same), 4)}
        for mode in cast("tuple[Mode, ...]", ("dense", "hybrid")):
            recipe = SearchRecipe(mode=mode, depth=with_it.depth)
            scores = {on: self._ndcg(replace(recipe, first_pass=on)) for on in (True, False)}
            result[f"ndcg@10 {mode}"] = {"with": round(scores[True], 5), "without": round(scores[False], 5)}
        return result

    def _ask(self, recipe: SearchRecipe, k: int) -> list[Any]:
        return list(self._index.search_batch(self.texts, k, recipe=recipe, vectors=list(self.queries)))

    def _ndcg(self, recipe: SearchRecipe) -> float:
        run: dict[str, dict[str, float]] = {}
        for query_id, hits in zip(self._questions.texts, self._ask(recipe, self._k), strict=True):
            documents = list(dict.fromkeys(hit.document_id for hit in hits))[:10]
            run[query_id] = {id_: float(-rank) for rank, id_ in enumerate(documents)}
        return float(ir_measures.calc_aggregate([nDCG @ 10], self._questions.judgements, run)[nDCG @ 10])

    def milliseconds(self) -> dict[str, float]:
        """Of the engine for one dense query, median, with the first pass and without."""
        with self._index._opened.reading() as version:
            prefix, store = version.record.prefix, version.store
            axes = self._index._opened.measures.axes(version, version.record.prefix)
            assert prefix is not None
            shorts = shorten(self.queries[:ASKED], prefix, axes)
            seconds: dict[str, list[float]] = {"with": [], "without": []}
            for query, short in zip(self.queries[:ASKED], shorts, strict=True):
                first = FirstPass(prefix.space, short, CANDIDATES)
                for name, chosen in (("with", first), ("without", None)):
                    request = SearchRequest(dense=DenseLeg(query, CANDIDATES, chosen))
                    begun = time.perf_counter()
                    store.search(request)
                    seconds[name].append(time.perf_counter() - begun)
        return {name: round(1000 * st.median(each), 3) for name, each in seconds.items()}


def measure(index: Index, questions: Questions, *, chunked: bool) -> dict[str, Any]:
    """The four answers for one set. The index is tuned and optimized on the way."""
    corpus = Corpus(index, questions, chunked=chunked)
    vectors = corpus.vectors()
    result: dict[str, Any] = {"chunks": len(vectors), "queries": len(corpus.texts)}
    result["forms"] = recalls(vectors, corpus.queries)
    tuned = index.tune(corpus.texts[:ASKED])
    result["rivals"] = [asdict(way) for way in tuned.ways]
    result["sentence"] = tuned.sentence
    result["first pass"] = corpus.first_pass()
    result["milliseconds"] = {"as written": corpus.milliseconds()}
    index.optimize()
    result["milliseconds"]["optimized"] = corpus.milliseconds()
    return result


def some(questions: Questions, most: int) -> Questions:
    """At most so many of the queries, drawn by a fixed seed, in their order."""
    picked = set(random.Random(5).sample(sorted(questions.texts), min(most, len(questions.texts))))
    texts = {id_: text for id_, text in questions.texts.items() if id_ in picked}
    return Questions(texts, {id_: questions.judgements[id_] for id_ in texts})


def evaluate(
    folders: Mapping[str, Path], chunked: Sequence[str], indexes: Path, most: int, encoder: DenseEncoder | None = None
) -> dict[str, dict[str, Any]]:
    """Build or update the indexes and `measure` each set; ``encoder`` instead of the bundled model."""
    results = {}
    for name, folder in folders.items():
        cut = name in chunked
        recipe = IndexRecipe(chunking="structure" if cut else "whole")
        with closing(Index.open(indexes / name.replace("/", "_"), recipe=recipe, encoder=encoder)) as index:
            index.sync(corpus_path(folder) if cut else list(read_corpus(folder)))
            results[name] = measure(index, some(read_questions(folder, "test"), most), chunked=cut)
    return results


def tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The four answers in Markdown."""
    lines = [f"| recall | {' | '.join(f'{n} {form}' for n in results for form in FORMS)} |"]
    lines += [f"|---|{'---:|' * (len(results) * len(FORMS))}"]
    for length in LENGTHS:
        values = [result["forms"][form][length] for result in results.values() for form in FORMS]
        lines.append(f"| {length} | {' | '.join(f'{value:.4f}' for value in values)} |")
    for name, result in results.items():
        lines += [
            "",
            f"{name}, {result['chunks']:,} chunks",
            "",
            "| way | recall | ms | bytes |",
            "|---|---:|---:|---:|",
        ]
        lines += [
            f"| {way['way']} | {way['recall']:.4f} | {way['milliseconds']:.2f} | {way['bytes']:.0f} |"
            for way in result["rivals"]
        ]
        lines += ["", result["sentence"]]
    lines += [
        "",
        "| | recall@10 | dense | without | hybrid | without | ms as written | without | optimized | without |",
    ]
    lines += [f"|---|{'---:|' * 9}"]
    for name, result in results.items():
        first, speed = result["first pass"], result["milliseconds"]
        values = [first["recall@10"], *first["ndcg@10 dense"].values(), *first["ndcg@10 hybrid"].values()]
        times = [*speed["as written"].values(), *speed["optimized"].values()]
        shown = [f"{value:.4f}" for value in values] + [f"{value:.2f}" for value in times]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(prog="python -m evals.prefix", description=__doc__)
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET_DIR")
    parser.add_argument("--chunked", action="append", default=[], metavar="NAME", help="cut the documents of this set")
    parser.add_argument("--indexes", type=Path, help="keep the indexes in this folder")
    parser.add_argument("--queries", type=int, default=1_000_000, metavar="N", help="at most so many of each set")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.indexes or Path(temporary)
        results = evaluate(names(options.datasets), options.chunked, folder, options.queries)
    print(tables(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
