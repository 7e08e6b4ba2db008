"""Compare ways to fuse the same legs on BEIR folders; the default in `SearchRecipe` cites the tables (docs/fusion.md).

    python -m evals.fusions DATASET_DIR [DATASET_DIR ...] [--chunked NAME] [--indexes DIR] [--json OUT]

Three questions are asked of every method, over the same candidates:

- nDCG@10 of the judged queries. Documents are whole; of a set named with ``--chunked``, cut, and each stands where its
  best chunk stands.
- Identifiers: is the only document that holds a token first, when the token alone is searched for? ``one word`` are
  tokens like ``CreateStack``, ``joined`` are like ``max_retry_count``, of which the lexical leg sees only the parts.
- Threshold (calibrated only): the best score of the set's own queries, and of queries of the other sets.

``own hits`` fuses only what each leg found by itself, as engines do. All else gives every candidate its score in both
legs. The candidates are the first ``--depth`` of each leg; ``deep words`` also has their lexical scores from beyond it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import statistics as st
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import ir_measures
import numpy as np
from ir_measures import nDCG

from evals.beir import Judgements, Questions, corpus_path, read_corpus, read_questions
from tarragon import Index, IndexRecipe, SearchRecipe
from tarragon.fusion import LEVEL_DEPTH, Ranking, dbsf, fuse, ranking
from tarragon.protocols import DenseEncoder, DenseLeg, LegScores, LexicalLeg, SearchRequest, Store
from tarragon.statistics import Moments, Spread
from tarragon.types import FloatArray

DEPTH = 100
FOREIGN = 100  # queries taken from each other set
THRESHOLDS = (3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0)

KINDS = {
    "one word": re.compile(r"(?=.*[a-z][A-Z]|.*[A-Za-z][0-9])[A-Za-z][A-Za-z0-9]{5,39}"),
    "joined": re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)+"),
}
"""How identifiers look."""

RUNS = {"one word": re.compile(r"[^\W_]+"), "joined": re.compile(r"\w+")}
"""What is counted as one token, when it is asked which document has it."""


@dataclass(frozen=True, slots=True)
class Legs:
    """What was found for one query.

    Attributes:
        own: What each leg found by itself, dense and lexical.
        cut: Every candidate's dense score, and the lexical scores from within the depth.
        deep: The same, and lexical scores from beyond the depth too.
        spread: Of the query's dense scores over the corpus.
    """

    own: tuple[dict[UUID, float], dict[UUID, float]]
    cut: LegScores
    deep: LegScores
    spread: Spread


Method = Callable[[Legs], Ranking]


def methods() -> dict[str, Method]:
    """Name → ranking of the candidates."""
    recipe = SearchRecipe(fusion="calibrated")
    found: dict[str, Method] = {
        "dense": lambda legs: ranking(legs.own[0]),
        "bm25": lambda legs: ranking(legs.own[1]),
        "rrf 60, own hits": lambda legs: ranking(reciprocal(legs.own, 60)),
        "rrf 2, own hits": lambda legs: ranking(reciprocal(legs.own, 2)),
        "dbsf, own hits": lambda legs: ranking(plain_dbsf(legs.own)),
        "rrf": lambda legs: fuse(legs.cut, replace(recipe, fusion="rrf")),
        "dbsf": lambda legs: fuse(legs.cut, replace(recipe, fusion="dbsf")),
        "convex": lambda legs: fuse(legs.cut, replace(recipe, fusion="convex")),
        "calibrated": lambda legs: fuse(legs.cut, recipe, legs.spread),
        "dbsf, deep words": lambda legs: fuse(legs.deep, replace(recipe, fusion="dbsf")),
        "calibrated, deep words": lambda legs: fuse(legs.deep, recipe, legs.spread),
        "calibrated, deep words, no statistics": lambda legs: fuse(legs.deep, recipe, None),
    }
    for weight in (0.5, 0.55, 0.65, 0.7, 0.8):
        found[f"calibrated, deep words, dense_weight={weight}"] = partial(_weighted, weight)
    return found


def _weighted(weight: float, legs: Legs) -> Ranking:
    return fuse(legs.deep, SearchRecipe(fusion="calibrated", dense_weight=weight), legs.spread)


def reciprocal(own: Sequence[Mapping[UUID, float]], k: int) -> dict[UUID, float]:
    """Reciprocal rank fusion of own hits."""
    ranks = [{id_: rank for rank, (id_, _) in enumerate(ranking(leg), start=1)} for leg in own]
    return {id_: sum(1 / (k + leg[id_]) for leg in ranks if id_ in leg) for leg in own for id_ in leg}


def plain_dbsf(own: Sequence[Mapping[UUID, float]]) -> dict[UUID, float]:
    """DBSF of own hits: a leg that did not find a candidate adds nothing."""
    scaled = [dbsf(leg) for leg in own]
    return {id_: sum(leg[id_] for leg in scaled if id_ in leg) for leg in own for id_ in leg}


class Corpus:
    """An open index, asked for the legs of queries.

    Args:
        index: Already synced.
        depth: Candidates of each leg.
    """

    def __init__(self, index: Index, depth: int) -> None:
        self._index = index
        self._depth = depth
        with index._opened.reading() as version:
            self._store: Store = version.store
        ids = list(self._store.ids())
        moments = Moments(len(next(iter(self._store.vectors(ids[:1]).values()))))
        self._names: dict[UUID, str] = {}
        for start in range(0, len(ids), 1000):
            page = ids[start : start + 1000]
            moments.add(np.stack(list(self._store.vectors(page).values())))
            self._names |= {id_: payload["document_id"] for id_, payload in self._store.payloads(page).items()}
        self._statistics = moments.statistics()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """One row a query."""
        return self._index.encoder.encode_queries(texts).vectors

    def legs(self, text: str, vector: FloatArray) -> Legs:
        """Of one query."""
        words = LexicalLeg(text, max(LEVEL_DEPTH, self._depth))
        found = self._store.search(SearchRequest(dense=DenseLeg(vector, self._depth), lexical=words))
        dense, lexical = found.dense or {}, found.lexical or {}
        own = dict(ranking(dense)[: self._depth]), dict(ranking(lexical)[: self._depth])
        scores = {id_: dense[id_] for leg in own for id_ in leg if id_ in dense}
        return Legs(own, LegScores(scores, own[1]), LegScores(scores, lexical), self._statistics.spread(vector))

    def documents(self, ranked: Ranking) -> list[str]:
        """The best ten documents, each where its best chunk stands."""
        best: dict[str, None] = {}
        for id_, _ in ranked:
            best[self._names[id_]] = None
            if len(best) == 10:
                break
        return list(best)


def identifiers(texts: Iterable[tuple[str, str]], kind: str, most: int = 100) -> dict[str, str]:
    """Token → the only document that has it, in whatever case; drawn by a fixed seed. ``texts``: document id, text."""
    holders: Counter[str] = Counter()
    seen: dict[str, tuple[str, str]] = {}
    for document_id, text in texts:
        tokens = {token.lower(): token for token in sorted(set(RUNS[kind].findall(text)), reverse=True)}
        holders.update(tokens.keys())
        seen |= {lower: (token, document_id) for lower, token in tokens.items() if KINDS[kind].fullmatch(token)}
    unique = sorted(seen[lower] for lower in seen if holders[lower] == 1)
    return dict(random.Random(5).sample(unique, min(most, len(unique))))


def foreign(name: str, questions: Mapping[str, Questions]) -> list[str]:
    """Queries of the other sets; of those that share one with this set, none, since they ask of the same things."""
    own = set(questions[name].texts.values())
    others = [list(other.texts.values()) for key, other in questions.items() if key != name]
    unrelated = [texts for texts in others if own.isdisjoint(texts)]
    return [text for texts in unrelated for text in random.Random(5).sample(texts, min(FOREIGN, len(texts)))]


def compare(dataset: Path, corpus: Corpus, questions: Questions, strangers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Answers to the three questions for one set."""
    result: dict[str, dict[str, Any]] = {"queries": {"own": len(questions.texts), "foreign": len(strangers)}}
    runs: dict[str, dict[str, list[str]]] = {name: {} for name in methods()}
    best: list[float] = []
    vectors = corpus.embed(list(questions.texts.values()))
    for (query_id, text), vector in zip(questions.texts.items(), vectors, strict=True):
        legs = corpus.legs(text, vector)
        for name, method in methods().items():
            ranked = method(legs)
            runs[name][query_id] = corpus.documents(ranked)
            if name == "calibrated, deep words":
                best.extend(score for _, score in ranked[:1])
    values = {name: _ndcg(run, questions.judgements) for name, run in runs.items()}
    texts = [(document.id, document.text) for document in read_corpus(dataset)]
    result["ndcg@10"] = {name: round(st.fmean(each.values()), 5) for name, each in values.items()}
    result["calibrated - dbsf"] = _difference(values["calibrated, deep words"], values["dbsf"])
    result["identifiers"] = {kind: _first(corpus, identifiers(texts, kind)) for kind in KINDS}
    result["threshold"] = _threshold(corpus, best, strangers)
    return result


