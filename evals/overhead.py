"""What evaluating costs beyond retrieving the same queries in one batch: rankings, metrics and their intervals.

    python -m evals.overhead DATASET_DIR [--index DIR] [-k 100] [--rounds 7]

Vectors of the queries are known to both, so that the model's time, which is the same and much larger, hides nothing.
Both are timed by turns, in seconds of a core: other programs on the machine then count little.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics as st
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.beir import read_corpus
from tarragon import Index, IndexRecipe
from tarragon.evaluation.beir import read_beir
from tarragon.evaluation.metrics import score
from tarragon.evaluation.running import K, run
from tarragon.evaluation.types import GoldenSet


def overhead(index: Index, golden: GoldenSet, *, k: int = K, rounds: int = 7) -> dict[str, Any]:
    """Median seconds of a core for both, and by which share evaluating takes longer."""
    texts = [question.text for question in golden.questions]
    rows = list(index.encoder.encode_queries(texts).vectors)
    vectors = {question.id: row for question, row in zip(golden.questions, rows, strict=True)}

    def retrieving() -> None:
        index.search_batch(texts, k, vectors=rows)

    def evaluating() -> None:
        score(run(index, golden, k=k, vectors=vectors), golden)

    ways: dict[str, Callable[[], None]] = {"retrieve": retrieving, "evaluate": evaluating}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=bool(number % 2)):
            gc.collect()
            begun = time.process_time()
            ways[name]()
            if number:  # the first round opens files
                seconds[name].append(time.process_time() - begun)
    medians = {name: st.median(each) for name, each in seconds.items()}
    share = medians["evaluate"] / medians["retrieve"] - 1
    rounded = {name: round(value, 4) for name, value in medians.items()}
    return {"queries": len(texts), "k": k, "rounds": rounds, **rounded, "overhead": round(share, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m evals.overhead", description=__doc__)
    parser.add_argument("dataset", type=Path, metavar="DATASET_DIR")
    parser.add_argument("--index", type=Path, metavar="DIR", help="keep the index here, and use it again")
    parser.add_argument("-k", type=int, default=K)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.index or Path(temporary) / "index.tarragon"
        with Index.open(folder, recipe=IndexRecipe(chunking="whole")) as index:
            index.sync(list(read_corpus(options.dataset)))
            found = overhead(index, read_beir(options.dataset), k=options.k, rounds=options.rounds)
    print(json.dumps({"dataset": options.dataset.resolve().name, **found}))


if __name__ == "__main__":
    main()
