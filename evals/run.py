"""Score the search on a BEIR folder, through the public API.

    python -m evals.run DATASET_DIR
    python -m evals.run DATASET_DIR --chunked --legs hybrid --results evals/results

By default each document is one text, title first, cut off where the model ends: the protocol of the published scores of
dense models (SciFact with all-MiniLM-L6-v2: nDCG@10 .645). With ``--chunked`` the corpus is synced as a user would, and
a document stands where its best chunk stands.

A query that finds nothing, a blank one for instance, counts with 0. Nothing is left out of a ranking: BEIR's own script
drops a document that has the id of the query, which matters for ArguAna and Quora only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from evals.beir import DatasetError, corpus_path, read_corpus
from evals.tables import commit, result_path
from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.errors import TarragonError
from tarragon.evaluation.beir import read_beir
from tarragon.evaluation.metrics import METRICS, score
from tarragon.evaluation.running import run
from tarragon.evaluation.types import GoldenSet, Scores
from tarragon.protocols import DenseEncoder
from tarragon.recipe import Fusion, Language, Mode
from tarragon.reports import IndexStatus
from tarragon.types import FloatArray

LEGS: dict[str, Mode] = {"dense": "dense", "bm25": "lexical", "hybrid": "hybrid"}

K = 100
"""Hits of a question: the deepest measure, and the default depth, as a user searches. Where documents have several
chunks, they are fewer, so that R@100 is what these chunks hold."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        dataset: A BEIR folder.
        split: Names the judgements.
        legs: Some of `LEGS`.
        recipe: The index is built with it; ``chunking`` decides the protocol.
        search: How to search; ``mode`` is set by the leg, and ``depth`` is at least the number of chunks searched.
        index: Keep the index here and use it again; None: a temporary one.
        device: Where the model runs.
    """

    dataset: Path
    split: str = "test"
    legs: tuple[str, ...] = tuple(LEGS)
    recipe: IndexRecipe = field(default_factory=lambda: IndexRecipe(chunking="whole"))
    search: SearchRecipe = field(default_factory=SearchRecipe)
    index: Path | None = None
    device: str | None = None


def evaluate(plan: Plan, encoder: DenseEncoder | None = None) -> dict[str, Any]:
    """Build or update the index, search it with every leg, and score the rankings.

    Args:
        plan: What to measure.
        encoder: Instead of the recipe's model.

    Raises:
        DatasetError: The folder cannot be read, or a document of it cannot be indexed.
    """
    golden = read_beir(plan.dataset, plan.split)
    seconds: dict[str, float] = {}
    legs = {}
    with (
        _index_folder(plan.index) as folder,
        Index.open(folder, recipe=plan.recipe, device=plan.device, encoder=encoder) as index,
    ):
        with _stopwatch(seconds, "sync"):
            missing = _sync(index, plan.dataset, golden)
        with _stopwatch(seconds, "embed queries"):
            vectors = _query_vectors(index, plan, golden)
        for leg in plan.legs:
            with _stopwatch(seconds, leg):
                recipe = replace(plan.search, mode=LEGS[leg])
                found = run(index, golden, k=K, recipe=recipe, name=leg, vectors=vectors)
            legs[leg] = score(found, golden, METRICS)
        return _result(plan, index.status(), golden, legs) | {
            "relevant_but_missing": missing,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }


def _sync(index: Index, dataset: Path, golden: GoldenSet) -> int:
    """Index the corpus; returns how many relevant documents it does not have, which no search can find."""
    whole = index.recipe.chunking == "whole"
    known: set[str] = set()
    documents: list[Document] = []
    for document in read_corpus(dataset):  # every line is checked before the long work
        known.add(document.id)
        if whole:
            documents.append(document)
    report = index.sync(documents if whole else corpus_path(dataset))
    if report.failures:
        first = report.failures[0]
        raise DatasetError(
            f"{report.documents_failed} documents cannot be indexed: {first.document_id}: {first.reason}"
        )
    relevant = {id_ for one in golden.questions for id_, grade in one.relevant.items() if grade > 0}
    return len(relevant - known)


def _query_vectors(index: Index, plan: Plan, golden: GoldenSet) -> Mapping[str, FloatArray]:
    """Query id → vector, of all queries in one batch; none if no leg needs them."""
    if all(LEGS[leg] == "lexical" for leg in plan.legs):
        return {}
    texts = [one.text for one in golden.questions]
    embeddings = index.encoder.encode_queries(texts, plan.search.query_prompt)
    return {one.id: row for one, row in zip(golden.questions, embeddings.vectors, strict=True)}


def _result(plan: Plan, status: IndexStatus, golden: GoldenSet, legs: Mapping[str, Scores]) -> dict[str, Any]:
    return {
        "dataset": plan.dataset.resolve().name,
        "documents": status.documents,
        "queries": len(golden.questions),
        "legs": {leg: {name: round(one.mean, 5) for name, one in told.means.items()} for leg, told in legs.items()},
        "intervals": {leg: {name: asdict(one) for name, one in told.means.items()} for leg, told in legs.items()},
        "chunks": status.chunks,
        "chunked": plan.recipe.chunking != "whole",
        "split": plan.split,
        "golden": golden.digest,
        "model": status.model,
        "fingerprint": status.fingerprint,
        "recipe": dict(status.recipe),
        "search": {"k": K, "depth": max(K, plan.search.depth), "fusion": plan.search.fusion},
        "commit": commit(),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def table(result: Mapping[str, Any]) -> str:
    """The measures of each leg in aligned columns, under a line that says of what."""
    names = list(next(iter(result["legs"].values())))
    chunks = f"{result['chunks']} chunks, " if result["chunked"] else ""
    lines = [
        f"{result['dataset']}: {result['documents']} documents, {chunks}{result['queries']} queries, {result['model']}",
        "leg     " + "".join(f"{name:>9}" for name in names),
    ]
    for leg, values in result["legs"].items():
        lines.append(f"{leg:8}" + "".join(f"{values[name]:9.4f}" for name in names))
    if result["relevant_but_missing"]:
        lines.append(f"{result['relevant_but_missing']} relevant documents are not in the corpus and cannot be found")
    return "\n".join(lines)


@contextmanager
def _index_folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tarragon-evals-") as folder:
        yield Path(folder) / "index.tarragon"


@contextmanager
def _stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
        result = evaluate(_plan(options))
        for path in (options.json, options.results and result_path(options.results, result)):
            if path is not None:
                path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except (DatasetError, TarragonError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(result))
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    recipe = IndexRecipe(
        model=options.model,
        chunking="structure" if options.chunked else "whole",
        chunk_tokens=options.chunk_tokens,
        language=options.language,
    )
    return Plan(
        dataset=options.dataset,
        split=options.split,
        legs=options.legs,
        recipe=recipe,
        search=SearchRecipe(depth=options.depth, fusion=options.fusion),
        index=options.index,
        device=options.device,
    )


def _parser() -> argparse.ArgumentParser:
    index, search = IndexRecipe(), SearchRecipe()
    parser = argparse.ArgumentParser(prog="python -m evals.run", description="Score the search on a BEIR folder.")
    add = parser.add_argument
    add("dataset", type=Path, metavar="DATASET_DIR", help="folder with corpus.jsonl, queries.jsonl and qrels/")
    add("--legs", type=_legs, default=tuple(LEGS), help="comma-separated, of dense,bm25,hybrid; all by default")
    add("--chunked", action="store_true", help="cut the documents into chunks; a document's score is its best chunk's")
    add("--split", default="test", help="which judgements: qrels/SPLIT.tsv")
    add("--json", type=Path, metavar="OUT", help="write the result here")
    add("--results", type=Path, metavar="DIR", help="write it here, named by configuration and commit")
    add("--model", help="name or local folder; the bundled one by default")
    add("--device", help="cpu, cuda, mps; the best there is by default")
    add("--index", type=Path, metavar="DIR", help="keep the index here, and use it again")
    add("--language", choices=get_args(Language), default=index.language, help="of the words, for bm25")
    add("--chunk-tokens", type=int, default=index.chunk_tokens, help="most tokens in a chunk")
    add("--depth", type=int, default=search.depth, help="candidates of each leg; at least the chunks searched")
    add("--fusion", choices=get_args(Fusion), default=search.fusion)
    return parser


def _legs(text: str) -> tuple[str, ...]:
    legs = tuple(text.split(","))
    if unknown := [leg for leg in legs if leg not in LEGS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(LEGS)}")
    return legs


if __name__ == "__main__":
    sys.exit(main())