def _ndcg(run: Mapping[str, Sequence[str]], judgements: Judgements) -> dict[str, float]:
    """Query id → nDCG@10."""
    ranks = {query_id: {id_: float(-rank) for rank, id_ in enumerate(best)} for query_id, best in run.items()}
    return {one.query_id: one.value for one in ir_measures.iter_calc([nDCG @ 10], judgements, ranks)}


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    each = [one[query_id] - other[query_id] for query_id in one]
    return {"mean": round(st.fmean(each), 5), "standard_error": round(st.stdev(each) / math.sqrt(len(each)), 5)}


def _first(corpus: Corpus, tokens: Mapping[str, str]) -> dict[str, float]:
    """How many tokens there were, and of how many each method has the only document first."""
    if not tokens:
        return {"tokens": 0}
    hits: Counter[str] = Counter()
    for (token, document_id), vector in zip(tokens.items(), corpus.embed(list(tokens)), strict=True):
        legs = corpus.legs(token, vector)
        hits.update(name for name, method in methods().items() if corpus.documents(method(legs)[:1]) == [document_id])
    return {"tokens": len(tokens)} | {name: round(hits[name] / len(tokens), 4) for name in methods()}


def _threshold(corpus: Corpus, own: Sequence[float], strangers: Sequence[str]) -> dict[str, list[float]]:
    """Threshold → share of own queries whose best hit reaches it, share of foreign queries whose best does not."""
    method = methods()["calibrated, deep words"]
    pairs = zip(strangers, corpus.embed(strangers) if strangers else [], strict=True)
    theirs = [score for text, vector in pairs for _, score in method(corpus.legs(text, vector))[:1]]
    return {
        str(least): [
            round(sum(score >= least for score in own) / len(own), 3),
            round(sum(score < least for score in theirs) / max(len(theirs), 1), 3),
        ]
        for least in THRESHOLDS
    }


