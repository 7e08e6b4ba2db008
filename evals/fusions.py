"""Compare ways to fuse the same two legs on BEIR folders; the default in `SearchRecipe` cites the table.

    python -m evals.fusions DATASET_DIR [DATASET_DIR ...] [--indexes DIR] [--depth N] [--json OUT]

Documents are whole, and every method sees the same candidates and scores, from one request a query. ``own hits`` fuses
only what each leg found by itself, as engines do; ``union`` gives every candidate its score in both legs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evals.beir import read_corpus, read_questions
from evals.run import score
from tarragon import Index, IndexRecipe, SearchRecipe
from tarragon.fusion import dbsf, ranking, rrf
from tarragon.protocols import LegScores, Scores
from tarragon.searching import build_request

DEPTH = 100


def own_hits(legs: LegScores, depth: int) -> tuple[dict, dict]:  # type: ignore[type-arg] # ids → scores
    """What each leg found by itself: the first ``depth`` of its ranking."""
    return dict(ranking(legs.dense or {})[:depth]), dict(ranking(legs.lexical or {})[:depth])


def plain_dbsf(dense: Scores, lexical: Scores) -> dict:  # type: ignore[type-arg] # ids → scores
    """DBSF of own hits: a leg that did not find a candidate adds nothing."""
    return _sum(dbsf(dense, {}), dbsf(lexical, {}), less=0.5)


def _sum(first: Mapping, second: Mapping, *, less: float) -> dict:  # type: ignore[type-arg] # ids → scores
    """Add, without the half point that `dbsf` gives every candidate for the empty leg."""
    ids = {**first, **second}
    return {id_: sum(leg[id_] - less for leg in (first, second) if id_ in leg) for id_ in ids}


def reciprocal(k: int) -> Callable[[Scores, Scores], dict]:  # type: ignore[type-arg] # ids → scores
    """Reciprocal rank fusion of own hits with another constant than 60."""

    def fuse(dense: Scores, lexical: Scores) -> dict:  # type: ignore[type-arg] # ids → scores
        ranks = [{id_: rank for rank, (id_, _) in enumerate(ranking(leg), start=1)} for leg in (dense, lexical)]
        ids = {**dense, **lexical}
        return {id_: sum(1 / (k + leg[id_]) for leg in ranks if id_ in leg) for id_ in ids}

    return fuse


def methods(depth: int) -> dict[str, Callable[[LegScores], Mapping]]:  # type: ignore[type-arg] # ids → scores
    """Name → what turns the legs into one score for each candidate."""
    return {
        "dense": lambda legs: own_hits(legs, depth)[0],
        "bm25": lambda legs: own_hits(legs, depth)[1],
        "dbsf, union": lambda legs: dbsf(legs.dense or {}, legs.lexical or {}),
        "dbsf, own hits": lambda legs: plain_dbsf(*own_hits(legs, depth)),
        "rrf 60, own hits": lambda legs: rrf(*own_hits(legs, depth)),
        "rrf 2, own hits": lambda legs: reciprocal(2)(*own_hits(legs, depth)),
    }


def compare(dataset: Path, folder: Path, depth: int) -> dict[str, float]:
    """nDCG@10 of each method."""
    questions = read_questions(dataset, "test")
    with Index.open(folder, recipe=IndexRecipe(chunking="whole")) as index:
        index.sync(read_corpus(dataset))
        vectors = index.encoder.encode_queries(list(questions.texts.values())).vectors
        with index._opened.reading() as version:
            store = version.store
        recipe = SearchRecipe(depth=depth)
        names: dict[object, str] = {}
        runs: dict[str, dict[str, list[str]]] = {name: {} for name in methods(depth)}
        for (query_id, text), vector in zip(questions.texts.items(), vectors, strict=True):
            legs = store.search(build_request(text, vector, 10, None, recipe))
            for name, method in methods(depth).items():
                best = [id_ for id_, _ in ranking(method(legs))[:10]]
                unknown = [id_ for id_ in best if id_ not in names]
                names |= {id_: payload["document_id"] for id_, payload in store.payloads(unknown).items()}
                runs[name][query_id] = [names[id_] for id_ in best]
    return {name: score(run, questions.judgements)["nDCG@10"] for name, run in runs.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m evals.fusions", description=__doc__)
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET_DIR")
    parser.add_argument("--indexes", type=Path, help="keep the indexes in this folder")
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.indexes or Path(temporary)
        results = {
            dataset.name: compare(dataset, folder / f"{dataset.resolve().as_posix().replace('/', '_')}", options.depth)
            for dataset in options.datasets
        }
    print(f"| nDCG@10 | {' | '.join(results)} |\n|---|{'---:|' * len(results)}")
    for name in methods(options.depth):
        print(f"| {name} | {' | '.join(f'{values[name]:.4f}' for values in results.values())} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