def names(datasets: Sequence[Path]) -> dict[str, Path]:
    """Short name → folder: its path from what all have in common."""
    folders = [dataset.resolve() for dataset in datasets]
    common = Path(os.path.commonpath(folders)) if len(folders) > 1 else folders[0].parent
    return {folder.relative_to(common).as_posix(): folder for folder in folders}


def tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The three answers in Markdown."""
    lines = [f"| nDCG@10 | {' | '.join(results)} | mean |", f"|---|{'---:|' * (len(results) + 1)}"]
    for name in methods():
        values = [result["ndcg@10"][name] for result in results.values()]
        lines.append(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} | {st.fmean(values):.4f} |")
    for kind in KINDS:
        asked = {name: result["identifiers"][kind] for name, result in results.items()}
        asked = {f"{name} ({shares['tokens']})": shares for name, shares in asked.items() if shares["tokens"]}
        lines += ["", f"| {kind} | {' | '.join(asked)} |", f"|---|{'---:|' * len(asked)}"]
        for name in methods():
            lines.append(f"| {name} | {' | '.join(f'{shares[name]:.2f}' for shares in asked.values())} |")
    lines += ["", f"| threshold | {' | '.join(results)} |", f"|---|{'---:|' * len(results)}"]
    for least in map(str, THRESHOLDS):
        pairs = [result["threshold"].get(least, (math.nan, math.nan)) for result in results.values()]
        lines.append(f"| {least} | {' | '.join(f'{kept:.2f} / {rejected:.2f}' for kept, rejected in pairs)} |")
    return "\n".join(lines)


def evaluate(
    folders: Mapping[str, Path], chunked: Sequence[str], indexes: Path, depth: int, encoder: DenseEncoder | None = None
) -> dict[str, dict[str, Any]]:
    """Build or update the indexes and `compare` each set; ``encoder`` instead of the bundled model."""
    questions = {name: read_questions(folder, "test") for name, folder in folders.items()}
    results = {}
    for name, folder in folders.items():
        recipe = IndexRecipe(chunking="structure" if name in chunked else "whole")
        with closing(Index.open(indexes / name.replace("/", "_"), recipe=recipe, encoder=encoder)) as index:
            index.sync(corpus_path(folder) if name in chunked else list(read_corpus(folder)))
            results[name] = compare(folder, Corpus(index, depth), questions[name], foreign(name, questions))
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print Markdown tables."""
    parser = argparse.ArgumentParser(prog="python -m evals.fusions", description=__doc__)
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET_DIR")
    parser.add_argument("--chunked", action="append", default=[], metavar="NAME", help="cut the documents of this set")
    parser.add_argument("--indexes", type=Path, help="keep the indexes in this folder")
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.indexes or Path(temporary)
        results = evaluate(names(options.datasets), options.chunked, folder, options.depth)
    print(tables(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
